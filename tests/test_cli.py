"""The command line, called as a user calls it: what is printed and written, every refusal in one line, no traceback."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import done, refused

from reports import cli, export
from reports.arguments import ReportError
from reports.requests import Workload, chip, substitute
from reports.units import format_quantity
from simulator import AcceleratorError, preset, presets, simulate
from workloads import Trace, network, networks
from workloads.trace import ELEMENT_BYTES
from workloads.training import training

ROOT = Path(__file__).resolve().parents[1]
RUN = ("run", "lstm-acoustic", "--on", "v100-sxm")


# -- run ---------------------------------------------------------------------------------------------


def test_run_prints_header_summary_and_every_op(run):
    out = done(run("run", "lstm-zaremba-large", "--on", "v100-sxm", "--batch", "1"))
    result = simulate(network("lstm-zaremba-large", batch=1), preset("v100-sxm"))
    lines = out.splitlines()
    assert lines[0] == "lstm-zaremba-large on NVIDIA Tesla V100 SXM2 16 GB (v100-sxm)"
    assert "fp16, batch 1, 35 positions" in lines[1]
    for figure in (
        format_quantity(result.latency_s, "s"),
        f"{format_quantity(result.sequences_per_s)} sequences/s",
        f"{format_quantity(result.tokens_per_s)} tokens/s",
        "utilisation",
        "time by bound",
        "memory",
    ):
        assert figure in out
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("layer ")) + 1 :]
    assert len(table) == len(result.trace)
    for line, bound in zip(table, result.bound, strict=True):
        assert f" {bound} " in line
    assert "through dram at" in out


def test_run_shows_only_the_longest(run):
    out = done(run(*RUN, "--top", "2"))
    assert out.splitlines()[-1].startswith(f"{len(network('lstm-acoustic')) - 2} more")


def test_settings_reach_the_network(run):
    out = done(
        run(*RUN, "--batch", "3", "--seq-len", "7", "--dtype", "fp32", "--option", "hidden=640", "layers=3", "--json")
    )
    expected = network("lstm-acoustic", batch=3, seq_len=7, dtype="fp32", hidden=640, layers=3)
    document = json.loads(out)
    assert document["network"]["sequences"] == 3
    assert document["network"]["tokens"] == 7
    assert document["network"]["dtypes"] == ["fp32"]
    assert document["network"]["parameters"] == expected.total_parameters
    assert document["summary"]["latency_s"] == simulate(expected, preset("v100-sxm")).latency_s


def test_flags_and_text_reach_the_network(run):
    out = done(run("run", "bert-base", "--on", "v100-sxm", "--option", "fused=false", "norm=rms", "--json"))
    expected = network("bert-base", fused=False, norm="rms")
    assert json.loads(out)["network"]["flops"] == expected.total_flops


def test_decode_against_a_cache(run):
    out = done(run("run", "gpt2-small", "--on", "v100-sxm", "--mode", "decode", "--cache-length", "100", "--json"))
    expected = simulate(network("gpt2-small", mode="decode", cache_length=100), preset("v100-sxm"))
    assert json.loads(out)["summary"]["latency_s"] == expected.latency_s


@pytest.mark.parametrize(("given", "optimiser"), [((), "sgd"), (("adam",), "adam")])
def test_training(run, given, optimiser):
    out = done(run(*RUN, "--training", *given, "--json"))
    expected = simulate(training(network("lstm-acoustic"), optimiser), preset("v100-sxm"))
    assert json.loads(out)["summary"]["latency_s"] == expected.latency_s
    assert "training step" in done(run(*RUN, "--training", *given))


def test_fields_of_the_chip_are_changed(run):
    out = done(
        run(*RUN, "--set", "memory.dram.bandwidth=2TB/s", "matrix.clock=900MHz", "--set", "matrix.count=40", "--json")
    )
    changes = {"memory.dram.bandwidth_bytes_per_s": 2e12, "matrix.clock_hz": 9e8, "matrix.count": 40.0}
    document = json.loads(out)
    assert document["accelerator"]["changes"] == changes
    expected = simulate(network("lstm-acoustic"), preset("v100-sxm").replace(changes))
    assert document["summary"]["latency_s"] == expected.latency_s
    assert "with memory.dram.bandwidth = 2TB/s" in done(run(*RUN, "--set", "memory.dram.bandwidth=2TB/s"))


def test_flags_and_choices_of_the_chip_are_changed(run):
    settings = ("abilities.fuses_elementwise=true", "matrix.macs_per_cycle.int8=1024")
    document = json.loads(done(run(*RUN, "--set", *settings, "--json")))
    assert document["accelerator"]["changes"] == {
        "abilities.fuses_elementwise": True,
        "matrix.macs_per_cycle.int8": 1024.0,
    }
    assert any(" + " in op["op"] for op in document["ops"])  # gates merged into the product


def test_a_warning_is_printed(run):
    status, out, err = run("run", "llama-2-70b", "--on", "v100-sxm", "--top", "1")
    assert (status, err) == (0, "")
    assert "\nwarning" in out
    status, out, err = run("run", "llama-2-70b", "--on", "v100-sxm", "--json")
    assert status == 0
    assert err.startswith("rooftrace: warning: does not fit")
    assert json.loads(out)["summary"]["fits"] is False


# -- element types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "available", "expected"),
    [
        ("fp16", ("fp16", "bf16"), "fp16"),
        ("fp16", ("int8", "bf16", "fp32"), "bf16"),
        ("bf16", ("fp16", "fp32"), "fp16"),
        ("fp16", ("fp32", "fp64"), "fp32"),
        ("fp16", ("fp64",), "fp64"),
        ("fp16", ("fp8", "int8", "int16", "int32"), None),
        ("int8", ("fp8", "fp16"), "fp16"),
        ("int8", ("fp8",), None),
        ("int16", ("fp16", "bf16", "fp32"), "fp32"),
        ("fp8", ("bf16", "int8"), "bf16"),
        ("fp32", ("bf16", "tf32", "fp16"), None),
        ("fp32", ("fp64", "tf32"), "fp64"),
        ("tf32", ("fp32", "bf16"), "fp32"),
        ("fp64", ("fp32",), None),
    ],
)
def test_substitute(dtype, available, expected):
    assert substitute(dtype, available) == expected


@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
@pytest.mark.parametrize("name", presets())
def test_a_substitute_never_has_fewer_bytes(dtype, name):
    other = substitute(dtype, preset(name).dtypes)
    assert other is None or ELEMENT_BYTES[other] >= ELEMENT_BYTES[dtype]


def test_another_type_is_used_and_said(run):
    status, out, err = run("run", "lstm-acoustic", "--on", "tpu-v4")
    assert status == 0
    assert err == "rooftrace: note: lstm-acoustic runs in bf16 on tpu-v4, which has no fp16\n"
    assert "bf16, batch 4" in out


def test_no_type_is_wide_enough(run):
    said = refused(run("run", "lstm-acoustic", "--on", "tpu-v1"))
    assert "tpu-v1 has no element type as wide as the fp16 of lstm-acoustic" in said
    assert "--dtype: int8" in said
    assert done(run("run", "lstm-acoustic", "--on", "tpu-v1", "--dtype", "int8", "--top", "1"))


def test_a_type_asked_for_is_not_replaced(run):
    said = refused(run("run", "lstm-acoustic", "--on", "tpu-v4", "--dtype", "fp16"))
    assert "tpu-v4" in said
    assert "'fp16'" in said


def test_weights_keep_the_type_asked_for(run):
    status, out, _ = run("run", "lstm-acoustic", "--on", "tpu-v4", "--weight-dtype", "int8", "--json")
    half = json.loads(done(run("run", "lstm-acoustic", "--on", "v100-sxm", "--json")))
    assert status == 0
    weights = json.loads(out)["summary"]["footprint_bytes"]["weights"]
    assert weights == half["summary"]["footprint_bytes"]["weights"] / 2


# -- json and csv ------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [("--json",), ("--json", "-"), ("--json=-",)])
def test_json_on_standard_output_stands_alone(run, option):
    document = json.loads(done(run(*RUN, *option)))
    expected = export.result_document(simulate(network("lstm-acoustic"), preset("v100-sxm")))
    assert document == expected
    assert document["schema_version"] == 1


def test_csv_on_standard_output_stands_alone(run):
    rows = list(csv.DictReader(io.StringIO(done(run(*RUN, "--csv", "-")))))
    assert len(rows) == len(network("lstm-acoustic"))
    assert {"network", "accelerator", "layer", "op", "time_s", "bound", "dram_bytes", "latency_bound_s"} <= set(rows[0])


def test_files_are_written_beside_the_tables(run, tmp_path):
    out = done(run(*RUN, "--csv", "a.csv", "--json", "a.json", "--chart", "a.png", "--breakdown", "b.svg"))
    assert "latency" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.json", "a.png", "b.svg"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "b.svg").read_bytes().startswith(b"<?xml")
    assert json.loads((tmp_path / "a.json").read_text())["network"]["name"] == "lstm-acoustic"
    assert (tmp_path / "a.csv").read_text() == done(run(*RUN, "--csv", "-"))


# -- traces in files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet", ".csv.gz", ".json.gz"])
def test_a_trace_goes_out_and_comes_back(run, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    out = done(run("trace", "lstm-acoustic", "--out", f"t{suffix}", "--batch", "2"))
    assert f"t{suffix}" in out
    assert Trace.load(tmp_path / f"t{suffix}") == network("lstm-acoustic", batch=2)
    again = json.loads(done(run("run", f"t{suffix}", "--on", "v100-sxm", "--json")))
    direct = json.loads(done(run(*RUN, "--batch", "2", "--json")))
    assert again["summary"] == direct["summary"]


def test_a_trained_trace_goes_out(run, tmp_path):
    done(run("trace", "lstm-acoustic", "--training", "adam", "--out", "t.csv"))
    assert Trace.load(tmp_path / "t.csv") == training(network("lstm-acoustic"), "adam")


def test_a_file_states_its_own_settings(run):
    done(run("trace", "lstm-acoustic", "--out", "t.csv"))
    assert "batch applies to a network by name; t.csv states its own" in refused(
        run("run", "t.csv", "--on", "v100-sxm", "--batch", "2")
    )
    assert "'fp16'" in refused(run("run", "t.csv", "--on", "tpu-v4"))
    assert done(run("run", "t.csv", "--on", "v100-sxm", "--training", "--top", "1"))


def test_a_chip_from_a_file(run, tmp_path):
    text = (ROOT / "simulator" / "presets" / "tpu-v4.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace('name = "tpu-v4"', 'name = "mine"'), encoding="utf-8")
    command = ("run", "lstm-acoustic", "--dtype", "bf16", "--json", "--on")
    document = json.loads(done(run(*command, "mine.toml")))
    assert document["accelerator"]["name"] == "mine"
    assert document["summary"] == json.loads(done(run(*command, "tpu-v4")))["summary"]
    assert "memory.dram.bandwidth_bytes_per_s" in done(run("accelerators", "mine.toml"))


# -- compare -----------------------------------------------------------------------------------------


def test_compare_has_a_line_a_pair(run):
    status, out, err = run("compare", "lstm-acoustic", "bert-base", "--on", "v100-sxm", "tpu-v4", "--batch", "2")
    assert status == 0
    assert err.count("runs in bf16 on tpu-v4") == 2
    lines = out.splitlines()
    assert len(lines) == 5
    for line, (name, on) in zip(
        lines[1:],
        [(n, c) for n in ("lstm-acoustic", "bert-base") for c in ("v100-sxm", "tpu-v4")],
        strict=True,
    ):
        assert line.split()[:2] == [name, on]
        result = simulate(network(name, batch=2, dtype="bf16" if on == "tpu-v4" else "fp16"), preset(on))
        assert format_quantity(result.latency_s, "s") in line


def test_compare_writes_charts_and_numbers(run, tmp_path):
    pair = ("compare", "lstm-acoustic", "tpu-v1-mlp0", "--on", "v100-sxm", "h100-sxm", "--dtype", "fp16")
    done(run(*pair, "--chart", "c.png", "--breakdown", "b.pdf", "--csv", "c.csv", "--json", "c.json"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.pdf", "c.csv", "c.json", "c.png"]
    with open(tmp_path / "c.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["network"], r["accelerator"]) for r in rows] == [
        (n, c) for n in ("lstm-acoustic", "tpu-v1-mlp0") for c in ("v100-sxm", "h100-sxm")
    ]
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["format"] == "rooftrace-comparison"
    assert [r["summary"]["latency_s"] for r in document["results"]] == [float(r["latency_s"]) for r in rows]


def test_compare_changes_every_chip(run):
    pair = ("compare", "lstm-acoustic", "--on", "v100-sxm", "h100-sxm", "--set", "latency.launch=1s")
    document = json.loads(done(run(*pair, "--json")))
    assert [r["accelerator"]["changes"] for r in document["results"]] == [{"latency.launch_s": 1.0}] * 2
    assert all(r["summary"]["latency_s"] > 1 for r in document["results"])
    assert done(run(*pair)).startswith("with latency.launch = 1s\n")


def test_compare_warns_on_standard_error(run):
    status, out, err = run("compare", "llama-2-70b", "--on", "v100-sxm", "h100-sxm")
    assert status == 0
    assert err.count("rooftrace: warning: ") == 2
    assert "v100-sxm: does not fit" in err
    assert out.count("too small") == 2


# -- lists -------------------------------------------------------------------------------------------


def test_networks_lists_all_with_parameters_and_source(run):
    out = done(run("networks"))
    for name in networks():
        line = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        assert line.endswith(format_quantity(network(name).total_parameters))
    assert "arXiv:1409.2329" in out


def test_one_network_shows_what_may_be_set(run):
    out = done(run("networks", "gnmt"))
    for part in ("title", "source", "arXiv:1609.08144", "hidden = 1024", "hoist_input", "278M"):
        assert part in out


def test_accelerators_lists_all_with_peak_and_bandwidth(run):
    lines = done(run("accelerators")).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(presets())
    v100 = next(line for line in lines if line.startswith("v100-sxm"))
    for part in ("2017", "fp16 125 TFLOP/s", "dram 900 GB/s", "16 GB"):
        assert part in v100


@pytest.mark.parametrize("name", presets())
def test_one_accelerator_shows_every_number_with_its_source(run, name):
    out = done(run("accelerators", name))
    rows = {line.split()[0]: line for line in out.split("\n\n")[1].splitlines()[1:]}
    device = preset(name)
    # a family shares assumptions that mean nothing to its members of the other dataflow
    meaningless = {"matrix.stores_padded_tiles", "matrix.reach_cost", "matrix.operand_macs", "matrix.batched_tile"}
    meaningless |= {f"matrix.{name}" for name in ("loop_cycles_per_byte", "resident_results", "split_cycles")}
    assert device.citations.keys() - rows.keys() <= meaningless
    for path, citation in device.citations.items():
        if path not in rows:
            continue
        assert citation.source in rows[path], path
        assert citation.basis in rows[path], path
    assert set(rows) == {row["field"] for row in device.describe()}
    without = [path for path in rows if path not in device.citations]
    assert all(isinstance(device.fields[path], str) for path in without), "a number without a source"


@pytest.mark.parametrize("name", ["v100-pcie", "h100-sxm", "tpu-v1"])
def test_one_accelerator_counts_where_its_numbers_come_from(run, name):
    """Of a device that was fitted, of one that has its class's constants, of one of a class nobody measured."""
    said = next(line for line in done(run("accelerators", name)).splitlines() if "numbers with a source" in line)
    cited = [(row["basis"], row["source"]) for row in preset(name).describe() if row["basis"]]
    inherited = sum(source.startswith("class default") for _, source in cited)
    measured = sum(basis == "measured" for basis, _ in cited) - inherited
    fitted = sum(source.startswith("fitted to") for _, source in cited)
    assumed = sum(basis in ("assumed", "estimated") for basis, _ in cited)
    counts = [len(cited), measured, fitted, inherited, assumed]
    assert [int(n) for n in re.findall(r"(\d+)", said)][:5] == counts
    assert (fitted > 0) == (name == "v100-pcie")
    assert (inherited > 0) == (name != "tpu-v1")


