"""What a machine says of itself, the accelerator made of it, and calibration against times the model itself made."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from reports.arguments import ReportError
from reports.calibrate_machine import rows_text
from reports.measure import describe, session
from reports.measure.backends import Numpy, backend
from reports.measure.cases import HIDDEN, calibration_rows
from reports.measure.machine import Cache, Machine, read_machine
from reports.measure.session import Setting, other_load, run, setting
from simulator import Accelerator, simulate
from simulator.calibrate import predict
from workloads import gru, lstm
from workloads.libraries import packed_weights, separate_cells
from workloads.measured import MEASURED_OPS, from_timings, measurements

MACHINE = Machine(
    title="A processor", cores=4, cores_source="told", lanes=8, lanes_source="told", clock_hz=3e9, clock_source="told",
    memory_bytes=16 * 2**30, memory_source="told",
    caches=(Cache(1, 4 * 32768, 4, "told"), Cache(2, 4 * 2**19, 4, "told"), Cache(3, 2**25, 1, "told")),
    software={"python": "3"},
)  # fmt: skip


# -- reading the machine -----------------------------------------------------------------------------


def fake_root(folder, cores=2, flags="fpu sse2 avx avx2 fma", mhz="2445.402"):
    """A tree like that of Linux."""
    (folder / "proc").mkdir()
    line = f"processor : 0\nmodel name\t: A processor 9000\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\n"
    (folder / "proc/cpuinfo").write_text(line * cores)
    (folder / "proc/meminfo").write_text("MemTotal:       16384 kB\nMemFree: 1 kB\n")
    for cpu in range(cores):
        for index, (level, kind, size, shared) in enumerate(
            [(1, "Data", "32K", str(cpu)), (1, "Instruction", "32K", str(cpu)), (2, "Unified", "512K", str(cpu)),
             (3, "Unified", "32M", "0-1")]
        ):  # fmt: skip
            place = folder / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            place.mkdir(parents=True)
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                (place / name).write_text(f"{text}\n")
    return folder


def test_a_machine_by_its_files(tmp_path):
    found = read_machine(fake_root(tmp_path), {0, 1})
    assert (found.title, found.cores, found.lanes) == ("A processor 9000", 2, 8)
    assert found.clock_hz == pytest.approx(2.445402e9)
    assert found.memory_bytes == 2**24
    assert [(c.level, c.capacity_bytes, c.instances) for c in found.caches] == [
        (1, 2 * 32768, 2), (2, 2 * 524288, 2), (3, 33554432, 1)
    ]  # fmt: skip
    assert found.last_cache_bytes == 33554432


def test_one_usable_core_has_its_own_caches(tmp_path):
    found = read_machine(fake_root(tmp_path), {1})
    assert found.cores == 1
    assert [(c.level, c.capacity_bytes) for c in found.caches] == [(1, 32768), (2, 524288), (3, 33554432)]


@pytest.mark.parametrize(("flags", "lanes"), [("sse2 avx2 avx512f", 16), ("sse2 avx", 8), ("sse2", 4), ("mmx", 4)])
def test_vector_width_by_flags(tmp_path, flags, lanes):
    assert read_machine(fake_root(tmp_path, flags=flags), {0}).lanes == lanes


def test_a_stated_highest_clock_is_taken_before_the_clock_of_the_moment(tmp_path):
    root = fake_root(tmp_path)
    place = root / "sys/devices/system/cpu/cpu0/cpufreq"
    place.mkdir()
    (place / "cpuinfo_max_freq").write_text("3500000\n")
    assert read_machine(root, {0}).clock_hz == 3.5e9


def test_a_machine_that_says_nothing(tmp_path):
    found = read_machine(tmp_path, {0, 1, 2})
    assert found.cores == 3
    assert found.clock_hz is None
    assert found.caches == ()
    assert found.lanes_source.startswith("assumed")
    assert found.memory_bytes > 0


def test_load_of_other_programs(tmp_path):
    (tmp_path / "proc").mkdir()
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "proc/stat"
    stat.write_text("cpu  100 0 100 5000 0 0 0 0 0 0\ncpu0 1 1 1 1 0 0 0 0 0 0\n")

    def pause(seconds):
        import time

        time.sleep(seconds)
        stat.write_text(f"cpu  {100 + 10 * ticks} 0 100 6000 0 0 0 0 0 0\n")

    # ten seconds of processor time in a fifth of a second: far more than any pause could be late
    assert 5 < other_load(0.2, tmp_path, pause) <= 50
    assert other_load(0.01, tmp_path / "none") == 0.0


# -- the accelerator ---------------------------------------------------------------------------------


def records_of(chip_times=None):
    """Timings of an invented machine: 100 GFLOP/s, 100 / 40 / 10 GB/s by size, 1 us a call."""

    def time_s(row):
        if "m" in row:
            flops = 2 * row.get("batch", 1) * row["m"] * row["n"] * row["k"]
            return 1e-6 + max(flops / 100e9, 4 * row["n"] * row["k"] / rate(4 * row["n"] * row["k"]))
        if "rows" in row:
            return 1e-6 + 12 * row["rows"] * row["columns"] / rate(12 * row["rows"] * row["columns"])
        return 1e-3

    def rate(size):
        return 100e9 if size <= 2**19 else 40e9 if size <= 2**25 else 10e9

    return [row | {"time_s": time_s(row)} for row in calibration_rows("torch")]


def described(threads=1, machine=MACHINE):
    return describe.cpu(machine, threads, records_of(), name="box", year=2026, how="timed on a day", notes="notes")


def test_the_accelerator_of_a_processor():
    chip = described()
    assert isinstance(chip, Accelerator)
    assert chip.family == "cpu"
    assert list(chip.memory) == ["l2", "l3", "dram"]
    assert chip.matrix.count == 1
    assert chip.memory["l2"].capacity_bytes == 2**19  # of the one core that is used
    assert chip.memory["l3"].capacity_bytes == 2**25
    for level, rate in (("l2", 100e9), ("l3", 40e9), ("dram", 10e9)):
        assert chip.memory[level].bandwidth_bytes_per_s == pytest.approx(rate, rel=0.02), level
    assert chip.latency.launch_s == pytest.approx(1e-6, rel=0.05)
    assert chip.peak_flops_per_s("fp32") * describe.REACHED >= 99e9
    assert described(threads=4).memory["l2"].capacity_bytes == 2**21


def test_every_number_has_a_source_and_assumptions_say_so():
    chip = described()
    for row in chip.describe():
        if not isinstance(row["value"], str):
            assert row["source"].strip(), row["field"]
            assert row["basis"], row["field"]
        if row["source"].startswith("assumed"):
            assert row["basis"] == "assumed", row["field"]
    measured = {p for p, c in chip.citations.items() if c.basis == "measured"}
    assert {"memory.dram.bandwidth_bytes_per_s", "latency.launch_s", "matrix.count"} <= measured


def test_the_clock_is_the_stated_one_unless_a_product_needs_more():
    assert described().matrix.clock_hz > 3e9  # 100 GFLOP/s in 80 % of 32 FLOP a cycle: 3.9 GHz
    assert described().citations["matrix.clock_hz"].basis == "derived"
    quick = Machine(**{**MACHINE.__dict__, "clock_hz": 5e9})
    assert described(machine=quick).matrix.clock_hz == 5e9
    assert described(machine=quick).citations["matrix.clock_hz"].basis == "vendor"


def test_a_cache_the_system_does_not_tell_of_is_found_by_timing():
    silent = Machine(**{**MACHINE.__dict__, "caches": ()})
    chip = described(machine=silent)
    assert list(chip.memory) == ["cache", "dram"]
    assert 2**24 <= chip.memory["cache"].capacity_bytes <= 2**25


def test_the_accelerator_of_a_gpu():
    told = SimpleNamespace(
        name="A GPU", multi_processor_count=100, clock_rate=1_500_000, L2_cache_size=2**25, total_memory=2**35
    )
    gpu = SimpleNamespace(properties=told, dtypes=("fp32", "bf16"), device="cuda")
    rows = [row | {"dtype": d} for d in gpu.dtypes for row in records_of()]
    chip = describe.gpu(gpu, rows, name="box", year=2026, how="timed", notes="")
    assert (chip.family, chip.title, chip.matrix.count) == ("gpu", "A GPU", 100)
    assert chip.matrix.clock_hz == 1.5e9
    assert list(chip.memory) == ["l2", "dram"]
    for dtype in gpu.dtypes:  # no product is quicker than the peak, nor the peak twice the quickest
        assert 100e9 <= chip.peak_flops_per_s(dtype) < 2.1 * 100e9
    assert session.parameters(chip).keys() >= {"matrix.sustained", "memory.dram.sustained"}
    bare = SimpleNamespace(name="A GPU", multi_processor_count=100, total_memory=2**35)
    gpu.properties = bare
    silent = describe.gpu(gpu, rows, name="box", year=2026, how="timed", notes="")
    assert silent.citations["matrix.clock_hz"].basis == "assumed"


# -- the rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("quick", [False, True])
def test_every_row_is_a_measurement_the_table_knows(name, quick):
    rows = calibration_rows(name, quick=quick)
    table = measurements([row | {"time_s": 1.0} for row in rows])
    assert len(table) == len(rows)
    assert {row["op"] for row in rows} <= MEASURED_OPS.keys()
    assert len({row["op"] for row in rows}) >= 6


def test_recurrences_are_measured_as_the_library_runs_them():
    """PyTorch's LSTM: one row a step and a copy of its weights; its GRU: a product and ten calls a step."""
    rows = [next(row for row in calibration_rows("torch") if row["op"] == op) for op in ("lstm", "gru")]
    lstm_, gru_ = (measurements([row | {"time_s": 1.0}]).trace for row in rows)
    assert list(lstm_.op) == ["input product", "pack weights", "recurrent product + gates"]
    assert len(gru_) == 2 + 10


