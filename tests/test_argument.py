"""The argument that started the project, on every chip that can run the network.

Recurrent networks starve compute units of memory bandwidth; a batch helps; attention over many positions does not
starve them; attention one token at a time does. What holds a network back is told by shares of its time: `feed`, the
bringing of operands into the units, counts with the memories, as more multipliers do not help it.

Where a chip's nature makes a claim empty, it is left out by name with the reason beside it.
"""

from __future__ import annotations

import numpy as np
import pytest

from simulator import Accelerator, Result, preset, presets, simulate
from workloads import Trace, lstm, transformer
from workloads.networks import network

#: Element types in the order in which a user would choose one for these networks.
PREFERRED = ("fp16", "bf16", "fp8", "int8", "fp32")
#: Decoder-only Transformers, large to small: layers, hidden, heads. A chip is given the largest that fits it.
TRANSFORMERS = ((32, 4096, 32), (24, 2048, 16), (24, 1024, 16), (12, 768, 12), (4, 512, 8), (2, 256, 4))

PINNED = "weights sit beside the multipliers that use them, which take them at full rate: no memory to be bound by"
FEW_VECTOR_UNITS = "made for LSTM: 160 vector FLOP a cycle for the softmax, norms and GELU of a Transformer"
PCIE = (
    "its memory beyond 8 MB is that of the host, behind one PCIe lane of 0.5 GB/s: all that does not fit waits for it"
)
OWN_PORT = "each plane of units has its own port to the memory: twice the planes is also twice the bandwidth"
COMPUTES = "its memory multiplies: the weights need not pass its interface, nor the units of the chip"
NEXT_BOUND = "another part of the path to the units is nearly as slow as the memory and binds next"


IN_MEMORY = dict.fromkeys([name for name in presets() if preset(name).in_memory is not None], COMPUTES)


def every_chip(without: dict[str, str] | None = None):
    """All presets but those named, each with its reason."""
    without = without or {}
    assert set(without) <= set(presets())
    return pytest.mark.parametrize("name", [name for name in presets() if name not in without])


def element_type(chip: Accelerator) -> str:
    return next(dtype for dtype in PREFERRED if dtype in chip.dtypes)


def moves_or_waits(chip: Accelerator) -> set[str]:
    """The bounds that are memory or latency."""
    return {*chip.memory, "in_memory", "feed", "latency"}


def share(result: Result, bounds) -> float:
    """Share of the time set by one of `bounds`."""
    return sum(float(part) for bound, part in result.time_share_by_bound().items() if bound in bounds)


def fixed_share(result: Result) -> float:
    """Share of the time that launches and dependent steps take and no bandwidth shortens: a fifth at most here."""
    share = float(result.bounds_s["latency"] @ result.trace.repeats) / result.serial_s
    assert share < 0.2
    return share


def largest_share(result: Result) -> str:
    shares = result.time_share_by_bound()
    return max(shares, key=shares.get)


def largest_that_fits(chip: Accelerator, **settings) -> Result:
    for layers, hidden, heads in TRANSFORMERS:
        trace = transformer(layers, hidden, heads, 30000, dtype=element_type(chip), logits="last", **settings)
        result = simulate(trace, chip)
        if result.fits:
            return result
    raise AssertionError(f"{chip.name} holds none of the Transformers")


def memory_bound_lstm(chip: Accelerator) -> Trace:
    """One layer, batch 1, one step at a time, recurrent weights at least 16 times what the chip can keep."""
    kept = max((level.capacity_bytes for level in list(chip.memory.values())[:-1] if level.keeps_weights), default=0)
    hidden = 3584 if chip.name == "groq-lpu" else 4096  # that one has 230 MB in all
    while 4 * hidden**2 * 2 < 16 * kept:
        hidden *= 2
    return lstm(1, hidden, sequence_length=50, batch=1, dtype=element_type(chip), hoist_input=False)


def doubled(chip: Accelerator, *fields: str) -> dict[str, float]:
    return {field: 2 * chip.fields[chip.path(field)] for field in fields}


# -- the recurrent network -----------------------------------------------------------------------------


@every_chip()
@pytest.mark.parametrize("hidden", [256, 1024, 2048])
def test_lstm_at_batch_one_is_bound_by_memory_or_latency(name, hidden):
    chip = preset(name)
    result = simulate(lstm(2, hidden, sequence_length=100, dtype=element_type(chip)), chip)
    assert largest_share(result) in moves_or_waits(chip)
    assert share(result, moves_or_waits(chip)) > 0.7


@every_chip()
def test_a_published_lstm_at_batch_one_is_bound_by_memory_or_latency(name):
    chip = preset(name)
    result = simulate(network("lstm-zaremba-large", batch=1, dtype=element_type(chip)), chip)
    assert largest_share(result) in moves_or_waits(chip)
    assert result.utilisation < 0.4


@every_chip()
def test_utilisation_rises_with_batch(name):
    """Weights fetched once serve more sequences. On the Coral only until what passes between steps no longer fits."""
    chip = preset(name)
    batches = [1, 4, 16] if name == "coral-edge-tpu" else [1, 4, 16, 64, 256, 1024]
    results = [simulate(lstm(2, 1024, sequence_length=100, batch=b, dtype=element_type(chip)), chip) for b in batches]
    reached = np.array([result.utilisation for result in results])
    assert (np.diff(reached) > 0).all()
    assert reached[-1] > 2.5 * reached[0]


