"""`rooftrace validate` as a user calls it: tables, rows, document, chart, and every refusal in one line."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from command import done, refused

from reports.error_tables import cells, doubts, error_table, percent, roofline_cell
from reports.shipped import shipped
from reports.validation import accuracy, validate
from simulator import preset, presets
from simulator.calibrate import predict
from workloads.measured import from_timings

SMALL = ("validate", "--on", "titan-x-pascal", "--set", "deepbench-inference")
ERRORS = {"bias", "median", "mean", "p90", "worst", "fitted_mean", "roofline_mean", "roofline_layer_mean", "coverage"}


def timings(path, rows, unit="time_us", head="op,m,n,k,dtype"):
    path.write_text("\n".join([f"{head},{unit}", *rows]) + "\n", encoding="utf-8")
    return str(path)


def of_titan():
    m = shipped()
    return validate(m.select((m.device == "titan-x-pascal") & (m.set == "deepbench-inference")))


# -- tables ------------------------------------------------------------------------------------------


def test_the_table_has_a_line_a_kind_with_its_errors(run):
    out = done(run(*SMALL))
    v = of_titan()
    found = accuracy(v, np.ones(len(v), bool))
    line = next(line for line in out.splitlines() if line.startswith("titan-x-pascal  deepbench-inference"))
    assert line.split()[:5] == ["titan-x-pascal", "deepbench-inference", "recurrent", "fp32", "forward"]
    for cell in cells(found):
        assert cell in line
    assert "40 measurements" in out
    assert "titan-x-pascal: " in out.splitlines()[-1]


def test_networks_have_a_table_of_their_own(run):
    out = done(run("validate", "--set", "tpu-v1"))
    for name in ("MLP0", "MLP1", "LSTM0", "LSTM1", "CNN0", "CNN1"):
        assert sum(name in line for line in out.splitlines()) == 1


def test_rows_of_a_device_without_preset_are_listed(run):
    out = done(run("validate", "--set", "deepbench-train"))
    m = shipped()
    without = [d for d in set(m.device[m.set == "deepbench-train"].tolist()) if d not in presets()]
    assert "mi25" in without
    for device in without:
        count = int((m.device == device).sum())
        assert f"{device}: {count} rows of deepbench-train not predicted: no preset" in out


def test_percent_has_a_sign_on_demand_and_a_dash_for_nothing():
    assert (percent(0.1234), percent(0.1, signed=True), percent(-0.1, signed=True)) == ("12.3", "+10.0", "-10.0")
    assert percent(float("nan")) == "-"


def test_the_roofline_of_recurrences_is_stated_twice():
    v = of_titan()
    step, layer = roofline_cell(accuracy(v, np.ones(len(v), bool))).split(" / ")
    assert float(step) < float(layer)
    m = shipped()
    products = validate(m.select(np.flatnonzero(m.set == "vidur-products")[:9]))
    assert "/" not in roofline_cell(accuracy(products, np.ones(9, bool)))


def test_a_line_without_rows_is_left_out():
    m = shipped()
    v = validate(m.select(m.device == "mi25"))
    assert len(error_table(v).splitlines()) == 1


# -- files -------------------------------------------------------------------------------------------


def test_csv_has_every_measurement(run):
    rows = list(csv.DictReader(io.StringIO(done(run(*SMALL, "--csv")))))
    v = of_titan()
    assert len(rows) == len(v) == 40
    assert [float(row["predicted_s"]) for row in rows] == v.predicted_s.tolist()
    assert [float(row["measured_s"]) for row in rows] == v.measured_s.tolist()
    assert rows[0]["shape"] == v.labels["shape"][0]
    assert {row["low_s"] for row in rows} == {""} or float(rows[0]["low_s"]) > 0


def test_json_is_as_documented(run):
    document = json.loads(done(run("validate", "--set", "tpu-v1", "deepbench-train", "--json")))
    assert (document["format"], document["schema_version"]) == ("rooftrace-validation", 1)
    assert document["zero_shot"] is False
    assert {"devices", "lines", "networks", "missing", "rows", "rooftrace"} <= document.keys()
    assert document["devices"].keys() >= {"tpu-v1", "v100-sxm", "m40"}
    assert all(
        line.keys() == {"device", "set", "kind", "dtype", "phase", "fitted", "judged"} | ERRORS
        for line in document["lines"]
    )
    assert {line["network"] for line in document["networks"]} == {"MLP0", "MLP1", "LSTM0", "LSTM1", "CNN0", "CNN1"}
    assert len(document["rows"]) == 6 + 684
    assert len(document["missing"]) == 2
    row = next(row for row in document["rows"] if row["device"] == "tpu-v1")
    assert row["error"] == pytest.approx(row["predicted_s"] / row["measured_s"] - 1)
    lost = [row for row in document["rows"] if row["device"] == "mi25"]
    assert {row["predicted_s"] for row in lost} == {None}
    assert {row["missing"] for row in lost} == {"no preset"}
    assert sum(line["judged"] + line["fitted"] for line in document["lines"]) == len(document["rows"]) - 252


def test_the_chart_is_written(run, tmp_path):
    done(run(*SMALL, "--chart", "scatter.svg"))
    assert (tmp_path / "scatter.svg").stat().st_size > 1000


# -- a user's own timings ----------------------------------------------------------------------------


def test_own_timings_are_judged_on_the_chip_named(run, tmp_path):
    path = timings(tmp_path / "own.csv", ["matmul,512,512,512,fp32,100", "matmul,64,64,64,fp16,10"])
    rows = list(csv.DictReader(io.StringIO(done(run("validate", "--set", path, "--on", "t4", "--csv")))))
    expected = predict(preset("t4"), from_timings(path))
    assert [float(row["predicted_s"]) for row in rows] == pytest.approx(expected.tolist())
    assert {row["judged"] for row in rows} == {"True"}
    assert {row["device"] for row in rows} == {"t4"}


def test_a_unit_a_thousand_times_too_large_is_doubted(run, tmp_path):
    measured = predict(preset("t4"), from_timings(timings(tmp_path / "a.csv", ["matmul,512,512,512,fp32,1"])))[0]
    right = timings(tmp_path / "right.csv", [f"matmul,512,512,512,fp32,{1e3 * measured}"], unit="time_ms")
    wrong = timings(tmp_path / "wrong.csv", [f"matmul,512,512,512,fp32,{1e3 * measured}"], unit="time_s")
    done(run("validate", "--set", right, "--on", "t4"))
    status, out, err = run("validate", "--set", wrong, "--on", "t4")
    assert (status, err.count("\n")) == (0, 1)
    assert "predicted times are 0.001 times the measured ones: is the unit of the times right?" in err
    assert out
    m = from_timings(wrong)
    assert doubts(validate(m, {"device": preset("t4")}, {}))


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--set", "deepbench-trian"), "unknown set 'deepbench-trian' (did you mean 'deepbench-train'?)"),
        (("--on", "v100-smx"), "unknown accelerator 'v100-smx' (did you mean 'v100-sxm'?)"),
        (("--on", "h200"), "no measurement of 'h200' among these"),
        (("--on", "t4", "--set", "vidur-decode"), "no measurement of 't4' among these (valid: a100-sxm-80gb)"),
        (("--on", "mi25"), "mi25: 72 measurements, and no preset of that name"),
        (("--set", "none.csv"), "none.csv: cannot be read"),
        (("--check", "--csv"), "--check is of every shipped measurement and takes no --csv"),
        (("--readme", "-", "--on", "t4"), "--readme is of every shipped measurement and takes no --on"),
        (("--check", "README.md", "--zero-shot"), "takes no --zero-shot"),
        (("--chart", "x.bmp"), "argument --chart: x.bmp: the suffix must be one of .png, .svg, .pdf"),
        (("--json", "a.json", "--csv", "a.json"), "already writes to a.json"),
        (("--on", "none.toml"), "none.toml: no such file"),
        (("--ser", "x"), "unknown argument '--ser'"),
    ],
)
def test_bad_input_is_refused_in_one_line(run, argv, message):
    assert message in refused(run("validate", *argv))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("matmul,1,1,1,fp32,0", "line 2: time_us must be above zero, got '0'"),
        ("matmul,1,1,1,fp32,-3", "must be above zero, got '-3'"),
        ("matmul,1,1,1,fp32,fast", "must be above zero, got 'fast'"),
        ("matmull,1,1,1,fp32,3", "unknown op 'matmull' (did you mean 'matmul'?)"),
        ("matmul,1,1,1,fp31,3", "unknown"),
        ("matmul,1,1,,fp32,3", "matmul needs k"),
        ("matmul,1,1,1,fp8,3", "nothing can be predicted: t4: 1 rows of measured not predicted: no fp8 on this chip"),
    ],
)
def test_bad_timings_are_refused_in_one_line(run, tmp_path, row, message):
    path = timings(tmp_path / "own.csv", [row])
    assert message in refused(run("validate", "--set", path, "--on", "t4"))


def test_rows_without_device_need_one_chip(run, tmp_path):
    path = timings(tmp_path / "own.csv", ["matmul,1,1,1,fp32,3"])
    assert "1 rows name no device: name one chip with --on" in refused(run("validate", "--set", path))
    assert "name one chip with --on" in refused(run("validate", "--set", path, "--on", "t4", "v100-pcie"))


def test_zero_shot_is_of_presets(run):
    path = "mine.toml"
    assert "no such file" in refused(run("validate", "--on", path, "--zero-shot"))
