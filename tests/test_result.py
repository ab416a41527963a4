"""The result: shapes, totals, tables, and the promises of its docstrings."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
from conftest import CLOSED_FORM
from strategies import random_case, random_space, random_trace

from simulator import AcceleratorError, simulate
from workloads import Trace

NS = 1e-9
#: Times of the four ops on the blocked chip, worked out in test_simulate.py.
TIME_S = np.array([1243.2, 1210.0, 1216.3, 1116.0]) * NS
LATENCY_S = 21769.6 * NS


def near(expected):
    return pytest.approx(expected, rel=CLOSED_FORM, abs=0)


@pytest.fixture
def result(trace, blocked):
    return simulate(trace, blocked)


@pytest.fixture
def space(trace, blocked):
    """Three numbers of units down, two bandwidths across."""
    return simulate(trace, blocked.grid({"matrix.count": [1, 2, 4], "memory.dram.bandwidth": [1e8, 1e10]}))


# -- per op ----------------------------------------------------------------------------------------


def test_time_of_all_runs(result):
    assert result.total_s == near(TIME_S * [1, 8, 8, 1])
    assert result.total_s.sum() == near(result.serial_s)


def test_operations_are_matrix_work_of_products_and_the_rest_of_others(result):
    assert result.flops.tolist() == [8192, 512, 192 + 80, 512 + 128]
    assert result.matrix_flops.tolist() == [8192, 512, 0, 0]


def test_intensity_is_operations_over_bytes_at_each_level(result):
    assert result.intensity["l1"] == near(np.array([8192 / 5120, 512 / 384, 272 / 352, 640 / 512]))
    assert result.intensity["dram"] == near(np.array([8192 / 1432, 512 / 84, 272 / 163, 640 / 152]))


def test_intensity_is_infinite_where_nothing_moves(trace, blocked):
    """The softmax is read and written in 512 bytes of l2, nothing of it reaches dram."""
    roomy = simulate(trace, blocked.replace({"memory.l2.capacity": 1e5}))
    assert roomy.traffic_bytes["dram"][3] == 0
    assert roomy.intensity["dram"][3] == math.inf


def test_attained_rate(result):
    assert result.attained_flops_per_s == near(np.array([8192, 512, 272, 640]) / TIME_S)


def test_utilisation_of_the_unit_an_op_runs_on(result):
    """Products: 4 units of 16 MAC are 128 FLOP/ns. Others: 32 operations or 8 transcendentals a ns, the fuller one."""
    expected = np.array([8192 / 128, 512 / 128, max(192 / 32, 80 / 8), max(512 / 32, 128 / 8)]) * NS / TIME_S
    assert result.op_utilisation == near(expected)
    assert result.op_peak_flops_per_s == near([128e9, 128e9, 32e9, 32e9])


def test_fraction_of_the_plain_roof(result):
    """The roof's time: input product 1432 bytes of dram at 10 GB/s; recurrent product 84 of them; gates 163; softmax
    512 operations at 32 GFLOP/s."""
    assert result.roof_fraction == near(np.array([143.2, 8.4, 16.3, 16.0]) * NS / TIME_S)


def test_an_op_on_the_roof_has_fraction_one(flat):
    """1000 x 1 x 1 at one MAC a nanosecond, without fixed costs, in fp16 and half the memory time."""
    row = {"layer": "l", "op": "o", "kind": "matmul", "batch": 1, "m": 10, "n": 10, "k": 1000, "dtype": "fp16"}
    row |= {"matrix_flops": 200_000, "weight_bytes": 1, "input_bytes": 1, "output_bytes": 1}
    result = simulate(Trace.from_rows([row]), flat.replace({"memory.dram.bandwidth": 1e15}))
    assert result.time_s == near([100_000 * NS])
    assert result.roof_fraction == near([1.0])
    assert result.op_utilisation == near([1.0])
    assert result.utilisation == near(1.0)


def test_the_bound_is_the_largest_bound(space):
    stacked = np.stack(list(space.bounds_s.values()))
    assert (np.array(list(space.bounds_s))[stacked.argmax(axis=0)] == space.bound).all()
    assert set(space.bound.ravel().tolist()) == {"dram", "latency"}


def test_every_bound_is_reported_even_where_it_is_zero(result):
    assert list(result.bounds_s) == ["matrix", "feed", "vector", "special", "l1", "l2", "dram", "latency"]
    assert list(result.traffic_bytes) == ["l1", "l2", "dram"]
    for seconds in result.bounds_s.values():
        assert seconds.shape == (4,)


def test_resident_is_nan_outside_a_recurrence_and_without_weights(result):
    """Only the recurrent product has weights to keep: not the gates of the same loop."""
    assert np.isnan(result.resident).tolist() == [True, False, True, True]


@pytest.mark.parametrize("first", [0, 100])
def test_shares_of_random_cases_stay_between_0_and_1(first):
    for seed in range(first, first + 100):
        result = simulate(*random_case(random.Random(seed)))
        for name in ("op_utilisation", "roof_fraction", "utilisation"):
            share = np.asarray(getattr(result, name))
            assert (share >= 0).all(), (seed, name)
            assert (share <= 1 + CLOSED_FORM).all(), (seed, name)
        resident = result.resident[~np.isnan(result.resident)]
        assert ((resident >= 0) & (resident <= 1)).all(), seed
        for shares in (result.time_share_by_bound(), result.time_share_by_layer()):
            assert sum(shares.values()) == near(1.0), seed


# -- the whole network -----------------------------------------------------------------------------


def test_totals_by_hand(result):
    """Four sequences of eight tokens; 8192 + 8 (512 + 272) + 640 operations, 8192 + 8 512 of them at 128 FLOP/ns."""
    assert result.latency_s == near(LATENCY_S)
    assert result.sequences_per_s == near(4 / LATENCY_S)
    assert result.tokens_per_s == near(32 / LATENCY_S)
    assert result.attained == near(15104 / LATENCY_S)
    assert result.utilisation == near(12288 / 128e9 / LATENCY_S)
    # bytes of dram: 1432 + 8 (84 + 163) + 152
    assert result.network_intensity() == near(15104 / 3560)
    assert result.network_intensity("l1") == near(15104 / (5120 + 8 * (384 + 352) + 512))


def test_utilisation_counts_each_element_type_at_its_own_peak(blocked):
    """fp32 runs at half the rate of fp16: the same work needs twice the units' time."""
    row = {"layer": "l", "op": "o", "kind": "matmul", "batch": 1, "m": 64, "n": 64, "k": 64, "input_bytes": 1}
    row |= {"matrix_flops": 2 * 64**3}
    both = simulate(Trace.from_rows([row | {"dtype": "fp16"}, row | {"dtype": "fp32"}]), blocked)
    assert both.utilisation == near((2 * 64**3 / 128e9 + 2 * 64**3 / 64e9) / both.latency_s)


