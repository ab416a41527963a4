"""Reports of studies for other programs: a documented JSON layout, rows for csv. SI units, nothing rounded."""

from __future__ import annotations

from collections.abc import Sequence

from reports.export import SCHEMA_VERSION, plain, version
from reports.studies import Bench
from reports.study_report import Report


def document(reports: Sequence[Report], bench: Bench) -> dict:
    """What `rooftrace study --json` writes.

    - format: "rooftrace-studies"; schema_version: 1; rooftrace: version of the program
    - on: chips asked for, empty for each study's own; changes: [[field, value as typed]]
    - studies: one object a study: name, title, question, claim, setup, sources [text]; failure (why it could not be
      run, else null, and then the rest is there): holds, verdict, limits, numbers {figure: value}, tables [{caption,
      columns, rows}], charts [{alt, caption, source}], outside [{what, published_low, published_high, computed, unit,
      discrepancy (computed over the nearer end of the published range, less one; 0 within), source, note}]
    """
    return plain(
        {
            "format": "rooftrace-studies",
            "schema_version": SCHEMA_VERSION,
            "rooftrace": version(),
            "on": list(bench.on),
            "changes": [list(pair) for pair in bench.changes],
            "studies": [_study(one) for one in reports],
        }
    )


def rows(reports: Sequence[Report]) -> list[dict]:
    """What `rooftrace study --csv` writes: an entry of a table a row, and the figures of the verdict as the last table.

    Columns: study, table (its caption, or "numbers"), row (from 1), column, value.
    """
    found = []
    for one in reports:
        if one.finding is None:
            continue
        tables = [(table.caption, table.columns, table.rows) for table in one.finding.tables]
        tables.append(("numbers", ("figure", "value"), list(one.finding.numbers.items())))
        for caption, columns, entries in tables:
            for number, entry in enumerate(entries, start=1):
                cells = zip(columns, entry, strict=True)
                found += [
                    {"study": one.name, "table": caption, "row": number, "column": column, "value": plain(value)}
                    for column, value in cells
                ]
    return found


def _study(one: Report) -> dict:
    told = {field: getattr(one, field) for field in ("name", "title", "question", "claim", "setup")}
    told |= {"sources": list(one.sources), "failure": one.failure or None}
    found = one.finding
    if found is None:
        return told
    tables = [
        {"caption": t.caption, "columns": list(t.columns), "rows": [list(r) for r in t.rows]} for t in found.tables
    ]
    outside = [
        {"what": seen.what, "published_low": seen.range[0], "published_high": seen.range[1], "computed": seen.computed}
        | {"unit": seen.unit, "discrepancy": seen.discrepancy, "source": seen.source, "note": seen.note}
        for seen in found.outside
    ]
    charts = [{"alt": p.alt, "caption": p.caption, "source": p.source} for p in one.pictures]
    told |= {"holds": found.holds, "verdict": found.verdict, "limits": found.limits, "numbers": dict(found.numbers)}
    return told | {"tables": tables, "charts": charts, "outside": outside}
