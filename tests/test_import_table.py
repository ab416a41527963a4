"""Tables of layers: our own files, and SCALE-Sim topologies against counts worked out by hand."""

from __future__ import annotations

import gzip

import pytest

from workloads import Trace, TraceError, conv2d, linear
from workloads.importers.table import from_table
from workloads.schema import AssumedSizes

HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,"


@pytest.fixture
def write(tmp_path):
    def write(text, name="net.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


# -- our own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.csv.gz", "t.json.gz", "t.parquet"])
def test_own_tables_come_back_as_saved(tmp_path, name):
    trace = linear(4, 8, 16, dtype="fp16") * 3
    assert from_table(trace.save(tmp_path / name)) == trace
    assert from_table(tmp_path / name, name="other").name == "other"


def test_a_table_by_hand_needs_layer_op_and_kind_only(write):
    with pytest.warns(AssumedSizes, match=r"net\.csv: does not state sequences and tokens"):
        trace = from_table(write("layer,op,kind,input_bytes\na,move,copy,8\n"))
    assert (trace.kind[0], trace.input_bytes[0]) == ("copy", 8)


def test_own_tables_take_no_element_type(write):
    with pytest.raises(TraceError, match=r"net\.csv: dtype 'fp16' does not apply"):
        from_table(write("layer,op,kind,input_bytes\na,move,copy,8\n"), dtype="fp16")


def test_a_misspelt_column_of_ours_is_named(write):
    with pytest.raises(TraceError, match=r"unknown column 'input_byts'.*'input_bytes'"):
        from_table(write("layer,op,kind,input_byts\na,move,copy,8\n"))


# -- gemm ------------------------------------------------------------------------------------------


def test_gemm_rows_are_products_with_weights(write):
    trace = from_table(write("Layer,M,N,K\nfirst,32,2048,1024\nsecond,32,512,2048\n"), dtype="fp16")
    assert trace.layer.tolist() == ["first", "second"]
    assert trace.matrix_flops.tolist() == [2 * 32 * 2048 * 1024, 2 * 32 * 512 * 2048]
    assert trace.weight_bytes.tolist() == [2 * 2048 * 1024, 2 * 512 * 2048]
    assert trace.input_bytes.tolist() == [2 * 32 * 1024, 2 * 32 * 2048]
    assert trace.output_bytes.tolist() == [2 * 32 * 2048, 2 * 32 * 512]
    assert trace.after == ((), (0,))
    assert set(trace.dtype) == {"fp16"}


def test_gemm_equals_the_builder(write):
    trace = from_table(write("Layer, K, N, M,\nproduct, 4, 3, 2,\n"), weight_dtype="int8")
    built = linear(2, 3, 4, bias=False, weight_dtype="int8", layer="product")
    assert trace.rows() == built.rows()


def test_batch_multiplies_rows(write):
    text = "Layer,M,N,K\na,2,3,4\n"
    assert from_table(write(text), batch=8).m[0] == 16
    assert from_table(write("Layer,M,N,K,Batch Size\na,2,3,4,8\n")).m[0] == 16
    assert from_table(write("Layer,M,N,K,Batch Size\na,2,3,4,8\n")).sequences == 8
    with pytest.raises(TraceError, match="batch 8 does not apply"):
        from_table(write("Layer,M,N,K,Batch Size\na,2,3,4,8\n"), batch=8)


def test_equal_neighbours_fold_without_changing_totals(write):
    lines = [f"ff_{i},4,5,6" for i in range(1, 25)] + ["head,4,9,6", "x,4,5,6", "y,4,5,6"]
    trace = from_table(write("Layer,M,N,K\n" + "\n".join(lines)))
    assert trace.layer.tolist() == ["ff_1-24", "head", "x to y"]
    assert trace.repeats.tolist() == [24, 1, 2]
    assert trace.total_matrix_flops == 26 * 2 * 4 * 5 * 6 + 2 * 4 * 9 * 6
    assert trace.total_parameters == 26 * 5 * 6 + 9 * 6


# -- convolution -----------------------------------------------------------------------------------


def test_convolution_by_hand(write):
    trace = from_table(write(f"{HEADER}\nConv1, 224, 224, 3, 3, 3, 32, 2,\n"), dtype="int8")
    # 224 rows, windows of 3 every 2: ceil(221 / 2) + 1 = 112, the last one over the edge
    assert trace.m[0] == 112 * 112
    assert (trace.n[0], trace.k[0]) == (32, 27)
    assert trace.matrix_flops[0] == 2 * 112 * 112 * 32 * 27
    assert trace.input_bytes[0] == 224 * 224 * 3
    assert trace.output_bytes[0] == 112 * 112 * 32
    assert trace.parameters[0] == 27 * 32


def test_convolution_equals_the_builder_where_windows_fit(write):
    trace = from_table(write(f"{HEADER}\nc, 30, 34, 5, 3, 2, 6, 1\n"))
    assert trace.rows() == conv2d(2, 6, 30, 34, (5, 3), bias=False, layer="c").rows()


def test_stride_width_batch_and_comments(write):
    text = HEADER.replace("Strides,", "Stride Height, Stride Width, Batch Size,") + "\nc,9,9,3,3,2,4,2,3,5,#dw\n"
    trace = from_table(write(text, "net.csv.gz"))
    assert trace.m[0] == 5 * 4 * 3
    assert trace.input_bytes[0] == 4 * 5 * 2 * 81


def test_depthwise_layers_have_filters_for_every_channel(write):
    trace = from_table(write(f"{HEADER}\nDP1, 8, 8, 3, 3, 16, 1, 1,\n"))
    assert (trace.batch[0], trace.n[0], trace.k[0]) == (16, 1, 9)
    assert trace.matrix_flops[0] == 2 * 36 * 16 * 9


def test_sparsity_is_dense_with_a_warning_or_skipped(write):
    path = write("Layer Name, M, N, K, Sparsity,\na, 3, 5, 16, 1:4,\nb, 3, 5, 8, 4:4,\n")
    with pytest.warns(UserWarning, match="1 layers are sparse and costed dense"):
        dense = from_table(path)
    assert dense.matrix_flops[0] == 2 * 3 * 5 * 16
    thin = from_table(path, sparsity="skip")
    assert thin.matrix_flops.tolist() == [2 * 3 * 5 * 4, 2 * 3 * 5 * 8]
    assert thin.parameters.tolist() == [5 * 4, 5 * 8]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither|empty"),
        ("Layer,M,N,K\n", "no layers below the header"),
        ("Layer,M,N\na,1,2\n", "column 'k' is missing"),
        ("Layer,M,N,K,Strid\na,1,2,3,4\n", "unknown column 'strid'"),
        ("a,b,c\n1,2,3\n", "neither our columns"),
        ("Layer,M,M,N,K\na,1,1,2,3\n", "column 'm' appears twice"),
        ("Layer,M,N,K\na,1,2,3\nb,1,x,3\n", r"row 1: 'n' must be a whole number of 1 or more, got 'x'"),
        ("Layer,M,N,K\na,1,0,3\n", r"row 0: 'n' must be a whole number of 1 or more, got '0'"),
        ("Layer,M,N,K\na,1,-2,3\n", r"row 0: 'n' .*got '-2'"),
        ("Layer,M,N,K\na,1.5,2,3\n", r"row 0: 'm' .*got '1.5'"),
        ("Layer,M,N,K\na,1,2\n", "row 0: 3 cells where the header has 4"),
        ("Layer,M,N,K\na,1,2,3,4\n", "row 0: 5 cells where the header has 4"),
        ("Layer,M,N,K\n,1,2,3\n", "row 0: 'layer' is empty"),
        ("Layer,M,N,K,Sparsity\na,1,2,3,5:4\n", "row 0: 'sparsity' must be N:M"),
        (HEADER.replace("Height", "Hight") + "\n", "unknown column 'ifmap hight'.*'ifmap height'"),
        (HEADER + "\nc,2,8,3,3,1,1,1,\n", r"row 0 \(c\): 'filter height' must not exceed 'ifmap height' \(2\), got 3"),
        ('Layer,M,N,K\n"a,1,2,3\n', "not valid csv"),
    ],
)  # fmt: skip
def test_bad_tables_are_named(write, text, message):
    with pytest.raises(TraceError, match=message) as found:
        from_table(write(text))
    assert "net.csv" in str(found.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "fp61"}, "dtype: unknown element type 'fp61'.*'fp64'"),
        ({"batch": 0}, "batch must be a whole number of 1 or more, got 0"),
        ({"sparsity": "skp"}, "sparsity: unknown 'skp'.*'skip'"),
    ],
)
def test_bad_options_are_named(write, options, message):
    with pytest.raises(TraceError, match=message):
        from_table(write("Layer,M,N,K\na,1,2,3\n"), **options)


def test_files_that_cannot_be_read(tmp_path, write):
    with pytest.raises(TraceError, match="no such file"):
        from_table(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"a trace is a \.csv, \.json or \.parquet file"):
        from_table(write("x", "net.xlsx"))
    path = write("Layer,M,N,K\na,1,2,3\n", "cut.csv.gz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TraceError, match=r"cut\.csv\.gz: cannot be read"):
        from_table(path)
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not UTF-8 text"):
        from_table(path)


def test_a_table_is_a_trace(write):
    assert isinstance(from_table(write("Layer,M,N,K\na,1,2,3\n")), Trace)
