"""The trace: what it accepts and refuses, totals, fusion, path length, files that lose nothing."""

from __future__ import annotations

import copy
import gzip
import json
import math
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import traces

from workloads.blocks import elementwise, linear, matmul, softmax
from workloads.recurrent import lstm
from workloads.schema import AssumedSizes
from workloads.trace import SCHEMA, SCHEMA_VERSION, Trace, TraceError, concatenate, element_bytes, tensor_bytes
from workloads.training import training

ROLES = ("weight_bytes", "input_bytes", "output_bytes", "state_bytes", "cache_bytes")
FORMS = ("csv", "json", "csv.gz", "json.gz", "parquet")


def product(**changes):
    """A row 8 x 4 = (8 x 6) (6 x 4) in fp32."""
    row = {
        "layer": "a",
        "op": "product",
        "kind": "matmul",
        "batch": 1,
        "m": 8,
        "n": 4,
        "k": 6,
        "matrix_flops": 384,
        "parameters": 24,
        "weight_bytes": 96,
        "input_bytes": 192,
        "output_bytes": 128,
    }
    return row | changes


def relu(**changes):
    row = {
        "layer": "a",
        "op": "relu",
        "kind": "elementwise",
        "vector_flops": 32,
        "input_bytes": 128,
        "output_bytes": 128,
    }
    return row | changes


# -- columns, defaults -------------------------------------------------------------------------------


def test_schema_explains_every_column():
    for column in SCHEMA.values():
        assert column.meaning
        if column.kind in ("amount", "count"):
            assert column.unit, column.name


def test_defaults():
    trace = Trace.from_rows([product(), relu(dtype="bf16"), product(weight_dtype="int8", repeats=6, serial_steps=3)])
    assert trace.phase.tolist() == ["forward"] * 3
    assert trace.dtype.tolist() == ["fp32", "bf16", "fp32"]
    assert trace.weight_dtype.tolist() == ["fp32", "bf16", "int8"]
    assert trace.activation_dtype.tolist() == ["fp32", "bf16", "fp32"]
    assert trace.repeats.tolist() == [1, 1, 6]
    assert trace.path_runs.tolist() == [1, 1, 6]
    assert trace.weight_sets.tolist() == [1, 1, 2]  # six runs are three steps of two layers
    assert trace.after == ((), (0,), (1,))
    assert (trace.name, trace.sequences, trace.tokens) == ("trace", 1, 1)


def test_weightless_rows_have_one_weight_set():
    assert Trace.from_rows([relu(repeats=5)]).weight_sets.tolist() == [1]


def test_rows_and_from_rows_are_inverse():
    trace = Trace.from_rows([product(), relu()], name="net", sequences=2, tokens=3)
    assert Trace.from_rows(trace.rows(), name="net", sequences=2, tokens=3) == trace


def test_equality_looks_at_every_column_and_the_metadata():
    trace = Trace.from_rows([product(), relu()])
    assert trace == Trace.from_rows([product(), relu()])
    for change in (
        {"name": "other"},
        {"tokens": 2},
        {"sequences": 2},
        {"after": [(), ()]},
        {"layer": ["a", "b"]},
        {"saved_bytes": [0, 1]},
    ):
        assert trace.replace(**change) != trace
    assert trace != "trace"


