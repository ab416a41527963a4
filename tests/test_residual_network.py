"""Residual networks: published parameters and multiply-accumulates, a block by hand, the module in PyTorch."""

import pytest

from workloads import batch_norm, network, residual_network, training
from workloads.trace import TraceError


def rows_of(trace, layer):
    return [row for row in trace.rows() if row["layer"] == layer]


def macs(trace):
    return trace.total_matrix_flops / 2


# -- published ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "torchvision", "published"),
    [("resnet-50", 25_557_032, 4.089e9, 3.8e9), ("resnet-152", 60_192_808, 11.514e9, 11.3e9)],
)
def test_parameters_and_macs_are_those_of_the_released_networks(name, parameters, torchvision, published):
    # torchvision's documentation: num_params and GFLOPS of ResNet50_Weights and ResNet152_Weights; He et al., table 1
    trace = network(name, batch=1)
    assert trace.total_parameters == parameters
    assert macs(trace) == pytest.approx(torchvision, rel=1e-3)
    original = network(name, batch=1, stride_in_3x3=False)
    assert original.total_parameters == parameters
    assert macs(original) == pytest.approx(published, rel=0.02)


def test_layers_are_counted_as_published():
    for name, layers in (("resnet-50", 50), ("resnet-152", 152)):
        trace = network(name)
        products = trace.is_product & (trace.op != "residual projection")
        assert trace.repeats[products].sum() == layers


# -- by hand -----------------------------------------------------------------------------------------


def test_the_stem_and_first_blocks_by_hand():
    trace = residual_network([2], batch=2, dtype="fp16")
    convolution, norm, relu, pool = rows_of(trace, "stem")
    assert (convolution["m"], convolution["n"], convolution["k"]) == (2 * 112 * 112, 64, 3 * 49)
    assert norm["parameters"] == 2 * 64
    assert relu["vector_flops"] == 2 * 112 * 112 * 64
    assert pool["output_bytes"] == 2 * 2 * 56 * 56 * 64
    first, second = rows_of(trace, "stage 0.0"), rows_of(trace, "stage 0.1")
    shapes = [(row["op"], row["n"], row["k"]) for row in first if row["kind"] == "convolution"]
    assert shapes == [
        ("reducing convolution", 64, 64),
        ("convolution", 64, 9 * 64),
        ("expanding convolution", 256, 64),
        ("residual projection", 256, 64),
    ]
    assert len(first) - len(second) == 2  # the projection and its norm
    projection, add = first[8], first[10]
    start = trace.rows().index(first[0])
    assert projection["after"] == first[0]["after"] == (start - 1,)
    assert add["after"] == (start + 7, start + 9)  # the norms of both ways
    assert [row["op"] for row in rows_of(trace, "head")] == ["pooling", "output projection"]


@pytest.mark.parametrize(("in_3x3", "reducing"), [(True, 56), (False, 28)])
def test_the_stride_lies_where_told(in_3x3, reducing):
    trace = residual_network([1, 1], stride_in_3x3=in_3x3)
    first, second, third = [row for row in rows_of(trace, "stage 1.0") if "convolution" in row["op"]]
    assert first["m"] == reducing**2
    assert second["m"] == third["m"] == 28**2
    assert second["input_bytes"] == 4 * 128 * reducing**2


def test_folded_batch_norm_is_a_bias():
    plain, folded = (residual_network([3, 4, 6, 3], fold_batch_norm=fold) for fold in (False, True))
    channels = sum(row["n"] * row["repeats"] for row in plain.rows() if row["kind"] == "convolution")
    assert plain.total_parameters - folded.total_parameters == channels  # one a channel instead of two
    assert macs(plain) == macs(folded)
    assert "batch norm" not in folded.op
    assert folded.total_bytes < plain.total_bytes


def test_rows_do_not_grow_with_the_depth():
    assert len(network("resnet-50")) == len(network("resnet-152"))


def test_training_does_twice_the_forward_work_again():
    trace = network("resnet-50", batch=2)
    trained = training(trace)
    first = trace.matrix_flops[0]  # the images need no gradient
    assert trained.total_matrix_flops == 3 * trace.total_matrix_flops - first


def test_batch_norm_by_hand():
    (row,) = batch_norm(60, 3, dtype="fp16").rows()
    assert (row["vector_flops"], row["parameters"], row["weight_bytes"]) == (120, 6, 12)
    assert row["input_bytes"] == row["output_bytes"] == 120
    with pytest.raises(TraceError, match="batch_norm: channels must be a whole number of 1 or more, got 0"):
        batch_norm(60, 0)


# -- PyTorch -----------------------------------------------------------------------------------------


def torch_network(nn, blocks):
    """Bottleneck blocks with the stride in the 3 x 3, as the paper's table 1 draws them, written anew."""

    def convolution(channels, filters, kernel, stride=1):
        return [nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(filters)]

    class Block(nn.Module):
        def __init__(self, channels, width, stride):
            super().__init__()
            self.body = nn.Sequential(
                *convolution(channels, width, 1),
                nn.ReLU(),
                *convolution(width, width, 3, stride),
                nn.ReLU(),
                *convolution(width, 4 * width, 1),
            )
            same = channels == 4 * width
            self.residual = nn.Identity() if same else nn.Sequential(*convolution(channels, 4 * width, 1, stride))

        def forward(self, x):
            return (self.body(x) + self.residual(x)).relu()

    layers = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for number in range(count):
            layers.append(Block(channels, width, 2 if stage and not number else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


@pytest.mark.torch
@pytest.mark.parametrize(("blocks", "size"), [([3, 4, 6, 3], 224), ([3, 8, 36, 3], 224), ([1, 2], 97), ([2], 33)])
def test_parameters_and_flops_equal_torch(blocks, size):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        module = torch_network(torch.nn, blocks)
        trace = residual_network(blocks, size=size, batch=2)
        assert trace.total_parameters == sum(p.numel() for p in module.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.zeros(2, 3, size, size))
    assert trace.total_matrix_flops == counter.get_total_flops()


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": []}, "blocks must be a list of whole numbers, one a stage"),
        ({"blocks": 50}, "blocks must be a list of whole numbers, one a stage, got 50"),
        ({"blocks": [3, 0]}, r"blocks\[1\] must be a whole number of 1 or more, got 0"),
        ({"size": 0}, "size must be a whole number of 1 or more, got 0"),
        ({"size": 31}, "size must be 32 or more, as 4 stages halve it so often, got 31"),
        ({"outputs": 0}, "outputs must be a whole number of 1 or more, got 0"),
        ({"batch": 0}, "batch must be a whole number of 1 or more, got 0"),
        ({"fold_batch_norm": 1}, "fold_batch_norm must be True or False, got 1"),
        ({"dtype": "fp61"}, "dtype: unknown element type 'fp61'"),
    ],
)
def test_bad_network_is_an_error(changes, message):
    with pytest.raises(TraceError, match=message):
        residual_network(**{"blocks": [3, 4, 6, 3]} | changes)
