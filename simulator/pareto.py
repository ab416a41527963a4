"""The Pareto front of two or three metrics: the designs that no other design beats in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.metrics import DIRECTIONS, DesignSpaceError
from workloads.trace import nearest

#: Points compared each with each at the bottom of the recursion in three dimensions.
_FEW = 128
#: Points drawn to find good ones, which rule most others out before the exact search.
_DRAWN = 128
#: They lie at multiples of the golden ratio: even, but in step with no axis of a grid.
_GOLDEN = 0.6180339887498949


def pareto_front(points, better: Sequence[str] | str = "less") -> np.ndarray:
    """Indexes of the points on the front, in the order of the first metric, best first.

    `points` (n, 2 or 3); `better` says of each metric whether "less" or "more" of it is. A point is on the front
    unless another is at least as good in every metric and better in one; of equal points the first is. Sorting for
    two metrics, divide and conquer for three: O(n log n) and O(n log^2 n).

    Ref.: Kung, Luccio and Preparata, On finding the maxima of a set of vectors, J. ACM 22(4), 1975. Raises
    `DesignSpaceError` for another number of metrics, an unknown direction, or a value that is not a number.
    """
    values = _signed(points, better)
    if not len(values):
        return np.empty(0, np.intp)
    order = candidates(list(values.T))
    values = values[order]
    ranks = np.lexsort(values.T[::-1])  # by the first, then the second; stable, so the first of equals leads
    order, values = order[ranks], values[ranks]
    distinct = np.concatenate([[True], (np.diff(values, axis=0) != 0).any(axis=1)])
    order, values = order[distinct], values[distinct]
    return order[_falls(values[:, 1]) if values.shape[1] == 2 else _staircases(values)]


def candidates(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Indexes, in order, of the points that may be on the front: less those that one of a few good points beats.

    `columns`: the metrics, of which less is better, each (n,). Good points are those on the front of a few drawn, the
    ones that beat most of these first.
    """
    count = len(columns[0])
    alive = np.arange(count)
    if count <= 2 * _DRAWN:
        return alive
    places = (np.arange(_DRAWN) * _GOLDEN % 1.0 * count).astype(np.intp)
    drawn = np.stack([column[places] for column in columns])
    beats = _beats(drawn[:, :, None], drawn[:, None])  # [i, j]: i beats j
    wins = beats.sum(axis=1)
    good = np.flatnonzero(~beats.any(axis=0) & (wins > 0))
    for pivot in good[np.argsort(-wins[good], kind="stable")]:
        kept = np.flatnonzero(~_beats(drawn[:, pivot], columns))
        if len(kept) < len(alive):
            alive, columns = alive[kept], [column[kept] for column in columns]
    return alive


def _beats(point, others):
    """Whether `point` is at least as good as each of the `others` in every metric, and better in one."""
    no_worse, better = True, False
    for mine, theirs in zip(point, others, strict=True):
        no_worse, better = no_worse & (mine <= theirs), better | (mine < theirs)
    return no_worse & better


def knee(points, better: Sequence[str] | str = "less") -> int:
    """Index of the point of a front farthest from the line (three metrics: plane) through its ends.

    There a little more of one metric starts to cost much of another. Metrics that are all positive are compared by
    ratio, others by difference, each scaled to the range of the front.

    Ref.: Das, On characterizing the "knee" of the Pareto curve based on normal-boundary intersection, Structural
    Optimization 18, 1999. Raises what `pareto_front` raises, and `DesignSpaceError` for no points.
    """
    values = _signed(points, better)
    if not len(values):
        raise DesignSpaceError("knee: no points")
    scaled = np.empty_like(values)
    for column, raw in enumerate(np.abs(values).T):
        by_ratio = (raw > 0).all() and (np.sign(values[:, column]) == np.sign(values[0, column])).all()
        value = np.sign(values[0, column]) * np.log(raw) if by_ratio else values[:, column]
        span = np.ptp(value)
        scaled[:, column] = (value - value.min()) / span if span else 0.0
    return int(scaled.sum(axis=1).argmin())


def _signed(points, better: Sequence[str] | str) -> np.ndarray:
    """Points as floats of which less is better."""
    values = np.asarray(points, float)
    if values.ndim != 2 or values.shape[1] not in (2, 3):
        raise DesignSpaceError(f"a Pareto front is of two or three metrics, got points of shape {values.shape}")
    better = [better] * values.shape[1] if isinstance(better, str) else list(better)
    if len(better) != values.shape[1]:
        raise DesignSpaceError(f"{values.shape[1]} metrics, but {len(better)} directions: {better}")
    for direction in better:
        if direction not in DIRECTIONS:
            raise DesignSpaceError(f"better: unknown direction {direction!r}{nearest(direction, DIRECTIONS)}")
    if np.isnan(values).any():
        raise DesignSpaceError(f"point {int(np.isnan(values).any(axis=1).argmax())} of the front is not a number")
    return values * np.where(np.array(better) == "less", 1.0, -1.0)


def _falls(values: np.ndarray) -> np.ndarray:
    """Where a value is below every one before it."""
    before = np.minimum.accumulate(values)
    return np.concatenate([[True], values[1:] < before[:-1]])


def _staircases(points: np.ndarray) -> np.ndarray:
    """Indexes of the front of distinct points in three dimensions, sorted by the first, second and third.

    A later point never beats an earlier one. An earlier one beats a later one where it is no worse in the other two.
    """
    count = len(points)
    if count <= _FEW:
        second, third = points[:, 1], points[:, 2]
        beats = (second[:, None] <= second) & (third[:, None] <= third)
        return np.flatnonzero(~np.triu(beats, 1).any(axis=0))
    half = count // 2
    first = _staircases(points[:half])
    later = half + _staircases(points[half:])
    stairs = points[first]
    order = np.lexsort((stairs[:, 2], stairs[:, 1]))
    second, lowest = stairs[order, 1], np.minimum.accumulate(stairs[order, 2])
    reached = np.searchsorted(second, points[later, 1], side="right") - 1
    beaten = (reached >= 0) & (lowest[reached] <= points[later, 2])
    return np.concatenate([first, later[~beaten]])
