"""`rooftrace sensitivity`."""

from __future__ import annotations

from reports.design_tables import free_table, sensitivity_document, sensitivity_rows, sensitivity_table
from reports.mixes import mix_of
from reports.options import Output, check_outputs
from reports.requests import chip
from reports.units import format_quantity
from simulator import sensitivity


def sensitivity_command(options) -> Output:
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
    rows = sensitivity_rows(found) if options.csv else []
    return Output(lines, notes, rows, sensitivity_document(found, changes) if options.json else {})
