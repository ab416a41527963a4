"""ONNX models become traces: shapes with the dynamic dimensions filled in, then the rows of every operator.

`from_onnx` walks the graph once, in order. Each tensor has its whole shape, whether it is known before the network
runs, and the rows that make it; `onnx` infers the shapes of one operator at a time, with the values that are known.
ONNX is data: nothing in a file is executed, and no external file is opened.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from workloads.importers import onnx_file as file
from workloads.importers import onnx_ops as ops
from workloads.importers.onnx_fold import fold as fold_rows
from workloads.importers.onnx_values import evaluate
from workloads.importers.uncosted import UncostedOperator
from workloads.trace import SCHEMA, Trace, TraceError, nearest

#: A loop is unrolled, where its shapes grow, into at most so many operators.
UNROLLED = 100_000
_DEEPEST = 40
#: Operators whose result differs from run to run: never constant.
_RANDOM = frozenset(
    ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
)
_STANDARD = ("", "ai.onnx")


class AssumedCost(UserWarning):
    """The file does not say which branch is taken or when a loop ends: the message names what was assumed."""


def from_onnx(
    path_or_model,
    dims: Mapping[str, int] | None = None,
    name: str | None = None,
    strict: bool = False,
    sequences: int | None = None,
    tokens: int | None = None,
    fold: bool = True,
) -> Trace:
    """The trace of an ONNX model: a path, an `onnx.ModelProto` or what `torch.onnx.export` returns.

    `dims`: sizes of the dynamic dimensions, by the names the file gives them ({"batch": 8, "seq": 128}); a dimension
    without a name as "tensor.axis" ({"x.0": 8}), or the whole shape of a tensor ({"x": (8, 128)}). The same two
    forms give the shape of a tensor inside the graph that depends on data, and {"name of a loop": 30} how often a loop
    turns. `name`, `sequences` and `tokens` are those of the trace; by default the graph's name and the dims
    called something with "batch", and with "seq", "len", "time" or "token" (else 1).

    Rows are those of the builders: a recurrent operator is one input product, one product a step and the gates a
    step; MatMul followed by the addition of a bias is one row; com.microsoft Attention is a projection and a fused
    attention. Views are free, as is what depends on initialisers alone; copies cost their bytes. `fold`: repeated
    layers become one row with a count. Parameters are the floating-point initialisers (and the integers of quantised
    products) that a row reads, each counted once; single numbers only where they are weights or biases. Buffers
    cannot be told from parameters in ONNX.

    Policies. Loop and Scan: the rows of the body run as serial steps (independent ones where a Scan carries no
    state); a Loop whose shapes change from turn to turn is unrolled; one that may end early turns as often as it may,
    with an `AssumedCost` warning. If: the costlier branch, with the same warning, unless the condition is known.
    Functions of the model are inlined. A product whose operands are both dequantised from 8 bits is an 8 bit product.
    An operator or domain that is not known is a row with its bytes and an `UncostedOperator` warning; with `strict`
    it is an error.

    Weights are not read: external data stays closed, and a file's own large tensors are skipped.

    Raises `TraceError` naming the file and the place: onnx not installed, no such file, corrupt or truncated file, a
    dynamic dimension without a size (and which `dims` gives it), unknown `dims`, a shape that depends on data, tensors
    that do not fit, a graph without anything to cost.
    """
    model, source = file.load(path_or_model)
    importer = _Importer(model, source, _checked_dims(dims, source), strict)
    rows = importer.run()
    if fold:
        rows = fold_rows(rows)
    chosen = name or _text(model.graph.name, "") or Path(source).stem
    return Trace.from_rows(
        [{k: v for k, v in row.items() if k in SCHEMA} for row in rows],
        name=chosen,
        sequences=importer.guess(sequences, ("batch",)),
        tokens=importer.guess(tokens, ("seq", "len", "time", "token")),
        source=source,
    )


def shapes_of(path_or_model, dims: Mapping[str, int] | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of an ONNX model, by name, as `from_onnx` finds them. Errors as there."""
    model, source = file.load(path_or_model)
    importer = _Importer(model, source, _checked_dims(dims, source), False)
    scope = importer.walk()
    return {name: value.shape for name, value in scope.values.items() if value.shape is not None}


def _checked_dims(dims, source: str) -> dict:
    """`dims` with plain integers and tuples. Raises `TraceError` naming the entry that is neither."""
    if dims is None:
        return {}
    if not isinstance(dims, Mapping):
        raise TraceError(f"{source}: dims must be a mapping such as {{'batch': 8}}, got {dims!r}")
    checked: dict = {}
    for key, value in dims.items():
        sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        for size in sizes:
            if isinstance(size, bool) or not hasattr(size, "__index__") or size < (0 if len(sizes) > 1 else 1):
                raise TraceError(f"{source}: dims[{key!r}] must be a positive whole number or a shape, got {value!r}")
        sizes = tuple(size.__index__() for size in sizes)
        checked[str(key)] = sizes if isinstance(value, (tuple, list)) else sizes[0]
    return checked


def _text(value, fallback: str) -> str:
    """Text of the file as a label: printable, without spaces around, not too long."""
    clean = "".join(c if c.isprintable() else "?" for c in str(value))[:200].strip()
    return clean or fallback


class _Scope:
    """The tensors of one graph by name; those of the graphs around it are seen as well."""

    def __init__(self, parent: _Scope | None, key: str, first_row: int, declared: dict, uses: Counter):
        self.parent, self.key, self.first_row = parent, key, first_row
        self.declared, self.uses = declared, uses
        self.values: dict[str, ops.Value] = {}

    def find(self, name: str) -> ops.Value | None:
        scope = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None