def test_a_row_is_not_measured_twice():
    rows = [tuple(sorted(row.items())) for row in calibration_rows("torch")]
    assert len(set(rows)) == len(rows)


@pytest.mark.torch
def test_no_judged_network_has_a_size_that_was_calibrated_with():
    pytest.importorskip("torch")
    from reports.measure.networks import ENCODERS, RECURRENT

    assert not {sizes[0] for sizes in RECURRENT} & set(HIDDEN)
    products = {(r["m"], r["n"], r["k"]) for r in calibration_rows("torch") if r["op"] == "linear"}
    for width, _heads, inner, batch, positions, _layers in ENCODERS:
        rows = batch * positions
        for n, k in ((3 * width, width), (width, width), (inner, width), (width, inner)):
            assert (rows, n, k) not in products


# -- calibration against times the model made --------------------------------------------------------


class ModelBackend:
    """Runs nothing: each case moves the clock by what `truth` predicts, and a call's cost."""

    name, device, family, dtypes, versions = "torch", "cpu", "cpu", ("fp32",), {"torch": "none"}

    def __init__(self, truth, call_s):
        self.truth, self.call_s, self.now = truth, call_s, 0.0

    def clock(self):
        return self.now

    def settle(self):
        pass

    def session(self):
        from contextlib import nullcontext

        return nullcontext()

    def case(self, record):
        table = measurements([record | {"time_s": 1.0}])
        return self.lasting(float(predict(self.truth, table)[0]) + self.call_s.get(record["op"], 0.0))

    def lasting(self, seconds):
        def run():
            self.now += seconds

        return lambda: run


