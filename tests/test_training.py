"""Training traces: closed forms by hand, PyTorch's own counts, memory, dependencies, laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import traces

from workloads.blocks import collective, copy, elementwise, embedding, linear, matmul, normalisation, softmax
from workloads.recurrent import gru, lstm, rnn
from workloads.trace import Trace, TraceError, concatenate
from workloads.training import training
from workloads.transformer import transformer
from workloads.transformer_blocks import encoder_block

BACKWARD = ("input-gradient", "weight-gradient")


def rows_of(trace, phase, start=""):
    """Rows of one phase whose op starts with `start`."""
    return [row for row in trace.rows() if row["phase"] == phase and row["op"].startswith(start)]


def only(trace, phase, start=""):
    (row,) = rows_of(trace, phase, start)
    return row


def matrix_flops(trace, *phases):
    return sum(row["repeats"] * row["matrix_flops"] for phase in phases for row in rows_of(trace, phase))


def assert_rounded_up(trace, saved):
    """Identical layers share a row, so that a tensor counted once for them all is rounded up to whole bytes a run."""
    assert saved <= trace.footprint()["saved"] < saved + trace.runs[trace.phase == "forward"].sum()


def mlp(batch=8, sizes=(20, 30, 10), dtype="fp32"):
    """Linear, relu, linear."""
    first, hidden, last = sizes
    return concatenate(
        [
            linear(batch, hidden, first, layer="0", dtype=dtype),
            elementwise(batch * hidden, "relu", layer="0", dtype=dtype),
            linear(batch, last, hidden, layer="1", dtype=dtype),
        ],
        name="mlp",
    )


# -- products ----------------------------------------------------------------------------------------


def test_mlp_by_hand():
    # 8 x 20 -> 30 -> 10, fp32. Y = X W: forward 2 m n k, weight gradient the same, input gradient the same
    # but not for the first layer, which reads the network's input.
    forward = mlp()
    trace = training(forward)
    first, second = 2 * 8 * 20 * 30, 2 * 8 * 30 * 10
    assert matrix_flops(trace, "forward") == first + second
    assert matrix_flops(trace, "weight-gradient") == first + second
    assert matrix_flops(trace, "input-gradient") == second
    assert [row["op"] for row in trace.rows()] == [
        "product",
        "relu",
        "product",
        "product, input gradient",
        "product, weight gradient",
        "relu, input gradient",
        "product, weight gradient",
        "product, update",
        "product, update",
    ]
    assert trace.after == ((), (0,), (1,), (2,), (2,), (3,), (5,), (6,), (4,))

    grad = rows_of(trace, "input-gradient", "product")[0]
    assert (grad["m"], grad["n"], grad["k"]) == (8, 30, 10)
    assert grad["weight_bytes"] == 4 * 300  # the matrix, not the bias
    assert (grad["input_bytes"], grad["output_bytes"]) == (4 * 8 * 10, 4 * 8 * 30)
    assert grad["parameters"] == 0

    weights = rows_of(trace, "weight-gradient", "product")[0]
    assert (weights["m"], weights["n"], weights["k"]) == (30, 10, 8)
    assert weights["weight_bytes"] == 0
    assert (weights["input_bytes"], weights["output_bytes"]) == (4 * 8 * (30 + 10), 4 * 310)
    assert weights["vector_flops"] == 8 * 10  # the bias: dY summed over the batch

    relu = only(trace, "input-gradient", "relu")
    assert relu["vector_flops"] == 2 * 8 * 30
    assert (relu["input_bytes"], relu["output_bytes"]) == (2 * 4 * 240, 4 * 240)  # dY and the input; dX


def test_metadata_and_parameters_are_kept():
    forward = mlp().replace(name="my net", sequences=8, tokens=3)
    trace = training(forward, "adam", recompute=True)
    assert (trace.name, trace.sequences, trace.tokens) == ("my net", 8, 3)
    assert trace.total_parameters == forward.total_parameters == 20 * 30 + 30 + 30 * 10 + 10


def test_input_gradients_on_request():
    trace = training(mlp(), input_gradients=True)
    assert matrix_flops(trace, "input-gradient") == 2 * 8 * (20 * 30 + 30 * 10)


def test_first_of_identical_layers_has_no_input_gradient():
    # 5 identical layers folded in one row: 5 weight gradients, 4 input gradients
    trace = training(linear(8, 16, 16) * 5)
    assert only(trace, "weight-gradient")["repeats"] == 5
    grad = only(trace, "input-gradient")
    assert (grad["repeats"], grad["path_runs"], grad["weight_sets"]) == (4, 4, 4)
    assert only(trace, "update")["repeats"] == 5


def test_independent_directions_read_the_same_input():
    assert not rows_of(training(linear(8, 16, 16).scaled(2, parallel=True)), "input-gradient")


def test_weight_gradients_and_updates_are_off_the_critical_path():
    # chain of backward products: weight gradients wait for them, nothing but the update for weight gradients
    trace = training(linear(8, 16, 16) * 5 + linear(8, 4, 16), "adam")
    rows = trace.rows()
    waited_for = {w: row["phase"] for row in rows for w in row["after"]}
    for number, row in enumerate(rows):
        if row["phase"] == "weight-gradient":
            assert waited_for[number] == "update"
            assert row["path_runs"] == 1
        if row["phase"] == "update":
            assert number not in waited_for
            assert [rows[w]["phase"] for w in row["after"]] == ["weight-gradient"]


def test_causal_mask_is_kept():
    # a masked product of two activations: 60 of 100 units of work in every gradient
    scores = matmul(10, 10, 8, batch=4, op="scores").replace(matrix_flops=[4 * 2 * 60 * 8])
    trace = training(scores, input_gradients=True)
    first, second = rows_of(trace, "input-gradient")
    assert first["matrix_flops"] == second["matrix_flops"] == 4 * 2 * 60 * 8
    assert (first["batch"], first["m"], first["n"], first["k"]) == (4, 10, 8, 10)
    assert (second["batch"], second["m"], second["n"], second["k"]) == (4, 8, 10, 10)
    assert not rows_of(trace, "weight-gradient")


def test_two_operands_by_role():
    # Y (6, 5) = A (6, 3) B (3, 5) in bf16: dA reads dY and B, dB reads dY and A
    trace = training(matmul(6, 5, 3, dtype="bf16"), input_gradients=True)
    first, second = rows_of(trace, "input-gradient")
    assert (first["input_bytes"], first["output_bytes"]) == (2 * (30 + 15), 2 * 18)
    assert (second["input_bytes"], second["output_bytes"]) == (2 * (30 + 18), 2 * 15)


def test_causal_context_operands_by_role():
    # the first operand of the weighted sum is smaller than m k: only visible pairs are stored
    block = transformer(1, 32, 4, 100, sequence_length=8, batch=2, fused=False)
    first, second = rows_of(training(block), "input-gradient", "context")
    pairs, values = 4 * 2 * 4 * 36, 4 * 2 * 8 * 32
    assert first["output_bytes"] == pairs
    assert second["output_bytes"] == values
    assert first["input_bytes"] == values + values  # dY and V
    assert second["input_bytes"] == values + pairs


def test_fused_attention_does_five_products_for_two():
    attention = Trace.from_rows(
        [
            {"layer": "a", "op": "queries", "kind": "matmul", "batch": 1, "m": 96, "n": 192, "k": 64,
             "matrix_flops": 2 * 96 * 192 * 64, "parameters": 192 * 64, "weight_bytes": 4 * 192 * 64,
             "input_bytes": 4 * 96 * 64, "output_bytes": 4 * 96 * 192},
            {"layer": "a", "op": "attention", "kind": "attention", "batch": 8, "m": 48, "n": 32, "k": 48,
             "matrix_flops": 2 * 8 * (48 * 49 // 2) * 32, "vector_flops": 37632, "special_ops": 9408,
             "input_bytes": 4 * 3 * 96 * 64, "output_bytes": 4 * 96 * 64},
        ]
    )  # fmt: skip
    forward = attention.rows()[1]
    grad = only(training(attention), "input-gradient", "attention")
    assert 2 * grad["matrix_flops"] == 5 * forward["matrix_flops"]
    assert (grad["batch"], grad["m"], grad["n"], grad["k"]) == (8, 48, 80, 48)
    tensor, statistic = 4 * 96 * 64, 4 * 8 * 48
    assert grad["input_bytes"] == 5 * tensor + statistic  # Q, K, V, O, dO
    assert grad["output_bytes"] == 3 * tensor  # dQ, dK, dV
    assert grad["special_ops"] == forward["special_ops"]  # scores and exp again
    kept = rows_of(training(attention), "forward", "attention")[0]
    assert kept["saved_bytes"] == 4 * tensor + statistic
    assert kept["output_bytes"] == tensor + statistic


def test_batch_that_shares_one_matrix_sums_over_it():
    row = linear(8, 16, 12, bias=False).rows()[0]
    shared = Trace.from_rows([row | {"batch": 5, "matrix_flops": 5 * row["matrix_flops"]}])
    weights = only(training(shared), "weight-gradient")
    assert (weights["batch"], weights["m"], weights["n"], weights["k"]) == (1, 12, 16, 40)
    assert weights["output_bytes"] == 4 * 12 * 16
    own = only(training(linear(8, 16, 12, batch=5)), "weight-gradient")
    assert (own["batch"], own["m"], own["n"], own["k"]) == (5, 12, 16, 8)


def test_shared_layers_add_to_one_gradient():
    # the same weights three times: three products, one gradient held, read back by each
    trace = training(linear(8, 16, 16, bias=False).scaled(3, share_weights=True))
    weights = only(trace, "weight-gradient")
    assert weights["repeats"] == 3
    assert weights["input_bytes"] == 4 * (2 * 8 * 16 + 16 * 16)
    assert only(trace, "update")["repeats"] == 1
    assert trace.footprint()["gradients"] == 4 * 16 * 16


# -- other kinds -------------------------------------------------------------------------------------


def test_elementwise_functions_are_evaluated_again():
    gelu = only(training(elementwise(100, "gelu"), input_gradients=True), "input-gradient")
    assert (gelu["vector_flops"], gelu["special_ops"]) == (2 * 800, 100)


def test_a_sum_keeps_nothing_and_has_no_derivative():
    trace = training(elementwise(100, "residual add"), input_gradients=True)
    grad = only(trace, "input-gradient")
    assert (grad["vector_flops"], grad["input_bytes"], grad["output_bytes"]) == (100, 400, 800)
    assert trace.footprint()["saved"] == 0


def test_softmax_reads_its_result():
    trace = training(softmax(10, 50), input_gradients=True)
    grad = only(trace, "input-gradient")
    assert grad["input_bytes"] == 2 * 4 * 500  # dY and Y
    assert (grad["output_bytes"], grad["vector_flops"], grad["special_ops"]) == (4 * 500, 2 * 2000, 0)
    assert trace.footprint()["saved"] == 4 * 500


def test_normalisation_has_gradients_of_gain_and_offset():
    trace = training(normalisation(10, 50))
    assert not rows_of(trace, "input-gradient")
    weights = only(trace, "weight-gradient")
    assert weights["output_bytes"] == 4 * 2 * 50
    assert (weights["vector_flops"], weights["input_bytes"]) == (3 * 500, 2 * 4 * 500)
    grad = only(training(normalisation(10, 50), input_gradients=True), "input-gradient")
    assert (grad["vector_flops"], grad["weight_bytes"]) == (2 * 7 * 500, 4 * 100)


def test_embedding_scatters():
    # 12 look-ups in a table of 1000 x 16: the gradient table is dense, 12 rows are read and written
    trace = training(embedding(12, 1000, 16))
    assert not rows_of(trace, "input-gradient")
    weights = only(trace, "weight-gradient")
    assert weights["kind"] == "gather"
    assert weights["state_bytes"] == 2 * 4 * 12 * 16
    assert weights["output_bytes"] == 4 * 16000
    assert weights["vector_flops"] == 12 * 16
    assert weights["matrix_flops"] == 0
    assert only(trace, "update")["vector_flops"] == 2 * 16000


def test_copy_and_collective_move_the_same_bytes_back():
    net = concatenate([linear(4, 8, 8), copy(32), collective(640)])
    trace = training(net)
    back = only(trace, "input-gradient", "copy")
    assert (back["input_bytes"], back["output_bytes"], back["vector_flops"]) == (128, 128, 0)
    exchange = only(trace, "input-gradient", "all reduce")
    assert (exchange["kind"], exchange["input_bytes"]) == ("collective", 640)


def test_constants_added_to_an_embedding_are_not_trained():
    # sinusoidal positions are read like weights but are no parameters
    settings = {"sequence_length": 8, "batch": 2, "max_positions": 8}
    fixed = training(transformer(1, 32, 4, 100, positions="sinusoidal", **settings))
    learned = training(transformer(1, 32, 4, 100, positions="learned", **settings))
    assert not rows_of(fixed, "weight-gradient", "position add")
    assert only(learned, "weight-gradient", "position add")["output_bytes"] == 4 * 8 * 32


# -- recurrences -------------------------------------------------------------------------------------

B, T, H, X = 4, 10, 64, 24


def test_lstm_by_hand():
    # one layer: input product X x 4H for all steps, recurrent product H x 4H a step
    trace = training(lstm(1, H, input_size=X, sequence_length=T, batch=B))
    hoisted, recurrent = 2 * B * T * X * 4 * H, 2 * B * T * H * 4 * H
    assert matrix_flops(trace, "forward") == hoisted + recurrent
    assert matrix_flops(trace, "weight-gradient") == hoisted + recurrent
    assert matrix_flops(trace, "input-gradient") == recurrent  # the sequence needs no gradient

    step = only(trace, "input-gradient", "recurrent product")
    assert (step["serial_steps"], step["repeats"], step["path_runs"]) == (T, T, T)
    assert (step["m"], step["n"], step["k"]) == (B, H, 4 * H)
    assert step["state_bytes"] == 4 * B * (4 * H + H)  # reads dsums, writes dh

    weights = only(trace, "weight-gradient", "recurrent product")
    assert (weights["serial_steps"], weights["repeats"]) == (1, 1)
    assert (weights["m"], weights["n"], weights["k"]) == (H, 4 * H, B * T)
    assert weights["input_bytes"] == 4 * B * T * (H + 4 * H)
    assert weights["output_bytes"] == 4 * H * 4 * H

    bias = only(trace, "weight-gradient", "gates")
    assert bias["vector_flops"] == B * T * 4 * H  # dsums summed over batch and steps
    assert bias["output_bytes"] == 4 * 8 * H

    gates = only(trace, "input-gradient", "gates")
    assert gates["vector_flops"] == 2 * 12 * B * H
    assert gates["special_ops"] == 0  # derivatives follow from the kept values
    assert gates["state_bytes"] == 4 * B * 3 * H  # dc read and written, dh of the next step read
    assert gates["output_bytes"] == 4 * B * 4 * H
    assert gates["input_bytes"] == 4 * B * (H + 6 * H)  # dh from above, the kept values


def test_lstm_keeps_input_states_gates_and_cell():
    trace = training(lstm(1, H, input_size=X, sequence_length=T, batch=B))
    assert trace.footprint()["saved"] == 4 * B * T * (X + H + 6 * H)
    gates = only(trace, "forward", "gates")
    assert gates["output_bytes"] == 4 * B * (H + 6 * H)  # h, and what is kept, must be written


def test_stacked_lstm_keeps_each_h_once():
    # h of a layer is kept once, though the layer above and its own weight gradient both read it
    trace = training(lstm(4, H, input_size=X, sequence_length=T, batch=B))
    assert_rounded_up(trace, 4 * B * T * (X + 4 * 7 * H))


def test_bidirectional_lstm_keeps_each_input_once():
    trace = training(lstm(3, H, input_size=X, sequence_length=T, batch=B, bidirectional=True))
    assert_rounded_up(trace, 4 * B * T * (X + 3 * 2 * 7 * H))


def test_projected_lstm():
    small = 16
    trace = training(lstm(2, H, input_size=X, projection=small, sequence_length=T, batch=B))
    products = 4 * H * (X + small) + small * H + 4 * H * (small + small) + small * H
    assert matrix_flops(trace, "weight-gradient") == 2 * B * T * products
    assert matrix_flops(trace, "input-gradient") == 2 * B * T * (products - 4 * H * X)
    # x, h (projected), the gates' state: four gates, c, tanh c and the cell's output before the projection
    assert trace.footprint()["saved"] == 4 * B * T * (X + 2 * (small + 7 * H))


def test_merged_step_product_keeps_its_input_gradient():
    trace = training(lstm(1, H, input_size=X, sequence_length=T, batch=B, hoist_input=False))
    step = only(trace, "input-gradient", "step product")
    assert (step["repeats"], step["n"], step["k"]) == (T, X + H, 4 * H)
    weights = only(trace, "weight-gradient", "step product")
    assert (weights["repeats"], weights["k"], weights["matrix_flops"]) == (1, B * T, 2 * B * T * (X + H) * 4 * H)


def test_unhoisted_input_product_of_the_first_layer_has_no_input_gradient():
    trace = training(lstm(2, H, input_size=X, sequence_length=T, batch=B, hoist_input=False, merge_gates=False))
    assert [row["layer"] for row in rows_of(trace, "input-gradient", "input product")] == ["lstm.1"]


@pytest.mark.parametrize("cell", [lstm, gru, rnn])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"wavefront": True}, {"merge_gates": False}])
def test_backward_of_every_cell_does_twice_the_forward_work(cell, options):
    forward = cell(3, H, sequence_length=T, batch=B, **options)
    trace = training(forward, input_gradients=True)
    assert matrix_flops(trace, *BACKWARD) == 2 * forward.total_matrix_flops
    assert trace.total_parameters == forward.total_parameters
    assert trace.footprint()["gradients"] == 4 * forward.total_parameters


def test_steps_that_attend_to_one_memory_keep_it_once():
    # 7 decoder steps, each a query (1 x 8) against the same 5 x 8 memory, for 3 sequences
    scores = matmul(1, 5, 8, batch=3, op="scores").replace(repeats=[7], serial_steps=[7], path_runs=[7])
    trace = training(scores, input_gradients=True)
    assert_rounded_up(trace, 4 * 3 * (7 * 8 + 5 * 8))
    query, memory = rows_of(trace, "input-gradient")
    assert (query["repeats"], memory["repeats"]) == (7, 7)
    assert query["output_bytes"] == 4 * 3 * 8
    assert memory["output_bytes"] == 4 * 3 * 5 * 8
    assert memory["input_bytes"] == 4 * 3 * (5 + 8 + 5 * 8)  # dY, the query, the gradient so far


def test_elementwise_step_without_state_is_no_gate():
    tanh = elementwise(40, "tanh").replace(repeats=[7], serial_steps=[7], path_runs=[7])
    trace = training(tanh, input_gradients=True)
    assert trace.footprint()["saved"] == 7 * 160
    assert only(trace, "input-gradient")["special_ops"] == 40


def test_recurrence_runs_backwards():
    # the gradient of layer 1 is complete before layer 0 starts; gates before the product in each
    trace = training(lstm(2, H, sequence_length=T, batch=B))
    ops = [(row["layer"], row["op"]) for row in trace.rows() if row["phase"] == "input-gradient"]
    assert ops == [
        ("lstm.1", "gates, input gradient"),
        ("lstm.1", "recurrent product, input gradient"),
        ("lstm.1", "input product, input gradient"),
        ("lstm.0", "gates, input gradient"),
        ("lstm.0", "recurrent product, input gradient"),
    ]
    level = dict(zip(trace.op.tolist()[6:], trace.level.tolist()[6:], strict=True))
    assert level["recurrent product, input gradient"] == level["gates, input gradient"] + 1


def test_gradients_look_the_other_way():
    row = lstm(1, H, sequence_length=T).rows()
    trace = training(lstm(1, H, sequence_length=T))
    step = only(trace, "input-gradient", "recurrent product")
    assert (row[1]["reach_back"], row[1]["reach_ahead"]) == (1, 0)
    assert (step["reach_back"], step["reach_ahead"]) == (0, 1)
    assert trace.path_length(0, T - 1) == T - 1
    assert trace.path_length(T - 1, 0) == np.inf


# -- against PyTorch ---------------------------------------------------------------------------------


def counted(run):
    """FLOP `run` does by PyTorch's own counter."""
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    with flop_counter.FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.torch
def test_flops_of_sequential_equal_torch():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)).to("meta")
    x = torch.empty(8, 20, device="meta")
    assert training(mlp()).total_matrix_flops == counted(lambda: net(x).sum().backward())
    x.requires_grad_()
    assert training(mlp(), input_gradients=True).total_matrix_flops == counted(lambda: net(x).sum().backward())


