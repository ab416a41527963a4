"""xLSTM: counts by hand, steps number by number, parameters and products of the released module."""

import math

import pytest

from workloads import mlstm, network, slstm, training, xlstm
from workloads.trace import TraceError

FORMS = ("serial", "chunked", "parallel")


def rows_named(trace, op):
    return [row for row in trace.rows() if row["op"] == op]


# -- sLSTM -------------------------------------------------------------------------------------------


def test_slstm_by_hand():
    # 8 features in 2 heads, 5 steps, batch 3, fp16
    trace = slstm(8, 2, sequence_length=5, batch=3, dtype="fp16")
    inputs, product, gates = (rows_named(trace, op)[0] for op in ("gate product", "recurrent product", "gates"))
    assert (inputs["batch"], inputs["m"], inputs["n"], inputs["k"]) == (8, 15, 4, 4)  # four gates of two heads
    assert (product["batch"], product["m"], product["n"], product["k"]) == (2, 3, 16, 4)
    assert product["matrix_flops"] == 2 * 2 * 3 * 16 * 4
    assert (product["repeats"], product["serial_steps"], product["reach_back"]) == (5, 5, 1)
    assert product["state_bytes"] == 2 * (24 + 4 * 24)  # h read, sums written
    assert gates["state_bytes"] == 2 * (4 * 24 + 6 * 24)  # sums read, c, n and m read and written
    assert gates["input_bytes"] == 2 * 4 * 24
    assert gates["parameters"] == 32
    assert (product["after"], gates["after"]) == ((2,), (2, 3))
    assert rows_named(trace, "gate and up projection")[0]["n"] == 2 * 64  # 1.3 of 8, up to a multiple of 64


def test_gates_of_an_slstm_number_by_number():
    """Section 2.2 of Beck et al. 2024, stabilised, for one unit."""
    vector = 4 * 2  # input part, recurrent part and bias of z, i, f, o
    special = 2  # tanh of z, sigmoid of o
    vector += 1 + 1  # f + m, the larger of it and i
    vector += 1 + 1  # f + m - m', i - m'
    special += 2  # exp of both
    vector += 3 + 2  # c = f c + i z, n = f n + i
    vector += 1  # o times c / n
    special += 1
    gates = rows_named(slstm(8, 2, sequence_length=5, batch=3), "gates")[0]
    assert (gates["vector_flops"], gates["special_ops"]) == (24 * vector, 24 * special)


def test_slstm_is_serial():
    trace = slstm(64, 4, sequence_length=1000, batch=2)
    assert trace.path_length(0, 999) == pytest.approx(999, abs=3)  # the convolution reaches 3
    assert training(trace).total_matrix_flops > 2.9 * trace.total_matrix_flops
    carried = rows_named(training(trace), "recurrent product, input gradient")[0]
    assert carried["serial_steps"] == 1000


def test_decode_of_an_slstm_carries_four_values_a_unit():
    trace = slstm(64, 4, sequence_length=10**6, batch=2, mode="decode")
    assert trace == slstm(64, 4, sequence_length=10, batch=2, mode="decode")
    assert trace.footprint()["cache"] == 2 * 4 * (4 * 64 + 3 * 64)  # and the window of the convolution


# -- mLSTM -------------------------------------------------------------------------------------------


def test_a_step_of_an_mlstm_number_by_number():
    """Section 2.3 of Beck et al. 2024, stabilised, for one head of 2 x 2 values."""
    key, value = 2, 2
    vector = 1  # log sigmoid of f: 1 + exp
    special = 2
    vector += 2  # f + m, the larger of it and i
    vector += 2  # less it
    special += 2
    vector += key  # i k
    vector += key * value + 2 * key * value  # v (i k)', f C + it
    vector += 2 * key  # f n + i k
    vector += 2 * key * value + 2 * key  # C q, n q
    vector += 2  # the larger of |n q| and exp(-m)
    special += 1 + 1  # exp, reciprocal
    vector += value  # times the reciprocal
    scan = rows_named(mlstm(4, 4, inner=8, sequence_length=5, batch=3, scan="serial"), "memory")[0]
    assert (scan["vector_flops"], scan["special_ops"]) == (12 * vector, 12 * special)
    assert scan["input_bytes"] == 4 * 12 * (2 * key + value + 2)


