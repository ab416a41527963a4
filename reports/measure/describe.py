"""The accelerator of a machine before calibration: its numbers read from the system or taken from the timings.

What can be neither read nor timed comes from the assumptions of the family (`simulator/presets/_families.toml`), cited
as such. `calibrate` then fits the constants that the timings determine together.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reports.measure.machine import Machine
from simulator import Accelerator, load_accelerator
from simulator.accelerator import MemoryLevel

#: Fused multiply-add pipes of a core, where a processor has vector units at all.
PIPES = 2
FLOP_OF_MAC = 2.0
#: Share of the peak large products of tuned libraries reach (0.75 to 0.9, see `_families.toml`: cpu.matrix.sustained).
REACHED = 0.8
#: What a stream of `elements` moves: two operands and a result in fp32.
STREAM_BYTES = 12
#: A stream counts for a level of memory when it fills at most this share of it, and more than the level above holds.
FILLED = 0.5
#: The main memory is timed by streams so many times the last cache.
BEYOND = 2.0


class Number(NamedTuple):
    """A value with where it comes from."""

    value: object
    source: str
    basis: str


def _assumed(value: object, why: str) -> Number:
    return Number(value, f"assumed: {why}", "assumed")


def described(
    name: str, title: str, family: str, year: int, notes: str, numbers: Mapping[str, Number], choices: Mapping[str, str]
) -> Accelerator:
    """The accelerator with `numbers` by dotted path and `choices` (of scope); all else as its family assumes."""
    head = {"name": name, "title": title, "family": family, "year": year, "notes": notes, "inherits": family}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    entries: dict[str, list[str]] = {}
    for path, choice in choices.items():
        table, leaf = path.rsplit(".", 1)
        entries.setdefault(table, []).append(f"{leaf} = {json.dumps(choice)}")
    for path, (value, source, basis) in _with_defaults(numbers).items():
        table, leaf = path.rsplit(".", 1)
        source = json.dumps(source.replace("{", "{{").replace("}", "}}"), ensure_ascii=False)
        number = str(value).lower() if isinstance(value, bool) else repr(float(value))
        entries.setdefault(table, []).append(f'{leaf} = {{ value = {number}, source = {source}, basis = "{basis}" }}')
    for table, rows in entries.items():
        lines += ["", f"[{table}]", *rows]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / f"{name}.toml"
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_accelerator(place)


def _with_defaults(numbers: Mapping[str, Number]) -> dict[str, Number]:
    """The numbers, and for each level of memory what they leave out, as the model takes it unless told otherwise."""
    levels = dict.fromkeys(path.split(".")[1] for path in numbers if path.startswith("memory."))
    plain = {item.name: item.default for item in dataclasses.fields(MemoryLevel) if item.name != "scope"}
    default = {
        f"memory.{level}.{leaf}": Number(value, "assumed: what the model takes unless told otherwise", "assumed")
        for level in levels
        for leaf, value in plain.items()
        if value is not None and value is not dataclasses.MISSING
    }
    return default | dict(numbers)


def cpu(
    machine: Machine, threads: int, records: Sequence[Mapping], *, name: str, year: int, how: str, notes: str
) -> Accelerator:
    """The processor as `threads` of its cores, from timed `records` (rows of the measurement table with `time_s`).

    `how` says who timed, and when: it becomes the source of what is measured."""
    rate = fastest_product_flops_per_s(records)
    lanes = machine.lanes
    macs = lanes * PIPES
    clock = _clock(machine, rate / (FLOP_OF_MAC * threads * macs), how)
    cores = Number(threads, f"threads that ran an op, of {machine.cores} {machine.cores_source}", "measured")
    pipes = f"assumed: {PIPES} fused multiply-add pipes a core, as desktop and server cores have"
    tiny = call_s(records)
    fragment = _fragment(machine)
    told = f"{lanes} lanes ({machine.lanes_source})"
    numbers = {
        "matrix.count": cores,
        "matrix.clock_hz": clock,
        "matrix.tile_m": _assumed(6, "rows of a product's inner kernel, 6 x 16 in BLIS (bli_sgemm_haswell_asm_6x16)"),
        "matrix.tile_n": Number(2 * lanes, f"derived: two registers of {told}", "derived"),
        "matrix.tile_k": _assumed(4, "unrolling of a product's inner kernel"),
        "matrix.fragment_m": Number(fragment, *_FRAGMENT),
        "matrix.fragment_n": Number(fragment, *_FRAGMENT),
        "matrix.feed_bytes_per_cycle": _assumed(8 * lanes, f"two vector loads of {4 * lanes} bytes a cycle"),
        "matrix.operand_macs": _assumed(2, "loading an operand takes the slots of two multiply-accumulates"),
        "matrix.macs_per_cycle.fp32": Number(macs, f"derived from {told}; {pipes}", "derived"),
        "matrix.macs_per_cycle.fp64": Number(macs / 2, "derived: half as many fp64 lanes", "derived"),
        "vector.count": cores,
        "vector.clock_hz": clock,
        "vector.flops_per_cycle": Number(2 * macs, f"derived from {told}, two FLOP each; {pipes}", "derived"),
        "vector.special_per_cycle": Number(
            special_per_s(records) / (threads * clock.value), f"{how}: the faster of tanh and sigmoid", "measured"
        ),
        "vector.sustained": Number(1.0, "the peaks themselves are fitted or measured", "derived"),
        "latency.launch_s": Number(tiny, f"{how}: the quickest op on 64 values", "measured"),
    }
    choices: dict[str, str] = {}
    for level, given in memory_levels(machine, threads, records, how).items():
        choices[f"memory.{level}.scope"] = given.pop("scope")
        numbers |= {f"memory.{level}.{leaf}": number for leaf, number in given.items()}
    title = f"{machine.title}, {threads} of {machine.cores} cores"
    return described(name, title, "cpu", year, notes, numbers, choices)


def _clock(machine: Machine, least_hz: float, how: str) -> Number:
    """The clock the system states, unless the fastest product needs a higher one, `least_hz` in every slot."""
    if machine.clock_hz and machine.clock_hz * REACHED >= least_hz:
        return Number(machine.clock_hz, machine.clock_source, "vendor")
    stated = f"; the {machine.clock_hz / 1e9:.3g} GHz of {machine.clock_source} are too few" if machine.clock_hz else ""
    source = f"derived: the fastest product of {how} fills {REACHED:.0%} of the slots, as tuned libraries do{stated}"
    return Number(least_hz / REACHED, source, "derived")


_FRAGMENT = ("derived: side of the largest square block of which three fit the L1 cache of a core", "derived")


def _fragment(machine: Machine) -> int:
    level = machine.cache(1)
    capacity = level.capacity_bytes / level.instances if level else 32 * 2**10
    return max(8, int(np.sqrt(capacity / (3 * 4)) // 8 * 8))


def memory_levels(machine: Machine, threads: int, records: Sequence[Mapping], how: str) -> dict[str, dict]:
    """Caches beyond the first and the main memory, nearest first: fields as `Number`, scope as text."""
    caches = []
    for cache in machine.caches:
        share = min(1.0, threads / max(1, machine.cores)) if cache.instances > 1 else 1.0
        if cache.level > 1:
            caches.append(
                (f"l{cache.level}", cache.capacity_bytes * share, cache.instances > 1, cache.source, "vendor")
            )
    if not caches:
        knee = cache_by_timing(records)
        caches = [("cache", knee, False, f"{how}: the largest stream that is quicker than main memory", "measured")]
    levels: dict[str, dict] = {}
    above = 0.0
    for position, (level, capacity, private, source, basis) in enumerate(caches):
        last = position == len(caches) - 1
        levels[level] = {
            "scope": "unit" if private and not last else "chip",
            "capacity_bytes": Number(capacity, source, basis),
            **_bandwidth(records, above, FILLED * capacity, how),
            "latency_s": _assumed(0, "hidden by prefetching, or part of what starting an op costs"),
            "keeps_weights": _assumed(True, "a cache keeps what fits"),
            "keeps_activations": _assumed(last, "a shared cache keeps what fits; a core's own the next op overwrites"),
            "keeps_parts": _assumed(
                False, "a cache read in a cycle drops what it will need first (least recently used)"
            ),
        }
        above = capacity
    levels["dram"] = {
        "scope": "chip",
        "capacity_bytes": Number(machine.memory_bytes, machine.memory_source, "vendor"),
        **_bandwidth(records, BEYOND * above, np.inf, how),
        "latency_s": _assumed(0, "hidden by prefetching, or part of what starting an op costs"),
    }
    return levels


def _bandwidth(records: Sequence[Mapping], above: float, most: float, how: str) -> dict[str, Number]:
    """The best stream with a working set between `above` and `most`; the nearest one where there is none."""
    sizes, rates = streams(records)
    within = (sizes > above) & (sizes <= most)
    if not within.any():
        within = sizes == sizes[np.argmin(np.abs(np.log(sizes) - np.log(max(above, 1) if np.isinf(most) else most)))]
    best = int(np.flatnonzero(within)[rates[within].argmax()])
    size = f"{sizes[best] / 2**20:.3g} MiB"
    return {
        "bandwidth_bytes_per_s": Number(rates[best], f"{how}: the best stream, of {size}", "measured"),
        "sustained": Number(1.0, "the bandwidth is what a stream reaches", "derived"),
    }


# -- numbers from the timings ------------------------------------------------------------------------


def fastest_product_flops_per_s(records: Sequence[Mapping]) -> float:
    """The most a measured product does."""
    return max(2.0 * int(r.get("batch", 1)) * r["m"] * r["n"] * r["k"] / r["time_s"] for r in records if "m" in r)


def call_s(records: Sequence[Mapping]) -> float:
    """What calling the quickest op costs: elementwise on the fewest values."""
    vector = [r for r in records if "rows" in r]
    fewest = min(r["rows"] * r["columns"] for r in vector)
    return min(r["time_s"] for r in vector if r["rows"] * r["columns"] == fewest)


def special_per_s(records: Sequence[Mapping]) -> float:
    """Evaluations a second of the quicker transcendental, on many values."""
    return max(r["rows"] * r["columns"] / r["time_s"] for r in records if r["op"] in ("tanh", "sigmoid"))


def streams(records: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
    """Working sets [bytes] and rates [bytes/s] of additions and of products with one row, calls taken off."""
    start = call_s(records)
    sizes, rates = [], []
    for r in records:
        if r["op"] == "add":
            size = STREAM_BYTES * r["rows"] * r["columns"]
        elif r["op"] == "matmul" and r["m"] == 1 and r["batch"] == 1:
            size = 4 * r["n"] * r["k"]
        else:
            continue
        if r["time_s"] > 2 * start:
            sizes.append(size)
            rates.append(size / (r["time_s"] - start))
    return np.array(sizes, float), np.array(rates, float)


def cache_by_timing(records: Sequence[Mapping]) -> float:
    """Capacity of the last cache where the system does not say: the largest stream above the middle of the rates."""
    sizes, rates = streams(records)
    middle = np.sqrt(rates.max() * rates[sizes.argmax()])
    return float(sizes[rates > middle].max())


# -- a GPU -------------------------------------------------------------------------------------------


def gpu(backend, records: Sequence[Mapping], *, name: str, year: int, how: str, notes: str) -> Accelerator:
    """The GPU PyTorch runs on, from what CUDA says of it and timed `records`.

    CUDA does not say how many multiply-accumulates a multiprocessor does: taken from the fastest product of each
    element type, as the next power of two above it."""
    told = backend.properties
    source = "torch.cuda.get_device_properties"
    units = told.multi_processor_count
    clock = _property(told, "clock_rate", 1e3, 1e9, "1 GHz; only its product with the multiply-accumulates counts")
    count = Number(units, f"{source}: multi_processor_count", "vendor")
    numbers = {"matrix.count": count, "vector.count": count, "matrix.clock_hz": clock, "vector.clock_hz": clock}
    for dtype in backend.dtypes:
        rate = fastest_product_flops_per_s([r for r in records if r["dtype"] == dtype])
        least = rate / (FLOP_OF_MAC * units * clock.value)
        derived = f"derived: the power of two above the {least:.4g} of the fastest {dtype} product of {how}"
        numbers[f"matrix.macs_per_cycle.{dtype}"] = Number(2.0 ** np.ceil(np.log2(least)), derived, "derived")
    fp32 = [r for r in records if r["dtype"] == "fp32"]
    special = special_per_s(fp32) / (units * clock.value)
    flops = 2 * numbers["matrix.macs_per_cycle.fp32"].value
    numbers |= {
        "vector.flops_per_cycle": Number(flops, "derived: two FLOP for each fp32 multiply-accumulate", "derived"),
        "vector.special_per_cycle": Number(special, f"{how}: the faster of tanh and sigmoid", "measured"),
        "latency.launch_s": Number(call_s(fp32), f"{how}: the quickest op on 64 values", "measured"),
    }
    cache = _property(told, "L2_cache_size", 1, 4 * 2**20, "4 MiB, as smaller GPUs have")
    memory = Number(told.total_memory, f"{source}: total_memory", "vendor")
    levels = {"l2": (cache, 0.0, FILLED * cache.value), "dram": (memory, BEYOND * cache.value, np.inf)}
    for level, (capacity, above, most) in levels.items():
        numbers[f"memory.{level}.capacity_bytes"] = capacity
        numbers |= {f"memory.{level}.{leaf}": number for leaf, number in _bandwidth(fp32, above, most, how).items()}
    for flag in ("keeps_weights", "keeps_activations"):
        numbers[f"memory.l2.{flag}"] = _assumed(True, "a cache keeps what fits")
    choices = {"memory.l2.scope": "chip", "memory.dram.scope": "chip"}
    return described(name, told.name, "gpu", year, notes, numbers, choices)


def _property(properties, name: str, scale: float, otherwise: float, why: str) -> Number:
    """A property of a GPU, which older versions of PyTorch may not know."""
    value = float(getattr(properties, name, 0) or 0)
    if value:
        return Number(value * scale, f"torch.cuda.get_device_properties: {name}", "vendor")
    return Number(otherwise, f"assumed: {why}; PyTorch does not say", "assumed")
