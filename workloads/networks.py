"""Published networks by name: `network("bert-large", batch=8)`.

`networks.toml` holds each network's hyper-parameters and where they are published; the functions
here and in the builder modules turn them into traces.
"""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from workloads.blocks import (
    check_choice,
    check_counts,
    each_step,
    elementwise,
    embedding,
    layer_label,
    linear,
    plain_integers,
    vocabulary_projection,
)
from workloads.conformer import conformer
from workloads.convolution import conv2d, pool2d
from workloads.encoder_decoder import encoder_decoder
from workloads.extended_lstm import xlstm
from workloads.gated_scans import gated_scan_network
from workloads.linear_attention import linear_transformer, rwkv
from workloads.recurrent import gru, lstm, rnn
from workloads.residual_network import residual_network
from workloads.sequence_to_sequence import sequence_to_sequence, translation_network
from workloads.speech import acoustic_network, speech_network, transducer
from workloads.state_space import mamba
from workloads.temporal_convolution import temporal_network
from workloads.trace import Trace, TraceError, concatenate, nearest
from workloads.transformer import transformer
from workloads.turing_machine import neural_turing_machine

CELLS = {"lstm": lstm, "gru": gru, "rnn": rnn}
#: Names the command line and users know, and the builders' argument they stand for.
ALIASES = {"seq_len": "sequence_length"}
_FIELDS = {"title", "task", "source", "builder", "defaults"}


@dataclass(frozen=True)
class NetworkInfo:
    """What `networks.toml` says of a network: `defaults` are the builder's arguments, any may be overridden."""

    name: str
    title: str
    task: str
    source: str
    builder: str
    defaults: Mapping

    @functools.cached_property
    def settings(self) -> tuple[str, ...]:
        """Names that may be overridden."""
        names = [n for n in inspect.signature(BUILDERS[self.builder]).parameters if n != "name"]
        return tuple(names + [alias for alias, name in ALIASES.items() if name in names])


@functools.cache
def _catalogue() -> dict[str, NetworkInfo]:
    path = Path(__file__).with_name("networks.toml")
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    catalogue = {}
    for name, entry in entries.items():
        if entry.keys() != _FIELDS:
            raise TraceError(f"{path}: {name}: unknown or missing fields {sorted(entry.keys() ^ _FIELDS)}")
        check_choice(f"{path}: {name}", "builder", entry["builder"], BUILDERS)
        catalogue[name] = NetworkInfo(name=name, **entry | {"defaults": MappingProxyType(entry["defaults"])})
    return catalogue


def networks() -> tuple[str, ...]:
    """The names `network` knows, in the order of `networks.toml`."""
    return tuple(_catalogue())


def network_info(name: str) -> NetworkInfo:
    """Title, task, source and default settings of a network. Raises `TraceError` for an unknown name."""
    catalogue = _catalogue()
    if name not in catalogue:
        raise TraceError(f"unknown network {name!r}{nearest(name, catalogue)}")
    return catalogue[name]


def network(name: str, /, **overrides) -> Trace:
    """The trace of a published network; `overrides` replace its default settings.

    For instance batch, seq_len, dtype, weight_dtype, mode ("prefill" or "decode"), cache_length,
    layers, hidden, fused, wavefront, hoist_input: any argument of the network's builder
    (`network_info(name).settings`). Raises `TraceError` for an unknown name or setting, naming the
    nearest, and for values the builder refuses.
    """
    info = network_info(name)
    for setting in overrides:
        if setting not in info.settings:
            raise TraceError(f"{name}: unknown setting {setting!r}{nearest(setting, info.settings)}")
    given: dict = {}
    for setting, value in overrides.items():
        argument = ALIASES.get(setting, setting)
        if argument in given:
            raise TraceError(f"{name}: {setting!r} is given twice, also as {argument!r}")
        given[argument] = value
    defaults = {ALIASES.get(setting, setting): value for setting, value in info.defaults.items()}
    if info.builder == "transformer" and given.get("mode", defaults.get("mode")) == "decode":
        _refuse_two_contexts(name, given)
    return BUILDERS[info.builder](**{"name": name} | defaults | given)


def _refuse_two_contexts(name: str, given: dict) -> None:
    """One token is decoded: its context is the cache and itself, so length and cache must agree if both are given."""
    length, cache = given.get("sequence_length"), given.get("cache_length")
    if isinstance(length, int) and isinstance(cache, int) and length != cache + 1:
        raise TraceError(
            f"{name}: in decode the context is the cache and the new token: seq_len {length} contradicts "
            f"cache_length {cache}; give one of them"
        )


# -- recurrent networks ------------------------------------------------------------------------------


def _types(dtype, weight_dtype, activation_dtype) -> dict:
    return {"dtype": dtype, "weight_dtype": weight_dtype, "activation_dtype": activation_dtype}


