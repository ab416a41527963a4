"""Predicted against measured: errors worked by hand, the roofline against plain loops, rows fitted and rows judged."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from conftest import CLOSED_FORM

from reports.arguments import ReportError
from reports.shipped import chosen, named, sets, shipped, tpu_v1
from reports.validation import Validation, accuracy, roofline_s, validate, was_fitted
from simulator import preset, presets, simulate
from simulator.accelerator import Citation, measured_presets
from simulator.calibrate import held_out, predict, predict_interval
from workloads import TraceError, network
from workloads.measured import measurements

FLOAT = 4  # bytes of fp32


def product(m: int, n: int, k: int, time_s: float, **more) -> dict:
    return {"op": "matmul", "m": m, "n": n, "k": k, "time_s": time_s, "device": "flat"} | more


def made(measured, predicted, fitted=None, kind=None, **more) -> Validation:
    """A validation of bare numbers: the roofline at half of what was measured."""
    measured, predicted = np.array(measured, float), np.array(predicted, float)
    count = len(measured)
    labels = dict.fromkeys(
        ("device", "set", "harness", "op", "dtype", "phase", "network", "shape"), np.full(count, "x")
    )
    labels["kind"] = np.array(kind or ["matmul"] * count)
    nothing = np.full(count, np.nan)
    return Validation(
        labels=labels,
        measured_s=measured,
        predicted_s=predicted,
        low_s=more.get("low", nothing),
        high_s=more.get("high", nothing),
        roofline_s=measured / 2,
        roofline_layer_s=measured / 4,
        fitted=np.array(fitted if fitted is not None else [False] * count),
        missing=np.where(np.isnan(predicted), "no preset", ""),
    )


# -- errors by hand ----------------------------------------------------------------------------------


def test_errors_worked_by_hand():
    """Predicted / measured of 1.1, 0.8, 2, 1, 1.25: errors 0.1, 0.2, 1, 0, 0.25; the sixth was fitted, 0.5 off."""
    v = made([1.0, 10.0, 1.0, 4.0, 8.0, 2.0], [1.1, 8.0, 2.0, 4.0, 10.0, 3.0], [False] * 5 + [True])
    found = accuracy(v, np.ones(6, bool))
    assert (found.fitted, found.judged) == (1, 5)
    assert found.bias == pytest.approx(0.1)  # the middle one of the ratios
    assert found.median == pytest.approx(0.2)
    assert found.mean == pytest.approx((0.1 + 0.2 + 1 + 0 + 0.25) / 5)
    assert found.p90 == pytest.approx(0.25 + 0.6 * (1 - 0.25))  # 0.9 of the way from the first to the fifth: 3.6
    assert found.worst == pytest.approx(1.0)
    assert found.fitted_mean == pytest.approx(0.5)
    assert found.roofline_mean == pytest.approx(0.5)
    assert found.roofline_layer_mean == pytest.approx(0.75)
    assert np.isnan(found.coverage)


def test_the_bias_of_two_is_their_geometric_mean():
    assert accuracy(made([1, 1], [4, 1]), np.ones(2, bool)).bias == pytest.approx(1.0)  # sqrt(4 1) - 1


def test_no_judged_row_has_no_error():
    found = accuracy(made([1.0], [2.0], [True]), np.ones(1, bool))
    assert (found.judged, found.fitted_mean) == (0, 1.0)
    assert np.isnan([found.bias, found.median, found.mean, found.p90, found.worst, found.roofline_mean]).all()


def test_coverage_counts_rows_within_their_interval():
    v = made([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 1], low=np.array([0.5, 2.5, 3.0, 1.0]), high=np.array([2, 3, 3.5, 4.0]))
    assert accuracy(v, np.ones(4, bool)).coverage == 0.75
    assert accuracy(v, np.array([False, True, False, False])).coverage == 0.0


def test_rows_without_prediction_are_neither_judged_nor_fitted():
    v = made([1.0, 1.0], [np.nan, 1.0])
    assert v.judged.tolist() == [False, True]
    assert accuracy(v, np.ones(2, bool)).judged == 1


def test_rows_are_picked_and_grouped_by_label():
    v = made([1.0, 2.0, 3.0], [1, 2, 3], kind=["matmul", "softmax", "matmul"])
    assert v.where(kind="matmul").tolist() == [True, False, True]
    assert v.where(kind=["matmul", "softmax"]).all()
    assert [(key, mask.tolist()) for key, mask in v.lines(("kind",)).items()] == [
        (("matmul",), [True, False, True]),
        (("softmax",), [False, True, False]),
    ]


# -- predictions -------------------------------------------------------------------------------------


def test_predictions_are_those_of_the_chip_and_the_harness(flat):
    m = measurements([product(2, 3, 4, 1e-6), product(8, 8, 8, 1e-6, harness="slow"), product(5, 1, 1, 1e-6)])
    v = validate(m, {"flat": flat}, {"flat": {"slow": 1e-3}})
    alone = predict(flat, m)
    np.testing.assert_allclose(v.predicted_s, alone + np.array([0, 1e-3, 0]), rtol=CLOSED_FORM)
    assert np.isnan(v.low_s).all()


def test_devices_do_not_mix(flat, blocked):
    records = [product(2, 3, 4, 1e-6), product(2, 3, 4, 1e-6, device="blocked"), product(7, 7, 7, 1e-6)]
    m = measurements(records)
    v = validate(m, {"flat": flat, "blocked": blocked}, {})
    for row, chip in enumerate((flat, blocked, flat)):
        assert v.predicted_s[row] == pytest.approx(predict(chip, m)[row], rel=CLOSED_FORM)


def test_what_cannot_be_predicted_says_why(flat):
    records = [product(2, 2, 2, 1e-6, device="unheard-of"), product(2, 2, 2, 1e-6, dtype="fp8"), product(2, 2, 2, 1e-6)]
    v = validate(measurements(records), {"flat": flat}, {})
    assert v.missing.tolist() == ["no preset", "no fp8 on this chip", ""]
    assert np.isnan(v.predicted_s).tolist() == [True, True, False]
    assert np.isnan(v.roofline_s).tolist() == [True, True, False]


def test_vector_work_needs_no_type_of_the_matrix_units(flat):
    m = measurements([{"op": "add", "rows": 4, "columns": 4, "dtype": "bf16", "device": "flat", "time_s": 1}])
    assert validate(m, {"flat": flat}, {}).missing.tolist() == [""]


# -- the roofline ------------------------------------------------------------------------------------


def test_roofline_of_a_product_by_hand(flat):
    """2 2 3 4 = 48 FLOP at 2 GFLOP/s: 24 ns; (8 + 12 + 6) 4 bytes at 0.5 GB/s: 208 ns."""
    step, layer = roofline_s(flat, measurements([product(2, 3, 4, 1.0)]))
    assert step == pytest.approx([208e-9], rel=CLOSED_FORM)
    assert layer == pytest.approx(step, rel=CLOSED_FORM)
    # 2 100^3 FLOP: 1 ms; 3 100^2 4 bytes: 0.24 ms
    step, _ = roofline_s(flat, measurements([product(100, 100, 100, 1.0)]))
    assert step == pytest.approx([1e-3], rel=CLOSED_FORM)


def test_roofline_takes_the_boost_clock_of_a_chip_that_does_not_hold_it(flat):
    m = measurements([product(100, 100, 100, 1.0)])
    held = flat.replace({"matrix.clock_hz": 0.1e9})
    assert roofline_s(held, m)[0] == pytest.approx(roofline_s(flat, m)[0], rel=CLOSED_FORM)
    assert predict(held, m) > predict(flat, m)


def test_roofline_reads_recurrent_weights_each_step_or_once(flat):
    """A plain RNN of 8 units, 16 steps of one sequence: W of 8 x 8, skip-input. Bytes bind at 0.5 GB/s."""
    m = measurements([{"op": "rnn", "hidden": 8, "batch": 1, "timesteps": 16, "time_s": 1.0, "device": "flat"}])
    step, layer = roofline_s(flat, m)
    weights_s = m.trace.weight_bytes.max() / 5e8
    assert m.trace.weight_bytes.max() >= 8 * 8 * FLOAT
    assert step[0] >= 16 * weights_s
    assert layer[0] < step[0] / 4
    twice = measurements([{"op": "rnn", "hidden": 8, "batch": 1, "timesteps": 32, "time_s": 1.0, "device": "flat"}])
    assert roofline_s(flat, twice)[0] == pytest.approx(2 * step, rel=CLOSED_FORM)


def slow_roofline_s(chip, m, once: bool) -> list[float]:
    """The twin: row by row, from the words of the docstring."""
    times = []
    ends = [*m.first[1:].tolist(), len(m.trace)]
    for first, end in zip(m.first.tolist(), ends, strict=True):
        total = 0.0
        for row in list(m.trace.rows())[first:end]:
            boost = max(chip.matrix.clock_hz, chip.vector.clock_hz)
            if row["matrix_flops"]:
                rate = 2 * chip.matrix.count * chip.matrix.macs_per_cycle[row["dtype"]] * boost
                compute = row["matrix_flops"] / rate
            else:
                compute = (row["vector_flops"] + row["special_ops"]) / chip.vector_flops_per_s
            kept = row["weight_bytes"] + row["state_bytes"]
            streamed = row["input_bytes"] + row["output_bytes"] + row["cache_bytes"]
            band = chip.outer.bandwidth_bytes_per_s
            if once:
                runs = row["repeats"]
                moved = runs * streamed + runs // row["serial_steps"] * kept
                total += max(runs * compute, moved / band)
            else:
                total += row["repeats"] * max(compute, (kept + streamed) / band)
        times.append(total)
    return times


@pytest.mark.parametrize("device", ["v100-sxm", "a100-pcie-40gb", "t4", "tpu-v1"])
def test_roofline_equals_the_loop(device):
    m = shipped().select(np.flatnonzero(shipped().device == device)[::37])
    step, layer = roofline_s(preset(device), m)
    np.testing.assert_allclose(step, slow_roofline_s(preset(device), m, once=False), rtol=CLOSED_FORM)
    np.testing.assert_allclose(layer, slow_roofline_s(preset(device), m, once=True), rtol=CLOSED_FORM)


# -- fitted and judged -------------------------------------------------------------------------------


def test_the_split_is_disjoint_by_shape():
    """No shape of a device, set, op, type and network has rows on both sides, and both sides have rows."""
    m = shipped()
    judged = held_out(m)
    names = ("device", "set", "op", "dtype", "network", "shape")
    keys = list(zip(*(m.labels[name].tolist() for name in names), strict=True))
    fitted_keys = {key for key, row in zip(keys, judged, strict=True) if not row}
    judged_keys = {key for key, row in zip(keys, judged, strict=True) if row}
    assert not fitted_keys & judged_keys
    assert 0.2 < judged.mean() < 0.45


def fitted_to(chip, source: str):
    return dataclasses.replace(chip, citations={"matrix.sustained": Citation(source, "measured")})


def test_rows_of_the_sets_a_constant_cites_are_fitted_unless_held_out(flat):
    m = measurements([product(s, s, s, 1e-6, set=name) for name in ("one", "other-one") for s in range(1, 10)])
    assert not was_fitted(m, {"flat": flat}).any()
    assert not was_fitted(m, {"flat": fitted_to(flat, "a microbenchmark of one")}).any()
    assert not was_fitted(m, {"another": fitted_to(flat, "fitted to 6 rows of one")}).any()
    seen = was_fitted(m, {"flat": fitted_to(flat, "fitted to 6 rows of one, two (reports/measured)")})
    assert seen.tolist() == (~held_out(m) & (m.set == "one")).tolist()
    assert seen.sum() == 6
    v = validate(m, {"flat": fitted_to(flat, "fitted to 12 rows of one, other-one")}, {})
    assert not (v.judged & v.fitted).any()
    assert (v.judged | v.fitted).all()
    assert v.fitted.sum() == 12


def test_shipped_constants_cite_the_sets_they_were_fitted_to():
    m = shipped()
    for name in measured_presets():
        rows = was_fitted(m, {name: preset(name)})
        counts = {
            int(n) for n in re.findall(r"fitted to (\d+)", " ".join(c.source for c in preset(name).citations.values()))
        }
        assert {int(rows.sum())} == counts, name


def test_an_interval_is_of_a_calibrated_chip_only(flat):
    m = measurements([product(64, 64, 64, 1e-6, device="t4"), product(64, 64, 64, 1e-6)])
    v = validate(m, {"flat": flat, "t4": preset("t4")}, {})
    assert np.isnan([v.low_s[1], v.high_s[1]]).all()
    low, high = predict_interval(preset("t4"), m.select([0]))
    assert (v.low_s[0], v.high_s[0]) == (low[0], high[0])
    assert v.low_s[0] < v.predicted_s[0] < v.high_s[0]


def test_every_shipped_row_is_judged_fitted_or_says_why_not():
    v = validate(shipped())
    assert len(v) == len(shipped()) > 20_000
    assert ((v.missing != "") ^ v.judged ^ v.fitted).all()
    without = set(v.labels["device"][v.missing != ""].tolist())
    assert without == set(v.labels["device"].tolist()) - set(presets())
    assert np.isfinite(v.predicted_s[v.missing == ""]).all()
    assert (v.predicted_s[v.missing == ""] > 0).all()


# -- the measurements that ship ----------------------------------------------------------------------


def test_tpu_networks_are_whole_simulations():
    m = tpu_v1()
    assert m.network.tolist() == ["MLP0", "MLP1", "LSTM0", "LSTM1", "CNN0", "CNN1"]
    for name, predicted, seconds in zip(m.network, predict(preset("tpu-v1"), m), m.time_s, strict=True):
        trace = network(f"tpu-v1-{name.lower()}")
        assert predicted == pytest.approx(simulate(trace, preset("tpu-v1")).latency_s, rel=CLOSED_FORM)
        assert trace.total_matrix_flops / seconds < 92e12  # the peak of the chip


def test_sets_are_chosen_by_name_and_file(tmp_path):
    assert {"neusight-products", "vidur-decode", "deepbench-train", "tpu-v1"} <= set(sets())
    assert set(chosen(["vidur-decode"]).set.tolist()) == {"vidur-decode"}
    own = tmp_path / "own.csv"
    own.write_text("op,m,n,k,time_us\nmatmul,2,3,4,7\n", encoding="utf-8")
    both = chosen(["vidur-decode", str(own)])
    assert len(both) == len(chosen(["vidur-decode"])) + 1
    assert both.time_s[-1] == pytest.approx(7e-6)
    assert len(chosen()) == len(shipped())


def test_an_unknown_set_names_the_nearest(tmp_path):
    with pytest.raises(ReportError, match=r"unknown set 'vidur-decod' .did you mean 'vidur-decode'"):
        chosen(["vidur-decod"])
    with pytest.raises(TraceError, match="cannot be read"):
        chosen([str(tmp_path / "none.csv")])


def test_rows_without_a_device_take_the_one_named():
    m = measurements([{"op": "add", "rows": 1, "columns": 1, "time_s": 1}, product(1, 1, 1, 1.0)])
    assert named(m, "t4").device.tolist() == ["t4", "flat"]
