"""Attention networks: attention, MLP, encoder and decoder blocks, transformers; prefill and decode.

One set of formulas serves all phases: `sequence_length` new positions are processed after
`cache_length` earlier ones. Prefill has no earlier ones, decode has one new one.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    ACTIVATIONS,
    NORMS,
    OPERATIONS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    embedding,
    linear,
    matmul,
    normalisation,
    plain_integers,
    series,
    softmax,
    vocabulary_projection,
)
from workloads.trace import Trace, TraceError, concatenate

MODES = ("prefill", "decode")
POSITIONS = ("learned", "sinusoidal", "rotary", "none")
LOGITS = ("all", "last", "none")


def visible_pairs(queries: int, past: int = 0, causal: bool = True) -> int:
    """Query and key pairs that `queries` new positions see after `past` earlier ones.

    All queries (past + queries) pairs, or, causal, only keys up to the query's own position:
    queries past + queries (queries + 1) / 2.
    """
    if causal:
        return queries * past + queries * (queries + 1) // 2
    return queries * (past + queries)


# -- attention ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Heads:
    """The sizes of one attention and how it is run; see `attention` for the words."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    sequence_length: int
    batch: int
    causal: bool
    fused: bool
    cache_length: int
    cache: bool
    memory_length: int | None
    memory_cached: bool
    bias: bool
    merge_qkv: bool
    skip_masked: bool
    rotary: bool
    layer: str
    types: Types

    @property
    def queries(self) -> int:
        return self.batch * self.sequence_length

    @property
    def keys(self) -> int:
        """Keys each sequence attends to."""
        return self.memory_length or self.cache_length + self.sequence_length

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def pairs(self) -> int:
        """Query and key pairs of one head and sequence that are computed."""
        if self.memory_length:
            return self.sequence_length * self.memory_length
        masked = self.causal and (self.fused or self.skip_masked)
        return visible_pairs(self.sequence_length, self.cache_length, masked)

    @property
    def reads_cache(self) -> bool:
        return self.memory_cached or (self.memory_length is None and self.cache_length > 0)

    @property
    def keeps_keys(self) -> bool:
        """Whether keys and values stay in memory for later queries."""
        return self.cache or self.reads_cache

    @property
    def reach(self) -> dict[str, int]:
        if self.memory_length:  # the keys belong to another sequence
            return {}
        ahead = 0 if self.causal else self.sequence_length - 1
        return {"reach_back": self.keys - 1, "reach_ahead": ahead}

    # -- projections -----------------------------------------------------------------------------

    def _projection(self, op: str, rows: int, heads: int) -> dict:
        """A product that makes `heads` heads of `rows` positions."""
        return linear.row(
            rows, heads * self.head_dim, self.hidden, types=self.types, bias=self.bias, layer=self.layer, op=op
        )

    def projections(self) -> list[dict]:
        """Queries, keys and values, and the rotation of queries and keys."""
        if self.memory_length is None:
            rows = self._self_projections()
            return rows + self._rotation(rows) if self.rotary else rows
        memory = self.batch * self.memory_length
        rows = [self._projection("query projection", self.queries, self.heads) | {"after": ()}]
        if self.memory_cached:
            return rows
        if self.merge_qkv:
            return [*rows, self._projection("key value projection", memory, 2 * self.kv_heads) | {"after": ()}]
        keys_values = ("key projection", "value projection")
        return rows + [self._projection(op, memory, self.kv_heads) | {"after": ()} for op in keys_values]

    def _self_projections(self) -> list[dict]:
        if self.merge_qkv:
            return [self._projection("query key value projection", self.queries, self.heads + 2 * self.kv_heads)]
        return [
            self._projection(op, self.queries, heads) | {"after": ()}
            for op, heads in (
                ("query projection", self.heads),
                ("key projection", self.kv_heads),
                ("value projection", self.kv_heads),
            )
        ]

    def _rotation(self, projections: list[dict]) -> list[dict]:
        elements = self.queries * (self.heads + self.kv_heads) * self.head_dim
        row = elementwise.row(elements, "rotary", types=self.types, layer=self.layer, op="rotary positions")
        return [row | {"after": tuple(range(len(projections)))[:2]}]  # of the queries and keys

    # -- the attention itself --------------------------------------------------------------------

    def attend(self) -> list[dict]:
        """Scores, softmax and weighted sum: one row when fused, three when not."""
        return [self._fused()] if self.fused else self._unfused()

    @property
    def _query_bytes(self) -> int:
        return self.types.activations(self.queries * self.heads * self.head_dim)

    @property
    def _key_bytes(self) -> int:
        """Bytes of all keys; the values are as many."""
        return self.types.activations(self.batch * self.keys * self.kv_heads * self.head_dim)

    def _keys_and_values(self, tensors: int) -> dict[str, int]:
        """How `tensors` (keys, values or both) are read and whether they stay: columns of a row."""
        size = tensors * self._key_bytes
        return {
            "cache_bytes": size if self.reads_cache else 0,
            "saved_bytes": size if self.keeps_keys else 0,
        }

    def _read(self, streamed: int, tensors: int) -> int:
        """Input bytes: what is streamed, and keys and values that do not come from a cache."""
        return streamed + (0 if self.reads_cache else tensors * self._key_bytes)

    def _fused(self) -> dict:
        softmaxed, cost = self.batch * self.heads * self.pairs, OPERATIONS["softmax"]
        return {
            "layer": self.layer,
            "op": "attention",
            "kind": "attention",
            "batch": self.batch * self.kv_heads,
            "m": self.sequence_length * self.group,
            "n": 2 * self.head_dim,
            "k": self.keys,
            "matrix_flops": 4 * self.batch * self.heads * self.pairs * self.head_dim,
            "vector_flops": cost.vector * softmaxed,
            "special_ops": cost.special * softmaxed,
            "input_bytes": self._read(self._query_bytes, 2),
            "output_bytes": self._query_bytes,
            **self._keys_and_values(2),
            **self.reach,
            **self.types.columns,
        }

    def _unfused(self) -> list[dict]:
        """Three rows; the scores are written, normalised in memory and read back."""
        batch, rows = self.batch * self.kv_heads, self.sequence_length * self.group
        computed = self.batch * self.heads * self.pairs
        score_bytes = self.types.activations(computed)
        flops = {"matrix_flops": 2 * computed * self.head_dim}
        settings = {"types": self.types, "layer": self.layer}
        scores = matmul.row(rows, self.keys, self.head_dim, batch=batch, op="scores", **settings)
        context = matmul.row(rows, self.head_dim, self.keys, batch=batch, op="context", **settings)
        scores |= {"input_bytes": self._read(self._query_bytes, 1), "output_bytes": score_bytes}
        context |= {"input_bytes": self._read(score_bytes, 1), "output_bytes": self._query_bytes}
        return [
            scores | flops | self._keys_and_values(1),
            softmax.row(computed, 1, **settings),  # counts are by value; rows differ in length where masked
            context | flops | self._keys_and_values(1) | self.reach,
        ]

    def rows(self) -> list[dict]:
        """All rows, from the projections to the output projection."""
        features = self.heads * self.head_dim
        output = linear.row(
            self.queries, self.hidden, features, types=self.types, bias=self.bias, layer=self.layer,
            op="output projection",
        )  # fmt: skip
        return series([self.projections(), self.attend(), [output]])


