"""The schema of a trace: its columns with unit, default and meaning; element types; validation."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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


#: Steps of a recurrence that runs in stretches, at the end of the label of its layer.
STRETCH = re.compile(r"\[\d+:\d+\]$")


class TraceError(ValueError):
    """A trace that cannot be costed: the message names source, row, column and value."""


class AssumedSizes(UserWarning):
    """A file does not say how many sequences and positions its trace processes: one of each is assumed."""


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
        Column(
            "layer",
            "text",
            "",
            None,
            "the layer this op belongs to; its rows share the label, or name a stretch of its steps (lstm.0[0:20])",
        ),
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
            "Rows of one layer with the same number above 1 alternate step by step; a row of kind scan with no other "
            "to alternate with is one kernel, which carries its state from step to step and holds its weights",
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
            "distinct weight sets among the runs: 1 for a recurrence, L for L identical layers. More than there are "
            "recurrences (repeats / serial_steps): each recurrence uses its sets in turn, as a step through L layers",
        ),
        Column("reach_back", "amount", "positions", 0, "how many earlier sequence positions one run looks at"),
        Column("reach_ahead", "amount", "positions", 0, "how many later sequence positions one run looks at"),
        Column("after", "rows", "row numbers", None, "rows (counted from 0) that must be complete before it starts"),
    )
}

_COUNTED = tuple(name for name, column in SCHEMA.items() if column.kind in ("amount", "count"))
_TEXT = tuple(name for name, column in SCHEMA.items() if column.kind in ("text", "choice"))
TRAFFIC = ("weight_bytes", "input_bytes", "output_bytes", "state_bytes", "cache_bytes")


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)`: what begins with the name, else what is spelt like it, else the list of valid names."""
    valid, given = [str(v) for v in valid], str(name).lower()
    begin = [v for v in valid if given and v.lower().startswith(given)]
    if 0 < len(begin) <= 3:
        return f" (did you mean {' or '.join(map(repr, begin))}?)"
    close = difflib.get_close_matches(given, [v.lower() for v in valid], n=1, cutoff=0.5)
    if close:
        return f" (did you mean {next(v for v in valid if v.lower() == close[0])!r}?)"
    return f" (valid: {', '.join(valid)})"


def whole_layer(label: str) -> str:
    """The layer a label belongs to: "lstm.0[0:20]", the first 20 steps of a recurrence, is part of "lstm.0"."""
    return STRETCH.sub("", label)


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


def is_integer(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def validated(columns: Mapping[str, Sequence], source: str) -> dict:
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
    return frozen(np.array(values, dtype=str))


def _whole_numbers(values: Sequence, column: Column, source: str) -> np.ndarray:
    """int64 array of a counted column; text from a csv is read as a number."""
    if isinstance(values, np.ndarray) and values.dtype == np.int64:
        array = values.copy()
    elif set(map(type, values)) == {int} and all(abs(value) < 2**63 for value in values):
        array = np.array(values, dtype=np.int64)  # what builders give; one by one takes many times as long
    else:
        array = np.empty(len(values), dtype=np.int64)
        for row, value in enumerate(values):
            array[row] = _whole_number(value, f"{source}: row {row}: {column.name}")
    least = 1 if column.kind == "count" else 0
    if array.min() < least:
        row = np.flatnonzero(array < least)[0]
        raise TraceError(f"{source}: row {row}: {column.name} must be {least} or more, got {array[row]}")
    return frozen(array)


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
    if not is_integer(value) and not (real and value == int(value)):
        raise TraceError(f"{where} must be a whole number, got {value!r}")
    number = int(value)
    if abs(number) >= 2**63:
        raise TraceError(f"{where} is beyond 64 bits, got {value!r}")
    return number


def _refuse(source: str, wrong: np.ndarray, column: str, values: np.ndarray, rule: str) -> None:
    if wrong.any():
        row = np.flatnonzero(wrong)[0]
        raise TraceError(f"{source}: row {row}: {column} {rule}, got {values[row]}")


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
    work = work + sum(table[c].astype(float) for c in TRAFFIC)
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
        elif is_integer(value):
            value = [value]
        elif not isinstance(value, Iterable):
            raise TraceError(f"{where} must be row numbers, got {value!r}")
        numbers = tuple(sorted({_whole_number(v, where) for v in value}))
        for number in numbers:
            if not 0 <= number < row:
                raise TraceError(f"{where} must name earlier rows (0 to {row - 1}), got {number}")
        result.append(numbers)
    return tuple(result)
