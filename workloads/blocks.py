"""Building blocks: each makes a one-row `Trace` that composes with `concatenate`, `+` and `*`.

`OPERATIONS` is the table of what everything outside the matrix products costs. Every block also has
a `.row`: the same block as a plain mapping, for builders that assemble many rows into one trace.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from workloads.trace import Trace, TraceError, element_bytes, nearest, tensor_bytes

#: Bytes of one index into an embedding table (a 32 bit integer).
INDEX_BYTES = 4
#: Layers of networks whose layers cannot share rows: beyond it a trace would no longer be short.
MOST_LAYERS_WITH_ROWS = 1000


@dataclass(frozen=True)
class Operation:
    """What one element costs: vector FLOP, special evaluations, tensors read; `row_special` once a row."""

    vector: int
    special: int
    reads: int
    meaning: str
    row_special: int = 0


#: Counts per element, from the shortest straightforward evaluation of the published definition.
#: An evaluation of exp, tanh, sigmoid, erf, a square root or a division is one special op.
OPERATIONS: dict[str, Operation] = {
    "softmax": Operation(4, 1, 1, "largest of the row, subtract it, exp, sum, scale"),
    "layer norm": Operation(7, 0, 1, "sum, centre, square, sum, scale, gain, offset; a root each row", 1),
    "rms norm": Operation(4, 0, 1, "square, sum, scale, gain; a root each row", 1),
    "relu": Operation(1, 0, 1, "compare with 0"),
    "clipped relu": Operation(2, 0, 1, "compare with 0 and with the ceiling"),
    "gelu": Operation(8, 1, 1, "tanh form: x (1 + tanh(a (x + b x^3))) / 2 (Hendrycks and Gimpel 2016)"),
    "silu": Operation(1, 1, 1, "x sigmoid(x)"),
    "tanh": Operation(0, 1, 1, "tanh"),
    "sigmoid": Operation(0, 1, 1, "sigmoid"),
    "multiply": Operation(1, 0, 2, "product of two tensors"),
    "add": Operation(1, 0, 2, "sum of two tensors"),
    "maximum": Operation(1, 0, 2, "larger of two tensors"),
    "residual add": Operation(1, 0, 2, "sum with what went into the block"),
    "bias add": Operation(1, 0, 1, "sum with a vector of parameters"),
    "rotary": Operation(3, 0, 1, "two products and a sum with stored cosines and sines (Su et al. 2021)"),
    "batch norm": Operation(2, 0, 1, "stored scale and shift, as when not training"),
    # Cells of recurrent networks, for each hidden unit; the sums of input part, recurrent part and
    # bias come on top, one add each (see workloads.recurrent).
    "lstm cell": Operation(4, 5, 4, "f c + i g, o tanh(c): 4; sigmoid of i, f, o, tanh of g and c: 5"),
    "gru cell": Operation(4, 3, 3, "r times the recurrent part, n + z (h - n): 4; sigmoid of r, z, tanh of n: 3"),
    "tanh cell": Operation(0, 1, 1, "tanh"),
    "relu cell": Operation(1, 0, 1, "compare with 0"),
}

ACTIVATIONS = ("relu", "clipped relu", "gelu", "silu", "tanh", "sigmoid")
NORMS = ("layer", "rms")
COLLECTIVES = ("all reduce", "all gather", "reduce scatter", "all to all", "broadcast", "send")


# -- checks and helpers shared by the builders -------------------------------------------------------


def check_counts(where: str, /, least: int = 1, **values) -> None:
    """Raise `TraceError` naming the argument unless each value is a whole number of `least` or more, within 64 bits."""
    for name, value in values.items():
        number = as_integer(value)
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise TraceError(f"{where}: {name} must be a whole number of {least} or more, got {value!r}")
        if number >= 2**63:  # not shown: it may have thousands of digits
            raise TraceError(f"{where}: {name} is beyond 64 bits, got a number of {number.bit_length()} bits")


def refuse_without(where: str, needed: str, /, **values) -> None:
    """Raise `TraceError` for the first argument that is given (not None), though the one it belongs to is not."""
    for name, value in values.items():
        if value is not None:
            raise TraceError(f"{where}: {name} needs {needed}, got {value!r}")


def check_own_rows(where: str, /, **values) -> None:
    """Raise `TraceError` naming the argument for more layers than a trace should have rows of their own for."""
    for name, value in values.items():
        if value > MOST_LAYERS_WITH_ROWS:
            raise TraceError(
                f"{where}: {name} must be {MOST_LAYERS_WITH_ROWS} or fewer, as each has rows of its own, got {value}"
            )


def as_integer(value):
    """`value` as a Python integer, which cannot overflow, where it is a whole number of any type; else as it is."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):  # True is not a size
        return value
    try:
        return operator.index(value)
    except TypeError:  # an array of several
        return value


