"""Random but valid traces, accelerators and design spaces, for the laws and the slow twin.

Each maker takes a `random.Random`. A test that wants thousands of quick cases hands it a seeded one; the
hypothesis strategies at the end (`traces`, `accelerators`, `cases`, `spaces`) hand it one whose every draw
hypothesis records and can shrink. Sizes and rates are spread so that every bound binds somewhere.
"""

from __future__ import annotations

import dataclasses
import math
import random

import hypothesis.strategies as st

from simulator import Accelerator
from workloads import Trace
from workloads.trace import ELEMENT_BYTES

#: Element types the random traces compute in; every random accelerator runs all of them.
DTYPES = ("fp32", "bf16", "fp16", "fp8", "int8")
#: Element types the random traces store in.
STORED = ("fp32", "fp16", "int8", "int4")
_LAYERS = ("embedding", "block", "lstm.0", "lstm.1-3", "head")
_OTHER_KINDS = ("elementwise", "normalisation", "softmax", "gather", "scan", "copy")
_PHASES = ("forward", "recompute", "input-gradient", "weight-gradient", "update")


# -- numbers ---------------------------------------------------------------------------------------


def size(rng: random.Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, as likely small as large; often a power of two."""
    value = round(2.0 ** rng.uniform(math.log2(low), math.log2(high)))
    if rng.random() < 0.3:
        value = 2 ** round(math.log2(value))
    return min(max(value, low), high)


def rate(rng: random.Random, low: float, high: float) -> float:
    """A positive number from `low` to `high`, evenly spread over the orders of magnitude."""
    return 10.0 ** rng.uniform(math.log10(low), math.log10(high))


def _sometimes(rng: random.Random, chance: float, value):
    return value() if rng.random() < chance else 0


# -- traces ----------------------------------------------------------------------------------------


def _types(rng: random.Random) -> dict:
    dtype = rng.choice(DTYPES)
    if rng.random() < 0.6:
        return {"dtype": dtype}
    return {"dtype": dtype, "weight_dtype": rng.choice(STORED), "activation_dtype": rng.choice(STORED)}


def _whole_bytes(elements: int, dtype: str) -> int:
    return math.ceil(elements * ELEMENT_BYTES[dtype])


def _product(rng: random.Random, largest: int) -> dict:
    """A product with bytes that belong to its shape: with or without weights, masked or whole."""
    kind = rng.choice(("matmul", "matmul", "matmul", "convolution", "attention"))
    types = _types(rng)
    stored, kept = types.get("activation_dtype", types["dtype"]), types.get("weight_dtype", types["dtype"])
    m, n, k = (size(rng, 1, largest) for _ in range(3))
    batch = size(rng, 1, 64) if kind == "attention" or rng.random() < 0.3 else 1
    weighted = kind != "attention" and rng.random() < 0.7
    flops = 2 * batch * m * n * k
    if kind == "attention" or rng.random() < 0.1:  # a causal mask leaves part of it
        flops = max(1, round(flops * rng.uniform(0.5, 1.0)))
    inputs = batch * m * k if kind != "attention" else batch * m * max(1, n // 2)
    second = 0 if weighted else batch * k * n
    row = {
        "kind": kind,
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "matrix_flops": flops,
        "weight_bytes": _whole_bytes(batch * n * k, kept) if weighted else 0,
        "parameters": batch * n * k if weighted else 0,
        "input_bytes": _whole_bytes(inputs + second, stored),
        "output_bytes": _whole_bytes(batch * m * n, stored),
    }
    if kind == "convolution" and rng.random() < 0.7:  # rows overlap: less is read than m k elements
        row["input_bytes"] = max(1, row["input_bytes"] // rng.choice((3, 9)))
    if not weighted and rng.random() < 0.3:  # the second operand comes from a cache of keys and values
        row["cache_bytes"] = _whole_bytes(second, stored)
        row["input_bytes"] = _whole_bytes(inputs, stored)
    if kind == "attention":
        row |= {"vector_flops": 4 * batch * m * k, "special_ops": batch * m * k}
    return row | types


def _other(rng: random.Random, largest: int) -> dict:
    """A row for the vector units: arithmetic and bytes of a random number of elements, or only bytes."""
    kind = rng.choice(_OTHER_KINDS)
    types = _types(rng)
    elements = size(rng, 1, largest * largest)
    moved = _whole_bytes(elements, types.get("activation_dtype", types["dtype"]))
    computes = kind not in ("gather", "copy")
    return {
        "kind": kind,
        "vector_flops": elements * rng.choice((1, 4, 12)) if computes else 0,
        "special_ops": _sometimes(rng, 0.5 if computes else 0.0, lambda: elements),
        "weight_bytes": _sometimes(rng, 0.3, lambda: size(rng, 1, max(2, moved))),
        "input_bytes": moved,
        "output_bytes": moved,
    } | types


def _extras(rng: random.Random, row: dict) -> dict:
    """Now and then state, cache entries or kept activations on top of what the row has."""
    moved = row["input_bytes"] + row["output_bytes"] + 2
    extra = {}
    if rng.random() < 0.15:
        extra["state_bytes"] = size(rng, 1, moved)
    if rng.random() < 0.1:
        extra["cache_bytes"] = row.get("cache_bytes", 0) + size(rng, 1, moved)
    if rng.random() < 0.15:
        extra["saved_bytes"] = size(rng, 1, moved)
    return row | extra


def _single(rng: random.Random, largest: int) -> list[dict]:
    """One op, perhaps folded over identical layers that run in series, at once or in between."""
    row = _product(rng, largest) if rng.random() < 0.6 else _other(rng, largest)
    row = _extras(rng, row) | {"layer": rng.choice(_LAYERS), "op": "op"}
    if rng.random() < 0.4:
        repeats = size(rng, 1, 48)
        row |= {"repeats": repeats, "path_runs": rng.choice((repeats, 1, size(rng, 1, repeats)))}
        row["weight_sets"] = rng.choice((1, repeats))
    return [row]


def _fusable(rng: random.Random, largest: int) -> list[dict]:
    """A product and one or two elementwise rows on its result, which an accelerator may merge into it."""
    product = _extras(rng, _product(rng, largest)) | {"layer": rng.choice(_LAYERS), "op": "product"}
    elements = product["batch"] * product["m"] * product["n"]
    repeats = rng.choice((1, 1, size(rng, 1, 24)))
    rows = [product]
    for name in ("bias add", "activation")[: rng.choice((1, 2))]:
        rows.append(
            {
                "layer": product["layer"],
                "op": name,
                "kind": "elementwise",
                "vector_flops": elements,
                "special_ops": _sometimes(rng, 0.5, lambda: elements),
                "input_bytes": product["output_bytes"],
                "output_bytes": product["output_bytes"],
                "saved_bytes": _sometimes(rng, 0.3, lambda: product["output_bytes"]),
                "dtype": product["dtype"],
            }
        )
    return [row | {"repeats": repeats} for row in rows]


def _recurrence(rng: random.Random, largest: int) -> list[dict]:
    """The loop of one recurrent layer: one or two products a step and gates; stacked or in two directions."""
    types = _types(rng)
    stored, kept = types.get("activation_dtype", types["dtype"]), types.get("weight_dtype", types["dtype"])
    hidden, batch = size(rng, 1, largest), size(rng, 1, 128)
    gates = rng.choice((1, 3, 4))
    steps, layers = size(rng, 2, 200), size(rng, 1, 8)
    repeats = steps * layers
    path = rng.choice((repeats, steps + layers - 1, steps))
    sums = _whole_bytes(batch * gates * hidden, stored)
    state = _whole_bytes(batch * hidden, stored)
    shared = {
        "layer": rng.choice(_LAYERS),
        "repeats": repeats,
        "serial_steps": steps,
        "path_runs": path,
        "weight_sets": layers,
        "reach_back": 1,
    } | types
    product = {
        "op": "recurrent product",
        "kind": "matmul",
        "batch": 1,
        "m": batch,
        "n": gates * hidden,
        "k": hidden,
        "matrix_flops": 2 * batch * gates * hidden * hidden,
        "parameters": gates * hidden * hidden,
        "weight_bytes": _whole_bytes(gates * hidden * hidden, kept),
        "state_bytes": state + sums,
    }
    gate = {
        "op": "gates",
        "kind": "elementwise",
        "vector_flops": 12 * batch * hidden,
        "special_ops": 5 * batch * hidden,
        "weight_bytes": _sometimes(rng, 0.5, lambda: _whole_bytes(gates * hidden, kept)),
        "input_bytes": _sometimes(rng, 0.5, lambda: sums),
        "output_bytes": state,
        "state_bytes": sums + 2 * state,
        "saved_bytes": _sometimes(rng, 0.3, lambda: sums + state),
    }
    rows = [product, gate]
    if rng.random() < 0.3:  # a projection of the output, of another shape, so also another padding
        small = size(rng, 1, max(2, hidden))
        rows.append(
            {
                "op": "projection",
                "kind": "matmul",
                "batch": 1,
                "m": batch,
                "n": small,
                "k": hidden,
                "matrix_flops": 2 * batch * small * hidden,
                "parameters": small * hidden,
                "weight_bytes": _whole_bytes(small * hidden, kept),
                "input_bytes": state,
                "output_bytes": _whole_bytes(batch * small, stored),
            }
        )
    return [row | shared for row in rows]


def _collective(rng: random.Random, largest: int) -> list[dict]:
    """An exchange with other devices."""
    moved = size(rng, 1, largest * largest)
    row = {"layer": "head", "op": "all-reduce", "kind": "collective", "input_bytes": moved, "output_bytes": moved}
    return [row | {"dtype": rng.choice(DTYPES), "vector_flops": _sometimes(rng, 0.5, lambda: moved)}]


def random_trace(
    rng: random.Random, *, blocks: int = 5, largest: int = 3000, training: bool | None = None, collectives: bool = True
) -> Trace:
    """A valid trace of up to `blocks` blocks (some are several rows), no side of a product beyond `largest`.

    `training`: whether some rows are gradients or updates (None: one trace in three). `collectives`: whether rows
    for the link may occur; an accelerator without a link refuses them.
    """
    if training is None:
        training = rng.random() < 0.33
    makers = [_single, _single, _fusable, _recurrence, _recurrence]
    if collectives:
        makers.append(_collective)
    rows: list[dict] = []
    for _ in range(rng.randint(1, blocks)):
        block = rng.choice(makers)(rng, largest)
        phase = rng.choice(_PHASES) if training else "forward"
        first = len(rows)
        for row in block:
            row["phase"] = phase
        if first and rng.random() < 0.4:  # otherwise the block waits for the row before it
            chosen = rng.randint(0, min(3, first))
            block[0]["after"] = tuple(sorted(rng.sample(range(first), chosen)))
        rows += block
    if training and all(row["phase"] == "forward" for row in rows):
        rows[-1]["phase"] = "update"
    name = rng.choice(("random", "random network"))
    return Trace.from_rows(rows, name=name, sequences=size(rng, 1, 64), tokens=size(rng, 1, 512))


# -- accelerators ----------------------------------------------------------------------------------

#: How each numeric field is drawn; memory levels by the place of the level.
_FIELDS = {
    "matrix.count": lambda r: r.choice((1, 2, 3, 16, 80, 108)),
    "matrix.clock_hz": lambda r: rate(r, 1e8, 2e9),
    "matrix.macs_per_cycle": lambda r: 2.0 ** r.randint(0, 12),
    "matrix.tile_m": lambda r: r.choice((1, 8, 32, 64, 100)),
    "matrix.tile_n": lambda r: r.choice((1, 16, 32, 128, 100)),
    "matrix.tile_k": lambda r: r.choice((1, 16, 32, 128, 100)),
    "matrix.thin_tile": lambda r: r.choice((1, 8, 16)),
    "matrix.fragment_m": lambda r: r.choice((4, 16, 128)),
    "matrix.fragment_n": lambda r: r.choice((8, 32, 256)),
    "matrix.batched_tile": lambda r: r.choice((1, 1, 32, 64)),
    "matrix.operand_macs": lambda r: r.choice((0.0, rate(r, 0.1, 20))),
    "matrix.feed_bytes_per_cycle": lambda r: rate(r, 1, 1024),
    "matrix.loop_cycles_per_byte": lambda r: r.choice((0.0, rate(r, 0.1, 50))),
    "matrix.narrow_loop_cycles_per_byte": lambda r: rate(r, 0.1, 50),
    "matrix.resident_results": lambda r: r.choice((0.0, 4096.0, 32768.0)),
    "matrix.reach_bytes": lambda r: rate(r, 1e3, 1e7),
    "matrix.reach_cost": lambda r: r.choice((0.0, r.uniform(0.1, 3.0))),
    "matrix.split_cycles": lambda r: r.choice((0.0, 100.0, 5000.0)),
    "matrix.attention_sustained": lambda r: r.uniform(0.2, 1.0),
    "matrix.load_cycles": lambda r: r.choice((0, 1, 128, 1000)),
    "matrix.prologue_cycles": lambda r: r.choice((0, 10, 1500)),
    "matrix.max_split": lambda r: r.choice((1, 2, 3, 8, 16, 32)),
    "matrix.sustained": lambda r: r.choice((1.0, r.uniform(0.3, 1.0))),
    "vector.count": lambda r: r.choice((1, 16, 80)),
    "vector.clock_hz": lambda r: rate(r, 1e8, 2e9),
    "vector.flops_per_cycle": lambda r: rate(r, 1, 256),
    "vector.special_per_cycle": lambda r: rate(r, 0.05, 64),
    "vector.dependent_cycles": lambda r: r.choice((0, 4, 30)),
    "vector.sustained": lambda r: r.choice((1.0, r.uniform(0.3, 1.0))),
    "latency.launch_s": lambda r: r.choice((0.0, rate(r, 1e-8, 1e-4))),
    "latency.step_s": lambda r: r.choice((0.0, rate(r, 1e-8, 1e-5))),
    "latency.first_steps_s": lambda r: r.choice((0.0, rate(r, 1e-8, 1e-5))),
    "latency.first_steps": lambda r: r.choice((0, 2, 50)),
    "abilities.concurrent_ops": lambda r: r.choice((1, 2, 4, 16)),
    "abilities.overlap": lambda r: r.choice((1.0, 0.0, r.random())),
    "link.bandwidth_bytes_per_s": lambda r: rate(r, 1e9, 1e12),
    "link.latency_s": lambda r: r.choice((0.0, 2e-6)),
}
_LEVEL_FIELDS = {
    "capacity_bytes": {"unit": (1e4, 1e8), "chip": (1e4, 3e8), "last": (1e6, 1e11)},
    "bandwidth_bytes_per_s": {"unit": (1e11, 1e14), "chip": (1e10, 1e13), "last": (1e9, 3e12)},
}
_HIERARCHIES = (
    {"dram": "chip"},
    {"l2": "chip", "dram": "chip"},
    {"l1": "unit", "dram": "chip"},
    {"l1": "unit", "l2": "chip", "dram": "chip"},
    {"registers": "unit", "l1": "unit", "l2": "chip", "dram": "chip"},
    {"l1": "unit", "l2": "chip", "l3": "chip", "dram": "chip"},
)


def _level_number(rng: random.Random, name: str, place: str) -> float:
    if name == "sustained":
        return rng.choice((1.0, rng.uniform(0.3, 1.0)))
    if name == "latency_s":
        return rng.choice((0.0, rate(rng, 1e-9, 1e-6)))
    return rate(rng, *_LEVEL_FIELDS[name][place])


def _level(rng: random.Random, scope: str, last: bool) -> dict:
    place = "last" if last else scope
    numbers = {
        name: _level_number(rng, name, place)
        for name in ("capacity_bytes", "bandwidth_bytes_per_s", "sustained", "latency_s")
    }
    keeps = {flag: rng.random() < 0.6 for flag in ("keeps_weights", "keeps_activations", "keeps_parts")}
    return numbers | keeps | {"scope": scope}


def random_accelerator(
    rng: random.Random, *, dataflow: str | None = None, fuses: bool | None = None, link: bool = True
) -> Accelerator:
    """A valid accelerator with one to four memory levels that runs every type of `DTYPES`.

    `dataflow`, `fuses`: fixed, or drawn when None. `link`: whether it has a link to other devices.
    """
    matrix = {p.partition(".")[2]: draw(rng) for p, draw in _FIELDS.items() if p.startswith("matrix.")}
    matrix["macs_per_cycle"] = {dtype: _FIELDS["matrix.macs_per_cycle"](rng) for dtype in DTYPES}
    matrix["dataflow"] = dataflow or rng.choice(("output-stationary", "weight-stationary"))
    matrix["stores_padded_tiles"] = rng.random() < 0.5
    for optional in ("fragment_m", "fragment_n", "reach_bytes", "attention_sustained", "narrow_loop_cycles_per_byte"):
        if rng.random() < 0.4:
            matrix[optional] = None
    sections = {
        section: {p.partition(".")[2]: draw(rng) for p, draw in _FIELDS.items() if p.startswith(f"{section}.")}
        for section in ("vector", "latency", "abilities", "link")
    }
    sections["abilities"] |= {
        "fuses_elementwise": rng.random() < 0.5 if fuses is None else fuses,
        "persistent_recurrence": rng.random() < 0.5,
        "skips_masked": rng.random() < 0.5,
    }
    hierarchy = rng.choice(_HIERARCHIES)
    memory = {level: _level(rng, scope, level == "dram") for level, scope in hierarchy.items()}
    if not link:
        sections["link"] = None
    return Accelerator(name="random", matrix=matrix, memory=memory, **sections)


def with_memory_units(rng: random.Random, chip: Accelerator) -> Accelerator:
    """The design with units beside the banks of one of its levels, mostly the farthest, at some rate."""
    shared = [level for level, given in chip.memory.items() if given.scope == "chip"]
    level = rng.choice((None, None, rng.choice(shared)))
    bandwidth = chip.memory[level or shared[-1]].bandwidth_bytes_per_s * rate(rng, 0.5, 100)
    units = {
        "level": level,
        "bandwidth_bytes_per_s": bandwidth,
        "sustained": rng.choice((1.0, rng.uniform(0.3, 1.0))),
        "macs_per_s": {dtype: bandwidth * rate(rng, 0.1, 10) for dtype in rng.sample(DTYPES, rng.randint(2, 5))},
        "vectors_per_pass": rng.choice((1, 1, 2, 8)),
        "capacity_bytes": rng.choice((None, None, rate(rng, 1e4, 1e9))),
        "command_s": rng.choice((0.0, rate(rng, 1e-8, 1e-5))),
        "transfer_bytes_per_s": rng.choice((None, None, rate(rng, 1e9, 1e12))),
        "input_copies": rng.choice((1, 1, 16)),
        "result_copies": rng.choice((1, 1, 8)),
        "multiplies_cache": rng.random() < 0.5,
    }
    return dataclasses.replace(chip, in_memory=units)


def random_space(rng: random.Random, shape: tuple[int, ...] = (5,), fields: int = 4) -> Accelerator:
    """A design space of `shape`: some `fields` of a random accelerator are arrays, the others stay scalar.

    Besides one array of the whole shape there may be arrays that only broadcast to it.
    """
    base = random_accelerator(rng)
    numeric = [path for path, value in base.fields.items() if isinstance(value, float)]
    chosen = rng.sample(numeric, min(fields, len(numeric)))
    changes = {}
    for number, path in enumerate(chosen):
        own = shape if number == 0 else rng.choice((shape, shape[-1:], (*shape[:-1], 1)))
        values = [_redrawn(rng, path, base) for _ in range(math.prod(own))]
        changes[path] = _nested(values, own)
    return base.replace(changes)


def _redrawn(rng: random.Random, path: str, base: Accelerator) -> float:
    """Another valid value of the field at `path`."""
    if path.startswith("memory."):
        _, level, name = path.split(".")
        place = "last" if level == list(base.memory)[-1] else base.memory[level].scope
        return float(_level_number(rng, name, place))
    section = "matrix.macs_per_cycle"
    return float(_FIELDS[section if path.startswith(section) else path](rng))


def _nested(values: list, shape: tuple[int, ...]) -> list:
    for length in reversed(shape[1:]):
        values = [values[i : i + length] for i in range(0, len(values), length)]
    return values


def random_case(rng: random.Random, **trace_options) -> tuple[Trace, Accelerator]:
    """A trace and one design that can run it."""
    return random_trace(rng, **trace_options), random_accelerator(rng)


# -- hypothesis strategies -------------------------------------------------------------------------


def _drawn(maker, **options):
    return st.randoms(use_true_random=False).map(lambda rng: maker(rng, **options))


def traces(**options) -> st.SearchStrategy[Trace]:
    """Strategy for valid traces; options as of `random_trace`."""
    return _drawn(random_trace, **options)


def accelerators(**options) -> st.SearchStrategy[Accelerator]:
    """Strategy for single designs; options as of `random_accelerator`."""
    return _drawn(random_accelerator, **options)


def spaces(**options) -> st.SearchStrategy[Accelerator]:
    """Strategy for design spaces; options as of `random_space`."""
    return _drawn(random_space, **options)


def cases(**options) -> st.SearchStrategy[tuple[Trace, Accelerator]]:
    """Strategy for a trace with a design that runs it; options as of `random_trace`."""
    return _drawn(random_case, **options)
