"""Elasticities against finite differences of simulations, at kinks worked by hand; free resources; what-if."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator import preset, sensitivity, simulate, what_if
from simulator.axes import is_whole
from simulator.metrics import DesignSpaceError
from simulator.sensitivity import free_resources
from workloads import Trace, elementwise, lstm, network

STEP = 1e-6


@pytest.fixture
def copy_and_add(flat) -> Trace:
    """1000 additions on 500 bytes: on `flat` a microsecond of arithmetic and a microsecond of memory."""
    row = {"layer": "a", "op": "add", "kind": "elementwise", "vector_flops": 1000, "dtype": "fp16"}
    return Trace.from_rows([row | {"input_bytes": 300, "output_bytes": 200}], name="add")


def test_a_kink_answers_to_less_and_not_to_more(copy_and_add, flat):
    """Both bounds are equal: a slower one costs all of it, a faster one gains nothing."""
    found = sensitivity(copy_and_add, flat)
    assert found.latency_s == pytest.approx(1e-6, rel=1e-12)
    for path in ("memory.dram.bandwidth", "vector.clock", "vector.flops_per_cycle", "vector.sustained"):
        less, more = found.elasticity(path)
        assert less == pytest.approx(-1, abs=1e-9), path
        assert math.isnan(more) if path == "vector.sustained" else more == 0
    assert "memory.dram.bandwidth_bytes_per_s" in found.kinks
    assert found.elasticity("vector.special_per_cycle") == (0, 0)
    assert math.isnan(found.elasticity("vector.count")[0])  # there is no chip without units
    assert found.elasticity("vector.count")[1] == 0
    assert found.elasticity("latency.launch") == (0, 0)  # of nothing a share more is nothing


def test_off_the_kink_both_sides_agree(copy_and_add, flat):
    found = sensitivity(copy_and_add, flat.replace({"memory.dram.bandwidth": 2.5e8}))
    assert found.elasticity("memory.dram.bandwidth") == pytest.approx((-1, -1), abs=1e-9)
    assert found.elasticity("vector.clock") == (0, 0)
    assert "memory.dram.bandwidth_bytes_per_s" not in found.kinks


def test_a_sum_divides_its_elasticity(copy_and_add, flat):
    """A launch of 3 us before a microsecond of memory: a quarter answers to bandwidth, three to the launch."""
    chip = flat.replace({"memory.dram.bandwidth": 5e8 / 1.0, "vector.clock": 2e9, "latency.launch": 3e-6})
    found = sensitivity(copy_and_add, chip)
    assert found.elasticity("memory.dram.bandwidth") == pytest.approx((-0.25, -0.25), abs=STEP)
    assert found.elasticity("latency.launch") == pytest.approx((0.75, 0.75), abs=STEP)
    assert found.free["launch"] == pytest.approx(0.75)
    assert found.free["vector units"] == 0
    assert found.free["dram bandwidth"] == pytest.approx(0.125)  # half a microsecond of arithmetic stays


def test_whole_numbers_move_by_one(flat):
    """Sixteen products on 3 units take 6 waves; on 2, 8; on 4, 4."""
    row = {"layer": "a", "op": "product", "kind": "matmul", "batch": 16, "m": 1, "n": 1, "k": 1000, "dtype": "fp16"}
    row |= {"matrix_flops": 32_000, "input_bytes": 2, "output_bytes": 2}
    chip = flat.replace({"matrix.count": 3, "memory.dram.bandwidth": 1e15, "matrix.feed_bytes_per_cycle": 1e9})
    found = sensitivity(Trace.from_rows([row]), chip)
    less, more = found.elasticity("matrix.count")
    assert less == pytest.approx(math.log(8 / 6) / math.log(2 / 3), rel=1e-6)
    assert more == pytest.approx(math.log(4 / 6) / math.log(4 / 3), rel=1e-6)


@pytest.mark.parametrize("chip", ["v100-sxm", "tpu-v1", "epyc-7763"])
@pytest.mark.parametrize("name", ["lstm-zaremba-large", "bert-base"])
def test_every_field_equals_two_simulations(chip, name):
    """The slow twin: each field moved alone, each in a simulation of its own."""
    chip = preset(chip)
    trace = network(name, dtype="int8" if chip.name == "tpu-v1" else "fp32" if chip.family == "cpu" else "fp16")
    found = sensitivity(trace, chip)
    now = simulate(trace, chip)
    assert found.latency_s == now.latency_s
    assert len(found.fields) > 25
    for row, (path, value) in enumerate(zip(found.fields, found.values, strict=True)):
        for side, step in (("less", -1), ("more", 1)):
            got, by_op = getattr(found, side)[row], getattr(found, f"op_{side}")[row]
            if value == 0:
                assert got == 0
                continue
            moved = value + step if is_whole(path) else value * (1 + step * STEP)
            try:
                then = simulate(trace, chip.replace({path: moved}))
            except ValueError:
                assert np.isnan(got)
                assert np.isnan(by_op).all()
                continue
            expected = math.log(then.latency_s / now.latency_s) / math.log(moved / value)
            assert got == pytest.approx(expected, abs=1e-9), path
            ratio = np.log(then.time_s / now.time_s) / math.log(moved / value)
            np.testing.assert_allclose(by_op, ratio, atol=1e-9, err_msg=path)


def test_ops_are_named_and_tabled(trace, blocked):
    found = sensitivity(trace, blocked)
    assert found.ops == ("lstm.0: input product", "lstm.0: recurrent product", "lstm.0: gates", "head: softmax")
    assert found.op_less.shape == found.op_more.shape == (len(found.fields), 4)
    frame = found.to_frame()
    assert set(frame.columns) == {"field", "value", "less", "more"}
    assert len(frame) == len(found.fields)
    assert (np.diff(np.fmax(frame["less"].abs(), frame["more"].abs()).fillna(0)) <= 0).all()
    ops = found.ops_frame()
    assert len(ops) == 4 * len(found.fields)
    assert ops.loc[("latency.launch_s", "head: softmax"), "less"] == pytest.approx(
        found.op_less[found.fields.index("latency.launch_s"), 3]
    )


def test_a_total_is_the_time_weighted_mean_of_its_ops(trace, blocked):
    """Ops one after another: d log(sum) is the mean of the ops' d log, weighted by time."""
    found, result = sensitivity(trace, blocked), simulate(trace, blocked)
    share = result.total_s / result.serial_s
    for side in ("less", "more"):
        op = getattr(found, f"op_{side}")
        whole = np.array([is_whole(path) for path in found.fields])
        np.testing.assert_allclose((op @ share)[~whole], getattr(found, side)[~whole], atol=1e-5)


