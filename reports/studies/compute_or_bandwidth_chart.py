"""The chart of the study of compute against bandwidth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_grid
from reports.palette import INK

TITLES = {"bandwidth": "1 % more memory bandwidth", "compute": "1 % more compute", "waits": "1 % less waiting"}


def answers_chart(found: Mapping[str, Mapping[str, Mapping[str, float]]], resources: Sequence[str]):
    """A heat map for each resource, networks by chips, every cell with its number."""
    names, chips = list(found), list(next(iter(found.values())))
    axes = new_grid(len(resources), 1, (2.4 + 0.5 * max(len(chips), 4), 0.5 + 0.24 * len(names)))
    for ax, resource in zip(axes, resources, strict=True):
        values = np.array([[found[name][chip][resource] for chip in chips] for name in names])
        mesh = ax.imshow(values, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
        for row, column in np.ndindex(*values.shape):
            value = values[row, column]
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=LABEL_SIZE - 0.5,
                    color=INK if value > 0.5 else "white")  # fmt: skip
        ax.set_yticks(range(len(names)), names, fontsize=LABEL_SIZE)
        last = ax is axes[-1]
        ax.set_xticks(
            range(len(chips)), chips if last else [""] * len(chips), fontsize=LABEL_SIZE, rotation=35, ha="right"
        )
        ax.set_title(f"Per cent faster for {TITLES[resource]}", fontsize=FONT_SIZE, loc="left")
        ax.tick_params(length=0)
    bar = axes[0].figure.colorbar(mesh, ax=axes, pad=0.015, shrink=0.5)
    bar.set_label("elasticity of the speed [% per %]", fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=LABEL_SIZE)
    return axes[0].figure