@every_chip(without={"brainwave-stratix-10": PINNED} | IN_MEMORY)
def test_doubling_multipliers_leaves_the_memory_bound_lstm_as_it_was(name):
    chip = preset(name)
    trace = memory_bound_lstm(chip)
    before = simulate(trace, chip)
    assert share(before, {*chip.memory, "feed"}) > 0.9
    rates = doubled(chip, *(f"matrix.macs_per_cycle.{dtype}" for dtype in chip.dtypes))
    assert simulate(trace, chip.replace(rates)).latency_s == pytest.approx(before.latency_s, rel=0.001)


@every_chip(without={"brainwave-stratix-10": PINNED, "groq-lpu": OWN_PORT})
def test_doubling_compute_units_leaves_the_memory_bound_lstm_as_it_was(name):
    chip = preset(name)
    trace = memory_bound_lstm(chip)
    before, after = simulate(trace, chip), simulate(trace, chip.replace(doubled(chip, "matrix.count")))
    assert after.latency_s == pytest.approx(before.latency_s, rel=0.001)


@every_chip(without={"brainwave-stratix-10": PINNED, "p100-pcie": NEXT_BOUND} | IN_MEMORY)
def test_doubling_bandwidth_nearly_halves_the_memory_bound_lstm(name):
    """Of every memory and of the feed from the nearest into the units: the path the weights take."""
    chip = preset(name)
    trace = memory_bound_lstm(chip)
    faster = doubled(chip, *(f"memory.{level}.bandwidth" for level in chip.memory), "matrix.feed_bytes_per_cycle")
    faster["matrix.load_cycles"] = chip.matrix.load_cycles / 2
    before = simulate(trace, chip)
    ratio = simulate(trace, chip.replace(faster)).latency_s / before.latency_s
    assert 0.5 - 1e-12 <= ratio <= 0.55 + 0.5 * fixed_share(before)


@every_chip(
    without={
        "brainwave-stratix-10": PINNED,
        "groq-lpu": OWN_PORT,
        "b200": NEXT_BOUND,
        "gaudi-2": NEXT_BOUND,
        "k80": NEXT_BOUND,
        "p100-pcie": NEXT_BOUND,
        "tpu-v2": NEXT_BOUND,
    }
    | IN_MEMORY
)
def test_doubling_the_outer_bandwidth_alone_nearly_halves_the_memory_bound_lstm(name):
    chip = preset(name)
    trace, farthest = memory_bound_lstm(chip), list(chip.memory)[-1]
    before = simulate(trace, chip)
    assert share(before, {farthest}) > 0.9
    after = simulate(trace, chip.replace(doubled(chip, f"memory.{farthest}.bandwidth")))
    assert 0.5 - 1e-12 <= after.latency_s / before.latency_s <= 0.55 + 0.5 * fixed_share(before)


@pytest.mark.parametrize("name", ["b200", "gaudi-2", "k80", "tpu-v2"])
def test_where_another_bound_is_next_the_outer_bandwidth_helps_until_it_binds(name):
    chip = preset(name)
    trace, farthest = memory_bound_lstm(chip), list(chip.memory)[-1]
    before = simulate(trace, chip)
    after = simulate(trace, chip.replace(doubled(chip, f"memory.{farthest}.bandwidth")))
    assert largest_share(before) == farthest
    assert after.latency_s < 0.95 * before.latency_s
    assert largest_share(after) in {*chip.memory, "feed"} - {farthest}


# -- attention -----------------------------------------------------------------------------------------


@every_chip(without={"brainwave-stratix-10": FEW_VECTOR_UNITS, "coral-edge-tpu": PCIE})
def test_a_big_batch_transformer_prefill_is_bound_by_the_matrix_units(name):
    result = largest_that_fits(preset(name), sequence_length=512, batch=16, mode="prefill")
    assert largest_share(result) == "matrix"


@every_chip(without={"brainwave-stratix-10": PINNED})
def test_one_token_decode_is_bound_by_memory(name):
    chip = preset(name)
    result = largest_that_fits(chip, sequence_length=512, batch=1, mode="decode")
    moves = moves_or_waits(chip) - ({"latency"} if chip.in_memory is None else set())  # in memory the launches are left
    assert largest_share(result) in moves
    assert share(result, moves) > 0.6


@every_chip(without={"brainwave-stratix-10": FEW_VECTOR_UNITS, "coral-edge-tpu": PCIE})
def test_the_same_transformer_uses_the_units_in_prefill_and_starves_them_in_decode(name):
    chip = preset(name)
    prefill = largest_that_fits(chip, sequence_length=512, batch=16, mode="prefill")
    decode = largest_that_fits(chip, sequence_length=512, batch=1, mode="decode")
    assert prefill.utilisation > 4 * decode.utilisation


@every_chip()
def test_steps_in_series_cost_a_recurrence_what_attention_does_not_pay(name):
    """Doubling the sequence doubles the longest path of an LSTM; that of attention on an unlimited machine stays. The
    first steps cost more on some chips, hence the long sequences."""
    chip = preset(name)
    dtype = element_type(chip)
    recurrent = [lstm(1, 256, sequence_length=t, dtype=dtype) for t in (1024, 2048)]
    attending = [transformer(1, 256, 4, 1000, sequence_length=t, dtype=dtype, logits=None) for t in (1024, 2048)]
    assert [t.path_length(0, t.tokens - 1) for t in recurrent] == [1023, 2047]
    assert [t.path_length(0, t.tokens - 1) for t in attending] == [1, 1]
    short, long = (waits_s(simulate(trace, chip)) for trace in recurrent)
    assert long > 1.5 * short
    short, long = (waits_s(simulate(trace, chip)) for trace in attending)
    assert long == pytest.approx(short, rel=1e-12)


def waits_s(result: Result) -> float:
    """What launches, dependent steps and first accesses cost along the longest path."""
    return float(result.bounds_s["latency"] @ result.trace.path_runs)
