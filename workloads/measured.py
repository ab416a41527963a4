"""Measurements: traces with the time they took. A table of timings, one row one measurement, becomes `Measurements`.

`MEASURED_OPS` is the glossary of the table: which columns hold the sizes of each op.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workloads.blocks import element_types, elementwise, linear, matmul, normalisation, softmax
from workloads.encoder_decoder import encoder_decoder
from workloads.libraries import packed_weights, separate_cells
from workloads.recurrent import gru, lstm, rnn
from workloads.schema import PHASES
from workloads.trace import Trace, TraceError, element_bytes, nearest
from workloads.training import training
from workloads.transformer import transformer

#: Seconds of one unit of each column that may hold the time.
TIME_UNITS = {"time_s": 1.0, "time_ms": 1e-3, "time_us": 1e-6}
#: Columns that are not sizes. `harness` names what was timed together with the op: rows that share one share its cost.
LABELS = ("device", "set", "harness", "op", "dtype", "phase", "network", "note")
#: What a measured network or recurrence may be timed over.
MEASURED_PHASES = (*PHASES, "backward", "training")


@dataclass(frozen=True)
class MeasuredOp:
    """How rows of one op are read: sizes it must have, sizes with a default, and what makes its trace rows."""

    kind: str
    required: tuple[str, ...]
    optional: Mapping[str, int]
    build: Callable[[dict, str, str], list[dict]]
    meaning: str

    @property
    def sizes(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measured traces, one after another in `trace`.

    first: row of `trace` each measurement begins at, (measurements,). time_s: what it took, (measurements,) [s].
    labels: text by measurement: device, set, harness, op, kind, dtype, phase, network, and `shape`, equal for
    measurements that differ only in what no split into fitted and judged rows may separate. source: the files.
    """

    trace: Trace
    first: np.ndarray
    time_s: np.ndarray
    labels: Mapping[str, np.ndarray]
    source: str = field(default="measurements", repr=False)

    def __len__(self):
        return len(self.time_s)

    def __getattr__(self, name):
        if name in ("labels", "__setstate__"):
            raise AttributeError(name)
        if name in self.labels:
            return self.labels[name]
        raise AttributeError(f"Measurements has no attribute {name!r}")

    def __repr__(self):
        return f"Measurements({len(self):,} of {', '.join(dict.fromkeys(self.device.tolist()))})"

    @property
    def owner(self) -> np.ndarray:
        """The measurement each row of `trace` belongs to. (rows,)"""
        return np.repeat(np.arange(len(self)), np.diff(np.append(self.first, len(self.trace))))

    def select(self, which: np.ndarray) -> Measurements:
        """Those that a mask or index array (measurements,) picks, in their order. Raises `TraceError` for none."""
        picked = np.arange(len(self))[which]
        if not len(picked):
            raise TraceError(f"{self.source}: no measurement is selected")
        counts = np.diff(np.append(self.first, len(self.trace)))
        rows = np.concatenate([np.arange(self.first[p], self.first[p] + counts[p]) for p in picked])
        number = np.full(len(self.trace), -1)
        number[rows] = np.arange(len(rows))
        columns = {name: values[rows] for name, values in self.trace.columns.items() if name != "after"}
        columns["after"] = [tuple(number[a] for a in self.trace.after[r]) for r in rows]
        trace = Trace(columns, name=self.trace.name, source=self.source)
        first = np.cumsum(counts[picked]) - counts[picked]
        labels = {name: values[picked] for name, values in self.labels.items()}
        return Measurements(trace, first, self.time_s[picked], labels, self.source)