def test_element_sizes():
    assert [element_bytes(d) for d in ("fp32", "bf16", "fp8", "int4")] == [4, 2, 1, 0.5]
    assert tensor_bytes(7, "int4") == 4  # two to a byte, rounded up
    assert tensor_bytes(7, "fp16") == 14
    with pytest.raises(TraceError, match=r"unknown element type 'bf61' \(did you mean 'bf16'\?\)"):
        element_bytes("bf61")


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "net: the trace is empty"),
        ([product(m=0)], "net: row 0: m of a product must be 1 or more, got 0"),
        ([relu(), product(n=0)], "net: row 1: n of a product must be 1 or more, got 0"),
        ([product(k=0)], "net: row 0: k of a product must be 1 or more, got 0"),
        ([product(batch=0)], "net: row 0: batch of a product must be 1 or more, got 0"),
        ([product(m=-8)], "net: row 0: m must be 0 or more, got -8"),
        ([product(matrix_flops=0)], "net: row 0: matrix_flops of a product must be above 0, got 0"),
        ([product(matrix_flops=385)], "net: row 0: matrix_flops exceed 2 batch m n k of the row, got 385"),
        ([relu(k=3)], "net: row 0: k must be 0 where the row is not a product, got 3"),
        ([product(input_bytes=float("nan"))], "net: row 0: input_bytes must be a whole number, got nan"),
        ([product(input_bytes=float("inf"))], "net: row 0: input_bytes must be a whole number, got inf"),
        ([product(input_bytes=1.5)], "net: row 0: input_bytes must be a whole number, got 1.5"),
        ([product(input_bytes=True)], "net: row 0: input_bytes must be a whole number, got True"),
        ([product(input_bytes=None)], "net: row 0: input_bytes must be a whole number, got None"),
        ([product(input_bytes="many")], "net: row 0: input_bytes must be a whole number, got 'many'"),
        ([product(input_bytes=2**63)], "net: row 0: input_bytes is beyond 64 bits, got 9223372036854775808"),
        ([product(weight_bytes=-1)], "net: row 0: weight_bytes must be 0 or more, got -1"),
        ([product(repeats=0)], "net: row 0: repeats must be 1 or more, got 0"),
        ([product(repeats=7, serial_steps=3)], "net: row 0: serial_steps must divide repeats, got 3"),
        ([product(repeats=2, path_runs=3)], "net: row 0: path_runs must not exceed repeats, got 3"),
        (
            [product(repeats=6, serial_steps=3, path_runs=2)],
            "net: row 0: path_runs must not be below serial_steps, got 2",
        ),
        ([product(weight_sets=2)], "net: row 0: weight_sets must not exceed repeats, got 2"),
        ([product(kind="matmull")], r"net: row 0: unknown kind 'matmull' \(did you mean 'matmul'\?\)"),
        ([product(phase="backward")], "net: row 0: unknown phase 'backward'"),
        ([product(dtype="fp23")], r"net: row 0: unknown dtype 'fp23' \(did you mean 'fp32'\?\)"),
        ([product(layer="")], "net: row 0: layer is missing or not text, got ''"),
        ([product(op=3)], "net: row 0: op is missing or not text, got 3"),
        ([product(op="a\nb")], r"net: row 0: op must be printable text without spaces around it, got 'a\\nb'"),
        ([product(op=" a")], "net: row 0: op must be printable text without spaces around it, got ' a'"),
        ([product(wieght_bytes=3)], r"net: unknown column 'wieght_bytes' \(did you mean 'weight_bytes'\?\)"),
        ([product(zzz=3)], r"net: unknown column 'zzz' \(valid: layer, op"),
        ([product(), relu(after=(1,))], r"net: row 1: after must name earlier rows \(0 to 0\), got 1"),
        ([product(after=(-1,))], "net: row 0: after must name earlier rows .*, got -1"),
        ([product(), relu(after=2.5)], "net: row 1: after must be row numbers, got 2.5"),
        ([product(), relu(after=("x",))], "net: row 1: after must be a whole number, got 'x'"),
        (
            [{"layer": "a", "op": "nothing", "kind": "copy"}],
            "net: row 0: kind has neither operations nor bytes: it cannot be costed",
        ),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(TraceError, match=f"^{message}"):
        Trace.from_rows(rows, source="net")


def test_bad_columns():
    with pytest.raises(TraceError, match="column 'kind' is missing"):
        Trace({"layer": ["a"], "op": ["b"]})
    with pytest.raises(TraceError, match="column 'repeats' has 2 entries where 'op' has 1"):
        Trace({"layer": ["a"], "op": ["b"], "kind": ["copy"], "input_bytes": [4], "repeats": [1, 2]})
    with pytest.raises(TraceError, match="the trace is empty"):
        Trace({"layer": [], "op": [], "kind": []})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens must be a positive whole number, got 0"),
        ({"sequences": 1.5}, "sequences must be a positive whole number, got 1.5"),
        ({"name": None}, "name must be text, got None"),
    ],
)
def test_bad_metadata(change, message):
    with pytest.raises(TraceError, match=message):
        Trace.from_rows([product()], **change)


def test_replace_names_the_nearest_column():
    with pytest.raises(TraceError, match=r"unknown column 'repeat' \(did you mean 'repeats'\?\)"):
        Trace.from_rows([product()]).replace(repeat=[2])


