"""Networks as libraries run them: the same work in other rows."""

import numpy as np
import pytest

from simulator import preset, simulate
from workloads import gru, lstm, rnn, training, transformer
from workloads.libraries import CELL_CALLS, merged_gates, packed_weights, separate_cells, separate_gates
from workloads.trace import TraceError

BUILDERS = {"rnn": rnn, "lstm": lstm, "gru": gru}
SAME = ("total_flops", "total_parameters")


def total(trace, column):
    return int((trace.columns[column] * trace.repeats).sum())


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize("settings", [{}, {"bidirectional": True}, {"bias": False}, {"dtype": "fp16"}])
def test_separate_cells_do_the_same_work(builder, settings):
    fused = builder(2, 24, input_size=10, sequence_length=7, batch=3, **settings)
    split = separate_cells(fused)
    assert split.total_flops == fused.total_flops
    assert split.total_parameters == fused.total_parameters
    for column in ("vector_flops", "special_ops", "matrix_flops", "weight_bytes", "input_bytes", "output_bytes"):
        assert total(split, column) == total(fused, column), column
    assert total(split, "state_bytes") > total(fused, "state_bytes")  # what calls hand on goes through memory


def test_a_gru_step_by_hand():
    # hidden 8, batch 3, fp32: 24 units, 96 bytes once; a product and ten calls a step
    trace = separate_cells(gru(1, 8, sequence_length=5, batch=3))
    cell = [row for row in trace.rows() if row["op"].startswith("gates")]
    assert [row["op"] for row in cell] == [
        "gates: add input of r", "gates: sigmoid of r", "gates: add input of z", "gates: sigmoid of z", "gates: reset",
        "gates: add input of n", "gates: tanh of n", "gates: h - n", "gates: times z", "gates: plus n",
    ]  # fmt: skip
    assert {(row["repeats"], row["serial_steps"]) for row in cell} == {(5, 5)}
    reset = cell[4]
    assert (reset["vector_flops"], reset["special_ops"], reset["state_bytes"]) == (24, 0, 3 * 96)
    assert [row["vector_flops"] for row in cell] == [24 + 4 * 24, 0, 24, 0, 24, 24, 0, 24, 24, 24]  # biases first
    assert [row["special_ops"] for row in cell] == [0, 24, 0, 24, 0, 0, 24, 0, 0, 0]
    assert [row["input_bytes"] for row in cell] == [96, 0, 96, 0, 0, 96, 0, 0, 0, 0]
    assert cell[-1]["output_bytes"] == 96
    numbers = [i for i, op in enumerate(trace.op) if op.startswith("gates")]
    assert [trace.after[i] for i in numbers[1:-1]] == [(i - 1,) for i in numbers[1:-1]]
    assert trace.after[numbers[0]] == (0, 1)


@pytest.mark.parametrize("gates", CELL_CALLS)
def test_the_calls_of_a_cell_are_those_of_its_formula(gates):
    """The table of calls against the counts of the cells the builders use."""
    builder = {1: rnn, 3: gru, 4: lstm}[gates]
    row = next(r for r in builder(1, 1, sequence_length=1, batch=1, bias=False).rows() if r["op"] == "gates")
    calls = CELL_CALLS[gates]
    assert sum(call.vector for call in calls) == row["vector_flops"]
    assert sum(call.special for call in calls) == row["special_ops"]


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_each_call_costs_a_launch(builder):
    """Where starting an op is all that costs, steps times calls: the product, and each call of the cell."""
    chip = preset("epyc-7763").replace({"latency.launch": 1.0, "latency.step": 0.0})
    trace = builder(1, 4, sequence_length=6)
    calls = len(CELL_CALLS[{"rnn": 1, "gru": 3, "lstm": 4}[trace.name]])
    assert simulate(trace, chip).latency_s == pytest.approx(1 + 6 * 2, rel=1e-3)
    assert simulate(separate_cells(trace), chip).latency_s == pytest.approx(1 + 6 * (1 + calls), rel=1e-3)


