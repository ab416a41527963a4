"""The feed-forward part of a transformer's block: products for each position with an activation between."""

from __future__ import annotations

from workloads.blocks import (
    ACTIVATIONS,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    plain_integers,
    series,
)
from workloads.trace import Trace


def mlp_rows(
    rows: int, hidden: int, inner: int, gated: bool, activation: str, bias: bool, merge_gate: bool, layer, types
) -> list[dict]:
    settings = {"types": types, "layer": layer}
    if gated and merge_gate:
        up = [linear.row(rows, 2 * inner, hidden, bias=bias, op="gate and up projection", **settings)]
    elif gated:
        products = ("gate projection", "up projection")
        up = [linear.row(rows, inner, hidden, bias=bias, op=op, **settings) | {"after": ()} for op in products]
    else:
        up = [linear.row(rows, inner, hidden, bias=bias, op="up projection", **settings)]
    function = elementwise.row(rows * inner, activation, gated=gated, op="activation", **settings)
    down = linear.row(rows, hidden, inner, bias=bias, op="down projection", **settings)
    return series([up, [function], [down]])


@plain_integers
def mlp(
    hidden: int,
    inner: int,
    *,
    sequence_length: int,
    batch: int = 1,
    gated: bool = False,
    activation: str = "gelu",
    bias: bool = True,
    merge_gate: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "mlp",
    name: str = "mlp",
) -> Trace:
    """Two products with an activation between, hidden to `inner` and back, for each position.

    `gated`: a second product of the same size is multiplied with the activation (Shazeer 2020);
    `merge_gate`: both in one product. `activation`: one of `workloads.blocks.ACTIVATIONS`. Raises `TraceError` naming
    the argument that is not a positive whole number, not a known activation or element type.
    """
    check_counts("mlp", hidden=hidden, inner=inner, sequence_length=sequence_length, batch=batch)
    check_choice("mlp", "activation", activation, ACTIVATIONS)
    check_flags("mlp", gated=gated, bias=bias, merge_gate=merge_gate)
    types = element_types("mlp", dtype, weight_dtype, activation_dtype)
    rows = mlp_rows(batch * sequence_length, hidden, inner, gated, activation, bias, merge_gate, layer, types)
    return Trace.from_rows(rows, name=name, sequences=batch, tokens=sequence_length, source="mlp")
