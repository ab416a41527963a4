"""Predicted against measured: every measurement, and the errors of those that nothing was fitted to.

An error is |predicted / measured - 1| of a time; the bias is the median of predicted / measured, less one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulator import Accelerator, preset, presets
from simulator.accelerator import call_times
from simulator.calibrate import held_out, predict, predict_interval
from workloads.measured import Measurements
from workloads.trace import TRAFFIC, Trace

#: Labels that tell one line of the table from the next.
LINE = ("device", "set", "kind", "dtype", "phase")
NETWORK_LINE = ("device", "set", "network", "phase")


@dataclass(frozen=True, eq=False)
class Validation:
    """Measurements beside what was predicted, arrays of (measurements,).

    predicted_s: nan where there is none; `missing` says why, '' elsewhere. low_s, high_s: the 80 % interval, nan where
    the chip knows none. roofline_s: the two-line roofline, each step of a recurrence reading its weights;
    roofline_layer_s: the weights of a whole layer read once. fitted: constants of the chip or the overhead of the
    harness were fitted to the row. judged: predicted, and not fitted. chips: by device.
    """

    labels: Mapping[str, np.ndarray]
    measured_s: np.ndarray
    predicted_s: np.ndarray
    low_s: np.ndarray
    high_s: np.ndarray
    roofline_s: np.ndarray
    roofline_layer_s: np.ndarray
    fitted: np.ndarray
    missing: np.ndarray
    chips: Mapping[str, Accelerator] = field(repr=False, default_factory=dict)

    def __len__(self):
        return len(self.measured_s)

    @property
    def judged(self) -> np.ndarray:
        return (self.missing == "") & ~self.fitted

    def where(self, **labels: str | Sequence[str]) -> np.ndarray:
        """Mask of the rows whose labels are these, or one of these."""
        mask = np.ones(len(self), bool)
        for name, wanted in labels.items():
            mask &= np.isin(self.labels[name], [wanted] if isinstance(wanted, str) else list(wanted))
        return mask

    def lines(self, names: Sequence[str] = LINE) -> dict[tuple[str, ...], np.ndarray]:
        """Masks of the rows that share labels, in the order of the rows."""
        keys = list(zip(*(self.labels[name].tolist() for name in names), strict=True))
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        which = np.array([number[key] for key in keys])
        return {key: which == i for key, i in number.items()}


@dataclass(frozen=True)
class Accuracy:
    """Errors of the judged rows among some; nan where there is none. Shares of one: 0.1 is 10 %."""

    fitted: int
    judged: int
    bias: float
    median: float
    mean: float
    p90: float
    worst: float
    fitted_mean: float
    roofline_mean: float
    roofline_layer_mean: float
    coverage: float


def validate(
    measurements: Measurements,
    chips: Mapping[str, Accelerator] | None = None,
    calls: Mapping[str, Mapping[str, float]] | None = None,
    fitted: np.ndarray | None = None,
) -> Validation:
    """Predict every measurement on the chip of its device.

    `chips`: accelerators by device (default: the preset of that name, where there is one). `calls`: by device, what
    each harness adds to a call [s] (default: as calibrated). `fitted`: which measurements the chips' constants were
    fitted to, a mask (measurements,) (default: see `was_fitted`).
    """
    devices = list(dict.fromkeys(measurements.device.tolist()))
    if chips is None:
        chips = {device: preset(device) for device in devices if device in presets()}
    if calls is None:
        calls = {device: call_times(device) for device in chips}
    if fitted is None:
        fitted = was_fitted(measurements, chips)
    missing = _missing(measurements, chips)
    columns = {name: np.full(len(measurements), np.nan) for name in ("predicted", "low", "high", "step", "layer")}
    for device in devices:
        rows = np.flatnonzero((measurements.device == device) & (missing == ""))
        if len(rows):
            part, chip = measurements.select(rows), chips[device]
            columns["predicted"][rows] = predict(chip, part, calls.get(device, {}))
            if chip.spread:
                ends = predict_interval(chip, part, calls.get(device, {}))
                columns["low"][rows], columns["high"][rows] = ends
            columns["step"][rows], columns["layer"][rows] = roofline_s(chip, part)
    return Validation(
        labels=measurements.labels,
        measured_s=measurements.time_s,
        predicted_s=columns["predicted"],
        low_s=columns["low"],
        high_s=columns["high"],
        roofline_s=columns["step"],
        roofline_layer_s=columns["layer"],
        fitted=fitted & (missing == ""),
        missing=missing,
        chips=dict(chips),
    )


def was_fitted(measurements: Measurements, chips: Mapping[str, Accelerator]) -> np.ndarray:
    """Which measurements a calibration saw: not held out, and of a set that a fitted constant of their chip cites."""
    seen = {(device, name) for device, chip in chips.items() for name in _cited(chip)}
    keys = zip(measurements.device.tolist(), measurements.set.tolist(), strict=True)
    return np.array([key in seen for key in keys], bool) & ~held_out(measurements)


def _cited(chip: Accelerator) -> set[str]:
    """The words, names of sets among them, of what the fitted constants of a chip cite."""
    return {word for path in fitted_constants(chip) for word in re.findall(r"[\w-]+", chip.citations[path].source)}


def fitted_constants(chip: Accelerator) -> dict[str, float]:
    """Fields of a chip, by path, that a calibration fitted: those cited as such."""
    return {
        path: chip.fields[path]
        for path, cited in chip.citations.items()
        if cited.basis == "measured" and cited.source.startswith("fitted to")
    }


def roofline_s(chip: Accelerator, measurements: Measurements) -> tuple[np.ndarray, np.ndarray]:
    """The two-line roofline of the datasheet: max(FLOP / peak, compulsory bytes / bandwidth), rows summed. [s]

    Two arrays (measurements,): every step of a recurrence reads weights and state from memory; and they are read once
    for all steps of a layer. The clock is the boost clock, also of a chip that does not hold it.
    Ref.: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009.
    """
    trace, bandwidth = measurements.trace, float(chip.outer.bandwidth_bytes_per_s)
    compute_s = _flops(trace) / _peak_flops_per_s(chip, trace)
    kept = trace.weight_bytes + trace.state_bytes
    moved = sum(trace.columns[name] for name in TRAFFIC)
    step_s = trace.repeats * np.maximum(compute_s, moved / bandwidth)
    once = trace.repeats * (moved - kept) + trace.repeats // trace.serial_steps * kept
    layer_s = np.maximum(trace.repeats * compute_s, once / bandwidth)
    return np.add.reduceat(step_s, measurements.first), np.add.reduceat(layer_s, measurements.first)


def accuracy(validation: Validation, which: np.ndarray) -> Accuracy:
    """Errors of the rows that a mask (measurements,) picks."""
    judged, fitted = which & validation.judged, which & validation.fitted
    error = _errors(validation.predicted_s[judged], validation.measured_s[judged])
    return Accuracy(
        fitted=int(fitted.sum()),
        judged=int(judged.sum()),
        bias=_of(lambda r: np.exp(np.median(np.log(r))) - 1, (validation.predicted_s / validation.measured_s)[judged]),
        median=_of(np.median, error),
        mean=_of(np.mean, error),
        p90=_of(lambda e: np.percentile(e, 90), error),
        worst=_of(np.max, error),
        fitted_mean=_of(np.mean, _errors(validation.predicted_s[fitted], validation.measured_s[fitted])),
        roofline_mean=_of(np.mean, _errors(validation.roofline_s[judged], validation.measured_s[judged])),
        roofline_layer_mean=_of(np.mean, _errors(validation.roofline_layer_s[judged], validation.measured_s[judged])),
        coverage=_coverage(validation, judged),
    )


def _errors(predicted_s: np.ndarray, measured_s: np.ndarray) -> np.ndarray:
    return np.abs(predicted_s / measured_s - 1)


def _of(statistic, values: np.ndarray) -> float:
    return float(statistic(values)) if len(values) else np.nan


def _coverage(validation: Validation, judged: np.ndarray) -> float:
    """Share of the judged rows whose time lies within their interval; nan where a row has none."""
    low, high, measured = (a[judged] for a in (validation.low_s, validation.high_s, validation.measured_s))
    return _of(np.mean, (low <= measured) & (measured <= high)) if np.isfinite(low + high).all() else np.nan


def _missing(measurements: Measurements, chips: Mapping[str, Accelerator]) -> np.ndarray:
    """Why a measurement cannot be predicted: no chip, or none with its element type; '' where it can."""
    types = _product_types(measurements)
    pairs = list(zip(measurements.device.tolist(), types, strict=True))
    reason = {}
    for device, dtype in dict.fromkeys(pairs):
        if device not in chips:
            reason[device, dtype] = "no preset"
        elif dtype and dtype not in chips[device].dtypes:
            reason[device, dtype] = f"no {dtype} on this chip"
    return np.array([reason.get(pair, "") for pair in pairs], dtype=str)


def _product_types(measurements: Measurements) -> list[str]:
    """Element type of each measurement's products, '' for one without a product. (measurements,)"""
    trace, types = measurements.trace, np.full(len(measurements), "", dtype=measurements.trace.dtype.dtype)
    types[measurements.owner[trace.is_product]] = trace.dtype[trace.is_product]
    return types.tolist()


def _flops(trace: Trace) -> np.ndarray:
    """Operations of one run: of its product, or of its vector work. (rows,)"""
    return np.where(trace.is_product, trace.matrix_flops, trace.vector_flops + trace.special_ops).astype(float)


def _peak_flops_per_s(chip: Accelerator, trace: Trace) -> np.ndarray:
    """Datasheet peak of the unit each row runs on. (rows,)"""
    held = chip.matrix.clock_hz
    # a matrix clock that is held down by a power limit stands below that of the vector units beside them
    chip = chip.replace({"matrix.clock_hz": max(held, chip.vector.clock_hz)})
    peak = np.full(len(trace), float(chip.vector_flops_per_s))
    for dtype in set(trace.dtype[trace.is_product].tolist()):
        peak[trace.is_product & (trace.dtype == dtype)] = chip.peak_flops_per_s(dtype)
    return peak
