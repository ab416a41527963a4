"""The roofline chart: attained FLOP/s over arithmetic intensity, under the roofs of a chip.

Williams, Waterman and Patterson, Roofline: an insightful visual performance model, CACM 52(4), 2009.
"""

from __future__ import annotations

import math

from reports.arguments import ReportError, comparison_title, labelled
from reports.canvas import FONT_SIZE, new_axes, new_panels, quantity, shortened, wrapped
from reports.explain import percent
from reports.label_places import Page
from reports.measured import measured_points
from reports.palette import CATEGORIES, GREY, INK, bound_looks, colours
from reports.roofline_markers import draw_measured, draw_ops, draw_stars, label_ops, marker_area, op_markers, rings
from reports.roofline_view import View, distinct_chips, has_vector_ops, visible
from reports.roofs import draw_roofs, label_roofs
from reports.tables import dtypes


def roofline(results, ax=None, *, title: str | None = None, legend: bool = True, measured=None):
    """Roofline chart, log-log: attained FLOP/s over arithmetic intensity at the farthest memory level.

    `results` is one result, a list, or a mapping from labels to results. Roofs are datasheet numbers: each memory
    level's bandwidth (slanted), the peak of each element type in use and, where vector ops are shown, of the vector
    units (level); ridge points are dots. One marker an op: area is its share of the time, shape the bound that sets
    its time, colour its layer (with several results: the result). Ops at one point are rings, each with an area of
    its own share; those that take longest are named where there is room. The star is the whole network. Ops without
    traffic at the farthest level stand in the grey strip at the right edge; ops without FLOP have no place on the
    chart and are counted under the axis. With results on different chips only the farthest level's roofs are drawn.
    Where a memory computes, its banks have a roof of their own (dotted), and ops that run there stand at the intensity
    of what the banks deliver.

    `measured`: the Profile (`workloads.from_profile`) whose trace the one result is of. Its operators are hollow
    circles, at the intensity of the predicted ones and the speed that was measured, with the area of their share of
    the measured time.

    Returns the axes (a new figure's where `ax` is None). Raises `ReportError` for no result or an array of designs,
    and for measured times with several results or the result of another trace.
    """
    found = labelled(results)
    points = None if measured is None else _measured(found, measured)
    ax = new_axes(ax, (9.0, 5.4 + 0.16 * max(0, len(found) - 8)))
    chips, several = distinct_chips(found), len(found) > 1
    tints = colours(found) if several else {}
    layers = {} if several else _layer_colours(next(iter(found.values())))
    view = visible(found, chips, points)
    ax.set(xscale="log", yscale="log", xlim=(view.left, view.right), ylim=(view.bottom, view.top))
    axis = f"arithmetic intensity at {view.level} [FLOP/byte]"
    ax.set_xlabel("\n".join([axis, *_notes(found, view)]), fontsize=FONT_SIZE + 1)
    ax.set_ylabel("attained [FLOP/s]", fontsize=FONT_SIZE + 1)
    ax.set_title(wrapped(_title(found) if title is None else title, 84), fontsize=FONT_SIZE + 2)
    ax.grid(True, which="major", color="#E4E4E4", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=FONT_SIZE)
    _mark_strip(ax, view)
    if legend:
        _legends(ax, found, tints, layers, len(chips), points is not None)

    figure = ax.figure.figure  # of a subfigure too
    if figure.get_layout_engine() is not None:
        figure.get_layout_engine().execute(figure)  # so that labels know the size of the axes
    box = ax.get_window_extent()
    width, height = box.width / ax.figure.dpi, box.height / ax.figure.dpi
    page = Page(view.left, view.strip or view.right, view.bottom, view.top, width, height)
    if view.strip:
        page.width *= math.log(view.strip / view.left) / math.log(view.right / view.left)
    tint = {la: [tints[la] if several else layers[x] for x in r.trace.layer.tolist()] for la, r in found.items()}
    roofs = draw_roofs(ax, chips, tints, page)
    marked = rings(op_markers(found, tint, view))
    draw_ops(ax, marked, 0.7 if several else 0.9, page)
    if points is not None:
        draw_measured(ax, points, view, page)
    draw_stars(ax, found, tints, view, page)
    label_roofs(ax, roofs, page)
    if not several:
        label_ops(ax, marked, page)
    return ax


def roofline_panels(results):
    """Roofline charts of several networks on several chips: a panel a network, its chips told apart by colour.

    Takes what `roofline` takes and raises what it raises. Returns the axes of each panel, all of one new figure;
    where there is only one network or one chip, the one chart of `roofline`.
    """
    found = labelled(results)
    networks: dict[str, list] = {}
    for result in found.values():
        networks.setdefault(result.trace.name, []).append(result)
    if len(networks) == 1 or len({result.accelerator.title for result in found.values()}) == 1:
        return [roofline(found)]
    panels = new_panels(len(networks), (9.0, 4.9))
    return [roofline(results, ax) for results, ax in zip(networks.values(), panels, strict=True)]


def _measured(found: dict, profile):
    if len(found) > 1:
        raise ReportError(f"measured times are shown beside one result, got {len(found)}")
    return measured_points(profile, next(iter(found.values())))


