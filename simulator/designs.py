"""Sets of designs to be simulated: a grid, a sample of one, or a list; cut into chunks that are never all in memory.

Designs are numbered. A chunk is a few blocks; in a block all that does not vary is a scalar, so that the simulator
computes it once. What a design is follows from its number alone.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulator.accelerator import Accelerator
from simulator.axes import BATCH, Axis, axis_of
from simulator.metrics import DesignSpaceError
from workloads.trace import nearest

SAMPLERS = ("random", "sobol")
#: Designs of a sample drawn at once. Fixed, so that a sample does not depend on the network.
SAMPLE_DESIGNS = 8192
#: Designs of a chunk of a grid that do not share the costly part of the simulation: a chunk is to end soon.
MOST_COSTLY = 2**12
#: Numbers of designs are 64-bit.
MOST_DESIGNS = 2**62


@dataclass(frozen=True)
class Block:
    """Designs simulated in one call: `changes` maps fields to a scalar or an array; arrays broadcast to the block.

    `numbers` are arrays that broadcast to the block likewise; their sum numbers its designs. `batch` is that of all
    of them, None where it does not vary.
    """

    changes: Mapping[str, object]
    numbers: tuple[np.ndarray, ...]
    batch: int | None = None

    @property
    def size(self) -> int:
        """How many designs it has."""
        return math.prod(np.broadcast_shapes(*(np.shape(number) for number in self.numbers)))

    @property
    def ids(self) -> np.ndarray:
        """Numbers of the designs, flat, in the order in which the simulator returns them."""
        return np.asarray(sum(self.numbers)).reshape(-1)


def space(accelerator: Accelerator, block: Block) -> Accelerator:
    """The accelerator whose designs are those of the block.

    What `Accelerator.replace` gives, without checking again what was checked when the axes were made: that takes
    longer than simulating a small block.
    """
    chip = _bare(accelerator)
    sections: dict[str, object] = {}
    for path, value in block.changes.items():
        section, leaf = path.rsplit(".", 1)
        if section == "matrix.macs_per_cycle":
            matrix = sections.setdefault("matrix", _bare(accelerator.matrix))
            object.__setattr__(matrix, "macs_per_cycle", {**matrix.macs_per_cycle, leaf: value})
            continue
        if section not in sections:
            level = section.removeprefix("memory.")
            own = accelerator.memory[level] if section.startswith("memory.") else getattr(accelerator, section)
            sections[section] = _bare(own)
        object.__setattr__(sections[section], leaf, value)
    levels = {level: sections.pop(f"memory.{level}", given) for level, given in accelerator.memory.items()}
    for name, section in {**sections, "memory": levels}.items():
        object.__setattr__(chip, name, section)
    object.__setattr__(chip, "fields", {**accelerator.fields, **block.changes})  # as they would be collected
    return chip


def _bare(frozen):
    """A copy of a frozen dataclass with its fields alone, nothing that was computed from them."""
    copied = object.__new__(type(frozen))
    for name in type(frozen).__dataclass_fields__:
        object.__setattr__(copied, name, getattr(frozen, name))
    return copied


@dataclass(frozen=True)
class Grid:
    """Every combination of the candidates of `axes`; numbered with the last axis running fastest.

    `farthest` names the memory level on which least of the simulation depends.
    """

    axes: tuple[Axis, ...]
    chunk_designs: int
    farthest: str = "dram"

    def __post_init__(self):
        for axis in self.axes:
            if axis.continuous:
                raise DesignSpaceError(f"sweep: {axis.name} is a range: give candidates, or ask for samples")
        if self.designs > MOST_DESIGNS:
            raise DesignSpaceError(f"sweep: {float(self.designs):.3g} designs are more than can be numbered")

    @property
    def designs(self) -> int:
        return math.prod(len(axis) for axis in self.axes)

    @cached_property
    def _strides(self) -> dict[str, int]:
        strides, stride = {}, 1
        for axis in reversed(self.axes):
            strides[axis.name] = stride
            stride *= len(axis)
        return strides

    @cached_property
    def _order(self) -> tuple[list[Axis], list[Axis]]:
        """Axes from the slowest to the fastest: those one block cannot mix, then the others by how much of the
        simulation they force to be repeated."""
        whole = [axis for axis in self.axes if axis.kind != "number"]
        return whole, sorted((axis for axis in self.axes if axis.kind == "number"), key=self._cost)

    def _cost(self, axis: Axis) -> int:
        """Rank of a field by how much of the simulation depends on it: the choice of tiling most of all."""
        if axis.name.startswith("matrix."):
            return 0
        shared = axis.name.startswith(("memory.", "abilities."))
        return 1 if shared and not axis.name.startswith(f"memory.{self.farthest}.") else 2

    @cached_property
    def _cut(self) -> tuple[int, int]:
        """Which number axis a chunk takes a slice of (those after it whole), and how many of its candidates."""
        _, axes = self._order
        tail = costly = 1
        for position in range(len(axes) - 1, -1, -1):
            size, most = len(axes[position]), self.chunk_designs // tail
            if is_costly := self._cost(axes[position]) < 2:
                most = min(most, MOST_COSTLY // costly)
            if size > most:
                return position, max(1, most)
            tail, costly = tail * size, costly * size if is_costly else costly
        return 0, len(axes[0]) if axes else 1

    @cached_property
    def _counts(self) -> list[int]:
        """How many steps a chunk's number counts along each axis, slowest first."""
        whole, axes = self._order
        position, width = self._cut
        counts = [len(axis) for axis in (*whole, *axes[:position])]
        return [*counts, -(-len(axes[position]) // width)] if axes else counts

    @property
    def chunks(self) -> int:
        return math.prod(self._counts)

    def chunk(self, number: int) -> list[Block]:
        """The block of a chunk: a box of the grid."""
        whole, axes = self._order
        position, width = self._cut
        steps = [int(i) for i in np.unravel_index(number, self._counts)]
        changes, numbers, batch = {}, [np.zeros((1,) * max(1, len(axes) - position), np.int64)], None
        for axis, step in zip((*whole, *axes[:position]), steps, strict=False):
            value = axis.values[step]
            numbers.append(np.int64(step * self._strides[axis.name]))
            if axis.kind == BATCH:
                batch = int(value)
            else:
                changes[axis.name] = value if axis.kind == "choice" else float(value)
        for dimension, axis in enumerate(axes[position:]):
            start = steps[-1] * width if dimension == 0 else 0
            index = np.arange(start, min(start + width, len(axis)) if dimension == 0 else len(axis))
            shape = [1] * (len(axes) - position)
            shape[dimension] = len(index)
            changes[axis.name] = axis.values[index].reshape(shape)
            numbers.append((index * self._strides[axis.name]).reshape(shape))
        return [Block(changes, tuple(numbers), batch)]

    def parameters(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """The value of each parameter of the designs numbered `ids`."""
        return {axis.name: axis.at((ids // self._strides[axis.name]) % len(axis)) for axis in self.axes}


class _Rows:
    """Designs given by columns of values, row by row; a chunk is a run of rows."""

    axes: tuple[Axis, ...]
    designs: int
    chunk_designs: int

    @property
    def chunks(self) -> int:
        return -(-self.designs // self.chunk_designs)

    def columns(self, chunk: int) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def chunk(self, number: int) -> list[Block]:
        """The blocks of a chunk: one for each combination of what a block cannot mix."""
        start = number * self.chunk_designs
        return blocks_of(self.axes, self.columns(number), start)

    def parameters(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """The value of each parameter of the designs numbered `ids`."""
        found = {a.name: np.empty(len(ids), object if a.kind == "choice" else float) for a in self.axes}
        chunk_of = ids // self.chunk_designs
        for chunk in np.unique(chunk_of):
            rows, columns = chunk_of == chunk, self.columns(int(chunk))
            for name, column in columns.items():
                found[name][rows] = column[ids[rows] - chunk * self.chunk_designs]
        return found


def blocks_of(axes: Sequence[Axis], columns: Mapping[str, np.ndarray], start: int = 0) -> list[Block]:
    """Rows of values as blocks, numbered from `start`: one for each combination of batch and choices."""
    ids = np.arange(start, start + len(next(iter(columns.values()))), dtype=np.int64)
    groups = {(): np.arange(len(ids))}
    whole = [axis for axis in axes if axis.kind != "number"]
    for axis in whole:
        column = columns[axis.name]
        groups = {
            (*key, value): rows[column[rows] == value]
            for key, rows in groups.items()
            for value in dict.fromkeys(column[rows].tolist())
        }
    blocks = []
    for key, rows in groups.items():
        fixed = dict(zip((axis.name for axis in whole), key, strict=True))
        batch = fixed.pop(BATCH, None)
        changes = {axis.name: columns[axis.name][rows] for axis in axes if axis.kind == "number"}
        blocks.append(Block(fixed | changes, (ids[rows],), None if batch is None else int(batch)))
    return blocks


@dataclass(frozen=True)
class Sample(_Rows):
    """`designs` designs drawn from the space of `axes`: "random", or "sobol" (low discrepancy; extra `sobol`).

    The same seed draws the same designs. Raises `DesignSpaceError` for a number below 1 or an unknown sampler, and
    where Sobol samples are asked for without scipy.
    """

    axes: tuple[Axis, ...]
    designs: int
    sampler: str
    seed: int
    chunk_designs: int = SAMPLE_DESIGNS

    def __post_init__(self):
        for name, least in (("samples", 1), ("seed", 0)):
            value = self.designs if name == "samples" else self.seed
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise DesignSpaceError(f"sweep: {name} must be a whole number of {least} or more, got {value!r}")
        if self.sampler not in SAMPLERS:
            raise DesignSpaceError(f"sweep: unknown sampler {self.sampler!r}{nearest(self.sampler, SAMPLERS)}")
        if self.sampler == "sobol":
            _qmc()

    def columns(self, chunk: int) -> dict[str, np.ndarray]:
        start = chunk * self.chunk_designs
        count = min(self.chunk_designs, self.designs - start)
        if self.sampler == "sobol":
            engine = _qmc().Sobol(len(self.axes), scramble=True, rng=self.seed)
            engine = engine.fast_forward(start) if start else engine
            cube = engine.random(self.chunk_designs)[:count]  # whole powers of two are the balanced ones
        else:
            cube = np.random.default_rng([self.seed, chunk]).random((count, len(self.axes)))
        return {axis.name: _drawn(axis, cube[:, i]) for i, axis in enumerate(self.axes)}


def _qmc():
    try:
        return importlib.import_module("scipy.stats.qmc")
    except ImportError:
        raise DesignSpaceError("sweep: Sobol samples need scipy: pip install 'rooftrace[sobol]'") from None


def _drawn(axis: Axis, share: np.ndarray) -> np.ndarray:
    """Candidates at `share` (0..1) of an axis; between them where it is continuous."""
    if axis.continuous and (np.diff(axis.values) != 1).any():
        low, high = np.log(axis.values[[0, -1]])
        return np.exp(low + share * (high - low)).clip(*axis.values[[0, -1]])
    return axis.at((share * len(axis)).astype(np.int64))


@dataclass(frozen=True)
class Listed(_Rows):
    """Designs one by one, as columns of values."""

    axes: tuple[Axis, ...]
    table: Mapping[str, np.ndarray]
    chunk_designs: int

    @property
    def designs(self) -> int:
        return len(next(iter(self.table.values())))

    def columns(self, chunk: int) -> dict[str, np.ndarray]:
        rows = slice(chunk * self.chunk_designs, (chunk + 1) * self.chunk_designs)
        return {name: column[rows] for name, column in self.table.items()}


def listed(accelerator: Accelerator, given, chunk_designs: int) -> Listed:
    """Designs from a list of mappings, a mapping of columns, or a frame.

    Raises `DesignSpaceError` for none, for columns of different lengths, and for a design that leaves out what
    another states; for values, see `axes_of`, but they may come in any order.
    """
    columns = _columns(given)
    axes, table = [], {}
    for name, values in columns.items():
        kind = axis_of(accelerator, name, list(dict.fromkeys(_sorted(values))), "sweep: designs")
        column = np.array(values, object if kind.kind == "choice" else float)
        axes.append(kind)
        table[kind.name] = column
    if len(table) != len(columns):
        raise DesignSpaceError("sweep: designs: a field is named twice")
    return Listed(tuple(axes), table, chunk_designs)


def _columns(given) -> dict[str, list]:
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # a frame
        given = {str(name): given[name].tolist() for name in given.columns}
    if isinstance(given, Mapping):
        columns = {name: list(values) for name, values in given.items()}
    else:
        rows = list(given) if hasattr(given, "__iter__") else []
        if not rows or not all(isinstance(row, Mapping) for row in rows):
            raise DesignSpaceError(f"sweep: designs must be a list of mappings or a table, got {given!r}")
        for number, row in enumerate(rows):
            for name in {**rows[0], **row}:
                if name not in row or name not in rows[0]:
                    raise DesignSpaceError(f"sweep: designs: design {number} and design 0 differ in stating {name!r}")
        columns = {name: [row[name] for row in rows] for name in rows[0]}
    lengths = {name: len(column) for name, column in columns.items()}
    if not columns or not all(lengths.values()):
        raise DesignSpaceError("sweep: designs: none given")
    if len(set(lengths.values())) > 1:
        raise DesignSpaceError(f"sweep: designs: columns of different lengths: {lengths}")
    return columns


def _sorted(values: list) -> list:
    """Values in rising order where they are numbers that can be compared."""
    numbers = all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) and v == v for v in values)
    return sorted(values) if numbers else values
