"""tune(traces, accelerator, space): the best design of a space within limits, with the reason to believe it.

Coarse samples everywhere, local search from the best of them, kicks away from what was found, then a bound on what
any design could reach. Deterministic: the same seed gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from simulator import feasible
from simulator.accelerator import Accelerator
from simulator.axes import BATCH, axes_of
from simulator.bound import UNKNOWN, bound, is_monotone
from simulator.designs import Block, blocks_of
from simulator.lattice import Archive, Lattice, rounded, widened
from simulator.limits import Limit, limits_of
from simulator.metrics import DesignSpaceError, one_design
from simulator.mix import Measure, Mix, Part, longest, measure, measured, mix
from simulator.search import descend, kicked, starts
from simulator.sweep import CHUNK_OPS, LEAST_CHUNK, MOST_CHUNK, batches_of

#: Spaces up to this size are enumerated; of larger ones this share is evaluated, within these numbers.
ENUMERATED, SHARE, FEWEST, MOST = 2_000, 0.045, 1_000, 20_000
#: Shares of the evaluations after which sampling, searches from samples, kicks, the bound and more kicks end; the rest
#: prices the limits.
SAMPLED, STARTED, SEARCHED, BOUNDED, RESUMED = 0.15, 0.4, 0.72, 0.82, 0.9
#: Local searches from samples, and kicks in vain after which the search rests.
STARTS, VAIN = 8, 24
#: By how much a limit is widened to price it: the first that gains anything.
ROOM = (1.01, 1.05, 1.1, 1.25, 2.0)
#: Two searches agree where their objectives differ by less.
AGREE = 1e-3


@dataclass(frozen=True)
class Budget:
    """One limit at the best design: the metric's `value`, whether it binds, and what more of it would bring.

    `shadow_price` is the gain of the objective per unit by which the limit is widened, found by searching with
    `widened_by` (a share) more; 0 where widening brings nothing.
    """

    limit: Limit
    value: float
    binds: bool
    shadow_price: float
    widened_by: float

    @property
    def name(self) -> str:
        return self.limit.name


@dataclass(frozen=True)
class Evidence:
    """Why the best design found should be near the optimum.

    `enumerated`: every design was tried. `agreeing` of `searches` local searches from samples far apart ended within
    0.1 % of the best; `kicks` searches from somewhere near the best found nothing better. `local_optimum`: every
    neighbour of it was tried, along each axis and each pair. `bound`: no design within the limits can have a better
    objective, None where the model proves nothing (see `simulator.bound`); `gap` how far from it the best is, as a
    share.
    """

    enumerated: bool
    searches: int
    agreeing: int
    kicks: int
    local_optimum: bool
    bound: float | None
    gap: float | None


@dataclass(frozen=True, eq=False)
class Tuned:
    """The best designs, best first, as rows of parameters and metrics; `accelerator` is that of the first.

    `tried` of `designs` were evaluated, `simulated` of those: the others break a limit on the chip alone. `points`
    holds the objective and the limited metrics of each tried, in the order in which they were, nan where not simulated.
    """

    accelerator: Accelerator
    objective: str
    maximised: bool
    value: float
    best: tuple[Mapping[str, object], ...] = field(repr=False)
    budgets: tuple[Budget, ...] = field(repr=False)
    evidence: Evidence = field(repr=False)
    tried: int
    simulated: int
    designs: int
    mix: Mix = field(repr=False)
    points: Mapping[str, np.ndarray] = field(repr=False)

    def traces(self) -> tuple[Part, ...]:
        """Name, trace and weight of each network at the best batch."""
        batch = self.best[0].get(BATCH)
        return self.mix.at(None if batch is None else int(batch))

    @property
    def binding(self) -> tuple[str, ...]:
        """Names of the limits that hold the best design back, the dearest first by gain per share of the limit."""
        ends = {b: b.limit.most if np.isfinite(b.limit.most) else b.limit.least for b in self.budgets}
        order = sorted((b for b in self.budgets if b.binds), key=lambda b: -b.shadow_price * abs(ends[b]))
        return tuple(budget.name for budget in order)

    def to_frame(self):
        """The best designs as a `pandas.DataFrame`."""
        import pandas as pd

        return pd.DataFrame(list(self.best))

    def __repr__(self):
        held = f", held back by {', '.join(self.binding)}" if self.binding else ""
        return (
            f"Tuned({self.accelerator.name!r}: {self.objective} {self.value:.4g}{held}; "
            f"{self.tried:,} of {_counted(self.designs)} designs tried)"
        )

    def _repr_html_(self):
        return self.to_frame()._repr_html_()


def _counted(designs: int) -> str:
    return f"{designs:,}" if designs < 10**9 else f"{float(designs):.2g}"


def tune(
    traces,
    accelerator: Accelerator,
    space: Mapping[str, object],
    *,
    maximise=None,
    minimise=None,
    subject_to: Mapping | None = None,
    seed: int = 0,
    evaluations: int | None = None,
    top: int = 10,
) -> Tuned:
    """The best design of a space within limits.

    `traces`: see `simulator.sweep.sweep`. `space` maps fields to candidates that rise or fall, choices, or a
    `LogRange`; `batch` too where a network is a function of it. `maximise` or `minimise` is a metric, or a function
    of a `Result`. `subject_to` maps metrics and fields to limits, see `limits_of`; "batch" there, a range or the most
    there may be, is an axis like any other. `evaluations`: at most so many designs are tried; by default all of a
    small space, under 5 % of a large one. `top`: how many of the best are returned.

    Limits on the chip alone (area, peak power, price, edge, a field) are checked first: designs beyond them are not
    simulated, but for those that bound what others can reach, or that a wider limit would let in.

    Raises `DesignSpaceError` where no design tried keeps the limits, naming the limit broken and by how much (the
    nearest design is the error's `nearest`), and for arguments that make no sense; `AcceleratorError` for an unknown
    field or a value out of range.
    """
    one_design(accelerator, "tune")
    networks = mix(traces, "tune")
    space, subject_to = _with_batch(space, subject_to)
    lattice = Lattice(axes_of(accelerator, space, "tune"))
    batches = batches_of(lattice.axes, networks, "tune")
    goal, sign = _goal(maximise, minimise, networks, accelerator)
    limits = limits_of(subject_to, networks, accelerator, "tune")
    for name, value, least in (("seed", seed, 0), ("top", top, 1), ("evaluations", evaluations, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least):
            raise DesignSpaceError(f"tune: {name} must be a whole number of {least} or more, got {value!r}")
    most = min(_evaluations(lattice.points) if evaluations is None else int(evaluations), lattice.points)
    size = int(np.clip(CHUNK_OPS // longest(networks, batches), LEAST_CHUNK, MOST_CHUNK))
    archive = archive_of(lattice, networks, accelerator, goal, sign, limits, size, most)

    searched = _searched(archive, goal, np.random.default_rng(seed), is_monotone(accelerator, lattice.axes))
    best = archive.best()
    if archive.outside(best):
        raise _infeasible(archive, best)
    order = _order(archive)[:top]
    rows = tuple(_row(archive, place, goal, sign) for place in order)
    chip = accelerator.replace({a.name: rows[0][a.name] for a in lattice.axes if a.kind != BATCH})
    value = float(archive.objective[best] * sign)
    about = (chip, goal.name, sign < 0, value, rows, searched.budgets, searched.evidence)
    points = {limit.name: archive.limited[:, i] for i, limit in enumerate(limits)}
    points |= {goal.name: archive.objective * sign}
    simulated = int(np.count_nonzero(archive.simulated))
    return Tuned(*about, len(archive), simulated, lattice.points, networks, points)


@dataclass(frozen=True)
class _Evaluate:
    """Columns of metrics for points of the lattice."""

    lattice: Lattice
    networks: Mix
    accelerator: Accelerator
    columns: tuple[Measure, ...]
    size: int

    def __call__(self, index: np.ndarray) -> dict[str, np.ndarray]:
        found = {column.name: np.empty(len(index)) for column in self.columns}
        for start in range(0, len(index), self.size):
            rows = self.lattice.columns(index[start : start + self.size])
            for block in blocks_of(self.lattice.axes, rows, start):
                for name, values in self._of(block).items():
                    found[name][block.ids] = values
        return found

    def _of(self, block: Block) -> dict[str, np.ndarray]:
        return measured(self.networks.at(block.batch), self.accelerator, block, self.columns)


class _EvaluateChip(_Evaluate):
    """Columns that need no simulation."""

    def _of(self, block: Block) -> dict[str, np.ndarray]:
        return feasible.chip_columns(self.accelerator, block, self.columns)


def archive_of(
    lattice: Lattice, networks: Mix, accelerator: Accelerator, goal: Measure, sign: float, limits, size: int, most: int
) -> Archive:
    """An empty archive, which simulates `size` designs at once and `most` in all."""
    columns = (goal, *(limit.measure for limit in limits if limit.name != goal.name))
    early = tuple(limit.measure for limit in feasible.of_chip(limits))
    evaluate = _Evaluate(lattice, networks, accelerator, columns, size)
    of_chip = _EvaluateChip(lattice, networks, accelerator, early, MOST_CHUNK)
    return Archive(lattice, evaluate, goal.name, sign, limits, most, of_chip, [column.name for column in early])


@dataclass(frozen=True)
class _Searched:
    budgets: tuple[Budget, ...]
    evidence: Evidence


def _with_batch(space, subject_to) -> tuple[Mapping, Mapping | None]:
    """The batch as an axis, wherever it was stated."""
    if not isinstance(space, Mapping):
        raise DesignSpaceError(f"tune: space must map fields to candidates, got {type(space).__name__}")
    if not isinstance(subject_to, Mapping) or BATCH not in subject_to:
        return space, subject_to
    if BATCH in space:
        raise DesignSpaceError("tune: batch is both in the space and a limit")
    rest = {name: value for name, value in subject_to.items() if name != BATCH}
    batch = subject_to[BATCH]
    return {**space, BATCH: range(1, batch + 1) if isinstance(batch, int) else batch}, rest


def _goal(maximise, minimise, networks: Mix, accelerator: Accelerator) -> tuple[Measure, float]:
    if (maximise is None) == (minimise is None):
        raise DesignSpaceError("tune: state either maximise= or minimise=, a metric")
    return measure(minimise if maximise is None else maximise, networks, accelerator), 1.0 if maximise is None else -1.0


def _evaluations(points: int) -> int:
    return points if points <= ENUMERATED else int(np.clip(SHARE * points, FEWEST, MOST))


def _searched(archive: Archive, goal: Measure, random: np.random.Generator, monotone: bool) -> _Searched:
    """Fill the archive, and say what came of it."""
    most, lattice = archive.most, archive.lattice
    if most >= lattice.points:
        archive.visit(lattice.everywhere())
        best = archive.best()
        value = float(archive.objective[best] * archive.sign)
        return _Searched(_priced(archive, best, False), Evidence(True, 0, 0, 0, True, value, 0.0))
    archive.most = max(1, int(SAMPLED * most))
    archive.visit(lattice.spread(max(1, archive.most - 2), random))
    archive.visit(_corners(lattice))
    ends, optimum = _from_samples(archive, most)
    archive.most = max(1, int(SEARCHED * most))
    kicks, optimum = _kicks(archive, optimum, 0, random)
    archive.most = max(1, int(BOUNDED * most))
    limit = bound(archive, goal.metric) if monotone else UNKNOWN
    archive.most = max(1, int(RESUMED * most))
    best = archive.best()
    if archive.better(best, optimum[0]):
        kicks, optimum = 0, descend(archive, best)
    kicks, optimum = _kicks(archive, optimum, kicks, random)
    archive.most = most
    if not optimum[1]:
        optimum = descend(archive, optimum[0], far=False)
    budgets = _priced(archive, optimum[0], True)
    best = archive.best()
    if archive.better(best, optimum[0]):
        optimum = best, False
    reached = archive.objective[np.array(ends)]
    inside = ~archive.excess()[np.array(ends)].any(axis=1)
    value = archive.objective[best]
    agreeing = int((inside & (reached <= value + AGREE * abs(value))).sum())
    known = np.isfinite(limit.value)
    gap = float(max(0.0, (value - limit.value) / abs(value))) if known and value else None
    bounded = float(min(limit.value, value) * archive.sign) if known else None
    return _Searched(budgets, Evidence(False, len(ends), agreeing, kicks, optimum[1], bounded, gap))


def _corners(lattice: Lattice) -> np.ndarray:
    """The two ends of the space: first and last candidate of every axis."""
    return np.stack([np.zeros_like(lattice.sizes), lattice.sizes - 1])


def _from_samples(archive: Archive, most: int) -> tuple[list[int], tuple[int, bool]]:
    """Where local searches from samples end; the best of them, and whether all around it was tried."""
    archive.most = max(1, int(STARTED * most))
    ends = []
    for place in starts(archive, STARTS):
        if archive.left > 0:
            ends.append(descend(archive, place, far=False)[0])
    archive.most = max(1, int(SEARCHED * most))
    best = descend(archive, archive.best(np.array(ends)) if ends else archive.best())
    return ends or [best[0]], best


def _kicks(
    archive: Archive, best: tuple[int, bool], vain: int, random: np.random.Generator
) -> tuple[int, tuple[int, bool]]:
    """How many searches from somewhere near the best were in vain, and the best after them."""
    while archive.left > 0 and vain < VAIN:
        places = archive.visit(kicked(archive, best[0], random))
        if not len(places):
            break
        end, _ = descend(archive, int(places[0]), far=False)
        vain += 1
        if archive.better(end, best[0]):
            best, vain = descend(archive, end), 0
    return vain, best


def _priced(archive: Archive, best: int, search: bool) -> tuple[Budget, ...]:
    """Each limit with what widening it alone would bring."""
    found = []
    for i, limit in enumerate(archive.limits):
        value = float(archive.limited[best, i])
        price, room = 0.0, 0.0
        for factor in ROOM:
            scale = np.ones(len(archive.limits))
            scale[i] = factor
            place = archive.best(scale=scale)
            if search and archive.left > 0:
                place, _ = descend(archive, place, scale, far=False)
            gain = float(rounded(archive.objective[best]) - rounded(archive.objective[place]))
            if gain > 0:
                wide = widened(limit, factor)
                ends = [(limit.most, wide.most), (limit.least, wide.least)]
                price = gain / max(abs(after - before) for before, after in ends if np.isfinite(before))
                room = factor - 1.0
                break
        found.append(Budget(limit, value, price > 0, price, room))
    return tuple(found)


def _order(archive: Archive) -> np.ndarray:
    """Places within the limits, best first."""
    places = np.flatnonzero(~archive.excess().any(axis=1))
    outside, objective, used = archive.ranks(places)
    return places[np.lexsort((*archive.lattice_key(places), used, objective, outside))]


def _row(archive: Archive, place: int, goal: Measure, sign: float) -> dict[str, object]:
    """Parameters and metrics of a place."""
    columns = archive.lattice.columns(archive.index[place][None])
    row = {name: column[0] for name, column in columns.items()}
    row = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    row[goal.name] = float(archive.objective[place] * sign)
    limited = zip(archive.limits, archive.limited[place], strict=True)
    return row | {limit.name: float(value) for limit, value in limited if limit.name != goal.name}


def _infeasible(archive: Archive, nearest: int) -> DesignSpaceError:
    """What no design tried keeps, and by how much the nearest one misses it."""
    archive.simulate(np.arange(len(archive)))  # what each limit alone would let through
    row = _row(archive, nearest, Measure("objective", None), archive.sign)
    missed = []
    for limit, excess, value in zip(archive.limits, archive.excess()[nearest], archive.limited[nearest], strict=True):
        if excess > 0:
            missed.append(f"{limit} is missed by {excess:.3g} of itself ({limit.name} = {value:.6g})")
    where = ", ".join(f"{a.name} = {row[a.name]:.6g}" if a.kind != "choice" else f"{a.name} = {row[a.name]}"
                      for a in archive.lattice.axes)  # fmt: skip
    alone = [limit for i, limit in enumerate(archive.limits) if (archive.excess()[:, i] > 0).all()]
    together = "" if alone else "; each limit alone can be kept, not all together"
    tried = f"{len(archive):,} tried of {_counted(archive.lattice.points)}"
    error = DesignSpaceError(
        f"tune: no design keeps the limits ({tried}): {' and '.join(missed)} at the nearest, {where}{together}"
    )
    error.nearest = row
    return error
