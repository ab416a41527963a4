"""`rooftrace calibrate --this-machine`: measure the machine this runs on and write its accelerator file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reports.accelerator_file import save_accelerator
from reports.arguments import ReportError, output_path, write_text
from reports.explain import percent
from reports.export import to_csv
from reports.harness import with_calls
from reports.measure.session import NAME, Session, run, setting, software
from reports.outcome import Outcome
from reports.tables import table
from reports.units import field_unit, format_exact, format_quantity

#: Harness costs below this are what is left of a fit, not worth a line [s].
SHOWN_CALL_S = 1e-6


def calibrate_this_machine(arguments) -> Outcome:
    """Measure, fit, write `arguments.out` (this-machine.toml) and the measured rows beside it (.csv).

    Raises `ReportError` before anything is measured: an unknown backend or device, a package or GPU missing, places
    that cannot be written to. Interrupted, it writes nothing.
    """
    for name in ("chip", "measurements", "fit"):
        if getattr(arguments, name, None):
            raise ReportError(f"--this-machine measures: it takes no {name}")
    out = Path(arguments.out or f"{NAME}.toml")
    output_path(out, (".toml",))
    rows_out = out.with_suffix(".csv")
    output_path(rows_out)
    chosen = setting(arguments.backend or "torch", arguments.device or "cpu", arguments.threads, arguments.quick)
    session = run(chosen)
    chip = with_calls(session.accelerator.replace(name=out.stem), shown_calls(session))
    write_text(rows_out, rows_text(session))
    save_accelerator(chip, out, f"Written by `rooftrace calibrate --this-machine`; measured rows in {rows_out.name}.")
    lines = [*report(session), "", f"{out}: written; every command takes it in place of a chip's name"]
    lines.append(f"{rows_out}: written, {len(session.records)} measured rows")
    notes = [("note", text) for text in chosen.notes]
    notes += [("warning", text) for text in session.calibration.warnings]
    return Outcome(lines=lines, notes=notes, rows=lambda: list(session.records))


def shown_calls(session: Session) -> dict[str, float]:
    """What calling adds beside the ops themselves, where it is worth telling. [s]"""
    return {name: seconds for name, seconds in session.calibration.call_s.items() if seconds > SHOWN_CALL_S}


def rows_text(session: Session) -> str:
    """The measured rows as csv, columns of `workloads.measured.from_timings`; how they were measured as comments."""
    columns = list(dict.fromkeys(name for record in session.records for name in record))
    rows = [{name: record.get(name, "") for name in columns} for record in session.records]
    clock = "processor time" if session.setting.threads == 1 and session.setting.backend.device == "cpu" else "elapsed"
    comment = [
        f"# {session.start.notes}",
        f"# Medians of {session.timings.rounds} samples ({clock}); weights of products come from memory, what is not "
        "weights stays in cache; harness: what was called alike.",
    ]
    return "\n".join(comment) + "\n" + to_csv(rows)


def report(session: Session) -> list[str]:
    """The machine, what was fitted, how well the fitted rows are met."""
    chip, found = session.accelerator, session.calibration
    levels = ", ".join(
        f"{name} {format_exact(level.capacity_bytes, 'B')} at {format_quantity(level.bandwidth_bytes_per_s, 'B/s')}"
        for name, level in chip.memory.items()
    )
    lines = [
        chip.title,
        software(session.setting),
        f"fp32 peak {format_quantity(chip.peak_flops_per_s('fp32'), 'FLOP/s')}; {levels}",
        f"{len(session.records)} rows, {session.timings.rounds} samples each, quartiles "
        f"{percent(session.timings.spread)} of the median apart",
        "",
        *constant_table(session).splitlines(),
    ]
    called = [f"{name} {format_quantity(seconds, 's')}" for name, seconds in shown_calls(session).items()]
    if called:
        lines += ["", "a call of PyTorch or numpy adds: " + ", ".join(called)]
    lines += ["", f"error on the rows fitted: mean {percent(found.error)}", *fitted_table(session).splitlines()]
    return lines


def constant_table(session: Session) -> str:
    """Fitted constants with their standard errors."""
    found = session.calibration
    rows = [
        [path, format_quantity(value, field_unit(path)), _relative(found.stderr.get(path), value)]
        for path, value in found.values.items()
    ]
    return table(["fitted", "value", "+-"], rows, right=("value", "+-"))


def _relative(deviation: float | None, value: float) -> str:
    return "" if deviation is None or not np.isfinite(deviation) else percent(min(deviation / value, 99.0))


def fitted_table(session: Session) -> str:
    """Error of the fitted rows by op."""
    op, error = session.measurements.op, np.expm1(session.calibration.residuals)
    rows = [error_row(name, error[op == name]) for name in dict.fromkeys(op.tolist())]
    return table(ERRORS, rows, right=ERRORS[1:])


ERRORS = ("op", "rows", "bias", "median", "mean", "worst")


def error_row(name: str, error: Sequence[float]) -> list[str]:
    """Signed median, and median, mean and worst size of relative errors."""
    size = np.abs(error)
    return [
        name,
        str(len(size)),
        f"{100 * np.median(error):+.0f} %",
        percent(np.median(size)),
        percent(size.mean()),
        percent(size.max()),
    ]
