"""Serial steps and concurrency, against schedules walked run by run."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from conftest import CLOSED_FORM

from simulator import recurrence


def near(expected):
    return pytest.approx(expected, rel=CLOSED_FORM, abs=0)


def column(*values):
    return np.array(values, float)[:, None]


# -- fixed costs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "persistent", "expected"),
    [
        (1, False, 4e-6 + 3e-7),
        (1, True, 4e-6 + 3e-7),  # not a recurrence: launched like any op
        (50, False, 4e-6 + 3e-7 + 1e-6),
        (50, True, 4e-6 / 50 + 3e-7 + 1e-6),
    ],
)
def test_fixed_costs(steps, persistent, expected):
    assert recurrence.fixed_s(np.float64(steps), 4e-6, 1e-6, 3e-7, persistent, 0.0, 0) == near(expected)


def test_the_launch_of_an_endless_persistent_recurrence_vanishes():
    assert recurrence.fixed_s(np.float64(1e12), 4e-6, 1e-6, 3e-7, True, 0.0, 0) == pytest.approx(1.3e-6, rel=1e-9)


@pytest.mark.parametrize(("steps", "extra"), [(1, 0), (2, 2 * 3e-6), (100, 100 * 3e-6), (1000, 100 * 3e-6)])
def test_the_first_steps_of_a_recurrence_cost_more(steps, extra):
    """All runs together: 3 us more for each of at most 100 steps; a lone run is no recurrence."""
    plain = recurrence.fixed_s(np.float64(steps), 4e-6, 1e-6, 3e-7, False, 0.0, 100)
    slow = recurrence.fixed_s(np.float64(steps), 4e-6, 1e-6, 3e-7, False, 3e-6, 100)
    assert steps * (slow - plain) == pytest.approx(extra, rel=1e-9, abs=1e-18)


def test_fixed_costs_of_arrays_equal_a_loop():
    steps, launch = column(1, 2, 100), np.array([0.0, 1e-6, 5e-6])
    for persistent in (False, True):
        fast = recurrence.fixed_s(steps, launch, 1e-6, 3e-7, persistent, 1e-6, 3)
        slow = [
            [float(recurrence.fixed_s(s, one, 1e-6, 3e-7, persistent, 1e-6, 3)) for one in launch] for s in steps[:, 0]
        ]
        np.testing.assert_array_equal(fast, slow)


# -- fused scans -----------------------------------------------------------------------------------


def test_a_fused_scan_is_launched_once_and_waits_one_operation_a_step():
    """1000 steps: one launch and one first access for all, 4 ns between dependent operations."""
    assert 1000 * recurrence.scan_s(1000.0, 4e-6, 3e-7, 4e-9) == near(4e-6 + 3e-7 + 1000 * 4e-9)


def test_costs_of_a_scan_of_arrays_equal_a_loop():
    steps, launch = column(2, 3, 100), np.array([0.0, 1e-6])
    fast = recurrence.scan_s(steps, launch, 3e-7, 1e-9)
    np.testing.assert_array_equal(
        fast, [[float(recurrence.scan_s(s, one, 3e-7, 1e-9)) for one in launch] for s in steps[:, 0]]
    )


# -- overlap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overlap", "expected"), [(1.0, 5.0), (0.0, 8.0), (0.5, 6.5)])
def test_overlap_hides_its_share_of_the_smaller(overlap, expected):
    assert recurrence.overlapped_s(5.0, 3.0, overlap) == near(expected)
    assert recurrence.overlapped_s(3.0, 5.0, overlap) == near(expected)


def test_overlap_of_arrays_equals_a_loop():
    compute_s, memory_s, overlap = column(0, 1, 5), column(3, 1, 2), np.array([0.0, 0.3, 1.0])
    fast = recurrence.overlapped_s(compute_s, memory_s, overlap)
    slow = [
        [float(recurrence.overlapped_s(c, m, o)) for o in overlap]
        for c, m in zip(compute_s[:, 0], memory_s[:, 0], strict=True)
    ]
    np.testing.assert_array_equal(fast, slow)
    assert (fast >= np.maximum(compute_s, memory_s)).all()
    assert (fast <= compute_s + memory_s).all()


# -- sums ------------------------------------------------------------------------------------------


def test_a_lone_column_sums_as_it_does_among_others():
    """To the last digit, for any number of rows; numpy's own sum of a lone column differs in some of these."""
    values = np.random.default_rng(0).random((40, 200))
    for rows in (1, 2, 8, 9, 40):
        together = recurrence.summed(values[:rows])
        alone = [recurrence.summed(values[:rows, [i]])[0] for i in range(200)]
        assert together.tolist() == alone
        np.testing.assert_allclose(together, values[:rows].sum(axis=0), rtol=1e-14)