def plain_integers(builder: Callable) -> Callable:
    """A builder that turns numpy integers among its arguments into Python ones."""

    @functools.wraps(builder)
    def build(*args, **settings):
        return builder(*map(as_integer, args), **{name: as_integer(value) for name, value in settings.items()})

    return build


def check_flags(where: str, **values) -> None:
    """Raise `TraceError` naming the argument unless each value is True or False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TraceError(f"{where}: {name} must be True or False, got {value!r}")


def check_choice(where: str, name: str, value, choices: Iterable) -> None:
    """Raise `TraceError` naming the argument and the nearest choice unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise TraceError(f"{where}: {name}: unknown {value!r}{nearest(value, choices)}")


@dataclass(frozen=True)
class Types:
    """Element types of one row: of the arithmetic, of the stored weights, of the stored activations."""

    dtype: str
    weight_dtype: str
    activation_dtype: str

    def weights(self, elements: int) -> int:
        """Bytes of so many stored weights."""
        return tensor_bytes(int(elements), self.weight_dtype)

    def activations(self, elements: int) -> int:
        """Bytes of so many stored activations."""
        return tensor_bytes(int(elements), self.activation_dtype)

    @property
    def columns(self) -> dict[str, str]:
        """The three type columns of a row."""
        return {
            "dtype": self.dtype,
            "weight_dtype": self.weight_dtype,
            "activation_dtype": self.activation_dtype,
        }


def element_types(where: str, dtype: str, weight_dtype: str | None, activation_dtype: str | None) -> Types:
    """The three types, storage types defaulting to `dtype`. Raises `TraceError` naming the argument."""
    chosen = {
        "dtype": dtype,
        "weight_dtype": dtype if weight_dtype is None else weight_dtype,
        "activation_dtype": dtype if activation_dtype is None else activation_dtype,
    }
    for name, value in chosen.items():
        try:
            element_bytes(value)
        except TraceError as error:
            raise TraceError(f"{where}: {name}: {error}") from None
    return Types(**chosen)


def layer_label(name: str, first: int, last: int) -> str:
    """Label of layers folded in one row: "lstm.0", "lstm.1-3"."""
    return f"{name}.{first}" if first == last else f"{name}.{first}-{last}"


def relabelled(trace: Trace, layer: str) -> Trace:
    """The trace with all rows in one layer."""
    return trace.replace(layer=[layer] * len(trace))


def each_step(trace: Trace, steps: int) -> Trace:
    """A trace that runs once a step, with the same weights."""
    return trace.scaled(steps, share_weights=True).replace(serial_steps=[steps] * len(trace))


def series(parts: Iterable[Sequence[Mapping]]) -> list[dict]:
    """Rows of all parts, each part after the one before it (as `concatenate` does with traces).

    `after` counts rows within a part; a row without it waits for the row before it in its part, and
    a row with an empty one for the last rows of the part before.
    """
    rows: list[dict] = []
    ends: tuple[int, ...] = ()
    for part in parts:
        offset, waited_for = len(rows), set()
        for number, row in enumerate(part):
            after = row.get("after", (number - 1,) if number else ())
            waited_for.update(after)
            rows.append({**row, "after": tuple(a + offset for a in after) or ends})
        if part:
            ends = tuple(i + offset for i in range(len(part)) if i not in waited_for)
    return rows


