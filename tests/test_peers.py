"""Errors found in other cost models, each kept out by a test that would have shown it."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from reports.units import parse_quantity
from simulator import Accelerator, AcceleratorError, preset, presets, simulate
from workloads import (
    Trace,
    TraceError,
    concatenate,
    copy,
    elementwise,
    embedding,
    gru,
    linear,
    lstm,
    matmul,
    normalisation,
    rnn,
    softmax,
    transformer,
)
from workloads import attention as attention_trace
from workloads.networks import network
from workloads.trace import KINDS, PRODUCTS

#: A chip of round numbers on which everything is a division: 1 MAC, 1 vector operation, 1 byte a nanosecond.
ROUND = Accelerator(
    name="round",
    matrix={
        "count": 1,
        "clock_hz": 1e9,
        "macs_per_cycle": {"fp16": 1, "int8": 1},
        "tile_m": 1,
        "tile_n": 1,
        "tile_k": 1,
        "max_split": 1,
    },
    vector={"count": 1, "clock_hz": 1e9, "flops_per_cycle": 1, "special_per_cycle": 1},
    memory={"dram": {"capacity_bytes": 1e12, "bandwidth_bytes_per_s": 1e9}},
)

some_chips = pytest.mark.parametrize("name", ["v100-sxm", "a100-sxm-80gb", "tpu-v4", "epyc-7763", "hypothetical"])
every_chip = pytest.mark.parametrize("name", presets())


def element_type(chip: Accelerator) -> str:
    return next(dtype for dtype in ("fp16", "bf16", "fp8", "int8", "fp32") if dtype in chip.dtypes)


def rows_of(trace: Trace, *kinds: str) -> np.ndarray:
    return np.isin(trace.kind, kinds)


def of_op(trace: Trace, op: str) -> int:
    """The one row that does `op`."""
    found = np.flatnonzero(trace.op == op)
    assert len(found) == 1
    return int(found[0])


# -- fused attention moves no more bytes than unfused ------------------------------------------------------

SHAPES = [
    {"sequence_length": 8192},
    {"sequence_length": 1},
    {"sequence_length": 512, "batch": 8, "kv_heads": 8},
    {"sequence_length": 512, "kv_heads": 1},
    {"sequence_length": 2048, "causal": True},
    {"sequence_length": 1, "cache_length": 4096, "causal": True, "batch": 4},
    {"sequence_length": 256, "cache_length": 4096, "causal": True, "kv_heads": 8},
    {"sequence_length": 128, "memory_length": 512},
    {"sequence_length": 1, "memory_length": 512, "memory_cached": True},
]


@functools.cache
def large_attention(**settings) -> Trace:
    return attention_trace(4096, 32, **settings)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4"])
def test_fused_attention_counts_no_more_bytes_and_the_same_work(shape, dtype):
    fused, unfused = (attention_trace(4096, 32, fused=f, dtype=dtype, **shape) for f in (True, False))
    assert fused.total_bytes < unfused.total_bytes
    assert fused.total_matrix_flops == unfused.total_matrix_flops
    assert fused.total_flops == unfused.total_flops
    assert fused.total_parameters == unfused.total_parameters
    for role, moved in fused.bytes_by_role().items():
        assert moved <= unfused.bytes_by_role()[role], role


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_chip
def test_fused_attention_moves_no_more_bytes_at_any_memory_and_takes_no_longer(name, shape):
    # as the model has it: on one chip the kernels that were measured are slower than they need be
    chip = preset(name, calibrated=False)
    fused, unfused = (
        simulate(large_attention(fused=f, dtype=element_type(chip), **shape), chip) for f in (True, False)
    )
    farthest = list(chip.memory)[-1]
    if sum(level.scope == "chip" for level in chip.memory.values()) > 1:
        # a lone shared memory is read once a tile, and the tiling is chosen for time
        moved, before = (r.traffic_bytes[farthest] @ r.trace.repeats for r in (fused, unfused))
        assert moved <= before * (1 + 1e-12)
    assert fused.latency_s <= unfused.latency_s * (1 + 1e-12)


def test_fused_attention_writes_its_output_and_no_scores():
    """32 heads of 128, 8192 tokens, fp16: 2 x 8192 x 4096 bytes, 0.07 GB; the scores would be 4.3 GB."""
    trace = attention_trace(4096, 32, sequence_length=8192, dtype="fp16")
    row = of_op(trace, "attention")
    assert trace.output_bytes[row] == 2 * 8192 * 4096
    assert trace.input_bytes[row] == 3 * 2 * 8192 * 4096  # queries, keys, values


# -- causal attention does half the score work -----------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 7, 512, 4096])
@pytest.mark.parametrize("fused", [True, False])
def test_causal_attention_computes_the_visible_pairs_only(length, fused):
    """length (length + 1) / 2 of length^2 pairs."""
    causal, full = (
        attention_trace(512, 8, sequence_length=length, causal=c, fused=fused, dtype="fp16") for c in (True, False)
    )
    kinds = ("attention",) if fused else ("matmul",)
    scores = [
        int(trace.matrix_flops[rows_of(trace, *kinds) & (trace.weight_bytes == 0)].sum()) for trace in (causal, full)
    ]
    assert scores[1] == 4 * 512 * length**2
    assert scores[0] == 4 * 512 * length * (length + 1) // 2
    for column in ("vector_flops", "special_ops"):  # the softmax of what is not seen is not computed either
        seen = causal.columns[column][rows_of(causal, "attention", "softmax")].sum()
        assert seen * 2 * length == full.columns[column][rows_of(full, "attention", "softmax")].sum() * (length + 1)


def test_new_positions_see_all_of_the_cache_and_half_of_each_other():
    trace = attention_trace(512, 8, sequence_length=10, cache_length=90, causal=True, dtype="fp16")
    pairs = 10 * 90 + 10 * 11 // 2
    assert trace.matrix_flops[of_op(trace, "attention")] == 4 * 512 * pairs


@some_chips
def test_causal_attention_over_a_long_sequence_takes_half_the_time(name):
    """Where the kernel leaves out what the mask hides; one that does not takes as long as without a mask."""
    chip = preset(name).replace({"abilities.skips_masked": True})
    lazy = chip.replace({"abilities.skips_masked": False})
    masked, whole = (
        simulate(attention_trace(2048, 16, sequence_length=4096, causal=c, dtype=element_type(chip)), lazy)
        for c in (True, False)
    )
    row = of_op(whole.trace, "attention")
    assert masked.bounds_s["matrix"][row] == whole.bounds_s["matrix"][row]
    causal, full = (
        simulate(attention_trace(2048, 16, sequence_length=16384, causal=c, dtype=element_type(chip)), chip)
        for c in (True, False)
    )
    row = of_op(full.trace, "attention")
    assert causal.time_s[row] / full.time_s[row] == pytest.approx(0.5, abs=0.02)


# -- an embedding is a gather --------------------------------------------------------------------------


def test_an_embedding_reads_its_rows_and_multiplies_nothing():
    trace = embedding(100, 50000, 1024, dtype="fp16")
    assert trace.kind.tolist() == ["gather"]
    assert trace.total_flops == 0
    assert trace.weight_bytes[0] == 100 * 1024 * 2
    assert trace.output_bytes[0] == 100 * 1024 * 2
    assert trace.total_parameters == 50000 * 1024


@every_chip
def test_an_embedding_does_not_cost_more_in_a_larger_vocabulary(name):
    chip = preset(name)
    few, many = (simulate(embedding(64, size, 1024, dtype=element_type(chip)), chip) for size in (1000, 1_000_000))
    assert many.latency_s == few.latency_s
    product = simulate(linear(64, 1_000_000, 1024, bias=False, dtype=element_type(chip)), chip)
    assert product.latency_s > few.latency_s


@pytest.mark.parametrize("name", ["bert-base", "gpt2-small", "llama-2-7b"])
def test_networks_look_their_tokens_up(name):
    trace = network(name)
    first = [i for i, op in enumerate(trace.op.tolist()) if "embedding" in op]
    assert first == [0]
    assert trace.kind[0] == "gather"
    assert trace.flops[0] == 0


def test_looking_tokens_up_is_a_trifle_of_a_prefill():
    """A product with the vocabulary would be 1.8 % of Llama 2 7B's prefill of 2048 tokens; look-ups are far less."""
    result = simulate(network("llama-2-7b", batch=1, seq_len=2048, dtype="fp16"), preset("a100-sxm-80gb"))
    assert result.total_s[0] < 0.001 * result.serial_s