def from_timings(path: str | Path) -> Measurements:
    """Measurements of a csv file: a header, one row a measurement; lines that begin with # are comments.

    Columns: `op` (a name in `MEASURED_OPS`), the time in one of `time_s`, `time_ms`, `time_us`, the sizes of the op
    (an empty cell takes the default), `dtype` (fp32), and, where they matter, `device`, `set`, `harness`, `phase`
    (forward), `network`, `note`.

    Raises `TraceError` naming file, line, column and value: no such file, unknown or missing column, unknown op,
    element type or phase, a size that is no positive whole number, a time that is not above zero, no rows.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    numbered = [(n, line) for n, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    if len(numbered) < 2:
        raise TraceError(f"{path}: no measurements: a header line and one line a measurement are expected")
    header, *cells = csv.reader([line for _, line in numbered])
    records = []
    for (number, _), row in zip(numbered[1:], cells, strict=True):
        if len(row) != len(header):
            raise TraceError(f"{path}: line {number}: {len(row)} cells where the header has {len(header)}")
        records.append({"line": number} | dict(zip(header, row, strict=True)))
    return measurements(records, str(path))


def measurements(records: Iterable[Mapping], source: str = "measurements") -> Measurements:
    """Measurements of mappings with the columns of `from_timings`; errors name `source` and the number of the row."""
    records = [dict(record) for record in records]
    if not records:
        raise TraceError(f"{source}: no measurements")
    unit = _check_columns(records[0], source)
    rows, first, time_s = [], [], []
    labels: dict[str, list[str]] = {name: [] for name in (*LABELS, "kind", "shape")}
    for number, record in enumerate(records):
        where = f"{source}: line {record['line']}" if "line" in record else f"{source}: row {number}"
        made, told = _one(record, where)
        first.append(len(rows))
        for i, row in enumerate(made):
            after = tuple(a + first[-1] for a in row.get("after", (i - 1,) if i else ()))
            # what one measurement keeps for its backward pass is nothing to the others
            rows.append(row | {"layer": f"{number} {row['layer']}", "after": after, "saved_bytes": 0})
        time_s.append(_positive(record[unit], f"{where}: {unit}") * TIME_UNITS[unit])
        for name, value in told.items():
            labels[name].append(value)
    trace = Trace.from_rows(rows, name="measurements", source=source)
    text = {name: np.array(values, dtype=str) for name, values in labels.items()}
    return Measurements(trace, np.array(first), np.array(time_s), text, source)


def joined(parts: Sequence[Measurements]) -> Measurements:
    """All measurements of several tables, in their order."""
    if not parts:
        raise TraceError("joined: no measurements")
    columns: dict[str, list] = {name: [] for name in parts[0].trace.columns}
    first, offset, count = [], 0, 0
    for part in parts:
        for name, values in part.trace.columns.items():
            if name == "after":
                columns[name] += [tuple(a + offset for a in after) for after in values]
            elif name == "layer":
                columns[name] += [f"{count + int(label.split(' ', 1)[0])} {label.split(' ', 1)[1]}" for label in values]
            else:
                columns[name] += values.tolist()
        first.append(part.first + offset)
        offset, count = offset + len(part.trace), count + len(part)
    labels = {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels}
    trace = Trace(columns, name="measurements", source=parts[0].source)
    sources = ", ".join(dict.fromkeys(part.source for part in parts))
    return Measurements(trace, np.concatenate(first), np.concatenate([p.time_s for p in parts]), labels, sources)


# -- reading one row ---------------------------------------------------------------------------------


def _check_columns(record: Mapping, source: str) -> str:
    """The column that holds the time."""
    sizes = {size for op in MEASURED_OPS.values() for size in op.sizes}
    known = {*LABELS, *TIME_UNITS, *sizes, "line"}
    for name in record:
        if name not in known:
            raise TraceError(f"{source}: unknown column {name!r}{nearest(name, known - {'line'})}")
    units = [name for name in TIME_UNITS if name in record]
    if len(units) != 1:
        raise TraceError(
            f"{source}: one column of {', '.join(TIME_UNITS)} is expected, got {', '.join(units) or 'none'}"
        )
    if "op" not in record:
        raise TraceError(f"{source}: column 'op' is missing")
    return units[0]


def _one(record: Mapping, where: str) -> tuple[list[dict], dict[str, str]]:
    """Trace rows of one measurement, and its labels."""
    told = {name: str(record.get(name) or "") for name in LABELS}
    op = told["op"]
    if op not in MEASURED_OPS:
        raise TraceError(f"{where}: unknown op {op!r}{nearest(op, MEASURED_OPS)}")
    phase = told["phase"] = told["phase"] or "forward"
    if phase not in MEASURED_PHASES:
        raise TraceError(f"{where}: unknown phase {phase!r}{nearest(phase, MEASURED_PHASES)}")
    measured, dtype = MEASURED_OPS[op], told["dtype"] or "fp32"
    sizes = {}
    for name in measured.sizes:
        value = record.get(name)
        if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
            if name in measured.required:
                raise TraceError(f"{where}: {op} needs {name}")
            sizes[name] = measured.optional[name]
        else:
            sizes[name] = _whole(value, f"{where}: {name}", 0 if name in measured.optional else 1)
    try:
        made = measured.build(sizes, dtype, phase)
    except TraceError as error:
        raise TraceError(f"{where}: {error}") from None
    told |= {"dtype": dtype, "kind": measured.kind}
    told["set"] = told["set"] or "measured"
    told["device"] = told["device"] or "device"
    told["harness"] = told["harness"] or f"{told['set']} {op}"
    apart = {name: size for name, size in sizes.items() if name not in _SAME_SHAPE}
    told["shape"] = " ".join([op, told["network"], *(f"{name}={size}" for name, size in apart.items())])
    return made, told


#: Sizes that do not make another shape: rows that differ in them alone stay on one side of any split.
_SAME_SHAPE = ("timesteps",)


def _positive(value, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise TraceError(f"{where} must be above zero, got {value!r}")
    return number


def _whole(value, where: str, least: int) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number >= least and math.isfinite(number) and number == int(number)):
        raise TraceError(f"{where} must be a whole number of {least} or more, got {value!r}")
    return int(number)


# -- trace rows of each op ---------------------------------------------------------------------------


def _types(dtype: str):
    return element_types("measurements", dtype, None, None)


def _only_forward(op: str, phase: str) -> None:
    if phase != "forward":
        raise TraceError(f"phase: {op} is measured forward alone, got {phase!r}")


def _linear(sizes: dict, dtype: str, phase: str) -> list[dict]:
    _only_forward("linear", phase)
    return [linear.row(sizes["m"], sizes["n"], sizes["k"], types=_types(dtype), bias=bool(sizes["bias"]))]


def _matmul(sizes: dict, dtype: str, phase: str) -> list[dict]:
    _only_forward("matmul", phase)
    return [matmul.row(sizes["m"], sizes["n"], sizes["k"], batch=sizes["batch"], types=_types(dtype))]


def _attention(sizes: dict, dtype: str, phase: str) -> list[dict]:
    """Fused attention of q_len new positions to kv_len: the attention row of a block with a cache."""
    _only_forward("attention", phase)
    from workloads.attention import attention

    heads, past = sizes["heads"], sizes["kv_len"] - sizes["q_len"]
    if past < 0:
        raise TraceError(f"kv_len must be at least q_len ({sizes['q_len']}), got {sizes['kv_len']}")
    trace = attention(
        heads * sizes["head_dim"], heads, sequence_length=sizes["q_len"], batch=sizes["batch"],
        kv_heads=sizes["kv_heads"] or heads, head_dim=sizes["head_dim"], causal=bool(sizes["causal"]) or past > 0,
        cache_length=past, dtype=dtype,
    )  # fmt: skip
    return [row | {"after": ()} for row in trace.rows() if row["kind"] == "attention"]


def _vector(function: str):
    def build(sizes: dict, dtype: str, phase: str) -> list[dict]:
        _only_forward(function, phase)
        return [elementwise.row(sizes["rows"] * sizes["columns"], function, types=_types(dtype))]

    return build


def _by_row(block, **settings):
    def build(sizes: dict, dtype: str, phase: str) -> list[dict]:
        _only_forward(block.__name__, phase)
        return [block.row(sizes["rows"], sizes["columns"], types=_types(dtype), **settings)]

    return build


def _recurrent(builder):
    def build(sizes: dict, dtype: str, phase: str) -> list[dict]:
        """Without an input size the input product is not part of what was timed (cuDNN's skip-input mode)."""
        trace = builder(
            sizes["layers"], sizes["hidden"], sequence_length=sizes["timesteps"], batch=sizes["batch"],
            input_size=sizes["input_size"] or None, bidirectional=bool(sizes["bidirectional"]), dtype=dtype,
        )  # fmt: skip
        trace = packed_weights(trace) if sizes["packed_weights"] else trace
        trace = trace.fused if sizes["fused_cells"] else trace
        trace = separate_cells(trace) if sizes["separate_cells"] else trace
        rows = _of_phase(trace, phase, input_gradients=not sizes["input_size"])
        if sizes["input_size"]:
            return rows
        return _without(rows, [row["op"].startswith("input product") for row in rows])

    return build


def _network(sizes: dict, dtype: str, phase: str) -> list[dict]:
    """A stack of identical blocks as eager frameworks run it: scores in memory, the whole square computed."""
    causal = bool(sizes["causal"])
    trace = transformer(
        sizes["layers"], sizes["hidden"], sizes["heads"], sizes["vocabulary"], inner=sizes["inner"] or None,
        sequence_length=sizes["sequence_length"], batch=sizes["batch"], causal=causal, pre_norm=causal,
        embedding_norm=not causal, segments=0 if causal else 2, logits="all" if sizes["logits"] else "none",
        pooler=not causal and not sizes["logits"], fused=False, skip_masked=False, dtype=dtype,
    )  # fmt: skip
    return _of_phase(trace.fused if sizes["compiled"] else _eager(trace, sizes), phase)


def _encoder_decoder(sizes: dict, dtype: str, phase: str) -> list[dict]:
    """T5 and its sparse variants with one expert a token: as many FLOP as the dense network."""
    trace = encoder_decoder(
        sizes["layers"], sizes["hidden"], sizes["heads"], sizes["vocabulary"], inner=sizes["inner"] or None,
        head_dim=sizes["head_dim"] or None, sequence_length=sizes["sequence_length"], batch=sizes["batch"],
        fused=False, skip_masked=False, bias=False, norm="rms", pre_norm=True, positions="none", dtype=dtype,
    )  # fmt: skip
    return _of_phase(_eager(trace, sizes), phase)


def _eager(trace: Trace, sizes: Mapping) -> Trace:
    """The trace with what eager code does besides: elementwise passes over scores, over a block's tensors of hidden
    size (heads apart and together, scaled queries), and the kernels of an activation written out."""
    rows, place = [], {}
    for number, row in enumerate(trace.rows()):
        after = tuple(place[a] for a in row["after"])
        before, behind = [], []
        if row["op"] == "softmax":
            before = [("score pass", row["output_bytes"])] * sizes["score_passes"]
        elif row["op"] == "output projection":
            size = row["batch"] * row["m"] * min(row["n"], row["k"])
            before = [("hidden pass", size * int(element_bytes(row["activation_dtype"])))] * sizes["hidden_passes"]
        elif row["op"] == "activation":
            behind = [("activation pass", row["output_bytes"])] * sizes["activation_passes"]
        counts = {c: row[c] for c in ("layer", "repeats", "path_runs", "dtype", "weight_dtype", "activation_dtype")}
        for op, moved in before:
            rows.append(_pass(op, moved, counts, after))
            after = (len(rows) - 1,)
        rows.append(row | {"after": after})
        for op, moved in behind:
            rows.append(_pass(op, moved, counts, (len(rows) - 1,)))
        place[number] = len(rows) - 1
    return Trace.from_rows(rows, name=trace.name, sequences=trace.sequences, tokens=trace.tokens, source=trace.source)


def _pass(op: str, moved: int, counts: Mapping, after: tuple) -> dict:
    """Read and write a tensor once, one operation an element."""
    elements = int(moved / element_bytes(counts["activation_dtype"]))
    return dict(counts) | {
        "op": op, "kind": "elementwise", "vector_flops": elements, "input_bytes": moved, "output_bytes": moved,
        "after": after,
    }  # fmt: skip


def _of_phase(trace: Trace, phase: str, input_gradients: bool = False) -> list[dict]:
    if phase == "forward":
        return list(trace.rows())
    rows = list(training(trace, input_gradients=input_gradients).rows())
    kept = {"training": ("forward", "input-gradient", "weight-gradient")}
    kept["backward"] = kept["training"][1:]
    return _without(rows, [row["phase"] not in kept.get(phase, (phase,)) for row in rows])


def _without(rows: list[dict], dropped: list[bool]) -> list[dict]:
    """Rows less some of them; who waited for one of those waits for what it waited for."""
    kept, place = [], {}
    for i, (row, drop) in enumerate(zip(rows, dropped, strict=True)):
        after = tuple(sorted({p for a in row["after"] for p in place[a]}))
        if drop:
            place[i] = after
        else:
            place[i] = (len(kept),)
            kept.append(row | {"after": after})
    if not kept:
        raise TraceError("phase: nothing of the network is in it")
    return kept


#: How the library works, 1 or 0: the cell in the epilogue of its product, or op by op; weights packed for each call
#: (see `workloads.libraries`).
_LIBRARY = {"fused_cells": 0, "separate_cells": 0, "packed_weights": 0}
_RECURRENT_SIZES = {"layers": 1, "input_size": 0, "bidirectional": 0, **_LIBRARY}
_EAGER = {"score_passes": 0, "hidden_passes": 0, "activation_passes": 0}
_NETWORK = ("layers", "hidden", "heads", "vocabulary", "sequence_length")

#: op of a measurement -> its sizes and what they mean.
MEASURED_OPS: dict[str, MeasuredOp] = {
    "linear": MeasuredOp("matmul", ("m", "n", "k"), {"bias": 1}, _linear, "(m, k) activations times (k, n) weights"),
    "matmul": MeasuredOp("matmul", ("m", "n", "k"), {"batch": 1}, _matmul, "batch products of two activations"),
    "attention": MeasuredOp(
        "attention", ("batch", "heads", "q_len", "kv_len", "head_dim"), {"kv_heads": 0, "causal": 1}, _attention,
        "fused attention of q_len new positions to kv_len",
    ),
    **{
        name: MeasuredOp("elementwise", ("rows", "columns"), {}, _vector(function), f"{function} of rows x columns")
        for name, function in {
            "add": "add", "multiply": "multiply", "relu": "relu", "gelu": "gelu", "tanh": "tanh", "sigmoid": "sigmoid",
        }.items()
    },
    "softmax": MeasuredOp("softmax", ("rows", "columns"), {}, _by_row(softmax), "softmax of each of the rows"),
    "layer norm": MeasuredOp(
        "normalisation", ("rows", "columns"), {}, _by_row(normalisation), "layer normalisation of each of the rows"
    ),
    **{
        name: MeasuredOp(
            "recurrent", ("hidden", "batch", "timesteps"), _RECURRENT_SIZES, _recurrent(builder),
            "recurrent layers over all steps; input_size 0: the input product is not in the time",
        )
        for name, builder in {"lstm": lstm, "gru": gru, "rnn": rnn}.items()
    },
    "transformer": MeasuredOp(
        "network", (*_NETWORK, "batch"), {"inner": 0, "causal": 0, "logits": 1, "compiled": 0} | _EAGER, _network,
        "a Transformer, unfused attention; causal 0: an encoder (logits 0: with a pooler instead)",
    ),
    "encoder decoder": MeasuredOp(
        "network", (*_NETWORK, "batch"), {"inner": 0, "head_dim": 0} | _EAGER, _encoder_decoder,
        "T5 and its sparse variants",
    ),
}  # fmt: skip
