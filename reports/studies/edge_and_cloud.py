"""Speech-to-text at the edge and in the cloud: do recurrent networks suit one user's stream better than attention?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.studies import edge_and_cloud_chart
from reports.studies.speech_models import (
    FRAMES,
    LEAST_WAIT,
    WAIT,
    Recogniser,
    Served,
    alike,
    interval,
    kept_bytes,
    real_time_factor,
    served,
    usd_per_hour,
    usd_per_hour_owned,
    with_room,
)
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import between, counted, listed, on_chips, three_digits
from simulator import Accelerator, Result, preset, simulate
from workloads import network, speech_s
from workloads.streaming import FRAMES_PER_S

CHIPS = (
    "smart-speaker-a53",
    "phone-snapdragon-845",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "coral-edge-tpu",
    "t4",
    "tpu-v1",
    "tpu-v4",
    "tpu-v5e",
)
#: Width of the Conformer all others are sized to: conformer-m of Gulati et al. 2020.
WIDTH = 256
#: Widths of Conformers in the panel of sizes, 2 to 110 million parameters.
WIDTHS = (64, 128, 256, 512)
#: Chips that draw less than this at their peak count as edge: they have no fan, or run from a battery.
EDGE_W = 20.0
#: "No better": no more than this much quicker. "Decides": room for the weights makes it this much quicker. "Batches":
#: streams heard together over streams heard one after another.
NO_BETTER, DECIDES, BATCHES = 1.1, 1.5, 4.0
KINDS = ("LSTM", "RNN-T", "Conformer")


@dataclass(frozen=True)
class OnChip:
    """What one chip makes of the three recognisers, each by kind."""

    chip: Accelerator
    one: Mapping[str, Result]  # one stream, equal parameters
    equal_flops: Mapping[str, float]  # real-time factors of one stream
    at_once: Mapping[str, float]  # real-time factors where a call waits for one step or position
    with_room: Mapping[str, float]  # real-time factors with on-chip memory for all weights
    served: Mapping[str, Served]
    is_edge: bool

    @property
    def factor(self) -> dict[str, float]:
        return {kind: real_time_factor(result) for kind, result in self.one.items()}

    @property
    def holds_weights(self) -> bool:
        return kept_bytes(self.chip) >= min(result.footprint["weights"] for result in self.one.values())

    def gain_of_room(self, kind: str) -> float:
        return self.factor[kind] / self.with_room[kind]

    def gain_of_streams(self, kind: str) -> float:
        """Streams heard together over the streams heard one after another."""
        return self.served[kind].streams * self.factor[kind]


def measure(chip: Accelerator, as_shipped: Accelerator | None = None) -> OnChip:
    """All figures of one chip; whether it is one of the edge is told by the unchanged one."""
    models = alike(WIDTH)
    roomy = with_room(chip)
    shortest = [Recogniser(m.kind, m.width, LEAST_WAIT[m.kind]) for m in models]
    return OnChip(
        chip,
        {m.kind: m.on(chip) for m in models},
        {m.kind: real_time_factor(m.on(chip)) for m in alike(WIDTH, "flops")},
        {m.kind: real_time_factor(m.on(chip)) for m in shortest},
        {m.kind: real_time_factor(m.on(roomy)) for m in models},
        {m.kind: served(lambda streams, m=m: m.on(chip, streams)) for m in models},
        float((as_shipped or chip).peak_power_w) < EDGE_W,
    )


# -- what the numbers say --------------------------------------------------------------------------------


def recurrent_lead(factors: Mapping[str, float]) -> float:
    """How many times as quick as the Conformer the quicker recurrent model is."""
    return factors["Conformer"] / min(factors["LSTM"], factors["RNN-T"])


def judge(found: Sequence[OnChip]) -> tuple[str, dict[str, bool]]:
    """How the claim fares, and which of its four parts hold.

    A part about chips that are not there is left out; then the claim holds in part at best."""
    edge, cloud = [f for f in found if f.is_edge], [f for f in found if not f.is_edge]
    small = [f for f in edge if not f.holds_weights]
    parts: dict[str, bool] = {}
    if edge:
        parts["no better at equal parameters"] = all(recurrent_lead(f.factor) <= NO_BETTER for f in edge)
        parts["no better at equal FLOP"] = all(recurrent_lead(f.equal_flops) <= NO_BETTER for f in edge)
    if small:
        parts["the fit of the weights decides"] = all(f.gain_of_room("LSTM") >= DECIDES for f in small)
    if cloud:
        parts["the cloud batches streams"] = all(f.gain_of_streams(k) >= BATCHES for f in cloud for k in KINDS)
    share = sum(parts.values()) / len(parts)
    whole = len(parts) == 4 and share == 1
    return ("holds" if whole else "holds in part" if share >= 0.5 else "does not hold"), parts


def _names(found: Sequence[OnChip]) -> str:
    return ", ".join(f.chip.name for f in found) or "none"


def _on(some: Sequence[OnChip], edge: Sequence[OnChip]) -> str:
    """'2 of 5 edge chips (a and b)', 'the one edge chip', 'no edge chip'."""
    words = on_chips(len(some), len(edge), "edge chip")
    return f"{words} ({_names(some)})" if 0 < len(some) < len(edge) else words


def _span(values) -> str:
    low, high = (f"{value:.0f}" if value >= 100 else f"{value:.2g}" for value in (min(values), max(values)))
    return between(low, high)


def _slower(found: Sequence[OnChip], of: str) -> str:
    """Time of the LSTM over that of the Conformer."""
    factors = [getattr(f, of) for f in found]
    return _span([each["LSTM"] / each["Conformer"] for each in factors])


def verdict(found: Sequence[OnChip]) -> str:
    """What the numbers say of the claim."""
    edge, cloud = [f for f in found if f.is_edge], [f for f in found if not f.is_edge]
    text = []
    if edge:
        ahead = [f for f in edge if recurrent_lead(f.factor) > NO_BETTER]
        per_flop = [f for f in edge if recurrent_lead(f.equal_flops) > NO_BETTER]
        text.append(
            f"One stream on {counted(len(edge), 'edge chip')} (below {EDGE_W:g} W), calls that wait 0.3 s, equal "
            "parameters: the "
            f"LSTM takes {_slower(edge, 'factor')} times as long as the Conformer. "
            f"The quicker of LSTM and RNN-T is more than {NO_BETTER - 1:.0%} quicker than the Conformer on "
            f"{_on(ahead, edge)}, at equal FLOP on {_on(per_flop, edge)}."
        )
        small = [f for f in edge if not f.holds_weights]
        if small:
            lstm, attention = ([f.gain_of_room(kind) for f in small] for kind in ("LSTM", "Conformer"))
            text.append(
                f"On {'the one' if len(small) == 1 else f'the {len(small)}'} that cannot keep the weights, memory on "
                "chip for all of them would make the LSTM "
                f"{_span(lstm)} times and the Conformer {_span(attention)} times as quick: a step of an LSTM reads its "
                "recurrent weights for one position, a chunk of the Conformer all of them for "
                f"{WAIT['Conformer'] // 4}."
            )
    if cloud:
        heard = {kind: [f.gain_of_streams(kind) for f in cloud if f.served[kind].streams] for kind in KINDS}
        many = [f"{_span(gains)} times as many {kind} streams" for kind, gains in heard.items() if gains]
        if many:
            text.append(f"In the cloud a chip hears {listed(many)} together as one after another.")
        else:
            text.append("In the cloud no chip hears even one stream in real time.")
    return " ".join(text)


def limits(found: Sequence[OnChip]) -> str:
    """Where the claim holds and where it stops."""
    edge = [f for f in found if f.is_edge]
    text = []
    if edge:
        behind = [f for f in edge if f.at_once["Conformer"] > f.at_once["LSTM"]]
        text.append(
            "It rests on the wait: with calls of one step of 30 ms or one position of 40 ms the LSTM takes "
            f"{_slower(edge, 'at_once')} times as long as the Conformer, which is slower on "
            f"{_on(behind, edge)}."
        )
    keep = [f for f in found if f.holds_weights]
    text.append(
        f"Chips that keep the weights of all layers between calls: {_names(keep)}."
        + (f" There the LSTM takes {_slower(keep, 'factor')} times as long as the Conformer." if keep else "")
    )
    late = [f"{kind} on {f.chip.name}" for f in found for kind in KINDS if f.factor[kind] > 1]
    text.append(f"Not in real time with one stream: {', '.join(late) or 'none'}.")
    return " ".join(text)


# -- tables --------------------------------------------------------------------------------------------


def _factor_text(result: Result) -> str:
    ends = interval(result)
    text = f"{real_time_factor(result):.3g}"
    return text if ends is None else f"{text} ({ends[0]:.3g} to {ends[1]:.3g})"


def _streams_text(found: Served) -> str:
    return f"at least {found.streams:,.0f}" if found.capped else f"{found.streams:,.0f}"


def tables(found: Sequence[OnChip]) -> list[Table]:
    """One stream, and as many as a chip hears in real time."""
    models = {m.kind: m for m in alike(WIDTH)}
    sizes = ", ".join(f"{kind} of width {m.width}, {m.parameters / 1e6:.1f}M" for kind, m in models.items())
    one = Table(
        caption=f"One stream in int8 at equal parameters ({sizes}): real-time factor (time over speech; 80 % interval "
        "where the chip is calibrated), the same at equal FLOP, what memory on chip for all weights would gain, energy",
        columns=[
            "chip", "keeps (MB)", *KINDS, *(f"{k}, equal FLOP" for k in KINDS), "gain of room, LSTM",
            "gain of room, Conformer", *(f"{k} (J/s of speech)" for k in KINDS),
        ],
        rows=[
            [
                f.chip.name, kept_bytes(f.chip) / 1e6, *(_factor_text(f.one[k]) for k in KINDS),
                *(f.equal_flops[k] for k in KINDS), f.gain_of_room("LSTM"), f.gain_of_room("Conformer"),
                *(f.one[k].energy_j / speech_s(f.one[k].trace) for k in KINDS),
            ]
            for f in found
        ],
    )  # fmt: skip
    many = Table(
        caption="As many streams as are heard in real time, energy with about so many, price of an hour of speech with "
        "so many (shared) and with one user who speaks an hour a day (owned). Prices: the published one of the board "
        "or chip, else derived from its parts, over five years, and electricity; no rent, host or network",
        columns=[
            "chip", *(f"{k} streams" for k in KINDS), *(f"{k} (J/s of speech)" for k in KINDS),
            *(f"{k} shared (USD/h)" for k in KINDS), "owned (USD/h)",
        ],
        rows=[
            [
                f.chip.name, *(_streams_text(f.served[k]) for k in KINDS),
                *(f.served[k].result.energy_j / speech_s(f.served[k].result.trace) for k in KINDS),
                *(usd_per_hour(f.served[k].result) for k in KINDS), usd_per_hour_owned(f.one["LSTM"]),
            ]
            for f in found
        ],
    )  # fmt: skip
    return [one, many]


# -- what others measured --------------------------------------------------------------------------------


def _shipped_factor(name: str, chip: Accelerator, **settings) -> float:
    return real_time_factor(simulate(network(name, **settings), chip))


def outside() -> list[Outside]:
    """Published figures beside those of the shipped presets, whatever chips the study runs on."""
    phone, pi = preset("phone-snapdragon-845"), preset("raspberry-pi-4")
    core = pi.replace({"matrix.count": 1, "vector.count": 1})
    he = (
        "He et al., ICASSP 2019, arXiv:1811.06621, results of quantisation: real-time factor at the 90th percentile, "
        "as noted here, not checked against the paper's table again"
    )
    slower = "theirs includes beam search and the slowest tenth of the utterances on an unnamed Pixel phone"
    memory = simulate(network("rnn-t-he-2019"), preset("smart-speaker-a53")).energy_by_level_j()
    dynamic = sum(value for use, value in memory.items() if use != "static")
    return [
        Outside(
            what="RNN-T of 120M parameters on a phone, int8: real-time factor", published=0.51,
            computed=_shipped_factor("rnn-t-he-2019", phone), unit="", source=he, note=slower,
        ),
        Outside(
            what="the same in fp32", published=1.43, computed=_shipped_factor("rnn-t-he-2019", phone, dtype="fp32"),
            unit="", source=he, note=slower,
        ),
        Outside(
            what="DeepSpeech 0.6 on one core of a Raspberry Pi 4, weights in int8: real-time factor",
            published=(0.0, 1.0), computed=_shipped_factor("mozilla-deepspeech", core, weight_dtype="int8"), unit="",
            source="Mozilla Hacks, DeepSpeech 0.6: Mozilla's Speech-to-Text Engine Gets Fast, Lean, and Ubiquitous, "
            "December 2019: faster than real time on a single core of a Raspberry Pi 4",
            note="the network alone, without the search; a bound is published, no number",
        ),
        Outside(
            what="share of DRAM in the energy of work and data of an RNN-T, one stream", published=(0.5, 1.0),
            computed=float(memory["dram"] / dynamic), unit="",
            source="Venkatesh et al., Memory-efficient Speech Recognition on Smart Devices, arXiv:2102.11531, 2021, "
            "abstract: dominated by accessing model weights from off-chip memory",
            note="static power is left out",
        ),
    ]  # fmt: skip


# -- the study -------------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    """Measures every chip and says what follows."""
    chips = bench.chips(*CHIPS)
    for chip in chips:
        if "int8" not in chip.dtypes:
            raise StudyError(f"edge-and-cloud: {chip.name} has no int8 arithmetic")
    pairs = zip(chips, Bench(on=bench.on).chips(*CHIPS), strict=True)
    found = [measure(chip, as_shipped) for chip, as_shipped in pairs]
    fares, _ = judge(found)
    sizes = edge_and_cloud_chart.by_size(WIDTHS, [f.chip for f in found])
    chart = Chart(
        draw=lambda: edge_and_cloud_chart.draw(found, sizes, KINDS),
        alt="Three panels. Real-time factor of one stream by chip: "
        + "; ".join(f"{f.chip.name} " + ", ".join(f"{k} {three_digits(f.factor[k])}" for k in KINDS) for f in found)
        + ". Real-time factor against streams heard together. Real-time factor against parameters.",
        caption="Left: one stream, calls that wait 0.3 s, equal parameters; below the line is faster than real time. "
        "Middle: time for a second of speech of all streams; a chip hears as many as it has below the line. "
        "Right: one stream, models of several sizes; the dotted line is what the chip keeps of weights.",
        source="networks after Sak et al. 2014, He et al. 2019 and Gulati et al. 2020",
    )
    numbers: dict[str, float] = {}
    for f in found:
        for kind in KINDS:
            name = f"{f.chip.name}, {kind}"
            numbers |= {
                f"{name}: real-time factor": f.factor[kind],
                f"{name}: real-time factor at equal FLOP": f.equal_flops[kind],
                f"{name}: real-time factor with the shortest calls": f.at_once[kind],
                f"{name}: gain of room": f.gain_of_room(kind),
                f"{name}: streams": f.served[kind].streams,
                f"{name}: energy of a second of speech (J)": f.one[kind].energy_j / speech_s(f.one[kind].trace),
                f"{name}: price of an hour, shared (USD)": usd_per_hour(f.served[kind].result),
            }
    return Finding(
        holds=fares, verdict=verdict(found), limits=limits(found), numbers=numbers, tables=tables(found),
        charts=[chart], outside=outside(),
    )  # fmt: skip


STUDY = Study(
    name="edge-and-cloud",
    title="Speech-to-text at the edge and in the cloud",
    question="Does one user's stream of speech suit recurrent networks better than attention, at the edge and beyond?",
    claim="Recurrent networks suit the edge no better than attention: what decides is whether the weights stay on chip "
    "and how many positions and streams share each reading of them; the cloud has many streams to batch, the edge one.",
    setup="A streaming LSTM with word pieces (CTC), an RNN transducer and a Conformer (CTC, 2.56 s of left context) "
    f"in int8, sized to the parameters of the Conformer of width {WIDTH} (27.6M), and to its FLOP. Streams of "
    f"{FRAMES / FRAMES_PER_S:g} s in calls that wait 0.30 s (recurrent, layer by layer or step by step, whichever is "
    "quicker) or 0.32 s (Conformer). Left out: feature extraction and any search beyond the greedy one. "
    f"Edge: chips of less than {EDGE_W:g} W at peak, as derived.",
    sources=(
        "Sak, Senior, Beaufays: Long Short-Term Memory Recurrent Neural Network Architectures, Interspeech 2014",
        "He et al.: Streaming End-to-end Speech Recognition for Mobile Devices, ICASSP 2019, arXiv:1811.06621",
        "Gulati et al.: Conformer, Interspeech 2020, arXiv:2005.08100",
    ),
    run=run,
)
