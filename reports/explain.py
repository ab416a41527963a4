"""Why an op takes its time, in words: the bound that sets it and the number behind it."""

from __future__ import annotations

import math

from reports.arguments import single
from reports.units import format_quantity


def explain(result) -> list[str]:
    """One short reason for each op of a result of one design, in the order of its rows.

    The bound's own quantity: bytes and the rate they move at, FLOP and the share of the peak they reach, or the fixed
    time beside the work. A recurrence adds whether its weights stay on chip between steps.
    """
    single(result)
    return [_reason(result, row) for row in range(len(result.trace))]


def dominant_bound(result) -> tuple[str, float]:
    """The bound that sets most of the time, and its share (0 to 1)."""
    shares = single(result).time_share_by_bound()
    name = max(shares, key=lambda bound: float(shares[bound]))
    return name, float(shares[name])


def _reason(result, row: int) -> str:
    trace, bound = result.trace, str(result.bound[row])
    time_s = float(result.bounds_s[bound][row])
    inside = str(result.placement[row]) == "memory"
    work_s = max((float(v[row]) for name, v in result.bounds_s.items() if name != "latency"), default=0.0)
    if bound == "latency":
        text = f"{format_quantity(time_s, 's')} to start, {format_quantity(work_s, 's')} of work"
    elif bound in ("matrix", "feed"):
        flops = format_quantity(trace.matrix_flops[row], "FLOP")
        share = float(result.matrix_flops[row]) / (time_s * result.accelerator.peak_flops_per_s(str(trace.dtype[row])))
        text = f"{flops} {trace.dtype[row]} at {percent(share)} of peak"
        if bound == "feed":
            text += ", waiting for operands"
    elif bound == "vector":
        share = float(trace.vector_flops[row]) / (time_s * float(result.accelerator.vector_flops_per_s))
        text = f"{format_quantity(trace.vector_flops[row], 'FLOP')} on the vector units at {percent(share)} of peak"
    elif bound == "special":
        text = f"{format_quantity(trace.special_ops[row])} exp, tanh, roots or divisions"
    elif bound == "in_memory":
        read = float(result.inside_bytes[row])
        text = f"{format_quantity(read, 'B')} read in memory at {format_quantity(read / time_s, 'B/s')}"
    elif bound == "link":
        text = f"{format_quantity(trace.input_bytes[row], 'B')} over the link"
    else:
        moved = float(result.traffic_bytes[bound][row])
        text = f"{format_quantity(moved, 'B')} through {bound} at {format_quantity(moved / time_s, 'B/s')}"
    resident = float(result.resident[row])
    if inside:
        if bound != "in_memory":
            text += "; multiplied in memory"
    elif trace.is_product[row] and not math.isnan(resident):
        if resident >= 0.005:
            text += f"; {percent(resident)} of the weights stay on chip between steps"
        elif bound in result.accelerator.memory:
            text += "; weights read again every step"
    return text


def percent(share: float) -> str:
    """'43 %'; two digits below ten, '<0.1 %' instead of a zero that is none, 'n/a' for NaN."""
    share = 100 * float(share)
    if math.isnan(share):
        return "n/a"
    if 0 < share < 0.1:
        return "<0.1 %"
    return f"{share:.1f} %" if share < 9.95 else f"{share:.0f} %"
