"""How many designs a second, how much memory, and what other tools do: `python tests/benchmarks/designs.py`.

`--largest 1e7` sweeps up to that many designs (10^6 unless told). `--peers` installs genz-llm and llm-flops from the
package index into a temporary environment and times them on the same network in the same run. Machines differ and are
shared: nothing in the test suite asserts a time, and ratios within one run travel better than rates.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
from streaming import Counted, counting, least_s, streamed_s

from simulator import LogRange, preset, sensitivity, simulate, sweep, tune
from simulator.axes import axes_of
from simulator.designs import Block, Grid
from simulator.mix import measured, measures, mix
from simulator.sweep import GRID_OPS, LEAST_CHUNK, MOST_CHUNK
from workloads import lstm, network

#: Points a second of two other tools on Llama 2 7B, 4096 positions: what each needs to answer for one chip.
PEERS = """
import time

def rate(name, call):
    call()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 5:
        call()
        count += 1
    print(name, count / (time.perf_counter() - start))

from GenZ import prefill_moddeling
import llmflops

rate("genz-llm", lambda: prefill_moddeling(
    model="llama2_7b", batch_size=1, input_tokens=4096, system_name="A100_40GB_GPU", bits="bf16", tensor_parallel=1))
rate("llm-flops", lambda: llmflops.estimate(
    "meta-llama/Llama-2-7b-hf", batch_size=1, sequence_length=4096, gpu="A100", include_backward=False,
    allow_hf_fetch=False))
"""


def axes(designs: int) -> dict[str, np.ndarray]:
    """A grid of about so many designs over five fields of different cost to the simulator."""
    side = max(2, round(designs ** (1 / 5)))
    last = max(2, round(designs / side**4))
    return {
        "matrix.count": np.arange(16, 16 + 4 * side, 4),
        "matrix.clock": np.linspace(0.8e9, 2.0e9, side),
        "memory.l2.capacity": np.geomspace(4e6, 3e8, side),
        "memory.dram.bandwidth": np.geomspace(3e11, 6e12, side),
        "latency.launch_s": np.linspace(1e-6, 6e-6, last),
    }


def drawn() -> dict[str, object]:
    """Seven fields to draw designs from that share nothing: those of `axes`, the tile and what the units sustain."""
    return {
        "matrix.count": LogRange(16, 128),
        "matrix.clock": LogRange(0.8e9, 2.0e9),
        "matrix.sustained": LogRange(0.5, 0.95),
        "matrix.tile_n": [8, 16, 24, 32, 48, 64],
        "memory.l2.capacity": LogRange(4e6, 3e8),
        "memory.dram.bandwidth": LogRange(3e11, 6e12),
        "latency.launch_s": LogRange(1e-6, 6e-6),
    }


def peak_bytes() -> int:
    """The most memory this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def swept(trace, designs: int, keep: str = "pareto", first: str = "latency_s", samples: bool = False) -> float:
    """Designs a second of a sweep that keeps the front of a metric, units and bandwidth, of a grid or of `samples`."""
    chip, space = preset("a100-sxm-80gb"), {"samples": designs} | drawn() if samples else axes(designs)
    metrics = [first, "matrix.count", "memory.dram.bandwidth"]
    start, busy = time.perf_counter(), time.process_time()
    found = sweep(trace, chip, metrics=metrics, keep=keep, progress=False, **space)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    rate = found.designs / took
    print(f"  {found.designs:12,} designs  {rate:12,.0f} designs/s  {1e3 * took:10.1f} ms, "
          f"{found.designs / busy:12,.0f} a second of processor time   {len(found):6,} kept, "
          f"peak memory {peak_bytes() / 1e9:.2f} GB")  # fmt: skip
    return rate


def simulated(trace, designs: int) -> None:
    """Prints the designs a second of one call of `simulate` with arrays, every op and level in the result."""
    chip = preset("a100-sxm-80gb").grid(axes(designs))
    start = time.perf_counter()
    simulate(trace, chip)
    took = time.perf_counter() - start
    print(f"  {chip.designs:12,} designs  {chip.designs / took:10,.0f} designs/s  by simulate, all arrays kept")


