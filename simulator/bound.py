"""A bound on what any design of a space can reach: branch and bound on boxes of the lattice.

More bandwidth, capacity, clock or units never slows a network, less latency never does, so in a box of designs the
corner with most of everything bounds the speed of all. What a box costs is read from a table of every design, which
needs no simulation; where there are too many, the corner with least of everything bounds area and edge alone: power and
price also fall with more hardware (smaller banks and shorter wires, two small dies for one at the reticle), so they
rule out no box then, and the bound is valid but looser. Ref.: Land and Doig, Econometrica 28(3), 1960.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simulator.accelerator import Accelerator
from simulator.axes import Axis
from simulator.lattice import Archive
from simulator.limits import Limit
from simulator.metrics import METRICS, Metric

#: Metrics that are the time of the networks, or work over it.
OF_TIME = ("latency_s", "critical_path_s", "tokens_per_s", "sequences_per_s", "attained_flops_per_s")
#: Metrics of the chip that more hardware never lowers, and what does all the same: products that move to more vector
#: lanes leave the matrix units.
OF_COST = ("area_mm2", "shoreline_mm")
_SHRINKING = {"area_mm2": ("vector.count", "vector.flops_per_cycle"), "shoreline_mm": ()}
#: Spaces up to this size have what each design costs in a table.
TABULATED = 2**19
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
    "vector.dependent_cycles",
    "in_memory.command_s",
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


#: What is known without a bound.
UNKNOWN = Bound(-np.inf, False)


def is_monotone(accelerator: Accelerator, axes: Sequence[Axis]) -> bool:
    """Whether more of anything never slows a network. Not so where a memory computes and ops run side by side: a
    quicker part may draw an op to where others wait."""
    at_once = [axis.values for axis in axes if axis.name == "abilities.concurrent_ops"]
    return accelerator.in_memory is None or bool(np.max(at_once or accelerator.abilities.concurrent_ops) == 1)


def bound(archive: Archive, objective: Metric) -> Bound:
    """Bounds the objective over all designs within the limits, with the evaluations the archive has left.

    What better designs it meets are in the archive. A limit that is neither of time nor of the chip cannot rule a box
    out, only a single design; an objective that is not of time (energy, price, a user's own), or is to be made worse,
    is not bounded. Holds for machines that `is_monotone`.
    """
    directions = np.array([direction(axis) for axis in archive.lattice.axes])
    if not _is_one_of(objective, OF_TIME) or objective.sign != archive.sign:
        return UNKNOWN
    return _Boxes(archive, directions, archive.most).run()


def _is_one_of(metric: Metric, names: tuple[str, ...]) -> bool:
    """Whether it is the table's metric of one of the names, not a user's own of that name."""
    return metric.name in names and metric == METRICS[metric.name]


def _falls_with_speed(limit: Limit) -> bool:
    """Whether the fastest corner of a box breaks a limit only if all of the box does."""
    metric = limit.measure.metric
    open_end = limit.least == -np.inf if metric.better == "less" else limit.most == np.inf
    return _is_one_of(metric, OF_TIME) and open_end


class _Boxes:
    def __init__(self, archive: Archive, directions: np.ndarray, most: int):
        self.archive, self.directions, self.most = archive, directions, most
        self.of_time = np.array([_falls_with_speed(limit) for limit in archive.limits], bool)
        self.tables = self._tables()
        of_cost = [i not in self.tables and self._rises_with_cost(limit) for i, limit in enumerate(archive.limits)]
        self.of_cost = np.array(of_cost, bool)
        self.queue: list[tuple[float, int, np.ndarray, np.ndarray]] = []
        self.count = 0

    def _rises_with_cost(self, limit: Limit) -> bool:
        """Whether the cheapest corner of a box breaks a limit only if all of the box does."""
        if limit.least > -np.inf:
            return False
        axes = self.archive.lattice.axes
        if _is_one_of(limit.measure.metric, OF_COST):
            return not any(axis.name in _SHRINKING[limit.name] and len(axis) > 1 for axis in axes)
        known = [(axis, d) for axis, d in zip(axes, self.directions, strict=True) if axis.name == limit.name]
        return any(d and (axis.values[-1] > axis.values[0]) == (d > 0) for axis, d in known)

    def _tables(self) -> dict[int, np.ndarray]:
        """Excess over each limit on the chip of every design, by number of the limit; none where there are too many."""
        archive, lattice = self.archive, self.archive.lattice
        early = np.flatnonzero(archive.is_early)
        if not len(early) or lattice.points > TABULATED:
            return {}
        columns = archive.early(lattice.everywhere())
        limits = {i: archive.limits[i] for i in early.tolist()}
        return {i: limit.excess(columns[limit.name]).reshape(lattice.sizes) for i, limit in limits.items()}

    def _too_dear(self, low: np.ndarray, high: np.ndarray) -> bool:
        """Whether every design of a box breaks one limit on the chip."""
        box = tuple(slice(lo, hi + 1) for lo, hi in zip(low, high, strict=True))
        return any(table[box].min() > 0 for table in self.tables.values())

    def run(self) -> Bound:
        sizes = self.archive.lattice.sizes
        self._add(np.zeros((1, len(sizes)), np.int64), sizes[None] - 1)
        while self.queue:
            taken = [heapq.heappop(self.queue) for _ in range(min(_TOGETHER, len(self.queue)))]
            best, near = self._best()
            open_ = [box for box in taken if box[0] < near]
            if not open_:
                return Bound(near, np.isfinite(best))
            if len(self.archive) + 4 * len(open_) > self.most:
                return Bound(min(best, taken[0][0]), False)
            low, high = (np.concatenate(parts) for parts in zip(*(self._split(*box[2:]) for box in open_), strict=True))
            self._add(low, high)
        best, near = self._best()
        return Bound(near, np.isfinite(best))

    def _best(self) -> tuple[float, float]:
        """Objective of the best found, inf where none keeps the limits; and from where on a box is not worth it."""
        archive = self.archive
        inside = (archive.excess() == 0).all(axis=1)
        best = float(archive.objective[inside].min()) if inside.any() else np.inf
        return best, best - NEAR * abs(best) if np.isfinite(best) else best

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
        keeps = np.array([not self._too_dear(lo, hi) for lo, hi in zip(low, high, strict=True)], bool)
        low, high = low[keeps], high[keeps]
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
        archive.simulate(fast)
        excess = archive.excess()
        single = (low == high).all(axis=1)
        fails = (excess[fast][:, self.of_time] > 0).any(axis=1) | (excess[cheap][:, self.of_cost] > 0).any(axis=1)
        reached = (excess[fast] == 0).all(axis=1)  # the best corner keeps the limits: nothing in the box beats it
        for i in np.flatnonzero(~fails & ~single & ~reached):
            self._push(float(archive.objective[fast[i]]), low[i], high[i])

    def _push(self, value: float, low: np.ndarray, high: np.ndarray) -> None:
        self.count += 1
        heapq.heappush(self.queue, (value, self.count, low, high))
