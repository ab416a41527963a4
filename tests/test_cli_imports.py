"""Networks from files at the command line: every form, called as a user calls it, and every refusal in one line."""

from __future__ import annotations

import gzip
import json
import math
import sys
import warnings

import pytest
from command import done, refused

from reports import ReportError, charts
from reports.measured import compare_rows, measured_points
from reports.roofline_markers import marker_area
from reports.sources import kind_of, read
from simulator import preset, simulate
from workloads import Trace, linear, network
from workloads.importers import UncostedOperator, from_profile, from_table
from workloads.training import training

NEEDS_TORCH = "needs the extra: pip install 'rooftrace[torch]'"
NEEDS_ONNX = "needs the extra: pip install 'rooftrace[onnx]'"
ON = ("--on", "v100-sxm")

TOPOLOGY = "Layer,M,N,K,\nfirst,32,64,16,\nsecond,32,8,64,\n"
KERNELS = '"ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum"\n"","","us","byte"\n"0","gemm","10","4096"\n'


def operator(name, start, length, dims):
    given = {"Input Dims": dims, "Input type": ["float" if d else "" for d in dims]}
    given["Concrete Inputs"] = [""] * len(dims)
    return {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": start, "dur": length, "args": given}


LINEAR = operator("aten::linear", 0, 100, [[4, 8], [16, 8], [16]])
RELU = operator("aten::relu", 200, 30, [[4, 16]])
PROFILE = {"schemaVersion": 1, "traceEvents": [LINEAR, RELU]}


@pytest.fixture
def write(tmp_path):
    """Writes a file in that folder, gzipped where the name says so."""

    def put(name: str, content) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        data = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        (tmp_path / name).write_bytes(data)
        return name

    return put


# -- what a name names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert-base", None),
        ("t.csv", "table"),
        ("T.JSON.GZ", "table"),
        ("t.parquet", "table"),
        ("m.onnx", "onnx"),
        ("folder/m.ONNX", "onnx"),
        ("my.py:build", "python"),
        ("C:\\x\\my.py:build", "python"),
        ("my.py", "python"),
        ("my.py:", "python"),
        ("my.pyx:build", None),
        ("my.onnx:build", None),
    ],
)
def test_kind_of(name, kind):
    assert kind_of(name) == kind


# -- tables ------------------------------------------------------------------------------------------


def test_a_topology_of_scale_sim(run, write):
    write("net.csv", TOPOLOGY)
    out = done(run("run", "net.csv", *ON, "--json"))
    expected = simulate(from_table("net.csv"), preset("v100-sxm"))
    document = json.loads(out)
    assert document["summary"]["latency_s"] == expected.latency_s
    assert document["network"]["flops"] == 2 * 32 * 64 * (16 + 8)
    assert "measured" not in document


def test_a_topology_becomes_our_trace(run, write):
    write("net.csv", TOPOLOGY)
    done(run("trace", "net.csv", "--out", "out.json"))
    assert Trace.load("out.json") == from_table("net.csv")
    assert done(run("run", "out.json", *ON)).startswith("net on ")


def test_training_a_topology(run, write):
    write("net.csv", TOPOLOGY)
    out = done(run("run", "net.csv", *ON, "--training", "adam", "--json"))
    expected = simulate(training(from_table("net.csv"), "adam"), preset("v100-sxm"))
    assert json.loads(out)["summary"]["latency_s"] == expected.latency_s


def test_what_an_import_warns_of_is_said_once(run, write):
    write("net.csv", "Layer,M,N,K,Sparsity\nfirst,32,64,16,2:4\n")
    status, out, err = run("compare", "net.csv", "--on", "v100-sxm", "h100-sxm")
    assert status == 0
    assert "h100-sxm" in out
    assert err.count("1 layers are sparse") == 1
    assert err.startswith("rooftrace: warning: net.csv: ")


def test_files_and_names_are_compared(run, write):
    write("net.csv", TOPOLOGY)
    out = done(run("compare", "net.csv", "lstm-acoustic", "--on", "v100-sxm"))
    assert "net " in out
    assert "lstm-acoustic" in out


