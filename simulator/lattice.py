"""Designs as points of a lattice: an index along each axis. Evaluated in batches, each point once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulator.axes import Axis
from simulator.limits import Limit

#: Figures of an objective that count: smaller differences are rounding, and broken by what a design uses.
DIGITS = 10


@dataclass(frozen=True)
class Lattice:
    """The points of the axes; `index` arrays are (points, axes)."""

    axes: tuple[Axis, ...]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Candidates of each axis."""
        return np.array([len(axis) for axis in self.axes], np.int64)

    @property
    def points(self) -> int:
        """How many points there are."""
        return math.prod(self.sizes.tolist())

    def columns(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The value of each axis at each point."""
        return {axis.name: axis.at(index[:, i]) for i, axis in enumerate(self.axes)}

    def everywhere(self) -> np.ndarray:
        """Every point."""
        return np.stack(np.unravel_index(np.arange(self.points), self.sizes), axis=1)

    def spread(self, count: int, random: np.random.Generator) -> np.ndarray:
        """`count` points, evenly spread along every axis and in random company (Latin hypercube; McKay, Beckman and
        Conover, Technometrics 21(2), 1979)."""
        columns = []
        for size in self.sizes:
            share = (random.permutation(count) + random.random(count)) / count
            columns.append(np.minimum((share * size).astype(np.int64), size - 1))
        return np.stack(columns, axis=1)


class Archive:
    """Every point tried, with objective and limited metrics; `evaluate` maps an index array to columns of values.

    `sign` is +1 where less of the objective is better. At most `most` points are evaluated. `early` likewise gives the
    columns that need no simulation: points beyond a limit on one of them are tried, but not simulated until something
    asks for them; what is not known of them is nan.
    """

    def __init__(
        self,
        lattice: Lattice,
        evaluate: Callable,
        objective: str,
        sign: float,
        limits: Sequence[Limit],
        most: int,
        early: Callable | None = None,
        early_names: Sequence[str] = (),
    ):
        self.lattice, self.limits, self.sign, self.most = lattice, tuple(limits), sign, most
        self._evaluate, self._names = evaluate, [objective, *(limit.name for limit in limits)]
        self.early = early
        self.is_early = np.array([limit.name in early_names for limit in limits], bool)
        self._place: dict[bytes, int] = {}
        self._index: list[np.ndarray] = []
        self._values: list[np.ndarray] = []  # objective times sign, then the limited metrics
        self._joined: tuple[np.ndarray, np.ndarray] | None = None
        self._simulated: list[np.ndarray] = []

    def __len__(self):
        return len(self._place)

    @property
    def left(self) -> int:
        """How many more points may be evaluated."""
        return self.most - len(self)

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        if self._joined is None:
            self._joined = np.concatenate(self._index), np.concatenate(self._values)
            self._simulated = [np.concatenate(self._simulated)]
            self._index, self._values = [self._joined[0]], [self._joined[1]]
        return self._joined

    @property
    def index(self) -> np.ndarray:
        """Points tried, (tried, axes)."""
        return self._known()[0]

    @property
    def objective(self) -> np.ndarray:
        """Objective of the points tried, of which less is better, (tried,)."""
        return self._known()[1][:, 0]

    @property
    def limited(self) -> np.ndarray:
        """Limited metrics of the points tried, (tried, limits)."""
        return self._known()[1][:, 1:]

    @property
    def simulated(self) -> np.ndarray:
        """Which of the points tried were simulated, (tried,)."""
        self._known()
        return self._simulated[0]

    def visit(self, index: np.ndarray) -> np.ndarray:
        """Places in the archive of points, which are evaluated where they are new; those beyond `most` are left out."""
        index = np.ascontiguousarray(index, np.int64)
        keys = [row.tobytes() for row in index]
        fresh: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            if key not in self._place and key not in fresh and len(fresh) < self.left:
                fresh[key] = position
        if fresh:
            rows = index[list(fresh.values())]
            self._add(rows, keys=fresh)
        return np.array([self._place[key] for key in keys if key in self._place], np.int64)

    def _add(self, rows: np.ndarray, keys) -> None:
        values = np.full((len(rows), len(self._names)), np.nan)
        inside = np.ones(len(rows), bool)
        if self.is_early.any():
            columns = self.early(rows)
            for i in np.flatnonzero(self.is_early):
                values[:, 1 + i] = columns[self.limits[i].name]
                inside &= self.limits[i].excess(values[:, 1 + i]) == 0
        if inside.any():
            values[inside] = self._values_of(rows[inside])
        for key in keys:
            self._place[key] = len(self._place)
        self._index.append(rows)
        self._values.append(values)
        self._simulated.append(inside)
        self._joined = None

    def _values_of(self, rows: np.ndarray) -> np.ndarray:
        columns = self._evaluate(rows)
        return np.stack([columns[name] for name in self._names], axis=1) * [self.sign, *[1.0] * len(self.limits)]

    def simulate(self, places: np.ndarray) -> None:
        """Fill in what is not known of some places."""
        index, values = self._known()
        todo = np.unique(places[~self.simulated[places]])
        if len(todo):
            values[todo] = self._values_of(index[todo])
            self.simulated[todo] = True

    def excess(self, scale: np.ndarray | None = None) -> np.ndarray:
        """By what share each point breaks each limit, (tried, limits), nan where that is not known; `scale` widens the
        limits."""
        values = self.limited
        found = np.zeros(values.shape)
        for i, limit in enumerate(self.limits):
            found[:, i] = (limit if scale is None else widened(limit, scale[i])).excess(values[:, i])
        return found

    def ranks(self, places: np.ndarray, scale: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three figures by which points compare, less is better: how far outside the limits, the objective, and how
        much of the limits is used, which breaks ties.

        A point beyond a limit of the chip is farther outside than any other, and by those limits alone, whether or
        not it was simulated; one within them is.
        """
        limits = [one if scale is None else widened(one, scale[i]) for i, one in enumerate(self.limits)]
        early = self._outside(places, limits, self.is_early)
        self.simulate(places[early == 0])
        late = np.where(early == 0, self._outside(places, limits, ~self.is_early), 0.0)
        outside = np.where(early == 0, late / (1.0 + late), 1.0 + early)
        used, values = np.zeros(len(places)), self.limited[places]
        for i, one in enumerate(limits):
            if np.isfinite(one.most) and one.most > 0:
                used += np.where(np.isnan(values[:, i]), 0.0, values[:, i] / one.most)
        objective = np.where(early == 0, self.objective[places], np.inf)
        return outside, rounded(objective), rounded(used)

    def outside(self, place: int) -> bool:
        """Whether a place breaks a limit."""
        return bool(self.ranks(np.array([place]))[0][0] > 0)

    def _outside(self, places: np.ndarray, limits: Sequence[Limit], which: np.ndarray) -> np.ndarray:
        values, found = self.limited[places], np.zeros(len(places))
        for i in np.flatnonzero(which):
            found += limits[i].excess(values[:, i])
        return found

    def best(self, places: np.ndarray | None = None, scale: np.ndarray | None = None) -> int:
        """The best place of some, of all tried when None."""
        places = np.arange(len(self)) if places is None else places
        outside, objective, used = self.ranks(places, scale)
        order = np.lexsort((*self.lattice_key(places), used, objective, outside))
        return int(places[order[0]])

    def better(self, one: int, other: int, scale: np.ndarray | None = None) -> bool:
        """Whether one place is strictly better than another."""
        first, second = zip(*self.ranks(np.array([one, other]), scale), strict=True)
        return first < second

    def lattice_key(self, places: np.ndarray) -> tuple[np.ndarray, ...]:
        """Breaks what ties are left by position, so that the order of evaluation does not show."""
        return tuple(self.index[places].T)


def rounded(values: np.ndarray) -> np.ndarray:
    """Values to the figures that count."""
    values = np.asarray(values, float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(values))) - DIGITS + 1)
        return np.where((values != 0) & np.isfinite(values), np.round(values / unit) * unit, values)


def widened(limit: Limit, scale: float) -> Limit:
    """A limit with its room grown by a share: 1.05 lets 5 % more."""
    if scale == 1.0:
        return limit
    most = limit.most * scale if limit.most > 0 else limit.most / scale
    least = limit.least / scale if limit.least > 0 else limit.least * scale
    return Limit(limit.measure, least, most)