@pytest.mark.parametrize("shape", [(2,), (3,), (1, 2), (2, 1), (3, 1, 4), (1, 1), (5, 2, 1, 2)])
def test_designs_of_any_shape_sum_as_one_does(shape):
    """In program order, whatever the axes, and where an array repeats along one or is transposed."""
    values = np.random.default_rng(0).random((41, *shape))
    for rows in (1, 2, 7, 8, 9, 16, 17, 41):
        for given in (
            values[:rows],
            np.asfortranarray(values[:rows]),
            np.broadcast_to(values[:rows, ..., :1], values[:rows].shape),
        ):
            together = recurrence.summed(given)
            assert together.shape == shape
            for index in np.ndindex(shape):
                total = 0.0
                for value in given[(slice(None), *index)].tolist():
                    total += value
                assert together[index] == total


# -- the longest path ------------------------------------------------------------------------------


def test_the_longest_path_takes_the_slowest_row_of_each_level():
    """Levels {2 s x 3, 5 s x 1}, {1 s x 4}: 6 and 4."""
    path = recurrence.path_s(column(2, 5, 1), column(3, 1, 4), np.array([0, 2]))
    assert path.tolist() == [[6.0], [4.0]]


def wavefront_steps(layers: int, steps: int) -> int:
    """Steps until the last cell of a stack is done, when each waits for the step before and the layer below."""
    done = np.zeros((layers, steps), int)
    for layer in range(layers):
        for step in range(steps):
            before = done[layer, step - 1] if step else 0
            below = done[layer - 1, step] if layer else 0
            done[layer, step] = 1 + max(before, below)
    return int(done[-1, -1])


@pytest.mark.parametrize(("layers", "steps"), [(1, 9), (4, 1), (4, 100), (8, 25)])
def test_a_wavefront_takes_t_plus_l_minus_1_steps(layers, steps):
    """Appleyard, Kociský, Blunsom, arXiv:1604.01946, 2016: the diagonal of a stack runs at once."""
    assert wavefront_steps(layers, steps) == steps + layers - 1
    path = recurrence.path_s(column(2e-6), column(steps + layers - 1), np.array([0]))
    assert path.item() == near(2e-6 * wavefront_steps(layers, steps))


# -- concurrency -----------------------------------------------------------------------------------


def packed(time_s, repeats, path_runs, starts, concurrent_ops, busy=()):
    return recurrence.concurrent_s(
        column(*time_s),
        [column(*b) for b in busy],
        column(*repeats),
        column(*path_runs),
        np.array(starts),
        concurrent_ops,
    )


def test_levels_follow_one_another():
    """Level 0: 2 and 3 s at once; level 1: 4 s."""
    assert packed((2, 3, 4), (1, 1, 1), (1, 1, 1), (0, 2), 2.0).tolist() == [7.0]


@pytest.mark.parametrize(("slots", "expected"), [(1, 10.0), (2, 5.0), (4, 2.5), (8, 2.0), (100, 2.0)])
def test_runs_are_packed_no_tighter_than_slots_and_path_allow(slots, expected):
    """Ten runs of 1 s, of which two follow one another."""
    assert packed((1,), (10,), (2,), (0,), float(slots)).tolist() == [expected]


