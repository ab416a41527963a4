"""Rows of one ONNX operator: what a node with known shapes costs, in the terms of the trace. Needs no onnx.

A node arrives as a `Node` whose tensors are `Value`s. Products, look-ups, norms and recurrences use the row functions
of the builders, so an import and a builder agree; everything else takes its bytes from its tensors and its operations
from `POINTWISE` and `REDUCTIONS`, where an evaluation of a division, root or transcendental is one special operation,
as in `workloads.blocks.OPERATIONS`. Operator definitions: onnx `docs/Operators.md` and, for the domain com.microsoft,
onnxruntime `docs/ContribOperators.md`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from workloads.blocks import OPERATIONS, Types, embedding, linear, matmul, normalisation, softmax
from workloads.convolution import implicit_product as convolution
from workloads.importers.onnx_file import ELEMENTS, FLOATS, bytes_of
from workloads.recurrent import gru, lstm, rnn
from workloads.trace import TraceError

MICROSOFT = "com.microsoft"


@dataclass(eq=False)
class Value:
    """A tensor of the graph.

    `shape` None: not a tensor (a sequence, an optional). `element`: ONNX element type. `rows`: rows of the trace that
    make it. `data`: its numbers, where they are few and known before the network runs. `constant`: does not depend on
    the inputs of the network; `sources`: the initialisers it is made of. `storage`: element type it is kept in, where
    that is not `element`; `extra_bytes`: scales and zero points kept with it. `quantised`: the tensor of integers a
    DequantizeLinear would read to make it. `maker`: the row whose whole result it is, if nothing else reads that.
    """

    name: str
    shape: tuple[int, ...] | None
    element: int
    rows: frozenset[int] = frozenset()
    data: np.ndarray | None = None
    constant: bool = False
    sources: frozenset[str] = frozenset()
    storage: int = 0
    extra_bytes: int = 0
    quantised: Value | None = None
    maker: int | None = None
    proto: object = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape) if self.shape is not None else 0

    @property
    def bytes(self) -> int:
        """Bytes of the stored tensor; 0 for what is no tensor."""
        if self.shape is None:
            return 0
        return bytes_of(self.shape, self.storage or self.element) + self.extra_bytes

    @property
    def label(self) -> str:
        """The type it is stored in, in the words of the trace."""
        return ELEMENTS.get(self.storage or self.element, ("int8", 8))[0]

    @property
    def is_stored(self) -> bool:
        """Whether it is made of initialisers alone."""
        return self.constant and bool(self.sources)

    @property
    def is_weight(self) -> bool:
        """Whether it is made of initialisers alone, and of numbers that could have been learned."""
        return self.is_stored and self.element in FLOATS


@dataclass
class Node:
    """One operator: type, domain, operator set version, tensors (None: left out), attributes as Python values."""

    type: str
    domain: str
    version: int
    inputs: list[Value | None]
    outputs: list[Value | None]
    attributes: dict
    where: str
    claim: Callable[[Value, bool], int] = lambda value, sure: 0
    scalars: bool = False

    def input(self, number: int) -> Value | None:
        return self.inputs[number] if number < len(self.inputs) else None

    def output(self, number: int) -> Value | None:
        return self.outputs[number] if number < len(self.outputs) else None

    def attribute(self, name: str, default=None):
        return self.attributes.get(name, default)

    @property
    def tensors(self) -> list[Value]:
        """The inputs that are given, each once."""
        return list({id(v): v for v in self.inputs if v is not None}.values())

    @property
    def results(self) -> list[Value]:
        return [v for v in self.outputs if v is not None]

    @property
    def result(self) -> Value:
        """The first result that is asked for."""
        return self.results[0]

    def error(self, message: str) -> TraceError:
        return TraceError(f"{self.where}: {message}")


# -- bytes -------------------------------------------------------------------------------------------


def traffic(node: Node, weights: Iterable[Value | None] = (), inputs: Iterable[Value] | None = None) -> dict:
    """Bytes by role and parameters of a row that reads `inputs` (default: all of the node's) and writes all results.

    `weights` are parameters for certain, even single numbers and integers. Single constants and known shapes and
    indices are part of the instruction: they cost nothing.
    """
    certain = {id(v): v for v in weights if v is not None}
    columns = {"parameters": 0, "weight_bytes": 0, "input_bytes": 0, "_weights": ()}
    for value in node.tensors if inputs is None else inputs:
        if value.is_stored and (value.is_weight or id(value) in certain):
            if value.elements <= 1 and id(value) not in certain:
                continue
            columns["weight_bytes"] += value.bytes
            columns["parameters"] += node.claim(value, id(value) in certain)
            columns["_weights"] += tuple(sorted(value.sources))
        elif not (value.constant and (value.data is not None or value.elements <= 1)):
            columns["input_bytes"] += value.bytes
    columns["output_bytes"] = sum(v.bytes for v in node.results)
    return columns


def types_of(node: Node, weights: Iterable[Value | None] = (), dtype: str | None = None) -> Types:
    """Element types of a row: arithmetic and activations as the first streamed tensor, weights as they are stored."""
    kept = [v for v in (*weights, *node.tensors) if v is not None and v.is_stored]
    streams = [v for v in node.tensors if not v.constant] or node.results
    streams = [v for v in streams if v.element in FLOATS] or [v for v in streams if v.shape is not None] or streams
    stream = streams[0]
    arithmetic = ELEMENTS.get(stream.element, ("int8", 8))[0]
    if node.results and stream.element not in FLOATS and node.result.element in FLOATS:
        arithmetic = ELEMENTS[node.result.element][0]
    dtype = dtype or arithmetic
    return Types(dtype, kept[0].label if kept else dtype, stream.label)


def streamed(node: Node, op: str, kind: str, vector: int = 0, special: int = 0, **changes) -> dict:
    """A row that reads every tensor once and writes every result."""
    operations = {"vector_flops": int(vector), "special_ops": int(special)}
    return {"op": op, "kind": kind, **types_of(node).columns, **operations, **traffic(node), **changes}


# -- products ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factor:
    """An operand of a product: the tensor and the indices of its axes (an axis of size one may have none)."""

    value: Value
    indices: tuple


def contraction(node: Node, a: Factor, b: Factor, out: tuple, sizes: dict, op: str = "product") -> list[dict]:
    """The product of two tensors over the indices they share and `out` lacks.

    Indices in both and in `out` are independent products; those of one alone are rows (or, not in `out`, are summed
    first). Without an index to sum over it is an elementwise multiplication.
    """
    if a.value.is_stored and not b.value.is_stored:  # weights, if any, are on the right
        a, b = b, a
    alone = sum(f.value.elements for f, g in ((a, b), (b, a)) if set(f.indices) - set(g.indices) - set(out))
    mine, other, kept = set(a.indices), set(b.indices), set(out)

    def size(indices: Iterable) -> int:
        return math.prod(sizes[i] for i in indices)

    summed = (mine & other) - kept
    batch, k = size(mine & other & kept), size(summed)
    m, n = size((mine - other) & kept), size((other - mine) & kept)
    if 0 in (batch, m, n, k):
        return []
    pair = [a.value] if a.value is b.value else [a.value, b.value]
    if not summed:
        return [_row_of(node, op, "elementwise", pair, batch * m * n)]
    weight = b.value if b.value.is_stored else None
    dtype = product_type(a.value, b.value)
    types = Types(dtype, b.value.label if weight else dtype, a.value.label)
    if weight:
        row = linear.row(m, n, k, batch=batch, types=types, bias=False, op=op)
    else:
        row = matmul.row(m, n, k, batch=batch, types=types, op=op)
    del row["layer"]
    return [row | {"vector_flops": alone} | traffic(node, [weight], pair)]


def _row_of(node: Node, op: str, kind: str, inputs: list[Value], vector: int) -> dict:
    return {"op": op, "kind": kind, **types_of(node).columns, "vector_flops": vector, **traffic(node, inputs=inputs)}


def product_type(a: Value, b: Value) -> str:
    """Type of the arithmetic: that of the streamed operand; narrow weights are widened to it."""
    return b.label if a.constant and not b.constant else a.label


def _matmul_indices(a: Value, b: Value) -> tuple[Factor, Factor, tuple, dict]:
    """The axes of `numpy.matmul`: batch axes counted from the right as negative numbers."""
    sizes: dict = {"k": a.shape[-1]}

    def axes(value: Value, rows: tuple) -> tuple:
        found = []
        for back, size in enumerate(reversed(value.shape[: max(0, len(value.shape) - 2)]), 1):
            sizes[-back] = max(sizes.get(-back, 1), size) if 0 not in (size, sizes.get(-back, 1)) else 0
            if size != 1:
                found.append(-back)
        return (*found, *rows)

    first = Factor(a, axes(a, ("m", "k") if len(a.shape) > 1 else ("k",)))
    second = Factor(b, axes(b, ("k", "n") if len(b.shape) > 1 else ("k",)))
    sizes |= {"m": a.shape[-2] if len(a.shape) > 1 else 1, "n": b.shape[-1]}
    out = tuple(i for i in sizes if i != "k")
    return first, second, out, sizes


def _turned(value: Value, turn: bool) -> Value:
    """The value with its last two axes exchanged, for reading its sizes; the same tensor for its bytes."""
    if not turn or len(value.shape) < 2:
        return value
    return replace(value, shape=(*value.shape[:-2], value.shape[-1], value.shape[-2]))


def _products(node: Node, a: Value, b: Value, others: Iterable[Value | None] = (), vector: int = 0) -> list[dict]:
    """numpy's matmul of a and b; `others` (biases, scales) are read along, `vector` FLOP come on top."""
    if not a.shape or not b.shape:
        raise node.error("a product needs operands with at least one axis")
    rows = contraction(node, *_matmul_indices(a, b))
    return _with_operands(node, rows, others, vector)


def _with_operands(node: Node, rows: list[dict], others: Iterable[Value | None], vector: int) -> list[dict]:
    """What else the last row reads, and the operations on its results."""
    if not rows:
        return rows
    others = [v for v in others if v is not None]
    more = traffic(node, others, others)
    row = rows[-1]
    for column in ("parameters", "weight_bytes", "input_bytes", "_weights"):
        row[column] += more[column]
    row["vector_flops"] = row.get("vector_flops", 0) + vector
    return rows


def _matmul(node: Node) -> list[dict]:
    return _products(node, node.input(0), node.input(1))


def _fused_matmul(node: Node) -> list[dict]:
    a = _turned(node.input(0), bool(node.attribute("transA", 0)))
    b = _turned(node.input(1), bool(node.attribute("transB", 0)))
    scaled = node.attribute("alpha", 1.0) != 1.0
    return _products(node, a, b, vector=scaled * node.result.elements)


def _gemm(node: Node) -> list[dict]:
    a = _turned(node.input(0), bool(node.attribute("transA", 0)))
    b = _turned(node.input(1), bool(node.attribute("transB", 0)))
    c = node.input(2)
    scales = (node.attribute("alpha", 1.0) != 1.0) + (c is not None and node.attribute("beta", 1.0) != 1.0)
    return _products(node, a, b, [c], (scales + (c is not None)) * node.result.elements)


def _quantised_matmul(node: Node) -> list[dict]:
    """QLinearMatMul and its kin: integer product, then scaled, shifted and rounded (3 a result)."""
    a, b = (node.input(0), node.input(3)) if node.type == "QLinearMatMul" else (node.input(0), node.input(1))
    return _products(node, a, b, vector=3 * node.result.elements)


def _qgemm(node: Node) -> list[dict]:
    a = _turned(node.input(0), bool(node.attribute("transA", 0)))
    b = _turned(node.input(3), bool(node.attribute("transB", 0)))
    bias = node.input(6)
    return _products(node, a, b, [bias], (3 + (bias is not None)) * node.result.elements)


def _integer_matmul(node: Node) -> list[dict]:
    return _products(node, node.input(0), node.input(1))


def _dynamic_matmul(node: Node) -> list[dict]:
    """DynamicQuantizeMatMul, MatMulIntegerToFloat: an integer product, its input quantised on the way, then scaled."""
    a, b = node.input(0), node.input(1)
    quantising = 4 * a.elements if a.element in FLOATS else 0
    bias = node.input(4 if node.type == "DynamicQuantizeMatMul" else 6)
    rows = _products(node, a, b, [bias], quantising + (1 + (bias is not None)) * node.result.elements)
    return [row | {"dtype": b.label} for row in rows]


def _packed_matmul(node: Node) -> list[dict]:
    """MatMulNBits: weights of a few bits with a scale for each block, widened to the type of the activations."""
    a, packed, out = node.input(0), node.input(1), node.result
    n, k, bits = int(node.attribute("N")), int(node.attribute("K")), int(node.attribute("bits", 4))
    weight = replace(packed, shape=(k, n), element=a.element, storage={8: 3, 4: 22, 2: 26}.get(bits, 22))
    rows = _products(
        replace_node(node, packed, weight), a, weight, [node.input(5)], out.elements * (node.input(5) is not None)
    )
    scales = [node.input(i) for i in (2, 3, 4) if node.input(i) is not None]
    for row in rows:
        row["weight_bytes"] += sum(v.bytes for v in scales)
        if row["parameters"]:  # so many numbers, however they are packed
            row["parameters"] += n * k - packed.elements
    return rows


def replace_node(node: Node, old: Value, new: Value) -> Node:
    """The node with one of its inputs exchanged."""
    return replace(node, inputs=[new if v is old else v for v in node.inputs])


_TERM = re.compile(r"\.\.\.|[A-Za-z]")


def _einsum(node: Node) -> list[dict]:
    """Products of two operands at a time, from the left; an index no later operand and no result has is summed."""
    factors, out, sizes = _einsum_factors(node)
    if len(factors) > 1:
        return _einsum_products(node, factors, out, sizes)
    if set(factors[0].indices) - set(out):
        return [streamed(node, "sum", "elementwise", factors[0].value.elements)]
    return [streamed(node, "rearrange", "copy")]


def _einsum_factors(node: Node) -> tuple[list[Factor], tuple, dict]:
    """The operands with their indices, the indices of the result, and the size of each index."""
    equation = node.attribute("equation", "")
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms, sizes = left.split(","), {}
    if len(terms) != len(node.inputs) or None in node.inputs or any(_TERM.sub("", t) for t in (*terms, right)):
        raise node.error(f"equation {equation!r} does not fit its {len(node.inputs)} operands")
    operands = [(_einsum_axes(node, equation, t, v), v) for t, v in zip(terms, node.inputs, strict=True)]
    pairs = [pair for axes, value in operands for pair in zip(axes, value.shape, strict=True)]
    for axis, size in pairs:
        sizes[axis] = size if sizes.get(axis, 1) == 1 else sizes[axis]
    if any(size not in (1, sizes[axis]) for axis, size in pairs):
        raise node.error(f"equation {equation!r} does not fit operands of different sizes")
    factors = []
    for axes, value in operands:  # an axis that is broadcast carries no index
        spanned = [axis for axis, size in zip(axes, value.shape, strict=True) if size == sizes[axis]]
        factors.append(Factor(value, tuple(dict.fromkeys(spanned))))
    ellipsis = tuple(sorted(i for i in sizes if isinstance(i, int)))
    if arrow:
        out = tuple(j for i in _TERM.findall(right) for j in (ellipsis if i == "..." else (i,)))
    else:
        letters = "".join(terms).replace("...", "")
        out = ellipsis + tuple(sorted(c for c in set(letters) if letters.count(c) == 1))
    if not set(out) <= set(sizes):
        raise node.error(f"equation {equation!r}: its result has an index that no operand has")
    return factors, out, sizes


def _einsum_axes(node: Node, equation: str, term: str, value: Value) -> list:
    """The index of each axis of an operand; those an ellipsis stands for are counted from the right."""
    letters = _TERM.findall(term)
    spare = len(value.shape) - sum(letter != "..." for letter in letters)
    axes: list = []
    for letter in letters:
        axes += [-i for i in range(spare, 0, -1)] if letter == "..." else [letter]
    if len(axes) != len(value.shape):
        raise node.error(f"equation {equation!r}: {term!r} does not fit a tensor of shape {list(value.shape)}")
    return axes


def _einsum_products(node: Node, factors: list[Factor], out: tuple, sizes: dict) -> list[dict]:
    rows: list[dict] = []
    first = factors[0]
    for number, second in enumerate(factors[1:], 1):
        later = {i for f in factors[number + 1 :] for i in f.indices} | set(out)
        kept = tuple(dict.fromkeys(i for i in (*first.indices, *second.indices) if i in later))
        last = number == len(factors) - 1
        made = node.result if last else Value("", tuple(sizes[i] for i in kept), node.result.element)
        part = replace(node, inputs=[first.value, second.value], outputs=[made])
        rows += contraction(part, first, second, kept, sizes)
        first = Factor(made, kept)
    return rows


# -- convolutions and pooling ------------------------------------------------------------------------


def _convolution_row(node: Node, x: Value, w: Value, bias: Value | None, extra: int = 0) -> list[dict]:
    """The product of a convolution (also transposed); `extra` vector FLOP a result come on top of the bias."""
    out, turned = node.result, node.type == "ConvTranspose"
    if len(x.shape) < 3 or len(w.shape) != len(x.shape):
        raise node.error(f"a convolution of shapes {list(x.shape)} and {list(w.shape)}")
    if node.attribute("channels_last", 0):  # onnxruntime's NhwcFusedConv
        inner, positions = math.prod(x.shape[1:-1]), math.prod(out.shape[1:-1])
    else:
        inner, positions = math.prod(x.shape[2:]), math.prod(out.shape[2:])
    group, taps = int(node.attribute("group", 1)), math.prod(w.shape[2:])
    if group < 1 or w.shape[0] % group:
        raise node.error(f"group must divide the {w.shape[0]} filters, got {group}")
    if 0 in (inner, positions, taps, *x.shape, *w.shape):
        return []
    learned = w if w.is_stored else None
    dtype = product_type(x, w)
    types = Types(dtype, w.label if learned else dtype, x.label)
    if turned:  # each input position times all taps of all filters
        m, n, k = x.shape[0] * inner, w.shape[1] * taps, w.shape[0] // group
        row = linear.row(m, n, k, batch=group, types=types, bias=False) | {"kind": "convolution"}
    else:
        channels, filters = w.shape[1] * group, w.shape[0]
        row = convolution(
            node.where, channels, filters, inner, positions, taps, group, x.shape[0], False, "", "", types
        )
    del row["layer"]
    vector = ((bias is not None) + extra) * out.elements
    row |= {"op": "transposed convolution" if turned else "convolution", **_reach(node, x, w, turned)}
    return _with_operands(node, [row | traffic(node, [learned], [x, w])], [bias], vector)


def _reach(node: Node, x: Value, w: Value, turned: bool) -> dict:
    """How far a convolution along a sequence looks: the padded part back, the rest ahead."""
    if len(w.shape) != 3 or turned:
        return {}
    span = (node.attribute("dilations") or [1])[0] * (w.shape[2] - 1)
    pads, auto = node.attribute("pads") or [0, 0], node.attribute("auto_pad", b"NOTSET")
    back = {b"SAME_UPPER": span // 2, b"SAME_LOWER": span - span // 2}.get(auto, min(pads[0], span))
    return {"reach_back": back, "reach_ahead": span - back}


def _conv(node: Node) -> list[dict]:
    return _convolution_row(node, node.input(0), node.input(1), node.input(2))


def _fused_conv(node: Node) -> list[dict]:
    """onnxruntime's convolution with an activation (one vector FLOP) and, perhaps, a tensor to add."""
    rows = _convolution_row(node, node.input(0), node.input(1), node.input(2), bool(node.attribute("activation")))
    added = node.input(3)
    return _with_operands(node, rows, [added], node.result.elements if added is not None else 0)


def _deformable(node: Node) -> list[dict]:
    """A convolution whose taps are interpolated between four neighbours: 8 vector FLOP a tap."""
    x, w, out = node.input(0), node.input(1), node.result
    rows = _convolution_row(node, x, w, node.input(3))
    taps = x.shape[0] * x.shape[1] * math.prod(out.shape[2:]) * math.prod(w.shape[2:])
    return _with_operands(node, rows, [node.input(2), node.input(4)], 8 * taps)


def _quantised_conv(node: Node) -> list[dict]:
    return _convolution_row(node, node.input(0), node.input(3), node.input(8), extra=3)


def _pool(node: Node) -> list[dict]:
    """kernel - 1 comparisons a result, or as many additions and a multiplication; Lp: a power more each."""
    x, out = node.input(0), node.result
    kernel = node.attribute("kernel_shape") or x.shape[2:]
    taps, highest = math.prod(kernel), "Max" in node.type
    each = 2 * taps if "Lp" in node.type else max(1, taps - highest)
    return [streamed(node, "pooling", "elementwise", each * out.elements, ("Lp" in node.type) * out.elements)]


# -- attention ---------------------------------------------------------------------------------------


@dataclass
class Heads:
    """The sizes of an attention: `past` keys come before the first query's own; `cached`: keys and values are kept."""

    sequences: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    size: int
    width: int
    causal: bool
    past: int = 0
    reads_cache: bool = False
    keeps_cache: bool = False

    @property
    def pairs(self) -> int:
        """Pairs of a query i and a key up to past + i (all, when not causal) of one head and sequence."""
        if not self.causal:
            return self.queries * self.keys
        hidden = max(0, -self.past)  # queries before the first key
        queries, past = max(0, self.queries - hidden), max(0, self.past)
        seen = min(queries, max(0, self.keys - past))
        return seen * past + seen * (seen + 1) // 2 + (queries - seen) * self.keys


def attention_row(
    node: Node, heads: Heads, read: Iterable[Value | None], query_bytes: int, key_bytes: int
) -> list[dict]:
    """Fused attention, the row of `workloads.attention`. `read`: masks and biases; the key and value bytes are cache
    when they are read from one. What a mask given as a tensor hides is not known: all its pairs count."""
    pairs = heads.sequences * heads.heads * heads.pairs
    if 0 in (pairs, heads.size + heads.width) or heads.heads % heads.kv_heads:
        if heads.heads % heads.kv_heads:
            raise node.error(f"{heads.heads} heads cannot share {heads.kv_heads} key heads")
        return []
    cost, capped = OPERATIONS["softmax"], bool(node.attribute("softcap", 0.0))
    kept = traffic(node, inputs=[v for v in read if v is not None])
    stream, written = types_of(node), node.result.bytes
    scores = node.output(3) if node.type == "Attention" and not node.domain else None
    row = {
        "op": "attention",
        "kind": "attention",
        "batch": heads.sequences * heads.kv_heads,
        "m": heads.queries * (heads.heads // heads.kv_heads),
        "n": heads.size + heads.width,
        "k": heads.keys,
        "matrix_flops": 2 * pairs * (heads.size + heads.width),
        "vector_flops": (cost.vector + 2 * capped) * pairs,
        "special_ops": (cost.special + capped) * pairs,
        **kept,
        "input_bytes": kept["input_bytes"] + query_bytes + (0 if heads.reads_cache else key_bytes),
        "output_bytes": written + (scores.bytes if scores else 0),
        "cache_bytes": key_bytes if heads.reads_cache else 0,
        "saved_bytes": key_bytes if heads.reads_cache or heads.keeps_cache else 0,
        "dtype": stream.dtype,
        "activation_dtype": stream.activation_dtype,
        "weight_dtype": stream.dtype,
    }
    if heads.keys == heads.queries + heads.past:
        row |= {"reach_back": heads.keys - 1, "reach_ahead": 0 if heads.causal else heads.queries - 1}
    return [row]


def _kept_bytes(heads: Heads, element: int) -> int:
    """Bytes of all keys and all values."""
    return bytes_of((heads.sequences, heads.kv_heads, heads.keys, heads.size + heads.width), element)


def attention_heads(node: Node) -> Heads:
    """Sizes of the ai.onnx Attention (operator set 23) from its inputs and attributes."""
    q, k, v, past = node.input(0), node.input(1), node.input(2), node.input(4)
    if len(q.shape) == 3:
        heads, kv_heads = int(node.attribute("q_num_heads", 0)), int(node.attribute("kv_num_heads", 0))
        if heads < 1 or kv_heads < 1 or q.shape[2] % heads or v.shape[2] % kv_heads:
            raise node.error("q_num_heads and kv_num_heads must divide the last axes of Q and V")
        sequences, queries, size = q.shape[0], q.shape[1], q.shape[2] // heads
        new, width = k.shape[1], v.shape[2] // kv_heads
    else:
        sequences, heads, queries, size = q.shape
        kv_heads, new, width = k.shape[1], k.shape[2], v.shape[3]
    before = past.shape[2] if past is not None else 0
    outside = node.input(6) is not None  # a cache kept outside: K and V are all of it
    offset = before if past is not None or not outside else new - queries
    return Heads(
        sequences, heads, kv_heads, queries, before + new, size, width, bool(node.attribute("is_causal", 0)), offset,
        reads_cache=before > 0 or outside, keeps_cache=node.output(1) is not None,
    )  # fmt: skip


def _attention(node: Node) -> list[dict]:
    heads, q = attention_heads(node), node.input(0)
    return attention_row(node, heads, [node.input(3)], q.bytes, _kept_bytes(heads, node.input(1).element))


def multi_head(node: Node) -> Heads:
    """Sizes of com.microsoft MultiHeadAttention: separate, packed key-value or packed query-key-value inputs."""
    q, k, v = node.input(0), node.input(1), node.input(2)
    heads, past = int(node.attribute("num_heads", 0)), node.input(6)
    if heads < 1:
        raise node.error("num_heads is missing")
    before = past.shape[2] if past is not None else 0
    if len(q.shape) == 5:  # (batch, positions, heads, 3, size)
        sequences, queries, size = q.shape[0], q.shape[1], q.shape[4]
        new, width = queries, size
    else:
        sequences, queries, size = q.shape[0], q.shape[1], q.shape[2] // heads
        if k is None:
            new, width = queries, size
        elif len(k.shape) == 5:
            new, width = k.shape[1], k.shape[4]
        elif len(k.shape) == 4:
            new, width = k.shape[2], v.shape[3] if v is not None else size
        else:
            new = k.shape[1]
            width = size if v is None else v.shape[3] if len(v.shape) == 4 else v.shape[2] // heads
    causal = bool(node.attribute("unidirectional", 0))
    return Heads(
        sequences, heads, heads, queries, before + new, size, width, causal, before,
        reads_cache=before > 0, keeps_cache=node.output(1) is not None,
    )  # fmt: skip


def _multi_head(node: Node) -> list[dict]:
    heads, q, bias = multi_head(node), node.input(0), node.input(3)
    rows = attention_row(
        node, heads, [node.input(4), node.input(5)],
        bytes_of((heads.sequences, heads.queries, heads.heads, heads.size), q.element), _kept_bytes(heads, q.element),
    )  # fmt: skip
    added = heads.sequences * heads.heads * (heads.queries * heads.size + heads.keys * (heads.size + heads.width))
    return _with_operands(node, rows, [bias], added if bias is not None else 0)


def own_projection(node: Node) -> tuple[Heads, tuple[int, int, int]]:
    """Sizes of com.microsoft Attention, which holds the projection of queries, keys and values itself."""
    x, w, past = node.input(0), node.input(1), node.input(4)
    heads = int(node.attribute("num_heads", 0))
    sizes = tuple(int(s) for s in node.attribute("qkv_hidden_sizes") or [w.shape[1] // 3] * 3)
    if heads < 1 or len(sizes) != 3 or any(s % heads for s in sizes):
        raise node.error("num_heads must divide the sizes of queries, keys and values")
    before = past.shape[3] if past is not None else 0
    queries = x.shape[1]
    return Heads(
        x.shape[0], heads, heads, queries, before + queries, sizes[1] // heads, sizes[2] // heads,
        bool(node.attribute("unidirectional", 0)), before, reads_cache=before > 0,
        keeps_cache=node.output(1) is not None,
    ), sizes  # fmt: skip


def _own_projection(node: Node) -> list[dict]:
    heads, sizes = own_projection(node)
    x, w, bias = node.input(0), node.input(1), node.input(2)
    made = Value("", (*x.shape[:2], sum(sizes)), x.element)
    projection = replace(node, outputs=[made], inputs=[x, w, bias])
    rows = _products(projection, x, w, [bias], made.elements * (bias is not None))
    for row in rows:
        row["op"] = "query key value projection"
    query_bytes = bytes_of((*x.shape[:2], sizes[0]), x.element)
    attend = replace(node, inputs=[v for v in node.inputs if v not in (w, bias)])
    mask = [node.input(3), node.input(5)]
    return rows + attention_row(attend, heads, mask, query_bytes, _kept_bytes(heads, x.element))


def grouped_query(node: Node) -> Heads:
    """Sizes of com.microsoft GroupQueryAttention (causal); the past may be a cache of its full length."""
    q, k, v, past = node.input(0), node.input(1), node.input(2), node.input(3)
    heads, kv_heads = int(node.attribute("num_heads", 0)), int(node.attribute("kv_num_heads", 0))
    if heads < 1 or kv_heads < 1:
        raise node.error("num_heads and kv_num_heads are missing")
    packed = k is None
    size = q.shape[2] // (heads + 2 * kv_heads) if packed else q.shape[2] // heads
    width = size if packed or v is None else v.shape[2] // kv_heads
    queries = q.shape[1]
    before = past.shape[2] if past is not None else 0
    total = node.input(6)
    if total is not None and total.data is not None:  # a shared buffer is longer than what is in it
        before = min(before, max(0, int(total.data.reshape(-1)[0]) - queries))
    return Heads(
        q.shape[0], heads, kv_heads, queries, before + queries, size, width, True, before,
        reads_cache=before > 0, keeps_cache=node.output(1) is not None,
    )  # fmt: skip


def _grouped_query(node: Node) -> list[dict]:
    heads, q = grouped_query(node), node.input(0)
    query_bytes = bytes_of((heads.sequences, heads.queries, heads.heads, heads.size), q.element)
    rows = attention_row(node, heads, [], query_bytes, _kept_bytes(heads, q.element))
    if node.attribute("do_rotary", 0):
        turned = heads.sequences * heads.queries * (heads.heads + heads.kv_heads) * heads.size
        rows = _with_operands(node, rows, [node.input(7), node.input(8)], OPERATIONS["rotary"].vector * turned)
    return rows


def _rotary(node: Node) -> list[dict]:
    x = node.input(0)
    return [streamed(node, "rotary positions", "elementwise", OPERATIONS["rotary"].vector * x.elements)]


# -- recurrences -------------------------------------------------------------------------------------


def _recurrence(node: Node) -> list[dict]:
    """RNN, LSTM or GRU: the builder's rows. Both directions are folded into one row, as the builder does.

    Peepholes are 3 products and 3 sums a unit on the gates; `linear_before_reset` = 0 splits the recurrent product of
    a GRU in two, as the candidate waits for the reset gate. Custom activations cost what the default ones do, and
    sequences count at their full length, as `sequence_lens` is not known.
    """
    x, w, r, bias = (node.input(i) for i in range(4))
    if None in (x, w, r) or len(x.shape) != 3 or len(w.shape) != 3 or len(r.shape) != 3:
        raise node.error("X, W and R must have three axes")
    hidden, both = r.shape[2], node.attribute("direction", b"forward") == b"bidirectional"
    steps, batch = (x.shape[1], x.shape[0]) if node.attribute("layout", 0) else (x.shape[0], x.shape[1])
    if 0 in (steps, batch, hidden, x.shape[2]):
        return []
    types = types_of(node, [w])
    settings = {
        "sequence_length": steps, "batch": batch, "input_size": x.shape[2], "bias": bias is not None,
        "bidirectional": both, **types.columns,
    }  # fmt: skip
    if node.type == "LSTM":
        rows = lstm(1, hidden, **settings).rows()
    elif node.type == "GRU":
        rows = gru(1, hidden, **settings).rows()
    else:
        kinds = [str(a.decode() if isinstance(a, bytes) else a).lower() for a in node.attribute("activations") or []]
        rows = rnn(1, hidden, nonlinearity="relu" if kinds and kinds[0] == "relu" else "tanh", **settings).rows()
    gates = 4 if node.type == "LSTM" else 3 if node.type == "GRU" else 1
    if w.shape != (1 + both, gates * hidden, x.shape[2]) or r.shape != (1 + both, gates * hidden, hidden):
        raise node.error(f"weights of shapes {list(w.shape)} and {list(r.shape)} do not fit inputs of {list(x.shape)}")
    peepholes = node.input(7) if node.type == "LSTM" else None
    if peepholes is not None:
        rows[2]["vector_flops"] += 6 * batch * hidden
        rows[2]["parameters"] += 3 * hidden
        rows[2]["weight_bytes"] += types.weights(3 * hidden)
    owners = [(w,), (r,), tuple(v for v in (bias, peepholes) if v is not None)]
    for row, values in zip(rows, owners, strict=True):
        del row["layer"]
        row["_weights"] = tuple(sorted(s for v in values for s in v.sources))
        row["parameters"] = sum(node.claim(v, True) for v in values) // row["weight_sets"]
        row["_recurrence"] = node.type.lower()
    if node.type == "GRU" and not node.attribute("linear_before_reset", 0):
        rows = _reset_first(rows, types, batch, hidden)
    return rows


def _reset_first(rows: list[dict], types: Types, batch: int, hidden: int) -> list[dict]:
    """The GRU of Cho et al. (2014): the candidate's recurrent product takes r h, so it waits for the reset gate."""
    product, gates = rows[1], rows[2]
    units, bias_bytes = batch * hidden, gates["weight_bytes"]
    unit, biased = types.activations(units), bool(bias_bytes)
    first, second = dict(product), dict(product)
    for row, share, name in ((first, 2, "recurrent product"), (second, 1, "candidate product")):
        row |= {"op": name, "n": share * hidden, "state_bytes": unit * (1 + share)}  # h or r h read, sums written
        row |= {c: product[c] * share // 3 for c in ("matrix_flops", "parameters", "weight_bytes")}
    reset = gates | {
        "op": "reset gate",
        "vector_flops": (2 + biased) * units,  # add the input part (and the bias); r h
        "special_ops": units,
        "parameters": 0,
        "weight_bytes": bias_bytes // 3,
        "input_bytes": unit,
        "output_bytes": 0,
        "state_bytes": 3 * unit,  # the sum and h read, r h written
        "after": (0, 1),
    }
    last = gates | {
        "vector_flops": (5 + 2 * biased) * units,  # add two input parts (and biases); n + z (h - n)
        "special_ops": 2 * units,
        "weight_bytes": bias_bytes - bias_bytes // 3,
        "input_bytes": 2 * unit,
        "state_bytes": 3 * unit,  # two sums and h read
        "after": (0, 1, 3),
    }
    return [rows[0], first | {"after": (0,)}, reset, second | {"after": (2,)}, last]


# -- norms, softmax, look-ups ------------------------------------------------------------------------


def _softmax(node: Node) -> list[dict]:
    x, out = node.input(0), node.result
    if not out.elements:
        return []
    axis = int(node.attribute("axis", -1 if node.version >= 13 else 1)) % max(1, len(x.shape))
    columns = x.shape[axis] if node.version >= 13 else math.prod(x.shape[axis:])
    columns = columns if x.shape else 1
    row = softmax.row(out.elements // columns, columns, types=types_of(node), op=words(node.type))
    del row["layer"]
    if node.type == "LogSoftmax":  # the logarithm of the sum, once a row
        row["special_ops"] += out.elements // columns
    return [row | traffic(node)]


def _norm(node: Node, name: str, rows: int, gain: Value | None, offset: Value | None, added: int = 0) -> list[dict]:
    """A norm over `rows` rows; `added`: additions of residuals before it."""
    x, out = node.input(0), node.result
    if not x.elements:
        return []
    kind = "rms" if name == "rms norm" else "layer"
    row = normalisation.row(rows, x.elements // rows, norm=kind, bias=offset is not None, types=types_of(node, [gain]))
    del row["layer"]
    row["vector_flops"] += added * out.elements - (gain is None) * x.elements
    return [row | traffic(node, [gain, offset])]


def _layer_norm(node: Node) -> list[dict]:
    x, offset = node.input(0), node.input(2)
    axis = int(node.attribute("axis", -1)) % max(1, len(x.shape))
    name = "layer norm" if node.type == "LayerNormalization" else "rms norm"
    rows = math.prod(x.shape[:axis])
    return _norm(node, name, rows, node.input(1), offset if name == "layer norm" else None)


def _skip_norm(node: Node) -> list[dict]:
    """x + skip (+ bias), then a norm: com.microsoft (Skip)LayerNormalization and its simplified form."""
    simplified = "Simplified" in node.type
    beta, bias = (None, node.input(3)) if simplified else (node.input(3), node.input(4))
    rows = math.prod(node.input(0).shape[:-1])
    name = "rms norm" if simplified else "layer norm"
    return _norm(node, name, rows, node.input(2), beta, 1 + (bias is not None))


def _channel_norm(node: Node) -> list[dict]:
    """InstanceNormalization: a row for each channel; GroupNormalization: for each group; LRN aside."""
    x = node.input(0)
    groups = int(node.attribute("num_groups", 0)) if node.type == "GroupNormalization" else 0
    groups = groups or (int(node.attribute("groups", 0)) if node.type in ("GroupNorm", "SkipGroupNorm") else 0)
    rows = x.shape[0] * (groups or x.shape[1])
    return _norm(node, "layer norm", max(1, rows), node.input(1), node.input(2))


def _batch_norm(node: Node) -> list[dict]:
    x = node.input(0)
    each = OPERATIONS["layer norm"].vector if node.attribute("training_mode", 0) else OPERATIONS["batch norm"].vector
    row = streamed(node, "batch norm", "normalisation", each * x.elements)
    return [row]


def _plain_norm(node: Node) -> list[dict]:
    """LpNormalization (square, sum, divide), MeanVarianceNormalization, LRN (a window of squares and a power)."""
    x = node.input(0)
    vector, special = {"LpNormalization": (2, 1), "MeanVarianceNormalization": (5, 1)}.get(node.type, (0, 2))
    vector = vector or int(node.attribute("size", 1)) + 3
    return [streamed(node, words(node.type), "normalisation", vector * x.elements, special * x.elements)]


def _gather(node: Node) -> list[dict]:
    """Picks rows: reads as much as it writes, and its indices; from a table of parameters it is an embedding."""
    source, index, out = node.input(0), node.input(1), node.result
    axis = int(node.attribute("axis", 0)) % max(1, len(source.shape))
    indices = 0 if index.constant else index.bytes
    if node.type == "Gather" and axis == 0 and source.is_weight and len(source.shape) == 2 and not index.constant:
        if not out.elements:
            return []
        row = embedding.row(index.elements, *source.shape, types=types_of(node, [source]), op="embedding")
        del row["layer"]
        picked = row["weight_bytes"]
        row |= traffic(node, [source]) | {"input_bytes": indices}
        return [row | {"weight_bytes": picked}]
    picked = min(out.bytes, source.bytes)
    row = streamed(node, words(node.type), "gather")
    read = {"weight_bytes": picked} if source.is_weight else {"weight_bytes": 0}
    return [row | read | {"input_bytes": indices + (0 if source.is_weight else picked)}]


def _embedding_norm(node: Node) -> list[dict]:
    """com.microsoft EmbedLayerNormalization: the sum of two or three embeddings and a norm."""
    ids, out = node.input(0), node.result
    tables = [v for v in (node.input(2), node.input(3), node.input(4)) if v is not None]
    picked = out.elements * len(tables)
    rows = out.elements // out.shape[-1]
    gain, offset = node.input(5), node.input(6)
    row = normalisation.row(rows, out.shape[-1], types=types_of(node, tables), op="embedding and norm")
    del row["layer"]
    row["vector_flops"] += (len(tables) - 1) * out.elements
    whole = traffic(node, [*tables, gain, offset])
    read = bytes_of((picked,), out.element) + sum(v.bytes for v in (gain, offset) if v is not None)
    return [row | whole | {"weight_bytes": read, "input_bytes": ids.bytes * len(tables)}]


# -- everything else ---------------------------------------------------------------------------------

#: Vector FLOP and special operations of one element of the result, where it is not one vector FLOP.
POINTWISE: dict[str, tuple[int, int]] = {
    **dict.fromkeys((
        "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh",
        "Acosh", "Atanh", "Erf", "Sigmoid", "Tanh", "Det",
    ), (0, 1)),
    **dict.fromkeys((
        "Add", "Sub", "Mul", "Neg", "Abs", "Relu", "Floor", "Ceil", "Round", "Sign", "Not", "And", "Or", "Xor",
        "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Where", "IsNaN", "IsInf", "BitShift",
        "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Binarizer", "Scaler",
    ), (1, 0)),
    "Mod": (2, 1), "Gelu": (8, 1), "FastGelu": (8, 1), "QuickGelu": (2, 1), "BiasGelu": (9, 1), "Swish": (1, 1),
    "Silu": (1, 1), "Mish": (1, 3), "Softplus": (1, 2), "Elu": (2, 1), "Celu": (3, 1), "Selu": (3, 1),
    "LeakyRelu": (2, 0), "HardSigmoid": (4, 0), "HardSwish": (5, 0), "PRelu": (2, 0), "Clip": (2, 0),
    "Softsign": (2, 1), "ThresholdedRelu": (2, 0), "Shrink": (3, 0), "QuantizeLinear": (3, 0),
    "DequantizeLinear": (2, 0), "QLinearAdd": (7, 0), "QLinearMul": (4, 0), "QLinearSigmoid": (5, 1),
    "QLinearLeakyRelu": (5, 0), "RandomNormal": (1, 0), "RandomUniform": (1, 0), "RandomNormalLike": (1, 0),
    "RandomUniformLike": (1, 0), "Bernoulli": (1, 0), "Multinomial": (1, 0), "Trilu": (1, 0), "GridSample": (8, 0),
    "SwiGLU": (2, 1), "ScatterElements": (1, 0), "Hardmax": (2, 0), "Dropout": (2, 0), "LinearClassifier": (1, 0),
}  # fmt: skip

#: One vector FLOP for each element read, or as given; special operations for each element of the result.
REDUCTIONS: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys((
        "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ArgMax", "ArgMin", "CumSum", "CumProd",
        "TopK", "NonZero", "Unique", "DynamicQuantizeLinear",
    ), (1, 0, 0)),
    "ReduceL1": (2, 0, 0), "ReduceL2": (2, 0, 1), "ReduceSumSquare": (2, 0, 0), "ReduceLogSum": (1, 0, 1),
    "ReduceLogSumExp": (3, 1, 1),
}  # fmt: skip

#: Moves values without arithmetic.
COPIES = frozenset({
    "Transpose", "Concat", "Split", "Slice", "Pad", "Tile", "Expand", "Cast", "CastLike", "DepthToSpace",
    "SpaceToDepth", "ReverseSequence", "Compress", "CenterCropPad", "Col2Im", "ScatterND", "Scatter", "OneHot",
    "MaxUnpool", "MaxRoiPool", "EyeLike", "ConstantOfShape", "Range", "TensorScatter", "Upsample", "NhwcMaxPool",
    "QLinearConcat", "BitCast",
})  # fmt: skip

#: Another look at the same bytes, or only at a shape.
VIEWS = frozenset({
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant", "OptionalHasElement",
    "Optional", "OptionalGetElement", "SequenceLength", "SequenceEmpty", "SequenceConstruct", "SequenceAt",
    "SequenceInsert", "SequenceErase",
})  # fmt: skip

#: Words for operators whose type does not read well.
WORDS = {
    "Mul": "multiply", "Sub": "subtract", "Div": "divide", "Pow": "power", "Concat": "concatenate", "Neg": "negate",
    "LayerNormalization": "norm", "QuantizeLinear": "quantise", "DequantizeLinear": "dequantise",
    "DynamicQuantizeLinear": "quantise", "Sqrt": "square root", "IsNaN": "is nan",
}  # fmt: skip


def words(name: str) -> str:
    """An operator's type in words: "ReduceMean" becomes "reduce mean"."""
    found = WORDS.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).lower()
    return "".join(c if c.isprintable() else "?" for c in found).strip() or "unnamed"


def _elementwise(node: Node) -> list[dict]:
    vector, special = POINTWISE[node.type]
    elements = max((v.elements for v in node.results), default=0)
    op = words(node.type)
    if node.type == "Add" and any(v.is_weight and v.elements > 1 and v.elements == max(v.shape) for v in node.tensors):
        op = "bias add"
    return [streamed(node, op, "elementwise", vector * elements, special * elements)]


def _divide(node: Node) -> list[dict]:
    by_constant = node.input(1).constant  # a product with its reciprocal
    elements = node.result.elements
    return [streamed(node, "divide", "elementwise", by_constant * elements, (not by_constant) * elements)]


def _power(node: Node) -> list[dict]:
    exponent = node.input(1)
    known = float(exponent.data.reshape(-1)[0]) if exponent.data is not None and exponent.elements == 1 else None
    vector, special = (int(known) - 1, 0) if known in (2.0, 3.0, 4.0) else (0, 1)
    elements = node.result.elements
    return [streamed(node, "power", "elementwise", vector * elements, special * elements)]


def _variadic(node: Node) -> list[dict]:
    """Sum, Max, Min, Mean of n tensors: n - 1 operations an element, one more for the mean."""
    each = max(1, len(node.inputs) - 1 + (node.type == "Mean"))
    return [streamed(node, words(node.type), "elementwise", each * node.result.elements)]


def _reduction(node: Node) -> list[dict]:
    vector, special, root = REDUCTIONS[node.type]
    x, out = node.input(0), node.result
    if node.type == "TopK":  # each element against a heap of the best k
        axis = int(node.attribute("axis", -1))
        vector = 1 + math.ceil(math.log2(max(1, out.shape[axis]))) if out.shape else 1
    if node.type == "DynamicQuantizeLinear":  # the range, then scale, shift and round
        vector = 5
    kind = "scan" if node.type.startswith("Cum") else "elementwise"
    return [streamed(node, words(node.type), kind, vector * x.elements, special * x.elements + root * out.elements)]


def _copy(node: Node) -> list[dict]:
    x, out = node.input(0), node.result
    if node.type == "Transpose":
        order = [a for a in node.attribute("perm") or range(len(x.shape))[::-1] if x.shape[a] != 1]
        if order == sorted(order):  # only axes of size one move
            return []
    if node.type in ("Cast", "CastLike") and x.element == out.element:
        return []
    if node.type in ("Slice", "Pad", "Tile", "Expand", "Split", "Concat") and out.shape == x.shape:
        return []
    row = streamed(node, words(node.type), "copy")
    if node.type in ("Slice", "Compress", "CenterCropPad"):  # reads what it keeps
        others = sum(v.bytes for v in node.tensors[1:] if not v.constant)
        role = "weight_bytes" if x.is_weight else "input_bytes"
        row[role] = min(row[role], out.bytes + others)
    if node.type in ("ConstantOfShape", "Range", "EyeLike"):
        row["input_bytes"] = 0
    return [row]


def _resize(node: Node) -> list[dict]:
    """Nearest: a copy. Linear: 2 neighbours along each resized axis; cubic: 4. A product and a sum for each."""
    mode = node.attribute("mode", b"nearest")
    x, out = node.input(0), node.result
    axes = sum(a != b for a, b in zip(x.shape, out.shape, strict=True))
    if mode == b"nearest" or not axes:
        return [streamed(node, "resize", "copy")]
    taps = (4 if mode == b"cubic" else 2) ** axes
    return [streamed(node, "resize", "elementwise", 2 * taps * out.elements)]


def _roi_align(node: Node) -> list[dict]:
    """Each result averages samples, each interpolated between four neighbours (8 vector FLOP)."""
    samples = max(1, int(node.attribute("sampling_ratio", 0))) ** 2
    return [streamed(node, "roi align", "elementwise", (8 * samples + 1) * node.result.elements)]


def _dropout(node: Node) -> list[dict]:
    """Nothing when not training; else a random number, a comparison and a product."""
    training = node.input(2)
    if training is None or training.data is None or not bool(training.data.reshape(-1)[0]):
        return []
    return _elementwise(node)


def _view(node: Node) -> list[dict]:
    return []


def unknown(node: Node) -> list[dict]:
    """An operator without a cost: its bytes count, its operations do not."""
    name = f"{node.domain}.{node.type}" if node.domain else node.type
    name = "".join(c if c.isprintable() else "?" for c in name).strip()
    return [streamed(node, f"unknown: {name}", "copy")]


RULES: dict[str, Callable[[Node], list[dict]]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "QLinearMatMul": _quantised_matmul,
    "MatMulInteger": _integer_matmul,
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger"), _conv),
    "QLinearConv": _quantised_conv,
    "DeformConv": _deformable,
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"), _pool),
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    **dict.fromkeys(("RNN", "LSTM", "GRU"), _recurrence),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _layer_norm),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _channel_norm),
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("LpNormalization", "MeanVarianceNormalization", "LRN"), _plain_norm),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "ArrayFeatureExtractor"), _gather),
    **dict.fromkeys(POINTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(COPIES, _copy),
    **dict.fromkeys(VIEWS, _view),
    "Div": _divide,
    "Pow": _power,
    **dict.fromkeys(("Sum", "Max", "Min", "Mean"), _variadic),
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "Dropout": _dropout,
}  # fmt: skip

#: Operators of onnxruntime's own domain that differ from, or add to, those of the standard.
MICROSOFT_RULES: dict[str, Callable[[Node], list[dict]]] = {
    "Attention": _own_projection,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped_query,
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul"), _fused_matmul),
    "FusedGemm": _gemm,
    "GemmFastGelu": _gemm,
    "QGemm": _qgemm,
    "MatMulNBits": _packed_matmul,
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _dynamic_matmul),
    "FusedConv": _fused_conv,
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip_norm),
    "EmbedLayerNormalization": _embedding_norm,
}  # fmt: skip

