"""Tables and documents of sweeps, sensitivities and searches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from reports.design_axes import short_name, value_text
from reports.explain import percent
from reports.export import SCHEMA_VERSION, plain, version
from reports.tables import table
from simulator import Sensitivity, Sweep, Tuned


def design_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Designs one a line: parameters and metrics as people write them."""
    names = list(rows[0])
    headers = [short_name(name) for name in names]
    cells = [[value_text(name, row[name]) for name in names] for row in rows]
    return table(headers, cells, right=headers)


def sweep_rows(found: Sweep) -> list[dict]:
    """One flat dictionary a design kept: its number, parameters and metrics, SI units."""
    frame = found.to_frame()
    return plain(frame.to_dict("records"))


def sweep_document(found: Sweep, changes: Mapping[str, object]) -> dict:
    """A sweep as `rooftrace sweep --json` and `pareto --json` write it.

    {"format": "rooftrace-sweep", "schema_version", "rooftrace", "networks": {name: weight}, "accelerator": {name,
    changes}, "designs": how many were asked for, "evaluated": how many simulated, "complete", "metrics": {name: "less"
    or "more" is better}, "rows": [one object a design kept: design (its number), parameters, metrics]}.
    """
    return {
        "format": "rooftrace-sweep",
        "schema_version": SCHEMA_VERSION,
        "rooftrace": version(),
        "networks": {name: weight for name, (_, weight) in found.mix.given.items()},
        "accelerator": {"name": found.accelerator.name, "changes": dict(changes)},
        "designs": found.designs,
        "evaluated": found.evaluated,
        "complete": found.complete,
        "metrics": {measure.name: measure.metric.better for measure in found.measures},
        "rows": sweep_rows(found),
    }


# -- sensitivity -------------------------------------------------------------------------------------


def sensitivity_table(found: Sensitivity, top: int) -> str:
    """The `top` fields that matter most: value, elasticity towards less and more of it."""
    order = np.argsort(-found.gain, kind="stable")[:top]
    rows = []
    for i in order:
        name = found.fields[i]
        sides = [_signed(found.less[i]), _signed(found.more[i])]
        rows.append([short_name(name), value_text(name, found.values[i]), *sides])
    headers = ["field", "value", "towards less", "towards more"]
    return table(headers, rows, right=headers[1:])


def free_table(found: Sensitivity) -> str:
    """Each resource with the share of the time that would go if it cost nothing, largest first."""
    items = sorted(found.free.items(), key=lambda item: -item[1])
    return table(
        ["if it cost nothing", "time saved"], [[name, percent(share)] for name, share in items], right=["time saved"]
    )


def _signed(elasticity: float) -> str:
    """An elasticity with its sign."""
    return "n/a" if math.isnan(elasticity) else f"{elasticity:+.3f}" if abs(elasticity) >= 5e-4 else "0"


def sensitivity_rows(found: Sensitivity) -> list[dict]:
    """One flat dictionary a field: value, elasticity of the time towards less and more of it (empty: none there is)."""
    columns = zip(found.fields, found.values, found.less, found.more, strict=True)
    return plain([{"field": f, "value": v, "less": less, "more": more} for f, v, less, more in columns])


def sensitivity_document(found: Sensitivity, changes: Mapping[str, object]) -> dict:
    """A sensitivity as `rooftrace sensitivity --json` writes it.

    {"format": "rooftrace-sensitivity", "schema_version", "rooftrace", "network", "accelerator": {name, changes},
    "latency_s", "fields": rows of `sensitivity_rows`, "free": {resource: share of the time that would go}, "ops": [op],
    "by_op": {field: {"less": [one number an op], "more": [...]}}}; null where there is no smaller or larger value.
    """
    by_op = {
        name: {"less": found.op_less[i].tolist(), "more": found.op_more[i].tolist()}
        for i, name in enumerate(found.fields)
    }
    document = {
        "format": "rooftrace-sensitivity",
        "schema_version": SCHEMA_VERSION,
        "rooftrace": version(),
        "network": found.network,
        "accelerator": {"name": found.accelerator.name, "changes": dict(changes)},
        "latency_s": found.latency_s,
        "fields": sensitivity_rows(found),
        "free": dict(found.free),
        "ops": list(found.ops),
        "by_op": by_op,
    }
    return plain(document)


