"""Hierarchy: what windows over windows cost and reach, against flat attention and an LSTM."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reports.requests import substitute
from reports.studies.hierarchy_charts import lengths_chart, windows_chart
from reports.studies.roots import first_true
from reports.studies.study import Bench, Finding, Study, StudyError, Table
from reports.studies.usual import between, on_chips
from reports.units import format_quantity
from simulator import Accelerator, Result, simulate
from workloads import Trace, attention, hierarchical_attention, lstm
from workloads.hierarchy import levels_needed

CHIPS = ("a100-sxm-80gb", "h100-sxm", "tpu-v4", "t4", "jetson-agx-orin")
HIDDEN, HEADS, WINDOW, POSITIONS = 1024, 16, 100, 10_000
LENGTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
#: Windows tried over `POSITIONS`; the last is flat attention of one level.
WINDOWS = (5, 10, 22, 50, 100, 200, 500, 1_000, 2_500, 10_000)
#: "A fraction of the cost": at most so much of the time.
FRACTION = 0.5
#: Sequences side by side where the verdict's limits are read.
MANY = 64
#: How near crossings are found, as a share of themselves.
WITHIN = 0.01

FLAT, SLIDING, SUMMARIES, LSTM = "flat attention", "sliding hierarchy", "hierarchy of summaries", "LSTM"
ONE_QUERY = "flat attention, one query"
#: Networks that make an output at every position, or for the next one.
NETWORKS = (FLAT, SLIDING, SUMMARIES, LSTM)


@functools.cache
def whole(network: str, positions: int, dtype: str, window: int = WINDOW, batch: int = 1) -> Trace:
    """A whole sequence: an output at every position, of a hierarchy of summaries and of one query only at the last."""
    sizes = {"sequence_length": positions, "batch": batch, "dtype": dtype}
    if network == LSTM:
        return lstm(1, HIDDEN, **sizes)
    if network == FLAT:
        return attention(HIDDEN, HEADS, causal=True, **sizes) * levels_needed(positions, WINDOW)
    window = positions if network == ONE_QUERY else window
    return hierarchical_attention(None, HIDDEN, HEADS, window=window, sliding=network == SLIDING, **sizes)


@functools.cache
def following(network: str, positions: int, dtype: str, window: int = WINDOW, batch: int = 1) -> Trace:
    """The last of so many positions, those before it kept: as keys and values, or as the state of the LSTM."""
    if network == LSTM:
        return lstm(1, HIDDEN, sequence_length=1, hoist_input=False, batch=batch, dtype=dtype)
    if network == FLAT:
        one = attention(
            HIDDEN, HEADS, sequence_length=1, cache_length=positions - 1, causal=True, batch=batch, dtype=dtype
        )
        return one * levels_needed(positions, WINDOW)
    return hierarchical_attention(
        None, HIDDEN, HEADS, sequence_length=positions, window=window, sliding=network == SLIDING, mode="decode",
        batch=batch, dtype=dtype,
    )  # fmt: skip


def path(network: str, positions: int) -> float:
    """Dependent operations between the first position and the last."""
    return whole(network, positions, "fp16").path_length(0, positions - 1)


@dataclass(frozen=True, eq=False)
class OnChip:
    """Simulated results on one chip, in the element type it is used in, each computed once."""

    chip: Accelerator
    dtype: str

    @functools.cache  # noqa: B019 - lives as long as the study runs
    def result(self, task: Callable, network: str, positions: int, window: int = WINDOW, batch: int = 1) -> Result:
        return simulate(task(network, positions, self.dtype, window, batch), self.chip)

    def time_s(self, *what) -> float:
        return float(self.result(*what).latency_s)

    def apart(self, task: Callable, quick: str, slow: str, positions: int) -> bool | None:
        """Whether the 80 % intervals leave no doubt which is quicker; None where nothing was calibrated."""
        ends = [self.result(task, network, positions).latency_interval_s for network in (quick, slow)]
        return None if None in ends else bool(ends[0][1] < ends[1][0])

    def share_from(self, task: Callable, network: str, other: str, share: float) -> float:
        """Positions from which a network takes at most `share` of another's time; inf: nowhere up to a million."""

        def reached(positions: int) -> bool:
            return self.time_s(task, network, positions) <= share * self.time_s(task, other, positions)

        return first_true(reached, WINDOW, LENGTHS[-1], WITHIN)


