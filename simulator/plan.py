"""What of a trace its cost needs, hardware aside: made once for each trace.

Columns are floats of shape (ops, 1, ...), with as many axes behind the ops as the designs have, to broadcast to
(ops, *designs).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from workloads.trace import Trace, element_bytes


@dataclass(frozen=True)
class Products:
    """The distinct products of a trace: float columns of shape (products, 1, ...)."""

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
class Plan:
    """What of a trace the cost needs, hardware aside: float columns of shape (ops, 1, ...)."""

    trace: Trace
    rows: int
    dtypes: tuple[str, ...]
    products: Products
    product_rows: np.ndarray  # numbers of the rows that are products
    which_product: np.ndarray  # for each of them, index into products
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
    alive: np.ndarray  # weight sets of a row used in turn before one is used again
    order: np.ndarray  # rows sorted by dependency level
    starts: np.ndarray  # first row of each level in that order
    is_chain: bool  # every row waits for the one before and nothing overlaps


@functools.lru_cache(maxsize=64)
def plan_of(trace: Trace, rank: int = 1) -> Plan:
    """The plan of a trace for designs of so many axes."""
    if rank > 1:
        return _with_axes(plan_of(trace), rank)
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
    rows = np.flatnonzero(trace.is_product)
    products, which, first = _distinct_products(trace, count | {"uses": uses}, role, loop, dtypes)
    return Plan(
        trace=trace,
        rows=len(trace),
        dtypes=dtypes,
        products=products,
        product_rows=rows,
        which_product=which,
        row_of_product=rows[first],
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
        alive=alive * sets,
        order=order,
        starts=np.flatnonzero(np.diff(levels, prepend=levels[0] - 1)),
        is_chain=bool((np.diff(levels) > 0).all() and (trace.path_runs == trace.repeats).all()),
    )


def _with_axes(columns, rank: int):
    """A plan or its products with columns of shape (n, 1, ...), `rank` ones."""
    changes = {}
    for item in dataclasses.fields(columns):
        value = getattr(columns, item.name)
        if isinstance(value, Products):
            changes[item.name] = _with_axes(value, rank)
        elif np.ndim(value) == 2:
            changes[item.name] = value.reshape(-1, *[1] * rank)
    return dataclasses.replace(columns, **changes)


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
) -> tuple[Products, np.ndarray, np.ndarray]:
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
    return Products(*columns[:-1], columns[-1][:, 0].astype(int)), which.reshape(-1), first


def _alike(trace: Trace, loop: np.ndarray) -> np.ndarray:
    """`loop` with the same number for recurrences whose rows are the same, (ops, 1)."""
    columns = ("batch", "m", "n", "k", "weight_bytes", "state_bytes", "repeats", "path_runs", "weight_dtype")
    rows = list(zip(*(trace.columns[name].tolist() for name in columns), strict=True))
    members: dict[int, list] = {-1: []}
    for number, row in zip(loop[:, 0].tolist(), rows, strict=True):
        if number >= 0:
            members.setdefault(number, []).append(row)
    first: dict[tuple, int] = {}
    same = {number: first.setdefault(tuple(sorted(held)), number) for number, held in members.items() if number >= 0}
    return np.array([same.get(number, -1) for number in loop[:, 0].tolist()])[:, None]
