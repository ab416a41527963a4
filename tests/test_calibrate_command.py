"""`rooftrace calibrate`: constants that made a table of timings are found again, and bad tables are refused."""

from __future__ import annotations

import csv
import io
import itertools

import numpy as np
import pytest
from command import refused

from reports import fits
from reports.calibrate_command import column_lines, correlations, fit, of_chip, parameters
from reports.harness import calls_of, with_calls
from simulator import AcceleratorError, load_accelerator, preset
from simulator.calibrate import CONSTANTS, held_out, predict
from workloads.measured import MEASURED_OPS, TIME_UNITS, from_timings, measurements

CALL_S = 2e-5
SIZES = (96, 250, 512, 1000, 2048, 4096)


def products() -> list[dict]:
    sizes = [s for s in itertools.product(SIZES, repeat=3) if s[0] <= s[1]]
    return [{"op": "matmul", "m": m, "n": n, "k": k, "dtype": "fp32"} for m, n, k in sizes]


def timed() -> list[dict]:
    """Products with the times of a V100 that has other constants, and `CALL_S` a call."""
    rows = products()
    chip = preset("v100-pcie").replace({"matrix.sustained": 0.6})
    seconds = predict(chip, measurements([row | {"time_s": 1.0} for row in rows])) + CALL_S
    return [row | {"time_us": float(1e6 * s)} for row, s in zip(rows, seconds, strict=True)]


