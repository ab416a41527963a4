"""`rooftrace tune`."""

from __future__ import annotations

from reports.design_arguments import budgets, candidates
from reports.design_tables import budget_table, design_table, evidence_lines, tune_document
from reports.mixes import mix_of
from reports.options import check_outputs
from reports.outcome import Outcome
from reports.requests import chip
from simulator import tune
from simulator.axes import BATCH


def tune_command(options) -> Outcome:
    """The best design of the space of the command line. Nothing is written but the chart."""
    check_outputs(options, "chart", "csv", "json")
    accelerator, changes = chip(options.on, options.set)
    axes, limits = candidates(accelerator, options.vary), budgets(accelerator, options.budget)
    networks, notes = mix_of(options, accelerator, BATCH in axes or BATCH in limits)
    found = tune(
        networks,
        accelerator,
        axes,
        maximise=options.maximise,
        minimise=options.minimise,
        subject_to=limits,
        seed=options.seed,
        evaluations=options.evaluations,
        top=options.top,
    )
    if options.chart:
        from reports import charts

        charts.save(charts.tuned(found), options.chart)
    lines = [f"{' + '.join(networks)} on designs of {accelerator.title} ({accelerator.name})", ""]
    lines += [design_table(found.best), ""]
    lines += [budget_table(found), ""] if found.budgets else []
    return Outcome(
        lines=[*lines, *evidence_lines(found)],
        notes=notes,
        rows=lambda: [dict(row) for row in found.best],
        document=lambda: tune_document(found, changes),
    )