# -- tune --------------------------------------------------------------------------------------------


def budget_table(found: Tuned) -> str:
    """Each limit: what the best design uses of it, and what more would bring."""
    rows = []
    for budget in found.budgets:
        limit = budget.limit
        most = limit.most if np.isfinite(limit.most) else limit.least
        gain = "nothing"
        if budget.binds:
            brings = budget.shadow_price * budget.widened_by * abs(most)
            gain = f"{value_text(found.objective, brings)} for {budget.widened_by:.0%} more"
        sign = "<=" if np.isfinite(limit.most) else ">="
        rows.append([short_name(budget.name), value_text(budget.name, budget.value),
                     f"{sign} {value_text(budget.name, most)}", gain])  # fmt: skip
    return table(["limit", "used", "allowed", f"more of it improves {short_name(found.objective)} by"], rows)


def evidence_lines(found: Tuned) -> list[str]:
    """How many designs were tried, and why the best of them should be near the optimum."""
    evidence = found.evidence
    share = found.tried / found.designs
    size = f"{found.designs:,}" if found.designs < 1e9 else f"{float(found.designs):.2g}"
    spared = found.tried - found.simulated
    not_run = f"; {spared:,} of them beyond a limit on the chip, not simulated" if spared else ""
    lines = [f"{found.tried:,} of {size} designs tried ({percent(share)})"]
    if evidence.enumerated:
        return [f"{lines[0]}: the optimum of the space{not_run}"]
    lines[0] += not_run
    lines.append(f"{evidence.agreeing} of {evidence.searches} searches from far apart end within 0.1 % of the best")
    if evidence.kicks:
        lines.append(f"{evidence.kicks} searches from around the best found nothing better")
    lines.append("every neighbour of the best was tried" if evidence.local_optimum else
                 "not every neighbour of the best was tried: give it more --evaluations")  # fmt: skip
    if evidence.bound is None:
        lines.append(f"nothing is proved of how much better {short_name(found.objective)} could be")
    else:
        bound = value_text(found.objective, evidence.bound)
        lines.append(f"no design within the limits is better than {bound}, {percent(evidence.gap)} from the best")
    return lines


def tune_document(found: Tuned, changes: Mapping[str, object]) -> dict:
    """A search as `rooftrace tune --json` writes it.

    {"format": "rooftrace-tune", "schema_version", "rooftrace", "networks": {name: weight}, "accelerator": {name,
    changes}, "objective", "maximised", "value", "best": [one object a design: parameters, objective, limited metrics],
    "limits": [{name, least, most (null: none), value, binds, shadow_price (gain of the objective for a unit more),
    widened_by}], "tried", "simulated": how many of those, the others being beyond a limit on
    the chip, "designs", "evidence": the fields of `simulator.tune.Evidence`}.
    """
    limits = [
        {
            "name": budget.name,
            "least": budget.limit.least,
            "most": budget.limit.most,
            "value": budget.value,
            "binds": budget.binds,
            "shadow_price": budget.shadow_price,
            "widened_by": budget.widened_by,
        }
        for budget in found.budgets
    ]
    document = {
        "format": "rooftrace-tune",
        "schema_version": SCHEMA_VERSION,
        "rooftrace": version(),
        "networks": {name: weight for name, (_, weight) in found.mix.given.items()},
        "accelerator": {"name": found.accelerator.name, "changes": dict(changes)},
        "objective": found.objective,
        "maximised": found.maximised,
        "value": found.value,
        "best": [dict(row) for row in found.best],
        "limits": limits,
        "tried": found.tried,
        "simulated": found.simulated,
        "designs": found.designs,
        "evidence": vars(found.evidence),
    }
    return plain(document)