def written(path, rows, unit="time_us") -> str:
    lines = [f"op,m,n,k,dtype,{unit}"]
    lines += [f"{r['op']},{r['m']},{r['n']},{r['k']},{r['dtype']},{r['time_us']!r}" for r in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def table(tmp_path) -> str:
    return written(tmp_path / "timings.csv", timed())


# -- what is found -----------------------------------------------------------------------------------


def test_the_constants_that_made_the_times_are_found():
    found = fit(preset("v100-pcie"), measurements(timed()), parameters(preset("v100-pcie"), [("matrix.sustained", "")]))
    assert found.calibration.values["matrix.sustained"] == pytest.approx(0.6, rel=1e-3)
    assert found.calibration.call_s["measured matmul"] == pytest.approx(CALL_S, rel=1e-2)
    assert np.abs(found.validation.predicted_s / found.validation.measured_s - 1).max() < 0.01


def test_no_constant_is_fitted_on_a_row_it_is_judged_on():
    """Rows held out may be anything: the constants stay the same."""
    m = measurements(timed())
    judged = held_out(m)
    spoilt = [row | {"time_us": row["time_us"] * (9 if out else 1)} for row, out in zip(timed(), judged, strict=True)]
    fields = parameters(preset("v100-pcie"), [("matrix.sustained", "")])
    first, second = (fit(preset("v100-pcie"), measurements(rows), fields) for rows in (timed(), spoilt))
    assert first.calibration.values == second.calibration.values
    assert first.validation.fitted.tolist() == (~judged).tolist()
    assert second.validation.judged.tolist() == judged.tolist()


def test_the_report_tells_constants_calls_and_errors(run, table):
    status, out, err = run("calibrate", "v100-pcie", "--measurements", table, "--fit", "matrix.sustained")
    assert (status, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith("matrix.sustained"))
    assert line.split()[1:3] == [f"{preset('v100-pcie').matrix.sustained:.3g}", "0.6"]
    assert line.endswith("%")
    assert "measured matmul" in out
    assert "20.0 us" in out
    assert f"{int(held_out(from_timings(table)).sum())} " in out
    assert "judged rows were held out of the fit" in out
    assert "the 5 worst rows:" in out


def test_what_the_rows_cannot_tell_is_a_warning(run, table):
    status, out, err = run("calibrate", "v100-pcie", "--measurements", table, "--fit", "matrix.sustained,latency.step")
    assert status == 0
    assert "latency.step_s: the measurements cannot determine it; it keeps its value" in err
    assert "latency.step_s" not in out


def test_constants_that_move_together_are_named(run, table):
    """Clock and share of the peak enter as their product where compute binds."""
    fields = parameters(preset("v100-pcie"), [("matrix.sustained", ""), ("matrix.clock", "1GHz:3GHz")])
    related = correlations(fit(preset("v100-pcie"), measurements(timed()), fields).calibration)
    assert [set(pair[:2]) for pair in related] == [{"matrix.sustained", "matrix.clock_hz"}]
    assert related[0][2] < -0.5
    argv = ("calibrate", "v100-pcie", "--measurements", table, "--fit", "matrix.sustained,matrix.clock=1GHz:3GHz")
    assert "matrix.clock_hz and matrix.sustained: -" in run(*argv)[1]


def test_correlations_skip_what_was_not_determined():
    """latency.step stands between the two and is not determined."""
    given = [("matrix.sustained", ""), ("latency.step", ""), ("matrix.clock", "1GHz:3GHz")]
    found = fit(preset("v100-pcie"), measurements(timed()), parameters(preset("v100-pcie"), given))
    assert {name for pair in correlations(found.calibration) for name in pair[:2]} <= found.calibration.stderr.keys()


def test_residuals_are_written(run, table):
    status, out, _ = run("calibrate", "v100-pcie", "--measurements", table, "--fit", "matrix.sustained", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert len(rows) == len(products())
    assert max(abs(float(row["error"])) for row in rows) < 0.01
    assert {row["judged"] == row["fitted"] for row in rows} == {False}


def test_the_chip_is_written_and_read_back(run, table, tmp_path):
    pytest.importorskip("reports.accelerator_file")
    argv = ("calibrate", "v100-pcie", "--measurements", table, "--fit", "matrix.sustained", "--out", "mine.toml")
    assert run(*argv)[0] == 0
    chip = load_accelerator(tmp_path / "mine.toml")
    assert chip.matrix.sustained == pytest.approx(0.6, rel=1e-3)
    cited = chip.citations["matrix.sustained"]
    assert cited.basis == "measured"
    assert cited.source.startswith("fitted to")
    assert "timings.csv" in cited.source
    # the rows it was fitted to stay fitted, those held out are judged
    status, out, _ = run("validate", "--on", "mine.toml", "--set", table, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert [row["judged"] == "True" for row in rows] == held_out(from_timings(table)).tolist()
    # and what the harness added is added again
    assert max(abs(float(row["error"])) for row in rows) < 0.01


def test_calls_are_kept_in_the_notes_of_a_chip():
    chip = preset("v100-pcie").replace(notes="A card.")
    once = with_calls(chip, {"own linear": 2.5e-5, "it's gru": 1e-3})
    assert calls_of(once) == {"own linear": 2.5e-5, "it s gru": 1e-3}
    assert once.notes.startswith("A card.")
    assert calls_of(with_calls(once, {"other": 1.0})) == {"other": 1.0}
    assert with_calls(once, {}).notes == "A card."
    assert calls_of(chip) == {}


# -- what is fitted ----------------------------------------------------------------------------------


def test_fields_take_their_usual_range_or_one_of_their_own():
    chip = preset("v100-pcie")
    assert parameters(chip, None) is None
    assert parameters(chip, [("memory.dram.sustained", "")]) == {
        "memory.dram.sustained": CONSTANTS["memory.OUTER.sustained"]
    }
    assert parameters(chip, [("latency.launch", "1us:50us")]) == {"latency.launch_s": (1e-6, 5e-5)}


def test_rows_of_other_devices_are_left_out():
    rows = [row | {"device": device} for row in timed()[:4] for device in ("t4", "v100-pcie")]
    assert set(of_chip(measurements(rows), "t4").device.tolist()) == {"t4"}
    assert set(of_chip(measurements([r for r in rows if r["device"] == "t4"]), "h200").device.tolist()) == {"t4"}
    with pytest.raises(ValueError, match=r"no row of 't5'.*did you mean 't4'"):
        of_chip(measurements(rows), "t5")


# -- the columns -------------------------------------------------------------------------------------


def test_the_columns_are_told(run):
    status, out, err = run("calibrate", "--columns")
    assert (status, err) == (0, "")
    assert out.splitlines() == "\n".join(column_lines()).splitlines()
    for unit in TIME_UNITS:
        assert unit in out
    for name, op in MEASURED_OPS.items():
        assert any(line.startswith(f"  {name} ") for line in out.splitlines())
        assert all(size in out for size in op.sizes)
    assert max(map(len, out.splitlines())) <= 110


# -- refusals ----------------------------------------------------------------------------------------


def test_a_wrong_unit_is_doubted_before_the_fit_hides_it(run, tmp_path):
    rows = [row for row in timed() if row["time_us"] < 5000]
    wrong = written(tmp_path / "wrong.csv", [r | {"time_us": r["time_us"] / 1e3} for r in rows], unit="time_s")
    status, _, err = run("calibrate", "v100-pcie", "--measurements", wrong, "--fit", "matrix.sustained")
    assert status == 0
    assert "times the measured ones: is the unit of the times right?" in err
    right = written(tmp_path / "right.csv", rows)
    assert "unit" not in run("calibrate", "v100-pcie", "--measurements", right, "--fit", "matrix.sustained")[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("matrix.sustaine", "unknown field 'matrix.sustaine' (did you mean 'matrix.sustained'?)"),
        ("matrix.tile_m", "--fit matrix.tile_m: this field has no usual range; say one: matrix.tile_m=LOW:HIGH"),
        ("matrix.sustained=0.9:0.1", "a range above zero with LOW below HIGH is expected, got '0.9:0.1'"),
        ("latency.launch=5us", "a range LOW:HIGH is expected, got '5us'"),
        ("latency.launch=5us:6GB", "latency.launch_s: '6GB' is in B"),
        ("a,,b", "must be FIELD or FIELD=LOW:HIGH"),
        ("matrix.sustained=", "must be FIELD or FIELD=LOW:HIGH"),
    ],
)
def test_bad_fields_are_refused(run, table, fields, message):
    assert message in refused(run("calibrate", "v100-pcie", "--measurements", table, "--fit", fields))


def test_too_few_rows_are_refused(run, tmp_path):
    path = written(tmp_path / "few.csv", timed()[:7])
    message = refused(run("calibrate", "v100-pcie", "--measurements", path))
    assert "few.csv: 5 measurements cannot determine" in message
    assert "2 of 7 rows are held out" in message


def test_a_single_shape_is_refused(run, tmp_path):
    path = written(tmp_path / "one.csv", timed()[:1] * 9)
    message = refused(run("calibrate", "v100-pcie", "--measurements", path, "--fit", "matrix.sustained"))
    assert "all measurements are of one shape" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_us": 0.0}, "line 2: time_us must be above zero"),
        ({"time_us": -1.0}, "must be above zero, got '-1.0'"),
        ({"op": "fft"}, "unknown op 'fft'"),
        ({"dtype": "fp8"}, "'fp8', which its matrix units do not run"),
    ],
)
def test_bad_rows_are_refused(run, tmp_path, change, message):
    first, *rest = timed()
    path = written(tmp_path / "bad.csv", [first | change, *rest])
    assert message in refused(run("calibrate", "v100-pcie", "--measurements", path, "--fit", "matrix.sustained"))


