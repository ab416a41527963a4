"""Parts of transformers: encoder and decoder blocks, what embeds tokens before them and what follows them."""

from __future__ import annotations

from collections.abc import Mapping

from workloads.attention import checked_heads
from workloads.blocks import (
    ACTIVATIONS,
    NORMS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    embedding,
    normalisation,
    plain_integers,
    series,
    vocabulary_projection,
)
from workloads.experts import Experts, expert_rows
from workloads.feed_forward import mlp_rows
from workloads.latent_attention import LatentHeads, checked_latent_heads
from workloads.trace import Trace, TraceError

MODES = ("prefill", "decode")
POSITIONS = ("learned", "sinusoidal", "rotary", "none")
LOGITS = ("all", "last", "none")


def block_of_parts(
    where: str,
    hidden: int,
    heads: int,
    inner: int | None,
    *,
    memory_length: int | None,
    memory_cached: bool,
    cross_attention: bool,
    gated: bool,
    activation: str,
    norm: str,
    pre_norm: bool,
    merge_gate: bool,
    dtype: str,
    weight_dtype: str | None,
    activation_dtype: str | None,
    layer: str,
    name: str,
    latent: Mapping | None = None,
    experts: Experts | None = None,
    **sizes,
) -> Trace:
    """Sublayers (attention, cross attention, mlp or experts), each with a norm and a residual add.

    `latent`: arguments of `checked_latent_heads` that make the attention a latent one.
    """
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    check_choice(where, "activation", activation, ACTIVATIONS)
    check_choice(where, "norm", norm, NORMS)
    check_flags(where, gated=gated, pre_norm=pre_norm, merge_gate=merge_gate)
    settings = {"types": types, "layer": layer}
    if latent is None:
        own = checked_heads(where, hidden, heads, **settings, **sizes)
    else:
        own = _latent_heads(where, hidden, heads, latent, **settings, **sizes)
    inner = 4 * hidden if inner is None else inner
    check_counts(where, inner=inner)
    bias, rows = own.bias, own.queries
    parts = [own.rows()]
    if cross_attention:
        shared = {"kv_heads": own.kv_heads, "head_dim": own.head_dim, "fused": own.fused, "bias": bias}
        cross = checked_heads(
            where, hidden, heads, sequence_length=own.sequence_length, batch=own.batch, cache=own.cache,
            merge_qkv=own.merge_qkv, memory_length=memory_length, memory_cached=memory_cached,
            layer=layer, types=types, **shared,
        )  # fmt: skip
        parts.append([row | {"op": f"cross {row['op']}"} for row in cross.rows()])
    if experts is None:
        parts.append(mlp_rows(rows, hidden, inner, gated, activation, bias, merge_gate, layer, types))
    else:
        parts.append(expert_rows(rows, hidden, experts, gated, activation, bias, merge_gate, layer, types))
    norms = [normalisation.row(rows, hidden, norm=norm, bias=bias, **settings)]
    add = [elementwise.row(rows * hidden, "residual add", **settings)]
    sublayers = []
    for part in parts:
        sublayers += [norms, part, add] if pre_norm else [part, add, norms]
    return Trace.from_rows(series(sublayers), name=name, sequences=own.batch, tokens=own.sequence_length, source=where)


def _latent_heads(
    where: str, hidden: int, heads: int, latent: Mapping, *, kv_heads: int | None, merge_qkv: bool, skip_masked: bool,
    rotary: bool, **sizes,
) -> LatentHeads:  # fmt: skip
    """Latent attention knows no key heads; its projections are what they are, and it rotates a part of its own."""
    if kv_heads is not None:
        raise TraceError(f"{where}: kv_heads must not be given with latent_size, got {kv_heads}")
    return checked_latent_heads(where, hidden, heads, **latent, **sizes)


@plain_integers
def encoder_block(
    hidden: int,
    heads: int,
    inner: int | None = None,
    *,
    sequence_length: int,
    batch: int = 1,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    causal: bool = False,
    fused: bool = True,
    bias: bool = True,
    gated: bool = False,
    activation: str = "gelu",
    norm: str = "layer",
    pre_norm: bool = False,
    rotary: bool = False,
    merge_qkv: bool = True,
    merge_gate: bool = True,
    skip_masked: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "encoder",
    name: str = "encoder block",
) -> Trace:
    """Self attention and MLP, each with a norm and a residual add (Vaswani et al. 2017, section 3.1).

    `inner` defaults to 4 hidden. `pre_norm`: each part normalises its input (Xiong et al. 2020), else
    the sum after it. `norm`: "layer" or "rms". See `attention` and `mlp` for the other arguments and the errors.
    """
    return block_of_parts(
        "encoder_block", hidden, heads, inner, sequence_length=sequence_length, batch=batch,
        kv_heads=kv_heads, head_dim=head_dim, causal=causal, fused=fused, bias=bias, gated=gated,
        activation=activation, norm=norm, pre_norm=pre_norm, rotary=rotary, merge_qkv=merge_qkv,
        merge_gate=merge_gate, skip_masked=skip_masked, memory_length=None, memory_cached=False,
        cross_attention=False, dtype=dtype, weight_dtype=weight_dtype, activation_dtype=activation_dtype,
        layer=layer, name=name,
    )  # fmt: skip


