"""`rooftrace sweep` and `rooftrace pareto`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from reports.cli_arguments import UsageError
from reports.design_arguments import budgets, candidates
from reports.design_axes import short_name, value_text
from reports.design_tables import design_table, sweep_document, sweep_rows
from reports.explain import percent
from reports.mixes import mix_of
from reports.options import check_outputs
from reports.outcome import Outcome
from reports.requests import chip
from simulator import Accelerator, Sweep, simulate, sweep
from simulator.axes import BATCH

#: Designs a heat map or a line is drawn of at most.
MOST_DRAWN = 100_000


def sweep_command(options) -> Outcome:
    """Sweep the space of the command line. Nothing is written but what `out` and `checkpoint` name, and the chart."""
    check_outputs(options, "chart", "csv", "json")
    accelerator, changes = chip(options.on, options.set)
    axes, limits = candidates(accelerator, options.vary), budgets(accelerator, options.budget)
    if BATCH in limits:
        raise UsageError("argument --budget: batch is varied, not limited, in a sweep: --vary batch=1:256")
    front = options.command == "pareto"
    if front and not 2 <= len(options.metric) <= 3:
        raise UsageError(f"argument --metric: a Pareto front is of two or three metrics, got {len(options.metric)}")
    networks, notes = mix_of(options, accelerator, BATCH in axes)
    if options.chart and not front:
        _check_chart(networks, axes, options)
    settings = {"metrics": options.metric, "subject_to": limits, "checkpoint": options.checkpoint}
    settings |= {"samples": options.samples, "sampler": options.sampler, "seed": options.seed}
    if front:
        settings |= {"keep": "pareto"}
    elif options.out:
        settings |= {"out": options.out}
    else:
        settings |= {"keep": options.keep, "limit": max(options.limit, options.top)}
    found = sweep(networks, accelerator, **settings, **axes)
    if options.chart and found.complete:
        _draw(found, networks, accelerator, axes, options)

    def nearest() -> list[str]:
        drawn = {name: settings[name] for name in ("samples", "sampler", "seed")}
        return _shortfalls(found, lambda name: sweep(networks, accelerator, metrics=[name], keep="best", limit=1,
                                                     **drawn, **axes))  # fmt: skip

    return _output(found, changes, notes, options, nearest)


def _shortfalls(found: Sweep, best: Callable[[str], Sweep]) -> list[str]:
    """Which limits no design keeps, and by how much the best one misses each. `best` sweeps for one metric alone."""
    lines = []
    for name, least, most in found.keep.limits:
        value = float(best(name).table.columns[name][0])
        limit, sign = (most, "<=") if value > most else (least, ">=")
        if not least <= value <= most:
            missed = abs(value - limit) / (abs(limit) or 1.0)
            lines.append(f"{short_name(name)} {sign} {value_text(name, limit)} is missed by {percent(missed)}: "
                         f"the best there is is {value_text(name, value)}")  # fmt: skip
    return lines or ["each limit alone can be kept, not all together"]


def _output(found: Sweep, changes: Mapping, notes: list, options, nearest: Callable[[], list[str]]) -> Outcome:
    networks = " + ".join(found.mix.given)
    lines = [f"{networks} on {found.designs:,} designs of {found.accelerator.title} ({found.accelerator.name})"]
    if options.command == "pareto":
        lines.append(f"{len(found):,} of them no other beats in {', '.join(m.name for m in found.measures[:3])}")
    if found.folder:
        lines.append(f"written to {found.folder}")
    elif len(found):
        rows = [found.row(i) for i in _spread(len(found), options.top)] if options.command == "pareto" else found.best(
            count=options.top)  # fmt: skip
        lines += ["", design_table(rows)]
        if len(rows) < len(found):
            lines.append(f"... {len(found) - len(rows):,} more")
    else:
        lines.append("none of them keeps the budget")
        lines += nearest() if found.complete else []
    status = 0
    if not found.complete:
        where = f"; go on with --checkpoint {options.checkpoint}" if options.checkpoint else ""
        notes = [*notes, ("note", f"interrupted after {found.evaluated:,} of {found.designs:,} designs{where}")]
        status = 130
    return Outcome(
        lines=lines,
        notes=notes,
        rows=lambda: sweep_rows(found),
        document=lambda: sweep_document(found, changes),
        status=status,
    )


def _spread(count: int, most: int) -> list[int]:
    """Positions along a front, its ends and what lies evenly between."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


# -- the chart ---------------------------------------------------------------------------------------


def _check_chart(networks: Mapping, axes: Mapping, options) -> None:
    """A chart is of one network over one field, two fields, or the batch."""
    drawn = [name for name, values in axes.items() if hasattr(values, "__len__") and len(values) > 1]
    size = int(np.prod([len(values) for values in axes.values() if hasattr(values, "__len__")]))
    numbers = all(isinstance(value, (int, float, np.number)) for name in drawn for value in list(axes[name])[:1])
    fits = len(drawn) == len(axes) and numbers and size <= MOST_DRAWN and not any(
        isinstance(value, bool) for name in drawn for value in list(axes[name])[:1])  # fmt: skip
    of_batch = drawn == [BATCH]
    of_fields = len(networks) == 1 and 1 <= len(drawn) <= 2 and BATCH not in drawn
    if options.samples or not fits or not (of_batch or of_fields):
        raise UsageError(
            "argument --chart: a sweep is drawn over one or two numeric fields of one network, or over batch alone"
        )


def _draw(found: Sweep, networks: Mapping, accelerator: Accelerator, axes: Mapping, options) -> None:
    from reports import charts

    if options.command == "pareto":
        charts.save(charts.pareto(found), options.chart)
    elif list(axes) == [BATCH]:
        batches = [int(batch) for batch in axes[BATCH]]
        results = [simulate(source(batch), accelerator) for source, _ in networks.values() for batch in batches]
        charts.save(charts.utilisation(results), options.chart)
    else:
        ((trace, _),) = networks.values()
        result = simulate(trace, accelerator.grid(axes))
        chart = charts.roofline_path(result) if len(axes) == 1 else charts.heat_map(result, options.metric[0])
        charts.save(chart, options.chart)
