"""simulate: the slow twin, designs in batches, and cases worked by hand."""

from __future__ import annotations

import importlib
import itertools
import random
from functools import cache

import numpy as np
import pytest
import reference
from conftest import CLOSED_FORM, SHARE
from hypothesis import given, settings
from strategies import cases, random_accelerator, random_case, random_space, random_trace

from simulator import Accelerator, AcceleratorError, Result, preset, presets, simulate
from workloads import Trace, TraceError, lstm, transformer

engine = importlib.import_module("simulator.simulate")  # the package's `simulate` is the function


def near(expected):
    return pytest.approx(expected, rel=CLOSED_FORM, abs=0)


# -- the slow twin ---------------------------------------------------------------------------------


def assert_equals_twin(trace, accelerator):
    """Every number of the result against plain loops over one op after another."""
    result = simulate(trace, accelerator)
    shared = list(accelerator.memory)[reference.shared_level(accelerator)]
    taken = zip(result.bounds_s["matrix"].tolist(), result.traffic_bytes[shared].tolist(), strict=True)
    like = [one if at == "host" else None for one, at in zip(taken, result.placement.tolist(), strict=True)]
    costs = reference.op_costs(trace, accelerator, like=like)

    def agree(found, expected, what, atol=0.0):
        expected = np.asarray(expected)
        close = np.abs(found - expected) <= CLOSED_FORM * np.abs(expected) + atol
        close |= np.isnan(found) & np.isnan(expected)
        assert close.all(), f"{what}: {found} is not {expected}"

    assert list(result.bounds_s) == list(costs[0]["bounds_s"])
    for name, seconds in result.bounds_s.items():
        agree(seconds, [cost["bounds_s"][name] for cost in costs], f"bound {name}")
    assert list(result.traffic_bytes) == list(accelerator.memory)
    for level, moved in result.traffic_bytes.items():
        agree(moved, [cost["traffic_bytes"][level] for cost in costs], f"bytes at {level}")
    agree(result.time_s, [cost["time_s"] for cost in costs], "time")
    assert result.placement.tolist() == [cost.get("placement", "host") for cost in costs]
    agree(result.inside_bytes, [cost.get("inside_bytes", 0.0) for cost in costs], "bytes inside")
    agree(result.resident, [cost["resident"] for cost in costs], "resident", atol=SHARE)
    for row, cost in enumerate(costs):
        # the largest; of two equal ones rounding may take either
        largest = max(cost["bounds_s"].values())
        assert cost["bounds_s"][result.bound[row]] == near(largest), f"bound of row {row}"
    for name, seconds in reference.totals(trace, accelerator, costs).items():
        agree(getattr(result, name), seconds, name)


@pytest.mark.parametrize("first", range(0, 900, 100))
def test_the_twin_agrees_on_random_cases(first):
    """2700 cases: three traces on each of 900 accelerators."""
    for seed in range(first, first + 100):
        rng = random.Random(seed)
        accelerator = random_accelerator(rng)
        for number in range(3):
            try:
                assert_equals_twin(random_trace(rng), accelerator)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, trace {number}: {error}") from error


@settings(max_examples=100)
@given(cases())
def test_the_twin_agrees_on_cases_that_can_shrink(case):
    assert_equals_twin(*case)


def test_random_cases_reach_every_bound_and_both_forms_of_latency():
    """Otherwise the agreement above would say little."""
    bounds, in_series, partly_resident = set(), set(), 0
    for seed in range(200):
        result = simulate(*random_case(random.Random(seed)))
        bounds |= set(result.bound.tolist())
        in_series.add(result.latency_s == result.serial_s)
        partly_resident += int(((result.resident > 0) & (result.resident < 1)).sum())
    assert bounds >= {"matrix", "feed", "vector", "special", "l1", "l2", "dram", "link", "latency"}
    assert in_series == {True, False}
    assert partly_resident >= 5


@cache
def _networks(dtype: str) -> tuple[Trace, ...]:
    recurrent = {"sequence_length": 50, "batch": 16, "dtype": dtype}
    return (
        lstm(4, 512, **recurrent),
        lstm(4, 512, wavefront=True, **recurrent),
        lstm(2, 1100, bidirectional=True, projection=300, **recurrent),
        transformer(layers=6, hidden=768, heads=12, vocabulary=5000, sequence_length=256, batch=2, dtype=dtype),
    )


@pytest.mark.parametrize("name", presets())
def test_the_twin_agrees_on_networks(name):
    chip = preset(name)
    for network in _networks(chip.dtypes[0]):
        assert_equals_twin(network, chip)


# -- the four ops of conftest, by hand -------------------------------------------------------------


