"""Rows of one recorded operator of a profile: names, sizes and values of its inputs become a `Call` of `torch_rows`.

A profile holds the inputs of an operator by position and no results, so this module knows which input is which
(`INPUTS`) and works out the results. Counts and rows are those of `torch_rows` and the builders.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache

from workloads.blocks import Types, elementwise
from workloads.importers import torch_gradients, torch_rows
from workloads.importers.profile_events import Event
from workloads.importers.torch_rows import Call, Ledger, Operand, Region
from workloads.recurrent import gru, lstm, rnn
from workloads.trace import TraceError

#: Element types as profiles write them: name in PyTorch, bytes of an element.
TYPES = {
    "float": ("float32", 4), "double": ("float64", 8), "c10::Half": ("float16", 2), "c10::BFloat16": ("bfloat16", 2),
    "c10::Float8_e4m3fn": ("float8_e4m3fn", 1), "c10::Float8_e5m2": ("float8_e5m2", 1), "long int": ("int64", 8),
    "long": ("int64", 8), "long long": ("int64", 8), "__int64": ("int64", 8), "int": ("int32", 4),
    "short int": ("int16", 2), "short": ("int16", 2), "signed char": ("int8", 1), "unsigned char": ("uint8", 1),
    "bool": ("bool", 1), "c10::complex<float>": ("complex64", 8), "c10::complex<double>": ("complex128", 16),
}  # fmt: skip

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
_ATTENTION = ("query", "key", "value")
_POOL = ("self", "kernel_size", "stride", "padding", "dilation")

#: Names of the inputs by position, where `torch_rows` asks for them by name.
INPUTS: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "mm": ("self", "mat2"),
    "_int_mm": ("self", "mat2"),
    "addmm": ("self", "mat1", "mat2"),
    "_addmm_activation": ("self", "mat1", "mat2", "beta", "alpha", "use_gelu"),
    "bmm": ("self", "mat2"),
    "baddbmm": ("self", "batch1", "batch2"),
    "mv": ("self", "vec"),
    "addmv": ("self", "mat", "vec"),
    "dot": ("self", "tensor"),
    "convolution": _CONVOLUTION,
    "_convolution": _CONVOLUTION,
    "_scaled_dot_product_flash_attention": (*_ATTENTION, "dropout_p", "is_causal"),
    "_scaled_dot_product_flash_attention_for_cpu": (*_ATTENTION, "dropout_p", "is_causal", "attn_mask"),
    "_scaled_dot_product_efficient_attention": (*_ATTENTION, "attn_bias", "lse", "dropout_p", "is_causal"),
    "_scaled_dot_product_cudnn_attention": (*_ATTENTION, "attn_bias", "lse", "dropout_p", "is_causal"),
    "native_layer_norm": ("input", "normalized_shape", "weight", "bias"),
    "_fused_rms_norm": ("input", "normalized_shape", "weight"),
    "native_group_norm": ("input", "weight", "bias", "N", "C", "HxW", "group"),
    **dict.fromkeys(
        ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training", "miopen_batch_norm"),
        ("input", "weight", "bias", "running_mean", "running_var")),
    "embedding": ("weight", "indices"),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices"), _POOL),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _POOL[:4]),
    **dict.fromkeys(("adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), ("self",)),
    "copy": ("self", "src"),
    "index": ("self", "indices"),
    "index_select": ("self", "dim", "index"),
    "gather": ("self", "dim", "index"),
    "pow": ("self", "exponent"),
}  # fmt: skip

#: Inputs that are parameters of a network. A profile does not say which tensors are: these nearly always are.
WEIGHTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("linear", "convolution", "_convolution", "native_layer_norm", "_fused_rms_norm"),
                    ("weight", "bias")),
    **dict.fromkeys(("native_group_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm",
                     "_native_batch_norm_legit_no_training"), ("weight", "bias", "running_mean", "running_var")),
    "addmm": ("self", "mat2"),
    "_addmm_activation": ("self", "mat2"),
    "mm": ("mat2",),
    "_int_mm": ("mat2",),
    "addmv": ("self", "mat"),
    "mv": ("self",),
    "embedding": ("weight",),
}  # fmt: skip

#: Elementwise with one vector FLOP an element, beside the table of `torch_rows`.
ONE_EACH = frozenset({
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum",
    "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not",
    "bitwise_xor", "threshold", "sign", "round", "floor", "ceil", "trunc", "isnan", "isinf", "isneginf", "isposinf",
    "isfinite", "pow", "clamp_min", "clamp_max", "square", "threshold_backward", "native_dropout_backward",
})  # fmt: skip

#: Vector FLOP and special operations an element: gradients as in `torch_gradients`, and what only profiles show.
GRADIENTS: dict[str, tuple[int, int]] = {
    **{name: torch_gradients.POINTWISE[name]
       for name in ("tanh_backward", "sigmoid_backward", "silu_backward", "gelu_backward")},
    **{name: torch_gradients.SOFTMAX[name] for name in ("_softmax_backward_data", "_log_softmax_backward_data")},
    "_transform_bias_rescale_qkv": (1, 0),
}  # fmt: skip

#: Make a view, allocate or look: no work. Their time is the framework's.
VIEWS = torch_rows.FREE | {
    "view", "t", "transpose", "permute", "as_strided", "expand", "expand_as", "slice", "select", "narrow", "unsqueeze",
    "squeeze", "split", "split_with_sizes", "chunk", "unsafe_chunk", "unsafe_split", "unbind", "resize", "reshape",
    "view_as", "_reshape_alias", "resolve_conj", "resolve_neg", "item", "is_nonzero", "flatten", "unflatten", "to",
    "cudnn_is_acceptable", "result_type", "movedim", "swapaxes", "numpy_T", "contiguous", "diagonal", "unfold",
    "broadcast_tensors", "type_as", "lift", "_has_same_storage_numel", "requires_grad",
    "is_leaf", "output_nr", "data", "retain_grad", "cpu", "real", "imag", "view_as_real", "view_as_complex", "matrix_H",
    "mT", "mH", "adjoint", "ravel", "positive", "atleast_1d", "_nested_tensor_size", "tensor_split", "hsplit",
}  # fmt: skip

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isneginf", "isposinf", "isfinite",
                         "logical_and", "logical_or", "logical_not", "logical_xor", "all", "any"})  # fmt: skip

#: Only call others: whatever time is not theirs is the framework's.
WRAPPERS = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul",
    "einsum", "tensordot", "inner", "outer", "softmax", "log_softmax", "layer_norm", "group_norm", "batch_norm",
    "instance_norm", "rms_norm", "_batch_norm_impl_index", "embedding", "dropout", "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math", "max_pool1d", "max_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "clone", "_to_copy", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "stack", "hstack", "vstack",
    "pad", "cross_entropy_loss", "nll_loss", "randn", "rand", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell",
    "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "_native_multi_head_attention", "_transformer_encoder_layer_fwd",
    "where", "multi_head_attention_forward", "new_zeros", "new_ones", "new_full", "square", "mean", "rnn", "repeat",
})  # fmt: skip

#: Operators that run a whole recurrence, and one step of one: builder and its settings.
RECURRENCES = {
    "lstm": (lstm, {}),
    "gru": (gru, {}),
    "rnn_tanh": (rnn, {"nonlinearity": "tanh"}),
    "rnn_relu": (rnn, {"nonlinearity": "relu"}),
}
CELLS = {f"{kind}_cell": kind for kind in RECURRENCES}


#: Nodes of the autograd engine and of the profiler itself.
FRAMEWORK = re.compile(r"^(autograd::|torch::autograd|ProfilerStep|Optimizer\.|nn\.Module)|Backward\d*$")


def plain_name(name: str) -> str:
    """An operator's name without its namespace and the underscore of writing in place; "" outside ATen."""
    if not name.startswith("aten::"):
        return ""
    name = name.removeprefix("aten::").removeprefix("_foreach_")
    return name.rstrip("_") if not name.endswith("__") else name


