"""Area, power, price and edge as metrics and budgets of sweeps and searches: checked before anything is simulated,
bounded only where the bound holds, and what they say of LSTM and Transformer chips."""

from __future__ import annotations

import concurrent.futures
import sys

import numpy as np
import pytest
from command import done, refused

import simulator.mix
from simulator import Metric, preset, simulate, sweep, tune, what_if
from simulator.bound import bound
from simulator.lattice import Lattice
from simulator.metrics import METRICS, DesignSpaceError
from simulator.unit_costs import costs
from workloads import lstm, network

SWEEP, TUNE, BOUND = (sys.modules[f"simulator.{name}"] for name in ("sweep", "tune", "bound"))
SILICON = ("area_mm2", "peak_power_w", "price_usd", "shoreline_mm", "shoreline_share")
COSTS = ("energy_j", "energy_per_token_j", "average_power_w", "price_per_million_tokens_usd")
LSTM = lstm(layers=2, hidden=1024, batch=1, sequence_length=50, dtype="bf16")
CHIP = preset("hypothetical")
AXES = {
    "matrix.count": np.arange(10, 101, 10),
    "matrix.clock": np.linspace(0.5e9, 2e9, 6),
    "memory.sram.capacity": np.geomspace(4e6, 256e6, 7),
    "memory.dram.bandwidth": np.geomspace(1e11, 3.2e12, 6),
}
#: One limit each, and several: each lets through part of `AXES`.
BUDGETS = (
    {"area_mm2": 100},
    {"peak_power_w": 100},
    {"price_usd": 420},
    {"shoreline_mm": 22},
    {"shoreline_share": 0.7},
    {"area_mm2": 150, "peak_power_w": 120, "shoreline_share": 1, "latency_s": 1e-3},
)


@pytest.fixture
def simulated(monkeypatch):
    """The spaces that are simulated."""
    seen, totals = [], simulator.mix.totals

    def recorded(trace, accelerator):
        seen.append(accelerator)
        return totals(trace, accelerator)

    monkeypatch.setattr(simulator.mix, "totals", recorded)
    return seen


def values(name: str, seen) -> np.ndarray:
    return np.concatenate([np.ravel(getattr(chip, name)) for chip in seen])


# -- metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SILICON)
def test_a_metric_of_the_chip_needs_no_result(name):
    space = CHIP.grid(AXES)
    with_result = METRICS[name].over([(simulate(LSTM, space), 1.0)])
    assert METRICS[name].without_simulation(space).tolist() == with_result.tolist()
    assert with_result.tolist() == np.ravel(getattr(space, name)).tolist()


@pytest.mark.parametrize("name", COSTS)
def test_a_sweep_costs_designs_as_each_alone(name):
    found = sweep(LSTM, CHIP, metrics=[name], **{path: AXES[path][::3] for path in AXES})
    for i in (0, 7, len(found) - 1):
        alone = simulate(LSTM, found.design(i))
        value = getattr(alone, name)
        assert found[name][i] == pytest.approx(value() if callable(value) else value, rel=1e-12)


def test_the_price_of_tokens_follows_the_design_and_not_its_list_price():
    """A design with more units than the one on sale costs more than its list price says."""
    listed = CHIP.replace({"package.price_usd": 1.0})
    small, large = (
        METRICS["price_per_million_tokens_usd"].over([(simulate(LSTM, listed.replace({"matrix.count": n})), 1.0)])[0]
        for n in (50, 5000)
    )
    assert large > 2 * small


def test_what_if_tells_area_and_power_too():
    changed = what_if(simulate(LSTM, CHIP), {"memory.sram.capacity": "x2"})
    before, after = changed.before.accelerator, changed.after.accelerator
    assert after.area_by_part_mm2()["sram"] == pytest.approx(2 * before.area_by_part_mm2()["sram"])
    assert after.peak_power_w > before.peak_power_w


def test_a_metric_of_the_chip_is_a_function_of_it():
    with pytest.raises(DesignSpaceError, match="of_chip must be a function"):
        Metric("x", len, mix="design", of_chip=3)
    with pytest.raises(DesignSpaceError, match="and mix 'design'"):
        Metric("x", len, of_chip=len)


# -- before simulating ---------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS)
def test_designs_beyond_the_budget_are_not_simulated_and_the_rest_is_the_same(simulated, budget):
    everything = sweep(LSTM, CHIP, metrics=["latency_s", *(n for n in budget if n != "latency_s")], **AXES)
    simulated.clear()
    found = sweep(LSTM, CHIP, subject_to=budget, **AXES)
    inside = np.logical_and.reduce([everything[name] <= most for name, most in budget.items()])
    assert 0 < inside.sum() < len(everything)
    assert found.table.ids.tolist() == np.flatnonzero(inside).tolist()
    assert found["latency_s"].tolist() == everything["latency_s"][inside].tolist()
    for name in budget.keys() - {"latency_s"}:
        assert values(name, simulated).max() <= budget[name]