def block(row: Callable[..., dict]) -> Callable[..., Trace]:
    """Turn a function that returns one row for given `types` into a builder of a one-row trace.

    The builder takes `dtype`, `weight_dtype` and `activation_dtype` instead of `types`.
    """
    name = row.__name__

    @plain_integers
    @functools.wraps(row)
    def build(*args, dtype="fp32", weight_dtype=None, activation_dtype=None, **settings) -> Trace:
        types = element_types(name, dtype, weight_dtype, activation_dtype)
        return Trace.from_rows([row(*args, types=types, **settings)], name=name, source=name)

    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [p for p in inspect.signature(row).parameters.values() if p.name != "types"]
    shown += [
        inspect.Parameter(n, keyword, default=d)
        for n, d in (("dtype", "fp32"), ("weight_dtype", None), ("activation_dtype", None))
    ]
    build.__signature__ = inspect.Signature(shown, return_annotation=Trace)
    build.row = row
    return build


# -- products ----------------------------------------------------------------------------------------


@block
def linear(
    m: int, n: int, k: int, *, types: Types, batch: int = 1, bias: bool = True, layer="linear", op="product"
) -> dict:
    """A product with weights: (m, k) activations times (k, n) weights, plus a bias of n.

    `batch` independent products each have their own weights and rows (the gates of a cell, experts).
    2 batch m n k FLOP; the bias is one vector FLOP for each result. Raises `TraceError` naming the
    argument that is not a positive whole number or the unknown element type.
    """
    check_counts("linear", m=m, n=n, k=k, batch=batch)
    check_flags("linear", bias=bias)
    parameters = batch * n * (k + bias)
    return {
        "layer": layer,
        "op": op,
        "kind": "matmul",
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "matrix_flops": 2 * batch * m * n * k,
        "vector_flops": batch * m * n * OPERATIONS["bias add"].vector if bias else 0,
        "parameters": parameters,
        "weight_bytes": types.weights(parameters),
        "input_bytes": types.activations(batch * m * k),
        "output_bytes": types.activations(batch * m * n),
        **types.columns,
    }


@block
def matmul(m: int, n: int, k: int, *, types: Types, batch: int = 1, layer="matmul", op="product") -> dict:
    """`batch` products of two activations, (m, k) times (k, n): no weights. 2 batch m n k FLOP.

    Raises `TraceError` naming the argument that is not a positive whole number or the unknown type.
    """
    check_counts("matmul", m=m, n=n, k=k, batch=batch)
    return {
        "layer": layer,
        "op": op,
        "kind": "matmul",
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "matrix_flops": 2 * batch * m * n * k,
        "input_bytes": types.activations(batch * (m + n) * k),
        "output_bytes": types.activations(batch * m * n),
        **types.columns,
    }


@block
def vocabulary_projection(
    rows: int,
    vocabulary: int,
    hidden: int,
    *,
    types: Types,
    tied: bool = False,
    bias: bool = False,
    layer="head",
    op="vocabulary projection",
) -> dict:
    """Logits of `rows` positions: a product with a (hidden, vocabulary) matrix.

    `tied`: the matrix is the embedding table, so it is read here but its parameters belong to the
    embedding; a bias belongs here. Raises `TraceError` naming the argument that is not a positive whole number.
    """
    check_counts("vocabulary_projection", rows=rows, vocabulary=vocabulary, hidden=hidden)
    check_flags("vocabulary_projection", tied=tied, bias=bias)
    row = linear.row(rows, vocabulary, hidden, types=types, bias=bias, layer=layer, op=op)
    return row | {"parameters": row["parameters"] - tied * vocabulary * hidden}


# -- look-ups ----------------------------------------------------------------------------------------


@block
def embedding(
    rows: int, vocabulary: int, hidden: int, *, types: Types, layer="embedding", op="token embedding"
) -> dict:
    """`rows` look-ups in a (vocabulary, hidden) table: a gather, not a product.

    Reads the rows it picks (no more than the table has, as repeated rows are read once) and one
    32 bit index each; holds the whole table. Raises `TraceError` naming the argument that is not a
    positive whole number.
    """
    check_counts("embedding", rows=rows, vocabulary=vocabulary, hidden=hidden)
    return {
        "layer": layer,
        "op": op,
        "kind": "gather",
        "parameters": vocabulary * hidden,
        "weight_bytes": types.weights(min(rows, vocabulary) * hidden),
        "input_bytes": rows * INDEX_BYTES,
        "output_bytes": types.activations(rows * hidden),
        **types.columns,
    }


