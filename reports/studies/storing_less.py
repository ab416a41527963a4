"""Storing less: attention over a gated memory that keeps only what is new, against the share it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_grid, shortened
from reports.palette import CATEGORIES, GREY, INK
from reports.requests import Workload, substitute
from reports.studies.study import Bench, Chart, Finding, Study, StudyError, Table
from reports.studies.usual import listed, ranged, span, three_digits
from simulator import Accelerator, simulate
from workloads import Trace, store_less

CHIPS = ("h100-sxm", "v100-sxm", "tpu-v4", "jetson-agx-orin")
LENGTHS = (10_000, 100_000, 1_000_000)
KEEPS = (0.01, 0.03, 0.1, 0.3, 0.6, 0.8, 1.0)
#: The share at which savings are quoted.
QUOTED = 0.1
#: New positions tested at once in prefill.
BLOCKS = (1, 128, 2048)
#: Features compared by a cheaper test: one head's of twelve.
SKETCH = 64
NETWORK = Workload("gpt2-small", {"positions": "rotary", "logits": "last"})
#: KeyDiff (Park et al., arXiv:2504.15364, 2025): share of the cache dropped at 0.04 % loss on LongBench.
KEYDIFF_DROPPED = 0.23


@dataclass(frozen=True, eq=False)
class Series:
    """Times of one chip at one length for each share kept, beside the time of storing all without a test. [s]"""

    plain_s: float
    gated_s: np.ndarray  # (keeps,)
    interval_s: tuple[float, float] | None  # 80 %, at the share quoted

    @property
    def ratio(self) -> np.ndarray:
        return self.gated_s / self.plain_s

    @property
    def break_even(self) -> float:
        """The largest share kept that is no slower than storing all; 0 where none is, 1 where all are."""
        return crossing(np.array(KEEPS), self.ratio)

    def gain(self, keep: float) -> float:
        """Times as fast as storing all."""
        return float(1.0 / self.ratio[KEEPS.index(keep)])


@dataclass(frozen=True, eq=False)
class Found:
    """What one chip does: decode by length, prefill by length and block; memory and traffic."""

    chip: Accelerator
    dtype: str
    decode: dict[int, Series]
    sketch: Series
    prefill: dict[tuple[int, int], Series]
    fits: dict[float, float]  # positions beside the weights, by share kept
    traffic_bytes: dict[float, float]  # of one token at the longest length, by share kept

    def best_block(self, length: int) -> int:
        return min(BLOCKS, key=lambda block: self.prefill[length, block].ratio[KEEPS.index(QUOTED)])


def crossing(keeps: np.ndarray, ratio: np.ndarray) -> float:
    """Where a ratio that rises with the share kept passes 1, between the shares by a straight line."""
    above = np.flatnonzero(ratio > 1.0)
    if not above.size:
        return 1.0
    i = above[0]
    if i == 0:
        return 0.0
    return float(np.interp(1.0, ratio[i - 1 : i + 1], keeps[i - 1 : i + 1]))


def limit(compared: float = 1.0) -> float:
    """Break-even where pairs are all the work: attention reads a key and a value, the test `compared` of a key."""
    return 2.0 / (2.0 + compared)


# -- numbers -----------------------------------------------------------------------------------------


def run(bench: Bench) -> Finding:
    found = [_on(chip) for chip in bench.chips(*CHIPS)]
    return Finding(
        holds=_holds(found),
        verdict=_verdict(found),
        limits=_limits(found),
        numbers=_numbers(found),
        tables=[_decode_table(found), _prefill_table(found)],
        charts=[_chart(found)],
    )


def _on(chip: Accelerator) -> Found:
    if substitute("fp16", chip.dtypes) is None:
        raise StudyError(f"storing-less: {chip.name} has no float type of 16 bits or more")
    decode, prefill = {}, {}
    for length in LENGTHS:
        trace, _ = NETWORK.trace_for(chip, mode="decode", sequence_length=length)
        decode[length] = _series(chip, trace)
    sketch = _series(chip, trace, compared=SKETCH)
    quoted = {keep: store_less(trace, keep) if keep < 1 else trace for keep in (QUOTED, 1.0)}
    results = {keep: simulate(less, chip) for keep, less in quoted.items()}
    farthest = list(chip.memory)[-1]
    capacity = float(np.min(chip.memory[farthest].capacity_bytes))
    for length in (LENGTHS[0], LENGTHS[-1]):
        whole, _ = NETWORK.trace_for(chip, sequence_length=length)
        for block in BLOCKS:
            prefill[length, block] = _series(chip, whole, block=block)
    return Found(
        chip=chip,
        dtype=str(trace.dtype[trace.is_product][0]),
        decode=decode,
        sketch=sketch,
        prefill=prefill,
        fits={keep: positions_that_fit(less, capacity) for keep, less in quoted.items()},
        traffic_bytes={
            keep: float(result.traffic_bytes[farthest] @ result.trace.runs) for keep, result in results.items()
        },
    )


def _series(chip: Accelerator, trace: Trace, **settings) -> Series:
    gated = [simulate(store_less(trace, keep, **settings), chip) for keep in KEEPS]
    interval = gated[KEEPS.index(QUOTED)].latency_interval_s
    return Series(
        plain_s=float(simulate(trace, chip).latency_s),
        gated_s=np.array([float(result.latency_s) for result in gated]),
        interval_s=None if interval is None else (float(interval[0]), float(interval[1])),
    )


def positions_that_fit(trace: Trace, capacity_bytes: float) -> float:
    """Positions whose cache fits beside the weights; `trace` decodes the last of LENGTHS."""
    parts = trace.footprint()
    return max(0.0, (capacity_bytes - parts["weights"]) / (parts["cache"] / LENGTHS[-1]))


def _numbers(found: Sequence[Found]) -> dict[str, float]:
    numbers = {"break-even share in the limit": limit()}
    for one in found:
        name = one.chip.name
        for length, series in one.decode.items():
            numbers[f"{name}: break-even share, decode at {length}"] = series.break_even
            numbers[f"{name}: times as fast at {QUOTED:g} kept, decode at {length}"] = series.gain(QUOTED)
        for (length, block), series in one.prefill.items():
            numbers[f"{name}: break-even share, prefill of {length} in blocks of {block}"] = series.break_even
            numbers[f"{name}: times as fast at {QUOTED:g} kept, prefill of {length} in blocks of {block}"] = (
                series.gain(QUOTED)
            )
        numbers[f"{name}: break-even share comparing {SKETCH} features, decode at {LENGTHS[-1]}"] = (
            one.sketch.break_even
        )
        numbers[f"{name}: positions that fit storing all"] = one.fits[1.0]
        numbers[f"{name}: positions that fit at {QUOTED:g} kept"] = one.fits[QUOTED]
    return numbers


# -- words -------------------------------------------------------------------------------------------


def _holds(found: Sequence[Found]) -> str:
    """Holds: faster at every length in decode and, in some block, in prefill, on every chip. Not: slower everywhere."""
    decode = [series.gain(QUOTED) > 1 for one in found for series in one.decode.values()]
    prefill = [one.prefill[n, one.best_block(n)].gain(QUOTED) > 1 for one in found for n in (LENGTHS[0], LENGTHS[-1])]
    if all(decode) and all(prefill):
        return "holds"
    return "holds in part" if any(decode) or any(prefill) else "does not hold"


def _names(found: Sequence[Found]) -> str:
    return listed([one.chip.name for one in found])


def _verdict(found: Sequence[Found]) -> str:
    longest = LENGTHS[-1]
    gains = [one.decode[longest].gain(QUOTED) for one in found]
    blocks = [one.prefill[longest, one.best_block(longest)].gain(QUOTED) for one in found]
    less = [one.traffic_bytes[1.0] / one.traffic_bytes[QUOTED] for one in found]
    text = (
        f"With {QUOTED:.0%} of {longest:,} positions stored, a token is made {span(gains)} times as fast as with "
        f"all of them and moves {span(less)} times fewer bytes from memory, the test counted. "
    )
    further = [one.fits[QUOTED] / one.fits[1.0] for one in found if one.fits[1.0]]
    if further:
        text += f"{span(further)} times as many positions fit in memory beside the weights"
        only_less = [one for one in found if one.fits[1.0] < longest <= one.fits[QUOTED]]
        text += f"; on {_names(only_less)} {longest:,} fit only so. " if only_less else ". "
    slow = [one for one in found if one.prefill[longest, 1].gain(QUOTED) < 1]
    if slow:
        worst = max(1 / one.prefill[longest, 1].gain(QUOTED) for one in slow)
        text += (
            f"Reading all {longest:,} positions, tests of one vector after another make it slower than attention over "
            f"everything on {_names(slow)} (up to {three_digits(worst)} times); "
        )
    else:
        serial = [one.prefill[longest, 1].gain(QUOTED) for one in found]
        text += f"Reading all {longest:,} positions, vector after vector, is {span(serial)} times as fast; "
    return f"{text}in the best of the blocks it is {span(blocks)} times as fast."


def _paying(found: Sequence[Found], length: int) -> str:
    """Below what share decode at one length is faster, and where it never is."""
    never = [one for one in found if one.decode[length].break_even == 0]
    if len(never) == len(found):
        return f"at {length:,} positions it is never faster"
    pays = [one.decode[length].break_even for one in found if one not in never]
    text = f"at {length:,} positions it is faster below {span(pays, '{:.2f}')} stored"
    return f"{text} (on {_names(never)} never)" if never else text


def _limits(found: Sequence[Found]) -> str:
    longest = LENGTHS[-1]
    text = (
        f"In decode {'; '.join(_paying(found, length) for length in LENGTHS)}. By keys and values alone the limit is "
        f"{limit():.2f}: the test "
        f"reads a key wherever attention reads a key and a value. "
    )
    sketch = [one.sketch.break_even for one in found]
    text += f"Comparing {SKETCH} features of a key moves it to {span(sketch, '{:.2f}')} at {longest:,}. "
    short = LENGTHS[0]
    losing = [one for one in found if one.prefill[short, one.best_block(short)].gain(QUOTED) <= 1]
    if losing:
        text += f"Reading {short:,} positions, no block makes {QUOTED:.0%} stored faster on {_names(losing)}. "
    kept = 1 - KEYDIFF_DROPPED
    paying = [one for one in found if one.decode[longest].break_even >= kept]
    where = f"on {_names(paying)}" if paying else "on none of these chips"
    text += (
        f"Storing the {kept:.0%} that KeyDiff finds to cost little accuracy pays {where} with the full test (its own "
        "compares with one mean key). "
    )
    return text + "What share a task allows is a question of accuracy, which is not computed here."


# -- tables and chart --------------------------------------------------------------------------------


def _interval(series: Series, scale: float) -> str:
    return "-" if series.interval_s is None else ranged([end * scale for end in series.interval_s])


def _decode_table(found: Sequence[Found]) -> Table:
    rows = [
        [
            *(one.chip.name, one.dtype, length, series.plain_s * 1e3, series.gated_s[KEEPS.index(QUOTED)] * 1e3),
            *(_interval(series, 1e3), series.gain(QUOTED), series.break_even, one.fits[1.0], one.fits[QUOTED]),
        ]
        for one in found
        for length, series in one.decode.items()
    ]
    fit = ("positions that fit, all stored", f"positions that fit, {QUOTED:.0%} stored")
    columns = ["chip", "type", "positions", "all stored [ms]", f"{QUOTED:.0%} stored [ms]", "its 80 % interval [ms]"]
    return Table(
        caption="One token after so many positions, batch 1",
        columns=[*columns, "times as fast", "break-even share", *fit],
        rows=rows,
        formats={"positions": "{:,}"} | dict.fromkeys(fit, "{:,.0f}"),
    )


def _prefill_table(found: Sequence[Found]) -> Table:
    rows = [
        [
            *(one.chip.name, length, block, series.plain_s, series.gated_s[KEEPS.index(QUOTED)]),
            *(_interval(series, 1.0), series.gain(QUOTED), series.break_even),
        ]
        for one in found
        for (length, block), series in one.prefill.items()
    ]
    columns = ["chip", "positions", "block", "all stored [s]", f"{QUOTED:.0%} stored [s]", "its 80 % interval [s]"]
    return Table(
        caption="The whole sequence, new vectors tested in blocks, batch 1",
        columns=[*columns, "times as fast", "break-even share"],
        rows=rows,
        formats={"positions": "{:,}", "block": "{:,}"},
    )


def _chart(found: Sequence[Found]) -> Chart:
    longest, first = LENGTHS[-1], found[0]
    even = span([one.decode[longest].break_even for one in found], "{:.2f}")
    times = [three_digits(first.prefill[longest, block].ratio[KEEPS.index(QUOTED)]) for block in BLOCKS]
    return Chart(
        draw=lambda: draw(found),
        alt=(
            f"Two panels against the share of vectors stored, for {longest:,} positions. Left: the time of a token, "
            f"relative to storing all, rises with the share on {_names(found)} and passes 1 at {even}. Right: the "
            f"time of the whole sequence on {first.chip.name} with tests in blocks of {', '.join(map(str, BLOCKS))}: "
            f"at {QUOTED:.0%} stored {', '.join(times)}."
        ),
        caption=(
            f"Time relative to attention that stores everything, {longest:,} positions, batch 1. Left: one token. "
            f"Right: the whole sequence, new vectors tested one after another or in blocks. Dashed: break-even. "
            f"Dotted: bytes of keys and values alone, one half more than the share stored."
        ),
        source="a decoder with the sizes of GPT-2 small and a gated memory, on the chips named",
    )


def draw(found: Sequence[Found]):
    """Decode on every chip, and prefill by block on the first."""
    longest, first = LENGTHS[-1], found[0]
    left, right = new_grid(1, 2, (3.7, 3.1))
    markers = "osD^vPX<>*"
    for number, one in enumerate(found):
        _line(left, one.decode[longest].ratio, number, markers, shortened(one.chip.name, 24))
    keeps = np.array(KEEPS)
    left.plot(keeps, keeps / limit(), color=INK, linewidth=0.8, linestyle=":", label="bytes alone")
    for number, block in enumerate(BLOCKS):
        label = "one by one" if block == 1 else f"blocks of {block:,}"
        _line(right, first.prefill[longest, block].ratio, number, markers, label)
    for ax, title in (
        (left, "one token"),
        (right, f"whole sequence on {shortened(first.chip.name, 24)}"),
    ):
        ax.axhline(1.0, color=GREY, linewidth=1.0, linestyle="--", zorder=1)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("share of vectors stored", fontsize=FONT_SIZE)
        ax.set_ylabel("time / time storing all", fontsize=FONT_SIZE)
        ax.set_title(title, fontsize=FONT_SIZE + 1)
        ax.tick_params(labelsize=LABEL_SIZE)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.grid(True, which="major", color=GREY, alpha=0.25, linewidth=0.5)
        ax.text(KEEPS[0], 1.06, "break-even", fontsize=LABEL_SIZE - 0.5, color=INK, va="bottom")
        ax.legend(
            fontsize=LABEL_SIZE - 0.5,
            frameon=False,
            loc="lower right" if ax is left else "upper left",
            bbox_to_anchor=None if ax is left else (0.0, 0.93),
        )
    return left.figure


def _line(ax, ratio: np.ndarray, number: int, markers: str, label: str) -> None:
    ax.plot(
        KEEPS, ratio, color=CATEGORIES[number % len(CATEGORIES)], marker=markers[number % len(markers)], markersize=4,
        linewidth=1.3, linestyle=("-", "--", "-.")[number % 3], label=label,
    )  # fmt: skip


STUDY = Study(
    name="storing-less",
    title="Storing less: gated memory against the share kept",
    question=(
        "How much time, memory and traffic does it save to store only vectors unlike those already stored, and when "
        "does the test of similarity cost more than it saves?"
    ),
    claim="Attention that stores only what is new scales further.",
    setup=(
        "A decoder with the sizes of GPT-2 small and rotary positions, batch 1. Each layer compares every new key "
        "with all stored ones (cosine similarity) and stores it, with its value, only if none is alike; a vector "
        f"that is not stored is seen as the one it resembles. The share stored is set, from {KEEPS[0]:g} to 1. "
        f"Decode: one token after {', '.join(f'{n:,}' for n in LENGTHS)} positions. Reading: the whole sequence, new "
        f"vectors tested in blocks of {', '.join(map(str, BLOCKS))}. Compared with the same network storing "
        f"everything without a test."
    ),
    sources=(
        "Culurciello: The fall of RNN / LSTM, Towards Data Science, 13 April 2018 (the argument)",
        "Radford et al.: Language Models are Unsupervised Multitask Learners, 2019 (sizes of the network)",
        "Park et al.: KeyDiff: Key Similarity-Based KV Cache Eviction, arXiv:2504.15364 (2025)",
    ),
    run=run,
)
