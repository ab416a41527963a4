"""Who is memory-bound: intensities beside the ridge of each chip, and the utilisation that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reports.studies import evidence
from reports.studies.memory_bound_charts import intensity_chart, utilisation_chart
from reports.studies.study import Bench, Chart, Finding, Outside, Study, Table
from reports.studies.usual import count_of, counted, element_type, held_back, largest, on_chips, span
from simulator import Accelerator, Result, preset, simulate
from workloads import Trace, gru, lstm, network, networks, rnn, transformer

CHIPS = ("t4", "v100-sxm", "a100-sxm-80gb", "h100-sxm", "mi300x", "tpu-v4")
#: Below this share of the matrix peak the units are called idle.
IDLE = 0.1
LAYERS, HIDDEN, STEPS, POSITIONS = 2, 1024, 100, 512
BATCHES = tuple(2**n for n in range(0, 13, 2))
WIDTHS = (256, 512, 1024, 2048, 4096, 8192)
RECURRENT = {"RNN": rnn, "GRU": gru, "LSTM": lstm}
#: A Transformer of 24 layers of 1024, the sizes of BERT-large and GPT-2 medium.
SIZES = {"layers": 24, "hidden": 1024, "heads": 16, "vocabulary": 30000, "sequence_length": POSITIONS, "logits": "last"}


def builders() -> dict[str, Callable[..., Trace]]:
    """The networks by name, each a function of batch and dtype."""

    def recurrent(build):
        return lambda **given: build(LAYERS, HIDDEN, sequence_length=STEPS, **given)

    found = {name: recurrent(build) for name, build in RECURRENT.items()}
    found["Transformer, prefill"] = lambda **given: transformer(**SIZES, mode="prefill", **given)
    found["Transformer, one token"] = lambda **given: transformer(**SIZES, mode="decode", **given)
    if "resnet-50" in networks():
        found["ResNet-50"] = lambda **given: network("resnet-50", **given)
    return found


def intensity(trace: Trace) -> float:
    """FLOP per byte of all ops, each reading its operands anew: weights of a recurrence every step."""
    flops = np.where(trace.is_product, trace.matrix_flops, trace.vector_flops + trace.special_ops)
    return float(flops @ trace.runs / (trace.bytes @ trace.runs))


def ridge_flops_per_byte(chip: Accelerator) -> float:
    """Matrix peak, at the clock the chip holds, over the bandwidth of its farthest memory."""
    far = list(chip.memory.values())[-1]
    return float(chip.peak_flops_per_s(element_type(chip)) / far.bandwidth_bytes_per_s)


def ridge_batch(hidden: int, dtype: str, ridge: float) -> float:
    """The smallest batch at which the recurrent product of an LSTM lies at the ridge; infinite where none does.

    Its FLOP and the bytes of its state grow with the batch, its weights do not: f b = ridge (w + s b)."""
    trace = lstm(1, hidden, sequence_length=STEPS, dtype=dtype)
    row = int(np.flatnonzero(trace.is_product & (trace.serial_steps > 1))[0])
    weights = float(trace.weight_bytes[row])
    gained = float(trace.matrix_flops[row]) - ridge * (float(trace.bytes[row]) - weights)
    return math.ceil(ridge * weights / gained) if gained > 0 else math.inf


# -- the run -------------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    """Every network at batch 1 on every chip; the LSTM over batch and width."""
    chips = bench.chips(*CHIPS)
    ridges = {chip.name: ridge_flops_per_byte(chip) for chip in chips}
    results = {
        name: {chip.name: simulate(build(batch=1, dtype=element_type(chip)), chip) for chip in chips}
        for name, build in builders().items()
    }
    batches = {chip.name: {b: _lstm(HIDDEN, b, chip) for b in BATCHES} for chip in chips}
    widths = {chip.name: {h: _lstm(h, 1, chip) for h in WIDTHS} for chip in chips}
    crossings = {
        chip.name: {h: ridge_batch(h, element_type(chip), ridges[chip.name]) for h in WIDTHS} for chip in chips
    }
    numbers = _numbers(chips, ridges, results, crossings)
    dtypes = {chip.name: element_type(chip) for chip in chips}
    lying = {
        name: {b: intensity(build(batch=b, dtype=dtypes[chips[0].name])) for b in (1, 16, 256)}
        for name, build in builders().items()
    }
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers),
        limits=_limits(numbers, chips),
        numbers=numbers,
        tables=[_chip_table(chips, ridges, crossings), _network_table(chips, ridges, results)],
        charts=_charts(lying, ridges, dtypes, batches, widths, numbers),
        outside=_outside(),
    )


def _lstm(hidden: int, batch: int, chip: Accelerator) -> Result:
    return simulate(lstm(LAYERS, hidden, sequence_length=STEPS, batch=batch, dtype=element_type(chip)), chip)


def _numbers(chips, ridges: Mapping, results: Mapping, crossings: Mapping) -> dict[str, float]:
    """Counts of (network, chip) pairs by side of the ridge and by what takes their time; ranges of the rest."""
    numbers: dict[str, float] = {"chips": len(chips)}
    numbers |= {"ridge_low_flops_per_byte": min(ridges.values()), "ridge_high_flops_per_byte": max(ridges.values())}
    groups = {"recurrent": list(RECURRENT), "prefill": ["Transformer, prefill"], "decode": ["Transformer, one token"]}
    if "ResNet-50" in results:
        groups["convolution"] = ["ResNet-50"]
    for group, names in groups.items():
        pairs = [(results[name][chip.name], ridges[chip.name]) for name in names for chip in chips]
        lying = [intensity(result.trace) for result, _ in pairs]
        used = [float(result.utilisation) for result, _ in pairs]
        classes = [largest(held_back(result)) for result, _ in pairs]
        numbers |= {
            f"{group}_pairs": len(pairs),
            f"{group}_left_of_ridge": sum(at < ridge for at, (_, ridge) in zip(lying, pairs, strict=True)),
            f"{group}_intensity_low_flops_per_byte": min(lying),
            f"{group}_intensity_high_flops_per_byte": max(lying),
            f"{group}_utilisation_low": min(used),
            f"{group}_utilisation_high": max(used),
        }
        numbers |= {f"{group}_mostly_{kind}": classes.count(kind) for kind in ("memory", "waits", "arithmetic")}
    at = [crossings[chip.name][HIDDEN] for chip in chips]
    finite = [batch for batch in at if math.isfinite(batch)]
    numbers |= {"ridge_batch_low": min(finite, default=math.inf), "ridge_batch_high": max(finite, default=math.inf)}
    numbers["chips_no_batch_reaches"] = len(at) - len(finite)
    never = [h for h in WIDTHS if any(math.isinf(crossings[chip.name][h]) for chip in chips)]
    return numbers | {"widest_that_never_crosses": max(never, default=0)}


def _holds(n: Mapping[str, float]) -> str:
    """In full: every recurrent pair left of the ridge and idle, mostly for memory; nothing else left of it."""
    left, idle = n["recurrent_left_of_ridge"] == n["recurrent_pairs"], n["recurrent_utilisation_high"] < IDLE
    others = sum(value for name, value in n.items() if name.endswith("left_of_ridge") and "recurrent" not in name)
    if left and idle and not others and n["recurrent_mostly_memory"] == n["recurrent_pairs"]:
        return "holds"
    most = 2 * n["recurrent_left_of_ridge"] > n["recurrent_pairs"]
    return "holds in part" if most else "does not hold"


def _verdict(n: Mapping[str, float]) -> str:
    ridges = span((n["ridge_low_flops_per_byte"], n["ridge_high_flops_per_byte"]), "{:.3g}", "FLOP/byte")
    said = (
        f"At batch 1, {count_of(n['recurrent_left_of_ridge'], n['recurrent_pairs'])} pairs of recurrent network and "
        f"chip lie left of the ridge: {_range(n, 'recurrent')} FLOP/byte against {ridges} at the ridge. They use "
        f"{_used(n, 'recurrent')} of the matrix peak. Most of their time goes to memory in "
        f"{n['recurrent_mostly_memory']} pairs, to waiting for launches and the step before in "
        f"{n['recurrent_mostly_waits']}, to arithmetic in {n['recurrent_mostly_arithmetic']}.\n"
    )
    for group, name in (("prefill", f"The Transformer's prefill of {POSITIONS} positions"),
                        ("decode", "Its next token against a cache"), ("convolution", "ResNet-50")):  # fmt: skip
        if f"{group}_pairs" in n:
            said += (
                f"{name} lies at {_range(n, group)} FLOP/byte, left of the ridge on "
                f"{on_chips(n[f'{group}_left_of_ridge'], n[f'{group}_pairs'])}, and uses {_used(n, group)}. "
            )
    return said.strip()


def _limits(n: Mapping[str, float], chips: Sequence[Accelerator]) -> str:
    reached = len(chips) - n["chips_no_batch_reaches"]
    never, said = n["chips_no_batch_reaches"], ""
    if reached:
        at = span([n["ridge_batch_low"], n["ridge_batch_high"]], "{:.0f}")
        said += f"It is the batch that decides: a batch of {at} brings the recurrent product of an LSTM of {HIDDEN} "
        said += f"units to the ridge of {on_chips(reached, len(chips))}. "
    elif never:
        said += f"No batch brings the recurrent product of an LSTM of {HIDDEN} units to the ridge. "
    if n["widest_that_never_crosses"]:
        on = f" on at least one of {len(chips)} chips" if len(chips) > 1 else ""
        said += (
            f"Up to {n['widest_that_never_crosses']} units no batch does{on}, since state and gate sums grow with the "
            "batch as the arithmetic does. "
        )
    if n["recurrent_mostly_waits"]:
        said += (
            f"Where waits take the time ({n['recurrent_mostly_waits']} of {n['recurrent_pairs']} pairs: weights that "
            "stay on chip, or steps shorter than what starts them), more bandwidth would not help either. "
        )
    others = {"decode": "one token of a Transformer", "convolution": "a ResNet-50 of one image, its maps unfused,"}
    left = [
        f"{name} is left of the ridge on {on_chips(n[f'{group}_left_of_ridge'], n[f'{group}_pairs'])}"
        for group, name in others.items()
        if n.get(f"{group}_left_of_ridge")
    ]
    if left:
        said += f"Being memory-bound is no property of recurrence alone: {', '.join(left)}."
    return said.strip()


def _range(n: Mapping[str, float], group: str) -> str:
    return span([n[f"{group}_intensity_{end}_flops_per_byte"] for end in ("low", "high")], "{:.3g}")


def _used(n: Mapping[str, float], group: str) -> str:
    return span([100 * n[f"{group}_utilisation_{end}"] for end in ("low", "high")], "{:.2g}", "%")


# -- tables, charts, evidence --------------------------------------------------------------------------


def _chip_table(chips, ridges: Mapping, crossings: Mapping) -> Table:
    rows = []
    for chip in chips:
        far = list(chip.memory.values())[-1]
        dtype = element_type(chip)
        peak, bandwidth = chip.peak_flops_per_s(dtype) / 1e12, far.bandwidth_bytes_per_s / 1e12
        at = [crossings[chip.name][h] for h in (256, 1024, 4096)]
        rows.append(
            [chip.name, dtype, peak, bandwidth, ridges[chip.name], *("never" if math.isinf(b) else b for b in at)]
        )
    batches = [f"batch at the ridge, {h} units" for h in (256, 1024, 4096)]
    return Table(
        caption="Ridge of each chip, and the batch that brings the recurrent product of an LSTM to it",
        columns=["chip", "type", "peak [TFLOP/s]", "bandwidth [TB/s]", "ridge [FLOP/byte]", *batches],
        rows=rows,
        formats={"peak [TFLOP/s]": "{:.4g}", "bandwidth [TB/s]": "{:.3g}", "ridge [FLOP/byte]": "{:.3g}"},
    )


def _network_table(chips, ridges: Mapping, results: Mapping) -> Table:
    rows = []
    for name, of in results.items():
        for chip in chips:
            result, shares = of[chip.name], held_back(of[chip.name])
            at = intensity(result.trace)
            side = "left" if at < ridges[chip.name] else "right"
            rows.append([name, chip.name, at, side, 100 * float(result.utilisation), _interval(result)]
                        + [100 * shares[kind] for kind in ("memory", "waits", "arithmetic")])  # fmt: skip
    shares = ["memory [% of time]", "waits [% of time]", "arithmetic [% of time]"]
    return Table(
        caption="Every network at batch 1: where it lies, how much of the matrix peak it uses, what takes its time",
        columns=["network", "chip", "FLOP/byte", "of the ridge", "utilisation [%]", "80 % interval [%]", *shares],
        rows=rows,
        formats={"FLOP/byte": "{:.3g}", "utilisation [%]": "{:.2g}"} | dict.fromkeys(shares, "{:.0f}"),
    )


def _interval(result: Result) -> str:
    """The utilisation at either end of the latency's interval; '' where the chip is not calibrated."""
    if result.latency_interval_s is None:
        return ""
    fast, slow = (100 * float(result.utilisation * result.latency_s / end) for end in result.latency_interval_s)
    return f"{slow:.2g} to {fast:.2g}"


