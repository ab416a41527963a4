"""A device left out of the fit: nothing of it, nor of another board of its chip, reaches its prediction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import CLOSED_FORM

from reports import zero_shot
from reports.arguments import ReportError
from reports.zero_shot import OUTER, chip_of, is_discrete, leave_one_out, others_of, typical, with_constants
from simulator import preset
from simulator.accelerator import Citation
from simulator.calibrate import predict
from workloads.measured import measurements

DEVICES = ("v100-pcie", "v100-sxm", "t4", "a100-sxm-80gb")


def rows(devices=DEVICES):
    sizes = (64, 500, 4096)
    return measurements(
        [
            {"op": "matmul", "m": s, "n": s, "k": s, "time_s": 1e-3, "device": d, "harness": "eager"}
            for d in devices
            for s in sizes
        ]
    )


CONSTANTS = {
    "v100-pcie": {"matrix.sustained": 0.5, f"{OUTER}.sustained": 0.6, "matrix.max_split": 8},
    "v100-sxm": {"matrix.sustained": 0.1, f"{OUTER}.sustained": 0.1, "matrix.max_split": 1},
    "t4": {"matrix.sustained": 0.8, f"{OUTER}.sustained": 0.9, "matrix.max_split": 4},
    "a100-sxm-80gb": {"matrix.sustained": 0.2, "matrix.max_split": 4},
}
CALLS = {"v100-pcie": {"eager": 1e-5}, "t4": {"eager": 4e-5, "other": 1.0}, "a100-sxm-80gb": {}}


def chips():
    return {name: preset(name, calibrated=False) for name in DEVICES}


def test_typical_is_the_geometric_mean_or_the_most_common():
    found = typical([{"latency.launch_s": 2e-6}, {"latency.launch_s": 8e-6, "vector.sustained": 0.3}])
    assert found["latency.launch_s"] == pytest.approx(4e-6)
    assert found["vector.sustained"] == pytest.approx(0.3)
    assert typical([{"matrix.tile_m": v} for v in (32, 64, 64)]) == {"matrix.tile_m": 64}
    assert typical([{"abilities.skips_masked": v} for v in (True, False, True)]) == {"abilities.skips_masked": True}
    assert typical([]) == {}
    assert typical([{"matrix.clock_hz": 1e9}]) == {}  # of one device alone


@pytest.mark.parametrize(
    ("path", "discrete"),
    [
        ("matrix.tile_m", True),
        ("matrix.max_split", True),
        ("matrix.dataflow", True),
        ("abilities.fuses_elementwise", True),
        ("memory.OUTER.keeps_weights", True),
        ("matrix.sustained", False),
        ("memory.OUTER.sustained", False),
        ("matrix.macs_per_cycle.fp16", False),
        ("latency.launch_s", False),
    ],
)
def test_discrete_fields_are_told_from_numbers(path, discrete):
    assert is_discrete(path) == discrete


def test_boards_of_one_chip_are_left_out_together():
    assert chip_of("a100-pcie-40gb") == chip_of("a100-sxm-80gb") == "a100"
    assert others_of("v100-pcie", chips(), CONSTANTS) == ["t4", "a100-sxm-80gb"]
    assert others_of("t4", chips(), CONSTANTS) == ["v100-pcie", "v100-sxm", "a100-sxm-80gb"]


def test_another_family_is_no_help():
    known = chips() | {"tpu-v4": preset("tpu-v4")}
    assert "tpu-v4" not in others_of("t4", known, CONSTANTS | {"tpu-v4": {"matrix.sustained": 1.0}})


def test_a_device_takes_the_constants_of_the_others():
    m = rows()
    v = leave_one_out(m, chips(), CONSTANTS, CALLS)
    guessed = v.chips["v100-pcie"]
    assert guessed.matrix.sustained == pytest.approx(np.sqrt(0.8 * 0.2))
    assert guessed.outer.sustained == preset("v100-pcie", calibrated=False).outer.sustained  # measured, by others
    assert guessed.matrix.max_split == 4
    assert guessed.peak_flops_per_s("fp32") == preset("v100-pcie").peak_flops_per_s("fp32")
    on = m.device == "v100-pcie"
    expected = predict(guessed, m.select(on), {"eager": 4e-5})
    np.testing.assert_allclose(v.predicted_s[on], expected, rtol=CLOSED_FORM)
    assert v.judged.all()


def test_its_own_constants_change_nothing():
    """Also not through another board of its chip."""
    m = rows()
    other = CONSTANTS | {"v100-pcie": {"matrix.sustained": 0.01}, "v100-sxm": {"matrix.sustained": 0.9}}
    calls = CALLS | {"v100-pcie": {"eager": 5.0}, "v100-sxm": {"eager": 7.0}}
    first, second = leave_one_out(m, chips(), CONSTANTS, CALLS), leave_one_out(m, chips(), other, calls)
    on = first.where(device="v100-pcie")
    np.testing.assert_array_equal(first.predicted_s[on], second.predicted_s[on])
    assert not np.array_equal(first.predicted_s[~on], second.predicted_s[~on])


def test_a_harness_nobody_else_has_adds_nothing():
    m = rows(("a100-sxm-80gb", "t4"))
    v = leave_one_out(m, chips(), CONSTANTS, {"a100-sxm-80gb": {"eager": 1.0}})
    on = m.device == "a100-sxm-80gb"
    assert v.predicted_s[on] == pytest.approx(predict(v.chips["a100-sxm-80gb"], m.select(on)))


def test_devices_without_constants_are_not_predicted():
    v = leave_one_out(rows((*DEVICES, "m40")), chips(), CONSTANTS, CALLS)
    assert set(v.labels["device"].tolist()) == set(DEVICES)


def test_one_chip_alone_cannot_be_left_out():
    only = {name: CONSTANTS[name] for name in ("v100-pcie", "v100-sxm")}
    with pytest.raises(ReportError, match="at least two chips of a family"):
        leave_one_out(rows(), chips(), only, {})


def test_constants_replace_assumptions_and_nothing_better(blocked):
    known = {"matrix.sustained": Citation("a paper", "measured"), "latency.launch_s": Citation("none", "assumed")}
    chip = dataclasses.replace(blocked, citations=known)
    made = with_constants(chip, {f"{OUTER}.sustained": 0.42, "matrix.sustained": 0.1, "latency.launch_s": 3e-6})
    assert made.outer.sustained == 0.42
    assert made.latency.launch_s == 3e-6
    assert made.matrix.sustained == chip.matrix.sustained


def test_calibrated_presets_are_the_default(monkeypatch):
    """Constants of all shipped devices, whichever rows are asked for."""
    own = {"v100-pcie": 0.5, "t4": 0.8, "a100-sxm-80gb": 0.2}
    monkeypatch.setattr(
        zero_shot, "fitted_constants", lambda c: {"matrix.sustained": own[c.name]} if c.name in own else {}
    )
    monkeypatch.setattr(zero_shot, "call_times", lambda name: CALLS.get(name, {}))
    v = leave_one_out(rows(("t4",)))
    assert v.chips["t4"].matrix.sustained == pytest.approx(np.sqrt(0.5 * 0.2))
    assert v.judged.all()
    with pytest.raises(ReportError, match="none of these rows is of a calibrated chip"):
        leave_one_out(rows(("m40",)))
