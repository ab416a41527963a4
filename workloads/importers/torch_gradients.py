"""Rows of the operators that only a backward pass runs: convolution_backward, native_layer_norm_backward, ... No torch.

They arrive as the `Call`s of `torch_rows`; what is not here is a forward operator too and is costed there. An operator
that makes the gradients of its input and of its weights is a row each, as the kernels behind it are: `_out` of a row
names which of the operator's results are its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from workloads.importers import torch_rows
from workloads.importers.torch_rows import Call, Operand, streamed, types_of
from workloads.training import NORM_GRADIENT_FLOPS

#: Vector FLOP and special operations an element: the derivative, and its product with the gradient of the result.
#: A sigmoid or tanh kept from the forward pass is not evaluated again, what was not kept is.
POINTWISE: dict[str, tuple[int, int]] = {
    "threshold_backward": (1, 0), "tanh_backward": (3, 0), "sigmoid_backward": (3, 0), "silu_backward": (5, 1),
    "gelu_backward": (15, 1), "mish_backward": (8, 3), "softplus_backward": (3, 2), "log_sigmoid_backward": (4, 1),
    "elu_backward": (3, 1), "leaky_relu_backward": (2, 0), "hardtanh_backward": (2, 0), "hardsigmoid_backward": (3, 0),
    "hardswish_backward": (5, 0), "hardshrink_backward": (2, 0), "softshrink_backward": (2, 0), "glu_backward": (3, 1),
    "logit_backward": (3, 1), "_prelu_kernel_backward": (2, 0), "rrelu_with_noise_backward": (1, 0),
    "native_dropout_backward": (2, 0), "_weight_norm_interface_backward": (6, 0),
    "mse_loss_backward": (3, 0), "smooth_l1_loss_backward": (4, 0), "huber_loss_backward": (4, 0),
    "binary_cross_entropy_backward": (4, 1), "soft_margin_loss_backward": (4, 2),
}  # fmt: skip

#: Vector FLOP and special operations an element of dX = Y (dY - sum dY Y), and of dX = dY - exp(Y) sum dY.
SOFTMAX: dict[str, tuple[int, int]] = {
    "_softmax_backward_data": (4, 0),
    "_log_softmax_backward_data": (3, 1),
    "_masked_softmax_backward": (4, 0),
}

#: Vector FLOP an element of dX of a norm with a gain g, n being the normalised input:
#: r (g dY - mean(g dY) - n mean(g dY n)): n 2, g dY 1, two sums 3, the rest 4.
NORM_FLOPS = 10
#: The same without a mean: r (g dY - n mean(g dY n)): n 1, g dY 1, a sum 2, the rest 3.
RMS_NORM_FLOPS = 7
#: With stored statistics (batch norm in evaluation): dY times one number a channel.
STORED_NORM_FLOPS = 1

#: Puts the gradient where its values came from, into zeros, without arithmetic.
COPIES = frozenset({"slice_backward", "select_backward", "diagonal_backward", "masked_scatter_backward"})

#: Adds each value of the gradient to where it came from.
SCATTERS = frozenset({
    "unfold_backward", "max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward",
    "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "replication_pad1d_backward", "replication_pad2d_backward",
    "replication_pad3d_backward", "upsample_nearest1d_backward", "upsample_nearest2d_backward",
    "upsample_nearest3d_backward", "_upsample_nearest_exact1d_backward", "_upsample_nearest_exact2d_backward",
    "_upsample_nearest_exact3d_backward", "nll_loss_backward", "nll_loss2d_backward",
})  # fmt: skip

#: Of these the operands beside the gradient give a shape, but are not read.
_SHAPE_ONLY = {"adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "max_pool2d_with_indices_backward",
               "max_pool3d_with_indices_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
               "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
               "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward",
               "nll_loss_backward", "nll_loss2d_backward", "avg_pool2d_backward", "avg_pool3d_backward",
               "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"}  # fmt: skip


def rows_of(call: Call) -> list[dict] | None:
    """Rows of one operator, none where nothing moves, None where it is not known."""
    if call.name == "_grouped_mm" and len(call.outputs[0].shape) == 3:
        return _grouped_weights(call)
    if call.name in ("index_put", "_unsafe_index_put", "_index_put_impl") and call.arguments.get("accumulate"):
        return _index_add(call)
    rule = RULES.get(call.name)
    return rule(call) if rule else torch_rows.rows_of(call)


def word(name: str) -> str:
    """The operator's name without "backward": its phase says so."""
    return torch_rows.word(name.removesuffix("_data").removesuffix("_backward"))


