"""Hierarchical attention: levels by whole numbers, pairs and reach by loops over positions, costs by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import preset, simulate
from workloads import hierarchical_attention, training
from workloads.hierarchy import levels_needed, sliding_pairs
from workloads.trace import TraceError


def ops(trace):
    return [row["op"] for row in trace.rows()]


def attentions(trace):
    return [row for row in trace.rows() if row["kind"] == "attention"]


@st.composite
def shapes(draw):
    parts, summaries = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    window = parts * summaries
    return {
        "sequence_length": draw(st.integers(window, 200)),
        "window": window,
        "summaries": summaries,
        "heads": draw(st.sampled_from([1, 2, 4])),
        "batch": draw(st.integers(1, 3)),
    }


def levels_above(length, window, summaries):
    """The vectors of each level as the positions they stand for, by cutting lists into windows."""
    level, levels = [{t} for t in range(length)], []
    while not levels or len(levels[-1]) > 1:
        cut = [level[i : i + window] for i in range(0, len(level), window)]
        levels.append(cut)
        level = [set().union(*part) for part in cut for _ in range(summaries)]
    return levels


# -- by hand -----------------------------------------------------------------------------------------


def test_two_windows_of_100_cover_10_000_vectors_by_hand():
    h = 64
    trace = hierarchical_attention(None, h, 4, sequence_length=10_000, window=100, dtype="fp16")
    assert ops(trace) == ["key value projection", "query projection", "attention", "output projection"] * 2
    first, second = attentions(trace)
    assert (first["batch"], first["m"], first["n"], first["k"]) == (4 * 100, 1, 2 * 16, 100)
    assert (second["batch"], second["m"], second["n"], second["k"]) == (4, 1, 2 * 16, 100)
    assert first["matrix_flops"] == 4 * 4 * 10_000 * 16  # every vector is looked at once
    assert second["matrix_flops"] == 4 * 4 * 100 * 16
    assert first["input_bytes"] == 2 * (100 * h + 2 * 10_000 * h)  # queries; keys and values
    assert first["output_bytes"] == 2 * 100 * h
    keys, query, _, output = trace.rows()[:4]
    assert (keys["m"], keys["n"], keys["k"]) == (10_000, 2 * h, h)
    assert (query["m"], query["n"]) == (100, h)
    assert output["m"] == 100
    assert trace.total_parameters == 2 * 4 * (h * h + h)
    assert trace.path_length(0, 9_999) == 2
    assert trace.path_length(9_999, 0) == math.inf
    assert (trace.sequences, trace.tokens) == (1, 10_000)


def test_a_new_vector_looks_up_10_000_through_100_and_100():
    h = 64
    trace = hierarchical_attention(
        None, h, 4, sequence_length=10_000, window=100, mode="decode", dtype="fp16", batch=3, bias=False
    )
    for row in attentions(trace):
        assert (row["batch"], row["m"], row["k"]) == (3 * 4, 1, 100)
        assert row["cache_bytes"] == row["saved_bytes"] == 3 * 2 * 2 * 100 * h
        assert row["input_bytes"] == row["output_bytes"] == 3 * 2 * h
    assert trace.footprint()["cache"] == 3 * 2 * (100 + 100) * 2 * h  # 200 vectors of keys and values, not 10 000
    assert trace.total_matrix_flops == 3 * 2 * (2 * 4 * h * h + 2 * 200 * h)
    assert trace.path_length(0, 9_999) == 2
    assert trace.tokens == 1


def test_sliding_windows_look_100_back_at_level_1_and_9_900_at_level_2():
    trace = hierarchical_attention(None, 64, 4, sequence_length=10_000, window=100, sliding=True)
    first, second = attentions(trace)
    assert (first["reach_back"], second["reach_back"]) == (99, 9_900)
    assert (first["m"], first["k"], first["batch"]) == (100, 199, 4 * 100)
    assert (second["m"], second["k"], second["batch"]) == (100, 100, 4 * 100)  # 100 sequences of 100 positions
    assert first["matrix_flops"] == 4 * 64 * (10_000 * 100 - 99 * 100 // 2)
    assert second["matrix_flops"] == 4 * 64 * 100 * (100 * 101 // 2)
    assert trace.path_length(0, 9_999) == 2


def test_a_sliding_decode_holds_what_comes_round_again():
    shape = {"sequence_length": 10_000, "window": 100, "mode": "decode"}
    sliding = hierarchical_attention(None, 64, sliding=True, **shape)
    summaries = hierarchical_attention(None, 64, **shape)
    assert [row["cache_bytes"] for row in attentions(sliding)] == [4 * 2 * 100 * 64] * 2
    assert [row["saved_bytes"] for row in attentions(sliding)] == [4 * 2 * 100 * 64, 4 * 2 * 9_901 * 64]
    assert sliding.total_matrix_flops == summaries.total_matrix_flops
    assert sliding.total_bytes < summaries.total_bytes  # queries, keys and values are one product: the input once


def test_a_prefill_holds_what_its_decode_reads():
    for sliding in (False, True):
        shape = {"sequence_length": 777, "window": 10, "sliding": sliding}
        decode = hierarchical_attention(None, 8, mode="decode", **shape).footprint()["cache"]
        assert hierarchical_attention(None, 8, cache=True, **shape).footprint()["cache"] == decode
        assert hierarchical_attention(None, 8, **shape).footprint()["cache"] == 0


def test_more_summaries_keep_more_and_cover_less():
    # windows of 100 with 4 summaries each: the level above covers 25 windows
    trace = hierarchical_attention(None, 64, sequence_length=2_500, window=100, summaries=4)
    first, second = attentions(trace)
    assert (first["batch"], first["m"], first["k"]) == (25, 4, 100)
    assert (second["batch"], second["m"], second["k"]) == (1, 4, 100)
    assert second["reach_back"] == 2_400
    assert len(attentions(hierarchical_attention(None, 64, sequence_length=2_501, window=100, summaries=4))) == 3


def test_a_block_has_norms_residuals_and_an_mlp():
    trace = hierarchical_attention(1, 8, sequence_length=100, window=10, inner=32)
    assert ops(trace) == [
        *("norm", "key value projection", "query projection", "attention", "output projection", "residual add"),
        *("norm", "up projection", "activation", "down projection", "residual add"),
    ]
    assert trace.total_parameters == 4 * (64 + 8) + 2 * 16 + 2 * 8 * 32 + 32 + 8
    up = trace.rows()[7]
    assert (up["m"], up["n"], up["k"]) == (10, 32, 8)  # the ten summaries


def test_a_summary_that_is_not_causal_looks_both_ways():
    trace = hierarchical_attention(None, 8, sequence_length=1_000, window=10, causal=False)
    assert trace.path_length(0, 999) == trace.path_length(999, 0) == 3


# -- laws --------------------------------------------------------------------------------------------


@given(length=st.integers(1, 10**15), window=st.integers(2, 1_000))
def test_levels_are_the_fewest_that_cover_the_sequence(length, window):
    levels = levels_needed(length, window)
    assert window**levels >= length
    assert levels == 1 or window ** (levels - 1) < length


@pytest.mark.parametrize(("length", "levels"), [(100, 1), (101, 2), (10_000, 2), (10_001, 3), (10**6, 3), (10**18, 9)])
def test_levels_at_powers_of_the_window_are_exact(length, levels):
    # in floating point log(10**6, 100) is 3 and log(1000, 10) is 2.9999999999999996
    assert levels_needed(length, 100) == levels


@given(queries=st.integers(1, 60), window=st.integers(1, 30), dilation=st.integers(1, 30))
def test_sliding_pairs_equal_a_count(queries, window, dilation):
    seen = [(t, j) for t in range(queries) for j in range(window) if t - j * dilation >= 0]
    assert sliding_pairs(queries, window, dilation) == len(seen)


@given(shape=shapes())
def test_windows_and_pairs_equal_lists_cut_into_windows(shape):
    trace = hierarchical_attention(None, 8, **shape)
    levels = levels_above(shape["sequence_length"], shape["window"], shape["summaries"])
    rows, heads, batch = attentions(trace), shape["heads"], shape["batch"]
    assert len(rows) == len(levels)
    for row, windows in zip(rows, levels, strict=True):
        assert row["batch"] == batch * heads * len(windows)
        assert row["k"] == max(map(len, windows))
        pairs = batch * heads * shape["summaries"] * sum(map(len, windows))
        assert row["matrix_flops"] == 4 * pairs * (8 // heads)
        assert row["special_ops"] == pairs


@given(shape=shapes())
def test_the_top_covers_the_sequence_in_as_many_hops_as_levels(shape):
    trace = hierarchical_attention(None, 8, **shape)
    last = shape["sequence_length"] - 1
    assert trace.path_length(0, last) == len(attentions(trace))
    assert sum(row["reach_back"] for row in attentions(trace)) == last


@settings(max_examples=40)
@given(length=st.integers(2, 120), window=st.integers(2, 6))
def test_sliding_levels_carry_every_earlier_position_to_the_last(length, window):
    window = min(window, length)
    trace = hierarchical_attention(None, 8, sequence_length=length, window=window, sliding=True)
    seen = [{t} for t in range(length)]
    for level, row in enumerate(attentions(trace)):
        pairs, apart = 0, window**level
        below = seen
        seen = []
        for t in range(length):
            keys = [t - j * apart for j in range(window) if t - j * apart >= 0]
            pairs += len(keys)
            seen.append(set().union(*(below[key] for key in keys)))
        assert row["matrix_flops"] == 4 * pairs * 8
    assert seen[-1] == set(range(length))
    assert trace.path_length(0, length - 1) == len(attentions(trace))


@given(shape=shapes(), sliding=st.booleans(), mode=st.sampled_from(["prefill", "decode"]))
def test_fused_never_moves_more_bytes_and_does_the_same_work(shape, sliding, mode):
    shape = shape | {"sliding": sliding, "mode": mode} | ({"summaries": 1} if sliding else {})
    fused, unfused = (hierarchical_attention(None, 8, fused=f, **shape) for f in (True, False))
    assert fused.total_bytes < unfused.total_bytes
    assert fused.total_flops == unfused.total_flops
    assert fused.total_parameters == unfused.total_parameters
    assert fused.footprint()["cache"] == unfused.footprint()["cache"]


def test_rows_grow_with_the_levels_only():
    assert len(hierarchical_attention(None, 8, sequence_length=10**6)) == 3 * 4
    assert len(hierarchical_attention(None, 8, sequence_length=10**6, sliding=True)) == 3 * 3


def test_cost_grows_in_proportion_to_the_sequence():
    # summaries: T (1 + 1 / 100 + ...) pairs; flat attention has T^2
    flops = [hierarchical_attention(None, 64, sequence_length=100**n).total_matrix_flops for n in (1, 2, 3)]
    assert flops[1] / flops[0] == pytest.approx(100, rel=0.02)
    assert flops[2] / flops[1] == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("sliding", [False, True])
def test_training_does_twice_the_forward_work_again(sliding):
    trace = hierarchical_attention(None, 64, 4, sequence_length=1_000, window=10, sliding=sliding, inner=256)
    trained = training(trace, input_gradients=True)
    assert 3 * trace.total_matrix_flops <= trained.total_matrix_flops <= 3.5 * trace.total_matrix_flops
    assert trained.footprint()["saved"] > 0


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_it_runs_on_a_chip(mode):
    chip = preset("a100-sxm-80gb")
    short, long = (
        simulate(hierarchical_attention(2, 256, 4, sequence_length=n, mode=mode, dtype="fp16"), chip).latency_s
        for n in (10_000, 20_000)
    )
    assert 0 < short <= long


# -- errors ------------------------------------------------------------------------------------------

SHAPE = {"levels": None, "hidden": 16, "heads": 4, "sequence_length": 50, "window": 10}


@pytest.mark.parametrize("argument", ["levels", "hidden", "heads", "sequence_length", "summaries", "batch", "inner"])
def test_bad_size_is_an_error_that_names_the_argument(argument):
    with pytest.raises(TraceError, match=f"hierarchical attention: {argument} must be a whole number of 1 or more"):
        hierarchical_attention(**SHAPE | {argument: 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 51}, r"window must not be larger than the sequence \(50 positions\), got 51"),
        ({"window": 1}, "window must be a whole number of 2 or more, got 1"),
        ({"levels": 3}, "levels must be 2 or fewer, where one window covers all 50 positions, got 3"),
        ({"summaries": 3}, r"summaries must divide window \(10\) into 2 parts or more, got 3"),
        ({"summaries": 10}, "summaries must divide"),
        ({"summaries": 2, "sliding": True}, "summaries must be 1 where sliding, got 2"),
        ({"heads": 3}, r"heads must divide hidden \(16\), got 3"),
        ({"sliding": True, "causal": False}, "sliding needs causal=True"),
        ({"mode": "decode", "causal": False}, "mode decode needs causal=True"),
        ({"mode": "decod"}, "mode: unknown 'decod'.*'decode'"),
        ({"norm": "batch"}, "norm: unknown 'batch'"),
        ({"activation": "gelo"}, "activation: unknown 'gelo'.*'gelu'"),
        ({"cache": 1}, "cache must be True or False, got 1"),
        ({"dtype": "fp61"}, "dtype: unknown element type 'fp61'"),
    ],
)
def test_bad_hierarchy_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        hierarchical_attention(**SHAPE | changes)