def test_utilisation_without_products_is_zero(blocked):
    row = {"layer": "l", "op": "copy", "kind": "copy", "input_bytes": 8}
    assert simulate(Trace.from_rows([row]), blocked).utilisation == 0.0


def test_an_unknown_level_is_refused_with_the_nearest(result):
    with pytest.raises(AcceleratorError, match=r"blocked: no memory level 'dramm' \(did you mean 'dram'\?\)"):
        result.network_intensity("dramm")


def test_time_by_bound_and_by_layer(trace, flat):
    """On the flat chip at 1.5 GB/s: 4096 and 256 MAC take longer than their bytes; of the gates 352 bytes take longer
    than 192 operations; of the softmax 512 operations longer than 512 bytes."""
    result = simulate(trace, flat.replace({"memory.dram.bandwidth": 1.5e9}))
    matrix, dram, vector = 4096 + 8 * 256, 8 * 352 / 1.5, 512
    total = matrix + dram + vector
    assert result.time_share_by_bound() == {
        "matrix": near(matrix / total),
        "vector": near(vector / total),
        "dram": near(dram / total),
    }
    assert result.time_share_by_layer() == {"lstm.0": near((matrix + dram) / total), "head": near(vector / total)}
    assert list(result.time_share_by_layer()) == ["lstm.0", "head"]


def test_the_critical_path_names_the_slowest_row_of_each_level(blocked):
    """Level 1 has three rows: the longest path is that of many runs in series, not that of most runs."""
    row = {"layer": "l", "kind": "copy", "input_bytes": 10}
    rows = [
        row | {"op": "start", "after": ()},
        row | {"op": "short", "after": (0,), "repeats": 2},
        row | {"op": "long", "after": (0,), "repeats": 3},
        row | {"op": "many at once", "after": (0,), "repeats": 100, "path_runs": 1},
        row | {"op": "end", "after": (1, 2, 3)},
    ]
    result = simulate(Trace.from_rows(rows), blocked)
    assert result.critical_path == ["l: start", "l: long", "l: end"]
    assert result.critical_path_s == near(5 * result.time_s[0])