def test_run_shows_the_interval_of_a_calibrated_chip_alone(run):
    lines = done(run("run", "lstm-zaremba-large", "--on", "v100-sxm", "--batch", "1")).splitlines()
    low, high = simulate(network("lstm-zaremba-large", batch=1), preset("v100-sxm")).latency_interval_s
    shown = f"(80 %: {1e3 * low:.3g} to {format_quantity(high, 's')})"
    assert shown in next(line for line in lines if line.startswith("latency "))
    assert "80 %:" not in done(run("run", "tpu-v1-mlp0", "--on", "tpu-v1"))


# -- help and version --------------------------------------------------------------------------------


def test_one_accelerator_shows_its_silicon_beside_what_is_published(run):
    derived, parts = done(run("accelerators", "h100-sxm")).rstrip("\n").rsplit("\n\n", 1)[1].rsplit("\n", 1)
    rows = {line[:15].strip(): line for line in derived.splitlines()[1:]}
    assert "814 mm2" in rows["area"]
    assert "H100 Tensor Core GPU Architecture whitepaper" in rows["area"]
    assert "700 W" in rows["power, design"]
    assert {"edge taken", "edge available", "power, static", "price of dies", "price of memory"} <= set(rows)
    assert all(" to " in line for line in rows.values())
    assert parts.startswith("area by part, mm2: matrix ")


