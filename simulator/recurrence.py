"""Serial steps and concurrency: fixed costs of dependent steps, and time >= max(work, longest path)."""

from __future__ import annotations

import numpy as np


def scan_s(serial_steps, launch_s, memory_latency_s, dependent_s):
    """What one step of a fused scan pays whatever its size: one dependent operation, and its share of the one launch
    and the first access to memory of the kernel, which fetches later steps ahead. [s]

    Optimistic: one operation a step is on the path (the multiply-add of a linear recurrence), the others are ahead.
    """
    return (launch_s + memory_latency_s) / serial_steps + dependent_s


def fixed_s(serial_steps, launch_s, step_s, memory_latency_s, persistent, first_steps_s, first_steps):
    """Time one run pays whatever its size: launch, first access to memory, the dependent step of a recurrence. [s]

    The first `first_steps` steps of a recurrence cost `first_steps_s` more, shared out among its runs. A persistent
    recurrence is launched once for all its steps.
    """
    in_recurrence = serial_steps > 1
    launch = launch_s / np.where(in_recurrence, serial_steps, 1.0) if persistent else launch_s
    first = first_steps_s * np.minimum(1.0, first_steps / serial_steps)
    return launch + memory_latency_s + (step_s + first) * in_recurrence


def overlapped_s(on_chip_s, off_chip_s, overlap):
    """Time of an op's work on chip and its transfers from beyond; `overlap` of the smaller hides. [s]"""
    longer = np.maximum(on_chip_s, off_chip_s)
    if np.ndim(overlap) == 0 and overlap == 1:
        return longer
    return longer + (1.0 - overlap) * np.minimum(on_chip_s, off_chip_s)


def summed(values):
    """Sum over axis 0, first to last. (ops, *designs) -> designs

    numpy adds a single column pairwise and several columns row by row; a design must not depend on its neighbours.
    """
    values = np.ascontiguousarray(values)
    return np.add.reduce(values, axis=0) if values[0].size > 1 else np.cumsum(values, axis=0)[-1]


def path_s(time_s, path_runs, starts):
    """Longest path: the slowest row of each dependency level, levels in series. [s]

    `time_s` (ops, *designs) sorted by level, `path_runs` (ops, 1, ...) likewise, `starts` the first op of each level.
    Returns (levels, *designs).
    """
    return np.maximum.reduceat(time_s * path_runs, starts, axis=0)


def concurrent_s(time_s, busy_s, repeats, path_runs, starts, concurrent_ops):
    """Time of the whole when independent runs overlap, dependency levels in series (`levels_s`). (*designs,) [s]

    Never below the longest path, never above the sum of all runs.
    """
    return summed(levels_s(time_s, busy_s, repeats, path_runs, starts, concurrent_ops))


def levels_s(time_s, busy_s, repeats, path_runs, starts, concurrent_ops):
    """Time of each dependency level when independent runs overlap. (levels, *designs) [s]

    A level takes the largest of its longest path, the work it puts on each resource, and its runs packed
    `concurrent_ops` at a time. `time_s` and the `busy_s` of each resource (ops, *designs) are those of one run, sorted
    by level; `concurrent_ops` is () or of the shape of the designs.
    """
    level_s = path_s(time_s, path_runs, starts)
    for busy in busy_s:
        level_s = np.maximum(level_s, np.add.reduceat(busy * repeats, starts, axis=0))
    packed = np.add.reduceat(time_s * repeats, starts, axis=0) / concurrent_ops
    return np.maximum(level_s, packed)