# -- softmax and norms -----------------------------------------------------------------------------------

VECTOR_OPS = {
    "softmax": lambda dtype: softmax(4096, 4096, dtype=dtype),
    "layer norm": lambda dtype: normalisation(4096, 4096, dtype=dtype),
    "rms norm": lambda dtype: normalisation(4096, 4096, norm="rms", dtype=dtype),
    "gelu": lambda dtype: elementwise(4096 * 4096, "gelu", dtype=dtype),
    "residual add": lambda dtype: elementwise(4096 * 4096, "residual add", dtype=dtype),
}


@pytest.mark.parametrize("op", VECTOR_OPS)
@every_chip
def test_softmax_and_norms_run_on_the_vector_units(name, op):
    chip = preset(name)
    trace = VECTOR_OPS[op](element_type(chip))
    result = simulate(trace, chip)
    assert trace.vector_flops[0] > 0
    assert result.time_s[0] >= trace.vector_flops[0] / chip.vector_flops_per_s
    assert result.time_s[0] >= trace.special_ops[0] / chip.special_ops_per_s
    assert result.bounds_s["matrix"][0] == 0
    faster = {f"matrix.macs_per_cycle.{dtype}": 100 * rate for dtype, rate in chip.matrix.macs_per_cycle.items()}
    assert simulate(trace, chip.replace(faster)).time_s[0] == result.time_s[0]