def test_run_shows_energy_power_and_price(run):
    lines = done(run("run", "bert-base", "--on", "v100-sxm")).splitlines()
    energy = next(line for line in lines if line.startswith("energy  "))
    assert re.search(r"energy +[\d.]+ m?J, [\d.]+ W on average, [\d.]+ [mu]J a token", energy)
    assert any(line.startswith("energy by use") and "static" in line for line in lines)
    assert any(line.startswith("price") and "USD a million tokens" in line for line in lines)


def test_validate_prints_the_judged_and_the_fitted_apart(run):
    comparison, errors = done(run("validate", "--set", "silicon")).rstrip("\n").split("\n\n")
    judged = {line.split()[1] for line in comparison.splitlines() if line.startswith("judged")}
    fitted = {line.split()[1] for line in comparison.splitlines() if line.startswith("fitted")}
    assert len(judged) >= 8
    assert not judged & fitted
    for quantity in ("area", "peak power", "peak"):
        assert any(line.startswith("judged") and f" {quantity} " in line for line in errors.splitlines())


@pytest.mark.parametrize("command", ["run", "compare", "networks", "accelerators", "trace", "validate"])
def test_help_has_examples_that_parse(run, command):
    out = done(run(command, "--help"))
    examples = out.split("examples:")[1]
    assert f"rooftrace {command}" in examples
    for line in examples.strip().splitlines():
        options, unknown = cli.commands().parse_known_args(line.split()[1:])
        assert options.command == command
        assert unknown == []


