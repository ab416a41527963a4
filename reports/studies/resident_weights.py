"""Weights resident on chip: up to which size a recurrence keeps its weights there, and what holds it back then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np

from reports.studies.resident_weights_charts import step_chart, width_chart
from reports.studies.resident_weights_outside import outside
from reports.studies.study import Bench, Chart, Finding, Study, Table
from reports.studies.usual import counted, element_type, on_chips, span, three_digits
from simulator import Accelerator, Result, simulate
from workloads import Trace, lstm
from workloads.trace import element_bytes

CHIPS = (
    *("raspberry-pi-5", "v100-sxm", "a100-sxm-80gb", "h100-sxm"),
    *("mi300x", "tpu-v4", "tpu-v6e", "gaudi-3"),
)
STEPS = 100
#: Hidden sizes of the charts, and the multiple a size is rounded to.
WIDTHS = tuple(128 * round(2 ** (n / 2)) for n in range(13))
MULTIPLE = 8
#: Share of the time below which a resource is no limit, share of the peak below which units idle, batches looked at.
LITTLE, IDLE, BATCHES = 0.1, 0.1, (1, 4, 16)
KINDS = ("off chip", "on chip", "waits", "arithmetic")


def room_bytes(chip: Accelerator) -> float:
    """What a chip can keep of a recurrence from step to step: its largest level that may, or all its memory."""
    nearer = list(chip.memory.values())[:-1]
    if not nearer:  # the only memory is on the chip
        return float(chip.outer.capacity_bytes)
    return max((float(level.capacity_bytes) for level in nearer if level.keeps_weights), default=0.0)


def widest_by_hand(room: float, dtype: str) -> float:
    """Hidden size whose four gates of weights fill the room: 4 H^2 elements."""
    return math.sqrt(room / (4.0 * element_bytes(dtype)))


@cache
def layer(hidden: int, dtype: str, batch: int = 1) -> Trace:
    """One LSTM layer; its input product is hoisted, so that each step reads the recurrent weights alone."""
    return lstm(1, hidden, sequence_length=STEPS, batch=batch, dtype=dtype)


def resident(result: Result) -> float:
    """Share of the recurrent weights that stay on chip between steps."""
    if len(result.accelerator.memory) == 1:
        return 1.0
    return float(np.nanmin(result.resident))


def widest(chip: Accelerator, dtype: str) -> int:
    """The largest hidden size, a multiple of `MULTIPLE`, whose weights all stay on chip; 0 where none does."""

    def stays(count: int) -> bool:
        return count > 0 and resident(simulate(layer(MULTIPLE * count, dtype), chip)) > 0.999

    high = math.floor(widest_by_hand(room_bytes(chip), dtype) / MULTIPLE) + 1
    low = round(0.97 * high)  # the state of a sequence takes little of the room
    low = low if stays(low) else 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if stays(middle) else (low, middle)
    return MULTIPLE * low


def streaming(chip: Accelerator) -> Accelerator:
    """The chip without the ability to keep weights from step to step."""
    return chip.replace({f"memory.{level}.keeps_weights": False for level in list(chip.memory)[:-1]})


def time_shares(result: Result) -> dict[str, float]:
    """Share of the time (0..1) by kind of limit: memory off the chip, memory and feed on it, waits, arithmetic."""
    shares = dict.fromkeys(KINDS, 0.0)
    levels = list(result.accelerator.memory)
    for bound, share in result.time_share_by_bound().items():
        if bound == levels[-1] and len(levels) > 1:
            kind = "off chip"
        elif bound in levels or bound == "feed":
            kind = "on chip"
        else:
            kind = "waits" if bound == "latency" else "arithmetic"
        shares[kind] += float(share)
    return shares


# -- the run -------------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    """The widest layer of each chip and type; times with and without residency."""
    chips = bench.chips(*CHIPS)
    widths = {
        chip.name: {
            dtype: widest(chip, dtype) for dtype in ("fp32", element_type(chip), "int8") if dtype in chip.dtypes
        }
        for chip in chips
    }
    at = {chip.name: _at_widest(chip, widths[chip.name][element_type(chip)]) for chip in chips}
    steps = {chip.name: _steps(chip) for chip in chips}
    numbers = _numbers(at)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers, at),
        limits=_limits(numbers, chips, widths),
        numbers=numbers,
        tables=[_width_table(chips, widths), _limit_table(chips, at)],
        charts=_charts(chips, widths, steps, numbers),
        outside=outside(),
    )


def _at_widest(chip: Accelerator, hidden: int) -> dict[str, float]:
    """At the widest resident size: the gain over reading the weights anew, what holds back with and without, and
    utilisation by batch. All nan where nothing stays."""
    names = ("gain", *(f"anew {kind}" for kind in KINDS), *KINDS, *(f"utilisation {b}" for b in BATCHES))
    if not hidden:
        return {"hidden": 0} | dict.fromkeys(names, math.nan)
    dtype = element_type(chip)
    kept, anew = (simulate(layer(hidden, dtype), of) for of in (chip, streaming(chip)))
    used = [float(simulate(layer(hidden, dtype, batch), chip).utilisation) for batch in BATCHES]
    before = {f"anew {kind}": share for kind, share in time_shares(anew).items()}
    found = {"hidden": hidden, "gain": float(anew.latency_s / kept.latency_s)} | before | time_shares(kept)
    return found | {f"utilisation {batch}": value for batch, value in zip(BATCHES, used, strict=True)}


def _steps(chip: Accelerator) -> dict[str, list[float]]:
    """Time of a step over `WIDTHS`, as the chip is and with the weights read anew every step. [s]"""
    traces = [layer(hidden, element_type(chip)) for hidden in WIDTHS]
    both = {"as it is": chip, "weights read anew": streaming(chip)}
    return {name: [float(simulate(of, one).latency_s) / STEPS for of in traces] for name, one in both.items()}


def _numbers(at: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    some = [found for found in at.values() if found["hidden"]]
    numbers: dict[str, float] = {"chips": len(at), "chips_that_keep_weights": len(some)}
    numbers["off_chip_is_no_limit"] = sum(found["off chip"] < LITTLE for found in some)
    numbers["off_chip_was_the_limit"] = sum(
        found["anew off chip"] == max(found[f"anew {k}"] for k in KINDS) for found in some
    )
    for kind in KINDS:
        numbers[f"mostly_{kind.replace(' ', '_')}"] = sum(found[kind] == max(found[k] for k in KINDS) for found in some)
    numbers["busy_at_batch_1"] = sum(found["utilisation 1"] >= IDLE for found in some)
    for name, key in (
        ("hidden", "hidden"),
        ("gain", "gain"),
        *((f"utilisation_{b}", f"utilisation {b}") for b in BATCHES),
    ):
        values = [found[key] for found in some] or [math.nan]
        numbers |= {f"{name}_low": min(values), f"{name}_high": max(values)}
    return numbers


def _holds(n: Mapping[str, float]) -> str:
    """In full: every chip keeps some weights, no longer waits for memory off the chip, and is busy at batch 1."""
    free = n["off_chip_is_no_limit"]
    if free == n["chips"] and n["busy_at_batch_1"] == n["chips"]:
        return "holds"
    return "holds in part" if 2 * free > n["chips"] else "does not hold"


def _verdict(n: Mapping[str, float], at: Mapping[str, Mapping[str, float]]) -> str:
    if not n["chips_that_keep_weights"]:
        return "No chip here keeps the weights of a recurrence from step to step, of any size: 0 units."
    ends = [min(at, key=lambda c: at[c]["hidden"] or math.inf), max(at, key=lambda c: at[c]["hidden"])]
    wide = [f"{at[c]['hidden']:.0f} units ({c})" for c in dict.fromkeys(ends)]
    return (
        f"The weights of an LSTM layer, in 16-bit floats where the chip has them, stay on it up to "
        f"{' and '.join(wide)}. At that size a batch of 1 is {_span(n, 'gain')} times as fast as with the weights "
        f"read anew at every step. Memory off the chip takes less than {100 * LITTLE:.0f} % of the time on "
        f"{on_chips(n['off_chip_is_no_limit'], n['chips'])}; without residency it would be the first limit on "
        f"{n['off_chip_was_the_limit']}.\n"
        f"What then takes most of the time{_most(n)}. The matrix units are used to {_span(n, 'utilisation_1', 100)} % "
        f"at batch 1 and to {_span(n, 'utilisation_16', 100)} % at batch 16."
    )


def _most(n: Mapping[str, float]) -> str:
    """' is arithmetic on 2 chips, memory off the chip on 1': what there is of it, the most frequent first."""
    words = {
        "waits": "waiting for launches and the step before", "on_chip": "memory and operand feed on the chip",
        "arithmetic": "arithmetic", "off_chip": "memory off the chip",
    }  # fmt: skip
    found = sorted(((n[f"mostly_{kind}"], text) for kind, text in words.items()), key=lambda pair: -pair[0])
    first, *others = [(count, text) for count, text in found if count]
    return f" is {first[1]} on {counted(first[0], 'chip')}" + "".join(f", {text} on {count}" for count, text in others)


def _limits(n: Mapping[str, float], chips, widths: Mapping[str, Mapping[str, int]]) -> str:
    said = "Room grows with the square of the size: half the bytes an element keeps 1.41 times the units, "
    said += "four times the room twice the units. "
    ratios = [of["int8"] / of["fp32"] for of in widths.values() if of.get("int8") and of.get("fp32")]
    if ratios:
        said += f"From fp32 to int8 the widest layer grows {span(ratios, '{:.2f}')} times. "
    none = [chip.name for chip in chips if not max(widths[chip.name].values())]
    if none:
        said += f"Nothing stays on {', '.join(none)}. "
    if n["chips_that_keep_weights"] and n["busy_at_batch_1"] < n["chips_that_keep_weights"]:
        idle = n["chips_that_keep_weights"] - n["busy_at_batch_1"]
        said += (
            f"Residency cures the bandwidth, not the recurrence: on {counted(idle, 'chip')} the units still idle "
            f"(below {100 * IDLE:.0f} % of peak at batch 1). "
        )
    return said + f"One layer of one sequence at a time; each layer is still read once for its {STEPS} steps."


def _span(n: Mapping[str, float], name: str, times: float = 1.0) -> str:
    return span([times * n[f"{name}_{end}"] for end in ("low", "high")], "{:.2g}")


# -- tables and charts ---------------------------------------------------------------------------------


def _width_table(chips, widths: Mapping[str, Mapping[str, int]]) -> Table:
    rows = []
    for chip in chips:
        for dtype, hidden in widths[chip.name].items():
            rows.append([chip.name, room_bytes(chip) / 1e6, dtype, widest_by_hand(room_bytes(chip), dtype), hidden])
    by_hand = "by hand: 4 H^2 elements fill the room [units]"
    return Table(
        caption="Widest LSTM layer whose recurrent weights stay on chip",
        columns=["chip", "room for weights [MB]", "type", by_hand, "simulated [units]"],
        rows=rows,
        formats={"room for weights [MB]": "{:.4g}", by_hand: "{:.0f}"},
    )


def _limit_table(chips, at: Mapping[str, Mapping[str, float]]) -> Table:
    rows = []
    for chip in chips:
        found = at[chip.name]
        rows.append(
            [chip.name, int(found["hidden"]), found["gain"], 100 * found["anew off chip"]]
            + [100 * found[kind] for kind in KINDS]
            + [100 * found[f"utilisation {batch}"] for batch in BATCHES]
        )
    shares = ["off chip, weights read anew [%]", *(f"{kind} [%]" for kind in KINDS)]
    used = [f"utilisation, batch {batch} [%]" for batch in BATCHES]
    return Table(
        caption="At the widest resident layer, 16-bit floats where the chip has them: gain of residency, share of the "
        "time by what limits it, utilisation",
        columns=["chip", "units", "times as fast", *shares, *used],
        rows=rows,
        formats={"times as fast": "{:.2f}"} | dict.fromkeys(shares, "{:.0f}") | dict.fromkeys(used, "{:.2g}"),
    )


def _charts(chips, widths, steps: Mapping[str, Mapping[str, list[float]]], n: Mapping[str, float]) -> list[Chart]:
    marks = {chip.name: widths[chip.name][element_type(chip)] for chip in chips}
    every = [step for lines in steps.values() for line in lines.values() for step in line]
    most = max(max(of.values()) for of in widths.values())
    return [
        Chart(
            draw=lambda: step_chart(steps, WIDTHS, marks),
            alt=f"{counted(len(chips), 'small chart')}, one a chip: time of a step of an LSTM layer at batch 1 against "
            f"hidden size, from {three_digits(1e6 * min(every))} to "
            f"{three_digits(1e6 * max(every))} microseconds, as the chip is and with weights read anew. At the "
            f"widest resident size residency is {_span(n, 'gain')} times as fast.",
            caption=f"Time of a step of an LSTM layer at batch 1 over {STEPS} steps. Vertical line: the widest layer "
            "whose weights stay on chip.",
        ),
        Chart(
            draw=lambda: width_chart(widths),
            alt="Bars of the widest LSTM layer whose weights stay on chip, by chip and element type, up to "
            f"{most} units.",
            caption="Widest LSTM layer whose recurrent weights stay on chip, by element type.",
        ),
    ]


STUDY = Study(
    name="resident-weights",
    title="Weights resident on chip",
    question="When does an LSTM stop being memory-bound because its weights stay on the chip, and what limits it then?",
    claim="A recurrence whose weights stay on chip from step to step leaves the memory roof: bandwidth no longer "
    "limits it, and the compute units can be used.",
    setup=f"One LSTM layer over {STEPS} steps on {len(CHIPS)} chips at batch 1, by hidden size and element type; the "
    "widest whose recurrent weights all stay in a level that may keep them; the same layer on the same chip without "
    f"that ability. No limit: below {100 * LITTLE:.0f} % of the time. Idle: below {100 * IDLE:.0f} % of the matrix "
    "peak.",
    sources=(
        "Diamos et al.: Persistent RNNs: stashing recurrent weights on-chip, ICML 2016",
        "Appleyard, Kočiský and Blunsom: Optimizing performance of recurrent neural networks on GPUs, 2016",
        "Fowers et al.: A configurable cloud-scale DNN processor for real-time AI, ISCA 2018",
    ),
    run=run,
)
