"""The charts of the study of who is memory-bound."""

from __future__ import annotations

from collections.abc import Mapping

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_axes, new_grid
from reports.palette import BLUE, CATEGORIES, GREY, INK, ORANGE, VERMILLION
from reports.studies.usual import held_back, largest
from simulator import Result

#: Marker of what takes most of the time.
SHAPES = {"memory": "o", "waits": "P", "arithmetic": "s"}
STROKES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 3)))


def intensity_chart(lying: Mapping[str, Mapping[int, float]], ridges: Mapping[str, float], dtypes: Mapping[str, str]):
    """Dots of FLOP per byte by network {batch: intensity}; a line for the ridge of each chip."""
    ax = new_axes(None, (7.0, 3.2))
    looks = {1: ("o", BLUE), 16: ("D", ORANGE), 256: ("^", VERMILLION)}
    names = list(lying)[::-1]
    for y, name in enumerate(names):
        for batch, at in lying[name].items():
            marker, colour = looks[batch]
            ax.plot(at, y, marker, color=colour, markeredgecolor=INK, markeredgewidth=0.6, markersize=7, zorder=3)
    for place, (chip, ridge) in enumerate(sorted(ridges.items(), key=lambda item: item[1])):
        ax.axvline(ridge, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        label = ax.annotate(f"{chip} {ridge:.0f}", (ridge, len(names) - 0.4 + 0.5 * place), xytext=(-3, 0),
                            textcoords="offset points", fontsize=LABEL_SIZE, color=INK, ha="right",
                            va="center")  # fmt: skip
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    ax.set(xscale="log", ylim=(-0.6, len(names) - 0.4 + 0.5 * len(ridges)), yticks=range(len(names)))
    ax.set_yticklabels(names, fontsize=FONT_SIZE)
    ax.set_xlabel("arithmetic intensity [FLOP/byte], operands read anew; dashed: ridge of the chip", fontsize=FONT_SIZE)
    ax.tick_params(labelsize=FONT_SIZE)
    ax.grid(True, axis="x", color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    handles = [_mark(marker, colour, f"batch {batch}") for batch, (marker, colour) in looks.items()]
    ax.legend(handles=handles, loc="upper left", fontsize=LABEL_SIZE, frameon=False)
    return ax.figure


def utilisation_chart(batches: Mapping[str, Mapping[int, Result]], widths: Mapping[str, Mapping[int, Result]], hidden):
    """Utilisation against batch and against hidden size, a line for each chip."""
    left, right = new_grid(1, 2, (3.7, 3.6))
    for ax, lines in ((left, batches), (right, widths)):
        for number, (chip, line) in enumerate(lines.items()):
            colour, stroke = CATEGORIES[number % len(CATEGORIES)], STROKES[number % len(STROKES)]
            x, y = list(line), [100 * float(result.utilisation) for result in line.values()]
            ax.plot(x, y, color=colour, linestyle=stroke, linewidth=1.3, label=chip, zorder=2)
            for at, value, result in zip(x, y, line.values(), strict=True):
                ax.plot(at, value, SHAPES[largest(held_back(result))], color=colour, markeredgecolor=INK,
                        markeredgewidth=0.5, markersize=5, zorder=3)  # fmt: skip
        ax.set(xscale="log", yscale="log", xticks=list(next(iter(lines.values()))))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_xticks([], minor=True)
        ax.tick_params(labelsize=FONT_SIZE)
        ax.grid(True, color="#E4E4E4", linewidth=0.6)
        ax.set_axisbelow(True)
    left.set_ylabel("utilisation [% of the matrix peak]", fontsize=FONT_SIZE)
    left.set_xlabel(f"batch, {hidden} units", fontsize=FONT_SIZE)
    right.set_xlabel("hidden size [units], batch 1", fontsize=FONT_SIZE)
    handles, labels = left.get_legend_handles_labels()
    handles += [_mark(shape, "white", kind) for kind, shape in SHAPES.items()]
    left.figure.legend(handles, [*labels, *(f"most time: {kind}" for kind in SHAPES)], loc="outside lower center",
                       ncols=3, fontsize=LABEL_SIZE, frameon=False)  # fmt: skip
    return left.figure


def _mark(marker: str, colour: str, label: str):
    from matplotlib.lines import Line2D

    look = {"marker": marker, "color": colour, "markeredgecolor": INK, "markeredgewidth": 0.6, "markersize": 6}
    return Line2D([], [], linestyle="none", label=label, **look)
