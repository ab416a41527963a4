"""The laws every simulation obeys, over thousands of random traces and accelerators, seed fixed.

Each example is drawn from a seeded generator, so that a failure names its seed: `case(seed)` makes it again.
Hardware laws compare a design with better ones in one call: design 0 is the chip, every other has one field improved.
"""

from __future__ import annotations

import random
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import strategies
from hypothesis import HealthCheck, given, settings

from simulator import Accelerator, preset, presets, simulate
from workloads import Trace, copy, elementwise, linear
from workloads.blocks import element_types
from workloads.trace import ELEMENT_BYTES

#: Rounding of sums and ties between tilings; nothing else may come between two sides of a law.
EXACT = 1e-12
TOTALS = ("serial_s", "critical_path_s", "latency_s")


def laws(examples: int):
    """Hypothesis settings: so many examples, always the same."""
    calm = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=calm)


seeds = st.integers(0, 2**32 - 1)


def case(seed: int, fuses: bool | None = None, **trace_options) -> tuple[random.Random, Trace, Accelerator]:
    """The random trace and accelerator of a seed, and the generator to draw more from.

    Without fusion (`fuses` False) the rows of a result are the rows of the trace."""
    rng = random.Random(seed)
    return rng, strategies.random_trace(rng, **trace_options), strategies.random_accelerator(rng, fuses=fuses)


def fusing(chip: Accelerator) -> Accelerator:
    """The same chip with fusion."""
    return chip.replace({"abilities.fuses_elementwise": True})


def one_at_a_time(chip: Accelerator, changes: dict[str, list[float]]) -> tuple[Accelerator, list[str]]:
    """A design space, and labels: design 0 is the chip, each other one has one field changed."""
    labels = ["as it is"] + [f"{path} = {value!r}" for path, values in changes.items() for value in values]
    columns, design = {}, 1
    for path, values in changes.items():
        column = np.full(len(labels), float(chip.fields[path]))
        column[design : design + len(values)] = values
        columns[path], design = column, design + len(values)
    return chip.replace(columns), labels


def assert_none_slower(result, labels) -> None:
    """No design is slower than design 0, in any row or total."""
    for name in ("time_s", *TOTALS):
        value = getattr(result, name)
        slower = value > value[:1] * (1 + EXACT)
        assert not slower.any(), f"{name}: {labels[np.argwhere(slower)[0][0]]} is slower"


# -- hardware: better is never slower ------------------------------------------------------------------

BETTER = {
    "bandwidth": lambda path: path.endswith(".bandwidth_bytes_per_s"),
    "capacity": lambda path: path.endswith(".capacity_bytes"),
    "peak": lambda path: "macs_per_cycle" in path or path in ("vector.flops_per_cycle", "vector.special_per_cycle"),
    "clock": lambda path: path.endswith(".clock_hz"),
    "units": lambda path: path in ("matrix.count", "vector.count"),
    "feeding": lambda path: (
        path.removeprefix("matrix.") in ("feed_bytes_per_cycle", "max_split", "resident_results", "reach_bytes")
    ),
    "concurrency": lambda path: path == "abilities.concurrent_ops",
}
LOWER = {
    "latency": lambda path: path.endswith("_s") and (path.startswith("latency.") or path.endswith(".latency_s")),
    "cycles": lambda path: path.endswith(("_cycles", "cycles_per_byte", "operand_macs", "reach_cost")),
}
SHARES = ("sustained", "overlap")
WHOLE = ("matrix.count", "vector.count", "matrix.max_split")


def chosen(chip: Accelerator, wanted) -> list[str]:
    found = [path for path, value in chip.fields.items() if isinstance(value, float) and wanted(path)]
    assert found
    return found


def grown(value: float, path: str) -> list[float]:
    """A little more, more and much more of it."""
    if path in WHOLE:
        return [value + 1, 2 * value, 7 * value]
    return [1.001 * value, 1.7 * value, 40 * value]


@pytest.mark.parametrize("group", BETTER)
@laws(200)
@given(seed=seeds)
def test_more_hardware_is_never_slower(group, seed):
    _, trace, chip = case(seed)
    space, labels = one_at_a_time(chip, {path: grown(chip.fields[path], path) for path in chosen(chip, BETTER[group])})
    assert_none_slower(simulate(trace, space), labels)


