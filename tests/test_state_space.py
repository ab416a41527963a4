"""The selective state space model: counts by hand, parameters and products of the released module."""

import math

import pytest

from simulator import preset, simulate
from workloads import mamba, mamba_block, network, training
from workloads.trace import TraceError

FORMS = ("serial", "chunked", "parallel")


def rows_named(trace, op):
    return [row for row in trace.rows() if row["op"] == op]


def test_block_by_hand():
    # 8 features, 16 channels of 4 states, 5 positions, batch 3, fp16; dt of rank 1
    trace = mamba_block(8, sequence_length=5, batch=3, state=4, dtype="fp16")
    inputs, convolution, selects, dt, scan, output = trace.rows()
    assert (inputs["m"], inputs["n"], inputs["k"]) == (15, 32, 8)
    assert (selects["m"], selects["n"], selects["k"]) == (15, 1 + 8, 16)
    assert (dt["m"], dt["n"], dt["k"], dt["parameters"]) == (15, 16, 1, 32)
    assert (output["m"], output["n"], output["k"]) == (15, 8, 16)
    assert convolution["parameters"] == 16 * 4 + 16
    # 4 products, 3 additions, the bias, silu's product; silu's sigmoid
    assert (convolution["vector_flops"], convolution["special_ops"]) == (9 * 15 * 16, 15 * 16)
    assert convolution["reach_back"] == 3
    assert scan["parameters"] == 16 * 4 + 16  # A and D
    assert scan["input_bytes"] == 2 * 3 * (3 * 16 + 2 * 4)  # x, dt, z, B, C
    assert scan["output_bytes"] == 2 * 3 * 16


def test_a_step_of_the_scan_number_by_number():
    """Every operation of one channel, as the equations say it."""
    states, vector, special = 4, 0, 0
    vector += 1  # softplus: 1 + exp(dt)
    special += 2  # exp, log
    vector += 1  # dt x
    for _ in range(states):
        vector += 1  # dt A
        special += 1  # exp
        vector += 1  # times B
        vector += 2  # a h + b
        vector += 2  # C h, summed
    vector += 2  # D x added
    vector += 2  # z sigmoid(z), times y
    special += 1
    scan = mamba_block(8, sequence_length=5, batch=3, state=states).rows()[4]
    assert (scan["vector_flops"], scan["special_ops"]) == (48 * vector, 48 * special)


def test_a_parallel_scan_writes_its_states():
    """What the authors' kernel keeps on chip, 2 x 16 values a channel and position, goes to memory and back."""
    fused, swept = (mamba_block(64, sequence_length=1024, scan=form, dtype="fp16") for form in ("serial", "parallel"))
    coefficients = rows_named(swept, "selective scan: coefficients")[0]
    assert coefficients["output_bytes"] == 2 * 1024 * 128 * 16 * 2
    result = rows_named(swept, "selective scan: result")[0]
    assert result["input_bytes"] == 2 * 1024 * (128 * 16 + 16 + 128 + 128)  # states, C, z, x
    moved = [sum(r["repeats"] * (r["input_bytes"] + r["output_bytes"]) for r in t.rows()) for t in (fused, swept)]
    assert moved[1] > 10 * moved[0]


@pytest.mark.parametrize("steps", [2048, 65536])
def test_the_fused_scan_is_as_much_faster_as_published(steps):
    """Gu and Dao, section 4.5: 20 to 40 times as fast as a standard scan of PyTorch (A100, 16 states)."""
    chip = preset("a100-sxm-80gb")

    def scan_s(form):
        found = simulate(mamba_block(1024, sequence_length=steps, batch=8, scan=form, dtype="bf16"), chip)
        mine = [op.startswith("selective scan") for op in found.trace.op]
        return (found.time_s * found.trace.repeats)[mine].sum()

    assert 20 <= scan_s("parallel") / scan_s("chunked") <= 40


@pytest.mark.torch
def test_mamba_has_the_parameters_of_the_released_model():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"hidden_size": 40, "num_hidden_layers": 3, "vocab_size": 100, "state_size": 8, "conv_kernel": 3}
    with torch.device("meta"):
        model = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes))
        small = transformers.MambaForCausalLM(transformers.MambaConfig(num_hidden_layers=24))
        large = transformers.MambaForCausalLM(transformers.MambaConfig(num_hidden_layers=64, hidden_size=2560))
    ours = mamba(3, 40, 100, state=8, width=3, sequence_length=9)
    assert ours.total_parameters == sum(p.numel() for p in model.parameters())
    assert network("mamba-130m").total_parameters == sum(p.numel() for p in small.parameters())
    assert network("mamba-2.8b").total_parameters == sum(p.numel() for p in large.parameters())


@pytest.mark.torch
def test_mamba_has_the_products_of_the_released_model():
    """The module also runs the convolution and the sum over states as products: both are vector work here."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50, state_size=8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transformers.MambaForCausalLM(config)(torch.zeros(2, 5, dtype=torch.long))
    found = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    sums = 2 * 2 * 5 * 2 * 64 * 8  # layers, sequences, positions: C h of 64 channels of 8 states
    ours = mamba(2, 32, 50, state=8, sequence_length=5, batch=2)
    counted = sum(flops for op, flops in found.items() if "convolution" not in op)
    assert ours.total_matrix_flops == counted - sums


@pytest.mark.parametrize("form", FORMS)
def test_mamba_in_all_forms(form):
    trace = mamba(2, 32, 50, sequence_length=4096, batch=2, scan=form, chunk=64)
    wanted = {"serial": 4095, "chunked": 64, "parallel": 12}[form]
    assert trace.path_length(0, 4095) == pytest.approx(wanted, abs=4)  # the convolutions of two blocks reach 3 each
    assert trace.path_length(4095, 0) == math.inf
    assert len(trace) == len(mamba(9, 32, 50, sequence_length=10**6, scan=form, chunk=64))
    step = training(trace)
    assert step.total_matrix_flops == 3 * trace.total_matrix_flops
    same = mamba(2, 32, 50, sequence_length=4096, batch=2)
    assert trace.total_parameters == same.total_parameters
    assert trace.total_matrix_flops == same.total_matrix_flops


def test_training_a_fused_scan_keeps_its_inputs_not_its_states():
    """Gu and Dao, section 3.3.2: states are computed again in the backward pass."""
    kept = {row["op"]: row["saved_bytes"] for row in training(mamba(1, 32, 50, sequence_length=64)).rows()}
    # x is kept by the product that reads it too; dt, B, C and z only here
    assert 0 < kept["selective scan"] <= 4 * (3 * 64 + 2 * 16)


def test_decode_carries_a_state_that_does_not_grow():
    trace = network("mamba-130m", mode="decode")
    assert trace == network("mamba-130m", mode="decode", seq_len=10**6)
    assert trace.footprint()["cache"] == 24 * 1536 * (16 + 3) * 2
    assert trace.total_parameters == network("mamba-130m").total_parameters
    assert trace.tokens == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mamba_block(8, sequence_length=5, state=0), "mamba_block: state must be a whole number of 1 or more"),
        (lambda: mamba_block(8, sequence_length=5, scan="selective"), "scan: unknown 'selective'"),
        (lambda: mamba(1, 8, 9, sequence_length=5, norm="batch"), "norm: unknown 'batch'"),
        (lambda: mamba(1, 8, 9, sequence_length=5, rank=0), "rank must be a whole number of 1 or more, got 0"),
        (lambda: network("mamba-130m", cache_length=3), "unknown setting 'cache_length'"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(TraceError, match=message):
        build()
