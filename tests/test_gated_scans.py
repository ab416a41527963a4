"""QRNN, SRU, minLSTM, minGRU: counts by hand, a cell run number by number, and modules written in PyTorch."""

import math

import pytest

from workloads import gated_scan_network, min_gru, min_lstm, qrnn, sru, training
from workloads.gated_scans import CELLS
from workloads.trace import TraceError

FORMS = ("serial", "chunked", "parallel")


class Number:
    """A plain number that counts what is done with it."""

    vector = special = 0

    def __init__(self, value):
        self.value = float(value)

    def _with(self, other, result):
        Number.vector += 1
        return Number(result(self.value, other.value if isinstance(other, Number) else other))

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)

    def __rsub__(self, other):
        return self._with(other, lambda a, b: b - a)

    def __truediv__(self, other):
        Number.special += 1
        return Number(self.value / other.value)

    @staticmethod
    def apply(function, number):
        Number.special += 1
        return Number(function(number.value))


def sigmoid(number):
    return Number.apply(lambda x: 1 / (1 + math.exp(-x)), number)


def tanh(number):
    return Number.apply(math.tanh, number)


def qrnn_f(z, f, c):
    f = sigmoid(f)
    return f * c + (1 - f) * tanh(z)


def qrnn_fo(z, f, o, c):
    return sigmoid(o) * qrnn_f(z, f, c)


def qrnn_ifo(z, f, o, i, c):
    return sigmoid(o) * (sigmoid(f) * c + sigmoid(i) * tanh(z))


def sru_cell(z, f, r, bias_f, bias_r, x, c):
    f = sigmoid(f + bias_f)
    c = f * c + (1 - f) * z
    r = sigmoid(r + bias_r)
    return r * tanh(c) + (1 - r) * x


def sru_peephole(z, f, r, bias_f, bias_r, weight_f, weight_r, x, c):
    f = sigmoid(f + weight_f * c + bias_f)
    r = sigmoid(r + weight_r * c + bias_r)
    c = f * c + (1 - f) * z
    return r * tanh(c) + (1 - r) * x


def min_lstm_cell(f, i, candidate, h):
    f, i = sigmoid(f), sigmoid(i)
    total = f + i
    return f / total * h + i / total * candidate


def min_gru_cell(z, candidate, h):
    z = sigmoid(z)
    return (1 - z) * h + z * candidate


@pytest.mark.parametrize(
    ("cell", "arguments", "build"),
    [
        (qrnn_f, 3, lambda **s: qrnn(1, 5, pooling="f", **s)),
        (qrnn_fo, 4, lambda **s: qrnn(1, 5, pooling="fo", **s)),
        (qrnn_ifo, 5, lambda **s: qrnn(1, 5, pooling="ifo", **s)),
        (sru_cell, 7, lambda **s: sru(1, 5, **s)),
        (sru_peephole, 9, lambda **s: sru(1, 5, peephole=True, **s)),
        (min_lstm_cell, 4, lambda **s: min_lstm(1, 5, scan="serial", **s)),
        (min_gru_cell, 3, lambda **s: min_gru(1, 5, scan="serial", **s)),
    ],
)
def test_operations_of_a_step_are_those_of_the_equations(cell, arguments, build):
    Number.vector = Number.special = 0
    cell(*(Number(0.1 * (i + 1)) for i in range(arguments)))
    scan = build(sequence_length=7, batch=3).rows()[-1]
    assert (scan["vector_flops"], scan["special_ops"]) == (15 * Number.vector, 15 * Number.special)
    assert (scan["kind"], scan["serial_steps"], scan["repeats"]) == ("scan", 7, 7)


def test_qrnn_layer_by_hand():
    # 8 units, 6 inputs, 5 positions, batch 3, fp16, two wide: 24 results of 12 terms each
    convolution, scan = qrnn(1, 8, input_size=6, sequence_length=5, batch=3, dtype="fp16").rows()
    assert (convolution["m"], convolution["n"], convolution["k"]) == (15, 24, 12)
    assert convolution["matrix_flops"] == 2 * 15 * 24 * 12
    assert convolution["parameters"] == 24 * 13
    assert (convolution["reach_back"], convolution["reach_ahead"]) == (1, 0)
    assert scan["input_bytes"] == 2 * 3 * 24  # all three gates of a position
    assert scan["output_bytes"] == 2 * 3 * 8
    assert scan["after"] == (0,)


