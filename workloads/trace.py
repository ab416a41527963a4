"""The trace: one row per distinct op of a network, in program order. No hardware in it.

A `Trace` is what every builder and importer makes and what the simulator reads. Identical layers and
identical time steps are one row with a count, so its size grows neither with the sequence nor with
the depth of the network. `SCHEMA` is the glossary: each column with its unit, default and meaning.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

SCHEMA_VERSION = 1

#: Bytes of one element of each type. tf32 is a compute type; its storage is that of fp32.
ELEMENT_BYTES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "int32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "int16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
}

#: Kinds of op. The products are cut into tiles and run on the matrix units; the others are not.
PRODUCTS = ("matmul", "convolution", "attention")
KINDS = (
    *PRODUCTS,
    "elementwise",
    "normalisation",
    "softmax",
    "gather",
    "scan",
    "copy",
    "collective",
)
PHASES = ("forward", "recompute", "input-gradient", "weight-gradient", "update")


class TraceError(ValueError):
    """A trace that cannot be costed: the message names source, row, column and value."""


@dataclass(frozen=True)
class Column:
    """One column of the trace: its kind of value, unit, default (None: required) and meaning."""

    name: str
    kind: str  # "text", "count" (integer >= 1), "amount" (integer >= 0), "choice", "rows"
    unit: str
    default: object
    meaning: str
    choices: tuple[str, ...] = ()


SCHEMA: dict[str, Column] = {
    column.name: column
    for column in (
        Column("layer", "text", "", None, "the layer this op belongs to; rows of one layer share the label"),
        Column("op", "text", "", None, "what it does, in words"),
        Column("kind", "choice", "", None, "the kind of work", KINDS),
        Column("phase", "choice", "", "forward", "when it runs", PHASES),
        Column("batch", "amount", "products", 0, "independent products in one run (0: not a product)"),
        Column("m", "amount", "rows", 0, "rows of the product"),
        Column("n", "amount", "columns", 0, "columns of the product; fused attention: query/key size + value size"),
        Column("k", "amount", "terms", 0, "terms summed for each result; fused attention: keys attended to"),
        Column(
            "matrix_flops",
            "amount",
            "FLOP",
            0,
            "useful FLOP of the product in one run: 2 batch m n k, or less where a mask lets work be skipped",
        ),
        Column("vector_flops", "amount", "FLOP", 0, "additions, multiplications, comparisons outside the product"),
        Column("special_ops", "amount", "evaluations", 0, "exp, tanh, sigmoid, erf, square roots, divisions"),
        Column("parameters", "amount", "parameters", 0, "parameters in one weight set that belong to this row"),
        Column("weight_bytes", "amount", "bytes", 0, "weights one run reads (a gather: only the rows it picks)"),
        Column("input_bytes", "amount", "bytes", 0, "activations one run reads"),
        Column("output_bytes", "amount", "bytes", 0, "activations one run writes"),
        Column(
            "state_bytes",
            "amount",
            "bytes",
            0,
            "state one run reads or writes that lives from one step to the next "
            "(h, c, a step's gate sums; the moments of an optimiser)",
        ),
        Column("cache_bytes", "amount", "bytes", 0, "keys and values one run reads from or writes to a KV cache"),
        Column(
            "saved_bytes",
            "amount",
            "bytes",
            0,
            "memory one run leaves occupied: activations kept for the backward pass, cache entries. Not traffic",
        ),
        Column("dtype", "choice", "", "fp32", "element type of the arithmetic", tuple(ELEMENT_BYTES)),
        Column("weight_dtype", "choice", "", None, "element type the weights are stored in", tuple(ELEMENT_BYTES)),
        Column("activation_dtype", "choice", "", None, "element type activations are stored in", tuple(ELEMENT_BYTES)),
        Column("repeats", "count", "runs", 1, "how often the row runs in all"),
        Column(
            "serial_steps",
            "count",
            "runs",
            1,
            "consecutive runs of one recurrence, each of which needs the one before (T; attention: 1). "
            "Rows of one layer with the same number above 1 alternate step by step",
        ),
        Column(
            "path_runs",
            "count",
            "runs",
            None,
            "runs on the longest dependent path: all of them for identical layers in series, T + L - 1 for L "
            "recurrences run as a wavefront, half of them for two independent directions",
        ),
        Column(
            "weight_sets",
            "count",
            "sets",
            None,
            "distinct weight sets among the runs: 1 for a recurrence, L for L identical layers",
        ),
        Column("reach_back", "amount", "positions", 0, "how many earlier sequence positions one run looks at"),
        Column("reach_ahead", "amount", "positions", 0, "how many later sequence positions one run looks at"),
        Column("after", "rows", "row numbers", None, "rows (counted from 0) that must be complete before it starts"),
    )
}

_COUNTED = tuple(name for name, column in SCHEMA.items() if column.kind in ("amount", "count"))
_TEXT = tuple(name for name, column in SCHEMA.items() if column.kind in ("text", "choice"))
_TRAFFIC = ("weight_bytes", "input_bytes", "output_bytes", "state_bytes", "cache_bytes")


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the list of valid names when none is close."""
    valid = [str(v) for v in valid]
    close = difflib.get_close_matches(str(name).lower(), [v.lower() for v in valid], n=1, cutoff=0.5)
    if close:
        return f" (did you mean {next(v for v in valid if v.lower() == close[0])!r}?)"
    return f" (valid: {', '.join(valid)})"


