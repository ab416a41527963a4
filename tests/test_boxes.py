"""Spaces cut into boxes: every design once, none too large, and the parts put together are the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator import boxes


@pytest.mark.parametrize("most", [1, 2, 7, 12, 60, 10**6])
@pytest.mark.parametrize("shape", [(), (1,), (13,), (3, 1, 5), (4, 3, 5), (2, 6, 2, 3)])
def test_boxes_cover_every_design_once(shape, most):
    cuts = boxes.cut(shape, list(range(len(shape))), math.prod, most)
    seen = np.zeros(shape, int)
    for box in cuts:
        seen[box] += 1
        assert 1 <= seen[box].size <= most
    assert (seen == 1).all()
    assert len(cuts) == 1 or math.prod(shape) > most


def test_axes_are_cut_in_order_and_as_little_as_needed():
    """60 designs, 20 at once: the last axis in four, then nothing."""
    cuts = boxes.cut((3, 5, 4), [2, 0, 1], math.prod, 20)
    assert cuts == [(slice(0, 3), slice(0, 5), slice(i, i + 1)) for i in range(4)]


def test_only_what_counts_is_cut():
    """The first axis costs nothing, so that it stays whole."""
    cuts = boxes.cut((1000, 8), [1, 0], lambda widths: widths[1], 4)
    assert cuts == [(slice(0, 1000), slice(0, 4)), (slice(0, 1000), slice(4, 8))]


@pytest.mark.parametrize("workers", [1, 2])
def test_gathered_parts_are_the_whole(workers):
    """An array of all axes, of some, of none; axes of one candidate; boxes of one design."""
    rng = np.random.default_rng(0)
    shape = (3, 1, 4)
    whole = {"all": rng.random((2, 3, 1, 4)), "last": rng.random((5, 1, 1, 4)), "none": rng.random((1, 1, 1, 1))}
    whole["number"] = np.arange(6).reshape(2, 3, 1, 1)

    def cost(box):
        return {key: boxes.part(values, (slice(None), *box)) for key, values in whole.items()}

    for most in (1, 4, 12):
        found = boxes.gathered(cost, shape, boxes.cut(shape, [0, 1, 2], math.prod, most), workers)
        assert found.keys() == whole.keys()
        for key, values in whole.items():
            assert found[key].dtype == values.dtype
            assert np.array_equal(found[key], values), key
            assert found[key].shape == values.shape, key


def test_compact_is_what_was_broadcast():
    column = np.arange(3.0).reshape(3, 1)
    view = np.broadcast_to(column, (2, 3, 4))
    assert boxes.compact(view).shape == (1, 3, 1)
    assert np.array_equal(np.broadcast_to(boxes.compact(view), view.shape), view)
    assert boxes.compact(column) is column
