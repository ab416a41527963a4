"""Calls of a streaming network: how many, what each repeats, and which weights stay on chip between them."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from simulator import Accelerator, preset, simulate
from workloads import Trace, TraceError, acoustic_network, conformer, lstm, network, sized_to, speech_s, transducer
from workloads.streaming import calls, over_calls


def moved_bytes(chip: Accelerator, trace: Trace) -> float:
    """Bytes a trace moves at the farthest memory level."""
    result = simulate(trace, chip)
    return float(result.traffic_bytes["dram"] @ result.trace.repeats)


@pytest.mark.parametrize(
    ("frames", "chunk", "per_step", "expected"),
    [
        (300, None, 3, (1, 100)),
        (301, None, 3, (1, 101)),
        (300, 3, 3, (100, 1)),
        (300, 30, 3, (10, 10)),
        (310, 30, 3, (11, 10)),
    ],
)
def test_calls_and_steps_by_hand(frames, chunk, per_step, expected):
    assert calls("here", frames, chunk, per_step) == expected


def test_a_chunk_of_part_of_a_step_is_an_error():
    with pytest.raises(TraceError, match=r"chunk must be a multiple of 3 frames \(one step\), got 4"):
        calls("here", 300, 4, 3)
    with pytest.raises(TraceError, match="here: chunk must be a whole number of 1 or more, got 0"):
        calls("here", 300, 0, 3)


def test_a_step_at_a_time_is_one_recurrence_through_all_layers():
    one = lstm(1, 8, sequence_length=1, hoist_input=False)
    rows = over_calls(one, number=50, layers=4).rows()
    assert [r["op"] for r in rows] == ["step product", "gates"]
    for row in rows:
        assert (row["repeats"], row["serial_steps"], row["path_runs"], row["weight_sets"]) == (200, 200, 200, 4)


def test_one_call_is_layers_in_series():
    one = lstm(1, 8, sequence_length=50)
    assert over_calls(one, 1, 4) == one * 4
    assert over_calls(one, 1, 4).rows()[1]["serial_steps"] == 50


@pytest.mark.parametrize("chunk", [3, 30, None])
@pytest.mark.parametrize("make", [acoustic_network, transducer])
def test_work_does_not_depend_on_the_chunk(make, chunk):
    last = {"outputs": 40} if make is acoustic_network else {"vocabulary": 40}
    sizes = {"sequence_length": 300, "decimate": 3, "stack": 4, "projection": 16, **last}
    whole, trace = make(3, 32, **sizes), make(3, 32, chunk=chunk, **sizes)
    assert trace.total_matrix_flops == whole.total_matrix_flops
    assert trace.total_parameters == whole.total_parameters
    assert trace.tokens == 300
    assert speech_s(make(3, 32, chunk=chunk, batch=4, **sizes)) == 12.0


def stream(layers: int, steps: int = 100) -> Trace:
    """A stack of square LSTM layers without biases, one step at a time through all of them."""
    return over_calls(lstm(1, 64, sequence_length=1, hoist_input=False, bias=False, dtype="int8"), steps, layers)


LAYER_BYTES = 4 * 64 * 128


def with_memory(chip: Accelerator, keeper: str, capacity_bytes: float, in_parts: bool) -> Accelerator:
    return chip.replace(
        {
            f"memory.{keeper}.capacity_bytes": float(capacity_bytes),
            f"memory.{keeper}.keeps_weights": True,
            f"memory.{keeper}.keeps_parts": in_parts,
        }
    )


def test_a_stream_keeps_its_weights_only_where_those_of_all_layers_fit():
    """Four layers of 32 KiB in turn: one more byte than fits and a cache fetches all of them in each step."""
    chip = preset("tpu-v5e")
    layers, steps = 4, 100
    every, once = steps * layers * LAYER_BYTES, layers * LAYER_BYTES
    roomy, tight = (with_memory(chip, "sram", size, in_parts=False) for size in (1e6, 3.5 * LAYER_BYTES))
    assert (simulate(stream(layers), roomy).resident == 1).all()
    assert (simulate(stream(layers), tight).resident == 0).all()
    again = moved_bytes(tight, stream(layers)) - moved_bytes(roomy, stream(layers))
    assert again == pytest.approx(every - once, rel=0.01)  # and some state
    # a scratchpad keeps the part that fits
    parts = with_memory(chip, "sram", 2 * LAYER_BYTES, in_parts=True)
    held = simulate(stream(layers), parts).resident[0]
    assert 0.4 < held < 0.5  # state takes some of it
    # the same layers one after another over all steps need room for one of them
    in_series = lstm(1, 64, sequence_length=steps, hoist_input=False, bias=False, dtype="int8") * layers
    assert moved_bytes(tight, in_series) == pytest.approx(moved_bytes(roomy, in_series))


@pytest.mark.parametrize("name", ["tpu-v5e", "raspberry-pi-5", "t4"])
def test_weights_in_turn_equal_the_slow_twin(name):
    chip = preset(name)
    speech = (network(n, chunk=60, seq_len=120, dtype="int8") for n in ("rnn-t-he-2019", "conformer-s"))
    for trace in (stream(3), *speech):
        result = simulate(trace, chip)
        slow = reference.op_costs(trace, chip)
        np.testing.assert_allclose(result.time_s, [cost["time_s"] for cost in slow], rtol=1e-9)


def test_sized_to_finds_the_width_of_equal_parameters_and_flop():
    target = network("conformer-m", seq_len=300)

    def make(width):
        return acoustic_network(5, width, sequence_length=300, outputs=1024, stack=4, decimate=3, projection=width // 2)

    for measure, size in (("parameters", target.total_parameters), ("flops", target.total_matrix_flops)):
        width = sized_to(make, size, measure=measure, step=2)
        reached = make(width)
        got = reached.total_parameters if measure == "parameters" else reached.total_matrix_flops
        assert got == pytest.approx(size, rel=0.005)
        assert width % 2 == 0


def test_sized_to_refuses_what_it_cannot_reach():
    def make(width):
        return lstm(1, width, sequence_length=1)

    with pytest.raises(TraceError, match=r"sized_to: target must lie between 16 and .* parameters, got 1"):
        sized_to(make, 1)
    with pytest.raises(TraceError, match=r"measure: unknown 'flop'.*'flops'"):
        sized_to(make, 100, measure="flop")


def test_conformer_waits_for_whole_positions():
    with pytest.raises(TraceError, match="conformer: chunk must be a multiple of 4 frames"):
        conformer(2, 8, 2, sequence_length=64, vocabulary=10, chunk=6)
