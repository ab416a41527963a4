"""Cost of the distinct products of a trace, for all designs of a box: composes `compute` and the fields of a chip.

Designs that share the tilings a product chooses from are put side by side, and evaluated in parts that stay in cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from simulator import boxes, compute, memory
from simulator.accelerator import Accelerator
from simulator.plan import Plan

#: Elements of the largest temporary arrays of a part of the designs: a megabyte, which the caches hold.
PART_ELEMENTS = 2**17
#: Designs from which on it pays to look for the tilings that can be best.
MANY = 64

_COMMON = ("count", "clock_hz", "sustained", "tile_m", "tile_n", "tile_k", "feed_bytes_per_cycle", "prologue_cycles")
_BLOCKED = (
    "thin_tile",
    "batched_tile",
    "max_split",
    "operand_macs",
    "loop_cycles_per_byte",
    "resident_results",
    "reach_bytes",
    "reach_cost",
    "split_cycles",
)
#: What says which tilings there are, and what a block costs whatever the rates: of products, and of the units.
_SIZES = ("batch", "m", "n", "k", "useful", "is_attention", "a_element_bytes", "b_element_bytes")
_TILE = (
    *("tile_m", "tile_n", "tile_k", "thin_tile", "batched_tile", "max_split"),
    *("operand_macs", "resident_results", "reach_bytes", "reach_cost"),
)


def is_blocked(accelerator: Accelerator) -> bool:
    """Whether the units keep a block of the result."""
    return accelerator.matrix.dataflow == "output-stationary"


def first(value, otherwise):
    """A field, or what stands for it where it is None."""
    return otherwise if value is None else value


def cost(
    plan: Plan, f: dict, accelerator: Accelerator, shared: str, weight_missing, padding, frugal: bool
) -> compute.Product:
    """Cost of the distinct products on the matrix units, (products, *designs).

    `f`: fields of the designs; `shared`: the level all units share; `weight_missing`: share of each row's weights that
    is fetched from it at every step; `padding`: bytes that whole tiles add to each product's weights.
    """
    p = plan.products
    if not len(p.m):
        nothing = np.zeros_like(p.m)
        return compute.Product(*[nothing] * len(compute.Product._fields))
    # what a private level keeps is not fetched again from the shared one
    weights = memory.recurrent_bytes(p.weight_bytes + padding, weight_missing[plan.row_of_product], p.uses)
    names = [*_COMMON, *(_BLOCKED if is_blocked(accelerator) else ["load_cycles"])]
    arguments = {name: f[f"matrix.{name}"] for name in names}
    arguments |= {name: getattr(p, name) for name in ("batch", "m", "n", "k", "useful", "a_bytes", "a_element_bytes")}
    attention = p.is_attention > 0
    if attention.any():
        if not accelerator.abilities.skips_masked:
            arguments["useful"] = np.where(attention, 1.0, p.useful)
        own = first(f["matrix.attention_sustained"], f["matrix.sustained"])
        arguments["sustained"] = np.where(attention, own, f["matrix.sustained"])
    arguments |= {
        "frugal": frugal,
        "b_bytes": weights + p.b_bytes,
        "other_bytes": p.other_bytes,
        "macs_per_cycle": _by_dtype([f[f"matrix.macs_per_cycle.{d}"] for d in plan.dtypes], p.dtype, p.m.ndim - 1),
        "shared_bytes_per_s": f[f"memory.{shared}.bandwidth_bytes_per_s"] * f[f"memory.{shared}.sustained"],
    }
    if not is_blocked(accelerator):
        return compute.weight_stationary(**arguments)
    narrow = f["matrix.narrow_loop_cycles_per_byte"]
    if narrow is not None:
        wide = f["matrix.loop_cycles_per_byte"]
        arguments["loop_cycles_per_byte"] = np.where(p.b_element_bytes < 4, narrow, wide)
    return _in_parts(arguments | {"b_element_bytes": p.b_element_bytes, "is_attention": attention})


def _by_dtype(rates: list, index: np.ndarray, rank: int) -> np.ndarray:
    """The rate of each product's element type, (products, *designs), `rank` axes of designs."""
    rates = np.stack(np.broadcast_arrays(*rates))
    return rates.reshape(len(rates), *(rates.shape[1:] or (1,) * rank))[index]


