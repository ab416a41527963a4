"""Crossings in whole numbers against a search one by one."""

import math

import pytest

from reports.studies.roots import first_true


@pytest.mark.parametrize("start", [1, 2, 3, 7, 99, 100, 640, 1000])
def test_the_first_whole_number_is_found(start):
    low, high = 1, 1000
    one_by_one = next(n for n in range(low, high + 1) if n >= start)
    assert first_true(lambda n: n >= start, low, high, within=0.0) == one_by_one


@pytest.mark.parametrize("start", [12, 345, 6789])
def test_within_a_share(start):
    found = first_true(lambda n: n >= start, 10, 100_000, within=0.01)
    assert start <= found <= start * 1.011 + 1


def test_nowhere_and_everywhere():
    assert first_true(lambda n: False, 10, 1000, 0.01) == math.inf
    assert first_true(lambda n: True, 10, 1000, 0.01) == 10