def element_bytes(dtype: str) -> float:
    """Bytes of one element of `dtype`. Raises `TraceError` for an unknown type, naming the nearest."""
    try:
        return ELEMENT_BYTES[dtype]
    except (KeyError, TypeError):
        raise TraceError(f"unknown element type {dtype!r}{nearest(dtype, ELEMENT_BYTES)}") from None


def tensor_bytes(elements: int, dtype: str) -> int:
    """Bytes of `elements` elements of `dtype`, rounded up to whole bytes (int4 packs two)."""
    size = element_bytes(dtype)
    return -(-elements // 2) if size == 0.5 else elements * int(size)


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
            if not _is_integer(value) or value < 1:
                raise TraceError(f"{self.source}: {field} must be a positive whole number, got {value!r}")
            object.__setattr__(self, field, int(value))
        if not isinstance(self.name, str):
            raise TraceError(f"{self.source}: name must be text, got {self.name!r}")
        object.__setattr__(self, "columns", MappingProxyType(_validated(self.columns, self.source)))

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
        return id(self)

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
        if not _is_integer(count) or count < 1:
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
        return _frozen(self.repeats.astype(float))

    @cached_property
    def shares_weights(self) -> np.ndarray:
        """Whether runs of the row use the same weights. (rows,) bool"""
        return _frozen(self.weight_sets < self.repeats)

    @cached_property
    def is_product(self) -> np.ndarray:
        """Whether the row is a product for the matrix units. (rows,) bool"""
        return _frozen(np.isin(self.kind, PRODUCTS))

    @cached_property
    def flops(self) -> np.ndarray:
        """All operations of one run: matrix and vector FLOP, one per transcendental. (rows,) float"""
        return _frozen(self.matrix_flops.astype(float) + self.vector_flops + self.special_ops)

    @cached_property
    def bytes(self) -> np.ndarray:
        """Bytes of one run, every role once: the compulsory traffic. (rows,) float"""
        return _frozen(sum(self.columns[c].astype(float) for c in _TRAFFIC))

    @cached_property
    def level(self) -> np.ndarray:
        """Depth in the dependency graph: rows of one level wait for none of each other. (rows,) int"""
        level = [0] * len(self)
        for row, waits_for in enumerate(self.after):
            level[row] = 1 + max((level[w] for w in waits_for), default=-1)
        return _frozen(np.array(level))

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
        return {c.removesuffix("_bytes"): float(self.runs @ self.columns[c]) for c in _TRAFFIC}

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
        trains = bool(np.isin(self.phase, ("input-gradient", "weight-gradient", "update")).any())
        again = self.phase == "recompute"
        kept = float((self.runs * self.saved_bytes)[~again].sum())
        update, accumulates = self.phase == "update", self.phase == "weight-gradient"
        parts = {
            "weights": weights,
            # runs that share weights add to one gradient
            "gradients": float((self.weight_sets * self.output_bytes.astype(float))[accumulates].sum()),
            # the moments are read once and written once in an update, and held once
            "optimiser": float((self.runs * self.state_bytes)[update].sum() / 2),
            "saved": kept if trains else 0.0,
            "cache": 0.0 if trains else kept,
            "working": float((self.input_bytes + self.output_bytes)[~update].max(initial=0)) + self._recomputed(again),
        }
        return parts | {"total": sum(parts.values())}

    def _recomputed(self, again: np.ndarray) -> float:
        """Bytes that one execution of a recomputed layer keeps until its gradients are done, of the largest layer."""
        in_series = np.maximum(self.path_runs // self.serial_steps, 1)
        one = (self.runs * self.saved_bytes / in_series)[again]
        if not one.size:
            return 0.0
        return float(np.bincount(np.unique(self.layer[again], return_inverse=True)[1], one).max())

    def path_length(self, source: int, target: int) -> float:
        """Dependent runs between sequence positions `source` and `target` (0-based): how many ops that mix
        positions a signal passes through. T for a recurrence, 1 for attention (Vaswani et al. 2017, table 1).

        0 for the same position, infinity where no op carries information that way (a causal network
        looks back only). The fewest runs whose reaches add up to the distance, the longest first.
        """
        for label, position in (("source", source), ("target", target)):
            if not _is_integer(position) or position < 0:
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
            hops, distance = hops + used, distance - used * reach[row]
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
        added = ("vector_flops", "special_ops", "parameters", "saved_bytes", *_TRAFFIC)
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
        form = _format(path)
        if form == "parquet":
            body = io.BytesIO()
            try:
                frame = self.to_frame()
                frame["after"] = [";".join(map(str, a)) for a in self.after]
                frame.to_parquet(body, index=False)
            except ImportError:
                raise TraceError(f"{path}: parquet needs pyarrow: pip install 'rooftrace[parquet]'") from None
            data = body.getvalue()
        else:
            data = (self._to_csv() if form == "csv" else self._to_json()).encode()
        if path.suffix == ".gz":
            data = gzip.compress(data, mtime=0)
        write_atomically(path, data)
        return path

    def _to_json(self) -> str:
        ops = ",\n  ".join(json.dumps(row) for row in self.rows())
        meta = json.dumps(self._meta())[1:-1]
        return f'{{"format": "rooftrace-trace", {meta}, "ops": [\n  {ops}\n]}}\n'

    def _to_csv(self) -> str:
        out = io.StringIO()
        out.write(f"# rooftrace-trace {json.dumps(self._meta())}\n")
        writer = csv.DictWriter(out, fieldnames=list(SCHEMA), lineterminator="\n")
        writer.writeheader()
        for row in self.rows():
            writer.writerow(row | {"after": ";".join(map(str, row["after"]))})
        return out.getvalue()

    @classmethod
    def load(cls, path) -> Trace:
        """Read what `save` wrote, or a table made by hand with the same columns.

        A csv may leave out the comment line with the metadata and any column that has a default.
        Raises `TraceError` naming file, row (counted from 0), column and value.
        """
        path = Path(path)
        form = _format(path)
        try:
            data = path.read_bytes()
            if path.suffix == ".gz":
                data = gzip.decompress(data)
        except FileNotFoundError:
            raise TraceError(f"{path}: no such file") from None
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"{path}: cannot be read ({error})") from None
        if form == "parquet":
            return cls._from_parquet(data, path)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TraceError(f"{path}: not UTF-8 text ({error})") from None
        return cls._from_csv(text, path) if form == "csv" else cls._from_json(text, path)

    @classmethod
    def _from_parquet(cls, data: bytes, path: Path) -> Trace:
        try:
            import pandas as pd

            frame = pd.read_parquet(io.BytesIO(data))
        except ImportError:
            raise TraceError(f"{path}: parquet needs pyarrow: pip install 'rooftrace[parquet]'") from None
        except Exception as error:  # pyarrow raises its own family for a broken file
            raise TraceError(f"{path}: not a readable parquet file ({error})") from None
        _check_version(frame.attrs, path)
        return cls.from_frame(frame, source=str(path))

    @classmethod
    def _from_json(cls, text: str, path: Path) -> Trace:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}: not valid JSON ({error})") from None
        if not isinstance(document, dict) or not isinstance(document.get("ops"), list):
            raise TraceError(f"{path}: not a trace: an object with a list 'ops' is expected")
        _check_version(document, path)
        rows = document["ops"]
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise TraceError(f"{path}: row {number}: an object is expected, got {row!r}")
        return cls.from_rows(rows, **_meta_of(document, path), source=str(path))

    @classmethod
    def _from_csv(cls, text: str, path: Path) -> Trace:
        meta, lines = {}, text.splitlines()
        if lines and lines[0].startswith("#"):
            found = re.match(r"#\s*rooftrace-trace\b(.*)", lines[0])
            try:
                meta = json.loads(found.group(1)) if found else {}
            except ValueError as error:
                raise TraceError(f"{path}: the comment line is not valid JSON ({error})") from None
            if not isinstance(meta, dict):
                raise TraceError(f"{path}: the comment line must hold a JSON object, got {meta!r}")
            lines = lines[1:]
        _check_version(meta, path)
        try:
            reader = iter(list(csv.reader(lines, strict=True)))
        except csv.Error as error:
            raise TraceError(f"{path}: not valid csv ({error})") from None
        header = next(reader, None)
        if not header:
            raise TraceError(f"{path}: empty: a header row is expected")
        header = [name.strip() for name in header]
        rows = []
        # an empty cell takes the default, but means "waits for nothing" or a missing name in these
        kept_empty = ("after", "layer", "op", "kind")
        for number, cells in enumerate(c for c in reader if c):
            if len(cells) != len(header):
                raise TraceError(f"{path}: row {number}: {len(cells)} cells where the header has {len(header)}")
            rows.append({h: c.strip() for h, c in zip(header, cells, strict=True) if c.strip() or h in kept_empty})
        if len(set(header)) != len(header):
            twice = next(h for h in header if header.count(h) > 1)
            raise TraceError(f"{path}: column {twice!r} appears twice")
        unknown = [h for h in header if h not in SCHEMA and h != "shares_weights"]
        if unknown:
            raise TraceError(f"{path}: unknown column {unknown[0]!r}{nearest(unknown[0], SCHEMA)}")
        for row in rows:
            row.pop("shares_weights", None)
        return cls.from_rows(rows, **_meta_of(meta, path), source=str(path))