def _charts(lying, ridges, dtypes, batches, widths, n: Mapping[str, float]) -> list[Chart]:
    source = "computed by this study; ridges from the peak and bandwidth of each chip"
    low, high = (min if end == "low" else max for end in ("low", "high"))
    ends = [f(f(line.values()) for line in ridges_of.values()) for ridges_of, f in ((lying, low), (lying, high))]
    return [
        Chart(
            draw=lambda: intensity_chart(lying, ridges, dtypes),
            alt=f"Dots show FLOP per byte of each network at batch 1, 16 and 256, from {ends[0]:.3g} to {ends[1]:.3g}; "
            f"vertical lines the ridges of {counted(len(ridges), 'chip')}, from {min(ridges.values()):.3g} to "
            f"{max(ridges.values()):.3g} FLOP/byte. At batch 1 the recurrent networks stand at "
            f"{_range(n, 'recurrent')}; the Transformer's prefill at {_range(n, 'prefill')}.",
            caption="Arithmetic intensity of each network, every op reading its operands anew, and the chips' ridges.",
            source=source,
        ),
        Chart(
            draw=lambda: utilisation_chart(batches, widths, HIDDEN),
            alt=f"Two charts of utilisation of the matrix peak by an LSTM on {counted(len(batches), 'chip')}. Left, "
            f"against batch: {_ends(batches)}. Right, against hidden size at batch 1: {_ends(widths)}.",
            caption=f"Utilisation of the matrix peak by an LSTM of {LAYERS} layers over {STEPS} steps. Marker: what "
            "takes most of the time.",
        ),
    ]


