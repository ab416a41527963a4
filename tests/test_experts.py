"""Mixture of experts: weights read against a simulation of the routing, work by hand, published totals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import mixture_of_experts, mlp, network, training, transformer
from workloads.experts import expected_experts
from workloads.trace import TraceError

SHAPE = {"hidden": 8, "inner": 20, "experts": 4, "experts_per_token": 2, "sequence_length": 6}


def row_named(trace, op):
    (row,) = [row for row in trace.rows() if row["op"] == op]
    return row


def ops(trace):
    return [row["op"] for row in trace.rows()]


def test_rows_by_hand():
    trace = mixture_of_experts(**SHAPE, gated=True, activation="silu", batch=50, dtype="fp16")
    assert ops(trace) == [
        *("router", "router softmax", "expert choice", "dispatch", "expert gate and up projection"),
        *("expert activation", "expert down projection", "combine"),
    ]
    tokens, routed = 300, 600
    router, up, down = (
        row_named(trace, op) for op in ("router", "expert gate and up projection", "expert down projection")
    )
    assert (router["m"], router["n"], router["k"]) == (tokens, 4, 8)
    assert (up["batch"], up["m"], up["n"], up["k"]) == (4, routed // 4, 40, 8)
    assert (down["batch"], down["m"], down["n"], down["k"]) == (4, routed // 4, 8, 20)
    assert up["weight_bytes"] == 2 * 4 * 40 * 8  # 300 tokens reach every expert
    assert trace.total_parameters == 8 * 4 + 4 * 3 * 8 * 20
    assert trace.total_matrix_flops == 2 * tokens * 8 * 4 + 2 * routed * 3 * 8 * 20
    assert row_named(trace, "dispatch")["output_bytes"] == 2 * routed * 8
    combine = row_named(trace, "combine")
    assert combine["vector_flops"] == tokens * 8 * 3  # two products and a sum
    assert combine["input_bytes"] == 2 * routed * (8 + 1)
    assert row_named(trace, "expert choice")["vector_flops"] == tokens * 4 * 2


def test_one_token_reads_the_weights_of_its_experts_only():
    trace = mixture_of_experts(8, 20, experts=64, experts_per_token=6, sequence_length=1)
    up = row_named(trace, "expert up projection")
    assert (up["batch"], up["m"]) == (6, 1)
    assert up["weight_bytes"] == 4 * 6 * 20 * 8
    assert up["parameters"] == 64 * 20 * 8


@pytest.mark.parametrize(("tokens", "experts", "chosen"), [(1, 8, 2), (4, 8, 2), (16, 64, 6), (100, 16, 1), (5, 3, 3)])
def test_expected_experts_equal_a_simulation(tokens, experts, chosen):
    random = np.random.default_rng(1)
    reached = [
        len(set(np.concatenate([random.permutation(experts)[:chosen] for _ in range(tokens)]))) for _ in range(2_000)
    ]
    error = np.std(reached) / len(reached) ** 0.5
    assert expected_experts(tokens, experts, chosen) == pytest.approx(np.mean(reached), abs=4 * error + 1e-9)


@given(
    tokens=st.integers(1, 500),
    experts=st.integers(1, 32),
    chosen=st.integers(1, 8),
    gated=st.booleans(),
    bias=st.booleans(),
    shared=st.integers(0, 2),
)
def test_work_is_that_of_the_chosen_experts(tokens, experts, chosen, gated, bias, shared):
    chosen = min(chosen, experts)
    trace = mixture_of_experts(
        8, 20, experts=experts, experts_per_token=chosen, sequence_length=tokens, gated=gated, bias=bias,
        shared_experts=shared,
    )  # fmt: skip
    one = mlp(8, 20, sequence_length=tokens, gated=gated, bias=bias)
    assert trace.total_matrix_flops == 2 * tokens * 8 * experts + (chosen + shared) * one.total_matrix_flops
    apart = shared and bias * 8 * (shared - 1)  # the shared experts are one MLP with one bias
    assert trace.total_parameters == 8 * experts + (experts + shared) * one.total_parameters - apart
    reached = expected_experts(tokens, experts, chosen)
    assert chosen <= reached * (1 + 1e-12)
    assert reached <= min(experts, tokens * chosen) * (1 + 1e-12)


def test_more_tokens_read_more_weights_until_all_are_read():
    read = [
        row_named(mixture_of_experts(**SHAPE | {"sequence_length": 1, "batch": b}), "expert up projection")[
            "weight_bytes"
        ]
        for b in (1, 2, 4, 64)
    ]
    assert read == sorted(read)
    assert read[-1] == 4 * 4 * 20 * 8
    assert read[0] == read[-1] // 2


def test_shared_experts_run_beside_the_routed():
    trace = mixture_of_experts(**SHAPE, shared_experts=2)
    up = row_named(trace, "shared up projection")
    assert (up["n"], up["after"]) == (2 * 20, ())
    assert trace.rows()[-1]["op"] == "add shared"
    assert trace.rows()[-1]["after"] == (7, 10)
    separate = mixture_of_experts(**SHAPE, shared_experts=2, gated=True, merge_gate=False)
    assert ops(separate).count("shared gate projection") == ops(separate).count("expert gate projection") == 1


def test_training_does_twice_the_forward_work_again():
    trace = mixture_of_experts(**SHAPE, shared_experts=1, gated=True, batch=50)
    trained = training(trace, input_gradients=True)
    assert trained.total_matrix_flops == 3 * trace.total_matrix_flops
    assert trained.footprint()["gradients"] == 4 * trace.total_parameters


# -- published ---------------------------------------------------------------------------------------


def active(name, table):
    """Parameters used for one token: its experts' only. A product of one token reads just those."""
    trace = network(name, mode="decode", cache_length=0, dtype="int8")
    return trace.bytes_by_role()["weight"] - trace.rows()[0]["weight_bytes"] + table


