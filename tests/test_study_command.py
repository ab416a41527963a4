"""`rooftrace study`: listed, run, written whole or not at all; every refusal in one line before anything runs."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import done, refused
from tiny_study import TINY, find, known  # noqa: F401 - a fixture

from reports import cli, study_folder
from reports.arguments import ReportError
from reports.studies import Bench, StudyError, Table, catalogue, studies, study
from reports.studies.study import Outside, shown
from reports.study_folder import folder, write
from reports.study_report import FAILED, attempt
from reports.study_runs import run_all

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("known")


def test_without_a_name_studies_are_listed(run):
    listed = done(run("study"))
    assert listed == done(run("study", "--list"))
    lines = listed.splitlines()
    assert lines[0].split() == ["name", "question"]
    assert [line.split()[0] for line in lines[1:]] == ["tiny", "failing"]
    assert TINY.question in lines[1]


def test_one_study_is_told(run):
    out = done(run("study", "tiny"))
    assert "verdict: the claim does not hold\n  v100-sxm moves 900 GB/s." in out
    assert "4096" in out


def test_another_chip_and_another_bandwidth_give_another_text(run):
    assert "h100-sxm moves 335" in done(run("study", "tiny", "--on", "h100-sxm"))
    out = done(run("study", "tiny", "--set", "memory.dram.bandwidth=2TB/s"))
    assert "verdict: the claim holds\n  v100-sxm moves 2000 GB/s." in out


def test_json_has_everything_unrounded(run):
    document = json.loads(done(run("study", "tiny", "--set", "memory.dram.bandwidth=2TB/s", "--json")))
    assert document["format"] == "rooftrace-studies"
    assert document["changes"] == [["memory.dram.bandwidth", "2TB/s"]]
    (one,) = document["studies"]
    found = find(Bench())
    assert one["numbers"] == {"bandwidth_bytes_per_s": 2e12, "ratio": 0.5}
    assert one["tables"][0]["columns"] == list(found.tables[0].columns)
    assert one["tables"][0]["rows"][0][1:3] == [12.3456, 4096]
    assert one["holds"] == "holds"
    assert one["failure"] is None
    assert [(o["published_low"], o["published_high"]) for o in one["outside"]] == [(2.0, 3.0), (4.0, 4.0)]
    assert one["outside"][0]["discrepancy"] == pytest.approx(0.1)
    assert [set(chart) for chart in one["charts"]] == [{"alt", "caption", "source"}]


def test_csv_has_a_row_an_entry(run):
    rows = list(csv.DictReader(io.StringIO(done(run("study", "tiny", "--csv", "-")))))
    found = find(Bench())
    assert len(rows) == 2 * 4 + 2 * 2
    assert {"study": "tiny", "table": found.tables[0].caption, "row": "1", "column": "count", "value": "4096"} in rows
    assert {"study": "tiny", "table": "numbers", "row": "2", "column": "value", "value": "0.5"} in rows


def test_charts_of_one_study(run):
    done(run("study", "tiny", "--chart", "points.pdf"))
    assert Path("points.pdf").read_bytes().startswith(b"%PDF")
    assert os.listdir() == ["points.pdf"]


def test_a_folder_of_one_study(run):
    out = done(run("study", "tiny", "--out", "made"))
    assert out.splitlines()[-1] == f"written: {Path('made') / 'index.html'}"
    assert "✗ does not hold" in out
    assert sorted(os.listdir()) == ["made"]
    assert sorted(os.listdir("made")) == ["charts", "index.html", "studies.md"]
    assert os.listdir("made/charts") == ["tiny-1.svg"]
    assert "(charts/tiny-1.svg)" in Path("made/studies.md").read_text(encoding="utf-8")
    assert os.stat("made").st_mode & 0o777 == 0o777 & ~study_folder._umask()


def test_a_folder_that_is_there_keeps_what_else_is_in_it(run):
    Path("made").mkdir()
    Path("made/mine.txt").write_text("kept", encoding="utf-8")
    Path("made/index.html").write_text("old", encoding="utf-8")
    done(run("study", "tiny", "--out", "made"))
    assert sorted(os.listdir("made")) == ["charts", "index.html", "mine.txt", "studies.md"]
    assert Path("made/index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_one_that_fails_does_not_lose_the_others(run):
    status, out, err = run("study", "--all", "--out", "made")
    assert status == 1
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["tiny", "✗"], ["failing", "!"]]
    assert err.splitlines() == [
        "rooftrace: 1 of 2: tiny: does not hold",
        f"rooftrace: 2 of 2: failing: {FAILED}",
        f"rooftrace: error: failing {FAILED}: ZeroDivisionError: by <nought>",
    ]
    page = Path("made/index.html").read_text(encoding="utf-8")
    assert "v100-sxm moves 900 GB/s." in page
    assert "ZeroDivisionError: by &lt;nought&gt;" in page
    document = run("study", "--all", "--json")
    assert [one["failure"] for one in json.loads(document[1])["studies"]] == [None, "ZeroDivisionError: by <nought>"]


def test_one_that_fails_alone_is_an_error_of_the_program(run):
    status, out, err = run("study", "failing", "--out", "made")
    assert (status, out) == (1, "")
    assert "internal error" in err
    assert os.listdir() == []


def test_studies_run_in_two_processes(monkeypatch):
    monkeypatch.setattr("reports.study_runs.WORKERS", 2)
    done_, names = [], ["no-such", "neither"]  # the workers know the catalogue as it ships
    found = run_all(names, Bench(), lambda one: done_.append(one.name))
    assert [one.name for one in found] == names
    assert sorted(done_) == sorted(names)
    assert all(one.failure.startswith("StudyError: unknown study") for one in found)


def test_the_examples_parse(run):
    examples = done(run("study", "--help")).split("examples:")[1]
    for line in examples.strip().splitlines():
        options, unknown = cli.commands().parse_known_args(line.split()[1:])
        assert options.command == "study"
        assert unknown == []


# -- refusals ------------------------------------------------------------------------------------------


@pytest.fixture
def unrun(monkeypatch):
    """Nothing may run."""
    monkeypatch.setattr("reports.study_command._one", None)
    monkeypatch.setattr("reports.study_command.run_all", None)


@pytest.mark.usefixtures("unrun")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("tyni",), "unknown study 'tyni' (did you mean 'tiny'?)"),
        (("--all", "tiny"), "argument --all: it runs every study, tiny too; leave the name or --all"),
        (("--list", "tiny"), "argument --list: it goes alone, not with tiny"),
        (("--list", "--all"), "argument --list: it goes alone, not with --all"),
        (("--out", "made"), "argument --out: name a study, or --all"),
        (("--json",), "argument --json: name a study, or --all"),
        (("--all", "--chart", "a.png"), "argument --chart: the charts of one study; --out writes those of several"),
        (("tiny", "--chart", "a.bmp"), "argument --chart: a.bmp: the suffix must be one of .png, .svg, .pdf"),
        (("tiny", "--on", "v100-sxn"), "unknown accelerator 'v100-sxn' (did you mean 'v100-sxm'?)"),
        (("tiny", "--set", "memory.dram.bandwidth=2W"), "memory.dram.bandwidth_bytes_per_s: '2W' is in W"),
        (("--all", "--set", "memory.hbn.bandwidth=2TB/s"), "a100-pcie-40gb: "),
        (("tiny", "--set", "speed"), "argument --set: must be NAME=VALUE, got 'speed'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_runs(run, given, said):
    assert refused(run("study", *given)).startswith(said)
    assert os.listdir() == []


@pytest.mark.usefixtures("unrun")
def test_a_place_that_is_no_folder_is_refused(run):
    Path("file").write_text("mine", encoding="utf-8")
    assert refused(run("study", "tiny", "--out", "file")) == "argument --out: file: not a folder"
    assert refused(run("study", "--all", "--out", "no/such")).startswith("argument --out: no/such: there is no folder")
    assert os.listdir() == ["file"]


@pytest.mark.usefixtures("unrun")
def test_a_folder_that_cannot_be_written_to_is_refused(run, monkeypatch):
    def no_room(**where):
        raise OSError(28, "No space left on device")

    Path("made").mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", no_room)  # root may write anywhere
    said = refused(run("study", "tiny", "--out", "made"))
    assert said.startswith("argument --out: made: the folder ")
    assert said.endswith("cannot be written to (No space left on device)")


@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_half_written(tmp_path, there, monkeypatch):
    place = tmp_path / "made"
    if there:
        place.mkdir()
        (place / "index.html").write_text("old", encoding="utf-8")

    def full(*_):
        raise OSError(28, "No space left on device", "b")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ReportError, match="cannot be written"):
        write(folder(str(place)), {"index.html": b"a", "charts/b": b"b"})
    assert os.listdir(tmp_path) == (["made"] if there else [])
    if there:
        assert os.listdir(place) == ["index.html"]
        assert (place / "index.html").read_text(encoding="utf-8") == "old"


def test_too_large_a_page_is_refused(run, monkeypatch):
    monkeypatch.setattr(study_folder, "MOST_BYTES", 1000)
    assert "more than the 1,000 allowed" in refused(run("study", "tiny", "--out", "made"))
    assert os.listdir() == []


# -- what a study is made of ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (12.3456, None, "12.3"),
        (123456.0, None, "123000"),
        (4096, None, "4096"),
        (0.00012345, None, "0.000123"),
        (12.3456, "{:.1f}", "12.3"),
        (float("nan"), "{:.1f}", "n/a"),
        (None, None, ""),
        (True, None, "yes"),
        ("as it is", "{:.1f}", "as it is"),
        (float("inf"), None, "inf"),
    ],
)
def test_an_entry_as_text(value, form, text):
    assert shown(value, form) == text


@pytest.mark.parametrize(
    ("published", "computed", "discrepancy"),
    [(4.0, 5.0, 0.25), (4.0, 4.0, 0.0), ((2.0, 3.0), 2.5, 0.0), ((2.0, 3.0), 1.0, -0.5), ((2.0, 3.0), 6.0, 1.0),
     (0.0, 0.0, 0.0), (0.0, 2.0, float("inf"))],
)  # fmt: skip
def test_discrepancy(published, computed, discrepancy):
    assert Outside(what="a", published=published, computed=computed, unit="", source="b").discrepancy == discrepancy


def test_a_table_checks_its_rows_and_formats():
    with pytest.raises(StudyError, match="'t': a row has 1 cells where there are 2 columns"):
        Table(caption="t", columns=["a", "b"], rows=[[1]])
    with pytest.raises(StudyError, match=r"no column 'lenth' \(did you mean 'length'\?\)"):
        Table(caption="t", columns=["length"], rows=[[1]], formats={"lenth": "{}"})
    mixed = Table(caption="t", columns=["a", "b", "c"], rows=[[1, "x", 2.0], ["never", "y", None]])
    assert mixed.numeric() == ["a", "c"]


def test_an_attempt_never_raises():
    assert attempt("failing", Bench()).failure == "ZeroDivisionError: by <nought>"
    assert attempt("tiny", Bench(on=("nothing",))).failure.startswith("AcceleratorError: ")
    assert attempt("tiny", Bench()).pictures


def test_a_study_is_found_by_name():
    assert studies() == catalogue.NAMES
    assert study("tiny") is TINY


def test_ctrl_c_leaves_nothing_and_says_nothing(tmp_path):
    """Sent to the whole group, as a terminal does, when the first study is done."""
    command = [sys.executable, "-m", "reports.cli", "study", "--all", "--out", str(tmp_path / "made")]
    started = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert started.stderr.readline().startswith("rooftrace: 1 of ")
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert out == ""
    assert all(line.startswith("rooftrace: ") for line in err.splitlines())
    assert list(tmp_path.iterdir()) == []
