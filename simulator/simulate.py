"""simulate(trace, accelerator) -> Result: composes the physics of compute, memory and recurrence.

Axis 0 is the op, axis 1 the design: there are few ops and may be many designs. A design space is evaluated in
chunks that stay in cache.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simulator import compute, memory, placement, recurrence
from simulator.accelerator import Accelerator, AcceleratorError
from simulator.result import Result
from workloads.trace import Trace, TraceError, element_bytes

#: Elements of the largest temporary array of a chunk: half a megabyte, which the caches hold.
CHUNK_ELEMENTS = 65_536


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
    plan = _plan(executed)
    _refuse_unsupported(executed, plan.dtypes, accelerator)

    designs, fields = accelerator.designs, accelerator.flat_fields
    space = _Space(plan, accelerator)
    shared = space.products_once()
    size = space.chunk_designs if shared is None else max(2, CHUNK_ELEMENTS // len(executed))
    chunks = [slice(start, min(start + size, designs)) for start in range(0, designs, size)]

    def cost(chunk: slice) -> dict[str, np.ndarray]:
        product = None if shared is None else shared.of(chunk)
        return _cost(plan, _part(fields, chunk) if designs > 1 else fields, accelerator, product, whole)

    output = cost(chunks[0])
    if len(chunks) > 1:
        output = _gathered(cost, chunks, output, os.cpu_count() if whole else 1)
    return Result(trace=executed, accelerator=accelerator, output=output)


def _part(fields: dict, chunk: slice) -> dict:
    """Flat fields of the designs of a chunk."""
    return {path: value[chunk] if isinstance(value, np.ndarray) else value for path, value in fields.items()}


def _gathered(cost, chunks: list[slice], first: dict[str, np.ndarray], workers: int) -> dict[str, np.ndarray]:
    """The arrays of all chunks side by side; what no design changes is kept once. numpy lets two threads overlap."""
    designs = chunks[-1].stop
    output = {
        key: np.empty((*value.shape[:-1], designs), value.dtype) if value.shape[-1] > 1 else value
        for key, value in first.items()
    }

    def fill(chunk: slice, part: dict[str, np.ndarray]) -> None:
        for key, value in part.items():
            if output[key].shape[-1] > 1:
                output[key][:, chunk] = value

    fill(chunks[0], first)
    if workers == 1:
        for chunk in chunks[1:]:
            fill(chunk, cost(chunk))
        return output
    from concurrent.futures import ThreadPoolExecutor  # imports logging and more, which one design does not need

    with ThreadPoolExecutor(max_workers=workers) as pool:
        list(pool.map(lambda chunk: fill(chunk, cost(chunk)), chunks[1:]))
    return output


@dataclass(frozen=True)
class _Shared:
    """Costs of the products where many designs share them: of each kind, and which kind each design is."""

    products: compute.Product
    kind: np.ndarray | None  # (designs,); None: all designs alike

    def of(self, chunk: slice) -> compute.Product:
        if self.kind is None:
            return self.products
        kinds = self.kind[chunk]
        return compute.Product(*(v if v is None or v.shape[-1] == 1 else v[:, kinds] for v in self.products))


class _Space:
    """How the designs of an accelerator differ in what the products see: the choice of tiling is most of the work."""

    def __init__(self, plan: _Plan, accelerator: Accelerator):
        self.plan, self.accelerator = plan, accelerator
        tilings = len(compute.BLOCKINGS) if _is_blocked(accelerator) else 1
        widest = max(tilings * len(compute.SPLITS) * len(plan.products.m), plan.rows)
        self.chunk_designs = max(2, CHUNK_ELEMENTS // widest)

    def products_once(self) -> _Shared | None:
        """The products of each kind of design, or None where no two designs need share them.

        Designs are of one kind where no field that the products see differs; in a grid that follows from its axes.
        """
        chip = self.accelerator
        if chip.designs == 1:
            return None
        seen = {path: value for path, value in chip.fields.items() if _is_seen(path, chip)}
        arrays = [value for value in seen.values() if isinstance(value, np.ndarray)]
        rank = len(chip.shape)
        sizes = [max((np.shape(v)[d - rank] for v in arrays if np.ndim(v) >= rank - d), default=1) for d in range(rank)]
        kinds = int(np.prod(sizes))
        if kinds == chip.designs:
            return None
        flat = {
            path: np.broadcast_to(value, sizes).reshape(-1) if isinstance(value, np.ndarray) else value
            for path, value in seen.items()
        }
        parts = [
            _products(self.plan, _part(flat, slice(start, start + self.chunk_designs)), chip)
            for start in range(0, kinds, self.chunk_designs)
        ]
        if kinds == 1:
            return _Shared(parts[0], None)
        widths = [min(self.chunk_designs, kinds - start) for start in range(0, kinds, self.chunk_designs)]
        whole = compute.Product(*(_beside(values, widths) for values in zip(*parts, strict=True)))
        kind = np.broadcast_to(np.arange(kinds).reshape(sizes), chip.shape).reshape(-1)
        return _Shared(whole, kind)


def _beside(parts: tuple[np.ndarray, ...], widths: list[int]) -> np.ndarray:
    """Arrays (products, designs or 1) of several runs of designs as one; None stays None."""
    if parts[0] is None:
        return None
    if all(part.shape[-1] == 1 for part in parts) and len(parts) == 1:
        return parts[0]
    return np.hstack([np.broadcast_to(part, (len(part), width)) for part, width in zip(parts, widths, strict=True)])


def _is_seen(path: str, accelerator: Accelerator) -> bool:
    """Whether the cost of a product depends on a field: the matrix units, and memory up to what they share."""
    if path.startswith("matrix.") or path == "abilities.concurrent_ops":
        return True
    levels = list(accelerator.memory)
    nearest = levels[: _shared_level(accelerator) + 1]
    return any(path.startswith(f"memory.{level}.") for level in nearest)


def _shared_level(accelerator: Accelerator) -> int:
    """Number of the nearest memory level that the whole chip shares."""
    return next(i for i, level in enumerate(accelerator.memory.values()) if level.scope == "chip")


def _products(plan: _Plan, f: dict, accelerator: Accelerator) -> compute.Product:
    """The products alone, from the fields they see."""
    padding = _padding_bytes(plan, f, accelerator)
    shared = _shared_level(accelerator)
    missing = _missing_shares(plan, f, accelerator, padding, shared)
    return _product(plan, f, accelerator, list(accelerator.memory)[shared], missing[shared].weights, padding)


@dataclass(frozen=True)
class _Products:
    """The distinct products of a trace: float columns of shape (products, 1)."""

    batch: np.ndarray
    m: np.ndarray
    n: np.ndarray
    k: np.ndarray
    useful: np.ndarray
    is_attention: np.ndarray
    weight_bytes: np.ndarray
    a_bytes: np.ndarray
    b_bytes: np.ndarray  # of an operand that is not weights
    other_bytes: np.ndarray
    a_element_bytes: np.ndarray
    b_element_bytes: np.ndarray
    uses: np.ndarray  # steps of the recurrence that read the same weights
    dtype: np.ndarray  # index into dtypes


@dataclass(frozen=True)
class _Plan:
    """What of a trace the cost needs, hardware aside: float columns of shape (ops, 1)."""

    trace: Trace
    rows: int
    dtypes: tuple[str, ...]
    products: _Products
    is_product: np.ndarray
    which_product: np.ndarray  # for the product rows, index into products
    row_of_product: np.ndarray  # for each product, a row that runs it
    is_collective: np.ndarray
    vector_flops: np.ndarray
    special_ops: np.ndarray
    weight_bytes: np.ndarray
    stream_bytes: np.ndarray  # activations in and out of one run
    state_bytes: np.ndarray
    cache_bytes: np.ndarray
    sent_bytes: np.ndarray  # over the link
    held_bytes: np.ndarray  # activations that compete for on-chip memory with this row's
    saved_bytes: np.ndarray
    serial_steps: np.ndarray
    uses: np.ndarray  # steps of a recurrence that read the same weights
    is_scan: np.ndarray  # all steps in one kernel that carries the state and holds its weights
    repeats: np.ndarray
    path_runs: np.ndarray
    loop: np.ndarray  # index of the recurrence, -1 outside
    loop_weight_bytes: np.ndarray  # by recurrence: weight sets used in turn before one is used again
    loop_state_bytes: np.ndarray
    order: np.ndarray  # rows sorted by dependency level
    starts: np.ndarray  # first row of each level in that order
    is_chain: bool  # every row waits for the one before and nothing overlaps


@functools.lru_cache(maxsize=64)
def _plan(trace: Trace) -> _Plan:
    count = {c: _column(trace.columns[c]) for c in ("batch", "m", "n", "k", "repeats", "path_runs", "serial_steps")}
    role = {c: _column(trace.columns[f"{c}_bytes"]) for c in ("weight", "input", "output", "state", "cache", "saved")}
    is_scan = _fused_scans(trace)
    loop, loops = _recurrences(trace, is_scan)
    alive = count["repeats"] / count["path_runs"]  # instances that alternate step by step
    # steps that go through the layers of a stack, one after another, read a weight set for each of them in turn
    sets = np.maximum(1.0, _column(trace.weight_sets) * count["serial_steps"] / count["repeats"])
    uses = count["serial_steps"] / sets
    of_loop = loop == np.arange(loops)  # (ops, recurrences)
    stream = role["input"] + role["output"]
    # activations kept for a backward pass compete for the same memory until it reads them
    kept = trace.footprint()["saved"]
    order = np.argsort(trace.level, kind="stable")
    levels = trace.level[order]
    dtypes = tuple(dict.fromkeys(trace.dtype[trace.is_product].tolist()))
    products, which, first = _distinct_products(trace, count | {"uses": uses}, role, loop, dtypes)
    return _Plan(
        trace=trace,
        rows=len(trace),
        dtypes=dtypes,
        products=products,
        is_product=trace.is_product,
        which_product=which,
        row_of_product=np.flatnonzero(trace.is_product)[first],
        is_collective=_column(trace.kind == "collective"),
        vector_flops=_column(trace.vector_flops),
        special_ops=_column(trace.special_ops),
        weight_bytes=role["weight"] / np.where(is_scan, count["serial_steps"], 1.0),
        stream_bytes=stream,
        state_bytes=role["state"],
        cache_bytes=role["cache"],
        sent_bytes=_column(np.where(trace.kind == "collective", trace.input_bytes, 0)),
        held_bytes=np.maximum(stream * count["serial_steps"], kept),
        saved_bytes=np.minimum(role["saved"], stream) if trace.trains else np.zeros_like(stream),
        serial_steps=count["serial_steps"],
        uses=uses,
        is_scan=is_scan,
        repeats=count["repeats"],
        path_runs=count["path_runs"],
        loop=loop[:, 0],
        loop_weight_bytes=_column((role["weight"] * alive * sets * of_loop).sum(axis=0)),
        loop_state_bytes=_column((role["state"] * alive * of_loop).sum(axis=0)),
        order=order,
        starts=np.flatnonzero(np.diff(levels, prepend=levels[0] - 1)),
        is_chain=bool((np.diff(levels) > 0).all() and (trace.path_runs == trace.repeats).all()),
    )


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, float)[:, None]


def _fused_scans(trace: Trace) -> np.ndarray:
    """Rows of kind "scan" that alternate with no other row: one kernel runs all their steps. (ops, 1) bool"""
    keys = list(zip(trace.layer.tolist(), trace.phase.tolist(), trace.serial_steps.tolist(), strict=True))
    alone = np.array([keys.count(key) == 1 for key in keys])
    return (alone & (trace.kind == "scan") & (trace.serial_steps > 1))[:, None]


def _recurrences(trace: Trace, is_scan: np.ndarray) -> tuple[np.ndarray, int]:
    """For each row the number of its recurrence, -1 outside one, (ops, 1); and how many there are.

    Rows of one layer and phase with the same number of serial steps alternate step by step. A single step is a
    recurrence too where it has state, lest two steps be quicker; the moments of an optimiser are not such state. A
    fused scan is none: it keeps weights in its kernel, whatever the memory does.
    """
    keys = zip(trace.layer.tolist(), trace.phase.tolist(), trace.serial_steps.tolist(), strict=True)
    within = (trace.serial_steps > 1) | ((trace.state_bytes > 0) & (trace.phase != "update"))
    within &= ~is_scan[:, 0]
    numbers: dict[tuple, int] = {}
    loop = [numbers.setdefault(key, len(numbers)) if part else -1 for key, part in zip(keys, within, strict=True)]
    return np.array(loop)[:, None], len(numbers)


def _distinct_products(
    trace: Trace, count: dict, role: dict, loop: np.ndarray, dtypes: tuple[str, ...]
) -> tuple[_Products, np.ndarray, np.ndarray]:
    """The distinct products, for each product row which of them it is, and for each of them its first product row."""
    rows = trace.is_product
    a_element = _column([element_bytes(d) for d in trace.activation_dtype.tolist()])
    weighted = role["weight"] > 0
    b_element = np.where(weighted, _column([element_bytes(d) for d in trace.weight_dtype.tolist()]), a_element)
    batch, m, n, k = (count[c] for c in ("batch", "m", "n", "k"))
    a = batch * m * k * a_element
    attention = _column(trace.kind == "attention")
    a = np.where(attention > 0, batch * m * n / 2 * a_element, a)  # the queries
    a = np.where(_column(trace.kind == "convolution"), np.minimum(a, role["input"]), a)  # not unfolded in memory
    b = np.where(weighted, 0.0, batch * k * n * b_element)
    other = np.maximum(0.0, sum(role[c] for c in ("input", "output", "state", "cache")) - a - b)
    useful = _column(trace.matrix_flops) / np.where(rows[:, None], 2.0 * batch * m * n * k, 1.0)
    dtype = _column([dtypes.index(d) if d in dtypes else -1 for d in trace.dtype.tolist()])
    columns = [batch, m, n, k, useful, attention, role["weight"], a, b, other, a_element, b_element]
    columns += [count["uses"], dtype]
    # rows of recurrences that hold different amounts are different products: more or less of their weights is kept
    table = np.hstack([*columns, _alike(trace, loop)])[rows]
    table, first, which = np.unique(table, axis=0, return_index=True, return_inverse=True)
    columns = [np.ascontiguousarray(c)[:, None] for c in table.T[: len(columns)]]
    return _Products(*columns[:-1], columns[-1][:, 0].astype(int)), which.reshape(-1), first


def _alike(trace: Trace, loop: np.ndarray) -> np.ndarray:
    """`loop` with the same number for recurrences whose rows are the same, (ops, 1)."""
    columns = ("batch", "m", "n", "k", "weight_bytes", "state_bytes", "repeats", "path_runs", "weight_sets")
    rows = list(zip(*(trace.columns[name].tolist() for name in (*columns, "weight_dtype")), strict=True))
    members: dict[int, list] = {-1: []}
    for number, row in zip(loop[:, 0].tolist(), rows, strict=True):
        if number >= 0:
            members.setdefault(number, []).append(row)
    first: dict[tuple, int] = {}
    same = {number: first.setdefault(tuple(sorted(held)), number) for number, held in members.items() if number >= 0}
    return np.array([same.get(number, -1) for number in loop[:, 0].tolist()])[:, None]


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


def _is_blocked(accelerator: Accelerator) -> bool:
    return accelerator.matrix.dataflow == "output-stationary"


def _cost(plan: _Plan, f: dict, accelerator: Accelerator, product: compute.Product | None, whole: bool) -> dict:
    """All arrays of one chunk of designs: per op (ops, designs or 1), totals (1, designs or 1).

    `product`: where the cost of the products is known already. `whole`: also what only a reader of single ops needs.
    """
    levels, shared = list(accelerator.memory), _shared_level(accelerator)
    padding = _padding_bytes(plan, f, accelerator)
    missing = _missing_shares(plan, f, accelerator, padding)
    if product is None:
        product = _product(plan, f, accelerator, levels[shared], missing[shared].weights, padding)
    traffic = _traffic(plan, f, accelerator, shared, product, missing, padding)
    bounds = _bounds(plan, f, accelerator, product, traffic)

    off_chip = [*levels[shared + 1 :], *(["link"] if accelerator.link is not None else [])]
    time = placement.time_s(bounds, off_chip, f)
    used = _used(plan, f, bounds, product, traffic, levels[shared]) if _overlaps(plan, f) else None
    placed = None
    if accelerator.in_memory is not None:
        host = placement.Cost(traffic, bounds, time, used)
        streams = _streams(plan, missing[levels.index(accelerator.in_memory_level)])
        placed = placement.best(plan.trace, plan, f, accelerator, host, streams, off_chip)
        traffic, bounds, time, used = placed.traffic, placed.bounds, placed.time, placed.used

    order, starts = plan.order, plan.starts
    serial = recurrence.summed(time * plan.repeats)
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
        output |= {
            "time": time,
            "binding": _binding(bounds),
            "resident": np.where(plan.is_scan, 1.0, 1.0 - missing[-1].weights),
        }
    return output


def _used(plan: _Plan, f: dict, bounds: dict, product: compute.Product, traffic: dict, shared: str) -> dict:
    """Time each op keeps each resource from others that run beside it: the most frugal tiling, not the quickest."""
    used = {name: bound for name, bound in bounds.items() if name not in ("feed", "latency")}
    used["matrix"] = _spread(plan, product.busy_s)
    used[shared] = _level_s(f, shared, _with_products(plan, traffic[shared], product.least_shared_bytes))
    return used


def _streams(plan: _Plan, share: _Missing) -> np.ndarray:
    """Bytes of activations and state one run moves at a level of which the levels above miss `share`."""
    # what a backward pass will need is written whether or not it also stays
    return np.maximum(plan.stream_bytes * share.streams, plan.saved_bytes) + plan.state_bytes * share.state


def _overlaps(plan: _Plan, f: dict) -> bool:
    """Whether any runs may overlap on any design."""
    at_once = f["abilities.concurrent_ops"]
    return not plan.is_chain and not (np.ndim(at_once) == 0 and at_once == 1)


def _bounds(plan: _Plan, f: dict, accelerator: Accelerator, product: compute.Product, traffic: dict) -> dict:
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


def _largest(times) -> np.ndarray:
    return functools.reduce(np.maximum, times)


def _binding(bounds: dict) -> np.ndarray:
    """Index of the largest bound of each op, the first of equals."""
    values = list(bounds.values())
    largest, binding = values[0], np.int8(0)
    for number, value in enumerate(values[1:], start=1):
        binding = np.where(value > largest, np.int8(number), binding)
        largest = np.maximum(largest, value)
    return binding


def _spread(plan: _Plan, values: np.ndarray) -> np.ndarray:
    """Values of distinct products (products, designs) as a row for every op, zero where it is not a product."""
    return _with_products(plan, np.zeros((plan.rows, 1)), values)


def _with_products(plan: _Plan, values: np.ndarray, of_products: np.ndarray) -> np.ndarray:
    """`values` (ops, designs or 1) with the product rows replaced."""
    result = np.empty((plan.rows, max(values.shape[-1], of_products.shape[-1])))
    result[:] = values
    if plan.is_product.any():
        result[plan.is_product] = of_products[plan.which_product]
    return result


def _padding_bytes(plan: _Plan, f: dict, accelerator: Accelerator) -> np.ndarray:
    """Bytes by which each product's weights grow where whole tiles are stored. (products, designs or 1)"""
    p = plan.products
    if not accelerator.matrix.stores_padded_tiles or _is_blocked(accelerator):
        return np.zeros_like(p.m)
    share = compute.padded_share(p.n, p.k, f["matrix.tile_n"], f["matrix.tile_k"])
    return (p.weight_bytes > 0) * (p.batch * p.n * p.k * p.b_element_bytes) * (share - 1.0)


