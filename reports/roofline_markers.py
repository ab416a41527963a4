"""Markers of a roofline chart: one an op, a star a network, and their names."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, halo, shortened
from reports.label_places import MARKER, Page, chain, direction
from reports.palette import INK, bound_looks
from reports.roofline_view import View, network_intensity, op_intensity

#: Marker area of an op that takes all the time, and of one that takes next to none; of a network. [points^2]
WHOLE_AREA, LEAST_AREA, STAR_AREA = 900.0, 14.0, 170.0
#: At most so many ops are named on the chart, each with at least this share of the time.
MOST_LABELS, LEAST_LABELLED = 6, 0.03
#: Markers closer than this in both directions look like one.
SAME = 0.02


@dataclass(frozen=True)
class Marker:
    x: float
    y: float
    share: float
    shape: str
    colour: str
    gid: str
    op: str


def op_markers(found: dict, tint: dict[str, list[str]], view: View) -> list[Marker]:
    """One marker an op that has FLOP, named "op:label:row:bound"."""
    markers = []
    for label, result in found.items():
        share = result.total_s / result.total_s.sum()
        x, y = view.x(op_intensity(result)), result.attained_flops_per_s
        looks = bound_looks(result.accelerator.memory)
        for row in np.flatnonzero(y > 0):
            bound = str(result.bound[row])
            gid = f"op:{label}:{row}:{bound}"
            at, op = (float(x[row]), float(y[row])), str(result.trace.op[row])
            markers.append(Marker(*at, float(share[row]), looks[bound][0], tint[label][row], gid, op))
    return markers


def draw_ops(ax, rings: list[list[Marker]], alpha: float, page: Page) -> None:
    """Large rings first, and each ring from outside in, so that nothing is hidden."""
    count, rank = sum(len(ring) for ring in rings), 0
    for ring in rings:
        areas = ring_areas([marker.share for marker in ring])
        page.add_marker(ring[0].x, ring[0].y, areas[0])
        for marker, area in zip(ring, areas, strict=True):
            edge = 0.5 if len(ring) < 4 or marker is ring[0] else 0.0
            drawn = ax.scatter(
                marker.x,
                marker.y,
                s=area,
                marker=marker.shape,
                color=marker.colour,
                edgecolors=INK,
                linewidths=edge,
                alpha=alpha if len(ring) == 1 else 1.0,
                zorder=4 + rank / count,
            )
            drawn.set_gid(marker.gid)
            rank += 1


def draw_measured(ax, points, view: View, page: Page) -> None:
    """Hollow circles for measured operators (`reports.measured.MeasuredPoints`), named "measured:operator's number"."""
    places = zip(view.x(points.intensity), points.attained_flops_per_s, points.share, points.op, strict=True)
    for x, y, share, number in places:
        area = marker_area(share)
        drawn = ax.scatter(x, y, s=area, marker="o", facecolors="none", edgecolors=INK, linewidths=1.1, zorder=6.5)
        drawn.set_gid(f"measured:{number}")
        page.add_marker(x, y, area)


def marker_area(share: float) -> float:
    """Area of the marker of an op that takes `share` (0 to 1) of the time. [points^2]"""
    return max(LEAST_AREA, WHOLE_AREA * float(share))


def ring_areas(shares: list[float]) -> list[float]:
    """Areas of markers at one point, outermost first: what of each stays visible is proportional to its share.

    Small ones have a least area, so that each can be seen. [points^2]
    """
    inner = [sum(shares[i:]) for i in range(len(shares))]
    return [max(marker_area(share), LEAST_AREA + 6.0 * (len(shares) - 1 - i)) for i, share in enumerate(inner)]


def rings(markers: list[Marker]) -> list[list[Marker]]:
    """Markers of one shape that the eye cannot tell apart, together; those with most time first."""
    rings: list[list[Marker]] = []
    for marker in markers:
        for ring in rings:
            if marker.shape == ring[0].shape and _same((marker.x, marker.y), (ring[0].x, ring[0].y)):
                ring.append(marker)
                break
        else:
            rings.append([marker])
    return sorted(rings, key=lambda ring: -sum(marker.share for marker in ring))


def label_ops(ax, rings: list[list[Marker]], page: Page) -> None:
    """The names of the ops that take most time, where there is room beside their markers.

    Markers that overlap share one label, at the largest of them.
    """
    size = LABEL_SIZE - 0.5
    groups: list[list[Marker]] = []
    discs: list[tuple[float, float, float]] = []
    for ring in rings:
        px, py = page.place(ring[0].x, ring[0].y)
        radius = math.sqrt(ring_areas([marker.share for marker in ring])[0] / math.pi) / 72
        near = [i for i, (x, y, r) in enumerate(discs) if math.hypot(px - x, py - y) < radius + r]
        if near:
            groups[near[0]].extend(ring)
        else:
            groups.append(list(ring))
            discs.append((px, py, radius))
    ranked = sorted(range(len(groups)), key=lambda i: -sum(marker.share for marker in groups[i]))
    for i in ranked[:MOST_LABELS]:
        if sum(marker.share for marker in groups[i]) < LEAST_LABELLED:
            break
        radius, first = discs[i][2], groups[i][0]
        names = list(dict.fromkeys(marker.op for marker in sorted(groups[i], key=lambda marker: -marker.share)))
        text = shortened(names[0], 40) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        # it must hide neither a marker nor another label
        label = _place_text(ax, text, first.x, first.y, radius, size, page, most=MARKER, color="#444444", zorder=6)
        if label is not None:
            label.set_gid(f"name:{text}")


def _same(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return max(abs(math.log(a[0] / b[0])), abs(math.log(a[1] / b[1]))) < SAME


def draw_stars(ax, found: dict, tints: dict, view: View, page: Page) -> None:
    """A star for each whole network, with its number in the legend where there are several."""
    groups: list[tuple[tuple[float, float], list[tuple[str, int]]]] = []  # equal stars stand inside one another
    for number, (label, result) in enumerate(found.items(), start=1):
        if result.attained <= 0:
            continue
        at = (float(view.x(np.asarray(network_intensity(result)))), float(result.attained))
        for place, members in groups:
            if _same(at, place):
                members.append((label, number))
                break
        else:
            groups.append((at, [(label, number)]))
    for (x, y), members in groups:
        areas = [STAR_AREA * (1 + 0.7 * inside) for inside in range(len(members) - 1, -1, -1)]
        page.add_marker(x, y, 0.6 * areas[0])
        for rank, ((label, _), area) in enumerate(zip(members, areas, strict=True)):
            star = ax.scatter(
                x,
                y,
                s=area,
                marker="*",
                color=tints.get(label, INK),
                edgecolors="black" if tints else "white",
                linewidths=0.9,
                zorder=7 + rank / len(found),
            )
            star.set_gid(f"network:{label}")
    if not tints:
        return
    for (x, y), members in groups:
        _place_text(
            ax,
            ", ".join(str(number) for _, number in members),
            x,
            y,
            0.07,
            FONT_SIZE,
            page,
            fontweight="bold",
            color=INK,
            zorder=8.5,
        )


def _place_text(ax, text: str, x: float, y: float, radius: float, size: float, page: Page, most=math.inf, **style):
    """Text beside a marker of `radius` inches, where it covers least; further off with a thin line to its marker.

    None where it would cover `most` or more (see `Page.best`).
    """
    px, py = page.place(x, y)
    low, places = -0.4 * size / 72, []
    for reach in (radius + 0.04, radius + 0.12, radius + 0.24, radius + 0.4):
        for angle in (0, 180, 40, 140, -40, -140, 75, 105, -75, -105):
            dx, dy = reach * direction(angle)
            places.append((dx, dy + low))
    chains = [chain(px + dx, py + dy, text, size, flush="left" if dx > 0 else "right") for dx, dy in places]
    chosen, covered = page.best(chains)
    if covered >= most:
        return None
    page.add_label(chains[chosen])
    dx, dy = places[chosen]
    leader = {"arrowstyle": "-", "linewidth": 0.5, "color": "#666666", "shrinkA": 0, "shrinkB": 0}
    far = math.hypot(dx, dy - low) > radius + 0.1
    return ax.annotate(
        text,
        (x, y),
        (72 * dx, 72 * dy),
        textcoords="offset points",
        fontsize=size,
        va="baseline",
        ha="left" if dx > 0 else "right",
        path_effects=halo(),
        arrowprops=leader if far else None,
        **style,
    )
