"""Attention over a gated memory: counts by hand and against a loop over positions, laws, errors."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import TraceError, gated_memory, lstm, network, store_less, training, transformer

SIZES = {"layers": 3, "hidden": 16, "heads": 4, "vocabulary": 50, "positions": "rotary"}
KEEPS = st.sampled_from([1.0, 0.5, 0.25, 0.3, 0.01])


def only(trace, op):
    (row,) = [row for row in trace.rows() if row["op"] == op]
    return row


# -- by hand -----------------------------------------------------------------------------------------


def test_one_token_by_hand():
    # 2 sequences that have seen 100 positions, a quarter stored; 2 key heads of 4 features; fp16
    trace = gated_memory(
        **SIZES, keep=0.25, batch=2, kv_heads=2, mode="decode", sequence_length=101, cache_length=100, dtype="fp16"
    )
    test, store, attention = (only(trace, op) for op in ("similarity test", "store", "attention"))
    assert [test[c] for c in ("batch", "m", "n", "k")] == [2, 1, 25, 8]
    assert test["matrix_flops"] == 2 * 2 * 25 * 8
    assert test["vector_flops"] == 2 * (2 * 25 + 2 * 8 + 1)  # scale and compare a pair; norm and threshold of the new
    assert test["special_ops"] == 2 * 2
    assert test["cache_bytes"] == 2 * 2 * 25 * (8 + 1)  # keys and their reciprocal norms
    assert test["state_bytes"] == 0
    entry = 2 * 8 + 1
    assert store["cache_bytes"] == store["input_bytes"] == 2 * math.ceil(2 * entry / 4)
    assert [attention[c] for c in ("batch", "m", "n", "k")] == [4, 2, 8, 26]  # 101 positions: 26 stored
    assert attention["matrix_flops"] == 4 * 2 * 4 * 26 * 4
    assert attention["cache_bytes"] == 2 * 2 * 2 * 26 * 8
    assert trace.footprint()["cache"] == 3 * 2 * 2 * 26 * entry
    assert {row["repeats"] for row in (test, store, attention)} == {3}
    assert test["serial_steps"] == 1


def test_blocks_follow_one_another():
    # 10 positions in blocks of 4: 4, 4, 2; half stored: 0, 2 and 4 before each; pairs 0 + 6, 8 + 6, 8 + 1
    trace = gated_memory(**SIZES, keep=0.5, block=4, sequence_length=10)
    test, store = only(trace, "similarity test"), only(trace, "store")
    assert (test["repeats"], test["serial_steps"], test["path_runs"]) == (9, 3, 9)
    assert test["matrix_flops"] == 2 * math.ceil(29 / 3) * 16
    assert (test["m"], test["n"]) == (4, 3)
    assert test["state_bytes"] == 4 * 2 * (16 + 1)  # 16 pairs with stored ones over 10 positions: 1.6
    assert (store["repeats"], store["serial_steps"]) == (9, 3)
    assert store["output_bytes"] == 4 * math.ceil(5 * 33 / 3)
    assert only(trace, "attention")["matrix_flops"] == 4 * 4 * math.ceil(55 / 2) * 4


def test_serial_tests_are_one_run_a_position():
    test = only(gated_memory(**SIZES, keep=1.0, block=1, sequence_length=101), "similarity test")
    assert test["serial_steps"] == 101
    assert test["matrix_flops"] == 2 * 16 * 50  # 0 to 100 stored: 50 on average
    assert test["state_bytes"] == 4 * 50 * 17


# -- against a loop over positions -------------------------------------------------------------------


def by_loop(keep, new, past, block):
    """Pairs tested and pairs attended to of one sequence, position by position, as expected values."""
    tested = attended = Fraction(0)
    for position in range(past, past + new):
        start = past + (position - past) // block * block
        tested += keep * start + (position - start)
        attended += keep * (position + 1)
    return tested, attended


@given(
    keep=KEEPS,
    new=st.integers(1, 60),
    past=st.integers(0, 60),
    block=st.integers(1, 70),
    kv_heads=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 3),
)
def test_pairs_equal_a_loop(keep, new, past, block, kv_heads, batch):
    trace = gated_memory(
        **SIZES, keep=keep, block=block, sequence_length=new, cache_length=past, kv_heads=kv_heads, batch=batch
    )
    tested, attended = by_loop(Fraction(str(keep)), new, past, min(block, new))
    test, attention = only(trace, "similarity test"), only(trace, "attention")
    runs = test["repeats"] // 3
    pairs = runs * test["matrix_flops"] / (2 * batch * test["k"])
    assert max(tested, 1) <= pairs < max(tested, 1) + runs  # rounded up to whole pairs a run
    assert attention["matrix_flops"] == 4 * batch * 4 * max(new, math.ceil(attended)) * 4
    assert attention["k"] == max(1, math.ceil(Fraction(str(keep)) * (past + new)))


@given(new=st.integers(1, 40), past=st.integers(0, 40), decode=st.booleans())
def test_keeping_all_is_the_transformer_and_the_test(new, past, decode):
    mode = {"mode": "decode", "cache_length": past + 1} if decode else {"cache_length": past}
    gated = gated_memory(**SIZES, keep=1, sequence_length=new, **mode)
    plain = transformer(**SIZES, sequence_length=new, **mode)
    theirs = [r for r in gated.rows() if r["op"] not in ("similarity test", "store")]
    assert len(gated) == len(plain) + 2
    for row, other in zip(theirs, plain.rows(), strict=True):
        same = {c for c in row if c not in ("after", "saved_bytes")}
        assert {c: row[c] for c in same} == {c: other[c] for c in same}
    # beside each key and value that stays a norm, in each of 3 layers
    held = past + 2 if decode else (past + new) * (past > 0)
    assert gated.footprint()["cache"] - plain.footprint()["cache"] == 3 * 4 * held


# -- laws --------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=6), st.sampled_from([1, 16, 1000]))
def test_keeping_less_never_costs_more(keeps, block):
    totals = []
    for keep in sorted(keeps):
        prefill = gated_memory(**SIZES, keep=keep, block=block, sequence_length=500)
        decode = gated_memory(**SIZES, keep=keep, mode="decode", sequence_length=500)
        totals.append((prefill.total_flops, prefill.total_bytes, decode.total_flops, decode.footprint()["cache"]))
    assert (np.diff(np.array(totals), axis=0) >= 0).all()


def test_test_pays_below_two_thirds_where_keys_are_compared_whole():
    """Per pair, attention does 4 FLOP a feature and the test 2: 6 keep < 4 as the sequence grows."""

    def pairs_flops(keep):
        trace = gated_memory(**SIZES, keep=keep, block=1, sequence_length=100_000)
        return sum(
            only(trace, op)["matrix_flops"] * only(trace, op)["repeats"] for op in ("similarity test", "attention")
        )

    whole = only(transformer(**SIZES, sequence_length=100_000), "attention")
    limit = whole["matrix_flops"] * whole["repeats"]
    assert pairs_flops(0.66) < limit < pairs_flops(0.67)


def test_fewer_features_cost_less():
    whole, part = (
        only(gated_memory(**SIZES, keep=0.5, compared=c, mode="decode", sequence_length=1000), "similarity test")
        for c in (None, 4)
    )
    assert whole["matrix_flops"] == 4 * part["matrix_flops"]
    assert part["cache_bytes"] * 17 == whole["cache_bytes"] * 5


def test_rows_and_reach_do_not_depend_on_length_or_depth():
    trace = gated_memory(**SIZES | {"layers": 300}, keep=0.1, block=1, sequence_length=10**6)
    assert len(trace) == len(gated_memory(**SIZES, keep=0.9, sequence_length=10))
    assert trace.path_length(0, 10**6 - 1) == 1
    assert only(trace, "similarity test")["path_runs"] == 300 * 10**6


def test_any_causal_network_can_store_less():
    plain = network("llama-2-7b", mode="decode", cache_length=99_999)
    less = store_less(plain, 0.1)
    assert less.total_parameters == plain.total_parameters
    assert less.footprint()["cache"] == pytest.approx(0.1 * plain.footprint()["cache"], rel=1e-3)
    assert less.name == "llama-2-7b"


@pytest.mark.parametrize("block", [1, 8])
def test_training_differentiates_memory_and_test(block):
    forward = gated_memory(**SIZES, keep=0.5, block=block, sequence_length=32)
    trace = training(forward)
    attention = only(forward, "attention")
    # products three times, fused attention three and a half times
    expected = 3 * forward.total_matrix_flops + attention["repeats"] * attention["matrix_flops"] / 2
    assert trace.total_matrix_flops == pytest.approx(expected, rel=1e-12)


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, float("nan"), float("inf"), "half", None, True])
def test_keep_outside_its_range_is_one_clear_error(keep):
    with pytest.raises(TraceError, match="keep must be above 0 and at most 1, got"):
        gated_memory(**SIZES, keep=keep, sequence_length=10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 0}, "block must be a whole number of 1 or more, got 0"),
        ({"compared": 17}, "compared must be at most the 16 features of a key, got 17"),
        ({"compared": 0}, "compared must be a whole number of 1 or more, got 0"),
        ({"heads": 3}, r"heads must divide hidden \(16\)"),
        ({"mode": "decod"}, "mode: unknown 'decod'"),
    ],
)
def test_bad_request_is_one_clear_error(changes, message):
    with pytest.raises(TraceError, match=message):
        gated_memory(**{**SIZES, "keep": 0.5, "sequence_length": 10, **changes})


def test_what_cannot_store_less():
    with pytest.raises(TraceError, match="lstm has no fused attention"):
        store_less(lstm(1, 8, sequence_length=5), 0.5)
    with pytest.raises(TraceError, match="is no causal self attention"):
        store_less(network("bert-base"), 0.5)
    with pytest.raises(TraceError, match="a Trace is expected, got str"):
        store_less("gpt2-small", 0.5)