# -- immutability ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [c for c in SCHEMA if c != "after"])
def test_columns_are_read_only(name):
    trace = Trace.from_rows([product()])
    with pytest.raises(ValueError, match="read-only"):
        getattr(trace, name)[0] = getattr(trace, name)[0]


@pytest.mark.parametrize("name", ["runs", "flops", "bytes", "level", "is_product", "shares_weights"])
def test_derived_arrays_are_read_only(name):
    trace = Trace.from_rows([product()])
    with pytest.raises(ValueError, match="read-only"):
        getattr(trace, name)[0] = 0


def test_fields_and_column_table_are_read_only():
    trace = Trace.from_rows([product()])
    with pytest.raises(AttributeError):
        trace.name = "other"
    with pytest.raises(TypeError):
        trace.columns["m"] = np.array([9])
    assert isinstance(trace.after, tuple)


def test_a_trace_does_not_see_changes_of_what_it_was_made_from():
    bytes_in = np.array([192])
    trace = Trace({c: [v] for c, v in product().items()} | {"input_bytes": bytes_in})
    bytes_in[0] = 5
    assert trace.input_bytes.tolist() == [192]
    trace.rows()[0]["m"] = 99
    assert trace.m.tolist() == [8]


@pytest.mark.parametrize("duplicate", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, copy.copy])
def test_copies_are_equal_and_read_only(duplicate):
    trace = Trace.from_rows([product(), relu()], name="net", tokens=3)
    other = duplicate(trace)
    assert other == trace
    with pytest.raises(ValueError, match="read-only"):
        other.m[0] = 1


# -- totals ------------------------------------------------------------------------------------------


def test_totals_by_hand():
    trace = Trace.from_rows([product(repeats=3), relu(repeats=3, special_ops=2)])
    assert trace.total_matrix_flops == 3 * 384
    assert trace.total_flops == 3 * (384 + 32 + 2)
    assert trace.total_parameters == 3 * 24
    assert trace.total_bytes == 3 * (96 + 192 + 128 + 128 + 128)
    assert trace.bytes_by_role() == {"weight": 288, "input": 960, "output": 768, "state": 0, "cache": 0}
    assert trace.intensity == 418 / 672
    assert trace.shares_weights.tolist() == [False, True]


def test_shared_weights_count_once():
    trace = Trace.from_rows([product(repeats=10, serial_steps=10)])
    assert trace.total_parameters == 24
    assert trace.shares_weights.tolist() == [True]
    assert trace.footprint()["weights"] == 96


def test_footprint_by_hand():
    rows = [product(weight_dtype="int4", repeats=2, saved_bytes=10), relu(saved_bytes=7, cache_bytes=3)]
    inference = Trace.from_rows(rows).footprint()
    assert inference == {
        "weights": 2 * 12.0,  # 24 parameters of half a byte, two sets
        "gradients": 0,
        "optimiser": 0,
        "saved": 0,
        "cache": 2 * 10 + 7,
        "working": 320,
        "total": 24 + 27 + 320,
    }


def test_footprint_of_training_by_hand():
    rows = [
        product(saved_bytes=192),
        product(op="dW", phase="weight-gradient", parameters=0, weight_bytes=0, output_bytes=96, saved_bytes=0),
        relu(op="update", phase="update", state_bytes=2 * 192, input_bytes=96, output_bytes=96),
    ]
    held = Trace.from_rows(rows).footprint()
    assert held == {
        "weights": 96,
        "gradients": 96,
        "optimiser": 192,
        "saved": 192,
        "cache": 0,
        "working": 320,
        "total": 96 + 96 + 192 + 192 + 320,
    }


def test_recomputed_activations_are_held_one_layer_at_a_time():
    # layer a: 3 identical layers keep 10 + 20 bytes each; layer b keeps 25
    rows = [
        product(saved_bytes=5, repeats=3),
        product(phase="recompute", parameters=0, saved_bytes=10, repeats=3),
        relu(phase="recompute", saved_bytes=2, repeats=30, serial_steps=10),
        relu(phase="recompute", layer="b", saved_bytes=25),
        product(phase="weight-gradient", parameters=0),
    ]
    held = Trace.from_rows(rows).footprint()
    assert held["saved"] == 15
    assert held["working"] == 320 + 30


