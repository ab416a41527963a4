"""The Pareto front against its definition, and the knee against a front whose knee is known."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.metrics import DesignSpaceError
from simulator.pareto import candidates, knee, pareto_front


def slow_front(points: np.ndarray) -> list[int]:
    """Every point compared with every other one: the first of equals that nothing dominates."""
    found = []
    for i, point in enumerate(points):
        dominated = any((other <= point).all() and (other < point).any() for other in points)
        repeated = any((other == point).all() for other in points[:i])
        if not dominated and not repeated:
            found.append(i)
    return found


@pytest.mark.parametrize("metrics", [2, 3])
@pytest.mark.parametrize("seed", range(60))
def test_front_equals_its_definition(metrics, seed):
    random = np.random.default_rng(seed)
    levels = random.integers(1, 40)  # few levels: many ties and equal points
    points = random.integers(0, levels, (random.integers(1, 250), metrics)).astype(float)
    assert sorted(pareto_front(points).tolist()) == slow_front(points)


@pytest.mark.parametrize("metrics", [2, 3])
def test_front_of_points_none_of_which_beats_another(metrics):
    points = np.random.default_rng(1).normal(size=(500, metrics))
    points /= np.linalg.norm(points, axis=1)[:, None]
    points = -np.abs(points)  # on a sphere, less is better
    assert sorted(pareto_front(points).tolist()) == slow_front(points)


@pytest.mark.parametrize("metrics", [2, 3])
def test_candidates_hold_the_front_and_leave_most_others_out(metrics):
    """Equal points too: of each that is on the front the first stays."""
    rng = np.random.default_rng(1)
    for points in (rng.random((5000, metrics)), rng.integers(0, 9, (5000, metrics)).astype(float)):
        kept = candidates(list(points.T))
        assert (np.diff(kept) > 0).all()
        assert set(pareto_front(points)) <= set(kept.tolist())
        assert len(kept) < len(points) / 2
        assert kept[pareto_front(points[kept])].tolist() == pareto_front(points).tolist()


def test_directions_turn_a_metric_round():
    points = np.random.default_rng(2).random((300, 3))
    turned = points * [1, -1, 1]
    assert pareto_front(points, ("less", "more", "less")).tolist() == pareto_front(turned).tolist()


def test_front_is_in_the_order_of_the_first_metric():
    points = np.random.default_rng(3).random((2000, 3))
    assert (np.diff(points[pareto_front(points), 0]) >= 0).all()
    assert (np.diff(points[pareto_front(points, "more"), 0]) <= 0).all()


def test_no_points_have_no_front():
    assert pareto_front(np.empty((0, 2))).tolist() == []


@pytest.mark.slow
@pytest.mark.parametrize("metrics", [2, 3])
def test_a_million_points_have_the_front_of_their_parts(metrics):
    """The front of all is the front of the fronts of ten parts."""
    points = np.random.default_rng(4).random((1_000_000, metrics))
    parts = [part[pareto_front(points[part])] for part in np.array_split(np.arange(len(points)), 10)]
    together = np.concatenate(parts)
    expected = together[pareto_front(points[together])]
    assert pareto_front(points).tolist() == expected.tolist()


def test_knee_is_where_the_front_bends():
    """Ten points on each of two straight lines in log-log that meet at the eleventh."""
    x = 2.0 ** np.arange(21)
    y = np.concatenate([2.0 ** (40 - 3 * np.arange(11)), 2.0 ** (10 - 0.1 * np.arange(1, 11))])
    assert knee(np.column_stack([x, y])) == 10
    assert knee(np.column_stack([x, -y]), ("less", "more")) == 10


def test_knee_of_metrics_that_may_be_negative_is_by_difference():
    points = np.array([[-1.0, 10.0], [0.0, 1.0], [10.0, 0.0]])
    assert knee(points) == 1


def test_knee_of_one_point_is_that_point():
    assert knee(np.array([[1.0, 2.0, 3.0]])) == 0


@pytest.mark.parametrize(
    ("points", "better", "said"),
    [
        (np.zeros((3, 1)), "less", "two or three metrics"),
        (np.zeros((3, 4)), "less", "two or three metrics"),
        (np.zeros(3), "less", "two or three metrics"),
        ([[1.0, np.nan]], "less", "point 0"),
        (np.zeros((3, 2)), ("less",), "1 directions"),
        (np.zeros((3, 2)), ("less", "lesser"), "did you mean 'less'"),
    ],
)
def test_bad_points_are_refused(points, better, said):
    with pytest.raises(DesignSpaceError, match=said):
        pareto_front(points, better)


def test_knee_of_nothing_is_refused():
    with pytest.raises(DesignSpaceError, match="no points"):
        knee(np.empty((0, 2)))