@pytest.mark.torch
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projection", [None, 8])
def test_flops_of_lstm_equal_torch(bidirectional, projection):
    torch = pytest.importorskip("torch")
    directions = 2 if bidirectional else 1
    net = torch.nn.LSTM(X, 16, 3, bidirectional=bidirectional, proj_size=projection or 0, device="meta")
    x = torch.empty(T, B, X, device="meta")
    # a gradient of the initial h, so that the first step has one like all others
    h = torch.empty(3 * directions, B, projection or 16, device="meta", requires_grad=True)
    c = torch.empty(3 * directions, B, 16, device="meta")
    trace = training(
        lstm(3, 16, input_size=X, sequence_length=T, batch=B, bidirectional=bidirectional, projection=projection)
    )
    assert trace.total_matrix_flops == counted(lambda: net(x, (h, c))[0].sum().backward())


@pytest.mark.torch
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}])
def test_flops_of_convolution_equal_torch(settings):
    torch = pytest.importorskip("torch")
    net = torch.nn.Conv2d(3, 8, 3, **settings, device="meta")
    x = torch.empty(2, 3, 16, 16, device="meta", requires_grad=True)
    positions = 2 * net(x).shape[2] * net(x).shape[3]
    row = {
        "layer": "c", "op": "convolution", "kind": "convolution", "batch": 1, "m": positions, "n": 8, "k": 27,
        "matrix_flops": 2 * positions * 8 * 27, "parameters": 8 * 28, "weight_bytes": 4 * 8 * 28,
        "vector_flops": positions * 8, "input_bytes": 4 * 2 * 3 * 256, "output_bytes": 4 * positions * 8,
    }  # fmt: skip
    trace = training(Trace.from_rows([row]), input_gradients=True)
    assert trace.total_matrix_flops == counted(lambda: net(x).sum().backward())
    assert only(trace, "input-gradient")["output_bytes"] == 4 * x.numel()
    assert only(trace, "weight-gradient")["output_bytes"] == 4 * sum(p.numel() for p in net.parameters())