def _gradient(call: Call) -> Operand:
    """The gradient of the result, which the operator reads."""
    return call.tensor("grad_output", "grad_out", "grad", "grad_in", "grad_out_", "grad_w")


def _bytes(*operands: Operand | None) -> int:
    """Bytes of operands that are there and no weights."""
    return sum(o.bytes for o in operands if o is not None and not o.weight)


# -- elementwise and copies --------------------------------------------------------------------------


def _pointwise(call: Call) -> list[dict]:
    vector, special = POINTWISE[call.name]
    elements = max(o.elements for o in (*call.outputs, _gradient(call)))
    return [streamed(call, word(call.name), "elementwise", vector * elements, special * elements)]


def _softmax(call: Call) -> list[dict]:
    vector, special = SOFTMAX[call.name]
    elements = call.outputs[0].elements
    return [streamed(call, word(call.name), "softmax", vector * elements, special * elements)]


def _copy(call: Call) -> list[dict]:
    return [streamed(call, word(call.name), "copy")]


def _scatter(call: Call) -> list[dict]:
    return [_spread(call, 1)]


def _spread(call: Call, flops: int) -> dict:
    """A row that takes `flops` for each value of the gradient and writes the whole result."""
    row = streamed(call, word(call.name), "elementwise", flops * _gradient(call).elements)
    if call.name in _SHAPE_ONLY:
        named = [call.tensor(n) for n in ("indices", "target", "weight", "total_weight")]
        row["input_bytes"] = _bytes(_gradient(call), *named)
    return row


def _average(call: Call) -> list[dict]:
    """Each gradient is scaled and added to every value it averaged."""
    gradient, result = _gradient(call), call.outputs[0]
    sizes = call.arguments.get("kernel_size")
    taps = result.elements // max(1, gradient.elements)
    if sizes:
        spatial = 3 if "3d" in call.name else 2
        taps = math.prod(sizes) if len(sizes) == spatial else sizes[0] ** spatial
    return [_spread(call, 1 + max(1, taps))]


def _resample(call: Call) -> list[dict]:
    """Each gradient is added, weighted, to the neighbours its value was interpolated from."""
    name = call.name.removesuffix("_backward").removesuffix("_aa")
    taps = {"1d": 2, "2d": 4, "3d": 8}.get(name[-2:], 4) * (4 if "bicubic" in name else 1)
    return [_spread(call, 2 * taps)]


def _index_add(call: Call) -> list[dict]:
    """The gradient of picked values: added to the place each came from, one after another."""
    values = call.tensor("values")
    indices = [o for o in call.operands if o is not values][1:]
    row = streamed(call, "index add", "elementwise", values.elements)
    moved = values.elements * values.item_bytes
    return [row | {"input_bytes": _bytes(values, *indices) + moved, "output_bytes": moved}]


def _embedding(call: Call) -> list[dict]:
    """A table of zeros to which the gradient of each looked-up row is added: the whole table is written."""
    row = streamed(call, "embedding", "gather", _gradient(call).elements)
    indices = call.tensor("indices")
    return [row | {"input_bytes": _bytes(_gradient(call), indices)}]


# -- norms -------------------------------------------------------------------------------------------


def _norm(call: Call) -> list[dict]:
    """Gradients of the input, and of gain and offset: two kernels that each read dY and the input."""
    x, gradient, weight = call.tensor("input"), _gradient(call), call.tensor("weight")
    flops = RMS_NORM_FLOPS if "rms_norm" in call.name else NORM_FLOPS
    flops -= weight is None
    if call.arguments.get("train") is False:
        flops = STORED_NORM_FLOPS
    names = ("mean", "rstd", "save_mean", "save_invstd", "save_var")
    read = _bytes(gradient, x, *(call.tensor(n) for n in names))
    rows = []
    for own, each in (((0,), flops), ((1, 2), NORM_GRADIENT_FLOPS)):
        made = [o for slot, o in zip(call.slots, call.outputs, strict=True) if slot in own]
        if not made:
            continue
        row = {"op": "norm", "kind": "normalisation", **types_of(x, weight, made[0]).columns, "_out": own}
        row |= {"vector_flops": each * x.elements, "input_bytes": read, "_weights": ()}
        row["output_bytes"] = sum(o.elements * o.item_bytes for o in made)
        if own == (0,) and weight is not None and weight.weight:
            row |= {"weight_bytes": weight.bytes, "_weights": (weight.weight.ledger.name,)}
        rows.append(row)
    return rows


