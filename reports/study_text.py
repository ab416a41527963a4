"""A report of a study for the terminal, and the words that all forms of it share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from reports.studies import Outside
from reports.studies.study import shown
from reports.study_report import FAILED, Report
from reports.tables import table

WIDTH = 110
OUTSIDE_COLUMNS = ("what", "published", "computed", "unit", "discrepancy", "source", "note")
OUTSIDE_NUMBERS = ("published", "computed", "discrepancy")
#: A sign before each way a claim can fare, which tells them apart without colour.
SIGNS = {"holds": "✓", "holds in part": "◐", "does not hold": "✗", FAILED: "!"}


def text(report: Report) -> str:
    """The whole report as text of `WIDTH` letters; tables may be wider."""
    parts = [f"{report.title} ({report.name})", "", *_told("question", report.question)]
    parts += [*_told("claim", report.claim), *_told("set-up", report.setup)]
    if report.finding is None:
        return "\n".join([*parts, "", f"This study {FAILED}: {report.failure}"])
    for one in report.finding.tables:
        parts += ["", one.caption, table(one.columns, one.cells(), right=one.numeric())]
    parts += ["", *_told(f"verdict: the claim {report.holds}", report.finding.verdict)]
    parts += _told("limits", report.finding.limits)
    if report.finding.outside:
        parts += ["from outside"]
    for seen in report.finding.outside:
        line = f"{seen.what}: published {published(seen)} {seen.unit}".rstrip()
        line += f", computed {shown(seen.computed)}: {discrepancy(seen)}. {seen.note} [{seen.source}]"
        parts += _filled(" ".join(line.split()))
    parts += ["sources", *(line for source in report.sources for line in _filled(source))]
    return "\n".join(parts)


def published(seen: Outside) -> str:
    """What was published: '3', or '2 to 3'."""
    low, high = seen.range
    return shown(low) if low == high else f"{shown(low)} to {shown(high)}"


def discrepancy(seen: Outside) -> str:
    """'+12 %' of the computed over the published; 'within' a published range."""
    if seen.discrepancy == 0:
        return "within" if isinstance(seen.published, tuple) else "0 %"
    percent = 100 * seen.discrepancy
    return f"{percent:+.2g} %" if abs(percent) < 10 else f"{percent:+.0f} %" if math.isfinite(percent) else "n/a"


def outside_rows(outside: Sequence[Outside]) -> list[list[str]]:
    """Cells below `OUTSIDE_COLUMNS`."""
    return [
        [seen.what, published(seen), shown(seen.computed), seen.unit, discrepancy(seen), seen.source, seen.note]
        for seen in outside
    ]


def _told(label: str, said: str) -> list[str]:
    return [label, *_filled(said)]


def _filled(said: str) -> list[str]:
    """A text in indented lines of `WIDTH` letters."""
    paragraphs = [part for part in said.split("\n") if part.strip()]
    return [textwrap.fill(part, WIDTH, initial_indent="  ", subsequent_indent="  ") for part in paragraphs]