@pytest.mark.torch
def test_flops_of_attention_equal_torch():
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    shape = (2, 4, 32, 16)
    whole = concatenate(
        [matmul(32, 32, 16, batch=8, op="scores"), softmax(256, 32), matmul(32, 16, 32, batch=8, op="context")]
    )
    q, k, v = (torch.empty(shape, device="meta", requires_grad=True) for _ in range(3))
    run = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()  # noqa: E731
    assert training(whole, input_gradients=True).total_matrix_flops == counted(run)

    fused = encoder_block(64, 4, sequence_length=32, batch=2, fused=True)
    grad = only(training(fused), "input-gradient", "attention")
    assert grad["matrix_flops"] == flop_counter.sdpa_backward_flop_count(shape, shape, shape, shape)


@pytest.mark.torch
def test_kept_values_of_lstm_equal_what_autograd_keeps():
    torch = pytest.importorskip("torch")
    hidden, batch, steps, size = 6, 3, 5, 4
    x = torch.randn(steps * batch, size)
    w, u, bias = (
        torch.randn(*s, requires_grad=True) for s in ((4 * hidden, size), (4 * hidden, hidden), (4 * hidden,))
    )
    saved = {}

    def pack(tensor):
        if not any(tensor.untyped_storage().data_ptr() == p.untyped_storage().data_ptr() for p in (w, u, bias)):
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    h, c = torch.zeros(batch, hidden), torch.zeros(batch, hidden)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        parts = (x @ w.T).view(steps, batch, 4 * hidden)
        outputs = []
        for t in range(steps):
            i, f, g, o = (parts[t] + h @ u.T + bias).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        loss = torch.stack(outputs).sum()
    elements = sum(tensor.numel() for tensor in saved.values())
    assert loss.requires_grad
    trace = training(lstm(1, hidden, input_size=size, sequence_length=steps, batch=batch))
    assert trace.footprint()["saved"] == 4 * elements


