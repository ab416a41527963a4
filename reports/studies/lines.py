"""How lines of a study's charts look, and the axes they stand on."""

from __future__ import annotations

from reports.canvas import FONT_SIZE, LABEL_SIZE
from reports.palette import CATEGORIES

MARKS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))


def looks(number: int) -> dict:
    """Colour, marker and line of a line, told apart in grey too."""
    return {
        "color": CATEGORIES[number % len(CATEGORIES)],
        "marker": MARKS[number % len(MARKS)],
        "linestyle": LINES[number % len(LINES)],
        "markersize": 3.5,
        "linewidth": 1.1,
    }


def style(ax, xlabel: str, ylabel: str) -> None:
    """Labels, a faint grid, and no frame above and to the right."""
    ax.set_xlabel(xlabel, fontsize=FONT_SIZE)
    ax.set_ylabel(ylabel, fontsize=FONT_SIZE)
    ax.tick_params(labelsize=LABEL_SIZE)
    ax.grid(True, color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
