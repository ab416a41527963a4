"""`calibrate` and `validate --this-machine`: what is refused before measuring, and real quick runs."""

import json

import numpy as np
import pytest

from reports.cli import main
from simulator import load_accelerator
from workloads.measured import from_timings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "--this-machine", "--out", "nowhere/box.toml"], "there is no folder nowhere"),
        (["calibrate", "--this-machine", "--out", "box.txt"], "suffix must be one of .toml"),
        (["calibrate", "--this-machine", "--backend", "numpyy"], "unknown 'numpyy'"),
        (["calibrate", "--this-machine", "--device", "tpu"], "device: unknown 'tpu'"),
        (["calibrate", "--this-machine", "--threads", "0"], "--threads: must be a whole number of 1 or more"),
        (["calibrate", "v100-sxm", "--this-machine"], "it takes no chip"),
        (["validate", "--this-machine", "--backend", "numpy"], "the networks are PyTorch's"),
        (["validate", "--this-machine", "--on", "v100-sxm"], "it takes no on"),
        (["validate", "--this-machine", "--chart", "nowhere/a.png"], "there is no folder"),
        (["validate", "--quick"], "--quick goes with --this-machine"),
        (["calibrate", "v100-sxm", "--backend", "numpy"], "--backend goes with --this-machine"),
    ],
)
def test_what_cannot_be_done_is_said_before_measuring(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reports.calibrate_machine.run", lambda *args, **settings: pytest.fail("it measured"))
    monkeypatch.setattr("reports.validate_machine.run", lambda *args, **settings: pytest.fail("it measured"))
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, capsys):
    """Found before anything is measured; as seen by who may write anywhere."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("reports.calibrate_machine.run", lambda *args, **settings: pytest.fail("it measured"))
    assert main(["calibrate", "--this-machine", "--out", str(tmp_path / "box.toml")]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_no_gpu_is_one_clear_error(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["calibrate", "--this-machine", "--device", "cuda"]) == 2
    assert "PyTorch finds no CUDA GPU here" in capsys.readouterr().err


def test_interrupted_it_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("scipy")

    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reports.measure.session.measure", interrupted)
    assert main(["calibrate", "--this-machine", "--backend", "numpy", "--quick"]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backend", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
def test_a_quick_run_from_end_to_end(backend, tmp_path, monkeypatch, capsys):
    pytest.importorskip("scipy")
    if backend == "torch":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "--this-machine", "--quick", "--backend", backend, "--out", "box.toml"]) == 0
    assert "box.toml: written" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box.csv", "box.toml"]

    chip = load_accelerator("box.toml")
    assert (chip.name, chip.family) == ("box", "cpu")
    assert f"{backend} " in chip.notes  # with its version
    fitted = [path for path, cited in chip.citations.items() if cited.source.startswith("fitted to")]
    assert {"matrix.sustained", "latency.step_s"} & set(fitted)
    for path, cited in chip.citations.items():
        assert cited.source, path
    rates = [level.bandwidth_bytes_per_s for level in chip.memory.values()]
    assert all(1e8 < rate < 1e14 for rate in rates)
    assert 1e8 < float(chip.peak_flops_per_s("fp32")) < 1e15
    assert 1e-8 < chip.latency.launch_s < 1e-2

    table = from_timings("box.csv")
    assert len(table) > 30
    assert np.all(table.time_s > 0)

    assert main(["run", "lstm-zaremba-large", "--on", "box.toml", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["latency_s"] > 0


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_networks_of_this_machine_are_judged(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    monkeypatch.chdir(tmp_path)
    assert (
        main(["validate", "--this-machine", "--quick", "--chart", "a.png", "--json", "a.json", "--csv", "a.csv"]) == 0
    )
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "a.json").read_text())
    kinds = [network["network"] for network in found["networks"]]
    assert set(kinds) == {"lstm", "gru", "transformer"}
    for network in found["networks"]:
        assert network["measured_s"] > 0
        assert 0.02 < network["predicted_s"] / network["measured_s"] < 50  # not an accuracy: seconds, not milliseconds
    assert all(kind in shown for kind in kinds)
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(kinds) + 1
