"""Rows of one recorded PyTorch operator: what `torch_record` saw, in the terms of the trace. No torch in here.

An operator arrives as a `Call` whose tensors are `Operand`s. Products, look-ups, norms and recurrences use the
row functions of the builders, so an import and a builder agree; everything else takes its bytes from the operands
and its operations from `POINTWISE` and `REDUCTIONS`, where an evaluation of a division, root or transcendental is one
special operation, as in `workloads.blocks.OPERATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from workloads.attention import visible_pairs
from workloads.blocks import OPERATIONS, Types, embedding, linear, matmul, softmax
from workloads.recurrent import gru, lstm, rnn

#: Element types of PyTorch in the words of the trace. 64 bit integers are labelled int32; their bytes are real.
DTYPES = {
    "float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8", "float8_e4m3fnuz": "fp8", "float8_e5m2fnuz": "fp8", "float8_e8m0fnu": "fp8",
    "int64": "int32", "int32": "int32", "int16": "int16", "int8": "int8", "uint8": "int8", "uint16": "int16",
    "uint32": "int32", "uint64": "int32", "bool": "int8", "complex64": "fp64", "complex128": "fp64",
    "complex32": "fp32",
}  # fmt: skip


@dataclass
class Region:
    """The part of a parameter that an operand reads, and the ledger in which its parameters are counted once."""

    ledger: Ledger
    start: int
    span: int
    elements: int
    dtype: str

    def claim(self) -> int:
        """Parameters nothing counted before; they are counted now."""
        return self.ledger.claim(self.start, self.span, self.elements)


@dataclass
class Ledger:
    """One parameter of the module: how many of its elements rows have counted so far."""

    name: str
    size: int
    trained: bool
    counted: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)

    def claim(self, start: int, span: int, elements: int) -> int:
        """Count the part of [start, start + span) that no earlier call covered, at most `elements`."""
        end = start + span
        seen = sum(max(0, min(end, b) - max(start, a)) for a, b in self.spans)
        new = max(0, min(elements, span - seen, self.size - self.counted))
        if new:
            self.spans = _merged([*self.spans, (start, end)])
            self.counted += new
        return new


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


@dataclass
class Operand:
    """A tensor of a call: shape, element type, distinct elements it holds (an expanded one fewer than its shape)."""

    shape: tuple[int, ...]
    torch_dtype: str
    item_bytes: int
    stored: int
    weight: Region | None = None

    @property
    def dtype(self) -> str:
        return DTYPES.get(self.torch_dtype, "fp32")

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.stored * self.item_bytes

    @property
    def is_float(self) -> bool:
        return "float" in self.torch_dtype


@dataclass
class Call:
    """One operator: aten name, arguments by name (tensors as operands), results, whether it is elementwise."""

    name: str
    arguments: dict
    outputs: list[Operand]
    pointwise: bool = False
    changes: bool = False  # writes into one of its arguments
    slots: list[int] = field(default_factory=list)  # which of the operator's results each output is

    @property
    def operands(self) -> list[Operand]:
        """Every tensor among the arguments, lists flattened."""
        found: list[Operand] = []
        for value in self.arguments.values():
            found += [v for v in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(v, Operand)]
        return found

    def tensor(self, *names: str) -> Operand | None:
        """The first of the named arguments that is a tensor."""
        return next((self.arguments[n] for n in names if isinstance(self.arguments.get(n), Operand)), None)


# -- shared ------------------------------------------------------------------------------------------


def types_of(arithmetic: Operand, weight: Operand | None = None, stored: Operand | None = None) -> Types:
    """Element types of a row from its operands; a weight cast on the fly is stored in its own type."""
    stored = stored or arithmetic
    weight_dtype = weight.weight.dtype if weight is not None and weight.weight else arithmetic.dtype
    return Types(arithmetic.dtype, weight_dtype, stored.dtype)


def _columns(op: str, kind: str, types: Types) -> dict:
    return {"op": op, "kind": kind, **types.columns}


def streamed(
    call: Call, op: str, kind: str, vector: int = 0, special: int = 0, reads: bool = True, claims: bool = True
) -> dict:
    """A row that reads every operand once (weights apart) and writes every result; it counts parameters if `claims`."""
    result = call.outputs[0] if call.outputs else call.operands[0]
    arithmetic = next((o for o in call.operands if o.is_float), result)
    read = call.operands if reads else []
    weights = [o for o in read if o.weight]
    types = types_of(arithmetic, weights[0] if weights else None, result)
    row = _columns(op, kind, types) | {
        "vector_flops": vector,
        "special_ops": special,
        "input_bytes": sum(o.bytes for o in read if not o.weight),
        "output_bytes": sum(o.elements * o.item_bytes for o in call.outputs),
    }
    if weights:
        row |= {
            "weight_bytes": sum(o.bytes for o in weights),
            "parameters": sum(o.weight.claim() for o in weights) if claims else 0,
        }
    return row | weights_of(call.operands)


def weights_of(operands: list[Operand]) -> dict:
    """Names of the parameters a row reads."""
    return {"_weights": tuple(o.weight.ledger.name for o in operands if o.weight)}


# -- products ----------------------------------------------------------------------------------------


def product(
    a: Operand, b: Operand, bias: Operand | None, out: Operand, sizes: tuple, op: str = "product"
) -> list[dict]:
    """(m, k) times (k, n), `sizes` = (batch, m, n, k); either operand may be a weight. A bias or sum on top."""
    batch, m, n, k = sizes
    if 0 in sizes:
        return []
    if a.weight and not b.weight:  # W x: the same product transposed
        a, b, m, n = b, a, n, m
    if b.weight:
        if batch > 1 and b.stored < batch * n * k:  # one matrix for the whole batch
            batch, m = 1, batch * m
        row = _weighted(a, b, out, (batch, m, n, k), op)
    else:
        types = types_of(a, None, out)
        row = matmul.row(m, n, k, batch=batch, types=types, op=op) | {"input_bytes": a.bytes + b.bytes}
        row |= {"output_bytes": out.elements * out.item_bytes} | weights_of([a, b])
    return [_with_sum(row, bias, out) if bias is not None else row]


def _weighted(a: Operand, b: Operand, out: Operand, sizes: tuple, op: str) -> dict:
    batch, m, n, k = sizes
    row = linear.row(m, n, k, batch=batch, types=types_of(a, b, out), bias=False, op=op)
    parameters = b.weight.claim() + (a.weight.claim() if a.weight else 0)
    row |= {
        "parameters": parameters,
        "weight_bytes": b.bytes + (a.bytes if a.weight else 0),
        "input_bytes": 0 if a.weight else a.bytes,
        "output_bytes": out.elements * out.item_bytes,
    }
    return row | weights_of([a, b])


def _with_sum(row: dict, bias: Operand, out: Operand) -> dict:
    """The product plus a bias (parameters) or another tensor."""
    row = row | {"vector_flops": row.get("vector_flops", 0) + out.elements * OPERATIONS["bias add"].vector}
    if bias.weight:
        row["parameters"] = row.get("parameters", 0) + bias.weight.claim()
        row["weight_bytes"] = row.get("weight_bytes", 0) + bias.bytes
        row["_weights"] = (*row["_weights"], bias.weight.ledger.name)
    else:
        row["input_bytes"] += bias.bytes
    return row


def _mm(call: Call) -> list[dict]:
    a, b = call.tensor("self", "mat1"), call.tensor("mat2")
    a = call.tensor("mat1") or a
    bias = call.tensor("self", "input", "bias") if call.tensor("mat1") else call.tensor("bias")
    (m, k), n = a.shape, b.shape[1]
    return product(a, b, bias if bias is not a else None, call.outputs[0], (1, m, n, k))


def _bmm(call: Call) -> list[dict]:
    a, b = call.tensor("batch1", "self"), call.tensor("batch2", "mat2")
    bias = call.tensor("self") if call.tensor("batch1") else None
    batch, m, k = a.shape
    return product(a, b, bias, call.outputs[0], (batch, m, b.shape[2], k))


def _mv(call: Call) -> list[dict]:
    matrix, vector = call.tensor("mat") or call.tensor("self"), call.tensor("vec")
    bias = call.tensor("self") if call.tensor("mat") else None
    m, k = matrix.shape
    return product(matrix, vector, bias, call.outputs[0], (1, m, 1, k))


def _dot(call: Call) -> list[dict]:
    a, b = call.tensor("self"), call.tensor("tensor", "other")
    return product(a, b, None, call.outputs[0], (1, 1, 1, a.shape[0]))


def _linear(call: Call) -> list[dict]:
    a, b, out = call.tensor("input"), call.tensor("weight"), call.outputs[0]
    n, k = b.shape
    return product(a, b, call.tensor("bias"), out, (1, a.elements // max(k, 1), n, k))


def _grouped_mm(call: Call) -> list[dict]:
    """Rows of one tensor shared out among the matrices of another: their number is known, their shares are not."""
    a, b = call.tensor("self"), call.tensor("mat2")
    if len(a.shape) != 2 or len(b.shape) != 3:
        return unknown(call)
    groups, k, n = b.shape
    rows = product(a, b, call.tensor("bias"), call.outputs[0], (1, a.shape[0], n, k))
    return [row | {"op": f"product of {groups} groups"} for row in rows]


def _convolution(call: Call) -> list[dict]:
    x, w, bias, out = call.tensor("input"), call.tensor("weight"), call.tensor("bias"), call.outputs[0]
    groups, taps = call.arguments.get("groups", 1), math.prod(w.shape[2:])
    turned = bool(call.arguments.get("transposed", False))
    positions = math.prod((x if turned else out).shape[2:])
    wide, deep = w.shape[1] * (taps if turned else 1), w.shape[0] // groups
    m, n, k = x.shape[0] * positions, (wide if turned else deep), (deep if turned else w.shape[1] * taps)
    if 0 in (m, n, k):
        return []
    name = "transposed convolution" if turned else "convolution"
    (row,) = product(x, w, None, out, (groups, m, n, k), name)
    row |= {"kind": "convolution"} | _reach(call, w, turned)
    return [_with_sum(row, bias, out) if bias is not None else row]


def _reach(call: Call, w: Operand, turned: bool) -> dict:
    """How far a convolution along a sequence looks: the padded part back, the rest ahead."""
    if len(w.shape) != 3 or turned:
        return {}
    span = int(call.arguments["dilation"][0]) * (w.shape[2] - 1)
    back = min(int(call.arguments["padding"][0]), span)
    return {"reach_back": back, "reach_ahead": span - back}


# -- attention ---------------------------------------------------------------------------------------


def attention(q: Operand, k: Operand, v: Operand, mask: Operand | None, causal: bool, out: Operand) -> list[dict]:
    """Fused attention, the row of `workloads.attention`: only the pairs a causal mask leaves are counted.

    Queries (..., heads, queries, size); fewer key heads are shared. `causal` masks from the first key on, as
    PyTorch does. What a mask given as a tensor hides is not known: all its pairs count, and its bytes are read.
    """
    *lead, queries, size = q.shape
    heads, kv_heads = (lead[-1], k.shape[-3]) if lead else (1, 1)
    sequences, keys, width = math.prod(lead[:-1]), k.shape[-2], v.shape[-1]
    if 0 in (sequences, heads, queries, keys, size + width):
        return []
    pairs = causal_pairs(queries, keys) if causal else queries * keys
    computed, cost = sequences * heads * pairs, OPERATIONS["softmax"]
    row = _columns("attention", "attention", types_of(q, None, out)) | {
        "batch": sequences * kv_heads,
        "m": queries * (heads // kv_heads),
        "n": size + width,
        "k": keys,
        "matrix_flops": 2 * computed * (size + width),
        "vector_flops": cost.vector * computed,
        "special_ops": cost.special * computed,
        "input_bytes": q.bytes + k.bytes + v.bytes + (mask.bytes if mask else 0),
        "output_bytes": out.elements * out.item_bytes,
    }
    if queries == keys:
        row |= {"reach_back": keys - 1, "reach_ahead": 0 if causal else keys - 1}
    return [row | weights_of([q, k, v])]


def causal_pairs(queries: int, keys: int) -> int:
    """Pairs that query i forms with keys 0 to i, of `keys` there are."""
    seen = min(queries, keys)
    return visible_pairs(seen) + (queries - seen) * keys


def _sdpa(call: Call) -> list[dict]:
    causal = bool(call.arguments.get("is_causal", False))
    mask = call.tensor("attn_mask", "attn_bias")
    return attention(call.tensor("query"), call.tensor("key"), call.tensor("value"), mask, causal, call.outputs[0])


# -- recurrences -------------------------------------------------------------------------------------

CELL_BUILDERS = {
    "lstm": (lstm, {}),
    "gru": (gru, {}),
    "rnn_tanh": (rnn, {"nonlinearity": "tanh"}),
    "rnn_relu": (rnn, {"nonlinearity": "relu"}),
}


def recurrence(kind: str, name: str, types: Types, *, lengths: list[int], **sizes) -> list[dict]:
    """The builder's rows of `nn.LSTM`, `nn.GRU` or `nn.RNN`: T serial steps, whatever the depth.

    `lengths`: sequences at work in each step. Where it falls (packed sequences), each stretch of equal steps has its
    own rows, which share the weights of the first. The first layer's input product alone reads the input (`_entry`).
    """
    build, extra = CELL_BUILDERS[kind]
    rows, ends = [], ()
    for batch, steps in _stretches(lengths):
        part = build(batch=batch, sequence_length=steps, **sizes, **extra, **types.columns, name=name).rows()
        offset = len(rows)
        for number, row in enumerate(part):
            row["_entry"] = number == 0
            row["after"] = tuple(a + offset for a in row["after"]) or ends
            row["parameters"] *= not offset
        rows += part
        ends = (len(rows) - 1,)
    return rows


def _stretches(lengths: list[int]) -> list[tuple[int, int]]:
    return [(batch, len(list(steps))) for batch, steps in groupby(lengths)]


def cell(kind: str, types: Types, **sizes) -> list[dict]:
    """One step of a recurrence: the input product, the recurrent product and the gates, each for one step."""
    build, extra = CELL_BUILDERS[kind]
    rows = build(1, sequence_length=1, **sizes, **extra, **types.columns, name="cell").rows()
    rows[1]["after"] = ()
    for number, row in enumerate(rows):
        row |= {"_entry": number == 0, "_weights": ()}
        del row["layer"]
    return rows


# -- everything else ---------------------------------------------------------------------------------

#: Vector FLOP and special operations of one element, where it is not one vector FLOP.
POINTWISE: dict[str, tuple[int, int]] = {
    **dict.fromkeys((
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan",
        "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv",
        "sigmoid", "tanh", "lgamma", "digamma", "special_expit", "special_erf",
    ), (0, 1)),
    "floor_divide": (1, 1), "remainder": (2, 1), "fmod": (2, 1), "logit": (1, 2), "xlogy": (1, 1),
    "gelu": (8, 1), "silu": (1, 1), "mish": (1, 3), "softplus": (1, 2), "log_sigmoid_forward": (2, 2),
    "elu": (2, 1), "celu": (3, 1), "selu": (3, 1), "leaky_relu": (2, 0), "rrelu_with_noise": (2, 0),
    "hardtanh": (2, 0), "relu6": (2, 0), "clamp": (2, 0), "hardsigmoid": (4, 0), "hardswish": (5, 0),
    "prelu": (2, 0), "_prelu_kernel": (2, 0), "softsign": (2, 1), "addcmul": (3, 0), "addcdiv": (2, 1),
    "lerp": (3, 0), "glu": (1, 1), "native_dropout": (2, 0), "logaddexp": (3, 2), "sinc": (1, 2),
}  # fmt: skip

#: What takes one vector FLOP for each element read (a comparison, an addition), or as given.
REDUCTIONS: dict[str, tuple[int, int]] = {
    **dict.fromkeys((
        "sum", "mean", "amax", "amin", "max", "min", "aminmax", "argmax", "argmin", "prod", "cumsum", "cumprod", "any",
        "all", "topk", "sort", "argsort", "median", "cummax", "cummin", "kthvalue", "nansum", "count_nonzero", "mode",
        "logcumsumexp", "searchsorted", "bucketize", "unique_consecutive", "trace", "nonzero", "masked_select", "hash",
    ), (1, 0)),
    "_weight_norm_interface": (4, 0), "histc": (3, 0), "bincount": (1, 0),
    "logsumexp": (3, 1), "var": (3, 0), "var_mean": (3, 0), "std": (3, 0), "std_mean": (3, 0), "norm": (2, 0),
    "linalg_vector_norm": (2, 0), "mse_loss": (3, 0), "l1_loss": (2, 0), "smooth_l1_loss": (4, 0),
    "huber_loss": (4, 0), "binary_cross_entropy": (4, 2), "binary_cross_entropy_with_logits": (4, 2),
    "nll_loss_forward": (1, 0), "nll_loss2d_forward": (1, 0), "kl_div": (2, 1), "_cdist_forward": (3, 0),
}  # fmt: skip

#: Moves values (or makes constants) without arithmetic.
COPIES = frozenset({
    "clone", "_to_copy", "copy", "contiguous", "cat", "stack", "constant_pad_nd", "repeat", "roll", "flip",
    "index_put", "_unsafe_index_put", "_index_put_impl", "scatter", "slice_scatter", "select_scatter",
    "diagonal_scatter", "as_strided_scatter", "as_strided_copy", "index_copy", "index_fill", "masked_scatter", "fill",
    "zero", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "new_zeros", "new_ones", "new_full",
    "scalar_tensor", "arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "lift_fresh_copy",
    "repeat_interleave", "im2col", "col2im", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "reflection_pad1d",
    "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "rot90", "unfold", "unfold_copy", "block_diag", "complex", "view_as_real_copy",
    "view_copy", "slice_copy", "select_copy", "transpose_copy", "permute_copy", "expand_copy", "t_copy",
    "_pack_padded_sequence", "_pad_packed_sequence", "split_with_sizes_copy", "_conj_physical", "resize_",
    "_foreach_copy", "_pin_memory", "one_hot", "combinations", "cartesian_prod", "hstack", "vstack", "resolve_conj",
})  # fmt: skip

RANDOM = frozenset({"rand", "randn", "rand_like", "randn_like", "randint", "randint_like", "randperm", "bernoulli",
                    "normal", "uniform", "multinomial", "exponential", "random", "log_normal"})  # fmt: skip

#: Elementwise although PyTorch does not tag them so.
ALSO_POINTWISE = frozenset({"tril", "triu", "masked_fill", "where", "dropout", "nan_to_num", "glu", "cross", "addr",
                            "linalg_cross", "relu", "isin", "_prelu_kernel", "index_add", "scatter_add",
                            "scatter_reduce", "index_reduce", "log_sigmoid_forward", "complex", "outer", "ger",
                            "native_dropout", "rrelu_with_noise", "polar"})  # fmt: skip

#: Allocate without writing, or only look: nothing to cost.
FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias",
                  "lift_fresh", "_unsafe_view", "set_", "device", "_local_scalar_dense", "_assert_async",
                  "_assert_scalar", "sym_size", "is_same_size", "_assert_tensor_metadata", "equal", "record_stream",
                  "_has_compatible_shallow_copy_type", "_to_functional_tensor", "is_pinned", "size", "stride",
                  "_functional_assert_async", "empty_permuted", "as_strided", "sym_numel"})  # fmt: skip

#: Names of the trace for operators that have one.
WORDS = {"mul": "multiply", "_to_copy": "cast", "clone": "copy", "cat": "concatenate", "_softmax": "softmax",
         "_log_softmax": "log softmax", "sub": "subtract add"}  # fmt: skip


def word(name: str) -> str:
    """The operator's name in words; sums keep "add" among them, by which training knows they are linear."""
    return WORDS.get(name) or name.strip("_").replace("_", " ") or name


