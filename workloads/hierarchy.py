"""Hierarchical attention: each level attends to windows of the level below, so windows of w cover w^levels.

The encoder of Culurciello, "The fall of RNN / LSTM" (towardsdatascience.com/the-fall-of-rnn-lstm-2d1594c74ce0, 2018):
"multiple layers of attention can look at a small portion of recent past, say 100 vectors, while layers above can look
at 100 of these attention modules, effectively integrating the information of 100 x 100 vectors". The text gives no
sizes beyond the window; projections are those of `workloads.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.attend import Attend
from workloads.blocks import (
    ACTIVATIONS,
    NORMS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    normalisation,
    plain_integers,
    series,
)
from workloads.feed_forward import mlp_rows
from workloads.trace import Trace, TraceError
from workloads.transformer_blocks import MODES


def covered_positions(levels: int, window: int, summaries: int = 1) -> int:
    """Positions below a window of the top level: window (window / summaries)^(levels - 1); 1 for 0 levels."""
    return window * (window // summaries) ** (levels - 1) if levels else 1


def levels_needed(sequence_length: int, window: int, summaries: int = 1) -> int:
    """Fewest levels whose top window covers the sequence: ceil(log_window T), by whole numbers."""
    levels = 1
    while covered_positions(levels, window, summaries) < sequence_length:
        levels += 1
    return levels


def sliding_pairs(queries: int, window: int, dilation: int = 1) -> int:
    """Pairs where each of `queries` positions sees itself and up to window - 1 earlier ones `dilation` apart.

    Sum over j < window of max(0, queries - j dilation).
    """
    steps = min(window - 1, (queries - 1) // dilation)
    return queries * (steps + 1) - dilation * steps * (steps + 1) // 2


@dataclass(frozen=True)
class _Hierarchy:
    """Sizes that all levels share; see `hierarchical_attention` for the words."""

    hidden: int
    heads: int
    sequence_length: int
    window: int
    summaries: int
    batch: int
    decode: bool
    sliding: bool
    causal: bool
    cache: bool
    inner: int | None
    activation: str
    norm: str
    fused: bool
    bias: bool
    types: Types

    def covered(self, level: int) -> int:
        return covered_positions(level, self.window, self.summaries)

    def vectors(self, level: int) -> int:
        """Vectors of a level for one sequence; level 0 is the input."""
        if self.sliding or level == 0:
            return self.sequence_length
        return self.summaries * self.windows(level)

    def windows(self, level: int) -> int:
        """Windows over the level below for one sequence."""
        return -(-self.sequence_length // self.covered(level))

    # -- what one run reads and makes ------------------------------------------------------------

    def inputs(self, level: int) -> int:
        """Vectors of the level below that are new in one run, one sequence."""
        if self.decode:
            return 1 if level == 1 or self.sliding else self.summaries
        return self.vectors(level - 1)

    def queries(self, level: int) -> int:
        """Vectors from which queries are made: the last one of each window, or every position."""
        if self.decode:
            return 1
        return self.sequence_length if self.sliding else self.windows(level)

    @property
    def each(self) -> int:
        """Queries made from one vector."""
        return 1 if self.sliding else self.summaries

    def reach(self, level: int) -> dict[str, int]:
        """Positions a level adds to what the levels below see: window^l - window^(l - 1), all together the sequence.

        A summary stands for every position of its window, a causal one at the end of it.
        """
        back = min(self.covered(level), self.sequence_length) - self.covered(level - 1)
        return {"reach_back": back, "reach_ahead": 0 if self.causal else back}

    # -- rows ------------------------------------------------------------------------------------

    def _sizes(self, level: int) -> dict[str, int]:
        """Products, queries, keys and pairs of the attention of a level: fields of `Attend`."""
        below, dilation = self.vectors(level - 1), self.covered(level - 1)
        rows = self.batch * self.heads
        if self.decode:
            keys = min(self.window, -(-below // dilation) if self.sliding else below)
            return {"products": rows, "queries": self.each, "keys": keys, "pairs": rows * self.each * keys}
        if not self.sliding:
            products = rows * self.windows(level)
            keys = min(self.window, below)
            return {
                "products": products,
                "queries": self.summaries,
                "keys": keys,
                "pairs": rows * self.summaries * below,
            }
        # positions `dilation` apart see each other: so many sequences side by side, cut into blocks of a window, each
        # of which reads its own positions and the window - 1 before
        length = -(-below // dilation)
        block = min(self.window, length)
        return {
            "products": rows * dilation * -(-length // block),
            "queries": block,
            "keys": min(2 * self.window - 1, length),
            "pairs": rows * sliding_pairs(below, self.window, dilation),
        }

    def _kept(self, level: int, keys: int) -> int:
        """Keys (and as many values) of one sequence that stay for the next position."""
        if not self.cache:
            return 0
        if self.sliding:  # every phase of the dilated window comes round again
            return min(self.sequence_length, (self.window - 1) * self.covered(level - 1) + 1)
        return keys

    def attention(self, level: int) -> list[dict]:
        settings = {"types": self.types, "bias": self.bias, "layer": f"level.{level}"}
        made = self.batch * self.queries(level) * self.each
        sizes = self._sizes(level)
        keys = self.batch * (sizes["keys"] if self.decode else self.vectors(level - 1)) * self.hidden
        kept = self.batch * self._kept(level, sizes["keys"]) * self.hidden
        attend = Attend(
            layer=f"level.{level}", types=self.types, key_size=self.hidden // self.heads,
            value_size=self.hidden // self.heads, query_elements=made * self.hidden, key_elements=keys,
            value_elements=keys, output_elements=made * self.hidden, cached=self.decode, kept_keys=kept,
            kept_values=kept, reach=self.reach(level), **sizes,
        )  # fmt: skip
        output = linear.row(made, self.hidden, self.hidden, op="output projection", **settings)
        return series([self._projections(level, settings), attend.rows(self.fused), [output]])

    def _projections(self, level: int, settings: dict) -> list[dict]:
        """Keys and values of the new vectors, queries of the last vector of each window."""
        rows = self.batch * self.inputs(level)
        if self.sliding:
            return [linear.row(rows, 3 * self.hidden, self.hidden, op="query key value projection", **settings)]
        made = self.each * self.hidden
        keys = linear.row(rows, 2 * self.hidden, self.hidden, op="key value projection", **settings)
        query = linear.row(self.batch * self.queries(level), made, self.hidden, op="query projection", **settings)
        return [keys | {"after": ()}, query | {"after": ()}]

    def rows(self, level: int) -> list[dict]:
        """The attention of a level or, with an MLP, a whole block around it."""
        if self.inner is None:
            return self.attention(level)
        settings = {"types": self.types, "layer": f"level.{level}"}
        made = self.batch * self.queries(level) * self.each
        norms = {"norm": self.norm, "bias": self.bias, **settings}
        add = [elementwise.row(made * self.hidden, "residual add", **settings)]
        mlp = mlp_rows(
            made, self.hidden, self.inner, False, self.activation, self.bias, True, settings["layer"], self.types
        )
        return series(
            [
                [normalisation.row(self.batch * self.inputs(level), self.hidden, **norms)],
                self.attention(level),
                add,
                [normalisation.row(made, self.hidden, **norms)],
                mlp,
                add,
            ]
        )


@plain_integers
def hierarchical_attention(
    levels: int | None,
    hidden: int,
    heads: int = 1,
    *,
    sequence_length: int,
    window: int = 100,
    summaries: int = 1,
    batch: int = 1,
    mode: str = "prefill",
    sliding: bool = False,
    causal: bool = True,
    cache: bool | None = None,
    inner: int | None = None,
    activation: str = "gelu",
    norm: str = "layer",
    fused: bool = True,
    bias: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "hierarchical attention",
) -> Trace:
    """A hierarchy of attentions, each over a window of the level below (Culurciello 2018).

    `levels`: None takes the fewest that cover the sequence, ceil(log_window T). Each level projects the vectors below
    to keys and values and, as queries, the last vector of each window of `window` vectors to `summaries` vectors: level
    l has ceil(T / window^l) windows (with one summary each), so the whole costs little more than its first level.
    `sliding`: instead every position attends, at level l to the `window` vectors of the level below that lie
    window^(l - 1) apart, its own the last: T vectors at every level, T window pairs.

    `mode`: "prefill" encodes `sequence_length` positions; "decode" brings one more position, the last of
    `sequence_length`, up through all levels: it looks at up to `window` cached keys and values a level. A hierarchy of
    summaries holds only those; a sliding one holds (window - 1) window^(l - 1) + 1 at level l, since each comes round
    again. `cache`: keep keys and values (default: in decode).

    `causal`: a summary stands at the end of its window (else for all positions of it: it also looks ahead). `inner`: an
    MLP of so many features, with norms and residual adds around it and the attention (pre-norm); None: attention alone.
    `norm`, `activation`, `fused`, `bias`: as in `encoder_block`.

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the argument: a
    size that is not a positive whole number, a window below 2 or longer than the sequence, summaries that do not divide
    the window into parts, heads that do not divide hidden, more levels than cover the sequence, `sliding` or decode
    without `causal`, `sliding` with more than one summary, an unknown mode, norm, activation or element type.
    """
    where = name
    check_counts(where, hidden=hidden, heads=heads, sequence_length=sequence_length, summaries=summaries, batch=batch)
    check_counts(where, 2, window=window)
    if inner is not None:
        check_counts(where, inner=inner)
    check_choice(where, "mode", mode, MODES)
    check_choice(where, "norm", norm, NORMS)
    check_choice(where, "activation", activation, ACTIVATIONS)
    decode = mode == "decode"
    cache = decode if cache is None else cache
    check_flags(where, sliding=sliding, causal=causal, cache=cache, fused=fused, bias=bias)
    _check_windows(where, sequence_length, window, summaries, sliding)
    if hidden % heads:
        raise TraceError(f"{where}: heads must divide hidden ({hidden}), got {heads}")
    if not causal and (sliding or decode):
        raise TraceError(f"{where}: {'sliding' if sliding else 'mode decode'} needs causal=True: it looks back")
    needed = levels_needed(sequence_length, window, summaries)
    levels = needed if levels is None else levels
    check_counts(where, levels=levels)
    if levels > needed:
        raise TraceError(
            f"{where}: levels must be {needed} or fewer, where one window covers all {sequence_length} positions, "
            f"got {levels}"
        )
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    hierarchy = _Hierarchy(
        hidden, heads, sequence_length, window, summaries, batch, decode, sliding, causal, cache, inner, activation,
        norm, fused, bias, types,
    )  # fmt: skip
    rows = series(hierarchy.rows(level) for level in range(1, levels + 1))
    return Trace.from_rows(
        rows, name=name, sequences=batch, tokens=1 if decode else sequence_length, source="hierarchical_attention"
    )


def _check_windows(where: str, sequence_length: int, window: int, summaries: int, sliding: bool) -> None:
    if window > sequence_length:
        raise TraceError(
            f"{where}: window must not be larger than the sequence ({sequence_length} positions), got {window}"
        )
    if sliding and summaries > 1:
        raise TraceError(f"{where}: summaries must be 1 where sliding, got {summaries}")
    if window % summaries or window == summaries:
        raise TraceError(f"{where}: summaries must divide window ({window}) into 2 parts or more, got {summaries}")
