"""The accelerator: a frozen, validated description of a chip, every number of a preset with its source.

Any numeric field may be a scalar or an array of candidates: a design space is an accelerator whose
fields are arrays. SI units, in the field's name; fields are addressed by dotted path
("memory.dram.bandwidth_bytes_per_s"; the unit may be left out: "memory.dram.bandwidth").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from simulator.boxes import compact
from simulator.silicon import Silicon, of_shape
from workloads.trace import ELEMENT_BYTES, nearest

FAMILIES = ("gpu", "systolic", "cpu", "spatial")
DATAFLOWS = ("output-stationary", "weight-stationary")
SCOPES = ("unit", "chip")
#: What a memory level is made of: banks on the die, banks with tags and slices, or devices beside it.
TECHNOLOGIES = (
    *("sram", "cache", "hbm", "hbm2", "hbm2e", "hbm3", "hbm3e", "gddr5", "gddr5x", "gddr6"),
    *("lpddr4", "lpddr5", "ddr3", "ddr4", "ddr5"),
)
BASES = ("vendor peak", "vendor", "measured", "derived", "estimated", "assumed")
BOUNDS_BESIDE_MEMORY = ("matrix", "feed", "vector", "special", "link", "in_memory", "latency")
#: Sections that a chip may lack.
OPTIONAL_SECTIONS = ("link", "in_memory")
UNIT_SUFFIXES = (
    "_bytes_per_s",
    "_bytes_per_cycle",
    "_j_per_byte",
    "_flops_per_cycle",
    "_per_cycle",
    "_bytes",
    "_cycles",
    "_hz",
    "_mm2",
    "_usd",
    "_nm",
    "_w",
    "_s",
)


class AcceleratorError(ValueError):
    """An accelerator that cannot be used: the message names file, field and value."""


_POSITIVE = {"least": None, "above": 0, "most": None, "whole": False, "optional": False}


def _number(meaning, default=dataclasses.MISSING, *, least=None, above=None, most=None, whole=False, optional=False):
    """A numeric field with its meaning and range; `optional` ones may be None (unknown)."""
    rule = {"least": least, "above": above, "most": most, "whole": whole, "optional": optional}
    return field(default=default, metadata={"meaning": meaning, "rule": rule})


def _choice(meaning, choices, default):
    """One of `choices`; None (unstated) too where that is the default."""
    return field(
        default=default, metadata={"meaning": meaning, "choices": choices, "rule": {"optional": default is None}}
    )


def _flag(meaning, default):
    return field(default=default, metadata={"meaning": meaning, "flag": True})


def _text(meaning):
    """A name that only the whole accelerator can check; None: unstated."""
    return field(default=None, metadata={"meaning": meaning, "text": True, "rule": {"optional": True}})


def _table(meaning):
    """One positive number for each element type."""
    return field(metadata={"meaning": meaning, "table": True})


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixUnits:
    """The units that run matrix products.

    output-stationary (GPUs, CPUs): a unit computes one block of the result, a small multiple of the
    native tile `tile_m` x `tile_n` (or `thin_tile` rows or columns of a wide one), over all of k; blocks run in
    waves over the units.
    weight-stationary (systolic arrays): a unit holds a `tile_k` x `tile_n` tile of weights and streams
    the m rows past it.
    """

    count: object = _number("units", above=0, whole=True)
    clock_hz: object = _number("clock under matrix load", above=0)
    macs_per_cycle: object = _table("multiply-accumulates per cycle and unit, dense, by element type")
    tile_m: object = _number("native tile: rows of the result", 32, above=0, whole=True)
    tile_n: object = _number("native tile: columns of the result", 32, above=0, whole=True)
    tile_k: object = _number("native tile: terms summed", 16, above=0, whole=True)
    thin_tile: object = _number("rows or columns of a block in the kernels for thin products", 8, above=0, whole=True)
    fragment_m: object = _number(
        "rows of the result a unit holds while it reads operands from its private memory (none: tile_m)",
        None,
        above=0,
        whole=True,
        optional=True,
    )
    fragment_n: object = _number("columns likewise (none: tile_n)", None, above=0, whole=True, optional=True)
    dataflow: object = _choice("what stays in the unit", DATAFLOWS, "output-stationary")
    batched_tile: object = _number(
        "smallest side of a block in the kernels for products of a batch", 1, above=0, whole=True
    )
    operand_macs: object = _number(
        "multiply-accumulates that could issue in the time it takes to load one operand element", 0.0, least=0
    )
    feed_bytes_per_cycle: object = _number("operand bytes one unit can take in per cycle", 64.0, above=0)
    loop_cycles_per_byte: object = _number(
        "cycles a block that runs alone waits for each byte of k of an operand row", 0.0, least=0
    )
    narrow_loop_cycles_per_byte: object = _number(
        "the same for elements of less than four bytes, whose kernels fetch several stages ahead "
        "(none: loop_cycles_per_byte)",
        None,
        least=0,
        optional=True,
    )
    resident_results: object = _number(
        "result elements of blocks that are in one unit together and hide each other's waits (at least one block)",
        0.0,
        least=0,
    )
    reach_bytes: object = _number(
        "memory one unit addresses without a walk of the page table (none: walks cost nothing)",
        None,
        above=0,
        optional=True,
    )
    reach_cost: object = _number("what a block far beyond that reach takes longer, relative", 0.0, least=0)
    split_cycles: object = _number("cycles to sum the parts of a product whose k terms were shared", 0.0, least=0)
    load_cycles: object = _number(
        "weight-stationary: cycles to put the next weight tile in place, hidden behind the current one", 0.0, least=0
    )
    prologue_cycles: object = _number("cycles to fill and empty the pipeline, per block or product", 0.0, least=0)
    max_split: object = _number(
        "largest number of units that may share one result block (split-k)", 16, least=1, whole=True
    )
    sustained: object = _number("share of the peak a long product reaches", 1.0, above=0, most=1)
    attention_sustained: object = _number(
        "the same of fused attention, whose softmax runs between its products (none: sustained)",
        None,
        above=0,
        most=1,
        optional=True,
    )
    stores_padded_tiles: object = _flag("weight-stationary: weights are kept in memory as whole padded tiles", False)


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorUnits:
    """The units that run everything that is not a product."""

    count: object = _number("units", above=0, whole=True)
    clock_hz: object = _number("clock", above=0)
    flops_per_cycle: object = _number("additions and multiplications per cycle and unit", above=0)
    special_per_cycle: object = _number("transcendental evaluations per cycle and unit", above=0)
    dependent_cycles: object = _number(
        "cycles from one operation to the next that needs its result: what a step of a fused scan waits", 4.0, least=0
    )
    register_bytes: object = _number("register file of one unit (none: its family's)", None, least=0, optional=True)
    sustained: object = _number("share of the peak a long op reaches", 1.0, above=0, most=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryLevel:
    """One level of memory; an accelerator lists them from the nearest to the farthest."""

    capacity_bytes: object = _number("capacity, all units together", above=0)
    bandwidth_bytes_per_s: object = _number("bandwidth, all units together, reads and writes", above=0)
    sustained: object = _number("share of the bandwidth a long stream reaches", 1.0, above=0, most=1)
    latency_s: object = _number("time until the first byte arrives", 0.0, least=0)
    energy_j_per_byte: object = _number(
        "energy to move a byte (none: derived from technology, capacity and node)", None, above=0, optional=True
    )
    technology: object = _choice(
        "what it is made of (none: on the die, but the farthest level is what its family usually has)",
        TECHNOLOGIES,
        None,
    )
    interface_bytes_per_s: object = _number(
        "bandwidth of one stack, device or channel (none: the best of its technology)", None, above=0, optional=True
    )
    scope: object = _choice("private to each matrix unit, or shared by the chip", SCOPES, "chip")
    keeps_weights: object = _flag("weights of a recurrence may stay here from step to step", False)
    keeps_activations: object = _flag("results may stay here until the next op reads them", False)
    keeps_parts: object = _flag(
        "of a recurrence's data that do not fit, the part that fits stays from step to step, as in a scratchpad; "
        "otherwise nothing does, as in a cache that drops what was used longest ago",
        True,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Latency:
    """Fixed costs no bandwidth removes."""

    launch_s: object = _number("to start one op", 0.0, least=0)
    step_s: object = _number("more for a step that depends on the step before", 0.0, least=0)
    first_steps_s: object = _number(
        "more still for each of the first steps of a recurrence, while submission is not ahead of the machine",
        0.0,
        least=0,
    )
    first_steps: object = _number("how many steps those are", 0, least=0, whole=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Abilities:
    """What the machine and its library can do."""

    fuses_elementwise: object = _flag("elementwise work runs in the epilogue of the product before it", False)
    persistent_recurrence: object = _flag("all steps of a recurrence run as one launch", False)
    skips_masked: object = _flag("fused attention leaves out the blocks a causal mask hides", True)
    concurrent_ops: object = _number("independent ops that may run at once", 1, least=1)
    overlap: object = _number(
        "share of the smaller of on-chip work and transfers from beyond it that hides behind the larger",
        1.0,
        least=0,
        most=1,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Link:
    """Connection to other devices."""

    bandwidth_bytes_per_s: object = _number("out of one device, all links, one direction", above=0)
    latency_s: object = _number("time until the first byte arrives", 0.0, least=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class InMemory:
    """Units beside the banks of a memory level that multiply matrices stored there by vectors, at the bandwidth of all
    banks together instead of that of the interface. Everything else, and what they are slower at, stays on the host.
    """

    level: object = _text("memory level whose banks they stand beside (none: the farthest)")
    bandwidth_bytes_per_s: object = _number("what all banks together deliver to the units", above=0)
    sustained: object = _number("share of that a long product reaches", 1.0, above=0, most=1)
    macs_per_s: object = _table("multiply-accumulates per second of all units, by element type")
    vectors_per_pass: object = _number("vectors served while the stored matrix is read once", 1, above=0, whole=True)
    capacity_bytes: object = _number("memory the units reach (none: all of the level)", None, above=0, optional=True)
    command_s: object = _number("to set up and start one op, beside its launch by the host", 0.0, least=0)
    transfer_bytes_per_s: object = _number(
        "vectors in and results out, all copies (none: the sustained bandwidth of the level)",
        None,
        above=0,
        optional=True,
    )
    input_copies: object = _number(
        "times a vector is sent in: once for each part of the memory", 1, above=0, whole=True
    )
    result_copies: object = _number("partial sums read for each result", 1, above=0, whole=True)
    energy_j_per_byte: object = _number(
        "energy to read a byte from its bank (none: that of the level, interface included)",
        None,
        above=0,
        optional=True,
    )
    multiplies_cache: object = _flag("cached keys and values are multiplied there too, softmax on the host", False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Package:
    """What the part draws, measures and costs; None where unknown."""

    tdp_w: object = _number("thermal design power", None, above=0, optional=True)
    area_mm2: object = _number("die area, all compute dies", None, above=0, optional=True)
    process_nm: object = _number("process node", None, above=0, optional=True)
    price_usd: object = _number("list price at introduction", None, above=0, optional=True)
    enabled_share: object = _number(
        "share of the units on the die that are switched on (none: all)", None, above=0, most=1, optional=True
    )


SECTIONS = {
    "matrix": MatrixUnits,
    "vector": VectorUnits,
    "latency": Latency,
    "abilities": Abilities,
    "link": Link,
    "in_memory": InMemory,
    "package": Package,
}


@dataclass(frozen=True)
class Citation:
    """Where a number comes from."""

    source: str
    basis: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Accelerator:
    """A chip, or a design space of chips where fields are arrays (all broadcast to `shape`).

    `memory` maps level names to `MemoryLevel`, nearest first; the last is where weights and activations
    live. Sections may be given as dictionaries. `citations` maps field paths to `Citation` for
    the numbers of a preset; what a user types or replaces has none. `spread` is how far measured times lie from
    predicted ones (see `uncertainty`), empty where nothing was calibrated.

    Raises `AcceleratorError` naming the accelerator, field and value: missing, unknown, not a number,
    NaN, infinite, out of range, fractional where only whole numbers make sense, arrays that do not broadcast.
    """

    name: str
    matrix: MatrixUnits
    vector: VectorUnits
    memory: Mapping[str, MemoryLevel]
    latency: Latency = field(default_factory=Latency)
    abilities: Abilities = field(default_factory=Abilities)
    link: Link | None = None
    in_memory: InMemory | None = None
    package: Package = field(default_factory=Package)
    title: str = ""
    family: str = "gpu"
    year: int | None = None
    notes: str = ""
    citations: Mapping[str, Citation] = field(default_factory=dict)
    spread: Mapping[str, Sequence] = field(default_factory=dict)

    def __post_init__(self):
        where = self.name
        if self.family not in FAMILIES:
            raise AcceleratorError(f"{where}: unknown family {self.family!r}{nearest(self.family, FAMILIES)}")
        for section, kind in SECTIONS.items():
            given = getattr(self, section)
            if given is not None or section not in OPTIONAL_SECTIONS:
                object.__setattr__(self, section, _checked_section(given, kind, where, section))
        if not isinstance(self.memory, Mapping) or not self.memory:
            raise AcceleratorError(f"{where}: memory must map at least one level name to a MemoryLevel")
        for level in self.memory:
            if level in BOUNDS_BESIDE_MEMORY:  # a result lists its bounds by name
                raise AcceleratorError(f"{where}: memory: a level cannot be named {level!r}, as another bound is")
        levels = {
            str(level): _checked_section(given, MemoryLevel, where, f"memory.{level}")
            for level, given in self.memory.items()
        }
        scopes = [level.scope for level in levels.values()]
        if scopes != sorted(scopes, key=SCOPES.index, reverse=False) or scopes[-1] != "chip":
            raise AcceleratorError(f"{where}: memory: levels private to a unit come first and the last is the chip's")
        object.__setattr__(self, "memory", levels)
        self._check_in_memory()
        if not self.title:
            object.__setattr__(self, "title", self.name)
        try:
            self.shape  # noqa: B018 - raises when arrays do not broadcast
        except ValueError:
            shapes = {p: np.shape(v) for p, v in self.fields.items() if np.ndim(v)}
            raise AcceleratorError(f"{where}: arrays of candidates do not broadcast together: {shapes}") from None

    def _check_in_memory(self):
        level = None if self.in_memory is None else self.in_memory.level
        if level is None:
            return
        if level not in self.memory:
            known = nearest(level, self.memory)
            raise AcceleratorError(f"{self.name}: in_memory.level: no memory level {level!r}{known}")
        if self.memory[level].scope != "chip":
            raise AcceleratorError(f"{self.name}: in_memory.level must be a level of the chip, {level!r} is of a unit")

    # -- fields by path --------------------------------------------------------------------------

    @cached_property
    def fields(self) -> dict[str, object]:
        """Every field by dotted path: float, array, bool, string or None."""
        found = {}
        for section in SECTIONS:
            _collect(getattr(self, section), section, found)
        for level, given in self.memory.items():
            _collect(given, f"memory.{level}", found)
        return found

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the design space: () for one design."""
        return np.broadcast_shapes(*(v.shape for v in self.fields.values() if isinstance(v, np.ndarray)))

    @cached_property
    def _without_units(self) -> dict[str, str]:
        """Full paths by what is left without a unit, the first of equals."""
        found = {}
        for full in self.fields:
            for suffix in UNIT_SUFFIXES:
                if full.endswith(suffix):
                    found.setdefault(full.removesuffix(suffix), full)
        return found

    @property
    def designs(self) -> int:
        """How many designs the fields span."""
        return int(np.prod(self.shape))

    def path(self, path: str) -> str:
        """The full dotted path of a field named in full or without its unit.

        Raises `AcceleratorError` with the nearest field for an unknown one.
        """
        if path in self.fields:
            return path
        if path in self._without_units:
            return self._without_units[path]
        tables = ("matrix.macs_per_cycle", *(("in_memory.macs_per_s",) if self.in_memory is not None else ()))
        if path.rpartition(".")[0] in tables and path.rsplit(".", 1)[1] in ELEMENT_BYTES:
            return path  # an element type the chip did not have
        valid = [_without_unit(full) for full in self.fields]
        raise AcceleratorError(f"{self.name}: unknown field {path!r}{nearest(path, valid)}")

    def replace(self, changes: Mapping[str, object] | None = None, /, **meta) -> Accelerator:
        """A copy with fields replaced by dotted path, and `name`, `title` or `notes` by keyword.

        `replace({"memory.dram.bandwidth": 2e12, "matrix.count": np.arange(1, 9)})`. A replaced number loses its
        citation. Raises `AcceleratorError` for an unknown field or a value out of range.
        """
        sections: dict[str, dict] = {}
        citations = dict(self.citations)
        for key, value in (changes or {}).items():
            full = self.path(key)
            section, leaf = full.rsplit(".", 1)
            sections.setdefault(section, {})[leaf] = value
            citations.pop(full, None)
        updated: dict[str, object] = {"citations": citations}
        memory = dict(self.memory)
        for section, values in sections.items():
            if section in ("matrix.macs_per_cycle", "in_memory.macs_per_s"):
                section, leaf = section.split(".")
                base = updated.get(section, getattr(self, section))
                table = dict(getattr(base, leaf)) | values
                updated[section] = _replaced(base, {leaf: table}, self.name, section)
            elif section.startswith("memory."):
                level = section.removeprefix("memory.")
                memory[level] = _replaced(memory[level], values, self.name, section)
            else:
                updated[section] = _replaced(updated.get(section, getattr(self, section)), values, self.name, section)
        return dataclasses.replace(self, memory=memory, **updated, **meta)

    def candidates(self, path: str, values):
        """Values of the numeric field `path`, named in full, as the accelerator would hold them: floats, read-only.

        Raises `AcceleratorError` where one is out of the field's range."""
        section, _, leaf = path.rpartition(".")
        name = leaf
        if section == "matrix.macs_per_cycle":
            section, name, values = "matrix", "macs_per_cycle", {leaf: values}
        kind = MemoryLevel if section.startswith("memory.") else SECTIONS[section]
        found = _checked_value(values, kind.__dataclass_fields__[name].metadata, f"{self.name}: {section}.{name}")
        return found if name == leaf else found[leaf]

    def grid(self, axes: Mapping[str, Sequence]) -> Accelerator:
        """A design space: every combination of the values of `axes`, of shape (len(axis 0), len(axis 1), ...).

        The axes come after those the accelerator already has: a grid of a grid is the larger grid. Raises
        `AcceleratorError` for an unknown field, or one that already is an array.
        """
        full = {self.path(path): np.asarray(values) for path, values in axes.items()}
        own = {path: value for path, value in self.fields.items() if isinstance(value, np.ndarray)}
        for path in full.keys() & own.keys():
            raise AcceleratorError(f"{self.name}: {path} already has an axis of {own[path].size} candidates")
        new = (1,) * len(full)
        arrays = {path: value.reshape(value.shape + new) for path, value in own.items()}
        crossed = np.meshgrid(*full.values(), indexing="ij", copy=False)  # views that repeat one array an axis
        arrays |= {path: a.reshape((1,) * len(self.shape) + a.shape) for path, a in zip(full, crossed, strict=True)}
        return self.replace(arrays)

    def design(self, index) -> Accelerator:
        """One design out of the space, by index into `shape`."""
        picked = {
            path: float(np.broadcast_to(v, self.shape)[index])
            for path, v in self.fields.items()
            if isinstance(v, np.ndarray)
        }
        return self.replace(picked)

    # -- derived ---------------------------------------------------------------------------------

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Element types the matrix units run."""
        return tuple(self.matrix.macs_per_cycle)

    def peak_flops_per_s(self, dtype: str):
        """Dense peak of the matrix units for `dtype`: 2 x units x multiply-accumulates x clock. [FLOP/s]"""
        matrix = self.matrix
        return 2.0 * matrix.count * self._macs(dtype) * matrix.clock_hz

    @property
    def vector_flops_per_s(self):
        """Peak of the vector units. [FLOP/s]"""
        return self.vector.count * self.vector.flops_per_cycle * self.vector.clock_hz

    @property
    def special_ops_per_s(self):
        """Peak rate of transcendental evaluations. [1/s]"""
        return self.vector.count * self.vector.special_per_cycle * self.vector.clock_hz

    @property
    def outer(self) -> MemoryLevel:
        """The farthest level of memory, where weights live."""
        return list(self.memory.values())[-1]

    @property
    def in_memory_level(self) -> str | None:
        """The memory level that computes, None on a chip without one."""
        if self.in_memory is None:
            return None
        return list(self.memory)[-1] if self.in_memory.level is None else self.in_memory.level

    def ridge_flops_per_byte(self, dtype: str, level: str | None = None):
        """Ridge point: the intensity above which `dtype` products are not bound by `level` (default: the farthest)."""
        memory = self.outer if level is None else self.memory[level]
        return self.peak_flops_per_s(dtype) / memory.bandwidth_bytes_per_s

    # -- silicon: derived from the fields and the unit costs of silicon.toml ------------------------

    @cached_property
    def silicon(self) -> Silicon:
        """Area, power, price and unit energies, part by part; `Silicon(chip, "low")` and "high" are their range."""
        return Silicon(self)

    def area_by_part_mm2(self) -> dict[str, object]:
        """Derived area by part: matrix, vector, control, memory levels on the die, memory interfaces, link, other."""
        return {part: of_shape(mm2, self.shape) for part, mm2 in self.silicon.area_by_part_mm2.items()}

    @property
    def area_mm2(self):
        """Derived area of all dies, of `shape`; the published one is `package.area_mm2`. [mm2]"""
        return of_shape(self.silicon.area_mm2, self.shape)

    @property
    def shoreline_mm(self):
        """Edge of the dies that memory interfaces and links take. [mm]"""
        return of_shape(self.silicon.shoreline_mm, self.shape)

    @property
    def shoreline_available_mm(self):
        """Edge of the dies that interfaces could take; a design that needs more cannot be built. [mm]"""
        return of_shape(self.silicon.shoreline_available_mm, self.shape)

    @property
    def shoreline_share(self):
        """Edge taken over edge there is, of `shape`: a design above 1 cannot be built."""
        return of_shape(self.silicon.shoreline_mm / self.silicon.shoreline_available_mm, self.shape)

    @property
    def static_power_w(self):
        """Derived power with nothing to do. [W]"""
        return of_shape(self.silicon.static_power_w, self.shape)

    @property
    def peak_power_w(self):
        """Derived power with arithmetic, memory and link at full rate; the published limit is `package.tdp_w`. [W]"""
        return of_shape(self.silicon.peak_power_w, self.shape)

    @property
    def die_price_usd(self):
        """Derived price of the good dies of one device. [USD]"""
        return of_shape(self.silicon.die_price_usd, self.shape)

    @property
    def memory_price_usd(self):
        """Derived price of the memory beside the dies. [USD]"""
        return of_shape(self.silicon.memory_price_usd, self.shape)

    @property
    def price_usd(self):
        """Derived price of the parts: dies, memory, package; the published list price is `package.price_usd`. [USD]"""
        return of_shape(self.silicon.price_usd, self.shape)

    def _macs(self, dtype: str):
        try:
            return self.matrix.macs_per_cycle[dtype]
        except KeyError:
            raise AcceleratorError(
                f"{self.name}: the matrix units do not run {dtype!r} (they run: {', '.join(self.dtypes)})"
            ) from None

    def __repr__(self):
        space = f", {self.designs:,} designs" if self.shape else ""
        return f"Accelerator({self.name!r}, {self.family}{space}: {', '.join(self.dtypes)}; {', '.join(self.memory)})"

    def describe(self) -> list[dict]:
        """One dictionary a field: path, value, meaning, source, basis; for tables and the command line."""
        rows = []
        meaningless = {f"matrix.{name}" for name in _meaningless({"dataflow": self.matrix.dataflow})}
        farthest = list(self.memory)[-1]  # it keeps everything
        meaningless |= {f"memory.{farthest}.{flag}" for flag in ("keeps_weights", "keeps_activations", "keeps_parts")}
        for path, value in self.fields.items():
            if value is None or path in meaningless:
                continue
            cited = self.citations.get(path, Citation("", ""))
            rows.append(
                {"field": path, "value": value, "meaning": _meaning(path), "source": cited.source, "basis": cited.basis}
            )
        return rows


# -- presets ---------------------------------------------------------------------------------------


_PRESETS = Path(__file__).parent / "presets"


def presets() -> tuple[str, ...]:
    """Names of the shipped presets."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("[!_]*.toml")))