def concatenate(traces: Sequence[Trace], name: str | None = None, parallel: bool = False) -> Trace:
    """One trace that runs `traces` one after another, or, when `parallel`, without waiting for each other.

    In series the rows of a trace that wait for nothing wait for the last rows of the trace before it.
    Name, sequences and tokens are those of the first unless they are larger later.
    """
    traces = list(traces)
    if not traces:
        raise TraceError("concatenate: no trace given")
    rows, ends = [], ()
    for trace in traces:
        offset = len(rows)
        waited_for = {w for a in trace.after for w in a}
        for row in trace.rows():
            after = tuple(w + offset for w in row["after"])
            rows.append(row | {"after": after or (() if parallel else ends)})
        ends = tuple(i + offset for i in range(len(trace)) if i not in waited_for)
    return Trace.from_rows(
        rows,
        name=name or traces[0].name,
        sequences=max(t.sequences for t in traces),
        tokens=max(t.tokens for t in traces),
        source=name or traces[0].source,
    )


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a file beside `path` and move it in place: whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise TraceError(f"{path}: cannot be written ({error.strerror or error})") from None


def _format(path: Path) -> str:
    suffixes = [s for s in path.suffixes if s != ".gz"]
    form = suffixes[-1][1:].lower() if suffixes else ""
    if form not in ("csv", "json", "parquet"):
        raise TraceError(f"{path}: a trace is a .csv, .json or .parquet file (csv and json also with .gz)")
    return form


