"""Prefill and one-token decode: where a constant state beats a growing cache, and where attention wins."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports.canvas import LABEL_SIZE, new_panels
from reports.palette import INK
from reports.requests import substitute
from reports.studies.lines import looks, style
from reports.studies.roots import first_above
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import between, on_chips, ranged, three_digits
from simulator import Accelerator, Result, preset, simulate
from workloads import Trace, transformer
from workloads.networks import recurrent_network

CHIPS = ("a100-sxm-80gb", "h100-sxm", "mi300x", "tpu-v4", "jetson-agx-orin")
#: Contexts and prompts at which tables are read; batches; furthest positions looked at.
CONTEXTS, PROMPTS, BATCHES = (4096, 32768), (512, 4096), (1, 16)
FURTHEST, LONGEST_PROMPT = 2**26, 2**24
#: How near crossings are found, as a share of themselves.
WITHIN = 1e-3
#: Sequences at once beyond which the LSTM is not tried.
MOST_BATCH = 8192
#: Positions a decode step has seen where the verdict is read, and the batch.
AT_CONTEXT, AT_BATCH = 4096, 16
#: Prompts from here on are searched for the length at which recurrence catches up.
SHORTEST = 64
VOCABULARY, HIDDEN = 32000, 4096
LSTM = "LSTM"


@dataclass(frozen=True)
class Decoder:
    """A decoder in the sizes of Llama 2 7B with so many key and value heads; `inner` keeps its parameters equal."""

    name: str
    kv_heads: int
    inner: int
    layers: int = 32

    @functools.cache  # noqa: B019 - two decoders, which live as long as the module
    def trace(self, positions: int, batch: int, dtype: str, mode: str) -> Trace:
        """`mode` decode: one token after `positions` cached ones; prefill: all `positions`."""
        sizes = {"sequence_length": positions}
        if mode == "decode":
            sizes = {"sequence_length": positions + 1, "cache_length": positions}
        return transformer(
            self.layers, HIDDEN, 32, VOCABULARY, kv_heads=self.kv_heads, inner=self.inner, gated=True,
            activation="silu", norm="rms", bias=False, positions="rotary", tied=False, logits="last", cache=True,
            batch=batch, mode=mode, dtype=dtype, name=self.name, **sizes,
        )  # fmt: skip

    def cache_bytes(self, width: float) -> float:
        """Keys and values of one position of one sequence, elements of `width` bytes."""
        return 2 * self.layers * self.kv_heads * 128 * width


#: Grouped heads leave 2 x 4096 x 3072 parameters a layer, which 2048 more inner features take (3 x 4096 x 2048).
FULL = Decoder("decoder, 32 KV heads", 32, 11008)
GROUPED = Decoder("decoder, 8 KV heads", 8, 11008 + 2048)
DECODERS = (FULL, GROUPED)


@functools.cache
def lstm_layers() -> int:
    """Layers of an LSTM, as wide, with the parameters of the decoder."""
    one, two = (_lstm(1, 1, "bf16", n, True).footprint()["weights"] for n in (1, 2))
    wanted = FULL.trace(1, 1, "bf16", "decode").footprint()["weights"]
    return round(1 + (wanted - one) / (two - one))


@functools.cache
def _lstm(steps: int, batch: int, dtype: str, layers: int, hoist: bool, wavefront: bool = False) -> Trace:
    return recurrent_network(
        layers, HIDDEN, sequence_length=steps, batch=batch, vocabulary=VOCABULARY, hoist_input=hoist,
        wavefront=wavefront, dtype=dtype, name=LSTM,
    )  # fmt: skip


@dataclass(frozen=True)
class _OnChip:
    """Simulated times of the networks on one chip, each computed once."""

    chip: Accelerator
    dtype: str

    def __hash__(self):
        return id(self)

    @functools.cache  # noqa: B019 - lives as long as the study runs
    def decode(self, decoder: Decoder, context: int, batch: int) -> Result:
        return simulate(decoder.trace(context, batch, self.dtype, "decode"), self.chip)

    @functools.cache  # noqa: B019
    def step(self, batch: int) -> Result:
        """One step of the LSTM, every layer one product over [x, h]."""
        return simulate(_lstm(1, batch, self.dtype, lstm_layers(), hoist=False), self.chip)

    @functools.cache  # noqa: B019
    def prefill(self, decoder: Decoder, prompt: int, batch: int) -> float:
        return float(simulate(decoder.trace(prompt, batch, self.dtype, "prefill"), self.chip).latency_s)

    @functools.cache  # noqa: B019
    def recurrence(self, steps: int, batch: int) -> float:
        """All steps of the LSTM, the input product hoisted, or as a wavefront where that is quicker for `PROMPTS`."""
        if steps in PROMPTS:
            return min(self._scheduled(steps, batch, wavefront) for wavefront in (False, True))
        plain, wavefront = (self._scheduled(PROMPTS[0], batch, choice) for choice in (False, True))
        return self._scheduled(steps, batch, wavefront < plain)

    @functools.cache  # noqa: B019
    def _scheduled(self, steps: int, batch: int, wavefront: bool) -> float:
        return float(simulate(_lstm(steps, batch, self.dtype, lstm_layers(), True, wavefront), self.chip).latency_s)

    # -- crossings ---------------------------------------------------------------------------------

    def slower_from(self, decoder: Decoder, batch: int, times: float, of: Callable[[Result], float]) -> float:
        """Context from which a decoded token costs more than `times` what a recurrent step does; inf: nowhere."""
        limit = times * of(self.step(batch))
        found = first_above(
            lambda context: np.log(of(self.decode(decoder, context, batch)) / limit), 1, FURTHEST, WITHIN
        )
        return float("inf") if found is None else float(found)

    def prefill_lost_at(self, batch: int) -> float:
        """Prompt from which attention over all positions takes longer than the recurrence; inf: nowhere."""

        def excess(n: int) -> float:
            return np.log(self.prefill(FULL, n, batch) / self.recurrence(n, batch))

        found = first_above(excess, SHORTEST, longest_prompt(batch), WITHIN)
        return float("inf") if found is None else float(found)

    def largest_batch(self, decoder: Decoder, context: int, width: float) -> int:
        """Sequences of `context` positions whose cache fits beside the weights."""
        room = self.chip.outer.capacity_bytes - self.decode(decoder, 1, 1).footprint["weights"]
        return int(max(0.0, room) // (decoder.cache_bytes(width) * (context + 1)))


def _latency(result: Result) -> float:
    return float(result.latency_s)


def _energy(result: Result) -> float:
    return float(result.energy_j)


def on(chip: Accelerator) -> _OnChip:
    """The networks on a chip, in bf16 or the nearest type it has. Raises `StudyError` where it has none."""
    dtype = substitute("bf16", chip.dtypes)
    if dtype is None:
        raise StudyError(f"prefill-and-decode: {chip.name} has no float type of 16 bits or more")
    return _OnChip(chip, dtype)


def longest_prompt(batch: int) -> int:
    """Positions up to which prompts are tried: the FLOP of one attention still fit a trace's 64 bits."""
    return LONGEST_PROMPT // math.isqrt(batch)