# -- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 5])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("merge_qkv", [False, True])
def test_activation_memory_of_a_block(layers, pre_norm, merge_qkv):
    # Korthikanti et al. 2022, equation 1: s b h (34 + 5 a s / h) bytes a layer in 16 bit. Without dropout, its
    # masks (2 s b h + a s s b) and the dropped-out copy of the softmax (2 a s s b) go: s b h (32 + 2 a s / h).
    s, b, h, a = 32, 2, 64, 4
    block = encoder_block(
        h, a, sequence_length=s, batch=b, fused=False, dtype="fp16", pre_norm=pre_norm, merge_qkv=merge_qkv
    )
    assert training(block * layers).footprint()["saved"] == layers * (32 * s * b * h + 2 * a * s * s * b)


def test_fused_attention_keeps_no_scores():
    s, b, h, a = 32, 2, 64, 4
    settings = {"sequence_length": s, "batch": b, "dtype": "fp16", "pre_norm": True}
    saved = training(encoder_block(h, a, fused=True, **settings)).footprint()["saved"]
    assert saved == 32 * s * b * h + 4 * a * s * b


def test_one_tensor_read_by_three_rows_is_kept_once():
    norm = normalisation(10, 64)
    rows = [row | {"after": (0,)} for _ in range(3) for row in linear(10, 64, 64).rows()]
    trace = training(Trace.from_rows([norm.rows()[0], *rows]))
    assert trace.footprint()["saved"] == 4 * (640 + 640)  # the norm's input and its result