def _ends(lines: Mapping[str, Mapping[int, Result]]) -> str:
    """'from 0.1 to 0.2 % at 1 to 20 to 30 % at 4096' in words."""
    keys = list(next(iter(lines.values())))
    at = [[100 * float(line[key].utilisation) for line in lines.values()] for key in (keys[0], keys[-1])]
    return f"{span(at[0], '{:.2g}')} % at {keys[0]}, {span(at[1], '{:.2g}')} % at {keys[-1]}"


def _outside() -> list[Outside]:
    found = []
    for device, dtype in (("v100-sxm", "fp32"), ("v100-sxm", "fp16"), ("titan-x-pascal", "fp32")):
        rates = evidence.recurrent_layers(device, "lstm", dtype)
        found.append(_of_rates(rates, rates.judged, f"LSTM layers, forward, {dtype} on {device}", evidence.DEEPBENCH))
    rates = evidence.products("v100-pcie")
    large = rates.judged & (rates.flops >= 1e11)
    found.append(_of_rates(rates, large, "products of 0.1 TFLOP or more, fp32 on v100-pcie", evidence.NEUSIGHT))
    chip, left = preset("tpu-v1"), 0
    for name, published in evidence.tpu_v1_flops_per_s().items():
        result = simulate(network(f"tpu-v1-{name.lower()}"), chip)
        left += largest(held_back(result)) == "memory"
        if name in ("LSTM0", "MLP0", "CNN0"):
            computed = result.trace.total_matrix_flops / result.latency_s / 1e12
            found.append(Outside(what=f"{name} on the first TPU, rate", published=published / 1e12, computed=computed,
                                 unit="TOPS", source=evidence.TPU_V1, note="No constant is fitted to it."))  # fmt: skip
    found.append(
        Outside(
            what="of six networks on the first TPU, those that memory holds back",
            published=4,
            computed=left,
            unit="networks",
            source="Jouppi et al., ISCA 2017, figure 5",
        )
    )
    return found


