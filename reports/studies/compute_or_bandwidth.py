"""Add compute or add bandwidth: how the time of each network answers to either, on each of ten chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from reports.studies import evidence
from reports.studies.compute_or_bandwidth_chart import answers_chart
from reports.studies.study import Bench, Chart, Finding, Outside, Study, Table
from reports.studies.usual import count_of, counted, element_type, on_chips, plain_text, span
from simulator import Accelerator, preset, simulate
from workloads import Trace, lstm, network, networks

CHIPS = (
    *("raspberry-pi-5", "jetson-agx-orin", "epyc-7763", "t4", "v100-sxm"),
    *("a100-sxm-80gb", "h100-sxm", "mi300x", "tpu-v4", "tpu-v5e"),
)
#: Relative step of an elasticity, as in `simulator.sensitivity`.
STEP = 1e-6
#: From this elasticity on a resource is called the one a network answers to, and below the other it hardly does.
MUCH, LITTLE = 0.5, 0.1
RESOURCES = ("bandwidth", "compute", "on chip", "waits")
#: Networks by name: group, and a published one with settings.
NETWORKS: dict[str, tuple[str, str, dict]] = {
    "LSTM language model, batch 1": ("recurrent", "lstm-zaremba-large", {"batch": 1}),
    "GNMT, batch 1": ("recurrent", "gnmt", {"batch": 1}),
    "LSTM of 4096 units, batch 1": ("recurrent", "", {}),
    "LSTM language model, batch 256": ("batched", "lstm-zaremba-large", {"batch": 256}),
    "BERT-large, 512 positions": ("parallel", "bert-large", {"batch": 1}),
    "GPT-2 large, 1024 positions": ("parallel", "gpt2-large", {"batch": 1}),
    "GPT-2 large, one token": ("decode", "gpt2-large", {"batch": 1, "mode": "decode"}),
}
if "resnet-50" in networks():
    NETWORKS["ResNet-50, batch 32"] = ("parallel", "resnet-50", {"batch": 32})
#: Share of the first TPU's work by kind of network, two of each. Jouppi et al., ISCA 2017, table 1.
DEPLOYED = {"mlp0": 0.305, "mlp1": 0.305, "lstm0": 0.145, "lstm1": 0.145, "cnn0": 0.025, "cnn1": 0.025}


def fields_of(chip: Accelerator) -> dict[str, dict[str, int]]:
    """What more of each of `RESOURCES` is: fields, each with 1 where they rise with it and -1 where they fall.

    compute: the rate of the matrix units. bandwidth: of the farthest memory. on chip: of nearer memories and of the
    feed into the units. waits: launches, dependent steps and first accesses."""
    nearer, far = list(chip.memory)[:-1], list(chip.memory)[-1]
    waits = ("latency.launch_s", "latency.step_s", "latency.first_steps_s", f"memory.{far}.latency_s")
    feed = {"matrix.feed_bytes_per_cycle": 1, "matrix.load_cycles": -1}
    fields = {
        "bandwidth": {f"memory.{far}.bandwidth_bytes_per_s": 1},
        "compute": {f"matrix.macs_per_cycle.{dtype}": 1 for dtype in chip.dtypes},
        "on chip": {f"memory.{level}.bandwidth_bytes_per_s": 1 for level in nearer} | feed,
        "waits": dict.fromkeys(waits, 1),
    }
    return {
        name: {path: sign for path, sign in paths.items() if chip.fields.get(path)} for name, paths in fields.items()
    }


def answers(trace: Trace, chip: Accelerator) -> dict[str, float]:
    """Per cent faster for one per cent more of each of `RESOURCES` (less of waits), and how many times as fast with
    twice the compute ("compute twice") or the bandwidth ("bandwidth twice")."""
    groups = fields_of(chip)
    asked = [*((name, 1 - STEP if name == "waits" else 1 + STEP) for name in RESOURCES)]
    asked += [("compute", 2.0), ("bandwidth", 2.0)]
    designs = [{}, *({path: factor**sign for path, sign in groups[name].items()} for name, factor in asked)]
    moved = {path for design in designs for path in design}
    space = chip.replace({path: [chip.fields[path] * design.get(path, 1.0) for design in designs] for path in moved})
    latency = np.broadcast_to(simulate(trace, space).latency_s, len(designs))
    gains = np.log(latency[0] / latency[1:])
    slopes = gains[: len(RESOURCES)] / STEP + 0.0
    found = dict(zip(RESOURCES, slopes.tolist(), strict=True))
    return found | {"compute twice": float(np.exp(gains[-2])), "bandwidth twice": float(np.exp(gains[-1]))}


@cache
def trace_of(name: str, dtype: str) -> Trace:
    """A network of `NETWORKS` in an element type."""
    _, published, settings = NETWORKS[name]
    if published:
        return network(published, dtype=dtype, **settings)
    return lstm(1, 4096, sequence_length=50, batch=1, hoist_input=False, dtype=dtype)


# -- the run -------------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    """Every network on every chip."""
    chips = bench.chips(*CHIPS)
    found = {
        name: {chip.name: answers(trace_of(name, element_type(chip)), chip) for chip in chips} for name in NETWORKS
    }
    numbers = _numbers(found)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers),
        limits=_limits(numbers),
        numbers=numbers,
        tables=[_table(found, resource) for resource in RESOURCES] + [_twice_table(found)],
        charts=[_chart(found, numbers)],
        outside=outside(),
    )


def _numbers(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """By group: pairs of network and chip, those that answer to either resource, medians, gains of twice as much."""
    numbers: dict[str, float] = {}
    for group in dict.fromkeys(kind for kind, _, _ in NETWORKS.values()):
        pairs = [of for name, line in found.items() if NETWORKS[name][0] == group for of in line.values()]
        numbers |= {
            f"{group}_pairs": len(pairs),
            f"{group}_more_to_bandwidth": sum(of["bandwidth"] > of["compute"] for of in pairs),
            f"{group}_more_to_compute": sum(of["compute"] > of["bandwidth"] for of in pairs),
            f"{group}_much_to_bandwidth": sum(of["bandwidth"] >= MUCH for of in pairs),
            f"{group}_much_to_compute": sum(of["compute"] >= MUCH for of in pairs),
            f"{group}_little_to_either": sum(max(of["bandwidth"], of["compute"]) < LITTLE for of in pairs),
            f"{group}_much_to_waits": sum(of["waits"] >= MUCH for of in pairs),
        }
        for resource in ("bandwidth", "compute"):
            numbers[f"{group}_{resource}_median"] = float(np.median([of[resource] for of in pairs]))
            numbers[f"{group}_{resource}_largest"] = max(of[resource] for of in pairs)
            gains = [of[f"{resource} twice"] for of in pairs]
            numbers |= {f"{group}_{resource}_twice_low": min(gains), f"{group}_{resource}_twice_high": max(gains)}
    return numbers


def _holds(n: Mapping[str, float]) -> str:
    """In full: every recurrent pair answers much to bandwidth and little to compute, every parallel one the reverse."""
    recurrent = n["recurrent_much_to_bandwidth"] == n["recurrent_pairs"] and n["recurrent_compute_largest"] < LITTLE
    parallel = n["parallel_much_to_compute"] == n["parallel_pairs"] and n["parallel_bandwidth_largest"] < LITTLE
    if recurrent and parallel:
        return "holds"
    most = 2 * n["recurrent_more_to_bandwidth"] > n["recurrent_pairs"]
    return "holds in part" if most and 2 * n["parallel_more_to_compute"] > n["parallel_pairs"] else "does not hold"


def _verdict(n: Mapping[str, float]) -> str:
    return (
        f"At batch 1 the recurrent networks gain at most {_two(n['recurrent_compute_largest'])} % for one per cent "
        f"more compute on any of the chips ({_gain(n, 'recurrent', 'compute')} times as fast with twice as much), and "
        f"in the median {_two(n['recurrent_bandwidth_median'])} % for one per cent more bandwidth "
        f"({_gain(n, 'recurrent', 'bandwidth')} times as fast with twice as much). Bandwidth is worth more than "
        f"compute in {count_of(n['recurrent_more_to_bandwidth'], n['recurrent_pairs'])} pairs of network and chip, and "
        f"much ({MUCH} % or more) in {n['recurrent_much_to_bandwidth']}.\n"
        f"The networks without recurrence gain {_two(n['parallel_compute_median'])} % for one per cent more compute in "
        f"the median, {_two(n['parallel_bandwidth_median'])} % for bandwidth; compute is worth more in "
        f"{count_of(n['parallel_more_to_compute'], n['parallel_pairs'])} pairs, and much in "
        f"{n['parallel_much_to_compute']}."
    )


def _limits(n: Mapping[str, float]) -> str:
    said = ""
    if n["recurrent_much_to_waits"]:
        said += (
            f"In {n['recurrent_much_to_waits']} of the {n['recurrent_pairs']} recurrent pairs launches and dependent "
            f"steps hold the time ({MUCH} % or more for one per cent less of them): neither resource is the remedy "
            f"there; in {n['recurrent_little_to_either']} both are worth less than {LITTLE} %. "
        )
    said += (
        f"With 256 sequences at once the LSTM answers more to compute on "
        f"{on_chips(n['batched_more_to_compute'], n['batched_pairs'])}. One token at a time the Transformer "
        f"answers more to bandwidth on {on_chips(n['decode_more_to_bandwidth'], n['decode_pairs'])}, much on "
        f"{n['decode_much_to_bandwidth']}"
    )
    said += ": there it asks for what the recurrence asks for. " if n["decode_more_to_bandwidth"] else ". "
    return said + "Elasticities hold near each chip as it is; twice as much of a resource meets the next limit."


def _two(value: float) -> str:
    return plain_text(value, "{:.2f}")


def _gain(n: Mapping[str, float], group: str, resource: str) -> str:
    return span([n[f"{group}_{resource}_twice_{end}"] for end in ("low", "high")], "{:.2f}")


# -- tables, chart, evidence ---------------------------------------------------------------------------


def _table(found, resource: str) -> Table:
    captions = {
        "bandwidth": "Per cent faster for one per cent more bandwidth of the memory",
        "compute": "Per cent faster for one per cent more compute of the matrix units",
        "on chip": "Per cent faster for one per cent more bandwidth on the chip, the feed of the units included",
        "waits": "Per cent faster for one per cent less waiting: launches, dependent steps, first accesses",
    }
    chips = list(next(iter(found.values())))
    rows = [[name, *(line[chip][resource] for chip in chips)] for name, line in found.items()]
    return Table(
        caption=captions[resource], columns=["network", *chips], rows=rows, formats=dict.fromkeys(chips, "{:.2f}")
    )


def _twice_table(found) -> Table:
    chips = list(next(iter(found.values())))
    rows = [
        [name, f"twice the {resource}", *(line[chip][f"{resource} twice"] for chip in chips)]
        for name, line in found.items()
        for resource in ("compute", "bandwidth")
    ]
    return Table(
        caption="How many times as fast with twice as much of one resource",
        columns=["network", "change", *chips],
        rows=rows,
        formats=dict.fromkeys(chips, "{:.2f}"),
    )


def _chart(found, n: Mapping[str, float]) -> Chart:
    chips = next(iter(found.values()))
    shown = ("bandwidth", "compute", "waits")
    return Chart(
        draw=lambda: answers_chart(found, shown),
        alt=f"Three heat maps of {len(found)} networks on {counted(len(chips), 'chip')}: per cent faster for one per "
        f"cent more bandwidth, more compute, less waiting. Recurrent networks at batch 1: in the median "
        f"{_two(n['recurrent_bandwidth_median'])} for bandwidth, {_two(n['recurrent_compute_median'])} for compute; "
        f"networks without recurrence: {_two(n['parallel_bandwidth_median'])} and "
        f"{_two(n['parallel_compute_median'])}.",
        caption="Elasticity of the speed: 1 is twice as fast for twice as much, 0 is no change.",
    )


def speedups(changes: Mapping[str, float]) -> dict[str, float]:
    """How many times as fast each network of the first TPU is with fields of the chip multiplied."""
    chip = preset("tpu-v1")
    changed = chip.replace({path: factor * chip.fields[chip.path(path)] for path, factor in changes.items()})
    traces = {name: network(f"tpu-v1-{name}") for name in DEPLOYED}
    return {name: simulate(of, chip).latency_s / simulate(of, changed).latency_s for name, of in traces.items()}


def outside() -> list[Outside]:
    """What the designers of the first TPU found for it."""
    source = f"{evidence.TPU_V1_PAPER}, figure 11 and section 7"
    memory = speedups({"memory.dram.bandwidth": 4})
    clock = speedups({"matrix.clock": 4, "vector.clock": 4})
    total = sum(DEPLOYED.values())
    bound = ("mlp0", "mlp1", "lstm0", "lstm1")

    def seen(what: str, published, computed: float, note: str) -> Outside:
        return Outside(
            what=what, published=published, computed=computed, unit="times as fast", source=source, note=note
        )

    return [
        seen("first TPU, 4 times the memory bandwidth, six networks weighted by deployment", 3.0,
             sum(DEPLOYED[name] * gain for name, gain in memory.items()) / total,
             "The model has no stall that a faster memory leaves; 4 is what bandwidth alone can bring."),
        seen("first TPU, 4 times the clock, mean of its MLPs and LSTMs", 1.0, _mean(clock, bound), "Almost no impact."),
        seen("first TPU, 4 times the clock, mean of its CNNs", 2.0, _mean(clock, ("cnn0", "cnn1")), "About twice."),
    ]  # fmt: skip


def _mean(gains: Mapping[str, float], names: Sequence[str]) -> float:
    return float(np.mean([gains[name] for name in names]))


STUDY = Study(
    name="compute-or-bandwidth",
    title="Add compute, or add bandwidth",
    question="What would make each network faster on each chip: more compute units, or more memory bandwidth?",
    claim="Adding compute units is easy and adding bandwidth is hard, and it is bandwidth that recurrent networks "
    "need: more compute does nothing for them. Networks without recurrence turn more compute into speed.",
    setup=f"{len(NETWORKS)} networks on {len(CHIPS)} chips, from a single-board computer to a data centre. The "
    "elasticity of the speed in a resource: per cent faster for one per cent more of it, all else as it is. Compute: "
    "the rate of the matrix units. Bandwidth: of the farthest memory. Waits: launches, dependent steps and first "
    f"accesses, of which less is counted. Much: {MUCH} or more; little: below {LITTLE}.",
    sources=(
        "Zaremba, Sutskever and Vinyals: Recurrent neural network regularization, 2014 (the large language model)",
        "Wu et al.: Google's neural machine translation system, 2016 (GNMT)",
        "Devlin et al.: BERT, NAACL 2019; Radford et al.: Language models are unsupervised multitask learners, 2019",
        "He, Zhang, Ren and Sun: Deep residual learning for image recognition, CVPR 2016 (ResNet-50)",
        f"{evidence.TPU_V1_PAPER}, figure 11 and section 7",
    ),
    run=run,
)
