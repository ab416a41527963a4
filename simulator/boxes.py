"""Cuts a space of designs into boxes, which are evaluated one at a time, and puts their arrays together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np

Box = tuple[slice, ...]


def compact(values: np.ndarray) -> np.ndarray:
    """An array that was broadcast with one value along each axis on which it repeats itself."""
    if 0 not in values.strides:
        return values
    return values[tuple(slice(1 if step == 0 else None) for step in values.strides)]


def part(values: np.ndarray, box: Box) -> np.ndarray:
    """The designs of a box, of an array of all axes that has one value along those on which it does not depend."""
    return values[tuple(cut if size > 1 else slice(None) for cut, size in zip(box, values.shape, strict=True))]


def cut(shape: tuple[int, ...], order: Sequence[int], elements: Callable[[list[int]], int], most: int) -> list[Box]:
    """Boxes of a space of `shape` for which `elements`, a function of the length along each axis, is `most` or less.

    The axes are cut in `order`, into single candidates until the box is small enough. `elements` must not fall where a
    length grows; a single design is never too large.
    """
    widths = list(shape)
    for axis in order:
        if elements(widths) <= most:
            break
        low, high = 1, widths[axis]  # the widest that is small enough, or one
        while low < high:
            widths[axis] = (low + high + 1) // 2
            low, high = (widths[axis], high) if elements(widths) <= most else (low, widths[axis] - 1)
        widths[axis] = low
    slices = [
        [slice(start, min(start + width, size)) for start in range(0, size, width)]
        for size, width in zip(shape, widths, strict=True)
    ]
    return list(product(*slices))


def gathered(
    cost: Callable[[Box], Mapping[str, np.ndarray]], shape: tuple[int, ...], cuts: Sequence[Box], workers: int
) -> dict[str, np.ndarray]:
    """The arrays (n, *designs) that `cost` gives for every box, as those of the whole space.

    What does not depend on an axis is kept once: where it does shows in a box of two candidates along each axis.
    numpy lets threads overlap.
    """
    few = cost(tuple(slice(0, 2) for _ in shape))
    output = {}
    for key, value in few.items():
        sizes = [size if varies > 1 else 1 for size, varies in zip(shape, value.shape[1:], strict=True)]
        output[key] = np.empty((len(value), *sizes), value.dtype)

    def fill(box: Box) -> None:
        for key, values in cost(box).items():
            part(output[key], (slice(None), *box))[...] = values

    if workers == 1:
        for box in cuts:
            fill(box)
        return output
    from concurrent.futures import ThreadPoolExecutor  # imports logging and more, which one design does not need

    with ThreadPoolExecutor(max_workers=workers) as pool:
        list(pool.map(fill, cuts))
    return output
