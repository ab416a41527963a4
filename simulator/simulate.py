"""simulate(trace, accelerator) -> Result: composes the physics of compute, memory and recurrence.

Axis 0 is the op, the axes after it are those of the design space. An array has one value along an axis on which it does
not depend: in a grid most of the work is on arrays far smaller than the grid. A space is evaluated in boxes that stay
in cache.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np

from simulator import boxes, compute, memory, placement, products, recurrence
from simulator.accelerator import Accelerator, AcceleratorError
from simulator.plan import Plan, plan_of
from simulator.result import Result
from workloads.trace import Trace, TraceError, element_bytes

#: Elements of the largest temporary array of a box of designs: a megabyte, which the caches hold.
CHUNK_ELEMENTS = 2**17


def simulate(trace: Trace, accelerator: Accelerator) -> Result:
    """Time of every op of `trace` on every design of `accelerator`, with the bound that sets it.

    The time of a run of an op is the largest of its bounds - matrix units, their operand feed, vector units,
    transcendentals, each memory level, link - plus what cannot overlap (`latency`): launch, dependent step, first
    memory access. The network takes the sum over its dependency levels, in which independent runs share the machine
    as `abilities.concurrent_ops` allows. Where the accelerator fuses, elementwise rows are merged into the product
    before them (`Trace.fused`).

    Raises `TraceError` for anything but a trace, `AcceleratorError` for anything but an accelerator, an element
    type the matrix units do not run, or a collective on a chip without a link.
    """
    return _evaluated(trace, accelerator, whole=True)


def totals(trace: Trace, accelerator: Accelerator) -> Result:
    """What `simulate` gives, less the arrays by op but bytes: for sweeps, which read latency, work and traffic alone.

    Runs in one thread, as sweeps use the others. The numbers are those of `simulate` to the last digit.
    """
    return _evaluated(trace, accelerator, whole=False)


def _evaluated(trace: Trace, accelerator: Accelerator, whole: bool) -> Result:
    if not isinstance(trace, Trace):
        raise TraceError(f"simulate: a Trace is expected, got {type(trace).__name__}")
    if not isinstance(accelerator, Accelerator):
        raise AcceleratorError(f"simulate: an Accelerator is expected, got {type(accelerator).__name__}")
    executed = trace.fused if accelerator.abilities.fuses_elementwise else trace
    plan = plan_of(executed, max(1, len(accelerator.shape)))
    _refuse_unsupported(executed, plan.dtypes, accelerator)
    fields = _fields(accelerator)

    def cost(box: boxes.Box | None = None) -> dict[str, np.ndarray]:
        return _cost(plan, fields if box is None else _part(fields, box), accelerator, whole)

    cut = _boxes(plan, fields, accelerator, whole)
    output = cost() if len(cut) == 1 else boxes.gathered(cost, accelerator.shape, cut, os.cpu_count() if whole else 1)
    return Result(trace=executed, accelerator=accelerator, output=output)


def _fields(accelerator: Accelerator) -> dict[str, object]:
    """Fields by path: arrays with all the axes of the designs, of one value where the field does not vary along one."""
    fields, rank = dict(accelerator.fields), len(accelerator.shape)
    for path, value in fields.items():
        if isinstance(value, np.ndarray):
            value = boxes.compact(value)
            fields[path] = value.reshape((1,) * (rank - value.ndim) + value.shape)
    return fields


def _part(fields: dict, box: boxes.Box) -> dict:
    """Fields of the designs of a box."""
    return {path: boxes.part(value, box) if isinstance(value, np.ndarray) else value for path, value in fields.items()}


def _boxes(plan: Plan, fields: dict, accelerator: Accelerator, whole: bool) -> list[boxes.Box]:
    """Boxes of designs whose arrays stay in cache.

    The choice of tiling is most of the work and is made once for designs that the products cannot tell apart; so the
    boxes are cut first along the axes which the products see.
    """
    shape = accelerator.shape
    if accelerator.designs == 1:
        return [(slice(None),) * len(shape)]
    levels = list(accelerator.memory)
    nearest = [f"memory.{level}." for level in levels[: _shared_level(accelerator) + 1]]
    fixed = ("latency.", "package.", "silicon.", f"memory.{levels[-1]}.latency_s")
    by_product, by_op = set(), set()  # axes along which arrays of products vary, and arrays of ops
    for path, value in fields.items():
        if isinstance(value, np.ndarray):
            along = [axis for axis, size in enumerate(value.shape) if size > 1]
            if path.startswith(("matrix.", "abilities.", *nearest)):
                by_product.update(along)
            if whole or not plan.is_chain or accelerator.in_memory is not None or not path.startswith(fixed):
                by_op.update(along)
    # blocked products are cut further
    choices = len(plan.products.m) * (1 if products.is_blocked(accelerator) else len(compute.ROW_SPLITS))

    def elements(widths: list[int]) -> int:
        of_products = choices * math.prod(widths[axis] for axis in by_product)
        of_ops = plan.rows * math.prod(widths[axis] for axis in by_op)
        return max(of_products, of_ops, math.prod(widths))

    order = [*sorted(by_product), *sorted(by_op - by_product), *range(len(shape))]
    return boxes.cut(shape, list(dict.fromkeys(order)), elements, CHUNK_ELEMENTS)


def _shared_level(accelerator: Accelerator) -> int:
    """Number of the nearest memory level that the whole chip shares."""
    return next(i for i, level in enumerate(accelerator.memory.values()) if level.scope == "chip")


def _refuse_unsupported(trace: Trace, dtypes: tuple[str, ...], accelerator: Accelerator) -> None:
    missing = [dtype for dtype in dtypes if dtype not in accelerator.dtypes]
    if missing:
        dtype = missing[0]
        row = np.flatnonzero(trace.is_product & (trace.dtype == dtype))[0]
        raise AcceleratorError(
            f"{accelerator.name}: row {row} ({trace.layer[row]}: {trace.op[row]}) needs element type {dtype!r}, "
            f"which its matrix units do not run (nearest: {_nearest_size(dtype, accelerator.dtypes)!r}; "
            f"they run: {', '.join(accelerator.dtypes)})"
        )
    if accelerator.link is None:
        for row in np.flatnonzero(trace.kind == "collective")[:1]:
            raise AcceleratorError(
                f"{accelerator.name}: row {row} ({trace.op[row]}) is a collective, and it has no link"
            )


def _nearest_size(dtype: str, valid: tuple[str, ...]) -> str:
    """The type whose elements are nearest in size to those of `dtype`, the larger of two."""
    return min(valid, key=lambda other: abs(element_bytes(other) - element_bytes(dtype)) - 0.01 * element_bytes(other))


def _cost(plan: Plan, f: dict, accelerator: Accelerator, whole: bool) -> dict:
    """All arrays of one box of designs: per op (ops, *designs), totals (1, *designs), each axis of one value where
    nothing varies along it.

    `whole`: also what only a reader of single ops needs.
    """
    levels, shared = list(accelerator.memory), _shared_level(accelerator)
    padding = _padding_bytes(plan, f, accelerator)
    missing = _missing_shares(plan, f, accelerator, padding)
    weights = missing[shared].weights
    product = products.cost(plan, f, accelerator, levels[shared], weights, padding, _overlaps(plan, f))
    traffic = _traffic(plan, f, accelerator, shared, product, missing, padding)
    bounds = _bounds(plan, f, accelerator, product, traffic)

    off_chip = [*levels[shared + 1 :], *(["link"] if accelerator.link is not None else [])]
    work_s = placement.work_s(bounds, off_chip, f)
    used = _used(plan, f, bounds, product, traffic, levels[shared]) if _overlaps(plan, f) else None
    placed = None
    if accelerator.in_memory is not None:
        host = placement.Cost(traffic, bounds, work_s, used)
        streams = _streams(plan, missing[levels.index(accelerator.in_memory_level)])
        placed = placement.best(plan, f, accelerator, host, streams, off_chip)
        traffic, bounds, work_s, used = placed.traffic, placed.bounds, placed.work_s, placed.used
    # summed apart: what is fixed often varies along other axes, and then no array of both has an axis of ops
    serial = recurrence.summed(work_s * plan.repeats) + recurrence.summed(bounds["latency"] * plan.repeats)
    time = work_s + bounds["latency"] if whole or not plan.is_chain else None

    order, starts = plan.order, plan.starts
    path = serial  # of a chain
    if not plan.is_chain:
        path = recurrence.summed(recurrence.path_s(time[order], plan.path_runs[order], starts))
    if used is None:
        latency = serial
    else:
        latency = recurrence.concurrent_s(
            time[order],
            [busy[order] for busy in used.values()],
            plan.repeats[order],
            plan.path_runs[order],
            starts,
            f["abilities.concurrent_ops"],
        )
        latency = np.where(np.equal(f["abilities.concurrent_ops"], 1), serial, latency)
    output = {f"bytes:{level}": moved for level, moved in traffic.items()}
    output |= {"latency": latency[None], "serial": serial[None], "path": path[None]}
    if placed is not None:
        output |= {"inside": placed.inside, "inside_bytes": placed.read}
    if whole:
        output |= {f"bound:{name}": bound for name, bound in bounds.items()}
        kept = np.where(plan.is_scan, 1.0, 1.0 - missing[-1].weights)
        output |= {"time": time, "binding": _binding(bounds), "resident": kept}
    return output


def _used(plan: Plan, f: dict, bounds: dict, product: compute.Product, traffic: dict, shared: str) -> dict:
    """Time each op keeps each resource from others that run beside it: the most frugal tiling, not the quickest."""
    used = {name: bound for name, bound in bounds.items() if name not in ("feed", "latency")}
    used["matrix"] = _spread(plan, product.busy_s)
    used[shared] = _level_s(f, shared, _with_products(plan, traffic[shared], product.least_shared_bytes))
    return used


def _streams(plan: Plan, share: _Missing) -> np.ndarray:
    """Bytes of activations and state one run moves at a level of which the levels above miss `share`."""
    # what a backward pass will need is written whether or not it also stays
    return np.maximum(plan.stream_bytes * share.streams, plan.saved_bytes) + plan.state_bytes * share.state


def _overlaps(plan: Plan, f: dict) -> bool:
    """Whether any runs may overlap on any design."""
    at_once = f["abilities.concurrent_ops"]
    return not plan.is_chain and not (np.ndim(at_once) == 0 and at_once == 1)


def _bounds(plan: Plan, f: dict, accelerator: Accelerator, product: compute.Product, traffic: dict) -> dict:
    """Time of one run on each resource alone; the first of equals binds."""
    vector_rate = f["vector.count"] * f["vector.clock_hz"]
    sustained = f["vector.sustained"]
    bounds = {
        "matrix": _spread(plan, product.matrix_s),
        "feed": _spread(plan, product.feed_s),
        "vector": compute.unit_time_s(plan.vector_flops, vector_rate * f["vector.flops_per_cycle"], sustained),
        "special": compute.unit_time_s(plan.special_ops, vector_rate * f["vector.special_per_cycle"], sustained),
    }
    for level, moved in traffic.items():
        bounds[level] = _level_s(f, level, moved)
    if accelerator.link is not None:
        bounds["link"] = plan.sent_bytes / f["link.bandwidth_bytes_per_s"] + f["link.latency_s"] * plan.is_collective
    first_byte_s = f[f"memory.{list(accelerator.memory)[-1]}.latency_s"]
    bounds["latency"] = recurrence.fixed_s(
        plan.serial_steps,
        f["latency.launch_s"],
        f["latency.step_s"],
        first_byte_s,
        accelerator.abilities.persistent_recurrence,
        f["latency.first_steps_s"],
        f["latency.first_steps"],
    )
    if plan.is_scan.any():
        dependent_s = f["vector.dependent_cycles"] / f["vector.clock_hz"]
        scan_s = recurrence.scan_s(plan.serial_steps, f["latency.launch_s"], first_byte_s, dependent_s)
        bounds["latency"] = np.where(plan.is_scan, scan_s, bounds["latency"])
    return bounds


def _level_s(f: dict, level: str, moved_bytes: np.ndarray) -> np.ndarray:
    path = f"memory.{level}"
    return memory.memory_time_s(moved_bytes, f[f"{path}.bandwidth_bytes_per_s"], f[f"{path}.sustained"])


def _binding(bounds: dict) -> np.ndarray:
    """Index of the largest bound of each op, the first of equals."""
    values = list(bounds.values())
    largest, binding = values[0], np.int8(0)
    for number, value in enumerate(values[1:], start=1):
        binding = np.where(value > largest, np.int8(number), binding)
        largest = np.maximum(largest, value)
    return binding


def _spread(plan: Plan, values: np.ndarray) -> np.ndarray:
    """Values of distinct products (products, *designs) as a row for every op, zero where it is not a product."""
    return _with_products(plan, 0.0, values)


def _with_products(plan: Plan, values: np.ndarray | float, of_products: np.ndarray) -> np.ndarray:
    """`values` (ops, *designs) with the product rows replaced."""
    result = np.empty((plan.rows, *np.broadcast_shapes(np.shape(values)[1:], of_products.shape[1:])))
    result[...] = values
    if len(plan.product_rows):
        result[plan.product_rows] = of_products[plan.which_product]
    return result


def _padding_bytes(plan: Plan, f: dict, accelerator: Accelerator) -> np.ndarray:
    """Bytes by which each product's weights grow where whole tiles are stored. (products, *designs)"""
    p = plan.products
    if not accelerator.matrix.stores_padded_tiles or products.is_blocked(accelerator):
        return np.zeros_like(p.m)
    share = compute.padded_share(p.n, p.k, f["matrix.tile_n"], f["matrix.tile_k"])
    return (p.weight_bytes > 0) * (p.batch * p.n * p.k * p.b_element_bytes) * (share - 1.0)