def test_four_ops_on_the_blocked_chip(trace, blocked):
    """Output-stationary. 4 units, 16 MAC/cycle; 32 GFLOP/s, 8 G special/s; l1 and l2 100 GB/s, dram 10 GB/s.

    input product: 4 x 16 blocks: 8 blocks, two waves of 4 16 8 / 16 = 32 cycles; feed (4 + 16) 2 8 / 16 = 20 each,
      which hides 10 to fill. l1: 512 (16/4) + 256 (32/4) + 1024. l2: 512 (1 column of blocks) + 256 (8 rows) + 1024.
      dram: 256 and the 1536 in and out less the 360 that l2 keeps.
    recurrent product: 4 x 4 blocks: 4 blocks, one wave; 4 4 4 / 16 = 4 cycles, feed (4 + 4) 2 4 / 16 = 4, 10 to fill.
      l1: 32 (16/4) + 128 (4/4) + 128 more state. l2: 32 (4 columns) + 128 (1 row) + 128.
      The loop holds 128 of weights and 160 + 192 of state, 480: l2 keeps 360, three quarters.
      dram: 128 (1/4 + 3/4 / 8 steps) + 160 / 4.
    gates: 192 / 32 and 80 / 8 ns. dram: 8 steps of 160 are 1280, 360 stay: 160 - 45; and 192 / 4.
    softmax: 512 / 32 and 128 / 8 ns. dram: 512 - 360.
    """
    result = simulate(trace, blocked)
    ns = 1e-9
    assert result.traffic_bytes["l1"].tolist() == [5120, 384, 352, 512]
    assert result.traffic_bytes["l2"].tolist() == [3584, 384, 352, 512]
    assert result.traffic_bytes["dram"] == near([1432, 84, 163, 152])
    assert result.bounds_s["matrix"] == near([64 * ns, 4 * ns, 0, 0])
    assert result.bounds_s["feed"] == near([40 * ns, 10 * ns, 0, 0])
    assert result.bounds_s["vector"] == near([0, 0, 6 * ns, 16 * ns])
    assert result.bounds_s["special"] == near([0, 0, 10 * ns, 16 * ns])
    assert result.bounds_s["l1"] == near([51.2 * ns, 3.84 * ns, 3.52 * ns, 5.12 * ns])
    assert result.bounds_s["l2"] == near([35.84 * ns, 3.84 * ns, 3.52 * ns, 5.12 * ns])
    assert result.bounds_s["dram"] == near([143.2 * ns, 8.4 * ns, 16.3 * ns, 15.2 * ns])
    # launch 1000, dram 100, and 100 more for a step that waits
    assert result.bounds_s["latency"] == near([1100 * ns, 1200 * ns, 1200 * ns, 1100 * ns])
    assert result.time_s == near([1243.2 * ns, 1210 * ns, 1216.3 * ns, 1116 * ns])
    assert result.bound.tolist() == ["latency"] * 4
    assert result.resident.tolist() == pytest.approx([np.nan, 0.75, np.nan, np.nan], rel=CLOSED_FORM, nan_ok=True)
    # a chain: 1243.2 + 8 (1210 + 1216.3) + 1116
    assert result.latency_s == result.serial_s == near(21769.6 * ns)
    assert result.critical_path_s == near(21769.6 * ns)


def test_four_ops_on_the_systolic_chip(trace, systolic):
    """Weight-stationary, one 8 x 8 array of 64 MAC/cycle; the gates run with the recurrent product.

    input product: 2 passes of 32 rows, one a cycle; fill 8 + 8 + 6. Splitting the rows doubles the passes, and no
      pass is shorter than the load of 20. sram: 512 (2 columns of tiles) + 256 + 1024. dram: 256 + 1536 - 600.
    recurrent product + gates: 2 passes of 4 rows, each as long as the load of 20. The 4 x 16 weights are kept as
      8 x 16: 256 bytes. The gate sums stay in the array: of 352 state 96 remain (h, c read, c written), which fit into
      600 with the weights. sram: 32 (2 columns) + 256 + 128 + 32 + 96 - 32. dram: 256 / 8 steps; 1280 in and out of
      all steps, 600 stay: 160 - 75.
    """
    result = simulate(trace, systolic)
    ns = 1e-9
    assert result.trace.op.tolist() == ["input product", "recurrent product + gates", "softmax"]
    assert result.traffic_bytes["sram"].tolist() == [2304, 544, 512]
    assert result.traffic_bytes["dram"] == near([1192, 117, 0])
    assert result.bounds_s["matrix"] == near([86 * ns, 30 * ns, 0])
    assert result.bounds_s["feed"] == near([86 * ns, 62 * ns, 0])
    # one launch for 8 steps: 1000 / 8 + 100 + 100
    assert result.bounds_s["latency"] == near([1100 * ns, 325 * ns, 1100 * ns])
    assert result.time_s == near([1219.2 * ns, 387 * ns, 1116 * ns])
    assert result.resident[1] == 1.0
    assert result.latency_s == near((1219.2 + 8 * 387 + 1116) * ns)


def test_four_ops_on_the_flat_chip(trace, flat):
    """One MAC, one vector operation, one transcendental a nanosecond, half a byte a nanosecond and nothing kept.

    input product: 4096 MAC. The best blocks move least: 4 x 8: 512 (2 columns) + 256 (8 rows) + 1024 = 4096 bytes.
    recurrent product: 256 MAC. 4 x 8: 32 (2) + 128 (1) + 128 = 320.
    """
    result = simulate(trace, flat)
    ns = 1e-9
    assert list(result.bounds_s) == ["matrix", "feed", "vector", "special", "dram", "latency"]
    assert result.traffic_bytes["dram"].tolist() == [4096, 320, 352, 512]
    assert result.bounds_s["matrix"] == near([4096 * ns, 256 * ns, 0, 0])
    assert result.bounds_s["vector"] == near([0, 0, 192 * ns, 512 * ns])
    assert result.bounds_s["special"] == near([0, 0, 80 * ns, 128 * ns])
    assert result.time_s == near([8192 * ns, 640 * ns, 704 * ns, 1024 * ns])
    assert result.bound.tolist() == ["dram"] * 4
    assert result.resident[1] == 0.0


# -- cases worked by hand --------------------------------------------------------------------------

_VAST = 1e18  # a rate that never binds


def product(m, n, k, batch=1, **columns) -> Trace:
    """A matmul with int8 weights."""
    row = {
        "layer": "layer",
        "op": "product",
        "kind": "matmul",
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "matrix_flops": 2 * batch * m * n * k,
        "weight_bytes": n * k,
        "input_bytes": batch * m * k,
        "output_bytes": batch * m * n,
        "dtype": "int8",
    }
    return Trace.from_rows([row | columns])