# -- everything between the products -----------------------------------------------------------------


@block
def softmax(rows: int, columns: int, *, types: Types, layer="softmax", op="softmax") -> dict:
    """Softmax over each of `rows` rows of `columns` values; 4 vector FLOP and 1 special op a value.

    Raises `TraceError` naming the argument that is not a positive whole number.
    """
    check_counts("softmax", rows=rows, columns=columns)
    cost, elements = OPERATIONS["softmax"], rows * columns
    return {
        "layer": layer,
        "op": op,
        "kind": "softmax",
        "vector_flops": cost.vector * elements,
        "special_ops": cost.special * elements,
        "input_bytes": types.activations(elements),
        "output_bytes": types.activations(elements),
        **types.columns,
    }


@block
def normalisation(
    rows: int, columns: int, *, types: Types, norm: str = "layer", bias: bool = True, layer="norm", op="norm"
) -> dict:
    """Normalise each of `rows` rows of `columns` values, then scale (and shift) by parameters.

    `norm`: "layer" (Ba et al. 2016; gain, and offset if `bias`) or "rms" (Zhang and Sennrich 2019; gain only).
    Raises `TraceError` naming the argument that is not a positive whole number or not a known norm.
    """
    check_counts("normalisation", rows=rows, columns=columns)
    check_choice("normalisation", "norm", norm, NORMS)
    check_flags("normalisation", bias=bias)
    cost, elements = OPERATIONS[f"{norm} norm"], rows * columns
    offset = norm == "layer" and bias
    spared = norm == "layer" and not bias  # no offset to add
    parameters = columns * (1 + offset)
    return {
        "layer": layer,
        "op": op,
        "kind": "normalisation",
        "vector_flops": (cost.vector - spared) * elements,
        "special_ops": cost.row_special * rows,
        "parameters": parameters,
        "weight_bytes": types.weights(parameters),
        "input_bytes": types.activations(elements),
        "output_bytes": types.activations(elements),
        **types.columns,
    }


@block
def elementwise(
    elements: int,
    function: str = "relu",
    *,
    types: Types,
    gated: bool = False,
    layer="elementwise",
    op: str | None = None,
) -> dict:
    """Apply `function` (a name in `OPERATIONS`) to each of `elements` results.

    `gated`: the result of the function is multiplied by a second tensor of the same size (gated MLP).
    `op` defaults to the name of the function. Raises `TraceError` naming the argument that is not a positive whole
    number or not a known function.
    """
    check_counts("elementwise", elements=elements)
    check_choice("elementwise", "function", function, OPERATIONS)
    check_flags("elementwise", gated=gated)
    cost = OPERATIONS[function]
    return {
        "layer": layer,
        "op": op or function,
        "kind": "elementwise",
        "vector_flops": (cost.vector + gated) * elements,
        "special_ops": cost.special * elements,
        "input_bytes": types.activations((cost.reads + gated) * elements),
        "output_bytes": types.activations(elements),
        **types.columns,
    }


@block
def copy(elements: int, *, types: Types, layer="copy", op="copy") -> dict:
    """Move `elements` values: no operations, but its bytes are read and written.

    Raises `TraceError` naming the argument that is not a positive whole number.
    """
    check_counts("copy", elements=elements)
    size = types.activations(elements)
    return {
        "layer": layer,
        "op": op,
        "kind": "copy",
        "input_bytes": size,
        "output_bytes": size,
        **types.columns,
    }


@block
def collective(
    sent_bytes: int, *, types: Types, operation: str = "all reduce", layer="collective", op: str | None = None
) -> dict:
    """An exchange with other devices in which this one sends `sent_bytes` over its link.

    What a collective sends depends on its algorithm (a ring all reduce of S bytes over p devices sends
    2 S (p - 1) / p); `operation` only names it. Raises `TraceError` naming the argument that is not a positive whole
    number or not a known operation.
    """
    check_counts("collective", sent_bytes=sent_bytes)
    check_choice("collective", "operation", operation, COLLECTIVES)
    return {
        "layer": layer,
        "op": op or operation,
        "kind": "collective",
        "input_bytes": sent_bytes,
        **types.columns,
    }