def is_free(event: Event) -> bool:
    """Whether the operator only makes a view, allocates or looks."""
    name = plain_name(event.name)
    return name in VIEWS or (name == "dropout" and value_of(event, 2) is False)


def rows_of(event: Event, backward: bool = False) -> list[dict] | None:
    """Rows of one run of an operator that has a cost; None where it has none of its own and its parts may.

    Products of the backward pass have no parameters: what they multiply are activations and gradients.
    Raises nothing: sizes that make no sense give None.
    """
    name = plain_name(event.name)
    wraps = any(plain_name(child.name) == name for child in event.children)
    if not name or is_free(event) or wraps:  # automatic mixed precision and scalars call the same operator again
        return None
    try:
        if name in RECURRENCES:
            return _recurrent(name, event)
        if name in CELLS:
            return _cell(CELLS[name], event)
        if name == "_addmm_activation":
            return _with_activation(event)
        call = _call(name, event, backward)
        if name in GRADIENTS and call:
            return _gradient(call)
        if name == "copy":
            return [torch_rows.streamed(call, "copy", "copy")]
        return torch_rows.rows_of(call) if call else None
    except (TraceError, ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError):
        return None  # another signature than the one known here


def is_cell(event: Event) -> bool:
    """Whether it is one step of a recurrence."""
    return plain_name(event.name) in CELLS


