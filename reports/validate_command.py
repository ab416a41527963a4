"""`rooftrace validate`: predicted against measured as tables, rows for csv, a JSON document and a chart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reports import accuracy as stated
from reports.arguments import ReportError
from reports.error_tables import doubts, missing_lines, report
from reports.export import SCHEMA_VERSION, plain, version
from reports.harness import calls_of
from reports.outcome import Outcome
from reports.requests import CHIP_SUFFIXES
from reports.shipped import UNNAMED, chosen, is_file, named, sets
from reports.validation import (
    LINE,
    NETWORK_LINE,
    Validation,
    accuracy,
    fitted_constants,
    validate,
    was_fitted,
)
from reports.zero_shot import leave_one_out
from simulator import Accelerator, load_accelerator, preset, presets
from simulator.accelerator import call_times
from simulator.calibrate import held_out
from workloads.measured import Measurements
from workloads.trace import nearest

#: A set that is no table of timings: what the silicon of shipped chips comes to.
SILICON = "silicon"
LABELS = ("device", "set", "harness", "op", "kind", "dtype", "phase", "network", "shape")


def run(options) -> Outcome:
    """The command. Raises `ReportError`, `TraceError`, `AcceleratorError` for what cannot be read or does not exist."""
    _refuse_idle(options)
    if options.check is not None:
        return stated.check(options.check)
    if options.readme is not None:
        return stated.readme(options.readme)
    if SILICON in options.set:
        return _silicon(options)
    files = [name for name in options.set if is_file(name)]
    measurements, chips = _on(chosen(options.set), options.on, files)
    if options.zero_shot:
        if any(name.lower().endswith(CHIP_SUFFIXES) for name in options.on):
            raise ReportError("--zero-shot is of presets: a chip from a file has no others of its kind")
        found = leave_one_out(measurements)
    else:
        calls = {device: _calls(device, chip) for device, chip in chips.items()}
        found = validate(measurements, chips, calls, _fitted(measurements, chips, files))
    if not (found.missing == "").any():
        raise ReportError(f"nothing can be predicted: {'; '.join(missing_lines(found))}")
    return Outcome(
        lines=report(found, options.zero_shot),
        notes=[("warning", text) for text in doubts(found)],
        rows=lambda: measurement_rows(found),
        document=lambda: document(found, options.zero_shot),
        chart=lambda: _chart(found, options.zero_shot),
    )


def _silicon(options) -> Outcome:
    """Derived area, power and peak of shipped chips beside the published; not timings, so on its own."""
    from reports.silicon_validation import silicon_tables, validate_silicon

    for name in ("on", "zero_shot", "json", "chart"):
        if getattr(options, name, None):
            raise ReportError(f"--{name.replace('_', '-')} does not go with --set {SILICON}")
    if len(options.set) > 1:
        raise ReportError(f"--set {SILICON} is compared on its own")
    first, second = silicon_tables()
    return Outcome(lines=[first, "", second], rows=lambda: validate_silicon().to_dict("records"))


def measurement_rows(validation: Validation) -> list[dict]:
    """One flat dictionary a measurement: labels, measured_s, predicted_s, error (predicted / measured - 1), low_s and
    high_s (80 % interval), roofline_s (weights read each step), roofline_layer_s (once), judged, fitted, missing (why
    nothing was predicted). None where there is no number."""
    columns = {name: validation.labels[name].tolist() for name in LABELS}
    seconds = ("measured_s", "predicted_s", "low_s", "high_s", "roofline_s", "roofline_layer_s")
    columns |= {name: _known(getattr(validation, name)) for name in seconds}
    columns["error"] = _known(validation.predicted_s / validation.measured_s - 1)
    columns |= {name: getattr(validation, name).tolist() for name in ("judged", "fitted", "missing")}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def document(validation: Validation, zero_shot: bool = False) -> dict:
    """Everything as plain numbers, lists and dictionaries: what `rooftrace validate --json` writes.

    SI units; errors are shares of one (0.1 is 10 %); null where there is no number. Keys:

    - format: "rooftrace-validation"; schema_version: 1; rooftrace: version of the program; zero_shot
    - devices: by name, fitted {field: value}
    - lines: device, set, kind, dtype, phase, then fitted, judged (rows), bias, median, mean, p90, worst (errors of
      judged rows), fitted_mean, roofline_mean, roofline_layer_mean, coverage (of the 80 % interval)
    - networks: the same by device, set, network, phase
    - missing: text, a line for rows nothing was predicted for
    - rows: `measurement_rows`
    """
    head = {"format": "rooftrace-validation", "schema_version": SCHEMA_VERSION, "rooftrace": version()}
    head |= {"zero_shot": bool(zero_shot)}
    head["devices"] = {device: {"fitted": fitted_constants(chip)} for device, chip in validation.chips.items()}
    networks = [line for line in _lines(validation, NETWORK_LINE) if line["network"]]
    body = {"lines": _lines(validation, LINE), "networks": networks, "missing": missing_lines(validation)}
    return plain(head | body) | {"rows": measurement_rows(validation)}


def _lines(validation: Validation, names: Sequence[str]) -> list[dict]:
    return [
        dict(zip(names, key, strict=True)) | dataclasses.asdict(accuracy(validation, which))
        for key, which in validation.lines(names).items()
    ]


# -- what was asked for ----------------------------------------------------------------------------


def _refuse_idle(options) -> None:
    """--check and --readme are of all measurements and write nothing else."""
    for name in ("check", "readme"):
        if getattr(options, name) is not None:
            for other in ("check", "readme", "on", "set", "zero_shot", "chart", "csv", "json"):
                if other != name and getattr(options, other):
                    raise ReportError(
                        f"--{name} is of every shipped measurement and takes no --{other.replace('_', '-')}"
                    )


def _on(measurements: Measurements, names: Sequence[str], files: Sequence[str]):
    """The measurements of the devices asked for, and the chip of each device that has one."""
    given = {chip.name: chip for chip in (_chip(name, measurements) for name in names)}
    unnamed = int((measurements.device == UNNAMED).sum())
    if unnamed and len(given) != 1:
        raise ReportError(f"{', '.join(files)}: {unnamed} rows name no device: name one chip with --on")
    if unnamed:
        measurements = named(measurements, next(iter(given)))
    devices = list(dict.fromkeys(measurements.device.tolist()))
    if not names:
        return measurements, {device: preset(device) for device in devices if device in presets()}
    for name in given:
        if name not in devices:
            raise ReportError(f"no measurement of {name!r} among these{nearest(name, devices)}")
    return measurements.select(np.isin(measurements.device, list(given))), given


def _chip(name: str, measurements: Measurements) -> Accelerator:
    if name.lower().endswith(CHIP_SUFFIXES):
        return load_accelerator(name)
    rows = int((measurements.device == name).sum())
    if rows and name not in presets():
        raise ReportError(f"{name}: {rows} measurements, and no preset of that name to predict them with")
    return preset(name)


def _calls(device: str, chip: Accelerator) -> Mapping[str, float]:
    """What each harness adds to a call: as a calibrated file tells, else as shipped for the preset of that name."""
    return calls_of(chip) or (call_times(device) if device in presets() else {})


def _fitted(measurements: Measurements, chips: Mapping, files: Sequence[str]) -> np.ndarray:
    """Rows a calibration saw; of the user's own files those that are not held out where a constant cites the file."""
    names = [Path(name).name for name in files]
    cited = [
        device
        for device, chip in chips.items()
        if any(name in chip.citations[path].source for path in fitted_constants(chip) for name in names)
    ]
    own = ~np.isin(measurements.set, sets())
    seen = np.isin(measurements.device, cited) & ~held_out(measurements)
    return np.where(own, seen, was_fitted(measurements, chips))


def _chart(validation: Validation, zero_shot: bool):
    from reports.validation_chart import scatter

    return scatter(validation, title="no row of these chips was fitted" if zero_shot else None)


def _known(values: np.ndarray) -> list:
    return [value if value == value else None for value in values.tolist()]
