"""Calibration: constants that made the times are found again, also through noise; what cannot be told is said."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from reports.shipped import shipped
from simulator import preset
from simulator.accelerator import AcceleratorError
from simulator.calibrate import CalibrationError, calibrate, held_out, predict, predict_interval
from workloads.measured import measurements

pytest.importorskip("scipy", reason="needs scipy: pip install 'rooftrace[calibrate]'")

TRUE = {"matrix.sustained": 0.7, "memory.dram.sustained": 0.55, "matrix.operand_macs": 4.0}
CALL_S = 3e-5


@pytest.fixture(scope="module")
def chip():
    return preset("v100-pcie", calibrated=False)


def timed(chip, count=150, seed=0, **labels):
    """Products and sums of many sizes with the times the model gives on `chip`, plus a call."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        m, n, k = (int(v) for v in np.exp(rng.uniform(np.log(32), np.log(4096), 3)))
        rows.append({"op": "linear", "m": m, "n": n, "k": k, "time_s": 1.0, "harness": "bench"} | labels)
        rows.append({"op": "add", "rows": m * 16, "columns": n, "time_s": 1.0, "harness": "bench"} | labels)
    made = measurements(rows)
    times = predict(chip, made, {"bench": CALL_S})
    return measurements([row | {"time_s": float(t)} for row, t in zip(rows, times, strict=True)])


def test_known_constants_are_recovered(chip):
    found = calibrate(chip, timed(chip.replace(TRUE)), list(TRUE))
    for path, value in TRUE.items():
        assert found.values[path] == pytest.approx(value, rel=0.02), path
    assert found.call_s["bench"] == pytest.approx(CALL_S, rel=0.02)
    assert found.error < 0.005
    assert found.accelerator.citations["matrix.sustained"].basis == "measured"


def test_outliers_and_noise_do_not_pull_the_fit(chip):
    rows = timed(chip.replace(TRUE), count=300)
    rng = np.random.default_rng(1)
    noisy = rows.time_s * np.exp(rng.normal(0, 0.05, len(rows)))
    noisy[rng.random(len(rows)) < 0.1] *= 8.0  # a busy scheduler only ever adds
    found = calibrate(chip, type(rows)(rows.trace, rows.first, noisy, rows.labels), list(TRUE))
    assert found.values["matrix.sustained"] == pytest.approx(0.7, rel=0.08)
    assert found.values["memory.dram.sustained"] == pytest.approx(0.55, rel=0.08)


def test_standard_errors_shrink_with_rows(chip):
    def stderr(count):
        rows = timed(chip.replace(TRUE), count=count)
        noise = np.exp(np.random.default_rng(2).normal(0, 0.05, len(rows)))
        found = calibrate(chip, type(rows)(rows.trace, rows.first, rows.time_s * noise, rows.labels), list(TRUE))
        return found.stderr["memory.dram.sustained"]

    assert stderr(400) < 0.75 * stderr(60)


def test_what_the_data_cannot_tell_keeps_its_value_and_is_said(chip):
    found = calibrate(chip, timed(chip.replace(TRUE)), [*TRUE, "latency.step_s"])  # no recurrence among the rows
    assert found.accelerator.latency.step_s == chip.latency.step_s
    assert any(w.startswith("latency.step_s: the measurements cannot determine it") for w in found.warnings)


def test_the_right_candidate_is_chosen(chip):
    truth = chip.replace({"matrix.tile_k": 128})
    found = calibrate(chip, timed(truth), {"matrix.sustained": (0.1, 1.0), "matrix.tile_k": [16, 128, 512]})
    assert found.values["matrix.tile_k"] == 128


def test_a_wrong_unit_is_suspected(chip):
    rows = timed(chip, count=40)
    found = calibrate(chip, type(rows)(rows.trace, rows.first, rows.time_s * 1e3, rows.labels), ["matrix.sustained"],
                      calls=False)  # fmt: skip
    assert any("is the unit of the times right?" in warning for warning in found.warnings)


