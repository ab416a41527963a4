"""The ONNX importer against the operators' own test models, against PyTorch, and against hand-made graphs."""

from __future__ import annotations

import collections
import math
import warnings

import numpy as np
import pytest

from workloads import Trace, TraceError, gru, lstm

onnx = pytest.importorskip("onnx", reason="needs the extra: pip install 'rooftrace[onnx]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from workloads.importers.onnx_graph import AssumedCost, from_onnx, shapes_of  # noqa: E402
from workloads.importers.uncosted import UncostedOperator  # noqa: E402

pytestmark = pytest.mark.onnx

F32, F16, I64, I8, U8, BOOL = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL,
)  # fmt: skip


# -- small graphs ------------------------------------------------------------------------------------


def info(name, shape, element=F32):
    return helper.make_tensor_value_info(name, element, shape)


def weight(name, shape, dtype=np.float32):
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def known(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def model(nodes, inputs, outputs, initializers=(), opset=20, functions=(), domains=(), name="net"):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(initializers))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def mlp(dynamic=True):
    return model(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Add", ["h", "b"], ["s"]),
            node("Relu", ["s"], ["r"]),
            node("Gemm", ["r", "v", "c"], ["y"], transB=1),
        ],
        [info("x", ["batch", 8] if dynamic else [3, 8])],
        [info("y", ["batch" if dynamic else 3, 4])],
        [weight("w", (8, 16)), weight("b", (16,)), weight("v", (4, 16)), weight("c", (4,))],
    )


def rows(trace: Trace):
    return [(str(o), float(f * r)) for o, f, r in zip(trace.op, trace.matrix_flops, trace.repeats, strict=True)]


# -- the node models of the onnx package -------------------------------------------------------------