def test_cache_entries_are_dropped():
    cached = transformer(2, 32, 4, 100, sequence_length=8, cache=True)
    plain = transformer(2, 32, 4, 100, sequence_length=8, cache=False)
    assert cached.footprint()["cache"] == 2 * 2 * 8 * 32 * 4
    assert training(cached) == training(plain)
    assert training(cached).footprint()["cache"] == 0


def test_recompute_runs_the_forward_rows_again():
    forward = transformer(4, 64, 4, 500, sequence_length=16, batch=2, fused=False)
    kept, again = training(forward), training(forward, recompute=True)
    # forward + recompute + 2 backward against forward + 2 backward
    assert again.total_matrix_flops / kept.total_matrix_flops == pytest.approx(4 / 3, rel=1e-12)
    assert matrix_flops(again, "recompute") == forward.total_matrix_flops
    assert matrix_flops(again, *BACKWARD) == matrix_flops(kept, *BACKWARD)
    assert again.total_parameters == forward.total_parameters


def test_recompute_keeps_only_layer_inputs():
    s, b, h, layers = 16, 2, 64, 12
    block = encoder_block(h, 4, sequence_length=s, batch=b, fused=False, pre_norm=True)
    kept = training(block * layers).footprint()
    again = training(block * layers, recompute=True).footprint()
    one_tensor = 4 * s * b * h
    assert again["saved"] == layers * one_tensor
    assert kept["saved"] / layers > 16 * one_tensor
    # one layer's activations at a time, its input aside, and the largest op as before
    assert again["working"] - kept["working"] == pytest.approx(kept["saved"] / layers - one_tensor, rel=0.01)
    assert again["total"] < kept["total"]


