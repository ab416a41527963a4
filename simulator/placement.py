"""Where each op runs on a chip whose memory computes: on its host units or in memory, whichever takes less time.

Products of activations with stored weights may run in memory (forward, and where activations are recomputed: a
backward pass reads the weights the other way round), and products with cached keys and values where the units do
those. All else is the host's, as is what is fused to a product in memory: it overlaps with it, as on the host.
Composes `in_memory` over the rows of a trace; `simulate` hands over what the host takes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from simulator import in_memory, memory, recurrence
from simulator.accelerator import Accelerator
from workloads.trace import Trace, element_bytes

#: Name of the bound of the units in memory, and of their roof.
BOUND = "in_memory"


@dataclass(frozen=True)
class Cost:
    """What ops take, of one placement or of the best: arrays (ops, *designs) by name.

    `work_s`: time of one run less its fixed costs, which are the bound `latency`. `used`: time each op keeps each
    resource from others, None where nothing overlaps. `inside`: which run in memory; `read`: bytes they read there.
    """

    traffic: Mapping[str, np.ndarray]
    bounds: Mapping[str, np.ndarray]
    work_s: np.ndarray
    used: Mapping[str, np.ndarray] | None
    inside: np.ndarray | bool = False
    read: np.ndarray | float = 0.0

    @property
    def time(self) -> np.ndarray:
        """Time of one run."""
        return self.work_s + self.bounds["latency"]


@dataclass(frozen=True)
class Work:
    """What a trace asks of a memory that computes: float columns (ops, 1, ...), and the element type of each row."""

    has_weights: np.ndarray  # bool: a product with stored weights that may run in memory
    has_cache: np.ndarray  # bool: likewise with cached keys and values
    batch: np.ndarray
    rows: np.ndarray
    macs: np.ndarray
    matrix_bytes: np.ndarray  # read once
    stored_bytes: np.ndarray  # all weight sets or caches
    input_bytes: np.ndarray  # vectors
    result_bytes: np.ndarray
    dtype: np.ndarray


@functools.lru_cache(maxsize=64)
def work(trace: Trace, rank: int) -> Work:
    """What of `trace` a memory could compute, for designs of `rank` axes."""
    _column = functools.partial(_before, rank=rank)
    count = {c: _column(trace.columns[c]) for c in ("batch", "m", "n", "k", "repeats", "serial_steps", "weight_sets")}
    batch, m, n, k = (count[c] for c in ("batch", "m", "n", "k"))
    weights, cache = _column(trace.weight_bytes), _column(trace.cache_bytes)
    forward = _column(np.isin(trace.phase, ("forward", "recompute"))) > 0
    fused = _column(trace.kind == "attention") > 0
    product = (_column(trace.kind == "matmul") > 0) | fused
    has_weights = product & ~fused & forward & (weights > 0)
    has_cache = product & forward & (weights == 0) & (cache > 0)
    element = _column([element_bytes(d) for d in trace.activation_dtype.tolist()])
    # fused attention: the queries (half of n), and the scores come out for the softmax and go in again
    vectors = np.where(fused, batch * m * (n / 2 + k), batch * m * k)
    results = np.where(fused, batch * m * (n / 2 + k), batch * m * n)
    caches = cache * count["repeats"] / count["serial_steps"]
    return Work(
        has_weights=has_weights,
        has_cache=has_cache,
        batch=batch,
        rows=m,
        macs=_column(trace.matrix_flops) / 2.0,
        matrix_bytes=np.where(has_weights, weights, cache),
        stored_bytes=np.where(has_weights, weights * count["weight_sets"], caches * has_cache),
        input_bytes=vectors * element,
        result_bytes=results * element,
        dtype=trace.dtype,
    )


def best(plan, f: dict, chip: Accelerator, host: Cost, streams: np.ndarray, off_chip: list[str]) -> Cost:
    """The placement of every op that takes least time, and what it costs.

    `f`: fields of the designs; `streams`: bytes of activations and state that each row moves at the level that
    computes, (ops, *designs); `off_chip`: bounds beyond the shared level. An op runs in memory where it takes
    less time there and its matrix has room. Where ops overlap, a dependency level whose time all that would
    lengthen (they would meet at the interface) stays on the host as a whole: no network is slower than without.
    """
    rank = plan.repeats.ndim - 1
    work_ = work(plan.trace, rank)
    there = _in_memory(work_, plan, f, chip, host, streams, off_chip)
    may = work_.has_weights | work_.has_cache if chip.in_memory.multiplies_cache else work_.has_weights
    may = may & (_before(np.isin(work_.dtype, list(chip.in_memory.macs_per_s)), rank) > 0)
    room = f["in_memory.capacity_bytes"]
    if room is None:
        room = f[f"memory.{chip.in_memory_level}.capacity_bytes"]
    held = np.where(may, work_.stored_bytes, 0.0)
    inside = may & in_memory.fits(held, work_.rows, room) & (there.time < host.time)
    if host.used is not None:
        inside = inside & ~_slows(plan, f, host, _chosen(inside, there, host))
    return _chosen(inside, there, host)


def _in_memory(work_: Work, plan, f: dict, chip: Accelerator, host: Cost, streams, off_chip: list[str]) -> Cost:
    """Every op as if it ran in memory; without meaning for those that cannot."""
    level = chip.in_memory_level
    levels = list(chip.memory)
    read = in_memory.inside_bytes(work_.matrix_bytes, work_.rows, f["in_memory.vectors_per_pass"])
    copies = f["in_memory.input_copies"], f["in_memory.result_copies"]
    crossing = in_memory.crossing_bytes(work_.input_bytes, work_.result_bytes, work_.batch, *copies)
    once = np.maximum(plan.stream_bytes + plan.state_bytes, work_.input_bytes + work_.result_bytes)
    traffic = dict(host.traffic)
    for nearer in levels[: levels.index(level)]:
        traffic[nearer] = once
    traffic[level] = crossing + streams
    bounds = dict(host.bounds) | dict.fromkeys(("matrix", "feed"), np.zeros_like(plan.repeats))
    for nearer in levels[: levels.index(level)]:
        bounds[nearer] = memory.memory_time_s(once, *_rate(f, nearer))
    rate, sustained = _rate(f, level)
    bounds[level] = in_memory.crossing_s(crossing, streams, rate * sustained, f["in_memory.transfer_bytes_per_s"])
    bounds[BOUND] = in_memory.product_s(
        read, work_.macs, f["in_memory.bandwidth_bytes_per_s"], f["in_memory.sustained"], _macs_per_s(work_, f)
    )
    bounds["latency"] = host.bounds["latency"] + f["in_memory.command_s"]
    used = None
    if host.used is not None:
        used = {name: bounds[name] for name in (*host.used, BOUND)}
    return Cost(traffic, bounds, work_s(bounds, off_chip, f), used, True, read)


def work_s(bounds: Mapping[str, np.ndarray], off_chip: list[str], f: dict) -> np.ndarray:
    """Time of one run less its fixed costs: work on chip and transfers from beyond it overlap."""
    beyond = (*off_chip, BOUND)
    on_chip_s = _largest(bound for name, bound in bounds.items() if name not in (*beyond, "latency"))
    far = [bounds[name] for name in beyond if name in bounds]
    return recurrence.overlapped_s(on_chip_s, _largest(far) if far else 0.0, f["abilities.overlap"])


def _slows(plan, f: dict, host: Cost, placed: Cost) -> np.ndarray:
    """Whether each row is of a dependency level that takes longer as placed than on the host. (ops, *designs)"""
    order = plan.order
    level_s = [
        recurrence.levels_s(
            cost.time[order],
            [busy[order] for busy in cost.used.values()],
            plan.repeats[order],
            plan.path_runs[order],
            plan.starts,
            f["abilities.concurrent_ops"],
        )
        for cost in (placed, host)
    ]
    slower = level_s[0] > level_s[1]
    sizes = np.diff(np.append(plan.starts, plan.rows))
    result = np.empty((plan.rows, *slower.shape[1:]), bool)
    result[order] = np.repeat(slower, sizes, axis=0)
    return result


def _chosen(inside: np.ndarray, there: Cost, host: Cost) -> Cost:
    """What `inside` says of `there`, the rest of `host`, all (ops, *designs)."""

    def merged(inner: Mapping, outer: Mapping) -> dict:
        names = sorted(inner, key="latency".__eq__)  # the fixed costs last, as without a memory that computes
        return {name: np.where(inside, inner[name], outer.get(name, 0.0)) for name in names}

    return Cost(
        traffic=merged(there.traffic, host.traffic),
        bounds=merged(there.bounds, host.bounds),
        work_s=np.where(inside, there.work_s, host.work_s),
        used=None if host.used is None else merged(there.used, host.used),
        inside=inside,
        read=np.where(inside, there.read, 0.0),
    )


def _rate(f: dict, level: str) -> tuple:
    return f[f"memory.{level}.bandwidth_bytes_per_s"], f[f"memory.{level}.sustained"]


def _macs_per_s(work_: Work, f: dict) -> np.ndarray:
    """Rate of each row's element type, 1 where the units lack it. (ops, *designs)"""
    known = {path.rsplit(".", 1)[1]: rate for path, rate in f.items() if path.startswith("in_memory.macs_per_s.")}
    designs = np.broadcast_shapes(work_.rows.shape[1:], *map(np.shape, known.values()))
    rates = np.full((len(work_.dtype), *designs), 1.0)
    for dtype, rate in known.items():
        rates[work_.dtype == dtype] = rate
    return rates


def _largest(times) -> np.ndarray:
    return functools.reduce(np.maximum, times)


def _before(values, rank: int) -> np.ndarray:
    """Values of ops before `rank` axes of designs, (ops, 1, ...)."""
    return np.asarray(values, float).reshape(-1, *[1] * rank)