def preset(name: str, calibrated: bool = True) -> Accelerator:
    """The shipped accelerator `name`. Raises `AcceleratorError` with the nearest name for an unknown one.

    `calibrated`: with constants fitted to measurements of the device, or else those its class achieves in place of
    the family's assumptions; False gives the datasheet and the assumptions alone.
    """
    if name not in presets():
        raise AcceleratorError(f"unknown accelerator {name!r}{nearest(name, presets())}")
    chip = load_accelerator(_PRESETS / f"{name}.toml", calibrated)
    return _with_constants(chip) if calibrated else chip


@cache
def _calibrated() -> dict:
    """What was fitted, by preset and by class: constants, calls (of harnesses) and spread."""
    return _read_toml(_PRESETS / "_calibrated.toml")


def call_times(name: str) -> dict[str, float]:
    """What each harness adds to a call on preset `name`, or on its class where it was not measured. [s]"""
    known = _calibrated()
    return dict(known.get(name, known.get("gpu", {})).get("calls", {}))


def standard_errors(name: str) -> dict[str, float]:
    """Standard error of each constant fitted for preset `name`, by path; discrete ones have none."""
    constants = _calibrated().get(name, {}).get("constants", {})
    return {path: entry["stderr"] for path, entry in constants.items() if "stderr" in entry}