@pytest.mark.parametrize("group", LOWER)
@laws(150)
@given(seed=seeds)
def test_lower_latency_is_never_slower(group, seed):
    _, trace, chip = case(seed)
    changes = {path: [0.999 * chip.fields[path], 0.3 * chip.fields[path], 0.0] for path in chosen(chip, LOWER[group])}
    space, labels = one_at_a_time(chip, changes)
    assert_none_slower(simulate(trace, space), labels)


@laws(150)
@given(seed=seeds)
def test_a_larger_sustained_share_or_overlap_is_never_slower(seed):
    _, trace, chip = case(seed)
    paths = chosen(chip, lambda path: path.endswith(SHARES))
    changes = {path: [(1 + 2 * chip.fields[path]) / 3, 1.0] for path in paths}
    space, labels = one_at_a_time(chip, changes)
    assert_none_slower(simulate(trace, space), labels)


@laws(100)
@given(seed=seeds)
def test_launching_a_recurrence_once_is_never_slower(seed):
    _, trace, chip = case(seed)
    without, having = (
        simulate(trace, chip.replace({"abilities.persistent_recurrence": flag})) for flag in (False, True)
    )
    for name in ("time_s", *TOTALS):
        assert (getattr(having, name) <= np.multiply(getattr(without, name), 1 + EXACT)).all(), name


# -- work: more is never faster ------------------------------------------------------------------------

AMOUNTS = ("vector_flops", "special_ops", "weight_bytes", "input_bytes", "output_bytes", "state_bytes", "cache_bytes")


@laws(200)
@given(seed=seeds)
def test_more_bytes_or_work_in_a_row_is_never_faster(seed):
    rng, trace, chip = case(seed, fuses=False)
    before = simulate(trace, chip)
    for _ in range(4):
        row, column = rng.randrange(len(trace)), rng.choice(AMOUNTS)
        if column == "weight_bytes" and trace.is_product[row] and not trace.weight_bytes[row]:
            continue  # a product of two activations has no weights to grow
        values = trace.columns[column].copy()
        values[row] += rng.choice((1, 1000, 10**7, int(values[row])))
        after = simulate(trace.replace(**{column: values}), chip)
        for name in ("time_s", *TOTALS):
            faster = np.less(getattr(after, name), np.multiply(getattr(before, name), 1 - EXACT))
            assert not faster.any(), f"{name} falls when {column} of row {row} grows to {values[row]}"


