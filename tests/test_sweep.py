"""Sweeps: the table against one simulation, what is kept, resuming, executors that live and die, every refusal."""

from __future__ import annotations

import concurrent.futures
import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sweep_workers

from simulator import LogRange, simulate, sweep
from simulator.metrics import DesignSpaceError, Metric
from simulator.pareto import pareto_front
from simulator.progress import Progress
from simulator.sweep import chunk_of
from workloads import lstm

SWEEP = sys.modules["simulator.sweep"]  # the function of that name stands before the module
ROOT = Path(__file__).resolve().parents[1]
COUNTS, BANDWIDTHS = np.arange(1, 41), np.geomspace(1e9, 1e11, 50)
AXES = {"matrix.count": COUNTS, "memory.dram.bandwidth": BANDWIDTHS}


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of at most 64 designs, so that a small grid has many."""
    monkeypatch.setattr(SWEEP, "LEAST_CHUNK", 64)
    monkeypatch.setattr(SWEEP, "MOST_CHUNK", 64)


def whole(trace, chip) -> np.ndarray:
    return simulate(trace, chip.grid(AXES)).latency_s.reshape(-1)


# -- the table -----------------------------------------------------------------------------------------


def test_a_grid_is_one_simulation_to_the_last_bit(trace, blocked, small_chunks):
    found = sweep(trace, blocked, **AXES)
    assert found["latency_s"].tolist() == whole(trace, blocked).tolist()
    assert found["matrix.count"].tolist() == np.repeat(COUNTS, 50).tolist()
    assert found["memory.dram.bandwidth"].tolist() == np.tile(BANDWIDTHS, 40).tolist()
    assert found.complete
    assert (found.designs, found.evaluated, len(found)) == (2000, 2000, 2000)


def test_rows_designs_and_frames(trace, blocked):
    found = sweep(trace, blocked, metrics=["latency_s", "utilisation"], **AXES)
    row = found.row(777)
    chip = found.design(777)
    assert chip.matrix.count == row["matrix.count"] == COUNTS[15]
    result = simulate(trace, chip)
    assert (row["latency_s"], row["utilisation"]) == (result.latency_s, result.utilisation)
    assert found.best()[0]["latency_s"] == whole(trace, blocked).min()
    assert found.best("utilisation", 3)[0]["utilisation"] == found["utilisation"].max()
    frame = found.to_frame()
    assert list(frame.columns) == ["design", *found.columns]
    assert frame["latency_s"].tolist() == found["latency_s"].tolist()
    assert found.traces() == (("tiny lstm", trace, 1.0),)
    assert repr(found).startswith("Sweep(2,000 designs of 'blocked': 2,000 kept; matrix.count, memory.dram")
    assert "<table" in found._repr_html_()
    with pytest.raises(DesignSpaceError, match="did you mean 'utilisation'"):
        found["utilization"]
    with pytest.raises(DesignSpaceError, match="no metric 'speed'"):
        found.best("speed")
    with pytest.raises(DesignSpaceError, match="there is no row 2000"):
        found.row(2000)


def test_choices_and_batches_are_axes(blocked):
    def network(batch):
        return lstm(1, 16, sequence_length=4, batch=batch, dtype="fp16")

    axes = {"abilities.fuses_elementwise": [False, True], "matrix.count": [1, 2, 4], "batch": [1, 2, 8]}
    found = sweep(network, blocked, metrics=["latency_s", "tokens_per_s"], **axes)
    for position in range(18):
        row = found.row(position)
        chip = blocked.replace({name: row[name] for name in list(axes)[:2]})
        result = simulate(network(int(row["batch"])), chip)
        assert (row["latency_s"], row["tokens_per_s"]) == (result.latency_s, result.tokens_per_s)
        ((_, as_run, _),) = found.traces(position)
        assert as_run.sequences == row["batch"]
    assert found["batch"].tolist() == [1, 2, 8] * 6


def test_a_mix_is_the_weighted_sum_and_each_network_can_be_asked_for(trace, blocked):
    other = lstm(1, 16, sequence_length=4, dtype="fp16")
    mixed = {"tiny": (trace, 3), "other": (other, 0.5)}
    found = sweep(mixed, blocked, metrics=["latency_s", "tiny:latency_s", "other:latency_s"], **AXES)
    expected = 3 * found["tiny:latency_s"] + 0.5 * found["other:latency_s"]
    np.testing.assert_allclose(found["latency_s"], expected, rtol=1e-12)
    assert found["tiny:latency_s"].tolist() == whole(trace, blocked).tolist()


@pytest.mark.parametrize("form", ["rows", "columns", "frame"])
def test_a_list_of_designs_in_any_order(trace, blocked, form):
    rows = [{"matrix.count": n, "abilities.fuses_elementwise": f} for n, f in [(4, True), (1, False), (4, False)]]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    given = {"rows": rows, "columns": columns, "frame": pd.DataFrame(columns)}[form]
    found = sweep(trace, blocked, designs=given)
    assert found["latency_s"].tolist() == [simulate(trace, blocked.replace(row)).latency_s for row in rows]
    assert found.row(0)["abilities.fuses_elementwise"] is True


@pytest.mark.parametrize("sampler", ["random", pytest.param("sobol", marks=pytest.mark.sobol)])
def test_samples_are_simulated_as_drawn(trace, blocked, sampler):
    if sampler == "sobol":
        pytest.importorskip("scipy", reason="needs scipy: pip install 'rooftrace[sobol]'")
    found = sweep(trace, blocked, samples=300, sampler=sampler, seed=5, **AXES)
    assert len(found) == 300
    for position in (0, 17, 299):
        assert simulate(trace, found.design(position)).latency_s == found["latency_s"][position]
    again = sweep(trace, blocked, samples=300, sampler=sampler, seed=5, **AXES)
    assert again.to_frame().equals(found.to_frame())


# -- what is kept --------------------------------------------------------------------------------------


def test_the_best_are_the_best_of_all(trace, blocked, small_chunks):
    everything = whole(trace, blocked)
    found = sweep(trace, blocked, keep="best", limit=30, **AXES)
    order = np.lexsort((np.arange(2000), everything))[:30]
    assert found.table.ids.tolist() == order.tolist()
    assert found["latency_s"].tolist() == everything[order].tolist()


def test_the_front_is_the_front_of_all(trace, blocked, small_chunks):
    metrics = ["latency_s", "matrix.count", "memory.dram.bandwidth"]
    everything = sweep(trace, blocked, metrics=metrics, **AXES)
    points = np.column_stack([everything[name] for name in metrics])
    found = sweep(trace, blocked, metrics=metrics, keep="pareto", **AXES)
    assert found.table.ids.tolist() == pareto_front(points).tolist()


def test_what_breaks_a_limit_is_not_kept(trace, blocked, small_chunks):
    everything = whole(trace, blocked)
    limits = {"latency_s": (None, float(np.median(everything))), "matrix.count": (None, 7)}
    found = sweep(trace, blocked, subject_to=limits, **AXES)
    inside = (everything <= np.median(everything)) & (np.repeat(COUNTS, 50) <= 7)
    assert found.table.ids.tolist() == np.flatnonzero(inside).tolist()
    assert 0 < len(found) < 2000


def test_rows_go_to_parquet_and_are_not_computed_twice(trace, blocked, small_chunks, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'rooftrace[parquet]'")
    monkeypatch.setattr(SWEEP, "CHUNKS_A_PART", 5)
    folder = tmp_path / "rows"
    found = sweep(trace, blocked, out=folder, **AXES)
    expected = sweep(trace, blocked, **AXES).to_frame()
    frame = pd.read_parquet(folder).sort_values("design", ignore_index=True)
    assert frame.equals(expected)
    assert len(found) == 0
    assert "rows" in repr(found)
    parts = sorted(folder.glob("part-*.parquet"))
    assert len(parts) == -(-found.space.chunks // 5)

    parts[1].unlink()
    before = {part: part.stat().st_mtime_ns for part in parts if part.exists()}
    calls = []
    monkeypatch.setattr(SWEEP, "chunk_of", lambda *a: calls.append(1) or chunk_of(*a))
    sweep(trace, blocked, out=folder, **AXES)
    assert len(calls) == 5
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert pd.read_parquet(folder).sort_values("design", ignore_index=True).equals(expected)


def test_a_folder_of_something_else_is_refused(trace, blocked, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'rooftrace[parquet]'")
    with pytest.raises(DesignSpaceError, match="it exists and holds no sweep"):
        sweep(trace, blocked, out=tmp_path, **AXES)
    sweep(trace, blocked, out=tmp_path / "rows", **AXES)
    with pytest.raises(DesignSpaceError, match="it holds another sweep"):
        sweep(trace, blocked, out=tmp_path / "rows", **{**AXES, "matrix.count": [1, 2]})
    with pytest.raises(DesignSpaceError, match="there is no folder"):
        sweep(trace, blocked, out=tmp_path / "a" / "b", **AXES)
    with pytest.raises(DesignSpaceError, match="does not go with keep='best'"):
        sweep(trace, blocked, out=tmp_path / "x", keep="best", **AXES)


# -- stopping and resuming -----------------------------------------------------------------------------


class StopAfter:
    """A latency that raises on the call after the n-th, in the main thread's stead."""

    def __init__(self, calls: int, error: BaseException):
        self.calls, self.error, self.lock = calls, error, threading.Lock()

    def __call__(self, result):
        with self.lock:
            self.calls -= 1
            if self.calls < 0:
                raise self.error
        return result.latency_s