def measured_presets() -> tuple[str, ...]:
    """Presets whose constants are fitted to measurements of the device itself."""
    return tuple(name for name in _calibrated() if name not in FAMILIES)


def _with_constants(chip: Accelerator) -> Accelerator:
    """The preset with the constants fitted to measurements of it, or its outer memory as its class reaches it."""
    own = _calibrated().get(chip.name, {})
    constants = {
        path.replace("OUTER", list(chip.memory)[-1]): entry for path, entry in own.get("constants", {}).items()
    }
    path = f"memory.{list(chip.memory)[-1]}.sustained"
    reached = _calibrated().get(chip.family, {}).get("constants", {}).get("memory.OUTER.sustained")
    if reached and path not in constants and chip.citations[path].basis == "assumed":
        constants[path] = reached
    citations = {path: Citation(entry["source"], entry["basis"]) for path, entry in constants.items()}
    fitted = chip.replace({path: entry["value"] for path, entry in constants.items()})
    spread = own.get("spread", chip.spread)
    return dataclasses.replace(fitted, citations=dict(fitted.citations) | citations, spread=spread)


def _of_class(family: str, body: dict, citations: dict) -> dict:
    """The assumptions of a family with what its measured members achieve in their place, and its spread."""
    known = _calibrated().get(family, {})
    for path, entry in known.get("constants", {}).items():
        section, _, leaf = path.rpartition(".")
        if section in body:  # not the memory, which the family does not describe
            body[section] = body[section] | {leaf: entry["value"]}
            citations[path] = Citation(entry["source"], entry["basis"])
    return known.get("spread", {})


