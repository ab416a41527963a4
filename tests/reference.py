"""The slow twin of the cost model: one op, one design, plain floats and loops, one function a formula.

Written from the model's description, not from the simulator, and importing nothing from it. A row is one
dictionary of `trace.rows()`; an accelerator is read through its attributes, all of them scalar.
Symbols as in the description: S serial steps, R repeats, P path runs, W, X, Y, St, Ca the bytes of weights,
input, output, state and cache.
"""

from __future__ import annotations

import math

#: Multiples of the native tile a block may measure, in rows and columns, in order of preference.
BLOCKINGS = ((1, 1), (1, 4), (4, 1), (2, 2), (2, 4), (4, 2), (4, 4), (4, 8), (8, 4))
#: How many units may share one product's terms, in order of preference, and up to how many blocks a unit.
SPLITS = (1, 2, 4, 16, 64)
SPLIT_BLOCKS = 2
#: How many arrays may share its rows.
ROW_SPLITS = (1, 2, 4, 8, 16)
#: How many blocks at most take turns on one unit.
RESIDENT_BLOCKS = 8
#: Bytes of one element.
SIZES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "int32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "int16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
}
PRODUCTS = ("matmul", "convolution", "attention")
#: Relative difference below which two ways to cut a product are equally good.
TIE = 1e-13


# -- one row ---------------------------------------------------------------------------------------


def is_product(row) -> bool:
    return row["kind"] in PRODUCTS


def activation_size(row) -> float:
    """Bytes of one element of the first operand."""
    return SIZES[row["activation_dtype"]]


def weight_size(row) -> float:
    """Bytes of one element of the second operand: stored weights, or activations where there are none."""
    return SIZES[row["weight_dtype"]] if row["weight_bytes"] > 0 else activation_size(row)


def useful(row, accelerator) -> float:
    """Share of 2 batch m n k that is computed; below 1 under a mask."""
    if row["kind"] == "attention" and not accelerator.abilities.skips_masked:
        return 1.0
    return row["matrix_flops"] / (2.0 * row["batch"] * row["m"] * row["n"] * row["k"])


def sustained(row, accelerator) -> float:
    """Share of the peak the product reaches at best."""
    matrix = accelerator.matrix
    if row["kind"] == "attention" and matrix.attention_sustained is not None:
        return matrix.attention_sustained
    return matrix.sustained


def padding_bytes(row, accelerator) -> float:
    """By how much the weights grow when they are kept as whole tiles."""
    matrix = accelerator.matrix
    stores = matrix.dataflow == "weight-stationary" and matrix.stores_padded_tiles
    if not (stores and is_product(row) and row["weight_bytes"] > 0):
        return 0.0
    n, k = row["n"], row["k"]
    whole_n = math.ceil(n / matrix.tile_n) * matrix.tile_n
    whole_k = math.ceil(k / matrix.tile_k) * matrix.tile_k
    return row["batch"] * (whole_n * whole_k - n * k) * weight_size(row)


def padded_weight_bytes(row, accelerator) -> float:
    return row["weight_bytes"] + padding_bytes(row, accelerator)


def first_operand_bytes(row) -> float:
    plain = row["batch"] * row["m"] * row["k"] * activation_size(row)
    if row["kind"] == "attention":  # the queries: n holds query and value size
        return row["batch"] * row["m"] * row["n"] / 2 * activation_size(row)
    if row["kind"] == "convolution":  # windows overlap: no more than the input itself
        return min(plain, row["input_bytes"])
    return plain


def second_operand_bytes(row) -> float:
    """Second operand where it is not a weight."""
    return 0.0 if row["weight_bytes"] > 0 else row["batch"] * row["k"] * row["n"] * weight_size(row)


def stream_bytes(row) -> float:
    return row["input_bytes"] + row["output_bytes"] + row["state_bytes"] + row["cache_bytes"]


def other_bytes(row) -> float:
    """What a product moves beside its two operands."""
    return max(0.0, stream_bytes(row) - first_operand_bytes(row) - second_operand_bytes(row))


# -- what stays on chip ----------------------------------------------------------------------------


def missing(working_set: float, capacity: float, in_parts: bool = True) -> float:
    """Share of a working set that a capacity cannot hold; all of it where what does not fit is not kept in part."""
    if not in_parts:
        return 1.0 if working_set > capacity else 0.0
    return 0.0 if working_set == 0 else max(0.0, 1.0 - capacity / working_set)