def chip(changes=None, memory=None, **sections) -> Accelerator:
    """One unit of 1 int8 MAC/cycle at 1 GHz with 1 x 1 x 1 tiles; everything else never binds."""
    matrix = {"count": 1, "clock_hz": 1e9, "macs_per_cycle": {"int8": 1}, "tile_m": 1, "tile_n": 1, "tile_k": 1}
    matrix |= {"thin_tile": 1, "feed_bytes_per_cycle": _VAST, "max_split": 1}
    vector = {"count": 1, "clock_hz": 1e9, "flops_per_cycle": 1e9, "special_per_cycle": 1e9}
    memory = memory or {"dram": {"capacity_bytes": 1e15, "bandwidth_bytes_per_s": _VAST}}
    matrix |= sections.pop("matrix", {})
    made = Accelerator(name="chip", matrix=matrix, vector=vector, memory=memory, **sections)
    return made.replace(changes or {})


_ARRAY = {"dataflow": "weight-stationary", "tile_n": 256, "tile_k": 256, "macs_per_cycle": {"int8": 65536}}


def test_600_by_600_on_a_256_wide_array_costs_768_by_768():
    """Nine passes of 1000 rows, one row a cycle, and 256 + 256 cycles to fill and drain."""
    array = chip(matrix=_ARRAY)
    time = {side: simulate(product(1000, side, side), array).time_s[0] for side in (512, 513, 600, 768)}
    assert time[600] == time[768] == time[513] == near(9512e-9)
    assert time[512] == near(4512e-9)


def test_padded_tiles_are_fetched_too():
    """Stored as whole tiles 600 x 600 weights are 768 x 768; the 600 x 1000 inputs pass three columns of tiles."""
    array = chip(matrix=_ARRAY)
    streams = 3 * 600 * 1000 + 600 * 1000
    assert simulate(product(1000, 600, 600), array).traffic_bytes["dram"][0] == 600 * 600 + streams
    padded = array.replace({"matrix.stores_padded_tiles": True})
    assert simulate(product(1000, 600, 600), padded).traffic_bytes["dram"][0] == 768 * 768 + streams


def test_an_lstm_step_of_batch_16_takes_as_long_as_one_of_batch_32():
    """1024 units, 4 gates, 80 processors of 512 MAC/cycle. 128 tiles of 32 x 32 x 1024 run in two waves of
    2048 cycles; larger blocks in one wave of 8192. Batch 33 needs a second row of tiles: 256 of them in
    four waves of 2048, 64 blocks of 64 x 64 in one wave of 8192."""
    gpu = chip(
        matrix={
            "count": 80,
            "macs_per_cycle": {"int8": 512},
            "tile_m": 32,
            "tile_n": 32,
            "tile_k": 32,
            "thin_tile": 32,
            "prologue_cycles": 100,
        }
    )
    step = {batch: simulate(product(batch, 4096, 1024), gpu).bounds_s["matrix"][0] for batch in (1, 16, 32, 33, 64)}
    assert step[1] == step[16] == step[32] == near(2 * 2048e-9)
    assert step[33] == step[64] == near(8192e-9)


def test_only_the_matrix_is_padded_not_its_bias():
    array = chip(matrix=_ARRAY | {"stores_padded_tiles": True})
    plain, biased = (simulate(product(1, 600, 600, weight_bytes=w), array) for w in (360_000, 360_600))
    assert biased.traffic_bytes["dram"][0] - plain.traffic_bytes["dram"][0] == 600


_TILES_OF_32 = {"count": 16, "tile_m": 32, "tile_n": 32, "tile_k": 32, "thin_tile": 32, "macs_per_cycle": {"int8": 32}}


def test_split_k_puts_idle_units_to_work():
    """32 x 32 x 4096 is one tile: 32 32 4096 / 32 cycles on one unit of 16, a sixteenth of it on all of them. Each
    share then writes and reads 32 x 32 fp32 partial sums."""
    deep = product(32, 32, 4096)
    operands = 2 * 32 * 4096 + 32 * 32
    whole = simulate(deep, chip(matrix=_TILES_OF_32))
    assert whole.time_s[0] == near(131072e-9)
    assert whole.traffic_bytes["dram"][0] == operands
    split = simulate(deep, chip(matrix=_TILES_OF_32 | {"max_split": 16}))
    assert split.time_s[0] == near(8192e-9)
    assert split.traffic_bytes["dram"][0] == operands + 16 * 32 * 32 * 8
    # no more shares than the machine allows, and the next choice below is 4
    assert simulate(deep, chip(matrix=_TILES_OF_32 | {"max_split": 7})).time_s[0] == near(131072e-9 / 4)


def test_split_k_is_weighed_against_its_traffic():
    """At 10 bytes a nanosecond: split by 4 32768 ns against (263168 + 4 8192) / 10 = 29593.6; split by 8 16384 against
    32870.4; by 16 8192 against 39424. The first is the least."""
    memory = {"dram": {"capacity_bytes": 1e9, "bandwidth_bytes_per_s": 1e10}}
    split = simulate(product(32, 32, 4096), chip(matrix=_TILES_OF_32 | {"max_split": 16}, memory=memory))
    assert split.bounds_s["matrix"][0] == near(32768e-9)
    assert split.time_s[0] == near(32768e-9)


def test_a_causal_mask_halves_the_score_work():
    queries = product(128, 64, 128, batch=8, weight_bytes=0, kind="attention")
    causal = product(128, 64, 128, batch=8, weight_bytes=0, kind="attention", matrix_flops=8 * 128 * 64 * 128)
    for machine in (chip(), chip(matrix=_ARRAY | {"tile_n": 1, "tile_k": 1, "macs_per_cycle": {"int8": 1}})):
        fill = 2e-9 if machine.matrix.dataflow == "weight-stationary" else 0.0
        whole, half = (simulate(t, machine).bounds_s["matrix"][0] - fill for t in (queries, causal))
        assert half == near(whole / 2)
        assert whole == near(8 * 128 * 64 * 128 * 1e-9)


