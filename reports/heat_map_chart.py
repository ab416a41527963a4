"""The heat map: a metric over two fields of a chip, with the regions in which each resource is the limit."""

from __future__ import annotations

import numpy as np

from reports.arguments import ReportError
from reports.canvas import FONT_SIZE, LABEL_SIZE, halo, new_axes, wrapped
from reports.design_axes import dress, dress_bar, tick_text, varied
from reports.palette import INK
from simulator import Result
from simulator.metrics import metric as metric_of

#: Cells of a region, and distance to its edge in cells, from which on it has room for its name.
_LEAST_CELLS, _ROOM = 6, 1


def heat_map(result: Result, metric="latency_s", ax=None, *, title: str | None = None):
    """Heat map of a metric over a grid of two fields: `simulate(trace, chip.grid({x: ..., y: ...}))`.

    The first field runs to the right, the second up. Thin lines join designs of equal performance; thick white lines
    part the regions in which another resource limits the most time, each named after it. `metric` is a name or a
    function of a result, see `simulator.METRICS`.

    Returns the axes (a new figure's where `ax` is None). Raises `ReportError` for anything but a result over a grid of
    two fields, `DesignSpaceError` for an unknown metric.
    """
    if not isinstance(result, Result):
        raise ReportError(f"a Result is expected, got {type(result).__name__}")
    if len(result.shape) != 2 or min(result.shape) < 2:
        raise ReportError(f"a heat map needs a grid of two fields, got designs of shape {result.shape}")
    (x_name, x), (y_name, y) = varied(result)
    asked = metric_of(metric, result.accelerator)
    values = asked.over([(result, 1.0)]).reshape(result.shape)
    ax = new_axes(ax, (7.4, 5.2))
    dress(ax.xaxis, ax.set_xscale, x_name, x)
    dress(ax.yaxis, ax.set_yscale, y_name, y)
    norm = _norm(values)
    mesh = ax.pcolormesh(x, y, values.T, cmap="cividis", norm=norm, shading="nearest", rasterized=True)
    mesh.set_gid("heat")
    _iso_lines(ax, x, y, values, asked.name)
    _regions(ax, x, y, dominant(result), result.bound_names)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02)
    dress_bar(bar, asked.name, values)
    heading = f"{result.trace.name} on {result.accelerator.title}\n{asked.meaning or asked.name}, by what limits it"
    ax.set_title(wrapped(heading if title is None else title, 76), fontsize=FONT_SIZE + 2)
    return ax


def dominant(result: Result) -> np.ndarray:
    """Index into `bound_names` of the bound that limits the most time, for each design. Shape S."""
    shares = result.time_share_by_bound()
    table = np.stack([np.broadcast_to(shares.get(name, 0.0), result.shape) for name in result.bound_names])
    return table.argmax(axis=0)


def _norm(values: np.ndarray):
    from matplotlib.colors import LogNorm, Normalize

    spread = values.min() > 0 and values.max() / values.min() > 3
    return (LogNorm if spread else Normalize)(values.min(), values.max())


def _iso_lines(ax, x, y, values: np.ndarray, name: str) -> None:
    """Lines of equal performance at round values."""
    low, high = values.min(), values.max()
    if not high > low:
        return
    if low > 0 and high / low > 3:
        exponents = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        levels = np.array([step * 10.0**e for e in exponents for step in (1, 2, 5)])
    else:
        from matplotlib.ticker import MaxNLocator

        levels = MaxNLocator(7).tick_values(low, high)
    levels = [level for level in levels if low < level < high]
    if levels:
        lines = ax.contour(x, y, values.T, levels=levels, colors=INK, linewidths=0.6)
        lines.set_gid("iso")
        texts = ax.clabel(lines, fmt=lambda value: tick_text(name, value), fontsize=LABEL_SIZE - 0.5)
        for text in texts:
            text.set_path_effects(halo())


def _regions(ax, x, y, bound: np.ndarray, names) -> None:
    """White lines between regions of different bounds, and the name of each where it has most room."""
    from matplotlib.collections import LineCollection

    edges_x, edges_y = _edges(x, ax.get_xscale()), _edges(y, ax.get_yscale())
    i, j = np.nonzero(bound[1:] != bound[:-1])
    upright = [[(edges_x[a + 1], edges_y[b]), (edges_x[a + 1], edges_y[b + 1])] for a, b in zip(i, j, strict=True)]
    i, j = np.nonzero(bound[:, 1:] != bound[:, :-1])
    level = [[(edges_x[a], edges_y[b + 1]), (edges_x[a + 1], edges_y[b + 1])] for a, b in zip(i, j, strict=True)]
    lines = LineCollection(upright + level, colors="white", linewidths=2.0, zorder=3)
    lines.set_gid("regions")
    ax.add_collection(lines, autolim=False)
    for number in np.unique(bound):
        cell, cells = _heart(bound == number)
        if cells >= _LEAST_CELLS or len(np.unique(bound)) == 1:
            text = ax.text(
                x[cell[0]],
                y[cell[1]],
                names[number],
                ha="center",
                va="center",
                fontsize=FONT_SIZE + 1.5,
                fontweight="bold",
                color=INK,
                path_effects=halo(),
                zorder=5,
            )
            text.set_gid(f"region:{names[number]}")


def _edges(centres: np.ndarray, scale: str) -> np.ndarray:
    """Edges of the cells around `centres`, as pcolormesh draws them: halfway on the linear scale."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _heart(mask: np.ndarray) -> tuple[tuple[int, int], int]:
    """The cell of a region farthest from its edge, and how many cells it has."""
    count, inner = int(mask.sum()), mask
    while True:
        padded = np.pad(inner, 1)
        thinner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        if not thinner.any():
            break
        inner = thinner
    cells = np.argwhere(inner)
    middle = cells.mean(axis=0)
    return tuple(cells[np.abs(cells - middle).sum(axis=1).argmin()].tolist()), count