def test_a_network_that_does_not_fit_is_a_warning_not_an_error(trace, blocked):
    """Weights 128 + 64 parameters of 2 bytes; the largest op works on 512 + 1024 bytes: 1920 in all."""
    fits = simulate(trace, blocked.replace({"memory.dram.capacity": 1920}))
    assert fits.fits is True
    assert fits.warnings == []
    assert fits.footprint["total"] == 1920
    small = simulate(trace, blocked.replace({"memory.dram.capacity": 1919}))
    assert small.fits is False
    assert len(small.warnings) == 1
    for part in ("does not fit", "tiny lstm", "1.92e-06 GB", "blocked"):
        assert part in small.warnings[0]
    assert "warning: does not fit" in repr(small)
    assert small.summary()["warnings"] == small.warnings
    assert small.latency_s == fits.latency_s


def test_the_warning_counts_the_designs_that_are_too_small(trace, blocked):
    some = simulate(trace, blocked.replace({"memory.dram.capacity": [1e3, 1.5e3, 1e6]}))
    assert some.fits.tolist() == [False, False, True]
    assert "2 of 3 designs" in some.warnings[0]
    assert simulate(trace, blocked.replace({"matrix.count": [1, 2]})).fits.tolist() == [True, True]


# -- tables ----------------------------------------------------------------------------------------


def test_the_frame_has_one_row_an_op_and_every_bound(result):
    frame = result.to_frame()
    levels = ("l1", "l2", "dram")
    assert frame.columns.tolist() == [
        *("layer", "op", "kind", "phase", "dtype", "repeats", "serial_steps"),
        *("time_s", "time_low_s", "time_high_s", "total_s", "time_share", "bound", "placement"),
        *(f"{name}_bound_s" for name in ("matrix", "feed", "vector", "special", *levels, "latency")),
        *("flops", "vector_flops", "special_ops"),
        *(f"{level}_bytes" for level in levels),
        *(f"{level}_intensity_flops_per_byte" for level in levels),
        *("attained_flops_per_s", "utilisation", "roof_fraction", "resident", "energy_j"),
    ]
    assert frame.op.tolist() == result.trace.op.tolist()
    assert frame.time_s.tolist() == result.time_s.tolist()
    assert frame.latency_bound_s.tolist() == result.bounds_s["latency"].tolist()
    assert frame.dram_bytes.tolist() == result.traffic_bytes["dram"].tolist()


def test_the_frame_adds_up(result):
    frame = result.to_frame()
    assert (frame.time_s * frame.repeats).tolist() == frame.total_s.tolist()
    assert frame.total_s.sum() == near(result.serial_s)
    assert frame.time_share.sum() == near(1.0)
    bounds = frame[[c for c in frame.columns if c.endswith("_bound_s")]]
    assert bounds.idxmax(axis=1).str.removesuffix("_bound_s").tolist() == frame.bound.tolist()
    assert (frame.time_s >= bounds.max(axis=1)).all()


def test_the_frame_shows_fused_rows(trace, systolic):
    assert simulate(trace, systolic).to_frame().op.tolist() == [
        "input product",
        "recurrent product + gates",
        "softmax",
    ]


def test_the_summary_is_plain_numbers(result):
    facts = result.summary()
    assert facts == {
        "network": "tiny lstm",
        "accelerator": "blocked",
        "latency_s": near(LATENCY_S),
        "latency_low_s": None,  # nothing was calibrated
        "latency_high_s": None,
        "sequences_per_s": near(4 / LATENCY_S),
        "tokens_per_s": near(32 / LATENCY_S),
        "utilisation": near(12288 / 128e9 / LATENCY_S),
        "attained_flops_per_s": near(15104 / LATENCY_S),
        "intensity_flops_per_byte": near(15104 / 3560),
        "bound": "latency",
        "time_share_by_bound": {"latency": near(1.0)},
        "time_share_in_memory": 0.0,
        "serial_s": near(LATENCY_S),
        "critical_path_s": near(LATENCY_S),
        "energy_j": near(result.energy_j),  # by hand in test_silicon.py
        "average_power_w": near(result.energy_j / LATENCY_S),
        "energy_per_token_j": near(result.energy_j / 32),
        "price_per_million_tokens_usd": near(result.price_per_million_tokens_usd()),
        "energy_by_level_j": result.energy_by_level_j(),
        "footprint_bytes": 1920.0,
        "capacity_bytes": 1e6,
        "fits": True,
        "warnings": [],
    }
    assert {type(value) for value in facts.values()} == {str, float, bool, dict, list, type(None)}


