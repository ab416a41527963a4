"""Deep residual networks of bottleneck blocks (He, Zhang, Ren, Sun 2016)."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    Types,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    layer_label,
    linear,
    plain_integers,
    series,
)
from workloads.convolution import batch_norm, conv2d, output_length, pool2d
from workloads.trace import Trace, TraceError, concatenate

#: Channels of the first stage's 3 x 3 convolutions; each stage has twice those of the one before.
WIDTH = 64
#: A block's result has so many times the channels of its 3 x 3 convolution.
EXPANSION = 4


@dataclass(frozen=True)
class _Images:
    """What all layers share; see `residual_network` for the words."""

    batch: int
    fold_batch_norm: bool
    stride_in_3x3: bool
    types: Types

    def convolution(
        self, layer: str, op: str, channels: int, filters: int, size: int, kernel: int, stride: int, relu: bool
    ) -> list[dict]:
        """A convolution with its batch norm, folded into weights and a bias or a row of its own, and a relu."""
        row = conv2d.row(
            channels, filters, size, size, kernel, stride=stride, padding=kernel // 2, batch=self.batch,
            bias=self.fold_batch_norm, layer=layer, op=op, types=self.types,
        )  # fmt: skip
        results, rows = row["m"] * filters, [row]
        if not self.fold_batch_norm:
            rows.append(batch_norm.row(results, filters, layer=layer, types=self.types))
        if relu:
            rows.append(self.relu(results, layer))
        return rows

    def relu(self, results: int, layer: str) -> dict:
        return elementwise.row(results, "relu", op="activation", layer=layer, types=self.types)

    def block(self, layer: str, channels: int, width: int, size: int, stride: int) -> Trace:
        """1 x 1, 3 x 3, 1 x 1 beside the residual, which is projected where its shape changes (figure 5, right)."""
        filters, halved = EXPANSION * width, output_length(size, 1, stride)
        first, second = (1, stride) if self.stride_in_3x3 else (stride, 1)
        inner = size if self.stride_in_3x3 else halved
        rows = self.convolution(layer, "reducing convolution", channels, width, size, 1, first, True)
        rows += self.convolution(layer, "convolution", width, width, inner, 3, second, True)
        rows += self.convolution(layer, "expanding convolution", width, filters, halved, 1, 1, False)
        if channels != filters or stride > 1:
            residual = self.convolution(layer, "residual projection", channels, filters, size, 1, stride, False)
            rows += [residual[0] | {"after": ()}, *residual[1:]]
        results = self.batch * halved**2 * filters
        add = elementwise.row(results, "residual add", layer=layer, types=self.types)
        return Trace.from_rows(series([rows, [add, self.relu(results, layer)]]))


@plain_integers
def residual_network(
    blocks: list[int],
    *,
    size: int = 224,
    batch: int = 1,
    outputs: int = 1000,
    stride_in_3x3: bool = True,
    fold_batch_norm: bool = False,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "residual network",
) -> Trace:
    """A residual network of bottleneck blocks on images of `size` x `size` x 3 (He et al. 2016, table 1).

    `blocks`: how many in each stage, [3, 4, 6, 3] for 50 layers; from the second stage on the first block halves the
    size: with the stride in its 3 x 3 convolution (`stride_in_3x3`, "version 1.5", as torchvision has it) or, as
    published, in its first 1 x 1. `fold_batch_norm`: scales and shifts are folded into the weights and a bias, as for
    inference; else batch norm is a row with two parameters a channel. `outputs`: classes; logits, no softmax.

    Returns a trace with `sequences` = batch. Raises `TraceError` naming the argument: a size that is not a positive
    whole number, images smaller than the network halves them, an unknown element type.
    """
    where = name
    if not isinstance(blocks, (list, tuple)) or not blocks:
        raise TraceError(f"{where}: blocks must be a list of whole numbers, one a stage, got {blocks!r}")
    for number, count in enumerate(blocks):
        check_counts(where, **{f"blocks[{number}]": count})
    check_counts(where, size=size, batch=batch, outputs=outputs)
    check_flags(where, stride_in_3x3=stride_in_3x3, fold_batch_norm=fold_batch_norm)
    least = 2 ** (len(blocks) + 1)
    if size < least:
        raise TraceError(
            f"{where}: size must be {least} or more, as {len(blocks)} stages halve it so often, got {size}"
        )
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    images = _Images(batch, fold_batch_norm, stride_in_3x3, types)
    stem = images.convolution("stem", "convolution", 3, WIDTH, size, 7, 2, True)
    size = output_length(size, 7, 2, 3)
    stem.append(pool2d.row(WIDTH, size, size, 3, stride=2, padding=1, batch=batch, layer="stem", types=types))
    parts, channels, size = [Trace.from_rows(series([stem]))], WIDTH, output_length(size, 3, 2, 1)
    for stage, count in enumerate(blocks):
        width, stride = WIDTH * 2**stage, 1 if stage == 0 else 2
        parts.append(images.block(f"stage {stage}.0", channels, width, size, stride))
        channels, size = EXPANSION * width, output_length(size, 1, stride)
        if count > 1:
            label = layer_label(f"stage {stage}", 1, count - 1)
            parts.append(images.block(label, channels, width, size, 1) * (count - 1))
    pooled = pool2d.row(channels, size, size, size, function="average", batch=batch, layer="head", types=types)
    head = linear.row(batch, outputs, channels, layer="head", op="output projection", types=types)
    parts.append(Trace.from_rows(series([[pooled, head]])))
    return concatenate(parts, name=name).replace(sequences=batch)