@pytest.fixture(scope="module")
def cases():
    """The onnx package's own test models by the operator they test (single nodes) and, expanded, all others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collections.defaultdict(list)
        for case in collect_testcases(None):
            nodes = case.model.graph.node
            single = len(nodes) == 1
            found[nodes[0].op_type if single else "several"].append(case)
    return found


def attributes(proto):
    return {a.name: helper.get_attribute_value(a) for a in proto.attribute}


def tensors(case):
    """The inputs of a case by position; None where an optional one is left out."""
    proto, given = (
        case.model.graph.node[0],
        dict(zip([i.name for i in case.model.graph.input], case.data_sets[0][0], strict=True)),
    )
    return [given.get(n) if n else None for n in proto.input]


def recurrent_flops(gates):
    def count(x, w, r, attrs):
        both = 2 if attrs.get("direction") == b"bidirectional" else 1
        steps, batch = x.shape[:2]  # with layout 1 the other way round, which changes nothing here
        hidden = r.shape[-1]
        return 2 * both * steps * batch * gates * hidden * (x.shape[2] + hidden)

    return lambda inputs, attrs, out: count(*inputs[:3], attrs)


def matmul_flops(a, b, out):
    """Every element of the result takes as many MAC as the last axis of a is long."""
    return 2 * math.prod(out.shape) * a.shape[-1]


def gemm_flops(inputs, attrs, out):
    depth = inputs[0].shape[0 if attrs.get("transA", 0) else 1]
    return 2 * math.prod(out.shape) * depth


def conv_flops(inputs, attrs, out):
    """Every element of the result takes a MAC for each weight of its filter."""
    return 2 * math.prod(out.shape) * math.prod(inputs[1].shape[1:])


def transposed_flops(inputs, attrs, out):
    """Every element of the input takes a MAC for each weight it meets."""
    return 2 * math.prod(inputs[0].shape) * math.prod(inputs[1].shape[1:])


def einsum_flops(inputs, attrs, out):
    """A MAC for every value of every index, where two tensors are multiplied and something is summed."""
    equation = attrs["equation"].decode().replace(" ", "")
    if len(inputs) == 1:
        return 0
    left, _, right = equation.partition("->")
    letters = {}
    for term, tensor in zip(left.split(","), inputs, strict=True):
        spare = "ABCDEFG"[: len(tensor.shape) - len(term.replace("...", ""))]
        letters |= dict(zip(term.replace("...", spare), tensor.shape, strict=True))
    return 2 * math.prod(letters.values()) if set(left) - set(right) - {","} else 0


def attention_flops(inputs, attrs, out):
    """Pairs counted one by one: query i sees key j when j <= i + offset, or all keys when not causal."""
    q, k, v = inputs[:3]
    past = inputs[4] if len(inputs) > 4 else None
    outside = len(inputs) > 6 and inputs[6] is not None
    if q.ndim == 3:
        heads, shared = attrs["q_num_heads"], attrs["kv_num_heads"]
        batch, queries, size = q.shape[0], q.shape[1], q.shape[2] // heads
        new, width = k.shape[1], v.shape[2] // shared
    else:
        (batch, heads, queries, size), new, width = q.shape, k.shape[2], v.shape[3]
    before = past.shape[2] if past is not None else 0
    keys = before + new
    offset = keys - queries if outside and past is None else before
    pairs = sum(not attrs.get("is_causal", 0) or j <= i + offset for i in range(queries) for j in range(keys))
    return 2 * batch * heads * pairs * (size + width)


def integer_matmul_flops(a, b):
    return lambda inputs, attrs, out: matmul_flops(inputs[a], inputs[b], out)


CLOSED_FORMS = {
    "LSTM": recurrent_flops(4),
    "GRU": recurrent_flops(3),
    "RNN": recurrent_flops(1),
    "MatMul": integer_matmul_flops(0, 1),
    "MatMulInteger": integer_matmul_flops(0, 1),
    "QLinearMatMul": integer_matmul_flops(0, 3),
    "Gemm": gemm_flops,
    "Conv": conv_flops,
    "ConvInteger": conv_flops,
    "QLinearConv": lambda inputs, attrs, out: conv_flops([inputs[0], inputs[3]], attrs, out),
    "ConvTranspose": lambda inputs, attrs, out: transposed_flops(inputs, attrs, out),
    "Einsum": einsum_flops,
    "Attention": attention_flops,
    "LayerNormalization": lambda inputs, attrs, out: 0,
    "RMSNormalization": lambda inputs, attrs, out: 0,
    "Softmax": lambda inputs, attrs, out: 0,
}
#: How many models of each operator the onnx package has at least: an empty collection must not pass.
AT_LEAST = {"LSTM": 5, "GRU": 4, "RNN": 3, "Attention": 30, "MatMul": 3, "Gemm": 8, "Conv": 4, "Einsum": 5,
            "LayerNormalization": 15, "Softmax": 6}  # fmt: skip


@pytest.mark.parametrize("operator", CLOSED_FORMS)
def test_node_models_have_the_right_shapes_and_products(cases, operator):
    assert len(cases[operator]) >= AT_LEAST.get(operator, 1)
    for case in cases[operator]:
        results = case.data_sets[0][1]
        shapes = shapes_of(case.model)
        for output, result in zip(case.model.graph.output, results, strict=True):
            assert shapes[output.name] == result.shape, (case.name, output.name)
        wanted = CLOSED_FORMS[operator](tensors(case), attributes(case.model.graph.node[0]), results[0])
        assert from_onnx(case.model).total_matrix_flops == wanted, case.name


@pytest.mark.parametrize("operator", ["Attention", "LayerNormalization", "Softmax"])
def test_expanded_node_models_have_the_right_shapes(cases, operator):
    """The same operators written out in simpler ones, as the onnx package defines them."""
    names = [f"test_{w}" for w in {"Attention": ["attention"], "LayerNormalization": ["layer_normalization"]}.get(
        operator, ["softmax"])]  # fmt: skip
    expanded = [c for c in cases["several"] if any(c.name.startswith(n) for n in names) and "expanded" in c.name]
    assert len(expanded) >= 6
    for case in expanded:
        shapes = shapes_of(case.model)
        for output, result in zip(case.model.graph.output, case.data_sets[0][1], strict=True):
            assert shapes[output.name] == result.shape, case.name


def test_no_node_model_gives_wrong_shapes_or_another_error(cases):
    """All models of the package: right shapes, or an error that says what is not known."""
    refused = 0
    for case in (c for group in cases.values() for c in group):
        try:
            shapes = shapes_of(case.model)
        except TraceError as error:
            message = str(error)
            assert "pass dims=" in message or "operator set 8" in message, message
            refused += 1
            continue
        for output, result in zip(case.model.graph.output, case.data_sets[0][1], strict=True):
            if isinstance(result, np.ndarray) and output.name in shapes:
                assert shapes[output.name] == result.shape, case.name
    assert refused <= 80  # of about 1900: shapes and loops that depend on data


# -- rows --------------------------------------------------------------------------------------------


def test_mlp_is_three_rows_counted_by_hand():
    trace = from_onnx(mlp(), dims={"batch": 3})
    assert rows(trace) == [("product", 2 * 3 * 8 * 16), ("relu", 0.0), ("product", 2 * 3 * 16 * 4)]
    assert trace.total_parameters == 8 * 16 + 16 + 4 * 16 + 4
    assert trace.vector_flops.tolist() == [3 * 16, 3 * 16, 3 * 4]  # the bias, relu, the bias
    assert trace.weight_bytes.tolist() == [4 * (8 * 16 + 16), 0, 4 * (4 * 16 + 4)]
    assert trace.input_bytes.tolist() == [4 * 3 * 8, 4 * 3 * 16, 4 * 3 * 16]
    assert trace.output_bytes.tolist() == [4 * 3 * 16, 4 * 3 * 16, 4 * 3 * 4]
    assert trace.after == ((), (0,), (1,))
    assert (trace.sequences, trace.tokens, trace.name) == (3, 1, "net")


def test_bias_read_twice_stays_its_own_row():
    net = mlp()
    net.graph.output.append(info("h", ["batch", 16]))
    assert [str(o) for o in from_onnx(net, dims={"batch": 3}).op] == ["product", "bias add", "relu", "product"]


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrence_has_the_rows_of_the_builder(kind, direction):
    gates, both = {"LSTM": 4, "GRU": 3}[kind], 2 if direction == "bidirectional" else 1
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    net = model(
        [node(kind, ["x", "w", "r", "b"], ["y"], hidden_size=6, direction=direction, **extra)],
        [info("x", ["time", "batch", 5])],
        [info("y", None)],
        [weight("w", (both, gates * 6, 5)), weight("r", (both, gates * 6, 6)), weight("b", (both, 2 * gates * 6))],
    )
    trace = from_onnx(net, dims={"time": 7, "batch": 2})
    assert (trace.sequences, trace.tokens) == (2, 7)
    build = {"LSTM": lstm, "GRU": gru}[kind]
    built = build(1, 6, sequence_length=7, batch=2, input_size=5, bidirectional=both == 2, name=kind.lower())
    assert trace.replace(name=built.name) == built


def test_gru_that_resets_first_waits_for_the_reset_gate():
    def net(after):
        return model(
            [node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=6, linear_before_reset=after)],
            [info("x", [7, 2, 5])],
            [info("y", None)],
            [weight("w", (1, 18, 5)), weight("r", (1, 18, 6)), weight("b", (1, 36))],
        )

    first, last = from_onnx(net(0)), from_onnx(net(1))
    assert first.total_matrix_flops == last.total_matrix_flops == 2 * 7 * 2 * 18 * (5 + 6)
    assert first.total_parameters == last.total_parameters == 18 * (5 + 6) + 36
    assert first.total_flops - last.total_flops == -7 * 2 * 6  # one bias less: the candidate adds their sum
    assert [str(o) for o in first.op][1:] == ["recurrent product", "reset gate", "candidate product", "gates"]
    assert first.after[3] == (2,)
    assert first.n.tolist() == [18, 12, 0, 6, 0]


def test_peepholes_add_their_products_and_parameters():
    def net(peepholes):
        more = ["", "", "", "p"] if peepholes else []
        return model(
            [node("LSTM", ["x", "w", "r", "b", *more], ["y"], hidden_size=6)],
            [info("x", [7, 2, 5])],
            [info("y", None)],
            [weight("w", (1, 24, 5)), weight("r", (1, 24, 6)), weight("b", (1, 48)), weight("p", (1, 18))],
        )

    plain, more = from_onnx(net(False)), from_onnx(net(True))
    assert more.total_flops - plain.total_flops == 7 * 2 * 6 * 6  # three products, three sums a unit
    assert more.total_parameters - plain.total_parameters == 18
    assert more.total_matrix_flops == plain.total_matrix_flops


def test_shared_weights_count_once_and_embeddings_read_what_they_pick():
    net = model(
        [
            node("Gather", ["table", "ids"], ["e"]),
            node("Transpose", ["table"], ["t"], perm=[1, 0]),
            node("MatMul", ["e", "t"], ["y"]),
        ],
        [info("ids", ["batch", "seq"], I64)],
        [info("y", None)],
        [weight("table", (50, 8))],
    )
    trace = from_onnx(net, dims={"batch": 2, "seq": 3})
    assert trace.total_parameters == 50 * 8
    assert [str(k) for k in trace.kind] == ["gather", "matmul"]  # the transpose of a weight is no work
    assert trace.weight_bytes.tolist() == [6 * 8 * 4, 50 * 8 * 4]
    assert trace.matrix_flops.tolist() == [0, 2 * 6 * 50 * 8]
    assert (trace.sequences, trace.tokens) == (2, 3)


def test_views_are_free_and_copies_cost_their_bytes():
    net = model(
        [
            node("Reshape", ["x", "shape"], ["a"]),
            node("Unsqueeze", ["a", "axis"], ["b"]),
            node("Transpose", ["b"], ["c"], perm=[1, 0, 2, 3]),  # moves an axis of one: no copy
            node("Squeeze", ["c", "first"], ["d"]),
            node("Transpose", ["d"], ["e"], perm=[1, 0, 2]),
            node("Slice", ["e", "zero", "one", "first"], ["f"]),
            node("Concat", ["f", "f"], ["y"], axis=0),
        ],
        [info("x", [24])],
        [info("y", None)],
        [known("shape", [2, 3, 4]), known("axis", [0]), known("first", [1]), known("zero", [0]), known("one", [1])],
    )
    trace = from_onnx(net, fold=False)
    assert [str(o) for o in trace.op] == ["transpose", "slice", "concatenate"]
    assert trace.total_flops == 0
    assert trace.input_bytes.tolist() == [96, 48, 48]  # e is (3, 2, 4); its slice (3, 1, 4)
    assert trace.output_bytes.tolist() == [96, 48, 96]


def test_shapes_computed_in_the_graph_are_followed():
    net = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["b"]),
            node("Unsqueeze", ["b", "axis"], ["b1"]),
            node("Concat", ["b1", "rest"], ["shape"], axis=0),
            node("Reshape", ["x", "shape"], ["r"]),
            node("MatMul", ["r", "w"], ["y"]),
        ],
        [info("x", ["batch", "seq", 8])],
        [info("y", None)],
        [known("zero", 0), known("axis", [0]), known("rest", [-1, 4]), weight("w", (4, 5))],
    )
    assert shapes_of(net, {"batch": 2, "seq": 3})["y"] == (2, 6, 5)
    assert from_onnx(net, dims={"batch": 2, "seq": 3}).total_matrix_flops == 2 * 2 * 6 * 4 * 5


@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [
        ((2, 3, 4), (4, 5), (1, 6, 5, 4)),
        ((6, 2, 3, 4), (6, 2, 4, 5), (12, 3, 5, 4)),
        ((6, 1, 3, 4), (2, 4, 5), (2, 18, 5, 4)),  # the second alone has the axis of 2, the first that of 6
        ((4,), (2, 4, 5), (1, 1, 10, 4)),
        ((3, 4), (4,), (1, 3, 1, 4)),
    ],
)
def test_matmul_broadcasts_as_numpy_does(a, b, sizes):
    net = model([node("MatMul", ["a", "b"], ["y"])], [info("a", a), info("b", b)], [info("y", None)])
    trace = from_onnx(net)
    assert trace.total_matrix_flops == 2 * math.prod(np.matmul(np.ones(a), np.ones(b)).shape) * a[-1]
    assert trace.total_matrix_flops == 2 * math.prod(sizes)


def test_attention_against_a_cache():
    """8 query heads over 2 key heads, 1 query, 9 earlier keys: the row of the builder."""
    net = model(
        [node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"], is_causal=1)],
        [info("q", [3, 8, 1, 16], F16), info("k", [3, 2, 1, 16], F16), info("v", [3, 2, 1, 16], F16),
         info("pk", [3, 2, "past", 16], F16), info("pv", [3, 2, "past", 16], F16)],
        [info("y", None, F16), info("nk", None, F16), info("nv", None, F16)],
        opset=23,
    )  # fmt: skip
    row = from_onnx(net, dims={"past": 9}).rows()[0]
    wanted = {"kind": "attention", "batch": 6, "m": 4, "n": 32, "k": 10, "matrix_flops": 2 * 3 * 8 * 10 * 32,
              "input_bytes": 2 * 3 * 8 * 16, "output_bytes": 2 * 3 * 8 * 16, "cache_bytes": 2 * 2 * 3 * 2 * 10 * 16,
              "saved_bytes": 2 * 2 * 3 * 2 * 10 * 16, "dtype": "fp16"}  # fmt: skip
    assert {k: row[k] for k in wanted} == wanted


def test_onnxruntime_attention_holds_its_projection():
    net = model(
        [
            helper.make_node(
                "Attention", ["x", "w", "b"], ["a"], domain="com.microsoft", num_heads=4, unidirectional=1
            ),
            helper.make_node("MultiHeadAttention", ["a", "a", "a"], ["m"], domain="com.microsoft", num_heads=4),
            helper.make_node("SkipLayerNormalization", ["m", "x", "g", "g"], ["n"], domain="com.microsoft"),
            helper.make_node("FastGelu", ["n"], ["y"], domain="com.microsoft"),
        ],
        [info("x", [2, "seq", 32])],
        [info("y", None)],
        [weight("w", (32, 96)), weight("b", (96,)), weight("g", (32,))],
        domains=["com.microsoft"],
    )
    trace = from_onnx(net, dims={"seq": 5})
    assert rows(trace)[:3] == [
        ("query key value projection", 2 * 10 * 32 * 96),
        ("attention", 2 * 2 * 4 * 15 * 16),  # 15 of 25 pairs are seen
        ("attention", 2 * 2 * 4 * 25 * 16),
    ]
    assert [str(k) for k in trace.kind][3:] == ["normalisation", "elementwise"]
    assert trace.total_parameters == 32 * 96 + 96 + 32


def test_attention_written_out_is_named():
    net = model(
        [
            node("MatMul", ["q", "k"], ["s"]),
            node("Div", ["s", "root"], ["d"]),
            node("Softmax", ["d"], ["p"]),
            node("MatMul", ["p", "v"], ["y"]),
        ],
        [info("q", [2, 4, 5, 8]), info("k", [2, 4, 8, 5]), info("v", [2, 4, 5, 8])],
        [info("y", None)],
        [known("root", 2.8, np.float32)],
    )
    trace = from_onnx(net)
    assert [str(o) for o in trace.op] == ["scores", "divide", "softmax", "context"]
    assert (trace.special_ops[1], trace.total_parameters) == (0, 0)  # by a constant: a product
    assert trace.vector_flops.tolist() == [0, 200, 4 * 200, 0]


def test_einsum_of_three_operands_goes_from_the_left():
    net = model(
        [node("Einsum", ["a", "b", "c"], ["y"], equation="bij,jk,kl->bil")],
        [info("a", [2, 3, 4]), info("b", [4, 5]), info("c", [5, 6])],
        [info("y", None)],
    )
    assert [f for _, f in rows(from_onnx(net))] == [2 * 2 * 3 * 4 * 5, 2 * 2 * 3 * 5 * 6]


@pytest.mark.parametrize("equation", ["éij,jk->ik", "bij,jk->bix", "bij,kk->bik", "bij->bi", "ij,jk->ik"])
def test_einsum_equations_that_do_not_fit_are_refused(equation):
    net = model(
        [node("Einsum", ["a", "b"], ["y"], equation=equation)],
        [info("a", [2, 3, 4]), info("b", [4, 5])],
        [info("y", None)],
    )
    with pytest.raises(TraceError, match=r"Einsum.*equation.*fit|no operand has"):
        from_onnx(net)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_few_bits(bits):
    packed = weight("w", (64, 1, 32 * bits // 8), np.uint8)
    net = model(
        [helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=32, N=64, bits=bits,
                          block_size=32)],
        [info("x", [3, 32], F16)],
        [info("y", None, F16)],
        [packed, weight("s", (64,), np.float16)],
        domains=["com.microsoft"],
    )  # fmt: skip
    trace = from_onnx(net)
    assert trace.total_matrix_flops == 2 * 3 * 64 * 32
    assert trace.total_parameters == 64 * 32
    assert trace.weight_bytes.tolist() == [64 * 32 * bits // 8 + 64 * 2]
    assert (str(trace.dtype[0]), str(trace.weight_dtype[0])) == ("fp16", f"int{bits}")


# -- quantised ---------------------------------------------------------------------------------------


def quantised(kind="MatMul"):
    """float x -> 8 bits -> product with 8 bit weights -> 8 bits -> float."""
    return model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            node("DequantizeLinear", ["xq", "s", "z"], ["xf"]),
            node("DequantizeLinear", ["w", "ws", "z"], ["wf"]),
            node(kind, ["xf", "wf"], ["p"]),
            node("QuantizeLinear", ["p", "s", "z"], ["pq"]),
            node("DequantizeLinear", ["pq", "s", "z"], ["y"]),
        ],
        [info("x", [3, 8])],
        [info("y", [3, 16])],
        [
            weight("w", (8, 16), np.int8),
            known("s", 0.1, np.float32),
            known("ws", 0.1, np.float32),
            known("z", 0, np.int8),
        ],
    )


def test_quantised_pair_is_an_8_bit_product():
    trace = from_onnx(quantised())
    assert [str(o) for o in trace.op] == ["quantise", "product", "dequantise"]
    row = trace.rows()[1]
    wanted = {"dtype": "int8", "weight_dtype": "int8", "activation_dtype": "int8", "matrix_flops": 2 * 3 * 8 * 16,
              "weight_bytes": 128, "input_bytes": 24, "output_bytes": 48, "parameters": 128}  # fmt: skip
    assert {k: row[k] for k in wanted} == wanted


def test_quantised_weights_alone_are_widened():
    net = quantised()
    del net.graph.node[:2], net.graph.node[2:]
    net.graph.node[1].input[0], net.graph.node[1].output[0] = "x", "y"
    row = from_onnx(net).rows()[0]
    assert (row["dtype"], row["weight_dtype"], row["weight_bytes"]) == ("fp32", "int8", 128)
    assert (row["input_bytes"], row["output_bytes"], row["parameters"]) == (4 * 24, 4 * 48, 128)


@pytest.mark.parametrize(("operator", "out_bytes"), [("QLinearMatMul", 48), ("MatMulInteger", 4 * 48)])
def test_integer_products(operator, out_bytes):
    inputs = ["x", "s", "z", "w", "s", "z", "s", "z"] if operator == "QLinearMatMul" else ["x", "w", "z", "z"]
    net = model(
        [node(operator, inputs, ["y"])],
        [info("x", [3, 8], I8)],
        [info("y", None, I8 if operator == "QLinearMatMul" else TensorProto.INT32)],
        [weight("w", (8, 16), np.int8), known("s", 0.1, np.float32), known("z", 0, np.int8)],
    )
    row = from_onnx(net).rows()[0]
    assert (row["dtype"], row["weight_dtype"], row["parameters"]) == ("int8", "int8", 128)
    assert (row["matrix_flops"], row["weight_bytes"], row["input_bytes"]) == (2 * 3 * 8 * 16, 128, 24)
    assert row["output_bytes"] == out_bytes


# -- loops, branches, functions ----------------------------------------------------------------------


def loop(trips=5, stop=False, grows=False):
    """state <- relu(state w), and what it was each turn."""
    body = helper.make_graph(
        [
            node("Identity" if not stop else "Not", ["c"] if not stop else ["flag"], ["c_out"]),
            node("MatMul", ["h", "w"], ["hw"]),
            *([node("Concat", ["hw", "h"], ["h_out"], axis=0)] if grows else [node("Relu", ["hw"], ["h_out"])]),
            node("Identity", ["hw"], ["seen"]),
        ],
        "body",
        [info("i", [], I64), info("c", [], BOOL), info("h", None if grows else [2, 8])],
        [info("c_out", [], BOOL), info("h_out", None if grows else [2, 8]), info("seen", None)],
    )
    return model(
        [node("Loop", ["n", "", "x"], ["y", "all"], body=body, name="steps")],
        [
            info("x", [2, 8]),
            *([info("flag", [], BOOL)] if stop else []),
            *([info("n", [], I64)] if trips is None else []),
        ],
        [info("y", None), info("all", None)],
        [weight("w", (8, 8)), *([known("n", trips)] if trips is not None else [])],
    )


def test_loop_is_serial_steps():
    trace = from_onnx(loop())
    assert rows(trace) == [("product", 5 * 2 * 2 * 8 * 8), ("relu", 0.0)]
    for column in ("repeats", "serial_steps", "path_runs"):
        assert trace.columns[column].tolist() == [5, 5], column
    assert trace.total_parameters == 64
    assert set(trace.layer.tolist()) == {"net"}
    assert shapes_of(loop()) | {"y": (2, 8), "all": (5, 2, 8)} == shapes_of(loop())


def test_loop_that_may_stop_turns_as_often_as_it_may_and_says_so():
    with pytest.warns(AssumedCost, match="'steps': it may end early: all 5 turns are counted"):
        assert from_onnx(loop(stop=True)).repeats.tolist()[-1] == 5


def test_loop_without_a_known_end_needs_dims():
    with pytest.raises(TraceError, match=r"'steps'.*depends on the data: pass dims=\{'steps': ...\}"):
        from_onnx(loop(trips=None))
    assert from_onnx(loop(trips=None), dims={"steps": 7}).total_matrix_flops == 7 * 2 * 2 * 64


def test_loop_whose_shapes_grow_is_unrolled():
    trace = from_onnx(loop(trips=4, grows=True))
    assert trace.total_matrix_flops == sum(2 * (2 << i) * 64 for i in range(4))
    assert shapes_of(loop(trips=4, grows=True))["y"] == (32, 8)


def test_loop_that_never_turns_costs_nothing():
    with pytest.raises(TraceError, match="nothing to cost"):
        from_onnx(loop(trips=0))


def scan(states):
    """Every step: the slice times w, plus the state if there is one."""
    inner = [node("MatMul", ["xt", "w"], ["p"]), node("Add", ["p", "h"] if states else ["p", "p"], ["o"])]
    inner.append(node("Identity", ["o"], ["h_out"]))
    body = helper.make_graph(
        inner,
        "body",
        [*([info("h", [2, 8])] if states else []), info("xt", [2, 8])],
        [*([info("h_out", [2, 8])] if states else []), info("o", [2, 8])],
    )
    return model(
        [
            node(
                "Scan",
                [*(["h0"] if states else []), "x"],
                [*(["hn"] if states else []), "y"],
                body=body,
                num_scan_inputs=1,
            )
        ],
        [*([info("h0", [2, 8])] if states else []), info("x", ["time", 2, 8])],
        [info("y", None)],
        [weight("w", (8, 8))],
    )


@pytest.mark.parametrize("states", [True, False])
def test_scan_is_serial_where_it_carries_a_state(states):
    trace = from_onnx(scan(states), dims={"time": 6})
    assert trace.total_matrix_flops == 6 * 2 * 2 * 64
    assert trace.repeats.tolist() == [6, 6]
    assert trace.serial_steps.tolist() == ([6, 6] if states else [1, 1])
    assert trace.path_runs.tolist() == ([6, 6] if states else [1, 1])
    assert shapes_of(scan(states), {"time": 6})["y"] == (6, 2, 8)
    assert trace.total_parameters == 64


def branches(condition=None):
    def branch(name, size):
        return helper.make_graph([node("MatMul", ["x", name], ["o"])], name, [], [info("o", None)],
                                 [weight(name, (8, size))])  # fmt: skip

    return model(
        [node("If", ["c"], ["y"], then_branch=branch("a", 4), else_branch=branch("b", 16))],
        [info("x", [2, 8]), *([info("c", [], BOOL)] if condition is None else [])],
        [info("y", None)],
        [] if condition is None else [known("c", condition, np.bool_)],
    )


def test_if_takes_the_costlier_branch_and_says_so():
    with pytest.warns(AssumedCost, match=r"costlier branch \(else\)"):
        trace = from_onnx(branches())
    assert (trace.total_matrix_flops, trace.total_parameters) == (2 * 2 * 8 * 16, 8 * 16)


@pytest.mark.parametrize(("condition", "size"), [(True, 4), (False, 16)])
def test_if_with_a_known_condition_takes_its_branch(condition, size):
    trace = from_onnx(branches(condition))
    assert (trace.total_matrix_flops, trace.total_parameters) == (2 * 2 * 8 * size, 8 * size)


def test_functions_are_inlined_with_their_attributes():
    proto = helper.make_node("Gemm", ["a", "b"], ["o"])
    proto.attribute.append(onnx.AttributeProto(name="transB", type=onnx.AttributeProto.INT, ref_attr_name="turned"))
    function = helper.make_function(
        "own", "Layer", ["a", "b"], ["o"], [proto], [helper.make_opsetid("", 20)], ["turned"]
    )
    net = model(
        [helper.make_node("Layer", ["x", "w"], ["y"], domain="own", turned=1)],
        [info("x", [2, 8])], [info("y", None)], [weight("w", (5, 8))], functions=[function], domains=["own"],
    )  # fmt: skip
    assert rows(from_onnx(net)) == [("product", 2 * 2 * 8 * 5)]
    assert shapes_of(net)["y"] == (2, 5)


def test_a_function_that_calls_itself_is_refused():
    function = helper.make_function(
        "own", "Layer", ["a"], ["o"], [helper.make_node("Layer", ["a"], ["o"], domain="own")],
        [helper.make_opsetid("own", 1)],
    )  # fmt: skip
    net = model(
        [helper.make_node("Layer", ["x"], ["y"], domain="own")],
        [info("x", [2])], [info("y", [2])], functions=[function], domains=["own"],
    )  # fmt: skip
    with pytest.raises(TraceError, match="nested more than"):
        from_onnx(net)


# -- folding -----------------------------------------------------------------------------------------


def stack(layers, shared=False):
    nodes, weights, x = [], [], "x"
    for i in range(layers):
        w = "w" if shared else f"w{i}"
        if not shared or i == 0:
            weights.append(weight(w, (8, 8)))
        nodes.append(node("MatMul", [x, w], [f"p{i}"], name=f"/layers.{i}/proj/MatMul"))
        nodes.append(node("Relu", [f"p{i}"], [f"r{i}"], name=f"/layers.{i}/act/Relu"))
        nodes.append(node("Add", [f"r{i}", x], [f"y{i}"], name=f"/layers.{i}/Add"))
        x = f"y{i}"
    nodes.append(node("Softmax", [x], ["out"], name="/head/Softmax"))
    return model(nodes, [info("x", [2, 8])], [info("out", None)], weights)


def test_layers_fold_and_totals_stay():
    plain, folded = from_onnx(stack(12), fold=False), from_onnx(stack(12))
    assert len(plain) == 37
    assert [str(x) for x in folded.layer] == ["layers.0-11.proj", "layers.0-11.act", "layers.0-11", "head"]
    assert folded.repeats.tolist() == folded.path_runs.tolist() == [12, 12, 12, 1]
    assert folded.weight_sets.tolist()[0] == 12
    for total in ("total_matrix_flops", "total_flops", "total_parameters", "total_bytes"):
        assert getattr(folded, total) == getattr(plain, total), total
    assert folded.after == ((), (0,), (1,), (2,))


def test_layers_that_share_their_weights_are_steps():
    folded, plain = from_onnx(stack(12, shared=True)), from_onnx(stack(12, shared=True), fold=False)
    assert folded.serial_steps.tolist() == [12, 12, 12, 1]
    assert folded.weight_sets.tolist()[0] == 1
    assert folded.total_parameters == plain.total_parameters == 64
    assert folded.total_bytes == plain.total_bytes


def test_stacked_recurrences_fold_as_the_builder_does():
    """Three LSTM nodes of one module: the first layer has other inputs, the other two are alike."""
    nodes, weights, x = [], [], "x"
    for i in range(3):
        names = [f"w{i}", f"r{i}", f"b{i}"]
        weights += [
            weight(names[0], (1, 24, 5 if i == 0 else 6)),
            weight(names[1], (1, 24, 6)),
            weight(names[2], (1, 48)),
        ]
        nodes.append(node("LSTM", [x, *names], [f"y{i}"], hidden_size=6, name=f"/a/LSTM_{i}"))
        nodes.append(node("Squeeze", [f"y{i}", "axis"], [f"h{i}"], name=f"/a/Squeeze_{i}"))
        x = f"h{i}"
    net = model(nodes, [info("x", [7, 2, 5])], [info(x, None)], [*weights, known("axis", [1])], name="a")
    trace = from_onnx(net, sequences=2, tokens=7)
    assert trace == lstm(3, 6, sequence_length=7, batch=2, input_size=5, name="a")


def test_independent_copies_fold_side_by_side():
    nodes = [node("MatMul", ["x", f"w{i}"], [f"y{i}"], name=f"/experts.{i}/MatMul") for i in range(5)]
    net = model(nodes, [info("x", [2, 8])], [info(f"y{i}", None) for i in range(5)],
                [weight(f"w{i}", (8, 8)) for i in range(5)])  # fmt: skip
    trace = from_onnx(net)
    assert (trace.repeats.tolist(), trace.path_runs.tolist(), trace.weight_sets.tolist()) == ([5], [1], [5])
    assert trace.total_parameters == 5 * 64


# -- PyTorch -----------------------------------------------------------------------------------------


def exported(module, inputs, **settings):
    """The module as an ONNX model, as `torch.onnx.export` makes it."""
    torch = pytest.importorskip("torch", reason="needs the extra: pip install 'rooftrace[torch]'")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(module.eval(), inputs, dynamo=True, verbose=False, **settings).model_proto


def distinct(module):
    """The exporter stores equal weights once: make them differ."""
    import torch

    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def counted(module, *inputs):
    """Matrix FLOP as PyTorch counts them on the meta device, where its counter sees every product."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.to("meta")(*(i.to("meta") for i in inputs))
    return counter.get_total_flops()