@pytest.mark.parametrize("option", ["--batch", "--seq-len", "--dtype"])
@pytest.mark.parametrize("name", ["net.csv", "m.onnx", "my.py:build", "p.json.gz"])
def test_settings_of_a_file_are_its_own(run, name, option):
    value = "fp16" if option == "--dtype" else "2"
    setting = option[2:].replace("-", "_")
    said = refused(run("run", name, *ON, option, value))
    assert said == f"{setting} applies to a network by name; {name} states its own"


# -- profiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["anything.json", "net.pt.trace.json.gz"])
def test_a_profile_shows_predicted_beside_measured(run, write, name):
    write(name, PROFILE)
    out = done(run("run", name, *ON))
    result = simulate(from_profile(name).trace, preset("v100-sxm"))
    rows = compare_rows(from_profile(name), result)
    assert "measured on cpu: 130 us recorded, 100.0 % in operators with a known cost" in out
    table = out[out.index("predicted / measured") :].splitlines()[1:]
    assert len(table) == len(rows) == 2
    assert table[0].startswith("aten::linear")
    assert f"{rows[0]['predicted_over_measured']:.3g}" in table[0]
    assert "76.9 %" in table[0]  # 100 of 130


def test_a_profile_is_known_by_its_key_not_its_name(run, write):
    write("trace.json", PROFILE)
    assert read("trace.json").profile.device == "cpu"
    linear(4, 16, 8, layer='"traceEvents": [').save("profile.pt.trace.json")
    assert read("profile.pt.trace.json").profile is None
    assert "measured" not in done(run("run", "profile.pt.trace.json", *ON))


def test_a_profile_in_the_document(run, write):
    write("p.json", PROFILE)
    measured = json.loads(done(run("run", "p.json", *ON, "--json")))["measured"]
    assert measured["device"] == "cpu"
    assert measured["recorded_s"] == pytest.approx(130e-6, rel=1e-12)
    assert [op["measured_s"] for op in measured["ops"]] == pytest.approx([100e-6, 30e-6], rel=1e-12)


def test_an_unknown_operator_is_warned_of(run, write):
    write("p.json", {"traceEvents": [LINEAR, operator("mine::odd", 300, 50, [[4, 16]])]})
    status, out, err = run("run", "p.json", *ON)
    assert status == 0
    assert "66.7 % in operators with a known cost; most of the rest: mine::odd 50.0 us" in out
    assert err.startswith("rooftrace: warning: p.json: mine::odd")
    assert err.count("\n") == 1


def test_a_chip_that_merges_is_compared_without_merging(run, write):
    write("p.json", PROFILE)
    chip = ("--on", "v100-sxm", "--set", "abilities.fuses_elementwise=true")
    status, out, err = run("run", "p.json", *chip, "--json")
    assert status == 0
    assert err == (
        "rooftrace: note: abilities.fuses_elementwise of v100-sxm is false here: "
        "the profile measured elementwise work by itself\n"
    )
    document = json.loads(out)
    assert document["accelerator"]["changes"] == {"abilities.fuses_elementwise": False}
    assert len(document["ops"]) == len(document["measured"]["ops"]) == 2


def test_kernels_of_nsight(run, write):
    write("kernels.csv", KERNELS)
    assert "measured on gpu: 10.0 us recorded" in done(run("run", "kernels.csv", *ON))


def test_a_profile_in_a_chart_file(run, write, tmp_path):
    write("p.json", PROFILE)
    done(run("run", "p.json", *ON, "--chart", "c.svg"))
    drawn = (tmp_path / "c.svg").read_text()
    assert 'id="measured:0"' in drawn
    assert 'id="measured:1"' in drawn


def test_training_a_profile_is_refused(run, write):
    write("p.json", PROFILE)
    assert "training does not apply to p.json" in refused(run("run", "p.json", *ON, "--training"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.json", '{"traceEvents": [', "p.json: not valid JSON, or cut short"),
        ("p.json", {"traceEvents": 3}, "p.json: not a profile: a list 'traceEvents' is expected"),
        ("p.json", {"traceEvents": []}, "p.json: no operators"),
        ("p.json", {"traceEvents": [{**LINEAR, "args": {}}]}, "p.json: a profile without shapes"),
        ("p.json", {"events": []}, "p.json: not a trace"),
        ("net.csv", "Layer,M,N,Q\na,1,2,3\n", "net.csv: unknown column 'q'"),
        ("net.csv", "Layer,M,N,K\na,1,2,x\n", "net.csv: row 0: 'k' must be a whole number of 1 or more, got 'x'"),
        ("net.csv", "this,that\n1,2\n", "net.csv: neither our columns"),
        ("k.csv", '"ID","Kernel Name"\n"0","gemm"\n', "k.csv: "),
    ],
)
def test_a_broken_file_is_refused(run, write, name, content, said):
    write(name, content)
    assert said in refused(run("run", name, *ON))