class _Importer:
    """Walks a model once and collects its rows."""

    def __init__(self, model, source: str, dims: dict, strict: bool):
        self.model, self.source, self.dims, self.strict = model, source, dims, strict
        self.rows: list[dict] = []
        self.initialisers: dict[str, int] = {}  # key: elements
        self.claimed: set[str] = set()
        self.unknown: dict[str, list] = {}  # operator: shapes of each time it was met
        self.notes: dict[str, None] = {}  # assumptions, each warned of once
        self.used_dims: set[str] = set()
        self.known_dims: dict[str, None] = {}
        self.versions = {("" if o.domain in _STANDARD else o.domain): o.version for o in model.opset_import}
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.recurrences: Counter = Counter()  # how many recurrences each layer has
        self.scanned: Counter = Counter()  # initialisers sliced by a Scan: in how many slices
        self.depth = 0

    # -- the whole -------------------------------------------------------------------------------

    def walk(self) -> _Scope:
        """Every operator of the model in turn; the tensors of its main graph."""
        graph = self.model.graph
        scope = self._enter(graph, None, "", {})
        inputs = [i for i in graph.input if i.name not in scope.values]
        self._bind_inputs(inputs, scope)
        self._nodes(graph.node, scope, {})
        for output in graph.output:
            value = scope.find(output.name)
            if value is None:
                raise TraceError(f"{self.source}: output {output.name!r} is made by no operator")
            self._materialise(value)
        self._refuse_unused_dims()
        return scope

    def run(self) -> list[dict]:
        """The rows of the model, and the warnings that go with them."""
        self.walk()
        self._warn()
        if not self.rows:
            raise TraceError(f"{self.source}: nothing to cost: the graph only rearranges or holds constants")
        _name_attention(self.rows)
        return self.rows

    def guess(self, given, words: tuple[str, ...]) -> int:
        """What was given, or the size of a dimension whose name says it."""
        if given is not None:
            return given
        found = [v for k, v in self.dims.items() if isinstance(v, int) and any(w in k.lower() for w in words)]
        return found[0] if found else 1

    def _refuse_unused_dims(self) -> None:
        for key in self.dims:
            if key not in self.used_dims and key not in self.known_dims:
                raise TraceError(f"{self.source}: dims: no dimension or tensor {key!r}{nearest(key, self.known_dims)}")

    def _warn(self) -> None:
        for operator, shapes in self.unknown.items():
            warnings.warn(
                f"{self.source}: no cost for operator {operator} ({len(shapes)} times, first with {shapes[0]}): "
                "its bytes are counted, its operations are not",
                UncostedOperator,
                stacklevel=4,
            )
        for note in self.notes:
            warnings.warn(f"{self.source}: {note}", AssumedCost, stacklevel=4)

    # -- graphs ----------------------------------------------------------------------------------

    def _enter(self, graph, parent: _Scope | None, key: str, bindings: dict) -> _Scope:
        """A scope with the graph's initialisers and what is bound to its inputs."""
        declared = {v.name: v.type for v in (*graph.value_info, *graph.output)}
        scope = _Scope(parent, key, len(self.rows), declared, _uses(graph))
        for tensor in graph.initializer:
            scope.values[tensor.name] = self._stored(tensor, key)
        for sparse in graph.sparse_initializer:
            value = self._stored(sparse.values, key)
            scope.values[sparse.values.name] = replace(value, shape=tuple(sparse.dims), data=None)
        scope.values |= bindings
        return scope

    def _stored(self, tensor, key: str) -> ops.Value:
        """An initialiser: its shape, and its numbers where they are few."""
        shape = tuple(tensor.dims)
        if any(d < 0 for d in shape):
            raise TraceError(f"{self.source}: initialiser {tensor.name!r} has the shape {list(shape)}")
        if tensor.data_type not in file.ELEMENTS:
            raise TraceError(f"{self.source}: initialiser {tensor.name!r} has no known element type")
        source = f"{key}{tensor.name}"
        self.initialisers[source] = math.prod(shape)
        data = file.known_values(tensor, self.source)
        return ops.Value(tensor.name, shape, tensor.data_type, data=data, constant=True, sources=frozenset((source,)))

    def _bind_inputs(self, inputs, scope: _Scope) -> None:
        """Inputs of the network with their dynamic dimensions filled in."""
        missing: dict[str, None] = {}
        lacking: list[str] = []
        for item in inputs:
            kind = item.type.WhichOneof("value")
            if kind != "tensor_type":
                scope.values[item.name] = ops.Value(item.name, None, 0, proto=item.type)
                continue
            tensor = item.type.tensor_type
            if not tensor.HasField("shape") and item.name not in self.dims:
                self.known_dims[item.name] = None
                missing[f"{item.name!r}: (...)"] = None
                lacking.append(item.name)
                continue
            shape, wanted = self._filled(item.name, tensor)
            if wanted:
                missing |= dict.fromkeys(f"{w!r}: ..." for w in wanted)
                lacking.append(item.name)
            scope.values[item.name] = ops.Value(item.name, shape, tensor.elem_type)
        if missing:
            raise TraceError(
                f"{self.source}: input {', '.join(map(repr, lacking))} has dynamic dimensions: "
                f"pass dims={{{', '.join(missing)}}}"
            )

    def _filled(self, name: str, tensor) -> tuple[tuple, list[str]]:
        """The shape of a declared tensor with `dims` filled in, and the names of the dimensions that are missing."""
        given = self._given_shape(name)
        axes = list(tensor.shape.dim) if tensor.HasField("shape") else [None] * len(given or ())
        if given is not None and len(given) != len(axes):
            raise TraceError(f"{self.source}: dims[{name!r}]: the tensor has {len(axes)} axes, got {given!r}")
        shape, missing = [], []
        for number, axis in enumerate(axes):
            place = f"{name}.{number}"
            self.known_dims[place] = None
            label = axis.dim_param if axis is not None and axis.WhichOneof("value") == "dim_param" else ""
            if label:
                self.known_dims[label] = None
            size = axis.dim_value if axis is not None and axis.WhichOneof("value") == "dim_value" else None
            if size is not None and size < 0:
                size = None
            chosen = given[number] if given is not None else self.dims.get(place, self.dims.get(label or place))
            if size is not None and given is not None and given[number] != size:
                raise TraceError(f"{self.source}: dims[{name!r}]: axis {number} is {size} in the file, got {given!r}")
            if size is not None and place in self.dims and self.dims[place] != size:
                raise TraceError(
                    f"{self.source}: dims[{place!r}]: the axis is {size} in the file, got {self.dims[place]!r}"
                )
            if place in self.dims:
                self.used_dims.add(place)
            if size is None and chosen is None:
                missing.append(label or place)
            shape.append(size if size is not None else chosen)
        return tuple(shape), missing

    def _given_shape(self, name: str) -> tuple | None:
        """The shape `dims` names for a tensor; one number stands for one axis."""
        self.known_dims[name] = None
        if name not in self.dims:
            return None
        given = self.dims[name]
        self.used_dims.add(name)
        return given if isinstance(given, tuple) else (given,)

    def _nodes(self, nodes, scope: _Scope, arguments: dict) -> None:
        """Every operator of a graph or function in turn. `arguments`: attributes of the call of a function."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise TraceError(
                f"{self.source}: graphs or functions nested more than {_DEEPEST} deep (a function that calls itself?)"
            )
        for number, proto in enumerate(nodes):
            self._node(proto, number, scope, arguments)
        self.depth -= 1

    # -- one operator ----------------------------------------------------------------------------

    def _node(self, proto, number: int, scope: _Scope, arguments: dict) -> None:
        place = f"operator {_text(proto.op_type, '?')} {_text(proto.name, f'number {number}')!r}"
        domain = "" if proto.domain in _STANDARD else proto.domain
        inputs = []
        for name in proto.input:
            value = scope.find(name) if name else None
            if name and value is None:
                raise TraceError(f"{self.source}: {place} reads {name!r}, which nothing before it makes")
            inputs.append(value)
        function = self.functions.get((proto.domain, proto.op_type))
        node = ops.Node(
            proto.op_type, domain, self.versions.get(domain, 0), inputs, [],
            self._attributes(proto, arguments, place), f"{self.source}: {place}", self.claim,
        )  # fmt: skip
        try:
            if function is not None:
                self._call(function, proto, node, scope)
            elif domain == "" and node.type in ("If", "Loop", "Scan"):
                for value in self._captured(scope):
                    self._materialise(value)
                {"If": self._if, "Loop": self._loop, "Scan": self._scan}[node.type](proto, node, scope)
            else:
                self._operator(proto, node, scope)
        except TraceError:
            raise
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # a rule that met tensors or attributes its operator's definition does not allow
            raise TraceError(
                f"{node.where}: inputs or attributes that do not fit ({type(error).__name__}: {error})"
            ) from None

    def _attributes(self, proto, arguments: dict, place: str) -> dict:
        from onnx import AttributeProto, helper

        found = {}
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name in arguments:
                    found[attribute.name] = arguments[attribute.ref_attr_name]
            elif attribute.type == AttributeProto.TENSOR:
                found[attribute.name] = attribute.t
            else:
                try:
                    found[attribute.name] = helper.get_attribute_value(attribute)
                except Exception as error:
                    raise TraceError(f"{self.source}: {place}: attribute {attribute.name!r} ({error})") from None
                if isinstance(found[attribute.name], str):
                    found[attribute.name] = found[attribute.name].encode()
        return found

    def _operator(self, proto, node: ops.Node, scope: _Scope) -> None:
        if node.type == "Constant" and node.domain == "":
            scope.values[proto.output[0]] = self._constant(proto, node, scope)
            return
        results = self._known(proto, node) or self._inferred(proto, node, scope)
        node.outputs = results
        if node.domain == "" and node.type == "DequantizeLinear" and self._dequantised(node):
            self._store(proto, results, scope)
            return
        given = [v for v in node.inputs if v is not None]
        if (given and all(v.constant for v in given) and node.type not in _RANDOM) or all(
            v is None or v.data is not None for v in results
        ):
            sources = frozenset(s for v in given for s in v.sources)
            kept = given[0] if given and node.type in ("Transpose", *ops.VIEWS) else None
            for value in results:
                if value is not None:
                    value.constant, value.sources = True, sources
                    if kept is not None and kept.storage and value.element == kept.element:
                        value.storage, value.extra_bytes = kept.storage, kept.extra_bytes
        elif node.type in ops.VIEWS and node.domain == "":
            self._pass_on(node, results, scope)
        else:
            self._cost(proto, node, scope)
        self._store(proto, results, scope)

    def _store(self, proto, results: list, scope: _Scope) -> None:
        for name, value in zip(proto.output, results, strict=True):
            if name and value is not None:
                scope.values[name] = value

    def _constant(self, proto, node: ops.Node, scope: _Scope) -> ops.Value:
        name = proto.output[0]
        for kind, dtype in (
            ("value_float", np.float32),
            ("value_floats", np.float32),
            ("value_int", np.int64),
            ("value_ints", np.int64),
        ):
            if kind in node.attributes:
                data = np.array(node.attributes[kind], dtype)
                element = file.FLOAT if dtype is np.float32 else file.INT64
                return ops.Value(name, data.shape, element, data=data, constant=True)
        tensor = node.attributes.get("value")
        if tensor is not None and hasattr(tensor, "dims"):
            return replace(self._stored(tensor, f"{scope.key}{name}/"), name=name)
        sparse = node.attributes.get("sparse_value")
        if sparse is not None:
            return ops.Value(name, tuple(sparse.dims), sparse.values.data_type, constant=True)
        return ops.Value(name, (), 8, constant=True)  # text

    def _pass_on(self, node: ops.Node, results: list, scope: _Scope) -> None:
        """A view: its result is made by the rows that make its input."""
        given = [v for v in node.inputs if v is not None]
        sole = node.type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
        for value in results:
            if value is None:
                continue
            value.rows = frozenset(r for v in given for r in v.rows)
            if sole and given:
                self._materialise(given[0])
                value.rows = given[0].rows
                value.maker = given[0].maker if self._sole_use(given[0], scope) else None

    def _sole_use(self, value: ops.Value, scope: _Scope) -> bool:
        return value.name in scope.values and scope.values[value.name] is value and scope.uses[value.name] == 1

    # -- shapes ----------------------------------------------------------------------------------

    def _known(self, proto, node: ops.Node) -> list | None:
        """The result as numbers, where all inputs are known; shapes are always."""
        if node.domain or len(proto.output) != 1 or not node.inputs:
            return None
        arrays = [None if v is None else v.data for v in node.inputs]
        first = node.inputs[0]
        if node.type in ("Shape", "Size"):
            if first is None or first.shape is None:
                return None
            arrays = [np.broadcast_to(np.int8(0), first.shape)]
        elif any(v is not None and v.data is None for v in node.inputs):
            return None
        attributes = dict(node.attributes)
        if hasattr(attributes.get("value"), "dims"):
            attributes["value"] = file.known_values(attributes["value"], node.where)
        data = evaluate(node.type, arrays, attributes)
        if data is None:
            return None
        if node.type in ("Shape", "Size"):
            element = file.INT64
        elif node.type in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or"):
            element = file.BOOL
        elif node.type == "Cast":
            element = int(attributes["to"])
        elif node.type == "ConstantOfShape":
            element = node.attributes["value"].data_type if "value" in node.attributes else file.FLOAT
        else:
            element = node.inputs[1 if node.type == "Where" else 0].element
        value = ops.Value(proto.output[0], data.shape, element, data=data, constant=True)
        return [value]

    def _inferred(self, proto, node: ops.Node, scope: _Scope) -> list:
        """Results with whole shapes: as inferred, else as declared, else as `dims` gives them."""
        own = self._own_shapes(node)
        found = own if own is not None else self._onnx_shapes(proto, node)
        results = []
        for number, name in enumerate(proto.output):
            if not name:
                results.append(None)
                continue
            shape, element, other = found[number] if number < len(found) else (None, 0, None)
            if other is not None:
                results.append(ops.Value(name, None, 0, proto=other))
                continue
            results.append(self._completed(node, name, shape, element, scope))
        return results

    def _completed(self, node: ops.Node, name: str, shape, element: int, scope: _Scope) -> ops.Value:
        declared = scope.declared.get(name)
        if declared is not None and declared.WhichOneof("value") not in ("tensor_type", None):
            return ops.Value(name, None, 0, proto=declared)
        if shape is None or None in shape:
            stated = None
            if declared is not None and declared.tensor_type.HasField("shape"):
                stated, _ = self._filled(name, declared.tensor_type)
            elif (given := self._given_shape(name)) is not None:
                stated = given
            elif shape is not None:
                stated = tuple(self.dims.get(f"{name}.{i}") for i in range(len(shape)))
                for i in range(len(shape)):
                    self.known_dims[f"{name}.{i}"] = None
                    self.used_dims.add(f"{name}.{i}")
            if stated is not None and (shape is None or len(stated) == len(shape)):
                shape = tuple(b if a is None else a for a, b in zip(shape or stated, stated, strict=True))
        if declared is not None and not element:
            element = declared.tensor_type.elem_type
        if shape is None:
            raise node.error(f"the shape of its result {name!r} is not known: pass dims={{{name!r}: (...)}}")
        if None in shape:
            wanted = ", ".join(f"{f'{name}.{i}'!r}: ..." for i, s in enumerate(shape) if s is None)
            raise node.error(f"the shape of its result {name!r} depends on the data: pass dims={{{wanted}}}")
        return ops.Value(name, tuple(shape), element or file.FLOAT)

    def _own_shapes(self, node: ops.Node) -> list | None:
        """Shapes of the operators that onnx does not know."""
        if node.domain not in ("", ops.MICROSOFT):
            return None
        if (node.domain, node.type) == ("", "Einsum"):
            return [(shape, element, None) for shape, element in ops.einsum_shapes(node)]
        rule = ops.SHAPES.get(node.type)
        if rule is None or (node.domain == "" and self._schema(node) is not None):
            return None
        return [(shape, element, None) for shape, element in rule(node)]

    def _schema(self, node: ops.Node):
        from onnx import defs

        try:
            return defs.get_schema(node.type, max(1, node.version), node.domain)
        except Exception:  # onnx's own error, which is not exported everywhere
            return None

    def _onnx_shapes(self, proto, node: ops.Node) -> list:
        """(shape, element type, type if not a tensor) of each result as onnx infers it for this operator."""
        import onnx
        from onnx import helper, numpy_helper

        schema = self._schema(node)
        if schema is None or schema.deprecated:
            return []
        types, known = {}, {}
        for name, value in zip(proto.input, node.inputs, strict=True):
            if value is None:
                continue
            if value.shape is None:
                if value.proto is not None:
                    types[name] = value.proto
                continue
            types[name] = helper.make_tensor_type_proto(value.element, value.shape)
            if value.data is not None and value.data.size <= 256:
                known[name] = numpy_helper.from_array(np.ascontiguousarray(value.data), name)
        clean = proto
        if any(a.ref_attr_name for a in proto.attribute):
            clean = helper.make_node(proto.op_type, proto.input, proto.output, proto.name, domain=proto.domain,
                                     **node.attributes)  # fmt: skip
        imports = [helper.make_opsetid(domain, version) for domain, version in self.versions.items()]
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, clean, types, known, opset_imports=imports, ir_version=max(3, self.model.ir_version)
            )
        except Exception as error:  # InferenceError, ValidationError and what the C++ side may throw
            reason = str(error).removeprefix("[ShapeInferenceError] ").removeprefix("[TypeInferenceError] ")
            shapes = ", ".join(str(list(v.shape)) for v in node.inputs if v is not None and v.shape is not None)
            raise node.error(f"inputs of shapes {shapes} do not fit: {_text(reason, 'no reason given')}") from None
        results = []
        for name in proto.output:
            kind = inferred.get(name)
            if kind is None:
                results.append((None, 0, None))
            elif kind.WhichOneof("value") not in ("tensor_type", None):
                results.append((None, 0, kind))
            else:
                tensor = kind.tensor_type
                shape = None
                if tensor.HasField("shape"):
                    shape = tuple(
                        d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in tensor.shape.dim
                    )
                results.append((shape, tensor.elem_type, None))
        return results

    # -- costs -----------------------------------------------------------------------------------

    def claim(self, value: ops.Value, sure: bool) -> int:
        """Parameters of a stored tensor that no row has counted yet; single numbers only when `sure`."""
        new = [s for s in value.sources - self.claimed if sure or self.initialisers[s] > 1]
        self.claimed |= set(new)
        return sum(self.initialisers[s] for s in new)

    def _cost(self, proto, node: ops.Node, scope: _Scope) -> None:
        """The rows of an operator, appended; its results then come from them."""
        if node.domain == "" and node.type in ops.TAKES_INTEGERS:
            node.inputs = self._integers(node)
        else:
            for value in node.inputs:
                if value is not None:
                    self._materialise(value)
        if self._joined(node, scope):
            return
        rule = ops.rule_of(node.type, node.domain)
        if rule is None:
            body = self._body(node)
            if body is not None:
                self._call(body, proto, node, scope, store=False)
                return
            self._report(node)
            rule = ops.unknown
        given = frozenset(r for v in node.inputs if v is not None for r in v.rows)
        ends = self._append(rule(node), given, self._label(proto, node))
        for value in node.results:
            value.rows = ends
            value.maker = next(iter(ends)) if len(ends) == 1 and ends != given else None

    def _append(self, rows: list[dict], given: frozenset[int], layer: str) -> frozenset[int]:
        """Add the rows of one operator; those that wait for none of their own wait for `given`. Returns the last."""
        made: list[frozenset[int]] = []
        waited: set[int] = set()
        for number, row in enumerate(rows):
            own = row.get("after", (number - 1,) if number else ())
            waited |= set(own)
            after = frozenset(r for o in own for r in made[o]) or given
            amounts = [row.get(c, 0) for c in ("matrix_flops", "vector_flops", "special_ops")]
            amounts += [row.get(f"{role}_bytes", 0) for role in ("weight", "input", "output", "state", "cache")]
            if not any(amounts):  # nothing moves: an empty tensor
                made.append(after)
                continue
            counts = {c: row.get(c, 1) for c in ("repeats", "serial_steps", "path_runs", "weight_sets")}
            if row.pop("_recurrence", None) and number == 0:
                self.recurrences[layer] += 1
                layer = f"{layer}.{self.recurrences[layer] - 1}"
            self.rows.append({"_weights": (), **row, **counts, "layer": layer, "after": tuple(sorted(after))})
            made.append(frozenset((len(self.rows) - 1,)))
        ends = [m for i, m in enumerate(made) if i not in waited]
        return frozenset(r for m in ends for r in m) if rows else given

    def _report(self, node: ops.Node) -> None:
        name = f"{node.domain}.{node.type}" if node.domain else node.type
        shapes = ", ".join(str(list(v.shape)) for v in node.tensors if v.shape is not None)
        if self.strict:
            raise node.error(f"no cost for operator {_text(name, '?')} with inputs of shapes {shapes} (strict=True)")
        self.unknown.setdefault(_text(name, "?"), []).append(shapes)

    def _label(self, proto, node: ops.Node) -> str:
        """The module path of an operator: from the exporter's scopes, or from a name that is a path."""
        scopes = next((p.value for p in proto.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), None)
        if scopes:
            try:
                names = [str(s) for s in ast.literal_eval(scopes)[:-1]]
            except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
                names = []
            path = next((n for n in reversed(names) if n and not n.startswith("_empty_nn")), "")
        else:
            path = ".".join(part for part in proto.name.split("/")[:-1] if part)
        fallback = _text(self.model.graph.name, "network")
        return _text(path, node.type.lower() if node.type in ("LSTM", "GRU", "RNN") else fallback)

    def _body(self, node: ops.Node):
        """The definition of a standard operator in simpler ones, where it has one without context."""
        schema = self._schema(node) if node.domain == "" else None
        if schema is None or not schema.has_function:
            return None
        try:
            body = schema.function_body
        except Exception:
            return None
        return body if body is not None and body.node else None

    # -- quantisation ----------------------------------------------------------------------------

    def _dequantised(self, node: ops.Node) -> bool:
        """A tensor of integers with its scale: the row that widens it is made only when someone reads it so."""
        x, result = node.inputs[0], node.results[0]
        narrow = x.element in file.QUANTISED
        if not narrow:
            return False
        extra = sum(v.bytes for v in node.inputs[1:] if v is not None and v.constant and v.elements > 1)
        if x.constant:
            result.constant, result.sources, result.storage = True, x.sources, x.element
            result.extra_bytes = extra
            return True
        result.quantised, result.rows = x, x.rows
        return True

    def _materialise(self, value: ops.Value) -> None:
        """Make the row that dequantises a tensor, if it has been put off."""
        x = value.quantised
        if x is None:
            return
        node = ops.Node("DequantizeLinear", "", 0, [x], [value], {}, self.source, self.claim)
        value.quantised = None
        row = ops.streamed(node, "dequantise", "elementwise", 2 * value.elements)
        value.rows = self._append([row], x.rows, _text(self.model.graph.name, "network"))

    def _integers(self, node: ops.Node) -> list:
        """Operands of a product: the integers themselves where both are 8 bits, else what they stand for."""
        narrow = [
            v is not None
            and (v.quantised is not None or (v.constant and v.storage in file.QUANTISED))
            and _eight_bits(v)
            for v in node.inputs[:2]
        ]
        streams = any(v is not None and v.quantised is not None for v in node.inputs[:2])
        if all(narrow) and len(node.inputs) > 1 and streams:
            return [
                v.quantised if v is not None and v.quantised is not None and i < 2 else self._plain(v)
                for i, v in enumerate(node.inputs)
            ]
        return [self._plain(v) for v in node.inputs]

    def _plain(self, value: ops.Value | None) -> ops.Value | None:
        if value is not None:
            self._materialise(value)
        return value

    # -- what joins the product before it --------------------------------------------------------

    def _joined(self, node: ops.Node, scope: _Scope) -> bool:
        """A bias, or the quantisation of an 8 bit result, joins the product before it if nothing else reads that."""
        if node.domain or node.type not in ("Add", "QuantizeLinear"):
            return False
        for value, other in zip(node.inputs[:2], node.inputs[1::-1], strict=False):
            row = value.maker if value is not None else None
            if row is None or row < scope.first_row or not self._sole_use(value, scope):
                continue
            product = self.rows[row]
            if product["kind"] not in ("matmul", "convolution") or product["repeats"] > 1 or "_ended" in product:
                continue
            out = node.result
            if node.type == "QuantizeLinear" and product["dtype"] == "int8":
                product["vector_flops"] = product.get("vector_flops", 0) + 3 * out.elements
                product |= {"output_bytes": out.bytes, "_ended": True}
            elif node.type == "Add" and product["kind"] == "matmul" and _is_bias(other, out):
                product["vector_flops"] = product.get("vector_flops", 0) + out.elements
                product["parameters"] += self.claim(other, True)
                product["weight_bytes"] += other.bytes
                product["_weights"] += tuple(sorted(other.sources))
                if product["dtype"] != "int8":  # an 8 bit product may yet be quantised
                    product["_ended"] = True
            else:
                continue
            out.rows, out.maker = value.rows, row
            return True
        return False

    # -- functions, branches, loops --------------------------------------------------------------

    def _call(self, function, proto, node: ops.Node, scope: _Scope, store: bool = True) -> None:
        """The operators of a function in the place of its call."""
        inner = _Scope(
            None, f"{scope.key}{proto.output[0] if proto.output else proto.name}/", scope.first_row, {}, _uses(function)
        )
        inner.declared = {v.name: v.type for v in getattr(function, "value_info", ())}
        for name, value in zip(function.input, node.inputs, strict=False):
            if value is not None:
                inner.values[name] = value
        arguments = dict(node.attributes)
        from onnx import helper

        for attribute in function.attribute_proto:
            arguments.setdefault(attribute.name, helper.get_attribute_value(attribute))
        versions = self.versions
        self.versions = versions | {
            ("" if o.domain in _STANDARD else o.domain): o.version for o in function.opset_import
        }
        start = len(self.rows)
        missing = [i for i in function.input if i not in inner.values]
        self._nodes([_without(n, missing) for n in function.node] if missing else function.node, inner, arguments)
        self.versions = versions
        layer = self._label(proto, node)
        for row in self.rows[start:]:
            if proto.metadata_props or "/" in proto.name:
                row["layer"] = layer
        for name, outer, declared in zip(
            function.output, proto.output, node.outputs or [None] * len(proto.output), strict=False
        ):
            value = inner.find(name)
            if value is None or not outer:
                continue
            if store:
                scope.values[outer] = replace(value, name=outer, maker=None)
            elif declared is not None:
                self._materialise(value)
                declared.rows, declared.constant, declared.sources = value.rows, value.constant, value.sources

    def _captured(self, scope: _Scope) -> list:
        found = []
        while scope is not None:
            found += [v for v in scope.values.values() if v.quantised is not None]
            scope = scope.parent
        return found

    def _branch(self, graph, scope: _Scope, bindings: dict, key: str) -> tuple[_Scope, list]:
        """Run a graph inside another: its scope and its results."""
        inner = self._enter(graph, scope, key, bindings)
        self._nodes(graph.node, inner, {})
        results = []
        for output in graph.output:
            value = inner.find(output.name)
            if value is None:
                raise TraceError(f"{self.source}: output {output.name!r} of an inner graph is made by no operator")
            self._materialise(value)
            results.append(value)
        return inner, results

    def _if(self, proto, node: ops.Node, scope: _Scope) -> None:
        """The branch the condition names, where it is known; else the one with more operations, then more bytes."""
        condition, start, claimed = node.inputs[0], len(self.rows), set(self.claimed)
        key = f"{scope.key}{proto.output[0]}"
        branches = [node.attributes[name] for name in ("then_branch", "else_branch")]
        if condition is not None and condition.data is not None:
            branches = [branches[0] if bool(condition.data.reshape(-1)[0]) else branches[1]]
        ran = []
        for number, branch in enumerate(branches):
            del self.rows[start:]
            self.claimed, counted = set(claimed), Counter(self.recurrences)
            _, results = self._branch(branch, scope, {}, f"{key}.{number}/")
            rows = self.rows[start:]
            ran.append((_work(rows), -number, rows, self.claimed, results))
            if number + 1 < len(branches):
                self.recurrences = counted
        _, number, rows, self.claimed, results = max(ran, key=lambda r: r[:2])
        self.rows[start:] = rows
        if len(ran) > 1:
            which = ("then", "else")[-number]
            self.notes[f"{node.where.removeprefix(self.source + ': ')}: the condition depends on data: "
                       f"its costlier branch ({which}) is taken"] = None  # fmt: skip
        waits = condition.rows if condition is not None else frozenset()
        for name, value in zip(proto.output, results, strict=True):
            known = len(ran) == 1
            made = replace(value, name=name, rows=value.rows | waits, maker=None)
            if not known:
                made.data, made.constant, made.sources = None, False, frozenset()
            scope.values[name] = made

    def _turns(self, proto, node: ops.Node, limit, endless: bool) -> int:
        """How often a loop turns: what `dims` says, or the limit it is given."""
        for name in (proto.name, proto.output[0] if proto.output else ""):
            if name:
                self.known_dims[name] = None
            if name in self.dims and isinstance(self.dims[name], int):
                self.used_dims.add(name)
                return self.dims[name]
        if limit is None or limit >= 2**31:
            label = proto.name or proto.output[0]
            raise node.error(f"how often it turns depends on the data: pass dims={{{label!r}: ...}}")
        if endless:
            self.notes[f"{node.where.removeprefix(self.source + ': ')}: it may end early: "
                       f"all {limit} turns are counted"] = None  # fmt: skip
        return limit

    def _loop(self, proto, node: ops.Node, scope: _Scope) -> None:
        body, key = node.attributes["body"], f"{scope.key}{proto.output[0] if proto.output else proto.name}/"
        limit, condition = node.input(0), node.input(1)
        carried = [v for v in node.inputs[2:] if v is not None]
        names = [i.name for i in body.input]
        if len(names) != 2 + len(carried):
            raise node.error(f"its body takes {len(names)} tensors where {2 + len(carried)} are given")
        bound = None if limit is None else None if limit.data is None else int(limit.data.reshape(-1)[0])
        if limit is None:
            bound = 2**63
        start_true = condition is None or (condition.data is not None and bool(condition.data.reshape(-1)[0]))
        if condition is not None and condition.data is not None and not start_true:
            bound = 0
        begin, claimed, recurrences = len(self.rows), set(self.claimed), Counter(self.recurrences)

        def turn(number, state):
            flag = np.array(True) if start_true else None
            count = None if number is None else np.array(number, np.int64)
            waits = frozenset() if condition is None else condition.rows
            bindings = {
                names[0]: ops.Value(names[0], (), file.INT64, data=count, constant=count is not None),
                names[1]: ops.Value(names[1], (), file.BOOL, waits, data=flag, constant=flag is not None),
            }
            bindings |= {n: replace(v, name=n, maker=None) for n, v in zip(names[2:], state, strict=True)}
            return self._branch(body, scope, bindings, key)[1]

        moving = [replace(v, data=None, constant=False, sources=frozenset(), storage=0, extra_bytes=0) for v in carried]
        try:
            results = turn(None, moving)
            alike = all(a.shape == b.shape for a, b in zip(moving, results[1:], strict=False))
        except TraceError:
            results, alike = None, False
        endless = results is not None and not (results[0].data is not None and bool(results[0].data.reshape(-1)[0]))
        turns = self._turns(proto, node, bound, endless)
        if not turns or not alike:
            del self.rows[begin:]
            self.claimed, self.recurrences = claimed, recurrences
        if not turns and results is None:
            raise node.error("it never turns and its body has no known shapes")
        if alike and turns:
            self._repeat(begin, turns, turns, self._label(proto, node))
            state, scans = results[1 : 1 + len(carried)], [(v, turns * v.elements) for v in results[1 + len(carried) :]]
        elif turns:
            if turns * max(1, len(body.node)) > UNROLLED:
                raise node.error(f"its shapes change from turn to turn, and {turns} turns are too many to unroll")
            state, scans = carried, []
            for number in range(turns):
                results = turn(number, state)
                state, made = results[1 : 1 + len(carried)], results[1 + len(carried) :]
                scans = [(v, (scans[i][1] if scans else 0) + v.elements) for i, v in enumerate(made)]
        else:
            state, scans = carried, [(v, 0) for v in results[1 + len(carried) :]]
        self._leave(proto, scope, state, scans, turns, carried, unchanged=not turns)

    def _leave(self, proto, scope: _Scope, state, scans, turns: int, carried, unchanged: bool) -> None:
        """Results of a loop: the state after the last turn, and what every turn adds to, one after the other."""
        made = []
        for value, before in zip(state, carried, strict=True):
            final = replace(value, rows=value.rows | before.rows, maker=None)
            if not unchanged:
                final = replace(final, data=None, constant=False, sources=frozenset())
            made.append(final)
        for value, _ in scans:
            shape = (turns, *value.shape) if value.shape is not None else None
            made.append(ops.Value(value.name, shape, value.element, rows=value.rows, proto=value.proto))
        for name, value in zip(proto.output, made, strict=False):
            if name:
                scope.values[name] = replace(value, name=name)

    def _repeat(self, begin: int, turns: int, serial: int, layer: str) -> None:
        """The rows from `begin` on run `turns` times, `serial` of them one after another, under one label."""
        for row in self.rows[begin:]:
            slices = any(s in self.scanned for s in row["_weights"])
            row["repeats"] *= turns
            row["path_runs"] *= serial
            row["serial_steps"] *= 1 if slices else serial
            row["weight_sets"] *= turns if slices else 1
            row["layer"] = layer

    def _scan(self, proto, node: ops.Node, scope: _Scope) -> None:
        if node.version < 9:
            raise node.error("Scan of operator set 8 is not supported: convert the model to operator set 9 or later")
        body, key = node.attributes["body"], f"{scope.key}{proto.output[0]}/"
        scanned = int(node.attributes.get("num_scan_inputs", 0))
        count = len(node.inputs) - scanned
        state, streams = node.inputs[:count], node.inputs[count:]
        axes = list(node.attributes.get("scan_input_axes") or [0] * scanned)
        if scanned < 1 or len(axes) != scanned or len(body.input) != len(node.inputs):
            raise node.error("its body, its inputs and its axes do not agree in number")
        axes = [a % len(v.shape) for a, v in zip(axes, streams, strict=True)]
        turns = streams[0].shape[axes[0]]
        if any(v.shape[a] != turns for a, v in zip(axes, streams, strict=True)):
            raise node.error("its scanned inputs differ in length")
        bindings = {}
        for item, value in zip(body.input[:count], state, strict=True):
            bindings[item.name] = replace(
                value, name=item.name, data=None, constant=False, sources=frozenset(), maker=None
            )
        for item, value, axis in zip(body.input[count:], streams, axes, strict=True):
            sliced = replace(
                value, name=item.name, shape=value.shape[:axis] + value.shape[axis + 1 :], data=None, maker=None
            )
            if value.sources and turns:  # every turn has its own weights
                source = f"{key}{item.name}"
                self.initialisers[source], self.scanned[source] = sliced.elements, turns
                sliced.sources = frozenset((source,))
            bindings[item.name] = sliced
        begin, label = len(self.rows), self._label(proto, node)
        _, results = self._branch(body, scope, bindings, key)
        final, outs = results[:count], results[count:]
        if any(a.shape != b.shape for a, b in zip(state, final, strict=True)):
            raise node.error("its state changes its shape from turn to turn")
        if turns:
            self._repeat(begin, turns, turns if count else 1, label)
        else:
            del self.rows[begin:]
        out_axes = list(node.attributes.get("scan_output_axes") or [0] * len(outs))
        made = [replace(v, rows=v.rows | s.rows, data=None, constant=False, sources=frozenset(), maker=None)
                for v, s in zip(final, state, strict=True)]  # fmt: skip
        for value, axis in zip(outs, out_axes, strict=True):
            axis %= len(value.shape) + 1
            shape = (*value.shape[:axis], turns, *value.shape[axis:])
            made.append(ops.Value(value.name, shape, value.element, rows=value.rows))
        for name, value in zip(proto.output, made, strict=False):
            if name:
                scope.values[name] = replace(value, name=name)


