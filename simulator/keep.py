"""What a sweep keeps of its designs: all, the best, or the Pareto front. Reduced where it is computed.

Every reduction gives the same rows whatever the order and grouping in which chunks arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.metrics import DesignSpaceError
from simulator.pareto import candidates, pareto_front

KEEPS = ("all", "best", "pareto")
#: Rows that wait, at least, before they are reduced together.
_WAITING = 100_000
#: Bytes of a table that keeps every design.
MOST_BYTES = 2**29


@dataclass(frozen=True)
class Table:
    """Rows of designs: their numbers, and columns of metrics."""

    ids: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __len__(self):
        return len(self.ids)

    def rows(self, which) -> Table:
        """The rows picked by an index or mask."""
        return Table(self.ids[which], {name: column[which] for name, column in self.columns.items()})

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """The rows of several tables, one after another."""
        tables = [table for table in tables if len(table)] or tables[:1]
        if len(tables) == 1:
            return tables[0]
        ids = np.concatenate([table.ids for table in tables])
        return cls(ids, {n: np.concatenate([t.columns[n] for t in tables]) for n in tables[0].columns})


@dataclass(frozen=True)
class Keep:
    """What to keep: `kind` is one of `KEEPS`; `by` the columns that decide, with `signs` +1 where less is better.

    "best" keeps the `limit` best by the first column, of equals those with the lowest number. "pareto" keeps the
    front of two or three columns, of equals the one with the lowest number. `limits` are (column, least, most):
    rows outside are dropped first.
    """

    kind: str
    by: tuple[str, ...]
    signs: tuple[float, ...]
    limit: int = 1
    limits: tuple[tuple[str, float, float], ...] = ()

    def reduced(self, table: Table) -> Table:
        """The rows worth keeping."""
        for name, least, most in self.limits:
            inside = (table.columns[name] >= least) & (table.columns[name] <= most)
            if not inside.all():
                table = table.rows(inside)
        if not len(table) or self.kind == "all":
            return table
        columns = [table.columns[name] for name in self.by]
        values = [column if sign > 0 else -column for column, sign in zip(columns, self.signs, strict=True)]
        if self.kind == "best":
            value = values[0]
            if len(value) > self.limit:  # a partial sort first: most rows are far from the best
                nearly = np.flatnonzero(value <= np.partition(value, self.limit - 1)[self.limit - 1])
                table, value = table.rows(nearly), value[nearly]
            order = np.lexsort((table.ids, value))
            return table.rows(order[_first_of_each(table.ids[order])][: self.limit])
        near = candidates(values)
        near = near[np.argsort(table.ids[near], kind="stable")]
        return table.rows(near[pareto_front(np.column_stack([value[near] for value in values]))])


class Kept:
    """Gathers the chunks of a sweep into one table."""

    def __init__(self, keep: Keep, names: Sequence[str]):
        self.keep = keep
        self._table = Table(np.empty(0, np.int64), {name: np.empty(0) for name in names})
        self._waiting: list[Table] = []
        self._rows = 0

    def add(self, table: Table) -> None:
        """Take the reduced rows of one more chunk."""
        if len(table):
            self._waiting.append(table)
            self._rows += len(table)
        if self._rows > max(_WAITING, len(self._table)) and self.keep.kind != "all":
            self._merge()

    def _merge(self) -> None:
        if len(self._waiting) == 1 and not len(self._table):
            self._table = self._waiting.pop()  # reduced already
        if self._waiting:
            joined = Table.joined([self._table, *self._waiting])
            self._table = joined if self.keep.kind == "all" else self.keep.reduced(joined)
        self._waiting, self._rows = [], 0

    def table(self) -> Table:
        """What is kept so far: all by number, the best first, or the front by its first metric."""
        self._merge()
        if self.keep.kind == "all" and (np.diff(self._table.ids) <= 0).any():
            order = np.argsort(self._table.ids, kind="stable")
            self._table = self._table.rows(order[_first_of_each(self._table.ids[order])])
        return self._table


def _first_of_each(ids: np.ndarray) -> np.ndarray:
    """Where a number differs from the one before: a chunk that was interrupted may have come twice."""
    return np.concatenate([[True], ids[1:] != ids[:-1]]) if len(ids) else np.empty(0, bool)


def refuse_too_large(designs: int, columns: int) -> None:
    """Raises `DesignSpaceError` where a table of every design would not fit its share of memory."""
    size = designs * 8 * (columns + 1)
    if size > MOST_BYTES:
        raise DesignSpaceError(
            f"sweep: {designs:,} designs with {columns} metrics take {size / 1e9:.3g} GB to keep: "
            "use keep='best', keep='pareto', or out= for a folder of parquet files"
        )
