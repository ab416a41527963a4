"""Recurrent networks: counts against closed forms, a cell run number by number, and PyTorch."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import gru, lstm, rnn, training
from workloads.trace import TraceError

BUILDERS = {"rnn": rnn, "lstm": lstm, "gru": gru}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def rows_named(trace, op):
    return [row for row in trace.rows() if row["op"] == op]


# -- one layer by hand -------------------------------------------------------------------------------


def test_lstm_layer_by_hand():
    # hidden 8, input 6, 5 steps, batch 3, fp16: 4 gates, so 32 sums
    trace = lstm(1, 8, input_size=6, sequence_length=5, batch=3, dtype="fp16")
    product, recurrent, gates = trace.rows()
    assert [row["op"] for row in trace.rows()] == ["input product", "recurrent product", "gates"]
    assert {row["layer"] for row in trace.rows()} == {"lstm.0"}
    assert (product["m"], product["n"], product["k"]) == (15, 32, 6)  # all steps at once
    assert product["matrix_flops"] == 2 * 15 * 32 * 6
    assert product["weight_bytes"] == 2 * 32 * 6
    assert product["input_bytes"] == 2 * 15 * 6
    assert product["output_bytes"] == 2 * 15 * 32
    assert (product["repeats"], product["serial_steps"]) == (1, 1)

    assert (recurrent["m"], recurrent["n"], recurrent["k"]) == (3, 32, 8)
    assert (recurrent["repeats"], recurrent["serial_steps"], recurrent["path_runs"]) == (5, 5, 5)
    assert recurrent["weight_sets"] == 1
    assert recurrent["weight_bytes"] == 2 * 32 * 8
    assert recurrent["state_bytes"] == 2 * (3 * 8 + 3 * 32)  # h read, sums written
    assert recurrent["input_bytes"] == recurrent["output_bytes"] == 0

    assert (gates["repeats"], gates["serial_steps"]) == (5, 5)
    assert gates["vector_flops"] == 12 * 24  # 24 units: 4 input adds, 4 bias adds, 4 for c and h
    assert gates["special_ops"] == 5 * 24
    assert gates["input_bytes"] == 2 * 3 * 32  # the input part of this step
    assert gates["state_bytes"] == 2 * (3 * 32 + 2 * 24)  # sums read, c read and written
    assert gates["output_bytes"] == 2 * 24  # h
    assert gates["parameters"] == 2 * 32  # two vectors, as PyTorch
    assert [row["after"] for row in trace.rows()] == [(), (0,), (0, 1)]
    assert (trace.sequences, trace.tokens) == (3, 5)


def test_gru_and_rnn_state_by_hand():
    gates = rows_named(gru(1, 8, sequence_length=5, batch=3), "gates")[0]
    assert gates["state_bytes"] == 4 * (3 * 24 + 3 * 8)  # three sums and h read
    assert gates["output_bytes"] == 4 * 24
    gates = rows_named(rnn(1, 8, sequence_length=5, batch=3), "gates")[0]
    assert gates["state_bytes"] == 4 * 3 * 8  # one sum read
    assert (gates["vector_flops"], gates["special_ops"]) == (2 * 24, 24)
    gates = rows_named(rnn(1, 8, sequence_length=5, batch=3, nonlinearity="relu"), "gates")[0]
    assert (gates["vector_flops"], gates["special_ops"]) == (3 * 24, 0)


def test_merged_step_product_reads_input_and_state():
    product, gates = lstm(1, 8, input_size=6, sequence_length=5, batch=3, hoist_input=False).rows()
    assert (product["m"], product["n"], product["k"]) == (3, 32, 14)
    assert (product["repeats"], product["serial_steps"]) == (5, 5)
    assert product["input_bytes"] == 4 * 3 * 6
    assert product["state_bytes"] == 4 * (3 * 8 + 3 * 32)
    assert gates["input_bytes"] == 0
    assert gates["vector_flops"] == 8 * 24  # the input part is summed in the product


def test_gru_merged_product_keeps_the_two_parts_of_the_candidate_apart():
    product, gates = gru(1, 8, input_size=6, sequence_length=5, batch=3, hoist_input=False).rows()
    assert product["matrix_flops"] == 2 * 3 * 24 * 14
    assert product["state_bytes"] == 4 * (3 * 8 + 3 * 32)  # h read; r, z and two candidate sums written
    assert gates["state_bytes"] == 4 * (3 * 32 + 3 * 8)
    assert gates["vector_flops"] == (1 + 4 + 4) * 24  # one add, four biases, four for h


def test_projected_lstm_makes_h_by_a_product_each_step():
    trace = lstm(1, 8, input_size=6, projection=3, sequence_length=5, batch=2)
    _, recurrent, gates, projection = trace.rows()
    assert recurrent["k"] == 3
    assert recurrent["state_bytes"] == 4 * (2 * 3 + 2 * 32)
    assert gates["output_bytes"] == 0
    assert gates["state_bytes"] == 4 * (2 * 32 + 2 * 2 * 8 + 2 * 8)  # sums, c twice, what is projected
    assert (projection["m"], projection["n"], projection["k"]) == (2, 3, 8)
    assert (projection["repeats"], projection["serial_steps"]) == (5, 5)
    assert projection["state_bytes"] == 4 * 2 * 8
    assert projection["output_bytes"] == 4 * 2 * 3
    assert projection["after"] == (2,)


def test_separate_gate_products():
    trace = lstm(1, 8, sequence_length=5, batch=3, merge_gates=False, hoist_input=False)
    product, recurrent, gates = trace.rows()
    assert (recurrent["batch"], recurrent["m"], recurrent["n"], recurrent["k"]) == (4, 3, 8, 8)
    assert (product["batch"], product["serial_steps"], product["repeats"]) == (4, 5, 5)
    assert product["input_bytes"] == 4 * 3 * 8  # the four products read the same rows
    assert gates["after"] == (0, 1)
    assert gates["vector_flops"] == 12 * 24


# -- the cell, number by number ----------------------------------------------------------------------


class Tally:
    """Counts of what a cell does, run on plain numbers."""

    def __init__(self):
        self.macs = self.vector = self.special = 0

    def dot(self, weights, values):
        self.macs += len(values)
        return sum(w * v for w, v in zip(weights, values, strict=True))

    def add(self, a, b):
        self.vector += 1
        return a + b

    def mul(self, a, b):
        self.vector += 1
        return a * b

    def sigmoid(self, a):
        self.special += 1
        return 1 / (1 + math.exp(-a))

    def tanh(self, a):
        self.special += 1
        return math.tanh(a)


def step_lstm(t, x, h, c, w, u, b):
    i, f, g, o = (t.add(t.add(t.dot(w[q], x), t.dot(u[q], h)), b[q]) for q in range(4))
    c = t.add(t.mul(t.sigmoid(f), c), t.mul(t.sigmoid(i), t.tanh(g)))
    return t.mul(t.sigmoid(o), t.tanh(c)), c


def step_gru(t, x, h, old, w, u, b):
    r, z = (t.sigmoid(t.add(t.add(t.dot(w[q], x), t.dot(u[q], h)), b[q])) for q in range(2))
    candidate = t.add(t.dot(w[2], x), b[2])
    n = t.tanh(t.add(candidate, t.mul(r, t.add(t.dot(u[2], h), b[3]))))
    return t.add(n, t.mul(z, t.add(old, -n))), old


def step_rnn(t, x, h, _, w, u, b):
    return t.tanh(t.add(t.add(t.dot(w[0], x), t.dot(u[0], h)), b[0])), None


STEPS = {"lstm": step_lstm, "gru": step_gru, "rnn": step_rnn}


@pytest.mark.parametrize("cell", STEPS)
def test_operations_equal_a_cell_run_number_by_number(cell):
    hidden, inputs, steps, batch = 3, 4, 5, 2
    tally, random = Tally(), np.random.default_rng(0)
    w, u, b = (random.normal(size=s) for s in ((4, hidden, inputs), (4, hidden, hidden), (4, hidden)))
    for _ in range(batch):
        h, c = [0.0] * hidden, [0.0] * hidden
        for _ in range(steps):
            x = random.normal(size=inputs)
            held = h if cell == "gru" else c
            new = [STEPS[cell](tally, x, h, held[j], w[:, j], u[:, j], b[:, j]) for j in range(hidden)]
            h, c = [n[0] for n in new], [n[1] for n in new]
    trace = BUILDERS[cell](1, hidden, input_size=inputs, sequence_length=steps, batch=batch)
    assert trace.total_matrix_flops == 2 * tally.macs
    assert trace.runs @ trace.vector_flops == tally.vector
    assert trace.runs @ trace.special_ops == tally.special


# -- whole networks against closed forms -------------------------------------------------------------

NETWORKS = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 5),
        "hidden": st.integers(2, 40),
        "input_size": st.integers(1, 40),
        "sequence_length": st.integers(1, 30),
        "batch": st.integers(1, 9),
        "bidirectional": st.booleans(),
        "bias": st.booleans(),
        "hoist_input": st.booleans(),
        "merge_gates": st.booleans(),
    }
)


def layer_inputs(layers, hidden, input_size, bidirectional, **_):
    return [input_size] + [hidden * (1 + bidirectional)] * (layers - 1)


@given(cell=st.sampled_from(sorted(BUILDERS)), shape=NETWORKS)
def test_matrix_flops_and_parameters_equal_the_closed_form(cell, shape):
    trace = BUILDERS[cell](**shape)
    gates, hidden, directions = GATES[cell], shape["hidden"], 1 + shape["bidirectional"]
    steps = shape["batch"] * shape["sequence_length"]
    macs = parameters = 0
    for inputs in layer_inputs(**shape):
        weights = gates * hidden * (inputs + hidden)
        macs += directions * steps * weights
        parameters += directions * (weights + (2 * gates * hidden if shape["bias"] else 0))
    assert trace.total_matrix_flops == 2 * macs
    assert trace.total_parameters == parameters
    assert trace.footprint()["weights"] == 4 * parameters


@given(cell=st.sampled_from(sorted(BUILDERS)), shape=NETWORKS)
def test_rows_grow_neither_with_steps_nor_with_layers(cell, shape):
    def rows(**changes):
        return len(BUILDERS[cell](**shape | changes))

    assert rows(layers=2) == rows(layers=500)
    assert rows(sequence_length=2) == rows(sequence_length=10**6)


@given(cell=st.sampled_from(sorted(BUILDERS)), shape=NETWORKS)
def test_hoisting_moves_products_but_adds_none(cell, shape):
    hoisted = BUILDERS[cell](**shape | {"hoist_input": True})
    stepped = BUILDERS[cell](**shape | {"hoist_input": False})
    assert hoisted.total_matrix_flops == stepped.total_matrix_flops
    assert hoisted.total_parameters == stepped.total_parameters
    # a step at a time reads the input weights again each step
    assert hoisted.bytes_by_role()["weight"] <= stepped.bytes_by_role()["weight"]


@given(cell=st.sampled_from(sorted(BUILDERS)), shape=NETWORKS)
def test_wavefront_changes_the_path_and_not_the_work(cell, shape):
    shape = shape | {"bidirectional": False, "hoist_input": True}
    series, wave = BUILDERS[cell](**shape), BUILDERS[cell](**shape, wavefront=True)
    assert wave.total_matrix_flops == series.total_matrix_flops
    assert wave.total_flops == series.total_flops
    assert wave.total_parameters == series.total_parameters
    steps, layers = shape["sequence_length"], shape["layers"]
    recurrent = rows_named(wave, "recurrent product")[0]
    assert recurrent["repeats"] == layers * steps
    assert recurrent["path_runs"] == steps + layers - 1
    assert rows_named(series, "recurrent product")[-1]["path_runs"] == max(layers - 1, 1) * steps


def test_wavefront_rows_by_hand():
    trace = lstm(4, 8, input_size=6, sequence_length=10, batch=3, wavefront=True)
    first, later, recurrent, gates = trace.rows()
    assert (first["m"], first["k"], first["repeats"], first["path_runs"]) == (30, 6, 1, 1)
    assert (later["m"], later["k"]) == (3, 8)
    assert (later["repeats"], later["serial_steps"], later["path_runs"], later["weight_sets"]) == (30, 10, 12, 3)
    assert (recurrent["repeats"], recurrent["serial_steps"], recurrent["path_runs"]) == (40, 10, 13)
    assert recurrent["weight_sets"] == gates["weight_sets"] == 4
    assert gates["path_runs"] == 13
    assert later["after"] == recurrent["after"] == (0,)
    assert gates["after"] == (0, 1, 2)
    assert later["layer"] == recurrent["layer"] == gates["layer"] == "lstm.0-3"


def test_directions_are_folded_and_independent():
    trace = lstm(3, 8, input_size=6, sequence_length=10, bidirectional=True)
    product, recurrent = trace.rows()[:2]
    assert (product["repeats"], product["path_runs"], product["weight_sets"]) == (2, 1, 2)
    assert (recurrent["repeats"], recurrent["serial_steps"], recurrent["path_runs"]) == (20, 10, 10)
    deeper = rows_named(trace, "recurrent product")[1]
    assert (deeper["repeats"], deeper["path_runs"], deeper["weight_sets"]) == (40, 20, 4)
    assert rows_named(trace, "input product")[1]["k"] == 16
    assert deeper["layer"] == "lstm.1-2"


def test_path_between_positions_is_the_distance():
    one_way = gru(2, 8, sequence_length=50)
    assert one_way.path_length(0, 49) == 49
    assert one_way.path_length(49, 0) == math.inf  # nothing flows back in time
    both = gru(2, 8, sequence_length=50, bidirectional=True)
    assert both.path_length(0, 49) == both.path_length(49, 0) == 49


def test_input_size_defaults_to_hidden():
    assert lstm(2, 8, sequence_length=3) == lstm(2, 8, sequence_length=3, input_size=8)


# -- PyTorch -----------------------------------------------------------------------------------------


@pytest.mark.torch
@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from(sorted(BUILDERS)),
    layers=st.integers(1, 4),
    hidden=st.integers(2, 24),
    input_size=st.integers(1, 24),
    bias=st.booleans(),
    bidirectional=st.booleans(),
    projected=st.booleans(),
)
def test_parameters_equal_torch(cell, layers, hidden, input_size, bias, bidirectional, projected):
    nn = pytest.importorskip("torch").nn
    sizes = {"bias": bias, "bidirectional": bidirectional, "input_size": input_size}
    ours, theirs = {}, {}
    if cell == "lstm" and projected:
        ours, theirs = {"projection": hidden // 2}, {"proj_size": hidden // 2}
    module = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](
        hidden_size=hidden, num_layers=layers, **sizes, **theirs
    )
    trace = BUILDERS[cell](layers, hidden, sequence_length=3, **sizes, **ours)
    assert trace.total_parameters == sum(p.numel() for p in module.parameters())


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDERS.values())
@pytest.mark.parametrize("argument", ["layers", "hidden", "input_size", "sequence_length", "batch"])
@pytest.mark.parametrize("bad", [0, -3, 2.5, "4"])
def test_bad_size_is_an_error_that_names_the_argument(build, argument, bad):
    with pytest.raises(TraceError, match=f"{build.__name__}: {argument} must be a whole number of 1 or more, got"):
        build(**{"layers": 2, "hidden": 8, "input_size": 6, "sequence_length": 5, "batch": 3} | {argument: bad})


@pytest.mark.parametrize(
    ("build", "changes", "message"),
    [
        (lstm, {"wavefront": True, "bidirectional": True}, "wavefront must be False when bidirectional"),
        (gru, {"wavefront": True, "hoist_input": False}, "wavefront needs hoist_input=True"),
        (lstm, {"projection": 8}, r"projection must be smaller than hidden \(8\), got 8"),
        (lstm, {"projection": 0}, "projection must be a whole number of 1 or more, got 0"),
        (rnn, {"nonlinearity": "tan"}, "nonlinearity: unknown 'tan'.*'tanh'"),
        (rnn, {"dtype": "float16"}, "rnn: dtype: unknown element type 'float16'"),
        (lstm, {"bidirectional": 2}, "bidirectional must be True or False, got 2"),
    ],
)
def test_bad_combination_is_an_error(build, changes, message):
    with pytest.raises(TraceError, match=message):
        build(2, 8, sequence_length=5, **changes)


# -- residual connections ----------------------------------------------------------------------------


@given(cell=st.sampled_from(sorted(BUILDERS)), shape=NETWORKS)
def test_residual_connections_add_each_layer_but_the_first(cell, shape):
    plain, residual = BUILDERS[cell](**shape), BUILDERS[cell](**shape, residual=True)
    features = shape["hidden"] * (1 + shape["bidirectional"])
    sums = (shape["layers"] - 1) * shape["batch"] * shape["sequence_length"] * features
    assert residual.total_flops - plain.total_flops == sums
    assert residual.total_bytes - plain.total_bytes == 4 * 3 * sums  # two read, one written
    assert residual.total_matrix_flops == plain.total_matrix_flops
    assert residual.total_parameters == plain.total_parameters
    assert len(residual) - len(plain) == (shape["layers"] > 1)


def test_residual_adds_run_at_once_or_with_the_steps():
    def add(**changes):
        (row,) = rows_named(lstm(5, 8, sequence_length=10, batch=3, residual=True, **changes), "residual add")
        return [row[c] for c in ("vector_flops", "repeats", "serial_steps", "path_runs", "layer")]

    assert add() == [240, 4, 1, 4, "lstm.1-4"]
    assert add(bidirectional=True) == [480, 4, 1, 4, "lstm.1-4"]  # both directions side by side
    assert add(hoist_input=False) == [24, 40, 10, 40, "lstm.1-4"]
    assert add(wavefront=True) == [24, 40, 10, 13, "lstm.0-4"]


def test_training_keeps_the_sum_beside_the_state():
    # 3 upper layers of 10 x 3 x 8, fp32: their input is the sum, their recurrence has its own state
    plain, residual = (training(lstm(4, 8, sequence_length=10, batch=3, residual=r)) for r in (False, True))
    assert residual.total_matrix_flops == plain.total_matrix_flops
    # the last layer's sum is not read again: 2 sums
    assert residual.footprint()["saved"] - plain.footprint()["saved"] == 2 * 4 * 240


@pytest.mark.torch
def test_residual_stack_equals_modules_in_torch():
    torch = pytest.importorskip("torch")
    from workloads import from_torch

    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.LSTM(16, 16) for _ in range(4))

        def forward(self, x):
            x, _ = self.layers[0](x)
            for layer in self.layers[1:]:
                x = x + layer(x)[0]
            return x

    theirs = from_torch(Stack(), torch.empty(10, 3, 16))
    ours = lstm(4, 16, sequence_length=10, batch=3, residual=True)
    assert ours.total_parameters == theirs.total_parameters
    assert ours.total_matrix_flops == theirs.total_matrix_flops
    added = sum(row["repeats"] * row["vector_flops"] for row in theirs.rows() if "add" in row["op"])
    assert added == 3 * 10 * 3 * 16