def recurrence(steps=100, **columns) -> Trace:
    """One recurrent product of 8 MB of weights, 6000 bytes in and out, and 1000 bytes of state."""
    columns = {"repeats": steps, "serial_steps": steps, "state_bytes": 0} | columns
    return product(1, 4000, 2000, **columns)


def l2_chip(capacity, **flags) -> Accelerator:
    memory = {
        "l2": {"capacity_bytes": capacity, "bandwidth_bytes_per_s": _VAST} | flags,
        "dram": {"capacity_bytes": 1e12, "bandwidth_bytes_per_s": 1e12},
    }
    return chip(memory=memory)


def test_6_mb_keep_three_quarters_of_8_mb_of_weights():
    """A quarter is fetched every step, the rest once in 100; 2000 in and 4000 out pass by."""
    result = simulate(recurrence(), l2_chip(6e6, keeps_weights=True))
    assert result.resident[0] == pytest.approx(0.75, rel=CLOSED_FORM)
    assert result.traffic_bytes["dram"][0] == near(8e6 / 4 + 6e6 / 100 + 6000)


def test_weights_that_fit_are_fetched_once():
    result = simulate(recurrence(), l2_chip(8e6, keeps_weights=True))
    assert result.resident[0] == 1.0
    assert result.traffic_bytes["dram"][0] == near(8e6 / 100 + 6000)


def test_weights_are_fetched_every_step_where_the_level_may_not_keep_them():
    result = simulate(recurrence(), l2_chip(8e6, keeps_activations=True))
    assert result.resident[0] == 0.0
    assert result.traffic_bytes["dram"][0] == near(8e6)  # the 100 x 6000 of activations stay


def test_state_takes_room_from_the_weights():
    """8 MB of weights and 2 MB of state in 6 MB: 0.4 of both is missing each step. State alone fits."""
    both = simulate(recurrence(state_bytes=2_000_000), l2_chip(6e6, keeps_weights=True, keeps_activations=True))
    assert both.resident[0] == pytest.approx(0.6, rel=CLOSED_FORM)
    assert both.traffic_bytes["dram"][0] == near(8e6 * (0.4 + 0.6 / 100) + 2e6 * 0.4)
    state = simulate(recurrence(state_bytes=2_000_000), l2_chip(6e6, keeps_activations=True))
    assert state.traffic_bytes["dram"][0] == near(8e6)


def test_layers_of_a_wavefront_share_the_room():
    """Three layers of 8 MB alternate: 300 runs on a path of 102 steps, 300 / 102 weight sets at a time."""
    result = simulate(recurrence(repeats=300, path_runs=102, weight_sets=3), l2_chip(6e6, keeps_weights=True))
    assert result.resident[0] == pytest.approx(6e6 * 102 / (8e6 * 300), rel=CLOSED_FORM)


def test_rows_of_one_loop_share_the_room():
    """Two products of 8 MB that alternate leave 3 MB each in 6 MB."""
    rows = recurrence().rows() + recurrence(op="second").rows()
    result = simulate(Trace.from_rows([r | {"after": None} for r in rows]), l2_chip(6e6, keeps_weights=True))
    assert result.resident == pytest.approx([3 / 8, 3 / 8], rel=CLOSED_FORM)
    apart = [r | {"layer": name, "after": None} for r, name in zip(rows, ("first", "second"), strict=True)]
    result = simulate(Trace.from_rows(apart), l2_chip(6e6, keeps_weights=True))
    assert result.resident == pytest.approx([6 / 8, 6 / 8], rel=CLOSED_FORM)


def test_activations_of_a_backward_pass_are_written_even_where_they_fit():
    """600 bytes in and out, 400 of them kept: read while still there, but written. Kept ones also take room."""
    row = {"layer": "l", "op": "o", "kind": "elementwise", "vector_flops": 1, "input_bytes": 200, "output_bytes": 400}
    forward = Trace.from_rows([row | {"saved_bytes": 400}])
    training = Trace.from_rows([row | {"saved_bytes": 400}, row | {"phase": "input-gradient"}])
    roomy = l2_chip(1e6, keeps_activations=True)
    assert simulate(forward, roomy).traffic_bytes["dram"].tolist() == [0]
    assert simulate(training, roomy).traffic_bytes["dram"].tolist() == [400, 0]
    # 2000 kept in all: 1000 of room hold half of everything
    training = Trace.from_rows([row | {"saved_bytes": 400, "repeats": 5}, row | {"phase": "input-gradient"}])
    tight = l2_chip(1e3, keeps_activations=True)
    assert simulate(training, tight).traffic_bytes["dram"] == near([400, 300])


def test_a_product_too_large_for_the_level_above_is_read_again():
    """1000 x 1000 x 1000 with 30000 bytes above: blocks of side 100, each operand ten times; keeping a panel of one
    operand would read the other 33 times."""
    result = simulate(product(1000, 1000, 1000), l2_chip(30000))
    assert result.traffic_bytes["dram"][0] == near(10e6 + 10e6 + 1e6)
    assert simulate(product(1000, 1000, 1000), l2_chip(1e6)).traffic_bytes["dram"][0] == near(3e6)


def test_a_persistent_recurrence_is_launched_once():
    timing = {"launch_s": 1e-5, "step_s": 2e-7}
    memory = {"dram": {"capacity_bytes": 1e9, "bandwidth_bytes_per_s": _VAST, "latency_s": 5e-7}}
    each = chip(memory=memory, latency=timing)
    once = each.replace({"abilities.persistent_recurrence": True})
    assert simulate(recurrence(), each).bounds_s["latency"][0] == near(1e-5 + 5e-7 + 2e-7)
    assert simulate(recurrence(), once).bounds_s["latency"][0] == near(1e-7 + 5e-7 + 2e-7)
    single = product(1, 4000, 2000, repeats=100)  # independent runs are launched each
    assert simulate(single, once).bounds_s["latency"][0] == near(1e-5 + 5e-7)


