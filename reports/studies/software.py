"""How much software wins back for an LSTM: merged gates, fused cells, the wavefront, persistent weights, batching."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_panels
from reports.palette import CATEGORIES, INK
from reports.requests import substitute
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import between, listed, three_digits
from simulator import Accelerator, Result, preset, simulate
from workloads import Trace, lstm, rnn
from workloads.libraries import Call, merged_gates, separate_cells, separate_gates

CHIPS = ("v100-sxm", "a100-sxm-80gb", "h100-sxm")
LAYERS, STEPS, HIDDEN, BATCHES = 4, 100, (512, 1024, 2048), (1, 64)
#: The network of the chart and of the first table.
SHOWN, ALONE, MANY = 1024, 1, 64
#: Batches of the second chart.
SWEPT = (1, 4, 16, 64, 256, 1024)
#: Shares of the matrix peak below which the units count as idle.
IDLE = 0.25

SAMPLE = "NVIDIA-developer-blog/code-samples (GitHub), posts/rnn/LSTM.cu, 2016"
#: The cell as the sample's LSTM_elementwise_unfused launches it; the second bias and the second copy of the result
#: move bytes, their FLOP are those of the first. Source: SAMPLE.
SAMPLE_CELL = (
    *(Call(f"add input of {gate}", 1, 0, 2, 1) for gate in "ifgo"),
    *(Call(f"bias of {gate}", 1, 0, 1, 1) for gate in "ifgo"),
    *(Call(f"second bias of {gate}", 0, 0, 1, 1) for gate in "ifgo"),
    *(Call(f"nonlinearity of {gate}", 0, 1, 1, 1) for gate in "ifgo"),
    Call("forget", 1, 0, 2, 1),
    Call("i times g", 1, 0, 2, 1),
    Call("add to c", 1, 0, 2, 1),
    Call("copy c", 0, 0, 1, 1),
    Call("tanh of c", 0, 1, 1, 1),
    Call("output for the next step", 0, 0, 2, 1),
    Call("output for the next layer", 1, 0, 2, 1),
)
#: Registers of a multiprocessor: 64 Ki of 32 bits, from Kepler to Hopper (NVIDIA CUDA C++ Programming Guide, technical
#: specifications by compute capability).
REGISTER_BYTES = 65536 * 4
#: Accesses to the level all units share in which a persistent kernel passes a step: write h, arrive, leave, read h.
#: Assumed: nothing measured is at hand.
BARRIER_ACCESSES = 4
#: What weights in registers do not cost.
WAITS = ("operand_macs", "split_cycles", "loop_cycles_per_byte", "narrow_loop_cycles_per_byte", "prologue_cycles")
FREE = 1e3


@dataclass(frozen=True)
class Stage:
    """One more thing the software does; `trace` of hidden, batch and element type, and the chip it runs on."""

    name: str
    trace: Callable[[int, int, str], Trace]
    chip: Callable[[Accelerator], Accelerator]


def _lstm(hidden: int, batch: int, dtype: str, **settings) -> Trace:
    return lstm(LAYERS, hidden, sequence_length=STEPS, batch=batch, dtype=dtype, **settings)


@functools.cache
def _gate_by_gate(hidden: int, batch: int, dtype: str) -> Trace:
    return _lstm(hidden, batch, dtype, hoist_input=False, merge_gates=False)


def one_at_a_time(chip: Accelerator) -> Accelerator:
    """The chip, one op after another."""
    return chip.replace({"abilities.concurrent_ops": 1})


def persistent(chip: Accelerator) -> Accelerator:
    """The chip with a kernel that runs all steps of a layer, its weights in registers as far as they fit.

    One launch; a step ends at a barrier; weights beside the units cost no issue slots, no operand feed and no wait, and
    partial sums no second kernel. Chips that keep weights without it (compiled loops) stay as they are.

    Ref.: Diamos et al., Persistent RNNs, ICML 2016: registers hold the weights of a layer, its steps are one launch.
    """
    if chip.abilities.persistent_recurrence or chip.matrix.dataflow != "output-stationary":
        return chip
    nearest, shared = next(iter(chip.memory)), next(x for x in chip.memory.values() if x.scope == "chip")
    changes = {
        f"memory.{nearest}.capacity": chip.vector.count * (chip.vector.register_bytes or REGISTER_BYTES),
        f"memory.{nearest}.keeps_weights": True,
        f"memory.{nearest}.keeps_parts": True,
        f"memory.{list(chip.memory)[-1]}.latency": 0.0,
        "abilities.persistent_recurrence": True,
        "abilities.fuses_elementwise": True,
        "latency.step": BARRIER_ACCESSES * shared.latency_s,
        "latency.first_steps": 0.0,
        "latency.first_steps_s": 0.0,
        "matrix.feed_bytes_per_cycle": FREE * chip.matrix.feed_bytes_per_cycle,
    }
    changes |= {f"matrix.{name}": 0.0 for name in WAITS if chip.fields.get(f"matrix.{name}") is not None}
    return chip.replace(changes)


def _same(chip: Accelerator) -> Accelerator:
    return chip


STAGES = (
    Stage(
        "a kernel an op",
        lambda *sizes: separate_cells(separate_gates(_gate_by_gate(*sizes)), {4: SAMPLE_CELL}),
        one_at_a_time,
    ),
    Stage(
        "merged gates",
        lambda *sizes: separate_cells(merged_gates(_gate_by_gate(*sizes)), {4: SAMPLE_CELL}),
        one_at_a_time,
    ),
    Stage("two streams", lambda *sizes: separate_cells(merged_gates(_gate_by_gate(*sizes)), {4: SAMPLE_CELL}), _same),
    Stage("fused cell", lambda *sizes: merged_gates(_gate_by_gate(*sizes)), _same),
    Stage("hoisted input", _lstm, _same),
    Stage("wavefront", lambda *sizes: _lstm(*sizes, wavefront=True), _same),
    Stage("persistent", _lstm, persistent),
)
HOISTED = next(stage for stage in STAGES if stage.name == "hoisted input")
#: The last that the published optimisations reach without a persistent kernel.
LIBRARY = next(stage for stage in STAGES if stage.name == "wavefront")


@functools.cache
def _trace(stage: Stage, hidden: int, batch: int, dtype: str) -> Trace:
    return stage.trace(hidden, batch, dtype)


class _OnChip:
    """Results of every stage on one chip, each computed once."""

    def __init__(self, chip: Accelerator):
        dtype = substitute("fp16", chip.dtypes)
        if dtype is None:
            raise StudyError(f"software: {chip.name} has no float type of 16 bits or more")
        self.chip, self.dtype, self._found = chip, dtype, {}
        self._chips = {stage.name: stage.chip(chip) for stage in STAGES}

    def result(self, stage: Stage, hidden: int, batch: int) -> Result:
        key = stage.name, hidden, batch
        if key not in self._found:
            self._found[key] = simulate(_trace(stage, hidden, batch, self.dtype), self._chips[stage.name])
        return self._found[key]

    def step_s(self, stage: Stage, hidden: int, batch: int) -> float:
        """Time of a step of all layers. What the persistent kernel does before its steps is an ordinary product."""
        result = self.result(stage, hidden, batch)
        if stage is not STAGES[-1]:
            return float(result.latency_s) / STEPS
        ordinary = self.result(HOISTED, hidden, batch)
        before, after = (r.trace.op == "input product" for r in (ordinary, result))
        return float(ordinary.total_s[before].sum() + result.total_s[~after].sum()) / STEPS

    def best(self, hidden: int, batch: int) -> Stage:
        return min(STAGES, key=lambda stage: self.step_s(stage, hidden, batch))

    def gain(self, hidden: int, batch: int) -> float:
        """How many times as fast the best stage is as the first."""
        return self.step_s(STAGES[0], hidden, batch) / self.step_s(self.best(hidden, batch), hidden, batch)

    def waiting_saved(self, hidden: int, batch: int) -> float:
        """Share of the time saved that was launches, dependent steps and first accesses, one op after another."""
        first, best = (self.result(s, hidden, batch) for s in (STAGES[0], self.best(hidden, batch)))
        waits = [float(r.bounds_s["latency"] @ r.trace.repeats) for r in (first, best)]
        saved = float(first.serial_s - best.serial_s)
        return (waits[0] - waits[1]) / saved if saved else 0.0

    def utilisation(self, stage: Stage, hidden: int, batch: int) -> float:
        result = self.result(stage, hidden, batch)
        return float(result.utilisation * result.latency_s) / (STEPS * self.step_s(stage, hidden, batch))

    def resident(self, hidden: int) -> float:
        """Share of a layer's recurrent weights that the persistent kernel keeps."""
        result = self.result(STAGES[-1], hidden, ALONE)
        return float(np.nanmax(result.resident))


