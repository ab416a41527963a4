"""Path length: how far a signal travels in the sequence, and what more hardware can do about it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports.requests import substitute
from reports.studies.path_length_charts import gains_chart, paths_chart
from reports.studies.roots import first_true
from reports.studies.study import Bench, Finding, Outside, Study, StudyError, Table
from reports.studies.usual import between, listed, on_chips, ranged
from reports.units import format_quantity
from simulator import Accelerator, preset, simulate
from workloads import (
    Trace,
    attention,
    gru,
    hierarchical_attention,
    linear_attention,
    lstm,
    mamba_block,
    min_gru,
    min_lstm,
    mlstm,
    neural_turing_machine,
    qrnn,
    rnn,
    rwkv,
    slstm,
    sru,
    store_less,
    tcn,
)
from workloads.temporal_convolution import receptive_field

CHIPS = ("h100-sxm", "v100-sxm")
HIDDEN, HEADS, WINDOW, KEEP = 1024, 16, 100, 0.1
LENGTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
SHORT, LONG = 1_000, LENGTHS[-1]
#: Times the units and the bandwidth of every memory; latencies stay.
MORE = 1000
#: A path or a time that grows at least as this power of the length is serial.
GROWS = 0.9
#: Gains from `MORE` hardware at the longest sequence: at most so much is none, at least so much is use of it.
STUCK, USED = 2.0, 10.0
#: How near crossings are found, as a share of themselves.
WITHIN = 0.01

GATED, SERIAL, SCANNED = "gates see the state", "linear state, walked", "linear state, scanned"
WINDOWS, STORING = "attention and windows", "attention, memory gated"
KINDS = (GATED, SERIAL, SCANNED, WINDOWS, STORING)


@dataclass(frozen=True)
class Network:
    """One layer: its label, kind, and trace for (positions, element type); `drawn`: a line of its own in the charts."""

    label: str
    kind: str
    build: Callable[[int, str], Trace]
    drawn: bool = False

    @functools.cache  # noqa: B019 - the networks live as long as the module
    def trace(self, positions: int, dtype: str) -> Trace:
        return self.build(positions, dtype)

    def path(self, positions: int) -> float:
        """Dependent operations between the first position and the last."""
        return float(self.trace(positions, "fp16").path_length(0, positions - 1))


def _tcn_levels(positions: int) -> int:
    """Fewest levels of dilated convolutions that see the whole sequence."""
    levels = 1
    while receptive_field(levels, 3) < positions:
        levels += 1
    return levels


#: Label, kind and builder call; a network more is a line more.
NETWORKS = (
    Network("RNN", GATED, lambda t, d: rnn(1, HIDDEN, sequence_length=t, dtype=d)),
    Network("LSTM", GATED, lambda t, d: lstm(1, HIDDEN, sequence_length=t, dtype=d), drawn=True),
    Network("GRU", GATED, lambda t, d: gru(1, HIDDEN, sequence_length=t, dtype=d)),
    Network("sLSTM", GATED, lambda t, d: slstm(HIDDEN, 4, sequence_length=t, dtype=d)),
    Network("NTM", GATED, lambda t, d: neural_turing_machine(HIDDEN, sequence_length=t, dtype=d), drawn=True),
    Network("QRNN", SERIAL, lambda t, d: qrnn(1, HIDDEN, sequence_length=t, dtype=d), drawn=True),
    Network("SRU", SERIAL, lambda t, d: sru(1, HIDDEN, sequence_length=t, dtype=d)),
    Network("RWKV-4", SERIAL, lambda t, d: rwkv(1, HIDDEN, 256, sequence_length=t, logits="none", dtype=d)),
    Network("Mamba, walked", SERIAL, lambda t, d: mamba_block(HIDDEN, sequence_length=t, dtype=d)),
    Network(
        "Mamba, chunks", SCANNED, lambda t, d: mamba_block(HIDDEN, sequence_length=t, scan="chunked", dtype=d), True
    ),
    Network("Mamba, parallel", SCANNED, lambda t, d: mamba_block(HIDDEN, sequence_length=t, scan="parallel", dtype=d)),
    Network("minLSTM", SCANNED, lambda t, d: min_lstm(1, HIDDEN, sequence_length=t, dtype=d), drawn=True),
    Network("minGRU", SCANNED, lambda t, d: min_gru(1, HIDDEN, sequence_length=t, dtype=d)),
    Network("linear attention", SCANNED, lambda t, d: linear_attention(HIDDEN, HEADS, sequence_length=t, dtype=d)),
    Network("mLSTM", SCANNED, lambda t, d: mlstm(HIDDEN, 4, sequence_length=t, dtype=d)),
    Network("TCN", WINDOWS, lambda t, d: tcn(_tcn_levels(t), HIDDEN, sequence_length=t, dtype=d), drawn=True),
    Network(
        "hierarchy", WINDOWS,
        lambda t, d: hierarchical_attention(
            None, HIDDEN, HEADS, window=WINDOW, sliding=True, sequence_length=t, dtype=d
        ),
        drawn=True,
    ),
    Network(
        "attention", WINDOWS, lambda t, d: attention(HIDDEN, HEADS, sequence_length=t, causal=True, dtype=d), drawn=True
    ),
    Network(
        "gated memory", STORING,
        lambda t, d: store_less(attention(HIDDEN, HEADS, sequence_length=t, causal=True, dtype=d), KEEP),
        drawn=True,
    ),
)  # fmt: skip
BY_LABEL = {network.label: network for network in NETWORKS}
LSTM, ATTENTION, HIERARCHY, TCN = BY_LABEL["LSTM"], BY_LABEL["attention"], BY_LABEL["hierarchy"], BY_LABEL["TCN"]


@dataclass(frozen=True)
class Times:
    """Of one network and length, in seconds: latency and its 80 % interval on the chip; with `MORE` times the hardware
    the latency and the critical path, which is the serial time."""

    latency_s: float
    interval_s: tuple[float, float] | None
    more_s: float
    serial_s: float

    @property
    def gain(self) -> float:
        """How much quicker `MORE` times the hardware is."""
        return self.latency_s / self.more_s


def enlarged(chip: Accelerator) -> Accelerator:
    """The chip, and beside it as a second design one of `MORE` times its units and bandwidth, latencies as they are."""
    paths = ["matrix.count", "vector.count", *(f"memory.{level}.bandwidth_bytes_per_s" for level in chip.memory)]
    return chip.replace({path: np.array([1, MORE]) * chip.fields[path] for path in paths})


@dataclass(frozen=True, eq=False)
class OnChip:
    """The networks on a chip, each length simulated once."""

    chip: Accelerator
    dtype: str
    both: Accelerator

    @functools.cache  # noqa: B019 - lives as long as the study runs
    def times(self, network: Network, positions: int) -> Times:
        result = simulate(network.trace(positions, self.dtype), self.both)
        interval = result.latency_interval_s
        near = None if interval is None else (float(interval[0][0]), float(interval[1][0]))
        latency, more = (float(value) for value in result.latency_s)
        return Times(latency, near, more, float(result.critical_path_s[1]))

    def growth(self, network: Network, what: str) -> float:
        """The power of the length with which a time grows over the last factor of ten."""
        return growth(lambda positions: getattr(self.times(network, positions), what))

    def slower_from(self, network: Network, other: Network) -> float:
        """Positions from which a network takes longer than another; inf: nowhere up to the longest."""

        def slower(positions: int) -> bool:
            return self.times(network, positions).latency_s > self.times(other, positions).latency_s

        return first_true(slower, LENGTHS[0], LONG, WITHIN)

    def persistent_s(self) -> float:
        """The LSTM over the longest sequence where all its steps are one launch."""
        chip = self.chip.replace({"abilities.persistent_recurrence": True})
        return float(simulate(LSTM.trace(LONG, self.dtype), chip).latency_s)


def growth(of: Callable[[int], float]) -> float:
    """log10 of what ten times the length does, at the longest."""
    return math.log10(of(LONG) / of(LONG // 10))


def on(chip: Accelerator) -> OnChip:
    """The networks on a chip, in fp16 or the nearest float it has. Raises `StudyError` where it has none."""
    dtype = substitute("fp16", chip.dtypes)
    if dtype is None:
        raise StudyError(f"path-length: {chip.name} has no float type of 16 bits or more")
    return OnChip(chip, dtype, enlarged(chip))


# -- the run -------------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    """Simulate every network at every length, on each chip and on one of `MORE` times its hardware."""
    chips = [on(chip) for chip in bench.chips(*CHIPS)]
    numbers = _numbers(chips)
    return Finding(
        holds=_holds(numbers),
        verdict=_verdict(numbers, chips[0]),
        limits=_limits(numbers, chips),
        numbers=numbers,
        tables=(_paths_table(), *(_times_table(c) for c in chips)),
        charts=(
            paths_chart(chips[0], [n for n in NETWORKS if n.drawn], LENGTHS, MORE),
            gains_chart(chips[0], [n for n in NETWORKS if n.drawn], LENGTHS, MORE),
        ),
        outside=_outside(),
    )


def _of_kind(*kinds: str) -> list[Network]:
    return [network for network in NETWORKS if network.kind in kinds]


def _gains(chips: Sequence[OnChip], positions: int, *kinds: str) -> list[float]:
    return [c.times(network, positions).gain for c in chips for network in _of_kind(*kinds)]


def _numbers(chips: Sequence[OnChip]) -> Mapping[str, float]:
    gated = [growth(network.path) for network in _of_kind(GATED)]
    numbers = {
        "chips": len(chips),
        "path_growth_gated_least": min(gated),
        "path_lstm": LSTM.path(LONG),
        "path_attention": ATTENTION.path(LONG),
        "path_hierarchy": HIERARCHY.path(LONG),
        "path_tcn": TCN.path(LONG),
        "path_scanned_least": min(network.path(LONG) for network in _of_kind(SCANNED)),
        "path_scanned_most": max(network.path(LONG) for network in _of_kind(SCANNED)),
    }
    groups = {"gated": (GATED,), "serial": (SERIAL,), "scanned": (SCANNED,), "windows": (WINDOWS,)}
    for name, kinds in groups.items():
        for when, positions in (("short", SHORT), ("long", LONG)):
            found = _gains(chips, positions, *kinds)
            numbers |= {f"gain_{name}_{when}_least": min(found), f"gain_{name}_{when}_most": max(found)}
    stuck = [max(_gains([c], LONG, GATED)) <= STUCK for c in chips]
    used = [c.times(ATTENTION, LONG).gain >= USED for c in chips]
    numbers |= {"stuck_chips": sum(stuck), "used_chips": sum(used)}
    for c in chips:
        lstm_, attention_ = c.times(LSTM, LONG), c.times(ATTENTION, LONG)
        own = {
            "lstm_s": lstm_.latency_s,
            "lstm_persistent_s": c.persistent_s(),
            "attention_s": attention_.latency_s,
            "attention_growth": c.growth(ATTENTION, "latency_s"),
            "attention_gain_short": c.times(ATTENTION, SHORT).gain,
            "attention_gain_long": attention_.gain,
            "lstm_growth": c.growth(LSTM, "latency_s"),
            "attention_slower_than_lstm_from": c.slower_from(ATTENTION, LSTM),
            "attention_slower_than_minlstm_from": c.slower_from(ATTENTION, BY_LABEL["minLSTM"]),
            "qrnn_s": c.times(BY_LABEL["QRNN"], LONG).latency_s,
            "gated_memory_gain_long": c.times(BY_LABEL["gated memory"], LONG).gain,
            "gated_memory_serial_growth": c.growth(BY_LABEL["gated memory"], "serial_s"),
        }
        numbers |= {f"{c.chip.name}_{name}": value for name, value in own.items()}
    return numbers


# -- words ---------------------------------------------------------------------------------------------


def _holds(n: Mapping[str, float]) -> str:
    """Recurrent paths grow with the length, attention's is one hop; more hardware helps the second and not the first.

    In part: not on all chips, or recurrent networks whose state is linear use it too.
    """
    paths = n["path_growth_gated_least"] >= GROWS and n["path_attention"] <= 1
    as_claimed = min(n["stuck_chips"], n["used_chips"])
    if not paths or not as_claimed:
        return "does not hold"
    exceptions = max(n["gain_serial_long_most"], n["gain_scanned_long_most"]) >= USED
    return "holds in part" if exceptions or as_claimed < n["chips"] else "holds"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _span(n: Mapping[str, float], name: str) -> str:
    low, high = _number(n[f"{name}_least"]), _number(n[f"{name}_most"])
    return between(low, high)


def _names(*kinds: str) -> str:
    return listed([network.label for network in _of_kind(*kinds)])


def _verdict(n: Mapping[str, float], first: OnChip) -> str:
    own = {key: n[f"{first.chip.name}_{key}"] for key in ("attention_gain_short", "attention_gain_long")}
    most = f"at most {_number(n['gain_gated_long_most'])} times at {LONG:,} positions"
    stuck = (
        f"hardly faster on {on_chips(n['stuck_chips'], n['chips'])}: {most}"
        if n["stuck_chips"]
        else (f"faster all the same: {most}, and more than {STUCK:g} times on {on_chips(n['chips'], n['chips'])}")
    )
    used = (
        f"Attention turns them into speed on {on_chips(n['used_chips'], n['chips'])}, the more the longer the sequence"
    )
    if not n["used_chips"]:
        used = f"Attention gains less than {USED:g} times from them on {on_chips(n['chips'], n['chips'])}"
    linear = max(n["gain_serial_long_most"], n["gain_scanned_long_most"]) >= USED
    exception = (
        f"But recurrence as such does not forbid it: where the gates see the input alone the state is linear. Walked "
        f"position by position in one kernel ({_names(SERIAL)}) such networks gain {_span(n, 'gain_serial_long')} "
        f"times; scanned in chunks or in parallel ({_names(SCANNED)}) their path is {_span(n, 'path_scanned')} and "
        f"they gain {_span(n, 'gain_scanned_long')} times."
        if linear
        else f"Linear states do not help here: walked or scanned they gain at most "
        f"{_number(max(n['gain_serial_long_most'], n['gain_scanned_long_most']))}."
    )
    return (
        f"Between the first and the last of {LONG:,} positions a signal passes {n['path_lstm']:,.0f} dependent steps "
        f"in an LSTM, {n['path_tcn']:.0f} in a TCN, {n['path_hierarchy']:.0f} in a hierarchy of windows of {WINDOW} "
        f"and {n['path_attention']:.0f} in attention. In networks whose gates see the state ({_names(GATED)}) the path "
        f"grows as the length to the power {n['path_growth_gated_least']:.2f}, and {MORE:,} times the units and "
        f"bandwidth make them {stuck}. {used}: "
        f"{_number(own['attention_gain_short'])} times at {SHORT:,} positions and "
        f"{_number(own['attention_gain_long'])} times at {LONG:,} on {first.chip.title}. {exception}"
    )


def _limits(n: Mapping[str, float], chips: Sequence[OnChip]) -> str:
    return " ".join(_limits_of(n, c) for c in chips) + (
        " A gated memory has attention's single hop, but its test of what to store runs block after block. A parallel "
        "path is no less work: attention's is quadratic, a parallel scan moves the states of Mamba through memory "
        "level by level. What is counted of a walked scan is optimistic: one dependent operation a position, loads and "
        "exponentials fetched ahead. One sequence at a time; a batch gives recurrent networks work for more hardware."
    )


def _limits_of(n: Mapping[str, float], c: OnChip) -> str:
    own = {key.removeprefix(f"{c.chip.name}_"): value for key, value in n.items() if key.startswith(c.chip.name)}
    apart = _apart(c.times(ATTENTION, LONG), c.times(LSTM, LONG))
    lstm_, persistent, attention_, qrnn_ = (
        format_quantity(own[f"{name}_s"], "s") for name in ("lstm", "lstm_persistent", "attention", "qrnn")
    )
    return (
        f"On {c.chip.title}, {LONG:,} positions take the LSTM {lstm_} ({persistent} with all steps in one launch), a "
        f"QRNN {qrnn_}, attention {attention_}{apart}: its time grows as the length to the "
        f"power {own['attention_growth']:.2f}, the LSTM's to the power {own['lstm_growth']:.2f}, so that attention is "
        f"slower than the LSTM {_from(own['attention_slower_than_lstm_from'])} and than minLSTM "
        f"{_from(own['attention_slower_than_minlstm_from'])}. The gated memory (a share of {KEEP:g} stored) gains "
        f"{_number(own['gated_memory_gain_long'])} times; its serial time grows as the length to the "
        f"power {own['gated_memory_serial_growth']:.2f}."
    )


def _apart(one: Times, other: Times) -> str:
    """Whether calibration leaves a doubt which is quicker."""
    if one.interval_s is None or other.interval_s is None:
        return ""
    clear = one.interval_s[1] < other.interval_s[0] or other.interval_s[1] < one.interval_s[0]
    return " (80 % intervals of LSTM and attention " + ("do not overlap)" if clear else "overlap)")


def _from(positions: float) -> str:
    if not math.isfinite(positions):
        return f"at no length up to {LONG:,}"
    return f"from {round(positions, 1 - int(math.log10(positions))):,.0f} positions"


# -- tables --------------------------------------------------------------------------------------------


def _paths_table() -> Table:
    columns = ["network", "kind", *(f"{positions:,}" for positions in LENGTHS), "growth"]
    rows = [
        [network.label, network.kind, *(network.path(p) for p in LENGTHS), growth(network.path)] for network in NETWORKS
    ]
    return Table(
        caption=f"Dependent operations that a signal passes between the first and the last of so many positions, and "
        f"the power of the length with which they grow from {LONG // 10:,} to {LONG:,}. One layer, but a TCN and a "
        "hierarchy of as many levels as it takes to see the whole sequence: of their ways the shortest.",
        columns=columns,
        rows=rows,
        formats=dict.fromkeys(columns[2:-1], "{:,.0f}") | {"growth": "{:.2f}"},
    )


def _times_table(c: OnChip) -> Table:
    columns = ["network", f"latency at {SHORT:,} [ms]", f"latency at {LONG:,} [ms]", "80 % interval [ms]"]
    columns += ["growth of latency", f"serial time at {LONG:,} [ms]", "growth of serial time"]
    columns += [f"gain at {SHORT:,}", f"gain at {LONG:,}"]
    rows = []
    for network in NETWORKS:
        short, long = c.times(network, SHORT), c.times(network, LONG)
        interval = "-" if long.interval_s is None else ranged([1e3 * end for end in long.interval_s])
        rows.append([
            network.label, 1e3 * short.latency_s, 1e3 * long.latency_s, interval, c.growth(network, "latency_s"),
            1e3 * long.serial_s, c.growth(network, "serial_s"), _number(short.gain), _number(long.gain),
        ])  # fmt: skip
    return Table(
        caption=f"{c.chip.title}, {c.dtype}, one sequence. Serial time: the longest chain of dependent operations with "
        f"{MORE:,} times the units and bandwidth and the latencies of today. Gain: how much quicker the whole is "
        f"there. Growth: power of the length from {LONG // 10:,} to {LONG:,} positions.",
        columns=columns,
        rows=rows,
        formats=dict.fromkeys(("growth of latency", "growth of serial time"), "{:.2f}"),
    )


# -- outside -------------------------------------------------------------------------------------------


def _outside() -> tuple[Outside, ...]:
    vaswani = "Vaswani et al., Attention Is All You Need, NeurIPS 2017, table 1"
    mamba = "Gu and Dao, Mamba, arXiv:2312.00752, 2023, section 4.5"
    return (
        Outside(
            what="Growth of the longest path, recurrent layer",
            published=1.0,
            computed=growth(LSTM.path),
            unit="power of the length",
            source=vaswani,
        ),
        Outside(
            what=f"Path of self-attention over {LONG:,} positions",
            published=1.0,
            computed=ATTENTION.path(LONG),
            unit="operations",
            source=vaswani,
        ),
        Outside(
            what="QRNN over LSTM, best of batches 8 to 256 and lengths 32 to 512, 320 units",
            published=16.0,
            computed=_qrnn_advantage(),
            unit="times as fast",
            source="Bradbury et al., Quasi-Recurrent Neural Networks, ICLR 2017, abstract: up to 16 times",
            note="Simulated on a Titan X (Pascal) in fp32; the paper does not say the board where it gives the number.",
        ),
        Outside(
            what="Selective scan in one kernel over a standard scan, 16 states, A100",
            published=(20.0, 40.0),
            computed=_scan_advantage(16_384),
            unit="times as fast",
            source=mamba,
            note="1024 channels, 16 384 positions, bf16.",
        ),
        Outside(
            what="Length from which the scan is quicker than fused attention, A100",
            published=2048.0,
            computed=_scan_crossing(),
            unit="positions",
            source=mamba,
            note="1024 channels against 16 heads of 64, 8 sequences; the scan's chain of operations is optimistic.",
        ),
    )


def _qrnn_advantage() -> float:
    chip = preset("titan-x-pascal")

    def advantage(batch: int, length: int) -> float:
        sizes = {"sequence_length": length, "batch": batch}
        return float(simulate(lstm(1, 320, **sizes), chip).latency_s / simulate(qrnn(1, 320, **sizes), chip).latency_s)

    return max(advantage(batch, length) for batch in (8, 256) for length in (32, 128, 512))


def _a100_s(trace: Trace, of: Callable[[str, str], bool]) -> float:
    """Time of the rows of a trace that are meant, by (op, kind)."""
    result = simulate(trace, preset("a100-sxm-80gb"))
    meant = [of(str(op), str(kind)) for op, kind in zip(result.trace.op, result.trace.kind, strict=True)]
    return float((result.time_s * result.trace.repeats)[meant].sum())


def _scan_s(positions: int, form: str) -> float:
    block = mamba_block(512, inner=1024, sequence_length=positions, batch=8, scan=form, dtype="bf16")
    return _a100_s(block, lambda op, _: op.startswith("selective scan"))


def _scan_advantage(positions: int) -> float:
    return _scan_s(positions, "parallel") / _scan_s(positions, "chunked")


def _scan_crossing() -> float:
    """Positions at which scan and attention take equally long."""

    def quicker(positions: int) -> bool:
        fused = attention(1024, 16, sequence_length=positions, batch=8, causal=True, dtype="bf16")
        return _scan_s(positions, "chunked") < _a100_s(fused, lambda _, kind: kind == "attention")

    return float(first_true(quicker, 16, 65_536, WITHIN))


STUDY = Study(
    name="path-length",
    title="Path length and serial time, up to a million positions",
    question="How many dependent steps lie between two positions, and which networks can turn more hardware into speed "
    "as the sequence grows?",
    claim="Recurrent networks have a serial path as long as the sequence and cannot use more hardware; attention "
    "removes it: T steps become 1, or log T with a hierarchy.",
    setup=f"One layer of width {HIDDEN}, one sequence, forward only, 16-bit floats. {HEADS} heads where there are "
    f"heads, windows of {WINDOW} in the hierarchy, kernels of 3 in the TCN, a tenth stored in the gated memory, chunks "
    "of 2048 (Mamba), 128 (linear attention) and 64 (mLSTM). Layers differ in parameters; growth with the length is "
    f"compared, not quality. Serial time is the critical path on a chip of {MORE:,} times the units and bandwidth.",
    sources=(
        "Vaswani et al., Attention Is All You Need, NeurIPS 2017, table 1: path lengths",
        "Culurciello, The fall of RNN / LSTM, towardsdatascience.com/the-fall-of-rnn-lstm-2d1594c74ce0, 2018",
        "Bradbury et al., Quasi-Recurrent Neural Networks, arXiv:1611.01576, 2016; Lei et al., arXiv:1709.02755, 2017",
        "Katharopoulos et al., Transformers are RNNs, ICML 2020; Peng et al., RWKV, arXiv:2305.13048, 2023",
        "Gu and Dao, Mamba, arXiv:2312.00752, 2023; Beck et al., xLSTM, arXiv:2405.04517, 2024; Feng et al., Were RNNs "
        "All We Needed?, arXiv:2410.01201, 2024",
    ),
    run=run,
)