#: Products that take 8 bit integers where both operands come from a DequantizeLinear.
TAKES_INTEGERS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})


def rule_of(node_type: str, domain: str) -> Callable[[Node], list[dict]] | None:
    """The function that costs an operator, None where there is none."""
    if domain == MICROSOFT:
        return MICROSOFT_RULES.get(node_type) or RULES.get(node_type)
    return RULES.get(node_type) if domain in ("", "ai.onnx.ml") else None


# -- shapes that onnx does not infer -----------------------------------------------------------------


def _like(node: Node) -> list[tuple]:
    x = node.input(0)
    return [(x.shape, x.element)]


def _broadcast(node: Node) -> list[tuple]:
    shapes = [node.input(i).shape for i in ((0, 3) if node.type.startswith("QLinear") else (0, 1))]
    return [(tuple(np.broadcast_shapes(*shapes)), node.input(0).element)]


def _matmul_shape(node: Node) -> list[tuple]:
    a = _turned(node.input(0), bool(node.attribute("transA", 0)))
    b = _turned(node.input(1), bool(node.attribute("transB", 0)))
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    element = a.element if a.element in FLOATS else 1
    return [((*batch, a.shape[-2], b.shape[-1]), element)]


def _qgemm_shape(node: Node) -> list[tuple]:
    a = _turned(node.input(0), bool(node.attribute("transA", 0)))
    b = _turned(node.input(3), bool(node.attribute("transB", 0)))
    return [((a.shape[0], b.shape[1]), node.input(0).element if node.input(7) is not None else 1)]


