"""The accuracies the README states: a generated table between two markers, and the check that it still holds.

Only rows that nothing was fitted to are stated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reports.arguments import ReportError, write_text
from reports.error_tables import percent, roofline_cell
from reports.outcome import Outcome
from reports.shipped import shipped
from reports.tables import table
from reports.validation import Validation, accuracy, validate
from reports.zero_shot import leave_one_out
from workloads.measured import Measurements

BEGIN = "<!-- accuracy: written by `rooftrace validate --readme README.md`, held by `rooftrace validate --check` -->"
END = "<!-- end of accuracy -->"
HEADERS = ("fitted", "judged", "bias", "median", "mean", "90 %", "worst", "in 80 %", "plain roofline")
#: A number may differ by this many units of its last digit: another machine rounds otherwise.
UNITS = 1


@dataclass(frozen=True)
class Claim:
    """One line of the table: what it is of in words, and the labels of its rows."""

    text: str
    labels: Mapping[str, object]


def _claims(what: str, devices: Mapping[str, str], **labels) -> list[Claim]:
    """The same of several devices, by name on the board."""
    return [Claim(f"{what}, {board}", labels | {"device": device}) for device, board in devices.items()]


_EAGER = {"v100-pcie": "V100 PCIe", "a100-pcie-40gb": "A100 PCIe", "p100-pcie": "P100 PCIe", "t4": "T4"}
_TITAN, _M40, _V100 = {"titan-x-pascal": "Titan X (Pascal)"}, {"m40": "M40"}, {"v100-sxm": "V100 SXM2"}
_A100 = {"a100-sxm-80gb": "A100 SXM"}
_BACKWARD = ("input-gradient", "weight-gradient")
_TRAINED = {"set": "deepbench-train"}
CLAIMS: tuple[Claim, ...] = (
    *_claims("matrix products fp32", _EAGER, set="neusight-products"),
    *_claims("matrix products fp16", _A100, set="vidur-products"),
    *_claims("fused attention fp16, decode", _A100, set="vidur-decode"),
    *_claims("fused attention fp16, prefill", _A100, set="vidur-prefill"),
    *_claims("recurrent layers, batch 1 to 4", _TITAN, set="deepbench-inference"),
    *_claims("recurrent layers fp32, forward", _V100, dtype="fp32", phase="forward", **_TRAINED),
    *_claims("recurrent layers fp16, forward", _V100, dtype="fp16", phase="forward", **_TRAINED),
    *_claims("recurrent layers, backward", _V100, phase=_BACKWARD, **_TRAINED),
    *_claims("recurrent layers, forward", _TITAN | _M40, phase="forward", **_TRAINED),
    *_claims("recurrent layers, backward", _TITAN | _M40, phase=_BACKWARD, **_TRAINED),
    *_claims("whole Transformers, forward", _EAGER, kind="network", phase="forward"),
    *_claims("whole Transformers, backward", {"v100-pcie": "V100 PCIe"}, kind="network", phase="backward"),
    *_claims("whole Transformers, training", {"v100-pcie": "V100 PCIe"}, kind="network", phase="training"),
    *_claims("elementwise, softmax, layer norm", _EAGER, set="neusight-vector"),
    Claim("six networks, TPU v1", {"set": "tpu-v1"}),
)
ZERO_SHOT: tuple[Claim, ...] = (
    Claim("matrix products", {"kind": "matmul"}),
    Claim("whole Transformers", {"kind": "network"}),
    Claim("recurrent layers", {"kind": "recurrent"}),
)


def block(measurements: Measurements | None = None) -> str:
    """What stands between the markers: errors of judged rows by what was measured, then those of devices left out."""
    measurements = shipped() if measurements is None else measurements
    parts = [accuracy_table(validate(measurements), CLAIMS, "measured")]
    try:
        left_out = leave_one_out(measurements)
    except ReportError:  # nothing is calibrated
        return parts[0]
    claims = [
        Claim(f"{claim.text}, {device}", dict(claim.labels) | {"device": device})
        for claim in ZERO_SHOT
        for device in left_out.chips
    ]
    return "\n\n".join([*parts, accuracy_table(left_out, (*ZERO_SHOT, *claims), "left out")])


def accuracy_table(validation: Validation, claims, first: str) -> str:
    """A markdown table, a row a claim that has judged rows; errors of times in percent."""
    rows = []
    for claim in claims:
        found = accuracy(validation, validation.where(**claim.labels))
        if not found.judged:
            continue
        errors = [percent(e) for e in (found.median, found.mean, found.p90, found.worst)]
        bias = percent(found.bias, signed=True)
        counts = [str(found.fitted), str(found.judged)]
        rows.append([claim.text, *counts, bias, *errors, percent(found.coverage, digits=0), roofline_cell(found)])
    return table((first, *HEADERS), rows, "markdown", right=HEADERS)


def rewritten(text: str, made: str, where: str = "README") -> str:
    """The text with `made` between its markers. Raises `ReportError` naming `where` when they are not there."""
    head, _, tail = _parts(text, where)
    return f"{head}{BEGIN}\n{made}\n{END}{tail}"


def differences(text: str, made: str, where: str = "README") -> list[tuple[str, str]]:
    """Rows stated in the text that differ from those of `made`, as (stated, recomputed); '' where there is none."""
    stated, computed = _rows(_parts(text, where)[1]), _rows(made)
    keys = [*stated, *(key for key in computed if key not in stated)]
    return [
        (stated.get(key, ""), computed.get(key, ""))
        for key in keys
        if not _same(stated.get(key, ""), computed.get(key, ""))
    ]


def check(path: str) -> Outcome:
    """Whether the accuracies a README states still hold; status 1 with the rows that do not."""
    text = _read(path)
    _parts(text, path)  # before the work
    made = block()
    found = differences(text, made, path)
    if not found:
        return Outcome(lines=[f"{path}: all {len(_rows(made))} lines hold"])
    lines = [f"{path}: {len(found)} of {len(_rows(made))} lines do not hold"]
    for stated, computed in found:
        lines += [f"stated      {stated or 'nothing'}", f"recomputed  {computed or 'nothing'}"]
    return Outcome(lines=[*lines, f"`rooftrace validate --readme {path}` rewrites them"], status=1)


def readme(path: str) -> Outcome:
    """The block on standard output for "-", else written between the markers of a file."""
    if path == "-":
        return Outcome(lines=[BEGIN, block(), END])
    text = _read(path)
    _parts(text, path)
    write_text(path, rewritten(text, block(), path))
    return Outcome(lines=[f"{path}: written"])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parts(text: str, where: str) -> tuple[str, str, str]:
    """Before, between and after the markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ReportError(f"{where}: the lines {BEGIN} and {END} are expected once each")
    head, rest = text.split(BEGIN)
    between, tail = rest.split(END)
    return head, between, tail


def _rows(text: str) -> dict[str, str]:
    """Lines of the tables by table and first cell: 'measured: matrix products fp32, T4'; rules and blanks left out."""
    found, first = {}, ""
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines):
        if not line.startswith("|") or _is_rule(line):
            continue
        name = _cells(line)[0]
        if number + 1 < len(lines) and _is_rule(lines[number + 1]):
            first = name
        found[f"{first}: {name}"] = line
    return found


def _is_rule(line: str) -> bool:
    return line.startswith("|") and set(line) <= set("|-: ")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _same(stated: str, computed: str) -> bool:
    """Equal but for the last digit of numbers that have a fraction, and for spaces."""
    a, b = _cells(stated), _cells(computed)
    return len(a) == len(b) and all(_same_cell(x, y) for x, y in zip(a, b, strict=True))


_NUMBER = re.compile(r"[+-]?\d+\.\d+")


def _same_cell(stated: str, computed: str) -> bool:
    numbers = [[float(n) for n in _NUMBER.findall(cell)] for cell in (stated, computed)]
    if _NUMBER.sub("#", stated) != _NUMBER.sub("#", computed):
        return False
    return all(abs(a - b) <= 0.1 * UNITS + 1e-9 for a, b in zip(*numbers, strict=True))
