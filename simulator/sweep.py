"""sweep(traces, accelerator, **axes): every design of a space, or a sample of it, as a lazy table.

The space is cut into chunks; a chunk is a function of its number, is reduced where it is computed, and never depends
on the others, so cores, processes and clusters give the same bits and a stopped sweep goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from simulator import feasible, runner
from simulator.accelerator import Accelerator
from simulator.axes import BATCH, axes_of
from simulator.designs import Block, Grid, Sample, listed
from simulator.keep import KEEPS, Keep, Kept, Table, refuse_too_large
from simulator.limits import Limit, limits_of
from simulator.metrics import DesignSpaceError, one_design
from simulator.mix import Measure, Mix, Part, identity, longest, measured, measures, mix
from simulator.progress import Progress
from simulator.sweep_files import Checkpoint, Parts, fingerprint
from simulator.unit_costs import costs
from workloads.trace import nearest

if TYPE_CHECKING:
    from concurrent.futures import Executor

#: Designs of a chunk times rows of the trace: what one call of the simulator holds at once, some 10 MB. More in a grid,
#: whose arrays are mostly smaller: what a call costs whatever its size should not count.
CHUNK_OPS, GRID_OPS = 2**16, 2**20
LEAST_CHUNK, MOST_CHUNK = 256, 2**16
#: Chunks in one parquet file.
CHUNKS_A_PART = 64


@dataclass(frozen=True, eq=False)
class Sweep:
    """The table of a sweep: metrics as columns, parameters computed when they are looked at.

    `designs` were asked for, `evaluated` of them looked at (those beyond a limit on the chip are not simulated);
    `complete` unless it was interrupted. `table` holds the rows kept.
    `sweep["latency_s"]` and `sweep["matrix.count"]` are columns.
    """

    accelerator: Accelerator
    mix: Mix = field(repr=False)
    space: object = field(repr=False)
    measures: tuple[Measure, ...] = field(repr=False)
    keep: Keep = field(repr=False)
    table: Table = field(repr=False)
    designs: int
    evaluated: int
    complete: bool
    folder: str | None = None

    def __len__(self):
        return len(self.table)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: parameters, then metrics."""
        return tuple(dict.fromkeys([*(axis.name for axis in self.space.axes), *self.table.columns]))

    def __getitem__(self, name: str) -> np.ndarray:
        """A column of the rows kept, by the name of a metric or of a field."""
        if name in self.table.columns:
            return self.table.columns[name]
        parameters = self.space.parameters(self.table.ids)
        if name not in parameters:
            with contextlib.suppress(ValueError):
                name = self.accelerator.path(name)
        if name not in parameters:
            raise DesignSpaceError(f"the sweep has no column {name!r}{nearest(name, self.columns)}")
        return parameters[name]

    def row(self, position: int) -> dict[str, object]:
        """Parameters and metrics of one row kept."""
        ids = self.table.ids[[self._checked(position)]]
        values = {name: column[0] for name, column in self.space.parameters(ids).items()}
        values |= {name: column[position] for name, column in self.table.columns.items()}
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}

    def design(self, position: int = 0) -> Accelerator:
        """The accelerator of one row kept."""
        row = self.row(position)
        return self.accelerator.replace({a.name: row[a.name] for a in self.space.axes if a.kind != BATCH})

    def traces(self, position: int = 0) -> tuple[Part, ...]:
        """Name, trace and weight of each network as run on that row."""
        batch = self.row(position).get(BATCH)
        return self.mix.at(None if batch is None else int(batch))

    def best(self, metric: str | None = None, count: int = 1) -> list[dict[str, object]]:
        """The `count` best of the rows kept by a metric (the first), as `row` gives them."""
        column = self.measures[0] if metric is None else next((m for m in self.measures if m.name == metric), None)
        if column is None:
            raise DesignSpaceError(f"the sweep has no metric {metric!r}{nearest(metric, self.table.columns)}")
        order = np.argsort(self.table.columns[column.name] * column.metric.sign, kind="stable")
        return [self.row(int(position)) for position in order[:count]]

    def to_frame(self):
        """The rows kept as a `pandas.DataFrame`: number of the design, parameters, metrics."""
        import pandas as pd

        parameters = self.space.parameters(self.table.ids)
        return pd.DataFrame({"design": self.table.ids} | parameters | dict(self.table.columns))

    def _checked(self, position: int) -> int:
        if not -len(self) <= position < len(self):
            raise DesignSpaceError(f"the sweep kept {len(self)} rows; there is no row {position}")
        return position

    def __repr__(self):
        state = "" if self.complete else f", stopped after {self.evaluated:,}"
        kept = f"in {self.folder}" if self.folder else f"{len(self):,} kept"
        return f"Sweep({self.designs:,} designs of {self.accelerator.name!r}{state}: {kept}; {', '.join(self.columns)})"

    def _repr_html_(self):
        return self.to_frame().head(20).to_html(index=False)