def test_sru_layer_by_hand():
    product, scan = sru(1, 8, sequence_length=5, batch=3, dtype="fp16").rows()
    assert (product["n"], product["k"], product["parameters"]) == (24, 8, 24 * 8)
    assert scan["parameters"] == 16
    assert scan["input_bytes"] == 2 * 3 * (24 + 8)  # gates and x
    projected = sru(1, 8, input_size=6, sequence_length=5).rows()[0]
    assert (projected["n"], projected["k"]) == (32, 6)  # the highway's own product


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("form", FORMS)
def test_layers_forms_and_lengths(cell, form):
    trace = CELLS[cell](4, 16, sequence_length=4096, batch=2, scan=form, chunk=64)
    assert len(trace) == len(CELLS[cell](9, 16, sequence_length=64, batch=2, scan=form, chunk=4))
    path = {"serial": 4095, "chunked": 64, "parallel": 12}[form]
    assert trace.path_length(0, 4095) == pytest.approx(path, abs=1)
    assert trace.path_length(4095, 0) == math.inf  # causal
    assert (
        trace.total_matrix_flops == CELLS[cell](4, 16, sequence_length=4096, batch=2, scan="serial").total_matrix_flops
    )
    assert (trace.sequences, trace.tokens) == (2, 4096)


@pytest.mark.parametrize("cell", CELLS)
def test_decode_is_one_position_with_a_constant_state(cell):
    short, long = (CELLS[cell](3, 16, sequence_length=n, batch=2, mode="decode") for n in (10, 10**6))
    assert short == long
    prefill = CELLS[cell](3, 16, sequence_length=1, batch=2)
    assert short.total_parameters == prefill.total_parameters
    assert short.footprint()["cache"] == 3 * 4 * 2 * 16 * (2 if cell == "qrnn" else 1)  # h, and x of a qrnn
    product = short.rows()[0]
    assert product["m"] == 2


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("form", FORMS)
def test_training_triples_the_products(cell, form):
    trace = gated_scan_network(3, 16, 100, cell=cell, sequence_length=64, batch=2, scan=form)
    step = training(trace)
    assert step.total_matrix_flops == 3 * trace.total_matrix_flops
    assert step.footprint()["saved"] > 0
    forward = {row["op"]: row for row in trace.rows()}
    for row in step.rows():
        if row["phase"] == "input-gradient" and row["kind"] == "scan":
            assert row["serial_steps"] == forward[row["op"].split(", input")[0]]["serial_steps"]


@pytest.mark.torch
def test_parameters_equal_modules_in_torch():
    nn = pytest.importorskip("torch").nn

    def count(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    assert qrnn(1, 8, input_size=6, sequence_length=5, width=3).total_parameters == count(nn.Conv1d(6, 24, 3))
    assert min_lstm(1, 8, input_size=6, sequence_length=5).total_parameters == count(*[nn.Linear(6, 8)] * 3)
    assert min_gru(1, 8, input_size=6, sequence_length=5).total_parameters == count(*[nn.Linear(6, 8)] * 2)
    trace = gated_scan_network(2, 8, 50, sequence_length=5)
    layers = [nn.Conv1d(8, 24, 2), nn.Conv1d(8, 24, 2)]
    assert trace.total_parameters == count(nn.Embedding(50, 8), *layers, nn.Linear(8, 50))


@pytest.mark.torch
def test_products_equal_those_counted_by_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        torch.nn.Conv1d(6, 24, 2)(torch.zeros(3, 6, 5 + 1))
    assert qrnn(1, 8, input_size=6, sequence_length=5, batch=3).total_matrix_flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: qrnn(1, 8, sequence_length=5, pooling="of"), "qrnn: pooling: unknown 'of'"),
        (lambda: qrnn(1, 8, sequence_length=5, scan="paralel"), "qrnn: scan: unknown 'paralel'.*'parallel'"),
        (lambda: qrnn(0, 8, sequence_length=5), "qrnn: layers must be a whole number of 1 or more, got 0"),
        (lambda: qrnn(1, 8, sequence_length=5, width=0), "width must be a whole number of 1 or more, got 0"),
        (lambda: sru(1, 8, sequence_length=5, peephole=True, scan="parallel"), "scan must be 'serial' with peephole"),
        (lambda: min_gru(1, 8, sequence_length=5, mode="train"), "min_gru: mode: unknown 'train'"),
        (lambda: min_lstm(1, 8, sequence_length=5, dtype="half"), "min_lstm: dtype: unknown element type 'half'"),
        (lambda: gated_scan_network(1, 8, 9, sequence_length=5, cell="gru"), "cell: unknown 'gru'"),
        (lambda: gated_scan_network(1, 8, 9, sequence_length=5, cell="sru", width=2), "width needs cell 'qrnn'"),
        (lambda: gated_scan_network(1, 8, 9, sequence_length=5, input_size=4, tied=True), "tied needs an embedding"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(TraceError, match=message):
        build()
