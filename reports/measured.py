"""Measured times beside modelled ones: points for a roofline chart, and predicted over measured by operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reports.arguments import ReportError, single
from reports.tables import table
from reports.units import format_quantity


@dataclass(frozen=True)
class MeasuredPoints:
    """Measured operators on the plane of a roofline, one entry an operator that has FLOP.

    intensity: FLOP/byte. attained_flops_per_s: FLOP over measured time. share: of the time of all measured operators
    (0..1). names: of the operators. op: their numbers in the profile.
    """

    intensity: np.ndarray
    attained_flops_per_s: np.ndarray
    share: np.ndarray
    names: tuple[str, ...]
    op: np.ndarray


def measured_points(profile, result=None) -> MeasuredPoints:
    """Where the operators of a `workloads` Profile lie on a roofline.

    FLOP as the roofline counts them: the product's, or all operations of what is no product. Bytes are those
    `result` (the profile's trace on a chip) moves at the farthest memory, so that a measured point stands above or
    below its predicted one; without a result every tensor once. An operator of several rows is one point, with what
    they do together. Raises `ReportError` for a result of another trace, one that fuses, or an array of designs.
    """
    trace = profile.trace
    runs = _runs_of_one(profile)
    flops = np.where(trace.is_product, trace.matrix_flops, trace.vector_flops + trace.special_ops)
    moved = trace.bytes if result is None else _checked(profile, result).traffic_bytes[_farthest(result)]
    work, traffic = _by_op(profile, runs * flops), _by_op(profile, runs * moved)
    total = profile.op_s * _executed(profile)
    shown = np.flatnonzero(work > 0)
    with np.errstate(divide="ignore"):
        intensity = work[shown] / traffic[shown]
    return MeasuredPoints(
        intensity,
        work[shown] / profile.op_s[shown],
        total[shown] / total.sum(),
        tuple(profile.op_names[number] for number in shown),
        shown,
    )


def compare_rows(profile, result) -> list[dict]:
    """Predicted and measured time of each operator, longest measured first.

    Keys: op; runs (in one execution); recorded_runs; measured_s and predicted_s (one run); predicted_over_measured;
    measured_share (of the time of all operators, 0..1); bound (of the row predicted to take longest). Errors as for
    `measured_points`.
    """
    _checked(profile, result)
    runs = _runs_of_one(profile)
    predicted = _by_op(profile, runs * np.asarray(result.time_s))
    counts = _executed(profile)
    total = profile.op_s * counts
    weight = runs * np.asarray(result.time_s)
    rows = []
    for number in np.argsort(-total, kind="stable"):
        own = np.flatnonzero(profile.op == number)
        rows.append(
            {
                "op": profile.op_names[number],
                "runs": int(counts[number]),
                "recorded_runs": int(profile.op_runs[number]),
                "measured_s": float(profile.op_s[number]),
                "predicted_s": float(predicted[number]),
                "predicted_over_measured": float(predicted[number] / profile.op_s[number]),
                "measured_share": float(total[number] / total.sum()),
                "bound": str(result.bound[own[np.argmax(weight[own])]]),
            }
        )
    return rows


def compare_table(profile, result, top: int | None = None, style: str = "text") -> str:
    """`compare_rows` as an aligned table ("text") or "markdown"; `top`: only so many, the longest.

    Raises `ReportError` as `compare_rows` does, and for another style or `top` below 1.
    """
    if top is not None and top < 1:
        raise ReportError(f"top must be 1 or more, got {top}")
    headers = ["op", "runs", "measured", "predicted", "predicted / measured", "share", "bound"]
    rows = [
        [
            row["op"],
            str(row["runs"]),
            format_quantity(row["measured_s"], "s"),
            format_quantity(row["predicted_s"], "s"),
            f"{row['predicted_over_measured']:.3g}",
            f"{100 * row['measured_share']:.1f} %",
            row["bound"],
        ]
        for row in compare_rows(profile, result)[:top]
    ]
    return table(headers, rows, style, right=headers[1:6])


def measured_summary(profile) -> str:
    """What was measured, in one line: "measured on cpu: 1.2 ms, 98.1 % in operators with a known cost; ..."."""
    known = 100 * profile.attributed
    text = f"measured on {profile.device}: {format_quantity(profile.total_s, 's')} recorded, "
    text += f"{known:.1f} % in operators with a known cost"
    rest = [f"{name} {format_quantity(seconds, 's')}" for name, seconds in list(profile.unattributed.items())[:3]]
    return f"{text}; most of the rest: {', '.join(rest)}" if rest else text


def _checked(profile, result):
    """The result, if its rows are those of the profile."""
    single(result)
    if len(result.trace) != len(profile.trace) and result.accelerator.abilities.fuses_elementwise:
        raise ReportError(
            f"{result.accelerator.name} merges elementwise work into products, the profile measured them one by one: "
            "compare with the accelerator without abilities.fuses_elementwise"
        )
    if result.trace != profile.trace:
        raise ReportError(f"the result is of {result.trace.name!r}, not of the profile's trace {profile.trace.name!r}")
    return result


def _farthest(result) -> str:
    return list(result.accelerator.memory)[-1]


def _executed(profile) -> np.ndarray:
    """Runs of each operator in one execution. (ops,)"""
    return profile.op_runs // profile.executions


def _runs_of_one(profile) -> np.ndarray:
    """How often each row runs in one run of its operator. (rows,)"""
    return profile.trace.repeats / _executed(profile)[profile.op]


def _by_op(profile, values: np.ndarray) -> np.ndarray:
    """Sums over the rows of each operator. (ops,)"""
    return np.bincount(profile.op, weights=values, minlength=len(profile.op_names))
