"""Roofs of a roofline chart and the names along them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from reports.canvas import LABEL_SIZE, halo, shortened
from reports.label_places import LETTER, Page, chain, direction
from reports.palette import INK
from reports.roofline_view import Chip
from reports.units import format_quantity


@dataclass(frozen=True)
class Roof:
    """A roof to be labelled: from x0, y0 to x1, y1, level or slanted."""

    x0: float
    y0: float
    x1: float
    y1: float
    text: str
    colour: str


def draw_roofs(ax, chips: list[Chip], tints: dict, page: Page) -> list[Roof]:
    """Draws them, and says how they are to be labelled.

    A chip with one result, among other chips, has the colour of that result.
    """
    roofs, alone = [], len(chips) == 1
    for chip in chips:
        label = chip.labels[0]
        own = not alone and len(chip.labels) == 1
        colour, before = (
            tints[label] if own else INK,
            "" if alone else f"{shortened(label if own else chip.name, 24)}: ",
        )
        levels = chip.bandwidths if alone else dict(list(chip.bandwidths.items())[-1:])
        for distance, (level, bandwidth) in enumerate(reversed(levels.items())):
            end = chip.top / bandwidth
            (line,) = ax.plot(
                [page.left, end],
                [bandwidth * page.left, chip.top],
                color=colour,
                linewidth=0.9 if distance else 1.4,
                linestyle="--" if distance else "-",
                zorder=2,
            )
            line.set_gid(f"roof:{label}:{level}")
            start = max(page.left, page.bottom / bandwidth)
            text = f"{before}{level} {format_quantity(bandwidth, 'B/s')}"
            roofs.append(Roof(start, bandwidth * start, end, chip.top, text, colour))
        if chip.inside is not None:
            roofs.append(_inside_roof(ax, chip, colour, before, page))
        names: dict[float, list[str]] = {}
        for name, peak in chip.peaks.items():
            vector = name == "vector" and len(chip.peaks) > 1
            start = max(page.left, peak / max(levels.values()))
            (line,) = ax.plot(
                [start, ax.get_xlim()[1]],
                [peak, peak],
                color=colour,
                linewidth=0.9 if vector else 1.4,
                linestyle="-." if vector else "-",
                alpha=0.6 if vector and not alone else 1.0,
                zorder=2,
            )
            line.set_gid(f"peak:{label}:{name}")
            if vector and not alone:
                continue  # the line only: labels of several chips would run into each other
            ridges = [peak / bandwidth for bandwidth in levels.values()]
            (dots,) = ax.plot(ridges, [peak] * len(ridges), "o", color=colour, markersize=3.2, zorder=3)
            dots.set_gid(f"ridge:{label}:{name}")
            names.setdefault(peak, []).append(name)
        for peak, same in names.items():
            text = f"{before}{', '.join(same)} {format_quantity(peak, 'FLOP/s')}"
            roofs.append(Roof(max(page.left, peak / max(levels.values())), peak, page.right, peak, text, colour))
    return roofs


def _inside_roof(ax, chip: Chip, colour: str, before: str, page: Page) -> Roof:
    """The bandwidth of the banks, up to the peak of the units beside them: under it stand the ops in memory."""
    bandwidth, peak = chip.inside
    ridge = max(peak / bandwidth, page.left)
    (line,) = ax.plot(
        [page.left, ridge, ax.get_xlim()[1]],
        [min(bandwidth * page.left, peak), peak, peak],
        color=colour,
        linewidth=1.4,
        linestyle=":",
        zorder=2,
    )
    line.set_gid(f"roof:{chip.labels[0]}:in_memory")
    text = f"{before}in memory {format_quantity(bandwidth, 'B/s')}, {format_quantity(peak, 'FLOP/s')}"
    return Roof(ridge, peak, page.right, peak, text, colour)


def label_roofs(ax, roofs: list[Roof], page: Page) -> None:
    """Each roof's name along it: slanted ones from the lower left on, level ones from the right end on."""
    for roof in roofs:
        page.add_line((roof.x0, roof.x1), (roof.y0, roof.y1))
    for roof in roofs:
        start, end = page.place(roof.x0, roof.y0), page.place(roof.x1, roof.y1)
        length = math.hypot(end[0] - start[0], end[1] - start[1])
        angle = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))
        slanted = roof.y1 > roof.y0
        text_length = LETTER * LABEL_SIZE / 72 * len(roof.text)
        steps = np.arange(0.1 if slanted else 0.04, max(length - text_length, 0.2), 0.08)
        along = [
            (start if slanted else end) + sign * s * direction(angle) for s in steps for sign in [1 if slanted else -1]
        ]
        up = direction(angle + 90)
        # clear of the line above it, or (level roofs) below it
        gaps = [0.05] if slanted else [0.045, -0.045 - 0.9 * LABEL_SIZE / 72]
        places = [point + gap * up for point in along for gap in gaps]
        flush = "left" if slanted else "right"
        chains = [chain(*place, roof.text, LABEL_SIZE, angle, flush) for place in places]
        chosen, _ = page.best(chains)
        page.add_label(chains[chosen])
        x, y = page.value(*places[chosen])
        label = _roof_label_class()(
            x,
            y,
            roof.text,
            color=roof.colour,
            ha=flush,
            va="baseline",
            fontsize=LABEL_SIZE,
            rotation_mode="anchor",
            path_effects=halo(),
            zorder=6,
        )
        label.slanted = slanted
        label.set_gid(f"label:{roof.text}")
        label.set_clip_on(True)
        label.set_transform(ax.transData)
        ax.add_artist(label)


@cache
def _roof_label_class():
    from matplotlib.text import Text

    class RoofLabel(Text):
        """Text that runs along y = bandwidth x whatever the size and limits of its log-log axes."""

        slanted = False

        def get_rotation(self):
            if not self.slanted or self.axes is None:
                return 0.0
            x, y = self.get_position()
            (x0, y0), (x1, y1) = self.axes.transData.transform([(x, y), (2 * x, 2 * y)])
            return math.degrees(math.atan2(y1 - y0, x1 - x0))

    return RoofLabel