def test_levels_follow_dependencies():
    rows = [product(), product(after=()), relu(after=(0, 1)), relu(after=(0,)), relu(after=(2, 3))]
    assert Trace.from_rows(rows).level.tolist() == [0, 0, 1, 1, 2]


# -- scaling and concatenation -----------------------------------------------------------------------


def test_scaling():
    block = Trace.from_rows([product(), relu(repeats=10, serial_steps=10)])
    assert block * 4 == 4 * block == block.scaled(4)
    four = block * 4
    assert four.repeats.tolist() == [4, 40]
    assert four.serial_steps.tolist() == [1, 10]
    assert four.path_runs.tolist() == [4, 40]
    assert four.total_parameters == 4 * block.total_parameters
    shared = block.scaled(4, share_weights=True)
    assert shared.total_parameters == block.total_parameters
    assert shared.total_flops == four.total_flops == 4 * block.total_flops
    parallel = block.scaled(4, parallel=True)
    assert parallel.repeats.tolist() == [4, 40]
    assert parallel.path_runs.tolist() == [1, 10]


@pytest.mark.parametrize("count", [0, -1, 2.0, "two", None, True])
def test_scaling_needs_a_positive_count(count):
    with pytest.raises(TraceError, match="count must be a positive whole number"):
        Trace.from_rows([product()]).scaled(count)


def test_scaling_does_not_wrap_around():
    trace = Trace.from_rows([product(repeats=2**40)])
    with pytest.raises(TraceError, match="repeats is beyond 64 bits"):
        trace * 2**40


def test_concatenation_in_series():
    first = Trace.from_rows([product(), relu(), product(after=(0,))], name="first", sequences=2, tokens=5)
    second = Trace.from_rows([product(), product(after=()), relu(after=(0, 1))], name="second", tokens=7)
    both = first + second
    # rows 1 and 2 end the first; both starts of the second wait for them
    assert both.after == ((), (0,), (0,), (1, 2), (1, 2), (3, 4))
    assert (both.name, both.sequences, both.tokens) == ("first", 2, 7)
    assert both.total_flops == first.total_flops + second.total_flops
    assert both.total_parameters == first.total_parameters + second.total_parameters


def test_concatenation_in_parallel():
    trace = Trace.from_rows([product(), relu()])
    both = concatenate([trace, trace], name="both", parallel=True)
    assert both.after == ((), (0,), (), (2,))
    assert both.name == "both"


def test_concatenation_of_nothing():
    with pytest.raises(TraceError, match="no trace given"):
        concatenate([])


@settings(max_examples=60, deadline=None)
@given(traces(), traces(), st.integers(1, 9))
def test_totals_add_up(first, second, count):
    both = first + second
    for name in ("total_matrix_flops", "total_flops", "total_parameters", "total_bytes"):
        assert getattr(both, name) == pytest.approx(getattr(first, name) + getattr(second, name), rel=1e-12)
        assert getattr(first * count, name) == pytest.approx(count * getattr(first, name), rel=1e-12)
    assert sum(both.bytes_by_role().values()) == pytest.approx(both.total_bytes, rel=1e-12)
    assert len(first * count) == len(first)  # size does not grow with the number of layers


# -- fusion ------------------------------------------------------------------------------------------


def test_relu_joins_the_product():
    fused = Trace.from_rows([product(), relu()]).fused
    (row,) = fused.rows()
    assert (row["op"], row["kind"]) == ("product + relu", "matmul")
    assert (row["matrix_flops"], row["vector_flops"]) == (384, 32)
    assert (row["input_bytes"], row["output_bytes"]) == (192, 128)  # the result never leaves the chip


def test_chain_of_elementwise_rows_joins_one_product():
    fused = Trace.from_rows([product(), relu(), relu(op="scale", output_bytes=64), product()]).fused
    assert fused.op.tolist() == ["product + relu + scale", "product"]
    assert fused.output_bytes.tolist() == [64, 128]
    assert fused.after == ((), (0,))


def test_saved_activations_are_still_written():
    fused = Trace.from_rows([product(), relu(saved_bytes=128)]).fused
    (row,) = fused.rows()
    assert row["output_bytes"] == 256  # the product's result is kept for the backward pass
    assert row["input_bytes"] == 192  # but not read back
    assert row["saved_bytes"] == 128


