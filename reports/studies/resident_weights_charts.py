"""The charts of the study of weights that stay on chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_axes, new_grid
from reports.palette import BLUE, GREEN, INK, ORANGE, VERMILLION

LOOKS = {"as it is": (BLUE, "-"), "weights read anew": (VERMILLION, "--")}
TYPES = (("fp32", ORANGE, "///"), ("16-bit float", BLUE, ""), ("int8", GREEN, "..."))


def step_chart(steps: Mapping[str, Mapping[str, Sequence[float]]], widths: Sequence[int], marks: Mapping[str, int]):
    """A panel a chip: time of a step over hidden size, as the chip is and with weights read anew; the widest marked."""
    columns = min(4, len(steps))
    rows = -(-len(steps) // columns)
    axes = new_grid(rows, columns, (1.85, 1.9))
    every = [1e6 * step for lines in steps.values() for line in lines.values() for step in line]
    bottom, top = 10 ** np.floor(np.log10(min(every))), 10 ** np.ceil(np.log10(max(every)))
    for place, (ax, (chip, lines)) in enumerate(zip(axes, steps.items(), strict=False)):
        for name, line in lines.items():
            colour, stroke = LOOKS[name]
            ax.plot(widths, [1e6 * step for step in line], color=colour, linestyle=stroke, linewidth=1.4, label=name)
        if marks[chip]:
            ax.axvline(marks[chip], color=INK, linewidth=0.8, linestyle=":")
        decades = 10 ** np.arange(np.log10(bottom), np.log10(top) + 1)
        ax.set(xscale="log", yscale="log", ylim=(bottom, top), xticks=[128, 1024, 8192])
        ax.set_yticks(decades, [f"{decade:g}" if not place % columns else "" for decade in decades])
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        ax.set_xticks([], minor=True)
        ax.set_yticks([], minor=True)
        ax.set_title(f"{chip}: {marks[chip]} units", fontsize=LABEL_SIZE)
        ax.tick_params(labelsize=LABEL_SIZE)
        ax.grid(True, color="#E4E4E4", linewidth=0.6)
        ax.set_axisbelow(True)
    for ax in axes[len(steps) :]:
        ax.remove()
    figure = axes[0].figure
    figure.supylabel("time of a step [µs]", fontsize=FONT_SIZE)
    figure.supxlabel("hidden size [units], batch 1", fontsize=FONT_SIZE)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=LABEL_SIZE, frameon=False)
    return figure


def width_chart(widths: Mapping[str, Mapping[str, int]]):
    """Bars of the widest layer by chip and element type."""
    ax = new_axes(None, (7.2, 2.9))
    for place, (label, colour, hatch) in enumerate(TYPES):
        wanted = (lambda d: d not in ("fp32", "int8")) if label == "16-bit float" else (lambda d, t=label: d == t)
        heights = [next((hidden for dtype, hidden in of.items() if wanted(dtype)), 0) for of in widths.values()]
        x = np.arange(len(widths)) + 0.27 * (place - 1)
        ax.bar(x, heights, 0.25, color=colour, edgecolor=INK, linewidth=0.5, hatch=hatch, label=label)
        for at, height in zip(x, heights, strict=True):
            if height:
                ax.annotate(f"{height}", (at, height), xytext=(0.5, 2), textcoords="offset points", ha="center",
                            va="bottom", fontsize=LABEL_SIZE - 1.5, rotation=90)  # fmt: skip
    ax.set_xticks(range(len(widths)), widths, fontsize=LABEL_SIZE, rotation=15)
    ax.set_ylabel("widest resident layer [units]", fontsize=FONT_SIZE)
    ax.margins(y=0.2)
    ax.tick_params(axis="y", labelsize=LABEL_SIZE)
    ax.grid(True, axis="y", color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(fontsize=LABEL_SIZE, frameon=False, loc="upper left")
    return ax.figure