def unknown_rows(event: Event) -> list[dict]:
    """What can be said of an operator without a cost: it reads its inputs and writes as much as the largest."""
    tensors = operands_of(event)
    if not sum(tensor.bytes for tensor in tensors):
        return []
    largest = max(tensors, key=lambda tensor: tensor.bytes)
    call = Call(event.name, dict(enumerate(tensors)), [largest])
    return torch_rows.unknown(call)


def shapes_of(event: Event) -> str:
    """Sizes of the first inputs, for a label: "1024x256 256x768"."""
    shapes = [tensor.shape for tensor in operands_of(event) if tensor.shape]
    return " ".join("x".join(map(str, shape)) for shape in shapes[:2])


def is_wrapper(event: Event) -> bool:
    """Whether all the operator does is done by those it calls: it is never reported as unknown."""
    name = plain_name(event.name)
    again = any(plain_name(child.name) == name for child in event.children)
    return name in WRAPPERS or name in VIEWS or again or (not name and bool(FRAMEWORK.search(event.name)))


# -- inputs ------------------------------------------------------------------------------------------


def value_of(event: Event, position: int):
    """A recorded number, list of numbers or truth value; None where there is none."""
    text = event.values[position] if position < len(event.values) else ""
    if not isinstance(text, str) or not text:
        return None
    try:
        return {"True": True, "False": False}[text] if text in ("True", "False") else json.loads(text)
    except (ValueError, RecursionError):
        return text


def operands_of(event: Event) -> list[Operand]:
    """Every tensor among the inputs, lists flattened."""
    found: list[Operand] = []
    for position in range(len(event.dims)):
        value = _input(event, position)
        found += [value] if isinstance(value, Operand) else value if isinstance(value, list) else []
    return [operand for operand in found if isinstance(operand, Operand)]


def _input(event: Event, position: int):
    """An input: a tensor, a list of tensors, a value, None."""
    dims = event.dims[position] if position < len(event.dims) else []
    kind = event.types[position] if position < len(event.types) else ""
    strides = event.strides[position] if position < len(event.strides) else []
    if kind in TYPES:
        return _operand(dims, kind, strides)
    if kind == "TensorList":
        kind = next((t for t in event.types if t in TYPES), "float")  # the list's own type is not recorded
        return [_operand(shape, kind, []) for shape in dims if isinstance(shape, list)]
    return value_of(event, position)


def _operand(dims, kind: str, strides) -> Operand:
    shape = tuple(int(size) for size in dims)
    spread = isinstance(strides, list) and len(strides) == len(shape)
    stored = math.prod(size for size, step in zip(shape, strides, strict=True) if step) if spread else math.prod(shape)
    torch_dtype, item_bytes = TYPES[kind]
    return Operand(shape, torch_dtype, item_bytes, stored)


