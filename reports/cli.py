"""The command line: `rooftrace run`, `compare`, `sweep`, `tune`, `validate`, `study` and others; see `COMMANDS`.

Parses, calls, prints. Results go to standard output, notes and errors to standard error. Exit status: 0 done, 2 bad
input or a file that cannot be read or written, 130 interrupted, 141 the reader of a pipe went away, 1 a mistake of the
program itself, a stated accuracy that `validate --check` finds wrong, or one of several studies that could not be run.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import textwrap
from collections.abc import Sequence

import numpy as np

from reports import calibration_arguments, design_arguments, export, study_arguments
from reports.arguments import ReportError, labelled, output_path, write_text
from reports.cli_arguments import STDOUT, UsageError, parser
from reports.explain import percent
from reports.measured import compare_table, measured_summary
from reports.options import check_outputs, workloads
from reports.requests import Workload, chip
from reports.sources import TRACE_SUFFIXES
from reports.studies import StudyError
from reports.tables import comparison_table, header, op_table, summary_table, table
from reports.units import UnitError, field_unit, format_exact, format_quantity
from simulator import AcceleratorError, DesignSpaceError, load_accelerator, preset, presets, simulate
from simulator.calibrate import CalibrationError
from workloads import TraceError, network, network_info, networks
from workloads.trace import nearest

#: Errors whose message is all a user needs.
BAD_INPUT = (
    *(UsageError, ReportError, UnitError, TraceError, AcceleratorError, DesignSpaceError),
    *(CalibrationError, StudyError),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; never raises for bad input. `argv` defaults to the program's."""
    try:
        status = _command(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return status
    except BAD_INPUT as error:
        return _failed(str(error))
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a mistake of ours; `python -X dev` shows where
        if sys.flags.dev_mode:
            raise
        _failed(f"internal error, please report it: {type(error).__name__}: {error}")
        return 1


def commands():
    """The parser of the whole command line."""
    return parser(design_arguments.add_commands, calibration_arguments.add_commands, study_arguments.add_commands)


def _command(argv: list[str]) -> int:
    try:
        options, unknown = commands().parse_known_args(argv)
    except SystemExit as leaving:  # --help and --version have printed what they had to
        return int(leaving.code or 0)
    if unknown:
        known = re.findall(r"--[a-z][a-z-]*", options.parser.format_usage())
        close = nearest(unknown[0].split("=")[0], known) if unknown[0].startswith("-") else ""
        raise UsageError(f"unknown argument {unknown[0]!r}{close}")
    return COMMANDS[options.command](options)


# -- the commands ----------------------------------------------------------------------------------


def _run(options) -> int:
    check_outputs(options, "chart", "breakdown", "csv", "json")
    accelerator, changes = chip(options.on, options.set)
    workload = workloads([options.network], options)[0]
    trace, note = workload.trace_for(accelerator)
    _notes(workload, note)
    profile = workload.profile
    if profile is not None and accelerator.abilities.fuses_elementwise:
        field = "abilities.fuses_elementwise"
        accelerator, changes = accelerator.replace({field: False}), changes | {field: False}
        _note(f"{field} of {accelerator.name} is false here: the profile measured elementwise work by itself")
    result = _simulated(trace, accelerator)
    if options.chart or options.breakdown:
        from reports import charts

        if options.chart:
            charts.save(charts.roofline(result, measured=profile), options.chart)
        if options.breakdown:
            charts.save(charts.breakdown(result), options.breakdown)
    _write(options.csv, lambda: export.to_csv(export.op_rows(result)))
    _write(options.json, lambda: export.to_json(export.result_document(result, changes, profile)))
    if STDOUT in (options.csv, options.json):
        for warning in result.warnings:
            _note(warning, "warning")
        return 0
    _print(header(result), "", summary_table(result), "", op_table(result, options.top))
    if profile is not None:
        _print("", measured_summary(profile), "", compare_table(profile, result, options.top))
    return 0


def _compare(options) -> int:
    check_outputs(options, "chart", "breakdown", "csv", "json")
    chips = [chip(name, options.set) for name in options.on]
    results, changes = [], []
    for workload in workloads(options.networks, options):
        for accelerator, changed in chips:
            trace, note = workload.trace_for(accelerator)
            _notes(workload if accelerator is chips[0][0] else None, note)
            results.append(_simulated(trace, accelerator))
            changes.append(changed)
    if options.chart or options.breakdown:
        from reports import charts

        if options.chart:
            charts.save(charts.roofline_panels(results)[0], options.chart)
        if options.breakdown:
            charts.save(charts.breakdown(results), options.breakdown)
    _write(options.csv, lambda: export.to_csv(export.comparison_rows(results)))
    _write(options.json, lambda: export.to_json(export.comparison_document(results, changes)))
    for label, result in labelled(results).items():
        for warning in result.warnings:
            _note(f"{label}: {warning}", "warning")
    if STDOUT in (options.csv, options.json):
        return 0
    if options.set:
        _print("with " + ", ".join(f"{field} = {text}" for field, text in options.set), "")
    _print(comparison_table(results))
    return 0


def _networks(options) -> int:
    if options.name:
        info = network_info(options.name)
        trace = network(options.name)
        rows = [
            ["title", info.title],
            ["task", info.task],
            [
                "size",
                f"{format_quantity(trace.total_parameters)} parameters, {format_quantity(trace.total_flops, 'FLOP')}",
            ],
            ["source", info.source],
            ["defaults", ", ".join(f"{k} = {v}" for k, v in info.defaults.items())],
            ["settings", ", ".join(info.settings)],
        ]
        for name, text in rows:
            _print(textwrap.fill(text, 110, initial_indent=f"{name:<10}", subsequent_indent=" " * 10))
        return 0
    rows = []
    for name in networks():
        info = network_info(name)
        rows.append([name, info.title, info.task, f"{format_quantity(network(name).total_parameters)}"])
    lines = table(["name", "title", "task", "parameters"], rows, right=("parameters",)).splitlines()
    _print(lines[0])
    for line, row in zip(lines[1:], rows, strict=True):
        _print(line, textwrap.fill(network_info(row[0]).source, 110, initial_indent="    ", subsequent_indent="    "))
    return 0


def _accelerators(options) -> int:
    if options.name:
        _print(*_accelerator_lines(options.name))
        return 0
    rows = []
    for name in presets():
        device = preset(name)
        dtype = _usual_dtype(device)
        far, level = list(device.memory.items())[-1]
        peak = f"{dtype} {format_quantity(device.peak_flops_per_s(dtype), 'FLOP/s')}"
        bandwidth = f"{far} {format_quantity(level.bandwidth_bytes_per_s, 'B/s')}"
        size = format_exact(level.capacity_bytes, "B")
        rows.append([name, device.title, str(device.year or ""), peak, bandwidth, size])
    headers = ["name", "title", "year", "dense peak", "bandwidth", "capacity"]
    _print(table(headers, rows, right=("capacity",)))
    return 0


def _trace(options) -> int:
    place = output_path(options.out)
    if not str(options.out).lower().endswith(TRACE_SUFFIXES):
        raise UsageError(f"argument --out: a trace is a {', '.join(TRACE_SUFFIXES)} file, got {options.out!r}")
    workload = workloads([options.network], options)[0]
    trace = workload.trace()
    _notes(workload)
    trace.save(place)
    _print(f"{options.out}: {trace!r}")
    return 0


def _validate(options) -> int:
    from reports import validate_command, validate_machine

    check_outputs(options, "chart", "csv", "json")
    _only_with_machine(options)
    command = validate_machine.validate_this_machine if options.this_machine else validate_command.run
    return _shown(command(options), options)


def _calibrate(options) -> int:
    from reports import calibrate_command, calibrate_machine

    check_outputs(options, "csv", "out")
    _only_with_machine(options)
    command = calibrate_machine.calibrate_this_machine if options.this_machine else calibrate_command.run
    return _shown(command(options), options)


def _sweep(options) -> int:
    from reports.sweep_command import sweep_command

    return _shown(sweep_command(options), options)


def _sensitivity(options) -> int:
    from reports.sensitivity_command import sensitivity_command

    return _shown(sensitivity_command(options), options)


def _tune(options) -> int:
    from reports.tune_command import tune_command

    return _shown(tune_command(options), options)


def _study(options) -> int:
    from reports.study_command import study_command

    return _shown(study_command(options), options)


COMMANDS = {
    "run": _run,
    "compare": _compare,
    "sweep": _sweep,
    "pareto": _sweep,
    "sensitivity": _sensitivity,
    "tune": _tune,
    "networks": _networks,
    "accelerators": _accelerators,
    "trace": _trace,
    "validate": _validate,
    "calibrate": _calibrate,
    "study": _study,
}


# -- pieces of the commands ------------------------------------------------------------------------


def _only_with_machine(options) -> None:
    """Refuse what says how to measure where nothing is measured."""
    for name in ("backend", "device", "threads", "quick"):
        if getattr(options, name) and not options.this_machine:
            raise UsageError(f"argument --{name}: --{name} goes with --this-machine")


def _simulated(trace, accelerator):
    with np.errstate(all="ignore"):  # absurd fields overflow; the check below says so in words
        result = simulate(trace, accelerator)
        if not math.isfinite(float(result.latency_s)):
            raise ReportError(f"{trace.name} on {accelerator.name}: the time is not finite; check what was set")
    return result


def _accelerator_lines(name: str) -> list[str]:
    """Every number of a chip with its unit, basis and source."""
    device = load_accelerator(name) if name.lower().endswith(".toml") else preset(name)
    peaks = [f"{d} {format_quantity(device.peak_flops_per_s(d), 'FLOP/s')}" for d in device.dtypes]
    rows = []
    for entry in device.describe():
        value = entry["value"]
        known = isinstance(value, (bool, str))
        shown = str(value).lower() if known else format_exact(value, field_unit(entry["field"]))
        rows.append([entry["field"], shown, entry["basis"], entry["source"]])
    facts = [device.title + (f", {device.year}" if device.year else "")]
    facts += ["dense peaks: " + ", ".join([*peaks, f"vector {format_quantity(device.vector_flops_per_s, 'FLOP/s')}"])]
    facts += [textwrap.fill(device.notes, 110)] if device.notes else []
    facts += [_origins([(row[2], row[3]) for row in rows if row[2]])]
    from reports.silicon_validation import silicon_rows

    derived = ["derived", "value", "range of the unit costs", "published", "source"]
    parts = ", ".join(f"{part} {mm2:.3g}" for part, mm2 in device.area_by_part_mm2().items() if mm2)
    silicon = table(derived, silicon_rows(device))
    return [*facts, "", table(["field", "value", "basis", "source"], rows), "", silicon, f"area by part, mm2: {parts}"]


def _origins(cited: Sequence[tuple[str, str]]) -> str:
    """How many numbers are measured on this device, inherited from its class, assumed: by (basis, source) of each."""
    measured = [source for basis, source in cited if basis == "measured"]
    inherited = sum(source.startswith("class default") for source in measured)
    fitted = sum(source.startswith("fitted to") for source in measured)
    assumed = sum(basis in ("assumed", "estimated") for basis, _ in cited)
    return (
        f"{len(cited)} numbers with a source: {len(measured) - inherited} measured on this device "
        f"({fitted} of them fitted to timings), {inherited} inherited from what its class achieves, "
        f"{assumed} assumed or estimated ({percent(assumed / max(1, len(cited)))})"
    )


def _usual_dtype(device) -> str:
    """The type a chip is usually rated in: a 16-bit float where it has one, else fp32, else its fastest."""
    for dtype in ("fp16", "bf16", "fp32"):
        if dtype in device.dtypes:
            return dtype
    return max(device.dtypes, key=lambda d: float(device.peak_flops_per_s(d)))


def _shown(outcome, options) -> int:
    """Write and print what a command found; returns its exit status."""
    chart, rows, document = (getattr(options, name, None) for name in ("chart", "csv", "json"))
    if chart and outcome.chart:
        from reports import charts

        charts.save(outcome.chart()[0], chart)
    if outcome.rows:
        _write(rows, lambda: export.to_csv(outcome.rows()))
    if outcome.document:
        _write(document, lambda: export.to_json(outcome.document()))
    for kind, text in outcome.notes:
        _note(text, kind)
    if STDOUT not in (rows, document):
        _print(*outcome.lines)
    return outcome.status


def _write(path: str | None, make) -> None:
    if path == STDOUT:
        _print(make().rstrip("\n"))
    elif path:
        write_text(path, make())


def _print(*lines: str) -> None:
    for line in lines:
        try:
            print(line)
        except UnicodeEncodeError:  # a terminal without the letters of a title
            coding = sys.stdout.encoding or "ascii"
            print(line.encode(coding, "replace").decode(coding))


def _note(text: str, kind: str = "note") -> None:
    if text:
        print(f"rooftrace: {kind}: {text}", file=sys.stderr)


def _notes(workload: Workload | None, note: str = "") -> None:
    for warning in workload.warnings if workload else ():
        _note(warning, "warning")
    _note(note)


def _failed(message: str) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        _silence_stdout()
    print(f"rooftrace: error: {message}", file=sys.stderr)
    return 2


def _silence_stdout() -> None:
    """What is left in the buffer goes nowhere, or Python would complain of the closed pipe at exit."""
    with contextlib.suppress(OSError, ValueError):  # standard output may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