def two_directions(work_s: float, fixed_s: float, **abilities) -> Result:
    """Two directions of 100 steps whose product takes `work_s` on the matrix units and `fixed_s` of fixed cost."""
    trace = product(1, 1, round(work_s * 1e9), repeats=200, serial_steps=100, path_runs=100, weight_sets=2)
    return simulate(trace, chip(latency={"launch_s": fixed_s}, abilities=abilities))


def test_two_directions_overlap_where_fixed_costs_dominate():
    """1 us of work in 10 us of launch: the second direction fits into the gaps of the first."""
    result = two_directions(1e-6, 9e-6, concurrent_ops=2)
    assert result.serial_s == near(200 * 10e-6)
    assert result.critical_path_s == near(100 * 10e-6)
    assert result.latency_s == near(100 * 10e-6)
    assert two_directions(1e-6, 9e-6, concurrent_ops=1).latency_s == near(200 * 10e-6)
    assert two_directions(1e-6, 9e-6, concurrent_ops=1.25).latency_s == near(160 * 10e-6)


def test_two_directions_cannot_share_a_full_unit():
    """9 us of work in 10 us: 200 runs need the units for 1800 us, whatever overlaps."""
    assert two_directions(9e-6, 1e-6, concurrent_ops=2).latency_s == near(200 * 9e-6)


def test_two_directions_share_the_units_a_wave_leaves_idle():
    """One tile on one of four units: the product takes 8 us, but a quarter of the machine; only the path remains."""
    trace = product(1, 1, 8000, repeats=200, serial_steps=100, path_runs=100, weight_sets=2)
    result = simulate(trace, chip({"matrix.count": 4, "abilities.concurrent_ops": 4}))
    assert result.time_s[0] == near(8e-6)
    assert result.latency_s == near(100 * 8e-6)


def test_a_wavefront_takes_t_plus_l_minus_1_steps():
    """Four layers of 100 steps: 103 steps long, if all four may run at once; 400 / 2 when two may."""
    trace = product(1, 1, 1, repeats=400, serial_steps=100, path_runs=103, weight_sets=4)
    timed = chip(latency={"launch_s": 1e-6})
    step = 1e-6 + 1e-9
    assert simulate(trace, timed).latency_s == near(400 * step)
    assert simulate(trace, timed.replace({"abilities.concurrent_ops": 2})).latency_s == near(200 * step)
    assert simulate(trace, timed.replace({"abilities.concurrent_ops": 8})).latency_s == near(103 * step)


def test_independent_rows_run_at_once():
    """Rows 1 and 2 wait for row 0 only, row 3 for both: 1 + max(2, 3) + 4 runs of 1 us."""
    counts, after = (1, 2, 3, 4), ((), (0,), (0,), (1, 2))
    rows = [
        product(1, 1, 1).rows()[0] | {"repeats": r, "path_runs": r, "after": a}
        for r, a in zip(counts, after, strict=True)
    ]
    result = simulate(Trace.from_rows(rows), chip(latency={"launch_s": 1e-6 - 1e-9}, abilities={"concurrent_ops": 2}))
    assert result.latency_s == result.critical_path_s == near(8e-6)
    assert result.serial_s == near(10e-6)


@pytest.mark.parametrize("kind", ["elementwise", "normalisation", "softmax", "gather", "scan", "copy"])
def test_a_row_without_arithmetic_costs_its_bytes(kind):
    """300 + 500 bytes at half of 2 GB/s, whatever the kind."""
    trace = Trace.from_rows([{"layer": "l", "op": "o", "kind": kind, "input_bytes": 300, "output_bytes": 500}])
    memory = {"dram": {"capacity_bytes": 1e9, "bandwidth_bytes_per_s": 2e9, "sustained": 0.5}}
    result = simulate(trace, chip(memory=memory))
    assert result.time_s[0] == near(800e-9)
    assert result.bound[0] == "dram"


def scan_row(**columns) -> dict:
    """100 steps that read 8 bytes of input each and 1000 bytes of weights."""
    counts = {"repeats": 100, "serial_steps": 100, "path_runs": 100, "weight_sets": 1}
    row = {"layer": "l", "op": "scan", "kind": "scan", "input_bytes": 8, "weight_bytes": 1000}
    return row | counts | columns


def test_a_fused_scan_is_one_kernel():
    """One launch and one first access; every step moves 8 bytes and waits 4 cycles; the weights are read once."""
    memory = {"dram": {"capacity_bytes": 1e9, "bandwidth_bytes_per_s": 1e9, "latency_s": 3e-7}}
    machine = chip(memory=memory, latency={"launch_s": 1e-6, "step_s": 1e-3})
    machine = machine.replace({"vector.clock_hz": 1e9, "vector.dependent_cycles": 4})
    result = simulate(Trace.from_rows([scan_row()]), machine)
    assert result.latency_s == near(1e-6 + 3e-7 + 100 * (8e-9 + 4e-9) + 1000e-9)
    assert result.traffic_bytes["dram"][0] * 100 == near(100 * 8 + 1000)
    assert result.resident[0] == 1.0


def test_a_scan_within_the_steps_of_a_recurrence_pays_every_step():
    """Beside another row that alternates with it a scan is an op like any other."""
    machine = chip(latency={"launch_s": 1e-6, "step_s": 1e-6})
    rows = [scan_row(weight_bytes=0), scan_row(op="gates", kind="elementwise", weight_bytes=0)]
    result = simulate(Trace.from_rows(rows), machine)
    assert (result.bounds_s["latency"] == 2e-6).all()