def _packed_shape(node: Node) -> list[tuple]:
    a = node.input(0)
    return [((*a.shape[:-1], int(node.attribute("N"))), a.element)]


def _skip_shapes(node: Node) -> list[tuple]:
    x = node.input(0)
    statistics = (*x.shape[:-1], 1)
    return [(x.shape, x.element), (statistics, 1), (statistics, 1), (x.shape, x.element)]


def _norm_shapes(node: Node) -> list[tuple]:
    x = node.input(0)
    axis = int(node.attribute("axis", -1)) % max(1, len(x.shape))
    statistics = x.shape[:axis] + (1,) * (len(x.shape) - axis)
    return [(x.shape, x.element), (statistics, 1), (statistics, 1)]


def _own_projection_shapes(node: Node) -> list[tuple]:
    heads, sizes = own_projection(node)
    x = node.input(0)
    present = (2, heads.sequences, heads.heads, heads.keys, heads.size)
    return [((*x.shape[:2], sizes[2]), x.element), (present, x.element)]


def _head_shapes(heads: Heads, element: int) -> list[tuple]:
    keys = (heads.sequences, heads.kv_heads, heads.keys)
    out = (heads.sequences, heads.queries, heads.heads * heads.width)
    return [(out, element), ((*keys, heads.size), element), ((*keys, heads.width), element)]