@every_chip
def test_the_softmax_inside_fused_attention_is_not_free(name):
    chip = preset(name)
    trace = attention_trace(1024, 16, sequence_length=512, dtype=element_type(chip))
    result, row = simulate(trace, chip), of_op(trace, "attention")
    assert trace.vector_flops[row] == 4 * 16 * 512**2
    assert trace.special_ops[row] == 16 * 512**2
    assert result.bounds_s["special"][row] >= trace.special_ops[row] / chip.special_ops_per_s
    assert result.time_s[row] >= max(result.bounds_s["special"][row], result.bounds_s["vector"][row])


# -- GB is 10^9 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("900GB/s", 900e9),
        ("2TB/s", 2e12),
        ("16GB", 16e9),
        ("1kB", 1000),
        ("1 MB", 1e6),
        ("16GiB", 16 * 2**30),
        ("128KiB", 128 * 2**10),
        ("1410MHz", 1.41e9),
        ("312TFLOP/s", 312e12),
        ("2PFLOP/s", 2e15),
    ],
)
def test_prefixes_are_powers_of_ten_unless_they_say_otherwise(text, value):
    assert parse_quantity(text).value == value


def test_a_gigabyte_at_a_gigabyte_a_second_takes_a_second():
    """Half of it read, half of it written."""
    assert simulate(copy(250_000_000, dtype="fp16"), ROUND).latency_s == 1.0


def test_datasheet_bandwidth_is_read_as_printed():
    assert preset("v100-sxm").outer.bandwidth_bytes_per_s == 900e9
    assert preset("v100-sxm").outer.capacity_bytes == 16e9


