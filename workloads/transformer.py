"""A stack of identical transformer blocks with embedding and head: decoder only or encoder only."""

from __future__ import annotations

from workloads.blocks import (
    NORMS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    plain_integers,
    refuse_without,
    series,
)
from workloads.experts import Experts, checked_experts
from workloads.trace import Trace, TraceError, concatenate
from workloads.transformer_blocks import (
    LOGITS,
    POSITIONS,
    block_of_parts,
    embedding_rows,
    head_rows,
    new_positions,
    part,
)


@plain_integers
def transformer(
    layers: int,
    hidden: int,
    heads: int,
    vocabulary: int,
    *,
    sequence_length: int,
    batch: int = 1,
    mode: str = "prefill",
    cache_length: int | None = None,
    cache: bool | None = None,
    inner: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    causal: bool = True,
    gated: bool = False,
    activation: str = "gelu",
    norm: str = "layer",
    pre_norm: bool = True,
    bias: bool = True,
    positions: str | None = "learned",
    max_positions: int | None = None,
    segments: int = 0,
    embedding_norm: bool = False,
    tied: bool = True,
    logits: str | None = "all",
    pooler: bool = False,
    latent_size: int | None = None,
    query_latent_size: int | None = None,
    rotary_dim: int = 64,
    value_dim: int | None = None,
    absorbed: bool | None = None,
    experts: int | None = None,
    experts_per_token: int | None = None,
    expert_inner: int | None = None,
    shared_experts: int = 0,
    dense_layers: int = 0,
    fused: bool = True,
    skip_masked: bool = True,
    merge_qkv: bool = True,
    merge_gate: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "transformer",
) -> Trace:
    """A stack of identical blocks: decoder only (`causal`: GPT, Llama) or encoder only (BERT).

    `mode`: "prefill" processes `sequence_length` positions after `cache_length` cached ones (default
    0); "decode" one position of each sequence after `cache_length` (default `sequence_length` - 1: the
    last position of the sequence). `cache`: keep keys and values (default: when there is a cache).
    `positions`: "learned" (a table of `max_positions`, default as many as are used), "sinusoidal",
    "rotary" or "none". `segments`: rows of a token type table that is added. `embedding_norm`:
    normalise the embedding. With `pre_norm` there is a final norm. `logits`: of "all" positions, only
    the "last" of each sequence, or "none"; `tied`: with the embedding table.
    `pooler`: a product and tanh on the first position (BERT). The other arguments are those of
    `attention`, `mlp` and `encoder_block`.

    `latent_size`: the attention is `latent_attention`, with its arguments `query_latent_size`, `rotary_dim`,
    `value_dim` and `absorbed` (DeepSeek-V2). `experts`: the MLP is a `mixture_of_experts` with its arguments
    `experts_per_token` and `shared_experts`, each expert of `expert_inner` features (default: `inner`), but for the
    first `dense_layers`.

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the argument:
    as `attention` does, unknown mode, norm, positions, activation or logits, decode or a cache without
    `causal`, more positions than `max_positions`, `kv_heads` with `latent_size`, `experts_per_token` without `experts`
    or beyond them, no layer left for the experts.
    """
    where = name
    check_counts(where, layers=layers, hidden=hidden, heads=heads, vocabulary=vocabulary, batch=batch)
    check_counts(where, 0, segments=segments)
    positions, logits = ("none" if choice is None else choice for choice in (positions, logits))
    check_choice(where, "positions", positions, POSITIONS)
    check_choice(where, "logits", logits, LOGITS)
    check_choice(where, "norm", norm, NORMS)
    check_flags(where, causal=causal, embedding_norm=embedding_norm, tied=tied, pooler=pooler)
    new, past = new_positions(where, mode, sequence_length, cache_length)
    if past and not causal:
        field = "mode 'decode'" if mode == "decode" else f"cache_length {past}"
        raise TraceError(f"{where}: {field} needs causal=True: an encoder sees all positions at once")
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    rows = batch * new
    embedded = embedding_rows(
        where, rows, new, past + new, vocabulary, hidden, positions=positions,
        max_positions=past + new if max_positions is None else max_positions, segments=segments,
        norm=norm if embedding_norm else None, bias=bias, owns_table=True, layer="embedding", types=types,
    )  # fmt: skip
    check_flags(where, skip_masked=skip_masked, merge_qkv=merge_qkv)
    check_counts(where, rotary_dim=rotary_dim)
    latent = {"query_latent_size": query_latent_size, "value_dim": value_dim, "absorbed": absorbed}
    if latent_size is None:
        refuse_without(where, "latent_size", **latent)
        latent = None
    else:
        latent |= {"latent_size": latent_size, "rotary_dim": rotary_dim}
    each = {"experts_per_token": experts_per_token, "expert_inner": expert_inner}
    mixture = _mixture(where, layers, experts, inner or 4 * hidden, shared_experts, dense_layers, **each)

    def block(layer: str, mixture: Experts | None) -> Trace:
        return block_of_parts(
            where, hidden, heads, inner, sequence_length=new, batch=batch, kv_heads=kv_heads, head_dim=head_dim,
            causal=causal, cache_length=past, cache=cache, fused=fused, skip_masked=skip_masked, bias=bias,
            gated=gated, activation=activation, norm=norm, pre_norm=pre_norm, rotary=positions == "rotary",
            merge_qkv=merge_qkv, merge_gate=merge_gate, memory_length=None, memory_cached=False,
            cross_attention=False, dtype=dtype, weight_dtype=weight_dtype, activation_dtype=activation_dtype,
            layer=layer, name=name, latent=latent, experts=mixture,
        )  # fmt: skip

    blocks = [block("dense block", None) * dense_layers] if dense_layers else []
    blocks.append(block("block", mixture) * (layers - dense_layers))
    head = head_rows(
        rows if logits == "all" else batch, vocabulary, hidden, norm=norm if pre_norm else None, normed=rows,
        bias=bias, tied=tied, logits=logits != "none", layer="head", types=types,
    )  # fmt: skip
    parts = [part(embedded, name), *blocks]
    parts += [part(head, name)] if head else []
    parts += [part(_pooler_rows(batch, hidden, types), name)] if pooler else []
    return concatenate(parts, name=name).replace(sequences=batch, tokens=new)


def _mixture(
    where: str, layers: int, experts: int | None, inner: int, shared_experts: int, dense_layers: int, *,
    experts_per_token: int | None, expert_inner: int | None,
) -> Experts | None:  # fmt: skip
    """Checked sizes of the experts, None where there are none."""
    check_counts(where, 0, shared_experts=shared_experts, dense_layers=dense_layers)
    if experts is None:
        numbers = {"shared_experts": shared_experts or None, "dense_layers": dense_layers or None}
        refuse_without(where, "experts", expert_inner=expert_inner, experts_per_token=experts_per_token, **numbers)
        return None
    if dense_layers >= layers:
        raise TraceError(f"{where}: dense_layers must be fewer than the {layers} layers, got {dense_layers}")
    if expert_inner is not None:
        check_counts(where, expert_inner=expert_inner)
        inner = expert_inner
    return checked_experts(where, experts, experts_per_token, inner, shared_experts)


def _pooler_rows(batch: int, hidden: int, types: Types) -> list[dict]:
    settings = {"types": types, "layer": "pooler"}
    return series([[
        linear.row(batch, hidden, hidden, op="pooler projection", **settings),
        elementwise.row(batch * hidden, "tanh", op="activation", **settings),
    ]])  # fmt: skip