def test_recompute_goes_layer_by_layer():
    trace = training(lstm(3, H, sequence_length=T, batch=B), recompute=True)
    phases = [row["phase"] for row in trace.rows() if row["phase"] in ("recompute", "input-gradient")]
    starts = [p for p, before in zip(phases, [None, *phases], strict=False) if p != before]
    assert starts == ["recompute", "input-gradient"] * 2
    again = rows_of(trace, "recompute")
    first = again[0]
    assert first["layer"] == "lstm.1-2"
    assert first["after"] == (5,)  # the last forward row: nothing is recomputed before it is needed
    assert all(row["parameters"] == 0 for row in again)
    waits = rows_of(trace, "input-gradient", "gates")[0]["after"]
    assert trace.op[max(waits)] == "gates, recompute"


def test_recomputed_lstm_writes_gates_only_the_second_time():
    trace = training(lstm(1, H, input_size=X, sequence_length=T, batch=B), recompute=True)
    assert only(trace, "forward", "gates")["output_bytes"] == 4 * B * H
    assert only(trace, "recompute", "gates")["output_bytes"] == 4 * B * 7 * H
    assert trace.footprint()["saved"] == 4 * B * T * X


# -- update ------------------------------------------------------------------------------------------


def test_sgd_update():
    update = only(training(linear(8, 16, 12, bias=False)), "update")
    count = 16 * 12
    assert (update["vector_flops"], update["special_ops"], update["state_bytes"]) == (2 * count, 0, 0)
    assert (update["weight_bytes"], update["input_bytes"], update["output_bytes"]) == (4 * count,) * 3


