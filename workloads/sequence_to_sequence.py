"""Recurrent encoder and decoder, without attention, with additive or with multiplicative attention.

Training or scoring, with the target given, and decoding, one token at a time. What does not depend on the step before
is hoisted: all products over given words, and, where the decoder does not read what attention finds, attention itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    Types,
    block,
    check_choice,
    check_counts,
    check_flags,
    check_own_rows,
    each_step,
    element_types,
    elementwise,
    embedding,
    layer_label,
    linear,
    matmul,
    plain_integers,
    relabelled,
    softmax,
    vocabulary_projection,
)
from workloads.recurrent import gru, lstm, rnn
from workloads.trace import Trace, TraceError, concatenate
from workloads.transformer_blocks import MODES

CELLS = {"lstm": lstm, "gru": gru, "rnn": rnn}
ATTENTIONS = ("additive", "multiplicative", "none")
SCORES = ("general", "dot")


@plain_integers
def sequence_to_sequence(
    layers: int,
    hidden: int,
    vocabulary: int,
    *,
    sequence_length: int,
    source_length: int | None = None,
    source_vocabulary: int | None = None,
    batch: int = 1,
    mode: str = "prefill",
    cell: str = "lstm",
    embedding_size: int | None = None,
    attention: str | None = "additive",
    alignment_size: int | None = None,
    score: str = "general",
    input_feeding: bool = False,
    bidirectional: bool = False,
    residual: bool = False,
    maxout: int | None = None,
    bias: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "sequence to sequence",
) -> Trace:
    """Encoder of `source_length` words, decoder of `sequence_length` words (Sutskever et al. 2014).

    `layers` layers of `hidden` units of `cell` ("lstm", "gru", "rnn") each; words are looked up in tables of
    `embedding_size` (default `hidden`) features. `source_length` and `source_vocabulary` default to the target's.
    `bidirectional`: the encoder runs both ways (it then keeps 2 `hidden` features a word, and the decoder starts from
    a product and tanh of its backward state). `residual`: each layer but the first adds its input to its result.

    `attention`: None, the decoder knows the source by the state it starts from. "additive" (Bahdanau et al. 2015,
    appendix A): before each step a hidden layer of `alignment_size` (default `hidden`) units scores every source word
    against the state, and the lowest decoder layer reads the context beside its word, so attention is part of
    the recurrence. "multiplicative" (Luong et al. 2015, section 3.1): products of the top state with the source,
    `score` "dot" or "general" (through a matrix), then tanh of a product over context and state; over all target
    words at once, unless `input_feeding` gives that vector to the next step (section 3.3), which puts every decoder
    layer and attention in one recurrence. `maxout`: before the logits a hidden layer over state, word and context,
    of the larger of two values for each of so many units (Bahdanau et al. 2015, A.2.2).

    `mode` "prefill": target words are given (training or scoring). "decode": one step of the decoder; the encoder and
    what attention makes of its result (held as cache), is done before and no part of the trace. Logits, no softmax.
    Attention has no biases. Rows: a few, and with `input_feeding` two more a layer, since all layers alternate.

    Returns a trace with `sequences` = batch, `tokens` = target words processed. Raises `TraceError` naming the
    argument: a size that is not a positive whole number, an unknown choice, `score` or `input_feeding` without
    multiplicative attention, `alignment_size` without additive, "dot" for states of different sizes.
    """
    source = sequence_length if source_length is None else source_length
    words = vocabulary if source_vocabulary is None else source_vocabulary
    features = hidden if embedding_size is None else embedding_size
    attention = "none" if attention is None else attention
    check_counts(name, layers=layers, hidden=hidden, vocabulary=vocabulary, source_vocabulary=words, batch=batch)
    check_counts(name, sequence_length=sequence_length, source_length=source, embedding_size=features)
    check_choice(name, "mode", mode, MODES)
    check_choice(name, "cell", cell, CELLS)
    check_choice(name, "attention", attention, ATTENTIONS)
    check_choice(name, "score", score, SCORES)
    check_flags(name, input_feeding=input_feeding, bidirectional=bidirectional, residual=residual, bias=bias)
    if input_feeding:
        check_own_rows(name, layers=layers)
    for argument, value, needed in (
        ("input_feeding", input_feeding, "multiplicative"),
        ("score", score != "general", "multiplicative"),
        ("alignment_size", alignment_size is not None, "additive"),
    ):
        if value and attention != needed:
            raise TraceError(f"{name}: {argument} needs attention {needed!r}, got {attention!r}")
    for argument, value in (("alignment_size", alignment_size), ("maxout", maxout)):
        if value is not None:
            check_counts(name, **{argument: value})
    if score == "dot" and bidirectional:
        raise TraceError(f"{name}: score 'dot' needs states of one size: bidirectional must be False")
    types = element_types(name, dtype, weight_dtype, activation_dtype)
    sizes = _Sizes(
        layers, hidden, vocabulary, words, features, source, 1 if mode == "decode" else sequence_length, batch,
        cell, attention, hidden if alignment_size is None else alignment_size, score, input_feeding, bidirectional,
        residual, maxout, bias, mode == "decode", types,
    )  # fmt: skip
    encoder = [] if sizes.decodes else sizes.encoder()
    return concatenate([*encoder, *sizes.decoder()], name=name).replace(sequences=batch, tokens=sizes.steps)


@dataclass(frozen=True)
class _Sizes:
    """The sizes of one encoder and decoder; see `sequence_to_sequence` for the words."""

    layers: int
    hidden: int
    vocabulary: int
    source_vocabulary: int
    features: int
    source: int
    steps: int
    batch: int
    cell: str
    attention: str
    alignment: int
    score: str
    input_feeding: bool
    bidirectional: bool
    residual: bool
    maxout: int | None
    bias: bool
    decodes: bool
    types: Types

    @property
    def memory(self) -> int:
        """Features the encoder keeps of each source word."""
        return 2 * self.hidden if self.bidirectional else self.hidden

    @property
    def keys(self) -> int:
        """Features of a source word that a query is compared with, where they are not its memory itself."""
        if self.attention == "additive":
            return self.alignment
        return self.hidden if self.attention == "multiplicative" and self.score == "general" else 0

    def stack(self, layers: int, inputs: int, steps: int, **settings) -> Trace:
        return CELLS[self.cell](
            layers, self.hidden, input_size=inputs, sequence_length=steps, batch=self.batch, bias=self.bias,
            **settings, **self.types.columns,
        )  # fmt: skip

    # -- encoder ---------------------------------------------------------------------------------

    def encoder(self) -> list[Trace]:
        """Source words, the stack, what attention prepares and the state the decoder starts from."""
        words, types = self.batch * self.source, self.types.columns
        parts = [
            embedding(words, self.source_vocabulary, self.features, layer="source embedding", **types),
            self.stack(
                self.layers, self.features, self.source, bidirectional=self.bidirectional, residual=self.residual,
                name="encoder",
            ),
        ]  # fmt: skip
        if self.keys:
            settings = {"layer": "attention keys", "op": "key projection", **types}
            parts.append(linear(words, self.keys, self.memory, bias=False, **settings))
        if self.bidirectional:
            start = linear(self.batch, self.hidden, self.hidden, layer="initial state", **types)
            tanh = elementwise(self.batch * self.hidden, "tanh", layer="initial state", **types)
            parts.append((start + tanh) * self.layers)
        return parts

    # -- decoder ---------------------------------------------------------------------------------

    def decoder(self) -> list[Trace]:
        """Target words, the stack with its attention, and the logits."""
        rows = self.batch * self.steps
        words = embedding(rows, self.vocabulary, self.features, layer="target embedding", **self.types.columns)
        if self.attention == "additive":
            stack = self._with_additive()
        elif self.input_feeding:
            stack = self._with_input_feeding()
        else:
            stack = [self.stack(self.layers, self.features, self.steps, residual=self.residual, name="decoder")]
            if self.attention == "multiplicative":
                stack.append(self._multiplicative("attention", self.steps))
        return [words, *stack, *self._logits()]

    def _with_additive(self) -> list[Trace]:
        """The lowest layer alternates with attention; the layers above do not wait for it."""
        lowest = self.stack(1, self.features + self.memory, self.steps, hoist_input=False)
        found = additive_attention(
            self.batch, self.source, self.hidden, self.memory, self.alignment, self.decodes, "decoder.0", self.types
        )
        parts = [relabelled(lowest, "decoder.0"), each_step(found, self.steps)]
        if self.layers > 1:
            label = layer_label("decoder", 1, self.layers - 1)
            upper = relabelled(self.stack(1, self.hidden, self.steps), label)
            parts.append((upper + self._residual(label, self.steps) if self.residual else upper) * (self.layers - 1))
        return parts

    def _with_input_feeding(self) -> list[Trace]:
        """Every layer and attention run once a step, one after another."""
        parts = []
        for number in range(self.layers):
            inputs = self.features + self.hidden if number == 0 else self.hidden
            layer = self.stack(1, inputs, self.steps, hoist_input=False)
            if self.residual and number:
                layer = layer + each_step(self._residual("decoder", 1), self.steps)
            parts.append(layer.replace(op=[f"{op}, layer {number}" for op in layer.op]))
        parts.append(each_step(self._multiplicative("decoder", 1), self.steps))
        return [relabelled(concatenate(parts), "decoder")]

    def _residual(self, label: str, steps: int) -> Trace:
        return elementwise(self.batch * steps * self.hidden, "residual add", layer=label, **self.types.columns)

    def _multiplicative(self, layer: str, queries: int) -> Trace:
        """`queries` states of each sequence over the source, and the attentional vector of context and state."""
        rows, types = self.batch * queries, self.types.columns
        scores = _over_source(self, "scores", layer, queries, self.source, self.hidden, saved=bool(self.keys))
        context = _over_source(self, "context", layer, queries, self.memory, self.source, saved=True)
        product = linear(
            rows, self.hidden, self.memory + self.hidden, bias=False, layer=layer, op="attentional product", **types
        )
        tanh = elementwise(rows * self.hidden, "tanh", layer=layer, op="attentional vector", **types)
        return concatenate([scores, softmax(rows, self.source, layer=layer, **types), context, product, tanh])

    def _logits(self) -> list[Trace]:
        rows, width, types = self.batch * self.steps, self.hidden, self.types.columns
        parts = []
        if self.maxout:
            read = self.hidden + self.features + (self.memory if self.attention != "none" else 0)
            parts.append(linear(rows, 2 * self.maxout, read, bias=False, layer="maxout", **types))
            parts.append(elementwise(rows * self.maxout, "maximum", layer="maxout", op="larger of two", **types))
            width = self.maxout
        return [*parts, vocabulary_projection(rows, self.vocabulary, width, bias=True, **types)]


def _over_source(sizes: _Sizes, op: str, layer: str, m: int, n: int, k: int, saved: bool) -> Trace:
    """A product of queries or weights with the source, one a sequence; in decode the source is a cache."""
    types = sizes.types
    row = matmul.row(m, n, k, batch=sizes.batch, types=types, layer=layer, op=op)
    if sizes.decodes:
        source = types.activations(sizes.batch * n * k)
        row |= {"input_bytes": row["input_bytes"] - source, "cache_bytes": source}
        row |= {"saved_bytes": source if saved else 0}
    return Trace.from_rows([row], source=op)


# -- additive attention ------------------------------------------------------------------------------


@block
def _alignment(batch: int, source: int, features: int, *, types: Types, cached: bool, layer: str) -> dict:
    """v . tanh(query + key) for every source position: 3 vector FLOP and a tanh a feature."""
    elements = batch * source * features
    row = elementwise.row(elements, "tanh", types=types, layer=layer, op="alignment")
    keys = types.activations(elements)
    return row | {
        "vector_flops": 3 * elements,
        "input_bytes": types.activations(batch * features) + (0 if cached else keys),
        "cache_bytes": keys if cached else 0,
        "saved_bytes": keys if cached else 0,
        "output_bytes": types.activations(batch * source),
        "parameters": features,
        "weight_bytes": types.weights(features),
    }


def additive_attention(
    batch: int, source: int, hidden: int, memory: int, alignment: int, cached: bool, layer: str, types: Types
) -> Trace:
    """One query of `hidden` features for each sequence over `source` positions of `memory` features.

    A hidden layer of `alignment` units scores each position (Bahdanau et al. 2015, section A.1.2); the part of it that
    does not change with the query is made before. `cached`: that and the source are held as cache.
    """
    context = matmul.row(1, memory, source, batch=batch, types=types, layer=layer, op="context")
    if cached:
        read = types.activations(batch * source * memory)
        context |= {"input_bytes": context["input_bytes"] - read, "cache_bytes": read, "saved_bytes": read}
    return concatenate(
        [
            linear(batch, alignment, hidden, bias=False, layer=layer, op="query projection", **types.columns),
            _alignment(batch, source, alignment, cached=cached, layer=layer, **types.columns),
            softmax(batch, source, layer=layer, **types.columns),
            Trace.from_rows([context], source="context"),
        ]
    )


# -- eight layers with residual connections ----------------------------------------------------------


@plain_integers
def translation_network(
    layers: int,
    hidden: int,
    vocabulary: int,
    *,
    sequence_length: int,
    source_length: int | None = None,
    batch: int = 1,
    bias: bool = True,
    hoist_input: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "translation network",
) -> Trace:
    """Stacked LSTM encoder and decoder with additive attention (Wu et al. 2016, sections 3.1 and 3.2).

    The lowest of `layers` encoder layers is bidirectional. The lowest decoder layer reads the previous
    context and asks for the next one, so attention runs step by step with it; every decoder layer reads
    the context beside its input. The upper layers have residual adds. Target words are given (training or scoring);
    logits, no softmax. Raises `TraceError` as `workloads.lstm` does, and for fewer than 3 layers.
    """
    source = sequence_length if source_length is None else source_length
    check_counts(name, 3, layers=layers)
    check_counts(name, hidden=hidden, vocabulary=vocabulary, source_length=source, batch=batch)
    check_counts(name, sequence_length=sequence_length)
    chosen = element_types(name, dtype, weight_dtype, activation_dtype)
    types = chosen.columns
    shared = {"batch": batch, "bias": bias, **types}
    encoder = {"sequence_length": source, "hoist_input": hoist_input, **shared}
    decoder = {"sequence_length": sequence_length, **shared}
    upper = layer_label("encoder", 2, layers - 1)
    residual = elementwise(batch * source * hidden, "residual add", layer=upper, **types)
    lowest = lstm(1, hidden, input_size=2 * hidden, hoist_input=False, **decoder)
    higher = layer_label("decoder", 1, layers - 1)
    stack = lstm(1, hidden, input_size=2 * hidden, hoist_input=hoist_input, **decoder)
    added = elementwise(batch * sequence_length * hidden, "residual add", layer=higher, **types)
    attend = additive_attention(batch, source, hidden, hidden, hidden, False, "decoder.0", chosen)
    return concatenate(
        [
            embedding(batch * source, vocabulary, hidden, layer="source embedding", **types),
            relabelled(lstm(1, hidden, bidirectional=True, **encoder), "encoder.0"),
            relabelled(lstm(1, hidden, input_size=2 * hidden, **encoder), "encoder.1"),
            (relabelled(lstm(1, hidden, **encoder), upper) + residual) * (layers - 2),
            linear(batch * source, hidden, hidden, bias=False, layer="attention keys", op="key projection", **types),
            embedding(batch * sequence_length, vocabulary, hidden, layer="target embedding", **types),
            relabelled(lowest, "decoder.0"),
            each_step(attend, sequence_length),
            relabelled(stack, higher) * (layers - 1),
            added * (layers - 2),
            vocabulary_projection(batch * sequence_length, vocabulary, hidden, bias=True, **types),
        ],
        name=name,
    ).replace(tokens=sequence_length)
