"""xLSTM: blocks with a scalar memory (sLSTM, in series) or a matrix memory (mLSTM, in chunks), and networks of them.

The sLSTM is a recurrence proper: its gates see the hidden state through a product that is block-diagonal by heads.
The gates of the mLSTM see the input alone, so its memory scans like linear attention with a decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    normalisation,
    plain_integers,
    refuse_without,
    series,
)
from workloads.feed_forward import mlp_rows
from workloads.linear_attention import MatrixMemory
from workloads.scans import block_trace, check_scan, depthwise_convolution, language_model
from workloads.trace import Trace, TraceError
from workloads.transformer_blocks import MODES

BLOCKS = ("up", "down")
#: Vector FLOP and special ops of the gates of an sLSTM for each unit and step (Beck et al. 2024, section 2.2, in the
#: stabilised form): four sums of input part, recurrent part and bias (8); m = max(f + m, i) (2); i - m and f + m - m
#: (2); c = f c + i z, n = f n + i (3 + 2); h = o c / n (1). exp twice, tanh, sigmoid, a division.
_SLSTM_VECTOR, _SLSTM_SPECIAL = 18, 5
#: Of the gates of an mLSTM for each head and position: log sigmoid of f (1, 2 special), m (2), two exp (2, 2 special);
#: the normaliser's largest of |n q| and exp(-m) (2, 1 special), a reciprocal.
_MLSTM_VECTOR, _MLSTM_SPECIAL = 7, 6


def _rounded(size: float, multiple: int) -> int:
    """`size` up to the next multiple."""
    return -(-int(size) // multiple) * multiple if size == int(size) else (int(size) // multiple + 1) * multiple


@dataclass(frozen=True)
class _Shape:
    """What the blocks of one network share."""

    hidden: int
    heads: int
    steps: int
    batch: int
    form: str
    chunk: int
    mode: str
    types: Types

    @property
    def rows(self) -> int:
        return self.batch * self.steps

    def settings(self, layer: str) -> dict:
        return {"types": self.types, "layer": layer}

    def norm(self, layer: str, norm: str) -> list[dict]:
        return [normalisation.row(self.rows, self.hidden, norm=norm, bias=False, **self.settings(layer))]

    def head_norm(self, layer: str, features: int) -> dict:
        """A layer norm of every head with one gain for each feature."""
        row = normalisation.row(self.rows * self.heads, features // self.heads, bias=False, op="head norm",
                                **self.settings(layer))  # fmt: skip
        return row | {"parameters": features, "weight_bytes": self.types.weights(features)}

    def add(self, layer: str) -> list[dict]:
        return [elementwise.row(self.rows * self.hidden, "residual add", **self.settings(layer))]

    def memory(self, layer: str, key_size: int, value_size: int) -> list[dict]:
        key, value = key_size // self.heads, value_size // self.heads
        memory = MatrixMemory(
            layer, self.types, self.batch, self.heads, key, value,
            # beside the gates: i k, and the result scaled
            step=(_MLSTM_VECTOR + key + value, _MLSTM_SPECIAL), decays=True, gates=2,
        )  # fmt: skip
        return memory.rows(self.form, self.mode, self.steps, self.chunk)


def _mlstm_up(shape: _Shape, inner: int, width: int, block_size: int, layer: str) -> list[list[dict]]:
    """Up projection before the memory (Beck et al. 2024, figure 11), norm and residual add included."""
    rows, settings = shape.rows, shape.settings(layer)
    groups = inner // block_size
    gates = linear.row(rows, 2 * shape.heads, 3 * inner, op="gate projection", **settings)
    branch = linear.row(
        rows, block_size, block_size, batch=3 * groups, bias=False, op="query key value projection", **settings
    )
    skip = elementwise.row(rows * inner, "add", op="learnable skip", **settings)
    skip |= {"vector_flops": 2 * rows * inner, "parameters": inner, "weight_bytes": shape.types.weights(inner)}
    return [
        shape.norm(layer, "layer"),
        [linear.row(rows, 2 * inner, shape.hidden, bias=False, op="up projection", **settings)],
        [depthwise_convolution(shape.batch, shape.steps, inner, width, shape.mode, **settings)],
        [branch],
        [gates],
        shape.memory(layer, inner, inner),
        [shape.head_norm(layer, inner)],
        [skip],
        [elementwise.row(rows * inner, "silu", gated=True, op="output gate", **settings)],
        [linear.row(rows, shape.hidden, inner, bias=False, op="down projection", **settings)],
        shape.add(layer),
    ]


def _mlstm_down(shape: _Shape, key_size: int, value_size: int, feed_forward: int, layer: str) -> list[list[dict]]:
    """The memory at the width of the network, then a gated MLP (Beck et al. 2025, xLSTM 7B, section 3)."""
    rows, settings = shape.rows, shape.settings(layer)
    outputs = 2 * key_size + 2 * value_size
    return [
        shape.norm(layer, "rms"),
        [
            linear.row(rows, outputs, shape.hidden, bias=False, op="query key value gate projection", **settings)
            | {"after": ()},
            linear.row(rows, 2 * shape.heads, shape.hidden, op="input forget gate projection", **settings)
            | {"after": ()},
        ],
        shape.memory(layer, key_size, value_size),
        [shape.head_norm(layer, value_size)],
        [elementwise.row(rows * value_size, "sigmoid", gated=True, op="output gate", **settings)],
        [linear.row(rows, shape.hidden, value_size, bias=False, op="output projection", **settings)],
        shape.add(layer),
        shape.norm(layer, "rms"),
        mlp_rows(rows, shape.hidden, feed_forward, True, "silu", False, True, layer, shape.types),
        shape.add(layer),
    ]


def _recurrence(shape: _Shape, layer: str) -> list[dict]:
    """The steps of an sLSTM: a product for each head and the gates, as in `workloads.recurrent`.

    The input part of the gates is made before the steps, by a block-diagonal product. In decode one step is made, and
    its state (c, n, m and h) comes from memory.
    """
    size, batch, heads, types = shape.hidden, shape.batch, shape.heads, shape.types
    head = size // heads
    settings = shape.settings(layer)
    decode = shape.mode == "decode"
    runs = {"repeats": shape.steps, "serial_steps": shape.steps, "path_runs": shape.steps, "weight_sets": 1}
    inputs = linear.row(shape.rows, head, head, batch=4 * heads, bias=False, op="gate product", **settings)
    # i and f read the convolution, z and o its input
    inputs |= {"input_bytes": types.activations(2 * shape.rows * size)}
    product = linear.row(batch, 4 * head, head, batch=heads, bias=False, op="recurrent product", **settings)
    sums, units = types.activations(4 * batch * size), batch * size
    state = types.activations(units)
    product |= {"input_bytes": 0, "output_bytes": 0, "state_bytes": state + sums, "reach_back": 1} | runs
    gates = {
        "layer": layer,
        "op": "gates",
        "kind": "elementwise",
        "vector_flops": _SLSTM_VECTOR * units,
        "special_ops": _SLSTM_SPECIAL * units,
        "parameters": 4 * size,
        "weight_bytes": types.weights(4 * size),
        "input_bytes": sums,
        "output_bytes": state,
        "state_bytes": sums + types.activations(6 * units),  # the sums; c, n and m read and written
        **types.columns,
        **runs,
    }
    if decode:  # c, n and m read and written, h read; the weights of all layers pass between two positions
        product |= {"cache_bytes": state, "state_bytes": sums}
        gates |= {"cache_bytes": types.activations(6 * units), "state_bytes": sums, "saved_bytes": 4 * state}
    return [inputs | {"after": ()}, product | {"after": (0,)}, gates | {"after": (0, 1)}]


def _slstm(shape: _Shape, width: int, feed_forward: int, layer: str) -> list[list[dict]]:
    """The recurrence at the width of the network, then a gated MLP (Beck et al. 2024, figure 10)."""
    return [
        shape.norm(layer, "layer"),
        [depthwise_convolution(shape.batch, shape.steps, shape.hidden, width, shape.mode, **shape.settings(layer))],
        _recurrence(shape, layer),
        [shape.head_norm(layer, shape.hidden)],
        shape.add(layer),
        shape.norm(layer, "layer"),
        mlp_rows(shape.rows, shape.hidden, feed_forward, True, "gelu", False, True, layer, shape.types),
        shape.add(layer),
    ]


def _shape(
    where: str, hidden, heads, sequence_length, batch, scan, chunk, mode, dtype, weight_dtype, activation_dtype
) -> _Shape:
    steps = check_scan(where, scan, chunk, mode, sequence_length)
    check_counts(where, hidden=hidden, heads=heads, batch=batch)
    if hidden % heads:
        raise TraceError(f"{where}: heads must divide hidden ({hidden}), got {heads}")
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    return _Shape(hidden, heads, steps, batch, scan, chunk, mode, types)


@plain_integers
def slstm(
    hidden: int,
    heads: int,
    *,
    sequence_length: int,
    batch: int = 1,
    width: int = 4,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "slstm",
    name: str = "slstm block",
) -> Trace:
    """A block with a scalar memory (Beck et al. 2024, section 2.2 and figure 10), with norms and residual adds.

    A causal depthwise convolution of `width`, gates whose input and recurrent products are block-diagonal by heads, the
    steps one after another, a norm of every head, then a gated MLP of 1.3 hidden up to a multiple of 64 (the released
    code; 4 / 3 in the paper). The gates see the hidden state, so there is no scan to choose: T steps as in
    `workloads.lstm`. `mode`: "prefill" or "decode".

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the argument: a
    size that is not a positive whole number, heads that do not divide hidden, an unknown mode or element type.
    """
    shape = _shape(
        "slstm", hidden, heads, sequence_length, batch, "serial", 1, mode, dtype, weight_dtype, activation_dtype
    )
    check_counts("slstm", width=width)
    rows = series(_slstm(shape, width, _rounded(1.3 * hidden, 64), layer))
    return Trace.from_rows(rows, name=name, sequences=batch, tokens=shape.steps, source="slstm")


def _inner_of(where: str, hidden: int, heads: int, inner: int | None, block_size: int) -> int:
    inner = 2 * hidden if inner is None else inner
    check_counts(where, inner=inner, block_size=block_size)
    for field, value in (("heads", heads), ("block_size", block_size)):
        if inner % value:
            raise TraceError(f"{where}: {field} must divide inner ({inner}), got {value}")
    return inner


@plain_integers
def mlstm(
    hidden: int,
    heads: int,
    *,
    sequence_length: int,
    batch: int = 1,
    inner: int | None = None,
    width: int = 4,
    block_size: int = 4,
    scan: str = "chunked",
    chunk: int = 64,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "mlstm",
    name: str = "mlstm block",
) -> Trace:
    """A block with a matrix memory (Beck et al. 2024, section 2.3 and figure 11), with norm and residual add.

    Two projections up to `inner` features (default 2 hidden), a causal depthwise convolution of `width`, queries, keys
    and values by products of `block_size` features each, gates of every head from all three, the memory
    C = f C + i v k' and n = f n + i k, a norm of every head, a learnable skip, a gate, a projection down. `scan`: as in
    `workloads.linear_attention`. See `slstm` for the other arguments and the errors.
    """
    shape = _shape(
        "mlstm", hidden, heads, sequence_length, batch, scan, chunk, mode, dtype, weight_dtype, activation_dtype
    )
    check_counts("mlstm", width=width)
    inner = _inner_of("mlstm", hidden, heads, inner, block_size)
    rows = series(_mlstm_up(shape, inner, width, block_size, layer))
    return Trace.from_rows(rows, name=name, sequences=batch, tokens=shape.steps, source="mlstm")


@plain_integers
def xlstm(
    layers: int,
    hidden: int,
    heads: int,
    vocabulary: int,
    *,
    sequence_length: int,
    batch: int = 1,
    slstm_layers: int = 0,
    block: str = "up",
    inner: int | None = None,
    key_size: int | None = None,
    feed_forward: int | None = None,
    width: int = 4,
    block_size: int = 4,
    tied: bool = False,
    logits: str | None = "all",
    scan: str = "chunked",
    chunk: int = 64,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "xlstm",
) -> Trace:
    """A language model of mLSTM blocks, `slstm_layers` of them sLSTM blocks instead (Beck et al. 2024).

    `block`: of the mLSTM, "up" (projected up before the memory, see `mlstm`) or "down" (memory at the width of
    the network with keys of `key_size`, default hidden / 2, then a gated MLP of `feed_forward` features, default 8 / 3
    hidden up to a multiple of 64: xLSTM 7B, Beck et al. 2025). The sLSTM blocks come last: their place changes neither
    work nor path. See `mlstm` and `slstm` for the other arguments and the errors.
    """
    check_counts(name, layers=layers)
    check_counts(name, 0, slstm_layers=slstm_layers)
    check_choice(name, "block", block, BLOCKS)
    check_choice(name, "mode", mode, MODES)
    check_flags(name, tied=tied)
    if slstm_layers > layers:
        raise TraceError(f"{name}: slstm_layers must not exceed layers ({layers}), got {slstm_layers}")
    shape = _shape(
        name, hidden, heads, sequence_length, batch, scan, chunk, mode, dtype, weight_dtype, activation_dtype
    )
    check_counts(name, width=width)
    if block == "up":
        refuse_without(name, "block 'down'", key_size=key_size, feed_forward=feed_forward)
    else:
        refuse_without(name, "block 'up'", inner=inner)
    norm = "layer" if block == "up" else "rms"
    blocks = []
    if layers > slstm_layers:
        if block == "up":
            inner = _inner_of(name, hidden, heads, inner, block_size)
            parts = _mlstm_up(shape, inner, width, block_size, "mlstm")
        else:
            key_size = hidden // 2 if key_size is None else key_size
            feed_forward = _rounded(8 * hidden / 3, 64) if feed_forward is None else feed_forward
            check_counts(name, key_size=key_size, feed_forward=feed_forward)
            if key_size % heads:
                raise TraceError(f"{name}: heads must divide key_size ({key_size}), got {heads}")
            parts = _mlstm_down(shape, key_size, hidden, feed_forward, "mlstm")
        blocks.append(block_trace(parts, name) * (layers - slstm_layers))
    if slstm_layers:
        parts = _slstm(shape, width, _rounded(1.3 * hidden, 64), "slstm")
        blocks.append(block_trace(parts, name) * slstm_layers)
    return language_model(
        blocks, name=name, batch=batch, positions=shape.steps, hidden=hidden, vocabulary=vocabulary,
        types=shape.types, norm=norm, norm_bias=False, tied=tied, logits=logits,
    )  # fmt: skip