def test_a_multiply_accumulate_is_two_operations_everywhere():
    trace = matmul(10, 20, 30, dtype="fp16")
    assert trace.matrix_flops[0] == 2 * 10 * 20 * 30
    result = simulate(matmul(100, 100, 100, dtype="fp16"), ROUND)
    assert result.bounds_s["matrix"][0] == pytest.approx(1e6 / 1e9)  # a million MAC, one a nanosecond
    assert ROUND.peak_flops_per_s("fp16") == 2e9


def test_a_kilowatt_hour_of_percent_has_no_place_here():
    """Shares are 0..1, never percent."""
    result = simulate(matmul(100, 100, 100, dtype="fp16"), ROUND)
    assert 0 < result.utilisation <= 1
    assert sum(result.time_share_by_bound().values()) == pytest.approx(1)


# -- no op gets faster when one of its sizes grows ---------------------------------------------------------


@every_chip
def test_ten_megabytes_are_not_quicker_than_nine_point_nine(name):
    chip = preset(name)
    dtype = element_type(chip)
    sizes = [4_900_000, 4_950_000, 4_999_500, 5_000_000, 5_000_500, 5_050_000]
    for build in (
        lambda e: copy(e, dtype=dtype),
        lambda e: elementwise(e, dtype=dtype),
        lambda e: softmax(e // 50, 50, dtype=dtype),
        lambda e: linear(16, e // 500, 500, dtype=dtype),
        lambda e: linear(e // 500, 16, 500, dtype=dtype),
    ):
        time = [simulate(build(size), chip).latency_s for size in sizes]
        assert time == sorted(time)


GROWING = {
    "lstm batch": lambda v, d: lstm(2, 512, sequence_length=20, batch=v, dtype=d),
    "lstm hidden": lambda v, d: lstm(2, 16 * v, sequence_length=20, dtype=d),
    "lstm length": lambda v, d: lstm(2, 512, sequence_length=v, dtype=d),
    "lstm layers": lambda v, d: lstm(v, 512, sequence_length=20, dtype=d),
    "gru batch": lambda v, d: gru(1, 1000, sequence_length=20, batch=v, dtype=d),
    "rnn hidden": lambda v, d: rnn(1, 24 * v, sequence_length=20, batch=16, dtype=d),
    "transformer length": lambda v, d: transformer(2, 512, 8, 1000, sequence_length=10 * v, dtype=d),
    "transformer batch": lambda v, d: transformer(2, 512, 8, 1000, sequence_length=64, batch=v, dtype=d),
    "transformer hidden": lambda v, d: transformer(2, 16 * v, 8, 1000, sequence_length=64, dtype=d),
    "decode cache": lambda v, d: transformer(2, 512, 8, 1000, sequence_length=50 * v, mode="decode", batch=8, dtype=d),
    "unfused length": lambda v, d: transformer(2, 512, 8, 1000, sequence_length=10 * v, fused=False, dtype=d),
}


@functools.cache
def grown(growth: str, size: int, dtype: str) -> Trace:
    return GROWING[growth](size, dtype)


@pytest.mark.parametrize("growth", GROWING)
@every_chip
def test_no_network_gets_faster_when_a_size_grows(name, growth):
    chip = preset(name)
    sizes = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 100, 128, 129, 200, 256, 257]
    time = np.array([simulate(grown(growth, size, element_type(chip)), chip).serial_s for size in sizes])
    falls = np.flatnonzero(np.diff(time) < -1e-12 * time[:-1])
    assert not len(falls), f"quicker at {sizes[falls[0] + 1]} than at {sizes[falls[0]]}"


@every_chip
def test_products_of_few_rows_have_an_answer(name):
    """Sixteen rows and fewer are what an LSTM has: a finite, small time for each, not a sentinel."""
    chip = preset(name)
    trace = concatenate([linear(rows, 4096, 1024, dtype=element_type(chip)) for rows in range(1, 65)])
    time = simulate(trace, chip).time_s
    assert ((time > 0) & (time < 1.0)).all()
    assert (np.diff(time) >= -1e-12 * time[:-1]).all()


# -- nothing is free because its kind is unknown -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "LSTM", "conv", "einsum", "flash-attention", ""])
def test_an_unknown_kind_is_an_error(kind):
    with pytest.raises(TraceError, match="kind"):
        Trace.from_rows([{"layer": "a", "op": "b", "kind": kind, "input_bytes": 10}])


def minimal(kind: str, **amounts) -> Trace:
    """A trace of one op of `kind` that has only `amounts`."""
    row = {"layer": "a", "op": "b", "kind": kind, "dtype": "fp16"} | amounts
    if kind in PRODUCTS:
        row |= {"batch": 1, "m": 2, "n": 2, "k": 2, "matrix_flops": 16}
    return Trace.from_rows([row])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "amount",
    ["vector_flops", "special_ops", "weight_bytes", "input_bytes", "output_bytes", "state_bytes", "cache_bytes"],
)
def test_every_kind_costs_for_every_amount(kind, amount):
    chip = ROUND.replace(name="linked")
    if kind == "collective":
        chip = Accelerator(
            name="linked", matrix=ROUND.matrix, vector=ROUND.vector, memory=ROUND.memory,
            link={"bandwidth_bytes_per_s": 1e9},
        )  # fmt: skip
    once = simulate(minimal(kind, **{amount: 10**6}), chip)
    assert once.time_s[0] == pytest.approx(1e-3, rel=1e-4)  # a million at one a nanosecond
    assert simulate(minimal(kind, **{amount: 2 * 10**6}), chip).time_s[0] == pytest.approx(2e-3, rel=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PRODUCTS])
