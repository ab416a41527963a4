"""What a roofline chart shows: the chips with their peaks and bandwidths, and the part of the plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reports.tables import dtypes


@dataclass(frozen=True)
class Chip:
    """What bounds a chip on paper: bandwidth by level, nearest first [bytes/s]; peak by name [FLOP/s]."""

    name: str
    title: str
    bandwidths: dict[str, float]
    peaks: dict[str, float]
    labels: list[str]  # of the results on it
    inside: tuple[float, float] | None = None  # of a memory that computes: its banks [bytes/s], its units [FLOP/s]

    @property
    def farthest(self) -> float:
        return list(self.bandwidths.values())[-1]

    @property
    def top(self) -> float:
        return max(self.peaks.values())


def distinct_chips(found: dict) -> list[Chip]:
    """The distinct chips, each with the peaks that any of its results uses."""
    chips: list[Chip] = []
    for label, result in found.items():
        chip = result.accelerator
        bandwidths = {name: float(level.bandwidth_bytes_per_s) for name, level in chip.memory.items()}
        peaks = {d: float(chip.peak_flops_per_s(d)) for d in dtypes(result) if result.trace.is_product.any()}
        if has_vector_ops(result) or not peaks:
            peaks["vector"] = float(chip.vector_flops_per_s)
        inside = _inside(result)
        for known in chips:
            same = all(known.peaks.get(name, peak) == peak for name, peak in peaks.items())
            alike = (known.title, known.bandwidths, known.inside) == (chip.title, bandwidths, inside)
            if alike and same:
                known.peaks.update(peaks)
                known.labels.append(label)
                break
        else:
            chips.append(Chip(chip.name, chip.title, bandwidths, peaks, [label], inside))
    return chips


def _inside(result) -> tuple[float, float] | None:
    """Bandwidth and peak of a memory that computes in an element type of the result, None without."""
    units = result.accelerator.in_memory
    rates = [] if units is None else [rate for dtype, rate in units.macs_per_s.items() if dtype in dtypes(result)]
    return (float(units.bandwidth_bytes_per_s), 2.0 * float(max(rates))) if rates else None


def has_vector_ops(result) -> bool:
    return bool((~result.trace.is_product & (result.flops > 0)).any())


@dataclass(frozen=True)
class View:
    """The visible part of the plane; `strip` is where that for ops without traffic begins, 0 without one."""

    left: float
    right: float
    bottom: float
    top: float
    strip: float
    level: str  # name of the farthest level

    def x(self, intensity):
        """Intensity as a place on the axis: infinite ones in the middle of the strip."""
        if not self.strip:
            return intensity
        return np.where(np.isfinite(intensity), intensity, math.sqrt(self.strip * self.right))


def visible(found: dict, chips: list[Chip], measured=None) -> View:
    """The part of the plane that shows every op, whole network, ridge and measured point."""
    highest = top = max(chip.top for chip in chips)
    x = np.concatenate([[*op_intensity(r), network_intensity(r)] for r in found.values()])
    y = np.concatenate([[*r.attained_flops_per_s, r.attained] for r in found.values()])
    if measured is not None:
        highest = max(highest, measured.attained_flops_per_s.max(initial=0.0))
        x, y = np.concatenate([x, measured.intensity]), np.concatenate([y, measured.attained_flops_per_s])
    shown = y > 0
    far = np.concatenate([x[shown & np.isfinite(x)], [chip.top / chip.farthest for chip in chips]])
    bottom = min(y[shown].min(initial=top) / 3, top / 1e3)
    drawn = list(chips[0].bandwidths.values()) if len(chips) == 1 else [chip.farthest for chip in chips]
    drawn += [chip.inside[0] for chip in chips if chip.inside is not None]
    left, right, strip = min(far.min(), top / max(drawn)) / 4, far.max() * 6, 0.0  # the steepest roof shows
    if not np.isfinite(x[shown]).all():
        strip, right = right, right * (right / left) ** 0.05
    names = list(dict.fromkeys(farthest(r) for r in found.values()))
    return View(left, right, bottom, highest * 3, strip, names[0] if len(names) == 1 else "the farthest memory")


def op_intensity(result) -> np.ndarray:
    """Operations over the bytes that feed each op: at the farthest level, or in memory where it runs there. (ops,)"""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = result.flops / result.inside_bytes
    return np.where(result.placement == "memory", inside, result.intensity[farthest(result)])


def network_intensity(result) -> float:
    """The same of the whole network."""
    moved = np.where(result.placement == "memory", result.inside_bytes, result.traffic_bytes[farthest(result)])
    total = float(moved @ result.trace.runs)
    return float(result.flops @ result.trace.runs) / total if total else math.inf


def farthest(result) -> str:
    return list(result.accelerator.memory)[-1]
