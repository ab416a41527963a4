"""Products computed beside the banks of a memory: bytes read there, bytes that cross its interface, time.

Bare arrays; shapes as in `compute`. A stored matrix is read from all banks at once and multiplied where it lies; only
vectors and results cross the interface. The units beside a bank hold few vectors (one, as a rule), so a product of
many rows reads its matrix many times, where the units of a chip read it once.

Ref.: Lee et al., Hardware Architecture and Software Stack for PIM Based on Commercial DRAM Technology, ISCA 2021;
He et al., Newton: A DRAM-maker's Accelerator-in-Memory Architecture for Machine Learning, MICRO 2020.
"""

from __future__ import annotations

import numpy as np


def inside_bytes(stored_bytes, rows, vectors_per_pass):
    """Bytes the banks deliver: the stored matrix once for every `vectors_per_pass` rows of the product. [bytes]"""
    return stored_bytes * np.ceil(rows / vectors_per_pass)


def crossing_bytes(input_bytes, result_bytes, batch, input_copies, result_copies):
    """Vectors sent to the units and results read back, with all copies. [bytes]

    The matrices of a batch share the parts of the memory among them: a vector goes to those that hold its own."""
    return input_bytes * np.maximum(1.0, input_copies / np.maximum(1.0, batch)) + result_bytes * result_copies


def product_s(bytes_read, macs, bandwidth_bytes_per_s, sustained, macs_per_s):
    """Time of the units: the longer of reading the banks and multiplying. [s]"""
    return np.maximum(bytes_read / (bandwidth_bytes_per_s * sustained), macs / macs_per_s)


def crossing_s(bytes_crossing, other_bytes, level_bytes_per_s, transfer_bytes_per_s=None):
    """Time of the interface: what crosses it to and from the units, and what else it moves. [s]

    `transfer_bytes_per_s` is the rate of the first where it is lower than that of the level (None: the same).
    """
    if transfer_bytes_per_s is None:
        return (bytes_crossing + other_bytes) / level_bytes_per_s
    return bytes_crossing / np.minimum(transfer_bytes_per_s, level_bytes_per_s) + other_bytes / level_bytes_per_s


def fits(stored_bytes, rows, capacity_bytes):
    """Which matrices the memory of the units holds, those of the thinnest products first. (ops, *designs) bool

    `stored_bytes` and `rows` are (ops, 1, ...). The order does not depend on the machine, so that more of anything
    never takes the room of a matrix that had it.
    """
    order = np.argsort(rows.reshape(-1), kind="stable")
    held = np.empty_like(stored_bytes)
    held[order] = np.cumsum(stored_bytes[order], axis=0)
    return held <= capacity_bytes