def test_adam_update():
    trace = training(linear(8, 16, 12, bias=False), "adam")
    update, count = only(trace, "update"), 16 * 12
    assert (update["vector_flops"], update["special_ops"]) == (12 * count, 2 * count)
    assert update["state_bytes"] == 2 * 8 * count  # two fp32 moments, read and written
    assert (update["weight_bytes"], update["output_bytes"]) == (4 * count, 4 * count)
    assert trace.footprint()["optimiser"] == 8 * count


def test_mixed_precision_adam_holds_sixteen_bytes_a_parameter():
    # Rajbhandari et al. 2020 (ZeRO), section 3.1: 2 + 2 + 12 bytes a parameter
    forward = transformer(2, 64, 4, 500, sequence_length=16, dtype="fp16")
    held = training(forward, "adam").footprint()
    count = forward.total_parameters
    assert (held["weights"], held["gradients"], held["optimiser"]) == (2 * count, 2 * count, 12 * count)
    update = only(training(linear(8, 16, 12, bias=False, dtype="fp16"), "adam"), "update")
    assert update["dtype"] == "fp32"
    assert (update["weight_bytes"], update["input_bytes"], update["output_bytes"]) == (0, 2 * 192, 2 * 192)


@pytest.mark.parametrize(
    ("dtype", "master", "held"),
    [("fp32", None, 0), ("fp32", True, 4), ("bf16", None, 4), ("bf16", False, 0), ("tf32", None, 0), ("fp64", None, 0)],
)
def test_master_weights(dtype, master, held):
    trace = training(linear(8, 16, 12, bias=False, dtype=dtype), master_weights=master)
    assert trace.footprint()["optimiser"] == held * 192


@pytest.mark.parametrize(
    ("types", "chosen", "size"),
    [
        ({"dtype": "bf16"}, None, 2),
        ({"dtype": "bf16"}, "fp32", 4),
        ({"dtype": "fp32", "weight_dtype": "bf16"}, None, 2),
        ({"dtype": "bf16", "weight_dtype": "int8"}, None, 2),
        ({"dtype": "int8"}, None, 4),
    ],
)
def test_gradient_type(types, chosen, size):
    trace = training(linear(8, 16, 12, bias=False, **types), gradient_dtype=chosen)
    assert only(trace, "weight-gradient")["output_bytes"] == size * 192
    assert only(trace, "update")["input_bytes"] == size * 192


def test_tied_projection_adds_to_the_gradient_of_the_embedding():
    tied = training(transformer(1, 32, 4, 100, sequence_length=8, tied=True), "adam")
    head = only(tied, "weight-gradient", "vocabulary projection")
    assert head["output_bytes"] == 0
    assert head["state_bytes"] == 2 * 4 * 3200  # the embedding's gradient, read and written
    assert not rows_of(tied, "update", "vocabulary projection")
    rows = tied.rows()
    waits = only(tied, "update", "token embedding")["after"]
    assert [rows[w]["op"] for w in waits] == [
        "vocabulary projection, weight gradient",
        "token embedding, weight gradient",
    ]
    own = training(transformer(1, 32, 4, 100, sequence_length=8, tied=False), "adam")
    assert only(own, "update", "vocabulary projection")["vector_flops"] == 12 * 3200


