"""`rooftrace study`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from reports.arguments import ReportError, output_path
from reports.cli_arguments import STDOUT, UsageError
from reports.options import check_outputs
from reports.outcome import Outcome
from reports.studies import Bench, studies, study
from reports.study_about import about
from reports.study_document import document, rows
from reports.study_folder import PAGE, files, folder, write
from reports.study_report import FAILED, Report, drawn, report
from reports.study_runs import run_all
from reports.study_text import SIGNS, text
from reports.tables import table
from simulator import AcceleratorError, presets


def study_command(options) -> Outcome:
    """List studies or run them. Nothing is written but the charts of one study and the folder of `out`."""
    names = _names(options)
    if not names:
        return Outcome(lines=_listed())
    check_outputs(options, "chart", "csv", "json")
    place = _folder(options.out)
    bench = Bench(on=tuple(options.on), changes=tuple(options.set))
    _check_bench(bench)
    charts: list[Path] = []
    if len(names) == 1:
        reports, charts = _one(names[0], bench, options.chart, draw=place is not None)
    else:
        reports = run_all(names, bench, _Progress(len(names)), draw=place is not None)
    if place:
        write(place, files(reports, about(names, bench, options.all)))
    failed = [one for one in reports if one.finding is None]
    notes = [("error", f"{one.name} {FAILED}: {one.failure}") for one in failed] if place or _to_stdout(options) else []
    notes += [("note", f"charts: {', '.join(map(str, charts))}")] if len(charts) > 1 else []
    return Outcome(
        lines=_summary(reports, Path(options.out)) if place else "\n\n\n".join(map(text, reports)).split("\n"),
        notes=notes,
        rows=lambda: rows(reports),
        document=lambda: document(reports, bench),
        status=1 if failed else 0,
    )


def _names(options) -> list[str]:
    """The studies asked for, none for the list of them. Raises `UsageError` for arguments that exclude each other and
    `StudyError` for an unknown study."""
    names = list(dict.fromkeys(options.names))
    given = [name for name in ("all", "on", "set", "out", "chart", "csv", "json") if getattr(options, name)]
    if options.list and (names or given):
        raise UsageError(f"argument --list: it goes alone, not with {names[0] if names else '--' + given[0]}")
    if options.all and names:
        raise UsageError(f"argument --all: it runs every study, {names[0]} too; leave the name or --all")
    if given and not names and not options.all:
        raise UsageError(f"argument --{given[0]}: name a study, or --all")
    for name in names:
        study(name)
    names = list(studies()) if options.all else names
    if options.chart and len(names) > 1:
        raise UsageError("argument --chart: the charts of one study; --out writes those of several")
    return names


def _folder(out: str | None) -> Path | None:
    try:
        return folder(out) if out else None
    except ReportError as error:
        raise UsageError(f"argument --out: {error}") from None


def _check_bench(bench: Bench) -> None:
    """Refuse chips and changes that no study could use. Raises what `Bench.chip` does."""
    if bench.on or not bench.changes:
        bench.chips()
        return
    refusals = []
    for name in presets():
        try:
            bench.chip(name)
            return
        except AcceleratorError as error:  # this chip lacks the field; a unit is wrong on all of them
            refusals.append(error)
    raise refusals[0]


def _one(name: str, bench: Bench, chart: str | None, draw: bool) -> tuple[list[Report], list[Path]]:
    """The report of one study, whose errors are the command's, and the files its charts were written to."""
    of = study(name)
    found = of.run(bench)
    places = []
    if chart:
        from reports import charts

        places = _places(chart, len(found.charts))
        for one, place in zip(found.charts, places, strict=True):
            charts.save(drawn(one, name), place)
    return [report(of, found, draw)], places


def _places(chart: str, count: int) -> list[Path]:
    """A file for each chart: the one named, then with -2, -3 before its suffix. Raises `ReportError`."""
    first = Path(chart)
    places = [first if n == 1 else first.with_name(f"{first.stem}-{n}{first.suffix}") for n in range(1, count + 1)]
    for place in places:
        output_path(place)
    return places


def _listed() -> list[str]:
    of = [study(name) for name in studies()]
    return table(["name", "question"], [[one.name, one.question] for one in of]).split("\n")


def _summary(reports: Sequence[Report], out: Path) -> list[str]:
    shown = [[one.name, f"{SIGNS[one.holds]} {one.holds}", one.title] for one in reports]
    return [*table(["study", "the claim", "title"], shown).split("\n"), "", f"written: {out / PAGE}"]


def _to_stdout(options) -> bool:
    return STDOUT in (options.csv, options.json)


class _Progress:
    """A line on standard error for each study that is done."""

    def __init__(self, total: int):
        self.total, self.done = total, 0

    def __call__(self, one: Report) -> None:
        self.done += 1
        sys.stderr.write(f"rooftrace: {self.done} of {self.total}: {one.name}: {one.holds}\n")
        sys.stderr.flush()