def test_an_op_with_nothing_to_do_cannot_be_costed(kind):
    with pytest.raises(TraceError, match="cannot be costed"):
        minimal(kind)


def test_a_collective_needs_a_link():
    with pytest.raises(AcceleratorError, match="no link"):
        simulate(minimal("collective", input_bytes=10**6), ROUND)


def test_a_recurrent_network_counts_all_its_steps():
    """2 x 4 x 1024 x (1024 + 1024) x 32 sequences x 50 steps = 26.84 GFLOP; several counters find none."""
    trace = lstm(1, 1024, sequence_length=50, batch=32)
    assert trace.total_matrix_flops == 2 * 4 * 1024 * 2048 * 32 * 50
    both = lstm(2, 1024, sequence_length=50, batch=32, bidirectional=True)
    first, second = 2 * 4 * 1024 * (1024 + 1024), 2 * 4 * 1024 * (2048 + 1024)
    assert both.total_matrix_flops == 2 * (first + second) * 32 * 50


# -- one formula for prefill and decode --------------------------------------------------------------------


@pytest.mark.parametrize(("kv_heads", "past"), [*itertools.product((32, 8, 1), (1, 100, 4096))])
def test_decode_is_prefill_of_one_position(kv_heads, past):
    """Query bytes follow the query heads in both; the two were once written twice and drifted apart."""
    settings = {"kv_heads": kv_heads, "batch": 3, "dtype": "fp16"}
    decode = transformer(2, 4096, 32, 1000, sequence_length=past + 1, mode="decode", **settings)
    prefill = transformer(2, 4096, 32, 1000, sequence_length=1, cache_length=past, **settings)
    assert decode == prefill
    row = of_op(decode, "attention")
    assert decode.input_bytes[row] == 2 * 3 * 4096  # queries of all 32 heads, whatever the key heads
    assert decode.cache_bytes[row] == 2 * 2 * 3 * kv_heads * 128 * (past + 1)


def test_a_network_is_the_sum_of_its_parts():
    """Nothing is lost or counted twice when traces are joined."""
    parts = [lstm(1, 64, sequence_length=5), attention_trace(64, 4, sequence_length=5), softmax(5, 100)]
    whole = concatenate(parts)
    assert len(whole) == sum(len(part) for part in parts)
    assert whole.total_flops == sum(part.total_flops for part in parts)
    assert whole.total_bytes == sum(part.total_bytes for part in parts)
    assert whole.total_parameters == sum(part.total_parameters for part in parts)