class _Missing(NamedTuple):
    """Shares of what a row uses that the levels above one level cannot keep. (ops, *designs)"""

    weights: np.ndarray  # of a recurrence, from step to step; 1 outside one
    state: np.ndarray
    streams: np.ndarray  # activations in and out


def _missing_shares(
    plan: Plan, f: dict, accelerator: Accelerator, padding: np.ndarray, last: int | None = None
) -> list[_Missing]:
    """For each memory level (up to number `last`), what the levels above it cannot keep."""
    everything = np.ones_like(plan.repeats)
    shares = [_Missing(everything, everything, everything)]
    loop_weights = plan.loop_weight_bytes
    if len(loop_weights) and accelerator.matrix.stores_padded_tiles:
        in_loop = (plan.loop[:, None] == np.arange(len(loop_weights))).reshape(plan.rows, *loop_weights.shape)
        grown = _spread(plan, padding) * plan.alive
        loop_weights = loop_weights + recurrence.summed(grown[:, None] * in_loop)
    for_weights = for_activations = 0.0
    together = False  # whether weights and state compete for the same level
    weights_in_parts = state_in_parts = True
    for level, given in list(accelerator.memory.items())[: -1 if last is None else last]:
        capacity = f[f"memory.{level}.capacity_bytes"]
        if given.keeps_weights:
            for_weights, weights_in_parts = np.maximum(for_weights, capacity), given.keeps_parts
        if given.keeps_activations:
            for_activations, together = np.maximum(for_activations, capacity), given.keeps_weights
            state_in_parts = given.keeps_parts
        both = loop_weights + plan.loop_state_bytes
        state = both if together else plan.loop_state_bytes
        shares.append(
            _Missing(
                _by_row(plan, memory.missing_share(both, for_weights, weights_in_parts)),
                _by_row(plan, memory.missing_share(state, for_activations, state_in_parts)),
                memory.missing_share(plan.held_bytes, for_activations),
            )
        )
    return shares


