"""How long numpy needs just to stream the array operations of a chunk: the floor any numpy program stands on.

Every array operation of one call of the model is counted with the numbers it streams, those of its largest operand or
result: arithmetic, selections, sums, picks by index, copies; those on a handful of numbers too. Then `np.add` runs
over arrays of the same sizes into a buffer, as many times. What the model does beyond that - wider arithmetic, new
memory for each result, the interpreter - is the ratio.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from unittest import mock

import numpy as np

#: What returns a view or a shape, and streams nothing.
VIEWS = (np.broadcast_to, np.broadcast_arrays, np.reshape, np.shape, np.ndim, np.size, np.broadcast_shapes, np.moveaxis)


class Counted(np.ndarray):
    """An array that notes the numbers that every operation on it streams; so do the results."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [_plain(x) for x in inputs]
        if "out" in options:
            options["out"] = tuple(_plain(x) for x in options["out"])
        return _noted(getattr(ufunc, method)(*plain, **options), *inputs)

    def __array_function__(self, function, types, arguments, options):
        with _alone() as outermost:
            result = super().__array_function__(function, types, arguments, options)
        return _noted(result, counts=outermost and function not in VIEWS)

    def __getitem__(self, index):
        result = super().__getitem__(index)
        picks = any(isinstance(i, (np.ndarray, list)) for i in (index if isinstance(index, tuple) else (index,)))
        return _noted(result) if picks else result

    def __setitem__(self, index, values):
        super().__setitem__(index, _plain(values))
        _noted(_plain(self)[index])


COUNTED: list[int] = []
_NESTED: list[bool] = []


def _plain(value):
    return value.view(np.ndarray) if isinstance(value, Counted) else value


@contextlib.contextmanager
def _alone():
    """Whether this call is not inside another one, which counts already."""
    _NESTED.append(True)
    try:
        yield len(_NESTED) == 1
    finally:
        _NESTED.pop()


def _noted(result, *operands, counts: bool = True):
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    if counts and not _NESTED:
        COUNTED.append(max(np.size(x) for x in (result, *operands)))
    return result.view(Counted) if isinstance(result, np.ndarray) else result


@contextlib.contextmanager
def counting():
    """Collects the sizes of array operations on arrays that come from a `Counted` one or from the plan of a trace."""
    COUNTED.clear()
    asarray, contiguous, empty = np.asarray, np.ascontiguousarray, np.empty
    engine = sys.modules["simulator.simulate"]

    def kept(function):
        def call(value, *arguments, **options):
            result = function(value, *arguments, **options)
            return result.view(Counted) if isinstance(value, Counted) and isinstance(result, np.ndarray) else result

        return call

    def buffer(*arguments, **options):
        return empty(*arguments, **options).view(Counted)

    with (
        mock.patch.object(np, "asarray", kept(asarray)),
        mock.patch.object(np, "ascontiguousarray", kept(contiguous)),
        mock.patch.object(np, "empty", buffer),
        mock.patch.object(engine, "plan_of", lambda trace, rank, plan_of=engine.plan_of: _marked(plan_of(trace, rank))),
    ):
        yield COUNTED


def _marked(columns):
    """A plan whose float columns are counted."""
    values = {item.name: getattr(columns, item.name) for item in dataclasses.fields(columns)}
    marked = {n: v.view(Counted) for n, v in values.items() if isinstance(v, np.ndarray) and v.dtype == float}
    if "products" in values:
        marked["products"] = _marked(values["products"])
    return dataclasses.replace(columns, **marked)


def streamed_s(sizes: list[int], repeats: int) -> float:
    """Seconds to add two arrays of each size into a buffer: the least of `repeats` runs over all of them."""
    largest = max(sizes)
    first, second, out = np.ones(largest), np.ones(largest), np.empty(largest)
    operands = [(first[:size], second[:size], out[:size]) for size in sizes]

    def stream() -> None:
        for one, other, into in operands:
            np.add(one, other, out=into)

    return least_s(stream, repeats)


def least_s(call, repeats: int) -> float:
    """Seconds of the quickest of `repeats` calls."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