# -- products ----------------------------------------------------------------------------------------


def _convolution(call: Call) -> list[dict]:
    """dX, dW and the sum for the bias; both products have the sizes of the forward one, turned."""
    gradient, x, w = _gradient(call), call.tensor("input"), call.tensor("weight")
    found = dict(zip(call.slots, call.outputs, strict=True))
    forward = torch_rows.rows_of(Call("convolution", call.arguments | {"bias": None}, [gradient]))
    if not forward:
        return []
    (row,) = forward
    kept = {c: row[c] for c in ("op", "kind", "batch", "matrix_flops", "dtype", "weight_dtype", "activation_dtype")}
    rows = []
    if 0 in found:
        rows.append(kept | {
            "m": row["m"], "n": row["k"], "k": row["n"], "input_bytes": _bytes(gradient, w), "_out": (0,),
            "weight_bytes": w.bytes if w.weight else 0, "output_bytes": _written(found[0]),
            "_weights": (w.weight.ledger.name,) if w.weight else (),
        })  # fmt: skip
    if 1 in found:
        rows.append(kept | {
            "m": row["k"], "n": row["n"], "k": row["m"], "input_bytes": _bytes(gradient, x), "_out": (1,),
            "output_bytes": _written(found[1]), "_weights": (),
        })  # fmt: skip
    if 2 in found:
        rows.append({
            "op": "sum", "kind": "elementwise", **types_of(gradient, None, found[2]).columns, "_out": (2,),
            "vector_flops": gradient.elements, "input_bytes": _bytes(gradient), "output_bytes": _written(found[2]),
            "_weights": (),
        })  # fmt: skip
    return rows


def _written(operand: Operand) -> int:
    return operand.elements * operand.item_bytes


def _grouped_weights(call: Call) -> list[dict] | None:
    """dW of a grouped product: (k, rows) times (rows, n), the rows shared out among the groups."""
    a, b, out = call.tensor("self"), call.tensor("mat2"), call.outputs[0]
    if len(a.shape) != 2 or len(b.shape) != 2:
        return torch_rows.rows_of(call)
    (m, k), n = a.shape, b.shape[1]
    rows = torch_rows.product(a, b, None, out, (1, m, n, k))
    return [row | {"op": f"product of {out.shape[0]} groups"} for row in rows]


def attention_mask(row: dict, mask: Operand) -> dict:
    """The gradient of a mask (a bias of the scores), after `row` of the others: sums of the gradients of the scores."""
    phase = "weight-gradient" if mask.weight else "input-gradient"
    return {
        "op": f"mask, {phase.replace('-', ' ')}", "kind": "elementwise", "phase": phase,
        **types_of(mask).columns, "vector_flops": row["batch"] * row["m"] * row["k"],
        "output_bytes": _written(mask), "after": (0,), "_derived": True,
    }  # fmt: skip


RULES: dict[str, Callable[[Call], list[dict]]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(SOFTMAX, _softmax),
    **dict.fromkeys(COPIES, _copy),
    **dict.fromkeys(SCATTERS, _scatter),
    **dict.fromkeys(
        ("avg_pool2d_backward", "avg_pool3d_backward", "_adaptive_avg_pool2d_backward",
         "_adaptive_avg_pool3d_backward"), _average),
    **dict.fromkeys(
        ("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_trilinear3d_backward",
         "upsample_bicubic2d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"),
        _resample),
    **dict.fromkeys(("embedding_dense_backward", "_embedding_bag_dense_backward"), _embedding),
    **dict.fromkeys(
        ("native_layer_norm_backward", "native_group_norm_backward", "_fused_rms_norm_backward",
         "native_batch_norm_backward", "cudnn_batch_norm_backward", "miopen_batch_norm_backward",
         "batch_norm_backward"), _norm),
    **dict.fromkeys(("convolution_backward", "convolution_backward_overrideable"), _convolution),
}  # fmt: skip
