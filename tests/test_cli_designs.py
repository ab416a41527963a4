"""The commands over many designs, called as a user calls them: output, files, refusals, interruption."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import done, refused

from reports.design_arguments import budgets, candidates
from reports.units import format_quantity
from simulator import LogRange, preset, sensitivity, simulate, sweep, tune
from workloads import network

ROOT = Path(__file__).resolve().parents[1]
VARY = ("--vary", "matrix.count=40:160:+20", "memory.dram.bandwidth=450GB/s:3.6TB/s:4")
AXES = {"matrix.count": np.arange(40, 161, 20), "memory.dram.bandwidth": np.geomspace(450e9, 3.6e12, 4)}
SWEEP = ("sweep", "bert-base", "--on", "v100-sxm", *VARY)


@pytest.fixture(scope="module")
def chip():
    return preset("v100-sxm")


# -- sweep and pareto ----------------------------------------------------------------------------------


def test_sweep_shows_the_best(run, chip):
    out = done(run(*SWEEP, "--metric", "latency_s", "utilisation", "--top", "3"))
    lines = out.splitlines()
    assert lines[0] == f"bert-base on 28 designs of {chip.title} (v100-sxm)"
    assert lines[2].split() == ["matrix.count", "memory.dram.bandwidth", "latency", "utilisation"]
    best = simulate(network("bert-base"), chip.grid(AXES)).latency_s.min()
    assert f" {format_quantity(best, 's')} " in lines[3]
    assert len(lines) == 7
    assert lines[-1] == "... 25 more"


def test_sweep_writes_csv_json_and_chart(run, chip):
    out = done(run(*SWEEP, "--csv", "rows.csv", "--json", "rows.json", "--chart", "heat.png", "--keep", "all"))
    assert out
    expected = simulate(network("bert-base"), chip.grid(AXES)).latency_s.reshape(-1).tolist()
    with open("rows.csv", newline="") as file:
        assert [float(row["latency_s"]) for row in csv.DictReader(file)] == expected
    document = json.loads(Path("rows.json").read_text())
    assert document["format"] == "rooftrace-sweep"
    assert [row["latency_s"] for row in document["rows"]] == expected
    assert document["designs"] == document["evaluated"] == 28
    assert document["complete"] is True
    assert Path("heat.png").stat().st_size > 5000


def test_numbers_on_standard_output_stand_alone(run):
    rows = list(csv.DictReader(io.StringIO(done(run(*SWEEP, "--csv", "-")))))
    assert len(rows) == 28
    assert json.loads(done(run(*SWEEP, "--json", "-")))["rows"]


def test_batches_mixes_budgets_and_samples(run):
    out = done(run("sweep", "gnmt", "--on", "h100-sxm", "--vary", "batch=1,4,16", "--metric", "tokens_per_s",
                   "--chart", "u.png"))  # fmt: skip
    assert out.splitlines()[3].split()[0] == "16"
    assert Path("u.png").exists()
    out = done(run("sweep", "gnmt", "bert-base", "--weights", "3", "1", "--on", "h100-sxm", *VARY,
                   "--metric", "latency_s", "gnmt:latency_s"))  # fmt: skip
    assert out.startswith("gnmt + bert-base on 28 designs")
    out = done(run(*SWEEP, "--budget", "matrix.count=60", "--keep", "all"))
    assert out.count("\n") == 3 + 8
    out = done(run(*SWEEP, "--budget", "latency=1us"))
    assert "none of them keeps the budget" in out
    out = done(run(*SWEEP[:4], "--vary", "matrix.clock=1GHz:2GHz", "--samples", "50", "--seed", "3"))
    assert "on 50 designs" in out


def test_one_field_is_drawn_as_a_path(run):
    done(run(*SWEEP[:4], "--vary", "memory.dram.bandwidth=1TB/s:4TB/s:5", "--chart", "path.svg"))
    assert Path("path.svg").exists()


def test_pareto_shows_the_front(run, chip):
    out = done(run("pareto", *SWEEP[1:], "--metric", "latency_s", "matrix.count", "--chart", "front.png"))
    found = sweep(network("bert-base"), chip, metrics=["latency_s", "matrix.count"], keep="pareto", **AXES)
    assert f"{len(found)} of them no other beats in latency_s, matrix.count" in out
    assert Path("front.png").stat().st_size > 5000


def test_parquet_and_checkpoint(run):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'rooftrace[parquet]'")
    assert "written to rows" in done(run(*SWEEP, "--out", "rows"))
    assert len(pd.read_parquet("rows")) == 28
    first = done(run(*SWEEP, "--checkpoint", "state.npz"))
    assert done(run(*SWEEP, "--checkpoint", "state.npz")) == first
    said = refused(run(*SWEEP[:5], "matrix.count=1,2", "--checkpoint", "state.npz"))
    assert "it is of another sweep" in said


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(tmp_path):
    """A real signal to a real process; the same command goes on and ends with what one run alone gives."""
    fields = ("matrix.count=8:263", "matrix.clock=1e9:2e9:2999")  # no two designs share their products: slow
    command = [sys.executable, "-m", "reports.cli", "sweep", "bert-base", "--on", "v100-sxm", "--vary", *fields]
    command += ["--checkpoint", str(tmp_path / "state.npz"), "--csv", "-"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.8)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted after" in err or err == ""
    whole = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    alone = [part for part in command if part not in ("--checkpoint", str(tmp_path / "state.npz"))]
    assert whole == subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=True).stdout


# -- sensitivity and tune ------------------------------------------------------------------------------


def test_sensitivity_shows_what_would_help(run, chip):
    out = done(run("sensitivity", "lstm-zaremba-large", "--on", "v100-sxm", "--batch", "1", "--chart", "t.png",
                   "--json", "s.json", "--csv", "s.csv"))  # fmt: skip
    found = sensitivity(network("lstm-zaremba-large", batch=1), chip)
    less, more = found.elasticity("memory.dram.bandwidth")
    line = next(line for line in out.splitlines() if line.startswith("memory.dram.bandwidth"))
    assert line.split()[-2:] == [f"{less:+.3f}", f"{more:+.3f}"]
    assert "if it cost nothing" in out
    document = json.loads(Path("s.json").read_text())
    assert document["free"] == pytest.approx(found.free)
    assert len(document["fields"]) == len(found.fields)
    assert len(document["by_op"]["matrix.clock_hz"]["less"]) == len(found.ops)
    assert len(Path("s.csv").read_text().splitlines()) - 1 == len(found.fields)
    assert Path("t.png").stat().st_size > 5000


def test_tune_shows_the_best_and_why(run, chip):
    out = done(run("tune", "bert-base", "--on", "v100-sxm", "--minimise", "latency_s", *VARY,
                   "--budget", "matrix.count=100,memory.dram.bandwidth=1TB/s", "--chart", "tune.png",
                   "--json", "tune.json", "--csv", "tune.csv"))  # fmt: skip
    limits = {"matrix.count": 100, "memory.dram.bandwidth": 1e12}
    found = tune(network("bert-base"), chip, AXES, minimise="latency_s", subject_to=limits)
    assert format_quantity(found.value, "s") in out
    assert "28 of 28 designs tried (100 %): the optimum of the space" in out
    document = json.loads(Path("tune.json").read_text())
    assert document["value"] == found.value
    assert document["best"][0]["matrix.count"] == found.best[0]["matrix.count"]
    assert [limit["binds"] for limit in document["limits"]] == [budget.binds for budget in found.budgets]
    assert document["limits"][0]["least"] is None
    assert Path("tune.png").stat().st_size > 5000


def test_a_deadline_and_a_batch(run):
    out = done(run("tune", "gnmt", "--on", "v100-sxm", "--maximise", "tokens_per_s",
                   "--vary", "matrix.count=80", "--budget", "latency=60ms,batch=64"))  # fmt: skip
    assert "batch" in out
    assert "<= 60.0 ms" in out


def test_an_infeasible_budget_is_one_line(run):
    said = refused(run("tune", "bert-base", "--on", "v100-sxm", "--minimise", "latency_s", *VARY, "--budget",
                       "latency=1us"))  # fmt: skip
    assert "latency_s <= 1e-06 is missed by" in said
    assert "matrix.count = 160" in said


# -- what is typed -------------------------------------------------------------------------------------


def test_candidates_are_read_in_every_form(chip):
    def read(text):
        name, _, values = text.partition("=")
        return next(iter(candidates(chip, [(name, values)]).values()))

    assert read("matrix.count=40,80,160") == [40, 80, 160]
    np.testing.assert_allclose(read("memory.dram.bandwidth=450GB/s:3.6TB/s:4"), np.geomspace(4.5e11, 3.6e12, 4))
    assert read("matrix.count=16:64:+16").tolist() == [16, 32, 48, 64]
    assert read("matrix.count=3:7").tolist() == [3, 4, 5, 6, 7]
    assert read("matrix.count=1:8:8").tolist() == [1, 2, 3, 4, 6, 8]
    assert read("matrix.clock=1GHz:2GHz") == LogRange(1e9, 2e9)
    assert read("abilities.fuses_elementwise=true,false") == [True, False]
    assert read("matrix.dataflow=output-stationary,weight-stationary") == ["output-stationary", "weight-stationary"]
    assert read("batch=1:4").tolist() == [1, 2, 3, 4]


def test_budgets_are_read_in_their_units(chip):
    found = budgets(chip, ["area=400mm2,power=75W", "latency=7ms", "price=2kUSD,shoreline=60mm", "batch=256"])
    assert found == {"area_mm2": 400, "peak_power_w": 75, "latency_s": 7e-3, "price_usd": 2000, "shoreline_mm": 60,
                     "batch": range(1, 257)}  # fmt: skip
    assert budgets(chip, ["memory.dram.bandwidth=1TB/s,batch=8:16"]) == {
        "memory.dram.bandwidth": 1e12,
        "batch": range(8, 17),
    }


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--vary", "matrx.count=3"), "did you mean 'matrix.count'"),
        (("--vary", "matrix.count=3,2,4"), "must rise or fall throughout, got 4 after 2"),
        (("--vary", "matrix.count=3.5"), "must be a whole number, got 3.5"),
        (("--vary", "matrix.clock=nan"), "'nan' is not a number with a unit"),
        (("--vary", "matrix.clock=1GB"), "'1GB' is in B; expected Hz"),
        (("--vary", "matrix.clock=2GHz:1GHz:3"), "must be positive and rise"),
        (("--vary", "matrix.clock=1GHz:2GHz:1"), "number of candidates must be 2 or more"),
        (("--vary", "matrix.clock=1GHz:2GHz:+9GHz"), "the step must be above 0 and fit"),
        (("--vary", "matrix.clock=1:2:3:4"), "LOW:HIGH:NUMBER is expected"),
        (("--vary", "matrix.clock=1GHz:2GHz"), "is a range: give candidates"),
        (("--vary", "matrix.count"), "must be NAME=VALUE"),
        (("--vary", "matrix.count=1", "matrix.count=2"), "is given twice"),
        (("--vary", "matrix.count=1", "--metric", "latenci_s"), "did you mean 'latency_s'"),
        (("--vary", "matrix.count=1", "--budget", "area"), "argument --budget: must be NAME=VALUE"),
        (("--vary", "matrix.count=1", "--budget", "power=75s"), "'75s' is in s; expected W"),
        (("--vary", "matrix.count=1", "--budget", "speed=3"), "unknown metric 'speed'"),
        (("--vary", "matrix.count=1", "--budget", "latency=1ms,latency_s=2ms"), "is given twice"),
        (("--vary", "matrix.count=1", "--budget", "batch=4"), "batch is varied, not limited"),
        (("--vary", "batch=1,2", "--batch", "4"), "the batch varies already"),
        (("--vary", "matrix.count=1", "--weights", "1", "2"), "1 networks but 2 weights"),
        (("--vary", "matrix.count=1", "--weights", "-1"), "the weight must be a positive number"),
        (("--vary", "matrix.count=1,2", "batch=1,2", "--chart", "x.png"), "a sweep is drawn over"),
        (("--vary", "matrix.count=1", "--chart", "x.txt"), "the suffix must be one of"),
        (("--vary", "matrix.count=1", "--sampler", "x", "--samples", "3"), "unknown sampler 'x'"),
        ((), "--vary"),
    ],
)
def test_bad_sweeps_are_one_line(run, argv, said):
    assert said in refused(run("sweep", "bert-base", "--on", "v100-sxm", *argv))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("pareto", "bert-base", "--on", "v100-sxm", *VARY, "--metric", "latency_s"), "two or three metrics, got 1"),
        (("tune", "bert-base", "--on", "v100-sxm", *VARY), "one of the arguments --minimise --maximise"),
        (("tune", "bert-base", "--on", "v100-sxm", *VARY, "--minimise", "area", "--maximise", "x"), "not allowed with"),
        (("sensitivity", "bert-base", "--on", "v100-sxn"), "did you mean 'v100-sxm'"),
    ],
)
def test_other_bad_commands_are_one_line(run, argv, said):
    assert said in refused(run(*argv))
