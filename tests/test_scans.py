"""Scans: a parallel scan run number by number against the serial one, counts, path lengths, chips."""

import random

import pytest

from simulator import preset, simulate
from workloads.blocks import element_types
from workloads.scans import Scan, check_scan, combines, levels
from workloads.trace import Trace, TraceError

TYPES = element_types("test", "fp16", None, None)
LENGTHS = (2, 4, 8, 64, 1024)


def scan_of(**changes) -> Scan:
    sizes = {"states": 6, "before": (12, 6), "reads": 18, "after": (6, 6), "reads_after": 12, "result": 6}
    return Scan(op="scan", layer="l", types=TYPES, **(sizes | changes))


def trace_of(scan: Scan, form: str, steps: int, chunk: int = 1) -> Trace:
    return Trace.from_rows(scan.rows(form, steps, chunk), tokens=steps)


def brent_kung(pairs: list) -> tuple[list, int, int, int, int]:
    """All prefixes of ((a, b), ...) in place, with the levels and combines of the two sweeps."""
    values, steps = list(pairs), len(pairs)
    counts = {"up": [0, 0], "down": [0, 0]}

    def combine(sweep, left, right):
        counts[sweep][1] += 1
        (a, b), (c, d) = values[left], values[right]
        values[right] = (a * c, c * b + d)

    stride = 1
    while stride < steps:
        counts["up"][0] += 1
        for right in range(2 * stride - 1, steps, 2 * stride):
            combine("up", right - stride, right)
        stride *= 2
    stride //= 4
    while stride >= 1:
        counts["down"][0] += 1
        for right in range(3 * stride - 1, steps, 2 * stride):
            combine("down", right - stride, right)
        stride //= 2
    # the first stride of the down-sweep (steps / 2) reaches nothing
    return values, *counts["up"], *counts["down"]


@pytest.mark.parametrize("steps", LENGTHS)
def test_sweeps_are_those_of_a_scan_run_by_hand(steps):
    rng = random.Random(steps)
    pairs = [(rng.uniform(0.5, 1.0), rng.gauss(0, 1)) for _ in range(steps)]
    scanned, up_levels, ups, down_levels, downs = brent_kung(pairs)
    state = 0.0
    for (a, b), (_, found) in zip(pairs, scanned, strict=True):
        state = a * state + b
        assert found == pytest.approx(state, rel=1e-9, abs=1e-12)
    assert (levels(steps), combines(steps)) == (up_levels, (ups, downs))
    rows = {row["op"]: row for row in scan_of().rows("parallel", steps, 1)}
    assert rows["scan: up-sweep"]["repeats"] == up_levels
    assert steps == 2 or rows["scan: down-sweep"]["repeats"] == down_levels == levels(steps) - 1
    flops = sum(r["vector_flops"] * r.get("repeats", 1) for r in rows.values() if "sweep" in r["op"])
    # a level is an average one, rounded up
    assert 0 <= flops / (3 * 6) - (ups + downs) < up_levels + down_levels + 1


def test_a_serial_scan_by_hand():
    """6 states, fp16: reads 30 values and writes 6, coefficients 12 + 6, multiply-add 12, result 6 + 6."""
    (row,) = scan_of(parameters=5).rows("serial", 10, 1)
    assert (row["repeats"], row["serial_steps"], row["path_runs"], row["weight_sets"]) == (10, 10, 10, 1)
    assert (row["vector_flops"], row["special_ops"]) == (12 + 12 + 6, 6 + 6)
    assert (row["input_bytes"], row["output_bytes"]) == (2 * 30, 2 * 6)
    assert (row["parameters"], row["weight_bytes"]) == (5, 10)
    assert "state_bytes" not in row  # it stays in registers


def test_a_chunked_scan_by_hand():
    """Chunks of 4: 3 + 1 combines of 3 FLOP and 4 multiply-adds that take in the state before the chunk."""
    (row,) = scan_of().rows("chunked", 10, 4)
    assert (row["repeats"], row["serial_steps"]) == (3, 3)  # the last one is padded
    assert row["vector_flops"] == 4 * (12 + 6) + 6 * (4 * 2 + 3 * (3 + 1))
    assert (row["input_bytes"], row["output_bytes"]) == (2 * 4 * 30, 2 * 4 * 6)
    assert scan_of().rows("chunked", 3, 4)[0]["repeats"] == 1


def test_the_passes_of_a_parallel_scan_by_hand():
    """8 positions: pairs of 12 values are written, 7 and 4 combines read two pairs and write one."""
    coefficients, up, down, result = scan_of().rows("parallel", 8, 1)
    assert (coefficients["input_bytes"], coefficients["output_bytes"]) == (2 * 8 * 18, 2 * 8 * 12)
    assert (up["repeats"], up["input_bytes"], up["output_bytes"]) == (3, 2 * 3 * 24, 2 * 3 * 12)  # 7 / 3, rounded up
    assert (down["repeats"], down["input_bytes"], down["output_bytes"]) == (2, 2 * 2 * 24, 2 * 2 * 12)
    assert (result["input_bytes"], result["output_bytes"]) == (2 * 8 * (6 + 12), 2 * 8 * 6)
    assert [r["kind"] for r in (coefficients, up, down, result)] == ["elementwise", "scan", "scan", "elementwise"]


def test_a_scan_given_its_pairs_has_sweeps_alone():
    rows = scan_of(before=(0, 0), reads=12, after=(0, 0), reads_after=0).rows("parallel", 8, 1)
    assert [row["op"] for row in rows] == ["scan: up-sweep", "scan: down-sweep"]


@pytest.mark.parametrize("form", ["serial", "chunked", "parallel"])
def test_one_position_is_one_run(form):
    (row,) = scan_of().rows(form, 1, 4)
    assert (row["repeats"], row["serial_steps"], row["vector_flops"]) == (1, 1, 30)


@pytest.mark.parametrize("steps", LENGTHS)
def test_path_lengths(steps):
    last = steps - 1
    assert trace_of(scan_of(), "serial", steps).path_length(0, last) == last
    assert trace_of(scan_of(), "chunked", steps, 4).path_length(0, last) == -(-last // 4)
    assert trace_of(scan_of(), "parallel", steps).path_length(0, last) == levels(steps)


def test_a_step_of_decode_reads_its_state_and_writes_it_back():
    row = scan_of().step()
    assert (row["cache_bytes"], row["saved_bytes"]) == (2 * 2 * 6, 2 * 6)
    assert row["vector_flops"] == scan_of().rows("serial", 1, 1)[0]["vector_flops"]


def test_a_serial_scan_costs_a_dependent_operation_a_position():
    """A few states: bytes and operations vanish beside one launch and T times four cycles."""
    chip = preset("v100-sxm")
    trace = trace_of(scan_of(), "serial", 10**6)
    waiting = 10**6 * chip.vector.dependent_cycles / chip.vector.clock_hz
    assert simulate(trace, chip).latency_s == pytest.approx(waiting, rel=0.1)
    parallel = simulate(trace_of(scan_of(), "parallel", 10**6), chip).latency_s
    assert parallel < waiting


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serail", 1, "prefill", 1), "scan: unknown 'serail'.*'serial'"),
        (("serial", 0, "prefill", 1), "chunk must be a whole number of 1 or more, got 0"),
        (("serial", 1, "decoding", 1), "mode: unknown 'decoding'.*'decode'"),
        (("serial", 1, "decode", 0), "sequence_length must be a whole number of 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(TraceError, match=message):
        check_scan("here", *arguments)