def state_bytes(width: float) -> float:
    """What the LSTM keeps of one sequence from step to step: h and c of each layer."""
    return 2 * lstm_layers() * HIDDEN * width


# -- the run -------------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    """Simulate, find the crossings, and say what they are."""
    chips = [on(chip) for chip in bench.chips(*CHIPS)]
    crossings = [_crossing(chip, decoder, batch) for chip in chips for decoder in DECODERS for batch in BATCHES]
    prefills = [_prefill(chip, batch) for chip in chips for batch in BATCHES]
    served = [_served(chip, decoder, context) for chip in chips for decoder in DECODERS for context in CONTEXTS]
    numbers = _numbers(chips, crossings, prefills, served)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers, chips),
        limits=_limits(numbers, crossings, prefills),
        numbers={name: float(value) for name, value in numbers.items() if np.isfinite(value)},  # none: at no size
        tables=(_sizes(), _decode_table(crossings), _prefill_table(prefills), _served_table(served)),
        charts=(_decode_chart(chips[0], crossings), _prefill_chart(chips, prefills)),
        outside=_outside(),
    )


def _crossing(chip: _OnChip, decoder: Decoder, batch: int) -> dict:
    step, token = chip.step(batch), chip.decode(decoder, AT_CONTEXT, batch)
    return {
        "chip": chip.chip,
        "decoder": decoder,
        "batch": batch,
        "step": step,
        "token": token,
        "slower": chip.slower_from(decoder, batch, 1.0, _latency),
        "twice": chip.slower_from(decoder, batch, 2.0, _latency),
        "energy": chip.slower_from(decoder, batch, 2.0, _energy),
        "apart": _apart(step, token),
    }