@pytest.mark.parametrize("name", ["none.csv", "none.json.gz", "none.parquet", "none.py:build"])
def test_a_missing_file_is_refused(run, name):
    assert refused(run("run", name, *ON)) == f"{name.removesuffix(':build')}: no such file"


# -- measured points in the chart --------------------------------------------------------------------


@pytest.fixture
def measured(write, tmp_path):
    """A profile and its trace on a chip."""
    profile = from_profile(tmp_path / write("p.json", PROFILE))
    return profile, simulate(profile.trace, preset("v100-sxm"))


def drawn_as(ax, prefix):
    return {a.get_gid(): a for a in ax.get_children() if (a.get_gid() or "").startswith(prefix)}


def legend_texts(ax):
    from matplotlib.legend import Legend

    return [text.get_text() for legend in ax.findobj(Legend) for text in legend.get_texts()]


def test_measured_points_are_hollow_and_where_they_belong(measured):
    profile, result = measured
    ax = charts.roofline(result, measured=profile)
    points = measured_points(profile, result)
    drawn = drawn_as(ax, "measured:")
    assert list(drawn) == ["measured:0", "measured:1"]
    for number, marker in enumerate(drawn.values()):
        x, y = marker.get_offsets()[0]
        if number == 0:
            assert x == pytest.approx(points.intensity[number], rel=1e-12)
        else:  # nothing of it comes from the farthest memory: in the strip
            assert points.intensity[number] == math.inf
            assert x > points.intensity[0]
        assert y == pytest.approx(points.attained_flops_per_s[number], rel=1e-12)
        assert len(marker.get_facecolors()) == 0
        assert marker.get_sizes()[0] == pytest.approx(marker_area(points.share[number]))
        assert ax.get_ylim()[0] < y < ax.get_ylim()[1]
        assert ax.get_xlim()[0] < x < ax.get_xlim()[1]
    assert legend_texts(ax).count("measured (hollow circle)") == 1


def test_without_a_profile_nothing_is_measured(measured):
    ax = charts.roofline(measured[1])
    assert drawn_as(ax, "measured:") == {}
    assert "measured (hollow circle)" not in legend_texts(ax)


def test_points_above_the_roof_are_on_the_page(write, tmp_path):
    quick = {"traceEvents": [operator("aten::linear", 0, 1e-9, [[4, 8], [16, 8], [16]])]}
    profile = from_profile(tmp_path / write("p.json", quick))
    result = simulate(profile.trace, preset("v100-sxm"))
    ax = charts.roofline(result, measured=profile)
    y = drawn_as(ax, "measured:")["measured:0"].get_offsets()[0][1]
    assert y > max(float(result.accelerator.peak_flops_per_s(d)) for d in result.accelerator.dtypes)
    assert y < ax.get_ylim()[1]


def test_measured_needs_the_one_result_of_its_trace(measured):
    profile, result = measured
    with pytest.raises(ReportError, match="measured times are shown beside one result, got 2"):
        charts.roofline([result, result], measured=profile)
    other = simulate(network("lstm-acoustic"), preset("v100-sxm"))
    with pytest.raises(ReportError, match="the result is of 'lstm-acoustic'"):
        charts.roofline(other, measured=profile)


# -- ONNX --------------------------------------------------------------------------------------------


@pytest.fixture
def onnx_file(tmp_path):
    """A product of (batch, seq, 16) with 16 x 8 weights."""
    onnx = pytest.importorskip("onnx", reason=NEEDS_ONNX)
    helper = onnx.helper
    numpy = pytest.importorskip("numpy")
    weights = onnx.numpy_helper.from_array(numpy.zeros((16, 8), numpy.float32), "w")
    sizes = ["batch", "seq"]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [*sizes, 16])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [*sizes, 8])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "tiny", [x], [y], [weights])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    return "m.onnx"