def _of_rates(rates: evidence.Rates, rows: np.ndarray, what: str, source: str) -> Outside:
    return Outside(
        what=f"median utilisation of {what}",
        published=100 * float(np.median(rates.measured(rows))),
        computed=100 * float(np.median(rates.predicted(rows))),
        unit="% of peak",
        source=source,
        note=f"Over {int(rows.sum())} shapes that no constant was fitted to.",
    )


STUDY = Study(
    name="memory-bound",
    title="Who is memory-bound, and where the ridge is",
    question="Which networks wait for memory rather than compute, on which chips, and what batch or width changes it?",
    claim="Recurrent networks run small products that read their weights again at every step. They lie left of the "
    "ridge of any chip and leave its matrix units idle for want of bandwidth; networks without recurrence do not.",
    setup=f"RNN, GRU and LSTM ({LAYERS} layers of {HIDDEN} units, {STEPS} steps), a Transformer (24 layers of 1024) "
    f"over {POSITIONS} positions at once and for one token against a cache, and ResNet-50 where it is a network of "
    "this version, at batch 1, in 16-bit floats where a chip has them. Left of the ridge: fewer FLOP per byte, every "
    "op reading its operands anew, than the matrix peak (at the clock the chip holds) over its memory's bandwidth. "
    f"Idle: below {100 * IDLE:.0f} % of the matrix peak. An LSTM over batches of 1 "
    f"to {BATCHES[-1]} and {WIDTHS[0]} to {WIDTHS[-1]} units.",
    sources=(
        "Williams, Waterman and Patterson: Roofline: an insightful visual performance model for multicore "
        "architectures, Communications of the ACM 52(4), 2009",
        "Hochreiter and Schmidhuber: Long short-term memory, Neural Computation 9(8), 1997",
        "Vaswani et al.: Attention is all you need, NeurIPS 2017",
        "He, Zhang, Ren and Sun: Deep residual learning for image recognition, CVPR 2016 (ResNet-50)",
        evidence.TPU_V1,
        evidence.DEEPBENCH,
        evidence.NEUSIGHT,
    ),
    run=run,
)