def run(bench: Bench) -> Finding:
    """Simulate every stage on every chip, and say what it brought."""
    chips = [_OnChip(chip) for chip in bench.chips(*CHIPS)]
    numbers = _numbers(chips)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers),
        limits=_limits(numbers, chips),
        numbers=numbers,
        tables=(_stage_table(chips), _gain_table(chips)),
        charts=(_stage_chart(chips), _batch_chart(chips)),
        outside=_outside(),
    )


def _numbers(chips: list[_OnChip]) -> Mapping[str, float]:
    every = [(chip, hidden, batch) for chip in chips for hidden in HIDDEN for batch in BATCHES]
    gains = [chip.gain(hidden, batch) for chip, hidden, batch in every]
    numbers = {
        "chips": len(chips),
        "gain_least": min(gains),
        "gain_most": max(gains),
        "library_gain_least": min(c.step_s(STAGES[0], h, b) / c.step_s(LIBRARY, h, b) for c, h, b in every),
        "library_gain_most": max(c.step_s(STAGES[0], h, b) / c.step_s(LIBRARY, h, b) for c, h, b in every),
    }
    saved = [chip.waiting_saved(hidden, batch) for chip, hidden, batch in every]
    numbers |= {"waiting_saved_least": min(saved), "waiting_saved_most": max(saved)}
    for batch in BATCHES:
        first = [c.utilisation(STAGES[0], h, b) for c, h, b in every if b == batch]
        best = [c.utilisation(c.best(h, b), h, b) for c, h, b in every if b == batch]
        numbers |= {f"first_utilisation_most_batch_{batch}": max(first)}
        numbers |= {f"utilisation_least_batch_{batch}": min(best), f"utilisation_most_batch_{batch}": max(best)}
    sequences = [c.step_s(c.best(h, ALONE), h, ALONE) * MANY / c.step_s(c.best(h, MANY), h, MANY)
                 for c in chips for h in HIDDEN]  # fmt: skip
    numbers |= {"batching_gain_least": min(sequences), "batching_gain_most": max(sequences)}
    for chip in chips:
        for hidden in HIDDEN:
            numbers[f"{chip.chip.name}_hidden_{hidden}_resident"] = chip.resident(hidden)
            for batch in BATCHES:
                for stage in STAGES:
                    name = f"{chip.chip.name}_hidden_{hidden}_batch_{batch}_{stage.name.replace(' ', '_')}_step_s"
                    numbers[name] = chip.step_s(stage, hidden, batch)
    return numbers


