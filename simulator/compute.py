"""Time of the compute units: matrix products in tiles and waves, vector work, transcendentals.

Bare arrays in and out. Op quantities have shape (ops, 1), design quantities () or (designs,); they broadcast to
(ops, designs), designs innermost because there are many. The choice of tiling is one more axis in front.
"""

from __future__ import annotations

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
    """What a product costs with the best tiling; each of shape (ops, designs)."""

    matrix_s: np.ndarray  # multiplying, whole waves of padded tiles
    feed_s: np.ndarray  # waiting for operands or weight tiles, the same waves
    shared_bytes: np.ndarray  # moved between the units and the memory they share
    busy_s: np.ndarray  # the least any tiling keeps the units busy, idle ones in a last wave left to others
    least_shared_bytes: np.ndarray  # the least any tiling moves


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
) -> Product:
    """Products cut into blocks of the result, in waves over the units.

    A block is one of `BLOCKINGS`. Edge blocks and the last wave cost as much as full ones. A block costs its
    arithmetic plus `operand_macs` multiply-accumulates for each operand element, whose loads share the issue slots
    of the unit with it; its operand bytes over `feed_bytes_per_cycle` hide behind that. A block that runs alone also
    waits `loop_cycles_per_byte` for each byte of an operand row (its k terms follow one another) and
    `prologue_cycles` to start and end; blocks that are in a unit together, as many as `resident_results` result
    elements allow, hide each other's waits. Operand rows lie k elements apart: where those of a block span more than
    the `reach_bytes` one unit can address without a walk of the page table, its arithmetic takes up to `reach_cost`
    longer (None: it never does). The k terms of a single product may
    be shared by `SPLITS` units to give idle ones work, which then exchange fp32 partial sums at `split_cycles`;
    products of a batch are not split and use no side below `batched_tile`, fused attention (`is_attention`) may do
    both. The best combination is taken, judged by the units' time and the traffic to the shared memory
    `shared_bytes_per_s` [bytes/s]. `useful` is the share of 2 batch m n k that is computed. Monotone in every size.

    Ref.: wave quantisation, NVIDIA Deep Learning Performance Guide, "Matrix multiplication background", 2023;
    latency hiding, Volkov, Understanding Latency Hiding on GPUs, UC Berkeley EECS-2016-143.
    """
    block_m, block_n = _blocks(tile_m, tile_n, thin_tile)
    split = np.tile(SPLITS, len(BLOCKINGS))[:, None, None]
    rows, columns = np.ceil(m / block_m), np.ceil(n / block_n)
    depth = np.ceil(k / (tile_k * split)) * tile_k * useful
    blocks = batch * rows * columns * split
    operands = (np.minimum(m, block_m) * a_element_bytes + np.minimum(n, block_n) * b_element_bytes) * depth
    slots = block_m * block_n + operand_macs * (np.minimum(m, block_m) + np.minimum(n, block_n))
    cycles = slots * depth / (macs_per_cycle * sustained)
    if reach_bytes is not None:
        span = (np.minimum(m, block_m) * a_element_bytes + np.minimum(n, block_n) * b_element_bytes) * k
        cycles = cycles * (1.0 + reach_cost * np.maximum(0.0, 1.0 - reach_bytes / span))
    wait_cycles = depth * b_element_bytes * loop_cycles_per_byte + prologue_cycles
    resident = np.clip(resident_results / (block_m * block_n), 1.0, RESIDENT_BLOCKS)

    waves = blocks / count
    summing_s = (split > 1) * split_cycles / clock_hz
    # the blocks of fused attention differ in length where a mask shortens them, and even out the last wave
    whole = np.where(is_attention, np.maximum(waves, 1.0), np.ceil(waves))
    matrix_s = whole * (cycles / clock_hz) + summing_s
    feed_s = whole * (operands / (feed_bytes_per_cycle * clock_hz))
    feed_s = np.maximum(feed_s, np.ceil(waves / resident) * (wait_cycles / clock_hz)) + summing_s
    shared = a_bytes * columns + b_bytes * rows + (split > 1) * (2 * PARTIAL_BYTES * split * batch * m * n)
    shared = shared + other_bytes

    judged = np.maximum(np.maximum(matrix_s, feed_s), shared / shared_bytes_per_s)
    single = (batch == 1) | is_attention
    allowed = (split == 1) | ((split <= max_split) & (waves <= SPLIT_BLOCKS) & single)
    allowed = allowed & (single | (np.minimum(block_m, block_n) >= batched_tile))
    judged = np.where(allowed, judged, np.inf)
    best = judged.argmin(axis=0)[None]
    return Product(
        matrix_s=_pick(matrix_s, best),
        feed_s=_pick(feed_s, best),
        shared_bytes=_pick(shared, best),
        busy_s=np.where(allowed, waves * (cycles / clock_hz), np.inf).min(axis=0),
        least_shared_bytes=np.where(allowed, shared, np.inf).min(axis=0),
    )