def stopping(calls: int, error: BaseException) -> Metric:
    return Metric("latency", StopAfter(calls, error))


def test_ctrl_c_keeps_what_is_done_and_the_sweep_goes_on(trace, blocked, small_chunks, tmp_path):
    place = tmp_path / "sweep.npz"
    stopped = sweep(trace, blocked, metrics=[stopping(9, KeyboardInterrupt())], checkpoint=place, **AXES)
    assert not stopped.complete
    assert 0 < len(stopped) < 2000
    assert "stopped after" in repr(stopped)
    assert stopped["latency"].tolist() == whole(trace, blocked)[stopped.table.ids].tolist()

    counting = stopping(10**9, KeyboardInterrupt())
    resumed = sweep(trace, blocked, metrics=[counting], checkpoint=place, **AXES)
    assert resumed.complete
    assert resumed["latency"].tolist() == whole(trace, blocked).tolist()
    simulated = 10**9 - counting.of.calls
    assert simulated == 40 - len(stopped) // 50  # a chunk is one count and all bandwidths

    again = sweep(trace, blocked, metrics=[stopping(0, KeyboardInterrupt())], checkpoint=place, **AXES)
    assert again.complete
    assert again["latency"].tolist() == resumed["latency"].tolist()


def test_ctrl_c_in_the_only_chunk_keeps_nothing_and_says_so(trace, blocked):
    stopped = sweep(trace, blocked, metrics=[stopping(0, KeyboardInterrupt())], **AXES)
    assert (stopped.complete, len(stopped), stopped.evaluated, stopped.space.chunks) == (False, 0, 0, 1)