def recurs(row) -> bool:
    """Whether a row is part of a recurrence, be it of a single step with state."""
    return row["serial_steps"] > 1 or (row["state_bytes"] > 0 and row["phase"] != "update")


def is_scan(row, rows) -> bool:
    """Whether one kernel runs all steps of the row: a scan with which no other row alternates."""
    key = ("layer", "phase", "serial_steps")
    others = [other for other in rows if other is not row and all(other[c] == row[c] for c in key)]
    return row["kind"] == "scan" and row["serial_steps"] > 1 and not others


def loop_of(row, rows) -> list:
    """The rows that alternate step by step with this one (itself included); none without a recurrence."""
    if not recurs(row) or is_scan(row, rows):
        return []
    key = ("layer", "phase", "serial_steps")
    return [other for other in rows if recurs(other) and all(other[c] == row[c] for c in key)]


def at_once(row) -> float:
    """How many of a row's runs go on at the same time: layers of a wavefront, directions."""
    return row["repeats"] / row["path_runs"]


def sets_in_turn(row) -> float:
    """Weight sets a recurrence reads in turn before it reads the first again: layers that each step goes through."""
    recurrences = row["repeats"] / row["serial_steps"]
    return max(1.0, row["weight_sets"] / recurrences)


def loop_weight_bytes(loop, accelerator) -> float:
    return sum(padded_weight_bytes(row, accelerator) * at_once(row) * sets_in_turn(row) for row in loop)


def loop_state_bytes(loop) -> float:
    return sum(row["state_bytes"] * at_once(row) for row in loop)


def trains(rows) -> bool:
    return any(row["phase"] in ("input-gradient", "weight-gradient", "update") for row in rows)


def kept_bytes(rows) -> float:
    """Everything kept for the backward pass; what is computed again there is not kept at the same time."""
    if not trains(rows):
        return 0.0
    return sum(row["repeats"] * row["saved_bytes"] for row in rows if row["phase"] != "recompute")


def keeper_capacity(levels, flag: str) -> float:
    return max((level.capacity_bytes for level in levels if getattr(level, flag)), default=0.0)


def in_parts(levels, flag: str) -> bool:
    """Whether the farthest of the levels that keep something keeps what fits of what does not."""
    keepers = [level for level in levels if getattr(level, flag)]
    return keepers[-1].keeps_parts if keepers else True


def missing_weights(row, rows, accelerator, j: int) -> float:
    """Share of a recurrence's weights that level j has to deliver again each step."""
    loop = loop_of(row, rows)
    if j == 0 or not loop:
        return 1.0
    nearer = list(accelerator.memory.values())[:j]
    working_set = loop_weight_bytes(loop, accelerator) + loop_state_bytes(loop)
    return missing(working_set, keeper_capacity(nearer, "keeps_weights"), in_parts(nearer, "keeps_weights"))


def missing_state(row, rows, accelerator, j: int) -> float:
    """Share of a recurrence's state that has to go to level j and back each step."""
    loop = loop_of(row, rows)
    if j == 0 or not loop:
        return 1.0
    nearer = list(accelerator.memory.values())[:j]
    keepers = [level for level in nearer if level.keeps_activations]
    together = bool(keepers) and keepers[-1].keeps_weights
    working_set = loop_state_bytes(loop)
    if together:
        working_set += loop_weight_bytes(loop, accelerator)
    return missing(working_set, keeper_capacity(nearer, "keeps_activations"), in_parts(nearer, "keeps_activations"))


def missing_activations(row, rows, accelerator, j: int) -> float:
    """Share of a row's inputs and outputs that pass through level j."""
    if j == 0:
        return 1.0
    nearer = list(accelerator.memory.values())[:j]
    working_set = max(row["serial_steps"] * (row["input_bytes"] + row["output_bytes"]), kept_bytes(rows))
    return missing(working_set, keeper_capacity(nearer, "keeps_activations"))


def fetched_weight_bytes(row, rows, accelerator, j: int) -> float:
    """Weights one run fetches from level j: once for all steps where they stay nearer, as in the kernel of a scan."""
    if is_scan(row, rows):
        return row["weight_bytes"] / row["serial_steps"]
    again = missing_weights(row, rows, accelerator, j)
    return padded_weight_bytes(row, accelerator) * (again + (1.0 - again) * sets_in_turn(row) / row["serial_steps"])


