"""Convolutions and pooling: closed forms, a loop over positions, and PyTorch."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workloads import conv1d, conv2d, pool2d
from workloads.convolution import output_length
from workloads.trace import TraceError


def only_row(trace):
    (row,) = trace.rows()
    return row


def test_conv2d_by_hand():
    # 3 maps of 8 x 10, 16 kernels of 3 x 3, stride 2, padding 1: 4 x 5 results
    row = only_row(conv2d(3, 16, 8, 10, 3, stride=2, padding=1, batch=2, dtype="fp16"))
    assert row["kind"] == "convolution"
    assert (row["batch"], row["m"], row["n"], row["k"]) == (1, 2 * 20, 16, 27)
    assert row["matrix_flops"] == 2 * 40 * 16 * 27
    assert row["vector_flops"] == 40 * 16  # the bias
    assert row["parameters"] == 16 * 27 + 16
    assert row["weight_bytes"] == 2 * (16 * 27 + 16)
    assert row["input_bytes"] == 2 * 2 * 3 * 80  # the maps themselves, not unrolled
    assert row["output_bytes"] == 2 * 40 * 16


def test_groups_are_independent_products():
    row = only_row(conv2d(8, 8, 5, 5, 3, padding="same", groups=8, bias=False))
    assert (row["batch"], row["m"], row["n"], row["k"]) == (8, 25, 1, 9)
    assert row["matrix_flops"] == 2 * 8 * 25 * 9
    assert row["parameters"] == 8 * 9
    assert row["input_bytes"] == 4 * 8 * 25


@given(
    length=st.integers(1, 30),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_output_length_equals_a_walk(length, kernel, stride, padding, dilation):
    last = length + 2 * padding - dilation * (kernel - 1)  # first positions the kernel may start at
    starts = range(0, last, stride) if last > 0 else []
    assume(len(starts))
    assert output_length(length, kernel, stride, padding, dilation) == len(starts)


@given(length=st.integers(1, 30), kernel=st.integers(1, 7), dilation=st.integers(1, 3))
def test_same_and_causal_keep_the_length(length, kernel, dilation):
    assert output_length(length, kernel, 1, "same", dilation) == length
    assert output_length(length, kernel, 1, "causal", dilation) == length


@pytest.mark.parametrize(
    ("padding", "back", "ahead"),
    [("causal", 8, 0), ("same", 4, 4), (0, 0, 8), (3, 3, 5), (20, 8, 0)],
)
def test_reach_of_a_sequence_convolution(padding, back, ahead):
    row = only_row(conv1d(4, 4, 30, 5, dilation=2, padding=padding))  # spans 2 * 4 positions
    assert (row["reach_back"], row["reach_ahead"]) == (back, ahead)


def test_same_padding_of_an_even_kernel_puts_the_odd_position_after():
    row = only_row(conv1d(4, 4, 30, 4, padding="same"))  # as PyTorch does
    assert (row["reach_back"], row["reach_ahead"]) == (1, 2)


def test_path_through_stacked_convolutions_is_the_number_of_hops():
    # kernel 3 looks back 2 positions a layer: 10 layers cover 20, in steps of 2
    stack = conv1d(4, 4, 30, 3, padding="causal") * 10
    assert stack.path_length(0, 20) == 10
    assert stack.path_length(0, 5) == 3
    assert stack.path_length(0, 21) == float("inf")


def test_conv1d_by_hand():
    row = only_row(conv1d(6, 12, 20, 5, stride=2, padding=2, groups=2, batch=3))
    assert (row["batch"], row["m"], row["n"], row["k"]) == (2, 30, 6, 15)
    assert row["parameters"] == 12 * 15 + 12
    assert row["input_bytes"] == 4 * 3 * 6 * 20
    assert row["output_bytes"] == 4 * 30 * 12


@pytest.mark.parametrize(("function", "each"), [("max", 8), ("average", 9)])
def test_pooling_counts_comparisons_or_additions(function, each):
    row = only_row(pool2d(4, 9, 9, 3, function=function, batch=2))
    assert row["kind"] == "elementwise"
    assert row["vector_flops"] == each * 2 * 4 * 9  # 3 x 3 windows
    assert row["input_bytes"] == 4 * 2 * 4 * 81
    assert row["output_bytes"] == 4 * 2 * 4 * 9


def test_pooling_with_its_own_stride():
    assert only_row(pool2d(1, 9, 9, 3, stride=1, padding=1))["output_bytes"] == 4 * 81
    assert only_row(pool2d(1, 10, 6, (2, 3), stride=(2, 1)))["output_bytes"] == 4 * 5 * 4


# -- PyTorch -----------------------------------------------------------------------------------------

PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.torch
@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    channels=st.integers(1, 3),
    filters=st.integers(1, 3),
    kernel=PAIR,
    stride=PAIR,
    padding=PAIR,
    dilation=PAIR,
    bias=st.booleans(),
)
def test_parameters_and_shapes_equal_torch(groups, channels, filters, kernel, stride, padding, dilation, bias):
    torch = pytest.importorskip("torch")
    channels, filters = groups * channels, groups * filters
    sizes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
    module = torch.nn.Conv2d(channels, filters, kernel, **sizes)
    result = module(torch.zeros(2, channels, 11, 13))
    trace = conv2d(channels, filters, 11, 13, kernel, batch=2, **sizes)
    assert trace.total_parameters == sum(p.numel() for p in module.parameters())
    assert only_row(trace)["output_bytes"] == 4 * result.numel()
    sizes = {name: value if isinstance(value, (bool, int)) else value[0] for name, value in sizes.items()}
    module = torch.nn.Conv1d(channels, filters, kernel[0], **sizes)
    result = module(torch.zeros(2, channels, 11))
    trace = conv1d(channels, filters, 11, kernel[0], batch=2, **sizes)
    assert trace.total_parameters == sum(p.numel() for p in module.parameters())
    assert only_row(trace)["output_bytes"] == 4 * result.numel()


# -- errors ------------------------------------------------------------------------------------------

SHAPE = {"channels": 4, "filters": 6, "height": 8, "width": 8, "kernel": 3}


@pytest.mark.parametrize("argument", ["channels", "filters", "height", "width", "kernel", "stride", "groups", "batch"])
def test_bad_size_is_an_error_that_names_the_argument(argument):
    with pytest.raises(TraceError, match=f"{argument} must be a whole number of 1 or more, got 0"):
        conv2d(**SHAPE | {argument: 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": -1}, "padding must be a whole number of 0 or more, got -1"),
        ({"padding": "sme"}, "padding: unknown 'sme'.*'same'"),
        ({"groups": 3}, r"groups must divide channels \(4\), got 3"),
        ({"groups": 4}, r"groups must divide filters \(6\), got 4"),
        ({"kernel": 9}, r"kernel 9 \(dilation 1\) is longer than the padded input of 8"),
        ({"kernel": (3, 3, 3)}, "kernel must be a whole number or a pair"),
        ({"dtype": "fp17"}, "conv2d: dtype: unknown element type 'fp17'"),
    ],
)
def test_bad_convolution_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        conv2d(**SHAPE | changes)


def test_bad_pooling_is_an_error():
    with pytest.raises(TraceError, match="pool2d: function: unknown 'mean'"):
        pool2d(4, 8, 8, 2, function="mean")
    with pytest.raises(TraceError, match="pool2d: channels must be a whole number of 1 or more, got 0"):
        pool2d(0, 8, 8, 2)