def test_mlstm_by_hand():
    trace = mlstm(8, 2, sequence_length=5, batch=3)
    up, qkv, gates = (
        rows_named(trace, op)[0] for op in ("up projection", "query key value projection", "gate projection")
    )
    assert (up["m"], up["n"], up["k"]) == (15, 32, 8)
    assert (qkv["batch"], qkv["n"], qkv["k"], qkv["parameters"]) == (12, 4, 4, 3 * 16 * 4)
    assert (gates["n"], gates["k"], gates["parameters"]) == (4, 48, 4 * 49)
    d, inner = 8, 16
    total = d + d * 2 * inner + inner * 5 + 3 * inner * 4 + 4 * (3 * inner + 1) + inner + inner + inner * d
    assert trace.total_parameters == total


@pytest.mark.parametrize("form", FORMS)
def test_mlstm_in_all_forms(form):
    trace = mlstm(32, 4, sequence_length=4096, batch=2, scan=form)
    wanted = {"serial": 4095, "chunked": 64, "parallel": 6}[form]
    assert trace.path_length(0, 4095) == pytest.approx(wanted, abs=3)
    assert trace.path_length(4095, 0) == math.inf
    assert trace.total_parameters == mlstm(32, 4, sequence_length=7).total_parameters
    assert len(trace) == len(mlstm(32, 4, sequence_length=10**6, scan=form))


def test_decode_of_an_mlstm_carries_a_matrix_a_head():
    trace = mlstm(32, 4, sequence_length=10**6, batch=2, mode="decode")
    assert trace.footprint()["cache"] == 2 * 4 * (4 * 16 * 17 + 3 * 64)  # and the window of the convolution


# -- networks ----------------------------------------------------------------------------------------


@pytest.mark.torch
def test_xlstm_has_the_parameters_of_the_released_model():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"hidden_size": 128, "num_hidden_layers": 3, "vocab_size": 100, "num_heads": 2}
    with torch.device("meta"):
        model = transformers.xLSTMForCausalLM(transformers.xLSTMConfig(**sizes))
        released = transformers.xLSTMForCausalLM(transformers.xLSTMConfig())
    ours = xlstm(3, 128, 2, 100, sequence_length=9, block="down")
    assert ours.total_parameters == sum(p.numel() for p in model.parameters())
    assert network("xlstm-7b").total_parameters == sum(p.numel() for p in released.parameters())


def test_xlstm_has_the_parameters_of_the_paper():
    """Beck et al. 2024, table of 15 billion tokens of SlimPajama: xLSTM[1:0] has 409M parameters, xLSTM[7:1] 408M."""
    alone, mixed = (xlstm(48, 1024, 4, 50304, sequence_length=2048, slstm_layers=n).total_parameters for n in (0, 6))
    assert alone == pytest.approx(409e6, abs=0.5e6)
    assert mixed == pytest.approx(408e6, abs=0.5e6)


@pytest.mark.parametrize("block", ["up", "down"])
@pytest.mark.parametrize("form", FORMS)
def test_training_of_xlstm(block, form):
    trace = xlstm(4, 64, 4, 100, sequence_length=256, batch=2, block=block, slstm_layers=1, scan=form)
    within = sum(r["matrix_flops"] * r["repeats"] for r in rows_named(trace, "attention within chunks"))
    assert training(trace).total_matrix_flops == 3 * trace.total_matrix_flops + within / 2


def test_sizes_of_a_feed_forward_are_rounded_up():
    assert rows_named(network("xlstm-7b"), "down projection")[0]["k"] == 10944
    assert rows_named(xlstm(1, 4096, 8, 9, sequence_length=3, block="down"), "down projection")[0]["k"] == 10944
    assert rows_named(xlstm(1, 768, 4, 9, sequence_length=3, slstm_layers=1), "down projection")[0]["k"] == 1024


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: slstm(8, 3, sequence_length=5), r"slstm: heads must divide hidden \(8\), got 3"),
        (lambda: mlstm(8, 2, sequence_length=5, inner=10), r"block_size must divide inner \(10\), got 4"),
        (lambda: mlstm(8, 2, sequence_length=5, scan="fast"), "mlstm: scan: unknown 'fast'"),
        (lambda: xlstm(2, 8, 2, 9, sequence_length=5, slstm_layers=3), r"must not exceed layers \(2\), got 3"),
        (lambda: xlstm(2, 8, 2, 9, sequence_length=5, block="sideways"), "block: unknown 'sideways'"),
        (lambda: xlstm(2, 8, 2, 9, sequence_length=5, block="down", key_size=3), r"heads must divide key_size \(3\)"),
        (lambda: xlstm(2, 8, 2, 9, sequence_length=5, mode="train"), "mode: unknown 'train'"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(TraceError, match=message):
        build()