# -- helpers -----------------------------------------------------------------------------------------


def _uses(graph) -> Counter:
    """How often each tensor of a graph is read, by operators, by the graphs inside it, as a result."""
    uses: Counter = Counter()
    pending = [graph]
    while pending:
        inner = pending.pop()
        for node in inner.node:
            uses.update(n for n in node.input if n)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending += attribute.graphs
        uses.update(o if isinstance(o, str) else o.name for o in inner.output)
    return uses


def _without(proto, missing: list[str]):
    """The operator of a function without the inputs its call left out."""
    if not any(name in missing for name in proto.input):
        return proto
    copy = type(proto)()
    copy.CopyFrom(proto)
    for number, name in enumerate(copy.input):
        if name in missing:
            copy.input[number] = ""
    return copy


def _eight_bits(value: ops.Value) -> bool:
    stored = value.quantised.element if value.quantised is not None else value.storage
    return file.ELEMENTS[stored][1] == 8


def _is_bias(value: ops.Value | None, out: ops.Value) -> bool:
    """A vector of parameters along the last axis of a product's result."""
    return (
        value is not None and value.is_weight and bool(value.shape) and bool(out.shape)
        and value.shape[-1] == value.elements == out.shape[-1] and len(value.shape) <= len(out.shape)
    )  # fmt: skip