@plain_integers
def decoder_block(
    hidden: int,
    heads: int,
    inner: int | None = None,
    *,
    sequence_length: int,
    batch: int = 1,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    cache_length: int = 0,
    cache: bool | None = None,
    memory_length: int | None = None,
    memory_cached: bool = False,
    fused: bool = True,
    bias: bool = True,
    gated: bool = False,
    activation: str = "gelu",
    norm: str = "layer",
    pre_norm: bool = True,
    rotary: bool = False,
    merge_qkv: bool = True,
    merge_gate: bool = True,
    skip_masked: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "decoder",
    name: str = "decoder block",
) -> Trace:
    """Causal self attention, cross attention where `memory_length` is given, and MLP.

    Each part has a norm and a residual add. With `memory_cached` the keys and values of the other
    sequence come from a cache. See `encoder_block`, `attention` and `mlp` for the arguments and the errors.
    """
    return block_of_parts(
        "decoder_block", hidden, heads, inner, sequence_length=sequence_length, batch=batch,
        kv_heads=kv_heads, head_dim=head_dim, causal=True, fused=fused, cache_length=cache_length,
        cache=cache, bias=bias, gated=gated, activation=activation, norm=norm, pre_norm=pre_norm,
        rotary=rotary, merge_qkv=merge_qkv, merge_gate=merge_gate, skip_masked=skip_masked,
        memory_length=memory_length, memory_cached=memory_cached, cross_attention=memory_length is not None,
        dtype=dtype, weight_dtype=weight_dtype, activation_dtype=activation_dtype, layer=layer, name=name,
    )  # fmt: skip


# -- before and after the blocks -----------------------------------------------------------------------


def embedding_rows(
    where: str, rows: int, length: int, last: int, vocabulary: int, hidden: int, *,
    positions: str | None, max_positions: int | None, segments: int, norm: str | None, bias: bool,
    owns_table: bool, layer: str, types: Types,
) -> list[dict]:  # fmt: skip
    """Look up tokens, add positions and segments, normalise.

    `length` positions a sequence are added, the last of them number `last` (counted from 1).
    """
    settings = {"types": types, "layer": layer}
    tokens = embedding.row(rows, vocabulary, hidden, **settings)
    table = [tokens if owns_table else tokens | {"parameters": 0}]
    check_counts(where, max_positions=max_positions)
    if positions == "learned":
        if last > max_positions:
            raise TraceError(
                f"{where}: sequence_length: {last} positions are asked for, max_positions is {max_positions}"
            )
        table.append(_added_table("position add", rows, length, max_positions, hidden, types, layer))
    elif positions == "sinusoidal":
        table.append(_added_table("position add", rows, length, length, hidden, types, layer) | {"parameters": 0})
    if segments:
        table.append(_added_table("segment add", rows, segments, segments, hidden, types, layer))
    if norm:
        table.append(normalisation.row(rows, hidden, norm=norm, bias=bias, **settings))
    return series([table])


def _added_table(op: str, rows: int, read: int, held: int, hidden: int, types: Types, layer: str) -> dict:
    """Add `read` rows of a table of `held` to `rows` rows of activations."""
    row = elementwise.row(rows * hidden, "bias add", types=types, layer=layer, op=op)
    return row | {"parameters": held * hidden, "weight_bytes": types.weights(min(read, rows) * hidden)}


def head_rows(
    rows: int, vocabulary: int, hidden: int, *, norm: str | None, normed: int, bias: bool, tied: bool,
    logits: bool, layer: str, types: Types,
) -> list[dict]:  # fmt: skip
    """Final norm of `normed` positions and logits of `rows` of them."""
    settings = {"types": types, "layer": layer}
    parts = [normalisation.row(normed, hidden, norm=norm, bias=bias, **settings)] if norm else []
    if logits:
        parts.append(vocabulary_projection.row(rows, vocabulary, hidden, tied=tied, **settings))
    return series([parts])


def new_positions(where: str, mode: str, sequence_length: int, cache_length: int | None) -> tuple[int, int]:
    """How many positions are processed and how many are in the cache."""
    check_choice(where, "mode", mode, MODES)
    check_counts(where, sequence_length=sequence_length)
    if cache_length is None:
        cache_length = sequence_length - 1 if mode == "decode" else 0
    check_counts(where, 0, cache_length=cache_length)
    return (1 if mode == "decode" else sequence_length), cache_length


def part(rows: list[dict], name: str) -> Trace:
    """Rows as a trace that joins others."""
    return Trace.from_rows(rows, name=name, source=name)