def test_vector_and_special_work_have_their_own_rates():
    """1000 operations on 2 units of 4 a cycle, half of it sustained; 1000 exponentials at 0.5 a cycle."""
    row = {"layer": "l", "op": "o", "kind": "softmax", "vector_flops": 1000, "special_ops": 1000, "input_bytes": 1}
    units = {"count": 2, "clock_hz": 1e9, "flops_per_cycle": 4, "special_per_cycle": 0.5, "sustained": 0.5}
    machine = chip({f"vector.{name}": value for name, value in units.items()})
    result = simulate(Trace.from_rows([row]), machine)
    assert result.bounds_s["vector"][0] == near(250e-9)
    assert result.bounds_s["special"][0] == near(2000e-9)
    assert result.bound[0] == "special"


def test_a_collective_crosses_the_link():
    """1000 bytes at 1 GB/s and 2 us to the first byte; other rows do not touch the link."""
    row = {"layer": "l", "op": "all-reduce", "kind": "collective", "input_bytes": 1000, "output_bytes": 1000}
    trace = Trace.from_rows([row, row | {"op": "copy", "kind": "copy"}])
    result = simulate(trace, chip(link={"bandwidth_bytes_per_s": 1e9, "latency_s": 2e-6}))
    assert result.bounds_s["link"] == near([3e-6, 0])
    assert result.bound[0] == "link"


def test_what_does_not_overlap_is_added():
    """1000 ns of arithmetic on chip, 1000 ns of transfers from beyond it: hidden, half hidden, one after the other."""
    memory = {
        "sram": {"capacity_bytes": 1e6, "bandwidth_bytes_per_s": 1e15},
        "dram": {"capacity_bytes": 1e9, "bandwidth_bytes_per_s": 2.001e9},
    }
    trace = product(1, 1, 1000)  # 2001 bytes
    for overlap, expected in ((1.0, 1000e-9), (0.5, 1500e-9), (0.0, 2000e-9)):
        result = simulate(trace, chip({"abilities.overlap": overlap}, memory=memory))
        assert result.bounds_s["dram"][0] == near(1000e-9)
        assert result.time_s[0] == near(expected)


def test_fused_elementwise_work_saves_its_traffic_and_its_launch(trace, blocked):
    fused = simulate(trace, blocked.replace({"abilities.fuses_elementwise": True}))
    plain = simulate(trace, blocked)
    assert len(fused.trace) == len(plain.trace) - 1
    assert fused.trace.total_flops == plain.trace.total_flops
    assert fused.serial_s < plain.serial_s - 7 * 1e-6  # eight launches less, and 14 ns do not hide behind each other
    for level in blocked.memory:
        assert fused.traffic_bytes[level] @ fused.trace.runs < plain.traffic_bytes[level] @ plain.trace.runs


# -- many designs ----------------------------------------------------------------------------------


def assert_designs_alone(result, trace, space, indices):
    """The designs of `indices` of a result are, to the last digit, what each is alone."""
    for index in indices:
        alone, among = simulate(trace, space.design(index)), result.design(index)
        assert alone.shape == among.shape == ()
        for name in ("time_s", "resident"):
            np.testing.assert_array_equal(getattr(among, name), getattr(alone, name), f"{name} of {index}")
        assert among.bound.tolist() == alone.bound.tolist()
        for name in ("latency_s", "serial_s", "critical_path_s"):
            assert getattr(among, name) == getattr(alone, name), f"{name} of {index}"
            assert np.asarray(getattr(result, name))[index] == getattr(alone, name), f"{name} of {index}"
        for table in ("bounds_s", "traffic_bytes"):
            for name, values in getattr(alone, table).items():
                np.testing.assert_array_equal(getattr(result, table)[name][index], values, f"{table} {name} of {index}")


@pytest.mark.parametrize("shape", [(5,), (1,), (2, 3), (3, 1), (2, 1, 2)])
def test_a_design_alone_equals_the_design_in_a_batch(shape):
    for seed in range(15):
        rng = random.Random(seed)
        trace, space = random_trace(rng), random_space(rng, shape, fields=6)
        result = simulate(trace, space)
        assert result.shape == shape
        assert result.time_s.shape == (*shape, len(result.trace))
        assert_designs_alone(result, trace, space, itertools.product(*map(range, shape)))


def test_every_numeric_field_may_be_the_only_array(trace, blocked, systolic):
    """Then nothing else has spread the choices, the products or the ops over the designs."""
    for machine in (blocked, systolic):
        sections = {s: getattr(machine, s) for s in ("name", "matrix", "vector", "memory", "latency", "abilities")}
        linked = Accelerator(**sections, link={"bandwidth_bytes_per_s": 1e9})
        for path, value in linked.fields.items():
            if isinstance(value, float):
                other = value / 2 if path.endswith(("sustained", "overlap")) else value * 2
                space = linked.replace({path: np.array([value, other])})
                assert_designs_alone(simulate(trace, space), trace, space, [0, 1])


def test_chunks_of_two_designs_equal_one_chunk(monkeypatch):
    """Seven designs in chunks of 2, 2, 2, 1."""
    for seed in range(40):
        rng = random.Random(seed)
        trace, space = random_trace(rng), random_space(rng, (7,), fields=6)
        whole = simulate(trace, space)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "CHUNK_ELEMENTS", 1)
            parts = simulate(trace, space)
        assert whole.output.keys() == parts.output.keys()
        for key, values in whole.output.items():
            np.testing.assert_array_equal(parts.output[key], values, key)


