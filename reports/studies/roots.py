"""Where a study's networks cross: roots in whole numbers (context, batch, length) of simulated times."""

from __future__ import annotations

import math
from collections.abc import Callable

#: By what the upper end grows while no change of sign is found.
GROWTH = 16


def first_above(excess: Callable[[int], float], low: int, high: int, within: float = 0.0) -> int | None:
    """The smallest whole number of `low` (1 or more) to `high` where `excess` is positive, to a share of `within`.

    None where it is positive nowhere tried up to `high`. `excess` should rise; where it rises and falls, some change
    of sign is found. False position on a logarithmic axis with halving (the Illinois rule), and bisection each fourth
    time: the log of a ratio of times is nearly straight there, and takes a handful of evaluations.
    """
    below, above = low, low
    under = over = excess(low)
    while over <= 0:
        if above >= high:
            return None
        below, under = above, over
        above = min(high, above * GROWTH)
        over = excess(above)
    turn, side = 0, 0
    while above - below > max(1.0, within * below):
        turn += 1
        share = 0.5 if turn % 4 == 0 or under == over else under / (under - over)
        guess = round(below * math.exp(share * math.log(above / below)))
        guess = min(above - 1, max(below + 1, guess))
        value = excess(guess)
        if value > 0:
            above, over = guess, value
            under = under / 2 if side > 0 else under
            side = 1
        else:
            below, under = guess, value
            over = over / 2 if side < 0 else over
            side = -1
    return above


def first_true(holds: Callable[[int], bool], low: int, high: int, within: float) -> float:
    """The smallest whole number of `low` to `high` for which `holds`, to a share of `within`; inf: not for `high`.

    Once true it should stay true. Bisection on a logarithmic axis.
    """
    if not holds(high):
        return math.inf
    if holds(low):
        return low
    while high > low * (1 + within) and high - low > 1:
        middle = round(math.sqrt(low * high))
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
