"""Speech recognition by recurrent networks: acoustic models, transducers and Deep Speech 2.

`sequence_length` counts frames of features, 100 a second (`workloads.streaming.FRAMES_PER_S`), and is the trace's
`tokens`: `sequences` x `tokens` / 100 seconds of speech are heard. `chunk`: frames a call waits for (streaming).
"""

from __future__ import annotations

from workloads.blocks import (
    block,
    check_choice,
    check_counts,
    element_types,
    elementwise,
    embedding,
    layer_label,
    linear,
    plain_integers,
    relabelled,
    softmax,
)
from workloads.convolution import batch_norm, conv2d, output_length
from workloads.recurrent import gru
from workloads.streaming import FRAMES_PER_S, calls, lstm_stack, over_calls, reaching
from workloads.trace import Trace, TraceError, concatenate

#: How the joint network of a transducer is run: frame by frame and symbol by symbol, or on all pairs (training).
SEARCHES = ("greedy", "lattice")
#: Word pieces spoken in a second. Assumed: English at some 150 words a minute, 1.2 pieces a word.
SYMBOLS_PER_S = 3


# -- acoustic models -----------------------------------------------------------------------------------


@plain_integers
def acoustic_network(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    outputs: int,
    features: int = 80,
    stack: int = 1,
    decimate: int = 1,
    projection: int | None = None,
    dense_before: int = 0,
    dense_after: int = 0,
    chunk: int | None = None,
    batch: int = 1,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "acoustic network",
) -> Trace:
    """LSTM layers from frames to states or labels (Sak et al. 2014; with stacked frames Sak et al. 2015).

    Each step reads `stack` frames of `features` values and the next step starts `decimate` frames later, so there are
    sequence_length / decimate steps. `projection`: as in `workloads.lstm`. `dense_before`, `dense_after`: layers of
    `hidden` features with a clipped relu below and above the LSTM (Hannun et al. 2014). `outputs`: classes of the
    last product; logits, no softmax. `chunk`: frames a call waits for, a multiple of `decimate`, which itself is
    one step at a time; None: the whole utterance. The last call is padded.

    Returns a trace with `sequences` = batch, `tokens` = sequence_length frames of 10 ms. Raises `TraceError` naming
    the argument, as `workloads.lstm` and `workloads.streaming.calls` do.
    """
    check_counts(name, layers=layers, hidden=hidden, outputs=outputs, features=features, stack=stack, batch=batch)
    check_counts(name, decimate=decimate)
    check_counts(name, 0, dense_before=dense_before, dense_after=dense_after)
    types = element_types(name, dtype, weight_dtype, activation_dtype).columns
    number, steps = calls(name, sequence_length, chunk, decimate)
    rows = batch * steps
    parts = _dense("dense before", dense_before, rows, hidden, features * stack, number, types)
    inputs = hidden if dense_before else features * stack
    recurrent = lstm_stack(
        "lstm", layers, hidden, inputs, steps=steps, number=number, projection=projection, batch=batch, **types
    )
    parts += [reaching(part, decimate) for part in recurrent]
    parts += _dense("dense after", dense_after, rows, hidden, projection or hidden, number, types)
    last = hidden if dense_after else projection or hidden
    head = linear(rows, outputs, last, layer="head", op="output projection", **types)
    return _heard([*parts, over_calls(head, number)], name, batch, sequence_length)


def _dense(label: str, layers: int, rows: int, hidden: int, inputs: int, number: int, types: dict) -> list[Trace]:
    """`layers` products of `rows` rows with a clipped relu, `number` calls through all of them."""
    parts = []
    for layer, size, count in ((f"{label}.0", inputs, 1), (layer_label(label, 1, layers - 1), hidden, layers - 1)):
        if layers and count:
            one = linear(rows, hidden, size, layer=layer, op="dense", **types)
            one = one + elementwise(rows * hidden, "clipped relu", layer=layer, op="activation", **types)
            parts.append(over_calls(one, number, count))
    return parts


def _heard(parts: list[Trace], name: str, batch: int, frames: int) -> Trace:
    return concatenate(parts, name=name).replace(sequences=batch, tokens=frames)


# -- transducers ---------------------------------------------------------------------------------------