def test_tied_projection_with_its_own_bias():
    net = concatenate([embedding(8, 100, 32), linear(8, 100, 32, op="logits")])
    rows = net.rows()
    rows[1]["parameters"] -= 3200
    trace = training(Trace.from_rows(rows))
    head = only(trace, "weight-gradient", "logits")
    assert (head["output_bytes"], head["state_bytes"]) == (400, 2 * 4 * 3200)
    assert head["vector_flops"] == 800
    assert only(trace, "update", "logits")["vector_flops"] == 200
    assert trace.footprint()["gradients"] == 4 * (3200 + 100)


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": "adamm"}, r"unknown optimiser 'adamm' \(did you mean 'adam'\?\)"),
        ({"optimiser": None}, "unknown optimiser None"),
        ({"recompute": 1}, "recompute must be True or False, got 1"),
        ({"input_gradients": "yes"}, "input_gradients must be True or False, got 'yes'"),
        ({"master_weights": 0}, "master_weights must be True, False or None, got 0"),
        ({"gradient_dtype": "fp23"}, r"gradient_dtype: unknown element type 'fp23' \(did you mean 'fp32'\?\)"),
    ],
)
def test_unknown_options(change, message):
    with pytest.raises(TraceError, match=message):
        training(mlp(), **change)


def test_training_twice_is_an_error():
    with pytest.raises(TraceError, match=r"row 3: phase 'input-gradient'.*already has gradients"):
        training(training(mlp()))


def test_not_a_trace():
    with pytest.raises(TraceError, match="a Trace is expected, got list"):
        training([{"op": "product"}])


# -- laws over random traces -------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(traces(training=False))
def test_laws(forward):
    kept = training(forward, "adam", input_gradients=True)
    again = training(forward, "adam", recompute=True, input_gradients=True)
    count = len(forward)
    for trace in (kept, again):
        assert trace.total_parameters == forward.total_parameters
        assert trace.phase.tolist()[:count] == ["forward"] * count
        for column in ("matrix_flops", "vector_flops", "special_ops", "weight_bytes", "input_bytes", "repeats"):
            assert (trace.columns[column][:count] == forward.columns[column]).all()
        assert trace.footprint()["weights"] == forward.footprint()["weights"]
        updates = sum(row["repeats"] * row["vector_flops"] for row in rows_of(trace, "update"))
        assert updates == 12 * forward.total_parameters
        # nothing but forward and recomputed rows keeps activations
        assert not trace.saved_bytes[np.isin(trace.phase, (*BACKWARD, "update"))].any()
    # every product has its gradients: twice the forward FLOP, 2.5 times for fused attention
    fused = forward.kind == "attention"
    owed = float(forward.runs @ (forward.matrix_flops * np.where(fused, 2.5, 2.0)))
    assert matrix_flops(kept, *BACKWARD) == pytest.approx(owed, rel=1e-9, abs=forward.runs.sum())
    assert matrix_flops(again, "recompute") == matrix_flops(kept, "forward")
    assert matrix_flops(again, *BACKWARD) == matrix_flops(kept, *BACKWARD)
    assert again.total_flops > kept.total_flops or forward.total_flops == 0


@pytest.mark.parametrize("recompute", [False, True])
@settings(max_examples=75, deadline=None)
@given(forward=traces(training=False))
def test_dependencies(recompute, forward):
    forward = forward.replace(op=[f"op {i}" for i in range(len(forward))])  # names that tell the rows apart
    trace = training(forward, recompute=recompute, input_gradients=True)
    before = []  # all rows complete when a row starts
    for waits in trace.after:
        before.append(set(waits).union(*(before[w] for w in waits)))
    numbers = {}
    for number, (op, phase) in enumerate(zip(trace.op.tolist(), trace.phase.tolist(), strict=True)):
        numbers.setdefault((phase, int(op.split(",")[0].split()[1])), set()).add(number)
    weight_gradients = set().union(*(found for (phase, _), found in numbers.items() if phase == "weight-gradient"))
    segment = np.cumsum(np.r_[0, forward.layer[1:] != forward.layer[:-1]])  # neighbours of one layer
    for (phase, i), found in numbers.items():
        readers = [j for j, waits in enumerate(forward.after) if i in waits]
        for number in found:
            if phase in BACKWARD:
                needed = numbers["recompute", i] if recompute else {i}
                assert needed <= before[number]
                for j in readers:
                    assert numbers.get(("input-gradient", j), set()) <= before[number]
            if phase == "recompute":  # not before the gradient of the layer's results is there
                for j, waits in enumerate(forward.after):
                    if segment[j] != segment[i] and any(segment[w] == segment[i] for w in waits):
                        assert numbers.get(("input-gradient", j), set()) <= before[number]
            if phase == "update":
                assert numbers["weight-gradient", i] <= before[number]
            else:
                assert not weight_gradients & before[number]


@settings(max_examples=100, deadline=None)
@given(traces(training=False))
def test_fusion_keeps_what_the_backward_pass_reads(forward):
    trace = training(forward)
    fused = trace.fused
    assert fused.footprint()["saved"] == trace.footprint()["saved"]
    assert fused.total_flops == pytest.approx(trace.total_flops, rel=1e-12)
    assert fused.total_bytes <= trace.total_bytes
