"""Mixture of experts: a router sends each token to a few of many feed-forward experts (Shazeer et al. 2017).

Counts are expectations for tokens that choose independently and evenly, which the balancing losses aim at (Fedus et al.
2022, section 2.2): the fullest expert gets more than the average assumed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workloads.blocks import (
    ACTIVATIONS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    copy,
    element_types,
    elementwise,
    linear,
    plain_integers,
    series,
    softmax,
)
from workloads.feed_forward import mlp_rows
from workloads.trace import Trace, TraceError


def expected_experts(tokens: int, experts: int, experts_per_token: int) -> float:
    """Distinct experts that `tokens` reach when each picks k of E evenly: E (1 - (1 - k / E)^tokens)."""
    share = experts_per_token / experts
    return float(experts) if share == 1 else -experts * math.expm1(tokens * math.log1p(-share))


@dataclass(frozen=True)
class Experts:
    """Sizes of a mixture of experts; see `mixture_of_experts` for the words."""

    experts: int
    experts_per_token: int
    inner: int
    shared_experts: int = 0


def checked_experts(where: str, experts: int, experts_per_token: int, inner: int, shared_experts: int) -> Experts:
    """Raise `TraceError` naming the argument that is not a positive whole number or more experts than there are."""
    check_counts(where, experts=experts, experts_per_token=experts_per_token, inner=inner)
    check_counts(where, 0, shared_experts=shared_experts)
    if experts_per_token > experts:
        raise TraceError(f"{where}: experts_per_token must not exceed experts ({experts}), got {experts_per_token}")
    return Experts(experts, experts_per_token, inner, shared_experts)


def expert_rows(
    tokens: int, hidden: int, sizes: Experts, gated: bool, activation: str, bias: bool, merge_gate: bool, layer, types
) -> list[dict]:
    """Router, dispatch, experts and combination for `tokens` tokens, beside them the shared experts."""
    settings = {"types": types, "layer": layer}
    routed = tokens * sizes.experts_per_token
    parts = [
        [linear.row(tokens, sizes.experts, hidden, bias=False, op="router", **settings)],
        [softmax.row(tokens, sizes.experts, op="router softmax", **settings)],
        [_choice(tokens, sizes, settings)],
        [copy.row(routed * hidden, op="dispatch", **settings)],
    ]

    def product(op: str, outputs: int, inputs: int) -> dict:
        return _product(tokens, routed, outputs, inputs, sizes, bias, op, settings)

    if gated and not merge_gate:
        names = ("expert gate projection", "expert up projection")
        parts.append([product(op, sizes.inner, hidden) | {"after": ()} for op in names])
    else:
        op = "expert gate and up projection" if gated else "expert up projection"
        parts.append([product(op, sizes.inner * (1 + gated), hidden)])
    parts.append([elementwise.row(routed * sizes.inner, activation, gated=gated, op="expert activation", **settings)])
    parts.append([product("expert down projection", hidden, sizes.inner)])
    parts.append([_combination(tokens, hidden, sizes, settings)])
    rows = series(parts)
    if not sizes.shared_experts:
        return rows
    inner = sizes.shared_experts * sizes.inner
    shared = mlp_rows(tokens, hidden, inner, gated, activation, bias, merge_gate, layer, types)
    moved = [row | {"op": f"shared {row['op']}", "after": tuple(len(rows) + a for a in row["after"])} for row in shared]
    return series([[*rows, *moved], [elementwise.row(tokens * hidden, "add", op="add shared", **settings)]])


def _choice(tokens: int, sizes: Experts, settings: dict) -> dict:
    """The k largest of E scores: k passes of comparisons; an index and a weight for each choice come out."""
    row = elementwise.row(tokens * sizes.experts, "relu", op="expert choice", **settings)
    return row | {
        "vector_flops": tokens * sizes.experts * sizes.experts_per_token,
        "output_bytes": settings["types"].activations(2 * tokens * sizes.experts_per_token),
    }


def _product(
    tokens: int, routed: int, outputs: int, inputs: int, sizes: Experts, bias: bool, op: str, settings: dict
) -> dict:
    """The tokens of each expert times its weights: as many products as experts are reached, and their weights read."""
    types: Types = settings["types"]
    reached = expected_experts(tokens, sizes.experts, sizes.experts_per_token)
    products = max(1, round(reached))
    row = linear.row(-(-routed // products), outputs, inputs, batch=products, bias=bias, op=op, **settings)
    return row | {
        "matrix_flops": 2 * routed * outputs * inputs,  # of real tokens: the last rows of a product may be empty
        "vector_flops": routed * outputs if bias else 0,
        "parameters": sizes.experts * outputs * (inputs + bias),
        "weight_bytes": types.weights(round(reached * outputs * (inputs + bias))),
        "input_bytes": types.activations(routed * inputs),
        "output_bytes": types.activations(routed * outputs),
    }


def _combination(tokens: int, hidden: int, sizes: Experts, settings: dict) -> dict:
    """The sum of each token's k results times their router weights."""
    chosen = sizes.experts_per_token
    row = elementwise.row(tokens * hidden, "multiply", op="combine", **settings)
    return row | {
        "vector_flops": tokens * hidden * (2 * chosen - 1),
        "input_bytes": settings["types"].activations(tokens * chosen * (hidden + 1)),
    }


@plain_integers
def mixture_of_experts(
    hidden: int,
    inner: int,
    *,
    experts: int,
    experts_per_token: int,
    sequence_length: int,
    shared_experts: int = 0,
    batch: int = 1,
    gated: bool = False,
    activation: str = "gelu",
    bias: bool = False,
    merge_gate: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "experts",
    name: str = "mixture of experts",
) -> Trace:
    """`experts` MLPs of `inner` features, of which a router picks `experts_per_token` for each token.

    After Fedus et al. (Switch Transformers, JMLR 2022; one expert a token) and Jiang et al. (Mixtral of Experts,
    arXiv:2401.04088, section 2.1; two): product and softmax over the experts, the largest chosen, tokens copied to
    their experts, an MLP each, results times router weights added. No token is dropped or padded. With n tokens a
    product reads the weights of the E (1 - (1 - k / E)^n) experts they reach on average: few at small batch, all at
    large.
    `shared_experts`: as many more experts see every token (Dai et al., DeepSeekMoE, arXiv:2401.06066), as one MLP.
    `gated`, `activation`, `bias`, `merge_gate` as in `mlp`. Raises `TraceError` naming the argument that is not a
    positive whole number, more experts per token than experts, an unknown activation or element type.
    """
    where = "mixture_of_experts"
    check_counts(where, hidden=hidden, sequence_length=sequence_length, batch=batch)
    check_choice(where, "activation", activation, ACTIVATIONS)
    check_flags(where, gated=gated, bias=bias, merge_gate=merge_gate)
    sizes = checked_experts(where, experts, experts_per_token, inner, shared_experts)
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    rows = expert_rows(batch * sequence_length, hidden, sizes, gated, activation, bias, merge_gate, layer, types)
    return Trace.from_rows(rows, name=name, sequences=batch, tokens=sequence_length, source=where)
