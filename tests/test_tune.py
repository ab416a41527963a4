"""Tuning: against enumeration on spaces that can be enumerated, within the limits always, the same for a seed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from simulator import LogRange, Metric, preset, simulate, sweep, tune
from simulator.axes import axes_of
from simulator.bound import bound, direction
from simulator.lattice import Archive, Lattice, rounded
from simulator.metrics import DesignSpaceError
from simulator.search import descend, lines, trades
from workloads import lstm, network

TUNE = sys.modules["simulator.tune"]  # the function of that name stands before the module


def cost(result):
    """A price in made-up units: more, faster and larger costs more; from a result, so that each is simulated."""
    return cost_of_chip(result.accelerator)


def cost_of_chip(chip):
    near = list(chip.memory.values())[-2]
    units = 2.0 * chip.matrix.count * (chip.matrix.clock_hz / 1e9) ** 1.5
    return units + 0.08e-9 * chip.outer.bandwidth_bytes_per_s + 1.5e-6 * near.capacity_bytes


def watts(result):
    """A power in made-up units: the cube of the clock."""
    chip = result.accelerator
    return 0.6 * chip.matrix.count * (chip.matrix.clock_hz / 1e9) ** 3 + 0.03e-9 * chip.outer.bandwidth_bytes_per_s


COST, WATTS = Metric("cost", cost, mix="design"), Metric("watts", watts, mix="design")
LSTM = lstm(layers=2, hidden=1024, batch=1, sequence_length=50, dtype="fp16")
BERT = network("bert-large", dtype="fp16")


def space(number: int) -> dict:
    """`number` candidates of each of four fields, for the A100."""
    return {
        "matrix.count": np.arange(16, 16 + 8 * number, 8),
        "memory.dram.bandwidth": np.geomspace(3e11, 6e12, number),
        "matrix.clock": np.linspace(0.6e9, 2e9, number),
        "memory.l2.capacity": np.geomspace(4e6, 2e8, number),
    }


def systolic_space() -> dict:
    """Arrays of three widths and three depths, for the fourth TPU."""
    return {
        "matrix.count": range(1, 17),
        "matrix.tile_n": [64, 128, 256],
        "matrix.tile_k": [32, 64, 128],
        "memory.dram.bandwidth": np.geomspace(2e11, 4e12, 20),
        "matrix.clock": np.linspace(0.5e9, 1.5e9, 11),
    }


def batched(batch: int):
    return lstm(layers=2, hidden=1024, batch=batch, sequence_length=50, dtype="fp16")


def two_kinds(batch: int):
    return network("bert-base", dtype="fp16", batch=batch)


SPACES = {
    "LSTM for a cost": ("a100-sxm-80gb", LSTM, space(13), {COST: 400}, {"minimise": "latency_s"}),
    "Transformer for a cost and a power": (
        "a100-sxm-80gb",
        BERT,
        space(14),
        {COST: 400, WATTS: 150},
        {"minimise": "latency_s"},
    ),
    "a mix of both": (
        "a100-sxm-80gb",
        {"lstm": (LSTM, 20), "bert": (BERT, 1)},
        space(15),
        {COST: 300},
        {"minimise": "latency_s"},
    ),
    "batch within a deadline": (
        "v100-sxm",
        batched,
        {name: values[::2] for name, values in space(11).items()} | {"batch": range(1, 129)},
        {COST: 350, "latency_s": 6e-3},
        {"maximise": "tokens_per_s"},
    ),
    "tiles and a choice": (
        "v100-sxm",
        LSTM,
        space(9) | {"matrix.tile_m": [8, 16, 32, 64], "abilities.persistent_recurrence": [False, True]},
        {COST: 350},
        {"minimise": "latency_s"},
    ),
    "a systolic array": (
        "tpu-v4",
        network("bert-large", dtype="bf16"),
        systolic_space(),
        {Metric("cost", cost, mix="design"): 260, WATTS: 60},
        {"maximise": "tokens_per_s"},
    ),
    "energy-delay of a user's own": (
        "v100-sxm",
        BERT,
        space(13),
        {COST: (None, 600)},
        {"minimise": Metric("energy_delay", lambda r: watts(r) * r.latency_s**2)},
    ),
}


def optimum(chip, traces, axes, limits, goal) -> float:
    """By trying every design."""
    (asked,) = goal.values()
    found = sweep(traces, chip, metrics=[asked], subject_to=limits, keep="best", limit=1, **axes)
    return float(found.table.columns[found.measures[0].name][0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SPACES)
def test_finds_the_enumerated_optimum_with_few_evaluations(name, seed):
    chip, traces, axes, limits, goal = SPACES[name]
    chip = preset(chip)
    found = tune(traces, chip, axes, subject_to=limits, seed=seed, **goal)
    assert found.value == pytest.approx(optimum(chip, traces, axes, limits, goal), rel=1e-3)
    assert 20_000 <= found.designs <= 1_000_000
    assert found.tried < 0.05 * found.designs
    assert_within(found, chip, limits)
    evidence = found.evidence
    assert not evidence.enumerated
    assert 0 <= evidence.agreeing <= evidence.searches
    assert evidence.searches >= 1
    assert evidence.local_optimum
    if evidence.bound is not None:  # no design beats it, the optimum included
        better = found.value >= evidence.bound if "minimise" in goal else found.value <= evidence.bound
        assert better
        assert evidence.gap >= 0


@pytest.mark.slow
def test_finds_the_optimum_of_a_million_designs():
    chip = preset("a100-sxm-80gb")
    axes = space(31)
    found = tune(LSTM, chip, axes, minimise="latency_s", subject_to={COST: 300})
    assert found.designs == 31**4 == 923_521
    assert found.value == pytest.approx(optimum(chip, LSTM, axes, {COST: 300}, {"minimise": "latency_s"}), rel=1e-3)
    assert found.tried < 0.05 * found.designs


def assert_within(found, chip, limits) -> None:
    """Every design returned keeps every limit when it is simulated anew, and is what its row says."""
    for row in found.best:
        fields = {name: value for name, value in row.items() if name in chip.fields}
        parts = found.mix.at(int(row["batch"]) if "batch" in row else None)
        results = [(simulate(trace, chip.replace(fields)), weight) for _, trace, weight in parts]
        for metric, most in limits.items():
            most = most[1] if isinstance(most, tuple) else most
            if isinstance(metric, Metric):
                value = float(metric.over(results)[0])
                assert row[metric.name] == pytest.approx(value, rel=1e-12)
            else:
                value = sum(weight * getattr(result, metric) for result, weight in results)
            assert value <= most


@pytest.mark.parametrize("seed", range(4))
def test_the_same_seed_gives_the_same_answer(seed):
    chip, traces, axes, limits, goal = SPACES["LSTM for a cost"]
    chip = preset(chip)
    first, again = (tune(traces, chip, axes, subject_to=limits, seed=seed, **goal) for _ in range(2))
    assert first.best == again.best
    assert first.budgets == again.budgets
    assert first.evidence == again.evidence
    assert first.tried == again.tried
    assert_within(first, chip, limits)


def test_a_small_space_is_enumerated():
    chip = preset("a100-sxm-80gb")
    axes = {name: values[::4] for name, values in space(13).items()}
    found = tune(LSTM, chip, axes, minimise="latency_s", subject_to={COST: 400})
    assert found.evidence.enumerated
    assert found.tried == found.designs == 4**4
    everything = sweep(LSTM, chip, metrics=["latency_s"], subject_to={COST: 400}, keep="best", limit=10, **axes)
    assert [row["latency_s"] for row in found.best] == everything["latency_s"].tolist()
    assert found.evidence.gap == 0


# -- what binds, and what it would bring ---------------------------------------------------------------


def test_the_shadow_price_is_what_more_of_the_limit_brings(blocked, trace):
    """Latency falls with units until the memory binds; each unit costs 1: two more units bring what they bring."""
    chip = blocked.replace({"memory.dram.bandwidth": 1e13, "memory.l2.bandwidth": 1e13, "memory.l1.bandwidth": 1e13})
    units = Metric("units", lambda r: r.accelerator.matrix.count, mix="design")
    clock = Metric("ghz", lambda r: r.accelerator.matrix.clock_hz / 1e9, mix="design")
    axes = {"matrix.count": [1, 2, 4], "matrix.clock": [1e9, 2e9, 4e9]}
    found = tune(trace, chip, axes, minimise="latency_s", subject_to={units: 2, clock: 2})

    def latency(count, hz):
        return simulate(trace, chip.replace({"matrix.count": count, "matrix.clock": hz})).latency_s

    assert found.value == latency(2, 2e9)
    by_name = {budget.name: budget for budget in found.budgets}
    for name, wider in (("units", latency(4, 2e9)), ("ghz", latency(2, 4e9))):
        gain = found.value - wider
        assert by_name[name].binds == (gain > 0)
        if gain > 0:
            assert by_name[name].shadow_price == pytest.approx(gain / 2, rel=1e-6)
            assert by_name[name].widened_by == 1
    assert set(found.binding) == {name for name in by_name if by_name[name].binds}


def test_a_limit_with_room_does_not_bind():
    chip, traces, axes, _, goal = SPACES["LSTM for a cost"]
    found = tune(traces, preset(chip), axes, subject_to={COST: 400, WATTS: 1e6}, **goal)
    assert found.binding == ("cost",)
    loose = next(budget for budget in found.budgets if budget.name == "watts")
    assert (loose.binds, loose.shadow_price) == (False, 0)
    assert "held back by cost" in repr(found)


def test_a_deadline_chooses_the_largest_batch_that_meets_it():
    """Throughput grows with the batch, so the deadline picks the batch; as a range, or as the most there may be."""
    chip = preset("v100-sxm")
    latencies = np.array([simulate(batched(b), chip).latency_s for b in range(1, 257)])
    deadline = float(latencies[99])
    expected = int(np.flatnonzero(latencies <= deadline)[-1]) + 1
    for batch in (range(1, 257), 256):
        limits = {"latency_s": deadline, "batch": batch}
        found = tune(batched, chip, {}, maximise="sequences_per_s", subject_to=limits)
        best = int(found.best[0]["batch"])
        rates = np.arange(1, 257) / latencies
        assert best == 1 + int(np.where(latencies <= deadline, rates, 0).argmax())
        assert best <= expected
        assert found.binding == ("latency_s",)
        assert found.traces()[0][1].sequences == best


def test_limits_on_fields_and_from_below():
    chip, traces, axes, _, _ = SPACES["LSTM for a cost"]
    fields = {"memory.dram.bandwidth": (None, 1e12), "matrix.count": (32, None)}
    fastest = sweep(traces, preset(chip), metrics=["tokens_per_s"], subject_to=fields, keep="best", limit=1, **axes)
    wanted = 0.9 * fastest["tokens_per_s"][0]
    found = tune(traces, preset(chip), axes, minimise=COST, subject_to={"tokens_per_s": wanted, **fields})
    row = found.best[0]
    assert row["tokens_per_s"] >= wanted
    assert row["memory.dram.bandwidth_bytes_per_s"] <= 1e12
    assert row["matrix.count"] >= 32
    assert not found.maximised


def test_a_continuous_range_is_searched_between_its_ends():
    """One free bandwidth under a cost that is linear in it: the optimum is where the cost is used up."""
    chip = preset("a100-sxm-80gb")
    price = Metric("price", lambda r: r.accelerator.outer.bandwidth_bytes_per_s / 1e9, mix="design")
    big = lstm(1, 8192, sequence_length=20, dtype="fp16", hoist_input=False)
    axes = {"memory.dram.bandwidth": LogRange(1e11, 1e13), "matrix.count": LogRange(1, 200)}
    found = tune(big, chip, axes, minimise="latency_s", subject_to={price: 1234})
    assert found.best[0]["memory.dram.bandwidth_bytes_per_s"] == pytest.approx(1.234e12, rel=2e-3)
    assert found.best[0]["price"] <= 1234
    assert found.designs == 4097 * 200
    assert found.tried < 0.05 * found.designs


# -- infeasible ----------------------------------------------------------------------------------------


def test_an_infeasible_budget_says_which_limit_and_by_how_much():
    chip, traces, axes, _, goal = SPACES["LSTM for a cost"]
    everything = sweep(traces, preset(chip), metrics=[COST], keep="best", limit=1, **axes)
    least = everything["cost"][0]
    with pytest.raises(DesignSpaceError, match="no design keeps the limits") as caught:
        tune(traces, preset(chip), axes, subject_to={COST: 30, WATTS: 1e9}, **goal)
    said = str(caught.value)
    assert f"cost <= 30 is missed by {least / 30 - 1:.3g} of itself (cost = {least:.6g})" in said
    assert "watts" not in said
    assert "matrix.count = 16" in said
    assert caught.value.nearest["cost"] == pytest.approx(least)


def test_limits_that_only_clash_together_say_so():
    chip, traces, axes, _, goal = SPACES["LSTM for a cost"]
    limits = {COST: 60, "matrix.count": (100, None)}
    with pytest.raises(DesignSpaceError, match="each limit alone can be kept, not all together"):
        tune(traces, preset(chip), axes, subject_to=limits, **goal)


# -- pieces --------------------------------------------------------------------------------------------


@pytest.fixture
def bowl(blocked):
    """A lattice with a known optimum: a sum of squares around (7, 3), no simulation."""
    axes = axes_of(blocked, {"matrix.count": range(1, 17), "matrix.clock": np.linspace(1e9, 2e9, 11)}, "tune")
    lattice = Lattice(axes)

    def evaluate(index):
        return {"goal": ((index - [7, 3]) ** 2).sum(axis=1).astype(float)}

    return lattice, evaluate


def test_descent_reaches_the_bottom_and_says_that_all_around_was_tried(bowl):
    lattice, evaluate = bowl
    archive = Archive(lattice, evaluate, "goal", 1.0, (), 10_000)
    (start,) = archive.visit(np.array([[15, 10]]))
    end, complete = descend(archive, int(start))
    assert archive.index[end].tolist() == [7, 3]
    assert complete
    assert len(archive) < lattice.points


def test_a_descent_cut_short_says_so(bowl):
    lattice, evaluate = bowl
    archive = Archive(lattice, evaluate, "goal", 1.0, (), 12)
    (start,) = archive.visit(np.array([[15, 10]]))
    _, complete = descend(archive, int(start))
    assert not complete
    assert len(archive) == 12


def test_every_point_is_evaluated_once(bowl):
    lattice, evaluate = bowl
    calls = []
    archive = Archive(lattice, lambda index: calls.append(len(index)) or evaluate(index), "goal", 1.0, (), 10_000)
    points = lattice.everywhere()
    first = archive.visit(points[[0, 0, 5]])
    assert first.tolist() == [0, 0, 1]
    archive.visit(points)
    archive.visit(points)
    assert calls == [2, lattice.points - 2]


def test_neighbours_stay_in_the_space(bowl):
    lattice, _ = bowl
    for corner in ([0, 0], [15, 10], [3, 5]):
        for near in (lines(lattice, np.array(corner)), *(trades(lattice, np.array(corner), n) for n in (True, False))):
            assert (near >= 0).all()
            assert (near < lattice.sizes).all()
            assert not (near == corner).all(axis=1).any()


def test_samples_are_spread_along_every_axis(bowl):
    lattice, _ = bowl
    points = lattice.spread(176, np.random.default_rng(0))
    assert (np.bincount(points[:, 0]) == 11).all()
    assert (np.bincount(points[:, 1]) == 16).all()


def test_rounding_keeps_what_counts():
    assert rounded(np.array([0.0, 1.0, np.inf, -2.5])).tolist() == [0.0, 1.0, np.inf, -2.5]
    assert rounded(np.array([1.0 + 1e-14]))[0] == 1.0
    assert rounded(np.array([1.0 + 1e-8]))[0] != 1.0


@pytest.mark.parametrize("limits", [{COST: 120}, {COST: 120, "latency_s": 0.1}, {"matrix.count": 40, COST: 150}])
def test_the_bound_holds_and_closes_with_evaluations_enough(limits):
    """Branch and bound to the end proves the optimum that enumeration finds."""
    chip = preset("a100-sxm-80gb")
    axes = {name: values[::2] for name, values in space(13).items()}
    early = Metric("cost", cost, mix="design", of_chip=cost_of_chip)
    limits = {(early if m is COST else m): v for m, v in limits.items()}
    best = optimum(chip, LSTM, axes, limits, {"minimise": "latency_s"})
    lattice = Lattice(axes_of(chip, axes, "tune"))
    networks = TUNE.mix(LSTM, "tune")
    goal, sign = TUNE._goal(None, "latency_s", networks, chip)
    found = TUNE.limits_of(limits, networks, chip, "tune")
    for evaluations in (50, 200, 10_000):
        archive = TUNE.archive_of(lattice, networks, chip, goal, sign, found, 1000, evaluations)
        result = bound(archive, goal.metric)
        assert result.value <= best
    assert result.proved
    assert result.value == pytest.approx(best, rel=2e-4)
    assert len(archive) < lattice.points


def test_an_objective_the_model_says_nothing_of_is_not_bounded():
    chip, traces, axes, _, _ = SPACES["LSTM for a cost"]
    slow = simulate(traces, preset(chip).replace({name: values[0] for name, values in axes.items()})).latency_s
    found = tune(traces, preset(chip), axes, minimise=COST, subject_to={"latency_s": slow})
    assert found.evidence.bound is None
    assert found.evidence.gap is None


def test_directions_follow_the_candidates(blocked):
    rising, falling, tile, batch = axes_of(
        blocked,
        {"matrix.count": [1, 2], "memory.dram.latency": [2e-7, 1e-7], "matrix.tile_m": [4, 8], "batch": [1, 2]},
        "tune",
    )
    assert [direction(axis) for axis in (rising, falling, tile, batch)] == [1, 1, 0, 0]


# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"minimise": None}, "state either maximise= or minimise="),
        ({"maximise": "tokens_per_s"}, "state either maximise= or minimise="),
        ({"minimise": "latenci_s"}, "did you mean 'latency_s'"),
        ({"space": {}}, "no axis given"),
        ({"space": 3}, "space must map"),
        ({"space": {"matrix.counts": [1]}}, "did you mean 'matrix.count'"),
        ({"space": {"matrix.count": [2, 2]}}, "must rise or fall"),
        ({"space": {"matrix.count": [1.5]}}, "whole number"),
        ({"space": {"matrix.count": [float("nan")]}}, "finite"),
        ({"subject_to": {"laten": 1}}, "did you mean"),
        ({"subject_to": {"batch": 4}}, "a network must be given as a function of the batch"),
        ({"seed": -1}, "seed must be a whole number of 0 or more"),
        ({"top": 0}, "top must be"),
        ({"evaluations": 2.5}, "evaluations must be"),
    ],
)
def test_bad_searches_are_refused(trace, blocked, changes, said):
    settings = {"space": {"matrix.count": [1, 2]}, "minimise": "latency_s"} | changes
    with pytest.raises(ValueError, match=said):
        tune(trace, blocked, settings.pop("space"), **settings)


def test_a_limit_the_design_cannot_compute_is_an_error(trace, blocked):
    weight = Metric("weight_kg", lambda r: float("nan"))
    with pytest.raises(DesignSpaceError, match=r"'weight_kg' .* is not a number"):
        tune(trace, blocked, {"matrix.count": [1, 2]}, minimise="latency_s", subject_to={weight: 1})


def test_batch_twice_is_refused(blocked):
    with pytest.raises(DesignSpaceError, match="both in the space and a limit"):
        tune(batched, blocked, {"batch": [1, 2]}, minimise="latency_s", subject_to={"batch": 4})


def test_tables_of_the_best(trace, blocked):
    found = tune(trace, blocked, {"matrix.count": [1, 2, 4]}, minimise="latency_s", top=2)
    assert len(found.to_frame()) == 2
    assert "<table" in found._repr_html_()
    assert found.accelerator.matrix.count == found.best[0]["matrix.count"]
