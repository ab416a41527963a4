"""How long numpy needs just to stream the array operations of a chunk: the floor any numpy program stands on.

Every array operation of one call of the model is counted by the shape of its result; then `np.add` runs over arrays of
the same sizes into a buffer, as many times. Picking elements by index is not counted. What the model does beyond that -
wider arithmetic, selections, the interpreter - is the ratio.
"""

from __future__ import annotations

import contextlib
import time
from unittest import mock

import numpy as np


class Counted(np.ndarray):
    """An array that notes the size of every result computed from it."""

    sizes: list[int]

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [np.ndarray.view(x, np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if "out" in options:
            options["out"] = tuple(np.ndarray.view(x, np.ndarray) if isinstance(x, Counted) else x
                                   for x in options["out"])  # fmt: skip
        return self._noted(getattr(ufunc, method)(*plain, **options))

    def __array_function__(self, function, types, arguments, options):
        return self._noted(super().__array_function__(function, types, arguments, options), function)

    def _noted(self, result, function=None):
        views = (np.broadcast_to, np.reshape, np.shape, np.ndim, np.size, np.broadcast_shapes, np.moveaxis, np.copyto)
        if isinstance(result, np.ndarray):
            if function not in views:
                COUNTED.append(result.size)
            return result.view(Counted)
        return result


COUNTED: list[int] = []


@contextlib.contextmanager
def counting():
    """Collects the sizes of array operations on arrays that come from a `Counted` one."""
    COUNTED.clear()
    asarray, contiguous, empty = np.asarray, np.ascontiguousarray, np.empty

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
    ):
        yield COUNTED


def streamed_s(sizes: list[int], repeats: int) -> float:
    """Seconds to add two arrays of each size into a buffer: the least of `repeats` runs over all of them."""
    largest = max(sizes)
    first, second, out = np.ones(largest), np.ones(largest), np.empty(largest)
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        for size in sizes:
            np.add(first[:size], second[:size], out=out[:size])
        best = min(best, time.perf_counter() - start)
    return best


def least_s(call, repeats: int) -> float:
    """Seconds of the quickest of `repeats` calls."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
