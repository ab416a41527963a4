"""Linear attention and RWKV: counts by hand, products as PyTorch counts them, parameters of the released modules."""

import math

import pytest

from workloads import linear_attention, linear_transformer, network, rwkv, training
from workloads.linear_attention import _DIVISION, MatrixMemory
from workloads.trace import TraceError

FORMS = ("serial", "chunked", "parallel")


def rows_named(trace, op):
    return [row for row in trace.rows() if row["op"] == op]


# -- linear attention --------------------------------------------------------------------------------


def test_serial_step_by_hand():
    # 8 features, 2 heads of 4, batch 3, fp16: a state of 4 x 4 and a normaliser of 4 a head
    trace = linear_attention(8, 2, sequence_length=5, batch=3, scan="serial", dtype="fp16")
    scan = rows_named(trace, "memory")[0]
    outer, add, read, scale = 2 * 16, 2 * 20, 2 * 2 * 20, 2 * 4
    assert scan["vector_flops"] == 3 * (outer + add + read + scale)
    assert scan["special_ops"] == 3 * 2 * _DIVISION
    assert scan["input_bytes"] == 2 * 3 * 3 * 8  # queries, keys and values of a position
    assert scan["output_bytes"] == 2 * 3 * 8
    assert (scan["serial_steps"], scan["reach_back"]) == (5, 1)
    product = trace.rows()[0]
    assert (product["m"], product["n"], product["k"]) == (15, 24, 8)
    feature_map = rows_named(trace, "feature map")[0]
    assert (feature_map["vector_flops"], feature_map["special_ops"]) == (2 * 2 * 15 * 8, 2 * 15 * 8)


def test_chunks_by_hand():
    # 10 positions in chunks of 4: three chunks, the last one padded
    trace = linear_attention(8, 2, sequence_length=10, batch=3, scan="chunked", chunk=4, dtype="fp16")
    within, updates, scan, read, combine = trace.rows()[2:-1]
    groups = 3 * 2 * 3
    assert (within["batch"], within["m"], within["n"], within["k"]) == (groups, 4, 8, 4)
    assert within["matrix_flops"] == 2 * groups * 10 * 8  # 10 pairs of 4 positions
    assert (updates["batch"], updates["m"], updates["n"], updates["k"]) == (groups, 4, 4, 4)
    assert (read["batch"], read["m"], read["n"], read["k"]) == (groups, 4, 4, 4)
    assert (scan["serial_steps"], scan["reach_back"]) == (3, 4)
    assert scan["vector_flops"] == 3 * 2 * 20  # one addition a state element
    assert (scan["input_bytes"], scan["output_bytes"]) == (2 * 3 * 2 * 20,) * 2
    assert combine["input_bytes"] == 2 * 2 * 30 * 8
    assert [row["after"] for row in (within, updates, scan, read, combine)] == [(1,), (1,), (3,), (4,), (2, 5)]


def test_one_chunk_needs_no_state():
    trace = linear_attention(8, 2, sequence_length=4, scan="chunked", chunk=128)
    assert [row["op"] for row in trace.rows()[2:-1]] == ["attention within chunks", "sum and normalise"]
    assert trace.rows()[2]["k"] == 4


def test_a_decaying_memory_multiplies_its_state():
    def scan(decays):
        memory = MatrixMemory("l", rwkv_types(), 1, 2, 4, 4, step=(0, 0), decays=decays, gates=2 * decays)
        return memory.rows("chunked", "prefill", 12, 4)[2]

    plain, decayed = scan(False), scan(True)
    assert (plain["vector_flops"], decayed["vector_flops"]) == (2 * 20, 2 * 2 * 20)
    assert decayed["input_bytes"] - plain["input_bytes"] == 4 * 2  # a factor a head, fp32


def rwkv_types():
    from workloads.blocks import element_types

    return element_types("test", "fp32", None, None)


