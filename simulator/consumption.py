"""Energy of a simulated trace: counts of work times the unit energies of the silicon.

Shapes as in `simulate`: axis 0 is the op, axis 1 the design (1 where designs do not differ). Totals are summed op by
op, first to last, so that a design does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulator import recurrence


def energy_by_use_j(trace, output: Mapping[str, np.ndarray], accelerator) -> dict[str, np.ndarray]:
    """Energy of the whole network by what uses it: matrix, vector, special, each memory level, link, in_memory, static.

    A multiply-accumulate costs the same in memory as on the chip (`matrix`); `in_memory` is what its banks deliver.
    Each (designs,) or (1,). Static power runs for the latency of the network.
    """
    silicon, runs = accelerator.silicon, trace.runs.astype(float)
    used = {"matrix": 0.0}
    for dtype in _dtypes(trace):
        rows = trace.is_product & (trace.dtype == dtype)
        macs = float(runs[rows] @ trace.matrix_flops[rows]) / 2.0
        used["matrix"] = used["matrix"] + macs * _flat(silicon.mac_j(dtype), accelerator)
    used["vector"] = float(runs @ trace.vector_flops) * _flat(silicon.vector_flop_j, accelerator)
    used["special"] = float(runs @ trace.special_ops) * _flat(silicon.special_j, accelerator)
    for level, j_per_byte in silicon.level_j_per_byte.items():
        moved = recurrence.summed(output[f"bytes:{level}"] * runs[:, None])
        used[level] = moved * _flat(j_per_byte, accelerator)
    if accelerator.link is not None:
        used["link"] = float(runs @ _sent_bytes(trace)) * _flat(silicon.link_j_per_byte, accelerator)
    if accelerator.in_memory is not None:
        read = recurrence.summed(output["inside_bytes"] * runs[:, None])
        used["in_memory"] = read * _flat(silicon.in_memory_j_per_byte, accelerator)
    used["static"] = output["latency"][0] * _flat(silicon.static_power_w, accelerator)
    return {name: np.atleast_1d(value) for name, value in used.items()}


def energy_by_op_j(trace, output: Mapping[str, np.ndarray], accelerator) -> np.ndarray:
    """Energy of all runs of each op, static energy shared out by the time they take. (ops, designs or 1)"""
    silicon = accelerator.silicon
    each = _column(trace.vector_flops) * _flat(silicon.vector_flop_j, accelerator)
    each = each + _column(trace.special_ops) * _flat(silicon.special_j, accelerator)
    for dtype in _dtypes(trace):
        macs = np.where(trace.is_product & (trace.dtype == dtype), trace.matrix_flops, 0) / 2.0
        each = each + _column(macs) * _flat(silicon.mac_j(dtype), accelerator)
    for level, j_per_byte in silicon.level_j_per_byte.items():
        each = each + output[f"bytes:{level}"] * _flat(j_per_byte, accelerator)
    if accelerator.link is not None:
        each = each + _column(_sent_bytes(trace)) * _flat(silicon.link_j_per_byte, accelerator)
    if accelerator.in_memory is not None:
        each = each + output["inside_bytes"] * _flat(silicon.in_memory_j_per_byte, accelerator)
    runs = _column(trace.runs)
    static_w = _flat(silicon.static_power_w, accelerator)
    share = output["time"] * runs / output["serial"]
    return each * runs + static_w * output["latency"] * share


def _dtypes(trace) -> list[str]:
    """Element types of the products, in program order."""
    return list(dict.fromkeys(trace.dtype[trace.is_product].tolist()))


def _sent_bytes(trace) -> np.ndarray:
    return np.where(trace.kind == "collective", trace.input_bytes, 0)


def _column(values) -> np.ndarray:
    return np.asarray(values, float)[:, None]


def _flat(value, accelerator):
    """A unit energy as (designs,), or a number where designs do not differ."""
    if np.ndim(value) == 0:
        return float(value)
    return np.broadcast_to(value, accelerator.shape).reshape(-1)
