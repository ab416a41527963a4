"""Compute in memory: how far it moves the LSTM's roof, and what it leaves as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.canvas import FONT_SIZE, halo, new_grid, shortened
from reports.explain import percent
from reports.palette import CATEGORIES, INK
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import listed
from reports.units import format_quantity
from simulator import Accelerator, Result, preset, simulate
from workloads import Trace, linear, lstm, network

CHIPS = ("hbm-pim", "gddr6-aim", "upmem", "hypothetical-pim")
HIDDEN, LARGE, STEPS = 1500, 4096, 35
SIZES, BATCHES = (512, 1024, HIDDEN, 2048, LARGE, 8192), (1, 2, 4, 8, 16, 32, 64)
LANGUAGE_MODEL, CACHE = "gpt2-large", 1023
#: The element type a network runs in: the first of these that host and memory both multiply.
PREFERRED = ("fp16", "bf16", "int8", "fp32")
#: From this speed-up on compute in memory is said to help; and the share of the step, or of the ratio of the two
#: bandwidths, from which on it is said to decide.
HELPS, DECIDES = 1.05, 0.5
#: Fields that cost a step its time whatever the bandwidth.
FIXED = {"latency.launch": 0.0, "latency.step": 0.0, "latency.first_steps": 0.0, "latency.first_steps_s": 0.0}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Pair:
    """A network on a chip without and with the units in its memory."""

    without: Result
    with_: Result

    @property
    def speedup(self) -> float:
        return float(self.without.latency_s / self.with_.latency_s)


@dataclass(frozen=True)
class Case:
    """A chip with its runs: the LSTM of each size at batch 1, as the chip is and with launches and steps free; the
    large one at each batch; decode and prefill."""

    chip: Accelerator
    dtype: str
    sizes: dict[int, Pair]
    free: dict[int, Pair]
    batches: dict[int, Pair]
    decode: Pair
    prefill: Pair

    @property
    def ratio(self) -> float:
        """Bandwidth of the banks over that of the interface, both as sustained."""
        inside, outside = self.chip.in_memory, self.chip.memory[self.chip.in_memory_level]
        internal = inside.bandwidth_bytes_per_s * inside.sustained
        return float(internal / (outside.bandwidth_bytes_per_s * outside.sustained))

    @property
    def name(self) -> str:
        return self.chip.name

    @property
    def usual(self) -> Pair:
        """The LSTM of the published size, at batch 1."""
        return self.sizes[HIDDEN]

    @property
    def from_size(self) -> int | None:
        """The smallest LSTM that gains the share `DECIDES` of what the bandwidths promise, and not next to nothing."""
        return next((size for size, pair in self.sizes.items() if reaches(pair, self.ratio)), None)

    @property
    def last_batch(self) -> int:
        """The largest batch at which the memory still helps the large LSTM; 0: at none."""
        return max((batch for batch, pair in self.batches.items() if pair.speedup >= HELPS), default=0)

    @property
    def resident(self) -> float:
        """Share of the recurrent weights that the chip keeps between steps without compute in memory."""
        return float(np.nanmax(self.usual.without.resident))


def trace_of(dtype: str, hidden: int = HIDDEN, batch: int = 1) -> Trace:
    """The LSTM: two layers over 35 steps, of 1500 units in the large model of Zaremba et al. 2014."""
    return lstm(2, hidden, batch=batch, sequence_length=STEPS, dtype=dtype)


def pair(trace: Trace, chip: Accelerator) -> Pair:
    return Pair(simulate(trace, dataclasses.replace(chip, in_memory=None)), simulate(trace, chip))


def case(chip: Accelerator) -> Case:
    """Raises `StudyError` for a chip without a memory that computes, or without an element type it shares with it."""
    if chip.in_memory is None:
        raise StudyError(
            f"compute-in-memory: {chip.name} has no memory that computes; those that do: {', '.join(CHIPS)}"
        )
    types = [dtype for dtype in PREFERRED if dtype in chip.in_memory.macs_per_s and dtype in chip.dtypes]
    if not types:
        raise StudyError(f"compute-in-memory: {chip.name} and its memory share none of {', '.join(PREFERRED)}")
    dtype = types[0]
    quick = chip.replace(FIXED)
    return Case(
        chip=chip,
        dtype=dtype,
        sizes={hidden: pair(trace_of(dtype, hidden), chip) for hidden in SIZES},
        free={hidden: pair(trace_of(dtype, hidden), quick) for hidden in SIZES},
        batches={batch: pair(trace_of(dtype, LARGE, batch), chip) for batch in BATCHES},
        decode=pair(network(LANGUAGE_MODEL, mode="decode", cache_length=CACHE, batch=1, dtype=dtype), chip),
        prefill=pair(network(LANGUAGE_MODEL, batch=1, dtype=dtype), chip),
    )


def run(bench: Bench) -> Finding:
    cases = [case(chip) for chip in bench.chips(*CHIPS)]
    numbers = {}
    for c in cases:
        numbers |= {
            f"{c.name}: internal over external bandwidth": c.ratio,
            f"{c.name}: LSTM speed-up, {HIDDEN} units": c.usual.speedup,
            f"{c.name}: the same with launches and steps free": c.free[HIDDEN].speedup,
            f"{c.name}: LSTM speed-up, {LARGE} units": c.sizes[LARGE].speedup,
            f"{c.name}: share of the LSTM's time that is fixed, {HIDDEN} units": fixed_share(c.usual.with_),
            f"{c.name}: units from which half the promise is kept": c.from_size or float("nan"),
            f"{c.name}: largest batch that gains, {LARGE} units": c.last_batch,
            f"{c.name}: decode speed-up": c.decode.speedup,
            f"{c.name}: prefill speed-up": c.prefill.speedup,
            f"{c.name}: energy of the LSTM, with over without": energy_ratio(c.usual),
        }
    return Finding(
        holds=_holds(cases),
        verdict=_verdict(cases),
        limits=_limits(cases),
        numbers=numbers,
        tables=[_gains(cases), _left(cases), _placements(cases)],
        charts=[_gain_chart(cases), _roof_chart(cases)],
        outside=_outside(),
    )


def fixed_share(result: Result) -> float:
    """Share of the time in launches, dependent steps, first accesses and commands, which no bandwidth shortens."""
    return float(result.bounds_s["latency"] @ result.trace.repeats) / float(result.serial_s)


def energy_ratio(both: Pair) -> float:
    return float(both.with_.energy_j / both.without.energy_j)


# -- what follows ------------------------------------------------------------------------------------


def reaches(both: Pair, ratio: float) -> bool:
    """Whether a network gains the share `DECIDES` of what the bandwidths promise, and not next to nothing."""
    return both.speedup >= max(HELPS, DECIDES * ratio)


def _holds(cases: Sequence[Case]) -> str:
    if all(reaches(c.usual, c.ratio) for c in cases):
        return "holds"
    return "holds in part" if any(c.from_size for c in cases) else "does not hold"


def _gain(speedup: float) -> str:
    return f"{speedup:.3g} times" if speedup >= HELPS else "nothing" if speedup < 1.005 else f"{speedup - 1:.1%}"


def _verdict(cases: Sequence[Case]) -> str:
    text = [
        f"An LSTM of 2 x {HIDDEN} units at batch 1 gains "
        + listed([f"{_gain(c.usual.speedup)} on {c.name} (banks {c.ratio:.3g} times the interface)" for c in cases])
        + "."
    ]
    large = [c for c in cases if c.from_size]
    never = [c for c in cases if not c.from_size]
    if large:
        sizes = listed([f"{c.from_size} units on {c.name}" for c in large])
        text.append(f"{percent(DECIDES)} of what the bandwidths promise, or more, is kept from {sizes}.")
    if never:
        far = "gets that far" if large else f"keeps {percent(DECIDES)} of what the bandwidths promise"
        text.append(f"No LSTM of up to {SIZES[-1]} units {far} on {listed([c.name for c in never])}.")
    bound = [c for c in cases if fixed_share(c.usual.with_) >= DECIDES]
    if bound:
        text.append(
            f"What is left to {HIDDEN} units is then not bandwidth: launches and dependent steps take "
            + listed([f"{percent(fixed_share(c.usual.with_))} of the time on {c.name}" for c in bound])
            + "; were they free, the gain would be "
            + listed([f"{_gain(c.free[HIDDEN].speedup)} on {c.name}" for c in bound])
            + "."
        )
    most = max(c.prefill.speedup for c in cases)
    text.append(
        f"One token of {LANGUAGE_MODEL} gains {listed([f'{_gain(c.decode.speedup)} on {c.name}' for c in cases])}; "
        f"its prefill {_gain(most)}."
    )
    return " ".join(text)


def _limits(cases: Sequence[Case]) -> str:
    vectors = sorted({int(c.chip.in_memory.vectors_per_pass) for c in cases})
    helped = [c for c in cases if c.last_batch]
    text = []
    if helped:
        batches = listed([f"{c.last_batch} on {c.name}" for c in helped])
        served = f"{' or '.join(map(str, vectors))} vector{'s' * (vectors != [1])}"
        text.append(
            f"A batch ends it: with {LARGE} units the memory helps (by {HELPS - 1:.0%} or more) up to batch {batches}; "
            f"a pass over the weights serves {served} there, and the whole batch on the host."
        )
    kept = [c for c in cases if c.resident >= DECIDES]
    if kept:
        text.append(
            f"Weights that stay on the chip between steps need it less: of the {HIDDEN} units "
            + listed([f"{c.name} keeps {percent(c.resident)} in {_keeper(c)}" for c in kept])
            + "."
        )
    still = [c for c in cases if "memory" not in c.usual.with_.placement]
    if still:
        text.append(f"None of its ops runs in memory on {listed([f'{c.name}, where {_why_not(c)}' for c in still])}.")
    dearer = [c for c in cases if energy_ratio(c.usual) >= HELPS]
    if dearer:
        spent = listed([f"{c.name} spends {energy_ratio(c.usual):.3g} times the energy" for c in dearer])
        text.append(f"The quicker place is not always the thriftier: {spent}.")
    text.append("Gates, softmax and norms run on the host, step after step, on every chip.")
    return " ".join(text)


def _keeper(c: Case) -> str:
    levels = [name for name, level in list(c.chip.memory.items())[:-1] if level.keeps_weights]
    return " and ".join(levels)


def _why_not(c: Case) -> str:
    """What one recurrent product would take in memory beside what it takes on the host."""
    chip, trace = c.chip, trace_of(c.dtype)
    host = c.usual.without
    row = _recurrent_row(host)
    units = chip.in_memory
    macs = float(trace.matrix_flops[trace.serial_steps > 1].max()) / 2.0
    crossing = HIDDEN * host.trace.weight_bytes[row] / (4 * HIDDEN**2) * float(units.input_copies)
    rate = units.transfer_bytes_per_s or chip.memory[chip.in_memory_level].bandwidth_bytes_per_s
    parts = {
        "multiplying": macs / float(units.macs_per_s[c.dtype]),
        "sending the vector to every part of the memory": crossing / float(rate),
        "the command": float(units.command_s),
    }
    most = max(parts, key=parts.get)
    return (
        f"{most} alone takes {format_quantity(parts[most], 's')} and the host {format_quantity(host.time_s[row], 's')}"
    )


def _recurrent_row(result: Result) -> int:
    return int(np.flatnonzero(result.trace.is_product & (result.trace.serial_steps > 1))[0])


# -- tables ------------------------------------------------------------------------------------------


def _gains(cases: Sequence[Case]) -> Table:
    rows = []
    for c in cases:
        runs = {f"LSTM 2 x {hidden}": c.sizes[hidden] for hidden in (HIDDEN, LARGE)}
        runs |= {f"LSTM 2 x {LARGE}, batch {batch}": c.batches[batch] for batch in (4, 16, 64)}
        runs |= {f"{LANGUAGE_MODEL}, one token": c.decode, f"{LANGUAGE_MODEL}, prefill": c.prefill}
        for what, both in runs.items():
            without, with_ = float(both.without.latency_s), float(both.with_.latency_s)
            share = float(both.with_.in_memory_share())
            likely = _interval(both.without)
            rows.append([c.name, c.dtype, what, 1e3 * without, likely, 1e3 * with_, both.speedup, 100 * share])
    columns = [
        "chip",
        "type",
        "network",
        "without [ms]",
        "80 % of it [ms]",
        "with [ms]",
        "speed-up",
        "time in memory [%]",
    ]
    return Table(
        caption="Each chip without and with the units in its memory, batch 1 unless said; every op runs where it takes "
        "least time. The interval is that of the host's time; no device in the table was measured in memory.",
        columns=columns,
        rows=rows,
        formats={"without [ms]": "{:.3g}", "with [ms]": "{:.3g}", "speed-up": "{:.2f}", "time in memory [%]": "{:.0f}"},
    )


def _interval(result: Result) -> str:
    """The 80 % interval of the time where constants of the chip or its class were measured, in memory none was."""
    if result.latency_interval_s is None:
        return "not calibrated"
    low, high = (1e3 * float(end) for end in result.latency_interval_s)
    return f"{low:.3g} to {high:.3g}"


def _left(cases: Sequence[Case]) -> Table:
    rows = []
    for c in cases:
        first = c.usual
        rows.append(
            [
                c.name,
                c.ratio,
                first.speedup,
                c.free[HIDDEN].speedup,
                c.sizes[LARGE].speedup,
                100 * fixed_share(first.with_),
                100 * c.resident,
                c.last_batch or "none",
                energy_ratio(first),
            ]
        )
    columns = [
        "chip",
        "internal over external bandwidth",
        f"speed-up, {HIDDEN} units",
        "with launches and steps free",
        f"speed-up, {LARGE} units",
        "fixed time left [%]",
        "weights the host keeps [%]",
        f"largest batch that gains, {LARGE} units",
        "energy, with over without",
    ]
    formats = dict.fromkeys((*columns[1:5], columns[8]), "{:.2f}") | dict.fromkeys(columns[5:7], "{:.0f}")
    return Table(
        caption="What compute in memory promises the LSTM and keeps, and what it does not touch; time, weights and "
        f"energy of {HIDDEN} units at batch 1.",
        columns=columns,
        rows=rows,
        formats=formats,
    )


def _placements(cases: Sequence[Case]) -> Table:
    rows = []
    for c in cases:
        for what, both in ((f"LSTM 2 x {HIDDEN}", c.usual), ("one token", c.decode), ("prefill", c.prefill)):
            host, result = both.without, both.with_
            for row in range(len(result.trace)):
                op = f"{result.trace.layer[row]}: {result.trace.op[row]}"
                times = (1e6 * float(host.time_s[row]), 1e6 * float(result.time_s[row]))
                rows.append([c.name, what, op, *times, str(result.placement[row]), str(result.bound[row])])
    return Table(
        caption=f"Where every op runs ({LANGUAGE_MODEL} for one token and prefill), one run of each.",
        columns=["chip", "network", "op", "without [µs]", "with [µs]", "runs in", "bound by"],
        rows=rows,
    )


# -- charts ------------------------------------------------------------------------------------------


def _gain_chart(cases: Sequence[Case]) -> Chart:
    at_batch = [f"{c.name} {c.batches[1].speedup:.2f} and {c.batches[BATCHES[-1]].speedup:.2f}" for c in cases]
    return Chart(
        draw=lambda: _draw_gains(cases),
        alt="Speed-up of LSTMs by compute in memory. Against hidden size at batch 1, smallest and largest: "
        + ", ".join(f"{c.name} {c.sizes[SIZES[0]].speedup:.2f} and {c.sizes[SIZES[-1]].speedup:.2f}" for c in cases)
        + f". Against batch with {LARGE} units, batch 1 and {BATCHES[-1]}: {', '.join(at_batch)}.",
        caption="Left: batch 1, as the chips are (lines) and with launches and dependent steps free (markers alone). "
        f"Right: {LARGE} units.",
        source="chips with their sources: rooftrace accelerators",
    )


def _draw_gains(cases: Sequence[Case]):
    sizes, batches = new_grid(1, 2, (3.7, 3.0))
    for i, c in enumerate(cases):
        look = {"marker": MARKERS[i % len(MARKERS)], "color": CATEGORIES[i % len(CATEGORIES)], "markersize": 5}
        line = {"linestyle": LINES[i % len(LINES)], "linewidth": 1.3}
        for ax, runs in ((sizes, c.sizes), (batches, c.batches)):
            ax.plot(list(runs), [both.speedup for both in runs.values()], label=f"{c.name} ({c.dtype})", **look, **line)
        free = [both.speedup for both in c.free.values()]
        sizes.plot(list(c.free), free, linestyle="none", markerfacecolor="none", **look)
    for ax, ticks, label in ((sizes, SIZES, "hidden size [units]"), (batches, BATCHES, "batch [sequences]")):
        ax.axhline(1.0, color=INK, linewidth=0.7, zorder=1)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        highest = max(both.speedup for c in cases for both in (*c.sizes.values(), *c.free.values()))
        doublings = [2**power for power in range(int(np.ceil(np.log2(highest))) + 1)]
        ax.set_yticks(doublings, [str(tick) for tick in doublings])
        ax.set_ylim(0.9, doublings[-1] * 1.15)
        ax.set_xlabel(label, fontsize=FONT_SIZE)
        ax.tick_params(labelsize=FONT_SIZE)
        ax.grid(True, color="#E4E4E4", linewidth=0.6)
        ax.set_axisbelow(True)
    sizes.set_ylabel("time without over with", fontsize=FONT_SIZE)
    sizes.set_title("batch 1; hollow: launches and steps free", fontsize=FONT_SIZE + 1)
    batches.set_title(f"{LARGE} units", fontsize=FONT_SIZE + 1)
    batches.legend(fontsize=FONT_SIZE, frameon=False, loc="upper right")
    return sizes.figure


def _roof_chart(cases: Sequence[Case]) -> Chart:
    said = []  # of the large LSTM
    for c in cases:
        before, after = (_rate(result) for result in (c.batches[1].without, c.batches[1].with_))
        said.append(f"{c.name} {format_quantity(before, 'FLOP/s')} to {format_quantity(after, 'FLOP/s')}")
    return Chart(
        draw=lambda: _draw_roofs(cases),
        alt=f"Rooflines of the chips, outside and inside the memory. The recurrent product of {LARGE} units at batch 1 "
        f"goes from {', from '.join(said)}.",
        caption=f"The recurrent product of {LARGE} units at batch 1, 4, 16 and 64: on the host (circles) and where it "
        "takes least time (diamonds: in memory). A memory that reads its weights again for every vector gains nothing "
        "from a batch. Above the outer roof: some weights stay on the chip.",
        source="chips with their sources: rooftrace accelerators",
    )


def _rate(result: Result) -> float:
    """Attained by the recurrent product. [FLOP/s]"""
    return float(result.attained_flops_per_s[_recurrent_row(result)])


def _draw_roofs(cases: Sequence[Case]):
    columns = min(2, len(cases))
    panels = new_grid(-(-len(cases) // columns), columns, (3.7, 2.9))
    for ax in panels[len(cases) :]:
        ax.set_visible(False)
    for i, (ax, c) in enumerate(zip(panels, cases, strict=False)):
        _draw_roof(ax, c, CATEGORIES[i % len(CATEGORIES)])
        if i >= len(cases) - columns:
            ax.set_xlabel("FLOP per byte of weights", fontsize=FONT_SIZE)
        if i % columns == 0:
            ax.set_ylabel("attained [FLOP/s]", fontsize=FONT_SIZE)
    return panels[0].figure


def _draw_roof(ax, c: Case, colour: str) -> None:
    chip, units = c.chip, c.chip.in_memory
    level = chip.memory[chip.in_memory_level]
    outside, inside = float(level.bandwidth_bytes_per_s), float(units.bandwidth_bytes_per_s)
    peak, own = float(chip.peak_flops_per_s(c.dtype)), 2.0 * float(units.macs_per_s[c.dtype])
    shown = [batch for batch in (1, 4, 16, 64) if batch in c.batches]
    places = [(batch, c.batches[batch]) for batch in shown]
    xs = np.array([_weight_intensity(both.without) for _, both in places])
    left, right = xs.min() / 4, max(xs.max() * 4, peak / outside * 2)
    x = np.geomspace(left, right, 200)
    ax.plot(
        x, np.minimum(outside * x, peak), color=INK, linewidth=1.4, label=f"outside {format_quantity(outside, 'B/s')}"
    )
    dotted = f"inside {format_quantity(inside, 'B/s')}"
    ax.plot(x, np.minimum(inside * x, own), color=INK, linewidth=1.4, linestyle=":", label=dotted)
    for (batch, both), at in zip(places, xs, strict=True):
        before, after = _rate(both.without), _rate(both.with_)
        moved = both.with_.placement[_recurrent_row(both.with_)] == "memory"
        ax.plot(at, before, "o", markersize=6, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.4)
        if moved:
            ax.annotate(
                "", (at, after), (at, before), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.1}
            )
            ax.plot(at, after, "D", markersize=5.5, color=colour, markeredgecolor=INK, markeredgewidth=0.5)
        ax.annotate(
            f"batch {batch}",
            (at, before),
            (5, -9),
            textcoords="offset points",
            fontsize=FONT_SIZE - 1,
            path_effects=halo(),
        )
    ax.set(xscale="log", yscale="log", xlim=(left, right))
    lowest = min(min(_rate(both.without) for _, both in places), outside * left)
    ax.set_ylim(lowest / 4, max(peak, own) * 4)
    ax.set_title(shortened(f"{c.name} ({c.dtype})", 40), fontsize=FONT_SIZE + 1)
    ax.tick_params(labelsize=FONT_SIZE)
    ax.grid(True, color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(fontsize=FONT_SIZE - 1, frameon=False, loc="upper left")


def _weight_intensity(result: Result) -> float:
    row = _recurrent_row(result)
    return float(result.flops[row] / result.trace.weight_bytes[row])


# -- from outside ------------------------------------------------------------------------------------


def _outside() -> list[Outside]:
    """Published speed-ups beside those of the chips as they are, whatever the bench changes."""
    aim, hbm = preset("gddr6-aim"), preset("hbm-pim")
    small = simulate(linear(1, 4096, 4096, dtype="bf16", bias=False), aim)
    inside_s = max(float(small.bounds_s["in_memory"][0]), float(small.bounds_s[aim.in_memory_level][0]))
    ideal_s = float(small.trace.weight_bytes[0]) / float(aim.outer.bandwidth_bytes_per_s)
    large = pair(linear(1, 8192, 8192, dtype="fp16", bias=False), hbm)
    speech = pair(network("deep-speech-2", batch=1, dtype="fp16"), hbm)
    recurrent = pair(trace_of("fp16"), hbm.replace(FIXED))
    micro = (
        "Kim et al., Aquabolt-XL HBM2-PIM, LPDDR5-PIM With In-Memory Processing, and AXDIMM With Acceleration Buffer, "
        "IEEE Micro 42(3), 2022, abstract"
    )
    return [
        Outside(
            what="matrix times vector in memory against a processor that only waits for its external bandwidth",
            published=10.0,
            computed=ideal_s / inside_s,
            unit="times",
            source="He et al., Newton: A DRAM-maker's Accelerator-in-Memory (AiM) Architecture for Machine Learning, "
            "MICRO 2020: average over layers of LSTMs, Transformers and others, as noted here, not checked against the "
            "paper again",
            note="Newton is the architecture behind GDDR6-AiM, on HBM2E. Here 4096 x 4096 on gddr6-aim, without the "
            "launch; 16 times the bandwidth less the time to open and close pages.",
        ),
        Outside(
            what="LSTM on an FPGA (Alveo U280) with HBM2-PIM against the same without",
            published=2.54,
            computed=recurrent.speedup,
            unit="times",
            source=micro,
            note="Here hbm-pim with launches and steps free, since an FPGA issues the steps of a loop itself; its two "
            "stacks and the size of its LSTM are not modelled.",
        ),
        Outside(
            what="matrix times vector on a GPU with HBM2-PIM against the same GPU without",
            published=8.9,
            computed=large.speedup,
            unit="times",
            source=micro,
            note="More than the four times its banks deliver: the rest is a GPU library that reaches a fraction of its "
            "bandwidth at one row, while the host modelled here reaches what it sustains in streams. "
            "Here 8192 x 8192 on an MI100.",
        ),
        Outside(
            what="speech recognition (DeepSpeech2) on a GPU with HBM2-PIM against the same GPU without",
            published=3.5,
            computed=speech.speedup,
            unit="times",
            source=f"{micro}; Lee et al., ISCA 2021",
            note="Short for the reason above, and because launches and dependent steps of the host, at what GPUs were "
            "measured to take, are most of the time here; the published host's are not known.",
        ),
        Outside(
            what="matrix times vector and a small classifier on GDDR6-AiM against systems with HBM2 or GDDR6",
            published=(7.5, 10.5),
            computed=ideal_s / inside_s,
            unit="times",
            source="Kwon et al., A 1ynm 1.25V 8Gb 16Gb/s/pin GDDR6-Based Accelerator-in-Memory, IEEE Journal of "
            "Solid-State Circuits 58(1), 2023, abstract: chips measured in a system with an FPGA",
            note="The same product and the same ideal reader as in the first row.",
        ),
    ]


STUDY = Study(
    name="compute-in-memory",
    title="Compute in memory: how far it moves the LSTM's roof",
    question="If the memory multiplies weights where they lie, is a recurrent network still held back by bandwidth?",
    claim="Compute in memory removes the bandwidth wall for recurrent networks.",
    setup=f"LSTMs of 2 x {SIZES[0]} to {SIZES[-1]} units over {STEPS} steps at batch 1 to {BATCHES[-1]}, one token and "
    f"the prefill of {LANGUAGE_MODEL} (cache of {CACHE} positions), on each chip without and with its units in memory. "
    "Each op runs where it takes least time: products with weights may run in memory, all else on the host, which "
    "also issues the commands. Vectors and results cross the interface. Each chip computes in a type that its host and "
    "its memory both multiply.",
    sources=(
        "Lee et al., Hardware Architecture and Software Stack for PIM Based on Commercial DRAM Technology, ISCA 2021",
        "Lee et al., A 1ynm 1.25V 8Gb, 16Gb/s/pin GDDR6-based Accelerator-in-Memory, ISSCC 2022",
        "Gomez-Luna et al., Benchmarking a New Paradigm, IEEE Access 10, 2022 (UPMEM)",
        "Zaremba, Sutskever and Vinyals, Recurrent Neural Network Regularization, 2014 (the LSTM's sizes)",
    ),
    run=run,
)