def _pointwise(call: Call) -> list[dict]:
    vector, special = POINTWISE.get(call.name, (1, 0))
    if call.name == "div":
        vector, special = (0, 1) if isinstance(call.arguments.get("other"), Operand) else (1, 0)
        if isinstance(call.arguments.get("other"), Operand) and call.arguments["other"].elements == 1:
            vector, special = 1, 0  # by one number: a product with its reciprocal
    if call.name == "pow":
        exponent = call.arguments.get("exponent")
        vector, special = (abs(int(exponent)) - 1 or 1, 0) if exponent in (2, 3, 4) else (0, 1)
    elements = max((o.elements for o in call.outputs), default=0)
    op = word(call.name)
    if call.name == "add" and any(o.weight for o in call.operands):
        op = "bias add"
    return [streamed(call, op, "elementwise", vector * elements, special * elements)]


def _reduction(call: Call) -> list[dict]:
    vector, special = REDUCTIONS[call.name]
    elements = max((o.elements for o in call.operands), default=0)
    kind = "scan" if call.name.startswith(("cum", "logcum")) else "elementwise"
    return [streamed(call, word(call.name), kind, vector * elements, special * elements)]


def _copy(call: Call) -> list[dict]:
    """Values moved; one that writes into a part of a tensor moves that part alone. A cast weight keeps its owner."""
    row = streamed(call, word(call.name), "copy", claims=call.name not in ("_to_copy", "clone"))
    source = call.tensor("src", "value", "values", "source", "updates")
    if call.name in ("fill", "zero"):
        row["input_bytes"] = 0
    elif call.changes and source is not None:
        indices = sum(o.bytes for o in call.operands if not o.weight and o not in (source, call.operands[0]))
        written = call.outputs[0] if call.name == "copy" else source
        row["input_bytes"] = indices + (0 if source.weight else source.bytes)
        row["output_bytes"] = written.elements * written.item_bytes
    return [row]