def _multi_head_shapes(node: Node) -> list[tuple]:
    return _head_shapes(multi_head(node), node.input(0).element)


def _grouped_query_shapes(node: Node) -> list[tuple]:
    return _head_shapes(grouped_query(node), node.input(0).element)


def _embedding_norm_shapes(node: Node) -> list[tuple]:
    ids, table = node.input(0), node.input(2)
    out = (*ids.shape, table.shape[1])
    return [(out, table.element), ((ids.shape[0],), 6), (out, table.element)]


def einsum_shapes(node: Node) -> list[tuple]:
    """Shape and element type of the result of an Einsum; onnx's own inference does not end on some equations."""
    _, out, sizes = _einsum_factors(node)
    return [(tuple(sizes[i] for i in out), node.input(0).element)]


#: (shape, element type) of each result, for operators outside the standard or older than their definition in it.
SHAPES: dict[str, Callable[[Node], list[tuple]]] = {
    **dict.fromkeys(("FastGelu", "QuickGelu", "BiasGelu", "Gelu", "QLinearSigmoid", "QLinearLeakyRelu", "Silu",
                     "RotaryEmbedding"), _like),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _broadcast),
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul", "FusedGemm", "GemmFastGelu", "DynamicQuantizeMatMul",
                     "MatMulIntegerToFloat"), _matmul_shape),
    "QGemm": _qgemm_shape,
    "MatMulNBits": _packed_shape,
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip_shapes),
    **dict.fromkeys(("SimplifiedLayerNormalization", "LayerNormalization"), _norm_shapes),
    "Attention": _own_projection_shapes,
    "MultiHeadAttention": _multi_head_shapes,
    "GroupQueryAttention": _grouped_query_shapes,
    "EmbedLayerNormalization": _embedding_norm_shapes,
}  # fmt: skip
