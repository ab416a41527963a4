"""Profiles: files made by hand, whose rows and times are known, and recordings of real modules (marked torch)."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from reports import ReportError
from reports.measured import compare_rows, compare_table, measured_points
from simulator import simulate
from workloads import TraceError, conv2d, embedding, encoder_block, linear, lstm, normalisation, pool2d
from workloads.importers.profile import from_profile
from workloads.importers.uncosted import UncostedOperator

F, H, LONG, S, TENSORS = "float", "c10::BFloat16", "long int", "Scalar", "TensorList"


def op(name, start, length, dims=(), types=None, values=None, identity=None, thread=1):
    """A complete event of an operator; times in microseconds."""
    types = [F if shape else S for shape in dims] if types is None else types
    given = {"Input Dims": list(dims), "Input type": list(types), "Concrete Inputs": list(values or [""] * len(dims))}
    given |= {} if identity is None else {"External id": identity}
    return {
        "ph": "X",
        "cat": "cpu_op",
        "name": name,
        "pid": 1,
        "tid": thread,
        "ts": start,
        "dur": length,
        "args": given,
    }


def event(category, name, start, length, **given):
    return {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": 1, "ts": start, "dur": length, "args": given}


def addmm(start, length, m=4, k=8, n=16, **settings):
    return op("aten::addmm", start, length, [[n], [m, k], [k, n], [], []], **settings)


@pytest.fixture
def write(tmp_path):
    def write(events, name="net.pt.trace.json"):
        path = tmp_path / name
        text = events if isinstance(events, str) else json.dumps({"schemaVersion": 1, "traceEvents": events})
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def work(trace, row=0):
    """What a row costs, without its labels."""
    labels = ("layer", "op", "after", "repeats", "path_runs", "weight_sets", "serial_steps")
    return {column: value for column, value in trace.rows()[row].items() if column not in labels}


# -- whose time --------------------------------------------------------------------------------------


def test_the_outermost_operator_with_a_cost_takes_the_time_of_all_it_calls(write):
    events = [
        op("aten::linear", 0, 100, [[4, 8], [16, 8], [16]]),
        op("aten::t", 1, 2, [[16, 8]]),
        addmm(5, 90),
        op("aten::copy_", 6, 10, [[4, 16], [4, 16], []]),
    ]
    profile = from_profile(write(events))
    assert len(profile.trace) == 1
    assert work(profile.trace) == work(linear(4, 16, 8))
    assert profile.measured_s[0] == pytest.approx(100e-6, rel=1e-12)
    assert profile.attributed == 1
    assert profile.device == "cpu"


def test_a_wrapper_of_one_operator_gives_it_its_own_time(write):
    events = [
        op("aten::matmul", 0, 50, [[4, 8], [8, 16]]),
        op("aten::reshape", 1, 2, [[4, 8], []]),
        op("aten::mm", 5, 30, [[4, 8], [8, 16]]),
    ]
    profile = from_profile(write(events))
    assert work(profile.trace) == work(linear(4, 16, 8, bias=False))
    assert profile.op_s[0] == pytest.approx(50e-6, rel=1e-12)
    assert profile.trace.layer[0] == "matmul"


def test_time_of_nobody_is_listed(write):
    events = [
        op("aten::_native_multi_head_attention", 0, 100, [[4, 8]]),
        op("aten::mm", 10, 40, [[4, 8], [8, 16]]),
        op("aten::t", 50, 5, [[8, 16]]),
        op("aten::bmm", 55, 40, [[2, 4, 8], [2, 8, 4]]),
        op("aten::view", 200, 20, [[4, 8], []]),
    ]
    profile = from_profile(write(events))
    assert profile.total_s == pytest.approx(120e-6, rel=1e-12)
    assert profile.attributed == pytest.approx(80 / 120, rel=1e-12)
    lost = {name: 1e6 * seconds for name, seconds in profile.unattributed.items()}
    assert list(lost) == ["aten::view", "aten::_native_multi_head_attention", "aten::t"]
    assert list(lost.values()) == pytest.approx([20, 15, 5], rel=1e-9)


def test_threads_do_not_nest_in_each_other(write):
    profile = from_profile(write([addmm(0, 100), addmm(10, 50, n=32, thread=2)]))
    assert profile.op_s == pytest.approx([100e-6, 50e-6], rel=1e-12)


def test_mixed_precision_counts_the_inner_call_and_its_casts(write):
    shapes = [[4, 8], [16, 8], []]
    events = [
        op("aten::linear", 0, 100, shapes, [F, F, ""]),
        op("aten::to", 1, 20, [[16, 8], []]),
        op("aten::_to_copy", 2, 18, [[16, 8], []]),
        op("aten::copy_", 3, 10, [[16, 8], [16, 8], []], [H, F, S]),
        op("aten::linear", 30, 60, shapes, [H, H, ""]),
    ]
    profile = from_profile(write(events))
    cast, product = profile.trace.rows()
    assert (cast["input_bytes"], cast["output_bytes"]) == (4 * 128, 2 * 128)
    assert (product["dtype"], product["matrix_flops"]) == ("bf16", 2 * 4 * 16 * 8)
    assert profile.op_s == pytest.approx([20e-6, 60e-6], rel=1e-12)


# -- folding -----------------------------------------------------------------------------------------


def test_equal_operators_fold_and_their_times_make_one(write):
    events = [addmm(0, 10), addmm(20, 40), addmm(100, 10), addmm(200, 7, types=[H, H, H, S, S])]
    median = from_profile(write(events))
    assert median.trace.repeats.tolist() == [3, 1]
    assert median.trace.weight_sets.tolist() == [3, 1]
    assert median.trace.dtype.tolist() == ["fp32", "bf16"]
    assert median.op_s == pytest.approx([10e-6, 7e-6], rel=1e-12)
    assert median.op_runs.tolist() == [3, 1]
    mean = from_profile(write(events), statistic="mean")
    assert mean.op_s == pytest.approx([20e-6, 7e-6], rel=1e-12)
    assert mean.measured_total_s.sum() == pytest.approx(mean.total_s, rel=1e-12)


def test_executions_divide_the_runs(write):
    events = [addmm(100 * i, 10) for i in range(6)] + [op("aten::relu", 900 + 9 * i, 5, [[4, 16]]) for i in range(3)]
    assert from_profile(write(events), executions=3).trace.repeats.tolist() == [2, 1]
    with pytest.raises(TraceError, match=r"executions must divide .* got 2: aten::relu \(4x16\) ran 3 times"):
        from_profile(write(events), executions=2)
    steps = [event("user_annotation", f"ProfilerStep#{i}", 0, 1) for i in range(3)]
    stepped = from_profile(write(events + steps))
    assert stepped.executions == 3
    assert stepped.trace.repeats.tolist() == [2, 1]
    assert from_profile(write([*events, addmm(990, 1), *steps])).executions == 1


def test_record_function_names_the_layer(write):
    events = [addmm(10, 10), addmm(60, 10), event("user_annotation", "encoder", 50, 30)]
    assert from_profile(write(events)).trace.layer.tolist() == ["addmm", "encoder"]


def test_rows_run_in_program_order(write):
    profile = from_profile(write([op("aten::relu", 50, 5, [[4, 16]]), addmm(0, 10)]))
    assert profile.trace.op.tolist() == ["product 16 4x8", "relu 4x16"]
    assert profile.trace.after == ((), (0,))


# -- rows of operators, against the builders ---------------------------------------------------------


def only_row(write, *arguments, **settings):
    return work(from_profile(write([op(*arguments, **settings)])).trace)


def test_convolution(write):
    dims = [[2, 4, 9, 10], [6, 2, 3, 3], [6], [], [], [], [], [], []]
    values = ["", "", "", "[2, 1]", "[1, 0]", "[1, 1]", "False", "[0, 0]", "2"]
    row = only_row(write, "aten::convolution", 0, 9, dims, values=values)
    built = conv2d(4, 6, 9, 10, 3, stride=(2, 1), padding=(1, 0), groups=2, batch=2)
    assert row == work(built)


def test_transposed_convolution(write):
    dims = [[2, 4, 5, 5], [4, 6, 3, 3], [], [], [], [], [], [], []]
    values = ["", "", "", "[2, 2]", "[1, 1]", "[1, 1]", "True", "[1, 1]", "1"]
    types = [F, F, "", S, S, S, S, S, S]
    row = only_row(write, "aten::convolution", 0, 9, dims, types=types, values=values)
    assert row["matrix_flops"] == 2 * 2 * 25 * 4 * 6 * 9  # every input meets every tap
    assert row["output_bytes"] == 4 * 2 * 6 * 10 * 10  # (5 - 1) 2 - 2 + 2 + 1 + 1


def test_norm_embedding_and_pooling_equal_the_builders(write):
    dims = [[2, 3, 8], [], [8], [8], []]
    row = only_row(write, "aten::native_layer_norm", 0, 9, dims, values=["", "[8]", "", "", "1e-5"])
    assert row == work(normalisation(6, 8))
    row = only_row(write, "aten::embedding", 0, 9, [[100, 8], [2, 3]], types=[F, "int"])
    assert row == work(embedding(6, 100, 8))
    values = ["", "[3, 3]", "[2, 2]", "[1, 1]", "[1, 1]", "False"]
    row = only_row(write, "aten::max_pool2d", 0, 9, [[2, 4, 8, 8], [], [], [], [], []], values=values)
    assert row == work(pool2d(4, 8, 8, 3, stride=2, padding=1, batch=2))


def test_causal_attention_counts_visible_pairs(write):
    dims = [[2, 8, 16, 32], [2, 2, 16, 32], [2, 2, 16, 32], [], []]
    row = only_row(write, "aten::_scaled_dot_product_flash_attention", 0, 9, dims, values=["", "", "", "0.", "True"])
    assert row["kind"] == "attention"
    assert (row["batch"], row["m"], row["n"], row["k"]) == (4, 64, 64, 16)
    assert row["matrix_flops"] == 2 * 2 * 8 * (16 * 17 // 2) * 64


def test_elementwise_reductions_and_concatenation(write):
    row = only_row(write, "aten::mul", 0, 9, [[4, 1, 8], [3, 8]])
    assert (row["vector_flops"], row["input_bytes"], row["output_bytes"]) == (96, 4 * (32 + 24), 4 * 96)
    row = only_row(write, "aten::sum", 0, 9, [[4, 6, 8], [], []], values=["", "[-1]", "True"])
    assert (row["vector_flops"], row["output_bytes"]) == (192, 4 * 24)
    row = only_row(write, "aten::cat", 0, 9, [[[4, 8], [2, 8]], []], types=[TENSORS, S])
    assert (row["kind"], row["input_bytes"], row["output_bytes"]) == ("copy", 4 * 48, 4 * 48)
    row = only_row(write, "aten::fill_", 0, 9, [[4, 8], []])
    assert (row["input_bytes"], row["output_bytes"]) == (0, 4 * 32)
    row = only_row(write, "aten::add_", 0, 9, [[4, 8], [4, 8], []], types=[LONG, LONG, S])
    assert (row["input_bytes"], row["output_bytes"]) == (8 * 64, 8 * 32)


def test_product_with_activation_is_two_rows_measured_as_one(write):
    dims = [[16], [4, 8], [8, 16], [], [], []]
    profile = from_profile(write([op("aten::_addmm_activation", 0, 30, dims, values=["", "", "", "1", "1", "True"])]))
    assert profile.op.tolist() == [0, 0]
    assert profile.trace.special_ops.tolist() == [0, 64]
    assert profile.measured_total_s.sum() == pytest.approx(30e-6, rel=1e-12)
    work_done = profile.trace.flops
    assert profile.measured_s == pytest.approx(30e-6 * work_done / work_done.sum(), rel=1e-12)


def lstm_event(start, length, batch_first=False):
    state = [[2, 3, 16], [2, 3, 16]]
    x = [3, 5, 8] if batch_first else [5, 3, 8]
    values = ["", "", "", "True", "1", "0.", "False", "True", str(batch_first)]
    types = [F, TENSORS, TENSORS, *[S] * 6]
    return op("aten::lstm", start, length, [x, state, [], [], [], [], [], [], []], types, values)


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_lstm_is_one_recurrence(write, batch_first):
    profile = from_profile(write([lstm_event(0, 700, batch_first), lstm_event(1000, 900, batch_first)]), executions=2)
    built = lstm(1, 16, sequence_length=5, batch=3, input_size=8, bidirectional=True)
    assert profile.trace.rows() == built.rows()
    assert set(profile.op.tolist()) == {0}
    assert profile.op_s[0] == pytest.approx(800e-6, rel=1e-12)
    assert profile.measured_total_s.sum() == pytest.approx(800e-6, rel=1e-12)


def test_runs_of_a_cell_are_steps_of_one_recurrence(write):
    dims = [[3, 8], [[3, 16], [3, 16]], [64, 8], [64, 16], [64], [64]]
    types = [F, TENSORS, F, F, F, F]
    events = [op("aten::lstm_cell", 100 * i, 50, dims, types) for i in range(5)]
    trace = from_profile(write(events)).trace
    assert trace.serial_steps.tolist() == [5, 5, 5]
    assert trace.total_parameters == 64 * (8 + 16) + 128
    assert trace.total_matrix_flops == 5 * 2 * 3 * 64 * (8 + 16)


def test_gradients_have_their_phase_and_no_parameters(write):
    events = [
        op("autograd::engine::evaluate_function: AddmmBackward0", 0, 100),
        op("AddmmBackward0", 5, 90, [[4, 16]]),
        op("aten::mm", 10, 80, [[4, 16], [16, 8]]),
    ]
    trace = from_profile(write(events)).trace
    assert trace.phase[0] == "input-gradient"
    assert trace.total_parameters == 0
    assert trace.matrix_flops[0] == 2 * 4 * 8 * 16


# -- unknown operators -------------------------------------------------------------------------------


def test_unknown_operators_keep_their_bytes_and_are_reported(write):
    path = write([addmm(0, 60), op("mine::fancy", 100, 40, [[4, 8], [8]])])
    with pytest.warns(UncostedOperator, match=r"mine::fancy \(4x8 8\) has no known cost: 1 runs"):
        profile = from_profile(path)
    assert profile.trace.kind.tolist() == ["matmul", "copy"]
    assert profile.trace.op[1].startswith("unknown: mine::fancy")
    assert profile.trace.input_bytes[1] == 4 * (32 + 8)
    assert profile.attributed == pytest.approx(0.6, rel=1e-12)
    assert profile.unattributed == {"mine::fancy": pytest.approx(40e-6, rel=1e-9)}
    with pytest.raises(TraceError, match="mine::fancy"):
        from_profile(path, strict=True)


def test_an_operator_that_does_its_own_work_is_not_taken_for_a_wrapper(write):
    events = [op("aten::new_thing", 0, 100, [[64, 8]]), op("aten::add", 10, 5, [[64], [64], []])]
    with pytest.warns(UncostedOperator, match="aten::new_thing"):
        profile = from_profile(write(events))
    assert profile.attributed == 0


def test_recorded_values_are_never_executed(write):
    values = ["", "__import__('os').abort()", "", ""]
    with pytest.warns(UncostedOperator, match="no known cost"):
        from_profile(write([op("aten::max_pool2d_with_indices", 0, 9, [[1, 1, 4, 4], [], [], []], values=values)]))


# -- GPU ---------------------------------------------------------------------------------------------


def gpu_events():
    return [
        op("aten::linear", 0, 100, [[4, 8], [16, 8], [16]], identity=1),
        addmm(5, 90, identity=2),
        event("cuda_runtime", "cudaLaunchKernel", 20, 5, **{"External id": 2, "correlation": 71}),
        event("kernel", "gemm", 500, 11, **{"External id": 2, "correlation": 71, "stream": 7}),
        event("kernel", "splitKreduce", 512, 4, correlation=71),
        op("aten::relu", 200, 30, [[4, 16]], identity=3),
        event("cuda_runtime", "cudaLaunchKernel", 210, 5, correlation=72),
        event("kernel", "relu_kernel", 520, 3, correlation=72),
        op("aten::view", 300, 50, [[4, 16], []], identity=4),
        event("kernel", "lost_kernel", 530, 2, **{"External id": 99, "correlation": 99}),
    ]


def test_kernels_give_the_time_of_the_operator_that_launched_them(write):
    profile = from_profile(write(gpu_events(), "gpu.json.gz"))
    assert profile.device == "gpu"
    assert profile.op_s == pytest.approx([15e-6, 3e-6], rel=1e-12)
    assert profile.total_s == pytest.approx(20e-6, rel=1e-12)
    assert profile.attributed == pytest.approx(0.9, rel=1e-12)
    assert profile.unattributed == {"lost_kernel": pytest.approx(2e-6)}
    assert work(profile.trace) == work(linear(4, 16, 8))


def test_a_launch_without_an_id_belongs_to_its_own_thread(write):
    launch = event("cuda_runtime", "cudaLaunchKernel", 20, 5, correlation=5) | {"tid": 2}
    events = [addmm(0, 100, identity=1), addmm(0, 90, n=32, identity=2, thread=2), launch]
    profile = from_profile(write([*events, event("kernel", "gemm", 300, 8, correlation=5)]))
    assert profile.trace.n.tolist() == [32]
    assert profile.op_s == pytest.approx([8e-6], rel=1e-12)


# -- bad files ---------------------------------------------------------------------------------------


def without_shapes():
    bare = addmm(0, 10)
    bare["args"] = {"External id": 1}
    return [bare]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without_shapes(), "a profile without shapes: record it with record_shapes=True"),
        ([], "no operators"),
        ([event("kernel", "gemm", 0, 1)], "no operators"),
        ("{", "not valid JSON, or cut short"),
        ('{"traceEvents": [{"ph": "X", "ts": NaN}]}', "not valid JSON"),
        ('{"ops": []}', "a list 'traceEvents' is expected"),
        ("3", "a list 'traceEvents' is expected"),
        ("[3]", "event 0: an object is expected, got 3"),
        ([addmm("soon", 10)], "event 0: 'ts' must be a number, got 'soon'"),
        ([addmm(0, -1)], "event 0: 'dur' must not be negative, got -1"),
        ([addmm(0, None)], "event 0: 'dur' must be a number, got None"),
        ([addmm(0, 1) | {"name": 7}], "event 0: 'name' must be text, got 7"),
        ([addmm(0, 1), addmm(2, 1) | {"args": {"Input Dims": 5}}], "event 1 .*: 'Input Dims' must be a list, got 5"),
        ([op("aten::view", 0, 5, [[4], []])], "no operator with shapes took any time"),
    ],
)
def test_bad_profiles_are_named(write, content, message):
    with pytest.raises(TraceError, match=message) as found:
        from_profile(write(content))
    assert "net.pt.trace.json" in str(found.value)


def test_truncated_and_missing_files(write, tmp_path):
    path = write([addmm(0, 10)], "cut.json.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(TraceError, match=r"cut\.json\.gz: cannot be read"):
        from_profile(path)
    path = write([addmm(0, 10)], "cut.json")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(TraceError, match=r"cut\.json: not valid JSON, or cut short"):
        from_profile(path)
    with pytest.raises(TraceError, match="no such file"):
        from_profile(tmp_path / "none.json")
    with pytest.raises(TraceError, match=r"statistic: unknown 'meen'.*'mean'"):
        from_profile(write([addmm(0, 10)]), statistic="meen")
    with pytest.raises(TraceError, match="executions must be a whole number of 1 or more, got 0"):
        from_profile(write([addmm(0, 10)]), executions=0)


@pytest.mark.parametrize("dims", [[["x"], [4, 8]], [[4, 8], None], [[[[]]]], [[4, -8]], [[4.5]], [[True]], ["48"]])
def test_sizes_that_are_none_are_named(write, dims):
    with pytest.raises(TraceError, match=r"event 1 \(aten::addmm\): 'Input Dims' must hold lists of sizes"):
        from_profile(write([addmm(0, 10), op("aten::addmm", 20, 10, dims, types=[F] * len(dims))]))


@pytest.mark.parametrize("dims", [[[4, 8]], [[4], [8]], [[4], [4, 8], [2]], [[16], [4, 0], [0, 16]], [[4], [8], []]])
def test_sizes_of_another_operator_are_unknown_work(write, dims):
    events = [addmm(0, 10), op("aten::addmm", 20, 10, dims, types=[F] * len(dims))]
    with pytest.warns(UncostedOperator, match="aten::addmm"):
        profile = from_profile(write(events))
    assert profile.attributed == pytest.approx(0.5, rel=1e-12)


def test_an_operator_without_tensors_has_time_and_no_row(write):
    profile = from_profile(write([addmm(0, 10), op("aten::mystery", 20, 10, [[]])]))
    assert len(profile.trace) == 1
    assert profile.unattributed == {"aten::mystery": pytest.approx(10e-6)}


# -- Nsight Compute ----------------------------------------------------------------------------------

RAW = """==PROF== Connected to process 1 (python)
"ID","Kernel Name","Device","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum","{fma}","{tensor}"
"","","","Mbyte","byte","us","inst","inst"
"0","void gemm<int, (bool)1>(float const*, int)","0","1.5","2,048","40","1,000","6,000"
"1","void gemm<int, (bool)1>(float const*, int)","0","1.5","2,048","60","1,000","6,000"
"2","copy_kernel","0","1","1,000,000","20","0","0"
==PROF== Disconnected
""".format(fma="sm__sass_thread_inst_executed_op_ffma_pred_on.sum", tensor="sm__ops_path_tensor_src_fp16_dst_fp32.sum")

DETAILS = """"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","9","gemm","gpu__time_duration.sum","nsecond","40,000"
"0","9","gemm","dram__bytes.sum","Kbyte","1,500"
"0","9","gemm","sm__sass_thread_inst_executed_op_fadd_pred_on.sum","inst","7"
"0","9","gemm","SM Frequency","cycle/nsecond","1.2"
"1","9","copy","gpu__time_duration.sum","ms","0.5"
"1","9","copy","dram__bytes.sum","byte","64"
"""


def test_nsight_raw_page(write):
    profile = from_profile(write(RAW, "ncu.csv"))
    trace = profile.trace
    assert trace.layer.tolist() == ["gemm", "copy_kernel"]
    assert trace.repeats.tolist() == [2, 1]
    assert profile.op_s == pytest.approx([50e-6, 20e-6], rel=1e-12)
    assert trace.input_bytes.tolist() == [1_500_000, 1_000_000]
    assert trace.output_bytes.tolist() == [2048, 1_000_000]
    assert trace.vector_flops.tolist() == [2 * 1000 + 6000, 0]
    assert trace.dtype[0] == "fp16"
    points = measured_points(profile)
    assert points.intensity == pytest.approx([8000 / 1_502_048], rel=1e-12)
    assert points.attained_flops_per_s == pytest.approx([8000 / 50e-6], rel=1e-12)


def test_nsight_details_page(write):
    profile = from_profile(write(DETAILS, "ncu.csv.gz"))
    assert profile.op_s == pytest.approx([40e-6, 500e-6], rel=1e-12)
    assert profile.trace.input_bytes.tolist() == [1_500_000, 64]
    assert profile.trace.vector_flops.tolist() == [7, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c\n1,2,3\n", "not an export of Nsight Compute: no header with 'Kernel Name'"),
        (RAW.replace("gpu__time_duration.sum", "other"), "column 'gpu__time_duration.sum' is missing"),
        (RAW.replace('"us"', '"fortnight"'), "line 4: gpu__time_duration.sum: unknown unit 'fortnight'"),
        (RAW.replace('"2,048"', '"2.0.4"'), "line 4: dram__bytes_write.sum: a number is expected, got '2.0.4'"),
        (RAW.replace('"1.5"', '"-1"'), "must be finite and not negative, got '-1'"),
        (RAW.replace('"40"', '"n/a"'), "line 4: .*gpu__time_duration.sum is missing"),
        (RAW.replace(',"0","0"\n', ',"0"\n'), "line 6: 7 cells where the header has 8"),
        (DETAILS.replace('"Metric Unit",', '"Unit",'), "'Metric Name' needs the columns"),
        (DETAILS.splitlines()[0], "no kernels below the header"),
        (DETAILS.replace('"64"', '"0"'), "copy: neither bytes nor operations"),
    ],
)
def test_bad_nsight_exports_are_named(write, content, message):
    with pytest.raises(TraceError, match=message) as found:
        from_profile(write(content, "ncu.csv"))
    assert "ncu.csv" in str(found.value)


# -- beside predictions ------------------------------------------------------------------------------


def test_frame_and_repr(write):
    profile = from_profile(write([addmm(0, 10), addmm(20, 30)]))
    frame = profile.to_frame()
    assert frame["measured_s"].tolist() == pytest.approx([20e-6])
    assert frame["measured_total_s"].tolist() == pytest.approx([40e-6])
    assert frame["measured_op"].tolist() == ["aten::addmm 16 4x8"]
    assert frame["recorded_runs"].tolist() == [2]
    assert "1 ops on cpu" in repr(profile)
    assert not profile.measured_s.flags.writeable


def test_points_have_the_bytes_of_the_prediction(write, blocked):
    profile = from_profile(write([lstm_event(0, 700), op("aten::relu", 800, 10, [[64]])]))
    result = simulate(profile.trace, blocked)
    plain, placed = measured_points(profile), measured_points(profile, result)
    trace = profile.trace
    flops = np.where(trace.is_product, trace.matrix_flops, trace.vector_flops + trace.special_ops) * trace.repeats
    first = profile.op == 0
    assert plain.attained_flops_per_s[0] == pytest.approx(flops[first].sum() / 700e-6, rel=1e-12)
    assert plain.intensity[0] == pytest.approx(flops[first].sum() / (trace.bytes * trace.repeats)[first].sum())
    moved = (result.traffic_bytes["dram"] * trace.repeats)[first].sum()
    assert placed.intensity[0] == pytest.approx(flops[first].sum() / moved, rel=1e-12)
    assert plain.share.sum() == pytest.approx(1, rel=1e-12)


def test_comparison_adds_up_the_rows_of_an_operator(write, blocked):
    profile = from_profile(write([lstm_event(0, 700), lstm_event(800, 700), op("aten::relu", 1800, 10, [[64]])]))
    result = simulate(profile.trace, blocked)
    first, second = compare_rows(profile, result)
    assert first["op"].startswith("aten::lstm")
    assert first["predicted_s"] == pytest.approx(result.total_s[profile.op == 0].sum() / 2, rel=1e-12)
    assert first["predicted_over_measured"] == pytest.approx(first["predicted_s"] / 700e-6, rel=1e-12)
    assert second["predicted_s"] == pytest.approx(result.time_s[-1], rel=1e-12)
    assert (first["runs"], first["recorded_runs"]) == (2, 2)
    text = compare_table(profile, result, top=1)
    assert "700 us" in text
    assert len(text.splitlines()) == 2
    with pytest.raises(ReportError, match="top must be 1 or more"):
        compare_table(profile, result, top=0)


def test_comparison_refuses_another_trace(write, blocked, systolic):
    profile = from_profile(write([addmm(0, 10, types=[H, H, H, S, S]), op("aten::relu", 20, 9, [[4, 16]], [H])]))
    other = from_profile(write([addmm(0, 10)])).trace
    with pytest.raises(ReportError, match="not of the profile's trace"):
        compare_rows(profile, simulate(other, blocked))
    fused = profile.trace.replace(dtype=["fp16", "fp16"], weight_dtype=["fp16"] * 2, activation_dtype=["fp16"] * 2)
    with pytest.raises(ReportError, match="merges elementwise work"):
        compare_rows(profile, simulate(fused, systolic))


# -- recordings of real modules ----------------------------------------------------------------------


def record(path, module, x, runs=3):
    """A profile of a few executions, after one to warm up."""
    torch = pytest.importorskip("torch", reason="records profiles with PyTorch")
    with torch.no_grad():
        module(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(runs):
                module(x)
    profiler.export_chrome_trace(str(path))
    return path


def recorded(path, module, x, tries=5):
    """The profile of a recording that no other process disturbed: time lost to others is in no operator with a cost.

    What cannot be attributed stays so in every recording."""
    profiles = []
    for number in range(tries):
        profiles.append(from_profile(record(path.with_name(f"{number}{path.name}"), module, x), executions=3))
        if profiles[-1].attributed >= 0.95:
            break
    return max(profiles, key=lambda profile: profile.attributed)


@pytest.mark.torch
def test_a_recorded_lstm_is_the_builders(tmp_path):
    torch = pytest.importorskip("torch", reason="records profiles with PyTorch")
    torch.manual_seed(0)
    module = torch.nn.LSTM(64, 128, 2, bidirectional=True).eval()
    profile = recorded(tmp_path / "lstm.json", module, torch.randn(35, 8, 64))
    assert profile.attributed >= 0.95
    built = lstm(2, 128, sequence_length=35, batch=8, input_size=64, bidirectional=True)
    rows = [work(profile.trace, i) for i in range(len(profile.trace)) if profile.trace.layer[i].startswith("lstm")]
    assert rows == [work(built, i) for i in range(len(built))]
    assert profile.trace.total_parameters == sum(p.numel() for p in module.parameters())
    assert (profile.measured_s > 0).all()


@pytest.mark.torch
@pytest.mark.parametrize("training", [False, True])  # the fast path, and separate operators
def test_a_recorded_encoder_has_the_products_of_the_builder(tmp_path, training):
    torch = pytest.importorskip("torch", reason="records profiles with PyTorch")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    module = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    profile = recorded(tmp_path / "encoder.json", module, torch.randn(8, 128, 128))
    assert profile.attributed >= 0.95
    built = encoder_block(128, 4, 512, sequence_length=128, batch=8, pre_norm=False, activation="relu") * 2
    assert profile.trace.total_matrix_flops == built.total_matrix_flops
    sizes = {(m, n, k) for m, n, k, kind in zip(*(profile.trace.columns[c] for c in "mnk"), profile.trace.kind,
                                                strict=True) if kind == "matmul"}  # fmt: skip
    assert {(1024, 384, 128), (1024, 128, 128), (1024, 512, 128), (1024, 128, 512)} <= sizes


@pytest.mark.torch
def test_a_recorded_cell_loop_and_convolutions(tmp_path):
    torch = pytest.importorskip("torch", reason="records profiles with PyTorch")
    cell = torch.nn.LSTMCell(32, 64)

    def loop(x):
        h = c = torch.zeros(x.shape[1], 64)
        for step in x:
            h, c = cell(step, (h, c))

    trace = from_profile(record(tmp_path / "cell.json", loop, torch.randn(10, 4, 32), runs=1)).trace
    assert trace.total_matrix_flops == 10 * 2 * 4 * 256 * (32 + 64)
    assert trace.total_parameters == sum(p.numel() for p in cell.parameters())
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                              torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, 16, 3, stride=2, groups=2))  # fmt: skip
    profile = from_profile(record(tmp_path / "conv.json", net.eval(), torch.randn(2, 3, 32, 32), runs=1), strict=True)
    assert profile.trace.total_matrix_flops == 2 * 2 * 1024 * 8 * 27 + 2 * 2 * 49 * 16 * 36
    assert profile.trace.kind.tolist() == ["convolution", "normalisation", "elementwise", "elementwise", "convolution"]


@pytest.mark.torch
def test_a_profile_recorded_without_shapes_says_how_to_record_it(tmp_path):
    torch = pytest.importorskip("torch", reason="records profiles with PyTorch")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(4) + 1
    profiler.export_chrome_trace(str(tmp_path / "bare.json"))
    with pytest.raises(TraceError, match="record_shapes=True"):
        from_profile(tmp_path / "bare.json")


@pytest.mark.torch
def test_a_recording_has_the_products_of_the_module_import(tmp_path):
    torch = pytest.importorskip("torch", reason="records profiles with PyTorch")
    from workloads.importers import from_torch

    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for module, x in ((encoder, torch.randn(2, 16, 64)), (torch.nn.LSTM(16, 32, 2), torch.randn(5, 3, 16))):
        recorded = from_profile(record(tmp_path / "module.json", module, x), executions=3).trace
        assert products(recorded) == products(from_torch(module, x))


def products(trace):
    """Runs of every size of product in a trace."""
    found: dict[tuple, int] = {}
    for row in trace.rows():
        if row["matrix_flops"]:
            size = tuple(row[column] for column in ("kind", "batch", "m", "n", "k", "matrix_flops", "serial_steps"))
            found[size] = found.get(size, 0) + row["repeats"]
    return found
