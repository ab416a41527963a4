"""Attention: projections, scores, softmax, weighted sum; prefill and decode, self and cross, grouped heads.

One set of formulas serves all phases: `sequence_length` new positions are processed after
`cache_length` earlier ones. Prefill has no earlier ones, decode has one new one.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.attend import Attend
from workloads.blocks import (
    Types,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    plain_integers,
    series,
)
from workloads.trace import Trace, TraceError


def visible_pairs(queries: int, past: int = 0, causal: bool = True) -> int:
    """Query and key pairs that `queries` new positions see after `past` earlier ones.

    All queries (past + queries) pairs, or, causal, only keys up to the query's own position:
    queries past + queries (queries + 1) / 2.
    """
    if causal:
        return queries * past + queries * (queries + 1) // 2
    return queries * (past + queries)


@dataclass(frozen=True)
class Heads:
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

    def attend(self) -> list[dict]:
        """Scores, softmax and weighted sum: one row when fused, three when not."""
        queries = self.queries * self.heads * self.head_dim
        keys = self.batch * self.keys * self.kv_heads * self.head_dim
        kept = keys if self.keeps_keys else 0
        return Attend(
            layer=self.layer, types=self.types, products=self.batch * self.kv_heads,
            queries=self.sequence_length * self.group, keys=self.keys, pairs=self.batch * self.heads * self.pairs,
            key_size=self.head_dim, value_size=self.head_dim, query_elements=queries, key_elements=keys,
            value_elements=keys, output_elements=queries, cached=self.reads_cache, kept_keys=kept, kept_values=kept,
            reach=self.reach,
        ).rows(self.fused)  # fmt: skip

    def rows(self) -> list[dict]:
        """All rows, from the projections to the output projection."""
        features = self.heads * self.head_dim
        output = linear.row(
            self.queries, self.hidden, features, types=self.types, bias=self.bias, layer=self.layer,
            op="output projection",
        )  # fmt: skip
        return series([self.projections(), self.attend(), [output]])


def checked_heads(
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
) -> Heads:
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
    return Heads(
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
    chosen = checked_heads(
        "attention", hidden, heads, sequence_length=sequence_length, batch=batch, kv_heads=kv_heads,
        head_dim=head_dim, causal=causal, fused=fused, cache_length=cache_length, cache=cache,
        memory_length=memory_length, memory_cached=memory_cached, bias=bias, merge_qkv=merge_qkv,
        skip_masked=skip_masked, rotary=rotary, layer=layer, types=types,
    )  # fmt: skip
    return Trace.from_rows(chosen.rows(), name=name, sequences=batch, tokens=sequence_length, source="attention")
