"""Timing: what a case takes, as the median of repetitions spread over the whole run.

Every round times every case once, so that a slow moment of a shared machine falls on all sizes and not on one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """Something to time: the columns that describe it (see `workloads.measured`), and what runs it once.

    `make` is called once, before anything is timed, and returns the function that is; its arrays live from then on.
    """

    record: Mapping[str, object]
    make: Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    budget_s: all rounds together; begun rounds are finished. sample_s: a sample repeats its case until it is so long,
    and the clock's own steps do not count. least_rounds, most_rounds: samples of each case. warm_up: runs of each
    case before the first sample.
    """

    budget_s: float = 60.0
    sample_s: float = 1e-3
    least_rounds: int = 5
    most_rounds: int = 60
    warm_up: int = 2


@dataclass(frozen=True)
class Timings:
    """Seconds of one run of each case: median_s, and the quarter and three-quarter points; rounds: samples of each."""

    median_s: np.ndarray
    low_s: np.ndarray
    high_s: np.ndarray
    rounds: int

    @property
    def spread(self) -> float:
        """Median over the cases of the distance between the quartiles, over the median time."""
        return float(np.median((self.high_s - self.low_s) / self.median_s))


def measure(
    cases: Sequence[Case],
    plan: Plan,
    *,
    clock: Callable[[], float] = time.perf_counter,
    wall: Callable[[], float] = time.monotonic,
    settle: Callable[[], object] = lambda: None,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> Timings:
    """Time every case; `settle` waits until the work of a run is done (a device that runs beside its host).

    `clock` is what samples are read from, which may be the processor time of one thread; `wall` keeps the budget.
    Cases are taken in turn, in an order that differs from round to round, so none always follows the same other.
    `progress` hears the share that is done, 0 to 1, and what is going on.
    """
    runs, counts = [], []
    for number, case in enumerate(cases):
        run = case.make()
        runs.append(run)
        counts.append(_repeats(run, plan, clock, settle))
        progress(0.1 * (number + 1) / len(cases), "warming up")
    samples: list[list[float]] = [[] for _ in cases]
    began = wall()
    with _no_collection():
        for number in range(plan.most_rounds):
            spent = wall() - began
            if number >= plan.least_rounds and spent + spent / max(1, number) > plan.budget_s:
                break
            order = _order(len(cases), number)
            for place, i in enumerate(order):
                samples[i].append(_sample(runs[i], counts[i], clock, settle))
                if place % 16 == 0:
                    by_time = (wall() - began) / plan.budget_s
                    by_rounds = (number + place / len(order)) / plan.most_rounds
                    progress(0.1 + 0.9 * min(1.0, max(by_time, by_rounds)), f"round {number + 1}")
    progress(1.0, "done")
    low, median, high = np.percentile(np.array(samples), [25, 50, 75], axis=1)
    return Timings(median_s=median, low_s=low, high_s=high, rounds=len(samples[0]))


def _sample(run, count: int, clock, settle) -> float:
    settle()
    start = clock()
    for _ in range(count):
        run()
    settle()
    return (clock() - start) / count


def _repeats(run, plan: Plan, clock, settle) -> int:
    """Runs a sample needs to be long enough, by the quickest of the warm-up."""
    quickest = min(_sample(run, 1, clock, settle) for _ in range(max(2, plan.warm_up)))
    return max(1, round(plan.sample_s / max(quickest, 1e-9)))


def _order(count: int, number: int) -> np.ndarray:
    """Another order of the cases each round, the same in every run."""
    return np.random.default_rng(number).permutation(count)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage collection waits: it would fall on whichever case is being timed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