# -- products --------------------------------------------------------------------------------------


def shared_level(accelerator) -> int:
    """Number of the first level the whole chip shares."""
    return next(j for j, level in enumerate(accelerator.memory.values()) if level.scope == "chip")


def blocks_to_choose(accelerator) -> list[tuple[float, float]]:
    """Rows and columns of every block of an output-stationary library, in order of preference."""
    matrix = accelerator.matrix
    blocks = [(matrix.tile_m * mult_m, matrix.tile_n * mult_n) for mult_m, mult_n in BLOCKINGS]
    return [*blocks, (matrix.thin_tile, 4 * matrix.tile_n), (4 * matrix.tile_m, matrix.thin_tile)]


def is_open(row, accelerator, block_m, block_n, split) -> bool:
    """Whether a library would cut the product so."""
    matrix = accelerator.matrix
    single = row["batch"] == 1 or row["kind"] == "attention"
    largest = max(min(block) for block in blocks_to_choose(accelerator))
    if not single and min(block_m, block_n) < min(matrix.batched_tile, largest):
        return False
    if split == 1:
        return True
    blocks = row["batch"] * math.ceil(row["m"] / block_m) * math.ceil(row["n"] / block_n) * split
    return single and split <= matrix.max_split and blocks / matrix.count <= SPLIT_BLOCKS


def output_stationary(row, accelerator, weights_shared, block_m, block_n, split) -> dict:
    """One block and split of an output-stationary product."""
    matrix = accelerator.matrix
    batch, m, n, k = row["batch"], row["m"], row["n"], row["k"]
    e_a, e_b = activation_size(row), weight_size(row)
    rows, cols = math.ceil(m / block_m), math.ceil(n / block_n)
    depth = math.ceil(k / (matrix.tile_k * split)) * matrix.tile_k * useful(row, accelerator)
    blocks = batch * rows * cols * split
    waves = blocks / matrix.count
    issued = block_m * block_n + matrix.operand_macs * (min(m, block_m) + min(n, block_n))
    cycles = issued * depth / (matrix.macs_per_cycle[row["dtype"]] * sustained(row, accelerator))
    if matrix.reach_bytes is not None:
        span = (min(m, block_m) * e_a + min(n, block_n) * e_b) * k
        cycles *= 1.0 + matrix.reach_cost * max(0.0, 1.0 - matrix.reach_bytes / span)
    fed_cycles = (min(m, block_m) * e_a + min(n, block_n) * e_b) * depth / matrix.feed_bytes_per_cycle
    loop = matrix.loop_cycles_per_byte
    if e_b < 4 and matrix.narrow_loop_cycles_per_byte is not None:
        loop = matrix.narrow_loop_cycles_per_byte
    waiting_cycles = depth * e_b * loop + matrix.prologue_cycles
    resident = min(RESIDENT_BLOCKS, max(1.0, matrix.resident_results / (block_m * block_n)))
    whole = max(waves, 1.0) if row["kind"] == "attention" else math.ceil(waves)
    summing_s = matrix.split_cycles / matrix.clock_hz if split > 1 else 0.0
    partial_sums = 8.0 * split * batch * m * n if split > 1 else 0.0
    second = weights_shared + second_operand_bytes(row)
    feed_cycles = max(whole * fed_cycles, math.ceil(waves / resident) * waiting_cycles)
    return {
        "matrix_s": whole * cycles / matrix.clock_hz + summing_s,
        "feed_s": feed_cycles / matrix.clock_hz + summing_s,
        "busy_s": waves * cycles / matrix.clock_hz,
        "shared_bytes": first_operand_bytes(row) * cols + second * rows + other_bytes(row) + partial_sums,
    }