@pytest.mark.parametrize("keep", ["best", "pareto"])
def test_a_resumed_sweep_keeps_the_same_rows(trace, blocked, small_chunks, tmp_path, keep):
    place = tmp_path / "sweep.npz"
    settings = {"keep": keep, "limit": 11, **AXES}
    sweep(trace, blocked, metrics=[stopping(9, KeyboardInterrupt()), "matrix.count"], checkpoint=place, **settings)
    never = stopping(10**9, KeyboardInterrupt())
    resumed = sweep(trace, blocked, metrics=[never, "matrix.count"], checkpoint=place, **settings)
    straight = sweep(trace, blocked, metrics=[never, "matrix.count"], **settings)
    assert resumed.to_frame().equals(straight.to_frame())


def test_an_error_on_the_way_loses_no_finished_chunk(trace, blocked, small_chunks, tmp_path):
    place = tmp_path / "sweep.npz"
    with pytest.raises(DesignSpaceError, match="broken on purpose") as caught:
        sweep(trace, blocked, metrics=[stopping(9, DesignSpaceError("broken on purpose"))], checkpoint=place, **AXES)
    partial = caught.value.partial
    assert 0 < len(partial) < 2000
    resumed = sweep(trace, blocked, metrics=[stopping(10**9, KeyboardInterrupt())], checkpoint=place, **AXES)
    assert resumed["latency"].tolist() == whole(trace, blocked).tolist()


@pytest.mark.parametrize("change", ["trace", "chip", "axes", "metrics", "keep"])
def test_a_checkpoint_of_another_sweep_is_refused(trace, blocked, tmp_path, change):
    place = tmp_path / "sweep.npz"
    sweep(trace, blocked, checkpoint=place, **AXES)
    kept = place.read_bytes()
    other = {
        "trace": (trace.replace(tokens=4), blocked, AXES),
        "chip": (trace, blocked.replace({"latency.launch_s": 2e-6}), AXES),
        "axes": (trace, blocked, {**AXES, "matrix.count": COUNTS[:-1]}),
        "metrics": (trace, blocked, {**AXES, "metrics": ["tokens_per_s"]}),
        "keep": (trace, blocked, {**AXES, "keep": "best"}),
    }[change]
    with pytest.raises(DesignSpaceError, match="it is of another sweep"):
        sweep(other[0], other[1], checkpoint=place, **other[2])
    assert place.read_bytes() == kept