@pytest.mark.onnx
@pytest.mark.parametrize(
    "dims", [("batch=8,seq=128",), ("batch=8", "seq=128"), ("batch=8", "--dims", "seq=128"), ("x=8x128x16",)]
)
def test_an_onnx_model_with_dims(run, onnx_file, dims):
    document = json.loads(done(run("run", onnx_file, *ON, "--json", "--dims", *dims)))
    assert document["network"]["flops"] == 2 * 8 * 128 * 16 * 8
    assert document["network"]["dtypes"] == ["fp32"]


@pytest.mark.onnx
def test_a_step_of_training_an_onnx_model(run, onnx_file):
    from workloads.importers import from_onnx

    out = done(run("run", onnx_file, *ON, "--dims", "batch=8,seq=4", "--training", "--json"))
    expected = simulate(training(from_onnx(onnx_file, dims={"batch": 8, "seq": 4}), "sgd"), preset("v100-sxm"))
    assert json.loads(out)["summary"]["latency_s"] == expected.latency_s


@pytest.mark.onnx
def test_dims_go_to_the_models_of_a_comparison(run, onnx_file):
    out = done(run("compare", onnx_file, "lstm-acoustic", "--dims", "batch=8,seq=4", *ON))
    assert "tiny" in out


@pytest.mark.onnx
def test_an_onnx_model_without_a_size_says_which(run, onnx_file):
    assert "batch" in refused(run("run", onnx_file, *ON, "--dims", "seq=4"))
    assert "m.onnx: " in refused(run("run", onnx_file, *ON, "--dims", "batch=2,seq=4,sequence=3"))


@pytest.mark.onnx
@pytest.mark.parametrize("cut", [0, 1, 25, -1])
def test_a_corrupt_onnx_model_is_refused(run, onnx_file, tmp_path, cut):
    data = (tmp_path / onnx_file).read_bytes()
    (tmp_path / onnx_file).write_bytes(data[:cut])
    assert refused(run("run", onnx_file, *ON, "--dims", "batch=8,seq=4")).startswith("m.onnx: ")


@pytest.mark.onnx
def test_text_is_no_onnx_model(run, write):
    pytest.importorskip("onnx", reason=NEEDS_ONNX)
    assert refused(run("run", write("m.onnx", "not a model"), *ON)).startswith("m.onnx: ")
    assert refused(run("run", "none.onnx", *ON)) == "none.onnx: no such file"


def test_without_onnx_the_extra_is_named(run, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused(run("run", write("m.onnx", ""), *ON))
    assert "pip install 'rooftrace[onnx]'" in said


@pytest.mark.parametrize(
    ("dims", "said"),
    [
        ("batch", "argument --dims: must be NAME=VALUE, got 'batch'"),
        ("batch=8,", "argument --dims: must be NAME=VALUE, got ''"),
        ("batch=x", "argument --dims: batch must be a whole number, or several as 8x128, got 'x'"),
        ("batch=-1", "batch must be a whole number"),
        ("batch=1.5", "batch must be a whole number"),
        ("batch=0", "argument --dims: batch must be 1 or more, got '0'"),
        ("batch=1,batch=2", "argument --dims: batch is given twice"),
    ],
)
def test_bad_dims_are_refused(run, dims, said):
    assert said in refused(run("run", "m.onnx", *ON, "--dims", dims))


def test_dims_given_twice_are_refused(run):
    given = ("--dims", "batch=1", "--dims", "batch=2")
    assert refused(run("run", "m.onnx", *ON, *given)) == "argument --dims: batch is given twice"


@pytest.mark.parametrize("name", ["bert-base", "net.csv", "my.py:build"])
def test_dims_need_an_onnx_model(run, name):
    said = refused(run("run", name, *ON, "--dims", "batch=1"))
    assert said == f"dims applies to an .onnx file, not to {name}"


# -- PyTorch modules ---------------------------------------------------------------------------------

MODULE = """
import torch

print("building")

def build():
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU()), (torch.zeros(4, 16),)

def bare():
    return torch.nn.Linear(16, 32).half(), torch.zeros(4, 16, dtype=torch.float16)

def failing():
    raise RuntimeError("no\\nweights")

def refusing():
    from workloads import linear
    return linear(0, 1, 1)

def leaving():
    raise SystemExit("enough")

def alone():
    return torch.nn.Linear(16, 32)

def no_module():
    return 3, (torch.zeros(4, 16),)

def wrong_inputs():
    return torch.nn.Linear(16, 32), torch.zeros(4, 15)

not_callable = 3
"""


@pytest.fixture
def module_file(write):
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    return write("my_module.py", MODULE)


@pytest.mark.torch
@pytest.mark.parametrize(("function", "dtype"), [("build", "fp32"), ("bare", "fp16")])
def test_a_module_of_a_python_file(run, module_file, function, dtype):
    status, out, err = run("run", f"{module_file}:{function}", *ON, "--json")
    assert (status, err) == (0, "building\n")  # what the file prints does not get between the numbers
    document = json.loads(out)
    assert document["network"]["parameters"] == 16 * 32 + 32
    assert document["network"]["dtypes"] == [dtype]
    assert sum(op["matrix_flops"] for op in document["ops"]) == 2 * 4 * 16 * 32


@pytest.mark.torch
@pytest.mark.parametrize(("given", "optimiser"), [((), "sgd"), (("adam",), "adam")])
def test_training_a_module(run, module_file, given, optimiser):
    import torch

    from workloads.importers import from_torch

    status, out, _ = run("run", f"{module_file}:build", *ON, "--json", "--training", *given)
    assert status == 0
    module = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU())
    expected = from_torch(module, torch.zeros(4, 16), training=True, optimiser=optimiser)
    assert json.loads(out)["summary"]["latency_s"] == simulate(expected, preset("v100-sxm")).latency_s
    assert {op["phase"] for op in json.loads(out)["ops"]} == set(expected.phase)


