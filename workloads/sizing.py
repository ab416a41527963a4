"""Networks of equal size: the width at which one network has the parameters or the FLOP of another."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

from workloads.blocks import check_choice, check_counts
from workloads.trace import Trace, TraceError

MEASURES = ("parameters", "flops")


def sized_to(
    make: Callable[[int], Trace], target: float, *, measure: str = "parameters", step: int = 1, most: int = 2**16
) -> int:
    """The width, a multiple of `step` up to `most`, at which `make(width)` comes nearest to `target`.

    `measure`: "parameters", or "flops", the FLOP of the products. `make` must grow with its width. Raises `TraceError`
    for an unknown measure, for a target that is no number and for one that widths from `step` to `most` do not enclose.
    """
    where = "sized_to"
    check_choice(where, "measure", measure, MEASURES)
    check_counts(where, step=step)
    check_counts(where, step, most=most)
    if not isinstance(target, Real) or isinstance(target, bool):
        raise TraceError(f"{where}: target must be a number of {measure}, got {target!r}")

    def size(units: int) -> float:
        trace = make(units * step)
        return trace.total_parameters if measure == "parameters" else trace.total_matrix_flops

    low, high = 1, most // step
    found = {low: size(low), high: size(high)}
    if not found[low] <= target <= found[high]:
        raise TraceError(
            f"{where}: target must lie between {found[low]:.4g} and {found[high]:.4g} {measure}, got {target!r}"
        )
    while high - low > 1:
        # sizes grow with about the square of the width; each fifth width is the middle, should they not
        root_low, root_high, root = (math.sqrt(value) for value in (found[low], found[high], target))
        straight = low + round((high - low) * (root - root_low) / (root_high - root_low))
        middle = (low + high) // 2 if len(found) % 5 == 0 else min(max(straight, low + 1), high - 1)
        found[middle] = size(middle)
        low, high = (middle, high) if found[middle] <= target else (low, middle)
    return step * min((low, high), key=lambda units: abs(found[units] - target))