def test_lists_samples_and_batches_are_checked_first_too(simulated):
    rows = [{"matrix.count": n, "memory.sram.capacity": c} for n in (10, 90) for c in (8e6, 256e6)]
    listed = sweep(LSTM, CHIP, designs=rows, subject_to={"area_mm2": 150})
    assert listed["matrix.count"].tolist() == [10, 90]
    drawn = sweep(LSTM, CHIP, samples=500, subject_to={"area_mm2": 150}, **AXES)
    assert 0 < len(drawn) < 500

    def batched(batch):
        return lstm(layers=1, hidden=256, batch=batch, sequence_length=4, dtype="bf16")

    both = sweep(batched, CHIP, subject_to={"area_mm2": 150}, batch=[1, 2], **AXES)
    assert set(both["batch"]) == {1, 2}
    assert values("area_mm2", simulated).max() <= 150


def test_a_budget_nobody_keeps_is_empty_and_costs_no_simulation(simulated):
    assert len(sweep(LSTM, CHIP, subject_to={"area_mm2": 1}, **AXES)) == 0
    assert len(sweep(LSTM, CHIP, keep="pareto", metrics=["latency_s", "area"], subject_to={"area": 1}, **AXES)) == 0
    assert not simulated


def test_energy_and_area_survive_the_way_to_other_processes():
    names = [*SILICON, *COSTS]
    axes = {path: AXES[path][::2] for path in AXES}
    here = sweep(LSTM, CHIP, metrics=names, subject_to={"area_mm2": 200}, **axes)
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        there = sweep(LSTM, CHIP, metrics=names, subject_to={"area_mm2": 200}, executor=pool, **axes)
    assert len(here)
    assert there.to_frame().equals(here.to_frame())


def test_a_checkpoint_is_of_one_family_and_its_unit_costs(tmp_path, monkeypatch):
    place = tmp_path / "sweep.npz"
    axes = {"matrix.count": AXES["matrix.count"]}
    sweep(LSTM, CHIP, metrics=["area_mm2"], checkpoint=place, **axes)
    with pytest.raises(DesignSpaceError, match="it is of another sweep"):
        sweep(LSTM, CHIP.replace(family="gpu"), metrics=["area_mm2"], checkpoint=place, **axes)
    monkeypatch.setattr(SWEEP, "costs", lambda: costs() | {"link.energy_j_per_byte": 1.0})
    with pytest.raises(DesignSpaceError, match="it is of another sweep"):
        sweep(LSTM, CHIP, metrics=["area_mm2"], checkpoint=place, **axes)


# -- searches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_search_finds_the_optimum_within_the_budget_and_its_bound_holds(budget, table, simulated, monkeypatch):
    """Bounded by a table of what every design costs, and by corners alone."""
    if not table:
        monkeypatch.setattr(BOUND, "TABULATED", 0)
    best = sweep(LSTM, CHIP, subject_to=budget, keep="best", limit=1, **AXES)["latency_s"][0]
    simulated.clear()
    found = tune(LSTM, CHIP, AXES, minimise="latency_s", subject_to=budget)
    assert found.value == pytest.approx(best, rel=1e-3)
    assert all(limit.limit.excess(limit.value) == 0 for limit in found.budgets)
    assert found.evidence.bound <= best * (1 + 1e-12)
    assert found.simulated <= found.tried
    assert sum(chip.designs for chip in simulated) < 1.1 * found.simulated  # each once
    known = ~np.isnan(found.points["latency_s"])
    assert known.sum() == found.simulated


def test_power_and_price_fall_with_more_hardware_so_a_corner_bounds_neither():
    """Two dies for one beyond the reticle yield better; more units have smaller banks beside them."""
    one, two = (CHIP.replace({"memory.sram.capacity": c * 1e6}) for c in (680, 700))
    assert one.area_mm2 < costs()["price.reticle_mm2"] < two.area_mm2
    assert two.die_price_usd < one.die_price_usd
    few, many = (CHIP.replace({"matrix.count": n, "matrix.macs_per_cycle.bf16": 1, "matrix.macs_per_cycle.fp16": 1,
                               "matrix.macs_per_cycle.int8": 1, "matrix.macs_per_cycle.fp32": 1})
                 for n in (1, 8))  # fmt: skip
    assert many.peak_power_w < few.peak_power_w


