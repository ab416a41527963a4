"""Reading an ONNX file without its weights: bulky tensor data is cut out of the bytes before they are parsed.

A trace needs the shapes of the weights, not the weights. A file of some hundred megabytes is mapped, walked by the
length of its fields (protocol buffers, as `onnx.proto3` lays them out) and parsed without the data of its large
tensors, so that its weights are never held in memory; external data is never opened. Nothing in a file is executed.
"""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path

from workloads.trace import TraceError

#: Fields of this many bytes and more are cut out of tensors, and looked into elsewhere.
_BULKY = 1 << 16
#: Constants of up to so many elements are kept as values: shapes, axes, indices, scales.
KNOWN_ELEMENTS = 4096
_DEEPEST = 60

#: Which fields of a message hold messages in which tensors may be found: {message: {field: message}}.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
#: Fields of a tensor that hold its data: float, int32, string, int64, raw, double and uint64.
_DATA = frozenset((4, 5, 6, 7, 9, 10, 11))

#: Element types of ONNX (`TensorProto.DataType`): type in the words of the trace, bits of one element. Booleans and
#: text take a byte; 64 bit integers and complex numbers take the nearest label, their bytes are real.
ELEMENTS: dict[int, tuple[str, int]] = {
    1: ("fp32", 32), 2: ("int8", 8), 3: ("int8", 8), 4: ("int16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int32", 64), 8: ("int8", 8), 9: ("int8", 8), 10: ("fp16", 16), 11: ("fp64", 64), 12: ("int32", 32),
    13: ("int32", 64), 14: ("fp32", 64), 15: ("fp64", 128), 16: ("bf16", 16), 17: ("fp8", 8), 18: ("fp8", 8),
    19: ("fp8", 8), 20: ("fp8", 8), 21: ("int4", 4), 22: ("int4", 4), 23: ("int4", 4), 24: ("fp8", 8),
    25: ("int4", 2), 26: ("int4", 2),
}  # fmt: skip
FLOATS = frozenset((1, 10, 11, 16))
FLOAT, INT8, INT64, BOOL = 1, 3, 7, 9
#: Integers that stand for quantised numbers, and the 8 bit and smaller floats.
QUANTISED = frozenset((2, 3, 17, 18, 19, 20, 21, 22, 23, 25, 26))


def bytes_of(shape: tuple[int, ...], element: int) -> int:
    """Bytes of a tensor, elements of less than a byte packed."""
    return -(-math.prod(shape) * ELEMENTS.get(element, ("int8", 8))[1] // 8)


def load(path_or_model):
    """(model, what to call it in messages) from a path, a `ModelProto`, or an object with a `model_proto`.

    A model already in memory is read where it is, without a copy. Raises `TraceError` naming the file when it is
    missing, truncated, or not ONNX, and when the `onnx` package is missing.
    """
    try:
        import onnx
    except ImportError:
        raise TraceError("from_onnx needs onnx: pip install 'rooftrace[onnx]'") from None
    if isinstance(path_or_model, onnx.ModelProto):
        model, source = path_or_model, path_or_model.graph.name or "model"
    elif isinstance(path_or_model, (str, os.PathLike)):
        model, source = _from_file(Path(path_or_model), onnx), str(path_or_model)
    else:
        model, source = getattr(path_or_model, "model_proto", None), type(path_or_model).__name__
        if not isinstance(model, onnx.ModelProto):
            raise TraceError(f"from_onnx: a path or an onnx.ModelProto is expected, got {type(path_or_model).__name__}")
    if not model.HasField("graph") or not model.graph.node:
        raise TraceError(f"{source}: not a complete ONNX model: no graph with nodes in it")
    if not model.opset_import:
        raise TraceError(f"{source}: not a complete ONNX model (truncated?): it names no operator set")
    return model, source


def _from_file(path: Path, onnx):
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise TraceError(f"{path}: empty, not an ONNX model")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                stripped = b"".join(_stripped(data, 0, size, "model", str(path), 0))
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path}: cannot be read ({error})") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(stripped)
    except Exception as error:  # the protobuf runtime in use has its own error
        raise TraceError(f"{path}: not a readable ONNX model ({error})") from None
    return model


def _stripped(data, start: int, end: int, message: str, path: str, depth: int) -> list[bytes]:
    """The fields of data[start:end] without bulky tensor data, as pieces of bytes."""
    if depth > _DEEPEST:
        raise TraceError(f"{path}: not a readable ONNX model: nested too deeply at byte {start}")
    inner, pieces, place, kept = _FIELDS[message], [], start, start
    while place < end:
        field_start = place
        key, place = _varint(data, place, end, path)
        field, wire = key >> 3, key & 7
        if wire == 0:
            _, place = _varint(data, place, end, path)
            continue
        if wire == 2:
            size, body = _varint(data, place, end, path)
        elif wire in (1, 5):
            size, body = (8 if wire == 1 else 4), place
        else:
            raise TraceError(f"{path}: not a readable ONNX model: unknown field at byte {field_start}")
        place = body + size
        if place > end:
            raise TraceError(
                f"{path}: truncated or corrupt: the field at byte {field_start} should end at byte {place}, "
                f"its {message} ends at {end}"
            )
        if wire != 2 or size < _BULKY or not (field in inner or (message == "tensor" and field in _DATA)):
            continue
        pieces.append(data[kept:field_start])
        if field in inner:
            parts = _stripped(data, body, place, inner[field], path, depth + 1)
            pieces += [_as_varint(key), _as_varint(sum(map(len, parts))), *parts]
        kept = place
    pieces.append(data[kept:end])
    return pieces


def _varint(data, place: int, end: int, path: str) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise TraceError(f"{path}: truncated or corrupt: it ends within a number at byte {place}")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise TraceError(f"{path}: not a readable ONNX model: no number at byte {place}")


def _as_varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def known_values(tensor, source: str):
    """The numbers of a small tensor kept inside the model, as an array; None for a large or an external one."""
    from onnx import numpy_helper

    elements = math.prod(tensor.dims)
    if elements > KNOWN_ELEMENTS or tensor.data_location == 1 or tensor.data_type == 8:  # external; text
        return None
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # ValueError, TypeError or what numpy raises for a wrong size
        raise TraceError(f"{source}: constant {tensor.name!r} does not hold its {elements} values ({error})") from None
