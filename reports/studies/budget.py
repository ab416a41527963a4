"""The best chip for each network at equal area and power, and what it is worth to the others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_panels
from reports.palette import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY
from reports.requests import substitute
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import between
from simulator import Accelerator, preset, simulate, tune
from simulator.metrics import DesignSpaceError
from workloads import Trace, gru, lstm, network

CHIP = "hypothetical"
#: Areas of the two budgets over that of the chip as it is, and their power.
SMALL, LARGE, POWER = 2 / 3, 4 / 3, 1.5
#: Candidates, as factors on what the chip has.
FACTORS = {
    "matrix.count": (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 2.0),
    "matrix.clock": (0.5, 1.0, 1.5, 2.0),
    "shared": tuple(np.geomspace(1 / 8, 2, 9).tolist()),
    "outer": tuple(np.geomspace(0.1, 1.6, 9).tolist()),
}
#: What is doubled and halved on the chip as it is.
PARTS_VARIED = {"matrix.count": "units", "outer": "bandwidth", "shared": "on_chip"}
#: Share of the die from which a chip counts as mostly one thing.
MOSTLY = 0.5


@dataclass(frozen=True)
class Net:
    """A network by element type; `side` says which side of the claim it is on: recurrent, attention, or neither."""

    name: str
    trace: Callable[..., Trace]
    side: str = ""


_SIZES = {"sequence_length": 100}
NETS = (
    Net("LSTM", functools.partial(lstm, 2, 2048, batch=1, **_SIZES), "recurrent"),
    Net("GRU", functools.partial(gru, 2, 2048, batch=1, **_SIZES), "recurrent"),
    Net("GNMT", functools.partial(network, "gnmt", batch=1), "recurrent"),
    Net("LSTM, batch 64", functools.partial(lstm, 2, 2048, batch=64, **_SIZES)),
    Net("Deep Speech 2", functools.partial(network, "deep-speech-2", batch=1)),
    Net("BERT large", functools.partial(network, "bert-large"), "attention"),
    Net("Llama 2 7B, prompt", functools.partial(network, "llama-2-7b", sequence_length=1024), "attention"),
    Net("Llama 2 7B, token", functools.partial(network, "llama-2-7b", mode="decode", cache_length=2047)),
)
MEMORY, UNITS = "memory and interfaces", "units"


class _Bench:
    """The chip all designs start from, its levels by role, and the networks in a type it has."""

    def __init__(self, chip: Accelerator):
        dtype = substitute("bf16", chip.dtypes)
        if dtype is None:
            raise StudyError(f"budget: {chip.name} has no float type of 16 bits or more")
        shared = next(name for name, level in chip.memory.items() if level.scope == "chip")
        outer = list(chip.memory)[-1]
        if shared == outer:
            raise StudyError(
                f"budget: {chip.name} has no memory on the chip that its units share, whose size could vary"
            )
        self.chip, self.dtype = chip, dtype
        self.fields = {"shared": f"memory.{shared}.capacity", "outer": f"memory.{outer}.bandwidth"}
        self.fields |= {name: name for name in FACTORS if name not in self.fields}
        self.traces = {net.name: net.trace(dtype=dtype) for net in NETS}

    @functools.cached_property
    def space(self) -> dict[str, np.ndarray]:
        """Candidates of each field."""
        found = {}
        for name, factors in FACTORS.items():
            path = self.chip.path(self.fields[name])
            values = np.array(factors) * self.chip.fields[path]
            found[path] = np.unique(np.maximum(1, np.round(values))) if name == "matrix.count" else values
        return found

    def limits(self, share: float) -> dict[str, float]:
        """Area, power and edge of a design."""
        own = float(self.chip.area_mm2), float(self.chip.peak_power_w)
        return {"area_mm2": share * own[0], "peak_power_w": POWER * own[1], "shoreline_share": 1.0}

    def best(self, net: Net | None, share: float) -> Accelerator:
        """The quickest design for a network (None: for all, each weighted by what it takes on its own best)."""
        traces = self.traces[net.name] if net else {
            n.name: (self.traces[n.name], 1.0 / self.time_s(n, self.best(n, share))) for n in NETS
        }  # fmt: skip
        return self._tuned(None if net is None else net.name, share, traces)

    @functools.cached_property
    def _found(self) -> dict:
        return {}

    def _tuned(self, key, share: float, traces) -> Accelerator:
        if (key, share) not in self._found:
            points = int(np.prod([len(values) for values in self.space.values()]))
            limits = self.limits(share)
            try:
                found = tune(
                    traces, self.chip, self.space, minimise="latency_s", subject_to=limits, evaluations=points, top=1
                )
            except DesignSpaceError as error:
                raise StudyError(f"budget: {self.chip.name}: {error}") from None
            self._found[key, share] = found.accelerator
        return self._found[key, share]

    def time_s(self, net: Net, chip: Accelerator) -> float:
        return float(simulate(self.traces[net.name], chip).latency_s)

    def relative(self, net: Net, chip: Accelerator, share: float) -> float:
        """Speed of a network on a chip over that on its own best within the same budget. (0..1)"""
        return self.time_s(net, self.best(net, share)) / self.time_s(net, chip)

    def scaled(self, name: str, factor: float) -> Accelerator:
        """The chip as it is with so many times of a field."""
        path = self.chip.path(self.fields[name])
        value = factor * self.chip.fields[path]
        return self.chip.replace({path: max(1, round(value)) if name == "matrix.count" else value})

    def gain(self, net: Net, chip: Accelerator) -> float:
        """How many times as fast a network is as on the chip as it is."""
        return self.time_s(net, self.chip) / self.time_s(net, chip)


def areas(chip: Accelerator) -> dict[str, float]:
    """Area of a chip by what it is spent on. [mm2]"""
    part = {name: float(area) for name, area in chip.area_by_part_mm2().items()}
    levels = [name for name in chip.memory if name in part]
    found = {
        "matrix units": part["matrix"],
        "vector units": part["vector"],
        "memory on chip": sum(part[level] for level in levels),
        "memory interfaces": part["memory interfaces"],
    }
    return found | {"link, control, other": float(chip.area_mm2) - sum(found.values())}


def share_of(chip: Accelerator, what: str) -> float:
    """Share of the die in memory and interfaces, or in units. (0..1)"""
    names = {MEMORY: ("memory on chip", "memory interfaces"), UNITS: ("matrix units", "vector units")}[what]
    return sum(areas(chip)[name] for name in names) / float(chip.area_mm2)


def run(bench: Bench) -> Finding:
    """Find the best chips, run every network on each, and say what they are made of."""
    base = _Bench(bench.chips(CHIP)[0])
    numbers = _numbers(base)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers),
        limits=_limits(numbers, base),
        numbers=numbers,
        tables=(_chip_table(base), _cross_table(base), _doubling_table(base)),
        charts=(_area_chart(base), _cross_chart(base)),
        outside=_outside(),
    )


def _side(side: str) -> tuple[Net, ...]:
    return tuple(net for net in NETS if net.side == side)


def _numbers(base: _Bench) -> Mapping[str, float]:
    own = base.limits(SMALL)
    numbers = {"area_mm2": own["area_mm2"], "peak_power_w": own["peak_power_w"]}
    for share, budget in ((SMALL, "small"), (LARGE, "large")):
        for side in ("recurrent", "attention"):
            for what, name in ((MEMORY, "memory"), (UNITS, "units")):
                found = [share_of(base.best(net, share), what) for net in _side(side)]
                numbers |= {f"{budget}_{side}_{name}_share_least": min(found)}
                numbers |= {f"{budget}_{side}_{name}_share_most": max(found)}
        for net in NETS:
            key = f"{budget}_{net.name.replace(' ', '_').replace(',', '')}"
            chip = base.best(net, share)
            numbers |= {f"{key}_s": base.time_s(net, chip), f"{key}_units": float(chip.matrix.count)}
            numbers |= {f"{key}_memory_share": share_of(chip, MEMORY), f"{key}_units_share": share_of(chip, UNITS)}
    crossed = {
        (one, other): [base.relative(a, base.best(b, SMALL), SMALL) for a in _side(one) for b in _side(other)]
        for one, other in (("recurrent", "attention"), ("attention", "recurrent"))
    }  # fmt: skip
    numbers["recurrent_on_attention_least"] = min(crossed["recurrent", "attention"])
    numbers["recurrent_on_attention_most"] = max(crossed["recurrent", "attention"])
    numbers["attention_on_recurrent_least"] = min(crossed["attention", "recurrent"])
    numbers["attention_on_recurrent_most"] = max(crossed["attention", "recurrent"])
    numbers["all_least"] = min(base.relative(net, base.best(None, SMALL), SMALL) for net in NETS)
    for name, key in PARTS_VARIED.items():
        for factor, what in ((2, "doubling"), (0.5, "halving")):
            chip = base.scaled(name, factor)
            numbers[f"{what}_{key}_mm2"] = abs(float(chip.area_mm2) - float(base.chip.area_mm2))
            numbers[f"{what}_{key}_edge_share"] = float(chip.shoreline_share)
            numbers[f"{what}_{key}_w"] = abs(float(chip.peak_power_w) - float(base.chip.peak_power_w))
            for side in ("recurrent", "attention"):
                gains = [base.gain(net, chip) for net in _side(side)]
                numbers |= {f"{what}_{key}_{side}_least": min(gains), f"{what}_{key}_{side}_most": max(gains)}
    return numbers


# -- words ---------------------------------------------------------------------------------------------


def _holds(n: Mapping[str, float]) -> str:
    recurrent = n["small_recurrent_memory_share_least"] >= MOSTLY
    attention = n["small_attention_units_share_least"] >= MOSTLY
    if recurrent and attention:
        return "holds"
    apart = n["small_recurrent_memory_share_least"] > n["small_attention_memory_share_most"]
    return "holds in part" if recurrent or attention or apart else "does not hold"


def _percent(n: Mapping[str, float], name: str) -> str:
    one, other = (f"{100 * n[f'{name}_{end}']:.0f}" for end in ("least", "most"))
    return f"{between(one, other)} %"


def _times(n: Mapping[str, float], name: str) -> str:
    one, other = (f"{n[f'{name}_{end}']:.2f}" for end in ("least", "most"))
    return between(one, other)


def _verdict(n: Mapping[str, float]) -> str:
    units, bandwidth = n["doubling_units_mm2"], n["doubling_bandwidth_mm2"]
    first = (
        f"Within {n['area_mm2']:.0f} mm2 and {n['peak_power_w']:.0f} W the best chips for recurrent networks at batch "
        f"1 are {_percent(n, 'small_recurrent_memory_share')} memory and interfaces and "
        f"{_percent(n, 'small_recurrent_units_share')} units; those for attention over many positions "
        f"{_percent(n, 'small_attention_memory_share')} and {_percent(n, 'small_attention_units_share')}."
    )
    second = (
        f"A recurrent network runs at {_percent(n, 'recurrent_on_attention')} of its best speed on the chips made for "
        f"attention, attention at {_percent(n, 'attention_on_recurrent')} on those made for recurrence; the best chip "
        f"for all keeps at least {100 * n['all_least']:.0f} % of every network's best."
    )
    cheaper = "compute is the cheaper of the two" if units < bandwidth else "bandwidth is the cheaper of the two"
    edge = ", and the interfaces no longer fit the edge" if n["doubling_bandwidth_edge_share"] > 1 else ""
    third = (
        f"On the chip as it is, twice the units cost {units:.0f} mm2 and bring recurrence "
        f"{_times(n, 'doubling_units_recurrent')} times the speed, attention {_times(n, 'doubling_units_attention')}; "
        f"twice the bandwidth costs {bandwidth:.0f} mm2 and {100 * n['doubling_bandwidth_edge_share']:.0f} % of the "
        f"edge of the die and brings {_times(n, 'doubling_bandwidth_recurrent')} and "
        f"{_times(n, 'doubling_bandwidth_attention')}: {cheaper} in area{edge}."
    )
    return f"{first} {second} {third}"


def _limits(n: Mapping[str, float], base: _Bench) -> str:
    token = NETS[-1]
    batched = next(net for net in NETS if net.name == "LSTM, batch 64")
    shares = {net.name: 100 * share_of(base.best(net, SMALL), MEMORY) for net in (token, batched)}
    wants = ": one step at a time wants memory, recurrent or not" if shares[token.name] >= 100 * MOSTLY else ""
    points = int(np.prod([len(v) for v in base.space.values()]))
    return (
        f"The best chip for {token.name} is {shares[token.name]:.0f} % memory and interfaces{wants}; a batch of 64 "
        f"leaves the LSTM's at {shares[batched.name]:.0f} %. With twice the area the best chips for recurrence are "
        f"{_percent(n, 'large_recurrent_memory_share')} memory and interfaces, those for attention "
        f"{_percent(n, 'large_attention_units_share')} units. On the chip as it is, half the memory on chip would save "
        f"{n['halving_on_chip_mm2']:.0f} mm2 and leave recurrence {_percent(n, 'halving_on_chip_recurrent')} of its "
        f"speed, attention {_percent(n, 'halving_on_chip_attention')}; half the bandwidth saves "
        f"{n['halving_bandwidth_mm2']:.0f} mm2 and leaves {_percent(n, 'halving_bandwidth_recurrent')} and "
        f"{_percent(n, 'halving_bandwidth_attention')}. {points:,} designs of {base.chip.title}, each within the "
        f"budget tried; units, clock, memory on chip and bandwidth vary, vector units, link and tile do not. "
        f"Interfaces come in whole stacks. Areas are estimates from unit costs (`rooftrace validate "
        f"--set silicon` says how far off)."
    )


def _chip_table(base: _Bench) -> Table:
    paths = {name: base.chip.path(field) for name, field in base.fields.items()}
    rows = []
    for share in (SMALL, LARGE):
        for net in (*NETS, *([None] if share == SMALL else [])):
            chip = base.best(net, share)
            f = chip.fields
            rows.append([
                net.name if net else "all alike", base.limits(share)["area_mm2"], float(chip.area_mm2),
                float(chip.peak_power_w), f[paths["matrix.count"]], f[paths["matrix.clock"]] / 1e9,
                f[paths["shared"]] / 1e6, f[paths["outer"]] / 1e12, 100 * share_of(chip, MEMORY),
                100 * share_of(chip, UNITS), 1e3 * base.time_s(net, chip) if net else "",
            ])  # fmt: skip
    return Table(
        caption="The quickest chip for each network within two areas, and for all alike (least sum of times over those "
        "on each network's best chip) within the smaller.",
        columns=["network", "budget [mm2]", "area [mm2]", "peak power [W]", "units", "clock [GHz]", "on chip [MB]",
                 "bandwidth [TB/s]", "memory and interfaces [%]", "units [%]", "time [ms]"],
        rows=rows,
        formats={"units": "{:.0f}", "memory and interfaces [%]": "{:.0f}", "units [%]": "{:.0f}",
                 "area [mm2]": "{:.1f}", "budget [mm2]": "{:.0f}", "peak power [W]": "{:.0f}"},
    )  # fmt: skip


def _cross(base: _Bench) -> np.ndarray:
    """Per cent of its best speed of each network (rows) on the best chip of each, and on that for all (columns)."""
    chips = [base.best(net, SMALL) for net in (*NETS, None)]
    return np.array([[100 * base.relative(net, chip, SMALL) for chip in chips] for net in NETS])


def _cross_table(base: _Bench) -> Table:
    columns = [f"{net.name} [%]" for net in NETS] + ["all alike [%]"]
    rows = [[net.name, *row] for net, row in zip(NETS, _cross(base).tolist(), strict=True)]
    return Table(
        caption=f"Speed of each network (rows) on the chip that is best for another (columns), over that on its own "
        f"best; {base.limits(SMALL)['area_mm2']:.0f} mm2.",
        columns=["network", *columns],
        rows=rows,
        formats=dict.fromkeys(columns, "{:.0f}"),
    )


def _doubling_table(base: _Bench) -> Table:
    rows = []
    labels = {"units": "matrix units", "bandwidth": "bandwidth", "on_chip": "memory on chip"}
    for name, key in PARTS_VARIED.items():
        for factor, times in ((2, "twice the"), (0.5, "half the")):
            chip = base.scaled(name, factor)
            costs = float(chip.area_mm2 - base.chip.area_mm2), float(chip.peak_power_w - base.chip.peak_power_w)
            rows.append(
                [
                    f"{times} {labels[key]}",
                    *costs,
                    100 * float(chip.shoreline_share),
                    *(base.gain(net, chip) for net in NETS),
                ]
            )
    columns = [net.name for net in NETS]
    return Table(
        caption=f"What twice or half of one thing costs {base.chip.title} ({float(base.chip.area_mm2):.0f} mm2, "
        f"{float(base.chip.peak_power_w):.0f} W) and how many times as fast each network is with it.",
        columns=["change", "area [mm2]", "peak power [W]", "of the edge [%]", *columns],
        rows=rows,
        formats=dict.fromkeys(columns, "{:.2f}")
        | {"area [mm2]": "{:+.1f}", "peak power [W]": "{:+.0f}", "of the edge [%]": "{:.0f}"},
    )


# -- charts --------------------------------------------------------------------------------------------

#: Colour and hatch of each part of a die.
PARTS = {
    "matrix units": (BLUE, ""),
    "vector units": (SKY, "...."),
    "memory on chip": (ORANGE, "////"),
    "memory interfaces": (GREEN, "xxxx"),
    "link, control, other": (GREY, ""),
}


def _area_chart(base: _Bench) -> Chart:
    chips = {net.name: base.best(net, SMALL) for net in NETS} | {"all alike": base.best(None, SMALL)}
    parts = {name: areas(chip) for name, chip in chips.items()}
    limit = base.limits(SMALL)["area_mm2"]

    def draw():
        ax = new_panels(1, (3.5, 0.9 + 0.27 * len(parts)))[0]
        start = np.zeros(len(parts))
        for part, (colour, hatch) in PARTS.items():
            sizes = np.array([found[part] for found in parts.values()])
            ax.barh(range(len(parts)), sizes, 0.74, left=start, label=part, color=colour, hatch=hatch,
                    edgecolor="white", linewidth=0.4)  # fmt: skip
            start += sizes
        ax.axvline(limit, color=INK, linewidth=0.8, linestyle=":")
        ax.set_yticks(range(len(parts)), parts, fontsize=LABEL_SIZE)
        ax.set_ylim(len(parts) - 0.5, -0.5)
        ax.set_xlabel("area of the best chip [mm²]", fontsize=FONT_SIZE)
        ax.tick_params(axis="x", labelsize=LABEL_SIZE)
        ax.spines[["top", "right"]].set_visible(False)
        ax.figure.legend(loc="outside upper center", ncols=2, fontsize=LABEL_SIZE, frameon=False)
        return ax.figure

    told = "; ".join(
        f"{name} {100 * share_of(chip, MEMORY):.0f} and {100 * share_of(chip, UNITS):.0f} %"
        for name, chip in chips.items()
    )
    return Chart(
        draw=draw,
        alt=f"Stacked bars: area of the best chip for each network within {limit:.0f} mm2, by matrix and vector units, "
        f"memory on chip, memory interfaces and the rest. Memory with interfaces, and units: {told}.",
        caption=f"What the best chip for each network is made of, within {limit:.0f} mm² (dotted) and "
        f"{base.limits(SMALL)['peak_power_w']:.0f} W.",
    )


def _cross_chart(base: _Bench) -> Chart:
    values = _cross(base)
    rows = [net.name for net in NETS]

    def draw():
        from matplotlib.colors import LinearSegmentedColormap

        ax = new_panels(1, (3.5, 3.3))[0]
        shade = LinearSegmentedColormap.from_list("speed", ["white", PURPLE])
        ax.imshow(values, cmap=shade, vmin=0, vmax=110, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=LABEL_SIZE, color=INK)
        ax.set_yticks(range(len(rows)), rows, fontsize=LABEL_SIZE)
        ax.set_xticks(range(len(rows) + 1), [*rows, "all alike"], fontsize=LABEL_SIZE, rotation=45, ha="right",
                      rotation_mode="anchor")  # fmt: skip
        ax.set_xlabel("on the best chip for", fontsize=FONT_SIZE)
        ax.set_title("speed [% of that on its own best chip]", fontsize=FONT_SIZE)
        ax.tick_params(length=0)
        return ax.figure

    low = np.unravel_index(values.argmin(), values.shape)
    return Chart(
        draw=draw,
        alt=f"Table in shades: speed of each network on the best chip of each other, in per cent of that on its own "
        f"best. Least: {rows[low[0]]} on the chip for {[*rows, 'all alike'][low[1]]}, {values.min():.0f} %.",
        caption="Speed of each network (rows) on the best chip of each other (columns), over that on its own best.",
    )


# -- outside -------------------------------------------------------------------------------------------

#: Server GPUs of one maker.
GENERATIONS = ("k80", "p100-sxm", "v100-sxm", "a100-sxm-80gb", "h100-sxm", "b200")


def _outside() -> tuple[Outside, ...]:
    """Whether compute was easier to add than bandwidth: growth of both over the generations that have presets."""
    chips = [preset(name) for name in GENERATIONS]
    years = np.array([chip.year for chip in chips], float)
    peaks = [max(float(c.peak_flops_per_s(d)) for d in ("fp32", "fp16") if d in c.dtypes) for c in chips]
    kinds = {
        "peak rate of products": (peaks, 3.0),
        "memory bandwidth": ([float(c.outer.bandwidth_bytes_per_s) for c in chips], 1.6),
    }  # fmt: skip
    return tuple(
        Outside(
            what=f"growth of the {name} of server chips in two years",
            published=published,
            computed=float(np.exp(2 * np.polyfit(years, np.log(values), 1)[0])),
            unit="times",
            source="Gholami et al., AI and Memory Wall, IEEE Micro 2024 (arXiv:2403.14123), figure 1: 20 years",
            note=f"Computed from the presets {', '.join(GENERATIONS)}, fp16 where they have it; the published line is "
            f"over two decades of parts.",
        )
        for name, (values, published) in kinds.items()
    )


STUDY = Study(
    name="budget",
    title="The best chip for each network at equal area and power",
    question="Given the same area and power, what would each network spend them on?",
    claim="Compute is easy to add and bandwidth is not: the best chip for an LSTM is mostly memory, the best for "
    "attention mostly units.",
    setup="The hypothetical chip with its number and clock of units, its memory on chip and its outer bandwidth "
    "varied; the quickest design within an area, a peak power and what its edge can carry, for LSTM, GRU and GNMT at "
    "batch 1, a batched LSTM, Deep Speech 2, BERT large, and Llama 2 7B reading a prompt and writing one token; then "
    "every network on every chip.",
    sources=(
        "Unit costs of area and power: simulator/silicon.toml, each with its source",
        "Wu et al., arXiv:1609.08144, 2016 (GNMT); Amodei et al., ICML 2016 (Deep Speech 2); Devlin et al., "
        "arXiv:1810.04805, 2018 (BERT); Touvron et al., arXiv:2307.09288, 2023 (Llama 2)",
    ),
    run=run,
)