@pytest.mark.parametrize("name", ["peak_power_w", "price_usd", "area_mm2"])
def test_the_bound_holds_where_cost_falls_with_hardware(name, monkeypatch):
    """Across the reticle, and across vector lanes that take over products; with a table and without."""
    axes = {
        "matrix.count": np.arange(1, 9),
        "memory.sram.capacity": np.linspace(700e6, 1100e6, 12),
        "vector.flops_per_cycle": np.geomspace(100, 4000, 8),
    }
    chip = CHIP.replace({"memory.dram.bandwidth": 1e11})
    everything = sweep(LSTM, chip, metrics=["latency_s", name], **axes)
    for share in (0.05, 0.3, 0.7):
        most = float(np.quantile(everything[name], share))
        best = everything["latency_s"][everything[name] <= most].min()
        for points in (2**19, 0):
            monkeypatch.setattr(BOUND, "TABULATED", points)
            archive = archive_of(chip, axes, {name: most}, 400)
            assert bound(archive, METRICS["latency_s"]).value <= best * (1 + 1e-12)


def archive_of(chip, axes, limits, most):
    lattice, networks = Lattice(TUNE.axes_of(chip, axes, "tune")), TUNE.mix(LSTM, "tune")
    goal, sign = TUNE._goal(None, "latency_s", networks, chip)
    return TUNE.archive_of(
        lattice, networks, chip, goal, sign, TUNE.limits_of(limits, networks, chip, "tune"), 99, most
    )


def test_a_metric_of_the_users_own_is_bounded_by_nothing_whatever_its_name():
    """The negative of the area, called area: its least is where everything is largest."""
    upside = Metric("area_mm2", lambda r: -np.asarray(r.accelerator.area_mm2), mix="design")
    everything = sweep(LSTM, CHIP, metrics=["latency_s", upside], **AXES)
    best = everything["latency_s"][everything["area_mm2"] <= -200].min()
    found = tune(LSTM, CHIP, AXES, minimise="latency_s", subject_to={upside: -200})
    assert found.evidence.bound <= best
    assert found.value == pytest.approx(best, rel=1e-3)


def test_the_bound_holds_where_vector_lanes_take_over_products(monkeypatch):
    """At 909 vector FLOP a cycle the lanes do all products and the matrix units vanish: more of them, less area."""
    monkeypatch.setattr(BOUND, "TABULATED", 0)
    axes = {"vector.flops_per_cycle": np.linspace(880, 940, 7), "matrix.clock": np.linspace(0.5e9, 2e9, 6)}
    everything = sweep(LSTM, CHIP, metrics=["latency_s", "area_mm2"], **axes)
    area = everything["area_mm2"].reshape(7, 6)[:, 0]
    assert area[-1] < area[0]
    best = everything["latency_s"][everything["area_mm2"] <= area[-1]].min()
    for most in (4, 12):
        assert bound(archive_of(CHIP, axes, {"area_mm2": area[-1]}, most), METRICS["latency_s"]).value <= best

    # a box whose cheapest corner breaks the limit while its other end keeps it
    archive = archive_of(CHIP, axes, {"area_mm2": area[-1]}, 100)
    assert not BOUND._Boxes(archive, np.array([1, 1]), 100).of_cost.any()


def test_nothing_found_yet_rules_no_box_out():
    """With no design within the limits so far, there is no best to compare boxes with: the bound stays below all."""
    limits = {"area_mm2": 200, "latency_s": 4e-4}
    best = sweep(LSTM, CHIP, subject_to=limits, keep="best", limit=1, **AXES)["latency_s"][0]
    for most in (4, 20, 100):
        assert bound(archive_of(CHIP, AXES, limits, most), METRICS["latency_s"]).value <= best * (1 + 1e-12)


@pytest.mark.parametrize("goal", ["area_mm2", "price_usd", "energy_j", "price_per_million_tokens_usd"])
def test_what_cannot_be_bounded_is_searched_all_the_same(goal):
    best = sweep(LSTM, CHIP, metrics=[goal], subject_to={"latency_s": 1e-3}, keep="best", limit=1, **AXES)[goal][0]
    found = tune(LSTM, CHIP, AXES, minimise=goal, subject_to={"latency_s": 1e-3})
    assert found.value == pytest.approx(best, rel=1e-3)
    assert found.evidence.bound is None