def _work(rows: list[dict]) -> tuple[float, float]:
    """Operations and bytes of rows, all runs."""
    work = moved = 0
    for row in rows:
        work += row["repeats"] * sum(row.get(c, 0) for c in ("matrix_flops", "vector_flops", "special_ops"))
        roles = ("weight", "input", "output", "state", "cache")
        moved += row["repeats"] * sum(row.get(f"{role}_bytes", 0) for role in roles)
    return work, moved


def _name_attention(rows: list[dict]) -> None:
    """Name the two products around a softmax, where neither has weights: scores and context."""

    def is_plain_product(row: dict) -> bool:
        return row["kind"] == "matmul" and not row.get("weight_bytes")

    for number, row in enumerate(rows):
        if row["kind"] != "softmax":
            continue
        before = number
        for _ in range(6):  # scale, mask and casts come between
            before = max(rows[before]["after"], default=None) if before is not None else None
            if before is None or rows[before]["kind"] not in ("elementwise", "copy"):
                break
        if before is None or not is_plain_product(rows[before]):
            continue
        context = _follower(rows, number, is_plain_product)
        if context is not None:
            rows[before]["op"], context["op"] = "scores", "context"


def _follower(rows: list[dict], number: int, wanted) -> dict | None:
    """The row that takes the result of a softmax, perhaps after elementwise rows (dropout, a guard against nan)."""
    passed = {number}
    for later in range(number + 1, min(number + 12, len(rows))):
        row = rows[later]
        if not passed & set(row["after"]):
            continue
        if wanted(row):
            return row
        if row["kind"] in ("elementwise", "copy"):
            passed.add(later)
    return None
