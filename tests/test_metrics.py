"""The table of metrics: against the result, over a space, over a mix; and every refusal."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import simulate
from simulator.axes import Axis, LogRange, axes_of, is_whole
from simulator.designs import Grid, Sample, listed, space
from simulator.limits import limits_of
from simulator.metrics import ALIASES, METRICS, DesignSpaceError, Metric, metric
from simulator.mix import measures, mix


@pytest.fixture
def design_space(blocked):
    return blocked.grid({"matrix.count": [1, 2, 4], "memory.dram.bandwidth": [5e9, 1e10]})


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_a_space_is_that_of_each_design(name, trace, design_space):
    result = simulate(trace, design_space)
    values = METRICS[name].over([(result, 1.0)])
    alone = [METRICS[name].over([(result.design((i, j)), 1.0)])[0] for i in range(3) for j in range(2)]
    assert values.tolist() == alone
    assert (values > 0).all()


def test_metrics_are_those_of_the_result(trace, blocked):
    result = simulate(trace, blocked)
    for name in ("latency_s", "critical_path_s", "tokens_per_s", "sequences_per_s", "utilisation"):
        assert METRICS[name].over([(result, 1.0)])[0] == getattr(result, name)
    assert METRICS["attained_flops_per_s"].over([(result, 1.0)])[0] == result.attained
    moved = float(result.traffic_bytes["dram"] @ trace.runs)
    assert METRICS["dram_bytes"].over([(result, 1.0)])[0] == pytest.approx(moved, rel=1e-12)


def test_a_mix_adds_times_and_shares_rates_by_time(trace, blocked):
    """Two networks, one run three times: time 3 a + b; rates are work over that time."""
    one, other = simulate(trace, blocked), simulate(trace, blocked.replace({"memory.dram.bandwidth": 1e9}))
    parts = [(one, 3.0), (other, 1.0)]
    total = 3 * one.latency_s + other.latency_s
    assert METRICS["latency_s"].over(parts)[0] == pytest.approx(total, rel=1e-12)
    tokens = 4 * trace.sequences * trace.tokens
    assert METRICS["tokens_per_s"].over(parts)[0] == pytest.approx(tokens / total, rel=1e-12)
    ideal = 3 * one.utilisation * one.latency_s + other.utilisation * other.latency_s
    assert METRICS["utilisation"].over(parts)[0] == pytest.approx(ideal / total, rel=1e-12)


def test_a_mean_over_tokens_and_a_metric_of_the_chip(trace, blocked):
    result, half = simulate(trace, blocked), simulate(trace.replace(tokens=4), blocked)
    per_token = Metric("per token", lambda r: r.trace.tokens * 1.0, mix="tokens")
    assert per_token.over([(result, 1.0), (half, 2.0)])[0] == pytest.approx((8 * 8 + 2 * 4 * 4) / (8 + 2 * 4))
    of_chip = Metric("units", lambda r: r.accelerator.matrix.count, mix="design")
    assert of_chip.over([(result, 5.0), (half, 2.0)])[0] == 4


def test_names_aliases_fields_and_functions(blocked):
    assert metric("power") is METRICS["peak_power_w"]
    assert {ALIASES[name] for name in ALIASES} <= set(METRICS)
    assert metric("memory.dram.bandwidth", blocked).name == "memory.dram.bandwidth_bytes_per_s"

    def cost(result):
        return 1.0

    assert metric(cost).name == "cost"
    assert metric(metric(cost)).of is cost


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("latency", None),
        ("latenci_s", "did you mean 'latency_s'"),
        (3, "a metric is a name or a function"),
        ("memory.dram.scope", "is not a number"),
    ],
)
def test_unknown_metrics_are_refused(asked, said, blocked):
    if said is None:
        assert metric(asked, blocked).name == "latency_s"
        return
    with pytest.raises(DesignSpaceError, match=said):
        metric(asked, blocked)


def test_a_metric_states_its_direction_and_mix():
    with pytest.raises(DesignSpaceError, match="did you mean 'more'"):
        Metric("x", len, better="mor")
    with pytest.raises(DesignSpaceError, match="did you mean 'sum'"):
        Metric("x", len, mix="sums")
    with pytest.raises(DesignSpaceError, match="must be a function"):
        Metric("x", 3)


def test_what_a_design_cannot_compute_is_said(trace, blocked):
    result = simulate(trace, blocked)
    missing = Metric("weight_kg", METRICS["area_mm2"].of.__class__(METRICS["area_mm2"].of_chip.__class__("weight_kg")))
    with pytest.raises(DesignSpaceError, match="'weight_kg' cannot be computed for blocked"):
        missing.over([(result, 1.0)])
    with pytest.raises(DesignSpaceError, match="'odd' of tiny lstm on blocked is not a number for 1 of 1"):
        Metric("odd", lambda r: np.nan).over([(result, 1.0)])
    with pytest.raises(DesignSpaceError, match="must return a number for each design"):
        Metric("odd", lambda r: "fast").over([(result, 1.0)])
    with pytest.raises(DesignSpaceError, match="must return a number for each design"):
        Metric("odd", lambda r: np.zeros(7)).over([(result, 1.0)])


# -- networks ----------------------------------------------------------------------------------------


def test_a_mix_names_its_networks(trace, blocked):
    networks = mix({"a": (trace, 2), "b": trace}, "sweep")
    assert [(name, weight) for name, _, weight in networks.at()] == [("a", 2.0), ("b", 1.0)]
    assert [m.name for m in measures(["latency", "a:latency"], networks, blocked)] == ["latency_s", "a:latency_s"]
    with pytest.raises(DesignSpaceError, match="no network 'c'"):
        measures(["c:latency_s"], networks, blocked)
    with pytest.raises(DesignSpaceError, match="asked for twice"):
        measures(["latency", "latency_s"], networks, blocked)
    with pytest.raises(DesignSpaceError, match="no metric"):
        measures([], networks, blocked)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (3, ValueError, "a Trace or a mapping"),
        ({}, ValueError, "no network"),
        ({"a": 3}, ValueError, "a: a Trace"),
    ],
)
def test_what_is_no_network_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        mix(given, "sweep")


@pytest.mark.parametrize("weight", [0, -1, np.nan, np.inf, "1", True])
def test_weights_are_positive_numbers(trace, weight):
    with pytest.raises(DesignSpaceError, match="a: the weight must be a positive number"):
        mix({"a": (trace, weight)}, "sweep")


# -- axes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({}, "no axis given"),
        ({"matrix.counts": [1]}, "did you mean 'matrix.count'"),
        ({"matrix.count": []}, "matrix.count has no candidates"),
        ({"matrix.count": [1, 2, 2]}, "must rise or fall throughout, got 2 after 2"),
        ({"matrix.count": [1, 3, 2]}, "must rise or fall throughout, got 2 after 3"),
        ({"matrix.count": [3, 1, 2]}, "must rise or fall throughout, got 2 after 1"),
        ({"matrix.count": [1, np.nan]}, "must be finite, got nan"),
        ({"matrix.count": [1, 2.5]}, "must be a whole number, got 2.5"),
        ({"matrix.count": [0, 1]}, "must be above 0"),
        ({"matrix.count": 3}, "must be a list of candidates"),
        ({"matrix.count": "12"}, "must be a list of candidates"),
        ({"matrix.count": ["a"]}, "must be a list of numbers"),
        ({"matrix.count": [[1, 2]]}, "must be a list of numbers"),
        ({"memory.dram.bandwidth": [1e9], "memory.dram.bandwidth_bytes_per_s": [1e9]}, "has two axes"),
        ({"matrix.dataflow": ["weight-stationery"]}, "did you mean 'weight-stationary'"),
        ({"abilities.fuses_elementwise": [True, True]}, "has True twice"),
        ({"abilities.fuses_elementwise": [1]}, "must be true or false"),
        ({"batch": [1, 2.5]}, "batch must be whole numbers of 1 or more, got 2.5"),
        ({"batch": [0, 1]}, "batch must be whole numbers of 1 or more, got 0"),
    ],
)
def test_bad_axes_are_refused(axes, said, blocked):
    with pytest.raises(ValueError, match=said):
        axes_of(blocked, axes, "sweep")


def test_axes_know_their_kind(blocked):
    given = {"matrix.count": range(1, 4), "matrix.dataflow": ["output-stationary"], "batch": [4, 2]}
    count, dataflow, batch = axes_of(blocked, given, "sweep")
    assert (count.kind, dataflow.kind, batch.kind) == ("number", "choice", "batch")
    assert count.values.tolist() == [1, 2, 3]
    assert batch.at(np.array([1])).tolist() == [2]
    assert is_whole("matrix.count")
    assert is_whole("batch")
    assert not is_whole("matrix.macs_per_cycle.fp16")


def test_a_range_is_fine_and_whole_where_it_must_be(blocked):
    bandwidth, count = axes_of(
        blocked, {"memory.dram.bandwidth": LogRange(1e9, 1e12), "matrix.count": LogRange(1.5, 100)}, "tune"
    )
    assert bandwidth.continuous
    assert bandwidth.values[[0, -1]] == pytest.approx([1e9, 1e12])
    assert (np.diff(np.log(bandwidth.values)) < 0.002).all()
    assert count.values.tolist() == list(range(2, 101))
    for low, high in ((0, 1), (2, 1), (1, np.inf), ("a", 2)):
        with pytest.raises(DesignSpaceError, match="0 < low < high"):
            LogRange(low, high)


# -- designs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_designs", [1, 7, 16, 1000])
def test_chunks_cover_every_design_once_with_its_parameters(blocked, chunk_designs):
    axes = axes_of(
        blocked,
        {
            "memory.dram.bandwidth": [1e9, 2e9, 4e9],
            "matrix.count": [8, 4, 2, 1],
            "matrix.dataflow": ["output-stationary", "weight-stationary"],
            "batch": [1, 3],
            "latency.launch_s": [0.0, 1e-6, 2e-6],
        },
        "sweep",
    )
    grid = Grid(axes, chunk_designs)
    assert grid.designs == 3 * 4 * 2 * 2 * 3
    seen = []
    for number in range(grid.chunks):
        for block in grid.chunk(number):
            chip = space(blocked, block)
            assert chip.designs == len(block.ids)
            stated = grid.parameters(block.ids)
            assert (stated["batch"] == block.batch).all()
            for name in stated.keys() - {"batch"}:
                value = chip.fields[name]
                flat = np.broadcast_to(value, chip.shape).reshape(-1) if not isinstance(value, str) else value
                assert (stated[name] == flat).all()
            seen += block.ids.tolist()
    assert sorted(seen) == list(range(grid.designs))


def test_numbers_run_with_the_last_axis_fastest(blocked):
    axes = axes_of(blocked, {"matrix.count": [1, 2], "memory.dram.bandwidth": [1e9, 2e9, 4e9]}, "sweep")
    stated = Grid(axes, 100).parameters(np.arange(6))
    assert stated["matrix.count"].tolist() == [1, 1, 1, 2, 2, 2]
    assert stated["memory.dram.bandwidth_bytes_per_s"].tolist() == [1e9, 2e9, 4e9] * 2


def test_a_block_is_what_replace_makes_of_it(blocked):
    axes = axes_of(blocked, {"matrix.macs_per_cycle.fp16": [8, 16], "memory.l2.capacity": [100, 200, 300]}, "sweep")
    grid = Grid(axes, 100)
    (block,) = grid.chunk(0)
    quick, careful = space(blocked, block), blocked.replace(block.changes)
    assert quick.shape == careful.shape == (2, 3)
    assert quick.fields.keys() == careful.fields.keys()
    for path, value in careful.fields.items():
        assert np.array_equal(quick.fields[path], value), path
    assert blocked.shape == ()


def test_a_sample_is_of_the_space_and_the_same_for_a_seed(blocked):
    axes = axes_of(blocked, {"matrix.count": [1, 2, 4], "memory.dram.bandwidth": LogRange(1e9, 1e11)}, "sweep")
    first, again, other = (Sample(axes, 5000, "random", seed) for seed in (1, 1, 2))
    ids = np.arange(5000)
    drawn = first.parameters(ids)
    assert set(drawn["matrix.count"]) == {1, 2, 4}
    bandwidth = drawn["memory.dram.bandwidth_bytes_per_s"]
    assert 1e9 <= bandwidth.min() < 1.1e9
    assert 0.9e11 < bandwidth.max() <= 1e11
    assert np.array_equal(bandwidth, again.parameters(ids)["memory.dram.bandwidth_bytes_per_s"])
    assert not np.array_equal(bandwidth, other.parameters(ids)["memory.dram.bandwidth_bytes_per_s"])


@pytest.mark.sobol
def test_sobol_samples_fill_evenly(blocked):
    pytest.importorskip("scipy", reason="needs scipy: pip install 'rooftrace[sobol]'")
    axes = axes_of(blocked, {"matrix.count": range(1, 17), "memory.dram.bandwidth": LogRange(1e9, 1e11)}, "sweep")
    sample = Sample(axes, 8192, "sobol", 3)
    counts = np.bincount(sample.parameters(np.arange(8192))["matrix.count"].astype(int))[1:]
    assert (counts == 512).all()


@pytest.mark.parametrize(
    ("samples", "sampler", "seed", "said"),
    [(0, "random", 0, "samples must be"), (2.5, "random", 0, "samples must be"), (9, "sobel", 0, "mean 'sobol'"),
     (9, "random", -1, "seed must be")],
)  # fmt: skip
def test_bad_samples_are_refused(blocked, samples, sampler, seed, said):
    with pytest.raises(DesignSpaceError, match=said):
        Sample((Axis("matrix.count", np.array([1.0]), "number"),), samples, sampler, seed)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "must be a list of mappings"),
        ([3], "must be a list of mappings"),
        ({"matrix.count": []}, "none given"),
        ({"matrix.count": [1], "matrix.clock_hz": [1e9, 2e9]}, "different lengths"),
        ([{"matrix.count": 1}, {"matrix.clock": 1e9}], "differ in stating"),
        ([{"matrix.count": 1.5}], "whole number"),
        ([{"matrix.count": float("nan")}], "finite"),
        ([{"matrix.clock": 1e9, "matrix.clock_hz": 1e9}], "named twice"),
    ],
)
def test_bad_lists_of_designs_are_refused(blocked, given, said):
    with pytest.raises(ValueError, match=said):
        listed(blocked, given, 100)


# -- limits ------------------------------------------------------------------------------------------


def test_a_number_limits_from_the_side_that_hurts(trace, blocked):
    networks = mix(trace, "tune")
    latency, tokens, pair = limits_of(
        {"latency": 1e-3, "tokens_per_s": 1e4, "matrix.count": (2, None)}, networks, blocked, "tune"
    )
    assert (latency.least, latency.most) == (-np.inf, 1e-3)
    assert (tokens.least, tokens.most) == (1e4, np.inf)
    assert (pair.least, pair.most) == (2, np.inf)
    assert latency.excess(np.array([0.5e-3, 1e-3, 1.5e-3])) == pytest.approx([0, 0, 0.5])
    assert tokens.excess(np.array([2e4, 5e3])) == pytest.approx([0, 0.5])
    assert str(latency) == "latency_s <= 0.001"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"latency": np.nan}, "a limit is a number"),
        ({"latency": "7ms"}, "a limit is a number"),
        ({"latency": (None, None)}, "no limit given"),
        ({"latency": (2, 1)}, "least 2 is above most 1"),
        ({"latency": 1, "latency_s": 2}, "limited twice"),
        ({"laten": 1}, "did you mean"),
        (3, "must map metrics to limits"),
    ],
)
def test_bad_limits_are_refused(trace, blocked, given, said):
    with pytest.raises(DesignSpaceError, match=said):
        limits_of(given, mix(trace, "tune"), blocked, "tune")