def test_a_resource_serves_one_at_a_time():
    """Ten runs of 1 s that need 0.6 s of one resource and 0.1 s of another: 6 s, whatever may run at once."""
    assert packed((1,), (10,), (1,), (0,), 100.0, busy=[(0.6,), (0.1,)]) == near([6.0])


def test_resources_are_shared_within_a_level_only():
    """0.5 s of each of three runs: two in one level, one in the next."""
    found = packed((0.5, 0.5, 0.5), (1, 1, 1), (1, 1, 1), (0, 2), 4.0, busy=[(0.5, 0.5, 0.5)])
    assert found == near([1.5])


def greedy_schedule(chains, slots: int) -> float:
    """Time to finish chains of runs, each in order, started as soon as a slot is free, the longest chain first."""
    waiting = sorted((list(chain) for chain in chains), key=sum, reverse=True)
    running, now = [], 0.0
    while waiting or running:
        while waiting and len(running) < slots:
            chain = waiting.pop(0)
            heapq.heappush(running, (now + chain[0], chain[1:]))
        now, rest = heapq.heappop(running)
        if rest:
            waiting = sorted([*waiting, rest], key=sum, reverse=True)
    return now


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_a_real_schedule_lies_between_the_estimate_and_grahams_bound(slots):
    """Chains without a common resource: the estimate is a lower bound, and a greedy schedule takes at most
    2 - 1 / slots times as long (Graham, SIAM J. Appl. Math. 17(2), 1969)."""
    rng = np.random.default_rng(slots)
    for _ in range(50):
        rows = rng.integers(1, 4)
        times, chains, lengths = rng.uniform(0.1, 2.0, rows), rng.integers(1, 5, rows), rng.integers(1, 6, rows)
        estimate = packed(times, chains * lengths, lengths, (0,), float(slots)).item()
        runs = [[t] * n for t, c, n in zip(times, chains, lengths, strict=True) for _ in range(c)]
        real = greedy_schedule(runs, slots)
        assert estimate <= real * (1 + CLOSED_FORM)
        assert real <= estimate * (2 - 1 / slots) * (1 + CLOSED_FORM)


def test_the_estimate_lies_between_the_longest_path_and_the_sum():
    """The promise of the docstring, for resources that a run uses no longer than it takes."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = int(rng.integers(1, 8))
        levels = np.sort(rng.integers(0, 3, rows))
        starts = np.flatnonzero(np.diff(levels, prepend=-1))
        time = rng.uniform(0.1, 2.0, (rows, 1))
        path_runs = rng.integers(1, 6, (rows, 1))
        repeats = path_runs * rng.integers(1, 4, (rows, 1))
        busy = [time * rng.uniform(0, 1, (rows, 1)) for _ in range(3)]
        found = recurrence.concurrent_s(time, busy, repeats, path_runs, starts, rng.uniform(1, 5))
        assert found >= recurrence.path_s(time, path_runs, starts).sum() * (1 - CLOSED_FORM)
        assert found <= (time * repeats).sum() * (1 + CLOSED_FORM)


def test_concurrency_of_arrays_equals_a_loop():
    rng = np.random.default_rng(1)
    time, busy = rng.random((5, 3)), [rng.random((5, 3)), rng.random((5, 1))]
    repeats, path_runs = column(4, 2, 6, 1, 3), column(1, 2, 3, 1, 3)
    starts, slots = np.array([0, 2, 3]), np.array([1.0, 2.0, 7.0])
    fast = recurrence.concurrent_s(time, busy, repeats, path_runs, starts, slots)
    for i in range(3):
        parts = [b[:, [i]] if b.shape[1] > 1 else b for b in busy]
        slow = recurrence.concurrent_s(time[:, [i]], parts, repeats, path_runs, starts, slots[i])
        assert slow.tolist() == [fast[i]]