def test_packed_weights_are_read_and_written_once_a_layer_and_direction():
    trace = lstm(3, 16, input_size=8, sequence_length=9, batch=2, bidirectional=True)
    packed = packed_weights(trace)
    copies = [row for row in packed.rows() if row["op"] == "pack weights"]
    first, others = copies
    assert first["weight_bytes"] == first["output_bytes"] == 4 * 64 * (8 + 16)
    assert others["weight_bytes"] == 4 * 64 * (32 + 16)
    assert (first["repeats"], first["path_runs"]) == (2, 1)
    assert (others["repeats"], others["path_runs"]) == (4, 2)
    assert packed.total_flops == trace.total_flops
    assert packed.total_parameters == trace.total_parameters
    assert len(packed) == len(trace) + 2


def test_packing_does_not_grow_with_the_steps():
    """It is done once a call: the more steps, the less it weighs."""
    chip = preset("epyc-7763")
    added = [
        float(simulate(packed_weights(t), chip).latency_s - simulate(t, chip).latency_s)
        for t in (lstm(1, 256, sequence_length=n) for n in (10, 1000))
    ]
    assert added[0] > 0
    assert added[1] == pytest.approx(added[0], rel=1e-6)


def test_fused_and_packed_is_one_row_a_step():
    trace = packed_weights(lstm(1, 16, sequence_length=9)).fused
    assert list(trace.op) == ["input product", "pack weights", "recurrent product + gates"]


def test_what_is_no_recurrence_stays():
    trace = transformer(1, 32, 2, 100, sequence_length=8)
    assert separate_cells(trace) == trace
    assert packed_weights(trace) == trace
    projected = lstm(1, 16, projection=4, sequence_length=3)
    assert np.array_equal(separate_cells(projected).op, projected.op)


def test_a_training_step_is_refused():
    with pytest.raises(TraceError, match="training step"):
        separate_cells(training(gru(1, 8, sequence_length=3)))


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize("settings", [{}, {"hoist_input": False}, {"bidirectional": True, "dtype": "fp16"}])
def test_gates_apart_or_merged_do_the_same_work(builder, settings):
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[builder.__name__]
    shared = builder(2, 24, input_size=12, sequence_length=7, batch=3, merge_gates=False, **settings)
    apart, wide = separate_gates(shared), merged_gates(shared)
    for trace in (apart, wide):
        assert trace.total_flops == shared.total_flops
        assert trace.total_parameters == shared.total_parameters
        for column in ("matrix_flops", "weight_bytes", "output_bytes"):
            assert total(trace, column) == total(shared, column), column
    assert total(wide, "state_bytes") == total(shared, "state_bytes")
    products = [row for row in apart.rows() if row["kind"] == "matmul"]
    assert len(products) == gates * sum(row["kind"] == "matmul" for row in shared.rows())
    assert {(row["batch"], row["n"]) for row in products} == {(1, 24)}
    assert {(r["batch"], r["n"]) for r in wide.rows() if r["kind"] == "matmul"} == {(1, 24 * gates)}
    if gates > 1:  # each product reads what they share
        assert total(apart, "input_bytes") > total(shared, "input_bytes")


def test_gates_by_hand():
    # hidden 8, batch 3, fp32: a gate's product writes 3 x 8 sums of 4 bytes and reads 3 x 8 values of h
    trace = separate_gates(lstm(1, 8, sequence_length=5, batch=3, hoist_input=False, merge_gates=False))
    rows = [row for row in trace.rows() if row["op"].startswith("recurrent product of gate")]
    assert [row["op"][-1] for row in rows] == ["0", "1", "2", "3"]
    assert {(r["state_bytes"], r["weight_bytes"], r["matrix_flops"]) for r in rows} == {(96 + 96, 256, 2 * 3 * 64)}


def test_other_calls_of_a_cell():
    from reports.studies.software import SAMPLE_CELL

    fused = lstm(1, 8, sequence_length=5, batch=3, hoist_input=False, merge_gates=False)
    split = separate_cells(fused, {4: SAMPLE_CELL})
    cell = [row for row in split.rows() if row["op"].startswith("gates")]
    assert len(cell) == 23
    assert split.total_flops == fused.total_flops
    assert total(split, "special_ops") == total(fused, "special_ops")
    assert [row["input_bytes"] for row in cell[:5]] == [96, 96, 96, 96, 0]  # a gate's sums each
