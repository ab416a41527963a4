"""Multi-head latent attention: keys and values from a low-rank latent, which alone is cached (DeepSeek-V2).

DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model", arXiv:2405.04434
(2024), section 2.1 and appendix C. Each position leaves a latent of d_c features, shared by all heads, and one rotary
key of d_r: d_c + d_r cached elements a layer, where multi-head attention keeps 2 heads head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.attend import Attend
from workloads.attention import visible_pairs
from workloads.blocks import (
    Types,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    normalisation,
    plain_integers,
    series,
)
from workloads.trace import Trace, TraceError


@dataclass(frozen=True)
class LatentHeads:
    """The sizes of one latent attention and how it is run; see `latent_attention` for the words."""

    hidden: int
    heads: int
    latent_size: int
    query_latent_size: int | None
    head_dim: int
    rotary_dim: int
    value_dim: int
    sequence_length: int
    batch: int
    causal: bool
    fused: bool
    cache_length: int
    cache: bool
    absorbed: bool
    bias: bool
    layer: str
    types: Types

    @property
    def queries(self) -> int:
        return self.batch * self.sequence_length

    @property
    def keys(self) -> int:
        return self.cache_length + self.sequence_length

    @property
    def cached_elements(self) -> int:
        """Latents and rotary keys of all positions."""
        return self.batch * self.keys * (self.latent_size + self.rotary_dim)

    def _linear(self, op: str, rows: int, columns: int, terms: int, bias: bool = False, batch: int = 1) -> dict:
        return linear.row(rows, columns, terms, batch=batch, bias=bias, layer=self.layer, op=op, types=self.types)

    def _norm(self, op: str, features: int) -> dict:
        return normalisation.row(self.queries, features, norm="rms", layer=self.layer, op=op, types=self.types)

    # -- rows ------------------------------------------------------------------------------------

    def projections(self) -> list[list[dict]]:
        """Parts that make the queries and, beside them, latent and rotary key of the new positions."""
        made = self.heads * (self.head_dim + self.rotary_dim)
        if self.query_latent_size is None:
            query = [self._linear("query projection", self.queries, made, self.hidden)]
        else:
            query = [
                self._linear("query down projection", self.queries, self.query_latent_size, self.hidden, self.bias),
                self._norm("query latent norm", self.query_latent_size),
                self._linear("query up projection", self.queries, made, self.query_latent_size),
            ]
        compressed = self.latent_size + self.rotary_dim
        down = self._linear("key value down projection", self.queries, compressed, self.hidden, self.bias)
        part = [*query, down | {"after": ()}, self._norm("latent norm", self.latent_size)]
        return [part, *self._rotation()]

    def _rotation(self) -> list[list[dict]]:
        """Only the decoupled parts are rotated: one of each query head, one key."""
        if not self.rotary_dim:
            return []
        elements = self.queries * (self.heads + 1) * self.rotary_dim
        return [[elementwise.row(elements, "rotary", layer=self.layer, op="rotary positions", types=self.types)]]

    def _shared(self) -> dict:
        back, ahead = self.keys - 1, 0 if self.causal else self.sequence_length - 1
        return {
            "layer": self.layer,
            "types": self.types,
            "keys": self.keys,
            "pairs": self.batch * self.heads * visible_pairs(self.sequence_length, self.cache_length, self.causal),
            "kept_keys": self.cached_elements if self.cache else 0,
            "reach": {"reach_back": back, "reach_ahead": ahead},
        }

    def _expanded(self) -> list[list[dict]]:
        """Keys and values of every head are made from the latents: many queries share the work."""
        positions, size = self.batch * self.keys, self.head_dim + self.value_dim
        up = self._linear("key value up projection", positions, self.heads * size, self.latent_size)
        if self.cache_length:  # the latents come from the cache, those of the new positions included
            up |= {"cache_bytes": self.types.activations(self.cached_elements), "input_bytes": 0}
        attend = Attend(
            products=self.batch * self.heads, queries=self.sequence_length,
            key_size=self.head_dim + self.rotary_dim, value_size=self.value_dim,
            query_elements=self.queries * self.heads * (self.head_dim + self.rotary_dim),
            key_elements=positions * (self.heads * self.head_dim + self.rotary_dim),
            value_elements=positions * self.heads * self.value_dim,
            output_elements=self.queries * self.heads * self.value_dim, **self._shared(),
        )  # fmt: skip
        return [[up], attend.rows(self.fused)]

    def _absorbed(self) -> list[list[dict]]:
        """Queries are taken to the latents and sums of latents to values: no key or value is made."""
        query = self._linear("query absorption", self.queries, self.latent_size, self.head_dim, batch=self.heads)
        value = self._linear("value up projection", self.queries, self.value_dim, self.latent_size, batch=self.heads)
        size = self.latent_size + self.rotary_dim
        attend = Attend(
            products=self.batch, queries=self.sequence_length * self.heads, key_size=size,
            value_size=self.latent_size, query_elements=self.queries * self.heads * size,
            key_elements=self.cached_elements, value_elements=self.batch * self.keys * self.latent_size,
            output_elements=self.queries * self.heads * self.latent_size, shared_values=True,
            cached=self.cache_length > 0, **self._shared(),
        )  # fmt: skip
        return [[query], attend.rows(self.fused), [value]]

    def rows(self) -> list[dict]:
        """All rows, from the projections to the output projection."""
        inside = self._absorbed() if self.absorbed else self._expanded()
        features = self.heads * self.value_dim
        output = self._linear("output projection", self.queries, self.hidden, features, self.bias)
        return series([*self.projections(), *inside, [output]])


def checked_latent_heads(
    where: str,
    hidden: int,
    heads: int,
    *,
    latent_size: int,
    sequence_length: int,
    batch: int = 1,
    query_latent_size: int | None = None,
    head_dim: int | None = None,
    rotary_dim: int = 64,
    value_dim: int | None = None,
    causal: bool = True,
    fused: bool = True,
    cache_length: int = 0,
    cache: bool | None = None,
    absorbed: bool | None = None,
    bias: bool = False,
    layer: str,
    types: Types,
) -> LatentHeads:
    """Checked sizes of one latent attention, defaults filled in."""
    check_counts(where, hidden=hidden, heads=heads, latent_size=latent_size, sequence_length=sequence_length)
    check_counts(where, batch=batch)
    check_counts(where, 0, cache_length=cache_length, rotary_dim=rotary_dim)
    if query_latent_size is not None:
        check_counts(where, query_latent_size=query_latent_size)
    cache = cache_length > 0 if cache is None else cache
    absorbed = cache_length > 0 if absorbed is None else absorbed
    check_flags(where, causal=causal, fused=fused, cache=cache, absorbed=absorbed, bias=bias)
    if head_dim is None and hidden % heads:
        raise TraceError(f"{where}: heads must divide hidden ({hidden}) unless head_dim is given, got {heads}")
    head_dim = hidden // heads if head_dim is None else head_dim
    value_dim = head_dim if value_dim is None else value_dim
    check_counts(where, head_dim=head_dim, value_dim=value_dim)
    return LatentHeads(
        hidden, heads, latent_size, query_latent_size, head_dim, rotary_dim, value_dim, sequence_length, batch, causal,
        fused, cache_length, cache or cache_length > 0, absorbed, bias, layer, types,
    )  # fmt: skip


@plain_integers
def latent_attention(
    hidden: int,
    heads: int,
    *,
    latent_size: int,
    sequence_length: int,
    batch: int = 1,
    query_latent_size: int | None = None,
    head_dim: int | None = None,
    rotary_dim: int = 64,
    value_dim: int | None = None,
    causal: bool = True,
    fused: bool = True,
    cache_length: int = 0,
    cache: bool | None = None,
    absorbed: bool | None = None,
    bias: bool = False,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "attention",
    name: str = "latent attention",
) -> Trace:
    """Multi-head latent attention with its projections (DeepSeek-AI 2024, section 2.1).

    `latent_size`: features of the latent from which keys and values are made; `query_latent_size`: queries also come
    from a latent of so many (None: straight from `hidden`). `head_dim` (default hidden / heads): features of a head
    without rotation; `rotary_dim`: rotated features beside them, of each query head and of one key that all heads
    share; `value_dim` (default head_dim). Each latent is normalised (rms). `cache_length`: earlier positions, of which
    a cache holds latent and rotary key; `cache`: keep those (default: when there is a cache).

    `absorbed`: each query head is multiplied into the latent space and the sum of latents out of it, so attention is
    over one shared key of latent_size + rotary_dim features and reads the cache once for all heads (default: when there
    is a cache, as for decode); False makes keys and values of every head of every position (prefill, training). Work
    differs, parameters do not. `fused`, `bias` (of the down and output projections) as in `attention`.

    Returns a trace with `sequences` = batch, `tokens` = sequence_length. Raises `TraceError` naming the argument: a
    size that is not a positive whole number, heads that do not divide hidden, an unknown element type.
    """
    where = "latent_attention"
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    chosen = checked_latent_heads(
        where, hidden, heads, latent_size=latent_size, sequence_length=sequence_length, batch=batch,
        query_latent_size=query_latent_size, head_dim=head_dim, rotary_dim=rotary_dim, value_dim=value_dim,
        causal=causal, fused=fused, cache_length=cache_length, cache=cache, absorbed=absorbed, bias=bias, layer=layer,
        types=types,
    )  # fmt: skip
    return Trace.from_rows(chosen.rows(), name=name, sequences=batch, tokens=sequence_length, source=where)