def test_of_a_mix_the_weighted_sum_counts(trace, blocked):
    other = lstm(1, 32, sequence_length=4, dtype="fp16")
    mixed = sensitivity({"tiny": (trace, 2.0), "other": (other, 1.0)}, blocked)
    one, two = sensitivity(trace, blocked), sensitivity(other, blocked)
    weights = np.array([2 * one.latency_s, two.latency_s]) / (2 * one.latency_s + two.latency_s)
    path = "memory.dram.bandwidth"
    expected = weights[0] * one.elasticity(path)[0] + weights[1] * two.elasticity(path)[0]
    assert mixed.elasticity(path)[0] == pytest.approx(expected, abs=1e-5)
    assert mixed.latency_s == pytest.approx(2 * one.latency_s + two.latency_s)
    assert mixed.network == "tiny + other"
    assert mixed.ops[0] == "tiny: lstm.0: input product"


def test_one_call_simulates_everything(trace, blocked, monkeypatch):
    import sys

    module, calls = sys.modules["simulator.sensitivity"], []
    real = module.simulate
    monkeypatch.setattr(module, "simulate", lambda trace, space: calls.append(space.designs) or real(trace, space))
    found = sensitivity(trace, blocked)
    assert calls == [1 + 2 * len(found.fields) + len(found.free)]


