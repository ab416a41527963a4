"""The argument in elasticities: what one per cent more of each part of a chip brings a recurrence and a Transformer.

Ranges leave room for the model's constants; directions and orders of magnitude are the claims.
"""

from __future__ import annotations

import numpy as np
import pytest

from simulator import preset, sensitivity, simulate
from workloads import lstm, network

GPUS = ("v100-sxm", "a100-sxm-80gb")
DTYPE = {"v100-sxm": "fp16", "a100-sxm-80gb": "fp16", "tpu-v4": "bf16"}


def recurrence(hidden: int, dtype: str):
    """One layer at batch 1 whose weights are 8 hidden^2 elements."""
    return lstm(1, hidden, sequence_length=100, batch=1, dtype=dtype, hoist_input=False)


@pytest.mark.parametrize("name", DTYPE)
def test_an_lstm_that_does_not_fit_answers_to_dram_alone(name):
    """8192 units: 1 GB of weights in 16-bit floats, on no chip."""
    found = sensitivity(recurrence(8192, DTYPE[name]), preset(name))
    assert found.elasticity("memory.dram.bandwidth") == pytest.approx((-1, -1), abs=0.1)
    for path in ("matrix.count", f"matrix.macs_per_cycle.{DTYPE[name]}", "matrix.clock"):
        assert np.nan_to_num(found.elasticity(path)) == pytest.approx((0, 0), abs=0.01), path
    assert found.free["matrix units"] < 0.01
    assert found.free["dram bandwidth"] > 0.3


@pytest.mark.parametrize("name", GPUS)
def test_an_lstm_that_fits_answers_to_latency_alone(name):
    """256 units: 1 MB of weights, which the second level keeps."""
    found = sensitivity(recurrence(256, DTYPE[name]), preset(name))
    for path in ("memory.dram.bandwidth", "matrix.count", f"matrix.macs_per_cycle.{DTYPE[name]}"):
        assert found.elasticity(path) == pytest.approx((0, 0), abs=0.05), path
    waits = ("latency.", "memory.dram.latency", "matrix.loop_cycles", "matrix.narrow_loop", "matrix.prologue")
    of_waits = sum(found.more[i] for i, path in enumerate(found.fields) if path.startswith(waits))
    assert of_waits > 0.7  # the rest is arithmetic beside them


@pytest.mark.parametrize("name", GPUS)
def test_room_for_the_weights_is_where_bandwidth_stops_mattering(name):
    """The same recurrence, the second level half as large as its weights and twice as large."""
    chip, trace = preset(name), recurrence(4096, DTYPE[name])
    weights = 8 * 4096**2 * 2
    short, roomy = (sensitivity(trace, chip.replace({"memory.l2.capacity": share * weights})) for share in (0.5, 2))
    assert short.elasticity("memory.dram.bandwidth")[0] < -0.5
    assert roomy.elasticity("memory.dram.bandwidth")[0] == pytest.approx(0, abs=0.01)
    assert roomy.latency_s < short.latency_s
    shares = [sum(found.free[r] for r in ("launch", "dependent steps")) for found in (short, roomy)]
    assert shares[1] > shares[0]


@pytest.mark.parametrize("name", DTYPE)
def test_a_transformer_prefill_answers_to_the_matrix_units(name):
    """Llama 2 7B over its 4096 positions: the reverse."""
    found = sensitivity(network("llama-2-7b", dtype=DTYPE[name]), preset(name))
    assert found.elasticity(f"matrix.macs_per_cycle.{DTYPE[name]}")[0] < -0.8
    assert found.elasticity("matrix.clock")[1] < -0.8
    assert found.elasticity("memory.dram.bandwidth") == pytest.approx((0, 0), abs=0.1)
    assert found.free["matrix units"] > 3 * found.free["dram bandwidth"]


# -- the first TPU's own study -------------------------------------------------------------------------

#: Share of the first TPU's work by kind of network, two of each. Jouppi et al., ISCA 2017, table 1.
DEPLOYED = {"mlp0": 0.305, "mlp1": 0.305, "lstm0": 0.145, "lstm1": 0.145, "cnn0": 0.025, "cnn1": 0.025}
MEMORY_BOUND = ("mlp0", "mlp1", "lstm0", "lstm1")


def speedups(fields: dict[str, float]) -> dict[str, float]:
    """How many times as fast each network is with fields multiplied."""
    chip = preset("tpu-v1")
    changed = chip.replace({path: factor * chip.fields[chip.path(path)] for path, factor in fields.items()})
    found = {}
    for name in DEPLOYED:
        trace = network(f"tpu-v1-{name}")
        found[name] = simulate(trace, chip).latency_s / simulate(trace, changed).latency_s
    return found


def weighted(found: dict[str, float]) -> float:
    return sum(DEPLOYED[name] * found[name] for name in found) / sum(DEPLOYED.values())


def test_tpu_v1_four_times_the_memory_bandwidth():
    """Figure 11: about 3 times on (weighted) average. The model has no stall a faster memory leaves, so it says more
    (3.8); four times is what bandwidth alone can bring."""
    found = speedups({"memory.dram.bandwidth": 4})
    assert 2.4 < weighted(found) <= 4
    assert all(found[name] > 2.4 for name in MEMORY_BOUND)
    assert found["cnn0"] < 1.1


def test_tpu_v1_four_times_the_clock():
    """Figure 11: little on average, nothing for MLPs and LSTMs, about twice for the CNNs."""
    found = speedups({"matrix.clock": 4, "vector.clock": 4})
    assert 1 <= weighted(found) < 1.15
    assert all(1 <= found[name] < 1.05 for name in MEMORY_BOUND)
    assert 1.5 < (found["cnn0"] + found["cnn1"]) / 2 < 2.7


def test_tpu_v1_a_matrix_unit_twice_as_wide():
    """Figure 11: 512 x 512 instead of 256 x 256 gains nothing on average: edges of 600 x 600 matrices waste it.
    Weights stored in whole tiles cost their bandwidth too, so that the model loses more (0.85)."""
    wider = {"matrix.tile_n": 2, "matrix.tile_k": 2, "matrix.macs_per_cycle.int8": 4}
    found = speedups(wider | {"matrix.load_cycles": 2, "matrix.feed_bytes_per_cycle": 2})
    assert 0.8 < weighted(found) <= 1.02
    assert found["lstm1"] < 0.9
