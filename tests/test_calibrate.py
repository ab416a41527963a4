"""Calibration finds the constants that made synthetic times, says what it cannot know, and holds rows out by shape."""

from __future__ import annotations

import builtins
import itertools

import numpy as np
import pytest

from reports.shipped import shipped
from simulator import AcceleratorError, preset
from simulator.accelerator import Citation
from simulator.calibrate import CONSTANTS, DOUBTFUL, CalibrationError, calibrate, held_out, predict
from workloads.measured import measurements

pytest.importorskip("scipy", reason="needs scipy: pip install 'rooftrace[calibrate]'")

SIZES = (96, 250, 512, 1000, 2048, 4096)
#: Products bound by the matrix units, additions bound by DRAM.
ROWS = [{"op": "matmul", "m": m, "n": n, "k": k} for m, n, k in itertools.product(SIZES, repeat=3) if m <= n] + [
    {"op": "add", "rows": r, "columns": c} for r in (256, 1024, 4096, 8192, 20000) for c in (64, 512, 4096)
]
TRUTH = {"matrix.sustained": 0.6, "memory.dram.sustained": 0.55}


@pytest.fixture(scope="module")
def base():
    return preset("v100-pcie")


def timed(chip, factor=1.0, call_s=0.0, rows=ROWS):
    """The rows with the times `chip` takes for them, times a factor, plus the calls."""
    seconds = predict(chip, measurements([row | {"time_s": 1.0} for row in rows])) * factor + call_s
    return measurements([row | {"time_s": float(s)} for row, s in zip(rows, seconds, strict=True)])


def noise(count: int, sigma: float = 0.1) -> np.ndarray:
    return np.exp(np.random.default_rng(7).normal(0.0, sigma, count))


# -- what is found -----------------------------------------------------------------------------------


def test_constants_that_made_the_times_are_found(base):
    found = calibrate(base, timed(base.replace(TRUTH)), list(TRUTH), calls=False)
    assert found.values == pytest.approx(TRUTH, rel=1e-3)
    assert {path: found.accelerator.fields[path] for path in TRUTH} == pytest.approx(TRUTH, rel=1e-3)
    assert found.error < 1e-3
    assert found.warnings == ()
    # nothing else moved, and the new numbers say where they are from
    assert {p: v for p, v in found.accelerator.fields.items() if p not in TRUTH} == {
        p: v for p, v in base.fields.items() if p not in TRUTH
    }
    cited = found.accelerator.citations["matrix.sustained"]
    assert cited == Citation(f"fitted to {len(ROWS)} measurements of measurements", "measured")


