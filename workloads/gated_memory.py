"""Attention over a gated memory: a new vector is stored only if it is not too similar to a stored one.

Attention then reads, and a cache holds, what was kept; a vector that was not stored is seen as the one it resembles.
The test is counted: every new vector is compared with everything stored so far, and since what is stored depends on
the tests before, the tests of a sequence follow one another, one vector or one block of vectors at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

from workloads.attention import visible_pairs
from workloads.blocks import OPERATIONS, Types, check_counts, plain_integers
from workloads.trace import Trace, TraceError
from workloads.transformer import transformer


@plain_integers
def gated_memory(
    layers: int,
    hidden: int,
    heads: int,
    vocabulary: int,
    *,
    keep: float,
    sequence_length: int,
    block: int = 128,
    compared: int | None = None,
    batch: int = 1,
    mode: str = "prefill",
    cache_length: int | None = None,
    cache: bool | None = None,
    inner: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    gated: bool = False,
    activation: str = "gelu",
    norm: str = "layer",
    pre_norm: bool = True,
    bias: bool = True,
    positions: str | None = "learned",
    max_positions: int | None = None,
    tied: bool = True,
    logits: str | None = "all",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "gated memory",
) -> Trace:
    """A decoder (`workloads.transformer`) whose layers each store a share `keep` of their keys and values.

    `keep`, `block` and `compared` are those of `store_less`, the other arguments and the errors those of `transformer`;
    `cache_length` counts the positions seen, stored or not.
    """
    whole = transformer(
        layers, hidden, heads, vocabulary, sequence_length=sequence_length, batch=batch, mode=mode,
        cache_length=cache_length, cache=cache, inner=inner, kv_heads=kv_heads, head_dim=head_dim, gated=gated,
        activation=activation, norm=norm, pre_norm=pre_norm, bias=bias, positions=positions,
        max_positions=max_positions, tied=tied, logits=logits, dtype=dtype, weight_dtype=weight_dtype,
        activation_dtype=activation_dtype, name=name,
    )  # fmt: skip
    return store_less(whole, keep, block=block, compared=compared)


@plain_integers
def store_less(trace: Trace, keep: float, *, block: int = 128, compared: int | None = None) -> Trace:
    """`trace` with each causal attention over a gated memory that stores a share `keep` of the positions.

    `keep` in (0, 1]: each position is stored with this probability; counts are those expected, rounded up. At 1
    everything is stored, and tested. `block`: so many new positions of a sequence are tested at once, against what is
    stored and against each other (1: one after another). `compared`: so many features of a key are compared (default
    all of its heads; one decision for all heads of a layer).

    Before each attention there are a similarity test and a copy of what is kept. The test is a product of new and
    stored keys (2 FLOP a feature and pair), scaled by the stored vector's reciprocal norm and reduced to the largest
    (2 vector FLOP a pair), and the norm of each new vector (2 a feature, a root and a division); a reciprocal norm is
    stored beside each key and value. Its runs, one a block, follow one another; what is stored is their state, of
    average size, or in decode a cache. Attention has pairs of a query and the stored positions up to its own.

    A gate in training would be soft: `training` differentiates the test too. Raises `TraceError` naming the argument:
    `keep` outside (0, 1], sizes that are not positive whole numbers, `compared` beyond the key, a trace without
    fused causal attention over keys and values of its own positions, one that is trained already.
    """
    share = _share(keep)
    check_counts("store_less", block=block)
    if not isinstance(trace, Trace):
        raise TraceError(f"store_less: a Trace is expected, got {type(trace).__name__}")
    rows, places = [], []
    for number, row in enumerate(trace.rows()):
        row = row | {"after": tuple(places[a] for a in row["after"])}
        if row["phase"] != "forward":
            raise TraceError(f"store_less: {trace.name} is trained already: use training(store_less(...))")
        if row["kind"] == "attention":
            memory = _Memory.of(trace, number, share, block, compared)
            test, store = memory.test(row), memory.store(row)
            start = len(rows)
            rows += [test, store | {"after": (start,)}]
            row = memory.attend(row) | {"after": (start + 1,)}
        places.append(len(rows))
        rows.append(row)
    if len(rows) == len(trace):
        raise TraceError(f"store_less: {trace.name} has no fused attention (fused=True)")
    return Trace.from_rows(rows, name=trace.name, sequences=trace.sequences, tokens=trace.tokens, source=trace.source)


def _share(keep) -> Fraction:
    """`keep` as an exact fraction of its decimal digits: 0.07 of 100 is 7."""
    valid = isinstance(keep, Real) and not isinstance(keep, bool) and 0 < keep <= 1
    if not valid:
        raise TraceError(f"store_less: keep must be above 0 and at most 1, got {keep!r}")
    return keep if isinstance(keep, Fraction) else Fraction(str(float(keep)))


@dataclass(frozen=True)
class _Memory:
    """The sizes of one attention and of the memory it reads."""

    batch: int
    kv_heads: int
    group: int
    head_dim: int
    new: int
    past: int
    share: Fraction
    block: int
    compared: int
    types: Types

    @classmethod
    def of(cls, trace: Trace, number: int, share: Fraction, block: int, compared: int | None) -> _Memory:
        """Read the sizes of a row of fused attention (see `workloads.attention`)."""
        batch, new = trace.sequences, trace.tokens
        row = {c: int(trace.columns[c][number]) for c in ("batch", "m", "n", "k", "matrix_flops")}
        whole = row["batch"] % batch == 0 and row["m"] % new == 0 and row["k"] >= new
        kv_heads, group, head_dim = row["batch"] // batch, row["m"] // new, row["n"] // 2
        pairs = visible_pairs(new, row["k"] - new) if whole else 0
        if row["matrix_flops"] != 4 * row["batch"] * group * pairs * head_dim:
            raise TraceError(f"store_less: {trace.name}: row {number} is no causal self attention of all its positions")
        key = kv_heads * head_dim
        types = Types(*(str(trace.columns[c][number]) for c in ("dtype", "weight_dtype", "activation_dtype")))
        cached = int(trace.columns["cache_bytes"][number])
        if cached and cached != types.activations(2 * batch * row["k"] * key):
            raise TraceError(f"store_less: {trace.name}: row {number} caches latents, which stand for keys and values")
        compared = key if compared is None else compared
        check_counts("store_less", compared=compared)
        if compared > key:
            raise TraceError(f"store_less: compared must be at most the {key} features of a key, got {compared}")
        return cls(batch, kv_heads, group, head_dim, new, row["k"] - new, share, min(block, new), compared, types)

    @property
    def decodes(self) -> bool:
        return self.past > 0 and self.new == 1

    @property
    def tests(self) -> int:
        """Blocks of new positions, tested one after another."""
        return -(-self.new // self.block)

    def stored(self, positions: int) -> int:
        """Entries stored of so many positions, at least one."""
        return max(1, math.ceil(self.share * positions))

    @property
    def entry(self) -> int:
        """Values of an entry: key, value, reciprocal norm."""
        return 2 * self.kv_heads * self.head_dim + 1

    @property
    def against_stored(self) -> Fraction:
        """Pairs of a new position and one stored before its block, one sequence."""
        full, last = divmod(self.new, self.block)
        before = full * self.past + self.block * full * (full - 1) // 2
        return self.share * (self.block * before + last * (self.past + full * self.block))

    @property
    def within_blocks(self) -> int:
        """Pairs of two new positions of one block, one sequence."""
        full, last = divmod(self.new, self.block)
        return full * self.block * (self.block - 1) // 2 + last * (last - 1) // 2

    # -- rows ------------------------------------------------------------------------------------

    def _runs(self, row: dict) -> dict:
        """Counts of a row that runs once a block wherever `row` runs once."""
        kept = {c: row[c] for c in ("layer", "dtype", "weight_dtype", "activation_dtype")}
        counts = {c: self.tests * row[c] for c in ("repeats", "path_runs")}
        return kept | counts | {"serial_steps": self.tests, "weight_sets": 1}

    def test(self, row: dict) -> dict:
        """The largest similarity of each new position to what is stored."""
        runs, features = self.tests, self.compared
        pairs = max(1, math.ceil((self.against_stored + self.within_blocks) / runs))
        stored = max(1, math.ceil(self.against_stored / self.new))  # on average when a position is tested
        read = self.types.activations(self.batch * stored * (features + 1))
        return self._runs(row) | {
            "op": "similarity test",
            "kind": "matmul",
            "batch": self.batch,
            "m": self.block,
            "n": -(-pairs // self.block),
            "k": features,
            "matrix_flops": 2 * self.batch * pairs * features,
            "vector_flops": self.batch * (2 * pairs + self.block * (2 * features + 1)),
            "special_ops": 2 * self.batch * self.block,
            "input_bytes": self.types.activations(self.batch * self.block * features),
            "output_bytes": self.types.activations(self.batch * self.block),
            "state_bytes": 0 if self.decodes else read,
            "cache_bytes": read if self.decodes else 0,
            "after": row["after"],
        }

    def store(self, row: dict) -> dict:
        """What is kept of each block moves to the memory."""
        kept = math.ceil(self.batch * self.share * self.new * self.entry / self.tests)
        size = self.types.activations(kept)
        written = "cache_bytes" if self.decodes else "output_bytes"
        return self._runs(row) | {"op": "store", "kind": "copy", "input_bytes": size, written: size}

    def attend(self, row: dict) -> dict:
        """The attention `row` over what is stored."""
        positions, heads = self.past + self.new, self.kv_heads * self.group
        kept, pairs = self.stored(positions), max(self.new, math.ceil(self.share * visible_pairs(self.new, self.past)))
        softmaxed, cost = self.batch * heads * pairs, OPERATIONS["softmax"]
        read = self.types.activations(2 * self.batch * kept * self.kv_heads * self.head_dim)
        cached = row["cache_bytes"] > 0
        queries = self.types.activations(self.batch * self.new * heads * self.head_dim)
        return row | {
            "k": kept,
            "matrix_flops": 4 * softmaxed * self.head_dim,
            "vector_flops": cost.vector * softmaxed,
            "special_ops": cost.special * softmaxed,
            "input_bytes": queries + (0 if cached else read),
            "cache_bytes": read if cached else 0,
            "saved_bytes": self.types.activations(self.batch * kept * self.entry) if row["saved_bytes"] else 0,
        }
