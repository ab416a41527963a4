"""An encoder and a decoder that attends to it, with embeddings and head."""

from __future__ import annotations

from workloads.blocks import (
    NORMS,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    normalisation,
    plain_integers,
)
from workloads.trace import Trace, concatenate
from workloads.transformer_blocks import (
    LOGITS,
    POSITIONS,
    decoder_block,
    embedding_rows,
    encoder_block,
    head_rows,
    new_positions,
    part,
)


@plain_integers
def encoder_decoder(
    layers: int,
    hidden: int,
    heads: int,
    vocabulary: int,
    *,
    sequence_length: int,
    source_length: int | None = None,
    encoder_layers: int | None = None,
    batch: int = 1,
    mode: str = "prefill",
    cache_length: int | None = None,
    cache: bool | None = None,
    inner: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    gated: bool = False,
    activation: str = "relu",
    norm: str = "layer",
    pre_norm: bool = False,
    bias: bool = True,
    positions: str | None = "sinusoidal",
    max_positions: int | None = None,
    shared_embedding: bool = True,
    tied: bool = True,
    logits: str | None = "all",
    fused: bool = True,
    skip_masked: bool = True,
    merge_qkv: bool = True,
    merge_gate: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "encoder decoder",
) -> Trace:
    """An encoder of `source_length` positions and a decoder that attends to it (Vaswani et al. 2017).

    `layers` decoder blocks and `encoder_layers` (default as many) encoder blocks. `source_length`
    defaults to `sequence_length`, the length of the target. `shared_embedding`: source and target use
    one table. `mode` "prefill" runs the encoder and all target positions (as in training); "decode"
    one target position against caches of `cache_length` (default `sequence_length` - 1) earlier ones and
    of the source: the encoder and the source's keys and values are done before and are not part of the
    trace, nor are their parameters. The other arguments and the errors are those of `transformer`.
    """
    where = name
    check_counts(where, sequence_length=sequence_length)
    source = sequence_length if source_length is None else source_length
    encoders = layers if encoder_layers is None else encoder_layers
    check_counts(where, layers=layers, encoder_layers=encoders, hidden=hidden, heads=heads, vocabulary=vocabulary)
    check_counts(where, batch=batch, source_length=source)
    positions, logits = ("none" if choice is None else choice for choice in (positions, logits))
    check_choice(where, "positions", positions, POSITIONS)
    check_choice(where, "logits", logits, LOGITS)
    check_choice(where, "norm", norm, NORMS)
    check_flags(where, shared_embedding=shared_embedding, tied=tied)
    new, past = new_positions(where, mode, sequence_length, cache_length)
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    decode = mode == "decode"
    longest = max(source, past + new) if max_positions is None else max_positions
    shared = {
        "batch": batch, "kv_heads": kv_heads, "head_dim": head_dim, "fused": fused, "bias": bias, "gated": gated,
        "activation": activation, "norm": norm, "pre_norm": pre_norm, "rotary": positions == "rotary",
        "merge_qkv": merge_qkv, "merge_gate": merge_gate, "skip_masked": skip_masked,
        "dtype": dtype, "weight_dtype": weight_dtype, "activation_dtype": activation_dtype,
    }  # fmt: skip
    embeds = {"positions": positions, "max_positions": longest, "segments": 0, "norm": None, "bias": bias}
    final_norm = norm if pre_norm else None

    parts = []
    if not decode:
        rows = embedding_rows(
            where, batch * source, source, source, vocabulary, hidden, owns_table=True,
            layer="source embedding", types=types, **embeds,
        )  # fmt: skip
        parts.append(part(rows, name))
        encoder = encoder_block(hidden, heads, inner, sequence_length=source, layer="encoder", **shared)
        parts.append(encoder * encoders)
        if final_norm:
            rows = [normalisation.row(batch * source, hidden, norm=norm, bias=bias, types=types, layer="encoder norm")]
            parts.append(part(rows, name))
    rows = embedding_rows(
        where, batch * new, new, past + new, vocabulary, hidden, owns_table=decode or not shared_embedding,
        layer="target embedding", types=types, **embeds,
    )  # fmt: skip
    parts.append(part(rows, name))
    decoder = decoder_block(
        hidden, heads, inner, sequence_length=new, cache_length=past, cache=cache, memory_length=source,
        memory_cached=decode, layer="decoder", **shared,
    )  # fmt: skip
    parts.append(decoder * layers)
    head = head_rows(
        batch * new if logits == "all" else batch, vocabulary, hidden, norm=final_norm, normed=batch * new,
        bias=bias, tied=tied, logits=logits != "none", layer="head", types=types,
    )  # fmt: skip
    parts += [part(head, name)] if head else []
    return concatenate(parts, name=name).replace(sequences=batch, tokens=new)