def on(chip: Accelerator) -> OnChip:
    """The networks on a chip, in fp16 or the nearest float it has. Raises `StudyError` where it has none."""
    dtype = substitute("fp16", chip.dtypes)
    if dtype is None:
        raise StudyError(f"hierarchy: {chip.name} has no float type of 16 bits or more")
    return OnChip(chip, dtype)


_WINDOW_PANELS = (("all positions, sliding", whole, SLIDING), ("one new vector, summaries", following, SUMMARIES))


# -- the run -------------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    """Simulate both tasks over lengths and windows, find the crossings, and say what they are."""
    chips = [on(chip) for chip in bench.chips(*CHIPS)]
    numbers = _numbers(chips)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers),
        limits=_limits(numbers, chips),
        numbers=numbers,
        tables=(_networks_table(chips), _lengths_table(chips[0]), _windows_table(chips), _crossings_table(chips)),
        charts=(
            lengths_chart(chips[0], (("all positions", whole), ("one new vector", following)), NETWORKS, LENGTHS),
            windows_chart(chips, _WINDOW_PANELS, WINDOWS, POSITIONS, WINDOW),
        ),
    )


def cheapest_window(chip: OnChip, task: Callable, network: str) -> int:
    """The window of `WINDOWS` that takes the least time over `POSITIONS`, the smallest of equals."""
    return min(WINDOWS, key=lambda window: (chip.time_s(task, network, POSITIONS, window), window))


def _excess(chip: OnChip, task: Callable, network: str) -> float:
    """Time with windows of `WINDOW` over that with the quickest of `WINDOWS`."""
    best = cheapest_window(chip, task, network)
    return chip.time_s(task, network, POSITIONS) / chip.time_s(task, network, POSITIONS, best)


def _numbers(chips: Sequence[OnChip]) -> Mapping[str, float]:
    at = POSITIONS
    flat, sliding = whole(FLAT, at, "fp16"), whole(SLIDING, at, "fp16")
    held = {network: following(network, at, "fp16").footprint()["cache"] for network in NETWORKS}
    ratios = {
        "whole_of_flat": [c.time_s(whole, SLIDING, at) / c.time_s(whole, FLAT, at) for c in chips],
        "whole_of_lstm": [c.time_s(whole, SLIDING, at) / c.time_s(whole, LSTM, at) for c in chips],
        "summary_of_one_query": [c.time_s(whole, SUMMARIES, at) / c.time_s(whole, ONE_QUERY, at) for c in chips],
        "next_of_flat": [c.time_s(following, SUMMARIES, at) / c.time_s(following, FLAT, at) for c in chips],
        "next_of_lstm": [c.time_s(following, SUMMARIES, at) / c.time_s(following, LSTM, at) for c in chips],
        "many_of_lstm": [
            c.time_s(whole, SLIDING, at, WINDOW, MANY) / c.time_s(whole, LSTM, at, WINDOW, MANY) for c in chips
        ],
        "next_window_excess": [_excess(c, following, SUMMARIES) for c in chips],
        "whole_window_excess": [_excess(c, whole, SLIDING) for c in chips],
    }
    numbers = {
        "chips": len(chips),
        "hops": path(SLIDING, at),
        "hops_of_summaries": path(SUMMARIES, at),
        "hops_of_flat": path(FLAT, at),
        "hops_of_lstm": path(LSTM, at),
        "hops_at_longest": path(SLIDING, LENGTHS[-1]),
        "flop_share": sliding.total_matrix_flops / flat.total_matrix_flops,
        "pair_share": _attention_flops(sliding) / _attention_flops(flat),
        "summary_flop_share": whole(SUMMARIES, at, "fp16").total_matrix_flops / flat.total_matrix_flops,
        "one_query_flop_share": whole(ONE_QUERY, at, "fp16").total_matrix_flops / flat.total_matrix_flops,
        "held_share_of_summaries": held[SUMMARIES] / held[FLAT],
        "held_share_of_sliding": held[SLIDING] / held[FLAT],
        "whole_fraction_chips": sum(ratio <= FRACTION for ratio in ratios["whole_of_flat"]),
        "next_fraction_chips": sum(ratio <= FRACTION for ratio in ratios["next_of_flat"]),
        "quicker_than_lstm_chips": sum(ratio < 1 for ratio in ratios["whole_of_lstm"]),
        "step_quicker_than_lstm_chips": sum(ratio < 1 for ratio in ratios["next_of_lstm"]),
        "many_quicker_than_lstm_chips": sum(ratio < 1 for ratio in ratios["many_of_lstm"]),
    }
    for name, values in ratios.items():
        numbers |= {f"{name}_least": min(values), f"{name}_most": max(values)}
    apart = [c.apart(whole, SLIDING, FLAT, at) for c in chips]
    numbers |= {"calibrated": sum(a is not None for a in apart), "apart": sum(bool(a) for a in apart)}
    for c in chips:
        own = {
            "whole_s": c.time_s(whole, SLIDING, at),
            "next_s": c.time_s(following, SUMMARIES, at),
            "whole_half_from": c.share_from(whole, SLIDING, FLAT, FRACTION),
            "next_half_from": c.share_from(following, SUMMARIES, FLAT, FRACTION),
            "next_cheapest_window": cheapest_window(c, following, SUMMARIES),
            "whole_cheapest_window": cheapest_window(c, whole, SLIDING),
        }
        numbers |= {f"{c.chip.name}_{name}": value for name, value in own.items()}
    return numbers