def test_a_file_that_is_no_checkpoint_is_refused_and_left_alone(trace, blocked, tmp_path):
    place = tmp_path / "notes.txt"
    place.write_text("my notes")
    with pytest.raises(DesignSpaceError, match="not a checkpoint of a sweep"):
        sweep(trace, blocked, checkpoint=place, **AXES)
    assert place.read_text() == "my notes"
    with pytest.raises(DesignSpaceError, match="there is no folder"):
        sweep(trace, blocked, checkpoint=tmp_path / "a" / "b", **AXES)


# -- executors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_any_executor_gives_the_same_bits(trace, blocked, small_chunks, pool):
    kind = {"threads": concurrent.futures.ThreadPoolExecutor, "processes": concurrent.futures.ProcessPoolExecutor}[pool]
    settings = {"metrics": ["latency_s", sweep_workers.units], "keep": "pareto", **AXES}
    with kind(2) as executor:
        found = sweep(trace, blocked, executor=executor, **settings)
    assert found.to_frame().equals(sweep(trace, blocked, **settings).to_frame())


def test_a_worker_that_fails_now_and_then_is_tried_again(trace, blocked, small_chunks):
    failures = iter([True, False, True] + [False] * 10_000)
    lock = threading.Lock()

    def flaky(result):
        with lock:
            if next(failures):
                raise OSError("the node went away")
        return result.latency_s

    found = sweep(trace, blocked, metrics=[flaky], **AXES)
    assert found["flaky"].tolist() == whole(trace, blocked).tolist()


def test_a_chunk_that_keeps_failing_is_an_error(trace, blocked, small_chunks):
    def broken(result):
        raise OSError("the node went away")

    with pytest.raises(DesignSpaceError, match=r"failed 4 times .* OSError: the node went away"):
        sweep(trace, blocked, metrics=[broken], **AXES)


def test_an_executor_that_dies_is_an_error_and_finished_chunks_are_kept(trace, blocked, small_chunks, tmp_path):
    place = tmp_path / "sweep.npz"
    settings = {"metrics": [Metric("latency", sweep_workers.always_dies)], "checkpoint": place, **AXES}
    executor = concurrent.futures.ProcessPoolExecutor(1)
    with executor, pytest.raises(DesignSpaceError, match="the executor died") as caught:
        sweep(trace, blocked, executor=executor, **settings)
    assert 0 < len(caught.value.partial) < 2000
    settings["metrics"] = [Metric("latency", StopAfter(10**9, KeyboardInterrupt()))]
    resumed = sweep(trace, blocked, **settings)
    assert resumed["latency"].tolist() == whole(trace, blocked).tolist()
    assert 10**9 - settings["metrics"][0].of.calls < resumed.space.chunks


def test_an_executor_already_shut_down_is_an_error(trace, blocked):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(DesignSpaceError, match="the executor died and takes no more work"):
        sweep(trace, blocked, executor=executor, **AXES)


def test_what_cannot_travel_is_said(trace, blocked):
    executor = concurrent.futures.ProcessPoolExecutor(1)
    with executor, pytest.raises(DesignSpaceError, match="metrics must be functions of a module"):
        sweep(trace, blocked, metrics=[lambda result: result.latency_s], executor=executor, **AXES)


def test_only_reduced_rows_come_back(trace, blocked, small_chunks):
    sizes = []

    class Watching(concurrent.futures.ThreadPoolExecutor):
        def submit(self, task, *arguments):
            future = super().submit(task, *arguments)
            sizes.append(len(future.result()))
            return future

    with Watching(1) as executor:
        found = sweep(trace, blocked, executor=executor, keep="best", limit=3, **AXES)
    assert len(sizes) == found.space.chunks
    assert max(sizes) == 3