def _call(name: str, event: Event, backward: bool) -> Call | None:
    """The operator with its inputs by name and its results, None where it is not known."""
    pointwise = name in ONE_EACH or name in GRADIENTS
    if name in ("clone", "_to_copy") or not (pointwise or name in torch_rows.RULES) or not operands_of(event):
        return None  # the copy inside these knows both element types
    names = INPUTS.get(name, ("self", "other"))
    arguments = {}
    for position in range(len(event.dims)):
        value = _input(event, position)
        if value is not None:
            arguments[names[position] if position < len(names) else f"argument {position}"] = value
    for weight in () if backward else WEIGHTS.get(name, ()):
        _as_weight(arguments.get(weight))
    if name == "copy":
        return Call("copy", {"src": arguments["src"]}, [arguments["self"]])
    return Call(name, arguments, _results(name, event, arguments), pointwise, event.name.endswith("_"))


def _as_weight(tensor) -> None:
    """Marks a tensor as a parameter that this row alone counts."""
    if isinstance(tensor, Operand):
        ledger = Ledger("weight", tensor.elements, False)
        tensor.weight = Region(ledger, 0, tensor.elements, tensor.elements, tensor.dtype)


# -- results -----------------------------------------------------------------------------------------


def _results(name: str, event: Event, arguments: dict) -> list[Operand]:
    """What the operator makes, worked out from its inputs; elementwise: as large as the inputs together span."""
    like = next(o for o in operands_of(event))
    if name in ("cat", "stack", "hstack", "vstack"):
        return [_made((sum(operand.elements for operand in operands_of(event)),), like)]
    shape = _shape(name, event, arguments)
    if name in COMPARISONS:
        return [Operand(shape, "bool", 1, math.prod(shape))]
    return [_made(shape, like)]


def _made(shape: Sequence[int], like: Operand) -> Operand:
    return Operand(tuple(shape), like.torch_dtype, like.item_bytes, math.prod(shape))


def _shape(name: str, event: Event, given: dict) -> tuple[int, ...]:
    if name in ("mm", "_int_mm", "bmm"):
        return (*given["self"].shape[:-1], given["mat2"].shape[-1])
    if name in ("addmm", "baddbmm"):
        a, b = (given["mat1"], given["mat2"]) if name == "addmm" else (given["batch1"], given["batch2"])
        return (*a.shape[:-1], b.shape[-1])
    if name == "linear":
        return (*given["input"].shape[:-1], given["weight"].shape[0])
    if name in ("mv", "addmv"):
        return given.get("mat", given["self"]).shape[:1]
    if name == "dot":
        return ()
    if name in ("convolution", "_convolution"):
        return _convolved(given)
    if name.startswith("_scaled_dot_product"):
        return (*given["query"].shape[:-1], given["value"].shape[-1])
    if name == "embedding":
        return (*given["indices"].shape, given["weight"].shape[-1])
    if name in ("index", "index_select", "gather"):
        return _picked(name, event, given)
    if "pool" in name:
        return _pooled(event, given)
    if name in torch_rows.REDUCTIONS and not name.startswith("cum"):
        return _reduced(event, given["self"].shape)
    if name.startswith("native_") or name in ("_fused_rms_norm", "cudnn_batch_norm", "miopen_batch_norm"):
        return next(o for o in given.values() if isinstance(o, Operand)).shape
    return _spanned([operand.shape for operand in operands_of(event)])


