"""How fast the simulator is, on this machine, now: `python tests/benchmarks/speed.py`.

Prints medians of repeated runs with the spread beside them. Machines differ and are shared, so nothing in
the test suite asserts a time; ratios within one run travel better than seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from simulator import Accelerator, Result, preset, simulate
from workloads import lstm, network

DESIGNS = 100_000


def seconds(function, runs: int) -> list[float]:
    """Wall times of `runs` calls after one that is not counted."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def paired_ratio(first, second, pairs: int) -> float:
    """Median of `first`'s time over `second`'s, the two called in turn so that both see the same machine."""
    ratios = []
    for _ in range(pairs):
        (one,), (other,) = seconds(first, 1), seconds(second, 1)
        ratios.append(one / other)
    return statistics.median(ratios)


def fresh_process_seconds(statement: str, runs: int) -> list[float]:
    """Times a new interpreter reports for `statement`, imports included, interpreter start excluded."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(runs)]


def random_designs(chip: Accelerator, designs: int, seed: int = 0) -> Accelerator:
    """`chip` with every number but tile sizes drawn between half and twice its own: designs share nothing."""
    random = np.random.default_rng(seed)
    changes = {}
    for path, value in chip.fields.items():
        if (
            not isinstance(value, float)
            or value == 0
            or path.startswith(("package", "matrix.tile", "matrix.thin", "matrix.fragment", "matrix.max_split"))
        ):
            continue
        drawn = value * random.uniform(0.5, 2.0, designs)
        if path.endswith(("sustained", "overlap")):
            drawn = np.minimum(drawn, 1.0)
        elif path.endswith(("count", "concurrent_ops")):
            drawn = np.maximum(1.0, np.round(drawn))
        changes[path] = drawn
    return chip.replace(changes)


def fresh_energy(trace, space: Accelerator, result: Result) -> None:
    """Energy of a result and area, power and price of its designs, nothing kept from the call before."""
    chip = space.replace({})
    again = Result(trace, chip, result.output)
    _ = again.energy_j, chip.area_mm2, chip.peak_power_w, chip.price_usd


def line(name: str, times: list[float], note: str = "") -> float:
    """Print one figure: median, minimum, maximum. Returns the median."""
    median = statistics.median(times)
    print(f"{name:58s} {median * 1e3:10.3f} ms   (min {min(times) * 1e3:.3f}, max {max(times) * 1e3:.3f})  {note}")
    return median


def module_imports(runs: int) -> None:
    """Time of `from_torch` on two modules of transformers, on the meta device."""
    start = "import time; start = time.perf_counter()"
    module = "import torch; from transformers import {0}Config as C, {0}Model as M; from workloads import from_torch; "
    module += (
        "{1}; torch.set_default_device('meta'); m = M(C({2})); from_torch(m, torch.zeros(1, 512, dtype=torch.long))"
    )
    bert_large = "hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096"
    llama_70b = "hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, "
    llama_70b += "intermediate_size=28672"
    for name, kind, sizes, target in (("BERT-large", "Bert", bert_large, 5), ("Llama-70B", "Llama", llama_70b, 20)):
        times = fresh_process_seconds(module.format(kind, start, sizes), runs)
        line(f"PyTorch module to trace, {name}", times, f"target: under {target} s")


def onnx_import(runs: int, layers: int = 12, width: int = 2048) -> None:
    """Time of `from_onnx` on a chain of products with 200 MB of weights, and the memory it adds."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(np.full((width, width), i, np.float32), f"w{i}") for i in range(layers)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["batch", width]) for i in (0, layers)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        onnx.save(helper.make_model(graph), path)
        size = path.stat().st_size
        peak = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024"
        code = "import onnx, resource, time; from workloads import from_onnx; "
        code += f"before, start = {peak}, time.perf_counter(); from_onnx({str(path)!r}, dims={{'batch': 8}}); "
        code += f"print(time.perf_counter() - start, {peak} - before)"
        runs_ = [subprocess.check_output([sys.executable, "-c", code]).split() for _ in range(runs)]
    note = f"{size / 1e6:.0f} MB file, {max(float(m) for _, m in runs_) / 1e6:.0f} MB more memory at most"
    line("ONNX file to trace", [float(t) for t, _ in runs_], note)


def main() -> None:
    """Run every benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="repeats of the long ones")
    runs = parser.parse_args().runs
    chip = preset("a100-sxm-80gb")
    print(f"{os.cpu_count()} cores, numpy {np.__version__}, Python {sys.version.split()[0]}")

    line("import numpy", fresh_process_seconds("import numpy", runs))
    line("import simulator", fresh_process_seconds("import simulator", runs), "target: under 250 ms")

    two_layers = lstm(layers=2, hidden=1024, batch=1, sequence_length=50, dtype="fp16")
    bert = network("bert-large", dtype="fp16")
    line("one design, 2-layer LSTM", seconds(lambda: simulate(two_layers, chip), 200), "target: under 1 ms")
    line("one design, BERT-large", seconds(lambda: simulate(bert, chip), 200), "target: under 1 ms")
    on_tpu, tpu = network("bert-large", dtype="bf16"), preset("tpu-v4")
    line("one design, BERT-large on a systolic array", seconds(lambda: simulate(on_tpu, tpu), 200))

    space = random_designs(chip, DESIGNS)
    median = line(
        f"{DESIGNS:,} designs x BERT-large, every field different", seconds(lambda: simulate(bert, space), runs)
    )
    evaluated = simulate(bert, space)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{'':58s} {DESIGNS / median:10,.0f} designs/s, peak memory {peak / 1e9:.2f} GB   target: under 1 s and 1 GB")

    share = paired_ratio(lambda: fresh_energy(bert, space, evaluated), lambda: simulate(bert, space), runs)
    print(f"{'energy, area, power and price of them, over simulate':58s} {share:10.2f} x")

    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        module_imports(min(runs, 3))
    if importlib.util.find_spec("onnx"):
        onnx_import(min(runs, 3))

    def trace(**sizes):
        return lstm(hidden=1024, batch=1, dtype="fp16", **sizes)

    base = trace(layers=2, sequence_length=128)
    for name, larger in (
        ("131,072 time steps over 128, same LSTM", trace(layers=2, sequence_length=131_072)),
        ("96 layers over 2, same LSTM", trace(layers=96, sequence_length=128)),
    ):
        ratio = paired_ratio(lambda larger=larger: simulate(larger, chip), lambda: simulate(base, chip), 300)
        print(f"{name:58s} {ratio:10.2f} x")


if __name__ == "__main__":
    main()
