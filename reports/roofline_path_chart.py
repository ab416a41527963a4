"""The roofline with a design moving along a sweep: where a network lies as a field grows, and how the roof moves."""

from __future__ import annotations

import numpy as np

from reports.arguments import ReportError
from reports.canvas import FONT_SIZE, LABEL_SIZE, halo, new_axes, quantity, wrapped
from reports.design_axes import short_name, value_text, varied
from reports.heat_map_chart import dominant
from reports.palette import GREY, INK, bound_looks
from reports.tables import dtypes
from simulator import Result


def roofline_path(result: Result, ax=None, *, title: str | None = None):
    """Roofline of a whole network on designs that differ in one field: `simulate(trace, chip.grid({field: ...}))`.

    Each marker is a design: intensity at the farthest memory and operations per second; its shape is the bound that
    limits most of its time, its colour the value of the field, and an arrow leads the way. Roofs are those of the
    first design (grey) and of the last (black).

    Returns the axes (a new figure's where `ax` is None). Raises `ReportError` for anything but a result over one field.
    """
    if not isinstance(result, Result):
        raise ReportError(f"a Result is expected, got {type(result).__name__}")
    if len(result.shape) != 1 or len(result.trace.dtype[result.trace.is_product]) == 0:
        raise ReportError(
            f"designs along one field, and a network with products, are expected; got designs of shape {result.shape}"
        )
    ((name, values),) = varied(result)
    x = np.asarray(result.network_intensity(), float)
    y = np.asarray(result.attained, float)
    ends = [_roof(result.design(i)) for i in (0, len(values) - 1)]
    ax = new_axes(ax, (8.4, 4.9))
    ridges = [peak / bandwidth for bandwidth, peak in ends]
    left, right = min(x.min(), *ridges) / 4, max(x.max(), *ridges) * 4
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(y.min() / 3, max(peak for _, peak in ends) * 2.5))
    for (bandwidth, peak), colour, which in zip(ends, (GREY, INK), ("first", "last"), strict=True):
        if which == "last" and ends[0] == ends[1]:
            continue
        roof = [(left, left * bandwidth), (peak / bandwidth, peak), (right, peak)]
        (line,) = ax.plot(*zip(*roof, strict=True), color=colour, linewidth=1.4, zorder=1.5)
        line.set_gid(f"roof:{which}")
    _path(ax, result, x, y, values, moves=ends[0] != ends[1])
    for i, side in ((0, "first"), (len(values) - 1, "last")):
        text = ax.annotate(
            value_text(name, values[i]),
            (x[i], y[i]),
            xytext=(9, -4 if side == "first" else 5),
            textcoords="offset points",
            va="top" if side == "first" else "bottom",
            fontsize=LABEL_SIZE,
            path_effects=halo(),
            zorder=6,
        )
        text.set_gid(f"end:{side}")
    level = list(result.accelerator.memory)[-1]
    ax.set_xlabel(f"arithmetic intensity at {level} [FLOP/byte]", fontsize=FONT_SIZE + 1)
    ax.set_ylabel("attained [FLOP/s]", fontsize=FONT_SIZE + 1)
    ax.tick_params(labelsize=FONT_SIZE)
    ax.grid(True, which="major", color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    times = f"{quantity(result.latency_s[0], 's')} to {quantity(result.latency_s[-1], 's')}"
    heading = f"{result.trace.name} on {result.accelerator.title} as {short_name(name)} goes from "
    heading += f"{value_text(name, values[0])} to {value_text(name, values[-1])}: {times}"
    ax.set_title(wrapped(heading if title is None else title, 80), fontsize=FONT_SIZE + 2)
    return ax


def _roof(result: Result) -> tuple[float, float]:
    """Bandwidth of the farthest memory and the highest peak in use, of one design."""
    chip = result.accelerator
    return float(chip.outer.bandwidth_bytes_per_s), max(float(chip.peak_flops_per_s(d)) for d in dtypes(result))


def _path(ax, result: Result, x, y, values, moves: bool) -> None:
    """The designs in their order, with a legend; `moves` where the roof does too."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    shade = colormaps["cividis"](np.linspace(0, 0.9, len(values)))
    (line,) = ax.plot(x, y, color=INK, linewidth=0.8, zorder=2)
    line.set_gid("path")
    bounds = [result.bound_names[i] for i in dominant(result)]
    looks = bound_looks(result.accelerator.memory)
    for place in zip(x, y, shade, bounds, strict=True):
        ax.plot([place[0]], [place[1]], looks[place[3]][0], color=place[2], markersize=7, markeredgecolor=INK,
                markeredgewidth=0.5, zorder=3)  # fmt: skip
    middle = len(values) // 2
    if len(values) > 1 and np.hypot(np.log(x[middle] / x[middle - 1]), np.log(y[middle] / y[middle - 1])) > 1e-6:
        ax.annotate(
            "",
            (x[middle], y[middle]),
            (x[middle - 1], y[middle - 1]),
            arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 0.8},
            zorder=4,
        )
    handles = [
        Line2D([], [], linestyle="none", marker=looks[b][0], color="white", markeredgecolor=INK, label=b)
        for b in dict.fromkeys(bounds)
    ]
    handles.append(Line2D([], [], color=GREY, label="roof of the first" if moves else "roof"))
    handles += [Line2D([], [], color=INK, label="of the last")] if moves else []
    ax.legend(handles=handles, title="mostly bound by", fontsize=FONT_SIZE, title_fontsize=FONT_SIZE, frameon=False,
              loc="upper left", bbox_to_anchor=(1.01, 1.0), alignment="left")  # fmt: skip