def _layer_colours(result) -> dict[str, str]:
    """A colour for each layer; where there are more layers than colours, the shortest are grey."""
    shares = {layer: float(share) for layer, share in result.time_share_by_layer().items()}
    longest = sorted(shares, key=lambda layer: -shares[layer])[: len(CATEGORIES)]
    tint = dict(zip([layer for layer in shares if layer in longest], CATEGORIES, strict=False))
    return {layer: tint.get(layer, GREY) for layer in shares}


def _notes(found: dict, view: View) -> list[str]:
    """What the reader must know about ops that are not where they would be."""
    notes = []
    ops = sum(int((r.flops == 0).sum()) for r in found.values())
    if ops:
        most = max(float(r.total_s[r.flops == 0].sum() / r.total_s.sum()) for r in found.values())
        share = f"{'at most ' if len(found) > 1 else ''}{percent(most)} of the time"
        notes.append(f"not shown: {ops} op{'s' if ops > 1 else ''} without FLOP ({share})")
    if view.strip:
        notes.append(f"grey strip: no traffic at {view.level}")
    return ["; ".join(notes)] if notes else []


def _title(found: dict) -> str:
    if len(found) > 1:
        return comparison_title(found)
    result = next(iter(found.values()))
    trace = result.trace
    positions = f"{trace.tokens} position{'s' if trace.tokens > 1 else ''}"
    facts = f"{', '.join(dtypes(result))}, batch {trace.sequences}, {positions}"
    reached = f"{quantity(result.latency_s, 's')}, {percent(result.utilisation)} of the matrix peak"
    return f"{trace.name} on {result.accelerator.title}\n{facts}, {reached}"


def _mark_strip(ax, view: View) -> None:
    """The strip for ops without traffic at the farthest level: grey, beyond the axis' last tick."""
    if not view.strip:
        return
    from matplotlib.ticker import FixedLocator, LogLocator

    ax.axvspan(view.strip, view.right, color="#EBEBEB", linewidth=0, zorder=0.5).set_gid("strip")
    for set_locator, subs in ((ax.xaxis.set_major_locator, (1.0,)), (ax.xaxis.set_minor_locator, range(2, 10))):
        ticks = LogLocator(subs=subs, numticks=99).tick_values(view.left, view.right)
        set_locator(FixedLocator([tick for tick in ticks if tick < view.strip]))
    ax.text(
        view.x(math.inf),
        -0.012,
        "no\ntraffic",
        transform=ax.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=FONT_SIZE - 1.5,
    )


def _legends(ax, found: dict, tints: dict, layers: dict, chips: int, measured: bool) -> None:
    """Two, right of the axes: colours at the top, shapes and areas at the bottom."""
    from matplotlib.lines import Line2D

    def handle(shape, label, colour="white", area=36.0):
        return Line2D(
            [],
            [],
            linestyle="none",
            marker=shape,
            markersize=math.sqrt(area),
            markerfacecolor=colour,
            markeredgecolor=INK,
            markeredgewidth=0.5,
            label=label,
        )

    if tints:
        first = [
            handle("*", f"{number}  {shortened(label, 36)}", tints[label], 90)
            for number, label in enumerate(found, start=1)
        ]
        if chips > 1 and any(has_vector_ops(result) for result in found.values()):
            first.append(Line2D([], [], color=INK, linewidth=0.9, linestyle="-.", label="vector peaks"))
    else:
        result = next(iter(found.values()))
        shown = set(result.trace.layer[result.flops > 0].tolist())
        layers = {layer: colour for layer, colour in layers.items() if layer in shown}
        first = [handle("o", shortened(layer, 36), colour) for layer, colour in layers.items() if colour != GREY]
        rest = [layer for layer, colour in layers.items() if colour == GREY]
        if rest:
            first.append(handle("o", shortened(rest[0], 36) if len(rest) == 1 else f"{len(rest)} other layers", GREY))
    looks: dict[str, str] = {}
    for result in found.values():
        shown = set(result.bound[result.flops > 0].tolist())
        looks |= {b: shape for b, (shape, _, _) in bound_looks(result.accelerator.memory).items() if b in shown}
    second = [handle(shape, bound) for bound, shape in looks.items()]
    second.append(handle("*", "whole network", "white" if tints else INK, 90))
    if measured:
        second.append(handle("o", "measured (hollow circle)", "none"))
    largest = max(float((r.total_s / r.total_s.sum()).max()) for r in found.values())
    sizes = [share for share in (0.02, 0.1, 0.5) if share <= max(largest, 0.1)]
    second += [handle("o", f"{100 * share:.0f} % of the time", area=marker_area(share)) for share in sizes]
    common = {
        "fontsize": FONT_SIZE,
        "title_fontsize": FONT_SIZE,
        "frameon": False,
        "borderaxespad": 0.0,
        "alignment": "left",
    }
    heading = "result (colour)" if tints else "layer (colour)"
    upper = ax.legend(handles=first, title=heading, loc="upper left", bbox_to_anchor=(1.015, 1.0), **common)
    ax.add_artist(upper)
    upper.set_clip_on(False)  # else the layout takes it for clipped to the axes and leaves it no room
    heading = "bound by (shape)"
    ax.legend(handles=second, title=heading, loc="lower left", bbox_to_anchor=(1.015, 0.0), labelspacing=0.75, **common)
