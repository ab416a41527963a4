"""The charts of the study of hierarchies: latency against length, and against the window."""

from __future__ import annotations

from collections.abc import Sequence

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_grid
from reports.palette import INK
from reports.studies.lines import looks, style
from reports.studies.study import Chart
from reports.studies.usual import three_digits

#: Marks of a ratio on a logarithmic axis.
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100)


def _style(ax, title: str, xlabel: str, ylabel: str) -> None:
    ax.set(xscale="log", yscale="log")
    ax.set_title(title, fontsize=FONT_SIZE, loc="left")
    style(ax, xlabel, ylabel)


def lengths_chart(chip, tasks: Sequence[tuple], networks: Sequence[str], lengths: Sequence[int]) -> Chart:
    """Latency against length on one chip: panels for the (title, task) pairs, a line a network."""
    times = {
        task: {network: [1e3 * chip.time_s(task, network, n) for n in lengths] for network in networks}
        for _, task in tasks
    }

    def draw():
        panels = new_grid(1, len(tasks), (3.5, 2.9))
        for ax, (title, task) in zip(panels, tasks, strict=True):
            for number, network in enumerate(networks):
                ax.plot(lengths, times[task][network], label=network, **looks(number))
            _style(ax, title, "positions", "latency [ms]")
        figure = panels[0].figure
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=LABEL_SIZE, frameon=False)
        return figure

    ends = "; ".join(
        f"{title}: " + ", ".join(f"{network} {three_digits(times[task][network][-1])} ms" for network in networks)
        for title, task in tasks
    )
    return Chart(
        draw=draw,
        alt=f"Latency on {chip.chip.title} against the number of positions, {lengths[0]:,} to {lengths[-1]:,}. At the "
        f"longest: {ends}.",
        caption=f"Latency on {chip.chip.title}: all positions at once, and one new vector after those before it. A "
        "hierarchy of summaries makes one output of the whole, the others one at every position.",
    )


def windows_chart(
    chips: Sequence, panels_of: Sequence[tuple], windows: Sequence[int], positions: int, marked: int
) -> Chart:
    """Latency over that of the window `marked`, against the window: panels of (title, task, network), a line a chip."""

    def line(chip, task, network) -> list[float]:
        times = [chip.time_s(task, network, positions, window) for window in windows]
        return [time / chip.time_s(task, network, positions, marked) for time in times]

    relative = {
        title: {chip.chip.name: line(chip, task, network) for chip in chips} for title, task, network in panels_of
    }

    def draw():
        panels = new_grid(1, len(panels_of), (3.5, 2.9))
        for ax, (title, _, _) in zip(panels, panels_of, strict=True):
            for number, (name, line) in enumerate(relative[title].items()):
                ax.plot(windows, line, label=name, **looks(number))
            ax.axhline(1, color=INK, linewidth=0.8)
            ax.axvline(marked, color=INK, linewidth=0.8, linestyle=":")
            _style(ax, title, "window [vectors]", f"latency / that of window {marked} [1]")
            low, high = ax.get_ylim()
            ax.set_yticks([tick for tick in TICKS if low <= tick <= high], minor=False)
            ax.set_yticks([], minor=True)
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        figure = panels[0].figure
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=LABEL_SIZE, frameon=False)
        return figure

    def span(lines, end: int) -> str:
        ends = [values[end] for values in lines.values()]
        return f"{min(ends):.2g} to {max(ends):.2g} at {windows[end]:,}"

    ends = "; ".join(f"{title}: {span(lines, 0)}, {span(lines, -1)}" for title, lines in relative.items())
    return Chart(
        draw=draw,
        alt=f"Latency over {positions:,} positions against the window, relative to a window of {marked}, a line a "
        f"chip. {ends}.",
        caption=f"Latency over {positions:,} positions against the window, relative to a window of {marked} (dotted). "
        "A step down is a level less.",
    )
