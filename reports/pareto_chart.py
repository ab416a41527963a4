"""The Pareto chart: designs by two metrics, those that no other beats joined, the knee named."""

from __future__ import annotations

import numpy as np

from reports.arguments import ReportError
from reports.canvas import FONT_SIZE, halo, new_axes, wrapped
from reports.design_axes import dress, dress_bar, short_name, value_text
from reports.palette import BLUE, GREY, VERMILLION
from simulator import Sweep
from simulator.pareto import knee, pareto_front


def pareto(sweep: Sweep, ax=None, *, metrics=None, title: str | None = None):
    """Pareto chart of a sweep: the front of its first two metrics, or of two or three named in `metrics`.

    Designs kept that are not on the front are grey dots; a third metric is the colour of the front. The knee, where a
    little more of one metric starts to cost much of the other, is named with its parameters.

    Returns the axes (a new figure's where `ax` is None). Raises `ReportError` for anything but a sweep with at least
    two metrics and one design kept.
    """
    if not isinstance(sweep, Sweep):
        raise ReportError(f"a Sweep is expected, got {type(sweep).__name__}")
    names = [m.name for m in sweep.measures][:2] if metrics is None else [_full(sweep, name) for name in metrics]
    if not 2 <= len(names) <= 3:
        raise ReportError(f"a Pareto chart needs two or three metrics, got {', '.join(names) or 'none'}")
    if not len(sweep):
        raise ReportError("the sweep kept no design")
    better = {m.name: m.metric.better for m in sweep.measures}
    directions = [better.get(name, "less") for name in names]
    points = np.column_stack([sweep[name] for name in names]).astype(float)
    front = pareto_front(points, directions)
    ax = new_axes(ax, (7.4, 5.0))
    dress(ax.xaxis, ax.set_xscale, names[0], points[:, 0])
    dress(ax.yaxis, ax.set_yscale, names[1], points[:, 1])
    ax.grid(True, color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    others = np.setdiff1d(np.arange(len(points)), front)
    if len(others):
        ax.scatter(*points[others, :2].T, s=6, color=GREY, alpha=0.5, linewidths=0, rasterized=True).set_gid("others")
    if len(names) == 2:
        (line,) = ax.plot(*points[front].T, drawstyle=_steps(directions), color=BLUE, linewidth=1.2)
        line.set_gid("front")
        dots = ax.scatter(*points[front].T, s=18, color=BLUE, zorder=3)
    else:
        dots = ax.scatter(*points[front, :2].T, s=22, c=points[front, 2], cmap="cividis", zorder=3)
        bar = ax.figure.colorbar(dots, ax=ax, pad=0.02)
        dress_bar(bar, names[2], points[front, 2])
    dots.set_gid("front points")
    bend = int(front[knee(points[front], directions)])
    _name_knee(ax, sweep, bend, points[bend], directions)
    ax.set_title(wrapped(_title(sweep, names, len(front)) if title is None else title, 80), fontsize=FONT_SIZE + 2)
    return ax


def _full(sweep: Sweep, name: str) -> str:
    """The name of a column, from that of a field without its unit."""
    return name if name in sweep.columns or "." not in name else sweep.accelerator.path(name)


def _steps(directions: list[str]) -> str:
    """How a staircase of designs runs: to the next first metric only with the second that is reached by then."""
    return "steps-post" if directions[0] == "less" else "steps-pre"


def _name_knee(ax, sweep: Sweep, row: int, point: np.ndarray, directions: list[str]) -> None:
    """A ring around the knee, and what design it is, on the side where no front can be."""
    ring = ax.scatter([point[0]], [point[1]], s=130, facecolors="none", edgecolors=VERMILLION, linewidths=1.6, zorder=4)
    ring.set_gid("knee")
    values = sweep.row(row)
    lines = [f"knee: {value_text(m, values[m])}" if i == 0 else value_text(m, values[m]) for i, m in
             enumerate(m.name for m in sweep.measures[:2])]  # fmt: skip
    lines = [", ".join(lines)]
    lines += [f"{short_name(axis.name)} = {value_text(axis.name, values[axis.name])}" for axis in sweep.space.axes]
    # beyond the front, seen from where both metrics are at their best
    right, up = (1 if direction == "less" else -1 for direction in directions[:2])
    text = ax.annotate(
        "\n".join(lines[:7]),
        (point[0], point[1]),
        xytext=(14 * right, 12 * up),
        textcoords="offset points",
        ha="left" if right > 0 else "right",
        va="bottom" if up > 0 else "top",
        fontsize=FONT_SIZE,
        color=VERMILLION,
        path_effects=halo(),
        zorder=6,
    )
    text.set_gid("knee text")


def _title(sweep: Sweep, names: list[str], front: int) -> str:
    networks = " + ".join(sweep.mix.given)
    if len(sweep.mix.given) == 1:
        networks = sweep.traces()[0][1].name
    among = f"{front} of {sweep.evaluated:,} designs that no other beats"
    return f"{networks} on designs of {sweep.accelerator.title}\n{among} in {' and '.join(map(short_name, names))}"