def load_accelerator(path, calibrated: bool = True) -> Accelerator:
    """An accelerator from a TOML file, where every number is `{value, source, basis}`.

    `inherits = "gpu"` takes what the file leaves out from the family: what its measured members achieve, or the
    family's assumptions where none was measured or `calibrated` is False. `[sources]` names documents that
    sources may cite as `{key}`. Raises `AcceleratorError` naming file and field: no such file, not TOML, an
    unknown or missing key, a number without source or with an unknown basis, a value out of range.
    """
    path = Path(path)
    document = _read_toml(path)
    where = path.name
    citations: dict[str, Citation] = {}
    inherited = document.pop("inherits", None)
    body, spread = {}, {}
    if inherited is not None:
        known = _read_toml(_PRESETS / "_families.toml")
        if inherited not in known:
            raise AcceleratorError(f"{where}: inherits: unknown family {inherited!r}{nearest(inherited, known)}")
        body = _parsed(known[inherited], f"_families.toml: {inherited}", {}, citations)
        spread = _of_class(inherited, body, citations) if calibrated else {}
    sources = document.pop("sources", {})
    if not isinstance(sources, Mapping):
        raise AcceleratorError(f"{where}: sources: a table is expected, got {sources!r}")
    head = {key: document.pop(key, None) for key in ("name", "title", "family", "year", "notes")}
    own = _parsed(document, where, sources, citations)
    for key in ("name", "title", "family"):
        if not isinstance(head[key], str):
            raise AcceleratorError(f"{where}: {key} is missing or not text")
    sections = _merged(body, own)
    for key in ("matrix", "vector", "memory", "latency", "abilities"):
        if key not in sections:
            raise AcceleratorError(f"{where}: section [{key}] is missing")
    unknown = sections.keys() - SECTIONS.keys() - {"memory"}
    if unknown:
        raise AcceleratorError(
            f"{where}: unknown section {min(unknown)!r}{nearest(min(unknown), [*SECTIONS, 'memory'])}"
        )
    for section, kind in SECTIONS.items():
        neutral = _meaningless(sections["matrix"]) if section == "matrix" else ()
        _refuse_missing(sections.get(section), kind, where, section, neutral)
    if not isinstance(sections["memory"], Mapping):
        raise AcceleratorError(f"{where}: memory: a table is expected, got {sections['memory']!r}")
    farthest = list(sections["memory"])[-1:]
    for level, values in sections["memory"].items():
        keeps = (
            () if level not in farthest else ("keeps_weights", "keeps_activations", "keeps_parts")
        )  # it holds everything
        _refuse_missing(values, MemoryLevel, where, f"memory.{level}", keeps)
    head["notes"] = head["notes"] or ""
    try:
        return Accelerator(**head, **sections, citations=citations, spread=spread)
    except AcceleratorError as error:
        raise AcceleratorError(f"{where}: {error}") from None


def _read_toml(path) -> dict:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AcceleratorError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AcceleratorError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise AcceleratorError(f"{path}: not valid TOML ({error})") from None


def _parsed(node: Mapping, where: str, sources: Mapping, citations: dict, prefix: str = "") -> dict:
    """Plain values of a preset's tables; each number's citation is entered in `citations`."""
    result = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and "value" not in value:
            result[key] = _parsed(value, where, sources, citations, f"{path}.")
        elif isinstance(value, Mapping):
            citations[path] = _citation(value, f"{where}: {path}", sources)
            result[key] = value["value"]
        elif isinstance(value, str):
            result[key] = value  # dataflow, scope: a choice, not a number
        else:
            raise AcceleratorError(f"{where}: {path}: a number needs value, source and basis, got {value!r}")
    return result


def _citation(entry: Mapping, where: str, sources: Mapping) -> Citation:
    unknown = entry.keys() - {"value", "source", "basis"}
    if unknown:
        raise AcceleratorError(
            f"{where}: unknown key {min(unknown)!r}{nearest(min(unknown), ['value', 'source', 'basis'])}"
        )
    source, basis = entry.get("source"), entry.get("basis")
    if not isinstance(source, str) or not source.strip():
        raise AcceleratorError(f"{where}: no source")
    if basis not in BASES:
        raise AcceleratorError(f"{where}: unknown basis {basis!r}{nearest(basis, BASES)}")
    try:
        source = source.format_map(sources)
    except (KeyError, ValueError, IndexError) as error:
        raise AcceleratorError(f"{where}: source cites {error}, which [sources] does not have") from None
    return Citation(source, basis)


def _merged(base: Mapping, own: Mapping) -> dict:
    result = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    if "memory" in own and "memory" in base:  # the chip's own order, nearest first
        result["memory"] = {level: result["memory"][level] for level in own["memory"]}
    return result


def _refuse_missing(values, kind: type, where: str, section: str, neutral: Sequence[str] = ()) -> None:
    """A preset states every field that is not optional: nothing takes a default in silence."""
    if values is None:
        return
    if not isinstance(values, Mapping):
        raise AcceleratorError(f"{where}: {section}: a table is expected, got {values!r}")
    names = [item.name for item in dataclasses.fields(kind)]
    for key in values:
        if key not in names:
            raise AcceleratorError(f"{where}: unknown field {f'{section}.{key}'!r}{nearest(key, names)}")
    for item in dataclasses.fields(kind):
        optional = item.metadata.get("rule", {}).get("optional")
        if item.name not in (*values, *neutral) and not optional:
            raise AcceleratorError(f"{where}: {section}.{item.name} is missing")


#: Fields of the matrix units that mean something under one dataflow only; under the other they may be left out.
_ONLY_OF = {
    "output-stationary": (
        "thin_tile",
        "batched_tile",
        "operand_macs",
        "fragment_m",
        "fragment_n",
        "loop_cycles_per_byte",
        "narrow_loop_cycles_per_byte",
        "resident_results",
        "reach_bytes",
        "reach_cost",
        "split_cycles",
        "max_split",
    ),
    "weight-stationary": ("load_cycles", "stores_padded_tiles"),
}


def _meaningless(matrix) -> tuple[str, ...]:
    """Fields that mean nothing under the dataflow of a [matrix] table; none where that is not a known one."""
    dataflow = matrix.get("dataflow", DATAFLOWS[0]) if isinstance(matrix, Mapping) else None
    return tuple(
        name for known, names in _ONLY_OF.items() if dataflow in DATAFLOWS and known != dataflow for name in names
    )


# -- validation ------------------------------------------------------------------------------------


def _checked_section(given, kind: type, where: str, section: str):
    if not isinstance(given, kind):
        if not isinstance(given, Mapping):
            raise AcceleratorError(f"{where}: {section} must be a {kind.__name__} or a mapping, got {given!r}")
        names = [item.name for item in dataclasses.fields(kind)]
        for key in given:
            if key not in names:
                raise AcceleratorError(f"{where}: unknown field {f'{section}.{key}'!r}{nearest(key, names)}")
        try:
            given = kind(**given)
        except TypeError:
            required = [i.name for i in dataclasses.fields(kind) if i.default is dataclasses.MISSING]
            missing = [name for name in required if name not in given]
            raise AcceleratorError(f"{where}: {section}.{missing[0]} is missing") from None
    checked = {}
    for item in dataclasses.fields(kind):
        value, place = getattr(given, item.name), f"{where}: {section}.{item.name}"
        checked[item.name] = _checked_value(value, item.metadata, place)
    return kind(**checked)