def test_gates_take_the_sums_of_the_recurrent_product_on_chip():
    trace = lstm(1, 64, sequence_length=10, batch=4)
    fused = trace.fused
    assert fused.op.tolist() == ["input product", "recurrent product + gates"]
    sums = 4 * 4 * 4 * 64
    assert trace.state_bytes[1:].sum() - fused.state_bytes[1] == 2 * sums
    assert fused.total_flops == trace.total_flops


@pytest.mark.parametrize(
    "rows",
    [
        [product(), relu(), relu(after=(0,))],  # the product's result is read twice
        [product(), relu(repeats=2)],  # not equally often
        [product(), relu(phase="recompute")],  # another phase
        [product(), relu(kind="normalisation")],  # not elementwise
        [product(), relu(after=())],  # independent
        [relu(), relu(op="second")],  # no product
        [product(parameters=0, weight_bytes=0, repeats=2), relu(parameters=4, repeats=2)],  # other weight sets
        [product(), relu(parameters=4, weight_dtype="int8")],  # weights stored differently
    ],
)
def test_what_does_not_fuse(rows):
    trace = Trace.from_rows(rows)
    assert trace.fused is trace


def test_fusion_waits_for_the_other_operand():
    # the sum needs row 1, which is not complete when row 2 (its host) starts only if it comes later
    rows = [product(), product(after=()), relu(op="add", after=(0, 1), input_bytes=256)]
    assert Trace.from_rows(rows).fused.op.tolist() == ["product", "product + add"]
    late = [product(), product(after=()), relu(after=(0,)), relu(op="add", after=(1, 2), input_bytes=256)]
    assert "product + add" not in Trace.from_rows(late).fused.op.tolist()


@settings(max_examples=200, deadline=None)
@given(st.one_of(traces(), traces(training=False).map(training)))
def test_fusion_laws(trace):
    fused = trace.fused
    assert fused.total_matrix_flops == pytest.approx(trace.total_matrix_flops, rel=1e-12)
    assert fused.total_flops == pytest.approx(trace.total_flops, rel=1e-12)
    assert fused.total_parameters == trace.total_parameters
    assert fused.total_bytes <= trace.total_bytes * (1 + 1e-12)
    assert float(fused.runs @ fused.saved_bytes) == pytest.approx(float(trace.runs @ trace.saved_bytes), rel=1e-12)
    before, after = trace.bytes_by_role(), fused.bytes_by_role()
    for role in ("weight", "cache"):
        assert after[role] == pytest.approx(before[role], rel=1e-12)
    # every row is still there, by name, in the row it joined
    assert sum(op.count(" + ") for op in fused.op.tolist()) == len(trace) - len(fused)


@settings(max_examples=100, deadline=None)
@given(traces(training=False).map(training))
def test_fusion_writes_what_is_kept(trace):
    # only rows that keep nothing may spare the write of the result they read
    spared = 0.0
    for row, (waits, kind, kept) in enumerate(zip(trace.after, trace.kind, trace.saved_bytes, strict=True)):
        if kind == "elementwise" and waits and not kept:
            spared += trace.runs[row] * min(trace.output_bytes[max(waits)], trace.input_bytes[row])
    lost = trace.bytes_by_role()["output"] - trace.fused.bytes_by_role()["output"]
    assert lost <= spared * (1 + 1e-12)


def test_weights_do_not_merge_into_a_product_of_two_activations():
    """A position bias added to scores would make the keys look like weights."""
    scores = {"layer": "a", "op": "scores", "kind": "matmul", "batch": 2, "m": 4, "n": 4, "k": 8, "matrix_flops": 512}
    scores |= {"input_bytes": 256, "output_bytes": 64}
    bias = {"layer": "a", "op": "bias", "kind": "elementwise", "vector_flops": 32, "weight_bytes": 64, "parameters": 16}
    bias |= {"input_bytes": 64, "output_bytes": 64}
    trace = Trace.from_rows([scores, bias])
    assert trace.fused is trace
    weighted = Trace.from_rows([scores | {"weight_bytes": 128, "parameters": 32}, bias])
    assert len(weighted.fused) == 1


# -- path length -------------------------------------------------------------------------------------


def mixing(back=0, ahead=0, **changes):
    return product(reach_back=back, reach_ahead=ahead, **changes)


