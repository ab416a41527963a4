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
#: Designs from which on it pays to leave out the choices that can never be best.
MANY = 64
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
    2 batch m n k that is computed. `frugal`: also the least that any tiling takes. Monotone in every size.

    Ref.: wave quantisation, NVIDIA Deep Learning Performance Guide, "Matrix multiplication background", 2023;
    latency hiding, Volkov, Understanding Latency Hiding on GPUs, UC Berkeley EECS-2016-143.
    """
    single = (batch == 1) | is_attention
    block_m, block_n = _blocks(tile_m, tile_n, thin_tile, np.ndim(m))
    split = _choices(np.tile(SPLITS, len(BLOCKINGS)), np.ndim(m))
    side = np.minimum(block_m, block_n)
    barred = (split > 1) & ~((split <= max_split) & single)
    barred = barred | (~single & (side < np.minimum(batched_tile, side.max(axis=0))))
    if np.size(clock_hz) + np.size(count) + np.size(macs_per_cycle) > MANY:
        sizes = np.broadcast_arrays(batch, m, n, k, a_element_bytes, b_element_bytes, tile_k)
        if sizes[0].size == len(m) and barred[0].size <= len(m):  # the same choices for all designs
            barred = np.broadcast_to(barred, (len(split), *m.shape))
            choices = [np.broadcast_to(v, split.shape) for v in (block_m, block_n, split)]
            kept = _worthwhile(*(np.stack(arrays).tobytes() for arrays in (sizes, choices)), barred.tobytes())
            barred = barred[kept, np.arange(len(m))]
            block_m, block_n, split = (v[kept, 0] for v in choices)
    rows, columns = np.ceil(m / block_m), np.ceil(n / block_n)
    depth = np.ceil(k / (tile_k * split)) * tile_k * useful
    blocks = batch * rows * columns * split
    operands = (np.minimum(m, block_m) * a_element_bytes + np.minimum(n, block_n) * b_element_bytes) * depth
    slots = block_m * block_n + operand_macs * (np.minimum(m, block_m) + np.minimum(n, block_n))
    if reach_bytes is not None:
        span = (np.minimum(m, block_m) * a_element_bytes + np.minimum(n, block_n) * b_element_bytes) * k
        slots = slots * (1.0 + reach_cost * np.maximum(0.0, 1.0 - reach_bytes / span))
    resident = np.clip(resident_results / (block_m * block_n), 1.0, RESIDENT_BLOCKS)
    shared = a_bytes * columns + b_bytes * rows + (split > 1) * (2 * PARTIAL_BYTES * split * batch * m * n)
    shared = shared + other_bytes

    cycle_s = 1.0 / clock_hz
    block_s = slots * depth * (cycle_s / (macs_per_cycle * sustained))
    fed_s = operands * (cycle_s / feed_bytes_per_cycle)
    wait_s = (depth * b_element_bytes * loop_cycles_per_byte + prologue_cycles) * cycle_s
    waves = blocks * (1.0 / count)
    whole = np.ceil(waves)
    if is_attention.any():  # its blocks differ in length where a mask shortens them, and even out the last wave
        whole = np.where(is_attention, np.maximum(waves, 1.0), whole)
    matrix_s = whole * block_s
    feed_s = np.maximum(whole * fed_s, np.ceil(waves * (1.0 / resident)) * wait_s)
    if np.ndim(split_cycles) or split_cycles:
        summing_s = (split > 1) * (split_cycles * cycle_s)
        matrix_s, feed_s = matrix_s + summing_s, feed_s + summing_s

    closed = barred | ((split > 1) & (waves > SPLIT_BLOCKS))
    judged = np.maximum(np.maximum(matrix_s, feed_s), shared * (1.0 / shared_bytes_per_s))
    judged = np.where(closed, np.inf, judged)
    best = judged.argmin(axis=0)
    return Product(
        matrix_s=_pick(matrix_s, best),
        feed_s=_pick(feed_s, best),
        shared_bytes=_pick(shared, best),
        busy_s=np.where(closed, np.inf, waves * block_s).min(axis=0) if frugal else None,
        least_shared_bytes=np.where(closed, np.inf, shared).min(axis=0) if frugal else None,
    )


@functools.lru_cache(maxsize=256)
def _worthwhile(sizes: bytes, choices: bytes, barred: bytes) -> np.ndarray:
    """The choices of a block and split that can be best on some machine, for each product: (choices kept, products).

    A choice is left out where one before it, allowed whenever it is, has no more blocks, no larger ones and no deeper
    ones, and moves no more: it is then at least as quick whatever the rates, no less frugal, and preferred of equals.
    Products that keep fewer repeat their first. Exact: what is left out would not have been taken.
    """
    batch, m, n, k, a_size, b_size, tile_k = np.frombuffer(sizes).reshape(7, -1, 1)
    block_m, block_n, split = np.frombuffer(choices).reshape(3, -1)
    shut = np.frombuffer(barred, bool).reshape(len(split), -1).T  # (products, choices)
    rows, columns = np.ceil(m / block_m), np.ceil(n / block_n)
    blocks = batch * rows * columns * split
    costs = [
        blocks,
        np.ceil(k / (tile_k * split)) * tile_k,  # depth
        np.broadcast_to(block_m * block_n, blocks.shape),
        np.minimum(m, block_m) + np.minimum(n, block_n),
        np.minimum(m, block_m) * a_size + np.minimum(n, block_n) * b_size,
        rows,
        columns,
        np.where(split > 1, split, 0.0) + 0.0 * m,  # partial sums, the sum at the end, the rule against idle units
        shut.astype(float),
    ]
    order = np.arange(len(split))
    better = np.repeat((order[:, None] < order)[None], len(m), axis=0)  # [p, i, j]: i is no worse than j in anything
    for cost in costs:
        better &= cost[:, :, None] <= cost[:, None, :]
    dominated = better.any(axis=1) | shut
    kept = [np.flatnonzero(~row) for row in dominated]
    most = max(map(len, kept))
    return np.array([np.append(row, np.repeat(row[:1], most - len(row))) for row in kept]).T


def _choices(values, rank: int):
    """Values of the choices of a tiling before `rank` axes of ops and designs, (choices, 1, ...)."""
    return values.reshape(-1, *[1] * rank)


def _blocks(tile_m, tile_n, thin_tile, rank: int):
    """Rows and columns of the block of every choice, each split of it in turn, (choices, 1, *designs)."""
    rows, columns = (_choices(side, rank) for side in np.repeat(BLOCKINGS, len(SPLITS), axis=0).T)
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
    """`values` (choices, ops, *designs) of the `best` choice (ops, *designs)."""
    values = np.broadcast_to(values, (len(values), *best.shape)).reshape(-1)  # one index is quicker than one an axis
    return values[best * best.size + np.arange(best.size).reshape(best.shape)]
