"""Predicted against measured time: a panel a device, with the band of 20 % around what is exact."""

from __future__ import annotations

import math

import numpy as np

from reports.arguments import ReportError
from reports.canvas import FONT_SIZE, new_grid
from reports.palette import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILLION
from reports.validation import Validation, accuracy

#: Marker and colour of each kind of measurement: told apart by shape in grey.
LOOKS = {
    "matmul": ("s", BLUE),
    "attention": ("^", GREEN),
    "recurrent": ("o", VERMILLION),
    "elementwise": ("x", SKY),
    "softmax": ("1", PURPLE),
    "normalisation": ("+", ORANGE),
    "network": ("*", INK),
}
#: Of the networks of `validate --this-machine`, which never share a chart with those above.
NETWORK_LOOKS = {"lstm": ("o", VERMILLION), "gru": ("v", ORANGE), "transformer": ("s", BLUE)}
OTHER = ("D", GREY)
BAND = 0.2
COLUMNS = 3
#: Area of a marker [points^2] among few points and among thousands; and of a whole network, however many.
AREAS = (20.0, 4.0)
NETWORK_AREA = 36.0
#: Width of an entry of the legend [inches].
LEGEND_ENTRY = 1.0


def scatter(validation: Validation, *, title: str | None = None):
    """Scatter chart of the judged rows, log-log: predicted over measured time, a panel a device, a marker a kind.

    The diagonal is exact; the grey band is 20 % to either side. Each panel's title gives its rows and their median
    and mean error. Returns the axes of the panels, all of one new figure. Raises `ReportError` where no row is judged.
    """
    devices = [key for (key,), which in validation.lines(("device",)).items() if (which & validation.judged).any()]
    if not devices:
        raise ReportError("no row is judged: there is nothing to draw")
    columns = min(COLUMNS, len(devices))
    axes = new_grid(math.ceil(len(devices) / columns), columns, (3.3, 3.2))
    for ax, device in zip(axes, devices, strict=False):
        _panel(ax, validation, device)
    for ax in axes[len(devices) :]:
        ax.remove()
    panels = axes[: len(devices)]
    for number, ax in enumerate(panels):
        if number % columns == 0:
            ax.set_ylabel("predicted [s]", fontsize=FONT_SIZE)
        if number + columns >= len(devices):
            ax.set_xlabel("measured [s]", fontsize=FONT_SIZE)
    figure = panels[0].figure
    figure.suptitle(title or "predicted and measured time of rows that nothing was fitted to", fontsize=FONT_SIZE + 2)
    _legend(figure, validation)
    return panels


def kinds(validation: Validation) -> list[str]:
    """Kinds of the judged rows, in the order of `LOOKS`."""
    found = set(validation.labels["kind"][validation.judged].tolist())
    return [kind for kind in (*LOOKS, *sorted(found - LOOKS.keys())) if kind in found]


def _panel(ax, validation: Validation, device: str) -> None:
    which = validation.where(device=device) & validation.judged
    measured, predicted = validation.measured_s[which], validation.predicted_s[which]
    low, high = _decades(np.concatenate([measured, predicted]))
    ends = np.array([low, high])
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="#D9D9D9", linewidth=0, zorder=1).set_gid("band")
    for ratio, look, name in ((1.0, "-", "exact"), (1 - BAND, ":", "low"), (1 + BAND, ":", "high")):
        ax.plot(ends, ends * ratio, look, color=INK, linewidth=0.7, zorder=4, gid=name)
    shown = [kind for kind in kinds(validation) if (which & validation.where(kind=kind)).any()]
    for kind in sorted(shown, key=lambda k: -(which & validation.where(kind=k)).sum()):  # rare ones on top
        rows = which & validation.where(kind=kind)
        shape, colour = (LOOKS | NETWORK_LOOKS).get(kind, OTHER)
        area = NETWORK_AREA if kind == "network" else float(np.clip(1500 / rows.sum(), *reversed(AREAS)))
        lines = {"linewidths": 0.6} if shape in "x+1" else {"linewidths": 0.25, "edgecolors": "white"}
        ax.scatter(
            validation.measured_s[rows], validation.predicted_s[rows], s=area, marker=shape, color=colour, zorder=3,
            rasterized=rows.sum() > 1000, gid=f"rows:{kind}", **lines,
        )  # fmt: skip
    found = accuracy(validation, which)
    errors = f"{found.judged:,} rows, error: median {100 * found.median:.0f} %, mean {100 * found.mean:.0f} %"
    ax.set_title(f"{device}\n{errors}", fontsize=FONT_SIZE)
    ax.grid(True, which="major", color="#E9E9E9", linewidth=0.5, zorder=0)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=FONT_SIZE - 1, which="both")


def _decades(values: np.ndarray) -> tuple[float, float]:
    """Limits just beyond the smallest and largest value."""
    low, high = math.log10(values.min()), math.log10(values.max())
    margin = max(0.05 * (high - low), 0.1)
    return 10 ** (low - margin), 10 ** (high + margin)


def _legend(figure, validation: Validation) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = []
    for kind in kinds(validation):
        shape, colour = (LOOKS | NETWORK_LOOKS).get(kind, OTHER)
        handles.append(Line2D([], [], linestyle="none", marker=shape, color=colour, markersize=5, label=kind))
    handles.append(Line2D([], [], color=INK, linewidth=0.7, label="exact"))
    handles.append(Patch(facecolor="#D9D9D9", edgecolor=INK, linestyle=":", label=f"within {100 * BAND:.0f} %"))
    columns = min(len(handles), max(2, int(figure.get_figwidth() / LEGEND_ENTRY)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=FONT_SIZE, frameon=False,
        handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip
