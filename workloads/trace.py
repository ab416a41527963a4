"""The trace: one row per distinct op of a network, in program order. No hardware in it.

A `Trace` is what every builder and importer makes and what the simulator reads. Identical layers and
identical time steps are one row with a count, so its size grows neither with the sequence nor with
the depth of the network. `SCHEMA` is the glossary: each column with its unit, default and meaning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from workloads import files
from workloads.schema import (
    ELEMENT_BYTES,
    KINDS,
    PHASES,
    PRODUCTS,
    SCHEMA,
    SCHEMA_VERSION,
    TRAFFIC,
    AssumedSizes,
    Column,
    TraceError,
    element_bytes,
    frozen,
    is_integer,
    nearest,
    tensor_bytes,
    validated,
    whole_layer,
)

__all__ = [
    "ELEMENT_BYTES",
    "KINDS",
    "PHASES",
    "PRODUCTS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Column",
    "Trace",
    "TraceError",
    "concatenate",
    "element_bytes",
    "nearest",
    "tensor_bytes",
    "whole_layer",
]


@dataclass(frozen=True, eq=False)
class Trace:
    """A frozen, validated table of ops.

    `columns` maps each name of `SCHEMA` to a sequence with one entry a row; what is missing takes its
    default (`weight_dtype`, `activation_dtype`: the row's `dtype`; `path_runs`: all `repeats`;
    `weight_sets`: `repeats` / `serial_steps` where a run has weights, else 1; `after`: the previous row).
    `name` is the network, `sequences` how many sequences one execution of the trace processes, and
    `tokens` how many positions (tokens, time steps) of each. Every column is then an attribute, a
    read-only array of shape (rows,). `source` only serves error messages.

    Raises `TraceError` naming source, row, column and value: unknown or missing column, wrong length,
    text that is not printable, negative, NaN, infinite or fractional number, a product with m, n, k or
    batch of zero, FLOP beyond 2 batch m n k, a row with no work at all, `serial_steps` that do not divide
    `repeats`, a dependency that is not an earlier row, an empty trace.
    """

    columns: Mapping[str, Sequence]
    name: str = "trace"
    sequences: int = 1
    tokens: int = 1
    source: str = "trace"

    def __post_init__(self):
        for field in ("sequences", "tokens"):
            value = getattr(self, field)
            if not is_integer(value) or value < 1:
                raise TraceError(f"{self.source}: {field} must be a positive whole number, got {value!r}")
            object.__setattr__(self, field, int(value))
        if not isinstance(self.name, str):
            raise TraceError(f"{self.source}: name must be text, got {self.name!r}")
        object.__setattr__(self, "columns", MappingProxyType(validated(self.columns, self.source)))

    def __getattr__(self, name):
        if name in SCHEMA:
            return self.columns[name]
        raise AttributeError(f"Trace has no attribute {name!r}")

    def __len__(self):
        return len(self.columns["op"])

    def __eq__(self, other):
        if not isinstance(other, Trace):
            return NotImplemented
        same = (self.name, self.sequences, self.tokens) == (other.name, other.sequences, other.tokens)
        return (
            same
            and len(self) == len(other)
            and all(
                self.columns[c] == other.columns[c]
                if c == "after"
                else np.array_equal(self.columns[c], other.columns[c])
                for c in SCHEMA
            )
        )

    def __hash__(self):
        return self._hash

    @cached_property
    def _hash(self) -> int:
        sizes = (self.columns[c].tobytes() for c in ("m", "n", "k", "repeats", "input_bytes", "weight_bytes"))
        return hash((self.name, self.sequences, self.tokens, *sizes))

    def __reduce__(self):
        # pickling and copying build the trace anew: arrays alone would come back writable
        return Trace, (dict(self.columns), self.name, self.sequences, self.tokens, self.source)

    def __repr__(self):
        return (
            f"Trace({self.name!r}: {len(self)} rows, {self.runs.sum():,.0f} runs, {self.total_flops:.4g} FLOP, "
            f"{self.total_parameters:.4g} parameters, {self.total_bytes:.4g} bytes)"
        )

    # -- making traces ---------------------------------------------------------------------------

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping], name="trace", sequences=1, tokens=1, source="trace") -> Trace:
        """A trace from one mapping a row; a missing key takes the column's default."""
        rows = list(rows)
        if not rows:
            raise TraceError(f"{source}: the trace is empty")
        keys = dict.fromkeys(key for row in rows for key in row)
        unknown = [key for key in keys if key not in SCHEMA]
        if unknown:
            raise TraceError(f"{source}: unknown column {unknown[0]!r}{nearest(unknown[0], SCHEMA)}")
        columns = {}
        for key in keys:
            default = SCHEMA[key].default
            columns[key] = [row.get(key, default) for row in rows]
        return cls(columns, name=name, sequences=sequences, tokens=tokens, source=source)

    @classmethod
    def from_frame(cls, frame, name=None, sequences=None, tokens=None, source="frame") -> Trace:
        """A trace from a `pandas.DataFrame` as `to_frame` makes it (name and counts ride in `attrs`)."""
        meta = frame.attrs
        columns = {c: frame[c].tolist() for c in frame.columns if c != "shares_weights"}
        return cls(
            columns,
            name=name or meta.get("name", "trace"),
            sequences=sequences or meta.get("sequences", 1),
            tokens=tokens or meta.get("tokens", 1),
            source=source,
        )

    def rows(self) -> list[dict]:
        """The rows as plain dictionaries of Python numbers and strings, `after` as a tuple."""
        lists = {c: (v.tolist() if isinstance(v, np.ndarray) else list(v)) for c, v in self.columns.items()}
        return [{c: lists[c][i] for c in SCHEMA} for i in range(len(self))]

    def replace(self, **changes) -> Trace:
        """A copy with whole columns, or `name`, `sequences`, `tokens`, replaced."""
        meta = {k: changes.pop(k) for k in ("name", "sequences", "tokens") if k in changes}
        columns = dict(self.columns)
        for column, values in changes.items():
            if column not in SCHEMA:
                raise TraceError(f"{self.source}: unknown column {column!r}{nearest(column, SCHEMA)}")
            columns[column] = values
        keep = {"name": self.name, "sequences": self.sequences, "tokens": self.tokens}
        return Trace(columns, **(keep | meta), source=self.source)

    def scaled(self, count: int, share_weights: bool = False, parallel: bool = False) -> Trace:
        """The trace executed `count` times: identical layers (own weights), or the same weights again.

        The executions follow one another, or are independent of each other when `parallel`.
        """
        if not is_integer(count) or count < 1:
            raise TraceError(f"{self.source}: count must be a positive whole number, got {count!r}")
        count = int(count)
        # Python's integers: a count beyond 64 bits is an error, not a wrapped number
        times = {"repeats": count, "path_runs": 1 if parallel else count, "weight_sets": 1 if share_weights else count}
        return self.replace(**{c: [v * by for v in self.columns[c].tolist()] for c, by in times.items()})

    def __mul__(self, count: int) -> Trace:
        """`block * 24`: 24 identical layers in series, each with its own weights."""
        return self.scaled(count)

    __rmul__ = __mul__

    def __add__(self, other: Trace) -> Trace:
        """`encoder + decoder`: the second runs after the first (see `concatenate`)."""
        return concatenate([self, other])

    # -- derived per row -------------------------------------------------------------------------

    @cached_property
    def runs(self) -> np.ndarray:
        """`repeats` as floats, for products that may exceed 64 bit integers. (rows,)"""
        return frozen(self.repeats.astype(float))

    @cached_property
    def shares_weights(self) -> np.ndarray:
        """Whether runs of the row use the same weights. (rows,) bool"""
        return frozen(self.weight_sets < self.repeats)

    @cached_property
    def is_product(self) -> np.ndarray:
        """Whether the row is a product for the matrix units. (rows,) bool"""
        return frozen(np.isin(self.kind, PRODUCTS))

    @cached_property
    def trains(self) -> bool:
        """Whether there are gradients or updates among the rows."""
        return bool(np.isin(self.phase, ("input-gradient", "weight-gradient", "update")).any())

    @cached_property
    def flops(self) -> np.ndarray:
        """All operations of one run: matrix and vector FLOP, one per transcendental. (rows,) float"""
        return frozen(self.matrix_flops.astype(float) + self.vector_flops + self.special_ops)

    @cached_property
    def bytes(self) -> np.ndarray:
        """Bytes of one run, every role once: the compulsory traffic. (rows,) float"""
        return frozen(sum(self.columns[c].astype(float) for c in TRAFFIC))

    @cached_property
    def level(self) -> np.ndarray:
        """Depth in the dependency graph: rows of one level wait for none of each other. (rows,) int"""
        level = [0] * len(self)
        for row, waits_for in enumerate(self.after):
            level[row] = 1 + max((level[w] for w in waits_for), default=-1)
        return frozen(np.array(level))

    # -- totals ----------------------------------------------------------------------------------

    @property
    def total_matrix_flops(self) -> float:
        """FLOP in products, all runs."""
        return float(self.runs @ self.matrix_flops)

    @property
    def total_flops(self) -> float:
        """All operations, all runs: matrix and vector FLOP and transcendental evaluations."""
        return float(self.runs @ self.flops)

    @property
    def total_parameters(self) -> int:
        """Parameters: each weight set once, however often it is used."""
        return sum(p * s for p, s in zip(self.parameters.tolist(), self.weight_sets.tolist(), strict=True))

    @property
    def total_bytes(self) -> float:
        """Bytes all runs read and write when nothing stays on chip between them."""
        return float(self.runs @ self.bytes)

    def bytes_by_role(self) -> dict[str, float]:
        """Bytes all runs read and write, by role: weight, input, output, state, cache."""
        return {c.removesuffix("_bytes"): float(self.runs @ self.columns[c]) for c in TRAFFIC}

    @property
    def intensity(self) -> float:
        """Arithmetic intensity of the whole: operations per byte, nothing kept on chip. [FLOP/byte]"""
        return self.total_flops / self.total_bytes if self.total_bytes else math.inf

    def footprint(self) -> dict[str, float]:
        """Memory the network occupies, in bytes, by what occupies it, with a `total`.

        weights: every weight set once in its stored type. gradients and optimiser: only when the trace
        trains. saved: activations kept for the backward pass. cache: keys and values. working: inputs and outputs of
        the largest single op and, where activations are recomputed, those of the one layer that keeps most (one
        of a stack of identical ones).
        """
        sizes = np.array([element_bytes(d) for d in self.weight_dtype])
        weights = float(np.ceil(self.parameters * sizes) @ self.weight_sets)
        again = self.phase == "recompute"
        kept = float((self.runs * self.saved_bytes)[~again].sum())
        update, accumulates = self.phase == "update", self.phase == "weight-gradient"
        parts = {
            "weights": weights,
            # runs that share weights add to one gradient
            "gradients": float((self.weight_sets * self.output_bytes.astype(float))[accumulates].sum()),
            # the moments are read once and written once in an update, and held once
            "optimiser": float((self.runs * self.state_bytes)[update].sum() / 2),
            "saved": kept if self.trains else 0.0,
            "cache": 0.0 if self.trains else kept,
            "working": float((self.input_bytes + self.output_bytes)[~update].max(initial=0)) + self._recomputed(again),
        }
        return parts | {"total": sum(parts.values())}

    def _recomputed(self, again: np.ndarray) -> float:
        """Bytes that one execution of a recomputed layer keeps until its gradients are done, of the largest layer."""
        in_series = np.maximum(self.path_runs // self.serial_steps, 1)
        one = (self.runs * self.saved_bytes / in_series)[again]
        if not one.size:
            return 0.0
        return float(
            np.bincount(
                np.unique([whole_layer(layer) for layer in self.layer[again].tolist()], return_inverse=True)[1], one
            ).max()
        )

    def path_length(self, source: int, target: int) -> float:
        """Dependent runs between sequence positions `source` and `target` (0-based): how many ops that mix
        positions a signal passes through. T for a recurrence, 1 for attention (Vaswani et al. 2017, table 1).

        0 for the same position, infinity where no op carries information that way (a causal network
        looks back only). The fewest runs whose reaches add up to the distance, the longest first.
        """
        for label, position in (("source", source), ("target", target)):
            if not is_integer(position) or position < 0:
                raise TraceError(f"{self.name}: {label} must be a position of the sequence (>= 0), got {position!r}")
        forward = np.isin(self.phase, ("forward",))
        # to reach a later position, that position's ops must look back, and the other way round
        reach = (self.reach_back if target > source else self.reach_ahead)[forward].astype(float)
        runs = self.path_runs[forward].astype(float)
        distance, hops = float(abs(target - source)), 0.0
        for row in np.argsort(-reach, kind="stable"):
            if distance <= 0 or reach[row] <= 0:
                break
            used = min(runs[row], math.ceil(distance / reach[row]))
            hops, distance = hops + float(used), distance - used * reach[row]
        return hops if distance <= 0 else math.inf

    # -- fusion ----------------------------------------------------------------------------------

    @cached_property
    def fused(self) -> Trace:
        """The trace with elementwise work merged into the op before it.

        An elementwise row joins the latest op it waits for when that op is a product (or a row already merged into
        one), nothing else waits for that op, both run equally often in the same phase, and everything else it
        waits for is complete by then. The product's result then never leaves the chip: it is neither
        written nor read back. FLOP, parameters and all other bytes are those of the parts.
        """
        host = self._fusion_host
        if (host == np.arange(len(self))).all():
            return self
        kept = np.flatnonzero(host == np.arange(len(self)))
        number = {int(row): new for new, row in enumerate(kept)}
        columns = {c: (v[kept] if isinstance(v, np.ndarray) else v) for c, v in self.columns.items()}
        target = np.array([number[h] for h in host.tolist()])
        added = ("vector_flops", "special_ops", "parameters", "saved_bytes", *TRAFFIC)
        for column in (*added, "matrix_flops"):
            total = np.zeros(len(kept), dtype=np.int64)
            np.add.at(total, target, self.columns[column])
            columns[column] = total
        ops = [[] for _ in kept]
        after = [set() for _ in kept]
        for row, waits_for in enumerate(self.after):
            ops[target[row]].append(str(self.op[row]))
            after[target[row]] |= {int(target[w]) for w in waits_for} - {int(target[row])}
            if host[row] != row:  # what passed between the two stays on chip
                producer = max(waits_for)
                passed = min(self.output_bytes[producer], self.input_bytes[row])
                state = min(self.state_bytes[producer], self.state_bytes[row]) if not passed else 0
                if not self.saved_bytes[row]:  # the backward pass needs it written
                    columns["output_bytes"][target[row]] -= passed
                columns["input_bytes"][target[row]] -= passed
                columns["state_bytes"][target[row]] -= 2 * min(state, self._gate_sum_bytes[producer])
        columns["op"] = [" + ".join(parts) for parts in ops]
        columns["after"] = [tuple(sorted(a)) for a in after]
        return Trace(columns, self.name, self.sequences, self.tokens, self.source)

    @cached_property
    def _gate_sum_bytes(self) -> np.ndarray:
        """Result of a recurrent product (batch m n elements): passed as state to the gates. (rows,)"""
        size = np.array([element_bytes(d) for d in self.activation_dtype])
        return (self.batch * self.m * self.n * size).astype(np.int64) * (self.serial_steps > 1)

    @cached_property
    def _fusion_host(self) -> np.ndarray:
        """For each row the product it merges into, or its own number. (rows,) int"""
        followers = [0] * len(self)
        for waits_for in self.after:
            for w in waits_for:
                followers[w] += 1
        same = list(zip(self.repeats, self.serial_steps, self.path_runs, self.phase, strict=True))
        weights = list(zip(self.weight_sets, self.weight_dtype, strict=True))
        host = list(range(len(self)))
        for row, waits_for in enumerate(self.after):
            if self.kind[row] != "elementwise" or not waits_for:
                continue
            producer = max(waits_for)
            root = host[producer]
            others_done = all(w < root for w in waits_for if w != producer)
            alike = same[producer] == same[row] and (not self.parameters[row] or weights[row] == weights[root])
            # weights would turn a product of two activations into one of an activation and weights
            alike = alike and (self.weight_bytes[root] > 0 or not self.weight_bytes[row])
            if self.is_product[root] and followers[producer] == 1 and alike and others_done:
                host[row] = root
        return np.array(host)

    # -- in and out ------------------------------------------------------------------------------

    def to_frame(self):
        """The trace as a `pandas.DataFrame`, one row an op, with the derived `shares_weights`."""
        import pandas as pd

        frame = pd.DataFrame({c: list(self.columns[c]) if c == "after" else self.columns[c] for c in SCHEMA})
        frame.insert(frame.columns.get_loc("weight_sets"), "shares_weights", self.shares_weights)
        frame.attrs = self._meta()
        return frame

    def _repr_html_(self):
        return self.to_frame()._repr_html_()

    def _meta(self) -> dict:
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "sequences": self.sequences,
            "tokens": self.tokens,
        }

    def save(self, path) -> Path:
        """Write the trace without loss, by suffix: .csv, .json (either also .gz) or .parquet (needs pyarrow).

        The file appears whole or not at all. Returns the path. Raises `TraceError` for another suffix,
        an unwritable place, or parquet without pyarrow.
        """
        path = Path(path)
        form = files.form_of(path)
        if form == "parquet":
            frame = self.to_frame()
            frame["after"] = [";".join(map(str, waits_for)) for waits_for in self.after]
            files.write_parquet(path, frame)
        else:
            files.save_text(path, files.FORMS[form].write(self.rows(), self._meta()))
        return path

    @classmethod
    def load(cls, path) -> Trace:
        """Read what `save` wrote, or a table made by hand with the same columns.

        A table made by hand may leave out any column that has a default, a csv also the comment line with the
        metadata: one sequence of one position is then assumed, with a warning (`AssumedSizes`). Raises `TraceError`
        naming file, row (counted from 0), column and value.
        """
        path = Path(path)
        form = files.form_of(path)
        if form == "parquet":
            frame = files.read_parquet(path)
            trace, meta = cls.from_frame(frame, source=str(path)), frame.attrs
        else:
            rows, meta = files.FORMS[form].read(files.load_text(path), path)
            sizes = {key: meta[key] for key in ("sequences", "tokens") if key in meta}
            name = str(meta.get("name", path.name.split(".")[0]))
            trace = cls.from_rows(rows, name=name, **sizes, source=str(path))
        absent = [key for key in ("sequences", "tokens") if key not in meta]
        if absent:
            where = f' (first line: # {files.FORMAT} {{"sequences": 8, "tokens": 128}})' if form == "csv" else ""
            warnings.warn(
                f"{path}: does not state {' and '.join(absent)}{where}: 1 is assumed", AssumedSizes, stacklevel=2
            )
        return trace


def concatenate(traces: Sequence[Trace], name: str | None = None, parallel: bool = False) -> Trace:
    """One trace that runs `traces` one after another, or, when `parallel`, without waiting for each other.

    In series the rows of a trace that wait for nothing wait for the last rows of the trace before it.
    Name, sequences and tokens are those of the first unless they are larger later. A layer whose recurrence an
    earlier trace has under the same name is renamed ("lstm.0" to "lstm.0 (2)"): rows of one recurrence share a layer.
    """
    traces = list(traces)
    if not traces:
        raise TraceError("concatenate: no trace given")
    rows, ends = [], ()
    recurrent: set[tuple] = set()
    for trace in traces:
        offset = len(rows)
        waited_for = {w for a in trace.after for w in a}
        names = _names_apart(trace, recurrent)
        for row in trace.rows():
            after = tuple(w + offset for w in row["after"])
            layer = names.get(row["layer"], row["layer"])
            rows.append(row | {"layer": layer, "after": after or (() if parallel else ends)})
            recurrent |= {_recurrent_op(row, layer)} - {None}
        ends = tuple(i + offset for i in range(len(trace)) if i not in waited_for)
    return Trace.from_rows(
        rows,
        name=name or traces[0].name,
        sequences=max(t.sequences for t in traces),
        tokens=max(t.tokens for t in traces),
        source=name or traces[0].source,
    )


def _recurrent_op(row: Mapping, layer: str) -> tuple | None:
    """What tells an op of a recurrence from those of others; None outside one."""
    return (layer, row["op"], row["phase"], row["serial_steps"]) if row["serial_steps"] > 1 else None


def _names_apart(trace: Trace, recurrent: set[tuple]) -> dict[str, str]:
    """New names for the layers of `trace` whose recurrences are among those already there."""
    names = {}
    rows = trace.rows()
    for layer in dict.fromkeys(trace.layer.tolist()):
        own = [row for row in rows if row["layer"] == layer]
        name, number = layer, 1
        while any(_recurrent_op(row, name) in recurrent for row in own):
            number += 1
            name = f"{layer} ({number})"
        if name != layer:
            names[layer] = name
    return names