def test_gross_outliers_do_not_pull_the_fit(base):
    """A tenth of the rows take twenty times as long; least squares of the logarithms would be off by exp(0.3)."""
    factor = np.ones(len(ROWS))
    factor[np.random.default_rng(1).permutation(len(ROWS))[: len(ROWS) // 10]] = 20.0
    found = calibrate(base, timed(base.replace(TRUTH), factor), list(TRUTH), calls=False)
    assert found.values == pytest.approx(TRUTH, rel=0.04)
    assert sorted(found.residuals)[: len(ROWS) // 10] == pytest.approx([-np.log(20)] * (len(ROWS) // 10), abs=0.1)


def test_noise_averages_out(base):
    """Ten per cent of noise a row: constants within a few per cent, and the residuals are the noise."""
    spread = noise(len(ROWS))
    found = calibrate(base, timed(base.replace(TRUTH), spread), list(TRUTH), calls=False)
    assert found.values == pytest.approx(TRUTH, rel=0.05)
    for path, error in found.stderr.items():
        assert abs(found.values[path] - TRUTH[path]) < 4 * error
    assert np.std(found.residuals) == pytest.approx(np.std(np.log(spread)), rel=0.05)


def test_standard_errors_shrink_with_rows(base):
    """Four times the rows: half the standard error."""
    few, many = (
        calibrate(base, timed(base.replace(TRUTH), noise(len(rows)), rows=rows), list(TRUTH), calls=False)
        for rows in (ROWS, 4 * ROWS)
    )
    for path in TRUTH:
        assert many.stderr[path] == pytest.approx(few.stderr[path] / 2, rel=0.15)


def test_call_times_of_harnesses_are_found(base):
    harness = np.where(np.arange(len(ROWS)) % 2, "quick", "slow")
    rows = [row | {"harness": str(name)} for row, name in zip(ROWS, harness, strict=True)]
    calls = np.where(harness == "slow", 8e-5, 2e-5)
    found = calibrate(base, timed(base.replace(TRUTH), call_s=calls, rows=rows), list(TRUTH))
    assert found.call_s == pytest.approx({"quick": 2e-5, "slow": 8e-5}, rel=0.01)
    assert found.values == pytest.approx(TRUTH, rel=0.01)
    again = predict(found.accelerator, timed(base, rows=rows), found.call_s)
    assert np.log(again / timed(base.replace(TRUTH), call_s=calls, rows=rows).time_s) == pytest.approx(
        found.residuals, abs=1e-9
    )


def test_a_candidate_of_a_list_is_chosen_and_no_other(base):
    truth = {"matrix.sustained": 0.6, "matrix.batched_tile": 32}
    wanted = {"matrix.sustained": (0.05, 1.0), "matrix.batched_tile": [128, 64, 32]}
    batched = [row | {"batch": 16} for row in ROWS if row["op"] == "matmul"]  # the tile is of batched products
    found = calibrate(base, timed(base.replace(truth), rows=batched), wanted, calls=False)
    assert found.values == pytest.approx(truth, rel=1e-3)
    assert set(found.stderr) == {"matrix.sustained"}  # a choice has no error
    # and where nothing depends on it, the first of equals
    adds = [row for row in ROWS if row["op"] == "add"]
    same = calibrate(base, timed(base, rows=adds), {"matrix.batched_tile": [128, 64, 32]}, calls=False)
    assert same.values["matrix.batched_tile"] == 128


# -- what is not known -------------------------------------------------------------------------------


def test_what_no_row_depends_on_keeps_its_value(base):
    """Products and additions have no dependent steps."""
    wanted = ["matrix.sustained", "latency.step_s"]
    found = calibrate(base, timed(base.replace({"matrix.sustained": 0.6})), wanted, calls=False)
    assert found.warnings == ("latency.step_s: the measurements cannot determine it; it keeps its value",)
    assert found.accelerator.latency.step_s == base.latency.step_s
    assert "latency.step_s" not in found.values
    assert list(found.stderr) == ["matrix.sustained"]
    assert found.accelerator.citations["latency.step_s"] == base.citations["latency.step_s"]


def test_constants_that_enter_as_their_product_are_correlated(base):
    """Compute takes work / (clock x share), what is fixed in cycles the clock alone: mostly the product is known."""
    products = [row for row in ROWS if row["op"] == "matmul"]
    wanted = {"matrix.sustained": (0.05, 1.0), "matrix.clock_hz": (5e8, 3e9)}
    found = calibrate(base, timed(base, noise(len(products), 0.01), rows=products), wanted, calls=False)
    assert found.correlation.shape == (2, 2)
    assert np.diag(found.correlation) == pytest.approx(1.0)
    assert found.correlation[0, 1] < -0.5
    product = np.prod([found.values[path] / base.fields[path] for path in wanted])
    assert product == pytest.approx(1.0, rel=0.01)


def test_a_value_at_the_edge_of_its_range_is_told(base):
    found = calibrate(base, timed(base.replace(TRUTH)), {"matrix.sustained": (0.7, 1.0)}, calls=False)
    assert found.values["matrix.sustained"] == pytest.approx(0.7, rel=0.01)
    assert any(text.startswith("matrix.sustained: at the edge of its range, 0.7") for text in found.warnings)


@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_a_wrong_unit_is_doubted_with_its_factor(base, factor, calls):
    """ms given as s, or s as ms: whatever constants and calls the fit then finds."""
    found = calibrate(base, timed(base, factor), list(TRUTH), calls=calls)
    (doubt,) = (text for text in found.warnings if text.endswith("is the unit of the times right?"))
    assert doubt.startswith(f"measurements: predicted times are {1 / factor:.3g} times the measured ones: ")


def test_calls_longer_than_the_ops_are_no_wrong_unit(base):
    found = calibrate(base, timed(base, call_s=1e-2), list(TRUTH))
    assert not any("unit" in text for text in found.warnings)
    assert np.median(predict(base, timed(base))) * DOUBTFUL < 1e-2  # of which half the ops are a hundredth or less


# -- refusals ----------------------------------------------------------------------------------------


def test_one_shape_is_refused(base):
    same = [{"op": "lstm", "hidden": 64, "batch": 1, "timesteps": t} for t in (5, 10, 20)]
    with pytest.raises(CalibrationError, match="measurements: all measurements are of one shape: lstm"):
        calibrate(base, timed(base, rows=same), ["latency.step_s"], calls=False)


def test_too_few_rows_are_refused(base):
    with pytest.raises(CalibrationError, match="measurements: 2 measurements cannot determine 3 constants"):
        calibrate(base, timed(base, rows=ROWS[:2]), list(TRUTH))  # two constants and the calls of one harness
    with pytest.raises(CalibrationError, match=f"5 measurements cannot determine {len(CONSTANTS) + 1} constants"):
        calibrate(base, timed(base, rows=ROWS[:5]))


def test_a_space_of_designs_is_refused(base):
    space = base.replace({"matrix.sustained": [0.5, 0.6]})
    with pytest.raises(CalibrationError, match="v100-pcie: one design is calibrated at a time, got 2"):
        calibrate(space, timed(base), list(TRUTH))


def test_an_unknown_field_names_the_nearest(base):
    with pytest.raises(AcceleratorError, match=r"'matrix\.sustaine' .did you mean 'matrix\.sustained'"):
        calibrate(base, timed(base), ["matrix.sustaine"])


@pytest.mark.parametrize("given", ["matrix.count", "abilities.overlap"])
def test_a_field_without_a_range_is_refused(base, given):
    with pytest.raises(CalibrationError, match=rf"{given}: a range \(low, high\) or a list of candidates is expected"):
        calibrate(base, timed(base), [given])


def test_a_chip_that_fuses_is_refused(base):
    lstms = [{"op": "lstm", "hidden": h, "batch": 1, "timesteps": 5} for h in (64, 128, 256)]
    fusing = base.replace({"abilities.fuses_elementwise": True})
    with pytest.raises(CalibrationError, match="v100-pcie: measurements are of rows as they are, and this chip fuses"):
        calibrate(fusing, timed(base, rows=lstms), ["latency.step_s"], calls=False)


def test_an_element_type_the_chip_lacks_is_refused(base):
    rows = [row | {"dtype": "fp8"} for row in ROWS if row["op"] == "matmul"]
    wrong = measurements([row | {"time_s": 1.0} for row in rows])
    with pytest.raises(AcceleratorError, match="fp8"):
        calibrate(base, wrong, ["matrix.sustained"])


def test_a_missing_scipy_names_the_extra(base, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CalibrationError, match=r"calibrate needs scipy: pip install 'rooftrace\[calibrate\]'"):
        calibrate(base, timed(base), list(TRUTH), calls=False)


# -- what is held out --------------------------------------------------------------------------------


def test_held_out_is_every_third_shape_in_order_of_size():
    m = measurements([{"op": "matmul", "m": s, "n": 8, "k": 8, "time_s": 1.0} for s in (5, 1, 3, 2, 6, 4)])
    assert m.trace.m[held_out(m)].tolist() == [5, 2]  # of 1 to 6 the second and the fifth
    assert m.trace.m[held_out(m, every=2)].tolist() == [2, 6, 4]


def test_held_out_does_not_depend_on_order_or_chance(base):
    m = timed(base)
    judged = held_out(m)
    assert (held_out(m) == judged).all()
    order = np.random.default_rng(3).permutation(len(m))
    assert (held_out(m.select(order)) == judged[order]).all()


def test_groups_are_split_apart(base):
    """Devices, sets, ops and types each have rows of their own on both sides."""
    rows = [row | {"dtype": dtype, "device": device} for row in ROWS for dtype in ("fp32", "fp16") for device in "ab"]
    m = timed(base, rows=rows)
    judged = held_out(m)
    for name in ("op", "dtype", "device"):
        for value in set(m.labels[name].tolist()):
            assert judged[m.labels[name] == value].mean() == pytest.approx(1 / 3, abs=0.02)


def groups(m):
    """Masks of the rows of each device, set, op, type and network."""
    names = ("device", "set", "op", "dtype", "network")
    keys = list(zip(*(m.labels[name].tolist() for name in names), strict=True))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    of = np.array([number[key] for key in keys])
    return {key: of == i for key, i in number.items()}


def test_no_shipped_shape_is_on_both_sides():
    """Per device and set, whatever the element type or the phase."""
    m = shipped()
    judged = held_out(m)
    for device, name in dict.fromkeys(zip(m.device.tolist(), m.set.tolist(), strict=True)):
        rows = (m.device == device) & (m.set == name)
        assert not set(m.shape[rows & judged].tolist()) & set(m.shape[rows & ~judged].tolist()), (device, name)


def test_every_range_of_sizes_is_on_both_sides():
    """Of each shipped group of thirty shapes or more, by size: among any six neighbours one to three are judged."""
    m = shipped()
    judged = held_out(m)
    seen = 0
    for key, rows in groups(m).items():
        side = dict(zip(m.shape[rows].tolist(), judged[rows].tolist(), strict=True))
        sizes = {shape: tuple(int(p.split("=")[1]) for p in shape.split() if "=" in p) for shape in side}
        ordered = np.array([side[shape] for shape in sorted(side, key=sizes.get)])
        if len(ordered) < 30:
            continue
        seen += 1
        windows = np.lib.stride_tricks.sliding_window_view(ordered, 6).sum(axis=1)
        assert windows.min() >= 1, key
        assert windows.max() <= 3, key
        assert ordered.mean() == pytest.approx(1 / 3, abs=0.04), key
    assert seen >= 10