class _Missing(NamedTuple):
    """Shares of what a row uses that the levels above one level cannot keep. (ops, designs or 1)"""

    weights: np.ndarray  # of a recurrence, from step to step; 1 outside one
    state: np.ndarray
    streams: np.ndarray  # activations in and out


def _missing_shares(
    plan: _Plan, f: dict, accelerator: Accelerator, padding: np.ndarray, last: int | None = None
) -> list[_Missing]:
    """For each memory level (up to number `last`), what the levels above it cannot keep."""
    everything = np.ones((plan.rows, 1))
    shares = [_Missing(everything, everything, everything)]
    loop_weights = plan.loop_weight_bytes
    if len(loop_weights) and accelerator.matrix.stores_padded_tiles:
        alive = plan.repeats / plan.path_runs * plan.serial_steps / plan.uses
        in_loop = plan.loop == np.arange(len(loop_weights))[:, None]
        loop_weights = loop_weights + recurrence.summed(
            (_spread(plan, padding) * alive)[:, None] * in_loop.T[:, :, None]
        )
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


def _by_row(plan: _Plan, of_loop: np.ndarray) -> np.ndarray:
    """Values of recurrences (recurrences, designs) as a row for every op, one outside a recurrence."""
    return np.concatenate([of_loop, np.ones((1, of_loop.shape[-1]))])[plan.loop]