def _blocks(tile_m, tile_n, thin_tile):
    """Rows and columns of the block of every choice, each split of it in turn, (choices, 1, 1 or designs)."""
    rows, columns = np.repeat(BLOCKINGS, len(SPLITS), axis=0).T[:, :, None, None]
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
) -> Product:
    """Products on systolic arrays: a pass holds one tile_k x tile_n weight tile and streams the m rows past it.

    Whole padded tiles are multiplied: 600 x 600 on a 256-wide array costs 768 x 768. Loading the next tile hides
    behind the current pass, but no pass is shorter than the load. Passes run in waves over the arrays; the m rows
    may be shared among arrays (`ROW_SPLITS`), each with its own copy of the weights. Filling and draining costs the
    array's rows plus columns once a product.

    Ref.: Jouppi et al., In-Datacenter Performance Analysis of a Tensor Processing Unit, ISCA 2017, section 2.
    """
    split = ROW_SPLITS[:, None, None]
    passes = batch * np.ceil(k / tile_k) * np.ceil(n / tile_n) * split
    rows = np.ceil(m / (tile_m * split)) * tile_m * useful
    cycles = rows * (tile_k * tile_n / (macs_per_cycle * sustained))
    feed = np.maximum(rows * (tile_k * a_element_bytes / feed_bytes_per_cycle), load_cycles)
    waves = passes / count
    fill = tile_k + tile_n + prologue_cycles
    shared = a_bytes * np.ceil(n / tile_n) + b_bytes * split + other_bytes
    judged = (np.ceil(waves) * np.maximum(cycles, feed) + fill) / clock_hz
    best = np.maximum(judged, shared / shared_bytes_per_s).argmin(axis=0)[None]
    whole = np.ceil(_pick(waves, best))
    return Product(
        matrix_s=(whole * _pick(cycles, best) + fill) / clock_hz,
        feed_s=(whole * _pick(feed, best) + fill) / clock_hz,
        shared_bytes=_pick(shared, best),
        busy_s=((waves * np.maximum(cycles, feed)).min(axis=0) + fill) / clock_hz,
        least_shared_bytes=shared.min(axis=0),
    )


def padded_share(n, k, tile_n, tile_k):
    """Stored size of an n x k matrix kept as whole tiles, over its own size. (>= 1)"""
    return np.ceil(n / tile_n) * tile_n * np.ceil(k / tile_k) * tile_k / (n * k)


def unit_time_s(operations, per_second, sustained):
    """Time of `operations` on units that run `per_second` at best and a share `sustained` of it in practice. [s]"""
    return operations / (per_second * sustained)


def _pick(values, best):
    """`values` (choices, ops, designs or 1) of the `best` choice (1, ops, designs)."""
    if values.shape[1] != best.shape[1]:  # the same for all ops
        values = np.broadcast_to(values, (len(values), best.shape[1], values.shape[2]))
    ops = np.arange(best.shape[1])[:, None]
    if values.shape[2] == 1:  # the same for all designs
        return values[best[0], ops, 0]
    return values[best[0], ops, np.arange(best.shape[2])]
