"""Errors of a validation as text: tables for a terminal, what was fitted to what, what is doubtful."""

from __future__ import annotations

import numpy as np

from reports.tables import table
from reports.validation import LINE, NETWORK_LINE, Accuracy, Validation, accuracy, fitted_constants
from simulator.calibrate import DOUBTFUL


def report(validation: Validation, zero_shot: bool = False) -> list[str]:
    """The tables, and what was fitted to what."""
    lines = [error_table(validation)]
    if (validation.labels["network"] != "").any():
        lines += ["", error_table(validation, networks=True)]
    lines += ["", _whole(validation)]
    lines += [] if zero_shot else ["", *fitted_lines(validation)]
    left = missing_lines(validation)
    return [*lines, *(["", *left] if left else [])]


def error_table(validation: Validation, networks: bool = False, style: str = "text") -> str:
    """Errors of the judged rows in percent of the measured time, a line for each device, set, kind, type and phase.

    With `networks` a line for each network instead. roofline: its mean error on the same rows; of recurrences with
    the weights read each step / once. fitted: rows fitted, and the mean error on them.
    """
    names = NETWORK_LINE if networks else LINE
    headers = [
        *names,
        "judged",
        "bias",
        "median",
        "mean",
        "90 %",
        "worst",
        "roofline",
        "in 80 %",
        "fitted",
        "fitted mean",
    ]
    rows = []
    for key, which in validation.lines(names).items():
        if networks and not key[names.index("network")]:
            continue
        found = accuracy(validation, which)
        if found.judged or found.fitted:
            rows.append([*key, *cells(found)])
    return table(headers, rows, style, right=headers[len(names) :])


def cells(found: Accuracy) -> list[str]:
    """An `Accuracy` as the cells of `error_table`, percent."""
    errors = [percent(found.bias, signed=True)]
    errors += [percent(value) for value in (found.median, found.mean, found.p90, found.worst)]
    coverage = percent(found.coverage, digits=0)
    return [str(found.judged), *errors, roofline_cell(found), coverage, str(found.fitted), percent(found.fitted_mean)]


def roofline_cell(found: Accuracy) -> str:
    """Mean error of the roofline; "each step / whole layer" where they differ."""
    step, layer = percent(found.roofline_mean), percent(found.roofline_layer_mean)
    return step if step == layer else f"{step} / {layer}"


def percent(share: float, signed: bool = False, digits: int = 1) -> str:
    """A share of one in percent without its sign: "12.3"; "-" for nan."""
    if not np.isfinite(share):
        return "-"
    return f"{100 * share:{'+' if signed else ''}.{digits}f}"


def fitted_lines(validation: Validation) -> list[str]:
    """What was fitted to which rows, a line a device."""
    lines = []
    for device, chip in validation.chips.items():
        on = validation.where(device=device)
        rows, constants = on & validation.fitted, fitted_constants(chip)
        if rows.any():
            used = ", ".join(dict.fromkeys(validation.labels["set"][rows].tolist()))
            what = f"{len(constants)} constants ({', '.join(constants)})" if constants else "the overhead of calls"
            lines.append(f"{device}: {what} fitted to {int(rows.sum())} rows of {used}")
        else:
            lines.append(f"{device}: nothing fitted to these rows")
    return lines


def missing_lines(validation: Validation) -> list[str]:
    """The measurements nothing was predicted for, and why."""
    lines = []
    for (device, name), which in validation.lines(("device", "set")).items():
        for reason in dict.fromkeys(validation.missing[which & (validation.missing != "")].tolist()):
            count = int((which & (validation.missing == reason)).sum())
            lines.append(f"{device}: {count} rows of {name} not predicted: {reason}")
    return lines


def doubts(validation: Validation) -> list[str]:
    """Sets whose times are a thousand times what they could be: a wrong unit."""
    found = []
    for (device, name), which in validation.lines(("device", "set")).items():
        known = which & (validation.missing == "")
        if known.any():
            ratio = float(np.median(validation.predicted_s[known] / validation.measured_s[known]))
            if not 1 / DOUBTFUL < ratio < DOUBTFUL:
                found.append(doubt(f"{name} on {device}", ratio))
    return found


def doubt(what: str, ratio: float) -> str:
    """What to say of times whose predictions are `ratio` times as long."""
    return f"{what}: predicted times are {ratio:.3g} times the measured ones: is the unit of the times right?"


def _whole(validation: Validation) -> str:
    judged, fitted = int(validation.judged.sum()), int(validation.fitted.sum())
    rest = len(validation) - judged - fitted
    counts = f"{judged} judged, {fitted} fitted" + (f", {rest} not predicted" if rest else "")
    return f"{len(validation)} measurements: {counts}; errors of times, percent"