def _random(call: Call) -> list[dict]:
    elements = sum(o.elements for o in call.outputs)
    return [streamed(call, f"random {word(call.name)}", "elementwise", elements, reads=False)]


def _embedding(call: Call) -> list[dict]:
    table, index, out = call.tensor("weight"), call.tensor("indices"), call.outputs[0]
    if 0 in (index.elements, *table.shape):
        return []
    types = types_of(out, table, out)
    row = embedding.row(index.elements, table.shape[0], table.shape[1], types=types, op="embedding")
    row["output_bytes"] = out.elements * out.item_bytes
    if not table.weight:
        moved = {"input_bytes": row["input_bytes"] + row["weight_bytes"], "weight_bytes": 0, "parameters": 0}
        return [row | moved | weights_of([table])]
    row["parameters"] = table.weight.claim()
    return [row | weights_of([table])]


def _gather(call: Call) -> list[dict]:
    """Picks rows: reads as much as it writes, and its indices."""
    source, out = call.tensor("self", "input"), call.outputs[0]
    picked = min(out.elements * out.item_bytes, source.bytes)
    others = sum(o.bytes for o in call.operands if o is not source)
    row = streamed(call, word(call.name), "gather")
    read = {"weight_bytes": picked, "input_bytes": others} if source.weight else {"input_bytes": picked + others}
    return [row | read]