def _spanned(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape all of them are broadcast to; lists of tensors of different shapes: their elements."""
    depth = max(map(len, shapes))
    padded = [(1,) * (depth - len(shape)) + shape for shape in shapes]
    spanned = tuple(max(sizes) for sizes in zip(*padded, strict=True))
    if all(size in (1, most) for shape in padded for size, most in zip(shape, spanned, strict=True)):
        return spanned
    return (max(math.prod(shape) for shape in shapes),)


def _convolved(given: dict) -> tuple[int, ...]:
    """Sizes of the result of a convolution, or of a transposed one (the formulas of `torch.nn.Conv2d`)."""
    sizes, kernels = given["input"].shape[2:], given["weight"].shape[2:]
    columns = zip(sizes, kernels, given["stride"], given["padding"], given["dilation"], strict=True)
    if given["transposed"]:
        more = given["output_padding"]
        spread = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in columns]
        filters = given["weight"].shape[1] * given["groups"]
        return (given["input"].shape[0], filters, *(n + extra for n, extra in zip(spread, more, strict=True)))
    left = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in columns]
    return (given["input"].shape[0], given["weight"].shape[0], *left)


def _picked(name: str, event: Event, given: dict) -> tuple[int, ...]:
    source = given["self"].shape
    if name == "gather":
        return given["index"].shape
    if name == "index_select":
        dim = given["dim"] % len(source)
        return (*source[:dim], given["index"].elements, *source[dim + 1 :])
    indices = [o for o in operands_of(event)[1:] if o.shape]
    return (max(o.elements for o in indices), *source[len(indices) :])


def _pooled(event: Event, given: dict) -> tuple[int, ...]:
    shape, sizes = given["self"].shape, given.get("kernel_size")
    if sizes is None:  # adaptive: the second input is the size of the result
        wanted = value_of(event, 1)
        return (*shape[: -len(wanted)], *wanted)
    count = len(sizes)
    strides = given.get("stride") or sizes
    paddings = given.get("padding") or [0] * count
    places = zip(shape[-count:], sizes, strides, paddings, strict=True)
    return (*shape[:-count], *((n + 2 * p - k) // s + 1 for n, k, s, p in places))


def _reduced(event: Event, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What is left of a shape when the recorded directions (none: all) are summed."""
    dims = value_of(event, 1)
    dims = [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims
    if not isinstance(dims, list) or not dims:
        return ()
    gone = {dim % len(shape) for dim in dims}
    return tuple(size for position, size in enumerate(shape) if position not in gone)


# -- what is more than one row -----------------------------------------------------------------------


def _gradient(call: Call) -> list[dict]:
    vector, special = GRADIENTS[call.name]
    elements = call.outputs[0].elements
    op = torch_rows.word(call.name)
    return [torch_rows.streamed(call, op, "elementwise", vector * elements, special * elements)]


def _with_activation(event: Event) -> list[dict]:
    """A product with bias and the activation applied to it, measured as one."""
    call = _call("addmm", event, False)
    product = torch_rows.rows_of(call)
    function = "gelu" if value_of(event, 5) else "relu"
    result = call.outputs[0]
    types = Types(result.dtype, result.dtype, result.dtype)
    return [*product, elementwise.row(result.elements, function, types=types, op="activation")]


def _recurrent(kind: str, event: Event) -> list[dict] | None:
    """nn.LSTM, nn.GRU, nn.RNN with sequences of one length: (input, state, weights, bias, layers, dropout, train,
    both directions, batch first)."""
    x, state = _input(event, 0), _input(event, 1)
    bias, layers, both, batch_first = (value_of(event, position) for position in (3, 4, 7, 8))
    states = state if isinstance(state, list) else [state]
    if not isinstance(x, Operand) or len(x.shape) != 3 or not isinstance(states[0], Operand):
        return None  # packed sequences record their lengths instead
    batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    hidden = states[-1].shape[-1]
    extra = {"projection": states[0].shape[-1]} if kind == "lstm" and states[0].shape[-1] != hidden else {}
    sizes = {
        "layers": layers, "hidden": hidden, "sequence_length": steps, "batch": batch, "input_size": x.shape[2],
        "bias": bool(bias), "bidirectional": bool(both), **extra,
    }  # fmt: skip
    return [dict(row) for row in _built(kind, x.dtype, tuple(sizes.items()))]


@lru_cache(maxsize=256)
def _built(kind: str, dtype: str, sizes: tuple) -> tuple[dict, ...]:
    """Rows of the builder of that cell."""
    build, extra = RECURRENCES[kind]
    return tuple(build(**dict(sizes), **extra, dtype=dtype, name=kind).rows())


def _cell(kind: str, event: Event) -> list[dict]:
    """One step: (input, state, input weights, recurrent weights, biases)."""
    x, state = _input(event, 0), _input(event, 1)
    state = state[0] if isinstance(state, list) else state
    bias = isinstance(_input(event, 4), Operand)
    sizes = (("hidden", state.shape[-1]), ("batch", x.shape[0]), ("input_size", x.shape[1]), ("bias", bias))
    sizes = (("layers", 1), ("sequence_length", 1), *sizes)
    return [dict(row) for row in _built(kind, x.dtype, sizes)]
