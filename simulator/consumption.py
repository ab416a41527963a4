"""Energy of a simulated trace: counts of work times the unit energies of the silicon.

Shapes as in `simulate`: axis 0 is the op, the others those of the designs (of one value where nothing varies). Totals
are summed op by op, first to last, so that a design does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulator import recurrence


def energy_by_use_j(trace, output: Mapping[str, np.ndarray], accelerator) -> dict[str, np.ndarray]:
    """Energy of the whole network by what uses it: matrix, vector, special, each memory level, link, in_memory, static.

    A multiply-accumulate costs the same in memory as on the chip (`matrix`); `in_memory` is what its banks deliver.
    Each broadcasts to the shape of the designs. Static power runs for the latency of the network.
    """
    silicon, runs = accelerator.silicon, trace.runs.astype(float)
    used = {"matrix": 0.0}
    for dtype in _dtypes(trace):
        rows = trace.is_product & (trace.dtype == dtype)
        macs = float(runs[rows] @ trace.matrix_flops[rows]) / 2.0
        used["matrix"] = used["matrix"] + macs * silicon.mac_j(dtype)
    used["vector"] = float(runs @ trace.vector_flops) * silicon.vector_flop_j
    used["special"] = float(runs @ trace.special_ops) * silicon.special_j
    for level, j_per_byte in silicon.level_j_per_byte.items():
        moved = output[f"bytes:{level}"]
        used[level] = recurrence.summed(moved * _column(runs, moved.ndim - 1)) * j_per_byte
    if accelerator.link is not None:
        used["link"] = float(runs @ _sent_bytes(trace)) * silicon.link_j_per_byte
    if accelerator.in_memory is not None:
        read = output["inside_bytes"]
        used["in_memory"] = recurrence.summed(read * _column(runs, read.ndim - 1)) * silicon.in_memory_j_per_byte
    used["static"] = output["latency"][0] * silicon.static_power_w
    return used


def energy_by_op_j(trace, output: Mapping[str, np.ndarray], accelerator) -> np.ndarray:
    """Energy of all runs of each op, static energy shared out by the time they take. (ops, *designs)"""
    silicon, rank = accelerator.silicon, output["time"].ndim - 1
    each = _column(trace.vector_flops, rank) * silicon.vector_flop_j
    each = each + _column(trace.special_ops, rank) * silicon.special_j
    for dtype in _dtypes(trace):
        macs = np.where(trace.is_product & (trace.dtype == dtype), trace.matrix_flops, 0) / 2.0
        each = each + _column(macs, rank) * silicon.mac_j(dtype)
    for level, j_per_byte in silicon.level_j_per_byte.items():
        each = each + output[f"bytes:{level}"] * j_per_byte
    if accelerator.link is not None:
        each = each + _column(_sent_bytes(trace), rank) * silicon.link_j_per_byte
    if accelerator.in_memory is not None:
        each = each + output["inside_bytes"] * silicon.in_memory_j_per_byte
    runs = _column(trace.runs, rank)
    share = output["time"] * runs / output["serial"]
    return each * runs + silicon.static_power_w * output["latency"] * share


def _dtypes(trace) -> list[str]:
    """Element types of the products, in program order."""
    return list(dict.fromkeys(trace.dtype[trace.is_product].tolist()))


def _sent_bytes(trace) -> np.ndarray:
    return np.where(trace.kind == "collective", trace.input_bytes, 0)


def _column(values, rank: int) -> np.ndarray:
    """Values of ops before `rank` axes of designs, (ops, 1, ...)."""
    return np.asarray(values, float).reshape(-1, *[1] * rank)