@pytest.mark.torch
def test_only_the_named_file_is_executed(run, module_file, write, tmp_path):
    write("helper.py", "from pathlib import Path\nPath('executed').touch()\n")
    write("outer.py", "import helper\nbuild = None\n")
    status, _, err = run("run", "outer.py:build", *ON)
    assert status == 2
    assert "outer.py:build: line 1: ModuleNotFoundError: No module named 'helper'" in err
    assert not (tmp_path / "executed").exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("failing", "my_module.py:failing: line 13: RuntimeError: no weights"),
        ("refusing", "my_module.py:refusing: line 17: TraceError: "),
        ("leaving", "my_module.py:leaving: line 20: SystemExit: enough"),
        ("biuld", "my_module.py: no function 'biuld'; it has alone, bare, build, failing, leaving"),
        ("not_callable", "my_module.py: no function 'not_callable'"),
        ("alone", "my_module.py:alone: must return (module, example_inputs), got Linear"),
        ("no_module", "my_module.py:no_module: from_torch: a torch.nn.Module is expected, got int"),
        ("wrong_inputs", "my_module.py:wrong_inputs: "),
    ],
)
def test_errors_of_a_module_name_file_and_function(run, module_file, function, said):
    status, out, err = run("run", f"{module_file}:{function}", *ON)
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "building"
    assert lines[1].startswith("rooftrace: error: ")
    assert said in lines[1]
    assert len(lines) == 2


@pytest.mark.torch
def test_a_file_that_is_no_python(run, write):
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    write("bad.py", "def build(:\n")
    assert "bad.py:build: SyntaxError: " in refused(run("run", "bad.py:build", *ON))


@pytest.mark.parametrize("name", ["my.py", "my.py:", "my.py:a-b"])
def test_a_python_file_needs_a_function(run, write, name):
    write("my.py", "raise RuntimeError('executed')\n")
    assert refused(run("run", name, *ON)) == f"{name}: name the function that builds the network: my.py:FUNCTION"


def test_without_torch_the_extra_is_named(run, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    write("my.py", "raise RuntimeError('executed')\n")
    assert "pip install 'rooftrace[torch]'" in refused(run("run", "my.py:build", *ON))


# -- warnings ----------------------------------------------------------------------------------------


def test_warnings_of_others_go_where_they_would(monkeypatch):
    def importer(name, dims):
        for _ in range(2):
            warnings.warn("ours", UncostedOperator, stacklevel=1)
        warnings.warn("theirs", RuntimeWarning, stacklevel=1)
        return network("lstm-acoustic")

    monkeypatch.setattr("workloads.importers.onnx_graph.from_onnx", importer)
    with pytest.warns(RuntimeWarning, match="theirs") as caught:
        found = read("m.onnx")
    assert found.warnings == ("ours",)
    assert len(caught) == 1