@pytest.mark.torch
@pytest.mark.parametrize("network", ["mlp", "convolutions", "lstm", "encoder"])
def test_exported_module_has_the_flops_and_parameters_of_the_module(network):
    torch = pytest.importorskip("torch", reason="needs the extra: pip install 'rooftrace[torch]'")
    nn = torch.nn

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(16, 32, 2, bidirectional=True, batch_first=True), nn.Linear(64, 5)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    module, x, closed = {
        "mlp": lambda: (nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4)), torch.zeros(3, 7, 8),
                        2 * 21 * (8 * 32 + 32 * 4)),
        "convolutions": lambda: (
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=4),
                          nn.ConvTranspose2d(8, 6, 2, stride=2), nn.AdaptiveAvgPool2d(1)),
            torch.zeros(2, 3, 16, 16),
            2 * 2 * (16 * 16 * 8 * 27 + 6 * 6 * 8 * 2 * 9 + 6 * 6 * 8 * 6 * 4)),
        "lstm": lambda: (Recurrent(), torch.zeros(3, 7, 16),
                         2 * 21 * (2 * 128 * (16 + 32) + 2 * 128 * (64 + 32) + 64 * 5)),
        "encoder": lambda: (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3,
                                  enable_nested_tensor=False),
            torch.zeros(2, 9, 32),
            3 * (2 * 18 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 2 * 2 * 9 * 9 * 32)),
    }[network]()  # fmt: skip
    parameters = sum(p.numel() for p in distinct(module).parameters())
    trace = from_onnx(exported(module, (x,)))
    assert trace.total_matrix_flops == closed
    assert trace.total_parameters == parameters
    module.train()  # without gradients an encoder in eval takes a fast path the counter does not see
    assert counted(module, x) == closed


