"""Timing against a clock that only moves when a case runs: medians, repetitions, interleaving, budgets."""

import gc
import io

import numpy as np
import pytest

from reports.measure.progress import progress_bar
from reports.measure.timing import Case, Plan, measure


class FakeClock:
    """Time passes only where a case says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeRun:
    """A case that takes the next of `times` [s], the last one for ever; remembers when it ran."""

    def __init__(self, clock, times, log=None, name=""):
        self.clock, self.times, self.log, self.name, self.runs = clock, list(times), log, name, 0

    def make(self):
        return self

    def __call__(self):
        self.clock.now += self.times[min(self.runs, len(self.times) - 1)]
        self.runs += 1
        if self.log is not None:
            self.log.append(self.name)


def timed(clock, *runs, **settings):
    plan = Plan(**({"budget_s": 1e9, "sample_s": 1e-3, "least_rounds": 5, "most_rounds": 9, "warm_up": 2} | settings))
    return measure([Case({}, run.make) for run in runs], plan, clock=clock, wall=clock)


def test_the_median_is_what_a_case_takes():
    clock = FakeClock()
    found = timed(clock, FakeRun(clock, [0.25]), FakeRun(clock, [2e-6]))
    np.testing.assert_allclose(found.median_s, [0.25, 2e-6], rtol=1e-9)
    assert found.rounds == 9
    assert found.spread == pytest.approx(0.0, abs=1e-9)


def test_a_slow_moment_does_not_move_the_median_and_warm_up_does_not_count():
    clock = FakeClock()
    slow_start_and_outliers = [90.0, 50.0, 1.0, 1.0, 70.0, 1.0, 1.0, 1.0, 80.0, 1.0, 1.0]
    found = timed(clock, FakeRun(clock, slow_start_and_outliers))
    assert found.median_s[0] == pytest.approx(1.0)


def test_quick_cases_are_repeated_until_a_sample_is_long_enough():
    clock = FakeClock()
    quick, slow = FakeRun(clock, [1e-5]), FakeRun(clock, [1.0])
    timed(clock, quick, slow, most_rounds=5)
    assert slow.runs == 2 + 5
    assert quick.runs == 2 + 5 * 100  # 1 ms of 10 us


def test_every_round_times_every_case_once_and_in_another_order():
    clock, log = FakeClock(), []
    runs = [FakeRun(clock, [1.0], log, name) for name in "abcdef"]
    timed(clock, *runs, most_rounds=6)
    after_warm_up = log[2 * len(runs) :]
    rounds = ["".join(after_warm_up[i : i + 6]) for i in range(0, 36, 6)]
    assert [sorted(r) for r in rounds] == [list("abcdef")] * 6
    assert len(set(rounds)) > 3


def test_the_order_is_the_same_in_every_run():
    logs = []
    for _ in range(2):
        clock, log = FakeClock(), []
        timed(clock, *[FakeRun(clock, [1.0], log, name) for name in "abcdef"])
        logs.append(log)
    assert logs[0] == logs[1]


def test_a_slow_stretch_hits_all_cases_alike():
    """The machine is four times slower in one round of nine: no median notices."""
    clock = FakeClock()

    def case(seconds):
        def run():
            clock.now += seconds * (4.0 if 30.0 < clock.now < 40.0 else 1.0)

        return Case({}, lambda: run)

    plan = Plan(budget_s=1e9, least_rounds=9, most_rounds=9)
    found = measure([case(1.0), case(3.0), case(6.0)], plan, clock=clock, wall=clock)
    np.testing.assert_allclose(found.median_s, [1.0, 3.0, 6.0])


def test_the_budget_ends_it_but_never_before_the_least_rounds():
    clock = FakeClock()
    assert timed(clock, FakeRun(clock, [10.0]), budget_s=1.0, least_rounds=3, most_rounds=50).rounds == 3
    clock = FakeClock()
    found = timed(clock, FakeRun(clock, [10.0]), budget_s=200.0, least_rounds=3, most_rounds=50)
    assert found.rounds == 20


def test_the_budget_is_kept_by_the_wall_and_samples_are_read_from_the_clock():
    """Processor time may stand still while the machine works for others."""
    processor, wall = FakeClock(), FakeClock()

    def run():
        processor.now += 1.0
        wall.now += 10.0

    plan = Plan(budget_s=100.0, least_rounds=2, most_rounds=50, sample_s=1e-3)
    found = measure([Case({}, lambda: run)], plan, clock=processor, wall=wall)
    assert found.rounds == 10
    assert found.median_s[0] == 1.0


def test_a_device_is_waited_for_before_and_after_each_sample():
    clock, waits = FakeClock(), []

    def settle():
        waits.append(clock.now)
        clock.now += 0.5  # the work a device still had to do

    run = FakeRun(clock, [1.0])
    plan = Plan(budget_s=1e9, least_rounds=3, most_rounds=3)
    found = measure([Case({}, run.make)], plan, clock=clock, wall=clock, settle=settle)
    assert found.median_s[0] == pytest.approx(1.5)  # what was given before is not counted, what the run gave is
    assert len(waits) == 2 * (2 + 3)


def test_progress_runs_from_nothing_to_all():
    clock, shares = FakeClock(), []
    plan = Plan(budget_s=1e9, least_rounds=3, most_rounds=3)
    case = Case({}, FakeRun(clock, [1.0]).make)
    measure([case], plan, clock=clock, wall=clock, progress=lambda share, text: shares.append(share))
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] == 1.0


def test_garbage_collection_is_off_while_timing_and_back_on_after_an_interruption():
    states = []

    def run():
        states.append(gc.isenabled())
        if len(states) > 4:
            raise KeyboardInterrupt

    clock = FakeClock()
    with pytest.raises(KeyboardInterrupt):
        measure([Case({}, lambda: run)], Plan(), clock=clock, wall=clock)
    assert states[-1] is False
    assert gc.isenabled()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_no_bar_where_there_is_no_terminal():
    stream = io.StringIO()
    with progress_bar("measuring", stream) as show:
        show(0.5, "round 1")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_a_bar_on_a_terminal(monkeypatch, with_tqdm):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    stream = Terminal()
    with progress_bar("measuring", stream) as show:
        show(0.5, "round 1")
    shown = stream.getvalue()
    assert "measuring" in shown
    assert "50 %" in shown
    assert "round 1" in shown
