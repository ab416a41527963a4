"""Numbers that are known before the network runs: the arithmetic of shapes, axes and indices in an ONNX graph.

Exported graphs compute shapes with operators (Shape, Gather, Concat, Reshape). These few operators on small arrays
are enough to follow them; whatever is not here is left to shape inference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workloads.importers.onnx_file import KNOWN_ELEMENTS, bytes_of

#: numpy's types of the ONNX element types a shape computation uses.
_NUMPY = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64, 2: np.uint8, 3: np.int8}


def _axes(arrays: list, attributes: dict) -> tuple | None:
    """Axes given as a second input or, in older operator sets, as an attribute."""
    if len(arrays) > 1 and arrays[1] is not None:
        return tuple(int(a) for a in np.atleast_1d(arrays[1]))
    return tuple(attributes["axes"]) if attributes.get("axes") else None


def _unsqueeze(arrays: list, attributes: dict) -> np.ndarray:
    axes = _axes(arrays, attributes) or ()
    rank = arrays[0].ndim + len(axes)
    return np.expand_dims(arrays[0], tuple(a % rank for a in axes))


def _slice(arrays: list, attributes: dict) -> np.ndarray:
    x, rest = arrays[0], [None if a is None else np.atleast_1d(a).tolist() for a in arrays[1:]]
    starts, ends, axes, steps = (*rest, None, None, None, None)[:4]
    if starts is None:
        starts, ends, axes = attributes["starts"], attributes["ends"], attributes.get("axes")
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut: list = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        before_first = step < 0 and end < -x.shape[axis]
        cut[axis] = slice(start, None if before_first else end, step)
    return x[tuple(cut)]


def _reshape(arrays: list, attributes: dict) -> np.ndarray:
    shape = [int(s) for s in arrays[1]]
    if not attributes.get("allowzero", 0):
        shape = [arrays[0].shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return arrays[0].reshape(shape)


def _shape(arrays: list, attributes: dict) -> np.ndarray:
    return np.array(arrays[0].shape, np.int64)[attributes.get("start", 0) : attributes.get("end")]


def _reduce(function: Callable) -> Callable[[list, dict], np.ndarray]:
    def build(arrays: list, attributes: dict) -> np.ndarray:
        axes = _axes(arrays, attributes)
        if axes is None and attributes.get("noop_with_empty_axes", 0):
            return arrays[0]
        return function(arrays[0], axis=axes, keepdims=bool(attributes.get("keepdims", 1))).astype(arrays[0].dtype)

    return build


def _divide(arrays: list, attributes: dict) -> np.ndarray:
    a, b = arrays
    if np.issubdtype(np.asarray(a).dtype, np.integer):  # towards zero, as ONNX has it
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return np.divide(a, b)


def _cast(arrays: list, attributes: dict) -> np.ndarray | None:
    to = _NUMPY.get(attributes.get("to"))
    return None if to is None else arrays[0].astype(to)


def _filled(arrays: list, attributes: dict) -> np.ndarray | None:
    shape = tuple(int(s) for s in arrays[0])
    if bytes_of(shape, 2) > KNOWN_ELEMENTS:
        return None
    fill = attributes.get("value")
    return np.full(shape, np.float32(0) if fill is None else np.asarray(fill).reshape(-1)[0])


def _range(arrays: list, attributes: dict) -> np.ndarray | None:
    start, limit, step = (np.asarray(a).reshape(-1)[0] for a in arrays)
    if step == 0 or abs((limit - start) / step) > KNOWN_ELEMENTS:
        return None
    return np.arange(start, limit, step, dtype=np.asarray(arrays[0]).dtype)


def _expand(arrays: list, attributes: dict) -> np.ndarray | None:
    shape = np.broadcast_shapes(arrays[0].shape, tuple(int(s) for s in arrays[1]))
    return None if bytes_of(shape, 2) > KNOWN_ELEMENTS else np.broadcast_to(arrays[0], shape)


def _plain(function: Callable) -> Callable[[list, dict], np.ndarray]:
    return lambda arrays, attributes: function(*arrays)


EVALUATE: dict[str, Callable[[list, dict], np.ndarray | None]] = {
    "Shape": _shape,
    "Size": lambda arrays, attributes: np.array(arrays[0].size, np.int64),
    "Identity": _plain(np.asarray),
    "Gather": lambda arrays, attributes: np.take(arrays[0], arrays[1], axis=attributes.get("axis", 0)),
    "Concat": lambda arrays, attributes: np.concatenate(arrays, axis=attributes["axis"]),
    "Unsqueeze": _unsqueeze,
    "Squeeze": lambda arrays, attributes: np.squeeze(arrays[0], axis=_axes(arrays, attributes)),
    "Slice": _slice,
    "Reshape": _reshape,
    "Flatten": lambda arrays, attributes: arrays[0].reshape(
        int(np.prod(arrays[0].shape[: attributes.get("axis", 1)], dtype=np.int64)), -1
    ),
    "Transpose": lambda arrays, attributes: np.transpose(arrays[0], attributes.get("perm")),
    "Cast": _cast,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Expand": _expand,
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _divide,
    "Mod": lambda arrays, attributes: (np.fmod if attributes.get("fmod", 0) else np.mod)(*arrays),
    "Pow": lambda arrays, attributes: np.power(*arrays).astype(arrays[0].dtype),
    "Neg": _plain(np.negative),
    "Abs": _plain(np.abs),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Sqrt": _plain(np.sqrt),
    "Reciprocal": _plain(np.reciprocal),
    "Min": lambda arrays, attributes: np.minimum.reduce(np.broadcast_arrays(*arrays)),
    "Max": lambda arrays, attributes: np.maximum.reduce(np.broadcast_arrays(*arrays)),
    "Where": _plain(np.where),
    "Equal": _plain(np.equal),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "Not": _plain(np.logical_not),
    "And": _plain(np.logical_and),
    "Or": _plain(np.logical_or),
    "ReduceSum": _reduce(np.sum),
    "ReduceProd": _reduce(np.prod),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}


def evaluate(kind: str, arrays: list, attributes: dict) -> np.ndarray | None:
    """The result of an operator on known arrays; None where it is not one of `EVALUATE` or the result is large.

    Whatever numpy refuses (indices out of range, shapes that do not fit) is left to shape inference to report.
    """
    function = EVALUATE.get(kind)
    if function is None or not arrays or arrays[0] is None:
        return None
    try:
        with np.errstate(all="ignore"):
            result = function(arrays, attributes)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
        return None
    if result is None or np.asarray(result).size > KNOWN_ELEMENTS:
        return None
    return np.asarray(result)