def sweep(
    traces,
    accelerator: Accelerator,
    /,
    *,
    metrics: Sequence = ("latency_s",),
    keep: str = "all",
    limit: int = 100,
    subject_to: Mapping | None = None,
    designs=None,
    samples: int | None = None,
    sampler: str = "random",
    seed: int = 0,
    out=None,
    checkpoint=None,
    executor: Executor | None = None,
    progress: bool | None = None,
    **axes,
) -> Sweep:
    """Metrics of every design of a space.

    `traces`: a `Trace`, a function batch -> `Trace`, or a mapping of names to (either, weight), a mix; the weight is
    how often a network runs. `axes` map fields of `accelerator` to candidates: numbers that rise or fall, or choices
    of a flag or a word; `batch=[...]` those of the functions. They span a grid; `samples` draws that many of its
    designs instead, `sampler` "random" or "sobol" (extra `sobol`), and takes a `LogRange` too. `designs` lists them
    one by one: mappings, or a table.

    `metrics`: names of `METRICS`, fields, functions of a `Result`; "NETWORK:NAME" is one network's of a mix.
    `keep`: "all"; "best", the `limit` best by the first metric; "pareto", the front of the first two or three.
    `subject_to` maps metrics to limits; what breaks one is not kept, and not simulated where the limit is on the chip
    alone (area, peak power, price, edge, a field). `out` names a folder for parquet files of all
    rows instead (extra `parquet`). With `checkpoint`, a file, a stopped sweep goes on where it stopped; what `out`
    holds is never computed again either. Memory is bounded by what is kept, whatever the number of designs.

    `executor`: any `concurrent.futures.Executor`; without one, threads on all cores. Rows are the same to the last
    bit. `progress`: True, False, or None for a bar on a terminal when it takes long. Ctrl-C ends the sweep and
    returns what is done, `complete` False.

    Raises `DesignSpaceError`, `AcceleratorError` or `TraceError` for anything that cannot be swept, before any design
    is simulated where that can be known; an error on the way leaves the checkpoint with every finished chunk, and the
    rows in the error's `partial`.
    """
    one_design(accelerator, "sweep")
    networks = mix(traces, "sweep")
    columns, limits, keeping = _asked(metrics, subject_to, keep, limit, networks, accelerator, out)
    space = _space(accelerator, networks, axes, designs, samples, sampler, seed)
    if keeping.kind == "all" and out is None:
        refuse_too_large(space.designs, len(columns))
    early = feasible.of_chip(limits)
    work = _Work(accelerator, networks, space, columns + _hidden(columns, limits), keeping, early, executor, progress)
    prints = work.fingerprint() if out or checkpoint else ""
    names = [column.name for column in work.columns]
    kept = Kept(keeping, names)
    if out:
        return work.to_parts(Parts(out, prints, CHUNKS_A_PART, space.parameters), kept)
    return work.to_table(kept, Checkpoint(checkpoint, prints, space.chunks, kept) if checkpoint else None)


def _asked(metrics, subject_to, keep, limit, networks, accelerator, out):
    """Columns, limits and what to keep, checked."""
    columns = measures(metrics, networks, accelerator)
    limits = limits_of(subject_to, networks, accelerator, "sweep")
    if keep not in KEEPS:
        raise DesignSpaceError(f"sweep: unknown keep {keep!r}{nearest(keep, KEEPS)}")
    if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1:
        raise DesignSpaceError(f"sweep: limit must be a whole number of 1 or more, got {limit!r}")
    if out and keep != "all":
        raise DesignSpaceError(f"sweep: out= writes every row; it does not go with keep={keep!r}")
    if keep == "pareto" and len(columns) < 2:
        raise DesignSpaceError(f"sweep: a Pareto front is of two or three metrics, got {columns[0].name} alone")
    by = columns[:3] if keep == "pareto" else columns[:1]
    ranges = tuple((one.name, one.least, one.most) for one in limits)
    signs = tuple(column.metric.sign for column in by)
    return columns, limits, Keep(keep, tuple(column.name for column in by), signs, int(limit), ranges)


def _hidden(columns: tuple[Measure, ...], limits: tuple[Limit, ...]) -> tuple[Measure, ...]:
    """Columns that only a limit needs; they are kept too, so that the table shows what was asked of it."""
    known = {column.name for column in columns}
    return tuple(limit.measure for limit in limits if limit.name not in known)