@pytest.mark.parametrize("shape", [(9001,), (3, 3001)])
def test_more_designs_than_a_chunk_holds(shape, trace, blocked, monkeypatch):
    """Chunk borders fall between designs, in one dimension and in two; some fields scalar, some of one axis."""
    count = np.arange(1, shape[-1] + 1)
    space = blocked.replace(
        {
            "memory.dram.bandwidth": np.linspace(1e9, 1e12, int(np.prod(shape))).reshape(shape),
            "matrix.count": count if len(shape) == 1 else np.broadcast_to(count, shape),
            "memory.l2.capacity": np.linspace(100, 1e4, shape[0]).reshape(shape[0], *[1] * (len(shape) - 1)),
        }
    )
    monkeypatch.setattr(engine, "CHUNK_ELEMENTS", 2**14)
    monkeypatch.setattr(engine.products, "PART_ELEMENTS", 2**13)
    sizes, parts = [], []
    of_box, of_part = engine.products.cost, engine.compute.output_stationary

    def box(plan, f, *others):
        sizes.append(np.size(f["memory.dram.bandwidth_bytes_per_s"]))
        return of_box(plan, f, *others)

    def part(**arguments):
        parts.append(np.size(arguments["count"]))
        return of_part(**arguments)

    monkeypatch.setattr(engine.products, "cost", box)
    monkeypatch.setattr(engine.compute, "output_stationary", part)
    result = simulate(trace, space)
    assert len(parts) > len(sizes) > 2
    chunk, part = max(sizes), max(parts)
    borders = {0, part - 1, part, part + 1, chunk - 1, chunk, chunk + 1, 2 * chunk - 1, 2 * chunk, space.designs - 1}
    assert_designs_alone(result, trace, space, [tuple(map(int, np.unravel_index(i, shape))) for i in sorted(borders)])


@pytest.mark.parametrize("name", ["v100-sxm", "tpu-v4"])
def test_boxes_of_a_grid_equal_the_whole(name, monkeypatch):
    """Axes the products see, axes only the memory sees, an axis of launches; recurrences side by side too."""
    chip = preset(name)
    axes = {
        "latency.launch": [0, 1e-6, 1e-5],
        "memory.dram.bandwidth" if "dram" in chip.memory else f"memory.{list(chip.memory)[-1]}.bandwidth": [1e11, 1e12],
        "matrix.count": [1, 7, 80],
        f"memory.{list(chip.memory)[-2]}.capacity": [1e6, 1e8],
        "matrix.clock": [1e9],
    }
    for bidirectional in (False, True):
        network = lstm(2, 256, sequence_length=9, bidirectional=bidirectional, dtype=chip.dtypes[0])
        whole = simulate(network, chip.grid(axes))
        for most in (1, 500, 5000):
            with monkeypatch.context() as patch:
                patch.setattr(engine, "CHUNK_ELEMENTS", most)
                parts, few = simulate(network, chip.grid(axes)), engine.totals(network, chip.grid(axes))
            for key, values in whole.output.items():
                np.testing.assert_array_equal(parts.output[key], values, key)
                assert parts.output[key].shape == values.shape, key
            for key, values in few.output.items():
                np.testing.assert_array_equal(values, whole.output[key], key)


def test_what_a_field_does_not_change_is_kept_once():
    """Bytes beyond the shared memory depend on its capacity, not on clock, launch or bandwidth."""
    chip = preset("a100-sxm-80gb")
    axes = {"matrix.clock": [1e9, 2e9], "memory.l2.capacity": [1e6, 1e8, 1e9], "memory.dram.bandwidth": [1e11, 1e12]}
    result = simulate(lstm(2, 256, sequence_length=9, dtype="fp16"), chip.grid(axes))
    assert result.output["bytes:dram"].shape == (6, 1, 3, 1)
    assert result.output["bound:dram"].shape == (6, 1, 3, 2)
    assert result.output["bound:matrix"].shape == (6, 2, 1, 1)
    assert result.traffic_bytes["dram"].shape == (2, 3, 2, 6)


def test_a_grid_has_one_axis_a_field(trace, blocked):
    space = blocked.grid({"matrix.count": [1, 2, 4], "memory.dram.bandwidth": [1e9, 1e10]})
    result = simulate(trace, space)
    assert result.shape == (3, 2)
    assert result.latency_s.shape == (3, 2)
    assert_designs_alone(result, trace, space, itertools.product(range(3), range(2)))


def test_an_array_equals_a_loop_over_designs(trace, blocked):
    bandwidth = np.array([1e9, 3e9, 1e10, 1e11])
    together = simulate(trace, blocked.replace({"memory.dram.bandwidth": bandwidth})).latency_s
    alone = [simulate(trace, blocked.replace({"memory.dram.bandwidth": b})).latency_s for b in bandwidth]
    assert together.tolist() == alone


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, "lstm", [{"op": "product"}], {"op": ["product"]}])
def test_anything_but_a_trace_is_refused(wrong, blocked):
    with pytest.raises(TraceError, match=f"a Trace is expected, got {type(wrong).__name__}"):
        simulate(wrong, blocked)


@pytest.mark.parametrize("wrong", [None, "v100-sxm", {"matrix": {}}])
def test_anything_but_an_accelerator_is_refused(wrong, trace):
    with pytest.raises(AcceleratorError, match=f"an Accelerator is expected, got {type(wrong).__name__}"):
        simulate(trace, wrong)


def test_an_element_type_the_chip_lacks_is_refused_with_the_nearest(blocked):
    wanting = product(2, 2, 2).replace(dtype=["bf16"], layer=["head"], op=["vocabulary projection"])
    with pytest.raises(AcceleratorError) as caught:
        simulate(wanting, blocked)
    message = str(caught.value)
    for part in ("blocked", "row 0", "head: vocabulary projection", "'bf16'", "nearest: 'fp16'"):
        assert part in message


def test_only_products_need_the_matrix_units(blocked):
    """A softmax in an element type the matrix units lack runs on the vector units."""
    row = {"layer": "l", "op": "softmax", "kind": "softmax", "vector_flops": 8, "input_bytes": 8, "dtype": "bf16"}
    assert simulate(Trace.from_rows([row]), blocked).time_s[0] > 0


def test_a_collective_needs_a_link(blocked):
    rows = [
        {"layer": "l", "op": "copy", "kind": "copy", "input_bytes": 8},
        {"layer": "l", "op": "all-reduce", "kind": "collective", "input_bytes": 8},
    ]
    with pytest.raises(AcceleratorError, match=r"blocked: row 1 \(all-reduce\) is a collective, and it has no link"):
        simulate(Trace.from_rows(rows), blocked)