def _in_parts(arguments: dict) -> compute.Product:
    """`compute.output_stationary`, for designs that share their tilings together where that pays."""
    number, rank = len(arguments["m"]), arguments["m"].ndim - 1
    shape = np.broadcast_shapes(*{v.shape[-rank:] for v in arguments.values() if isinstance(v, np.ndarray)})
    orders, groups = _alike([v for name in _TILE if isinstance(v := arguments[name], np.ndarray)], shape)
    if 1 < math.prod(map(len, groups)) > math.prod(shape) / MANY:
        orders, groups = {}, None
    if orders:
        arguments = {name: _taken(value, orders, rank) for name, value in arguments.items()}
    parts = list(_parts(arguments, shape, groups))
    if len(parts) == 1:
        _, more = parts[0]
        only = compute.output_stationary(**arguments | more)
        return compute.Product(*(_broadcast(values, (number, *shape)) for values in only))
    whole: dict[str, np.ndarray] = {}
    for box, more in parts:
        part = compute.output_stationary(**{name: _part(value, box) for name, value in arguments.items()} | more)
        for name, values in part._asdict().items():
            if values is not None:
                whole.setdefault(name, np.empty((number, *shape)))[:, *box] = values
    back = {axis: np.argsort(order) for axis, order in orders.items()}
    found = {name: _taken(values, back, rank) for name, values in whole.items()}
    return compute.Product(**{name: found.get(name) for name in compute.Product._fields})


def _parts(arguments: dict, shape: tuple[int, ...], groups) -> Iterator[tuple[boxes.Box, dict]]:
    """Boxes of designs, and the argument that says which tilings those of a group share (`groups` None: none)."""
    if groups is None:
        tilings = len(arguments["m"]) * len(compute.BLOCKINGS) * len(compute.SPLITS)
        everything = tuple(slice(0, size) for size in shape)
        yield from ((box, {}) for box in _cut(everything, tilings))
        return
    sizes = [np.asarray(arguments[name], float) for name in _SIZES]
    for group in itertools.product(*groups):
        corner = tuple(slice(one.start, one.start + 1) for one in group)
        tile = {name: _part(arguments[name], corner) for name in _TILE}
        few = math.prod(one.stop - one.start for one in group) < MANY
        tilings = compute.shared_tilings(
            sizes, tile.values(), None if few else float(np.max(_part(arguments["count"], group)))
        )
        yield from ((box, {"tilings": tilings}) for box in _cut(group, len(tilings.product)))


def _alike(tiles: list[np.ndarray], shape: tuple[int, ...]):
    """For each axis an order that puts designs of equal tiles side by side, where it is another, and where each lot
    of them lies then."""
    orders, groups = {}, []
    for axis, size in enumerate(shape):
        columns = [np.moveaxis(value, axis, 0).reshape(size, -1) for value in tiles if value.shape[axis] > 1]
        starts = []
        if columns:
            table = np.hstack(columns)
            order = np.lexsort(table.T)
            starts = (np.flatnonzero((np.diff(table[order], axis=0) != 0).any(axis=1)) + 1).tolist()
            if (np.diff(order) < 0).any():
                orders[axis] = order
        groups.append([slice(*ends) for ends in itertools.pairwise([0, *starts, size])])
    return orders, groups


def _cut(group: tuple[slice, ...], tilings: int) -> list[boxes.Box]:
    """The designs of a group in boxes small enough for so many tilings."""
    sizes = tuple(one.stop - one.start for one in group)
    found = boxes.cut(sizes, range(len(sizes)), lambda widths: tilings * math.prod(widths), PART_ELEMENTS)
    return [
        tuple(slice(one.start + cut.start, one.start + cut.stop) for one, cut in zip(group, box, strict=True))
        for box in found
    ]


def _part(value, box: boxes.Box):
    """A box of an argument whose last axes are those of the designs."""
    if not isinstance(value, np.ndarray):
        return value
    return boxes.part(value, (slice(None),) * (value.ndim - len(box)) + box)


def _broadcast(values, shape: tuple[int, ...]):
    """Values of that shape, or None."""
    return values if values is None or values.shape == shape else np.broadcast_to(values, shape)


def _taken(value, orders: dict[int, np.ndarray], rank: int):
    """An argument in another order along some axes of the designs."""
    if isinstance(value, np.ndarray):
        for axis, order in orders.items():
            if value.shape[axis - rank] > 1:
                value = value.take(order, axis=axis - rank)
    return value
