"""Places for labels on a chart: where they cover neither markers nor lines nor each other.

Plain geometry in inches on the page. A label is a chain of discs along its baseline, a marker one disc, a
line a row of points; a label goes to the first candidate that covers least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

#: What it costs to cover a marker, a disc of another label, to leave the page with a disc; a point of a line costs 1.
MARKER, LABEL, OUTSIDE = 4.0, 12.0, 20.0
#: Width of a letter and height of a line, in font sizes; of the sans serif matplotlib ships.
LETTER, LINE = 0.56, 1.15


@dataclass
class Page:
    """Log-log axes of `width` x `height` inches over `left`..`right` x `bottom`..`top`, and what stands on them."""

    left: float
    right: float
    bottom: float
    top: float
    width: float
    height: float
    discs: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, y, radius, weight

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Inches from the lower left corner of a point of the plane."""
        across = math.log(x / self.left) / math.log(self.right / self.left)
        up = math.log(y / self.bottom) / math.log(self.top / self.bottom)
        return across * self.width, up * self.height

    def value(self, across: float, up: float) -> tuple[float, float]:
        """The point of the plane at a place in inches."""
        return (
            self.left * (self.right / self.left) ** (across / self.width),
            self.bottom * (self.top / self.bottom) ** (up / self.height),
        )

    def add_marker(self, x: float, y: float, area: float) -> None:
        """A marker of `area` points^2 that labels must not cover."""
        self.discs.append((*self.place(x, y), math.sqrt(area / math.pi) / 72, MARKER))

    def add_line(self, x: Sequence[float], y: Sequence[float]) -> None:
        """A straight line between two points of the plane that labels should not cross."""
        start, end = np.array(self.place(x[0], y[0])), np.array(self.place(x[1], y[1]))
        for share in np.linspace(0, 1, max(2, int(np.hypot(*(end - start)) / 0.06))):
            self.discs.append((*(start + share * (end - start)), 0.0, 1.0))

    def add_label(self, chain: np.ndarray) -> None:
        """A label already placed."""
        self.discs.extend((x, y, r, LABEL) for x, y, r in chain)

    def best(self, candidates: Iterable[np.ndarray]) -> tuple[int, float]:
        """Index of the first candidate (chains of discs) that covers least, and how much (0: nothing)."""
        discs = np.array(self.discs).reshape(-1, 4)
        chosen, least = 0, math.inf
        for index, chain in enumerate(candidates):
            gap = np.hypot(chain[:, None, 0] - discs[:, 0], chain[:, None, 1] - discs[:, 1])
            covered = float(((gap < chain[:, None, 2] + discs[:, 2]).any(0) * discs[:, 3]).sum())
            x, y, r = chain.T
            outside = (x - r < -0.01) | (x + r > self.width + 0.01) | (y - r < -0.01) | (y + r > self.height + 0.01)
            covered += OUTSIDE * float(outside.sum())
            if covered < least:
                chosen, least = index, covered
            if not covered:
                break
        return chosen, least


def chain(x: float, y: float, text: str, font_size: float, angle: float = 0.0, flush: str = "left") -> np.ndarray:
    """Discs (x, y, radius) that cover a line of text whose baseline starts (or, flush right, ends) at x, y inches.

    `angle` is that of the baseline, in degrees.
    """
    height, length = LINE * font_size / 72, LETTER * font_size / 72 * len(text)
    along, across = direction(angle), direction(angle + 90)
    start = np.array([x, y]) - (length * along if flush == "right" else 0.0)
    count = max(1, math.ceil(length / height))
    steps = (np.arange(count) + 0.5) * length / count
    centres = start + steps[:, None] * along + 0.5 * height * across
    return np.column_stack([centres, np.full(count, height / 2)])


def direction(angle: float) -> np.ndarray:
    """The unit vector at an angle in degrees."""
    return np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
