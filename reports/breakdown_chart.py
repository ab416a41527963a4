"""The breakdown chart: where the time goes, by layer and by bound."""

from __future__ import annotations

from reports.arguments import ReportError, comparison_title, labelled
from reports.canvas import FONT_SIZE, new_axes, quantity, shortened, wrapped
from reports.explain import percent
from reports.palette import bound_looks


def breakdown(results, ax=None, *, title: str | None = None, most_layers: int | None = None):
    """Where the time goes: a horizontal bar a layer, as long as its time, cut by the bound that sets it.

    `results` is one result, a list, or a mapping from labels to results; several stand under one another on one time
    axis. Time is that of all runs one after another, so a network whose ops overlap takes less (its latency stands in
    the title). Beyond `most_layers` (default 12, with several results 5, with many 3) the shortest layers share one
    bar.

    Returns the axes (a new figure's where `ax` is None). Raises `ReportError` for no result or an array of designs.
    """
    found = labelled(results)
    several = len(found) > 1
    if most_layers is None:
        most_layers = 12 if not several else 5 if len(found) <= 6 else 3
    if most_layers < 1:
        raise ReportError(f"most_layers must be 1 or more, got {most_layers}")
    bars = {label: _bars(result, most_layers) for label, result in found.items()}
    lines = sum(len(b) for b in bars.values()) + 1.2 * len(bars) * several
    ax = new_axes(ax, (8.0, 1.3 + 0.3 * lines))
    longest = max(sum(parts.values()) for layers in bars.values() for parts in layers.values())
    scale, unit = _time_scale(longest)

    looks: dict[str, tuple] = {}
    y, ticks, names = 0.0, [], []
    for label, layers in bars.items():
        result = found[label]
        every = bound_looks(result.accelerator.memory)
        if several:
            ax.text(
                0.0,
                y,
                f" {shortened(label, 60)}: {quantity(result.latency_s, 's')}",
                fontsize=FONT_SIZE,
                fontweight="bold",
                va="center",
            )
            y += 1.0
        for layer, parts in layers.items():
            start = 0.0
            for bound in every:
                if bound not in parts:
                    continue
                looks = {name: every[name] for name in every if name in looks or name == bound} | looks
                bar = ax.barh(
                    y,
                    parts[bound] / scale,
                    left=start / scale,
                    height=0.76,
                    color=every[bound][1],
                    hatch=every[bound][2],
                    edgecolor="white",
                    linewidth=0.4,
                )
                bar[0].set_gid(f"bar:{label}:{layer}:{bound}")
                start += parts[bound]
            share = percent(start / float(result.total_s.sum()))
            ax.annotate(
                f"{quantity(start, 's')}, {share}",
                (start / scale, y),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=FONT_SIZE - 1,
            )
            ticks.append(y)
            names.append(shortened(layer, 36))
            y += 1.0
        y += 0.4
    ax.set_yticks(ticks, names, fontsize=FONT_SIZE)
    ax.set_ylim(y - 0.8, -0.8)
    ax.set_xlim(0, longest / scale * 1.22)  # room for the numbers beside the bars
    ax.set_xlabel(f"time of all runs [{unit}]", fontsize=FONT_SIZE + 1)
    ax.tick_params(axis="x", labelsize=FONT_SIZE)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(wrapped(_title(found) if title is None else title, 72), fontsize=FONT_SIZE + 2)
    _legend(ax, looks)
    return ax


def _bars(result, most: int) -> dict[str, dict[str, float]]:
    """Seconds by layer and bound, layers in program order; the shortest summed when there are more than `most`."""
    total, bound = result.total_s, result.bound
    times: dict[str, dict[str, float]] = {}
    for row, layer in enumerate(result.trace.layer.tolist()):
        parts = times.setdefault(layer, {})
        parts[str(bound[row])] = parts.get(str(bound[row]), 0.0) + float(total[row])
    if len(times) <= most:
        return times
    ranked = sorted(times, key=lambda layer: -sum(times[layer].values()))
    kept = {layer: parts for layer, parts in times.items() if layer in ranked[: most - 1]}
    rest: dict[str, float] = {}
    for layer in ranked[most - 1 :]:
        for name, seconds in times[layer].items():
            rest[name] = rest.get(name, 0.0) + seconds
    return kept | {f"{len(ranked) - most + 1} other layers": rest}


def _legend(ax, looks: dict) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=b) for b, (_, c, h) in looks.items()]
    ax.legend(
        handles=handles,
        title="bound by",
        fontsize=FONT_SIZE,
        title_fontsize=FONT_SIZE,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        alignment="left",
        handleheight=1.2,
    )


def _time_scale(seconds: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "\u00b5s")):
        if seconds >= scale:
            return scale, unit
    return 1e-9, "ns"


def _title(found: dict) -> str:
    if len(found) == 1:
        result = next(iter(found.values()))
        return f"{result.trace.name} on {result.accelerator.title}\nlatency {quantity(result.latency_s, 's')}"
    return f"{comparison_title(found)}: where the time goes"