def weight_stationary(row, accelerator, weights_shared, split) -> dict:
    """One split of a weight-stationary product."""
    matrix = accelerator.matrix
    batch, m, n, k = row["batch"], row["m"], row["n"], row["k"]
    passes = batch * math.ceil(k / matrix.tile_k) * math.ceil(n / matrix.tile_n)
    streamed = math.ceil(m / (matrix.tile_m * split)) * matrix.tile_m * useful(row, accelerator)
    macs_per_cycle = matrix.macs_per_cycle[row["dtype"]] * sustained(row, accelerator)
    cycles = streamed * matrix.tile_k * matrix.tile_n / macs_per_cycle
    fed_cycles = streamed * matrix.tile_k * activation_size(row) / matrix.feed_bytes_per_cycle
    fed_cycles = max(fed_cycles, matrix.load_cycles)
    waves = passes * split / matrix.count
    fill = matrix.tile_k + matrix.tile_n + matrix.prologue_cycles
    second = weights_shared + second_operand_bytes(row)
    first = first_operand_bytes(row) * math.ceil(n / matrix.tile_n)
    return {
        "matrix_s": (math.ceil(waves) * cycles + fill) / matrix.clock_hz,
        "feed_s": (math.ceil(waves) * fed_cycles + fill) / matrix.clock_hz,
        "busy_s": (waves * max(cycles, fed_cycles) + fill) / matrix.clock_hz,
        "shared_bytes": first + second * split + other_bytes(row),
    }


def product_candidates(row, rows, accelerator) -> list[dict]:
    """Every way to cut the product, in order of preference."""
    matrix = accelerator.matrix
    weights_shared = fetched_weight_bytes(row, rows, accelerator, shared_level(accelerator))
    if matrix.dataflow == "weight-stationary":
        return [weight_stationary(row, accelerator, weights_shared, split) for split in ROW_SPLITS]
    return [
        output_stationary(row, accelerator, weights_shared, block_m, block_n, split)
        for block_m, block_n in blocks_to_choose(accelerator)
        for split in SPLITS
        if is_open(row, accelerator, block_m, block_n, split)
    ]


def judged_s(candidate, accelerator) -> float:
    """What a way to cut the product is judged by: the longer of units and shared memory."""
    shared = list(accelerator.memory.values())[shared_level(accelerator)]
    memory_s = candidate["shared_bytes"] / (shared.bandwidth_bytes_per_s * shared.sustained)
    return max(candidate["matrix_s"], candidate["feed_s"], memory_s)


def product(row, rows, accelerator, like=None) -> dict:
    """The first of the best ways to cut the product.

    Two ways may be equally good, and then rounding decides which of them an implementation takes. `like`, a
    (matrix_s, shared_bytes) it found, picks the nearest to it among the ways that tie to within `TIE`.
    """
    candidates = product_candidates(row, rows, accelerator)
    # what it keeps from other ops when they run beside it: the most frugal way, not the quickest
    frugal = {
        "busy_s": min(candidate["busy_s"] for candidate in candidates),
        "least_shared_bytes": min(candidate["shared_bytes"] for candidate in candidates),
    }
    least_s = min(judged_s(candidate, accelerator) for candidate in candidates)
    if like is None:
        return next(c for c in candidates if judged_s(c, accelerator) == least_s) | frugal
    tied = [c for c in candidates if judged_s(c, accelerator) <= least_s * (1 + TIE)]
    matrix_s, shared_bytes = like
    nearest = min(tied, key=lambda c: abs(c["matrix_s"] / matrix_s - 1) + abs(c["shared_bytes"] / shared_bytes - 1))
    return nearest | frugal


# -- bytes at each level ---------------------------------------------------------------------------


def reread_bytes(row, accelerator, capacity: float) -> float:
    """What a product fetches more than once because the level nearer holds only `capacity`."""
    batch = row["batch"]
    a = first_operand_bytes(row) / batch
    b = (padded_weight_bytes(row, accelerator) + second_operand_bytes(row)) / batch
    side = math.sqrt(capacity / (3.0 * max(activation_size(row), weight_size(row))))
    ways = (
        a + b * max(1.0, a / capacity),
        b + a * max(1.0, b / capacity),
        a * max(1.0, row["n"] / side) + b * max(1.0, row["m"] / side),
    )
    return batch * (min(ways) - (a + b))


def fragment_bytes(row, accelerator) -> float:
    """What the units of a product read from their private memory, a fragment of the result at a time."""
    matrix = accelerator.matrix
    rows = matrix.tile_m if matrix.fragment_m is None else matrix.fragment_m
    columns = matrix.tile_n if matrix.fragment_n is None else matrix.fragment_n
    first = first_operand_bytes(row) * max(1.0, row["n"] / columns)
    second = (padded_weight_bytes(row, accelerator) + second_operand_bytes(row)) * max(1.0, row["m"] / rows)
    return first + second + other_bytes(row)