def _check_version(meta: Mapping, path: Path) -> None:
    version = meta.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise TraceError(f"{path}: schema_version {version!r} is not the {SCHEMA_VERSION} this version reads")


def _meta_of(document: Mapping, path: Path) -> dict:
    return {
        "name": str(document.get("name", path.name.split(".")[0])),
        "sequences": document.get("sequences", 1),
        "tokens": document.get("tokens", 1),
    }


def _is_integer(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _validated(columns: Mapping[str, Sequence], source: str) -> dict:
    """Every column of `SCHEMA` as a read-only array (`after` as a tuple of tuples), or `TraceError`."""
    for name in columns:
        if name not in SCHEMA:
            raise TraceError(f"{source}: unknown column {name!r}{nearest(name, SCHEMA)}")
    for name in ("layer", "op", "kind"):
        if name not in columns:
            raise TraceError(f"{source}: column {name!r} is missing")
    lengths = {name: len(values) for name, values in columns.items()}
    rows = lengths["op"]
    for name, length in lengths.items():
        if length != rows:
            raise TraceError(f"{source}: column {name!r} has {length} entries where 'op' has {rows}")
    if rows == 0:
        raise TraceError(f"{source}: the trace is empty")

    table: dict = {}
    for name in _TEXT:
        values = columns.get(name, [SCHEMA[name].default] * rows)
        if name in ("weight_dtype", "activation_dtype"):
            values = [d if v is None else v for v, d in zip(values, table["dtype"], strict=True)]
        table[name] = _text(values, SCHEMA[name], source)
    for name in _COUNTED:
        if name in ("path_runs", "weight_sets"):
            continue
        table[name] = _whole_numbers(columns.get(name, [SCHEMA[name].default] * rows), SCHEMA[name], source)
    _check_products(table, source)

    repeats, steps = table["repeats"], table["serial_steps"]
    _refuse(source, repeats % steps != 0, "serial_steps", steps, "must divide repeats")
    sets = np.where(table["weight_bytes"] + table["parameters"] > 0, repeats // steps, 1)
    for name, default in (("path_runs", repeats), ("weight_sets", sets)):
        values = columns.get(name, [None] * rows)
        values = [d if v is None else v for v, d in zip(values, default.tolist(), strict=True)]
        table[name] = _whole_numbers(values, SCHEMA[name], source)
    path, sets = table["path_runs"], table["weight_sets"]
    _refuse(source, path > repeats, "path_runs", path, "must not exceed repeats")
    _refuse(source, path < steps, "path_runs", path, "must not be below serial_steps")
    _refuse(source, sets > repeats, "weight_sets", sets, "must not exceed repeats")
    table["after"] = _dependencies(columns.get("after"), rows, source)
    return {name: table[name] for name in SCHEMA}


def _text(values: Sequence, column: Column, source: str) -> np.ndarray:
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise TraceError(f"{source}: row {row}: {column.name} is missing or not text, got {value!r}")
        if not value.isprintable() or value != value.strip():
            raise TraceError(
                f"{source}: row {row}: {column.name} must be printable text without spaces around it, got {value!r}"
            )
        if column.choices and value not in column.choices:
            raise TraceError(f"{source}: row {row}: unknown {column.name} {value!r}{nearest(value, column.choices)}")
    return _frozen(np.array(values, dtype=str))


def _whole_numbers(values: Sequence, column: Column, source: str) -> np.ndarray:
    """int64 array of a counted column; text from a csv is read as a number."""
    if isinstance(values, np.ndarray) and values.dtype == np.int64:
        array = values.copy()
    else:
        array = np.empty(len(values), dtype=np.int64)
        for row, value in enumerate(values):
            array[row] = _whole_number(value, f"{source}: row {row}: {column.name}")
    least = 1 if column.kind == "count" else 0
    low = np.flatnonzero(array < least)
    if low.size:
        value = array[low[0]]
        raise TraceError(f"{source}: row {low[0]}: {column.name} must be {least} or more, got {value}")
    return _frozen(array)


def _whole_number(value, where: str) -> int:
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise TraceError(f"{where} must be a whole number, got {value!r}") from None
    real = isinstance(value, (float, np.floating)) and math.isfinite(value)
    if not _is_integer(value) and not (real and value == int(value)):
        raise TraceError(f"{where} must be a whole number, got {value!r}")
    number = int(value)
    if abs(number) >= 2**63:
        raise TraceError(f"{where} is beyond 64 bits, got {value!r}")
    return number


def _refuse(source: str, wrong: np.ndarray, column: str, values: np.ndarray, rule: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise TraceError(f"{source}: row {rows[0]}: {column} {rule}, got {values[rows[0]]}")


def _check_products(table: dict, source: str) -> None:
    product = np.isin(table["kind"], PRODUCTS)
    volume = 2.0
    for name in ("batch", "m", "n", "k"):
        size = table[name]
        _refuse(source, product & (size == 0), name, size, "of a product must be 1 or more")
        _refuse(source, ~product & (size != 0), name, size, "must be 0 where the row is not a product")
        volume = volume * size
    flops = table["matrix_flops"]
    _refuse(source, product & (flops == 0), "matrix_flops", flops, "of a product must be above 0")
    _refuse(source, flops > volume * (1 + 1e-15), "matrix_flops", flops, "exceed 2 batch m n k of the row")
    work = flops.astype(float) + table["vector_flops"] + table["special_ops"]
    work = work + sum(table[c].astype(float) for c in _TRAFFIC)
    _refuse(source, work == 0, "kind", table["kind"], "has neither operations nor bytes: it cannot be costed")


def _dependencies(values, rows: int, source: str) -> tuple[tuple[int, ...], ...]:
    if values is None:
        return ((), *((row,) for row in range(rows - 1)))
    result = []
    for row, value in enumerate(values):
        where = f"{source}: row {row}: after"
        if value is None:  # a mapping without the key: after the row before it
            value = (row - 1,) if row else ()
        if isinstance(value, str):
            value = [v for v in value.split(";") if v.strip()]
        elif _is_integer(value):
            value = [value]
        elif not isinstance(value, Iterable):
            raise TraceError(f"{where} must be row numbers, got {value!r}")
        numbers = tuple(sorted({_whole_number(v, where) for v in value}))
        for number in numbers:
            if not 0 <= number < row:
                raise TraceError(f"{where} must name earlier rows (0 to {row - 1}), got {number}")
        result.append(numbers)
    return tuple(result)