def test_mixtral_has_the_published_totals():
    # arXiv:2401.04088, section 1: 47B parameters, 13B active
    assert network("mixtral-8x7b").total_parameters == pytest.approx(46.7e9, rel=1e-3)
    assert active("mixtral-8x7b", 32_000 * 4096) == pytest.approx(12.9e9, rel=2e-3)


def test_deepseek_v2_lite_has_the_published_totals():
    # arXiv:2405.04434, appendix B: 15.7B parameters, 2.4B active (without the table, of which one row is read)
    assert network("deepseek-v2-lite").total_parameters == pytest.approx(15.7e9, rel=1e-3)
    assert active("deepseek-v2-lite", 0) == pytest.approx(2.4e9, rel=0.03)


@pytest.mark.transformers
@pytest.mark.slow
def test_totals_equal_the_library_s_models():
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("transformers")

    def parameters(config):
        with torch.device("meta"):
            return sum(p.numel() for p in library.AutoModelForCausalLM.from_config(config).parameters())

    assert network("mixtral-8x7b").total_parameters == parameters(library.MixtralConfig())
    lite = library.DeepseekV2Config(
        hidden_size=2048, intermediate_size=10944, num_hidden_layers=27, num_attention_heads=16,
        num_key_value_heads=16, kv_lora_rank=512, q_lora_rank=None, n_routed_experts=64, n_shared_experts=2,
        num_experts_per_tok=6, moe_intermediate_size=1408, first_k_dense_replace=1, vocab_size=102_400,
    )  # fmt: skip
    assert network("deepseek-v2-lite").total_parameters == parameters(lite)


def test_a_decode_of_mixtral_at_small_batch_skips_experts():
    def read(batch):
        return network("mixtral-8x7b", mode="decode", cache_length=0, batch=batch).bytes_by_role()["weight"]

    experts = 32 * 3 * 4096 * 14336 * 2  # bytes of one expert in every layer
    assert read(4) - read(1) == pytest.approx(experts * (8 * (1 - 0.75**4) - 2), rel=1e-3)


def test_decode_of_llama_2_70b_shares_its_keys_among_eight_heads():
    trace = network("llama-2-70b", mode="decode", cache_length=4095, batch=3)
    row = row_named(trace, "attention")
    assert (row["batch"], row["m"], row["n"], row["k"]) == (3 * 8, 64 // 8, 2 * 128, 4096)
    assert row["cache_bytes"] == 2 * 3 * 4096 * 2 * 8 * 128


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["hidden", "inner", "experts", "experts_per_token", "sequence_length", "batch"])
def test_bad_size_is_an_error_that_names_the_argument(argument):
    with pytest.raises(TraceError, match=f"mixture_of_experts: {argument} must be a whole number of 1 or more, got 0"):
        mixture_of_experts(**SHAPE | {argument: 0})


def test_more_experts_per_token_than_there_are_is_an_error():
    with pytest.raises(TraceError, match=r"experts_per_token must not exceed experts \(4\), got 5"):
        mixture_of_experts(**SHAPE | {"experts_per_token": 5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts_per_token": 2}, "experts_per_token needs experts, got 2"),
        ({"shared_experts": 2}, "shared_experts needs experts, got 2"),
        ({"dense_layers": 1}, "dense_layers needs experts, got 1"),
        ({"experts": 4}, "experts_per_token must be a whole number of 1 or more, got None"),
        (
            {"experts": 4, "experts_per_token": 2, "dense_layers": 3},
            "dense_layers must be fewer than the 3 layers, got 3",
        ),
        ({"experts": 4, "experts_per_token": 2, "expert_inner": 0}, "expert_inner must be a whole number of 1 or more"),
    ],
)
def test_bad_transformer_of_experts_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        transformer(3, 16, 4, 50, sequence_length=5, **changes)
