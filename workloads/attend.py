"""Attention proper: scores, softmax and weighted sum of queries over keys and values, fused in one row or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workloads.blocks import OPERATIONS, Types, matmul, softmax


@dataclass(frozen=True, kw_only=True)
class Attend:
    """`products` independent attentions in one run, each of `queries` vectors over `keys` vectors.

    pairs: query and key pairs computed, all products together. key_size, value_size: features of one key (and query)
    and of one value of a head. query_elements, key_elements, value_elements, output_elements: whole tensors, each
    counted once. shared_values: the values are part of the keys, so a fused attention reads them once. cached: keys
    and values come from a cache, not from the row before. kept_keys, kept_values: elements that stay for later
    queries. reach: the trace's columns `reach_back` and `reach_ahead`.
    """

    layer: str
    types: Types
    products: int
    queries: int
    keys: int
    pairs: int
    key_size: int
    value_size: int
    query_elements: int
    key_elements: int
    value_elements: int
    output_elements: int
    shared_values: bool = False
    cached: bool = False
    kept_keys: int = 0
    kept_values: int = 0
    reach: Mapping[str, int] = field(default_factory=dict)

    def rows(self, fused: bool) -> list[dict]:
        """One row of kind "attention", or scores, softmax and context: the scores are then written and read back."""
        return [self._fused()] if fused else self._unfused()

    def _read(self, streamed: int, stored: int, kept: int) -> dict[str, int]:
        """Columns of a row that reads `streamed` elements from the row before and `stored` of keys and values."""
        stored, streamed = self.types.activations(stored), self.types.activations(streamed)
        return {
            "input_bytes": streamed if self.cached else streamed + stored,
            "cache_bytes": stored if self.cached else 0,
            "saved_bytes": self.types.activations(kept),
        }

    def _fused(self) -> dict:
        cost = OPERATIONS["softmax"]
        values = 0 if self.shared_values else self.value_elements
        return {
            "layer": self.layer,
            "op": "attention",
            "kind": "attention",
            "batch": self.products,
            "m": self.queries,
            "n": self.key_size + self.value_size,
            "k": self.keys,
            "matrix_flops": 2 * self.pairs * (self.key_size + self.value_size),
            "vector_flops": cost.vector * self.pairs,
            "special_ops": cost.special * self.pairs,
            "output_bytes": self.types.activations(self.output_elements),
            **self._read(self.query_elements, self.key_elements + values, self.kept_keys + self.kept_values),
            **self.reach,
            **self.types.columns,
        }

    def _unfused(self) -> list[dict]:
        settings = {"types": self.types, "layer": self.layer}
        scores = matmul.row(self.queries, self.keys, self.key_size, batch=self.products, op="scores", **settings)
        context = matmul.row(self.queries, self.value_size, self.keys, batch=self.products, op="context", **settings)
        scores |= self._read(self.query_elements, self.key_elements, self.kept_keys)
        scores |= {
            "matrix_flops": 2 * self.pairs * self.key_size,
            "output_bytes": self.types.activations(self.pairs),
        }
        context |= self._read(self.pairs, self.value_elements, self.kept_values)
        context |= {
            "matrix_flops": 2 * self.pairs * self.value_size,
            "output_bytes": self.types.activations(self.output_elements),
            **self.reach,
        }
        # the softmax is counted by value: rows differ in length where pairs are masked
        return [scores, softmax.row(self.pairs, 1, **settings), context]