# -- words ---------------------------------------------------------------------------------------------


def _holds(n: Mapping[str, float]) -> str:
    if n[f"utilisation_most_batch_{MANY}"] < IDLE:
        return "holds"
    return "holds in part" if n[f"utilisation_most_batch_{ALONE}"] < IDLE else "does not hold"


def _span(low: float, high: float, scale: float = 1.0) -> str:
    one, other = (f"{float(f'{scale * end:.2g}'):g}" for end in (low, high))
    return between(one, other)


def _verdict(n: Mapping[str, float]) -> str:
    alone, many = (n[f"utilisation_most_batch_{batch}"] for batch in (ALONE, MANY))
    least = n[f"utilisation_least_batch_{MANY}"]
    first = (
        f"Software wins back {_span(n['gain_least'], n['gain_most'])} times on the same chip "
        f"({LAYERS} layers of {HIDDEN[0]} to {HIDDEN[-1]}, batch {ALONE} and {MANY}, "
        f"{n['chips']:.0f} chip{'s' if n['chips'] > 1 else ''}), "
        f"{_span(n['library_gain_least'], n['library_gain_most'])} times without a persistent kernel; "
        f"{_span(n['waiting_saved_least'], n['waiting_saved_most'], 100)} % of what is saved is launches and dependent "
        f"steps."
    )
    if alone < IDLE:
        second = f"The units stay idle all the same at batch {ALONE}: {100 * alone:.2g} % of their peak at best."
    else:
        second = f"At batch {ALONE} the units then reach {100 * alone:.2g} % of their peak at best."
    third = (
        f"A batch of {MANY} brings {_span(n['batching_gain_least'], n['batching_gain_most'])} times as many "
        f"sequences a second and {_span(least, many, 100)} % of the peak"
        f"{f', still below {100 * IDLE:.0f} %' if many < IDLE else ''}."
    )
    return f"{first} {second} {third}"