def _replaced(section, values: Mapping, where: str, path: str):
    if section is None:
        raise AcceleratorError(f"{where}: it has no {path}")
    return _checked_section(dataclasses.replace(section, **values), type(section), where, path)


def _checked_value(value, metadata: Mapping, place: str):
    if "choices" in metadata:
        if value is None and metadata["rule"]["optional"]:
            return None
        if not isinstance(value, str) or value not in metadata["choices"]:
            raise AcceleratorError(f"{place}: unknown {value!r}{nearest(value, metadata['choices'])}")
        return value
    if metadata.get("text"):
        if value is not None and not isinstance(value, str):
            raise AcceleratorError(f"{place} must be a name, got {value!r}")
        return value
    if metadata.get("flag"):
        if not isinstance(value, (bool, np.bool_)):
            raise AcceleratorError(f"{place} must be true or false, got {value!r}")
        return bool(value)
    if metadata.get("table"):
        if not isinstance(value, Mapping) or not value:
            raise AcceleratorError(f"{place} must map element types to numbers, got {value!r}")
        for dtype in value:
            if dtype not in ELEMENT_BYTES:
                raise AcceleratorError(f"{place}: unknown element type {dtype!r}{nearest(dtype, ELEMENT_BYTES)}")
        return {dtype: _checked_number(number, _POSITIVE, f"{place}.{dtype}") for dtype, number in value.items()}
    return _checked_number(value, metadata["rule"], place)


def _checked_number(value, rule: Mapping, place: str):
    """A float or a read-only float array within the rule's range."""
    if value is None and rule.get("optional"):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0)
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise AcceleratorError(f"{place} must be a number or an array of numbers, got {value!r}")
    shape, array = array.shape, compact(array).astype(float)
    for wrong, message in _broken(array if array.ndim else float(array), rule):
        if wrong if isinstance(wrong, bool) else wrong.any():
            raise AcceleratorError(f"{place} {message}, got {array[wrong].flat[0]:g}")
    if array.ndim == 0:
        return float(array)
    array.setflags(write=False)
    return np.broadcast_to(array, shape) if shape != array.shape else array


def _broken(value, rule: Mapping):
    """Each condition of a rule: where the value breaks it, and what it says."""
    yield abs(value) == np.inf, "must be finite"
    yield value != value, "must be finite"  # NaN alone differs from itself
    if (least := rule["least"]) is not None:
        yield value < least, f"must be at least {least}"
    if (above := rule["above"]) is not None:
        yield value <= above, f"must be above {above}"
    if (most := rule["most"]) is not None:
        yield value > most, f"must be at most {most}"
    if rule["whole"]:
        yield value != np.floor(value), "must be a whole number"


def _collect(section, prefix: str, found: dict) -> None:
    if section is None:
        return
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if isinstance(value, Mapping):
            found.update({f"{prefix}.{item.name}.{key}": v for key, v in value.items()})
        else:
            found[f"{prefix}.{item.name}"] = value


def _without_unit(path: str) -> str:
    for suffix in UNIT_SUFFIXES:
        if path.endswith(suffix) and not path.endswith(("flops_per_cycle", "macs_per_cycle", "special_per_cycle")):
            return path.removesuffix(suffix)
    return path


def _meaning(path: str) -> str:
    section, _, leaf = path.partition(".")
    if section == "memory":
        kind, leaf = MemoryLevel, leaf.rsplit(".", 1)[1]
    else:
        kind, leaf = SECTIONS[section], leaf.split(".", 1)[0]
    return next(i.metadata["meaning"] for i in dataclasses.fields(kind) if i.name == leaf)