@plain_integers
def recurrent_network(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    cell: str = "lstm",
    input_size: int | None = None,
    vocabulary: int | None = None,
    dense_layers: int = 0,
    outputs: int | None = None,
    projection: int | None = None,
    bias: bool = True,
    bidirectional: bool = False,
    hoist_input: bool = True,
    wavefront: bool = False,
    merge_gates: bool = True,
    residual: bool = False,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "recurrent network",
) -> Trace:
    """A recurrent stack with what surrounds it: a language model or an acoustic model.

    `vocabulary`: tokens are looked up in a table and predicted by a product (a language model; the
    table holds `input_size` features, default `hidden`). `dense_layers`: relu layers of `hidden`
    features after the stack. `outputs`: a last product to so many classes; logits, no softmax. With
    `hoist_input` all steps go through the dense and output products at once, else one step after the
    other (streaming). `cell`: "lstm", "gru" or "rnn"; the other arguments and the errors are those of
    `workloads.lstm`.
    """
    check_choice(name, "cell", cell, CELLS)
    check_counts(name, 0, dense_layers=dense_layers)
    if projection is not None and cell != "lstm":
        raise TraceError(f"{name}: projection needs cell 'lstm', got {cell!r}")
    types = _types(dtype, weight_dtype, activation_dtype)
    projected = {} if projection is None else {"projection": projection}
    stack = CELLS[cell](
        layers, hidden, sequence_length=sequence_length, batch=batch, input_size=input_size, bias=bias,
        bidirectional=bidirectional, hoist_input=hoist_input, wavefront=wavefront, merge_gates=merge_gates,
        residual=residual, name=cell, **projected, **types,
    )  # fmt: skip
    features = (projection or hidden) * (2 if bidirectional else 1)
    rows = batch * sequence_length if hoist_input else batch
    after = []
    rest = layer_label("dense", 1, dense_layers - 1)
    for label, inputs, count in (("dense.0", features, min(dense_layers, 1)), (rest, hidden, dense_layers - 1)):
        if count > 0:
            dense = linear(rows, hidden, inputs, layer=label, op="dense", **types)
            after.append((dense + elementwise(rows * hidden, "relu", layer=label, op="activation", **types)) * count)
    features = hidden if dense_layers else features
    if vocabulary is not None:
        after.append(vocabulary_projection(rows, vocabulary, features, bias=True, **types))
    if outputs is not None:
        check_counts(name, outputs=outputs)
        after.append(linear(rows, outputs, features, layer="head", op="output projection", **types))
    if not hoist_input:
        after = [each_step(part, sequence_length) for part in after]
    before = []
    if vocabulary is not None:
        before.append(embedding(batch * sequence_length, vocabulary, input_size or hidden, **types))
    return concatenate([*before, stack, *after], name=name)


# -- feed-forward networks ---------------------------------------------------------------------------


@plain_integers
def perceptron(
    layers: int,
    hidden: int,
    *,
    inputs: int | None = None,
    batch: int = 1,
    activation: str = "relu",
    bias: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "perceptron",
) -> Trace:
    """`layers` fully connected layers of `hidden` features, each with an activation.

    `inputs`: features the first layer reads (default `hidden`). Raises `TraceError` naming the
    argument, as `workloads.linear` does.
    """
    inputs = hidden if inputs is None else inputs
    check_counts(name, layers=layers, hidden=hidden, inputs=inputs, batch=batch)
    types = _types(dtype, weight_dtype, activation_dtype)

    def dense(label: str, features: int) -> Trace:
        product = linear(batch, hidden, features, bias=bias, layer=label, op="dense", **types)
        return product + elementwise(batch * hidden, activation, layer=label, op="activation", **types)

    parts = [dense("dense.0", inputs)]
    if layers > 1:
        parts.append(dense(layer_label("dense", 1, layers - 1), hidden) * (layers - 1))
    return concatenate(parts, name=name).replace(sequences=batch)


@plain_integers
def convolution_network(
    stages: list,
    *,
    batch: int = 1,
    activation: str = "relu",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "convolution network",
) -> Trace:
    """Stages in series, each `count` alike: mappings with a `layer` label and the arguments of a block.

    With `filters`: a `conv2d` and the activation; with `outputs`: a product of `inputs` features and
    the activation; else a `pool2d`. Raises `TraceError` naming the argument, as those blocks do.
    """
    check_counts(name, batch=batch)
    types = _types(dtype, weight_dtype, activation_dtype)
    parts = []
    for stage in stages:
        settings = dict(stage)
        count, label = settings.pop("count", 1), settings["layer"]
        if "filters" in settings:
            part = conv2d(batch=batch, **settings, **types)
        elif "outputs" in settings:
            part = linear(batch, settings["outputs"], settings["inputs"], layer=label, op="dense", **types)
        else:
            part = pool2d(batch=batch, **settings, **types)
        if part.kind[0] in ("convolution", "matmul"):
            results = int(part.batch[0] * part.m[0] * part.n[0])
            part = part + elementwise(results, activation, layer=label, op="activation", **types)
        parts.append(part * count)
    return concatenate(parts, name=name).replace(sequences=batch)


BUILDERS = {
    "acoustic_network": acoustic_network,
    "conformer": conformer,
    "convolution_network": convolution_network,
    "encoder_decoder": encoder_decoder,
    "gated_scan_network": gated_scan_network,
    "linear_transformer": linear_transformer,
    "mamba": mamba,
    "neural_turing_machine": neural_turing_machine,
    "perceptron": perceptron,
    "recurrent_network": recurrent_network,
    "residual_network": residual_network,
    "rwkv": rwkv,
    "sequence_to_sequence": sequence_to_sequence,
    "speech_network": speech_network,
    "temporal_network": temporal_network,
    "transducer": transducer,
    "transformer": transformer,
    "translation_network": translation_network,
    "xlstm": xlstm,
}