def _limits(n: Mapping[str, float], chips: list[_OnChip]) -> str:
    kept = []
    for chip in chips:
        whole = [hidden for hidden in HIDDEN if chip.resident(hidden) >= 1]
        kept.append(f"{chip.chip.name} {f'up to {max(whole)} units' if whole else 'at none of these sizes'}")
    useless = [
        f"{stage.name} ({chip.chip.name}, hidden {hidden}, batch {batch})"
        for chip in chips
        for hidden in HIDDEN
        for batch in BATCHES
        for before, stage in itertools.pairwise(STAGES)
        if chip.step_s(stage, hidden, batch) > 1.02 * chip.step_s(before, hidden, batch)
    ]
    harm = f"; in {len(useless)} of the cases one more stage slows the network, first {useless[0]}" if useless else ""
    return (
        f"Weights stay on chip whole (registers; the memory of a compiled loop): {', '.join(kept)} "
        f"({', '.join(sorted({chip.dtype for chip in chips}))}; {listed([str(h) for h in HIDDEN])} tried){harm}. The "
        "persistent kernel is optimistic: a barrier "
        f"is assumed to cost {BARRIER_ACCESSES} accesses to the shared cache, and registers are taken to hold nothing "
        f"but weights; it runs one layer after another. Before the fused cell each kernel is charged the launch and "
        f"the dependent step that were fitted to the recurrences of libraries, which is too much for the smallest (the "
        f"published gains are smaller). Forward only, {STEPS} steps; larger batches are in the chart."
    )


def _microseconds(chip: _OnChip, stage: Stage, hidden: int, batch: int) -> str:
    result = chip.result(stage, hidden, batch)
    text = three_digits(1e6 * chip.step_s(stage, hidden, batch))
    ends = None if stage is STAGES[-1] else result.latency_interval_s
    if ends is None:
        return text
    return f"{text} ({' to '.join(three_digits(1e6 * float(end) / STEPS) for end in ends)})"


def _stage_table(chips: list[_OnChip]) -> Table:
    rows = []
    for stage in STAGES:
        cells = []
        for c in chips:
            first, now = (c.step_s(s, SHOWN, ALONE) for s in (STAGES[0], stage))
            cells += [_microseconds(c, stage, SHOWN, ALONE), first / now]
        rows.append([stage.name, *cells])
    columns = [name for c in chips for name in (f"{c.chip.name} [us]", f"{c.chip.name}, times as fast")]
    return Table(
        caption=f"Time of a step of {LAYERS} layers of {SHOWN} at batch {ALONE} as the software does one thing more, "
        f"with the 80 % interval where the chip is calibrated (none of the persistent kernel).",
        columns=["stage", *columns],
        rows=rows,
    )


def _gain_table(chips: list[_OnChip]) -> Table:
    rows = []
    for chip in chips:
        for hidden in HIDDEN:
            for batch in BATCHES:
                best = chip.best(hidden, batch)
                first, last = chip.step_s(STAGES[0], hidden, batch), chip.step_s(best, hidden, batch)
                rows.append([chip.chip.name, hidden, batch, 1e6 * first, 1e6 * last, best.name, first / last,
                             100 * chip.utilisation(STAGES[0], hidden, batch),
                             100 * chip.utilisation(best, hidden, batch), 100 * chip.resident(hidden)])  # fmt: skip
    return Table(
        caption="First and best stage: time of a step, share of the matrix peak, and what a persistent kernel keeps.",
        columns=["chip", "hidden", "batch", "first [us]", "best [us]", "best stage", "times as fast",
                 "first [% of peak]", "best [% of peak]", "weights kept [%]"],
        rows=rows,
        formats={"hidden": "{:d}", "batch": "{:d}", "first [% of peak]": "{:.2g}", "best [% of peak]": "{:.2g}"},
    )  # fmt: skip