def level_bytes(row, rows, accelerator, j: int, found) -> float:
    """Bytes one run moves at level j; `found` is the way taken to cut a product."""
    levels = list(accelerator.memory.values())
    shared = shared_level(accelerator)
    if j <= shared and not is_product(row):
        return fetched_weight_bytes(row, rows, accelerator, 0) + stream_bytes(row)
    if j < shared:
        return fragment_bytes(row, accelerator)
    if j == shared:
        return found["shared_bytes"]
    moved = row["input_bytes"] + row["output_bytes"]
    written_for_training = min(row["saved_bytes"], moved) if trains(rows) else 0.0
    total = (
        fetched_weight_bytes(row, rows, accelerator, j)
        + max(moved * missing_activations(row, rows, accelerator, j), written_for_training)
        + row["state_bytes"] * missing_state(row, rows, accelerator, j)
        + row["cache_bytes"]
    )
    if is_product(row):
        total += reread_bytes(row, accelerator, levels[j - 1].capacity_bytes)
    return total


# -- bounds and time -------------------------------------------------------------------------------


def vector_s(row, accelerator) -> float:
    vector = accelerator.vector
    return row["vector_flops"] / (vector.count * vector.clock_hz * vector.flops_per_cycle * vector.sustained)


def special_s(row, accelerator) -> float:
    vector = accelerator.vector
    return row["special_ops"] / (vector.count * vector.clock_hz * vector.special_per_cycle * vector.sustained)


def link_s(row, accelerator) -> float:
    if row["kind"] != "collective":
        return 0.0
    return row["input_bytes"] / accelerator.link.bandwidth_bytes_per_s + accelerator.link.latency_s


def latency_s(row, rows, accelerator) -> float:
    """Fixed cost of one run."""
    last = list(accelerator.memory.values())[-1]
    launch, steps = accelerator.latency.launch_s, row["serial_steps"]
    if is_scan(row, rows):
        waiting_s = accelerator.vector.dependent_cycles / accelerator.vector.clock_hz
        return (launch + last.latency_s) / steps + waiting_s
    if accelerator.abilities.persistent_recurrence and steps > 1:
        launch = launch / steps
    if steps == 1:
        return launch + last.latency_s
    slow_steps = min(steps, accelerator.latency.first_steps)
    first_s = accelerator.latency.first_steps_s * slow_steps / steps  # its share of each run
    return launch + last.latency_s + accelerator.latency.step_s + first_s


def op_cost(row, rows, accelerator, like=None) -> dict:
    """Everything about one run of one op: bytes, bounds, the binding one, time, residence of weights.

    `like` settles ties, see `product`.
    """
    levels = accelerator.memory
    found = {"matrix_s": 0.0, "feed_s": 0.0, "busy_s": 0.0, "least_shared_bytes": None}
    if is_product(row):
        found = product(row, rows, accelerator, like)
    traffic = {name: level_bytes(row, rows, accelerator, j, found) for j, name in enumerate(levels)}
    computing = {
        "matrix": found["matrix_s"],
        "feed": found["feed_s"],
        "vector": vector_s(row, accelerator),
        "special": special_s(row, accelerator),
    }
    moving = {name: traffic[name] / (level.bandwidth_bytes_per_s * level.sustained) for name, level in levels.items()}
    if accelerator.link is not None:
        moving["link"] = link_s(row, accelerator)
    fixed = latency_s(row, rows, accelerator)
    bounds = computing | moving | {"latency": fixed}
    near = list(levels)[: shared_level(accelerator) + 1]
    on_chip = max(*computing.values(), *(moving[name] for name in near))
    off_chip = max((moving[name] for name in moving if name not in near), default=0.0)
    busy = bounds | {"matrix": found["busy_s"]}
    if found["least_shared_bytes"] is not None:
        shared = levels[near[-1]]
        busy[near[-1]] = found["least_shared_bytes"] / (shared.bandwidth_bytes_per_s * shared.sustained)
    resident = math.nan
    if row["serial_steps"] > 1 and row["weight_bytes"] > 0:
        resident = 1.0 - missing_weights(row, rows, accelerator, len(levels) - 1)
        resident = 1.0 if is_scan(row, rows) else resident
    return {
        "traffic_bytes": traffic,
        "bounds_s": bounds,
        "busy_s": {name: busy[name] for name in busy if name not in ("feed", "latency")},
        "time_s": max(on_chip, off_chip) + (1.0 - accelerator.abilities.overlap) * min(on_chip, off_chip) + fixed,
        "bound": max(bounds, key=bounds.get),  # the first of equals
        "resident": resident,
    }


