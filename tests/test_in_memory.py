"""Compute in memory: the formulas by hand, the placement of every op, the laws, the slow twin."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import CLOSED_FORM
from strategies import random_accelerator, random_trace, with_memory_units
from test_simulate import assert_equals_twin

from reports import requests
from reports.export import op_rows, result_document
from reports.tables import op_table, summary_table
from simulator import AcceleratorError, in_memory, preset, sensitivity, simulate, tune, what_if
from simulator.accelerator import load_accelerator
from simulator.simulate import totals
from workloads import linear, lstm, training

ROOT = Path(__file__).resolve().parents[1]


def near(expected):
    return pytest.approx(expected, rel=CLOSED_FORM, abs=0)


def with_units(chip, **changes):
    """A chip whose farthest memory has units of ten times its bandwidth, one multiply-accumulate for two bytes."""
    inside = 10 * chip.outer.bandwidth_bytes_per_s
    given = {"bandwidth_bytes_per_s": inside, "macs_per_s": {"fp16": inside / 2}}
    return dataclasses.replace(chip, in_memory=given | changes)


def places(result) -> dict[str, str]:
    return dict(zip(result.trace.op.tolist(), result.placement.tolist(), strict=True))


def random_cases(count, **options):
    for seed in range(count):
        rng = random.Random(seed)
        chip = random_accelerator(rng, **options)
        yield random_trace(rng, largest=1000), chip, with_memory_units(rng, chip)


# -- the formulas, by hand ---------------------------------------------------------------------------


def test_a_matrix_is_read_once_for_every_pass():
    """100 bytes for 1, 4 and 5 vectors, four a pass: once, once, twice."""
    assert in_memory.inside_bytes(100.0, np.array([1, 4, 5]), 4).tolist() == [100, 100, 200]


def test_vectors_and_results_cross_the_interface_in_copies():
    assert in_memory.crossing_bytes(30.0, 80.0, 1, 16, 2) == 30 * 16 + 80 * 2
    assert in_memory.crossing_bytes(30.0, 80.0, 4, 16, 2) == 30 * 4 + 80 * 2  # each matrix in a quarter of the memory
    assert in_memory.crossing_bytes(30.0, 80.0, 64, 16, 2) == 30 + 80 * 2


def test_the_longer_of_reading_and_multiplying_counts():
    assert in_memory.product_s(100.0, 30.0, 10.0, 0.5, 1.0) == 30
    assert in_memory.product_s(100.0, 10.0, 10.0, 0.5, 1.0) == 20


def test_a_slower_way_in_delays_what_crosses_and_nothing_else():
    assert in_memory.crossing_s(60.0, 40.0, 10.0) == 10
    assert in_memory.crossing_s(60.0, 40.0, 10.0, 2.0) == 30 + 4
    assert in_memory.crossing_s(60.0, 40.0, 10.0, 1e9) == 10  # never faster than the level


def test_the_thinnest_products_have_the_room():
    """Rows 8, 1, 4 of 10 bytes each in 20: those of 1 and 4 rows."""
    held = in_memory.fits(np.full((3, 1), 10.0), np.array([[8.0], [1.0], [4.0]]), 20.0)
    assert held[:, 0].tolist() == [False, True, True]
    assert in_memory.fits(np.full((2, 1), 10.0), np.ones((2, 1)), np.array([9.0, 10.0, 20.0])).tolist() == [
        [False, True, True],
        [False, False, True],
    ]


# -- one chip by hand --------------------------------------------------------------------------------


def test_a_recurrent_product_by_hand(blocked):
    """1 x 64 times 64 x 256 in fp16, eight steps, on `blocked` with room for the state on chip and none for weights.

    32 768 bytes at 200 GB/s, 16 384 multiply-accumulates at 0.1 T/s: 163.84 ns either way. 128 + 512 bytes cross at
    10 GB/s in 64 ns, and l1 and l2 at 100 GB/s. Launch 1000 ns, step and first access 100 ns each, command 10 ns. On
    the host the weights take 3276.8 ns of dram."""
    chip = blocked.replace({"memory.l2.keeps_weights": False, "memory.l2.capacity": 2000})
    chip = with_units(chip, bandwidth_bytes_per_s=2e11, macs_per_s={"fp16": 1e11}, command_s=1e-8)
    result = simulate(lstm(1, 64, batch=1, sequence_length=8, dtype="fp16"), chip)
    row = result.trace.op.tolist().index("recurrent product")
    assert result.placement[row] == "memory"
    assert result.inside_bytes[row] == 32768
    assert result.traffic_bytes["dram"][row] == result.traffic_bytes["l1"][row] == 640
    expected = {"matrix": 0, "l1": 6.4e-9, "l2": 6.4e-9, "dram": 64e-9, "in_memory": 163.84e-9, "latency": 1210e-9}
    for name, seconds in expected.items():
        assert result.bounds_s[name][row] == near(seconds), name
    assert result.time_s[row] == near(1373.84e-9)
    assert result.bound[row] == "latency"
    assert result.resident[row] == 0
    host = simulate(result.trace, dataclasses.replace(chip, in_memory=None))
    assert host.time_s[row] == near(3276.8e-9 + 1200e-9)


def test_a_single_vector_by_hand(flat):
    """1 x 64 times 64 x 32 on `flat` (0.5 byte/ns, nothing on chip): 4096 bytes of weights take 8192 ns from outside,
    and 409.6 ns inside at 10 bytes/ns; vectors of 128 and results of 64 bytes move twice, to the units and from where
    they lie: 768 ns."""
    trace = linear(1, 64, 32, dtype="fp16", bias=False)
    result = simulate(trace, with_units(flat, bandwidth_bytes_per_s=1e10, macs_per_s={"fp16": 1e10}))
    assert result.placement.tolist() == ["memory"]
    assert result.traffic_bytes["dram"].tolist() == [384]
    assert result.bounds_s["in_memory"][0] == near(409.6e-9)
    assert result.latency_s == near(768e-9)
    assert simulate(trace, flat).latency_s > 8192e-9


def test_small_matrices_stay_on_the_host(trace, blocked):
    """Weights of 128 bytes a step are less than the 160 bytes of vectors and results that would cross instead."""
    chip = with_units(blocked.replace({"memory.l2.keeps_weights": False}), macs_per_s={"fp16": 1e15})
    assert places(simulate(trace, chip))["recurrent product"] == "host"


@pytest.mark.parametrize(("vectors_per_pass", "quicker"), [(1, "host"), (64, "memory")])
def test_many_rows_stay_on_the_host(vectors_per_pass, quicker):
    """33.6 MB take 33.6 us outside and 3.36 us inside, but 215 us for 64 rows, unless a pass serves them all."""
    chip = with_units(preset("hypothetical"), macs_per_s={"fp16": 1e15}, vectors_per_pass=vectors_per_pass)
    assert simulate(linear(1, 4096, 4096, dtype="fp16"), chip).placement[0] == "memory"
    assert simulate(linear(64, 4096, 4096, dtype="fp16"), chip).placement[0] == quicker


def test_weights_that_stay_on_chip_are_multiplied_there():
    """1.5 MB a layer stay in the 32 MB of the hypothetical chip, 18 MB a layer of two layers in series too; with an
    SRAM of 1 MB neither does, and the memory takes both."""
    base = preset("hypothetical")
    trace = lstm(2, 400, batch=1, sequence_length=50, dtype="fp16")
    product = "recurrent product + gates"
    kept = simulate(trace, with_units(base, bandwidth_bytes_per_s=4e12, macs_per_s={"fp16": 1e15}))
    assert places(kept)[product] == "host"
    assert np.nanmin(kept.resident) == 1
    moved = simulate(trace, with_units(base.replace({"memory.sram.capacity": 1e4}), macs_per_s={"fp16": 1e15}))
    assert places(moved)[product] == "memory"
    assert np.nanmax(moved.resident) == 0


def test_elementwise_work_and_gradients_stay_on_the_host():
    chip = with_units(preset("hypothetical"), macs_per_s={"fp16": 1e18}, bandwidth_bytes_per_s=1e18)
    result = simulate(training(lstm(1, 512, batch=1, sequence_length=4, dtype="fp16")), chip)
    inside = result.placement == "memory"
    assert inside.any()
    assert set(result.trace.kind[inside].tolist()) == {"matmul"}
    assert set(result.trace.phase[inside].tolist()) <= {"forward", "recompute"}


def test_a_type_the_units_lack_stays_on_the_host():
    chip = with_units(preset("hypothetical"), macs_per_s={"int8": 1e15})
    trace = linear(1, 4096, 4096, dtype="bf16")
    assert simulate(trace, chip).placement.tolist() == ["host"]
    assert simulate(trace, chip.replace({"in_memory.macs_per_s.bf16": 1e15})).placement.tolist() == ["memory"]


def test_what_does_not_fit_the_units_memory_stays_on_the_host():
    chip = with_units(preset("hypothetical"))
    trace = linear(1, 4096, 4096, dtype="fp16", bias=False)  # 33.6 MB
    rooms = chip.replace({"in_memory.capacity": [3e7, 4e7]})
    assert simulate(trace, rooms).placement[:, 0].tolist() == ["host", "memory"]


# -- against the slow twin ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_the_twin_agrees_on_random_cases(first):
    """600 cases on 300 accelerators whose memory computes."""
    for seed in range(first, first + 100):
        rng = random.Random(seed)
        chip = with_memory_units(rng, random_accelerator(rng))
        for number in range(2):
            try:
                assert_equals_twin(random_trace(rng), chip)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, trace {number}: {error}") from error


def test_random_cases_are_placed_either_way():
    found = [simulate(trace, chip) for trace, _, chip in random_cases(100)]
    inside = np.concatenate([result.placement == "memory" for result in found])
    assert 20 < inside.sum() < len(inside) / 2
    assert {str(b) for result in found for b in result.bound[result.placement == "memory"]} >= {"in_memory", "dram"}


# -- laws --------------------------------------------------------------------------------------------


def test_without_the_section_nothing_changes():
    for trace, chip, computing in random_cases(60):
        with_, without = simulate(trace, dataclasses.replace(computing, in_memory=None)), simulate(trace, chip)
        assert with_.output.keys() == without.output.keys()
        for key, value in without.output.items():
            np.testing.assert_array_equal(with_.output[key], value)


def test_no_network_and_no_op_is_slower_than_without():
    for trace, chip, computing in random_cases(200):
        without, result = simulate(trace, chip), simulate(trace, computing)
        assert (result.time_s <= without.time_s).all()
        assert result.latency_s <= without.latency_s * (1 + CLOSED_FORM)
        host = result.placement == "host"
        np.testing.assert_array_equal(result.time_s[host], without.time_s[host])


@pytest.mark.parametrize(
    "field",
    ["in_memory.bandwidth", "in_memory.sustained", "in_memory.vectors_per_pass", "in_memory.command",
     "in_memory.capacity", "in_memory.input_copies", "memory.dram.bandwidth", "matrix.count"],
)  # fmt: skip
def test_more_of_anything_never_slows_one_op_after_another(field):
    """And less of a cost never does. Side by side an op may be drawn to where others wait: not promised there."""
    for trace, _, computing in random_cases(60):
        chip = computing.replace({"abilities.concurrent_ops": 1})
        path = chip.path(field)
        value = chip.fields[path]
        if value is None:
            continue
        more = np.array([1.0, 1.3, 2.0, 7.0]) * value
        if path.endswith("sustained"):
            more = np.array([0.3, 0.5, 0.9, 1.0])
        if path.endswith(("count", "per_pass", "copies")):
            more = np.floor(more)
        latency = simulate(trace, chip.replace({path: more})).latency_s
        steps = np.diff(latency) if path.endswith(("command_s", "copies")) else -np.diff(latency)
        assert (steps >= -CLOSED_FORM * latency[0]).all()


def test_shares_lie_between_nought_and_one():
    for trace, _, chip in random_cases(100):
        result = simulate(trace, chip)
        for share in (result.op_utilisation, result.roof_fraction, result.utilisation, result.in_memory_share()):
            assert (np.asarray(share) >= 0).all()
            assert (np.asarray(share) <= 1 + CLOSED_FORM).all()


def test_designs_are_those_computed_alone_and_totals_those_of_the_whole():
    for seed in range(20):
        rng = random.Random(seed)
        chip = with_memory_units(rng, random_accelerator(rng))
        trace = random_trace(rng)
        bandwidths = chip.in_memory.bandwidth_bytes_per_s * np.array([0.1, 1.0, 30.0])
        space = chip.replace({"in_memory.bandwidth": bandwidths, "memory.dram.latency": [0.0, 1e-7, 1e-6]})
        result, short = simulate(trace, space), totals(trace, space)
        assert set(short.output) <= set(result.output)
        for key, value in short.output.items():
            np.testing.assert_array_equal(result.output[key], value)
        for i in range(3):
            alone = simulate(trace, space.design((i,)))
            np.testing.assert_array_equal(result.time_s[i], alone.time_s)
            np.testing.assert_array_equal(result.placement[i], alone.placement)
            np.testing.assert_array_equal(result.design((i,)).placement, alone.placement)
            assert result.latency_s[i] == alone.latency_s
            assert result.energy_j[i] == pytest.approx(alone.energy_j, rel=CLOSED_FORM)


# -- energy ------------------------------------------------------------------------------------------


def test_energy_counts_what_the_banks_deliver(flat):
    """4096 bytes a run at 1 pJ a byte, and 384 bytes over the interface."""
    chip = with_units(flat, energy_j_per_byte=1e-12).replace({"memory.dram.energy": 5e-11})
    trace = linear(1, 64, 32, dtype="fp16", bias=False)
    parts = simulate(trace, chip).energy_by_level_j()
    assert parts["in_memory"] == near(4096e-12)
    assert parts["dram"] == near(384 * 5e-11)
    unstated = simulate(trace, chip.replace({"in_memory.energy": None})).energy_by_level_j()
    assert unstated["in_memory"] == near(4096 * 5e-11)


def test_energy_of_ops_sums_to_the_whole():
    for trace, _, chip in random_cases(40):
        result = simulate(trace, chip)
        assert result.energy_by_op_j.sum() == pytest.approx(result.energy_j, rel=1e-9)
        assert sum(result.energy_by_level_j().values()) == pytest.approx(result.energy_j, rel=1e-12)


def test_banks_at_full_rate_may_raise_the_peak_power(flat):
    quick, slow = (with_units(flat, bandwidth_bytes_per_s=b, macs_per_s={"fp16": 1e9}) for b in (5e12, 1e3))
    assert quick.peak_power_w > flat.peak_power_w == slow.peak_power_w


# -- what is asked of it -----------------------------------------------------------------------------


def test_sensitivity_and_what_if_see_the_units():
    chip = with_units(preset("hypothetical").replace({"memory.sram.capacity": 1e4}))
    trace = lstm(1, 2048, batch=1, sequence_length=20, dtype="fp16")
    found = sensitivity(trace, chip)
    assert found.elasticity("in_memory.bandwidth")[0] < -0.3
    assert found.free["banks in memory"] > 0.3
    faster = what_if(simulate(trace, chip), {"in_memory.bandwidth": "x2", "in_memory.macs_per_s.fp16": "x2"})
    assert faster.speedup > 1.2


def test_a_search_over_the_units_promises_a_bound_only_one_op_after_another():
    chip = with_units(preset("hypothetical"))
    trace = lstm(2, 512, batch=1, sequence_length=20, dtype="fp16")
    space = {"in_memory.bandwidth": np.geomspace(1e12, 1e14, 200), "matrix.count": range(1, 101)}
    budget = {"peak_power_w": 400}
    proved = tune(trace, chip, space, minimise="latency_s", subject_to=budget, evaluations=4000)
    assert proved.evidence.bound is not None
    beside = chip.replace({"abilities.concurrent_ops": 4})
    unproved = tune(trace, beside, space, minimise="latency_s", subject_to=budget, evaluations=4000)
    assert unproved.evidence.bound is None


def test_tables_and_exports_say_where_ops_run():
    chip = with_units(preset("hypothetical").replace({"memory.sram.capacity": 1e4}))
    result = simulate(lstm(1, 2048, batch=1, sequence_length=20, dtype="fp16"), chip)
    assert "where" in op_table(result).splitlines()[0]
    assert "read in memory at" in op_table(result)
    assert "1 of 2 ops in memory" in summary_table(result)
    assert result.to_frame().placement.tolist() == ["host", "memory"]
    assert [row["placement"] for row in op_rows(result)] == ["host", "memory"]
    document = result_document(result)
    assert (
        document["summary"]["time_share_in_memory"]
        == result.in_memory_share()
        == result.summary()["time_share_in_memory"]
    )
    assert "where" not in op_table(simulate(linear(1, 8, 8), preset("v100-sxm"))).splitlines()[0]


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "drum"}, r"in_memory\.level: no memory level 'drum'.*'dram'"),
        ({"level": "l1"}, r"in_memory\.level must be a level of the chip"),
        ({"level": 3}, r"in_memory\.level must be a name"),
        ({"bandwidth_bytes_per_s": 0}, r"in_memory\.bandwidth_bytes_per_s must be above 0"),
        ({"vectors_per_pass": 1.5}, r"in_memory\.vectors_per_pass must be a whole number"),
        ({"macs_per_s": {"fp17": 1e9}}, r"in_memory\.macs_per_s: unknown element type 'fp17'"),
        ({"macs_per_s": {}}, r"in_memory\.macs_per_s must map"),
        ({"command_s": -1}, r"in_memory\.command_s must be at least 0"),
        ({"bandwith": 1}, r"unknown field 'in_memory\.bandwith'"),
    ],
)
def test_bad_units_are_refused(blocked, changes, message):
    with pytest.raises(AcceleratorError, match=message):
        with_units(blocked, **changes)


def test_a_chip_without_units_has_no_such_fields(blocked):
    with pytest.raises(AcceleratorError, match=r"unknown field 'in_memory\.bandwidth'"):
        blocked.replace({"in_memory.bandwidth": 1e12})
    with pytest.raises(AcceleratorError, match="level"):
        dataclasses.replace(blocked, memory={"in_memory": blocked.memory["dram"]})


def test_the_command_line_takes_a_level_by_name():
    chip, changed = requests.chip("hypothetical-pim", [("in_memory.level", "sram")])
    assert chip.in_memory_level == changed["in_memory.level"] == "sram"
    with pytest.raises(AcceleratorError, match=r"no memory level 'drum'.*did you mean 'dram'"):
        requests.chip("hypothetical-pim", [("in_memory.level", "drum")])


def test_a_file_states_every_number_of_the_units(tmp_path):
    entry = '{ value = 1e13, source = "assumed: a test", basis = "assumed" }'
    body = (ROOT / "simulator/presets/hypothetical.toml").read_text(encoding="utf-8")
    path = tmp_path / "chip.toml"
    path.write_text(f"{body}\n[in_memory]\nbandwidth_bytes_per_s = {entry}\n", encoding="utf-8")
    with pytest.raises(AcceleratorError, match=r"in_memory\.sustained is missing"):
        load_accelerator(path)