def _softmax(call: Call) -> list[dict]:
    x, out = call.tensor("self", "input"), call.outputs[0]
    if not x.elements:
        return []
    row = softmax.row(x.elements, 1, types=types_of(x, None, out), op=word(call.name))
    row |= {"input_bytes": x.bytes, "output_bytes": out.elements * out.item_bytes}
    return [row | weights_of([x])]


def _norm(name: str, rows: Callable[[Call], int]) -> Callable[[Call], list[dict]]:
    def build(call: Call) -> list[dict]:
        cost, x = OPERATIONS[name], call.tensor("input", "self", "x")
        affine = call.tensor("weight") is not None
        spared = 0 if affine else (2 if name == "layer norm" else 1)  # gain and offset
        if name == "layer norm" and affine and call.tensor("bias") is None:
            spared = 1
        row = streamed(call, "norm", "normalisation", max(0, cost.vector - spared) * x.elements)
        out = call.outputs[0]
        small = {"special_ops": cost.row_special * rows(call), "output_bytes": out.elements * out.item_bytes}
        return [row | small]

    return build


def _layer_rows(call: Call) -> int:
    x, shape = call.tensor("input", "self"), call.arguments.get("normalized_shape") or ()
    return x.elements // max(1, math.prod(shape))


def _group_rows(call: Call) -> int:
    return int(call.arguments.get("N", 1)) * int(call.arguments.get("group", 1))


