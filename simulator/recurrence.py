"""Serial steps and concurrency: fixed costs of dependent steps, and time >= max(work, longest path)."""

from __future__ import annotations

import numpy as np


def fixed_s(serial_steps, launch_s, step_s, memory_latency_s, persistent):
    """Time one run pays whatever its size: launch, first access to memory, and in a recurrence the dependent step. [s]

    A persistent recurrence is launched once for all its steps.
    """
    in_recurrence = serial_steps > 1
    launch = launch_s / np.where(in_recurrence, serial_steps, 1.0) if persistent else launch_s
    return launch + memory_latency_s + step_s * in_recurrence


def overlapped_s(compute_s, memory_s, overlap):
    """Time of compute and memory work of one op of which the share `overlap` of the smaller hides behind the larger. [s]"""
    return np.maximum(compute_s, memory_s) + (1.0 - overlap) * np.minimum(compute_s, memory_s)


def summed(values):
    """Sum over axis 0: (rows, designs) to (designs,).

    numpy adds a lone column in pairs and several columns row after row; here it is always row after row, so that a
    design alone has the total it has among others, to the last digit.
    """
    if values.shape[-1] == 1:
        return np.repeat(values, 2, axis=-1).sum(axis=0)[:1]
    return values.sum(axis=0)


def path_s(time_s, path_runs, starts):
    """Longest path: the slowest row of each dependency level, levels in series. [s]

    `time_s` (ops, designs) sorted by level, `path_runs` (ops, 1) likewise, `starts` the first op of each level.
    Returns (levels, designs).
    """
    return np.maximum.reduceat(time_s * path_runs, starts, axis=0)


def concurrent_s(time_s, busy_s, repeats, path_runs, starts, concurrent_ops):
    """Time of the whole when independent runs overlap: of each dependency level the largest of its longest
    path, the work it puts on each resource, and its runs packed `concurrent_ops` at a time; levels in series. [s]

    `time_s` (ops, designs) and the `busy_s` of each resource (ops, designs or 1) are those of one run, sorted by level;
    `concurrent_ops` is () or (designs,). Returns (designs,). Never below the longest path, never above the sum of all runs.
    """
    level_s = path_s(time_s, path_runs, starts)
    for busy in busy_s:
        level_s = np.maximum(level_s, np.add.reduceat(busy * repeats, starts, axis=0))
    packed = np.add.reduceat(time_s * repeats, starts, axis=0) / concurrent_ops
    return summed(np.maximum(level_s, packed))
