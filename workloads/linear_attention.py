"""Attention without a softmax over keys: linear attention and RWKV, whose past is a state of fixed size.

The state of linear attention is a matrix a head, S_t = S_(t-1) + k_t v_t', read by the query: y_t = q_t S_t. It runs

- serial: one kernel walks the positions with S in registers, rank-one updates on the vector units;
- chunked: within a chunk of C positions attention proper (C x C products), between chunks the state: products k'v of
  every chunk at once, a serial scan of T / C steps over S, products of queries and the state before their chunk;
- parallel: as chunked, with a parallel scan over the states of the chunks: log2 (T / C) levels.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.attention import visible_pairs
from workloads.blocks import (
    ACTIVATIONS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    matmul,
    normalisation,
    plain_integers,
    series,
)
from workloads.feed_forward import mlp_rows
from workloads.scans import Scan, block_trace, check_scan, language_model, one_sequence, scan_rows
from workloads.trace import Trace, TraceError


@dataclass(frozen=True)
class MatrixMemory:
    """A matrix state of `key_dim` x `value_dim` a head and sequence, and its normaliser of `key_dim`.

    `step`: (vector FLOP, special ops) of a position and head beside the matrix: gates, normaliser, division.
    `decays`: the state is multiplied by a gate before each update. `gates`: gate values of a position and head.
    """

    layer: str
    types: Types
    batch: int
    heads: int
    key_dim: int
    value_dim: int
    step: tuple[int, int]
    decays: bool = False
    gates: int = 0
    op: str = "memory"

    @property
    def states(self) -> int:
        """State elements of one sequence: matrices and normalisers."""
        return self.heads * self.key_dim * (self.value_dim + 1)

    def rows(self, form: str, mode: str, steps: int, chunk: int) -> list[dict]:
        """The rows of `steps` positions."""
        if mode == "decode" or form == "serial" or steps == 1:
            return scan_rows(self._by_position(), "serial", mode, steps, 1)
        return self._by_chunk(form, steps, min(chunk, steps))

    def _by_position(self) -> Scan:
        """k v' added (an outer product, an addition, a decay) and read (a product with q) for each position."""
        cells, products = self.states, self.heads * self.key_dim * self.value_dim
        scan = Scan(
            op=self.op,
            layer=self.layer,
            types=self.types,
            states=cells,
            before=(products + self.heads * self.step[0], self.heads * self.step[1]),
            reads=self.heads * (2 * self.key_dim + self.value_dim + self.gates),
            after=(2 * cells, 0),
            result=self.heads * self.value_dim,
            step_flops=1 + self.decays,
        )
        return one_sequence(scan, self.batch)

    def _by_chunk(self, form: str, steps: int, chunk: int) -> list[dict]:
        """Attention within the chunks, and what the state before each of them adds; the last chunk is padded."""
        chunks, positions = -(-steps // chunk), self.batch * steps
        groups = self.batch * self.heads * chunks
        sizes = {"batch": groups, "types": self.types, "layer": self.layer}
        results = positions * self.heads * self.value_dim
        within = self._within(groups, chunk)
        combine = elementwise.row(results, "add", types=self.types, layer=self.layer, op="sum and normalise")
        vector, special = (amount * self.heads * positions for amount in self.step)
        combine |= {"vector_flops": combine["vector_flops"] + vector, "special_ops": special}
        if chunks == 1:
            return [within, combine | {"after": (0,)}]
        updates = matmul.row(self.key_dim, self.value_dim, chunk, op="chunk states", **sizes)
        read = matmul.row(chunk, self.value_dim, self.key_dim, op="state read", **sizes)
        normaliser = self.types.activations(groups * self.key_dim)
        updates |= {
            "vector_flops": groups * chunk * self.key_dim * (1 + self.decays),  # keys weighed and summed
            "output_bytes": updates["output_bytes"] + normaliser,
        }
        read |= {
            "vector_flops": 2 * groups * chunk * self.key_dim,
            "input_bytes": read["input_bytes"] + normaliser,
        }
        rows = [within | {"after": ()}, updates | {"after": ()}]
        for row in self._state_scan().rows(form, chunks, 1):
            reach = {"reach_back": row["reach_back"] * chunk}  # a step or combine spans chunks of positions
            rows.append(row | reach | {"after": (len(rows) - 1,)})
        rows.append(read | {"after": (len(rows) - 1,)})
        return [*rows, combine | {"after": (0, len(rows) - 1)}]

    def _state_scan(self) -> Scan:
        """From the sum of each chunk to the state before it; one factor a head decays it."""
        factors = self.heads * self.decays
        scan = Scan(
            op="state scan",
            layer=self.layer,
            types=self.types,
            states=self.states,
            before=(0, 0),
            reads=self.states + factors,
            result=self.states,
            factors=factors,
            step_flops=1 + self.decays,
        )
        return one_sequence(scan, self.batch)

    def _within(self, groups: int, chunk: int) -> dict:
        """Attention within every chunk: masked scores (decayed by the gates), not normalised, times values."""
        pairs = groups * visible_pairs(chunk)
        width = self.key_dim + self.value_dim
        elements = groups * chunk
        return {
            "layer": self.layer,
            "op": "attention within chunks",
            "kind": "attention",
            "batch": groups,
            "m": chunk,
            "n": width,
            "k": chunk,
            "matrix_flops": 2 * pairs * width,
            "vector_flops": pairs * (2 if self.decays else 1),  # summed for the normaliser, decayed
            "special_ops": pairs if self.decays else 0,
            "input_bytes": self.types.activations(elements * (2 * self.key_dim + self.value_dim + self.gates)),
            "output_bytes": self.types.activations(elements * self.value_dim),
            "reach_back": chunk - 1,
            **self.types.columns,
        }


# -- linear attention --------------------------------------------------------------------------------

#: Of a position and head beside the matrix: one reciprocal of q . z, which is a column more of the matrix.
_DIVISION = 1


def _attention_rows(
    hidden: int, heads: int, steps: int, batch: int, bias: bool, form: str, chunk: int, mode: str, layer: str, types
) -> list[dict]:
    rows, head_dim = batch * steps, hidden // heads
    settings = {"types": types, "layer": layer}
    projection = linear.row(rows, 3 * hidden, hidden, bias=bias, op="query key value projection", **settings)
    # elu(x) + 1: exp below zero, x + 1 above: a comparison, an addition
    features = elementwise.row(2 * rows * hidden, "sigmoid", op="feature map", **settings)
    features |= {"vector_flops": 2 * 2 * rows * hidden}
    memory = MatrixMemory(layer, types, batch, heads, head_dim, head_dim, step=(head_dim, _DIVISION))
    output = linear.row(rows, hidden, hidden, bias=bias, op="output projection", **settings)
    return series([[projection], [features], memory.rows(form, mode, steps, chunk), [output]])


def _check_heads(where: str, hidden: int, heads: int) -> None:
    check_counts(where, hidden=hidden, heads=heads)
    if hidden % heads:
        raise TraceError(f"{where}: heads must divide hidden ({hidden}), got {heads}")


@plain_integers
def linear_attention(
    hidden: int,
    heads: int,
    *,
    sequence_length: int,
    batch: int = 1,
    bias: bool = True,
    scan: str = "chunked",
    chunk: int = 128,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "linear attention",
    name: str = "linear attention",
) -> Trace:
    """Causal linear attention with its four projections (Katharopoulos et al. 2020, sections 3.2 to 3.4).

    y = phi(q) S / phi(q) z with S = sum phi(k) v', z = sum phi(k), phi(x) = elu(x) + 1. `scan`: "serial" walks the
    positions with a state of head_dim x head_dim a head (a recurrent network, section 3.4), "chunked" works on `chunk`
    positions at once with products, "parallel" also scans the states of the chunks in parallel. `mode`: "prefill"
    processes `sequence_length` positions, "decode" one: its state is read and written, whatever the length.

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the argument: a
    size that is not a positive whole number, heads that do not divide hidden, an unknown scan, mode or element type.
    """
    where = "linear_attention"
    steps = check_scan(where, scan, chunk, mode, sequence_length)
    _check_heads(where, hidden, heads)
    check_counts(where, batch=batch)
    check_flags(where, bias=bias)
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    rows = _attention_rows(hidden, heads, steps, batch, bias, scan, chunk, mode, layer, types)
    return Trace.from_rows(rows, name=name, sequences=batch, tokens=steps, source=where)


@plain_integers
def linear_transformer(
    layers: int,
    hidden: int,
    heads: int,
    vocabulary: int,
    *,
    sequence_length: int,
    batch: int = 1,
    inner: int | None = None,
    activation: str = "gelu",
    bias: bool = True,
    tied: bool = True,
    logits: str | None = "all",
    scan: str = "chunked",
    chunk: int = 128,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "linear transformer",
) -> Trace:
    """A decoder-only Transformer, pre-norm, with linear attention (Katharopoulos et al. 2020); no position table.

    `inner` defaults to 4 hidden. See `linear_attention` for the other arguments and the errors.
    """
    steps = check_scan(name, scan, chunk, mode, sequence_length)
    check_counts(name, layers=layers, batch=batch)
    _check_heads(name, hidden, heads)
    inner = 4 * hidden if inner is None else inner
    check_counts(name, inner=inner)
    check_choice(name, "activation", activation, ACTIVATIONS)
    check_flags(name, bias=bias, tied=tied)
    types = element_types(name, dtype, weight_dtype, activation_dtype)
    rows, settings = batch * steps, {"types": types, "layer": "block"}
    norm = [normalisation.row(rows, hidden, bias=bias, **settings)]
    add = [elementwise.row(rows * hidden, "residual add", **settings)]
    attention = _attention_rows(hidden, heads, steps, batch, bias, scan, chunk, mode, "block", types)
    feed_forward = mlp_rows(rows, hidden, inner, False, activation, bias, True, "block", types)
    block = block_trace([norm, attention, add, norm, feed_forward, add], name)
    return language_model(
        [block * layers], name=name, batch=batch, positions=steps, hidden=hidden, vocabulary=vocabulary, types=types,
        norm_bias=bias, tied=tied, logits=logits,
    )  # fmt: skip


# -- RWKV --------------------------------------------------------------------------------------------

#: wkv of a channel and position, stabilised (Peng et al. 2023, appendix D). Before: the new largest exponent of
#: e^-w times the state and of e^k (an addition, a comparison), both less it, exp of both, times v: 5 FLOP, 2 exp.
#: After: the same for the state and e^(u + k), with the multiply-adds of numerator and denominator: 9 FLOP, 2 exp and
#: a division.
_WKV_BEFORE, _WKV_AFTER = (5, 2), (9, 3)


def _token_shift(mixes: int, batch: int, steps: int, hidden: int, mode: str, layer: str, types) -> dict:
    """`mixes` sums m x_t + (1 - m) x_(t-1), each with a vector m of weights; in decode x_(t-1) comes from memory."""
    elements = batch * steps * hidden
    parameters = mixes * hidden
    row = elementwise.row(mixes * elements, "add", types=types, layer=layer, op="token shift")
    row |= {
        "vector_flops": 3 * mixes * elements,
        "input_bytes": types.activations(elements),
        "parameters": parameters,
        "weight_bytes": types.weights(parameters),
        "reach_back": 1,
    }
    if mode == "decode":
        size = types.activations(batch * hidden)
        row |= {"cache_bytes": 2 * size, "saved_bytes": size}
    return row


def _time_mixing(hidden: int, batch: int, steps: int, form: str, chunk: int, mode: str, layer: str, types) -> list:
    rows, settings = batch * steps, {"types": types, "layer": layer}
    wkv = Scan(
        op="wkv",
        layer=layer,
        types=types,
        states=2 * hidden,  # numerator and denominator
        before=tuple(hidden * amount for amount in _WKV_BEFORE),
        reads=2 * hidden,
        after=tuple(hidden * amount for amount in _WKV_AFTER),
        reads_again=2 * hidden,
        result=hidden,
        parameters=2 * hidden,
        carried=hidden,  # their common exponent
    )
    products = linear.row(rows, hidden, hidden, batch=3, bias=False, op="key value receptance projection", **settings)
    gate = elementwise.row(rows * hidden, "sigmoid", gated=True, op="receptance gate", **settings)
    output = linear.row(rows, hidden, hidden, bias=False, op="output projection", **settings)
    scan = scan_rows(one_sequence(wkv, batch), form, mode, steps, chunk)
    return [
        [_token_shift(3, batch, steps, hidden, mode, layer, types)],
        [products],
        scan,
        [gate],
        [output],
    ]


def _channel_mixing(hidden: int, inner: int, batch: int, steps: int, mode: str, layer: str, types) -> list:
    rows, settings = batch * steps, {"types": types, "layer": layer}
    squared = elementwise.row(rows * inner, "relu", op="squared relu", **settings)
    squared |= {"vector_flops": 2 * rows * inner}
    key = linear.row(rows, inner, hidden, bias=False, op="key projection", **settings)
    value = linear.row(rows, hidden, inner, bias=False, op="value projection", **settings)
    receptance = linear.row(rows, hidden, hidden, bias=False, op="receptance projection", **settings)
    gate = elementwise.row(rows * hidden, "sigmoid", gated=True, op="receptance gate", **settings)
    mixed = [
        key | {"after": ()},
        squared | {"after": (0,)},
        value | {"after": (1,)},
        receptance | {"after": ()},
        gate | {"after": (2, 3)},
    ]
    return [[_token_shift(2, batch, steps, hidden, mode, layer, types)], mixed]


@plain_integers
def rwkv(
    layers: int,
    hidden: int,
    vocabulary: int,
    *,
    sequence_length: int,
    batch: int = 1,
    inner: int | None = None,
    tied: bool = False,
    logits: str | None = "all",
    scan: str = "serial",
    chunk: int = 256,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "rwkv",
) -> Trace:
    """RWKV, version 4 (Peng et al. 2023, section 3): time mixing with the wkv scan, channel mixing, both with norms.

    wkv_t = (sum e^(-(t-1-i) w + k_i) v_i + e^(u + k_t) v_t) / (the same without v): two linear recurrences a
    channel with a constant decay, so it scans as `workloads.scans` says; "serial" is the kernel the authors
    use. `inner`: of channel mixing, default 4 hidden. `mode`: "prefill" processes `sequence_length` positions,
    "decode" one, whose state (five values a channel and layer) is read and written.

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the argument.
    """
    steps = check_scan(name, scan, chunk, mode, sequence_length)
    check_counts(name, layers=layers, hidden=hidden, batch=batch)
    inner = 4 * hidden if inner is None else inner
    check_counts(name, inner=inner)
    check_flags(name, tied=tied)
    types = element_types(name, dtype, weight_dtype, activation_dtype)
    layer = "block"
    settings = {"types": types, "layer": layer}
    norm = [normalisation.row(batch * steps, hidden, **settings)]
    add = [elementwise.row(batch * steps * hidden, "residual add", **settings)]
    parts = [norm, *_time_mixing(hidden, batch, steps, scan, chunk, mode, layer, types), add]
    parts += [norm, *_channel_mixing(hidden, inner, batch, steps, mode, layer, types), add]
    return language_model(
        [block_trace(parts, name) * layers], name=name, batch=batch, positions=steps, hidden=hidden,
        vocabulary=vocabulary, types=types, embedding_norm=True, tied=tied, logits=logits,
    )  # fmt: skip