def _space(accelerator, networks: Mix, axes, designs, samples, sampler, seed):
    """The designs, with the batch an axis exactly where a network is a function of it."""
    if designs is not None:
        if axes or samples is not None:
            raise DesignSpaceError("sweep: designs are listed; axes and samples do not go with them")
        space = listed(accelerator, designs, LEAST_CHUNK)
    elif samples is not None:
        space = Sample(axes_of(accelerator, axes, "sweep"), samples, sampler, seed)
    else:
        space = Grid(axes_of(accelerator, axes, "sweep"), LEAST_CHUNK, list(accelerator.memory)[-1])
    batches = batches_of(space.axes, networks, "sweep")
    if samples is not None:
        return space
    most = CHUNK_OPS if designs is not None else GRID_OPS
    size = int(np.clip(most // longest(networks, batches), LEAST_CHUNK, MOST_CHUNK))
    return dataclasses.replace(space, chunk_designs=size)


def batches_of(axes, networks: Mix, what: str) -> list[int | None]:
    """Every batch of a space, [None] without such an axis. Raises `DesignSpaceError` where axis and networks differ."""
    found = next((axis for axis in axes if axis.kind == BATCH), None)
    if found is None and networks.varies:
        name = next(n for n, (source, _) in networks.given.items() if callable(source))
        raise DesignSpaceError(f"{what}: {name} is a function of the batch: give the batches to try, batch=[...]")
    if found is not None and not networks.varies:
        raise DesignSpaceError(f"{what}: batch varies, so a network must be given as a function of the batch")
    return [None] if found is None else [int(batch) for batch in found.values]


def chunk_of(
    parts_of: Mapping, accelerator: Accelerator, blocks: Sequence[Block], columns, keep: Keep, limits=()
) -> Table:
    """One chunk, simulated and reduced: what an executor runs. `parts_of` maps batches to networks.

    Designs beyond one of `limits`, which are of the chip alone, are not simulated.
    """
    tables = [Table(np.empty(0, np.int64), {column.name: np.empty(0) for column in columns})]
    for whole in blocks:
        block = feasible.kept(accelerator, whole, limits)
        if block is None:
            continue
        values = measured(parts_of[block.batch], accelerator, block, columns)
        ids = block.ids
        tables.append(Table(ids, {name: np.broadcast_to(value, ids.shape) for name, value in values.items()}))
    return keep.reduced(Table.joined(tables))


@dataclass(frozen=True)
class _Work:
    """A sweep ready to run."""

    accelerator: Accelerator
    networks: Mix
    space: object
    columns: tuple[Measure, ...]
    keep: Keep
    early: tuple[Limit, ...]  # limits on the chip alone
    executor: Executor | None
    progress: bool | None

    def arguments(self, number: int) -> tuple:
        blocks = self.space.chunk(number)
        parts_of = {block.batch: self.networks.at(block.batch) for block in blocks}
        return parts_of, self.accelerator, blocks, self.columns, self.keep, self.early

    def fingerprint(self) -> str:
        """Fingerprint: networks, accelerator and its unit costs, designs, metrics and what is kept."""
        batches = batches_of(self.space.axes, self.networks, "sweep")
        pieces = [identity(self.networks.at(batch)) for batch in batches]
        pieces += [f"{path}={value!r}".encode() for path, value in self.accelerator.fields.items()]
        silicon = (self.accelerator.family, sorted((name, np.asarray(cost).tolist()) for name, cost in costs().items()))
        pieces.append(repr(silicon).encode())
        for axis in self.space.axes:
            values = repr(axis.values).encode() if axis.kind == "choice" else axis.values.tobytes()
            pieces += [f"{axis.name} {axis.kind} {axis.continuous}".encode(), values]
        for column in getattr(self.space, "table", {}).values():
            pieces.append(repr(column.tolist()).encode())
        drawn = [getattr(self.space, name, None) for name in ("sampler", "seed")]
        about = (type(self.space).__name__, self.space.designs, self.space.chunk_designs, drawn)
        pieces += [repr((*about, [column.name for column in self.columns], self.keep)).encode()]
        return fingerprint(pieces)

    def to_table(self, kept: Kept, checkpoint: Checkpoint | None) -> Sweep:
        """Run what is not done yet and keep the rows in memory."""
        done = checkpoint.done if checkpoint else np.zeros(self.space.chunks, bool)

        def take(number: int, table: Table) -> None:
            kept.add(table)
            if checkpoint:
                checkpoint.finished(number)

        try:
            complete, evaluated = self._run(done, take)
        except BaseException as error:
            if checkpoint:
                checkpoint.save()
            error.partial = kept.table()
            raise
        if checkpoint:
            checkpoint.save()
        return self._sweep(kept.table(), evaluated, complete)

    def to_parts(self, parts: Parts, kept: Kept) -> Sweep:
        """Run what is not in a file yet and write the rows."""
        chunks = self.space.chunks
        complete, evaluated = self._run(parts.done(chunks), lambda n, table: parts.add(n, table, chunks))
        return self._sweep(kept.table(), evaluated, complete, str(parts.folder))

    def _run(self, done: np.ndarray, take) -> tuple[bool, int]:
        """Whether every chunk is done, and how many designs are."""
        chunks, designs = self.space.chunks, self.space.designs
        share = designs / chunks  # chunks differ a little in size; their number tells well enough how far it is
        before = np.count_nonzero(done)
        bar = Progress(designs, self.progress, round(before * share))

        def on_done(number: int, table: Table) -> None:
            take(number, table)
            bar.add(round(share))

        todo = np.flatnonzero(~done)
        try:
            outcome = runner.run(chunk_of, self.arguments, map(int, todo), self.executor, on_done)
        finally:
            bar.close()
        count = before + outcome.finished
        return outcome.complete, designs if count == chunks else round(count * share)

    def _sweep(self, table: Table, evaluated: int, complete: bool, folder: str | None = None) -> Sweep:
        networks = Mix(self.networks.given)
        about = (self.accelerator, networks, self.space, self.columns, self.keep, table, self.space.designs)
        return Sweep(*about, evaluated, complete, folder)