def test_an_infeasible_area_says_by_how_much_and_without_a_search_of_times():
    least = CHIP.replace({path: axis[0] for path, axis in AXES.items()}).area_mm2
    with pytest.raises(DesignSpaceError, match="no design keeps the limits") as caught:
        tune(LSTM, CHIP, AXES, minimise="latency_s", subject_to={"area_mm2": 20, "latency_s": 1})
    assert f"area_mm2 <= 20 is missed by {least / 20 - 1:.3g} of itself (area_mm2 = {least:.6g})" in str(caught.value)
    assert "latency_s <=" not in str(caught.value)
    with pytest.raises(DesignSpaceError, match="each limit alone can be kept, not all together"):
        tune(LSTM, CHIP, AXES, minimise="latency_s", subject_to={"area_mm2": 50, "latency_s": 2.5e-4})


# -- at the terminal -----------------------------------------------------------------------------------

VARY = ("lstm-zaremba-large", "--on", "hypothetical", "--vary", "matrix.count=10:100:+10",
        "memory.sram.capacity=4MB:256MB:5")  # fmt: skip


def test_every_budget_can_be_typed(run):
    out = done(run("sweep", *VARY, "--metric", "latency_s", *SILICON, *COSTS, "--budget",
                   "area=400mm2,power=200W,shoreline=60mm,shoreline_share=1,price=2kUSD"))  # fmt: skip
    assert "mm2" in out
    out = done(run("pareto", *VARY, "--metric", "energy_per_token_j", "area_mm2", "price_per_million_tokens_usd"))
    assert "no other beats" in out
    out = done(run("tune", *VARY, "--minimise", "energy_j", "--budget", "area=100mm2,power=150W"))
    assert "<= 100 mm2" in out
    assert "beyond a limit on the chip, not simulated" in out


def test_an_empty_sweep_says_which_limit_and_by_how_much(run):
    out = done(run("sweep", *VARY, "--budget", "area=20mm2,latency=1s"))
    least = CHIP.replace({"matrix.count": 10, "memory.sram.capacity": 4e6}).area_mm2
    assert f"area <= 20.0 mm2 is missed by {100 * (least / 20 - 1):.0f} %" in out
    assert "latency <=" not in out
    fastest = sweep(network("lstm-zaremba-large"), CHIP, keep="best", limit=1, **{
        "matrix.count": np.arange(10, 101, 10), "memory.sram.capacity": np.geomspace(4e6, 256e6, 5)})  # fmt: skip
    deadline = f"latency={1.01 * fastest['latency_s'][0]:.6g}"
    out = done(run("sweep", *VARY, "--budget", f"area=90mm2,{deadline}"))
    assert "each limit alone can be kept, not all together" in out
    said = refused(run("tune", *VARY, "--minimise", "latency_s", "--budget", "power=1W"))
    assert "peak_power_w <= 1 is missed by" in said


def test_an_unbounded_goal_says_so(run):
    vary = ("--vary", "matrix.count=10:100", "memory.sram.capacity=4MB:256MB:40")
    out = done(run("tune", *VARY[:3], *vary, "--minimise", "energy_j", "--budget", "area=100mm2"))
    assert "nothing is proved of how much better energy could be" in out


# -- the argument --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("area", "power"), [(80, 200), (100, 200)])
@pytest.mark.parametrize("hidden", [2048, 4096])
def test_the_best_lstm_chip_has_more_of_its_area_in_memory_than_the_best_transformer_chip(area, power, hidden):
    """Same area, same power, same choices: memory and its interfaces for the LSTM at batch 1, units for the prefill."""
    space = {
        "matrix.count": range(5, 101, 5),
        "matrix.clock": np.linspace(0.5e9, 2e9, 7),
        "memory.sram.capacity": np.geomspace(2e6, 128e6, 13),
        "memory.dram.bandwidth": np.geomspace(1e11, 1.6e12, 13),
    }
    budget = {"area_mm2": area, "peak_power_w": power, "shoreline_share": 1}
    recurrent = lstm(layers=2, hidden=hidden, batch=1, sequence_length=100, dtype="bf16")
    shares = {}
    for name, trace in (("lstm", recurrent), ("prefill", network("bert-large", dtype="bf16"))):
        found = tune(trace, CHIP, space, minimise="latency_s", subject_to=budget, evaluations=24_000)
        assert found.evidence.enumerated
        parts = found.accelerator.area_by_part_mm2()
        whole = found.accelerator.area_mm2
        assert 0.85 * area < whole <= area  # both use the area they are given
        shares[name] = {
            "memory": (parts["sram"] + parts["memory interfaces"]) / whole,
            "units": (parts["matrix"] + parts["vector"]) / whole,
        }
    assert shares["lstm"]["memory"] > 1.25 * shares["prefill"]["memory"]
    assert shares["prefill"]["units"] > 1.5 * shares["lstm"]["units"]