def test_path_length_of_a_recurrence_is_its_distance():
    trace = lstm(1, 8, sequence_length=100)
    assert trace.path_length(0, 99) == 99
    assert trace.path_length(10, 13) == 3
    assert trace.path_length(5, 5) == 0
    assert trace.path_length(99, 0) == math.inf  # nothing looks ahead


def test_path_length_of_both_directions():
    trace = lstm(1, 8, sequence_length=100, bidirectional=True)
    assert trace.path_length(0, 99) == trace.path_length(99, 0) == 99


def test_path_length_of_attention_is_one():
    whole = Trace.from_rows([mixing(back=99, ahead=99)])
    assert whole.path_length(0, 99) == whole.path_length(99, 0) == whole.path_length(3, 4) == 1


def test_causal_attention_looks_back_only():
    causal = Trace.from_rows([mixing(back=99, repeats=12)])
    assert causal.path_length(0, 99) == 1
    assert causal.path_length(99, 0) == math.inf


def test_dilated_reaches_add_up():
    # dilations 1, 2, 4, 8 with kernel 2: 15 positions in 4 hops, the longest first
    dilated = Trace.from_rows([mixing(back=2**i) for i in range(4)])
    assert dilated.path_length(0, 15) == 4
    assert dilated.path_length(0, 8) == 1
    assert dilated.path_length(0, 9) == 2
    assert dilated.path_length(0, 16) == math.inf


def test_path_is_no_longer_than_the_runs_allow():
    window = Trace.from_rows([mixing(back=10, repeats=3)])
    assert window.path_length(0, 30) == 3
    assert window.path_length(0, 31) == math.inf


def test_only_the_forward_pass_counts():
    trace = training(Trace.from_rows([mixing(back=1)]), input_gradients=True)
    assert trace.path_length(1, 0) == math.inf


@pytest.mark.parametrize("position", [-1, 1.5, "end", None])
def test_path_length_needs_positions(position):
    trace = lstm(1, 8, sequence_length=10)
    with pytest.raises(TraceError, match="source must be a position of the sequence"):
        trace.path_length(position, 3)
    with pytest.raises(TraceError, match="target must be a position of the sequence"):
        trace.path_length(3, position)


# -- files -------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]), min_size=1)
any_name = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def renamed_traces(draw):
    """Random traces with awkward names: quotes, commas, semicolons, other alphabets; any name and metadata."""
    trace = draw(traces())
    changes = {c: [draw(texts) for _ in range(len(trace))] for c in ("layer", "op")}
    return trace.replace(
        **changes, name=draw(any_name), sequences=draw(st.integers(1, 2**62)), tokens=draw(st.integers(1, 2**62))
    )


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trace=renamed_traces())
def test_round_trip(tmp_path, form, trace):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"trace.{form}"
    assert trace.save(path) == path
    again = Trace.load(path)
    assert again == trace
    assert again.rows() == trace.rows()
    assert (again.name, again.sequences, again.tokens) == (trace.name, trace.sequences, trace.tokens)
    again.save(path)
    assert Trace.load(path) == trace
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing left beside it


@settings(max_examples=40, deadline=None)
@given(trace=renamed_traces())
def test_round_trip_of_frames(trace):
    frame = trace.to_frame()
    assert Trace.from_frame(frame, name=trace.name) == trace
    assert list(frame.columns) == [*list(SCHEMA)[: list(SCHEMA).index("weight_sets")], "shares_weights", "weight_sets",
                                   *list(SCHEMA)[list(SCHEMA).index("weight_sets") + 1 :]]  # fmt: skip
    assert (frame["shares_weights"].to_numpy() == trace.shares_weights).all()


def test_largest_numbers_survive(tmp_path):
    trace = Trace.from_rows([product(input_bytes=2**63 - 1, output_bytes=2**53 + 1)])
    for form in FORMS[:4]:
        assert Trace.load(trace.save(tmp_path / f"t.{form}")) == trace


def test_same_trace_same_bytes(tmp_path):
    trace = lstm(2, 8, sequence_length=10)
    first, second = (trace.save(tmp_path / f"{n}.csv.gz").read_bytes() for n in "ab")
    assert first == second
    assert gzip.decompress(first).decode().startswith("# rooftrace-trace {")