def product(kind: str, batch: int, m: int, n: int, k: int, *, weighted: bool, half: bool, types: dict) -> dict:
    """A product with the bytes its sizes imply; `half`: a mask leaves half the work."""
    stored, kept = ELEMENT_BYTES[types["activation_dtype"]], ELEMENT_BYTES[types["weight_dtype"]]
    attends = kind == "attention"
    rows = batch * m * (n // 2 if attends else k) // (9 if kind == "convolution" else 1)
    return {
        "kind": kind,
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "matrix_flops": batch * m * n * k * (1 if half else 2),
        "vector_flops": 4 * batch * m * k if attends else 0,
        "weight_bytes": int(kept * batch * n * k) if weighted else 0,
        "input_bytes": int(stored * (rows + (0 if weighted else batch * n * k))),
        "output_bytes": int(stored * batch * m * (n // 2 if attends else n)),
    } | types


@laws(400)
@given(seed=seeds)
def test_a_product_with_a_larger_size_is_never_faster(seed):
    """batch, m, n or k grown by one, a little or a lot, its bytes with it; alone or as the step of a recurrence."""
    rng = random.Random(seed)
    chip = strategies.random_accelerator(rng, fuses=False)
    kind = rng.choice(("matmul", "matmul", "convolution", "attention"))
    # whole bytes an element: half a byte of int4 rounded up is no law of hardware
    stored = [dtype for dtype in strategies.STORED if ELEMENT_BYTES[dtype] >= 1]
    types = {"dtype": rng.choice(strategies.DTYPES)}
    types |= {"weight_dtype": rng.choice(stored), "activation_dtype": rng.choice(stored)}
    shape = {"weighted": kind != "attention" and rng.random() < 0.7, "half": rng.random() < 0.3, "types": types}
    steps = rng.choice((1, 1, 50))
    sizes = {"batch": strategies.size(rng, 1, 64), **{side: strategies.size(rng, 1, 3000) for side in "mnk"}}
    sizes["n"] += sizes["n"] % 2  # attention: queries and values of equal size
    variants = [("", sizes)]
    for name, value in sizes.items():
        for factor in (1.0, 1.1, 2, 7):
            more = (
                max(value + 2, 2 * round(value * factor / 2)) if name == "n" else max(value + 1, round(value * factor))
            )
            variants.append((f"{name} = {more}", sizes | {name: more}))
    rows = [
        product(kind, **sizes, **shape)
        | {"layer": f"variant {number}", "op": label or "base", "repeats": steps, "serial_steps": steps}
        for number, (label, sizes) in enumerate(variants)
    ]
    time = simulate(Trace.from_rows(rows), chip).time_s
    for (label, _), grown_s in zip(variants, time, strict=True):
        assert grown_s >= time[0] * (1 - EXACT), f"faster with {label} than with {sizes}"


@pytest.mark.parametrize("name", presets())
def test_no_size_at_which_more_is_quicker(name):
    """Fine steps over six decades, 9.9 MB and 10 MB among them: no efficiency table with a step in it."""
    chip = preset(name).replace({"abilities.fuses_elementwise": False})
    dtype = chip.dtypes[0]
    elements = np.unique(
        np.concatenate([np.geomspace(1e3, 1e9, 400), np.arange(4.5e6, 11e6, 5e4)]).astype(int)
    ).tolist()
    sides = np.unique(np.concatenate([np.arange(1, 130), np.geomspace(130, 8000, 100)]).astype(int)).tolist()
    for trace in (
        _rows([copy.row(e, types=_types(dtype)) for e in elements]),
        _rows([elementwise.row(e, "gelu", types=_types(dtype)) for e in elements]),
        _rows([linear.row(s, 512, 512, types=_types(dtype)) for s in sides]),
        _rows([linear.row(32, s, 512, types=_types(dtype)) for s in sides]),
        _rows([linear.row(32, 512, s, types=_types(dtype)) for s in sides]),
        _rows([linear.row(s, s, s, types=_types(dtype)) for s in sides]),
    ):
        time = simulate(trace, chip).time_s
        assert (np.diff(time) >= -EXACT * time[:-1]).all(), f"{trace.op[0]}: larger and quicker"


def _rows(rows: list[dict]) -> Trace:
    return Trace.from_rows([{"op": "product"} | row | {"layer": f"{number}"} for number, row in enumerate(rows)])


def _types(dtype: str):
    return element_types("test", dtype, None, None)


# -- bounds and shares ---------------------------------------------------------------------------------


@laws(300)
@given(seed=seeds)
def test_bounds_shares_and_totals(seed):
    """Time above every bound and zero, shares of the roof within 0..1, parts that add up to the whole."""
    _, trace, chip = case(seed)
    result = simulate(trace, chip)
    time = result.time_s
    assert (time > 0).all(), "a row costs nothing"
    assert np.isfinite(time).all()
    for name, bound in result.bounds_s.items():
        assert (bound >= 0).all(), name
        assert (time >= bound * (1 - EXACT)).all(), name
    assert (time <= sum(result.bounds_s.values()) * (1 + EXACT)).all()
    largest = np.max(list(result.bounds_s.values()), axis=0)
    set_by = [result.bounds_s[name][row] for row, name in enumerate(result.bound)]
    np.testing.assert_array_equal(set_by, largest)

    assert ((result.op_utilisation >= 0) & (result.op_utilisation <= 1 + EXACT)).all()
    assert ((result.roof_fraction > 0) & (result.roof_fraction <= 1 + EXACT)).all()
    assert 0 <= result.utilisation <= 1 + EXACT
    assert (result.utilisation > 0) == bool(result.trace.is_product.any())
    resident = result.resident[~np.isnan(result.resident)]
    assert ((resident >= 0) & (resident <= 1)).all()

    assert result.serial_s == pytest.approx(float((time * result.trace.repeats).sum()), rel=EXACT)
    assert result.critical_path_s * (1 - EXACT) <= result.latency_s <= result.serial_s * (1 + EXACT)
    for shares in (result.time_share_by_bound(), result.time_share_by_layer()):
        assert sum(shares.values()) == pytest.approx(1.0, rel=EXACT)
        assert all(0 < share <= 1 + EXACT for share in shares.values())
    assert set(result.time_share_by_bound()) == set(result.bound.tolist())


@laws(150)
@given(seed=seeds)
def test_the_nearest_memory_carries_every_byte(seed):
    """No level nearer than the shared one is skipped, and what is neither product nor recurrent passes there once."""
    _, trace, chip = case(seed, fuses=False)
    result = simulate(trace, chip)
    nearest = result.traffic_bytes[next(iter(chip.memory))]
    plain = ~trace.is_product
    np.testing.assert_allclose(nearest[plain], trace.bytes[plain], rtol=EXACT)
    # a product reads its operands at least once and writes its result
    products = trace.is_product
    assert (nearest[products] >= trace.bytes[products] * (1 - EXACT)).all()


@laws(100)
@given(seed=seeds)
def test_ratios_follow_from_the_parts(seed):
    _, trace, chip = case(seed)
    result = simulate(trace, chip)
    flops, time = result.flops, result.time_s
    np.testing.assert_allclose(result.attained_flops_per_s, flops / time, rtol=EXACT)
    assert result.attained == pytest.approx((flops * result.trace.repeats).sum() / result.latency_s, rel=EXACT)
    assert result.sequences_per_s == pytest.approx(trace.sequences / result.latency_s, rel=EXACT)
    assert result.tokens_per_s == pytest.approx(trace.sequences * trace.tokens / result.latency_s, rel=EXACT)
    for level, moved in result.traffic_bytes.items():
        moves = moved > 0
        np.testing.assert_allclose(result.intensity[level][moves] * moved[moves], flops[moves], rtol=EXACT)


# -- a copy --------------------------------------------------------------------------------------------


def kept_bytes(chip: Accelerator) -> float:
    """The most activations that stay nearer than the farthest memory."""
    return max(
        (level.capacity_bytes for level in list(chip.memory.values())[:-1] if level.keeps_activations), default=0
    )


@laws(200)
@given(seed=seeds, elements=st.integers(1, 10**8))
def test_a_copy_costs_its_bytes(seed, elements):
    """No operation, but every byte is read and written: at the nearest level, and at the farthest what is not kept."""
    chip = strategies.random_accelerator(random.Random(seed))
    result = simulate(copy(elements, dtype="fp16"), chip)
    moved = 4.0 * elements  # read and written, two bytes each
    levels = list(chip.memory.values())
    kept = kept_bytes(chip)
    expected = [level.bandwidth_bytes_per_s * level.sustained for level in levels]
    near_s, far_s = moved / expected[0], max(0.0, moved - kept) / expected[-1]
    fixed_s = chip.latency.launch_s + levels[-1].latency_s
    assert result.time_s[0] >= max(near_s, far_s) * (1 - EXACT) + fixed_s
    assert result.time_s[0] <= sum(moved / rate for rate in expected) * (1 + EXACT) + fixed_s
    assert result.flops[0] == 0
    if len(levels) == 1:
        assert result.time_s[0] == pytest.approx(near_s + fixed_s, rel=EXACT)


# -- splitting, concatenating, scaling -----------------------------------------------------------------


@laws(150)
@given(seed=seeds)
def test_halving_an_op_adds_no_work_and_saves_no_time(seed):
    """Two independent halves have the operations and bytes of the whole, and take no less time one after another.

    Halves of a batch, so that each product is cut as before. No level keeps activations here: half an op may fit
    where the whole does not, and then it does save time.
    """
    rng = random.Random(seed)
    chip = strategies.random_accelerator(rng, fuses=False)
    chip = chip.replace({f"memory.{level}.keeps_activations": False for level in chip.memory})
    dtype = rng.choice(strategies.DTYPES)
    sides = {side: strategies.size(rng, 1, 2000) for side in "mnk"}
    batch, elements = strategies.size(rng, 2, 40), strategies.size(rng, 1, 10**7)  # a lone product may be split
    weighted = rng.random() < 0.5
    types = {"dtype": dtype, "weight_dtype": dtype, "activation_dtype": dtype}
    settings = {"weighted": weighted, "half": False, "types": types}
    for whole, half in (
        (product("matmul", 2 * batch, **sides, **settings), product("matmul", batch, **sides, **settings)),
        (
            elementwise.row(2 * elements, "gelu", types=_types(dtype)),
            elementwise.row(elements, "gelu", types=_types(dtype)),
        ),
        (copy.row(2 * elements, types=_types(dtype)), copy.row(elements, types=_types(dtype))),
    ):
        together, halves = _rows([whole]), _rows([half, half])
        assert halves.total_flops == together.total_flops
        assert halves.total_bytes == together.total_bytes
        one, two = simulate(together, chip), simulate(halves, chip)
        assert two.serial_s >= one.serial_s * (1 - EXACT)
        for level in chip.memory:
            moved, apart = one.traffic_bytes[level].sum(), two.traffic_bytes[level].sum()
            assert apart >= moved * (1 - EXACT) or together.is_product[0]


@laws(120)
@given(seed=seeds)
def test_splitting_vector_work_costs_only_what_each_start_costs(seed):
    rng = random.Random(seed)
    chip = strategies.random_accelerator(rng)
    chip = chip.replace({f"memory.{level}.keeps_activations": False for level in chip.memory})
    part, rest = (strategies.size(rng, 1, 10**7) for _ in range(2))
    function = rng.choice(("relu", "gelu", "softmax", "residual add"))
    whole = simulate(elementwise(part + rest, function), chip)
    split = simulate(elementwise(part, function) + elementwise(rest, function), chip)
    fixed_s = chip.latency.launch_s + chip.outer.latency_s
    assert split.serial_s == pytest.approx(whole.serial_s + fixed_s, rel=EXACT)


@laws(150)
@given(seed=seeds)
def test_one_network_after_another_takes_the_sum(seed):
    rng, first, chip = case(seed, fuses=False, training=False)
    second = strategies.random_trace(rng, training=False)
    second = second.replace(layer=[f"second {layer}" for layer in second.layer.tolist()])
    parts = simulate(first, chip), simulate(second, chip)
    joined = simulate(first + second, chip)
    assert joined.serial_s == pytest.approx(sum(part.serial_s for part in parts), rel=EXACT)
    assert joined.critical_path_s == pytest.approx(sum(part.critical_path_s for part in parts), rel=EXACT)
    assert joined.latency_s == pytest.approx(sum(part.latency_s for part in parts), rel=EXACT)


@laws(120)
@given(seed=seeds, count=st.integers(1, 96))
def test_identical_layers_take_their_number_of_times(seed, count):
    _, trace, chip = case(seed, training=False)
    once, many = simulate(trace, chip), simulate(trace * count, chip)
    np.testing.assert_allclose(many.time_s, once.time_s, rtol=EXACT)
    for name in TOTALS:
        assert getattr(many, name) == pytest.approx(count * getattr(once, name), rel=EXACT), name
    np.testing.assert_array_equal(many.bound, once.bound)


@laws(120)
@given(seed=seeds, count=st.integers(2, 8))
def test_independent_copies_take_between_one_and_all_of_them(seed, count):
    _, trace, chip = case(seed, training=False)
    once, many = simulate(trace, chip), simulate(trace.scaled(count, parallel=True), chip)
    assert many.serial_s >= count * once.serial_s * (1 - EXACT)
    assert many.latency_s >= once.latency_s * (1 - EXACT)
    assert many.latency_s <= many.serial_s * (1 + EXACT)


# -- fusion --------------------------------------------------------------------------------------------


@laws(250)
@given(seed=seeds)
def test_fusing_is_never_slower(seed):
    """The same chip with and without fusion: one run of what was merged takes no longer than its parts did."""
    _, trace, chip = case(seed, fuses=False)
    apart, merged = simulate(trace, chip), simulate(trace, fusing(chip))
    assert merged.serial_s <= apart.serial_s * (1 + EXACT)


@laws(200)
@given(seed=seeds)
def test_fusing_a_residual_add_moves_no_more_bytes(seed):
    """The second operand of the add joins the streams of the product. Where memory keeps activations they must fit it
    together: two ops of which each fits may move less than one that does not."""
    rng = random.Random(seed)
    chip = strategies.random_accelerator(rng, fuses=False)
    m, n, k = (strategies.size(rng, 1, 4000) for _ in range(3))
    dtype = rng.choice(strategies.DTYPES)
    function = rng.choice(("residual add", "relu", "gelu"))
    trace = linear(m, n, k, dtype=dtype) + elementwise(m * n, function, dtype=dtype)
    apart, merged = simulate(trace, chip), simulate(trace, fusing(chip))
    assert len(merged.trace) == 1
    streams = int(merged.trace.input_bytes[0] + merged.trace.output_bytes[0])
    kept = kept_bytes(chip)
    if kept and streams > kept:
        return
    assert merged.serial_s <= apart.serial_s * (1 + EXACT)
    for level in list(chip.memory)[:: max(1, len(chip.memory) - 1)]:  # the nearest and the farthest
        moved, before = merged.traffic_bytes[level].sum(), apart.traffic_bytes[level].sum()
        assert moved <= before * (1 + EXACT), f"fusion moves more bytes at {level}"


# -- batches of designs --------------------------------------------------------------------------------


def outputs(result) -> dict[str, np.ndarray]:
    """Every array of a result by name."""
    found = {name: np.asarray(getattr(result, name)) for name in ("time_s", "bound", "resident", *TOTALS)}
    found |= {f"bound {name}": value for name, value in result.bounds_s.items()}
    found |= {f"bytes {name}": value for name, value in result.traffic_bytes.items()}
    found |= {name: np.asarray(getattr(result, name)) for name in ("utilisation", "roof_fraction", "op_utilisation")}
    return found


@laws(100)
@given(seed=seeds)
def test_a_design_alone_equals_the_design_in_a_batch(seed):
    rng = random.Random(seed)
    shape = rng.choice(((1,), (2,), (5,), (3, 2)))
    trace, space = strategies.random_trace(rng), strategies.random_space(rng, shape)
    batch = simulate(trace, space)
    assert batch.time_s.shape == (*shape, len(batch.trace))
    index = tuple(rng.randrange(side) for side in shape)
    for name, value in outputs(simulate(trace, space.design(index))).items():
        np.testing.assert_array_equal(outputs(batch)[name][index], value, err_msg=name)
    for name, value in outputs(batch.design(index)).items():
        np.testing.assert_array_equal(outputs(batch)[name][index], value, err_msg=f"design(): {name}")


@laws(60)
@given(seed=seeds)
def test_chunked_equals_whole(seed):
    """However many designs are evaluated at a time."""
    rng = random.Random(seed)
    trace, space = strategies.random_trace(rng), strategies.random_space(rng, (rng.choice((3, 7, 20)),))
    whole = outputs(simulate(trace, space))
    with pytest.MonkeyPatch.context() as patch:
        # by name: the package's own `simulate` is the function
        patch.setattr(sys.modules["simulator.simulate"], "CHUNK_ELEMENTS", 1)
        chunked = outputs(simulate(trace, space))
    for name, value in whole.items():
        np.testing.assert_array_equal(chunked[name], value, err_msg=name)


@laws(60)
@given(seed=seeds)
def test_the_order_of_designs_does_not_matter(seed):
    rng = random.Random(seed)
    trace, space = strategies.random_trace(rng), strategies.random_space(rng, (6,), fields=3)
    arrays = {path: np.broadcast_to(v, (6,)) for path, v in space.fields.items() if isinstance(v, np.ndarray)}
    backwards = space.replace({path: value[::-1] for path, value in arrays.items()})
    there, back = outputs(simulate(trace, space)), outputs(simulate(trace, backwards))
    for name, value in there.items():
        np.testing.assert_array_equal(back[name][::-1], value, err_msg=name)


@laws(50)
@given(seed=seeds)
def test_simulating_twice_gives_the_same(seed):
    _, trace, chip = case(seed)
    again = Trace.from_rows(trace.rows(), trace.name, trace.sequences, trace.tokens)
    first, second = outputs(simulate(trace, chip)), outputs(simulate(again, chip))
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