def costed_rows(trace, accelerator) -> list[dict]:
    """The rows the accelerator runs: elementwise work merged into products where it can fuse."""
    return (trace.fused if accelerator.abilities.fuses_elementwise else trace).rows()


def op_costs(trace, accelerator, like=None) -> list[dict]:
    """`op_cost` of every row; `like` has one (matrix_s, shared_bytes) a row."""
    rows = costed_rows(trace, accelerator)
    like = [None] * len(rows) if like is None else like
    costs = [op_cost(row, rows, accelerator, taken) for row, taken in zip(rows, like, strict=True)]
    return costs if accelerator.in_memory is None else placed(rows, costs, accelerator)


# -- compute in memory -----------------------------------------------------------------------------


def may_run_in_memory(row, accelerator) -> bool:
    """A forward product with stored weights or, where the units do that, with cached keys and values."""
    if row["phase"] not in ("forward", "recompute") or row["dtype"] not in accelerator.in_memory.macs_per_s:
        return False
    if row["weight_bytes"] > 0:
        return row["kind"] == "matmul"
    cached = row["kind"] in ("matmul", "attention") and row["cache_bytes"] > 0
    return cached and accelerator.in_memory.multiplies_cache


def stored_bytes(row) -> float:
    """All matrices a row needs in memory: its weight sets, or its caches."""
    if row["weight_bytes"] > 0:
        return row["weight_bytes"] * row["weight_sets"]
    return row["cache_bytes"] * row["repeats"] / row["serial_steps"]


def operand_bytes(row) -> tuple[float, float]:
    """Vectors sent into the memory and results read from it, one copy; attention stops for the softmax between."""
    batch, m, n, k, size = row["batch"], row["m"], row["n"], row["k"], activation_size(row)
    if row["kind"] == "attention":
        scores = batch * m * k
        return (batch * m * n / 2 + scores) * size, (batch * m * n / 2 + scores) * size
    return batch * m * k * size, batch * m * n * size


def in_memory_cost(row, rows, accelerator, host) -> dict:
    """The cost of one run beside the banks."""
    units = accelerator.in_memory
    levels = list(accelerator.memory)
    name = levels[-1] if units.level is None else units.level
    place, level = levels.index(name), accelerator.memory[name]
    passes = math.ceil(row["m"] / units.vectors_per_pass)
    read = passes * (row["weight_bytes"] or row["cache_bytes"])
    vectors, results = operand_bytes(row)
    copies = max(1.0, units.input_copies / row["batch"])  # the matrices of a batch share the memory among them
    crossing = vectors * copies + results * units.result_copies
    streamed = row["input_bytes"] + row["output_bytes"]
    kept = min(row["saved_bytes"], streamed) if trains(rows) else 0.0
    other = max(streamed * missing_activations(row, rows, accelerator, place), kept)
    other += row["state_bytes"] * missing_state(row, rows, accelerator, place)
    traffic, bounds = dict(host["traffic_bytes"]), dict(host["bounds_s"])
    for nearer in levels[:place]:
        traffic[nearer] = max(streamed + row["state_bytes"], vectors + results)
        near = accelerator.memory[nearer]
        bounds[nearer] = traffic[nearer] / (near.bandwidth_bytes_per_s * near.sustained)
    traffic[name] = crossing + other
    rate = level.bandwidth_bytes_per_s * level.sustained
    transfer = rate if units.transfer_bytes_per_s is None else min(rate, units.transfer_bytes_per_s)
    bounds[name] = crossing / transfer + other / rate
    bounds["matrix"] = bounds["feed"] = 0.0
    reading = read / (units.bandwidth_bytes_per_s * units.sustained)
    fixed = bounds.pop("latency") + units.command_s
    bounds["in_memory"] = max(reading, row["matrix_flops"] / 2 / units.macs_per_s[row["dtype"]])
    bounds["latency"] = fixed
    beyond = [*levels[shared_level(accelerator) + 1 :], "link", "in_memory"]
    off_chip = max(seconds for bound, seconds in bounds.items() if bound in beyond)
    on_chip = max(seconds for bound, seconds in bounds.items() if bound not in beyond and bound != "latency")
    hidden = accelerator.abilities.overlap * min(on_chip, off_chip)
    return {
        "traffic_bytes": traffic,
        "bounds_s": bounds,
        "busy_s": {bound: seconds for bound, seconds in bounds.items() if bound not in ("feed", "latency")},
        "time_s": on_chip + off_chip - hidden + fixed,
        "bound": max(bounds, key=bounds.get),
        "resident": math.nan if math.isnan(host["resident"]) else 0.0,
        "inside_bytes": read,
        "placement": "memory",
    }