# -- size ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory where Linux keeps it")
def test_memory_does_not_grow_with_the_grid():
    """The same process keeps the front of 20 000 and of 2 000 000 designs; the second adds little."""
    code = r"""
import re, sys
import numpy as np
from simulator import preset, sweep
from workloads import lstm
chip, trace = preset("v100-sxm"), lstm(1, 256, sequence_length=10, dtype="fp16")
for counts in (8, 800):
    axes = {"matrix.count": np.arange(8, 8 + counts), "memory.dram.bandwidth": np.geomspace(1e11, 1e13, 2500)}
    found = sweep(trace, chip, metrics=["latency_s", "matrix.count"], keep="pareto", **axes)
    peak = re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]  # ru_maxrss counts the parent's too
    sys.stdout.write(f"{found.designs} {peak} ")
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    small, few, large, many = map(int, out.split())
    assert large == 100 * small
    assert many * 1024 < 1e9
    assert many < 1.5 * few


def test_a_table_that_would_not_fit_is_refused(trace, blocked):
    huge = {"matrix.count": np.arange(1, 10_001), "memory.dram.bandwidth": np.geomspace(1e9, 1e12, 10_000)}
    with pytest.raises(DesignSpaceError, match=r"100,000,000 designs with 1 metrics take 1.6 GB"):
        sweep(trace, blocked, **huge)
    fields = ("matrix.count", "matrix.tile_m", "matrix.tile_n", "matrix.tile_k", "vector.count")
    with pytest.raises(DesignSpaceError, match="more than can be numbered"):
        sweep(trace, blocked, keep="best", **dict.fromkeys(fields, np.arange(1, 10_001)))


# -- progress ------------------------------------------------------------------------------------------


def test_progress_is_drawn_when_asked_for_and_not_otherwise(trace, blocked, small_chunks, capsys, monkeypatch):
    monkeypatch.setattr("simulator.progress._tqdm", lambda total: None)
    sweep(trace, blocked, **AXES)
    assert capsys.readouterr().err == ""
    sweep(trace, blocked, progress=True, **AXES)
    assert "100% of 2,000 designs" in capsys.readouterr().err


def test_tqdm_draws_where_it_is_installed(trace, blocked, small_chunks, capsys):
    pytest.importorskip("tqdm", reason="needs tqdm")
    sweep(trace, blocked, progress=True, **AXES)
    assert "2.00k/2.00k" in capsys.readouterr().err


def test_a_bar_waits_for_long_work_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    now = [0.0]
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("simulator.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("simulator.progress._tqdm", lambda total: None)
    bar = Progress(1000, None)
    now[0] = 1.0
    bar.add(100)
    assert sys.stderr.getvalue() == ""
    now[0] = 2.5
    bar.add(150)
    assert sys.stderr.getvalue() == "\r 25% of 1,000 designs, 100 designs/s"
    bar.close()
    assert sys.stderr.getvalue().endswith("\n")


# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"matrix.counts": [1]}, "did you mean 'matrix.count'"),
        ({"matrix.count": []}, "has no candidates"),
        ({"matrix.count": [1, 1]}, "must rise or fall throughout"),
        ({"metrics": ["latenci_s"]}, "did you mean 'latency_s'"),
        ({"metrics": []}, "no metric"),
        ({"keep": "pareta"}, "did you mean 'pareto'"),
        ({"keep": "pareto"}, "two or three metrics, got latency_s alone"),
        ({"limit": 0}, "limit must be a whole number of 1 or more"),
        ({"designs": [{"matrix.count": 1}]}, "axes and samples do not go with them"),
        ({"executor": 3}, "must be a concurrent.futures.Executor"),
        ({"progress": "yes"}, "progress must be True, False or None"),
        ({"batch": [1, 2]}, "a network must be given as a function of the batch"),
        ({"subject_to": {"latency_s": np.nan}}, "a limit is a number"),
    ],
)
def test_bad_sweeps_are_refused(trace, blocked, changes, said):
    axes = {} if "matrix.counts" in changes else dict(AXES)
    with pytest.raises(ValueError, match=said):
        sweep(trace, blocked, **{**axes, **changes})


def test_networks_and_chips_are_checked(trace, blocked):
    with pytest.raises(ValueError, match="a Trace or a mapping"):
        sweep(3, blocked, **AXES)
    with pytest.raises(ValueError, match="an Accelerator is expected"):
        sweep(trace, 3, **AXES)
    with pytest.raises(ValueError, match="spans 2 designs"):
        sweep(trace, blocked.grid({"matrix.clock": [1e9, 2e9]}), **AXES)
    with pytest.raises(DesignSpaceError, match="is a range: give candidates"):
        sweep(trace, blocked, **{"matrix.clock": LogRange(1e9, 2e9)})
    with pytest.raises(DesignSpaceError, match="is a function of the batch: give the batches"):
        sweep(lambda batch: trace, blocked, **AXES)
    with pytest.raises(DesignSpaceError, match="must return a Trace, got int"):
        sweep(lambda batch: batch, blocked, batch=[1, 2])