_BLOCKED_FIELDS = [
    "thin_tile",
    "batched_tile",
    "max_split",
    "operand_macs",
    "loop_cycles_per_byte",
    "resident_results",
    "reach_bytes",
    "reach_cost",
    "split_cycles",
]


def _product(plan: _Plan, f: dict, accelerator: Accelerator, shared: str, weight_missing, padding) -> compute.Product:
    """Cost of the distinct products on the matrix units."""
    p = plan.products
    if not len(p.m):
        nothing = np.zeros((0, 1))
        return compute.Product(*[nothing] * len(compute.Product._fields))
    # what a private level keeps is not fetched again from the shared one
    weights = memory.recurrent_bytes(p.weight_bytes + padding, weight_missing[plan.row_of_product], p.uses)
    names = ["count", "clock_hz", "sustained", "tile_m", "tile_n", "tile_k", "feed_bytes_per_cycle", "prologue_cycles"]
    names += _BLOCKED_FIELDS if _is_blocked(accelerator) else ["load_cycles"]
    arguments = {name: f[f"matrix.{name}"] for name in names}
    arguments |= {name: getattr(p, name) for name in ("batch", "m", "n", "k", "useful", "a_bytes", "a_element_bytes")}
    attention = p.is_attention > 0
    if attention.any():
        if not accelerator.abilities.skips_masked:
            arguments["useful"] = np.where(attention, 1.0, p.useful)
        own = _first(f["matrix.attention_sustained"], f["matrix.sustained"])
        arguments["sustained"] = np.where(attention, own, f["matrix.sustained"])
    arguments |= {
        "frugal": _overlaps(plan, f),
        "b_bytes": weights + p.b_bytes,
        "other_bytes": p.other_bytes,
        "macs_per_cycle": _by_dtype([f[f"matrix.macs_per_cycle.{d}"] for d in plan.dtypes], p.dtype),
        "shared_bytes_per_s": f[f"memory.{shared}.bandwidth_bytes_per_s"] * f[f"memory.{shared}.sustained"],
    }
    if _is_blocked(accelerator):
        narrow = f["matrix.narrow_loop_cycles_per_byte"]
        if narrow is not None:
            wide = f["matrix.loop_cycles_per_byte"]
            arguments["loop_cycles_per_byte"] = np.where(p.b_element_bytes < 4, narrow, wide)
        return compute.output_stationary(b_element_bytes=p.b_element_bytes, is_attention=attention, **arguments)
    return compute.weight_stationary(**arguments)


