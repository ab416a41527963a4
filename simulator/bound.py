"""A bound on what any design of a space can reach: branch and bound on boxes of the lattice.

More bandwidth, capacity, clock or units never slows a network, less latency never does, and they never make a chip
smaller, cheaper or cooler. So in a box of designs the corner with most of everything bounds the speed of all, and the
corner with least of everything says whether any can keep the budgets. Ref.: Land and Doig, Econometrica 28(3), 1960.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from simulator.axes import Axis
from simulator.lattice import Archive
from simulator.limits import Limit
from simulator.metrics import Metric

#: Metrics that are the time of the networks, or work over it.
OF_TIME = ("latency_s", "critical_path_s", "tokens_per_s", "sequences_per_s", "attained_flops_per_s")
#: Metrics of the chip that more hardware never lowers.
OF_COST = ("area_mm2", "peak_power_w", "price_usd", "shoreline_mm")
_FASTER = (
    ".bandwidth_bytes_per_s",
    ".capacity_bytes",
    ".clock_hz",
    "sustained",
    "matrix.count",
    "vector.count",
    "vector.flops_per_cycle",
    "vector.special_per_cycle",
    "matrix.feed_bytes_per_cycle",
    "matrix.max_split",
    "abilities.concurrent_ops",
    "abilities.overlap",
)
_SLOWER = (
    ".latency_s",
    "latency.launch_s",
    "latency.step_s",
    "latency.first_steps_s",
    "matrix.load_cycles",
    "matrix.prologue_cycles",
)
#: Boxes split at once, and how near the best a box must be to be worth splitting.
_TOGETHER, NEAR = 64, 1e-4


def direction(axis: Axis) -> int:
    """+1 where a later candidate is never slower, -1 where an earlier one is, 0 where neither is known."""
    if axis.kind != "number":
        return 0
    rises = 1 if len(axis) < 2 or axis.values[1] > axis.values[0] else -1
    if axis.name.endswith(_FASTER) or axis.name.startswith("matrix.macs_per_cycle."):
        return rises
    return -rises if axis.name.endswith(_SLOWER) else 0


class Bound(NamedTuple):
    """`value`: no design is better than this (objective, less is better); `proved` where the best found is optimal
    but for `NEAR`. `value` is -inf where nothing is known."""

    value: float
    proved: bool


def bound(archive: Archive, objective: Metric) -> Bound:
    """Bounds the objective over all designs within the limits, with the evaluations the archive has left.

    What better designs it meets are in the archive. A limit that is neither of time nor of cost nor of a field cannot
    rule a box out, only a single design; an objective that is not of time, or is to be made worse, is not bounded.
    """
    directions = np.array([direction(axis) for axis in archive.lattice.axes])
    if objective.name not in OF_TIME or objective.sign != archive.sign:
        return Bound(-np.inf, False)
    return _Boxes(archive, directions, archive.most).run()


def _falls_with_speed(limit: Limit) -> bool:
    """Whether the fastest corner of a box breaks a limit only if all of the box does."""
    metric = limit.measure.metric
    open_end = limit.least == -np.inf if metric.better == "less" else limit.most == np.inf
    return metric.name in OF_TIME and open_end


class _Boxes:
    def __init__(self, archive: Archive, directions: np.ndarray, most: int):
        self.archive, self.directions, self.most = archive, directions, most
        self.of_time = np.array([_falls_with_speed(limit) for limit in archive.limits], bool)
        self.of_cost = np.array([self._rises_with_cost(limit) for limit in archive.limits], bool)
        self.queue: list[tuple[float, int, np.ndarray, np.ndarray]] = []
        self.count = 0

    def _rises_with_cost(self, limit: Limit) -> bool:
        """Whether the cheapest corner of a box breaks a limit only if all of the box does."""
        if limit.least > -np.inf:
            return False
        if limit.measure.metric.name in OF_COST:
            return True
        axes = self.archive.lattice.axes
        known = [(axis, d) for axis, d in zip(axes, self.directions, strict=True) if axis.name == limit.name]
        return any(d and (axis.values[-1] > axis.values[0]) == (d > 0) for axis, d in known)

    def run(self) -> Bound:
        sizes = self.archive.lattice.sizes
        self._add(np.zeros((1, len(sizes)), np.int64), sizes[None] - 1)
        while self.queue:
            taken = [heapq.heappop(self.queue) for _ in range(min(_TOGETHER, len(self.queue)))]
            best = self._best()
            open_ = [box for box in taken if box[0] < best - NEAR * abs(best)]
            if not open_:
                return Bound(best - NEAR * abs(best) if np.isfinite(best) else best, np.isfinite(best))
            if len(self.archive) + 4 * len(open_) > self.most:
                return Bound(min(best, taken[0][0]), False)
            low, high = (np.concatenate(parts) for parts in zip(*(self._split(*box[2:]) for box in open_), strict=True))
            self._add(low, high)
        best = self._best()
        return Bound(best - NEAR * abs(best) if np.isfinite(best) else best, np.isfinite(best))

    def _best(self) -> float:
        archive = self.archive
        inside = (archive.excess() == 0).all(axis=1)
        return float(archive.objective[inside].min()) if inside.any() else np.inf

    def _split(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two halves, across an axis nothing is known of while there is one, else across the longest."""
        span = high - low
        unknown = (self.directions == 0) & (span > 0)
        axis = int(np.where(unknown, span, 0).argmax() if unknown.any() else span.argmax())
        middle = (low[axis] + high[axis]) // 2
        lows, highs = np.stack([low, low]), np.stack([high, high])
        highs[0, axis], lows[1, axis] = middle, middle + 1
        return lows, highs

    def _add(self, low: np.ndarray, high: np.ndarray) -> None:
        """Queue boxes with what their best corner reaches, unless no design of them can keep the limits."""
        archive = self.archive
        known = ((self.directions != 0) | (low == high)).all(axis=1)
        for lo, hi in zip(low[~known], high[~known], strict=True):
            self._push(-np.inf, lo, hi)
        low, high = low[known], high[known]
        if not len(low):
            return
        up = self.directions > 0
        fast, cheap = archive.visit(np.where(up, high, low)), archive.visit(np.where(up, low, high))
        if len(fast) < len(low) or len(cheap) < len(low):  # out of evaluations: nothing is known of these
            for lo, hi in zip(low, high, strict=True):
                self._push(-np.inf, lo, hi)
            return
        excess = archive.excess()
        single = (low == high).all(axis=1)
        fails = (excess[fast][:, self.of_time] > 0).any(axis=1) | (excess[cheap][:, self.of_cost] > 0).any(axis=1)
        reached = (excess[fast] == 0).all(axis=1)  # the best corner keeps the limits: nothing in the box beats it
        for i in np.flatnonzero(~fails & ~single & ~reached):
            self._push(float(archive.objective[fast[i]]), low[i], high[i])

    def _push(self, value: float, low: np.ndarray, high: np.ndarray) -> None:
        self.count += 1
        heapq.heappush(self.queue, (value, self.count, low, high))
