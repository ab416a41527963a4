"""Time of the compute units: matrix products in tiles and waves, vector work, transcendentals.

Bare arrays in and out. Op quantities have shape (ops, 1, ...), design quantities () or that of the designs, as many
axes as there are ones; they broadcast to (ops, *designs), designs innermost because there are many. The choice of
tiling is one more axis in front.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

#: Blocks an output-stationary library chooses from, in native tiles (rows, columns). Zero stands for
#: `thin_tile` rows or columns: the kernels for thin products. Of equally quick ones the first is taken, small
#: ones, which pad the least, before large ones.
BLOCKINGS = np.array([(1, 1), (1, 4), (4, 1), (2, 2), (2, 4), (4, 2), (4, 4), (4, 8), (8, 4), (0, 4), (4, 0)], float)
#: Ways to share the k dimension of one product among units (output-stationary).
SPLITS = np.array([1, 2, 4, 16, 64], float)
#: A library splits to give idle units work: not beyond this many blocks a unit.
SPLIT_BLOCKS = 2.0
#: Ways to share the m rows among arrays (weight-stationary).
ROW_SPLITS = np.array([1, 2, 4, 8, 16], float)
#: Most blocks that take turns on one unit, however small.
RESIDENT_BLOCKS = 8.0
#: Partial sums of a split product are kept in fp32.
PARTIAL_BYTES = 4.0


class Product(NamedTuple):
    """What a product costs with the best tiling; each of shape (ops, *designs)."""

    matrix_s: np.ndarray  # multiplying, whole waves of padded tiles
    feed_s: np.ndarray  # waiting for operands or weight tiles, the same waves
    shared_bytes: np.ndarray  # moved between the units and the memory they share
    busy_s: np.ndarray | None  # the least any tiling keeps the units busy, idle ones in a last wave left to others
    least_shared_bytes: np.ndarray | None  # the least any tiling moves


def output_stationary(
    *,
    batch,
    m,
    n,
    k,
    useful,
    is_attention,
    a_bytes,
    b_bytes,
    other_bytes,
    a_element_bytes,
    b_element_bytes,
    count,
    clock_hz,
    macs_per_cycle,
    sustained,
    tile_m,
    tile_n,
    tile_k,
    thin_tile,
    batched_tile,
    operand_macs,
    feed_bytes_per_cycle,
    loop_cycles_per_byte,
    prologue_cycles,
    resident_results,
    reach_bytes,
    reach_cost,
    split_cycles,
    max_split,
    shared_bytes_per_s,
    frugal=True,
    tilings=None,
) -> Product:
    """Products cut into blocks of the result, in waves over the units.

    A block is one of `BLOCKINGS`. Edge blocks and the last wave cost as much as full ones. A block costs its
    arithmetic plus `operand_macs` multiply-accumulates for each operand element, whose loads share the issue slots
    of the unit with it; its operand bytes over `feed_bytes_per_cycle` hide behind that. A block that runs alone also
    waits `loop_cycles_per_byte` for each byte of an operand row (its k terms follow one another) and
    `prologue_cycles` to start and end; blocks that are in a unit together, as many as `resident_results` result
    elements allow, hide each other's waits. Operand rows lie k elements apart: where those of a block span more than
    the `reach_bytes` one unit can address without a walk of the page table, its arithmetic takes up to `reach_cost`
    longer (None: it never does).

    The k terms of a single product may be shared by `SPLITS` units to give idle ones work; they then exchange fp32
    partial sums, at `split_cycles`. Products of a batch are not split and use no side below `batched_tile` (or the
    largest there is); fused attention (`is_attention`) may do both. The best combination is taken, judged by the
    units' time and the traffic to the shared memory `shared_bytes_per_s` [bytes/s]. `useful` is the share of
    2 batch m n k that is computed. `frugal`: also the least that any tiling takes. `tilings`: those that can be best,
    where they are known (`shared_tilings`). Monotone in every size.

    Ref.: wave quantisation, NVIDIA Deep Learning Performance Guide, "Matrix multiplication background", 2023;
    latency hiding, Volkov, Understanding Latency Hiding on GPUs, UC Berkeley EECS-2016-143.
    """
    t = tilings
    if t is None:
        sizes = (batch, m, n, k, useful, is_attention, a_element_bytes, b_element_bytes)
        tile = (tile_m, tile_n, tile_k, thin_tile, batched_tile, max_split, operand_macs, resident_results)
        t = tilings_of(*sizes, *tile, reach_bytes, reach_cost)

    cycle_s = 1.0 / clock_hz
    mac_s, feed_s = cycle_s / (macs_per_cycle * sustained), cycle_s / feed_bytes_per_cycle
    waits = _any(loop_cycles_per_byte) or _any(prologue_cycles)
    summing_s = split_cycles * cycle_s if _any(split_cycles) else None
    uneven = is_attention if is_attention.any() else None

    waves = t.blocks * (1.0 / count)
    block_s = t.macs * t.of(mac_s)
    judged = _into(np.maximum, t.operand_bytes * feed_s, block_s)
    judged = _into(np.multiply, judged, _whole(waves, None if uneven is None else t.of(uneven)))
    if waits:
        wait_s = _wait_s(t.row_bytes, t.of(loop_cycles_per_byte), prologue_cycles, cycle_s)
        turns = waves * t.turns
        judged = _into(np.maximum, judged, _into(np.multiply, np.ceil(turns, out=turns), wait_s))
    if summing_s is not None:
        judged = _into(np.add, judged, t.is_split * summing_s)
    shared = _shared_bytes(t.columns, t.rows, t.partial_bytes, t.of(a_bytes), t.of(b_bytes), t.of(other_bytes))
    judged = _into(np.maximum, judged, shared * (1.0 / shared_bytes_per_s))
    closed = waves > t.most_waves if t.is_limited else np.False_
    if t.is_limited:
        judged = np.where(closed, np.inf, judged)
    best = np.stack([judged[one].argmin(axis=0) + one.start for one in t.slices])

    # again, of the best alone: quicker than to take it out of what was computed for all
    waves_, row_bytes = _pick(waves, best), _pick(t.row_bytes, best)
    whole = _whole(waves_, uneven)
    matrix_s, fed_s = whole * (_pick(t.macs, best) * mac_s), whole * (_pick(t.operand_bytes, best) * feed_s)
    if waits:
        wait_s = _wait_s(row_bytes, loop_cycles_per_byte, prologue_cycles, cycle_s)
        fed_s = np.maximum(fed_s, np.ceil(waves_ * _pick(t.turns, best)) * wait_s)
    if summing_s is not None:
        own_s = _pick(t.is_split, best) * summing_s
        matrix_s, fed_s = matrix_s + own_s, fed_s + own_s
    moved = (_pick(values, best) for values in (t.columns, t.rows, t.partial_bytes))
    return Product(
        matrix_s=matrix_s,
        feed_s=fed_s,
        shared_bytes=_shared_bytes(*moved, a_bytes, b_bytes, other_bytes),
        busy_s=t.least(np.where(closed, np.inf, waves * block_s)) if frugal else None,
        least_shared_bytes=t.least(np.where(closed, np.inf, shared)) if frugal else None,
    )


def _any(values) -> bool:
    """Whether one of them is not zero; of a number, quicker than numpy."""
    return bool(values.any()) if isinstance(values, np.ndarray) else values != 0


def _into(operation, values, other):
    """`operation` of two arrays, in the place of the first where that has the axes of both: new memory takes longer to
    get than numbers to compute."""
    return operation(values, other, out=values if np.broadcast(values, other).shape == values.shape else None)


def _whole(waves, is_uneven):
    """Waves that cost as much as full ones. Blocks that differ in length (`is_uneven`, where a mask shortens those of
    attention; None: nowhere) even out the last wave."""
    whole = np.ceil(waves)
    if is_uneven is not None:
        rows = np.flatnonzero(np.broadcast_to(is_uneven.ravel(), len(waves)))
        whole[rows] = np.maximum(waves[rows], 1.0)
    return whole


def _wait_s(row_bytes, loop_cycles_per_byte, prologue_cycles, cycle_s):
    """How long a block that runs alone waits. [s]"""
    return (row_bytes * loop_cycles_per_byte + prologue_cycles) * cycle_s


def _shared_bytes(columns, rows, partial_bytes, a_bytes, b_bytes, other_bytes):
    """Traffic of a product to the memory the units share: A is read once for each column of blocks. [bytes]"""
    return a_bytes * columns + b_bytes * rows + partial_bytes + other_bytes


class Tilings(NamedTuple):
    """The tilings that products may choose from, product by product: one is a block and a split of k.

    Arrays (tilings, *designs), one value along an axis on which they do not depend.
    """

    product: np.ndarray  # (tilings,)
    slices: tuple[slice, ...]  # for each product, its tilings
    is_split: np.ndarray
    most_waves: np.ndarray  # it may not be chosen beyond so many
    is_limited: bool  # whether that may happen
    blocks: np.ndarray
    rows: np.ndarray  # of blocks
    columns: np.ndarray
    macs: np.ndarray  # of a block, loads that share its issue slots counted as such
    operand_bytes: np.ndarray  # of a block
    row_bytes: np.ndarray  # of the second operand, one row of a block
    turns: np.ndarray  # waves over those in which blocks hide each other's waits: 1 / blocks in a unit together
    partial_bytes: np.ndarray  # partial sums of a split product

    def of(self, values):
        """Values of products (products or 1, *designs), or of designs, as those of their tilings."""
        if np.ndim(values) < self.blocks.ndim or len(values) == 1:
            return values
        return values.take(self.product, axis=0)

    def least(self, values):
        """The least of any tiling of each product, (products, *designs)."""
        return np.minimum.reduceat(values, [one.start for one in self.slices], axis=0)

    def at(self, kept):
        """Those numbered `kept`, in rising order, none of which depends on the design."""
        arrays = {name: values[kept] for name, values in self._asdict().items() if isinstance(values, np.ndarray)}
        limited = bool(np.isfinite(arrays["most_waves"]).any())
        return self._replace(slices=_slices(arrays["product"]), is_limited=limited, **arrays)


def _slices(product) -> tuple[slice, ...]:
    starts = np.flatnonzero(np.diff(product, prepend=-1)).tolist()
    return tuple(slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(product)], strict=True))


def shared_tilings(sizes, tile, most_units=None) -> Tilings:
    """`tilings_of` where the designs share them, made once; only those that can be best on machines of `most_units`.

    `sizes` and `tile`: its arguments, in their order; the sizes are float arrays (products, 1, ...), those of `tile`
    single numbers. To find the best takes longer than to judge all for a few designs: `most_units` None leaves it.
    """
    tile = tuple(None if value is None else np.asarray(value).item() for value in tile)
    if most_units is not None:
        most_units = 2.0 ** np.ceil(np.log2(most_units))  # the same for all parts of a space, as a rule
    return _shared_tilings(tuple(size.tobytes() for size in sizes), sizes[0].ndim, tile, most_units)


@functools.lru_cache(maxsize=1024)
def _shared_tilings(sizes: tuple[bytes, ...], rank: int, tile: tuple, most_units: float | None) -> Tilings:
    """`shared_tilings` of bytes.

    A tiling is left out where one before it is no larger in anything that costs: that one is at least as quick whatever
    the rates, no less frugal, and preferred of equals. So is one that is split though no machine has idle units. Exact:
    what is left out would not have been taken.
    """
    t = tilings_of(*(np.frombuffer(size).reshape(-1, *[1] * (rank - 1)) for size in sizes), *tile)
    if most_units is None:
        return t
    t = t.at(np.flatnonzero((t.blocks * (1.0 / most_units) <= t.most_waves).ravel()))
    costs = (t.is_split, t.blocks, t.rows, t.columns, t.macs, t.operand_bytes, t.row_bytes, t.turns, t.partial_bytes)
    costs = np.stack([cost.ravel() for cost in costs])
    kept = []
    for one in t.slices:
        own = costs[:, one]
        no_worse = (own[:, :, None] <= own[:, None, :]).all(axis=0)  # [i, j]: i is no worse than j in anything
        kept.append(one.start + np.flatnonzero(~np.triu(no_worse, 1).any(axis=0)))
    return t.at(np.concatenate(kept))


def tilings_of(
    batch,
    m,
    n,
    k,
    useful,
    is_attention,
    a_element_bytes,
    b_element_bytes,
    tile_m,
    tile_n,
    tile_k,
    thin_tile,
    batched_tile,
    max_split,
    operand_macs,
    resident_results,
    reach_bytes,
    reach_cost,
) -> Tilings:
    """Every tiling open to a product on any design: blocks in the order of `BLOCKINGS`, each split of it in turn."""
    sizes = np.broadcast_arrays(batch, m, n, k, useful, is_attention, a_element_bytes, b_element_bytes)
    batch, m, n, k, useful, is_attention, a_element_bytes, b_element_bytes = sizes
    rank = m.ndim - 1
    single = (batch == 1) | (is_attention > 0)
    block_m, block_n = _blocks(tile_m, tile_n, thin_tile, rank)
    side, split = np.minimum(block_m, block_n), _choices(SPLITS, rank)
    wide = side >= np.minimum(batched_tile, side.max(axis=0))
    # (products, blockings, splits, *designs)
    may = (single[:, None, None] | wide[:, None]) & ((split == 1) | (single[:, None, None] & (split <= max_split)))
    some = may.any(axis=tuple(range(3, may.ndim)))
    product, blocking, splitting = chosen = np.nonzero(some)
    most_waves = np.where(split > 1, SPLIT_BLOCKS, np.inf)[splitting]
    if not may[chosen].all():
        most_waves = np.where(may[chosen], most_waves, -1.0)

    def by_product(values):
        return values[:, None]

    # first of (products, blockings), and of (products, splits)
    high, wide = np.minimum(by_product(m), block_m), np.minimum(by_product(n), block_n)
    rows, columns = np.ceil(by_product(m) / block_m), np.ceil(by_product(n) / block_n)
    blocks = by_product(batch) * rows * columns
    row_bytes = high * by_product(a_element_bytes) + wide * by_product(b_element_bytes)
    slots = block_m * block_n + operand_macs * (high + wide)
    if reach_bytes is not None:
        span = row_bytes * by_product(k)
        slots = slots * (1.0 + reach_cost * np.maximum(0.0, 1.0 - reach_bytes / span))
    resident = np.clip(resident_results / (block_m * block_n), 1.0, RESIDENT_BLOCKS)
    depth = np.ceil(by_product(k) / (tile_k * split)) * tile_k * by_product(useful)
    partial_bytes = (split > 1) * (2 * PARTIAL_BYTES * split * by_product(batch) * by_product(m) * by_product(n))

    depth = depth[product, splitting]
    return Tilings(
        product=product,
        slices=_slices(product),
        is_split=(split > 1)[splitting],
        most_waves=most_waves,
        is_limited=bool(np.isfinite(most_waves).any()),
        blocks=blocks[product, blocking] * split[splitting],
        rows=rows[product, blocking],
        columns=columns[product, blocking],
        macs=slots[product, blocking] * depth,
        operand_bytes=row_bytes[product, blocking] * depth,
        row_bytes=depth * b_element_bytes[product],
        turns=(1.0 / resident)[blocking],
        partial_bytes=partial_bytes[product, splitting],
    )


def _choices(values, rank: int):
    """Values before `rank` axes of designs, (choices, 1, ...)."""
    return values.reshape(-1, *[1] * rank)


def _blocks(tile_m, tile_n, thin_tile, rank: int):
    """Rows and columns of the block of every one of `BLOCKINGS`, (blockings, *designs)."""
    rows, columns = (_choices(side, rank) for side in BLOCKINGS.T)
    return np.where(rows == 0, thin_tile, rows * tile_m), np.where(columns == 0, thin_tile, columns * tile_n)


def weight_stationary(
    *,
    batch,
    m,
    n,
    k,
    useful,
    a_bytes,
    b_bytes,
    other_bytes,
    a_element_bytes,
    count,
    clock_hz,
    macs_per_cycle,
    sustained,
    tile_m,
    tile_n,
    tile_k,
    feed_bytes_per_cycle,
    load_cycles,
    prologue_cycles,
    shared_bytes_per_s,
    frugal=True,
) -> Product:
    """Products on systolic arrays: a pass holds one tile_k x tile_n weight tile and streams the m rows past it.

    Whole padded tiles are multiplied: 600 x 600 on a 256-wide array costs 768 x 768. Loading the next tile hides
    behind the current pass, but no pass is shorter than the load. Passes run in waves over the arrays; the m rows
    may be shared among arrays (`ROW_SPLITS`), each with its own copy of the weights. Filling and draining costs the
    array's rows plus columns once a product.

    Ref.: Jouppi et al., In-Datacenter Performance Analysis of a Tensor Processing Unit, ISCA 2017, section 2.
    """
    split = _choices(ROW_SPLITS, np.ndim(m))
    passes = batch * np.ceil(k / tile_k) * np.ceil(n / tile_n) * split
    rows = np.ceil(m / (tile_m * split)) * tile_m * useful
    cycles = rows * (tile_k * tile_n / (macs_per_cycle * sustained))
    feed = np.maximum(rows * (tile_k * a_element_bytes / feed_bytes_per_cycle), load_cycles)
    waves = passes / count
    fill = tile_k + tile_n + prologue_cycles
    shared = a_bytes * np.ceil(n / tile_n) + b_bytes * split + other_bytes
    judged = (np.ceil(waves) * np.maximum(cycles, feed) + fill) / clock_hz
    best = np.maximum(judged, shared / shared_bytes_per_s).argmin(axis=0)
    whole = np.ceil(_pick(waves, best))
    return Product(
        matrix_s=(whole * _pick(cycles, best) + fill) / clock_hz,
        feed_s=(whole * _pick(feed, best) + fill) / clock_hz,
        shared_bytes=_pick(shared, best),
        busy_s=((waves * np.maximum(cycles, feed)).min(axis=0) + fill) / clock_hz if frugal else None,
        least_shared_bytes=shared.min(axis=0) if frugal else None,
    )


def padded_share(n, k, tile_n, tile_k):
    """Stored size of an n x k matrix kept as whole tiles, over its own size. (>= 1)"""
    return np.ceil(n / tile_n) * tile_n * np.ceil(k / tile_k) * tile_k / (n * k)


def unit_time_s(operations, per_second, sustained):
    """Time of `operations` on units that run `per_second` at best and a share `sustained` of it in practice. [s]"""
    return operations / (per_second * sustained)


def _pick(values, best):
    """`values` (choices, *ops and designs), one value along an axis on which they do not depend, of the `best` choice.

    Shaped as `best`, whose axes are those of `values` but the first, or with that of ops in its place.
    """
    flat, size = values.reshape(-1), values[0].size
    return flat.take(best) if size == 1 else flat[best * size + np.arange(size).reshape(values.shape[1:])]