def test_two_recurrences_of_one_name_do_not_compete():
    """One after the other they take twice one: the second is named apart, or their weights would alternate."""
    once = lstm(layers=1, hidden=2048, batch=1, sequence_length=50, dtype="fp16")
    twice = once + once
    chip = preset("a100-sxm-80gb")
    assert simulate(twice, chip).serial_s == near(2 * simulate(once, chip).serial_s)
    assert list(dict.fromkeys(twice.layer.tolist())) == ["lstm.0", "lstm.0 (2)"]
    assert list(dict.fromkeys((twice + once).layer.tolist())) == ["lstm.0", "lstm.0 (2)", "lstm.0 (3)"]


# -- many designs at once ----------------------------------------------------------------------------


def _chip_of_many(chip: Accelerator, designs: int = 300) -> Accelerator:
    """The chip with fields that matter to products and fields that do not, all different."""
    rng = np.random.default_rng(0)
    paths = [f"matrix.macs_per_cycle.{chip.dtypes[0]}", "matrix.clock_hz", "latency.launch_s"]
    paths += [f"memory.{level}.bandwidth_bytes_per_s" for level in chip.memory]
    return chip.replace({path: chip.fields[path] * np.exp(rng.normal(0, 0.5, designs)) for path in paths})


@pytest.mark.parametrize("name", ["v100-sxm", "a100-sxm-80gb", "epyc-7763", "tpu-v4"])
def test_leaving_out_what_cannot_be_best_changes_nothing(name, monkeypatch):
    chip = preset(name)
    for network in _networks(chip.dtypes[0]):
        space = _chip_of_many(chip)
        few = simulate(network, space)
        monkeypatch.setattr(engine.products, "MANY", 10**9)
        every = simulate(network, space)
        monkeypatch.undo()
        for key, values in every.output.items():
            np.testing.assert_array_equal(few.output[key], values, err_msg=key)


@pytest.mark.parametrize("designs", [120, 360])
def test_many_designs_may_differ_in_any_side_of_the_tile(designs):
    """Then they are judged by all tilings, or put together by tile where many share one; each is what it is alone."""
    chip = preset("a100-sxm-80gb")
    sides = np.tile([8.0, 16.0, 32.0], designs // 3)
    for path in ("matrix.tile_m", "matrix.tile_n", "matrix.tile_k"):
        space = chip.replace({path: sides, "matrix.count": np.arange(1, designs + 1)})
        network = lstm(2, 256, sequence_length=9, dtype="fp16")
        assert_designs_alone(simulate(network, space), network, space, [0, 1, 50, 119])


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "v100-sxm"])
def test_designs_put_together_by_tile_equal_all_of_them_at_once(name, monkeypatch):
    """A list in no order, and grids with the tile on one axis and on two; products of a batch and masked attention."""
    chip, rng = preset(name), np.random.default_rng(1)
    mixed = {"matrix.tile_n": rng.choice([8.0, 24.0, 64.0], 700), "matrix.max_split": rng.choice([1.0, 4.0], 700)}
    mixed |= {"matrix.count": rng.integers(1, 129, 700).astype(float), "matrix.clock_hz": rng.uniform(1e9, 2e9, 700)}
    sides = {"matrix.tile_n": [8, 64, 16], "matrix.count": np.arange(1, 129, 3), "matrix.clock": [1e9, 2e9]}
    spaces = [chip.replace(mixed), chip.grid(sides), chip.grid(sides | {"matrix.tile_m": [16, 32]})]
    kinds = []
    of_part = engine.compute.output_stationary

    def part(**arguments):
        kinds.append("tilings" in arguments)
        return of_part(**arguments)

    monkeypatch.setattr(engine.compute, "output_stationary", part)
    for network in _networks(chip.dtypes[0]):
        for space in spaces:
            outputs = []
            for many, elements in ((64, 2**17), (64, 2**10), (10**9, 2**17)):
                monkeypatch.setattr(engine.products, "MANY", many)
                monkeypatch.setattr(engine.products, "PART_ELEMENTS", elements)
                kinds.clear()
                outputs.append(simulate(network, space).output)
                assert all(kinds) if many == 64 else not any(kinds)
            for key, values in outputs[-1].items():
                np.testing.assert_array_equal(outputs[0][key], values, err_msg=key)
                np.testing.assert_array_equal(outputs[1][key], values, err_msg=key)


@pytest.mark.parametrize("name", ["v100-sxm", "tpu-v4"])
def test_designs_of_a_grid_share_their_products(name):
    """Products are costed once for each count of units, and the grid equals its designs one by one."""
    chip = preset(name)
    axes = {"matrix.count": [1, 7, 80], "memory.dram.bandwidth": [1e11, 1e12], "latency.launch": [0, 1e-6, 1e-5]}
    for network in _networks(chip.dtypes[0])[::3]:
        grid = simulate(network, chip.grid(axes))
        for index in np.ndindex(3, 2, 3):
            alone = simulate(network, chip.grid(axes).design(index))
            for key, values in grid.design(index).output.items():
                np.testing.assert_array_equal(values, alone.output[key], err_msg=f"{index} {key}")


@pytest.mark.parametrize("name", ["v100-sxm", "tpu-v4"])
def test_totals_are_those_of_simulate(name):
    chip = preset(name)
    for network in _networks(chip.dtypes[0]):
        space = _chip_of_many(chip, 50)
        whole, totals = simulate(network, space), engine.totals(network, space)
        assert totals.output.keys() < whole.output.keys()
        for key, values in totals.output.items():
            np.testing.assert_array_equal(values, whole.output[key], err_msg=key)
        np.testing.assert_array_equal(totals.energy_j, whole.energy_j)
