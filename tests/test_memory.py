"""Memory: what stays, what is read again, checked against loops that walk every block."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import CLOSED_FORM, SHARE

from simulator import memory


def near(expected):
    return pytest.approx(expected, rel=CLOSED_FORM, abs=0)


# -- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("working_set", "capacity", "expected"),
    [(8e6, 6e6, 0.25), (8e6, 8e6, 0.0), (8e6, 9e6, 0.0), (8e6, 0.0, 1.0), (0.0, 6e6, 0.0), (0.0, 0.0, 0.0)],
)
def test_missing_share(working_set, capacity, expected):
    assert memory.missing_share(working_set, capacity) == pytest.approx(expected, rel=CLOSED_FORM, abs=SHARE)


def test_missing_share_of_arrays_equals_a_loop():
    working_set = np.array([0.0, 1.0, 5.0, 6.0, 1e9])[:, None]
    capacity = np.array([0.0, 1.0, 5.5, 1e10])
    fast = memory.missing_share(working_set, capacity)
    slow = [[float(memory.missing_share(w, c)) for c in capacity] for w in working_set[:, 0]]
    np.testing.assert_array_equal(fast, slow)
    assert ((fast >= 0) & (fast <= 1)).all()


def test_bytes_fetched_again_are_what_exceeds_the_capacity():
    """The promise of the docstring: they never fall when the working set grows, and no step at the capacity."""
    working_set = np.linspace(0, 20e6, 2001)
    fetched = working_set * memory.missing_share(working_set, 9.9e6)
    np.testing.assert_allclose(fetched, np.maximum(0.0, working_set - 9.9e6), rtol=1e-9, atol=1e-3)
    assert (np.diff(fetched) >= -1e-3).all()


# -- recurrences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "steps", "expected"),
    [
        (1.0, 50, 1000.0),  # nothing stays
        (0.0, 50, 20.0),  # read once
        (0.25, 100, 257.5),  # a quarter each step, 750 once in 100
        (0.0, 1, 1000.0),  # a single step reads everything, whatever stays
        (0.7, 1, 1000.0),
    ],
)
def test_recurrent_bytes(missing, steps, expected):
    assert memory.recurrent_bytes(1000.0, missing, steps) == near(expected)


def test_recurrent_bytes_of_all_steps_by_walking_them():
    """First step: everything; every other: what is missing."""
    for steps, missing in ((1, 0.3), (2, 0.0), (7, 0.5), (100, 0.125)):
        walked = sum(1000.0 if step == 0 else 1000.0 * missing for step in range(steps))
        assert steps * memory.recurrent_bytes(1000.0, missing, steps) == near(walked)


def test_recurrent_bytes_of_arrays_equals_a_loop():
    per_step, missing, steps = np.array([10.0, 20.0])[:, None], np.array([0.0, 0.5, 1.0]), np.array([4.0, 9.0])[:, None]
    fast = memory.recurrent_bytes(per_step, missing, steps)
    slow = [
        [memory.recurrent_bytes(p, x, t) for x in missing] for p, t in zip(per_step[:, 0], steps[:, 0], strict=True)
    ]
    np.testing.assert_array_equal(fast, slow)


# -- products larger than the level above ----------------------------------------------------------


def reread(m, n, k, capacity, size=1.0, batch=1.0):
    a, b = batch * m * k * size, batch * k * n * size
    return memory.reread_bytes(batch, m, n, a, b, size, capacity)


def walked_panels(kept_bytes, streamed_bytes, capacity):
    """Keep panels of one operand of at most the capacity; the other passes by each. Bytes read of both."""
    read, left = 0.0, kept_bytes
    while left > 0:
        panel = min(left, capacity)
        read += panel + streamed_bytes
        left -= panel
    return read


def walked_blocks(m, n, k, side):
    """Square blocks of the result, each over all of k: elements read of both operands."""
    read = 0
    for _ in range(0, m, side):
        for _ in range(0, n, side):
            for _ in range(0, k, side):
                read += side * side + side * side
    return read


def test_operands_that_fit_are_read_once():
    assert reread(100.0, 100.0, 100.0, 1e4) == 0
    assert reread(1.0, 4096.0, 1024.0, 1100.0) == 0  # the one row of A fits, however large B


@pytest.mark.parametrize("panels", [1, 2, 5, 20])
def test_panels_of_one_operand_are_kept(panels):
    """Few terms: 1000 x 2000 x 10. A in so many panels that just fit, the larger B passes each; and mirrored."""
    m, n, k, capacity = 1000.0, 2000.0, 10.0, 10_000 / panels
    expected = walked_panels(10_000, 20_000, capacity) - 30_000
    assert expected == (panels - 1) * 20_000
    assert reread(m, n, k, capacity) == near(expected)
    assert reread(n, m, k, capacity) == near(expected)


@pytest.mark.parametrize("side", [10, 20, 50])
def test_square_blocks_are_kept(side):
    """Three blocks of the side fill the capacity; 600 x 800 x 1000 is walked block by block."""
    m, n, k = 600, 800, 1000
    expected = 2.0 * (walked_blocks(m, n, k, side) - m * k - k * n)
    assert reread(float(m), float(n), float(k), 3.0 * side * side * 2.0, size=2.0) == near(expected)


@pytest.mark.parametrize("side", [300, 1000, 4096])
@pytest.mark.parametrize("capacity", [1e3, 3e4, 1e6])
def test_no_schedule_beats_the_lower_bound(side, capacity):
    """Any order of the multiplications moves at least m n k / (2 sqrt(2 M)) - M elements through a memory of M.

    Irony, Toledo, Tiskin, J. Parallel Distrib. Comput. 64(9), 2004. Where blocks bind they are within a
    factor of 11 of it: 2 sqrt(3) of three blocks against 1 / (2 sqrt(2)).
    """
    moved = reread(float(side), float(side), float(side), capacity) + 2 * side**2
    bound = side**3 / (2 * math.sqrt(2 * capacity)) - capacity
    assert moved >= bound
    if capacity < side**2 / 10:
        assert moved <= 11 * bound


def test_a_batch_rereads_each_of_its_products():
    """Each product of a batch has operands of its own, which fit or not by themselves."""
    one = reread(600.0, 800.0, 1000.0, 1200.0)
    assert reread(600.0, 800.0, 1000.0, 1200.0, batch=8.0) == near(8 * one)
    assert reread(100.0, 100.0, 100.0, 1e4, batch=1000.0) == 0


def test_rereads_never_fall_with_size_nor_grow_with_capacity():
    sizes = np.arange(1.0, 2000.0)
    for m, n, k in ((sizes, 500.0, 300.0), (300.0, sizes, 500.0), (500.0, 300.0, sizes)):
        moved = reread(m, n, k, 5000.0) + m * k + k * n
        assert (np.diff(moved) > 0).all()
    capacities = np.geomspace(10, 1e7, 500)
    moved = reread(500.0, 400.0, 300.0, capacities)
    assert (np.diff(moved) <= 1e-9 * moved[0]).all()
    assert moved[0] > 0
    assert moved[-1] == 0


def test_rereads_of_arrays_equal_a_loop():
    m, capacity = np.array([3.0, 600.0, 5000.0])[:, None], np.array([100.0, 1e4, 1e6])
    fast = reread(m, 800.0, 1000.0, capacity)
    slow = [[reread(rows, 800.0, 1000.0, c) for c in capacity] for rows in m[:, 0]]
    np.testing.assert_array_equal(fast, slow)


# -- private memory --------------------------------------------------------------------------------


def test_operands_are_read_once_for_every_fragment_they_serve():
    """A of 1000 bytes for 64 / 16 columns of fragments, B of 500 for 24 / 8 rows."""
    assert memory.feed_bytes(24.0, 64.0, 1000.0, 500.0, 8.0, 16.0) == 1000 * 4 + 500 * 3


def test_operands_are_read_at_least_once():
    assert memory.feed_bytes(1.0, 2.0, 1000.0, 500.0, 8.0, 16.0) == 1500


def test_fed_bytes_by_walking_the_fragments():
    """32 x 48 x 20 in fragments of 8 x 16: each reads its rows of A and its columns of B over all of k."""
    walked = sum(8 * 20 + 20 * 16 for _ in range(0, 32, 8) for _ in range(0, 48, 16))
    assert memory.feed_bytes(32.0, 48.0, 32.0 * 20, 20.0 * 48, 8.0, 16.0) == walked


def test_fed_bytes_of_arrays_equal_a_loop():
    m, fragment = np.array([1.0, 24.0, 100.0])[:, None], np.array([4.0, 8.0, 64.0])
    fast = memory.feed_bytes(m, 64.0, 1000.0, 500.0, fragment, 16.0)
    slow = [[memory.feed_bytes(rows, 64.0, 1000.0, 500.0, f, 16.0) for f in fragment] for rows in m[:, 0]]
    np.testing.assert_array_equal(fast, slow)


# -- time ------------------------------------------------------------------------------------------


def test_memory_time():
    """16 GB at 900 GB/s of which 83 % are sustained (V100: 750 of 900, Jia et al., arXiv:1804.06826, table 3.1)."""
    assert memory.memory_time_s(16e9, 900e9, 1.0) == near(16 / 900)
    assert memory.memory_time_s(16e9, 900e9, 750 / 900) == near(16 / 750)
    assert memory.memory_time_s(0.0, 900e9, 0.83) == 0.0
    times = memory.memory_time_s(np.array([[1.0], [2.0]]), np.array([1.0, 4.0]), 0.5)
    assert times.tolist() == [[2.0, 0.5], [4.0, 1.0]]
