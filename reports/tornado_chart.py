"""The tornado chart: how the time of a network answers to each field of a chip, and what each resource costs."""

from __future__ import annotations

import numpy as np

from reports.arguments import ReportError
from reports.canvas import FONT_SIZE, new_axes, quantity, wrapped
from reports.design_axes import short_name, value_text
from reports.explain import percent
from reports.palette import BLUE, GREY, INK, ORANGE, VERMILLION
from simulator import Sensitivity


def tornado(found: Sensitivity, ax=None, *, top: int = 12, title: str | None = None):
    """Tornado chart of a sensitivity: a pair of bars a field, those that matter most on top.

    A bar to the left (faster) or right (slower) is the change of the time, in per cent, that one per cent more of the
    field brings (upper bar), and one per cent less (lower bar, hatched): the two are mirror images but at a kink.
    Whole-number fields are moved by one, and scaled to one per cent. Fields that change nothing are counted, not drawn.
    On a figure of its own a second panel shows the share of the time that would go if each resource cost nothing.

    Returns the axes of the bars. Raises `ReportError` for anything but a `Sensitivity`, or `top` below 1.
    """
    if not isinstance(found, Sensitivity):
        raise ReportError(f"a Sensitivity is expected, got {type(found).__name__}")
    if top < 1:
        raise ReportError(f"top must be 1 or more, got {top}")
    order = np.argsort(-found.gain, kind="stable")
    order = [i for i in order if found.gain[i] > 5e-4]
    shown = order[:top]
    height = 1.6 + 0.36 * max(len(shown), 6)
    own = ax is None
    ax = new_axes(ax, (10.0, height))
    if own:
        figure = ax.figure
        ax.remove()
        ax, beside = figure.subplots(1, 2, width_ratios=[2.2, 1])
        _free(beside, found)
    _bars(ax, found, shown)
    left = len(found.fields) - len(shown)
    ax.set_xlabel(
        f"change of the time [%] for 1 % more or less of a field\n({left} more fields change less or nothing)",
        fontsize=FONT_SIZE + 1,
    )
    time = quantity(found.latency_s, "s")
    heading = f"{found.network} on {found.accelerator.title}: {time}, and what would change it"
    ax.set_title(wrapped(heading if title is None else title, 64), fontsize=FONT_SIZE + 2)
    return ax


def _bars(ax, found: Sensitivity, shown: list[int]) -> None:
    """Two bars a field; time falls to the left."""
    labels = []
    for row, i in enumerate(shown):
        name = found.fields[i]
        labels.append(f"{short_name(name)}  ({value_text(name, found.values[i])})")
        for side, sign, offset, hatch in (("more", 1, -0.2, ""), ("less", -1, 0.2, "////")):
            change = sign * float(getattr(found, side)[i])
            if np.isnan(change):
                continue
            colour = BLUE if change < 0 else VERMILLION if change > 0 else GREY
            (bar,) = ax.barh(row + offset, change, 0.36, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
            bar.set_gid(f"{side}:{name}")
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(shown)), labels, fontsize=FONT_SIZE)
    ax.set_ylim(max(len(shown), 1) - 0.45, -0.55)
    reach = max(1.0, *(abs(bar.get_width()) for bar in ax.patches)) if ax.patches else 1.0
    ax.set_xlim(-1.06 * reach, 1.06 * reach)
    ax.tick_params(axis="x", labelsize=FONT_SIZE)
    ax.grid(True, axis="x", color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    for edge in ("top", "right", "left"):
        ax.spines[edge].set_visible(False)
    _legend(ax)


def _legend(ax) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=BLUE, label="faster"),
        Patch(facecolor=VERMILLION, label="slower"),
        Patch(facecolor="#CCCCCC", label="1 % more"),
        Patch(facecolor="#CCCCCC", hatch="////", edgecolor="white", label="1 % less"),
    ]
    ax.legend(handles=handles, fontsize=FONT_SIZE, frameon=False, loc="lower right")


def _free(ax, found: Sensitivity) -> None:
    """The share of the time that would go if each resource cost nothing."""
    items = sorted(found.free.items(), key=lambda item: -item[1])
    for row, (name, share) in enumerate(items):
        (bar,) = ax.barh(row, 100 * share, 0.6, color=ORANGE if share > 5e-4 else GREY)
        bar.set_gid(f"free:{name}")
        ax.text(100 * share + 1.5, row, percent(share), va="center", fontsize=FONT_SIZE)
    ax.set_yticks(range(len(items)), [name for name, _ in items], fontsize=FONT_SIZE)
    ax.set_ylim(len(items) - 0.45, -0.55)
    ax.set_xlim(0, 118)
    ax.set_xticks([0, 50, 100])
    ax.tick_params(axis="x", labelsize=FONT_SIZE)
    ax.set_xlabel("time saved [%]\nif it cost nothing", fontsize=FONT_SIZE + 1)
    ax.set_title("each resource, free", fontsize=FONT_SIZE + 2)
    for edge in ("top", "right"):
        ax.spines[edge].set_visible(False)
