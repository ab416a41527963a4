"""Building blocks: every count by hand, every bad argument named."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import workloads
from workloads import blocks
from workloads.blocks import OPERATIONS
from workloads.trace import TraceError, concatenate

BLOCKS = {
    "linear": (workloads.linear, {"m": 3, "n": 5, "k": 7}),
    "matmul": (workloads.matmul, {"m": 3, "n": 5, "k": 7}),
    "vocabulary_projection": (workloads.vocabulary_projection, {"rows": 3, "vocabulary": 11, "hidden": 7}),
    "embedding": (workloads.embedding, {"rows": 3, "vocabulary": 11, "hidden": 7}),
    "softmax": (workloads.softmax, {"rows": 3, "columns": 5}),
    "normalisation": (workloads.normalisation, {"rows": 3, "columns": 5}),
    "elementwise": (workloads.elementwise, {"elements": 15}),
    "copy": (workloads.copy, {"elements": 15}),
    "collective": (workloads.collective, {"sent_bytes": 60}),
}


def only_row(trace):
    (row,) = trace.rows()
    return row


def test_linear_counts_product_bias_and_bytes():
    row = only_row(workloads.linear(3, 5, 7, batch=2, dtype="fp16"))
    assert (row["batch"], row["m"], row["n"], row["k"]) == (2, 3, 5, 7)
    assert row["matrix_flops"] == 2 * 2 * 3 * 5 * 7
    assert row["vector_flops"] == 2 * 3 * 5  # one add a result
    assert row["parameters"] == 2 * (5 * 7 + 5)
    assert row["weight_bytes"] == 2 * 80
    assert row["input_bytes"] == 2 * (2 * 3 * 7)
    assert row["output_bytes"] == 2 * (2 * 3 * 5)
    assert row["kind"] == "matmul"


def test_linear_without_bias():
    row = only_row(workloads.linear(3, 5, 7, bias=False))
    assert (row["parameters"], row["vector_flops"], row["weight_bytes"]) == (35, 0, 140)


def test_matmul_has_no_weights_and_reads_both_operands():
    row = only_row(workloads.matmul(3, 5, 7, batch=4))
    assert row["parameters"] == row["weight_bytes"] == 0
    assert row["matrix_flops"] == 2 * 4 * 3 * 5 * 7
    assert row["input_bytes"] == 4 * 4 * (3 * 7 + 7 * 5)
    assert row["output_bytes"] == 4 * 4 * 3 * 5


def test_storage_types_may_differ_from_the_arithmetic():
    row = only_row(workloads.linear(3, 5, 8, bias=False, dtype="fp16", weight_dtype="int4", activation_dtype="fp32"))
    assert row["weight_bytes"] == 5 * 8 // 2  # two weights a byte
    assert row["input_bytes"] == 3 * 8 * 4
    assert (row["dtype"], row["weight_dtype"], row["activation_dtype"]) == ("fp16", "int4", "fp32")


def test_odd_number_of_int4_weights_rounds_up_to_a_byte():
    assert only_row(workloads.linear(1, 3, 3, bias=False, dtype="int8", weight_dtype="int4"))["weight_bytes"] == 5


def test_embedding_is_a_gather_and_not_a_product_with_the_vocabulary():
    row = only_row(workloads.embedding(6, 50000, 32, dtype="fp16"))
    assert row["kind"] == "gather"
    assert row["matrix_flops"] == row["vector_flops"] == 0
    assert row["parameters"] == 50000 * 32
    assert row["weight_bytes"] == 6 * 32 * 2  # six rows, not the table
    assert row["output_bytes"] == 6 * 32 * 2
    assert row["input_bytes"] == 6 * 4  # 32 bit indices


def test_embedding_reads_no_more_than_its_table():
    assert only_row(workloads.embedding(1000, 10, 32))["weight_bytes"] == 10 * 32 * 4


@pytest.mark.parametrize(("tied", "parameters"), [(False, 11 * 7), (True, 0)])
def test_tied_vocabulary_projection_reads_the_table_but_does_not_own_it(tied, parameters):
    row = only_row(workloads.vocabulary_projection(3, 11, 7, tied=tied))
    assert row["parameters"] == parameters
    assert row["weight_bytes"] == 4 * 11 * 7
    assert row["matrix_flops"] == 2 * 3 * 11 * 7


def test_bias_of_a_tied_vocabulary_projection_is_its_own():
    assert only_row(workloads.vocabulary_projection(3, 11, 7, tied=True, bias=True))["parameters"] == 11


def test_softmax_costs_four_flop_and_an_exp_a_value():
    row = only_row(workloads.softmax(3, 5))
    assert (row["vector_flops"], row["special_ops"]) == (4 * 15, 15)
    assert row["input_bytes"] == row["output_bytes"] == 60
    assert row["matrix_flops"] == 0


@pytest.mark.parametrize(
    ("norm", "bias", "vector", "parameters"),
    [
        ("layer", True, 7 * 15, 10),  # gain and offset
        ("layer", False, 6 * 15, 5),  # no offset to add
        ("rms", True, 4 * 15, 5),  # gain only
    ],
)
def test_normalisation_counts(norm, bias, vector, parameters):
    row = only_row(workloads.normalisation(3, 5, norm=norm, bias=bias))
    assert row["vector_flops"] == vector
    assert row["special_ops"] == 3  # one root a row
    assert row["parameters"] == parameters
    assert row["weight_bytes"] == 4 * parameters
    assert row["input_bytes"] == row["output_bytes"] == 60


@pytest.mark.parametrize(
    ("function", "vector", "special", "reads"),
    [
        ("relu", 1, 0, 1),
        ("gelu", 8, 1, 1),
        ("silu", 1, 1, 1),
        ("tanh", 0, 1, 1),
        ("residual add", 1, 0, 2),
        ("multiply", 1, 0, 2),
    ],
)
def test_elementwise_counts(function, vector, special, reads):
    row = only_row(workloads.elementwise(10, function, dtype="fp16"))
    assert (row["vector_flops"], row["special_ops"]) == (10 * vector, 10 * special)
    assert row["input_bytes"] == 10 * reads * 2
    assert row["output_bytes"] == 20
    assert row["op"] == function


def test_gated_activation_multiplies_with_a_second_tensor():
    row = only_row(workloads.elementwise(10, "silu", gated=True))
    assert (row["vector_flops"], row["special_ops"]) == (20, 10)
    assert row["input_bytes"] == 2 * 40


def test_copy_has_no_operations_but_its_bytes():
    row = only_row(workloads.copy(10, dtype="bf16"))
    assert row["matrix_flops"] == row["vector_flops"] == row["special_ops"] == 0
    assert row["input_bytes"] == row["output_bytes"] == 20


def test_collective_sends_its_bytes_whatever_the_type():
    row = only_row(workloads.collective(1000, operation="all gather", dtype="fp16"))
    assert (row["kind"], row["op"], row["input_bytes"], row["output_bytes"]) == ("collective", "all gather", 1000, 0)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_makes_one_row_that_composes(name):
    build, arguments = BLOCKS[name]
    trace = build(**arguments)
    assert len(trace) == 1
    assert len(trace + trace) == 2
    assert (trace * 5).total_bytes == 5 * trace.total_bytes


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("bad", [0, -1, 1.5, float("nan"), None, "3", True])
def test_bad_size_is_an_error_that_names_the_argument(name, bad):
    build, arguments = BLOCKS[name]
    for argument in arguments:
        with pytest.raises(TraceError, match=rf"{name}: {argument} must be a whole number of 1 or more, got"):
            build(**arguments | {argument: bad})


@pytest.mark.parametrize("batch", [0, -2])
def test_bad_batch_is_an_error(batch):
    for build in (workloads.linear, workloads.matmul):
        with pytest.raises(TraceError, match=f"batch must be a whole number of 1 or more, got {batch}"):
            build(3, 5, 7, batch=batch)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("argument", ["dtype", "weight_dtype", "activation_dtype"])
def test_bad_type_is_an_error_that_names_the_argument_and_the_nearest(name, argument):
    build, arguments = BLOCKS[name]
    with pytest.raises(TraceError, match=rf"{name}: {argument}: unknown element type 'fp166'.*'fp16'"):
        build(**arguments, **{argument: "fp166"})


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (workloads.elementwise, {"elements": 1, "function": "geluu"}, "function: unknown 'geluu'.*'gelu'"),
        (workloads.normalisation, {"rows": 1, "columns": 1, "norm": "layr"}, "norm: unknown 'layr'.*'layer'"),
        (workloads.collective, {"sent_bytes": 1, "operation": "allreduce"}, "operation: .*'all reduce'"),
        (workloads.linear, {"m": 1, "n": 1, "k": 1, "bias": "no"}, "bias must be True or False, got 'no'"),
    ],
)
def test_bad_choice_is_an_error_that_names_the_nearest(build, settings, message):
    with pytest.raises(TraceError, match=message):
        build(**settings)


def test_numpy_sizes_cannot_overflow():
    size = np.int32(2**20)
    row = only_row(workloads.linear(size, size, np.int32(64), bias=False))
    assert row["matrix_flops"] == 2 * 2**20 * 2**20 * 64


def test_signature_of_a_block_shows_its_types_and_hides_the_plumbing():
    names = list(inspect.signature(workloads.linear).parameters)
    assert names[:3] == ["m", "n", "k"]
    assert {"dtype", "weight_dtype", "activation_dtype"} <= set(names)
    assert "types" not in names


def test_every_operation_costs_something_and_says_what_it_is():
    for name, cost in OPERATIONS.items():
        assert cost.vector + cost.special > 0, name
        assert cost.reads >= 1, name
        assert cost.meaning, name


ROW = st.sampled_from(["linear", "softmax", "copy"])


@given(parts=st.lists(st.lists(ROW, min_size=1, max_size=3), min_size=1, max_size=4))
def test_series_of_rows_is_concatenation_of_traces(parts):
    types = blocks.element_types("test", "fp16", None, None)
    rows = [[BLOCKS[name][0].row(types=types, **BLOCKS[name][1]) for name in part] for part in parts]
    traces = [workloads.Trace.from_rows(part) for part in rows]
    assert workloads.Trace.from_rows(blocks.series(rows)) == concatenate(traces)
