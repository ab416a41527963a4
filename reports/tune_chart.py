"""The chart of a search: every design tried, against the limit that binds, and the best of them."""

from __future__ import annotations

import numpy as np

from reports.arguments import ReportError
from reports.canvas import FONT_SIZE, new_axes, wrapped
from reports.design_axes import dress, short_name, value_text
from reports.palette import BLUE, GREY, INK, VERMILLION
from simulator import Tuned


def tuned(found: Tuned, ax=None, *, title: str | None = None):
    """Objective of every design tried over the limit that binds (the first where none does): blue within all limits,
    grey beyond one, if it was simulated; the limit is a line, the best design a star with its parameters.

    Without limits: the best so far over the number of designs tried. Returns the axes (a new figure's where `ax` is
    None). Raises `ReportError` for anything but the result of `tune`.
    """
    if not isinstance(found, Tuned):
        raise ReportError(f"a Tuned is expected, got {type(found).__name__}")
    ax = new_axes(ax, (7.8, 5.0))
    objective = found.points[found.objective]
    if found.budgets:
        name = found.binding[0] if found.binding else found.budgets[0].name
        _against_limit(ax, found, name)
    else:
        so_far = (np.maximum if found.maximised else np.minimum).accumulate(objective)
        ax.plot(np.arange(1, len(so_far) + 1), so_far, color=BLUE, drawstyle="steps-post").pop().set_gid("best so far")
        ax.set_xlabel("designs tried", fontsize=FONT_SIZE + 1)
        dress(ax.yaxis, ax.set_yscale, found.objective, so_far)
        _star(ax, found, len(so_far))
    ax.grid(True, color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    networks = " + ".join(found.mix.given) if len(found.mix.given) > 1 else found.traces()[0][1].name
    held = f", held back by {', '.join(map(short_name, found.binding))}" if found.binding else ""
    heading = f"{networks} on designs of {found.accelerator.title}\nbest {short_name(found.objective)} "
    heading += f"{value_text(found.objective, found.value)} of {found.tried:,} tried{held}"
    ax.set_title(wrapped(heading if title is None else title, 80), fontsize=FONT_SIZE + 2)
    return ax


def _against_limit(ax, found: Tuned, name: str) -> None:
    known = ~np.isnan(found.points[found.objective]) & ~np.isnan(found.points[name])
    x, y = found.points[name][known], found.points[found.objective][known]
    inside = np.ones(len(x), bool)
    for budget in found.budgets:
        inside &= budget.limit.excess(found.points[budget.name][known]) == 0
    dress(ax.xaxis, ax.set_xscale, name, x)
    dress(ax.yaxis, ax.set_yscale, found.objective, y)
    for mask, colour, label in ((~inside, GREY, "beyond a limit"), (inside, BLUE, "within the limits")):
        dots = ax.scatter(x[mask], y[mask], s=7, color=colour, alpha=0.6, linewidths=0, label=label, rasterized=True)
        dots.set_gid(label)
    limit = next(budget.limit for budget in found.budgets if budget.name == name)
    for end in (limit.least, limit.most):
        if np.isfinite(end):
            ax.axvline(end, color=INK, linewidth=1.0, linestyle="--").set_gid("limit")
    budget = next(budget for budget in found.budgets if budget.name == name)
    _star(ax, found, budget.value)
    ax.legend(fontsize=FONT_SIZE, frameon=False, loc="upper right" if not found.maximised else "lower right")


def _star(ax, found: Tuned, x: float) -> None:
    """The best design, named towards the middle of the chart."""
    star = ax.scatter([x], [found.value], marker="*", s=140, color=VERMILLION, edgecolors=INK, linewidths=0.5, zorder=4)
    star.set_gid("best")
    fields = {*found.accelerator.fields, "batch"}
    row = {name: value for name, value in found.best[0].items() if name in fields}
    lines = [f"{short_name(name)} = {value_text(name, value)}" for name, value in row.items()][:8]
    across = ax.transAxes.inverted().transform(ax.transData.transform((x, found.value)))
    right, up = across[0] < 0.5, across[1] < 0.5
    text = ax.annotate(
        "\n".join(lines),
        (x, found.value),
        xytext=(10 if right else -10, 10 if up else -10),
        textcoords="offset points",
        ha="left" if right else "right",
        va="bottom" if up else "top",
        fontsize=FONT_SIZE,
        color=VERMILLION,
        bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 2},
        zorder=6,
    )
    text.set_gid("best text")