TRUTH = {
    "matrix.sustained": 0.7,
    "matrix.operand_macs": 4.0,
    "vector.special_per_cycle": 0.2,
    "memory.l2.bandwidth": 32e9,
    "memory.l3.sustained": 0.8,
    "memory.dram.sustained": 0.5,
    "latency.launch_s": 2e-6,
    "latency.step_s": 1e-6,
    "abilities.overlap": 0.3,
}


@pytest.fixture(scope="module")
def recovered():
    pytest.importorskip("scipy")
    truth = described().replace(TRUTH)
    model = ModelBackend(truth, {"lstm": 3e-4})
    networks = [
        packed_weights(lstm(1, 192, sequence_length=100)).fused,
        separate_cells(gru(2, 96, batch=8, sequence_length=50)),
    ]
    times = [float(simulate(trace, truth).latency_s) for trace in networks]
    others = [session.Case({}, model.lasting(seconds)) for seconds in times]
    chosen = Setting(MACHINE, model, 1, model.clock, quick=True)
    return truth, run(chosen, others), networks, times


@pytest.mark.slow
def test_known_constants_come_back(recovered):
    """Times of a known chip, calibrated from what the timings alone say: the known constants, those the times show."""
    truth, found, _, _ = recovered
    assert found.calibration.error < 0.01
    for path in ("matrix.sustained", "matrix.operand_macs", "vector.special_per_cycle", "latency.step_s"):
        product = {"matrix.sustained": "matrix.clock_hz", "vector.special_per_cycle": "vector.clock_hz"}.get(path)
        scale = [c.fields[product] if product else 1.0 for c in (truth, found.accelerator)]
        assert found.accelerator.fields[path] * scale[1] == pytest.approx(TRUTH[path] * scale[0], rel=0.15), path
    assert found.calibration.call_s["lstm"] == pytest.approx(3e-4, rel=0.1)


