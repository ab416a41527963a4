"""Convolutions as implicit products, batch norm and pooling.

A convolution is a product of m = batch x output positions, n = output channels, k = input channels x
kernel, one for each group. Its input bytes are those of the real input: no unrolled copy is made.
"""

from __future__ import annotations

from workloads.blocks import OPERATIONS, Types, block, check_choice, check_counts, check_flags, elementwise
from workloads.trace import TraceError

PADDINGS = ("same", "causal")
POOLS = ("max", "average")


def _pair(where: str, name: str, value) -> tuple:
    """One size for both directions, or (height, width)."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise TraceError(f"{where}: {name} must be a whole number or a pair, got {value!r}")
    return pair


def _padding(where: str, padding, kernel: int, dilation: int) -> tuple[int, int]:
    """Positions added before and after."""
    span = dilation * (kernel - 1)
    if isinstance(padding, str):
        check_choice(where, "padding", padding, PADDINGS)
        return (span, 0) if padding == "causal" else (span // 2, span - span // 2)
    check_counts(where, 0, padding=padding)
    return padding, padding


def output_length(length: int, kernel: int, stride: int = 1, padding: int | str = 0, dilation: int = 1) -> int:
    """Output positions along one direction: floor((length + padding - dilation (kernel - 1) - 1) / stride) + 1.

    `padding`: positions added on each side, "same" (as many outputs as inputs at stride 1) or "causal" (all before).
    Raises `TraceError` naming the argument that is not a positive whole number, or the kernel when it is longer than
    the padded input.
    """
    where = "convolution"
    check_counts(where, length=length, kernel=kernel, stride=stride, dilation=dilation)
    spare = length + sum(_padding(where, padding, kernel, dilation)) - dilation * (kernel - 1) - 1
    if spare < 0:
        raise TraceError(f"{where}: kernel {kernel} (dilation {dilation}) is longer than the padded input of {length}")
    return spare // stride + 1


def implicit_product(
    where: str, channels: int, filters: int, inputs: int, outputs: int, taps: int, groups: int, batch: int,
    bias: bool, layer: str, op: str, types: Types,
) -> dict:  # fmt: skip
    """The row of a convolution with `taps` kernel positions, `inputs` and `outputs` positions a map."""
    check_counts(where, channels=channels, filters=filters, groups=groups, batch=batch)
    check_flags(where, bias=bias)
    for name, value in (("channels", channels), ("filters", filters)):
        if value % groups:
            raise TraceError(f"{where}: groups must divide {name} ({value}), got {groups}")
    m, n, k = batch * outputs, filters // groups, channels // groups * taps
    parameters = filters * (k + bias)
    return {
        "layer": layer,
        "op": op,
        "kind": "convolution",
        "batch": groups,
        "m": m,
        "n": n,
        "k": k,
        "matrix_flops": 2 * groups * m * n * k,
        "vector_flops": OPERATIONS["bias add"].vector * m * filters if bias else 0,
        "parameters": parameters,
        "weight_bytes": types.weights(parameters),
        "input_bytes": types.activations(batch * channels * inputs),
        "output_bytes": types.activations(m * filters),
        **types.columns,
    }


@block
def conv2d(
    channels: int,
    filters: int,
    height: int,
    width: int,
    kernel: int | tuple[int, int],
    *,
    types: Types,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    batch: int = 1,
    bias: bool = True,
    layer="convolution",
    op="convolution",
) -> dict:
    """`filters` kernels over `channels` maps of `height` x `width` (the form of `torch.nn.Conv2d`).

    Kernel, stride, padding and dilation are one number or (height, width); padding also "same".
    2 batch outputs filters channels / groups kernel FLOP. Raises `TraceError` naming the argument: not a positive whole
    number, groups that do not divide the channels, a kernel longer than the padded input.
    """
    sizes = ("kernel", kernel), ("stride", stride), ("padding", padding), ("dilation", dilation)
    kernels, strides, paddings, dilations = (_pair("conv2d", name, value) for name, value in sizes)
    check_counts("conv2d", height=height, width=width)
    extents = zip((height, width), kernels, strides, paddings, dilations, strict=True)
    rows, columns = (output_length(*extent) for extent in extents)
    taps = kernels[0] * kernels[1]
    return implicit_product(
        "conv2d", channels, filters, height * width, rows * columns, taps, groups, batch, bias, layer, op, types
    )


@block
def conv1d(
    channels: int,
    filters: int,
    length: int,
    kernel: int,
    *,
    types: Types,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
    batch: int = 1,
    bias: bool = True,
    layer="convolution",
    op="convolution",
) -> dict:
    """`filters` kernels along a sequence of `length` positions (the form of `torch.nn.Conv1d`).

    `padding`: positions added on each side, "same" or "causal". One run looks back over the padded part of the
    kernel and ahead over the rest: `reach_back` = padding before (at most dilation (kernel - 1)),
    `reach_ahead` = what remains of it. Errors as for `conv2d`.
    """
    outputs = output_length(length, kernel, stride, padding, dilation)
    row = implicit_product("conv1d", channels, filters, length, outputs, kernel, groups, batch, bias, layer, op, types)
    span = dilation * (kernel - 1)
    back = min(_padding("conv1d", padding, kernel, dilation)[0], span)
    return row | {"reach_back": back, "reach_ahead": span - back}


@block
def pool2d(
    channels: int,
    height: int,
    width: int,
    kernel: int | tuple[int, int],
    *,
    types: Types,
    stride: int | tuple[int, int] | None = None,
    padding: int | str | tuple = 0,
    function: str = "max",
    batch: int = 1,
    layer="pooling",
    op="pooling",
) -> dict:
    """The largest or the average of each window of a map; stride defaults to the kernel.

    kernel - 1 comparisons a result, or as many additions and a multiplication. Errors as for `conv2d`.
    """
    check_counts("pool2d", channels=channels, height=height, width=width, batch=batch)
    check_choice("pool2d", "function", function, POOLS)
    stride = kernel if stride is None else stride
    sizes = ("kernel", kernel), ("stride", stride), ("padding", padding)
    extents = zip((height, width), *(_pair("pool2d", name, value) for name, value in sizes), strict=True)
    rows, columns = (output_length(*extent) for extent in extents)
    kernels = _pair("pool2d", "kernel", kernel)
    outputs = batch * channels * rows * columns
    return {
        "layer": layer,
        "op": op,
        "kind": "elementwise",
        "vector_flops": (kernels[0] * kernels[1] - (function == "max")) * outputs,
        "input_bytes": types.activations(batch * channels * height * width),
        "output_bytes": types.activations(outputs),
        **types.columns,
    }


@block
def batch_norm(elements: int, channels: int, *, types: Types, layer="norm", op="batch norm") -> dict:
    """Scale and shift each of `elements` values by the two parameters of its channel (Ioffe and Szegedy 2015).

    Counted with stored statistics, as when not training. Raises `TraceError` naming the argument that is not a
    positive whole number.
    """
    check_counts("batch_norm", elements=elements, channels=channels)
    row = elementwise.row(elements, "batch norm", types=types, layer=layer, op=op)
    return row | {"parameters": 2 * channels, "weight_bytes": types.weights(2 * channels)}