def _heads(
    where: str,
    hidden: int,
    heads: int,
    *,
    sequence_length: int,
    batch: int = 1,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    causal: bool = False,
    fused: bool = True,
    cache_length: int = 0,
    cache: bool | None = None,
    memory_length: int | None = None,
    memory_cached: bool = False,
    bias: bool = True,
    merge_qkv: bool = True,
    skip_masked: bool = True,
    rotary: bool = False,
    layer: str,
    types: Types,
) -> _Heads:
    """Checked sizes of one attention, defaults filled in."""
    check_counts(where, hidden=hidden, heads=heads, sequence_length=sequence_length, batch=batch)
    check_counts(where, 0, cache_length=cache_length)
    cache = cache_length > 0 if cache is None else cache
    check_flags(where, causal=causal, fused=fused, cache=cache, memory_cached=memory_cached)
    check_flags(where, bias=bias, merge_qkv=merge_qkv, skip_masked=skip_masked, rotary=rotary)
    if head_dim is None and hidden % heads:
        raise TraceError(f"{where}: heads must divide hidden ({hidden}) unless head_dim is given, got {heads}")
    head_dim = hidden // heads if head_dim is None else head_dim
    kv_heads = heads if kv_heads is None else kv_heads
    check_counts(where, kv_heads=kv_heads, head_dim=head_dim)
    if heads % kv_heads:
        raise TraceError(f"{where}: kv_heads must divide heads ({heads}), got {kv_heads}")
    if memory_length is None:
        if memory_cached:
            raise TraceError(f"{where}: memory_cached needs memory_length")
    else:
        check_counts(where, memory_length=memory_length)
        for name, value in (("causal", causal), ("rotary", rotary)):
            if value:
                raise TraceError(f"{where}: {name} must be False where memory_length is given (cross attention)")
        if cache_length:
            raise TraceError(f"{where}: cache_length must be 0 where memory_length is given, got {cache_length}")
    return _Heads(
        hidden, heads, kv_heads, head_dim, sequence_length, batch, causal, fused, cache_length, cache,
        memory_length, memory_cached, bias, merge_qkv, skip_masked, rotary, layer, types,
    )  # fmt: skip


