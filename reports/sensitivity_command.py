"""`rooftrace sensitivity`."""

from __future__ import annotations

from reports.design_tables import free_table, sensitivity_document, sensitivity_rows, sensitivity_table
from reports.mixes import mix_of
from reports.options import check_outputs
from reports.outcome import Outcome
from reports.requests import chip
from reports.units import format_quantity
from simulator import sensitivity


def sensitivity_command(options) -> Outcome:
    """Elasticities of the networks of the command line. Nothing is written but the chart."""
    check_outputs(options, "chart", "csv", "json")
    accelerator, changes = chip(options.on, options.set)
    networks, notes = mix_of(options, accelerator, varies=False)
    found = sensitivity(networks, accelerator)
    if options.chart:
        from reports import charts

        charts.save(charts.tornado(found, top=options.top), options.chart)
    heading = f"{found.network} on {accelerator.title} ({accelerator.name}): {format_quantity(found.latency_s, 's')}"
    what = "elasticity, per cent of the time for one per cent of a field: -1 halves it when doubled, 0 changes nothing"
    lines = [heading, "", what, sensitivity_table(found, options.top), "", free_table(found)]
    return Outcome(
        lines=lines,
        notes=notes,
        rows=lambda: sensitivity_rows(found),
        document=lambda: sensitivity_document(found, changes),
    )