@pytest.mark.parametrize("chip", ["v100-sxm", "tpu-v4"])
def test_a_free_resource_is_one_that_costs_nothing(chip):
    chip = preset(chip)
    trace = network("lstm-zaremba-large", dtype="bf16" if "bf16" in chip.dtypes else "fp16")
    found = sensitivity(trace, chip)
    assert all(0 <= share < 1 for share in found.free.values())
    assert {f"{level} bandwidth" for level in chip.memory} <= set(found.free)
    assert {"matrix units", "operand feed", "launch", "dependent steps", "memory latency"} <= set(found.free)
    for resource, changes in free_resources(chip).items():
        then = simulate(trace, chip.replace(changes)).latency_s
        assert found.free[resource] == pytest.approx(1 - then / found.latency_s, abs=1e-12)


def test_only_one_design_and_known_fields(trace, blocked):
    with pytest.raises(ValueError, match="spans 2 designs"):
        sensitivity(trace, blocked.grid({"matrix.clock": [1e9, 2e9]}))
    with pytest.raises(ValueError, match=r"did you mean 'memory\.dram\.bandwidth'"):
        sensitivity(trace, blocked).elasticity("memory.dram.bandwith")
    with pytest.raises(ValueError, match=r"matrix\.dataflow is not a number"):
        sensitivity(trace, blocked).elasticity("matrix.dataflow")
    with pytest.raises(ValueError, match="is a function of the batch"):
        sensitivity(lambda batch: trace, blocked)


# -- what if -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "factor"), [("x2", 2), ("×2", 2), ("*0.5", 0.5), ("/4", 0.25), ("+10%", 1.1), ("-25 %", 0.75)]
)
def test_what_if_relative(trace, blocked, text, factor):
    found = what_if(simulate(trace, blocked), {"memory.dram.bandwidth": text})
    expected = simulate(trace, blocked.replace({"memory.dram.bandwidth": 1e10 * factor}))
    assert found.after.latency_s == pytest.approx(expected.latency_s, rel=1e-12)
    assert found.speedup == found.before.latency_s / found.after.latency_s
    assert found.changes["memory.dram.bandwidth_bytes_per_s"] == pytest.approx(1e10 * factor)


def test_what_if_absolute_and_in_words(trace, blocked):
    found = what_if(simulate(trace, blocked), {"matrix.count": 8, "abilities.fuses_elementwise": True})
    assert found.after.accelerator.matrix.count == 8
    assert found.after.accelerator.abilities.fuses_elementwise
    assert "times as fast; mostly bound by" in repr(found)
    assert "matrix.count = 8" in repr(found)


def test_what_if_of_a_space(trace, blocked):
    space = simulate(trace, blocked.grid({"memory.dram.bandwidth": [1e9, 1e10]}))
    found = what_if(space, {"memory.dram.bandwidth": "x10"})
    assert found.after.accelerator.memory["dram"].bandwidth_bytes_per_s.tolist() == [1e10, 1e11]
    assert found.speedup.shape == (2,)
    assert "times as fast" in repr(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "a mapping of fields to values"),
        (3, "a mapping of fields to values"),
        ({"memory.dram.bandwith": "x2"}, "did you mean"),
        ({"memory.dram.bandwidth": "double"}, "is changed by a number, or by text such as 'x2'"),
        ({"memory.dram.bandwidth": "/0"}, "is changed by a number"),
        ({"memory.dram.bandwidth": "x1.2.3"}, "is changed by a number"),
        ({"abilities.fuses_elementwise": "x2"}, "has no number to change"),
        ({"package.area": "x2"}, "has no number to change"),
        ({"matrix.count": "x1.1"}, "must be a whole number"),
        ({"memory.dram.bandwidth": "-100%"}, "must be above 0"),
        ({"matrix.clock": 1e9, "matrix.clock_hz": 2e9}, "is changed twice"),
    ],
)
def test_bad_what_ifs_are_refused(trace, blocked, changes, said):
    with pytest.raises(ValueError, match=said):
        what_if(simulate(trace, blocked), changes)


def test_fusion_cannot_be_undone(trace, systolic):
    with pytest.raises(DesignSpaceError, match="fused already"):
        what_if(simulate(trace, systolic), {"abilities.fuses_elementwise": False})
    with pytest.raises(ValueError, match="a Result is expected"):
        what_if(trace, {"matrix.count": 2})


def test_elementwise_work_has_no_matrix_elasticity(blocked):
    found = sensitivity(elementwise(1000, dtype="fp16"), blocked)
    assert found.elasticity("matrix.clock") == (0, 0)
