"""Fewer bits: what a memory-bound network gains from fewer bytes, and a compute-bound one from faster units."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_panels
from reports.palette import CATEGORIES, INK
from reports.requests import substitute
from reports.studies.roots import first_above
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import between, count_of, counted, ranged, span, three_digits
from simulator import Accelerator, Result, preset, simulate
from workloads import Trace, linear, lstm, network
from workloads.trace import element_bytes

CHIPS = ("a100-sxm-80gb", "h100-sxm", "l4", "tpu-v5e", "jetson-agx-orin")
STEPS, POSITIONS, BATCHES, MOST_BATCH = 100, 2048, (1, 4, 16, 64, 256), 4096
#: Share of the time one bound must set for a network to count as its.
BOUND = 0.5
#: Share of the promised gain, on a logarithmic scale, that counts as reached.
REACHED = 0.7
#: Gain of 4-bit weights, ideally 4 times 16 bits, below which it counts as gone.
GONE = 2.0


@dataclass(frozen=True)
class Net:
    """A network as a function of batch and element types."""

    name: str
    trace: Callable[..., Trace]


NETS = (
    Net("LSTM 2 x 8192", functools.partial(lstm, 2, 8192, sequence_length=STEPS, hoist_input=False)),
    Net("LSTM 4 x 1024", functools.partial(lstm, 4, 1024, sequence_length=STEPS)),
    Net("decode", functools.partial(network, "opt-1.3b", mode="decode", cache_length=POSITIONS - 1)),
    Net("prefill", functools.partial(network, "opt-1.3b", mode="prefill", sequence_length=POSITIONS)),
)
LARGE, SMALL, DECODE, PREFILL = NETS

FULL, HALF, W8, W4, ALL8 = "fp32", "16-bit", "int8 weights", "int4 weights", "int8 throughout"
FORMATS = (FULL, HALF, W8, W4, ALL8)


@functools.cache
def _trace(net: Net, batch: int, dtype: str, weight_dtype: str) -> Trace:
    return net.trace(batch=batch, dtype=dtype, weight_dtype=weight_dtype)


class _OnChip:
    """Results of the networks in every format on one chip, each computed once."""

    def __init__(self, chip: Accelerator):
        half, full = substitute("bf16", chip.dtypes), substitute("fp32", chip.dtypes)
        if half is None:
            raise StudyError(f"quantisation: {chip.name} has no float type of 16 bits or more")
        narrow = next((d for d in ("int8", "fp8") if d in chip.dtypes), None)
        self.chip, self._found = chip, {}
        #: arithmetic and weight type of each format the chip runs
        self.types = {FULL: (full, full)} if full else {}
        self.types |= {HALF: (half, half), W8: (half, "int8"), W4: (half, "int4")}
        self.types |= {ALL8: (narrow, narrow)} if narrow else {}

    def result(self, net: Net, form: str, batch: int) -> Result:
        key = net, form, batch
        if key not in self._found:
            self._found[key] = simulate(_trace(net, batch, *self.types[form]), self.chip)
        return self._found[key]

    def time_s(self, net: Net, form: str, batch: int) -> float:
        return float(self.result(net, form, batch).latency_s)

    def gain(self, net: Net, form: str, batch: int) -> float:
        """How many times as fast as in 16 bits; nan where the chip does not run the format."""
        return self.time_s(net, HALF, batch) / self.time_s(net, form, batch) if form in self.types else float("nan")

    def share(self, net: Net, form: str, batch: int, *bounds: str) -> float:
        """Share of the time set by one of `bounds`."""
        shares = self.result(net, form, batch).time_share_by_bound()
        return sum(float(shares.get(bound, 0.0)) for bound in bounds)

    def kind(self, net: Net, batch: int = 1) -> str:
        """What sets most of the time in 16 bits: "memory" (the farthest), "units", "latency" or "other"."""
        kinds = {"memory": (list(self.chip.memory)[-1],), "units": ("matrix",), "latency": ("latency",)}
        for name, bounds in kinds.items():
            if self.share(net, HALF, batch, *bounds) >= BOUND:
                return name
        return "other"

    def promised(self, net: Net, form: str, batch: int = 1) -> float:
        """What the format promises: the ratio of bytes from the farthest memory, or of peaks where units bind."""
        if self.kind(net, batch) == "units":
            return _peak(self, form) / _peak(self, HALF)
        return self.moved_bytes(net, HALF, batch) / self.moved_bytes(net, form, batch)

    def moved_bytes(self, net: Net, form: str, batch: int) -> float:
        result = self.result(net, form, batch)
        return float(result.traffic_bytes[list(self.chip.memory)[-1]] @ result.trace.runs)

    def reached(self, net: Net, form: str, batch: int = 1) -> float:
        """log gain over log promise: 1 where it is kept."""
        return float(np.log(self.gain(net, form, batch)) / np.log(self.promised(net, form, batch)))

    def gone_at(self, net: Net) -> float:
        """Batch from which 4-bit weights are less than `GONE` times as fast as 16 bits; inf: nowhere tried."""
        found = first_above(lambda b: np.log(GONE / self.gain(net, W4, b)), 1, MOST_BATCH, 0.01)
        return float("inf") if found is None else float(found)

    def resident(self, net: Net, form: str) -> float:
        """Share of the recurrent weights kept on chip between steps; nan where there are none."""
        shares = self.result(net, form, 1).resident
        return float(np.nanmax(shares)) if np.isfinite(shares).any() else float("nan")


def _peak(chip: _OnChip, form: str) -> float:
    return float(chip.chip.peak_flops_per_s(chip.types[form][0]))


def run(bench: Bench) -> Finding:
    """Simulate every network in every format, and say what it gained."""
    chips = [_OnChip(chip) for chip in bench.chips(*CHIPS)]
    gone = {(chip.chip.name, net.name): chip.gone_at(net) for chip in chips for net in (LARGE, DECODE)}
    numbers = _numbers(chips, gone)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers),
        limits=_limits(numbers, chips),
        numbers={name: float(value) for name, value in numbers.items() if np.isfinite(value)},  # none: at no size
        tables=(_gain_table(chips), _stop_table(chips, gone)),
        charts=(_batch_chart(chips[0]), _chip_chart(chips)),
        outside=_outside(),
    )


def _numbers(chips: list[_OnChip], gone: Mapping[tuple, float]) -> Mapping[str, float]:
    cases = [(chip, net) for chip in chips for net in NETS]
    memory = [(c, n) for c, n in cases if c.kind(n) == "memory"]
    all_units = [(c, n) for c, n in cases if c.kind(n) == "units"]
    units = [(c, n) for c, n in all_units if ALL8 in c.types and c.promised(n, ALL8) > 1]
    waits = [(c, n) for c, n in cases if c.kind(n) in ("latency", "other")]
    numbers = {"cases": len(cases), "memory_bound": len(memory), "unit_bound": len(units), "waiting": len(waits)}
    numbers["unit_bound_alike"] = len(all_units) - len(units)
    for name, found, form in (("memory", memory, W4), ("units", units, ALL8)):
        for what, of in (("gain", _OnChip.gain), ("promise", _OnChip.promised), ("reached", _OnChip.reached)):
            values = [of(c, n, form, 1) for c, n in found] or [float("nan")]
            numbers |= {f"{name}_{what}_least": min(values), f"{name}_{what}_most": max(values)}
    for name, found, form in (("units_int4", units, W4), ("waiting_int4", waits, W4), ("memory_int8", memory, ALL8)):
        values = [c.gain(n, form, 1) for c, n in found if form in c.types] or [float("nan")]
        numbers |= {f"{name}_gain_least": min(values), f"{name}_gain_most": max(values)}
    for (chip, net), batch in gone.items():
        numbers[f"{chip}_{net.replace(' ', '_')}_gone_batch"] = batch
    for c, n in cases:
        for form in c.types:
            numbers[f"{c.chip.name}_{n.name.replace(' ', '_')}_{form.replace(' ', '_')}_s"] = c.time_s(n, form, 1)
    return numbers


# -- words ---------------------------------------------------------------------------------------------


def _holds(n: Mapping[str, float]) -> str:
    both = [n[f"{name}_reached_least"] for name in ("memory", "units")]
    if all(value >= REACHED for value in both):
        return "holds"
    best = [n[f"{name}_reached_most"] for name in ("memory", "units")]
    return "holds in part" if any(value >= REACHED for value in best) else "does not hold"


def _span(low: float, high: float) -> str:
    one, other = (f"{low:.2f}", f"{high:.2f}") if max(low, high) < 10 else (f"{low:.3g}", f"{high:.3g}")
    return between(one, other)


def _percent(n: Mapping[str, float], group: str) -> str:
    one, other = (f"{100 * n[f'{group}_reached_{end}']:.0f}" for end in ("least", "most"))
    return between(one, other)


def _of(n: Mapping[str, float], name: str) -> str:
    return _span(n[f"{name}_least"], n[f"{name}_most"])


def _verdict(n: Mapping[str, float]) -> str:
    sentences = []
    if n["memory_bound"]:
        sentences.append(
            f"The memory sets most of the time in {count_of(n['memory_bound'], n['cases'])} cases at batch 1: weights "
            f"of 4 bits move {_of(n, 'memory_promise')} times fewer bytes than 16 and run {_of(n, 'memory_gain')} "
            f"times as fast."
        )
    else:
        sentences.append(f"The memory sets most of the time in none of {n['cases']} cases at batch 1.")
    if n["unit_bound"]:
        sentences.append(
            f"In {n['unit_bound']} the units do: 8-bit units with {_of(n, 'units_promise')} times the peak bring "
            f"{_of(n, 'units_gain')} times, 4-bit weights alone {_of(n, 'units_int4_gain')}."
        )
    if n["unit_bound_alike"]:
        sentences.append(f"In {n['unit_bound_alike']} the units do, and 8 bits are no faster there.")
    if n["waiting"]:
        sentences.append(
            f"In the other {n['waiting']} launches and dependent steps, or memory on the chip, set it: 4-bit weights "
            f"bring {_of(n, 'waiting_int4_gain')} times."
        )
    kept = [
        f"{_percent(n, group)} % {text}"
        for group, text, cases in (
            ("memory", "where memory binds", n["memory_bound"]),
            ("units", "where the units do", n["unit_bound"]),
        )
        if cases
    ]
    if kept:
        sentences.append(
            f"On a logarithmic scale that is {' and '.join(kept)} of what the ratio of bytes or of peaks promises "
            f"({100 * REACHED:.0f} % counts as kept): what is left once the bytes are gone, launches, steps and the "
            f"cache, does not shrink with the weights."
        )
    return " ".join(sentences)


def _limits(n: Mapping[str, float], chips: list[_OnChip]) -> str:
    gone = {
        net: [n[f"{c.chip.name}_{net.name.replace(' ', '_')}_gone_batch"] for c in chips] for net in (LARGE, DECODE)
    }
    small = [c.gain(SMALL, W4, 1) for c in chips]
    waits = [c.share(SMALL, W4, 1, "latency") for c in chips]
    kept = [c.chip.name for c in chips if c.resident(SMALL, HALF) < 1 <= c.resident(SMALL, W4)]
    instead = {c.chip.name: c.types[HALF][0] for c in chips if element_bytes(c.types[HALF][0]) != 2}
    wide = "".join(f"; {name} runs {dtype} where 16 bits are meant" for name, dtype in instead.items())
    grown = (
        f"on {', '.join(kept)} its weights fit on chip in 4 bits and not in 16"
        if kept
        else "on no chip do 4 bits decide whether its weights stay on chip"
    )
    return (
        f"The gain of 4-bit weights falls below {GONE:g} {_batches(gone[LARGE])} for {LARGE.name} and "
        f"{_batches(gone[DECODE])} for decode, whose cache of 16-bit keys does not shrink. {SMALL.name} gains "
        f"{_span(min(small), max(small))} times at batch 1: {_span(100 * min(waits), 100 * max(waits))} % of its time "
        f"in 4 bits is launches and steps, and {grown}. Scales and zero points, and the work of unpacking narrow "
        f"weights, are not counted{wide}; constants of calibrated chips were fitted to 16 and 32 bits."
    )


def _batches(values: list[float]) -> str:
    finite = [v for v in values if np.isfinite(v)]
    if not finite:
        return f"at no batch up to {MOST_BATCH}"
    missed = len(values) - len(finite)
    text = f"at a batch of {span(finite, '{:.0f}')}"
    return f"{text} (at none up to {MOST_BATCH} on {counted(missed, 'chip')})" if missed else text


def _milliseconds(result: Result) -> str:
    ends = result.latency_interval_s
    text = three_digits(1e3 * float(result.latency_s))
    return text if ends is None else f"{text} ({ranged([1e3 * end for end in ends])})"


def _gain_table(chips: list[_OnChip]) -> Table:
    rows = []
    for c in chips:
        for net in NETS:
            gains = [f"{c.gain(net, f, 1):.2f}" if f in c.types else "none" for f in FORMATS if f != HALF]
            rows.append([c.chip.name, net.name, c.kind(net), _milliseconds(c.result(net, HALF, 1)), *gains,
                         c.promised(net, W4), c.promised(net, ALL8) if ALL8 in c.types else "none"])  # fmt: skip
    return Table(
        caption="Batch 1: what sets most of the time in 16 bits, that time (80 % interval where calibrated), how many "
        "times as fast each format is, and what 4-bit weights and 8 bits throughout promise: the ratio of bytes from "
        "the farthest memory, or of peaks where the units bind.",
        columns=["chip", "network", "bound by", "16-bit [ms]", *(f for f in FORMATS if f != HALF),
                 "promise, int4 weights", "promise, int8 throughout"],
        rows=rows,
        formats={"promise, int4 weights": "{:.2f}", "promise, int8 throughout": "{:.2f}"},
    )  # fmt: skip


def _stop_table(chips: list[_OnChip], gone: Mapping[tuple, float]) -> Table:
    rows = []
    for c in chips:
        batches = [gone[c.chip.name, net.name] for net in (LARGE, DECODE)]
        cells = ["none" if np.isinf(b) else f"{b:.0f}" for b in batches]
        kept = [100 * c.resident(SMALL, form) for form in (HALF, W8, W4)]
        ridge = _peak(c, HALF) / float(c.chip.outer.bandwidth_bytes_per_s)
        waits = [100 * c.share(SMALL, form, 1, "latency") for form in (HALF, W4)]
        rows.append([c.chip.name, ridge, *cells, *waits, *kept])
    return Table(
        caption=f"Where the gain stops: the batch from which 4-bit weights bring less than {GONE:g} times, beside the "
        f"ridge of the chip, and of {SMALL.name} the time set by launches and steps and the recurrent weights kept.",
        columns=["chip", "ridge [FLOP/byte]", f"{LARGE.name}: batch", "decode: batch", "waits, 16-bit [%]",
                 "waits, int4 weights [%]", "kept, 16-bit [%]", "kept, int8 weights [%]", "kept, int4 weights [%]"],
        rows=rows,
        formats={"ridge [FLOP/byte]": "{:.0f}"} | {
            f"{what}, {form} [%]": "{:.0f}" for what in ("waits", "kept") for form in (HALF, W8, W4)
            if (what, form) != ("waits", W8)
        },
    )  # fmt: skip


# -- charts --------------------------------------------------------------------------------------------

MARKS, LINES = ("o", "s", "^", "D", "v"), ("-", "--", "-.", ":")
HATCHES = ("", "////", "....", "xxxx")


def _batch_chart(chip: _OnChip) -> Chart:
    forms = [form for form in (W4, ALL8) if form in chip.types]
    lines = {(form, net.name): [chip.gain(net, form, b) for b in BATCHES] for form in forms for net in NETS}
    ideal = {W4: element_bytes(chip.types[HALF][0]) / element_bytes("int4")}
    ideal |= {ALL8: _peak(chip, ALL8) / _peak(chip, HALF)} if ALL8 in forms else {}

    def draw():
        axes = new_panels(len(forms), (3.5, 2.3))
        for ax, form in zip(axes, forms, strict=True):
            for number, net in enumerate(NETS):
                ax.plot(BATCHES, lines[form, net.name], label=net.name, marker=MARKS[number], markersize=4,
                        linestyle=LINES[number], color=CATEGORIES[number], linewidth=1.2)  # fmt: skip
            ax.axhline(1, color=INK, linewidth=0.8)
            ax.axhline(ideal[form], color=INK, linewidth=0.8, linestyle=":")
            ax.set(xscale="log", xticks=BATCHES, ylim=(0, None))
            ax.set_xticks([], minor=True)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
            ax.set_xlabel("batch [sequences at once]", fontsize=FONT_SIZE)
            ax.set_ylabel("times as fast as 16 bits", fontsize=FONT_SIZE)
            ax.set_title(form, fontsize=FONT_SIZE)
            ax.tick_params(labelsize=LABEL_SIZE)
            ax.grid(True, color="#E4E4E4", linewidth=0.6)
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=LABEL_SIZE, frameon=False)
        return axes[0].figure

    told = "; ".join(f"{form}, {name} from {line[0]:.2f} to {line[-1]:.2f}" for (form, name), line in lines.items())
    return Chart(
        draw=draw,
        alt=f"Gain over 16 bits on {chip.chip.title} against the batch from {BATCHES[0]} to {BATCHES[-1]}: {told}.",
        caption=f"Gain over 16 bits on {chip.chip.title}. Dotted: four times fewer bytes of weights (4-bit weights), "
        f"the ratio of peaks (8 bits throughout).",
    )


def _chip_chart(chips: list[_OnChip]) -> Chart:
    gains = {net.name: [chip.gain(net, W4, 1) for chip in chips] for net in NETS}

    def draw():
        ax = new_panels(1, (3.5, 1.0 + 0.48 * len(chips)))[0]
        height = 0.84 / len(NETS)
        for number, (name, line) in enumerate(gains.items()):
            places = [i + (number - (len(NETS) - 1) / 2) * height for i in range(len(chips))]
            ax.barh(places, line, height * 0.92, label=name, color=CATEGORIES[number], hatch=HATCHES[number],
                    edgecolor="white", linewidth=0.3)  # fmt: skip
        for level in (1, 4):
            ax.axvline(level, color=INK, linewidth=0.8, linestyle="-" if level == 1 else ":")
        ax.set_yticks(range(len(chips)), [chip.chip.name for chip in chips], fontsize=LABEL_SIZE)
        ax.set_ylim(len(chips) - 0.5, -0.5)
        ax.set_xlabel("4-bit weights, batch 1: times as fast as 16 bits", fontsize=FONT_SIZE)
        ax.tick_params(axis="x", labelsize=LABEL_SIZE)
        ax.spines[["top", "right"]].set_visible(False)
        ax.figure.legend(loc="outside upper center", ncols=2, fontsize=LABEL_SIZE, frameon=False)
        return ax.figure

    told = "; ".join(f"{name} {_span(min(line), max(line))}" for name, line in gains.items())
    return Chart(
        draw=draw,
        alt=f"Bars: how many times as fast 4-bit weights are as 16 bits at batch 1 on "
        f"{counted(len(chips), 'chip')}: {told}.",
        caption="Gain of 4-bit weights over 16 bits at batch 1; dotted: four times fewer bytes of weights.",
    )


# -- outside -------------------------------------------------------------------------------------------


def _outside() -> tuple[Outside, ...]:
    """The batch up to which a kernel of 4-bit weights was measured to stay near four times."""
    chip, size, near = preset("a100-sxm-80gb"), 8192, 3.0

    def gain(rows: int) -> float:
        times = [
            float(simulate(linear(rows, size, size, bias=False, dtype="fp16", weight_dtype=w), chip).latency_s)
            for w in ("fp16", "int4")
        ]
        return times[0] / times[1]

    beyond = first_above(lambda rows: np.log(near / gain(rows)), 1, MOST_BATCH)
    source = "IST-DASLab/marlin (GitHub), README: FP16 x INT4 kernel, Frantar et al., arXiv:2408.11743"
    return (
        Outside(
            what=f"tokens at once up to which 4-bit weights stay near four times as fast ({near:g} times here)",
            published=(16.0, 32.0),
            computed=float((beyond or MOST_BATCH + 1) - 1),
            unit="tokens",
            source=source,
            note=f"Measured on an A10, computed for a product of {size} x {size} on an A100; both have about 150 FLOP "
            f"to a byte.",
        ),
        Outside(
            what="most that 4-bit weights bring over fp16, one token",
            published=4.0,
            computed=gain(1),
            unit="times",
            source=source,
            note="Near-ideal 4 times is what the kernel claims; launch and first access are counted here.",
        ),
    )


STUDY = Study(
    name="quantisation",
    title="Quantisation: fewer bytes and faster units",
    question="What do 8 and 4 bits bring a recurrent and an attention network, and where does it stop?",
    claim="A memory-bound network gains from fewer bytes what a compute-bound one gains from faster units.",
    setup=f"A large and a small LSTM over {STEPS} steps, and OPT 1.3B decoding one token after {POSITIONS - 1} cached "
    f"ones and reading a prompt of {POSITIONS}, in fp32, in 16-bit floats, with weights of 8 and 4 bits and 16-bit "
    "arithmetic and activations, and in 8 bits throughout where the chip has such units; forward, batch 1 and larger.",
    sources=(
        "Zhang et al., OPT, arXiv:2205.01068, 2022",
        "Frantar et al., GPTQ, arXiv:2210.17323, 2022: 4-bit weights with 16-bit arithmetic",
        "Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, "
        "CVPR 2018: 8 bits throughout",
    ),
    run=run,
)