def test_help_and_version_of_the_whole(run):
    assert "COMMAND" in done(run("--help"))
    assert done(run("--version")) == f"rooftrace {export.version()}\n"


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1.5", "1e3", "", "x", "0x10"])
@pytest.mark.parametrize("option", ["--batch", "--seq-len", "--top"])
def test_a_count_that_is_none_is_refused(run, option, value):
    assert refused(run(*RUN, option, value)) == (
        f"argument {option}: must be a whole number of 1 or more, got {value!r}"
    )


@pytest.mark.parametrize("value", ["1e20", "99999999999999999999", "1000000000000000000"])
@pytest.mark.parametrize("option", ["--batch", "--top"])
def test_a_count_beyond_all_measure_is_too_large(run, option, value):
    said = refused(run(*RUN, option, value))
    assert said == f"argument {option}: is too large (must be below 1e+18), got {value!r}"


def test_a_folder_is_no_network(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("nets", "bert-base"):
        (tmp_path / folder).mkdir()
    assert refused(run("run", "nets", "--on", "v100-sxm")) == "nets is a folder, not a network: name a file in it"
    assert done(run("run", "bert-base", "--on", "v100-sxm"))  # a network of that name comes first


def test_a_table_without_its_sizes_is_warned_of(run, tmp_path):
    done(run("trace", "lstm-acoustic", "--out", str(tmp_path / "t.csv")))
    text = (tmp_path / "t.csv").read_text().split("\n", 1)[1]
    (tmp_path / "cut.csv").write_text(text)
    status, out, err = run("run", str(tmp_path / "cut.csv"), "--on", "v100-sxm")
    assert (status, bool(out)) == (0, True)
    assert err.startswith("rooftrace: warning: ")
    assert "cut.csv: does not state sequences and tokens" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "required: COMMAND"),
        (("rnu",), "invalid choice: 'rnu'"),
        (("run",), "required: NETWORK|FILE, --on"),
        (("run", "bert-base"), "required: --on"),
        (("run", "bert-bse", "--on", "v100-sxm"), "unknown network 'bert-bse' (did you mean 'bert-base'?)"),
        (("run", "bert-base", "--on", "v100-smx"), "unknown accelerator 'v100-smx' (did you mean 'v100-sxm'?)"),
        (("networks", "gnm"), "unknown network 'gnm' (did you mean 'gnmt'?)"),
        (("accelerators", "tpu-1"), "unknown accelerator 'tpu-1' (did you mean 'tpu-v1'?)"),
        ((*RUN, "--bacth", "3"), "unknown argument '--bacth' (did you mean '--batch'?)"),
        ((*RUN, "extra"), "unknown argument 'extra'"),
        ((*RUN, "--batch"), "argument --batch: expected one argument"),
        ((*RUN, "--cache-length", "-1"), "argument --cache-length: must be a whole number of 0 or more, got '-1'"),
        ((*RUN, "--dtype", "fp17"), "unknown element type 'fp17' (did you mean 'fp16'?)"),
        ((*RUN, "--weight-dtype", "fp17"), "fp17"),
        ((*RUN, "--mode", "decode"), "lstm-acoustic: unknown setting 'mode'"),
        (("run", "gpt2-small", "--on", "v100-sxm", "--mode", "decod"), "did you mean 'decode'?"),
        ((*RUN, "--training", "adm"), "argument --training: invalid choice: 'adm'"),
        ((*RUN, "--option", "lyers=2"), "unknown setting 'lyers' (did you mean 'layers'?)"),
        ((*RUN, "--option", "layers"), "argument --option: must be NAME=VALUE, got 'layers'"),
        ((*RUN, "--option", "layers=0"), "layers must be a whole number of 1 or more, got 0"),
        ((*RUN, "--option", "layers=1.5"), "layers must be a whole number of 1 or more, got 1.5"),
        ((*RUN, "--option", "name=x"), "unknown setting 'name'"),
        (("run", "tpu-v1-cnn0", "--on", "tpu-v1", "--option", "stages=3"), "tpu-v1-cnn0: stages is a list, got 3"),
        ((*RUN, "--batch", "2", "--option", "batch=3"), "argument --option: batch is given twice"),
        ((*RUN, "--batch", "999999999999999999"), "beyond 64 bits"),
        ((*RUN, "--set", "matrix.count"), "argument --set: must be NAME=VALUE, got 'matrix.count'"),
        ((*RUN, "--set", "=3"), "argument --set: must be NAME=VALUE"),
        ((*RUN, "--set", "memory.dram.bandwith=1"), "unknown field 'memory.dram.bandwith' (did you mean"),
        (
            (*RUN, "--set", "memory.dram.bandwidth=2GHz"),
            "memory.dram.bandwidth_bytes_per_s: '2GHz' is in Hz; expected B/s",
        ),
        ((*RUN, "--set", "memory.dram.bandwidth=2Tb/s"), "bits are not used"),
        ((*RUN, "--set", "memory.dram.bandwidth=0B/s"), "memory.dram.bandwidth_bytes_per_s must be above 0, got 0"),
        ((*RUN, "--set", "memory.dram.bandwidth=nan"), "memory.dram.bandwidth_bytes_per_s: 'nan' is not a number"),
        ((*RUN, "--set", "memory.dram.bandwidth=1e-320"), "the time is not finite"),
        ((*RUN, "--set", "matrix.count=-1"), "matrix.count must be above 0, got -1"),
        ((*RUN, "--set", "matrix.count=1.5"), "matrix.count must be a whole number, got 1.5"),
        ((*RUN, "--set", "matrix.dataflow=sideways"), "'sideways'"),
        ((*RUN, "--set", "abilities.fuses_elementwise=3"), "'3' is neither true nor false"),
        ((*RUN, "--set", "matrix.count=1", "matrix.count=2"), "matrix.count is set twice"),
        ((*RUN, "--set", "matrix.clock=1GHz", "matrix.clock_hz=2GHz"), "matrix.clock_hz is set twice"),
        (("run", "none.csv", "--on", "v100-sxm"), "none.csv: no such file"),
        (("run", "none.parquet", "--on", "v100-sxm"), "none.parquet: no such file"),
        (("run", "bert-base", "--on", "none.toml"), "none.toml: no such file"),
        (("accelerators", "none.toml"), "none.toml: no such file"),
        (("compare", "bert-base", "--on"), "argument --on: expected at least one argument"),
        (("compare", "--on", "v100-sxm"), "required: NETWORK|FILE"),
        (("trace", "gnmt"), "required: --out"),
        (("trace", "gnmt", "--out", "t.txt"), "argument --out: a trace is a .csv, .json"),
        (("trace", "gnmt", "--out", "none/t.csv"), "there is no folder none"),
    ],
)
def test_is_refused_in_one_line(run, tmp_path, argv, said):
    assert said in refused(run(*argv))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.csv", "layer,op,kind\na,b,matmul\nc,d\n", "broken.csv: row 1: 2 cells"),
        ("broken.csv", "", "broken.csv: empty"),
        ("broken.json", "{", "broken.json: not valid JSON"),
        ("broken.json.gz", "plain", "broken.json.gz: cannot be read"),
        ("broken.toml", "name = ", "broken.toml: not valid TOML"),
    ],
)
def test_a_broken_file_is_refused(run, tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    argv = ("run", "bert-base", "--on", name) if name.endswith(".toml") else ("run", name, "--on", "v100-sxm")
    assert said in refused(run(*argv))


@pytest.mark.parametrize("command", [RUN, ("compare", "lstm-acoustic", "--on", "v100-sxm", "h100-sxm")])
@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (("--chart", "a.jpg"), "argument --chart: a.jpg: the suffix must be one of .png, .svg, .pdf, got '.jpg'"),
        (("--breakdown", "a"), "argument --breakdown: a: the suffix must be one of .png, .svg, .pdf, got none"),
        (("--chart", "none/a.png"), "argument --chart: none/a.png: there is no folder none"),
        (("--csv", "none/a.csv"), "argument --csv: none/a.csv: there is no folder none"),
        (("--json", "."), "argument --json: .: not an ordinary file"),
        (("--csv", "/dev/null"), "argument --csv: /dev/null: not an ordinary file"),
        (("--csv", "-", "--json", "-"), "argument --json: --csv already writes to -"),
        (("--chart", "a.png", "--breakdown", "./a.png"), "argument --breakdown: --chart already writes to ./a.png"),
        (("--csv", "ok.csv", "--chart", "a.gif"), "argument --chart"),
    ],
)
def test_bad_outputs_are_refused_before_any_work(run, tmp_path, monkeypatch, command, outputs, said):
    monkeypatch.setattr(cli, "simulate", lambda *_: pytest.fail("computed before the outputs were checked"))
    assert said in refused(run(*command, *outputs))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(run, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "a.csv: cannot be written (No space left on device)" in refused(run(*RUN, "--csv", "a.csv"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_a_file_error_names_the_file(run, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied", "secret.csv")

    monkeypatch.setattr(cli, "simulate", fail)
    assert refused(run(*RUN)) == "secret.csv: Permission denied"


def test_an_interrupt_is_130(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "simulate", interrupt)
    assert run(*RUN) == (130, "", "")


def test_a_mistake_of_ours_is_told_apart(run, monkeypatch):
    monkeypatch.setattr(cli, "simulate", lambda *_: 1 / 0)
    status, out, err = run(*RUN)
    assert (status, out) == (1, "")
    assert err == "rooftrace: error: internal error, please report it: ZeroDivisionError: division by zero\n"


# -- as a process ------------------------------------------------------------------------------------


def process(*argv: str, **settings):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "reports.cli", *argv], env=environment, text=True, **settings)


def test_a_closed_pipe_is_quiet():
    writer = process(*RUN, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.close()
    assert writer.wait(60) == 141
    assert writer.stderr.read() == ""
    writer.stderr.close()


def test_a_full_disk_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        writer = process("networks", stdout=full, stderr=subprocess.PIPE)
        _, err = writer.communicate(timeout=60)
    assert writer.returncode == 2
    assert err == "rooftrace: error: [Errno 28] No space left on device\n"


def test_a_terminal_without_the_letters_gets_question_marks(tmp_path):
    (tmp_path / "t.csv").write_text(
        '# rooftrace-trace {"sequences": 1, "tokens": 1}\n'
        "layer,op,kind,batch,m,n,k,matrix_flops,weight_bytes,dtype\nKöln,p,matmul,1,2,2,2,16,8,fp16\n",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "reports.cli", "run", str(tmp_path / "t.csv"), "--on", "v100-sxm"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "K?ln" in finished.stdout


@pytest.mark.parametrize("argv", [("networks",), ("accelerators",), ("run", "bert-base", "--on", "v100-sxm")])
def test_text_commands_import_neither_matplotlib_nor_pandas(argv):
    script = (
        "import sys\nfrom reports.cli import main\n"
        f"status = main({list(argv)!r})\n"
        "sys.exit(status or bool({'matplotlib', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert finished.returncode == 0


# -- the pieces --------------------------------------------------------------------------------------


def test_a_chip_with_changes_says_so_in_its_title():
    changed, values = chip("v100-sxm", [("matrix.count", "40"), ("matrix.clock", "1GHz"), ("latency.launch", "1us")])
    assert values == {"matrix.count": 40.0, "matrix.clock_hz": 1e9, "latency.launch_s": 1e-6}
    assert changed.title.endswith("with matrix.count = 40 and 2 more fields")
    assert changed.name == "v100-sxm"
    assert chip("v100-sxm")[0].title == preset("v100-sxm").title
    with pytest.raises(AcceleratorError, match="unknown accelerator"):
        chip("v100")


def test_a_workload_refuses_settings_of_a_file():
    with pytest.raises(ReportError, match="seq_len applies to a network by name"):
        Workload("a.json.gz", {"seq_len": 3})
    assert Workload("a.JSON").is_file
    assert not Workload("opt-1.3b").is_file