@plain_integers
def transducer(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    vocabulary: int,
    projection: int | None = None,
    prediction_layers: int = 2,
    prediction_hidden: int | None = None,
    prediction_projection: int | None = None,
    embedding_size: int = 128,
    joint: int = 640,
    features: int = 80,
    stack: int = 1,
    decimate: int = 1,
    time_reduction: int = 1,
    reduction_after: int | None = None,
    symbols: int | None = None,
    search: str = "greedy",
    chunk: int | None = None,
    batch: int = 1,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "transducer",
) -> Trace:
    """Recurrent neural network transducer (Graves 2012) as He et al. 2019 run it on phones (section 2).

    Encoder: `layers` LSTM layers over stacked, decimated frames (see `acoustic_network`); after `reduction_after`
    of them (default: half) the outputs of `time_reduction` steps become one input. Prediction network: LSTM layers
    (`prediction_hidden`, `prediction_projection` default to the encoder's) over the embedded symbols emitted so far.
    Joint network: tanh of the sum of both, projected to `joint` features, and a product to `vocabulary` symbols,
    blank among them.

    `search`: "greedy" evaluates the joint network once for each encoder frame and each symbol, one after another, and
    the prediction network once a symbol; sequences of a batch go in step. "lattice" evaluates every pair of a frame
    and a number of symbols, with a softmax, as the loss needs: for training. `symbols`: emitted by each sequence
    (default: three a second, assumed). `chunk`: frames a call waits for, a multiple of decimate x time_reduction.

    Returns a trace with `sequences` = batch, `tokens` = sequence_length frames of 10 ms. Raises `TraceError` naming
    the argument, as `workloads.lstm` and `workloads.streaming.calls` do; for `reduction_after` that leaves no layer
    on either side.
    """
    check_counts(name, layers=layers, hidden=hidden, features=features, stack=stack, batch=batch, decimate=decimate)
    check_counts(name, time_reduction=time_reduction)
    types = element_types(name, dtype, weight_dtype, activation_dtype).columns
    before = max(1, layers // 2) if reduction_after is None else reduction_after
    check_counts(name, reduction_after=before)
    if time_reduction > 1 and before >= layers:
        raise TraceError(f"{name}: reduction_after must be below layers ({layers}), got {before}")
    number, frames = calls(name, sequence_length, chunk, decimate * time_reduction)
    encoder = _reduced_encoder(
        layers, hidden, features * stack, before, time_reduction, decimate, frames, number,
        projection=projection, batch=batch, **types,
    )  # fmt: skip
    if prediction_hidden is None and prediction_projection is None:
        prediction_projection = projection
    decoder = transducer_decoder(
        name, number, frames, projection or hidden, sequence_length, symbols=symbols, search=search,
        vocabulary=vocabulary, embedding_size=embedding_size, layers=prediction_layers,
        hidden=hidden if prediction_hidden is None else prediction_hidden, projection=prediction_projection,
        joint=joint, batch=batch, types=types,
    )  # fmt: skip
    return _heard([*encoder, *decoder], name, batch, sequence_length)


def _reduced_encoder(
    layers: int, hidden: int, inputs: int, before: int, time_reduction: int, decimate: int, frames: int, number: int,
    **shared,
) -> list[Trace]:  # fmt: skip
    """LSTM layers, of which those after the first `before` see `time_reduction` steps as one."""
    if time_reduction == 1:
        stack = lstm_stack("encoder", layers, hidden, inputs, steps=frames, number=number, **shared)
        return [reaching(part, decimate) for part in stack]
    fast = lstm_stack("encoder", before, hidden, inputs, steps=frames * time_reduction, number=number, **shared)
    reduced = (shared["projection"] or hidden) * time_reduction
    slow = lstm_stack("reduced", layers - before, hidden, reduced, steps=frames, number=number, **shared)
    return [reaching(p, decimate) for p in fast] + [reaching(p, decimate * time_reduction) for p in slow]


def transducer_decoder(
    where: str, number: int, frames: int, encoded: int, sequence_length: int, *, symbols: int | None, search: str,
    vocabulary: int, embedding_size: int, layers: int, hidden: int, projection: int | None, joint: int, batch: int,
    types: dict,
) -> list[Trace]:  # fmt: skip
    """Prediction and joint network of a transducer after an encoder called `number` times for `frames` frames each.

    `encoded`: features of an encoder frame. See `transducer` for the others and the errors.
    """
    check_choice(where, "search", search, SEARCHES)
    spoken = -(-sequence_length * SYMBOLS_PER_S // FRAMES_PER_S) if symbols is None else symbols
    check_counts(where, symbols=spoken, vocabulary=vocabulary, embedding_size=embedding_size, joint=joint)
    check_counts(where, prediction_layers=layers, prediction_hidden=hidden)
    if projection is not None:
        check_counts(where, prediction_projection=projection)
        if projection >= hidden:
            raise TraceError(
                f"{where}: prediction_projection must be smaller than prediction_hidden ({hidden}), got {projection}"
            )
    greedy = search == "greedy"
    times, rows = (spoken, 1) if greedy else (1, spoken + 1)  # the start symbol is one of the prefixes
    evaluations, pairs = (number * frames + spoken, 1) if greedy else (1, number * frames * rows)
    settings = {"layer": "joint", **types}
    looked_up = embedding(batch * rows, vocabulary, embedding_size, layer="symbols", **types)
    predicted = lstm_stack(
        "prediction", layers, hidden, embedding_size, steps=rows, number=times, projection=projection, batch=batch,
        **types,
    )  # fmt: skip
    seen = linear(batch * frames, joint, encoded, op="encoder projection", **settings)
    said = linear(batch * rows, joint, projection or hidden, bias=False, op="prediction projection", **settings)
    added = _joint(batch * pairs, batch * frames, batch * rows, joint, **settings)
    logits = linear(batch * pairs, vocabulary, joint, op="output projection", **settings)
    last = _largest(batch, vocabulary, **settings) if greedy else softmax(batch * pairs, vocabulary, **settings)
    return [
        over_calls(looked_up, times),
        *(reaching(part, 0) for part in predicted),  # its positions are symbols
        over_calls(seen, number),
        over_calls(said, times),
        over_calls(concatenate([added, logits, last]), evaluations),
    ]


@block
def _joint(pairs: int, frames: int, prefixes: int, joint: int, *, types, layer: str) -> dict:
    """tanh of the sum of an encoder frame and a prediction, for each of `pairs`."""
    row = elementwise.row(pairs * joint, "tanh", types=types, layer=layer, op="joint tanh")
    read = min(pairs, frames) + min(pairs, prefixes)
    return row | {"vector_flops": pairs * joint, "input_bytes": types.activations(read * joint)}


@block
def _largest(rows: int, vocabulary: int, *, types, layer: str) -> dict:
    """The likeliest symbol of each row: a comparison a logit."""
    row = elementwise.row(rows * vocabulary, "relu", types=types, layer=layer, op="largest logit")
    return row | {"output_bytes": types.activations(rows)}


# -- Deep Speech 2 -------------------------------------------------------------------------------------


@plain_integers
def speech_network(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    outputs: int,
    frequencies: int = 161,
    batch: int = 1,
    bias: bool = True,
    hoist_input: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "speech network",
) -> Trace:
    """Two convolutions over a spectrogram, bidirectional GRU layers whose directions are added, one product.

    After Amodei et al. 2016 (section 3); the convolutions are 41 x 11, stride 2 x 2, and 21 x 11,
    stride 2 x 1, of 32 maps without padding, each with batch norm and a clipped relu. `sequence_length`: frames of
    `frequencies` values. Logits, no softmax. Raises `TraceError` as `workloads.gru` and `conv2d` do.
    """
    check_counts(name, layers=layers, hidden=hidden, outputs=outputs, batch=batch)
    # what the first convolution leaves must not be smaller than the kernel of the second
    check_counts(name, 81, frequencies=frequencies)
    check_counts(name, 31, sequence_length=sequence_length)
    types = element_types(name, dtype, weight_dtype, activation_dtype).columns
    maps, parts, size = 32, [], (frequencies, sequence_length)
    for number, (channels, kernel, stride) in enumerate(((1, (41, 11), (2, 2)), (maps, (21, 11), (2, 1)))):
        label = f"convolution.{number}"
        parts.append(conv2d(channels, maps, *size, kernel, stride=stride, bias=True, batch=batch, layer=label, **types))
        size = tuple(output_length(s, k, t) for s, k, t in zip(size, kernel, stride, strict=True))
        elements = batch * maps * size[0] * size[1]
        parts.append(batch_norm(elements, maps, layer=label, **types))
        parts.append(elementwise(elements, "clipped relu", layer=label, op="activation", **types))
    features, steps = maps * size[0], size[1]
    states = batch * steps * hidden

    def layer(label: str, inputs: int) -> Trace:
        both = gru(
            1, hidden, input_size=inputs, sequence_length=steps, batch=batch, bias=bias, bidirectional=True,
            hoist_input=hoist_input, **types,
        )  # fmt: skip
        layer = relabelled(both + elementwise(states, "add", op="add directions", **types), label)
        return reaching(layer, 2)  # the first convolution makes a step of two frames

    parts.append(layer("gru.0", features))
    if layers > 1:
        label = layer_label("gru", 1, layers - 1)
        parts.append((batch_norm(states, hidden, layer=label, **types) + layer(label, hidden)) * (layers - 1))
    parts.append(batch_norm(states, hidden, layer="head", **types))
    parts.append(linear(batch * steps, outputs, hidden, bias=False, layer="head", op="output projection", **types))
    return concatenate(parts, name=name).replace(sequences=batch, tokens=sequence_length)