@pytest.mark.slow
def test_networks_of_a_known_chip_are_predicted(recovered):
    _, found, networks, times = recovered
    np.testing.assert_allclose(found.others_s, times, rtol=1e-9)
    for trace, seconds in zip(networks, times, strict=True):
        assert simulate(trace, found.accelerator).latency_s == pytest.approx(seconds, rel=0.05)


@pytest.mark.slow
def test_the_measured_rows_are_written_as_a_table_that_is_read_back(recovered, tmp_path):
    _, found, _, _ = recovered
    place = tmp_path / "rows.csv"
    place.write_text(rows_text(found))
    back = from_timings(place)
    np.testing.assert_array_equal(back.time_s, found.measurements.time_s)
    assert back.harness.tolist() == found.measurements.harness.tolist()
    assert back.shape.tolist() == found.measurements.shape.tolist()


# -- backends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend_name": "nump"}, "backend: unknown 'nump' .*numpy"),
        ({"backend_name": "numpy", "device": "cuda"}, "numpy runs on cpu alone"),
        ({"backend_name": "numpy", "device": "gpu"}, "device: unknown 'gpu'"),
        ({"backend_name": "numpy", "threads": 1}, "OMP_NUM_THREADS"),
    ],
)
def test_wrong_settings(settings, message):
    pytest.importorskip("scipy")
    with pytest.raises(ReportError, match=message):
        setting(**settings)


def test_a_missing_package_names_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ReportError, match=r"rooftrace\[torch\]"):
        backend("torch", "cpu", 2**20)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ReportError, match=r"rooftrace\[calibrate\]"):
        setting("torch")


def test_weights_are_taken_from_memory_in_turn():
    """As many different ones as fill the pool, which is larger than the last cache, before one comes again."""
    weights = Numpy(2**20).pools.weights(128, 256)
    seen = [next(weights) for _ in range(1000)]
    places = [w.__array_interface__["data"][0] for w in seen]
    again = places.index(places[0], 1)
    assert again * 128 * 256 * 4 > 2 * 2**20
    assert len(set(places[:again])) == again


def test_numpy_computes_what_the_rows_say():
    numpy = Numpy(2**20)
    for row in calibration_rows("numpy", quick=True):
        if row.get("rows", 0) * row.get("columns", 0) < 2**20 and row.get("n", 0) <= 1024:
            result = numpy.case(row)()()
            if row["op"] == "linear":
                assert result.shape == (row["m"], row["n"])
            elif "rows" in row:
                assert result.shape == (row["rows"], row["columns"])
            elif row["op"] == "rnn":
                assert result.shape == (row["batch"], row["hidden"])
                assert np.abs(result).max() <= 1.0


@pytest.mark.torch
def test_torch_runs_every_row():
    torch = pytest.importorskip("torch")
    found = backend("torch", "cpu", 2**20)
    with found.session():
        for row in calibration_rows("torch", quick=True):
            if (
                row.get("rows", 0) * row.get("columns", 0) < 2**20
                and row.get("n", 0) <= 1024
                and row.get("hidden", 0) < 300
            ):
                result = found.case(row)()()
                result = result[0] if isinstance(result, tuple) else result
                assert torch.isfinite(result).all()
                assert not result.requires_grad