def test_too_little_to_fit_is_refused(chip):
    one = [{"op": "linear", "m": 64, "n": 64, "k": 64, "time_s": t} for t in (1e-5, 2e-5, 1.5e-5)]
    with pytest.raises(CalibrationError, match="all measurements are of one shape: linear"):
        calibrate(chip, measurements(one), ["matrix.sustained"])
    two = [one[0], one[1] | {"m": 128}]
    with pytest.raises(CalibrationError, match="2 measurements cannot determine"):
        calibrate(chip, measurements(two), list(TRUE))
    with pytest.raises(CalibrationError, match="one design is calibrated at a time, got 2"):
        calibrate(chip.replace({"matrix.count": [40, 80]}), measurements(two), ["matrix.sustained"])
    with pytest.raises(AcceleratorError, match=r"did you mean 'matrix\.sustained'"):
        calibrate(chip, measurements(two), ["matrix.sustaned"])
    with pytest.raises(AcceleratorError, match="needs element type 'bf16'"):
        calibrate(chip, measurements([row | {"dtype": "bf16"} for row in two]), ["matrix.sustained"], calls=False)


def test_scipy_is_named_when_it_is_missing(chip, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    rows = timed(chip, count=20)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CalibrationError, match=r"rooftrace\[calibrate\]"):
        calibrate(chip, rows, ["matrix.sustained"])


# -- fitted and judged ---------------------------------------------------------------------------------


def test_no_shipped_shape_is_both_fitted_and_judged():
    rows = shipped()
    for device in dict.fromkeys(rows.device.tolist()):
        own = rows.select(rows.device == device)
        judged = held_out(own)
        keys = np.array([f"{s} {d} {shape}" for s, d, shape in zip(own.set, own.dtype, own.shape, strict=True)])
        assert not set(keys[judged]) & set(keys[~judged]), device
        if len(own) > 100:
            assert 0.2 < judged.mean() < 0.45, device


def test_every_range_of_sizes_is_on_both_sides_and_nothing_is_left_to_chance():
    rows = measurements([{"op": "linear", "m": m, "n": 8, "k": 8, "time_s": 1e-5} for m in range(1, 91)])
    judged = held_out(rows)
    assert judged.tolist() == [m % 3 == 2 for m in range(1, 91)]
    backwards = held_out(rows.select(np.arange(90)[::-1]))
    assert backwards.tolist() == judged[::-1].tolist()


# -- intervals -----------------------------------------------------------------------------------------

#: Kinds of rows -> share of judged rows within their 80 % interval, all fitted sets of all chips together.
HONEST = (0.72, 0.88)


def test_intervals_cover_four_fifths_of_the_rows_not_fitted():
    """By kind: products, elementwise and softmax, fused attention, recurrent layers."""
    from reports.fits import FITS
    from simulator.accelerator import call_times
    from simulator.uncertainty import kind_of

    inside: dict[str, list] = {}
    rows = shipped()
    for name, spec in FITS.items():
        own = rows.select((rows.device == name) & np.isin(rows.set, spec.sets))
        own = own.select(held_out(own))
        low, high = predict_interval(preset(name), own, call_times(name))
        assert (low < high).all()
        for kind, within in zip(own.kind.tolist(), (low <= own.time_s) & (own.time_s <= high), strict=True):
            inside.setdefault(kind_of(kind), []).append(within)
    assert set(inside) == {"product", "vector", "attention", "recurrent"}
    for kind, within in inside.items():
        assert HONEST[0] <= np.mean(within) <= HONEST[1], (kind, np.mean(within))


def test_the_constants_that_ship_are_not_fitted_to_what_is_judged():
    from reports.fits import FITS, fitted_rows

    rows = shipped()
    for name, spec in FITS.items():
        fitted = fitted_rows(name)
        own = rows.select((rows.device == name) & np.isin(rows.set, spec.sets))
        judged = own.select(held_out(own))
        assert not set(fitted.shape.tolist()) & set(judged.select(np.isin(judged.set, spec.sets)).shape.tolist()) or (
            not {(s, d, h) for s, d, h in zip(fitted.set, fitted.dtype, fitted.shape, strict=True)}
            & {(s, d, h) for s, d, h in zip(judged.set, judged.dtype, judged.shape, strict=True)}
        )
        assert len(fitted) + len(judged) == len(own)


@pytest.mark.parametrize("name", ["titan-x-pascal", "m40", "v100-sxm"])
def test_a_fit_made_anew_predicts_what_the_shipped_constants_do(name):
    from reports.fits import fit, fitted_rows
    from simulator.accelerator import call_times

    rows, found = fitted_rows(name), fit(name)
    anew = predict(found.accelerator, rows, found.call_s)
    shipped_s = predict(preset(name), rows, call_times(name))
    assert np.median(np.abs(anew / shipped_s - 1)) < 0.02
