"""Linear recurrences, h_t = a_t h_(t-1) + b_t element by element: as a serial, a chunked and a parallel scan.

Products that make a and b need no state, so all of them run at once; only the scan is left in series.

- serial: one kernel walks the T positions and keeps the state in registers. T dependent steps, each position read
  and its result written once.
- chunked: the same kernel takes a chunk of positions a step, combined in parallel within it: T / chunk dependent steps.
- parallel: a and b lie in memory and are combined in pairs, ((a, b), (a', b')) -> (a a', a' b + b'), level by level: an
  up-sweep of log2 T levels and a down-sweep of one less (Brent and Kung 1982; Blelloch 1990). 2 T - 2 - log2 T combines
  in place of T multiply-adds, and every one of them reads and writes memory.

One step of a model that makes one token at a time (decode) reads its state from memory and writes it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.blocks import Types, check_choice, check_counts, embedding, normalisation, series, vocabulary_projection
from workloads.trace import Trace, TraceError, concatenate
from workloads.transformer_blocks import LOGITS, MODES

SCANS = ("serial", "chunked", "parallel")
#: Vector FLOP of a state element in one step: a h + b.
STEP_FLOPS = 2


def levels(steps: int) -> int:
    """Levels of the up-sweep over `steps` positions: log2, rounded up."""
    return (steps - 1).bit_length()


def combines(steps: int) -> tuple[int, int]:
    """Combines of the up-sweep and of the down-sweep over `steps` positions (exact for powers of two)."""
    return steps - 1, max(0, steps - 1 - levels(steps))


@dataclass(frozen=True)
class Scan:
    """A linear recurrence with what surrounds it, all sequences of a batch together.

    `states`: elements of the state (h and b). `before` and `after`: (vector FLOP, special ops) of one position to make
    a and b and to make the result from the state; `reads` and `reads_after`: elements each of them reads, `reads_again`
    those both read, which a fused kernel reads once; `result`: elements of a position's result. `parameters`: what the
    scan holds. `factors`: elements of a (None: one for each of b). `step_flops`: vector FLOP of one step for a state
    element, where it is not a multiply-add. `carried`: values beside the states that live from step to step.
    """

    op: str
    layer: str
    types: Types
    states: int
    before: tuple[int, int]
    reads: int
    after: tuple[int, int] = (0, 0)
    reads_after: int = 0
    reads_again: int = 0
    result: int = 0
    parameters: int = 0
    factors: int | None = None
    step_flops: int = STEP_FLOPS
    carried: int = 0

    @property
    def pair(self) -> int:
        """Elements of a and b."""
        return self.states + (self.states if self.factors is None else self.factors)

    @property
    def combine_flops(self) -> int:
        """Vector FLOP of one combine: a a' and a' b + b'."""
        return self.step_flops * self.states + self.pair - self.states

    def rows(self, scan: str, steps: int, chunk: int) -> list[dict]:
        """The rows of `steps` positions, in the form `scan`."""
        if scan == "parallel" and steps > 1:
            return self._sweeps(steps)
        return [self._fused(steps, chunk if scan == "chunked" else 1)]

    def step(self) -> dict:
        """One position on its own, its state read from memory and written back.

        The state counts as a cache: between two positions the weights of every layer pass through the chip.
        """
        size = self.types.activations(self.states + self.carried)
        return self._fused(1, 1) | {"cache_bytes": 2 * size, "saved_bytes": size}

    def _row(self, op: str, kind: str, vector: int, special: int, read: int, written: int, parameters: int = 0) -> dict:
        return {
            "layer": self.layer,
            "op": op,
            "kind": kind,
            "vector_flops": vector,
            "special_ops": special,
            "parameters": parameters,
            "weight_bytes": self.types.weights(parameters),
            "input_bytes": self.types.activations(read),
            "output_bytes": self.types.activations(written),
            **self.types.columns,
        }

    def _fused(self, steps: int, chunk: int) -> dict:
        """One kernel, `chunk` positions a step: state in registers, inputs read once, results written once."""
        chunk = min(chunk, steps)
        runs = -(-steps // chunk)
        moved = self.reads + self.reads_after
        state_flops = self.step_flops * self.states * chunk
        if chunk > 1:  # the combines within the chunk, then the state before it added to every position
            state_flops += self.combine_flops * sum(combines(chunk))
        row = self._row(
            self.op,
            "scan",
            (self.before[0] + self.after[0]) * chunk + state_flops,
            (self.before[1] + self.after[1]) * chunk,
            moved * chunk,
            self.result * chunk,
            self.parameters,
        )
        return row | {
            "repeats": runs,
            "serial_steps": runs,
            "path_runs": runs,
            "weight_sets": 1,
            "reach_back": chunk,
        }

    def _sweeps(self, steps: int) -> list[dict]:
        """Coefficients, up-sweep, down-sweep and result as passes over memory; a level is an average one."""
        pair, depth, rows = self.pair, levels(steps), []
        if self.before != (0, 0) or self.parameters or self.reads != pair:
            vector, special = (amount * steps for amount in self.before)
            sizes = self.reads * steps, pair * steps, self.parameters
            rows.append(self._row(f"{self.op}: coefficients", "elementwise", vector, special, *sizes))
        for name, count, runs in zip(("up-sweep", "down-sweep"), combines(steps), (depth, depth - 1), strict=True):
            if count:
                each = -(-count // runs)
                flops = self.combine_flops * each
                sweep = self._row(f"{self.op}: {name}", "scan", flops, 0, 2 * pair * each, pair * each)
                rows.append(sweep | {"repeats": runs, "reach_back": -(-(steps - 1) // depth)})
        if self.after != (0, 0) or self.reads_after + self.reads_again or self.result != self.states:
            vector, special = (amount * steps for amount in self.after)
            sizes = (self.states + self.reads_after + self.reads_again) * steps, self.result * steps
            rows.append(self._row(f"{self.op}: result", "elementwise", vector, special, *sizes))
        return rows


def check_scan(where: str, scan: str, chunk: int, mode: str, sequence_length: int) -> int:
    """Positions a run takes: all in prefill, one in decode. Raises `TraceError` naming the argument."""
    check_choice(where, "scan", scan, SCANS)
    check_choice(where, "mode", mode, MODES)
    check_counts(where, chunk=chunk, sequence_length=sequence_length)
    return 1 if mode == "decode" else sequence_length


def scan_rows(scan: Scan, form: str, mode: str, steps: int, chunk: int) -> list[dict]:
    """The rows of a scan in prefill, or its one step in decode."""
    return [scan.step()] if mode == "decode" else scan.rows(form, steps, chunk)


def depthwise_convolution(
    batch: int, steps: int, channels: int, taps: int, mode: str, *, types: Types, layer: str, bias: bool = True,
    activation: tuple[int, int] = (1, 1),
) -> dict:  # fmt: skip
    """A causal convolution of every channel with its own `taps` weights, then an activation (silu: 1 FLOP, 1 special).

    Work for the vector units: no channel shares an operand with another, so there is no product to tile. In decode
    the last taps - 1 positions come from memory and are written back.
    """
    elements = batch * steps * channels
    parameters = channels * (taps + bias)
    vector, special = activation
    row = {
        "layer": layer,
        "op": "depthwise convolution",
        "kind": "elementwise",
        "vector_flops": (2 * taps - 1 + bias + vector) * elements,
        "special_ops": special * elements,
        "parameters": parameters,
        "weight_bytes": types.weights(parameters),
        "input_bytes": types.activations(elements),
        "output_bytes": types.activations(elements),
        "reach_back": taps - 1,
        **types.columns,
    }
    if mode == "decode" and taps > 1:
        window = types.activations(batch * channels * (taps - 1))
        row |= {"cache_bytes": 2 * window, "saved_bytes": window}
    return row


def block_trace(parts: Sequence[Sequence[dict]], name: str) -> Trace:
    """The rows of all parts in series as a trace."""
    return Trace.from_rows(series(parts), name=name, source=name)


def language_model(
    blocks: Sequence[Trace], *, name: str, batch: int, positions: int, hidden: int, vocabulary: int, types: Types,
    embedding_size: int | None = None, norm: str | None = "layer", norm_bias: bool = True,
    embedding_norm: bool = False, tied: bool = True, head_bias: bool = False, logits: str | None = "all",
) -> Trace:  # fmt: skip
    """Token embedding, the blocks in series, a final norm and logits over the vocabulary.

    `positions` new ones of each of `batch` sequences. `logits`: of "all" positions, only the "last", or "none".
    Raises `TraceError` naming the argument.
    """
    logits = "none" if logits is None else logits
    check_choice(name, "logits", logits, LOGITS)
    check_counts(name, vocabulary=vocabulary)
    rows, normed = batch * positions, batch * positions
    size = hidden if embedding_size is None else embedding_size
    if tied and logits != "none" and size != hidden:
        raise TraceError(f"{name}: tied needs an embedding of hidden ({hidden}) features, got {size}")
    first = [embedding.row(rows, vocabulary, size, types=types)]
    if embedding_norm:
        first.append(normalisation.row(rows, size, norm=norm or "layer", types=types, layer="embedding"))
    parts = [block_trace([first], name), *blocks]
    head = []
    if norm:
        head.append(normalisation.row(normed, hidden, norm=norm, bias=norm_bias, types=types, layer="head"))
    if logits != "none":
        wanted = rows if logits == "all" else batch
        head.append(vocabulary_projection.row(wanted, vocabulary, hidden, tied=tied, bias=head_bias, types=types))
    parts += [block_trace([head], name)] if head else []
    return concatenate(parts, name=name).replace(sequences=batch, tokens=positions)


def one_sequence(scan: Scan, batch: int) -> Scan:
    """A scan given for one sequence as that of `batch` of them."""
    times = {
        c: getattr(scan, c) * batch for c in ("states", "reads", "reads_after", "reads_again", "result", "carried")
    }
    times["factors"] = None if scan.factors is None else scan.factors * batch
    pairs = {c: tuple(amount * batch for amount in getattr(scan, c)) for c in ("before", "after")}
    return replace(scan, **times, **pairs)
