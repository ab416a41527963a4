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
    series,
)
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

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the argument:
    as `attention` does, unknown mode, norm, positions, activation or logits, decode or a cache without
    `causal`, more positions than `max_positions`.
    """
    where = name
    check_counts(where, layers=layers, hidden=hidden, heads=heads, vocabulary=vocabulary, batch=batch)
    check_counts(where, 0, segments=segments)
    positions, logits = positions or "none", logits or "none"
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
    block = block_of_parts(
        where, hidden, heads, inner, sequence_length=new, batch=batch, kv_heads=kv_heads, head_dim=head_dim,
        causal=causal, cache_length=past, cache=cache, fused=fused, skip_masked=skip_masked, bias=bias,
        gated=gated, activation=activation, norm=norm, pre_norm=pre_norm, rotary=positions == "rotary",
        merge_qkv=merge_qkv, merge_gate=merge_gate, memory_length=None, memory_cached=False,
        cross_attention=False, dtype=dtype, weight_dtype=weight_dtype, activation_dtype=activation_dtype,
        layer="block", name=name,
    )  # fmt: skip
    head = head_rows(
        rows if logits == "all" else batch, vocabulary, hidden, norm=norm if pre_norm else None, normed=rows,
        bias=bias, tied=tied, logits=logits != "none", layer="head", types=types,
    )  # fmt: skip
    parts = [part(embedded, name), block * layers]
    parts += [part(head, name)] if head else []
    parts += [part(_pooler_rows(batch, hidden, types), name)] if pooler else []
    return concatenate(parts, name=name).replace(sequences=batch, tokens=new)


def _pooler_rows(batch: int, hidden: int, types: Types) -> list[dict]:
    settings = {"types": types, "layer": "pooler"}
    return series([[
        linear.row(batch, hidden, hidden, op="pooler projection", **settings),
        elementwise.row(batch * hidden, "tanh", op="activation", **settings),
    ]])  # fmt: skip
