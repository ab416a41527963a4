"""Limits on the chip alone - area, power, price, edge, a field - checked before anything is simulated.

They need no network, so designs beyond one cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.accelerator import Accelerator
from simulator.designs import Block, space
from simulator.limits import Limit
from simulator.mix import Measure


def of_chip(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """The limits that need no simulation."""
    return tuple(limit for limit in limits if limit.measure.metric.of_chip is not None)


def chip_columns(accelerator: Accelerator, block: Block, columns: Sequence[Measure]) -> dict[str, np.ndarray]:
    """Columns of the chip alone for the designs of a block, (designs,), in the order of `block.ids`."""
    designs, count = space(accelerator, block), block.size
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # what is not a number is refused by name
        return {c.name: np.broadcast_to(c.metric.without_simulation(designs), (count,)) for c in columns}


def kept(accelerator: Accelerator, block: Block, limits: Sequence[Limit]) -> Block | None:
    """The designs of a block that keep `limits`, which are `of_chip`; None where none does."""
    if not limits:
        return block
    columns = chip_columns(accelerator, block, [limit.measure for limit in limits])
    inside = np.logical_and.reduce([limit.excess(columns[limit.name]) == 0 for limit in limits])
    if inside.all():
        return block
    return part(block, inside) if inside.any() else None


def part(block: Block, inside: np.ndarray) -> Block:
    """The designs of a block that a mask (designs,) picks, one after another."""
    shape = np.shape(sum(block.numbers))

    def picked(value):
        if not isinstance(value, np.ndarray):
            return value
        return np.ascontiguousarray(np.broadcast_to(value, shape).reshape(-1)[inside])

    changes = {path: picked(value) for path, value in block.changes.items()}
    return Block(changes, (block.ids[inside],), block.batch)