# -- charts --------------------------------------------------------------------------------------------

HATCHES = ("", "////", "....", "xxxx", "----", "||||", "++++")
MARKS, LINES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", "-.", ":")


def _stage_chart(chips: list[_OnChip]) -> Chart:
    times = {c.chip.name: [1e6 * c.step_s(stage, SHOWN, ALONE) for stage in STAGES] for c in chips}

    def draw():
        ax = new_panels(1, (3.5, 0.55 + 0.42 * len(STAGES) * max(1, len(chips) / 3)))[0]
        height = 0.84 / len(chips)
        for number, (name, line) in enumerate(times.items()):
            places = [i + (number - (len(chips) - 1) / 2) * height for i in range(len(STAGES))]
            bars = ax.barh(places, line, height * 0.94, label=name, color=CATEGORIES[number % 7],
                           hatch=HATCHES[number % 7], edgecolor="white", linewidth=0.3)  # fmt: skip
            for bar, value in zip(bars, line, strict=True):
                ax.annotate(three_digits(value), (value, bar.get_y() + bar.get_height() / 2), (2, 0),
                            textcoords="offset points", va="center", fontsize=LABEL_SIZE - 1.5)  # fmt: skip
        ax.set_yticks(range(len(STAGES)), [stage.name for stage in STAGES], fontsize=LABEL_SIZE)
        ax.set_ylim(len(STAGES) - 0.5, -0.5)
        ax.set(xscale="log", xlim=(1, 4 * max(max(line) for line in times.values())))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_xlabel(f"time of a step of {LAYERS} layers of {SHOWN} [µs], log scale", fontsize=FONT_SIZE)
        ax.tick_params(axis="x", labelsize=LABEL_SIZE)
        ax.spines[["top", "right"]].set_visible(False)
        ax.figure.legend(loc="outside upper center", ncols=3, fontsize=LABEL_SIZE, frameon=False)
        return ax.figure

    told = "; ".join(
        f"{name} from {three_digits(line[0])} to {three_digits(min(line))}" for name, line in times.items()
    )
    return Chart(
        draw=draw,
        alt=f"Bars: time of a step in microseconds as the software does one thing more, from a kernel for every op to "
        f"a persistent kernel, a bar a chip: {told}.",
        caption=f"What each stage of software leaves of the time of a step, {LAYERS} layers of {SHOWN}, batch {ALONE}; "
        f"stages add up from top to bottom, the last replaces the wavefront by one persistent kernel a layer.",
    )


