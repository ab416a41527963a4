"""Latent attention: cache and work by hand, absorbed against expanded, the module of a library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import attention, latent_attention, network, training, transformer
from workloads.trace import TraceError

#: One layer of DeepSeek-V2 (arXiv:2405.04434, section 3.1.2): 5120 hidden, 128 heads of 128, latents 512 and 1536.
V2 = {"hidden": 5120, "heads": 128, "head_dim": 128, "latent_size": 512, "query_latent_size": 1536, "rotary_dim": 64}


def row_named(trace, op):
    (row,) = [row for row in trace.rows() if row["op"] == op]
    return row


def ops(trace):
    return [row["op"] for row in trace.rows()]


@st.composite
def latents(draw):
    heads = draw(st.integers(1, 4))
    return {
        "hidden": draw(st.integers(1, 20)),
        "heads": heads,
        "head_dim": draw(st.integers(1, 9)),
        "value_dim": draw(st.integers(1, 9)),
        "rotary_dim": draw(st.integers(0, 6)),
        "latent_size": draw(st.integers(1, 20)),
        "query_latent_size": draw(st.none() | st.integers(1, 20)),
        "sequence_length": draw(st.integers(1, 20)),
        "cache_length": draw(st.integers(0, 20)),
        "batch": draw(st.integers(1, 3)),
    }


def test_prefill_by_hand():
    trace = latent_attention(**V2, sequence_length=10, batch=2, cache=True, dtype="fp16")
    assert ops(trace) == [
        *("query down projection", "query latent norm", "query up projection"),
        *("key value down projection", "latent norm", "rotary positions"),
        *("key value up projection", "attention", "output projection"),
    ]
    assert row_named(trace, "query up projection")["n"] == 128 * (128 + 64)
    assert row_named(trace, "key value down projection")["n"] == 512 + 64
    assert row_named(trace, "rotary positions")["vector_flops"] == 3 * 20 * (128 + 1) * 64
    up = row_named(trace, "key value up projection")
    assert (up["m"], up["n"], up["k"]) == (20, 128 * (128 + 128), 512)
    row = row_named(trace, "attention")
    assert (row["batch"], row["m"], row["n"], row["k"]) == (2 * 128, 10, 192 + 128, 10)
    assert row["matrix_flops"] == 2 * (2 * 128 * 55) * (192 + 128)
    keys = 20 * (128 * 128 + 64)  # of every head, and one rotary key
    assert row["input_bytes"] == 2 * (20 * 128 * 192 + keys + 20 * 128 * 128)
    assert row["output_bytes"] == 2 * 20 * 128 * 128
    assert trace.footprint()["cache"] == 2 * 20 * (512 + 64)
    assert row["reach_back"] == 9


def test_decode_by_hand_reads_the_latents_once_for_all_heads():
    trace = latent_attention(**V2, sequence_length=1, cache_length=999, batch=2, dtype="fp16")
    assert ops(trace)[-4:] == ["query absorption", "attention", "value up projection", "output projection"]
    row = row_named(trace, "attention")
    assert (row["batch"], row["m"], row["n"], row["k"]) == (2, 128, 576 + 512, 1000)
    assert row["matrix_flops"] == 2 * 2 * 128 * 1000 * (576 + 512)
    assert row["cache_bytes"] == row["saved_bytes"] == 2 * 2 * 1000 * 576
    assert row["input_bytes"] == 2 * 2 * 128 * 576
    query = row_named(trace, "query absorption")
    assert (query["batch"], query["m"], query["n"], query["k"]) == (128, 2, 512, 128)


def test_the_cache_is_that_of_two_and_a_quarter_groups():
    # table 1 of the paper: (d_c + d_r) elements a token and layer, as grouped attention of 2.25 groups
    latent = latent_attention(**V2, sequence_length=1, cache_length=4095).footprint()["cache"]
    multi = attention(128 * 128, 128, sequence_length=1, cache_length=4095, causal=True).footprint()["cache"]
    assert latent == 4 * 4096 * (512 + 64)
    assert latent / multi == 2.25 / 128


def test_a_prefill_holds_what_its_decode_reads():
    held = latent_attention(**V2, sequence_length=100, cache=True).footprint()["cache"]
    assert latent_attention(**V2, sequence_length=1, cache_length=99).footprint()["cache"] == held
    assert latent_attention(**V2, sequence_length=100).footprint()["cache"] == 0


@given(shape=latents(), fused=st.booleans())
def test_absorbed_and_expanded_have_the_same_parameters_and_different_work(shape, fused):
    absorbed, expanded = (latent_attention(**shape, fused=fused, absorbed=a) for a in (True, False))
    assert absorbed.total_parameters == expanded.total_parameters
    assert absorbed.footprint()["cache"] == expanded.footprint()["cache"]
    heads, d, v, r, c = (shape[k] for k in ("heads", "head_dim", "value_dim", "rotary_dim", "latent_size"))
    queries, keys = shape["batch"] * shape["sequence_length"], shape["cache_length"] + shape["sequence_length"]
    length, past = shape["sequence_length"], shape["cache_length"]
    pairs = shape["batch"] * heads * sum(past + q + 1 for q in range(length))
    made = 2 * shape["batch"] * keys * c * heads * (d + v) + 2 * pairs * (d + r + v)
    taken = 2 * queries * heads * c * (d + v) + 2 * pairs * (c + r + c)
    assert expanded.total_matrix_flops - absorbed.total_matrix_flops == made - taken


@given(shape=latents())
def test_parameters_equal_the_closed_form(shape):
    h, heads, d, v, r, c = (shape[k] for k in ("hidden", "heads", "head_dim", "value_dim", "rotary_dim", "latent_size"))
    q = shape["query_latent_size"]
    query = h * heads * (d + r) if q is None else h * q + q + q * heads * (d + r)
    expected = query + h * (c + r) + c + c * heads * (d + v) + heads * v * h
    assert latent_attention(**shape).total_parameters == expected


@given(shape=latents(), absorbed=st.booleans())
def test_fused_does_the_same_work_and_moves_fewer_bytes(shape, absorbed):
    fused, unfused = (latent_attention(**shape, absorbed=absorbed, fused=f) for f in (True, False))
    assert fused.total_flops == unfused.total_flops
    assert fused.total_bytes < unfused.total_bytes


def test_absorption_saves_work_for_one_query_and_costs_it_for_many():
    def flops(length, past, absorbed):
        return latent_attention(**V2, sequence_length=length, cache_length=past, absorbed=absorbed).total_matrix_flops

    assert flops(1, 4095, True) < 0.1 * flops(1, 4095, False)
    assert flops(4096, 0, True) > flops(4096, 0, False)


def test_training_does_twice_the_forward_work_again():
    trace = latent_attention(**V2, sequence_length=64)
    trained = training(trace, input_gradients=True)
    assert 3 * trace.total_matrix_flops <= trained.total_matrix_flops <= 3.1 * trace.total_matrix_flops
    assert trained.footprint()["cache"] == 0


def test_a_transformer_takes_latents():
    shape = {"layers": 3, "hidden": 16, "heads": 4, "vocabulary": 50, "positions": "rotary", "bias": False}
    latent = {"latent_size": 8, "rotary_dim": 2, "norm": "rms"}
    decode = transformer(**shape, **latent, sequence_length=9, mode="decode", batch=2)
    assert decode.footprint()["cache"] == 3 * 2 * 9 * (8 + 2) * 4
    alone = latent_attention(16, 4, latent_size=8, rotary_dim=2, sequence_length=1).total_parameters
    assert decode.total_parameters == 50 * 16 + 3 * (alone + 2 * 16 * 64 + 2 * 16) + 16
    assert len(decode) == len(transformer(**shape | {"layers": 30}, **latent, sequence_length=900, mode="decode"))


@pytest.mark.transformers
@pytest.mark.parametrize("query_latent", [None, 24])
def test_parameters_equal_the_library_s_module(query_latent):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("transformers")
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention

    config = library.DeepseekV2Config(
        hidden_size=64, num_attention_heads=4, kv_lora_rank=20, q_lora_rank=query_latent, qk_nope_head_dim=12,
        qk_rope_head_dim=8, v_head_dim=10,
    )  # fmt: skip
    with torch.device("meta"):
        module = DeepseekV2Attention(config, 0)
    trace = latent_attention(
        64, 4, latent_size=20, query_latent_size=query_latent, head_dim=12, rotary_dim=8, value_dim=10,
        sequence_length=5,
    )  # fmt: skip
    assert trace.total_parameters == sum(p.numel() for p in module.parameters())


def test_deepseek_v2_lite_decodes_from_a_small_cache():
    trace = network("deepseek-v2-lite", mode="decode", cache_length=8191)
    assert trace.footprint()["cache"] == 27 * 8192 * (512 + 64) * 2


@pytest.mark.parametrize("argument", ["hidden", "heads", "latent_size", "query_latent_size", "head_dim", "value_dim"])
def test_bad_size_is_an_error_that_names_the_argument(argument):
    with pytest.raises(TraceError, match=f"latent_attention: {argument} must be a whole number of 1 or more, got 0"):
        latent_attention(**{"hidden": 16, "heads": 4, "latent_size": 8, "sequence_length": 5} | {argument: 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, r"heads must divide hidden \(16\) unless head_dim is given, got 5"),
        ({"rotary_dim": -1}, "rotary_dim must be a whole number of 0 or more, got -1"),
        ({"absorbed": 1}, "absorbed must be True or False, got 1"),
        ({"dtype": "fp61"}, "dtype: unknown element type 'fp61'"),
    ],
)
def test_bad_latent_attention_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        latent_attention(**{"hidden": 16, "heads": 4, "latent_size": 8, "sequence_length": 5} | changes)


def test_latents_have_no_key_heads():
    with pytest.raises(TraceError, match="kv_heads must not be given with latent_size, got 2"):
        transformer(2, 16, 4, 50, sequence_length=5, latent_size=8, kv_heads=2)