def _apart(step: Result, token: Result) -> bool | None:
    """Whether the 80 % intervals leave no doubt that the token takes longer; None where nothing was calibrated."""
    ends = step.latency_interval_s, token.latency_interval_s
    return None if None in ends else bool(ends[1][0] > ends[0][1])


def _prefill(chip: _OnChip, batch: int) -> dict:
    times = {n: (chip.prefill(FULL, n, batch), chip.recurrence(n, batch)) for n in PROMPTS}
    return {"chip": chip.chip, "batch": batch, "times": times, "lost": chip.prefill_lost_at(batch)}


def _served(chip: _OnChip, decoder: Decoder, context: int) -> dict:
    """Tokens a second at the largest batch the cache leaves room for, and of the LSTM in the time of such a step."""
    width = float(chip.decode(decoder, 1, 1).trace.footprint()["cache"]) / decoder.cache_bytes(1.0) / 2
    batch = chip.largest_batch(decoder, context, width)
    rate = float(chip.decode(decoder, context, batch).tokens_per_s) if batch else 0.0
    many = int(max(1.0, chip.chip.outer.capacity_bytes - chip.step(1).footprint["weights"]) // state_bytes(width))
    # the largest batch that answers within the time the decoder takes, and within memory
    limit = _latency(chip.decode(decoder, context, max(batch, 1)))
    most = max(2, min(many, MOST_BATCH))
    beyond = first_above(lambda b: np.log(_latency(chip.step(b)) / limit), 1, most, 0.01)
    recurrent = max(1, (beyond or most + 1) - 1)
    found = {"chip": chip.chip, "decoder": decoder, "context": context, "batch": batch, "rate": rate}
    return found | {"lstm batch": recurrent, "lstm rate": float(chip.step(recurrent).tokens_per_s)}


def _numbers(chips, crossings, prefills, served) -> Mapping[str, float]:
    at = [c for c in crossings if c["batch"] == AT_BATCH and c["decoder"] is FULL]
    grouped = [c for c in crossings if c["batch"] == AT_BATCH and c["decoder"] is GROUPED]
    single = [c for c in crossings if c["batch"] == 1 and c["decoder"] is FULL]
    speedups = [p["times"][PROMPTS[-1]][1] / p["times"][PROMPTS[-1]][0] for p in prefills if p["batch"] == 1]
    batched = [p["times"][PROMPTS[-1]][1] / p["times"][PROMPTS[-1]][0] for p in prefills if p["batch"] == AT_BATCH]
    ratios = [_latency(c["token"]) / _latency(c["step"]) for c in at]
    numbers = {
        "chips": len(chips),
        "prefill_speedup_least": min(speedups),
        "prefill_speedup_most": max(speedups),
        "batched_prefill_speedup_least": min(batched),
        "batched_prefill_speedup_most": max(batched),
        "decode_ratio_least": min(ratios),
        "decode_ratio_most": max(ratios),
        "grouped_decode_ratio_most": max(_latency(c["token"]) / _latency(c["step"]) for c in grouped),
        "single_decode_ratio_least": min(_latency(c["token"]) / _latency(c["step"]) for c in single),
        "single_decode_ratio_most": max(_latency(c["token"]) / _latency(c["step"]) for c in single),
        "calibrated": sum(c["apart"] is not None for c in at),
        "apart": sum(bool(c["apart"]) for c in at),
        "twice_positions_least": min(c["twice"] for c in at),
        "twice_positions_most": max(c["twice"] for c in at),
        "single_twice_positions_least": min(c["twice"] for c in single),
        "single_twice_positions_most": max(c["twice"] for c in single),
        "grouped_twice_positions_least": min(c["twice"] for c in grouped),
        "grouped_twice_positions_most": max(c["twice"] for c in grouped),
        "state_positions": state_bytes(2.0) / FULL.cache_bytes(2.0),
        "weight_positions": float(FULL.trace(1, 1, "bf16", "decode").footprint()["weights"]) / FULL.cache_bytes(2.0),
    }
    for c in crossings:
        name = f"{c['chip'].name}_{c['decoder'].kv_heads}_kv_heads_batch_{c['batch']}"
        numbers |= {f"{name}_slower_positions": c["slower"], f"{name}_twice_positions": c["twice"]}
        numbers |= {f"{name}_twice_energy_positions": c["energy"]}
    for p in prefills:
        numbers[f"{p['chip'].name}_batch_{p['batch']}_prefill_lost_positions"] = p["lost"]
    for s in served:
        name = f"{s['chip'].name}_{s['decoder'].kv_heads}_kv_heads_{s['context']}_positions"
        numbers |= {f"{name}_largest_batch": s["batch"], f"{name}_tokens_per_s": s["rate"]}
    return numbers


# -- words ---------------------------------------------------------------------------------------------


def _holds(n: Mapping[str, float]) -> str:
    parallel = n["prefill_speedup_least"] > 1
    if parallel and n["decode_ratio_most"] <= 1:
        return "holds"
    some = n["prefill_speedup_most"] > 1 and n["decode_ratio_least"] > 1
    return "holds in part" if parallel or some else "does not hold"


def _span(low: float, high: float) -> str:
    one, other = _count(low), _count(high)
    return between(one, other)


def _chips(count: float) -> str:
    return f"{count:.0f} chip{'s' if count > 1 else ''}"


def _count(value: float) -> str:
    """Three digits of a number, thousands apart; `never` of what is at no length."""
    if np.isinf(value):
        return "never"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _lengths(positions: Sequence[float]) -> str:
    """'at 1,000 to 2,000 positions', 'at no length'; where it is on some chips only, on how many."""
    finite = [at for at in positions if np.isfinite(at)]
    if not finite:
        return "at no length"
    some = "" if len(finite) == len(positions) else f" on {on_chips(len(finite), len(positions))}"
    return f"at {_span(min(finite), max(finite))} positions{some}"


def _verdict(n: Mapping[str, float], chips) -> str:
    first = (
        f"For reading a prompt the claim {'holds' if n['prefill_speedup_least'] > 1 else 'does not always hold'}: over "
        f"{PROMPTS[-1]} positions at batch 1 the decoder is "
        f"{_span(n['prefill_speedup_least'], n['prefill_speedup_most'])} times as fast as an LSTM of equal parameters "
        f"on {_chips(n['chips'])}, and {_span(n['batched_prefill_speedup_least'], n['batched_prefill_speedup_most'])}"
        f" times at batch {AT_BATCH}, where the LSTM reads its weights once for {AT_BATCH} sequences."
    )
    if n["decode_ratio_most"] <= 1:
        second = f"For writing it holds too: after {AT_CONTEXT} positions at batch {AT_BATCH} no token takes longer."
    else:
        sure = f" (beyond the 80 % intervals on {on_chips(n['apart'], n['calibrated'], 'calibrated chip')})"
        second = (
            f"For writing it stops: both read all their weights for each token, and the cache comes on top. After "
            f"{AT_CONTEXT} positions at batch {AT_BATCH} a token of the decoder takes "
            f"{_span(n['decode_ratio_least'], n['decode_ratio_most'])} times as long as a recurrent step"
            f"{sure if n['calibrated'] else ''}; with 8 KV heads up to "
            f"{n['grouped_decode_ratio_most']:.3g} times, and at batch 1 "
            f"{_span(n['single_decode_ratio_least'], n['single_decode_ratio_most'])} times."
        )
    return f"{first} {second}"


def _limits(n: Mapping[str, float], crossings, prefills) -> str:
    lost = [p["lost"] for p in prefills if p["batch"] == 1]
    batched = [p["lost"] for p in prefills if p["batch"] == AT_BATCH]
    return (
        f"A decoded token takes twice the recurrent step from "
        f"{_span(n['single_twice_positions_least'], n['single_twice_positions_most'])} cached positions at "
        f"batch 1 and from {_span(n['twice_positions_least'], n['twice_positions_most'])} at batch "
        f"{AT_BATCH} ({_span(n['grouped_twice_positions_least'], n['grouped_twice_positions_most'])} with 8 "
        f"KV heads); bytes alone would say {n['weight_positions']:,.0f} / batch, where the cache is as large as the "
        f"weights. In memory the LSTM wins from {n['state_positions']:.2g} positions on, where the cache outgrows its "
        f"state. In prefill the square of the length lets the LSTM catch up "
        f"{_lengths(lost)} at batch 1 and {_lengths(batched)} at batch {AT_BATCH} (memory for the cache not counted). "
        "Equal "
        f"parameters, not equal quality: what a constant state forgets is not priced. The prompt of the LSTM runs by "
        f"the quicker of a hoisted input product and a wavefront; searched from {SHORTEST} to "
        f"{longest_prompt(1):,} positions."
    )


def _sizes() -> Table:
    rows = []
    for decoder in DECODERS:
        trace = decoder.trace(1, 1, "bf16", "decode")
        held = decoder.cache_bytes(2.0)
        weights = trace.footprint()["weights"]
        rows.append([decoder.name, 32, weights / 2e9, held / 1e6, held * AT_CONTEXT / 1e6, weights / held])
    weights = _lstm(1, 1, "bf16", lstm_layers(), False).footprint()["weights"]
    rows.append([LSTM, lstm_layers(), weights / 2e9, 0.0, state_bytes(2.0) / 1e6, "all"])
    about = f"held after {AT_CONTEXT} positions [MB]"
    return Table(
        caption="Equal parameters, width 4096, 16-bit elements, one sequence.",
        columns=["network", "layers", "parameters [10^9]", "held a position [MB]", about,
                 "positions as large as the weights"],
        rows=rows,
        formats={"layers": "{:d}", "held a position [MB]": "{:.3g}", "positions as large as the weights": "{:,.0f}"},
    )  # fmt: skip


def _milliseconds(result: Result) -> str:
    ends = result.latency_interval_s
    text = three_digits(1e3 * _latency(result))
    return text if ends is None else f"{text} ({ranged([1e3 * end for end in ends])})"


def _decode_table(crossings) -> Table:
    rows = [
        [
            c["chip"].name, c["decoder"].kv_heads, c["batch"], _milliseconds(c["step"]), _milliseconds(c["token"]),
            _count(c["slower"]), _count(c["twice"]), _count(c["energy"]),
        ]
        for c in crossings
    ]  # fmt: skip
    return Table(
        caption="One token: time with its 80 % interval where the chip is calibrated, and the number of cached "
        "positions from which the decoder costs more than the recurrent step, or twice as much.",
        columns=["chip", "KV heads", "batch", "recurrent step [ms]", f"decoder at {AT_CONTEXT} [ms]", "slower from",
                 "twice the time from", "twice the energy from"],
        rows=rows,
        formats={"KV heads": "{:d}", "batch": "{:d}"},
    )  # fmt: skip


def _prefill_table(prefills) -> Table:
    columns = ["chip", "batch"]
    for n in PROMPTS:
        columns += [f"decoder, {n} [s]", f"LSTM, {n} [s]", f"ratio at {n}"]
    rows = []
    for p in prefills:
        cells = [cell for n in PROMPTS for cell in (*p["times"][n], p["times"][n][1] / p["times"][n][0])]
        rows.append([p["chip"].name, p["batch"], *cells, _count(p["lost"])])
    return Table(
        caption="Prompts: times of the decoder with 32 KV heads and of the LSTM, their ratio, and the length from "
        "which the recurrence is quicker.",
        columns=[*columns, "recurrence quicker from"],
        rows=rows,
        formats={"batch": "{:d}"},
    )


def _served_table(served) -> Table:
    rows = [
        [s["chip"].name, s["decoder"].kv_heads, s["context"], s["batch"], s["rate"], s["lstm batch"], s["lstm rate"],
         s["lstm rate"] / s["rate"] if s["rate"] else "no room"]
        for s in served
    ]  # fmt: skip
    return Table(
        caption="What the cache leaves room for: the largest batch that fits beside the weights, its rate, and the "
        f"LSTM at the largest batch ({MOST_BATCH} at most) that answers as soon.",
        columns=["chip", "KV heads", "positions", "largest batch", "tokens/s", "LSTM batch", "LSTM tokens/s", "ratio"],
        rows=rows,
        formats={"KV heads": "{:d}", "positions": "{:,d}", "largest batch": "{:,d}", "tokens/s": "{:,.0f}",
                 "LSTM batch": "{:,d}", "LSTM tokens/s": "{:,.0f}"},
    )  # fmt: skip


# -- charts --------------------------------------------------------------------------------------------


def _decode_chart(chip: _OnChip, crossings) -> Chart:
    contexts = [4**i for i in range(4, 10)]
    own = [c for c in crossings if c["chip"] is chip.chip]
    lines = [
        [_latency(chip.decode(c["decoder"], n, c["batch"])) / _latency(c["step"]) for n in contexts] for c in own
    ]  # fmt: skip

    def draw():
        ax = new_panels(1, (3.5, 2.8))[0]
        for number, (c, line) in enumerate(zip(own, lines, strict=True)):
            label = f"{c['decoder'].kv_heads} KV heads, batch {c['batch']}"
            ax.plot(contexts, line, label=label, **looks(number))
            if contexts[0] < c["twice"] < contexts[-1]:
                ax.plot([c["twice"]], [2], "o", markersize=7, markerfacecolor="none", markeredgecolor=INK)
        for level in (1, 2):
            ax.axhline(level, color=INK, linewidth=0.8, linestyle="-" if level == 1 else ":")
        ax.set(xscale="log", yscale="log", xticks=contexts)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(_power_of_two)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_formatter(lambda value, _: "")
        style(ax, "cached positions", "decoder / recurrent step [time]")
        ax.figure.legend(loc="outside upper center", ncols=2, fontsize=LABEL_SIZE, frameon=False)
        return ax.figure

    ends = ", ".join(
        f"{c['decoder'].kv_heads} KV heads and batch {c['batch']}: {_count(line[-1])} times, twice from "
        f"{_count(c['twice'])} positions"
        for c, line in zip(own, lines, strict=True)
    )  # fmt: skip
    return Chart(
        draw=draw,
        alt=f"Time of one decoded token over that of a recurrent step of equal parameters on {chip.chip.title}, "
        f"against the number of cached positions. At {contexts[-1]:,} positions: {ends}.",
        caption=f"One token of the decoder over one step of an LSTM of equal parameters on {chip.chip.title}; rings: "
        f"twice the time. Other chips lie close by (table).",
    )


def _prefill_chart(chips, prefills) -> Chart:
    prompts = [4**i for i in range(3, 13)]
    lines = {
        chip.chip.name: [chip.recurrence(n, 1) / chip.prefill(FULL, n, 1) for n in prompts] for chip in chips
    }  # fmt: skip

    def draw():
        ax = new_panels(1, (3.5, 2.8))[0]
        for number, chip in enumerate(chips):
            ax.plot(prompts, lines[chip.chip.name], label=chip.chip.name, **looks(number))
        ax.axhline(1, color=INK, linewidth=0.8)
        ax.set(xscale="log", yscale="log", xticks=prompts[::2])
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(_power_of_two)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        style(ax, "positions of the prompt", "LSTM / decoder [time]")
        ax.figure.legend(loc="outside upper center", ncols=3, fontsize=LABEL_SIZE, frameon=False)
        return ax.figure

    peak = {name: max(line) for name, line in lines.items()}
    lost = [p["lost"] for p in prefills if p["batch"] == 1]
    return Chart(
        draw=draw,
        alt=f"Time of the LSTM over that of the decoder for a whole prompt against its length, a line a chip. The "
        f"decoder is at most {_span(min(peak.values()), max(peak.values()))} times as fast; the lines fall to 1 "
        f"{_lengths(lost)}.",
        caption="Time of an LSTM over that of the decoder with 32 KV heads for a prompt at batch 1; above 1 the "
        "decoder is faster.",
    )


def _power_of_two(value: float, _) -> str:
    for size, prefix in ((2**20, "Mi"), (2**10, "Ki")):
        if value >= size:
            return f"{value / size:.0f}{prefix}"
    return f"{value:.0f}"


# -- outside -------------------------------------------------------------------------------------------


def _outside() -> tuple[Outside, ...]:
    """What a constant state was measured to bring: another recurrent network, on a chip that has a preset."""
    chip, batch, layers, width = preset("a100-sxm-80gb"), 64, 24, 2048
    decoder = transformer(
        layers, width, 16, VOCABULARY, sequence_length=2112, cache_length=2111, mode="decode", logits="last",
        batch=batch, dtype="fp16",
    )  # fmt: skip
    recurrent = recurrent_network(
        36, width, sequence_length=1, batch=batch, vocabulary=VOCABULARY, hoist_input=False, dtype="fp16"
    )
    return (
        Outside(
            what="tokens a second of a recurrent network over those of an equally large decoder (1.3 billion), A100",
            published=(4.0, 5.0),
            computed=_latency(simulate(decoder, chip)) / _latency(simulate(recurrent, chip)),
            unit="times",
            source="Gu and Dao, Mamba, arXiv:2312.00752, 2023, section 4.5: 4 to 5 times the throughput of a "
            "Transformer of similar size; appendix E.5: A100 80GB PCIe, prompts of 2048, 128 generated",
            note=f"Computed for an LSTM and a decoder (24 layers of 2048, 16 heads) with 2111 cached positions, both "
            f"at batch {batch}, prompt left out. Mamba is another recurrent network with a larger state, and the "
            f"decoder measured ran op by op in a framework.",
        ),
    )


STUDY = Study(
    name="prefill-and-decode",
    title="Prefill and decode: a growing cache against a constant state",
    question="Attention is parallel over positions. Where does that help, and where does a recurrence cost less?",
    claim="Attention has no serial path, so it is better for the hardware.",
    setup="A decoder of the sizes of Llama 2 7B with 32 and with 8 key and value heads, and an LSTM as wide and with "
    "as many parameters, in 16-bit floats, forward only. Decode: one token after a number of cached positions, against "
    "one step of the LSTM. Prefill: all positions of a prompt. The lengths at which one overtakes the other are roots "
    "of the simulated times.",
    sources=(
        "Touvron et al., Llama 2, arXiv:2307.09288, 2023: sizes of the 7B decoder",
        "Ainslie et al., GQA, arXiv:2305.13245, 2023: grouped key and value heads",
        "Hochreiter and Schmidhuber, Long Short-Term Memory, 1997",
    ),
    run=run,
)