@pytest.mark.torch
def test_products_of_the_chunks_equal_those_counted_by_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    batch, heads, chunks, chunk, size = 3, 2, 5, 4, 4
    q, k, v = (torch.rand(batch, heads, chunks, chunk, size, dtype=torch.float64) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        updates = k.transpose(-1, -2) @ v
        before = updates.cumsum(2) - updates
        from_state = q @ before
    trace = linear_attention(8, 2, sequence_length=20, batch=batch, scan="chunked", chunk=chunk)
    found = sum(rows_named(trace, op)[0]["matrix_flops"] for op in ("chunk states", "state read"))
    assert found == counter.get_total_flops()
    # and the chunked form is linear attention
    within = (q @ k.transpose(-1, -2)).tril() @ v
    flat = [x.reshape(batch, heads, -1, size) for x in (q, k, v)]
    expected = (flat[0] @ flat[1].transpose(-1, -2)).tril() @ flat[2]
    assert torch.allclose((within + from_state).reshape(expected.shape), expected)


@pytest.mark.parametrize("form", FORMS)
def test_linear_attention_in_all_forms(form):
    steps = 4096
    trace = linear_attention(64, 4, sequence_length=steps, batch=2, scan=form, chunk=64)
    # one chunk a step, or log2 of 64 chunks
    assert trace.path_length(0, steps - 1) == {"serial": 4095, "chunked": 64, "parallel": 6}[form]
    assert trace.path_length(steps - 1, 0) == math.inf
    assert trace.total_parameters == 4 * 64 * 65
    assert len(trace) == len(linear_attention(64, 4, sequence_length=10**6, batch=2, scan=form, chunk=64))


@pytest.mark.parametrize("form", FORMS)
def test_training_of_linear_transformers(form):
    trace = linear_transformer(3, 64, 4, 100, sequence_length=256, batch=2, scan=form, chunk=64)
    # fused attention within the chunks computes its scores again: 3.5 times the forward products, all others 3
    within = sum(r["matrix_flops"] * r["repeats"] for r in rows_named(trace, "attention within chunks"))
    assert training(trace).total_matrix_flops == 3 * trace.total_matrix_flops + within / 2


def test_linear_transformer_by_hand():
    d, v, layers = 64, 100, 3
    block = 4 * d * (d + 1) + 4 * d * (d + 1) + d * (4 * d + 1) + 2 * 2 * d
    assert linear_transformer(layers, d, 4, v, sequence_length=8).total_parameters == v * d + layers * block + 2 * d


def test_decode_carries_a_state_that_does_not_grow():
    # of each head a 16 x 16 state and a normaliser of 16
    short, long = (linear_attention(64, 4, sequence_length=n, batch=2, mode="decode") for n in (10, 10**6))
    assert short == long
    assert short.footprint()["cache"] == 2 * 4 * 16 * 17 * 4
    assert short.bytes_by_role()["cache"] == 2 * short.footprint()["cache"]  # read and written


# -- RWKV --------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_rwkv_has_the_parameters_of_the_released_model():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 100, "intermediate_size": 160}
    with torch.device("meta"):
        model = transformers.RwkvForCausalLM(transformers.RwkvConfig(**settings))
        published = transformers.RwkvForCausalLM(transformers.RwkvConfig(hidden_size=768, num_hidden_layers=12))
    ours = rwkv(3, 64, 100, inner=160, sequence_length=9)
    assert ours.total_parameters == sum(p.numel() for p in model.parameters())
    assert network("rwkv-4-169m").total_parameters == sum(p.numel() for p in published.parameters())


@pytest.mark.torch
def test_rwkv_has_the_products_of_the_released_model():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.RwkvConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50, attention_hidden_size=32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transformers.RwkvForCausalLM(config)(torch.zeros(2, 5, dtype=torch.long))
    assert rwkv(2, 32, 50, sequence_length=5, batch=2).total_matrix_flops == counter.get_total_flops()


def test_wkv_by_hand():
    """The steps of the stabilised kernel: result 9 FLOP, 2 exp, 1 division; state 9 FLOP, 2 exp."""
    scan = rows_named(rwkv(2, 8, 50, sequence_length=5, batch=3, dtype="fp16"), "wkv")[0]
    assert (scan["vector_flops"], scan["special_ops"]) == (18 * 24, 5 * 24)
    assert (scan["input_bytes"], scan["output_bytes"]) == (2 * 2 * 24, 2 * 24)  # key and value
    assert scan["parameters"] == 2 * 8
    assert (scan["repeats"], scan["serial_steps"]) == (2 * 5, 5)


def test_rwkv_decode_carries_five_values_a_channel_and_layer():
    trace = network("rwkv-4-169m", mode="decode")
    assert trace.footprint()["cache"] == 12 * 5 * 768 * 2
    assert trace == network("rwkv-4-169m", mode="decode", seq_len=10**6)


@pytest.mark.parametrize("form", FORMS)
def test_rwkv_in_all_forms(form):
    trace = rwkv(2, 32, 50, sequence_length=1024, batch=2, scan=form, chunk=32)
    wanted = {"serial": 1023, "chunked": 32, "parallel": 10}[form]
    assert trace.path_length(0, 1023) == pytest.approx(wanted, abs=1)
    assert training(trace).total_matrix_flops == 3 * trace.total_matrix_flops
    assert len(trace) == len(rwkv(9, 32, 50, sequence_length=10**6, scan=form, chunk=32))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: linear_attention(8, 3, sequence_length=5), r"heads must divide hidden \(8\), got 3"),
        (lambda: linear_attention(8, 2, sequence_length=5, scan="chunk"), "scan: unknown 'chunk'.*'chunked'"),
        (
            lambda: linear_attention(8, 2, sequence_length=5, chunk=0),
            "chunk must be a whole number of 1 or more, got 0",
        ),
        (lambda: linear_transformer(1, 8, 2, 9, sequence_length=5, activation="relo"), "unknown 'relo'.*'relu'"),
        (lambda: linear_transformer(1, 8, 2, 9, sequence_length=5, logits="some"), "logits: unknown 'some'"),
        (lambda: rwkv(1, 8, 9, sequence_length=0), "sequence_length must be a whole number of 1 or more, got 0"),
        (lambda: rwkv(1, 8, 9, sequence_length=3, tied=1), "tied must be True or False, got 1"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(TraceError, match=message):
        build()
