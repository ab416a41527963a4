"""Temporal convolutional networks: counts by hand, reach by a walk over taps, and the paper's module in PyTorch."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import preset, simulate
from workloads import network, tcn, temporal_network, training
from workloads.temporal_convolution import receptive_field
from workloads.trace import TraceError


def ops(trace):
    return [row["op"] for row in trace.rows()]


def convolutions(trace):
    return [row for row in trace.rows() if row["kind"] == "convolution"]


def test_one_block_by_hand():
    # 3 channels to 8, kernel 5, 2 sequences of 20
    trace = tcn(1, 8, input_size=3, kernel_size=5, sequence_length=20, batch=2, dtype="fp16", weight_norm=False)
    assert ops(trace) == [
        *("convolution", "activation", "convolution", "activation", "residual projection"),
        *("residual add", "activation"),
    ]
    first, second = convolutions(trace)
    assert (first["m"], first["n"], first["k"]) == (40, 8, 3 * 5)
    assert (second["m"], second["n"], second["k"]) == (40, 8, 8 * 5)
    assert first["input_bytes"] == 2 * 2 * 20 * 3  # padding is not read
    assert trace.total_parameters == 8 * 15 + 8 + 8 * 40 + 8 + 8 * 3 + 8
    assert trace.total_matrix_flops == 2 * 40 * 8 * (15 + 40 + 3)
    projection, add = trace.rows()[4:6]
    assert projection["after"] == ()  # beside the convolutions
    assert add["after"] == (3, 4)
    assert (trace.sequences, trace.tokens) == (2, 20)


def test_no_projection_where_the_channels_stay():
    trace = tcn(3, 8, sequence_length=20)
    assert ops(trace) == ["convolution", "activation", "convolution", "activation", "residual add", "activation"] * 3
    assert ops(tcn(3, 8, output_size=5, sequence_length=20)).count("residual projection") == 1


def test_weight_norm_adds_a_gain_a_filter_and_its_arithmetic():
    plain, normed = (tcn(2, 8, kernel_size=3, sequence_length=20, weight_norm=w) for w in (False, True))
    assert normed.total_parameters - plain.total_parameters == 4 * 8
    assert normed.vector_flops.sum() - plain.vector_flops.sum() == 4 * 3 * 8 * 8 * 3
    assert normed.special_ops.sum() == 4 * 2 * 8
    assert normed.total_matrix_flops == plain.total_matrix_flops


def test_decode_reads_the_taps_and_holds_the_positions_between():
    trace = tcn(3, 8, kernel_size=5, sequence_length=1_000, batch=2, mode="decode", dtype="fp16", weight_norm=False)
    for number, row in enumerate(convolutions(trace)):
        dilation = 2 ** (number // 2)
        assert (row["m"], row["n"], row["k"]) == (2, 8, 40)
        assert row["input_bytes"] == row["output_bytes"] == 2 * 2 * 8
        assert row["cache_bytes"] == 2 * 2 * 8 * 5  # four taps read, one stored
        assert row["saved_bytes"] == 2 * 2 * 8 * 4 * dilation
        assert row["reach_back"] == 4 * dilation
    # as much as the receptive field less the newest, of 8 channels
    assert trace.footprint()["cache"] == 2 * 2 * 8 * (receptive_field(3, 5) - 1)
    assert trace.tokens == 1


@given(levels=st.integers(1, 4), kernel=st.integers(2, 5), length=st.integers(1, 50), batch=st.integers(1, 3))
def test_decode_is_one_position_of_a_prefill(levels, kernel, length, batch):
    shape = {"kernel_size": kernel, "batch": batch, "input_size": 3, "weight_norm": False}
    step = tcn(levels, 8, sequence_length=length, mode="decode", **shape)
    whole = tcn(levels, 8, sequence_length=length, **shape)
    assert step.total_flops * length == whole.total_flops
    assert step.total_parameters == whole.total_parameters
    assert step == tcn(levels, 8, sequence_length=length + 7, mode="decode", **shape)


@given(levels=st.integers(1, 5), kernel=st.integers(2, 5), base=st.integers(2, 3))
def test_receptive_field_equals_a_walk_over_the_taps(levels, kernel, base):
    seen = {0}
    for level in range(levels):
        for _ in range(2):
            seen = {t - tap * base**level for t in seen for tap in range(kernel)}
    field = 1 - min(seen)
    assert receptive_field(levels, kernel, base) == field
    trace = tcn(levels, 4, kernel_size=kernel, dilation_base=base, sequence_length=field + 1)
    assert trace.path_length(0, field - 1) == 2 * levels
    assert trace.path_length(0, field) == math.inf
    assert trace.path_length(1, 0) == math.inf


def test_receptive_field_of_the_paper_s_form():
    assert receptive_field(8, 7) == 1 + 2 * (7 - 1) * (2**8 - 1)  # 3061, beyond the 784 pixels


def test_rows_do_not_grow_with_the_sequence():
    assert len(tcn(9, 8, sequence_length=10**6)) == len(tcn(9, 8, sequence_length=1_000)) == 9 * 6


@pytest.mark.parametrize("weight_norm", [False, True])
def test_training_does_twice_the_forward_work_again(weight_norm):
    trace = tcn(4, 16, sequence_length=100, batch=3, weight_norm=weight_norm)
    trained = training(trace, input_gradients=True)
    assert trained.total_matrix_flops == 3 * trace.total_matrix_flops
    assert trained.footprint()["gradients"] == 4 * trace.total_parameters


def test_a_longer_sequence_is_no_longer_path():
    chip = preset("a100-sxm-80gb")
    one, two = (simulate(tcn(8, 512, sequence_length=n, dtype="fp16"), chip).latency_s for n in (100_000, 200_000))
    assert one < two < 2.1 * one


# -- what surrounds it -------------------------------------------------------------------------------


def test_language_model_is_tied_with_its_table():
    shape = {"levels": 2, "hidden": 16, "input_size": 8, "output_size": 8, "sequence_length": 10, "batch": 3}
    stack = tcn(**shape).total_parameters
    tied, untied = (temporal_network(**shape, vocabulary=50, tied=t) for t in (True, False))
    assert tied.total_parameters == stack + 50 * 8 + 50
    assert untied.total_parameters == stack + 2 * 50 * 8 + 50
    assert tied.rows()[-1]["m"] == 30
    assert temporal_network(**shape, vocabulary=50, outputs_of="last").rows()[-1]["m"] == 3


def test_published_networks_decode_too():
    trace = network("tcn-word-ptb", mode="decode", batch=1)
    assert trace.tokens == 1
    assert trace.footprint()["cache"] == 4 * 600 * (receptive_field(4, 3) - 1)


# -- PyTorch -----------------------------------------------------------------------------------------


def torch_tcn(torch, channels, kernel_size):
    """The stack as section 3 of the paper draws it, written anew: weight-normed causal convolutions, 1x1 residual."""
    nn, weight_norm = torch.nn, torch.nn.utils.parametrizations.weight_norm

    class Block(nn.Module):
        def __init__(self, inputs, filters, dilation):
            super().__init__()
            self.pad = (kernel_size - 1) * dilation
            self.first = weight_norm(nn.Conv1d(inputs, filters, kernel_size, dilation=dilation))
            self.second = weight_norm(nn.Conv1d(filters, filters, kernel_size, dilation=dilation))
            self.residual = nn.Conv1d(inputs, filters, 1) if inputs != filters else nn.Identity()

        def forward(self, x):
            y = x
            for convolution in (self.first, self.second):
                y = torch.relu(convolution(nn.functional.pad(y, (self.pad, 0))))
            return torch.relu(y + self.residual(x))

    pairs = itertools.pairwise(channels)
    return nn.Sequential(*(Block(a, b, 2**level) for level, (a, b) in enumerate(pairs)))


@pytest.mark.torch
@settings(max_examples=15, deadline=None)
@given(
    inputs=st.integers(1, 6),
    hidden=st.integers(1, 6),
    levels=st.integers(1, 4),
    outputs=st.integers(1, 6),
    kernel=st.integers(2, 4),
)
def test_parameters_and_flops_equal_torch(inputs, hidden, levels, outputs, kernel):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    sizes = [inputs, *[hidden] * (levels - 1), outputs]
    module = torch_tcn(torch, sizes, kernel)
    trace = tcn(levels, hidden, input_size=inputs, output_size=outputs, kernel_size=kernel, sequence_length=11, batch=2)
    assert trace.total_parameters == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(2, inputs, 11))
    assert trace.total_matrix_flops == counter.get_total_flops()


@pytest.mark.torch
def test_published_sizes_equal_the_modules_in_torch():
    torch = pytest.importorskip("torch")

    def parameters(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    pixels = parameters(torch_tcn(torch, [1, *[25] * 8], 7), torch.nn.Linear(25, 10))
    assert network("tcn-sequential-mnist").total_parameters == pixels
    words = parameters(torch_tcn(torch, [600] * 5, 3), torch.nn.Embedding(10_000, 600))
    assert network("tcn-word-ptb").total_parameters == words + 10_000  # the bias of the tied output


# -- errors ------------------------------------------------------------------------------------------

SHAPE = {"levels": 3, "hidden": 16, "sequence_length": 50}


@pytest.mark.parametrize("argument", ["levels", "hidden", "sequence_length", "batch", "input_size", "output_size"])
def test_bad_size_is_an_error_that_names_the_argument(argument):
    with pytest.raises(TraceError, match=f"tcn: {argument} must be a whole number of 1 or more, got 0"):
        tcn(**SHAPE | {argument: 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 1}, "kernel_size must be a whole number of 2 or more, got 1"),
        ({"dilation_base": 1}, "dilation_base must be a whole number of 2 or more, got 1"),
        ({"mode": "stream"}, "mode: unknown 'stream'"),
        ({"activation": "rely"}, "activation: unknown 'rely'.*'relu'"),
        ({"weight_norm": 1}, "weight_norm must be True or False, got 1"),
        ({"outputs_of": "lst"}, "outputs_of: unknown 'lst'.*'last'"),
        ({"vocabulary": 9, "output_size": 8}, r"output_size must be input_size \(16\) where the table is tied, got 8"),
        ({"outputs": 0}, "outputs must be a whole number of 1 or more, got 0"),
        ({"dtype": "fp61"}, "dtype: unknown element type 'fp61'"),
    ],
)
def test_bad_network_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        temporal_network(**SHAPE | changes)