def beside_streaming(trace, metrics: list[str]) -> None:
    """Prints the time of one chunk of a sweep, on one core, over that of streaming its array operations."""
    chip, networks = preset("a100-sxm-80gb"), mix(trace, "benchmark")
    size = int(np.clip(GRID_OPS // len(trace), LEAST_CHUNK, MOST_CHUNK))
    grid = Grid(axes_of(chip, axes(10**6), "benchmark"), size, list(chip.memory)[-1])
    (block,) = grid.chunk(grid.chunks // 2)
    columns = measures(metrics, networks, chip)
    marked = {p: v.view(Counted) if isinstance(v, np.ndarray) else v for p, v in block.changes.items()}
    with counting() as sizes:
        measured(networks.at(None), chip, Block(marked, block.numbers, block.batch), columns)
    model, stream = least_s(lambda: measured(networks.at(None), chip, block, columns), 20), streamed_s(list(sizes), 20)
    what = f"{len(sizes)} array operations of {sum(sizes):,} numbers"
    print(f"  {', '.join(metrics)}: {block.ids.size:,} designs, {what}: "
          f"{1e3 * model:.2f} ms, {model / stream:.1f} times what streaming them takes")  # fmt: skip


def paired(first, second, times: int = 3) -> float:
    """The rate of one call over that of another, run in turn so that a busy machine slows both: the median."""
    return float(np.median([first() / second() for _ in range(times)]))


def peers() -> dict[str, float]:
    """Points a second of the other tools, in an environment of their own."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "genz-llm", "llm-flops"], check=True, stderr=subprocess.DEVNULL
        )
        out = subprocess.run([python, "-c", PEERS], capture_output=True, text=True, check=True).stdout
    return {name: float(rate) for name, rate in re.findall(r"^(genz-llm|llm-flops) ([\d.]+)$", out, re.MULTILINE)}


def main() -> None:
    """Run every benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=float, default=1e6, help="designs of the largest sweep")
    parser.add_argument("--peers", action="store_true", help="install and time other tools too")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, numpy {np.__version__}, Python {sys.version.split()[0]}")

    chip = preset("a100-sxm-80gb")
    two_layers = lstm(layers=2, hidden=1024, batch=1, sequence_length=50, dtype="fp16")
    bert = network("bert-large", dtype="fp16")
    for name, trace, target in (("2-layer LSTM", two_layers, "1,000,000"), ("BERT-large", bert, "300,000")):
        print(f"{name} (target: {target} designs/s)")
        swept(trace, 10**5)
        swept(trace, 10**6)
        swept(trace, 10**5, first="energy_j")
        simulated(trace, 10**4)
        print(f"{name}, designs drawn at random, which share nothing")
        swept(trace, 3 * 10**5, samples=True)
        swept(trace, 3 * 10**5, samples=True, first="energy_j")
        print(f"{name}, one chunk on one core (target: within 3 times)")
        beside_streaming(trace, ["latency_s"])
        beside_streaming(trace, ["latency_s", "energy_j"])
    print("flat in the number of designs, each beside 10,000")
    for size in (size for size in (10**5, 10**6, 10**7, 10**8) if size <= options.largest):
        ratio = paired(
            lambda size=size: swept(two_layers, size), lambda: swept(two_layers, 10**4), 3 if size < 1e7 else 1
        )
        print(f"  {ratio:.2f} times the rate of 10,000 designs")
    print("LSTM of 131,072 steps over one of 128, same sweep")
    short, long = (lstm(1, 1024, sequence_length=steps, dtype="fp16") for steps in (128, 131_072))
    print(f"  {paired(lambda: swept(long, 10**5), lambda: swept(short, 10**5)):.2f} times the rate")

    start = time.perf_counter()
    sensitivity(bert, chip)
    print(f"sensitivity of BERT-large in every field: {1e3 * (time.perf_counter() - start):.1f} ms")
    space = {name: values for name, values in axes(10**6).items() if name != "latency.launch_s"}
    start = time.perf_counter()
    found = tune(two_layers, chip, space, minimise="latency_s", subject_to={"memory.dram.bandwidth": 1e12})
    print(f"{found!r}: {time.perf_counter() - start:.1f} s")

    if options.peers:
        print("Llama 2 7B, 4096 positions: points a second")
        ours = swept(network("llama-2-7b", dtype="fp16"), 10**5)
        for name, rate in peers().items():
            print(f"  {name:10s} {rate:12,.1f} points/s; ours {ours / rate:,.0f} times that")


if __name__ == "__main__":
    main()
