"""`rooftrace calibrate`: constants of a chip fitted to a table of the user's timings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reports import fits
from reports.arguments import ReportError, output_path, write_text
from reports.error_tables import error_table, percent
from reports.harness import with_calls
from reports.outcome import Outcome
from reports.requests import CHIP_SUFFIXES
from reports.shipped import UNNAMED, named
from reports.tables import table
from reports.units import field_unit, format_exact, format_quantity, parse_field
from reports.validate_command import measurement_rows
from reports.validation import Validation, validate
from simulator import Accelerator, load_accelerator, preset
from simulator.calibrate import CONSTANTS, Calibration, CalibrationError, calibrate, held_out
from workloads.measured import MEASURED_OPS, MEASURED_PHASES, TIME_UNITS, Measurements, from_timings
from workloads.trace import ELEMENT_BYTES, nearest

#: How many of the largest correlations and of the worst rows are shown.
SHOWN = 5
#: Correlations below this do not hinder telling two constants apart.
STRONG = 0.5


@dataclass(frozen=True)
class Fit:
    """A calibration with the rows it was fitted to and those it was not. start: the chip before."""

    start: Accelerator
    calibration: Calibration
    validation: Validation


def run(options) -> Outcome:
    """The command; writes the accelerator file. Raises the errors of reading, fitting and writing."""
    if options.columns:
        return Outcome(lines=column_lines())
    if options.presets:
        return _presets(options)
    if not options.chip or not options.measurements:
        raise ReportError("calibrate needs a chip and --measurements FILE (its columns: rooftrace calibrate --columns)")
    if options.out:
        output_path(options.out, CHIP_SUFFIXES)
    start = load_accelerator(options.chip) if options.chip.lower().endswith(CHIP_SUFFIXES) else preset(options.chip)
    measurements = named(of_chip(from_timings(options.measurements), start.name), start.name)
    found = fit(start, measurements, parameters(start, options.fit), Path(options.measurements).name)
    lines = report(found)
    if options.out:
        lines += ["", _saved(found, options)]
    warnings = list(found.calibration.warnings)
    return Outcome(
        lines=lines,
        notes=[("warning", text) for text in warnings],
        rows=lambda: measurement_rows(found.validation),
    )


def _presets(options) -> Outcome:
    """The constants shipped with the presets, fitted anew: printed, or written to --out."""
    for name in ("chip", "measurements", "fit", "csv"):
        if getattr(options, name):
            raise ReportError(f"--presets fits what ships to what ships: it takes no {name}")
    text = fits.fit_presets()
    if not options.out:
        return Outcome(lines=text.splitlines())
    write_text(options.out, text)
    return Outcome(lines=[f"{options.out}: written"])


def of_chip(measurements: Measurements, name: str) -> Measurements:
    """The rows of a chip: those that name it, or all where one device, or none, is named.

    Raises `ReportError` when several devices are named and the chip is not among them."""
    devices = list(dict.fromkeys(measurements.device.tolist()))
    if name in devices:
        return measurements.select((measurements.device == name) | (measurements.device == UNNAMED))
    if len(devices) > 1:
        raise ReportError(f"{measurements.source}: no row of {name!r}{nearest(name, devices)}")
    return measurements


def parameters(chip: Accelerator, given: Sequence[tuple[str, str]] | None) -> dict[str, tuple[float, float]] | None:
    """What to fit: fields, or field and range "1us:50us". None: all constants that `simulator.calibrate` fits.

    Raises `AcceleratorError` for an unknown field, `UnitError` and `ReportError` for a range."""
    if not given:
        return None
    outer = list(chip.memory)[-1]
    known = {path.replace("OUTER", outer): limits for path, limits in CONSTANTS.items()}
    ranges = {}
    for name, text in given:
        path = chip.path(name)
        if not text and path not in known:
            raise ReportError(f"--fit {name}: this field has no usual range; say one: {name}=LOW:HIGH")
        ranges[path] = _range(path, text) if text else known[path]
    return ranges


def _range(path: str, text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    if not colon:
        raise ReportError(f"--fit {path}: a range LOW:HIGH is expected, got {text!r}")
    limits = parse_field(path, low), parse_field(path, high)
    if not 0 < limits[0] < limits[1]:
        raise ReportError(f"--fit {path}: a range above zero with LOW below HIGH is expected, got {text!r}")
    return limits


def fit(chip: Accelerator, measurements: Measurements, fields=None, source: str = "measurements") -> Fit:
    """Constants fitted to two of three shapes; the third is judged. `source`: what a constant's citation names."""
    judged = held_out(measurements)
    seen = measurements.select(~judged)
    note = f"fitted to {len(seen)} of {len(measurements)} rows of {source}"
    try:
        calibration = calibrate(chip, seen, fields, source=note)
    except CalibrationError as error:
        if judged.any() and str(error).startswith(seen.source):  # of the rows, not of what is fitted
            held = f"{int(judged.sum())} of {len(measurements)} rows are held out to judge the fit"
            raise CalibrationError(f"{error} ({held})") from None
        raise
    chips = dict.fromkeys(measurements.device.tolist(), calibration.accelerator)
    calls = dict.fromkeys(chips, calibration.call_s)
    return Fit(chip, calibration, validate(measurements, chips, calls, fitted=~judged))