def _batch_chart(chips: list[_OnChip]) -> Chart:
    chip = chips[-1]
    shown = (STAGES[0], LIBRARY, STAGES[-1])
    lines = {s.name: [100 * chip.utilisation(s, SHOWN, batch) for batch in SWEPT] for s in shown}

    def draw():
        ax = new_panels(1, (3.5, 2.6))[0]
        for number, (name, line) in enumerate(lines.items()):
            ax.plot(SWEPT, line, label=name, marker=MARKS[number], linestyle=LINES[number], color=CATEGORIES[number],
                    markersize=4, linewidth=1.2)  # fmt: skip
        ax.axhline(100 * IDLE, color=INK, linewidth=0.8, linestyle=":")
        ax.set(xscale="log", yscale="log", xticks=SWEPT)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_xlabel("batch [sequences at once]", fontsize=FONT_SIZE)
        ax.set_ylabel("matrix units used [% of peak]", fontsize=FONT_SIZE)
        ax.tick_params(labelsize=LABEL_SIZE)
        ax.grid(True, color="#E4E4E4", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.figure.legend(loc="outside upper center", ncols=3, fontsize=LABEL_SIZE, frameon=False)
        return ax.figure

    told = "; ".join(f"{name} from {line[0]:.2g} to {line[-1]:.2g} %" for name, line in lines.items())
    return Chart(
        draw=draw,
        alt=f"Share of the matrix peak on {chip.chip.title} against the batch from {SWEPT[0]} to {SWEPT[-1]}: {told}.",
        caption=f"What batching adds, {LAYERS} layers of {SHOWN} on {chip.chip.title}; dotted: {100 * IDLE:.0f} %.",
    )


# -- outside -------------------------------------------------------------------------------------------


def _outside() -> tuple[Outside, ...]:
    m40 = _OnChip(preset("m40"))
    stages = {stage.name: stage for stage in STAGES}
    first, fused, all_layers = (
        m40.step_s(stages[name], 512, 64) for name in ("a kernel an op", "fused cell", LIBRARY.name)
    )
    paper = "Appleyard, Kocisky, Blunsom, Optimizing Performance of Recurrent Neural Networks on GPUs, arXiv:1604.01946"
    layer = rnn(1, 1152, sequence_length=STEPS, batch=4, dtype="fp32", name="rnn")
    slow = simulate(layer, m40.chip)
    quick = simulate(layer, persistent(m40.chip))
    row = layer.op.tolist().index("recurrent product")
    steps = [float(r.total_s[r.trace.op != "input product"].sum()) for r in (slow, quick)]
    flops = float(layer.matrix_flops[row] * layer.repeats[row])
    diamos = "Diamos et al., Persistent RNNs: Stashing Recurrent Weights On-Chip, ICML 2016, abstract"
    return (
        Outside(
            what="4 layers of 512, batch 64, 100 steps with all optimisations but a persistent kernel, M40",
            published=27.807743,
            computed=1e3 * STEPS * all_layers,
            unit="ms",
            source=f"{SAMPLE}: run time stated for an M40",
            note="The sample's scheduler also pairs two steps of the input product.",
        ),
        Outside(
            what="all of them over a kernel an op, M40",
            published=11.1,
            computed=first / all_layers,
            unit="times",
            source=f"{paper}: an order of magnitude (abstract), 11.1 times in the table of the optimisations",
            note="The kernel an op is the sample's: 8 products and 23 elementwise kernels a layer and step.",
        ),
        Outside(
            what="merged gates, two streams and a fused cell over a kernel an op, M40",
            published=5.5,
            computed=first / fused,
            unit="times",
            source="Appleyard, Optimizing Recurrent Neural Networks in cuDNN 5, NVIDIA developer blog, 2016",
        ),
        Outside(
            what="rate of a persistent recurrent layer of 1152, batch 4, fp32",
            published=2.8,
            computed=flops / steps[1] / 1e12,
            unit="TFLOP/s",
            source=diamos,
            note="Published for a Titan X (Maxwell), computed for the M40 of the same die, whose clock is lower.",
        ),
        Outside(
            what="persistent kernel over a product a step, the same layer",
            published=15.0,
            computed=steps[0] / steps[1],
            unit="times",
            source="baidu-research/persistent-rnn (GitHub), README: about 15 times an RNN of cuBLAS products at a "
            "mini-batch of 4, Titan X; Diamos et al. state 30 for the first version, written in assembly",
        ),
    )  # fmt: skip


STUDY = Study(
    name="software",
    title="What software wins back for an LSTM",
    question="How much of what a recurrence wastes can better software win back on the same chip?",
    claim="Recurrent networks leave the units of a chip idle, whatever the software does.",
    setup=f"An LSTM of {LAYERS} layers of {HIDDEN[0]} to {HIDDEN[-1]} over {STEPS} steps in fp16, forward, from a "
    "kernel for every op through merged gates, two streams, a fused cell, the hoisted input product and the wavefront "
    "of layers to a persistent kernel that keeps a layer's weights in registers; then batches.",
    sources=(
        "Appleyard, Kocisky and Blunsom, Optimizing Performance of Recurrent Neural Networks on GPUs, "
        "arXiv:1604.01946, 2016",
        "Diamos et al., Persistent RNNs: Stashing Recurrent Weights On-Chip, ICML 2016",
        SAMPLE,
    ),
    run=run,
)
