"""Attention, MLP, blocks and transformers: counts against closed forms, loops over pairs, and PyTorch."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import attention, decoder_block, encoder_block, encoder_decoder, mlp, transformer
from workloads.attention import visible_pairs
from workloads.trace import TraceError


def row_named(trace, op):
    (row,) = [row for row in trace.rows() if row["op"] == op]
    return row


def ops(trace):
    return [row["op"] for row in trace.rows()]


@st.composite
def attentions(draw):
    kv_heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    head_dim = draw(st.integers(1, 9))
    cross = draw(st.booleans())
    shape = {
        "hidden": draw(st.integers(1, 40)),
        "heads": kv_heads * group,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "sequence_length": draw(st.integers(1, 30)),
        "batch": draw(st.integers(1, 5)),
        "bias": draw(st.booleans()),
        "merge_qkv": draw(st.booleans()),
        "cache": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["fp32", "fp16", "int8"])),
    }
    if cross:
        return shape | {"memory_length": draw(st.integers(1, 30)), "memory_cached": draw(st.booleans())}
    return shape | {
        "causal": draw(st.booleans()),
        "skip_masked": draw(st.booleans()),
        "cache_length": draw(st.integers(0, 30)),
        "rotary": draw(st.booleans()),
    }


# -- one attention by hand ---------------------------------------------------------------------------


def test_fused_attention_by_hand():
    # 2 sequences of 6, hidden 24, 4 heads of 6, causal: 6 * 7 / 2 = 21 pairs a head
    trace = attention(24, 4, sequence_length=6, batch=2, causal=True, dtype="fp16")
    assert ops(trace) == ["query key value projection", "attention", "output projection"]
    projection, row, output = trace.rows()
    assert (projection["m"], projection["n"], projection["k"]) == (12, 72, 24)
    assert (output["m"], output["n"], output["k"]) == (12, 24, 24)
    assert row["kind"] == "attention"
    assert (row["batch"], row["m"], row["n"], row["k"]) == (2 * 4, 6, 12, 6)
    assert row["matrix_flops"] == 2 * 2 * 4 * 21 * (6 + 6)  # scores and weighted sum
    assert row["vector_flops"] == 4 * 2 * 4 * 21
    assert row["special_ops"] == 2 * 4 * 21
    assert row["input_bytes"] == 2 * 3 * (12 * 24)  # queries, keys, values
    assert row["output_bytes"] == 2 * 12 * 24  # the context, never the scores
    assert row["cache_bytes"] == row["saved_bytes"] == 0
    assert (row["reach_back"], row["reach_ahead"]) == (5, 0)


def test_unfused_attention_by_hand():
    trace = attention(24, 4, sequence_length=6, batch=2, fused=False, dtype="fp16")
    assert ops(trace) == ["query key value projection", "scores", "softmax", "context", "output projection"]
    scores, softmax, context = trace.rows()[1:4]
    pairs = 2 * 4 * 36
    assert (scores["batch"], scores["m"], scores["n"], scores["k"]) == (8, 6, 6, 6)
    assert scores["matrix_flops"] == context["matrix_flops"] == 2 * pairs * 6
    assert scores["input_bytes"] == 2 * 2 * (12 * 24)
    assert scores["output_bytes"] == 2 * pairs
    assert softmax["kind"] == "softmax"
    assert (softmax["vector_flops"], softmax["special_ops"]) == (4 * pairs, pairs)
    assert softmax["input_bytes"] == softmax["output_bytes"] == 2 * pairs
    assert context["input_bytes"] == 2 * (pairs + 12 * 24)
    assert context["output_bytes"] == 2 * 12 * 24
    assert (context["reach_back"], context["reach_ahead"]) == (5, 5)


def test_unfused_causal_attention_may_compute_the_whole_square():
    shape = {"sequence_length": 6, "causal": True, "fused": False}
    whole = attention(24, 4, **shape, skip_masked=False)
    visible = attention(24, 4, **shape)
    for op in ("scores", "context"):
        assert row_named(whole, op)["matrix_flops"] == 2 * 4 * 36 * 6
        assert row_named(visible, op)["matrix_flops"] == 2 * 4 * 21 * 6
    assert row_named(whole, "softmax")["input_bytes"] == 4 * 4 * 36
    assert row_named(visible, "softmax")["input_bytes"] == 4 * 4 * 21


def test_causal_attention_approaches_half_the_score_work():
    full = row_named(attention(64, 4, sequence_length=1000), "attention")
    causal = row_named(attention(64, 4, sequence_length=1000, causal=True), "attention")
    assert causal["matrix_flops"] * 2000 == full["matrix_flops"] * 1001  # (n + 1) / 2n
    assert causal["special_ops"] * 2000 == full["special_ops"] * 1001


def test_grouped_queries_share_keys_and_values():
    trace = attention(64, 8, kv_heads=2, sequence_length=10, batch=3, causal=True)
    projection, row, _ = trace.rows()
    assert projection["n"] == (8 + 2 + 2) * 8
    assert (row["batch"], row["m"]) == (3 * 2, 10 * 4)
    assert row["matrix_flops"] == 2 * 3 * 8 * 55 * 16  # the work of all query heads
    assert row["input_bytes"] == 4 * 30 * (64 + 16 + 16)
    assert row["output_bytes"] == 4 * 30 * 64


def test_decode_reads_and_holds_the_whole_cache():
    trace = attention(64, 8, kv_heads=2, sequence_length=1, cache_length=99, batch=3, causal=True, dtype="fp16")
    row = row_named(trace, "attention")
    cache = 2 * 3 * 100 * (16 + 16)  # the new position included
    assert (row["m"], row["k"]) == (4, 100)
    assert row["matrix_flops"] == 2 * 3 * 8 * 100 * 16
    assert row["cache_bytes"] == row["saved_bytes"] == cache
    assert row["input_bytes"] == row["output_bytes"] == 2 * 3 * 64
    assert trace.footprint()["cache"] == cache


def test_chunked_prefill_sees_the_past_and_its_own_past():
    row = row_named(attention(64, 8, sequence_length=4, cache_length=6, causal=True), "attention")
    assert row["matrix_flops"] == 2 * 8 * (4 * 6 + 10) * 16
    assert row["cache_bytes"] == 4 * 10 * 128
    assert row["reach_back"] == 9


def test_prefill_holds_keys_only_when_told_to():
    kept = row_named(attention(64, 8, sequence_length=10, causal=True, cache=True), "attention")
    assert kept["saved_bytes"] == 4 * 10 * 128
    assert kept["cache_bytes"] == 0  # they come straight from the projection
    assert row_named(attention(64, 8, sequence_length=10, causal=True), "attention")["saved_bytes"] == 0


def test_unfused_decode_shares_the_cache_between_scores_and_context():
    shape = {"sequence_length": 1, "cache_length": 9, "causal": True}
    fused, unfused = attention(64, 8, **shape), attention(64, 8, **shape, fused=False)
    for column in ("cache_bytes", "saved_bytes"):
        assert getattr(fused, column).sum() == getattr(unfused, column).sum() == 4 * 10 * 128


def test_cross_attention_by_hand():
    trace = attention(24, 4, sequence_length=6, batch=2, memory_length=10)
    assert ops(trace) == ["query projection", "key value projection", "attention", "output projection"]
    query, key_value, row, _ = trace.rows()
    assert (query["m"], query["n"]) == (12, 24)
    assert (key_value["m"], key_value["n"]) == (20, 48)
    assert query["after"] == key_value["after"] == ()
    assert row["after"] == (0, 1)
    assert row["matrix_flops"] == 2 * 2 * 4 * 60 * 12
    assert row["input_bytes"] == 4 * (12 * 24 + 2 * 20 * 24)
    assert (row["reach_back"], row["reach_ahead"]) == (0, 0)  # another sequence


def test_cross_attention_to_a_cached_memory_makes_no_keys():
    trace = attention(24, 4, sequence_length=1, memory_length=10, memory_cached=True)
    assert ops(trace) == ["query projection", "attention", "output projection"]
    row = row_named(trace, "attention")
    assert row["cache_bytes"] == row["saved_bytes"] == 4 * 2 * 10 * 24
    assert row["input_bytes"] == 4 * 24


def test_rotation_touches_queries_and_keys_only():
    trace = attention(64, 8, kv_heads=2, sequence_length=10, batch=3, rotary=True)
    row = row_named(trace, "rotary positions")
    assert row["vector_flops"] == 3 * 30 * (64 + 16)
    assert row["input_bytes"] == row["output_bytes"] == 4 * 30 * 80
    separate = attention(64, 8, kv_heads=2, sequence_length=10, batch=3, rotary=True, merge_qkv=False)
    assert ops(separate)[:4] == ["query projection", "key projection", "value projection", "rotary positions"]
    assert separate.after[:5] == ((), (), (), (0, 1), (2, 3))


# -- laws --------------------------------------------------------------------------------------------


@given(queries=st.integers(1, 40), past=st.integers(0, 40), causal=st.booleans())
def test_visible_pairs_equal_a_count(queries, past, causal):
    seen = [(q, k) for q in range(queries) for k in range(past + queries) if not causal or k <= past + q]
    assert visible_pairs(queries, past, causal) == len(seen)


@given(shape=attentions())
def test_fused_never_moves_more_bytes_and_does_the_same_work(shape):
    shape = shape | ({"skip_masked": True} if "skip_masked" in shape else {})
    fused, unfused = attention(**shape, fused=True), attention(**shape, fused=False)
    assert fused.total_bytes < unfused.total_bytes
    assert fused.total_flops == unfused.total_flops
    assert fused.total_parameters == unfused.total_parameters
    assert fused.footprint()["cache"] == unfused.footprint()["cache"]


@given(shape=attentions(), fused=st.booleans())
def test_work_equals_a_loop_over_pairs(shape, fused):
    trace = attention(**shape, fused=fused)
    queries, past = shape["sequence_length"], shape.get("cache_length", 0)
    keys = shape.get("memory_length", past + queries)
    whole = not shape.get("causal") or (not fused and not shape["skip_masked"])
    pairs = sum(1 for q in range(queries) for k in range(keys) if whole or k <= past + q)
    pairs *= shape["batch"] * shape["heads"]
    inside = [i for i, op in enumerate(ops(trace)) if op in ("attention", "scores", "softmax", "context")]
    assert trace.matrix_flops[inside].sum() == 4 * pairs * shape["head_dim"]
    assert trace.vector_flops[inside].sum() == 4 * pairs
    assert trace.special_ops[inside].sum() == pairs


@given(shape=attentions())
def test_merging_projections_keeps_work_and_weights(shape):
    merged, separate = (attention(**shape | {"merge_qkv": m}) for m in (True, False))
    assert merged.total_flops == separate.total_flops
    assert merged.total_parameters == separate.total_parameters
    assert merged.bytes_by_role()["weight"] == separate.bytes_by_role()["weight"]
    assert merged.bytes_by_role()["input"] <= separate.bytes_by_role()["input"]  # the input is read once


@given(shape=attentions())
def test_parameters_equal_the_closed_form(shape):
    hidden, query = shape["hidden"], shape["heads"] * shape["head_dim"]
    key = 0 if shape.get("memory_cached") else 2 * shape["kv_heads"] * shape["head_dim"]
    bias = query + key + hidden if shape["bias"] else 0
    assert attention(**shape).total_parameters == 2 * hidden * query + hidden * key + bias


def test_one_long_attention_connects_any_two_positions_in_one_run():
    trace = transformer(12, 64, 4, 100, sequence_length=500)
    assert trace.path_length(0, 499) == 1
    assert trace.path_length(499, 0) == math.inf  # causal
    assert transformer(12, 64, 4, 100, sequence_length=500, causal=False).path_length(499, 0) == 1


# -- mlp and blocks ----------------------------------------------------------------------------------


def test_mlp_by_hand():
    trace = mlp(8, 20, sequence_length=5, batch=3, activation="gelu")
    up, activation, down = trace.rows()
    assert (up["m"], up["n"], up["k"]) == (15, 20, 8)
    assert (down["m"], down["n"], down["k"]) == (15, 8, 20)
    assert (activation["vector_flops"], activation["special_ops"]) == (8 * 300, 300)
    assert trace.total_parameters == 8 * 20 + 20 + 20 * 8 + 8


@pytest.mark.parametrize("merge", [True, False])
def test_gated_mlp_has_a_third_matrix(merge):
    trace = mlp(8, 20, sequence_length=5, gated=True, activation="silu", bias=False, merge_gate=merge)
    assert trace.total_parameters == 3 * 8 * 20
    assert trace.total_matrix_flops == 2 * 5 * 3 * 8 * 20
    activation = row_named(trace, "activation")
    assert (activation["vector_flops"], activation["special_ops"]) == (200, 100)  # silu, times the second tensor
    assert activation["input_bytes"] == 4 * 200


def test_encoder_block_orders_norms():
    body = ["query key value projection", "attention", "output projection", "residual add"]
    feed = ["up projection", "activation", "down projection", "residual add"]
    assert ops(encoder_block(8, 2, sequence_length=3)) == [*body, "norm", *feed, "norm"]
    assert ops(encoder_block(8, 2, sequence_length=3, pre_norm=True)) == ["norm", *body, "norm", *feed]


def test_decoder_block_attends_to_the_memory_when_there_is_one():
    plain = decoder_block(8, 2, sequence_length=3)
    cross = decoder_block(8, 2, sequence_length=3, memory_length=5)
    assert "cross attention" not in ops(plain)
    assert row_named(cross, "cross attention")["k"] == 5
    assert row_named(cross, "attention")["matrix_flops"] == 2 * 2 * 6 * 8  # causal
    assert cross.total_parameters - plain.total_parameters == 4 * 64 + 4 * 8 + 16


@given(
    hidden=st.integers(1, 8).map(lambda h: 4 * h),
    inner=st.integers(1, 50),
    length=st.integers(1, 20),
    batch=st.integers(1, 4),
)
def test_encoder_block_equals_the_closed_form(hidden, inner, length, batch):
    trace = encoder_block(hidden, 4, inner, sequence_length=length, batch=batch)
    rows = batch * length
    assert trace.total_matrix_flops == 2 * rows * (4 * hidden**2 + 2 * hidden * inner + 2 * length * hidden)
    assert trace.total_parameters == 4 * (hidden**2 + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden


# -- whole networks ----------------------------------------------------------------------------------

SMALL = {"layers": 3, "hidden": 16, "heads": 4, "vocabulary": 50}


def test_transformer_closed_form():
    trace = transformer(**SMALL, sequence_length=7, batch=2, max_positions=9)
    block = 4 * (16**2 + 16) + 2 * 16 * 64 + 64 + 16 + 4 * 16
    assert trace.total_parameters == 50 * 16 + 9 * 16 + 3 * block + 2 * 16
    products = 14 * (4 * 16**2 + 2 * 16 * 64)
    assert trace.total_matrix_flops == 2 * (3 * (products + 2 * 2 * 28 * 16) + 14 * 16 * 50)
    assert (trace.sequences, trace.tokens) == (2, 7)


def test_rows_grow_neither_with_layers_nor_with_positions():
    def rows(**changes):
        return len(transformer(**SMALL | {"sequence_length": 8} | changes))

    assert rows() == rows(layers=96) == rows(sequence_length=10**5)
    assert len(encoder_decoder(**SMALL, sequence_length=8)) == len(
        encoder_decoder(**SMALL | {"layers": 60}, sequence_length=999)
    )


def test_decoding_the_last_position_completes_a_prefill():
    # what the last position adds to a prefill of 7 is a prefill of 8
    settings = SMALL | {"batch": 2, "max_positions": 8}
    shorter, longer = (transformer(**settings, sequence_length=n) for n in (7, 8))
    step = transformer(**settings, sequence_length=8, mode="decode")
    assert step.tokens == 1
    assert step.total_matrix_flops == longer.total_matrix_flops - shorter.total_matrix_flops
    assert step.total_parameters == longer.total_parameters


def test_decode_holds_the_cache_a_prefill_leaves():
    settings = SMALL | {"sequence_length": 8, "batch": 2, "kv_heads": 2}
    held = transformer(**settings, cache=True).footprint()["cache"]
    assert held == 3 * 2 * 8 * 2 * (2 * 4) * 4  # layers, sequences, positions, keys and values, features, bytes
    assert transformer(**settings, mode="decode").footprint()["cache"] == held
    assert transformer(**settings).footprint()["cache"] == 0


@pytest.mark.parametrize(("logits", "rows"), [("all", 14), ("last", 2)])
def test_logits_of_all_or_the_last_positions(logits, rows):
    trace = transformer(**SMALL, sequence_length=7, batch=2, logits=logits)
    assert row_named(trace, "vocabulary projection")["m"] == rows


@pytest.mark.parametrize("logits", ["none", None])
def test_no_logits(logits):
    assert "vocabulary projection" not in ops(transformer(**SMALL, sequence_length=7, logits=logits))


def test_positions_learned_sinusoidal_rotary_or_none():
    traces = {
        p: transformer(**SMALL, sequence_length=7, positions=p) for p in ("learned", "sinusoidal", "rotary", "none")
    }
    plain = traces["none"].total_parameters
    assert traces["learned"].total_parameters == plain + 7 * 16
    assert traces["sinusoidal"].total_parameters == traces["rotary"].total_parameters == plain
    assert "rotary positions" in ops(traces["rotary"])
    assert row_named(traces["sinusoidal"], "position add")["weight_bytes"] == 4 * 7 * 16
    assert transformer(**SMALL, sequence_length=7, positions=None) == traces["none"]


def test_untied_vocabulary_projection_has_its_own_parameters():
    tied, untied = (transformer(**SMALL, sequence_length=7, tied=t).total_parameters for t in (True, False))
    assert untied - tied == 50 * 16


def test_encoder_decoder_closed_form():
    trace = encoder_decoder(**SMALL, sequence_length=5, source_length=9, encoder_layers=2)
    mlp_parameters, attend, norm = 2 * 16 * 64 + 64 + 16, 4 * (16**2 + 16), 2 * 16
    encoder, decoder = attend + mlp_parameters + 2 * norm, 2 * attend + mlp_parameters + 3 * norm
    assert trace.total_parameters == 50 * 16 + 2 * encoder + 3 * decoder  # one table, tied head
    assert trace.tokens == 5
    own = encoder_decoder(**SMALL, sequence_length=5, source_length=9, encoder_layers=2, shared_embedding=False)
    assert own.total_parameters - trace.total_parameters == 50 * 16


def test_encoder_decoder_holds_the_keys_its_decode_reads():
    settings = SMALL | {"sequence_length": 5, "source_length": 9}
    held = encoder_decoder(**settings, cache=True).footprint()["cache"]
    assert held == 3 * (5 + 9) * 2 * 16 * 4  # layers, positions of both sequences, keys and values, fp32
    assert encoder_decoder(**settings, mode="decode").footprint()["cache"] == held


def test_decode_of_an_encoder_decoder_runs_the_decoder_alone():
    trace = encoder_decoder(**SMALL, sequence_length=5, source_length=9, mode="decode")
    assert {"encoder", "source embedding"}.isdisjoint(trace.layer.tolist())
    assert "cross key value projection" not in ops(trace)
    assert row_named(trace, "cross attention")["cache_bytes"] == 4 * 2 * 9 * 16
    assert row_named(trace, "attention")["k"] == 5
    assert row_named(trace, "token embedding")["parameters"] == 50 * 16


# -- PyTorch -----------------------------------------------------------------------------------------


@pytest.mark.torch
@settings(max_examples=20, deadline=None)
@given(heads=st.integers(1, 4), head_dim=st.integers(1, 8), bias=st.booleans(), inner=st.integers(1, 40))
def test_parameters_equal_torch(heads, head_dim, bias, inner):
    nn = pytest.importorskip("torch").nn
    hidden = heads * head_dim

    def parameters(module):
        return sum(p.numel() for p in module.parameters())

    own = attention(hidden, heads, sequence_length=3, bias=bias)
    assert own.total_parameters == parameters(nn.MultiheadAttention(hidden, heads, bias=bias))
    encoder = encoder_block(hidden, heads, inner, sequence_length=3, bias=bias)
    assert encoder.total_parameters == parameters(nn.TransformerEncoderLayer(hidden, heads, inner, bias=bias))
    decoder = decoder_block(hidden, heads, inner, sequence_length=3, memory_length=4, bias=bias)
    assert decoder.total_parameters == parameters(nn.TransformerDecoderLayer(hidden, heads, inner, bias=bias))


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["hidden", "heads", "sequence_length", "batch", "kv_heads", "head_dim"])
@pytest.mark.parametrize("bad", [0, -1, 0.5])
def test_bad_size_is_an_error_that_names_the_argument(argument, bad):
    with pytest.raises(TraceError, match=f"attention: {argument} must be a whole number of 1 or more, got {bad}"):
        attention(**{"hidden": 16, "heads": 4, "sequence_length": 5} | {argument: bad})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, r"heads must divide hidden \(16\) unless head_dim is given, got 5"),
        ({"kv_heads": 3}, r"kv_heads must divide heads \(4\), got 3"),
        ({"cache_length": -1}, "cache_length must be a whole number of 0 or more, got -1"),
        ({"memory_length": 0}, "memory_length must be a whole number of 1 or more, got 0"),
        ({"memory_length": 5, "causal": True}, "causal must be False where memory_length is given"),
        ({"memory_length": 5, "rotary": True}, "rotary must be False where memory_length is given"),
        ({"memory_length": 5, "cache_length": 3}, "cache_length must be 0 where memory_length is given, got 3"),
        ({"memory_cached": True}, "memory_cached needs memory_length"),
        ({"fused": 1}, "fused must be True or False, got 1"),
        ({"weight_dtype": "int9"}, "weight_dtype: unknown element type 'int9'"),
    ],
)
def test_bad_attention_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        attention(**{"hidden": 16, "heads": 4, "sequence_length": 5} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers must be a whole number of 1 or more, got 0"),
        ({"vocabulary": 0}, "vocabulary must be"),
        ({"inner": 0}, "inner must be"),
        ({"mode": "decoding"}, "mode: unknown 'decoding'.*'decode'"),
        ({"mode": "decode", "causal": False}, "mode 'decode' needs causal=True"),
        ({"cache_length": 3, "causal": False}, "cache_length 3 needs causal=True"),
        ({"norm": "batch"}, "norm: unknown 'batch'"),
        ({"activation": "gelo"}, "activation: unknown 'gelo'.*'gelu'"),
        ({"positions": "learnt"}, "positions: unknown 'learnt'.*'learned'"),
        ({"logits": "lst"}, "logits: unknown 'lst'.*'last'"),
        ({"max_positions": 4}, "sequence_length: 5 positions are asked for, max_positions is 4"),
        ({"dtype": "fp61"}, "dtype: unknown element type 'fp61'"),
    ],
)
def test_bad_transformer_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        transformer(**SMALL | {"sequence_length": 5} | changes)


def test_bad_mlp_is_an_error():
    with pytest.raises(TraceError, match="mlp: inner must be a whole number of 1 or more, got 0"):
        mlp(8, 0, sequence_length=5)
    with pytest.raises(TraceError, match="mlp: activation: unknown 'swish'"):
        mlp(8, 20, sequence_length=5, activation="swish")
