"""Training cost: a recurrent network against attention, at equal parameters, at equal FLOP and in the same memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_grid, shortened
from reports.palette import CATEGORIES, GREY, INK
from reports.requests import substitute
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import span
from simulator import Accelerator, Result, simulate
from workloads import Trace, decoder_block, lstm, network, training
from workloads.networks import translation_network

CHIPS = ("v100-sxm", "a100-sxm-80gb", "h100-sxm", "tpu-v4")
HIDDEN = 1024
#: As many weights either way: 6 layers of 8 H^2, 4 blocks of 12 H^2.
LSTM_LAYERS, BLOCKS = 6, 4
LENGTHS = (64, 256, 1024, 4096, 16384)
BATCHES = (1, 4, 16, 64, 256, 1024)
#: The length at which batches are compared, and the batch at which lengths are.
LENGTH, BATCH = 256, 32
#: Slower by more than this share counts as slower.
MARGIN = 0.1
#: Waits of dependent steps and launches, which are set to nothing to see what is left.
WAITS = ("latency.launch_s", "latency.step_s", "latency.first_steps_s")


# -- the two networks --------------------------------------------------------------------------------


def recurrent(batch: int, length: int, dtype: str) -> Trace:
    return lstm(LSTM_LAYERS, HIDDEN, sequence_length=length, batch=batch, dtype=dtype)


def attending(batch: int, length: int, dtype: str) -> Trace:
    block = decoder_block(HIDDEN, HIDDEN // 64, sequence_length=length, batch=batch, dtype=dtype)
    return (block * BLOCKS).replace(name="attention")


@lru_cache(maxsize=256)
def trained(build: Callable, batch: int, length: int, dtype: str, recompute: bool = False) -> Trace:
    """One training step with Adam; fp32 weights beside the stored ones."""
    return training(build(batch, length, dtype), "adam", recompute=recompute)


def bytes_per_token(build: Callable, length: int, dtype: str, recompute: bool = False) -> float:
    """Activations kept for the backward pass."""
    return trained(build, BATCH, length, dtype, recompute).footprint()["saved"] / (BATCH * length)


def largest_batch(build: Callable, length: int, dtype: str, capacity_bytes: float) -> int:
    """The largest batch whose training step fits; 0 where none does. Memory grows in proportion to the batch."""
    one, two = (trained(build, batch, length, dtype).footprint()["total"] for batch in (BATCH, 2 * BATCH))
    each = (two - one) / BATCH
    return max(0, int((capacity_bytes - (one - BATCH * each)) / each))


def flops_per_s(result: Result) -> float:
    """All operations of a training step over its time."""
    return result.trace.total_flops / float(result.latency_s)


# -- numbers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pair:
    """A training step of each network on one chip at one length; batches may differ."""

    length: int
    lstm_batch: int
    attention_batch: int
    lstm: Result
    attention: Result
    without_waits_s: float  # the LSTM

    @property
    def lstm_s(self) -> float:
        """Time for each token. [s]"""
        return float(self.lstm.latency_s) / (self.lstm_batch * self.length)

    @property
    def attention_s(self) -> float:
        return float(self.attention.latency_s) / (self.attention_batch * self.length)

    @property
    def at_equal_parameters(self) -> float:
        """How many times as long the LSTM takes for a token."""
        return self.lstm_s / self.attention_s

    @property
    def at_equal_flop(self) -> float:
        """How many times as long the LSTM takes for a FLOP."""
        return flops_per_s(self.attention) / flops_per_s(self.lstm)

    @property
    def left_without_waits(self) -> float:
        """What of that is left where launches and dependent steps cost nothing."""
        return self.at_equal_flop * self.without_waits_s / float(self.lstm.latency_s)


@dataclass(frozen=True, eq=False)
class Found:
    """What one chip does: by batch at one length, by length at one batch, and by length in its whole memory."""

    chip: Accelerator
    dtype: str
    by_batch: dict[int, Pair]
    by_length: dict[int, Pair]
    filled: dict[int, Pair]

    @property
    def enough(self) -> int | None:
        """The smallest batch from which on the LSTM is within the margin, among those that fit."""
        near = [batch for batch, pair in self.by_batch.items() if pair.at_equal_flop <= 1 + MARGIN]
        slower = [batch for batch, pair in self.by_batch.items() if pair.at_equal_flop > 1 + MARGIN]
        after = [batch for batch in near if batch > max(slower, default=0)]
        return min(after, default=None)


def run(bench: Bench) -> Finding:
    found = [_on(chip) for chip in bench.chips(*CHIPS)]
    small = [one.chip.name for one in found if not one.by_batch]
    if small:
        raise StudyError(f"training-cost: no batch of {LENGTH} steps fits in the memory of {', '.join(small)}")
    return Finding(
        holds=_holds(found),
        verdict=_verdict(found),
        limits=_limits(found),
        numbers=_numbers(found),
        tables=[_batch_table(found), _memory_table(found)],
        charts=[_chart(found)],
        outside=_outside(bench),
    )


def _on(chip: Accelerator) -> Found:
    dtype = substitute("fp16", chip.dtypes)
    if dtype is None:
        raise StudyError(f"training-cost: {chip.name} has no element type as wide as fp16 to train in")
    capacity = float(np.min(list(chip.memory.values())[-1].capacity_bytes))
    unwaiting = chip.replace(dict.fromkeys(WAITS, 0.0))

    def pair(length: int, one: int, other: int) -> Pair:
        step = trained(recurrent, one, length, dtype)
        return Pair(
            length=length,
            lstm_batch=one,
            attention_batch=other,
            lstm=simulate(step, chip),
            attention=simulate(trained(attending, other, length, dtype), chip),
            without_waits_s=float(simulate(step, unwaiting).latency_s),
        )

    fits = {length: [largest_batch(b, length, dtype, capacity) for b in (recurrent, attending)] for length in LENGTHS}
    most = min(largest_batch(b, LENGTH, dtype, capacity) for b in (recurrent, attending))
    return Found(
        chip=chip,
        dtype=dtype,
        by_batch={batch: pair(LENGTH, batch, batch) for batch in BATCHES if batch <= most},
        by_length={length: pair(length, BATCH, BATCH) for length, fit in fits.items() if min(fit) >= BATCH},
        filled={length: pair(length, *fit) for length, fit in fits.items() if min(fit)},
    )


def _numbers(found: Sequence[Found]) -> dict[str, float]:
    numbers = {}
    for one in found:
        name = one.chip.name
        for batch, pair in one.by_batch.items():
            where = f"{name}, {LENGTH} steps, batch {batch}"
            numbers[f"{where}: times as long at equal parameters"] = pair.at_equal_parameters
            numbers[f"{where}: times as long at equal FLOP"] = pair.at_equal_flop
            numbers[f"{where}: times as long at equal FLOP without waits"] = pair.left_without_waits
        for length, pair in one.by_length.items():
            numbers[f"{name}, {length} steps, batch {BATCH}: times as long at equal FLOP"] = pair.at_equal_flop
        for length, pair in one.filled.items():
            where = f"{name}, {length} steps, memory filled"
            numbers[f"{where}: batch of the LSTM"] = pair.lstm_batch
            numbers[f"{where}: batch of attention"] = pair.attention_batch
            numbers[f"{where}: times as long at equal parameters"] = pair.at_equal_parameters
            numbers[f"{where}: times as long at equal FLOP"] = pair.at_equal_flop
    for label, build in (("LSTM", recurrent), ("attention", attending)):
        numbers[f"{label}: activations kept [bytes/token]"] = bytes_per_token(build, LENGTH, found[0].dtype)
        numbers[f"{label}: activations kept, recomputed [bytes/token]"] = bytes_per_token(
            build, LENGTH, found[0].dtype, True
        )
    return numbers


# -- words -------------------------------------------------------------------------------------------


def _pairs(found: Sequence[Found]) -> list[Pair]:
    return [pair for one in found for way in (one.by_batch, one.by_length, one.filled) for pair in way.values()]


def _holds(found: Sequence[Found]) -> str:
    slower = [pair.at_equal_flop > 1 + MARGIN for pair in _pairs(found)]
    if slower and all(slower):
        return "holds"
    return "holds in part" if any(slower) else "does not hold"


def _verdict(found: Sequence[Found]) -> str:
    batches = set.intersection(*(set(one.by_batch) for one in found))
    small, large = min(batches), max(batches)
    thin = [one.by_batch[small] for one in found]
    left = [pair.left_without_waits for pair in thin]
    text = (
        f"At {LENGTH} steps and batch {small:,} the LSTM takes {span([p.at_equal_flop for p in thin])} times as "
        f"long for a FLOP as attention with as many parameters; {span(left)} times were its launches and dependent "
        f"steps free, since each step's products are as thin as the batch. At batch {large:,}, the largest tried "
        f"that fits on all, it takes {span([one.by_batch[large].at_equal_flop for one in found])} times as long. "
    )
    lengths = set.intersection(*(set(one.filled) for one in found))
    if lengths:
        ends = [(end, [one.filled[end].at_equal_flop for one in found]) for end in (min(lengths), max(lengths))]
        text += (
            f"With memory filled it takes {span(ends[0][1])} times as long at {ends[0][0]:,} steps and "
            f"{span(ends[1][1])} times at {ends[1][0]:,}: the activations of all steps are kept, so a longer sequence "
            "leaves a smaller batch."
        )
    return text


def _limits(found: Sequence[Found]) -> str:
    enough = {one.chip.name: one.enough for one in found}
    reached = [f"{name} from batch {batch:,}" for name, batch in enough.items() if batch]
    never = [name for name, batch in enough.items() if not batch]
    text = f"At {LENGTH} steps the LSTM comes within {MARGIN:.0%} of attention, for a FLOP, on "
    text += f"{', '.join(reached)}" if reached else "none of these chips"
    text += f"; on {', '.join(never)} at no batch tried that fits. " if never and reached else ". "
    kept = [bytes_per_token(build, LENGTH, found[0].dtype) / 1e3 for build in (recurrent, attending)]
    again = [bytes_per_token(build, LENGTH, found[0].dtype, True) / 1e3 for build in (recurrent, attending)]
    more = "less" if kept[0] < kept[1] else "more"
    text += (
        f"The LSTM keeps {more} for its backward pass: {kept[0]:.0f} kB a token against {kept[1]:.0f} kB "
        f"({again[0]:.0f} and {again[1]:.0f} kB where layers are computed again). "
    )
    grown = [pair for one in found for pair in one.by_length.values()]
    if grown:
        longest = max(pair.length for pair in grown)
        parameters = [pair.at_equal_parameters for pair in grown if pair.length == longest]
        text += (
            f"At equal parameters attention does more work the longer the sequence: at {longest:,} steps and batch "
            f"{BATCH} the LSTM takes {span(parameters)} times as long for a token. "
        )
    masked = [one.chip.name for one in found if not one.chip.abilities.skips_masked]
    if masked:
        text += f"On {', '.join(masked)} attention computes what its causal mask hides, which helps the LSTM. "
    return f"{text}Quality reached for a FLOP is not computed here."


# -- tables, chart and what others measured ----------------------------------------------------------


def _interval_ms(result: Result) -> str:
    ends = result.latency_interval_s
    return "-" if ends is None else " to ".join(f"{float(end) * 1e3:.3g}" for end in ends)


def _batch_table(found: Sequence[Found]) -> Table:
    rows = [
        [
            *(one.chip.name, one.dtype, batch, float(pair.lstm.latency_s) * 1e3, _interval_ms(pair.lstm)),
            *(float(pair.attention.latency_s) * 1e3, _interval_ms(pair.attention)),
            *(100 * float(pair.lstm.utilisation), 100 * float(pair.attention.utilisation)),
            *(pair.at_equal_parameters, pair.at_equal_flop, pair.left_without_waits),
        ]
        for one in found
        for batch, pair in one.by_batch.items()
    ]
    times = ["LSTM [ms]", "its 80 % interval [ms]", "attention [ms]", "80 % interval of that [ms]"]
    ratios = ["times as long, equal parameters", "times as long, equal FLOP", "of that without waits"]
    return Table(
        caption=f"A training step of {LENGTH} steps or positions by batch; those that fit in memory",
        columns=["chip", "type", "batch", *times, "LSTM utilisation [%]", "attention utilisation [%]", *ratios],
        rows=rows,
        formats={"batch": "{:,}"},
    )


def _memory_table(found: Sequence[Found]) -> Table:
    rows = [
        [
            *(one.chip.name, length, pair.lstm_batch, pair.attention_batch, pair.lstm_s * 1e6, pair.attention_s * 1e6),
            *(pair.at_equal_parameters, pair.at_equal_flop),
        ]
        for one in found
        for length, pair in one.filled.items()
    ]
    columns = ["chip", "steps", "batch, LSTM", "batch, attention", "LSTM [µs/token]", "attention [µs/token]"]
    return Table(
        caption="Each network at the largest batch that fits beside weights, gradients, moments and kept activations",
        columns=[*columns, "times as long, equal parameters", "times as long, equal FLOP"],
        rows=rows,
        formats={"steps": "{:,}", "batch, LSTM": "{:,}", "batch, attention": "{:,}"},
    )


def _outside(bench: Bench) -> list[Outside]:
    """Training rates on one V100: an LSTM translator, a Transformer, and how much faster a FLOP is in the second."""
    chip = bench.chip("v100-sxm")
    examples = "NVIDIA DeepLearningExamples, PyTorch/Translation"
    sources = {
        "gnmt": f"{examples}/GNMT/README.md at 0663b67 (2019): DGX-1, one V100 16 GB, batch 128",
        "transformer": f"{examples}/Transformer/README.md at 0053b4b (2019): DGX-1, one V100 16 GB, 2560 tokens",
    }
    eager = "eager PyTorch, whose dropout, casts, input and loss are not in the trace"
    found = []
    for dtype, words, tokens in (("fp32", 21346, 7635), ("fp16", 66050, 23821)):
        gnmt = training(translation_network(4, 1024, 32000, sequence_length=30, batch=128, dtype=dtype), "adam")
        big = training(network("transformer-big", batch=51, seq_len=50, dtype=dtype, fused=False), "adam")
        one, other = simulate(gnmt, chip), simulate(big, chip)
        rates = 2 * 128 * 30 / float(one.latency_s), 51 * 50 / float(other.latency_s)
        published = (tokens * big.total_flops / (51 * 50)) / (words * gnmt.total_flops / (2 * 128 * 30))
        setting = {"fp32": "fp32", "fp16": "mixed precision"}[dtype]
        found += [
            Outside(
                what=f"training of a GNMT with 4 and 4 LSTM layers, {setting}, one V100",
                published=words,
                computed=rates[0],
                unit="tokens/s, source and target",
                source=sources["gnmt"],
                note=f"{eager}; 30 words a sentence assumed",
            ),
            Outside(
                what=f"training of Transformer-big, {setting}, one V100",
                published=tokens,
                computed=rates[1],
                unit="tokens/s, target",
                source=sources["transformer"],
                note=f"{eager}; 51 sentences of 50 tokens assumed",
            ),
            Outside(
                what=f"FLOP/s of Transformer-big over FLOP/s of GNMT in training, {setting}, one V100",
                published=published,
                computed=flops_per_s(other) / flops_per_s(one),
                unit="",
                source=f"{sources['gnmt']}; {sources['transformer']}",
                note="published rates times the FLOP a token that the traces count",
            ),
        ]
    return found


def _chart(found: Sequence[Found]) -> Chart:
    ends = []
    for one in found:
        if one.by_batch:
            batches = min(one.by_batch), max(one.by_batch)
            ratios = [f"{one.by_batch[batch].at_equal_flop:.3g} at batch {batch:,}" for batch in batches]
            ends.append(f"{one.chip.name} {' and '.join(ratios)}")
    return Chart(
        draw=lambda: draw(found),
        alt=(
            "Two panels of the time a training step of an LSTM takes for a FLOP over that of attention with as many "
            f"parameters. Left, against the batch at {LENGTH} steps: {'; '.join(ends)}. Right, against the length with "
            "each network at the largest batch that fits in memory."
        ),
        caption=(
            f"Training time for a FLOP, LSTM ({LSTM_LAYERS} layers of {HIDDEN}) over attention ({BLOCKS} blocks of "
            f"{HIDDEN}), as many parameters, Adam. Left: {LENGTH} steps. Right: each at the largest batch that fits. "
            f"Open markers: launches and dependent steps taken as free."
        ),
        source="training steps of both networks on the chips named",
    )


def draw(found: Sequence[Found]):
    """The ratio at equal FLOP against batch and against length."""
    from matplotlib.ticker import LogLocator

    left, right = new_grid(1, 2, (3.7, 3.1))
    for number, one in enumerate(found):
        look = {"color": CATEGORIES[number % len(CATEGORIES)], "marker": "osD^vPX"[number % 7], "markersize": 4}
        line = {"linewidth": 1.3, "linestyle": ("-", "--", "-.")[number % 3], "label": shortened(one.chip.name, 24)}
        for ax, pairs in ((left, one.by_batch), (right, one.filled)):
            ax.plot(list(pairs), [pair.at_equal_flop for pair in pairs.values()], **look, **line)
        free = [pair.left_without_waits for pair in one.by_batch.values()]
        left.plot(list(one.by_batch), free, **look, markerfacecolor="none", linewidth=0.8, linestyle=":")
    for ax, label, ticks in ((left, "batch", BATCHES), (right, "steps in a sequence", LENGTHS)):
        ax.axhline(1.0, color=GREY, linewidth=1.0, linestyle="--", zorder=1)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.set_xlabel(label, fontsize=FONT_SIZE)
        ax.set_ylabel("time for a FLOP, LSTM / attention", fontsize=FONT_SIZE)
        ax.tick_params(labelsize=LABEL_SIZE)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.grid(True, which="major", color=GREY, alpha=0.25, linewidth=0.5)
    left.text(0.02, 1.0, "as fast", fontsize=LABEL_SIZE, color=INK, va="bottom", transform=left.get_yaxis_transform())
    right.text(
        0.98,
        1.0,
        "as fast",
        fontsize=LABEL_SIZE,
        color=INK,
        va="top",
        ha="right",
        transform=right.get_yaxis_transform(),
    )
    left.set_title(f"{LENGTH} steps", fontsize=FONT_SIZE + 1)
    right.set_title("largest batch that fits", fontsize=FONT_SIZE + 1)
    left.legend(fontsize=LABEL_SIZE - 0.5, frameon=False, loc="upper right")
    return left.figure


STUDY = Study(
    name="training-cost",
    title="Training cost: recurrent against attention",
    question=(
        "How much longer does it take to train a recurrent network than attention of equal parameters or equal FLOP, "
        "and what do the activations of all steps leave of the memory?"
    ),
    claim="Training recurrent networks is slower for equal work, because their steps follow one another.",
    setup=(
        f"An LSTM of {LSTM_LAYERS} layers and causal attention of {BLOCKS} blocks, both {HIDDEN} wide: 8 x "
        f"{LSTM_LAYERS} and 12 x {BLOCKS} squares of the width, as many parameters; no vocabulary. A step of "
        f"training: forward, gradients, Adam, 16-bit types with fp32 weights beside them; weight gradients of all "
        f"steps are one product. By batch at {LENGTH} steps, by length at batch {BATCH}, and by length at the "
        f"largest batch that fits in memory. Equal FLOP: times are divided by the operations done, as if one network "
        f"were made deeper or shallower."
    ),
    sources=(
        "Culurciello: The fall of RNN / LSTM, Towards Data Science, 13 April 2018 (the argument)",
        "Vaswani et al.: Attention Is All You Need, arXiv:1706.03762 (2017), section 4",
        "Appleyard, Kocisky, Blunsom: Optimizing Performance of Recurrent Neural Networks on GPUs, arXiv:1604.01946 "
        "(2016)",
        "NVIDIA DeepLearningExamples, PyTorch/Translation/GNMT and Transformer, README.md (training performance)",
    ),
    run=run,
)