def _attention_flops(trace: Trace) -> float:
    """FLOP of scores and weighted sums, projections left out."""
    return float((trace.runs * trace.matrix_flops)[trace.kind == "attention"].sum())


# -- words ---------------------------------------------------------------------------------------------


def _holds(n: Mapping[str, float]) -> str:
    """Two hops, half the time of flat attention for both tasks, and less than the LSTM's for both: on all, some, no
    chip."""
    counts = [
        n["whole_fraction_chips"], n["next_fraction_chips"], n["quicker_than_lstm_chips"],
        n["step_quicker_than_lstm_chips"],
    ]  # fmt: skip
    if n["hops"] <= 2 and min(counts) == n["chips"]:
        return "holds"
    return "holds in part" if max(counts) else "does not hold"


def _percent(share: float) -> str:
    """Two digits below ten per cent, whole ones above."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _span(n: Mapping[str, float], name: str, unit: str = "%") -> str:
    """The range over the chips, as per cent or as times."""
    low, high = (n[f"{name}_{end}"] * (100 if unit == "%" else 1) for end in ("least", "most"))
    low, high = (f"{value:.0f}" if value >= 10 else f"{value:.2g}" for value in (low, high))
    return f"{between(low, high)} {unit}"


def _verdict(n: Mapping[str, float]) -> str:
    interval = ""
    if n["calibrated"]:
        interval = (
            f" (the 80 % intervals of the two lie apart on {on_chips(n['apart'], n['calibrated'], 'calibrated chip')})"
        )
    step = (
        f"less than a step of the LSTM on {on_chips(n['step_quicker_than_lstm_chips'], n['chips'])} "
        f"({_span(n, 'next_of_lstm', 'times')} its time)"
    )
    return (
        f"Windows of {WINDOW} over windows of {WINDOW} join the first and the last of {POSITIONS:,} positions in "
        f"{n['hops']:.0f} hops; flat attention takes {n['hops_of_flat']:.0f}, the LSTM {n['hops_of_lstm']:,.0f}. With "
        f"an output at every position and equal parameters the hierarchy does {_percent(n['pair_share'])} of the work "
        f"of flat attention in scores and sums, {_percent(n['flop_share'])} with projections, and takes "
        f"{_span(n, 'whole_of_flat')} of its time: half or less on {on_chips(n['whole_fraction_chips'], n['chips'])}"
        f"{interval}. It is quicker than the LSTM on {on_chips(n['quicker_than_lstm_chips'], n['chips'])}, taking "
        f"{_span(n, 'whole_of_lstm')} of its time. For one new vector it takes {_span(n, 'next_of_flat')} of flat "
        f"attention's time, half or less on {on_chips(n['next_fraction_chips'], n['chips'])}, and {step}."
    )


def _limits(n: Mapping[str, float], chips: Sequence[OnChip]) -> str:
    starts = {key: [n[f"{c.chip.name}_{key}_half_from"] for c in chips] for key in ("whole", "next")}
    gain = "quicker on some chips" if n["summary_of_one_query_least"] < 1 else "no gain"
    return (
        f"At {WINDOW} positions the hierarchy is flat attention. It takes half of flat attention's time from "
        f"{_positions(starts['whole'])} for whole sequences and from {_positions(starts['next'])} for one new vector. "
        f"Where only one vector that sums up the whole is wanted, a hierarchy is {gain}: one flat query over all "
        f"{POSITIONS:,} vectors does {_percent(n['one_query_flop_share'])} of the work of flat attention at every "
        f"position, the hierarchy of summaries {_percent(n['summary_flop_share'])}, in "
        f"{_span(n, 'summary_of_one_query', 'times')} the time. What summaries save is memory: "
        f"{_percent(n['held_share_of_summaries'])} of the keys and values are kept for the next vector; sliding "
        f"windows, which make every vector of a level anew at every position, keep "
        f"{_percent(n['held_share_of_sliding'])}. {_windows(n, chips)} With {MANY} sequences side by side the "
        f"hierarchy is quicker than the LSTM on {on_chips(n['many_quicker_than_lstm_chips'], n['chips'])}, taking "
        f"{_span(n, 'many_of_lstm')} of its time. What a summary of a window forgets is not counted here."
    )


def _windows(n: Mapping[str, float], chips: Sequence[OnChip]) -> str:
    best = {key: [n[f"{c.chip.name}_{key}_cheapest_window"] for c in chips] for key in ("whole", "next")}
    return (
        f"Of the windows from {WINDOWS[0]} to {WINDOWS[-1]:,}, the quickest for one new vector is "
        f"{_listed(best['next'])}, for whole sequences {_listed(best['whole'])}; {WINDOW} takes at most "
        f"{n['next_window_excess_most']:.2f} and {n['whole_window_excess_most']:.2f} times as long as these. A smaller "
        f"window needs more levels, each with its projections; a larger one saves no level until it covers all."
    )


def _listed(windows: Sequence[float]) -> str:
    """ "100 (4 chips) or 10,000 (1 chip)"."""
    counts = {window: windows.count(window) for window in sorted(set(windows))}
    return " or ".join(f"{w:,} ({count} chip{'s' * (count > 1)})" for w, count in counts.items())


def _positions(starts: Sequence[float]) -> str:
    finite = [start for start in starts if math.isfinite(start)]
    if not finite:
        return "no length up to a million"
    low, high = (f"{round(end, 1 - int(math.log10(end))):,.0f}" for end in (min(finite), max(finite)))
    missed = len(starts) - len(finite)
    return f"{between(low, high)} positions" + (f" (never on {missed} of {len(starts)} chips)" if missed else "")


# -- tables --------------------------------------------------------------------------------------------


def _networks_table(chips: Sequence[OnChip]) -> Table:
    columns = ["network", "outputs", "parameters", "FLOP", "bytes", "memory", "path"]
    columns += [f"{c.chip.name} [ms]" for c in chips]
    tasks = [(whole, network, "at every position") for network in (FLAT, SLIDING, LSTM)]
    tasks += [(whole, network, "one, of the whole") for network in (ONE_QUERY, SUMMARIES)]
    tasks += [(following, network, "for the next position") for network in NETWORKS]
    rows = []
    for task, network, outputs in tasks:
        trace = task(network, POSITIONS, "fp16")
        counts = (trace.total_parameters, trace.total_flops, trace.total_bytes, trace.footprint()["total"])
        sizes = [format_quantity(count, unit) for count, unit in zip(counts, ("", "", "B", "B"), strict=True)]
        times = [1e3 * c.time_s(task, network, POSITIONS) for c in chips]
        rows.append([network, outputs, *sizes, path(network, POSITIONS), *times])
    return Table(
        caption=f"{POSITIONS:,} vectors of {HIDDEN}, windows of {WINDOW}, fp16: work and bytes moved at least, memory "
        "of weights, kept keys and values and the largest operation, dependent operations between the first and the "
        "last position, simulated latency.",
        columns=columns,
        rows=rows,
        formats={"path": "{:,.0f}"},
    )


def _lengths_table(chip: OnChip) -> Table:
    rows = []
    for positions in LENGTHS:
        times = [1e3 * chip.time_s(task, network, positions) for task, network in _SHOWN]
        hops = [path(network, positions) for network in (FLAT, SLIDING, LSTM)]
        share = whole(SLIDING, positions, "fp16").total_matrix_flops / whole(FLAT, positions, "fp16").total_matrix_flops
        rows.append([positions, levels_needed(positions, WINDOW), *hops, _percent(share), *times])
    columns = ["positions", "levels", "hops, flat", "hops, hierarchy", "hops, LSTM", "FLOP, of flat"]
    columns += [f"{'whole' if task is whole else 'next'}: {network} [ms]" for task, network in _SHOWN]
    return Table(
        caption=f"By length on {chip.chip.title}. Flat attention has as many layers as the hierarchy levels, the LSTM "
        "one, which equals two of them in parameters.",
        columns=columns,
        rows=rows,
        formats={"positions": "{:,d}", "levels": "{:d}"} | dict.fromkeys(columns[2:5], "{:,.0f}"),
    )


_SHOWN = (
    (whole, FLAT), (whole, SLIDING), (whole, SUMMARIES), (whole, LSTM), (following, FLAT), (following, SLIDING),
    (following, SUMMARIES), (following, LSTM),
)  # fmt: skip


def _windows_table(chips: Sequence[OnChip]) -> Table:
    rows = []
    for window in WINDOWS:
        one, every = following(SUMMARIES, POSITIONS, "fp16", window), whole(SLIDING, POSITIONS, "fp16", window)
        looked = sum(row["k"] for row in one.rows() if row["kind"] == "attention")
        times = [1e6 * c.time_s(following, SUMMARIES, POSITIONS, window) for c in chips]
        times += [1e3 * c.time_s(whole, SLIDING, POSITIONS, window) for c in chips]
        rows.append(
            [window, levels_needed(POSITIONS, window), looked, format_quantity(one.total_parameters),
             format_quantity(one.total_bytes, "B"), format_quantity(every.total_flops), *times]
        )  # fmt: skip
    names = [c.chip.name for c in chips]
    columns = ["window", "levels", "vectors looked at", "parameters", "bytes, next", "FLOP, whole"]
    columns += [f"next, {name} [us]" for name in names] + [f"whole, {name} [ms]" for name in names]
    return Table(
        caption=f"Windows over {POSITIONS:,} vectors: hierarchy of summaries for one new vector, sliding hierarchy for "
        "an output at every position.",
        columns=columns,
        rows=rows,
        formats={"window": "{:,d}", "levels": "{:d}", "vectors looked at": "{:,d}"},
    )


def _crossings_table(chips: Sequence[OnChip]) -> Table:
    def shown(positions: float) -> str:
        return f"{positions:,.0f}" if math.isfinite(positions) else "never"

    columns = ["chip", "type", "whole: quicker than flat", "whole: half of flat", "next: quicker than flat",
               "next: half of flat", "next: flat slower than LSTM", "whole: quicker than LSTM"]  # fmt: skip
    rows = []
    for c in chips:
        pairs = (
            (whole, SLIDING, FLAT, 0.999), (whole, SLIDING, FLAT, FRACTION), (following, SUMMARIES, FLAT, 0.999),
            (following, SUMMARIES, FLAT, FRACTION), (following, LSTM, FLAT, 0.999), (whole, SLIDING, LSTM, 0.999),
        )  # fmt: skip
        rows.append([c.chip.name, c.dtype, *(shown(c.share_from(*pair)) for pair in pairs)])
    return Table(
        caption=f"Positions from which one is quicker than the other, to {_percent(WITHIN)}, tried from {WINDOW} to "
        f"{LENGTHS[-1]:,}.",
        columns=columns,
        rows=rows,
    )


STUDY = Study(
    name="hierarchy",
    title="Hierarchy: 100 x 100 vectors in two hops",
    question="Does a hierarchy of attentions reach 10 000 positions in two hops for a fraction of the cost of flat "
    "attention, and without the serial path of an LSTM?",
    claim="Layers of attention that each look at 100 vectors of the layer below see 100 x 100 past vectors, in a few "
    "hops instead of one step a position.",
    setup=f"Vectors of {HIDDEN}, {HEADS} heads, windows of {WINDOW}, one sequence, 16-bit floats, forward only, "
    "attention alone without MLP. A sliding hierarchy makes an output at every position (level l looks at 100 vectors "
    "100^(l - 1) apart), a hierarchy of summaries one vector a window; flat attention is causal and fused, with as "
    "many layers as the hierarchy has levels; one layer of LSTM has the parameters of two. Either all positions at "
    "once, or one new vector after those before it.",
    sources=(
        "Culurciello, The fall of RNN / LSTM, towardsdatascience.com/the-fall-of-rnn-lstm-2d1594c74ce0, 2018: the "
        "hierarchical neural attention encoder, windows of 100",
        "Vaswani et al., Attention Is All You Need, NeurIPS 2017, table 1: path lengths",
        "Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997",
    ),
    run=run,
)