def test_csv_by_hand(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_text(
        "layer, op, kind, batch, m, n, k, matrix_flops, input_bytes, vector_flops\n"
        "a, product, matmul, 1, 8, 4, 6, 384, 192.0,\n"
        "\n"
        "a, relu, elementwise, , , , , , 1e3, 32\n"
    )
    with pytest.warns(AssumedSizes, match=r"hand\.csv: does not state sequences and tokens .*: 1 is assumed"):
        trace = Trace.load(path)
    assert trace.name == "hand"
    assert trace.input_bytes.tolist() == [192, 1000]
    assert trace.vector_flops.tolist() == [0, 32]
    assert trace.after == ((), (0,))
    assert trace.dtype.tolist() == ["fp32", "fp32"]
    assert (trace.sequences, trace.tokens) == (1, 1)


def test_csv_may_say_that_a_row_waits_for_nothing(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_text("layer,op,kind,input_bytes,after\na,x,copy,4,\na,y,copy,4,\na,z,copy,4,0;1\n", encoding="utf-8-sig")
    with pytest.warns(AssumedSizes):
        assert Trace.load(path).after == ((), (), (0, 1))


def test_json_by_hand(tmp_path):
    path = tmp_path / "hand.json"
    ops = [{"layer": "a", "op": "x", "kind": "copy", "input_bytes": 4}]
    path.write_text(json.dumps({"sequences": 2, "ops": ops}))
    with pytest.warns(AssumedSizes, match=r"hand\.json: does not state tokens: 1 is assumed"):
        trace = Trace.load(path)
    assert (trace.rows()[0]["input_bytes"], trace.sequences, trace.tokens) == (4, 2, 1)
    path.write_text(json.dumps({"sequences": 2, "tokens": 3, "ops": ops}))
    assert Trace.load(path).tokens == 3


@pytest.mark.parametrize("column", ["dtype", "weight_bytes", "after"])
def test_a_json_of_ours_that_lost_a_column_names_it(tmp_path, column):
    """What a table by hand may leave out, a file that `save` wrote has: gone, it is no default but damage."""
    path = Trace.from_rows([product(), relu()]).save(tmp_path / "ours.json")
    document = json.loads(path.read_text())
    del document["ops"][1][column]
    path.write_text(json.dumps(document))
    with pytest.raises(TraceError, match=rf"ours\.json: row 1: column '{column}' is missing"):
        Trace.load(path)


HEADER = "layer,op,kind,batch,m,n,k,matrix_flops,input_bytes\n"
GOOD = "a,product,matmul,1,8,4,6,384,192\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty: a header row is expected"),
        (HEADER, "the trace is empty"),
        (HEADER + GOOD + "a,product,matmul,1,8\n", "row 1: 5 cells where the header has 9"),
        (HEADER + "a,product,matmul,1,8,4,6,384,192,7\n", "row 0: 10 cells where the header has 9"),
        (HEADER + GOOD + GOOD.replace(",8,", ",eight,"), "row 1: m must be a whole number, got 'eight'"),
        (HEADER + GOOD.replace(",8,", ",-8,"), "row 0: m must be 0 or more, got -8"),
        (HEADER + GOOD.replace("192", "nan"), "row 0: input_bytes must be a whole number, got nan"),
        (HEADER + GOOD.replace("192", "inf"), "row 0: input_bytes must be a whole number, got inf"),
        (HEADER + GOOD + GOOD.replace(",6,", ",0,"), "row 1: k of a product must be 1 or more, got 0"),
        (HEADER + GOOD.replace(",6,", ",,"), "row 0: k of a product must be 1 or more, got 0"),
        (HEADER + GOOD.replace("matmul", "gemm"), r"row 0: unknown kind 'gemm'.*matmul"),
        (HEADER + GOOD.replace("product", ""), "row 0: op is missing or not text"),
        (HEADER.replace("batch", "bacth") + GOOD, r"unknown column 'bacth' \(did you mean 'batch'\?\)"),
        (HEADER.replace("layer,", "") + GOOD.replace("a,", "", 1), "column 'layer' is missing"),
        (HEADER.replace("n,k", "k,k") + GOOD, "column 'k' appears twice"),
        (HEADER + 'a,"product,matmul,1,8,4,6,384,192\n', "not valid csv"),
        (f'# rooftrace-trace {{"schema_version": {SCHEMA_VERSION + 1}}}\n' + HEADER + GOOD, "schema_version 2 is not"),
        ('# rooftrace-trace {"schema_version": 1\n' + HEADER + GOOD, "the comment line is not valid JSON"),
        ("# rooftrace-trace 7\n" + HEADER + GOOD, "the comment line must hold a JSON object, got 7"),
        ('# rooftrace-trace {"tokens": -4}\n' + HEADER + GOOD, "tokens must be a positive whole number, got -4"),
    ],
)
def test_broken_csv(tmp_path, text, message):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=message) as raised:
        Trace.load(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "not valid JSON"),
        (lambda text: "[1, 2]", "not a trace"),
        (lambda text: '{"ops": 3}', "not a trace"),
        (lambda text: '{"ops": [3]}', "row 0: an object is expected, got 3"),
        (lambda text: '{"ops": []}', "the trace is empty"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 99'), "schema_version 99 is not the 1"),
        (lambda text: text.replace('"m": 8', '"m": NaN'), "row 0: m must be a whole number, got nan"),
        (lambda text: text.replace('"m": 8', '"m": null'), "row 0: m must be a whole number, got None"),
        (lambda text: text.replace('"m": 8', '"m": [8]'), r"row 0: m must be a whole number, got \[8\]"),
        (lambda text: text.replace('"m": 8', '"mm": 8'), "unknown column 'mm'"),
        (lambda text: "[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_json(tmp_path, change, message):
    path = tmp_path / "broken.json"
    text = Trace.from_rows([product(), relu()]).save(path).read_text()
    path.write_text(change(text))
    with pytest.raises(TraceError, match=message) as raised:
        Trace.load(path)
    assert str(raised.value).startswith(str(path))


def test_unreadable_files(tmp_path):
    trace = Trace.from_rows([product()])
    with pytest.raises(TraceError, match=r"absent\.csv: no such file"):
        Trace.load(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match=r"a trace is a \.csv, \.json or \.parquet file"):
        Trace.load(tmp_path / "trace.xlsx")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TraceError, match=r"folder\.csv: cannot be read"):
        Trace.load(tmp_path / "folder.csv")
    (tmp_path / "latin.csv").write_bytes("layer,op\nä".encode("latin-1"))
    with pytest.raises(TraceError, match="not UTF-8 text"):
        Trace.load(tmp_path / "latin.csv")
    packed = trace.save(tmp_path / "t.json.gz")
    for broken in (packed.read_bytes()[:-20], b"plain text", packed.read_bytes()[:15] + b"\xff" * 60):
        packed.write_bytes(broken)
        with pytest.raises(TraceError, match=r"t\.json\.gz: cannot be read"):
            Trace.load(packed)


def test_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(TraceError, match="not a readable parquet file"):
        Trace.load(path)
    trace = Trace.from_rows([product()])
    frame = trace.to_frame().astype({"after": str})
    frame["after"] = ""
    frame.rename(columns={"m": "mm"}).to_parquet(path)
    with pytest.raises(TraceError, match=r"t\.parquet: unknown column 'mm'"):
        Trace.load(path)
    frame.attrs["schema_version"] = 99
    frame.to_parquet(path)
    with pytest.raises(TraceError, match="schema_version 99"):
        Trace.load(path)


def test_unwritable_places(tmp_path):
    trace = Trace.from_rows([product()])
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for place in (tmp_path / "absent" / "t.csv", tmp_path / "file" / "t.csv", tmp_path / "folder.csv"):
        with pytest.raises(TraceError, match="cannot be written"):
            trace.save(place)
    with pytest.raises(TraceError, match=r"a trace is a \.csv, \.json or \.parquet file"):
        trace.save(tmp_path / "t.txt")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder.csv"]


@pytest.mark.parametrize("form", ["csv", "json", "csv.gz"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, form):
    path = tmp_path / f"t.{form}"
    old = Trace.from_rows([product()], name="old")
    old.save(path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workloads.files.os.replace", full)
    with pytest.raises(TraceError, match=r"cannot be written \(No space left on device\)"):
        Trace.from_rows([relu()], name="new").save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert Trace.load(path) == old


# -- shown -------------------------------------------------------------------------------------------


def test_repr_and_html():
    trace = concatenate([linear(8, 4, 6), elementwise(32), matmul(4, 4, 4), softmax(4, 4)], name="small")
    assert repr(trace).startswith("Trace('small': 4 rows, 4 runs, ")
    html = trace._repr_html_()
    assert "<table" in html
    assert "softmax" in html