def _channels(call: Call) -> int:
    return call.tensor("input", "self").shape[1]


def _pool(call: Call) -> list[dict]:
    """kernel - 1 comparisons a result, or as many additions and a multiplication."""
    x, out = call.tensor("self", "input"), call.outputs[0]
    sizes = call.arguments.get("kernel_size")
    taps = x.elements // max(1, out.elements)
    if sizes:
        spatial = 1 if "1d" in call.name else 3 if "3d" in call.name else 2
        taps = math.prod(sizes) if len(sizes) == spatial else sizes[0] ** spatial
    row = streamed(call, "pooling", "elementwise", max(1, taps - ("max" in call.name)) * out.elements)
    return [row | {"output_bytes": out.elements * out.item_bytes}]


def _resample(call: Call) -> list[dict]:
    """Each result is a weighted sum: 2 neighbours along each direction (cubic: 4)."""
    taps = {"1d": 2, "2d": 4, "3d": 8}.get(call.name[-2:], 4) * (4 if "bicubic" in call.name else 1)
    return [streamed(call, word(call.name), "elementwise", 2 * taps * call.outputs[0].elements)]


def unknown(call: Call) -> list[dict]:
    """An operator without a cost: its bytes count, its operations do not."""
    return [streamed(call, f"unknown: {call.name}", "copy")]