def test_the_tables_carry_the_interval_of_a_calibrated_chip(trace, blocked):
    """Every op takes 0.8 to 1.5 times as long as predicted: the frame says so of each; a sum is surer."""
    spread = {"any": [[1e9, np.log(0.8), np.log(1.5)]]}
    known = simulate(trace, dataclasses.replace(blocked, spread=spread))
    frame = known.to_frame()
    assert frame.time_low_s.tolist() == near((0.8 * frame.time_s).tolist())
    assert frame.time_high_s.tolist() == near((1.5 * frame.time_s).tolist())
    facts = known.summary()
    assert (facts["latency_low_s"], facts["latency_high_s"]) == known.latency_interval_s
    assert 0.8 < facts["latency_low_s"] / known.latency_s < 1 < facts["latency_high_s"] / known.latency_s < 1.5
    unknown = simulate(trace, blocked).to_frame()
    assert unknown[["time_low_s", "time_high_s"]].isna().all(axis=None)


def test_the_repr_says_what_matters(result):
    text = repr(result)
    for part in ("tiny lstm", "blocked", "latency 2.177e-05 s", "1.837e+05 sequences/s", "utilisation 0.4%"):
        assert part in text
    assert "100% of the time bound by latency" in text


def test_the_repr_of_a_space_gives_its_range(space):
    text = repr(space)
    for part in ("6 designs", f"{space.latency_s.min():.4g}", f"{space.latency_s.max():.4g} s"):
        assert part in text


def test_html_escapes_names_and_shows_the_table(trace, blocked, space):
    html = simulate(trace.replace(name="<b>"), blocked)._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("<tr") == 1 + 4
    assert "<table" not in space._repr_html_()


# -- design spaces ---------------------------------------------------------------------------------

_WHOLE = (
    "latency_s",
    "serial_s",
    "critical_path_s",
    "sequences_per_s",
    "tokens_per_s",
    "attained",
    "utilisation",
    "fits",
    "capacity_bytes",
)
_PER_OP = ("bound", "time_s", "total_s", "attained_flops_per_s", "op_utilisation", "roof_fraction", "resident")
_TABLES = ("bounds_s", "traffic_bytes", "intensity")


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 4)])
def test_everything_has_the_shape_of_the_space(shape):
    for seed in range(8):
        rng = random.Random(seed)
        result = simulate(random_trace(rng), random_space(rng, shape))
        for name in _WHOLE:
            assert np.shape(getattr(result, name)) == shape, name
        assert result.network_intensity().shape == shape
        for name in _PER_OP:
            assert getattr(result, name).shape == (*shape, len(result.trace)), name
        for name in _TABLES:
            for values in getattr(result, name).values():
                assert values.shape == (*shape, len(result.trace)), name
        for shares in (result.time_share_by_bound(), result.time_share_by_layer()):
            assert {values.shape for values in shares.values()} == {shape}
            np.testing.assert_allclose(sum(shares.values()), 1.0, rtol=CLOSED_FORM)


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_one_design_of_a_space_shows_the_numbers_of_that_design(shape):
    for seed in range(8):
        rng = random.Random(seed)
        result = simulate(random_trace(rng), random_space(rng, shape))
        for index in np.ndindex(shape):
            one = result.design(index)
            assert one.shape == ()
            for name in _WHOLE:
                assert np.isscalar(getattr(one, name)), name
                assert getattr(one, name) == near(getattr(result, name)[index]), name
            assert one.bound.tolist() == result.bound[index].tolist()
            for name in _PER_OP[1:]:
                expected = getattr(result, name)[index]
                np.testing.assert_allclose(getattr(one, name), expected, rtol=CLOSED_FORM, err_msg=name)
            assert one.summary()["latency_s"] == result.latency_s[index]
            assert len(one.to_frame()) == len(result.trace)


def test_a_design_is_picked_by_number_or_by_tuple(trace, blocked):
    result = simulate(trace, blocked.replace({"matrix.count": [1, 2, 4]}))
    assert result.design(2).latency_s == result.design((2,)).latency_s == result.latency_s[2]
    assert result.design(np.int64(1)).accelerator.matrix.count == 2.0
    single = result.design(0)
    assert single.design(()).latency_s == single.latency_s


@pytest.mark.parametrize("index", [3, (0, 2), (3, 0), (-1, 0), (0,), (0, 0, 0), 0, 1.5, "first", None, slice(None)])
def test_a_design_outside_the_space_is_refused(index, space):
    with pytest.raises(AcceleratorError, match=r"blocked: no design .* in a space of shape \(3, 2\)"):
        space.design(index)


def test_a_single_design_has_no_others(result):
    with pytest.raises(AcceleratorError, match=r"no design \(1,\)"):
        result.design(1)


@pytest.mark.parametrize(
    ("what", "table"),
    [
        ("to_frame", lambda result: result.to_frame()),
        ("summary", lambda result: result.summary()),
        ("critical_path", lambda result: result.critical_path),
    ],
)
def test_tables_are_of_one_design(what, table, space):
    with pytest.raises(AcceleratorError, match=rf"{what} is of one design; this result has shape \(3, 2\)"):
        table(space)
