"""Reports of studies as one markdown text, with their charts as files beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports.study_about import About
from reports.study_report import FAILED, Report
from reports.study_text import OUTSIDE_COLUMNS, OUTSIDE_NUMBERS, SIGNS, outside_rows
from reports.tables import table

#: What begins something in markdown, in GitHub's too.
_MARKS = re.compile(r"([\\`*_\[\]<>~$#])")


def chart_name(report: Report, number: int) -> str:
    """Where a chart of a report lies, from the markdown; the first is number 0."""
    return f"charts/{report.name}-{number + 1}.{report.pictures[number].form}"


def markdown(reports: Sequence[Report], about: About) -> str:
    """All reports: a list of them with their verdicts, then each. Charts are named, not drawn."""
    parts = [f"# {about.title}", f"{about.made} Recomputed by `{about.command}`."]
    parts.append("\n".join(f"- [{_plain(one.title)}](#{one.name}): {SIGNS[one.holds]} {one.holds}" for one in reports))
    return "\n\n".join([*parts, *(part for one in reports for part in _report(one))]) + "\n"


def _report(report: Report) -> list[str]:
    parts = [f'<a id="{report.name}"></a>', f"## {_plain(report.title)}"]
    for label in ("question", "claim", "setup"):
        parts.append(f"**{'Set-up' if label == 'setup' else label.capitalize()}.** {_plain(getattr(report, label))}")
    if report.finding is None:
        return [*parts, f"**{SIGNS[FAILED]} This study {FAILED}.** {_plain(report.failure)}"]
    parts.append(f"**Verdict: {SIGNS[report.holds]} the claim {report.holds}.** {_plain(report.finding.verdict)}")
    parts.append(f"**Limits.** {_plain(report.finding.limits)}")
    for number, picture in enumerate(report.pictures):
        parts.append(f"![{_plain(picture.alt)}]({chart_name(report, number)})")
        parts.append(f"*{_plain(picture.caption)}*")
    for one in report.finding.tables:
        parts += [f"**{_plain(one.caption)}**", _table(one.columns, one.cells(), one.numeric())]
    if report.finding.outside:
        rows = outside_rows(report.finding.outside)
        parts += ["### From outside", _table(OUTSIDE_COLUMNS, rows, OUTSIDE_NUMBERS)]
    if report.sources:
        parts += ["### Sources", "\n".join(f"- {_plain(source)}" for source in report.sources)]
    return parts


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str]) -> str:
    right = [_plain(column) for column in numeric]
    return table([_plain(column) for column in columns], [[*map(_plain, row)] for row in rows], "markdown", right)


def _plain(said: str) -> str:
    """Text that markdown shows as it is."""
    return _MARKS.sub(r"\\\1", " ".join(said.split()))