@pytest.mark.torch
def test_exported_encoder_folds_by_module_path_with_dynamic_dims():
    torch = pytest.importorskip("torch", reason="needs the extra: pip install 'rooftrace[torch]'")
    module = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 4, enable_nested_tensor=False
    )
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq")
    net = exported(distinct(module), (torch.zeros(2, 9, 32),), dynamic_shapes=({0: batch, 1: seq},))
    trace, plain = (
        from_onnx(net, dims={"batch": 5, "seq": 11}),
        from_onnx(net, dims={"batch": 5, "seq": 11}, fold=False),
    )
    assert {str(x).split(".")[1] for x in trace.layer} == {"0-3"}
    assert {"scores", "softmax", "context"} <= set(trace.op.tolist())
    assert trace.total_matrix_flops == 4 * (2 * 55 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 2 * 5 * 11 * 11 * 32)
    assert (trace.total_bytes, trace.total_parameters) == (plain.total_bytes, plain.total_parameters)
    assert (trace.sequences, trace.tokens) == (5, 11)


# -- files -------------------------------------------------------------------------------------------


def test_large_weights_are_skipped_and_external_ones_not_opened(tmp_path):
    net = mlp(dynamic=False)
    big = np.zeros((4096, 4096), np.float32)  # 64 MiB
    del net.graph.initializer[0]
    net.graph.initializer.append(numpy_helper.from_array(big, "w"))
    net.graph.node[0].input[0] = "wide"
    net.graph.node.insert(0, node("Expand", ["one", "shape"], ["wide"]))
    del net.graph.node[2:]
    net.graph.node[1].output[0] = "y"
    net.graph.input[0].CopyFrom(info("one", [1, 1]))
    net.graph.output[0].CopyFrom(info("y", None))
    net.graph.initializer.append(known("shape", [3, 4096]))
    path = tmp_path / "net.onnx"
    path.write_bytes(net.SerializeToString())

    import tracemalloc

    tracemalloc.start()
    inside = from_onnx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    assert inside.total_parameters == 4096 * 4096
    assert inside.total_matrix_flops == 2 * 3 * 4096 * 4096

    outside = tmp_path / "outside.onnx"
    onnx.save(net, str(outside), save_as_external_data=True, location="weights.bin", size_threshold=1024)
    (tmp_path / "weights.bin").unlink()
    assert from_onnx(outside) == inside
    assert outside.stat().st_size < 10_000