def placed(rows, costs, accelerator) -> list[dict]:
    """Every row where it takes least time, the thinnest products first while the memory has room."""
    levels = list(accelerator.memory)
    units = accelerator.in_memory
    room = units.capacity_bytes
    if room is None:
        room = accelerator.memory[levels[-1] if units.level is None else units.level].capacity_bytes
    hosts = []
    for cost in costs:
        bounds = dict(cost["bounds_s"])
        fixed = bounds.pop("latency")
        bounds = bounds | {"in_memory": 0.0, "latency": fixed}
        busy = cost["busy_s"] | {"in_memory": 0.0}
        hosts.append(cost | {"bounds_s": bounds, "busy_s": busy, "inside_bytes": 0.0, "placement": "host"})
    chosen = list(hosts)
    for i in sorted(range(len(rows)), key=lambda i: rows[i]["m"]):
        if not may_run_in_memory(rows[i], accelerator):
            continue
        room -= stored_bytes(rows[i])
        there = in_memory_cost(rows[i], rows, accelerator, costs[i])
        if room >= 0 and there["time_s"] < hosts[i]["time_s"]:
            chosen[i] = there
    if overlaps(rows, accelerator):
        for members in dependency_levels(rows):
            if level_s(members, rows, chosen, accelerator) > level_s(members, rows, hosts, accelerator):
                for i in members:
                    chosen[i] = hosts[i]
    return chosen


def overlaps(rows, accelerator) -> bool:
    """Whether any runs may go on side by side."""
    in_series = all(len(members) == 1 for members in dependency_levels(rows))
    in_series = in_series and all(row["path_runs"] == row["repeats"] for row in rows)
    return not in_series and accelerator.abilities.concurrent_ops > 1


# -- the whole -------------------------------------------------------------------------------------


def dependency_levels(rows) -> list[list[int]]:
    """Row numbers by depth: no row waits for another of its own level."""
    depth = []
    for row in rows:
        depth.append(1 + max((depth[w] for w in row["after"]), default=-1))
    return [[i for i, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]


def level_s(members, rows, costs, accelerator) -> float:
    """Time of rows that do not wait for each other: the longest path, the busiest resource, the queue."""
    longest = max(rows[i]["path_runs"] * costs[i]["time_s"] for i in members)
    queue = sum(rows[i]["repeats"] * costs[i]["time_s"] for i in members) / accelerator.abilities.concurrent_ops
    resources = costs[members[0]]["busy_s"]
    busy = [sum(rows[i]["repeats"] * costs[i]["busy_s"][name] for i in members) for name in resources]
    return max(longest, queue, *busy)


def totals(trace, accelerator, costs=None) -> dict:
    """Serial time, critical path and latency of one execution of the trace. [s]"""
    rows = costed_rows(trace, accelerator)
    costs = op_costs(trace, accelerator) if costs is None else costs
    serial = sum(row["repeats"] * cost["time_s"] for row, cost in zip(rows, costs, strict=True))
    levels = dependency_levels(rows)
    path = sum(max(rows[i]["path_runs"] * costs[i]["time_s"] for i in members) for members in levels)
    if not overlaps(rows, accelerator):
        latency = serial
    else:
        latency = sum(level_s(members, rows, costs, accelerator) for members in levels)
    return {"serial_s": serial, "critical_path_s": path, "latency_s": latency}