RULES: dict[str, Callable[[Call], list[dict]]] = {
    **dict.fromkeys(("mm", "addmm", "_addmm_activation", "_int_mm", "_scaled_mm"), _mm),
    **dict.fromkeys(("bmm", "baddbmm"), _bmm),
    **dict.fromkeys(("mv", "addmv"), _mv),
    **dict.fromkeys(("dot", "vdot"), _dot),
    "linear": _linear,
    "_grouped_mm": _grouped_mm,
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution"), _convolution),
    **dict.fromkeys(
        ("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
         "_scaled_dot_product_fused_attention_overrideable"), _sdpa),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _softmax),
    "native_layer_norm": _norm("layer norm", _layer_rows),
    "_fused_rms_norm": _norm("rms norm", _layer_rows),
    "native_group_norm": _norm("layer norm", _group_rows),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
         "_batch_norm_with_update", "batch_norm"), _norm("batch norm", _channels)),
    "embedding": _embedding,
    "_embedding_bag": _embedding,
    **dict.fromkeys(("index", "_unsafe_index", "index_select", "gather", "take", "take_along_dim"), _gather),
    **dict.fromkeys(
        ("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d",
         "adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d",
         "adaptive_max_pool3d", "max_pool2d"), _pool),
    **dict.fromkeys(
        ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
         "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d"), _resample),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(COPIES, _copy),
    **dict.fromkeys(RANDOM, _random),
    **dict.fromkeys(ALSO_POINTWISE, _pointwise),
    **dict.fromkeys(POINTWISE, _pointwise),
}  # fmt: skip


def rows_of(call: Call) -> list[dict] | None:
    """Rows of one operator, none where nothing moves, None where it is not known."""
    if call.name in ("max", "min") and call.tensor("other"):
        return _pointwise(call)
    rule = RULES.get(call.name) or (_pointwise if call.pointwise else None)
    return rule(call) if rule else None