def _by_dtype(rates: list, index: np.ndarray) -> np.ndarray:
    """The rate of each product's element type, (products, designs or 1)."""
    designs = max(np.size(rate) for rate in rates)
    return np.stack([np.broadcast_to(rate, (designs,)) for rate in rates])[index]


def _traffic(plan: _Plan, f: dict, accelerator: Accelerator, shared: int, product, missing: list, padding) -> dict:
    """Bytes one run moves at each level: operands by tile up to the shared level, by what fits above it beyond."""
    p = plan.products
    b_bytes = p.weight_bytes + padding + p.b_bytes
    weights = plan.weight_bytes + _spread(plan, padding)
    once = weights + plan.stream_bytes + plan.state_bytes + plan.cache_bytes
    fragment = [_first(f[f"matrix.fragment_{side}"], f[f"matrix.tile_{side}"]) for side in "mn"]
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
            # what a backward pass will need is written whether or not it also stays
            moved = moved + np.maximum(plan.stream_bytes * share.streams, plan.saved_bytes)
            moved = moved + plan.state_bytes * share.state + plan.cache_bytes
            above, size = (
                f[f"memory.{levels[position - 1]}.capacity_bytes"],
                np.maximum(p.a_element_bytes, p.b_element_bytes),
            )
            reread = memory.reread_bytes(p.batch, p.m, p.n, p.a_bytes, b_bytes, size, above)
            traffic[level] = moved + _spread(plan, reread)
    return traffic


def _first(value, otherwise):
    return otherwise if value is None else value
