"""Prediction intervals: by hand, of designs, of sums, and whether they hold on rows that nothing was fitted to."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from conftest import CLOSED_FORM

from reports.shipped import shipped
from reports.validation import Validation, validate
from simulator import preset, presets, simulate, uncertainty
from simulator.calibrate import predict, predict_interval
from simulator.uncertainty import KINDS, SHARED, SIZES_S, kind_of, of_sum, quantiles
from workloads import Trace, lstm, network
from workloads.measured import measurements
from workloads.schema import KINDS as TRACE_KINDS

SPREAD = {
    "product": [[1e-4, -0.1, 0.2], [1e9, -0.05, 0.1]],
    "recurrent": [[5e-6, -0.4, 0.3], [1e9, -0.2, 0.15]],
    "any": [[1e9, -0.5, 0.6]],
}


def spread_of(chip, spread=None):
    return dataclasses.replace(chip, spread=SPREAD if spread is None else spread)


def near(value):
    return pytest.approx(value, rel=CLOSED_FORM)


# -- bare arrays -------------------------------------------------------------------------------------


def test_every_kind_of_row_has_a_spread():
    assert set(TRACE_KINDS) <= set(KINDS)
    assert kind_of("convolution") == kind_of("matmul") == "product"
    assert kind_of("unheard of") == "any"


def test_quantiles_by_kind_and_size():
    """A step holds up to and with its size, the last whatever is longer; a kind without one takes any."""
    time = np.array([[9e-5, 1e-4, 1.1e-4], [1e-3, 1e10, 1e-9], [1.0, 1.0, 1.0]])
    low, high = quantiles(SPREAD, ["product", "product", "vector"], time)
    assert low.tolist() == [[-0.1, -0.1, -0.05], [-0.05, -0.05, -0.1], [-0.5] * 3]
    assert high.tolist() == [[0.2, 0.2, 0.1], [0.1, 0.1, 0.2], [0.6] * 3]


def test_no_spread_is_no_deviation():
    low, high = quantiles({}, ["product", "vector"], np.ones((2, 3)))
    assert not low.any()
    assert not high.any()


def test_deviation_of_a_sum_by_hand():
    """3 and 4 seconds, all in doubt: 7 together; apart sqrt((0.45 7)^2 + (1 - 0.45^2) 25)."""
    total, whole = np.array([[3.0], [4.0]]), np.ones((2, 1))
    assert of_sum(total, whole, np.array(["a", "a"])) == near([7.0])
    apart = np.sqrt((SHARED * 7) ** 2 + (1 - SHARED**2) * 25)
    assert of_sum(total, whole, np.array(["a", "b"])) == near([apart])
    assert apart < 7
    # a third that is sure adds nothing; half the doubt is half the deviation
    three = np.array([[3.0], [4.0], [9.0]])
    assert of_sum(three, np.array([[0.5], [0.5], [0.0]]), np.array(["a", "b", "c"])) == near([apart / 2])


def test_deviations_of_designs_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    total, deviation = rng.random((6, 5)), rng.random((6, 5))
    groups = np.array(list("aabbcd"))
    alone = [of_sum(total[:, [d]], deviation[:, [d]], groups)[0] for d in range(5)]
    assert of_sum(total, deviation, groups) == near(alone)


# -- results -----------------------------------------------------------------------------------------


def test_no_interval_where_nothing_was_calibrated(trace, blocked):
    assert simulate(trace, blocked).time_interval_s is None
    assert simulate(trace, blocked).latency_interval_s is None
    for chip in (preset("tpu-v1"), preset("v100-sxm", calibrated=False)):
        assert simulate(network("tpu-v1-mlp0", dtype=chip.dtypes[0]), chip).latency_interval_s is None


def test_the_interval_of_each_op_by_hand(trace, blocked):
    """A product; two rows of a recurrence, whose size is that of all its 8 steps; a softmax, which takes any."""
    result = simulate(trace, spread_of(blocked))
    time = result.time_s
    assert time[1] < 5e-6 < 8 * time[1]  # the size of one step would take the other quantiles
    assert time[2] < 5e-6 < 8 * time[2]
    low, high = result.time_interval_s
    assert low == near(time * np.exp([-0.1, -0.2, -0.2, -0.5]))
    assert high == near(time * np.exp([0.2, 0.15, 0.15, 0.6]))


def test_the_interval_of_the_latency_by_hand(trace, blocked):
    """Rows of the recurrence err together: 3 parts, which share `SHARED` of their error."""
    result = simulate(trace, spread_of(blocked))
    low, high = result.latency_interval_s
    for reach, quantile in ((result.latency_s - low, [-0.1, -0.2, -0.2, -0.5]), (high - result.latency_s, None)):
        relative = np.abs(np.expm1(quantile if quantile else [0.2, 0.15, 0.15, 0.6]))
        product, step, gates, softmax = result.total_s * relative
        parts = np.array([product, step + gates, softmax])
        expected = np.sqrt((SHARED * parts.sum()) ** 2 + (1 - SHARED**2) * (parts**2).sum())
        assert reach == near(expected * result.latency_s / result.serial_s)


def test_deviations_of_some_rows_are_of_those_alone(trace, blocked):
    result = simulate(trace, spread_of(blocked))
    below, above = result.deviations_s(slice(0, 1))
    assert below == near(result.total_s[0] * -np.expm1(-0.1))
    assert above == near(result.total_s[0] * np.expm1(0.2))


def test_a_space_has_the_interval_of_each_design(trace, blocked):
    space = spread_of(blocked).grid({"memory.dram.bandwidth": [1e8, 1e9, 1e10], "latency.launch": [1e-7, 1e-4]})
    many = simulate(trace, space)
    for ends in (many.latency_interval_s, many.time_interval_s):
        assert [end.shape[:2] for end in ends] == [(3, 2)] * 2
    for index in np.ndindex(3, 2):
        one = many.design(index)
        for mine, whole in zip(one.latency_interval_s, many.latency_interval_s, strict=True):
            assert mine == near(whole[index])
        for mine, whole in zip(one.time_interval_s, many.time_interval_s, strict=True):
            assert mine == near(whole[index])


@pytest.mark.parametrize("name", [name for name in presets() if preset(name).spread])
def test_the_prediction_is_within_its_interval(name):
    """Of every chip with a spread: each op whose quantiles lie on both sides of nought, and so the network."""
    chip = preset(name)
    dtype = next(d for d in ("fp16", "bf16", "fp32") if d in chip.dtypes)
    for published in ("lstm-zaremba-large", "bert-base"):
        result = simulate(network(published, dtype=dtype), chip)
        below, above = result.time_interval_s
        kinds = result._spread_kinds
        low, high = quantiles(chip.spread, kinds, (result.time_s * result.trace.serial_steps)[:, None])
        both = (low[:, 0] <= 0) & (high[:, 0] >= 0)
        assert both.any()
        assert (below <= result.time_s)[both].all()
        assert (above >= result.time_s)[both].all()
        least, most = result.latency_interval_s
        assert 0 < least <= result.latency_s <= most


def test_a_wider_spread_never_narrows(trace, blocked):
    ends = []
    for width in (0.0, 0.1, 0.2, 0.5, 1.0, 2.0):
        result = simulate(trace, spread_of(blocked, {"any": [[1e9, -width, width]]}))
        ends.append((*result.latency_interval_s, *result.time_interval_s[0], *result.time_interval_s[1]))
        assert 0 <= ends[-1][0] <= result.latency_s <= ends[-1][1]
    steps = np.diff(ends, axis=0)
    lows = [0, *range(2, 2 + len(trace))]
    highs = [1, *range(2 + len(trace), 2 + 2 * len(trace))]
    assert (steps[:, lows] < 0).all()
    assert (steps[:, highs] > 0).all()
    assert ends[0][0] == ends[0][1]  # without width the prediction alone


def test_a_sum_is_surer_than_an_op_but_not_one_recurrence(flat):
    """n like ops, each d off: d sqrt(s^2 + (1 - s^2) / n) of the sum. The steps of a recurrence are all off alike."""
    chip = spread_of(flat, {"any": [[1e9, -0.3, 0.3]]})
    up = np.expm1(0.3)

    def relative(trace) -> float:
        result = simulate(trace, chip)
        return (result.latency_interval_s[1] - result.latency_s) / result.latency_s

    work = {"op": "add", "kind": "elementwise", "vector_flops": 1000, "dtype": "fp32"}
    for count in (1, 2, 16):
        many = Trace.from_rows([work | {"layer": str(i), "after": (i - 1,) if i else ()} for i in range(count)])
        assert relative(many) == near(up * np.sqrt(SHARED**2 + (1 - SHARED**2) / count))
    looped = {"layer": "a", "repeats": 50, "serial_steps": 50}
    cell = Trace.from_rows([work | looped, work | looped | {"op": "multiply", "after": (0,)}])
    assert relative(cell) == near(up)
    # and two layers of LSTM are surer than one
    one, two = (relative(lstm(layers, 8, batch=1, sequence_length=500, dtype="fp32")) for layers in (1, 2))
    assert two < one


# -- measurements ------------------------------------------------------------------------------------


def test_the_interval_of_a_measurement_by_hand(flat):
    """Product and recurrence: by kind and size of the whole, calls counted. Network: its rows, calls on both ends."""
    rows = [
        {"op": "matmul", "m": 9, "n": 9, "k": 9, "time_s": 1.0},
        {"op": "lstm", "hidden": 16, "batch": 1, "timesteps": 9, "time_s": 1.0},
        {"op": "transformer", "layers": 1, "hidden": 8, "heads": 2, "vocabulary": 9, "sequence_length": 4, "batch": 1,
         "time_s": 1.0},
        {"op": "matmul", "m": 9, "n": 9, "k": 9, "time_s": 1.0, "harness": "slow"},
    ]  # fmt: skip
    m, chip, calls = measurements(rows), spread_of(flat), {"slow": 1.0, "measured transformer": 2.0}
    total = predict(chip, m, calls)
    assert total[0] < 1e-4 < total[3]  # the call makes another size of it
    low, high = predict_interval(chip, m, calls)
    assert low[[0, 1, 3]] == near(total[[0, 1, 3]] * np.exp([-0.1, -0.2, -0.05]))
    assert high[[0, 1, 3]] == near(total[[0, 1, 3]] * np.exp([0.2, 0.15, 0.1]))
    alone = m.select([2])
    below, above = simulate(alone.trace, chip).deviations_s()
    assert total[2] - low[2] == pytest.approx(below, rel=1e-9)
    assert high[2] - total[2] == pytest.approx(above, rel=1e-9)


def test_without_a_spread_both_ends_are_the_prediction(flat):
    rows = [{"op": "matmul", "m": s, "n": 9, "k": 9, "time_s": 1.0} for s in (1, 2)]
    low, high = predict_interval(flat, measurements(rows))
    assert low.tolist() == high.tolist() == predict(flat, measurements(rows)).tolist()


@cache
def judged() -> tuple[Validation, np.ndarray, np.ndarray]:
    """All shipped measurements predicted; those judged that have an interval; the kind of each."""
    v = validate(shipped())
    return v, v.judged & np.isfinite(v.low_s), np.array([kind_of(kind) for kind in v.labels["kind"].tolist()])


def coverage(which: np.ndarray) -> float:
    v = judged()[0]
    return float(((v.low_s <= v.measured_s) & (v.measured_s <= v.high_s))[which].mean())


@pytest.mark.parametrize(
    ("kind", "rows"), [("product", 4833), ("vector", 1120), ("attention", 992), ("network", 47), ("recurrent", 112)]
)
def test_intervals_cover_eighty_per_cent_of_the_rows_never_fitted(kind, rows):
    """80 +- 8 %, pooled over the devices; recurrences of the sets of which other rows were fitted."""
    v, which, kinds = judged()
    which = which & (kinds == kind)
    if kind == "recurrent":
        which &= ~((v.labels["device"] == "titan-x-pascal") & (v.labels["set"] == "deepbench-train"))
    assert which.sum() == rows
    assert 0.72 <= coverage(which) <= 0.88


def test_intervals_do_not_cover_a_benchmark_nobody_fitted():
    """The training benchmark on the Titan X: its constants are those of the inference benchmark, and no row of this one
    is fitted. Every forward pass took longer than predicted, most nearly twice as long.

    An interval of residuals knows nothing of what no fitted row shows; pooled with these, recurrences are at 43 %."""
    v, which, kinds = judged()
    other = which & (v.labels["device"] == "titan-x-pascal") & (v.labels["set"] == "deepbench-train")
    assert other.sum() == 108
    assert coverage(other) < 0.2
    forward = (v.measured_s / v.predicted_s)[other & (v.labels["phase"] == "forward")]
    assert forward.min() > 1
    assert np.median(forward) > 1.8
    assert coverage(which & (kinds == "recurrent")) == pytest.approx(0.43, abs=0.05)


def test_sizes_of_the_shipped_spreads_are_in_order():
    for name in presets():
        for steps in preset(name).spread.values():
            ends = [step[0] for step in steps]
            assert ends == sorted(ends)
            assert set(ends) <= set(SIZES_S)
            assert ends[-1] == SIZES_S[-1] == uncertainty.SIZES_S[-1]
            assert all(low < high for _, low, high in steps)