@plain_integers
def attention(
    hidden: int,
    heads: int,
    *,
    sequence_length: int,
    batch: int = 1,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    causal: bool = False,
    fused: bool = True,
    cache_length: int = 0,
    cache: bool | None = None,
    memory_length: int | None = None,
    memory_cached: bool = False,
    bias: bool = True,
    merge_qkv: bool = True,
    skip_masked: bool = True,
    rotary: bool = False,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "attention",
    name: str = "attention",
) -> Trace:
    """Attention with its four projections (Vaswani et al. 2017, section 3.2).

    `sequence_length` new positions of `batch` sequences with `hidden` features. `heads` query heads of
    `head_dim` (default hidden / heads) share `kv_heads` key and value heads (default: as many; 1:
    multi-query, Shazeer 2019; between: grouped, Ainslie et al. 2023).

    `cache_length`: earlier positions whose keys and values are read from a cache (decode, chunked
    prefill). `cache`: keep the keys and values for later (default: when there is a cache); they are
    held memory (`saved_bytes`) of the attention. `memory_length`: attend to so many positions of another sequence
    instead (cross attention); `memory_cached`: its keys and values were made before.

    `causal`: no position sees a later one; only visible pairs are computed. `fused`: scores never
    leave the chip (Dao et al. 2022), one row of kind "attention"; else three rows, scores written and read back.
    `skip_masked`: False lets an unfused causal attention compute and store the whole square, as plain
    library calls do. `merge_qkv`: queries, keys and values in one product. `rotary`: rotate queries and
    keys (Su et al. 2021).

    Returns a trace with `sequences` = batch, `tokens` = sequence_length. Raises `TraceError` naming
    the argument: a size that is not a positive whole number, an unknown element type, heads that do not divide
    hidden, kv_heads that do not divide heads, `causal`, `rotary` or `cache_length` with `memory_length`.
    """
    types = element_types("attention", dtype, weight_dtype, activation_dtype)
    chosen = _heads(
        "attention", hidden, heads, sequence_length=sequence_length, batch=batch, kv_heads=kv_heads,
        head_dim=head_dim, causal=causal, fused=fused, cache_length=cache_length, cache=cache,
        memory_length=memory_length, memory_cached=memory_cached, bias=bias, merge_qkv=merge_qkv,
        skip_masked=skip_masked, rotary=rotary, layer=layer, types=types,
    )  # fmt: skip
    return Trace.from_rows(chosen.rows(), name=name, sequences=batch, tokens=sequence_length, source="attention")


# -- mlp ---------------------------------------------------------------------------------------------