def _by_row(plan: Plan, of_loop: np.ndarray) -> np.ndarray:
    """Values of recurrences (recurrences, *designs) as a row for every op, one outside a recurrence."""
    return np.concatenate([of_loop, np.ones((1, *of_loop.shape[1:]))])[plan.loop]


def _traffic(plan: Plan, f: dict, accelerator: Accelerator, shared: int, product, missing: list, padding) -> dict:
    """Bytes one run moves at each level: operands by tile up to the shared level, by what fits above it beyond."""
    p = plan.products
    b_bytes = p.weight_bytes + padding + p.b_bytes
    weights = plan.weight_bytes + _spread(plan, padding)
    once = weights + plan.stream_bytes + plan.state_bytes + plan.cache_bytes
    fragment = [products.first(f[f"matrix.fragment_{side}"], f[f"matrix.tile_{side}"]) for side in "mn"]
    levels = list(accelerator.memory)
    traffic = {}
    for position, level in enumerate(levels):
        if position < shared:
            fed = memory.feed_bytes(p.m, p.n, p.a_bytes, b_bytes, *fragment)
            traffic[level] = _with_products(plan, once, fed + p.other_bytes)
        elif position == shared:
            traffic[level] = _with_products(plan, once, product.shared_bytes)
        else:
            share = missing[position]
            moved = memory.recurrent_bytes(weights, share.weights, plan.uses)
            moved = moved + _streams(plan, share) + plan.cache_bytes
            above, size = (
                f[f"memory.{levels[position - 1]}.capacity_bytes"],
                np.maximum(p.a_element_bytes, p.b_element_bytes),
            )
            reread = memory.reread_bytes(p.batch, p.m, p.n, p.a_bytes, b_bytes, size, above)
            traffic[level] = moved + _spread(plan, reread)
    return traffic
