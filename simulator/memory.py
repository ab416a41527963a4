"""Bytes moved at each memory level, and the time that takes. Bare arrays; shapes as in `compute`."""

from __future__ import annotations

import numpy as np


def missing_share(working_set_bytes, capacity_bytes, in_parts=True):
    """Share of a working set that does not fit: what is fetched again each time it is used. (0..1)

    `capacity_bytes` of zero means nothing is kept. `in_parts`: the part that fits stays, as a scratchpad or a
    cache with hashed or protected lines keeps it; otherwise a set that does not fit whole is fetched whole, as by a
    cache that is read in a cycle and drops what was used longest ago. The bytes fetched again never fall when
    the working set grows.
    """
    beyond = np.maximum(0.0, working_set_bytes - capacity_bytes)
    if not in_parts:
        return np.where(beyond > 0, 1.0, 0.0)
    return beyond / np.where(np.greater(working_set_bytes, 0), working_set_bytes, 1.0)


def recurrent_bytes(bytes_per_step, missing, steps):
    """Bytes a step fetches of data that all `steps` of a recurrence read: what is missing each time, the rest once."""
    return bytes_per_step * (missing + (1.0 - missing) / steps)


def reread_bytes(batch, m, n, a_bytes, b_bytes, element_bytes, capacity_bytes):
    """Operand bytes a product fetches beyond once, because its operands do not fit the level above. [bytes]

    The best of three schedules, each of which touches the result once: keep panels of A and stream B past each;
    keep panels of B and stream A; square blocks of A, B and the result, three of which fit (Hong and Kung, STOC
    1981; Goto and van de Geijn, ACM TOMS 34(3), 2008).
    """
    a, b = a_bytes / batch, b_bytes / batch
    side = np.sqrt(capacity_bytes / (3.0 * element_bytes))
    keep_a = a + b * np.maximum(1.0, a / capacity_bytes)
    keep_b = b + a * np.maximum(1.0, b / capacity_bytes)
    square = a * np.maximum(1.0, n / side) + b * np.maximum(1.0, m / side)
    return batch * (np.minimum(np.minimum(keep_a, keep_b), square) - (a + b))


def feed_bytes(m, n, a_bytes, b_bytes, fragment_m, fragment_n):
    """Operand bytes the units read from their private memory, one fragment of the result at a time. [bytes]

    Each operand is read once for every fragment it serves, and at least once."""
    return a_bytes * np.maximum(1.0, n / fragment_n) + b_bytes * np.maximum(1.0, m / fragment_m)


def memory_time_s(bytes_moved, bandwidth_bytes_per_s, sustained):
    """Time to stream `bytes_moved` at the sustained share of a bandwidth. [s]

    Ref.: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009."""
    return bytes_moved / (bandwidth_bytes_per_s * sustained)
