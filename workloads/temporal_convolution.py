"""Temporal convolutional networks: residual blocks of dilated causal convolutions (Bai, Kolter, Koltun 2018).

"An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling", arXiv:1803.01271,
section 3, and the released code, github.com/locuslab/TCN (TCN/tcn.py). Dropout costs nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    ACTIVATIONS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    embedding,
    linear,
    plain_integers,
    series,
    vocabulary_projection,
)
from workloads.convolution import conv1d
from workloads.trace import Trace, TraceError, concatenate
from workloads.transformer_blocks import MODES

#: Which positions get outputs.
OUTPUTS_OF = ("all", "last")
#: Vector FLOP a weight of weight norm: square, sum, scale; a root and a division a filter (Salimans and Kingma 2016).
WEIGHT_NORM_FLOPS, WEIGHT_NORM_SPECIAL = 3, 2


def receptive_field(levels: int, kernel_size: int, dilation_base: int = 2) -> int:
    """Positions that reach the last one, itself included: 1 + 2 (k - 1) (b^levels - 1) / (b - 1)."""
    return 1 + 2 * (kernel_size - 1) * sum(dilation_base**level for level in range(levels))


@dataclass(frozen=True)
class _Stack:
    """Sizes that all levels share; see `tcn` for the words."""

    kernel_size: int
    dilation_base: int
    sequence_length: int
    batch: int
    decode: bool
    activation: str
    weight_norm: bool
    bias: bool
    types: Types

    @property
    def positions(self) -> int:
        """Positions of all sequences that one run makes."""
        return self.batch * (1 if self.decode else self.sequence_length)

    def convolution(self, channels: int, filters: int, level: int) -> dict:
        """A dilated causal convolution over the whole sequence or, to decode, over one position and kept inputs."""
        dilation = self.dilation_base**level
        length = 1 if self.decode else self.sequence_length
        row = conv1d.row(
            channels, filters, length, self.kernel_size, dilation=dilation, padding="causal", batch=self.batch,
            bias=self.bias, layer=f"level.{level}", types=self.types,
        )  # fmt: skip
        if self.decode:
            new = self.batch * channels
            row |= {
                # the taps before the newest are read, the newest is stored; all inputs in between wait their turn
                "cache_bytes": self.types.activations(new * self.kernel_size),
                "saved_bytes": self.types.activations(new * dilation * (self.kernel_size - 1)),
            }
        if self.weight_norm:
            row |= {
                "vector_flops": row["vector_flops"] + WEIGHT_NORM_FLOPS * filters * channels * self.kernel_size,
                "special_ops": WEIGHT_NORM_SPECIAL * filters,
                "parameters": row["parameters"] + filters,
                "weight_bytes": self.types.weights(row["parameters"] + filters),
            }
        return row

    def block(self, channels: int, filters: int, level: int) -> list[list[dict]]:
        """Two convolutions with their activations beside the residual, their sum, an activation."""
        settings = {"types": self.types, "layer": f"level.{level}"}
        results = self.positions * filters
        function = elementwise.row(results, self.activation, op="activation", **settings)
        parts = [self.convolution(channels, filters, level), function]
        parts += [self.convolution(filters, filters, level), function]
        if channels != filters:  # a convolution over one position is a product
            residual = linear.row(self.positions, filters, channels, op="residual projection", **settings)
            parts.append(residual | {"after": ()})
        return [parts, [elementwise.row(results, "residual add", **settings), function]]


@plain_integers
def tcn(
    levels: int,
    hidden: int,
    *,
    sequence_length: int,
    kernel_size: int = 3,
    batch: int = 1,
    input_size: int | None = None,
    output_size: int | None = None,
    dilation_base: int = 2,
    mode: str = "prefill",
    activation: str = "relu",
    weight_norm: bool = True,
    bias: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "tcn",
) -> Trace:
    """`levels` residual blocks of two causal convolutions, dilation `dilation_base`^level (Bai et al. 2018, figure 1).

    `input_size` features in (default `hidden`), `hidden` channels in every level, `output_size` in the last (default
    `hidden`). Where a block changes the number of channels its residual is projected (a convolution of 1). Level i
    looks back 2 (kernel_size - 1) dilation_base^i positions, so the stack sees `receptive_field` of them, and any two
    are 2 levels apart or fewer. `weight_norm`: a gain a filter, and the weights normalised in each run, as in training;
    False: folded into the weights, as for inference. `mode`: "prefill" runs all `sequence_length` positions at once
    (training too); "decode" one position more: each convolution then reads kernel_size - 1 earlier inputs from a buffer
    of dilation (kernel_size - 1), which stays occupied: the same for a sequence of any length.

    A level is its own 6 or 7 rows, as its reach is its own; there need be no more of them than the logarithm of the
    sequence. Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the
    argument: a size that is not a positive whole number (dilation_base, kernel_size: 2 or more), an unknown mode,
    activation or element type.
    """
    where = name
    check_counts(where, levels=levels, hidden=hidden, sequence_length=sequence_length, batch=batch)
    check_counts(where, 2, kernel_size=kernel_size, dilation_base=dilation_base)
    sizes = {"input_size": input_size, "output_size": output_size}
    sizes = {key: hidden if value is None else value for key, value in sizes.items()}
    check_counts(where, **sizes)
    if levels > 62 or receptive_field(levels, kernel_size, dilation_base) >= 2**63:
        raise TraceError(
            f"{where}: levels must be few enough for a receptive field below 2^63 positions, got {levels} of "
            f"kernel_size {kernel_size} and dilation_base {dilation_base}"
        )
    check_choice(where, "mode", mode, MODES)
    check_choice(where, "activation", activation, ACTIVATIONS)
    check_flags(where, weight_norm=weight_norm, bias=bias)
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    decode = mode == "decode"
    stack = _Stack(kernel_size, dilation_base, sequence_length, batch, decode, activation, weight_norm, bias, types)
    channels = [sizes["input_size"], *[hidden] * (levels - 1), sizes["output_size"]]
    parts = [part for level in range(levels) for part in stack.block(channels[level], channels[level + 1], level)]
    return Trace.from_rows(
        series(parts), name=name, sequences=batch, tokens=1 if decode else sequence_length, source="tcn"
    )


@plain_integers
def temporal_network(
    levels: int,
    hidden: int,
    *,
    sequence_length: int,
    kernel_size: int = 3,
    batch: int = 1,
    input_size: int | None = None,
    output_size: int | None = None,
    vocabulary: int | None = None,
    tied: bool = True,
    outputs: int | None = None,
    outputs_of: str = "all",
    dilation_base: int = 2,
    mode: str = "prefill",
    activation: str = "relu",
    weight_norm: bool = True,
    bias: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "temporal network",
) -> Trace:
    """A `tcn` with what surrounds it: a language model (`vocabulary`) or a classifier (`outputs`).

    `vocabulary`: tokens are looked up in a table of `input_size` features and predicted by a product with a bias,
    `tied` with the table (then the last level has as many features). `outputs`: a product to so many classes.
    `outputs_of`: "all" positions or only the "last" of each sequence. Logits, no softmax. The other arguments and
    errors are those of `tcn`; besides, `tied` with an `output_size` other than `input_size`.
    """
    where = name
    check_choice(where, "outputs_of", outputs_of, OUTPUTS_OF)
    check_flags(where, tied=tied)
    types = {"dtype": dtype, "weight_dtype": weight_dtype, "activation_dtype": activation_dtype}
    stack = tcn(
        levels, hidden, sequence_length=sequence_length, kernel_size=kernel_size, batch=batch, input_size=input_size,
        output_size=output_size, dilation_base=dilation_base, mode=mode, activation=activation,
        weight_norm=weight_norm, bias=bias, name=name, **types,
    )  # fmt: skip
    made = hidden if output_size is None else output_size
    read = hidden if input_size is None else input_size
    new = batch * stack.tokens
    rows = new if outputs_of == "all" else batch
    parts = [stack]
    if vocabulary is not None:
        if tied and made != read:
            raise TraceError(f"{where}: output_size must be input_size ({read}) where the table is tied, got {made}")
        parts = [embedding(new, vocabulary, read, **types), *parts]
        parts.append(vocabulary_projection(rows, vocabulary, made, tied=tied, bias=True, **types))
    if outputs is not None:
        check_counts(where, outputs=outputs)
        parts.append(linear(rows, outputs, made, layer="head", op="output projection", **types))
    return concatenate(parts, name=name).replace(sequences=batch, tokens=stack.tokens)
