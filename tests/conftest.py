"""What the tests share: the tolerances, the command line, a four-op trace and three chips small enough to compute by
hand."""

from __future__ import annotations

import hypothesis
import pytest

from reports.cli import main
from simulator import Accelerator
from workloads import Trace

#: Counts and bytes are compared with `==`. Closed forms and the slow twin may differ by rounding only. [relative]
CLOSED_FORM = 1e-12
#: The same for shares of one, which are small differences of numbers near one. [absolute]
SHARE = 1e-14

hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        status = main(list(argv))
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def trace() -> Trace:
    """An LSTM layer of 4 units on 8 steps of 4 sequences with 8 features, and a softmax: fp16, 2 bytes a number."""
    loop = {"layer": "lstm.0", "repeats": 8, "serial_steps": 8, "dtype": "fp16"}
    rows = [
        {  # 32 x 8 times 8 x 16, for all steps at once
            "layer": "lstm.0",
            "op": "input product",
            "kind": "matmul",
            "batch": 1,
            "m": 32,
            "n": 16,
            "k": 8,
            "matrix_flops": 8192,  # 2 32 16 8
            "parameters": 128,
            "weight_bytes": 256,
            "input_bytes": 512,
            "output_bytes": 1024,
            "dtype": "fp16",
        },
        loop
        | {  # 4 x 4 times 4 x 16, each step
            "op": "recurrent product",
            "kind": "matmul",
            "batch": 1,
            "m": 4,
            "n": 16,
            "k": 4,
            "matrix_flops": 512,
            "parameters": 64,
            "weight_bytes": 128,
            "state_bytes": 160,  # h 32, gate sums 128
            "reach_back": 1,
        },
        loop
        | {
            "op": "gates",
            "kind": "elementwise",
            "vector_flops": 192,
            "special_ops": 80,
            "input_bytes": 128,  # the input part of the gate sums
            "output_bytes": 32,
            "state_bytes": 192,  # gate sums 128, c read and written 64
        },
        {
            "layer": "head",
            "op": "softmax",
            "kind": "softmax",
            "vector_flops": 512,
            "special_ops": 128,
            "input_bytes": 256,
            "output_bytes": 256,
            "dtype": "fp16",
        },
    ]
    return Trace.from_rows(rows, name="tiny lstm", sequences=4, tokens=8)


@pytest.fixture
def blocked() -> Accelerator:
    """Output-stationary: 4 units of 16 MAC/cycle at 1 GHz, 4 x 4 x 4 tiles; three memory levels, nothing fused."""
    return Accelerator(
        name="blocked",
        matrix={
            "count": 4,
            "clock_hz": 1e9,
            "macs_per_cycle": {"fp16": 16, "fp32": 8},
            "tile_m": 4,
            "tile_n": 4,
            "tile_k": 4,
            "thin_tile": 2,
            "feed_bytes_per_cycle": 16,
            "prologue_cycles": 10,
            "max_split": 1,
        },
        vector={"count": 4, "clock_hz": 1e9, "flops_per_cycle": 8, "special_per_cycle": 2},
        memory={
            "l1": {"capacity_bytes": 4096, "bandwidth_bytes_per_s": 1e11, "scope": "unit"},
            "l2": {
                "capacity_bytes": 360,
                "bandwidth_bytes_per_s": 1e11,
                "keeps_weights": True,
                "keeps_activations": True,
            },
            "dram": {"capacity_bytes": 1e6, "bandwidth_bytes_per_s": 1e10, "latency_s": 1e-7},
        },
        latency={"launch_s": 1e-6, "step_s": 1e-7},
    )


@pytest.fixture
def systolic() -> Accelerator:
    """Weight-stationary: one 8 x 8 array at 1 GHz that keeps padded tiles, fuses and runs a loop as one launch."""
    return Accelerator(
        name="systolic",
        family="systolic",
        matrix={
            "count": 1,
            "clock_hz": 1e9,
            "macs_per_cycle": {"fp16": 64},
            "tile_m": 4,
            "tile_n": 8,
            "tile_k": 8,
            "dataflow": "weight-stationary",
            "stores_padded_tiles": True,
            "feed_bytes_per_cycle": 16,
            "load_cycles": 20,
            "prologue_cycles": 6,
        },
        vector={"count": 4, "clock_hz": 1e9, "flops_per_cycle": 8, "special_per_cycle": 2},
        memory={
            "sram": {
                "capacity_bytes": 600,
                "bandwidth_bytes_per_s": 1e11,
                "keeps_weights": True,
                "keeps_activations": True,
            },
            "dram": {"capacity_bytes": 1e6, "bandwidth_bytes_per_s": 1e10, "latency_s": 1e-7},
        },
        latency={"launch_s": 1e-6, "step_s": 1e-7},
        abilities={"fuses_elementwise": True, "persistent_recurrence": True},
    )


@pytest.fixture
def flat() -> Accelerator:
    """The smallest machine: one MAC, one vector operation, half a byte of memory a nanosecond; no fixed costs."""
    return Accelerator(
        name="flat",
        family="cpu",
        matrix={
            "count": 1,
            "clock_hz": 1e9,
            "macs_per_cycle": {"fp16": 1, "fp32": 1},
            "tile_m": 1,
            "tile_n": 1,
            "tile_k": 1,
            "thin_tile": 1,
            "max_split": 1,
        },
        vector={"count": 1, "clock_hz": 1e9, "flops_per_cycle": 1, "special_per_cycle": 1},
        memory={"dram": {"capacity_bytes": 1e6, "bandwidth_bytes_per_s": 5e8}},
    )
