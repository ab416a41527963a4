"""Conformer: attention and convolution over speech (Gulati et al. 2020), whole utterances or chunks of a stream."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    Types,
    block,
    check_choice,
    check_counts,
    element_types,
    elementwise,
    layer_label,
    linear,
    matmul,
    normalisation,
    plain_integers,
    series,
    softmax,
)
from workloads.convolution import batch_norm, conv1d, conv2d
from workloads.speech import transducer_decoder
from workloads.streaming import calls, over_calls
from workloads.trace import Trace, TraceError, concatenate

DECODERS = ("ctc", "transducer")
#: Frames that become one position: two convolutions of stride 2.
SUBSAMPLING = 4


@plain_integers
def conformer(
    layers: int,
    hidden: int,
    heads: int,
    *,
    sequence_length: int,
    vocabulary: int,
    inner: int | None = None,
    kernel: int = 32,
    features: int = 80,
    decoder: str = "transducer",
    prediction_hidden: int = 640,
    embedding_size: int = 128,
    joint: int | None = None,
    symbols: int | None = None,
    search: str = "greedy",
    chunk: int | None = None,
    left_context: int = 256,
    batch: int = 1,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "conformer",
) -> Trace:
    """Conformer encoder with a transducer or CTC decoder (Gulati et al. 2020, sections 2 and 3.2).

    Two 3 x 3 convolutions of stride 2 and a product make a position of `hidden` features from every four frames. A
    block is half a feed-forward layer (to `inner`, default 4 hidden, swish), self attention with relative positions
    (Dai et al. 2019: content and position scores, two learnt biases), the convolution module (product to 2 hidden,
    gated linear unit, depthwise convolution over `kernel` positions, batch norm, swish, product), the other half
    and a layer norm. `decoder`: "transducer", one LSTM layer of `prediction_hidden` and a joint network of `joint`
    (default: as wide) features, see `workloads.speech.transducer` for `embedding_size`, `symbols` and `search`; or
    "ctc", one product to `vocabulary` labels.

    `chunk`: frames a call waits for, a multiple of 4; None: the whole utterance. The last call is padded. With
    chunks, a position sees its chunk and the `left_context` frames before it, whose keys and values are cached, and
    the convolution is causal; the projected position table is made once. What the subsampling sees of the chunk
    before is not counted. Scores are written and read back: the position scores rule out plain fused attention.

    Returns a trace with `sequences` = batch, `tokens` = sequence_length frames of 10 ms. Raises `TraceError` naming
    the argument: a size that is not a positive whole number, heads that do not divide hidden, a chunk or left_context
    that is not made of whole positions, an unknown decoder, search or element type.
    """
    check_counts(name, layers=layers, hidden=hidden, heads=heads, vocabulary=vocabulary, kernel=kernel, batch=batch)
    check_counts(name, features=features, inner=4 * hidden if inner is None else inner)
    check_counts(name, 0, left_context=left_context)
    check_choice(name, "decoder", decoder, DECODERS)
    if hidden % heads:
        raise TraceError(f"{name}: heads must divide hidden ({hidden}), got {heads}")
    if left_context % SUBSAMPLING:
        raise TraceError(f"{name}: left_context must be a multiple of {SUBSAMPLING} frames, got {left_context}")
    types = element_types(name, dtype, weight_dtype, activation_dtype)
    number, positions = calls(name, sequence_length, chunk, SUBSAMPLING)
    frames = sequence_length if chunk is None else chunk
    streams = chunk is not None
    encoder = _Block(
        hidden, heads, 4 * hidden if inner is None else inner, kernel, positions,
        left_context // SUBSAMPLING if streams else 0, streams, number, batch,
        layer_label("block", 0, layers - 1), types,
    )  # fmt: skip
    parts = [over_calls(_subsampling(frames, features, hidden, batch, types.columns), number)]
    if streams:
        parts.append(Trace.from_rows([encoder.position_table()]).scaled(layers))
    parts.append(over_calls(Trace.from_rows(encoder.rows()), number, layers))
    if decoder == "ctc":
        rows = batch * positions
        head = linear(rows, vocabulary, hidden, layer="head", op="output projection", **types.columns)
        parts.append(over_calls(head, number))
    else:
        check_counts(name, prediction_hidden=prediction_hidden)
        parts += transducer_decoder(
            name, number, positions, hidden, sequence_length, symbols=symbols, search=search, vocabulary=vocabulary,
            embedding_size=embedding_size, layers=1, hidden=prediction_hidden, projection=None,
            joint=prediction_hidden if joint is None else joint, batch=batch, types=types.columns,
        )  # fmt: skip
    return concatenate(parts, name=name).replace(sequences=batch, tokens=sequence_length)


def _subsampling(frames: int, features: int, hidden: int, batch: int, types: dict) -> Trace:
    """Two convolutions that halve frames and features, and a product of what is left of each position."""
    settings, convolved = {"layer": "subsampling", **types}, {"stride": 2, "padding": 1, "batch": batch}
    height, width, channels, parts = features, frames, 1, []
    for number in range(2):
        op = f"convolution {number}"
        parts.append(conv2d(channels, hidden, height, width, 3, op=op, **convolved, **settings))
        height, width, channels = -(-height // 2), -(-width // 2), hidden
        parts.append(elementwise(batch * hidden * height * width, "relu", op=f"activation {number}", **settings))
    parts.append(linear(batch * width, hidden, hidden * height, op="input projection", **settings))
    return concatenate(parts)


@dataclass(frozen=True)
class _Block:
    """The sizes of one block in one call, and its rows."""

    hidden: int
    heads: int
    inner: int
    kernel: int
    positions: int  # new ones of each sequence
    left: int  # cached ones
    streams: bool
    number: int  # of calls
    batch: int
    layer: str
    types: Types

    @property
    def queries(self) -> int:
        return self.batch * self.positions

    @property
    def keys(self) -> int:
        return self.left + self.positions

    @property
    def distances(self) -> int:
        """Relative positions of a query and a key."""
        return self.keys + self.positions - 1

    @property
    def _settings(self) -> dict:
        return {"types": self.types, "layer": self.layer}

    def rows(self) -> list[dict]:
        """All rows of a block, each after the one before."""
        d, settings = self.hidden, self._settings
        norm = [normalisation.row(self.queries, d, op="output norm", **settings)]
        parts = (self._feed_forward("first"), self._attention(), self._convolution(), self._feed_forward("second"))
        return series([*parts, norm])

    def _product(self, op: str, n: int, k: int) -> dict:
        return linear.row(self.queries, n, k, op=op, **self._settings)

    def _norm(self, op: str) -> dict:
        return normalisation.row(self.queries, self.hidden, op=f"{op} norm", **self._settings)

    def _added(self, op: str, halved: bool = False) -> dict:
        """The residual sum; the half step costs one more product an element."""
        elements = self.queries * self.hidden
        row = elementwise.row(elements, "residual add", op=f"{op} residual add", **self._settings)
        return row | {"vector_flops": (1 + halved) * elements}

    def _feed_forward(self, which: str) -> list[dict]:
        op = f"{which} feed-forward"
        return [
            self._norm(op),
            self._product(f"{op} up", self.inner, self.hidden),
            elementwise.row(self.queries * self.inner, "silu", op=f"{op} swish", **self._settings),
            self._product(f"{op} down", self.hidden, self.inner),
            self._added(op, halved=True),
        ]

    def position_table(self) -> dict:
        """The projected sines of all relative positions, shared by the batch."""
        d, layer = self.hidden, "positions" if self.streams else self.layer
        settings = {"types": self.types, "layer": layer}
        return linear.row(self.distances, d, d, bias=False, op="position projection", **settings)

    def _attention(self) -> list[dict]:
        """Norm, projections, scores by content and by position, softmax, weighted sum, projection, residual."""
        d, size = self.hidden, self.hidden // self.heads
        batch, queries, keys = self.batch * self.heads, self.positions, self.keys
        streamed = self.types.activations(self.queries * d)
        operand = self.types.activations(self.batch * keys * d)  # all keys; the values are as many
        scores = batch * queries * keys
        # what a call leaves in the cache, spread over the calls: the occupied memory does not grow with them
        cached = {"cache_bytes": operand, "saved_bytes": -(-operand // self.number)} if self.streams else {}
        reach = {
            "reach_back": (keys - 1) * SUBSAMPLING,
            "reach_ahead": (queries - 1) * SUBSAMPLING,
        }
        content = matmul.row(queries, keys, size, batch=batch, op="content scores", **self._settings)
        content |= {"input_bytes": streamed + (0 if self.streams else operand)} | cached
        position = matmul.row(queries, self.distances, size, batch=batch, op="position scores", **self._settings)
        position |= {"input_bytes": streamed + self.types.activations(self.distances * d)}
        context = matmul.row(queries, size, keys, batch=batch, op="context", **self._settings)
        context |= {"input_bytes": self.types.activations(scores) + (0 if self.streams else operand)} | cached | reach
        return [
            self._norm("attention"),
            self._product("query key value projection", 3 * d, d),
            *([] if self.streams else [self.position_table()]),
            _position_biases.row(self.queries, d, **self._settings),
            content,
            position,
            _score_sum.row(scores, batch * queries * self.distances, **self._settings),
            softmax.row(batch * queries, keys, **self._settings),
            context,
            self._product("output projection", d, d),
            self._added("attention"),
        ]

    def _convolution(self) -> list[dict]:
        """Norm, product to twice the features, gate, depthwise convolution, batch norm, swish, product, residual."""
        d, elements = self.hidden, self.queries * self.hidden
        depthwise = conv1d.row(
            d, d, self.positions, self.kernel, padding="causal" if self.streams else "same", groups=d,
            batch=self.batch, op="depthwise convolution", **self._settings,
        )  # fmt: skip
        depthwise |= {side: depthwise[side] * SUBSAMPLING for side in ("reach_back", "reach_ahead")}
        if self.streams:  # the positions before the chunk are read and replaced
            kept = self.types.activations(self.batch * d * (self.kernel - 1))
            depthwise |= {"state_bytes": 2 * kept}
        return [
            self._norm("convolution"),
            self._product("pointwise convolution 0", 2 * d, d),
            elementwise.row(elements, "sigmoid", gated=True, op="gated linear unit", **self._settings),
            depthwise,
            batch_norm.row(elements, d, **self._settings),
            elementwise.row(elements, "silu", op="convolution swish", **self._settings),
            self._product("pointwise convolution 1", d, d),
            self._added("convolution"),
        ]


@block
def _position_biases(queries: int, hidden: int, *, types, layer: str) -> dict:
    """Queries plus either learnt bias, for the scores by content and by position."""
    row = elementwise.row(queries * hidden, "bias add", types=types, layer=layer, op="query biases")
    return row | {
        "vector_flops": 2 * queries * hidden,
        "parameters": 2 * hidden,
        "weight_bytes": types.weights(2 * hidden),
        "output_bytes": types.activations(2 * queries * hidden),
    }


@block
def _score_sum(scores: int, by_position: int, *, types, layer: str) -> dict:
    """Scores by content plus the shifted ones by position, scaled: a sum and a product each."""
    row = elementwise.row(scores, "add", types=types, layer=layer, op="sum of scores")
    return row | {"vector_flops": 2 * scores, "input_bytes": types.activations(scores + by_position)}
