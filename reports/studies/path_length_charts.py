"""The charts of the study of path lengths: paths, serial time, latency and gain against length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_grid
from reports.palette import CATEGORIES, GREY, INK
from reports.studies.study import Chart
from reports.studies.usual import three_digits

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), "-", (0, (5, 2, 1, 2)))
COLOURS = (*CATEGORIES[:6], GREY, INK, "#8C6D1F")


def looks(number: int) -> dict:
    """Colour, marker and line of a line, told apart in grey too."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKS[number % len(MARKS)],
        "linestyle": LINES[number % len(LINES)],
        "markersize": 3.8,
        "linewidth": 1.1,
    }


def _two_panels(networks: Sequence, lengths: Sequence[int], panels: Sequence[tuple[str, str, dict]]) -> Callable:
    """A function that draws panels of (title, label of the y axis, values by network) with one legend."""

    def draw():
        axes = new_grid(1, len(panels), (3.5, 3.1))
        for ax, (title, ylabel, values) in zip(axes, panels, strict=True):
            for number, network in enumerate(networks):
                ax.plot(lengths, values[network.label], label=network.label, **looks(number))
            ax.set(xscale="log", yscale="log")
            ax.set_title(title, fontsize=FONT_SIZE, loc="left")
            ax.set_xlabel("length of the sequence [positions]", fontsize=FONT_SIZE)
            ax.set_ylabel(ylabel, fontsize=FONT_SIZE)
            ax.minorticks_off()
            ax.tick_params(labelsize=LABEL_SIZE)
            ax.grid(True, color="#E4E4E4", linewidth=0.6)
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(
            handles, labels, loc="outside upper center", ncols=5, fontsize=LABEL_SIZE, frameon=False, handlelength=3
        )
        return axes[0].figure

    return draw


def _ends(values: dict, unit: str) -> str:
    return ", ".join(f"{label} {three_digits(line[-1])}{unit}" for label, line in values.items())


def paths_chart(chip, networks: Sequence, lengths: Sequence[int], more: int) -> Chart:
    """Path length, and serial time on a chip of `more` times the hardware, against length."""
    paths = {network.label: [network.path(n) for n in lengths] for network in networks}
    serial = {network.label: [1e3 * chip.times(network, n).serial_s for n in lengths] for network in networks}
    panels = (
        ("path between first and last position", "path [dependent operations]", paths),
        (f"serial time, {more:,} times the hardware", "critical path [ms]", serial),
    )
    return Chart(
        draw=_two_panels(networks, lengths, panels),
        alt=f"Two panels against the length of the sequence, {lengths[0]:,} to {lengths[-1]:,}, both axes logarithmic. "
        f"Dependent operations at the longest: {_ends(paths, '')}. Serial time there: {_ends(serial, ' ms')}.",
        caption="Left: dependent operations between the first and the last position of one layer, by the shortest way "
        "(TCN and hierarchy: as many levels as it takes). Right: the longest chain of dependent operations on "
        f"{chip.chip.title} with {more:,} times the units and bandwidth and today's latencies.",
    )


def gains_chart(chip, networks: Sequence, lengths: Sequence[int], more: int) -> Chart:
    """Latency on the chip, and what `more` times the hardware gains, against length."""
    latency = {network.label: [1e3 * chip.times(network, n).latency_s for n in lengths] for network in networks}
    gain = {network.label: [chip.times(network, n).gain for n in lengths] for network in networks}
    panels = (
        ("latency on the chip", "latency [ms]", latency),
        (f"gain from {more:,} times the hardware", "gain [times as fast]", gain),
    )
    return Chart(
        draw=_two_panels(networks, lengths, panels),
        alt=f"Two panels against the length of the sequence, {lengths[0]:,} to {lengths[-1]:,}, both axes logarithmic. "
        f"Latency at the longest: {_ends(latency, ' ms')}. Gain at the longest: {_ends(gain, ' times')}.",
        caption=f"Left: latency of one layer of {networks[0].label}, {networks[-1].label} and others on "
        f"{chip.chip.title}, one sequence. Right: how much faster {more:,} times the units and bandwidth make it.",
    )
