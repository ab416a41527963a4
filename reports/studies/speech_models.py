"""Recognisers of equal size for the studies of speech, and what a chip makes of them: real time, streams, cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from simulator import Accelerator, Result, simulate
from workloads import Trace, acoustic_network, conformer, sized_to, speech_s, transducer

#: Frames of 10 ms each stream speaks: whole calls of all three.
FRAMES = 960
#: Frames a call waits for: 0.30 s of the recurrent models' steps, 0.32 s of the Conformer's positions.
WAIT = {"LSTM": 30, "RNN-T": 30, "Conformer": 32}
#: The least a call can wait for: one step, or one position.
LEAST_WAIT = {"LSTM": 3, "RNN-T": 6, "Conformer": 4}
PIECES = 1024
#: Widths are multiples of this, so that projections are whole and the Conformer's heads divide it.
STEP = 16
#: Streams that are tried; between them their number is interpolated.
STREAMS = tuple(4**exponent for exponent in range(8))


@cache
def trace(kind: str, width: int, chunk: int, streams: int = 1, frames: int = FRAMES) -> Trace:
    """`streams` streams through a recogniser of that width, in int8.

    LSTM: five layers projected to half, four frames a step. RNN-T: the proportions of He et al. 2019. Conformer: 16
    blocks with four heads; it and the LSTM with one product to word pieces (CTC).
    """
    shared = {"sequence_length": frames, "chunk": chunk, "batch": streams, "dtype": "int8", "name": kind}
    if kind == "LSTM":
        return acoustic_network(5, width, outputs=PIECES, stack=4, decimate=3, projection=width // 2, **shared)
    if kind == "RNN-T":
        narrow = width * 5 // 16
        return transducer(
            8, width, vocabulary=PIECES, projection=narrow, joint=narrow, stack=4, decimate=3, time_reduction=2,
            reduction_after=2, **shared,
        )  # fmt: skip
    return conformer(16, width, 4, vocabulary=PIECES, decoder="ctc", **shared)


@cache
def width_like(kind: str, conformer_width: int, measure: str) -> int:
    """The width at which a recogniser has the parameters, or the FLOP a second, of a Conformer."""
    like = trace("Conformer", conformer_width, WAIT["Conformer"])
    target = like.total_parameters if measure == "parameters" else like.total_matrix_flops
    return sized_to(lambda width: trace(kind, width, WAIT[kind]), target, measure=measure, step=STEP, most=8192)


@dataclass(frozen=True)
class Recogniser:
    """A recogniser of one width. `wait`: frames a call waits for; a recurrent one may take them step by step."""

    kind: str
    width: int
    wait: int

    @property
    def parameters(self) -> int:
        return trace(self.kind, self.width, self.wait).total_parameters

    @property
    def orders(self) -> tuple[int, ...]:
        """Chunks in which the waiting frames can be worked off: layer by layer, or step by step through all layers."""
        return tuple(dict.fromkeys((self.wait, self.wait if self.kind == "Conformer" else LEAST_WAIT[self.kind])))

    def on(self, chip: Accelerator, streams: int = 1) -> Result:
        """`streams` streams heard together, in the quicker order."""
        results = (simulate(trace(self.kind, self.width, chunk, streams), chip) for chunk in self.orders)
        return min(results, key=lambda result: float(result.latency_s))


def alike(conformer_width: int, measure: str = "parameters", wait: dict[str, int] | None = None) -> list[Recogniser]:
    """LSTM, RNN-T and Conformer of equal `measure`."""
    wait = WAIT if wait is None else wait
    widths = {kind: width_like(kind, conformer_width, measure) for kind in ("LSTM", "RNN-T")}
    widths["Conformer"] = conformer_width
    return [Recogniser(kind, width, wait[kind]) for kind, width in widths.items()]


def real_time_factor(result: Result) -> float:
    """Time over the duration of the speech of one stream: all streams speak at once."""
    return float(result.latency_s) * result.trace.sequences / speech_s(result.trace)


def interval(result: Result) -> tuple[float, float] | None:
    """The 80 % interval of the real-time factor; None where nothing was calibrated."""
    ends = result.latency_interval_s
    return None if ends is None else tuple(real_time_factor(result) * float(e / result.latency_s) for e in ends)


@dataclass(frozen=True)
class Served:
    """The most streams a chip hears in real time (0: not even one), and what it makes of about so many.

    curve: real-time factors by streams heard together, up to the first that is too slow. capped: more than are tried.
    """

    streams: float
    result: Result
    curve: dict[int, float]
    capped: bool = False


def served(on: Callable[[int], Result]) -> Served:
    """Ever more streams until they are no longer heard in real time, or do not fit; the last ones interpolated."""
    curve: dict[int, float] = {}
    results: list[Result] = []
    for count in STREAMS:
        result = on(count)
        if not result.fits:
            break
        results.append(result)
        curve[count] = real_time_factor(result)
        if curve[count] > 1.0:
            break
    if not results:
        return Served(0.0, result, curve)
    counts, factors = list(curve), list(curve.values())
    if factors[-1] <= 1.0:
        return Served(float(counts[-1]), results[-1], curve, capped=counts[-1] == STREAMS[-1])
    if len(factors) == 1:
        return Served(0.0, results[0], curve)
    share = math.log(1.0 / factors[-2]) / math.log(factors[-1] / factors[-2])
    streams = math.floor(counts[-2] * (counts[-1] / counts[-2]) ** share)
    return Served(float(streams), results[-2], curve)


def usd_per_hour(result: Result, **terms) -> float:
    """What an hour of speech of one stream costs: the device over its life, and electricity."""
    return float(result.price_per_million_tokens_usd(**terms)) * 0.36  # 360 000 frames


def usd_per_hour_owned(result: Result) -> float:
    """The same for a device with one user who speaks an hour a day, at home: no data centre around it."""
    return usd_per_hour(result, load=min(1.0, real_time_factor(result) / 24.0), facility_overhead=1.0)


def kept_bytes(chip: Accelerator) -> float:
    """What the chip can keep of weights between calls."""
    return max((float(level.capacity_bytes) for level in chip.memory.values() if level.keeps_weights), default=0.0)


def with_room(chip: Accelerator, capacity_bytes: float = 1e9) -> Accelerator:
    """The chip with on-chip memory that keeps all weights, at the bandwidth it has."""
    levels = list(chip.memory)[:-1] or list(chip.memory)  # a chip of one level keeps them there
    name = next((n for n in reversed(levels) if chip.memory[n].keeps_weights), levels[-1])
    return chip.replace({f"memory.{name}.capacity_bytes": capacity_bytes, f"memory.{name}.keeps_weights": True})