def _mlp_rows(
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
    rows = _mlp_rows(batch * sequence_length, hidden, inner, gated, activation, bias, merge_gate, layer, types)
    return Trace.from_rows(rows, name=name, sequences=batch, tokens=sequence_length, source="mlp")


# -- blocks ------------------------------------------------------------------------------------------


def _block(
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
    **sizes,
) -> Trace:
    """Sublayers (attention, cross attention, mlp), each with a norm and a residual add."""
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    check_choice(where, "activation", activation, ACTIVATIONS)
    check_choice(where, "norm", norm, NORMS)
    check_flags(where, gated=gated, pre_norm=pre_norm, merge_gate=merge_gate)
    own = _heads(where, hidden, heads, layer=layer, types=types, **sizes)
    inner = 4 * hidden if inner is None else inner
    check_counts(where, inner=inner)
    bias, rows = own.bias, own.queries
    parts = [own.rows()]
    if cross_attention:
        shared = {"kv_heads": own.kv_heads, "head_dim": own.head_dim, "fused": own.fused, "bias": bias}
        cross = _heads(
            where, hidden, heads, sequence_length=own.sequence_length, batch=own.batch, cache=own.cache,
            merge_qkv=own.merge_qkv, memory_length=memory_length, memory_cached=memory_cached,
            layer=layer, types=types, **shared,
        )  # fmt: skip
        parts.append([row | {"op": f"cross {row['op']}"} for row in cross.rows()])
    parts.append(_mlp_rows(rows, hidden, inner, gated, activation, bias, merge_gate, layer, types))

    settings = {"types": types, "layer": layer}
    norms = [normalisation.row(rows, hidden, norm=norm, bias=bias, **settings)]
    add = [elementwise.row(rows * hidden, "residual add", **settings)]
    sublayers = []
    for part in parts:
        sublayers += [norms, part, add] if pre_norm else [part, add, norms]
    return Trace.from_rows(series(sublayers), name=name, sequences=own.batch, tokens=own.sequence_length, source=where)


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
    return _block(
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
    return _block(
        "decoder_block", hidden, heads, inner, sequence_length=sequence_length, batch=batch,
        kv_heads=kv_heads, head_dim=head_dim, causal=True, fused=fused, cache_length=cache_length,
        cache=cache, bias=bias, gated=gated, activation=activation, norm=norm, pre_norm=pre_norm,
        rotary=rotary, merge_qkv=merge_qkv, merge_gate=merge_gate, skip_masked=skip_masked,
        memory_length=memory_length, memory_cached=memory_cached, cross_attention=memory_length is not None,
        dtype=dtype, weight_dtype=weight_dtype, activation_dtype=activation_dtype, layer=layer, name=name,
    )  # fmt: skip


# -- whole networks ----------------------------------------------------------------------------------


def _embedding_rows(
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
    if positions == "learned":
        check_counts(where, max_positions=max_positions)
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


def _head_rows(
    rows: int, vocabulary: int, hidden: int, *, norm: str | None, normed: int, bias: bool, tied: bool,
    logits: bool, layer: str, types: Types,
) -> list[dict]:  # fmt: skip
    """Final norm of `normed` positions and logits of `rows` of them."""
    settings = {"types": types, "layer": layer}
    parts = [normalisation.row(normed, hidden, norm=norm, bias=bias, **settings)] if norm else []
    if logits:
        parts.append(vocabulary_projection.row(rows, vocabulary, hidden, tied=tied, **settings))
    return series([parts])


def _new_positions(where: str, mode: str, sequence_length: int, cache_length: int | None) -> tuple[int, int]:
    """How many positions are processed and how many are in the cache."""
    check_choice(where, "mode", mode, MODES)
    check_counts(where, sequence_length=sequence_length)
    if cache_length is None:
        cache_length = sequence_length - 1 if mode == "decode" else 0
    check_counts(where, 0, cache_length=cache_length)
    return (1 if mode == "decode" else sequence_length), cache_length


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
    new, past = _new_positions(where, mode, sequence_length, cache_length)
    if past and not causal:
        field = "mode 'decode'" if mode == "decode" else f"cache_length {past}"
        raise TraceError(f"{where}: {field} needs causal=True: an encoder sees all positions at once")
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    rows = batch * new
    embedded = _embedding_rows(
        where, rows, new, past + new, vocabulary, hidden, positions=positions,
        max_positions=past + new if max_positions is None else max_positions, segments=segments,
        norm=norm if embedding_norm else None, bias=bias, owns_table=True, layer="embedding", types=types,
    )  # fmt: skip
    block = _block(
        where, hidden, heads, inner, sequence_length=new, batch=batch, kv_heads=kv_heads, head_dim=head_dim,
        causal=causal, cache_length=past, cache=cache, fused=fused, skip_masked=skip_masked, bias=bias,
        gated=gated, activation=activation, norm=norm, pre_norm=pre_norm, rotary=positions == "rotary",
        merge_qkv=merge_qkv, merge_gate=merge_gate, memory_length=None, memory_cached=False,
        cross_attention=False, dtype=dtype, weight_dtype=weight_dtype, activation_dtype=activation_dtype,
        layer="block", name=name,
    )  # fmt: skip
    head = _head_rows(
        rows if logits == "all" else batch, vocabulary, hidden, norm=norm if pre_norm else None, normed=rows,
        bias=bias, tied=tied, logits=logits != "none", layer="head", types=types,
    )  # fmt: skip
    parts = [_part(embedded, name), block * layers]
    parts += [_part(head, name)] if head else []
    parts += [_part(_pooler_rows(batch, hidden, types), name)] if pooler else []
    return concatenate(parts, name=name).replace(sequences=batch, tokens=new)


def _part(rows: list[dict], name: str) -> Trace:
    return Trace.from_rows(rows, name=name, source=name)


def _pooler_rows(batch: int, hidden: int, types: Types) -> list[dict]:
    settings = {"types": types, "layer": "pooler"}
    return series([[
        linear.row(batch, hidden, hidden, op="pooler projection", **settings),
        elementwise.row(batch * hidden, "tanh", op="activation", **settings),
    ]])  # fmt: skip


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
    source = sequence_length if source_length is None else source_length
    encoders = layers if encoder_layers is None else encoder_layers
    check_counts(where, layers=layers, encoder_layers=encoders, hidden=hidden, heads=heads, vocabulary=vocabulary)
    check_counts(where, batch=batch, source_length=source)
    positions, logits = positions or "none", logits or "none"
    check_choice(where, "positions", positions, POSITIONS)
    check_choice(where, "logits", logits, LOGITS)
    check_choice(where, "norm", norm, NORMS)
    check_flags(where, shared_embedding=shared_embedding, tied=tied)
    new, past = _new_positions(where, mode, sequence_length, cache_length)
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
        rows = _embedding_rows(
            where, batch * source, source, source, vocabulary, hidden, owns_table=True,
            layer="source embedding", types=types, **embeds,
        )  # fmt: skip
        parts.append(_part(rows, name))
        encoder = encoder_block(hidden, heads, inner, sequence_length=source, layer="encoder", **shared)
        parts.append(encoder * encoders)
        if final_norm:
            rows = [normalisation.row(batch * source, hidden, norm=norm, bias=bias, types=types, layer="encoder norm")]
            parts.append(_part(rows, name))
    rows = _embedding_rows(
        where, batch * new, new, past + new, vocabulary, hidden, owns_table=decode or not shared_embedding,
        layer="target embedding", types=types, **embeds,
    )  # fmt: skip
    parts.append(_part(rows, name))
    decoder = decoder_block(
        hidden, heads, inner, sequence_length=new, cache_length=past, cache=cache, memory_length=source,
        memory_cached=decode, layer="decoder", **shared,
    )  # fmt: skip
    parts.append(decoder * layers)
    head = _head_rows(
        batch * new if logits == "all" else batch, vocabulary, hidden, norm=final_norm, normed=batch * new,
        bias=bias, tied=tied, logits=logits != "none", layer="head", types=types,
    )  # fmt: skip
    parts += [_part(head, name)] if head else []
    return concatenate(parts, name=name).replace(sequences=batch, tokens=new)