def test_any_truncation_is_one_clear_error(tmp_path):
    data = mlp(dynamic=False).SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(TraceError, match=r"cut\.onnx"):
            from_onnx(path)


def test_corrupt_bytes_never_give_another_error(tmp_path):
    data = bytearray(mlp(dynamic=False).SerializeToString())
    path, random = tmp_path / "corrupt.onnx", np.random.default_rng(0)
    for _ in range(300):
        copy = bytearray(data)
        for place in random.integers(0, len(copy), 3):
            copy[place] = random.integers(0, 256)
        path.write_bytes(copy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncostedOperator)
            try:
                trace = from_onnx(path)
            except TraceError:
                continue
        assert trace.total_bytes > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"not a model at all", "net.onnx"), (b"\x80" * 40, "no number"), (b"PK\x03\x04", "net.onnx")],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        from_onnx(path)


def test_missing_file_and_wrong_argument(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(TraceError, match=r"a path or an onnx\.ModelProto is expected, got int"):
        from_onnx(3)


# -- dims --------------------------------------------------------------------------------------------


def test_dims_errors_say_what_would_fix_them():
    with pytest.raises(TraceError, match=r"input 'x' has dynamic dimensions: pass dims=\{'batch': ...\}"):
        from_onnx(mlp())
    with pytest.raises(TraceError, match=r"no dimension or tensor 'bach' \(did you mean 'batch'\?\)"):
        from_onnx(mlp(), dims={"batch": 2, "bach": 3})
    for wrong in (0, -1, 2.5, True, "8"):
        with pytest.raises(TraceError, match=r"dims\['batch'\] must be a positive whole number"):
            from_onnx(mlp(), dims={"batch": wrong})
    with pytest.raises(TraceError, match=r"dims\['x'\]: axis 1 is 8 in the file"):
        from_onnx(mlp(), dims={"x": (2, 9)})
    with pytest.raises(TraceError, match=r"dims\['x'\]: the tensor has 2 axes"):
        from_onnx(mlp(), dims={"x": (2, 8, 1)})
    with pytest.raises(TraceError, match="dims must be a mapping"):
        from_onnx(mlp(), dims=[2])


def test_dims_by_axis_and_by_shape():
    net = mlp()
    net.graph.input[0].CopyFrom(info("x", [None, 8]))
    with pytest.raises(TraceError, match=r"pass dims=\{'x.0': ...\}"):
        from_onnx(net)
    wanted = from_onnx(mlp(), dims={"batch": 3}).total_flops
    assert from_onnx(net, dims={"x.0": 3}).total_flops == wanted
    assert from_onnx(net, dims={"x": (3, 8)}).total_flops == wanted


def test_a_shape_that_depends_on_data_names_the_tensor():
    net = model(
        [node("NonZero", ["x"], ["y"]), node("Cast", ["y"], ["z"], to=F32)], [info("x", [4])], [info("z", None)]
    )
    with pytest.raises(TraceError, match=r"NonZero.*'y' depends on the data: pass dims=\{'y.1': ...\}"):
        from_onnx(net)
    assert shapes_of(net, {"y.1": 3})["z"] == (1, 3)


# -- what is not known -------------------------------------------------------------------------------


def foreign(declared=True):
    net = model(
        [
            helper.make_node("Mystery", ["x"], ["h"], domain="elsewhere"),
            helper.make_node("Mystery", ["h"], ["g"], domain="elsewhere"),
            node("Relu", ["g"], ["y"]),
        ],
        [info("x", [2, 8])],
        [info("y", [2, 8])],
        domains=["elsewhere"],
    )
    if declared:
        net.graph.value_info.extend([info("h", [2, 8]), info("g", [2, 8])])
    return net


def test_unknown_operator_is_reported_once_with_its_count_and_keeps_its_bytes():
    with pytest.warns(UncostedOperator, match=r"elsewhere\.Mystery \(2 times, first with \[2, 8\]\)") as caught:
        trace = from_onnx(foreign(), fold=False)
    assert len(caught) == 1
    assert [str(o) for o in trace.op] == ["unknown: elsewhere.Mystery"] * 2 + ["relu"]
    assert [str(k) for k in trace.kind] == ["copy", "copy", "elementwise"]
    assert trace.bytes.tolist() == [128, 128, 128]


def test_unknown_operator_is_an_error_when_strict_or_without_a_shape():
    with pytest.raises(
        TraceError, match=r"Mystery.*no cost for operator elsewhere\.Mystery with inputs of shapes \[2, 8\]"
    ):
        from_onnx(foreign(), strict=True)
    with pytest.raises(TraceError, match=r"shape of its result 'h' is not known: pass dims=\{'h': \(...\)\}"):
        from_onnx(foreign(declared=False))
    with pytest.warns(UncostedOperator):
        from_onnx(foreign(declared=False), dims={"h": (2, 8), "g": (2, 8)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.node[1].input.__setitem__(0, "gone"), "reads 'gone', which nothing before it makes"),
        (lambda g: g.initializer[0].dims.__setitem__(0, 9), "do not fit|does not hold"),
        (lambda g: g.output[0].__setattr__("name", "nowhere"), "output 'nowhere' is made by no operator"),
    ],
)
def test_graphs_that_do_not_fit_together_are_refused(change, message):
    net = mlp(dynamic=False)
    change(net.graph)
    with pytest.raises(TraceError, match=message):
        from_onnx(net)


def test_a_graph_of_views_has_nothing_to_cost():
    net = model([node("Flatten", ["x"], ["y"])], [info("x", [2, 8])], [info("y", None)])
    with pytest.raises(TraceError, match="nothing to cost"):
        from_onnx(net)


def test_labels_from_the_file_are_made_printable():
    net = mlp(dynamic=False)
    net.graph.name = " a\nname\x00 "
    assert from_onnx(net).name == "a?name?"
