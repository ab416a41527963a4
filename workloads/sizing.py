"""Networks of equal size: the width at which one network has the parameters or the FLOP of another."""

from __future__ import annotations

from collections.abc import Callable

from workloads.blocks import check_choice, check_counts
from workloads.trace import Trace, TraceError

MEASURES = ("parameters", "flops")


def sized_to(
    make: Callable[[int], Trace], target: float, *, measure: str = "parameters", step: int = 1, most: int = 2**16
) -> int:
    """The width, a multiple of `step` up to `most`, at which `make(width)` comes nearest to `target`.

    `measure`: "parameters", or "flops", the FLOP of the products. `make` must grow with its width. Raises `TraceError`
    for an unknown measure and for a target that widths from `step` to `most` do not enclose.
    """
    where = "sized_to"
    check_choice(where, "measure", measure, MEASURES)
    check_counts(where, step=step)
    check_counts(where, step, most=most)

    def size(units: int) -> float:
        trace = make(units * step)
        return trace.total_parameters if measure == "parameters" else trace.total_matrix_flops

    low, high = 1, most // step
    if not size(low) <= target <= size(high):
        raise TraceError(
            f"{where}: target must lie between {size(low):.4g} and {size(high):.4g} {measure}, got {target!r}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= target else (low, middle)
    return step * min((low, high), key=lambda units: abs(size(units) - target))