def test_what_is_missing_is_said(run, table):
    assert "needs a chip and --measurements FILE" in refused(run("calibrate"))
    assert "needs a chip and --measurements FILE" in refused(run("calibrate", "v100-pcie"))
    assert "did you mean 'v100-pcie'" in refused(run("calibrate", "v100-pci", "--measurements", table))
    out = ("--out", "chip.txt")
    assert "the suffix must be one of .toml" in refused(run("calibrate", "v100-pcie", "--measurements", table, *out))


def test_the_constants_of_presets_are_fitted_anew(run, tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "fit_presets", lambda: "[gpu.constants]\n")
    assert run("calibrate", "--presets") == (0, "[gpu.constants]\n", "")
    assert run("calibrate", "--presets", "--out", "fitted.toml")[:2] == (0, "fitted.toml: written\n")
    assert (tmp_path / "fitted.toml").read_text(encoding="utf-8") == "[gpu.constants]\n"
    assert "it takes no chip" in refused(run("calibrate", "t4", "--presets"))


def test_without_scipy_the_extra_is_named(run, table, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    message = refused(run("calibrate", "v100-pcie", "--measurements", table, "--fit", "matrix.sustained"))
    assert message == "calibrate needs scipy: pip install 'rooftrace[calibrate]'"


def test_an_unknown_field_raises_before_the_fit():
    with pytest.raises(AcceleratorError, match="unknown field"):
        parameters(preset("v100-pcie"), [("matrix.nothing", "")])