# -- what is told ------------------------------------------------------------------------------------


def report(found: Fit) -> list[str]:
    """Constants, calls, correlations, errors of fitted and held-out rows, the worst rows."""
    lines = [constant_table(found), "", call_table(found.calibration)]
    related = correlations(found.calibration)
    if related:
        lines += ["", "hard to tell apart (correlation of their logarithms):"]
        lines += [f"  {first} and {second}: {value:+.2f}" for first, second, value in related[:SHOWN]]
    lines += ["", error_table(found.validation), "errors of times, percent; judged rows were held out of the fit"]
    return [*lines, "", f"the {SHOWN} worst rows:", worst_table(found.validation)]


def constant_table(found: Fit) -> str:
    """Each fitted constant: before, now, standard error."""
    rows = []
    for path, value in found.calibration.values.items():
        before, error = found.start.fields[path], found.calibration.stderr.get(path)
        if error is None:
            told = "chosen"
        else:  # of the logarithm: above one it is known to no better than a factor of e
            told = f"{percent(error / float(value))} %" if error < value else "not determined"
        rows.append([path, _number(path, before), _number(path, value), told])
    return table(["constant", "before", "fitted", "standard error"], rows, right=("before", "fitted", "standard error"))


def call_table(calibration: Calibration) -> str:
    """What each harness adds to a call."""
    rows = [[name, format_quantity(seconds, "s")] for name, seconds in calibration.call_s.items()]
    return table(["harness", "adds to a call"], rows, right=("adds to a call",))


def correlations(calibration: Calibration) -> list[tuple[str, str, float]]:
    """Pairs of constants whose logarithms are correlated by more than `STRONG`, the strongest first."""
    names = list(calibration.stderr)
    free = np.flatnonzero(np.isfinite(np.diag(calibration.correlation)))  # what was not determined has none
    between = calibration.correlation[np.ix_(free, free)]
    pairs = [
        (names[i], names[j], float(between[i, j]))
        for i in range(len(names))
        for j in range(i)
        if abs(between[i, j]) > STRONG
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def worst_table(validation: Validation) -> str:
    """The rows farthest off, fitted or not."""
    error = validation.predicted_s / validation.measured_s - 1
    worst = np.argsort(-np.abs(np.log1p(error)), kind="stable")[:SHOWN]
    rows = [
        [
            " ".join(validation.labels["shape"][row].split()),
            validation.labels["dtype"][row],
            validation.labels["phase"][row],
            format_quantity(validation.measured_s[row], "s"),
            format_quantity(validation.predicted_s[row], "s"),
            percent(error[row], signed=True),
            "fitted" if validation.fitted[row] else "judged",
        ]
        for row in worst
    ]
    headers = ["shape", "dtype", "phase", "measured", "predicted", "error", ""]
    return table(headers, rows, right=headers[3:6])


def column_lines() -> list[str]:
    """The columns of a table of measurements, and the sizes of each op."""
    width = 110
    told = {
        "op": "what was timed, see below",
        " | ".join(TIME_UNITS): "how long one call took, above zero; one of these columns",
        "sizes": "of the op, see below; an empty cell takes the default",
        "dtype": f"element type ({', '.join(ELEMENT_BYTES)}; fp32)",
        "phase": f"of recurrent layers and networks ({', '.join(MEASURED_PHASES)}; forward)",
        "harness": "what was timed together with the op: rows that share one share its cost (the set and op)",
        "device": "the chip (the one asked for)",
        "set": "a name for rows measured together (measured)",
        "network, note": "text; rows of another network are another shape",
    }
    lines = ["A csv file with a header, one row a measurement; # begins a comment. Columns (default):", ""]
    for name, text in told.items():
        lines.append(textwrap.fill(text, width, initial_indent=f"  {name:<28}", subsequent_indent=" " * 30))
    lines += ["", "Ops, the sizes they need, and those with a default:", ""]
    for name, op in MEASURED_OPS.items():
        sizes = ", ".join([*op.required, *(f"{size} ({default})" for size, default in op.optional.items())])
        text = f"{op.meaning}: {sizes}"
        lines.append(textwrap.fill(text, width, initial_indent=f"  {name:<17}", subsequent_indent=" " * 19))
    return lines


def _number(path: str, value) -> str:
    """A field as people read it: whole numbers in full."""
    if value is None:
        return "unknown"
    shown = format_exact if float(value).is_integer() else format_quantity
    return shown(float(value), field_unit(path))


def _saved(found: Fit, options) -> str:
    from reports.accelerator_file import save_accelerator

    comment = f"{found.start.name} calibrated by `rooftrace calibrate`: constants fitted to {options.measurements}."
    save_accelerator(with_calls(found.calibration.accelerator, found.calibration.call_s), options.out, comment)
    return f"{options.out}: written; every command takes it in place of a chip's name"
