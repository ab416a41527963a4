"""Who is memory-bound: intensities and ridges by hand, the verdict from counts, another bandwidth another text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports.studies import Bench, evidence, study
from reports.studies.memory_bound import HIDDEN, STEPS, intensity, ridge_batch, ridge_flops_per_byte
from reports.studies.usual import count_of, counted, element_type, held_back, largest, span
from simulator import preset, simulate
from workloads import lstm, matmul

STUDY = study("memory-bound")


@pytest.fixture(scope="module")
def found():
    return STUDY.run(Bench())


def test_the_ridge_is_peak_over_bandwidth():
    """V100: 80 units of 512 multiply-accumulates at 1.53 GHz over 900 GB/s."""
    assert ridge_flops_per_byte(preset("v100-sxm")) == pytest.approx(2 * 80 * 512 * 1.53e9 / 900e9, rel=1e-3)


def test_intensity_by_hand():
    """A product of 4 x 8 by 8 x 16 in fp16: 1024 FLOP over 2 (32 + 128 + 64) bytes."""
    assert intensity(matmul(4, 16, 8, dtype="fp16")) == 1024 / 448


@pytest.mark.parametrize("hidden", [256, 1024, 4096])
@pytest.mark.parametrize("ridge", [2.0, 50.0, 139.0, 295.0])
def test_the_batch_at_the_ridge_solves_the_closed_form(hidden, ridge):
    """A step of a batch b: 8 b H^2 FLOP over two bytes of 4 H^2 weights, b H of state and 4 b H of gate sums."""
    with np.errstate(divide="ignore"):
        slope = 8 * hidden**2 - ridge * 2 * 5 * hidden
    expected = math.ceil(ridge * 8 * hidden**2 / slope) if slope > 0 else math.inf
    assert ridge_batch(hidden, "fp16", ridge) == expected


def test_at_that_batch_the_product_has_crossed():
    ridge = 139.0
    batch = ridge_batch(HIDDEN, "fp16", ridge)

    def lies_at(batch: int) -> float:
        trace = lstm(1, HIDDEN, sequence_length=STEPS, batch=batch, dtype="fp16")
        row = np.flatnonzero(trace.is_product & (trace.serial_steps > 1))[0]
        return float(trace.matrix_flops[row] / trace.bytes[row])

    assert lies_at(batch - 1) < ridge <= lies_at(batch)


def test_the_classes_share_the_whole_time():
    result = simulate(lstm(2, 512, sequence_length=20, dtype="fp16"), preset("v100-sxm"))
    assert sum(held_back(result).values()) == pytest.approx(1)
    assert largest({"memory": 0.2, "waits": 0.5, "arithmetic": 0.3}) == "waits"


def test_counts_add_up(found):
    n = found.numbers
    for group in ("recurrent", "prefill", "decode"):
        assert sum(n[f"{group}_mostly_{kind}"] for kind in ("memory", "waits", "arithmetic")) == n[f"{group}_pairs"]
    assert n["recurrent_left_of_ridge"] == n["recurrent_pairs"] == 18
    assert n["recurrent_utilisation_high"] < 0.1
    assert found.holds == "holds in part"  # one token of a Transformer lies left of the ridge too
    assert n["decode_left_of_ridge"] == n["decode_pairs"]
    assert f"all {n['recurrent_pairs']} pairs" in found.verdict


def test_at_batch_one_a_recurrence_has_one_flop_a_byte(found):
    """Two FLOP for each two-byte weight, less what state adds and plus the input product of all steps at once."""
    n = found.numbers
    low, high = (n[f"recurrent_intensity_{end}_flops_per_byte"] for end in ("low", "high"))
    assert 1 < low <= high < 2


def test_another_bandwidth_is_another_verdict():
    """At a hundred times the bandwidth the ridge of a V100 is 1.4 FLOP/byte, and everything lies right of it."""
    usual, fast = (
        STUDY.run(Bench(on=("v100-sxm",), changes=changes)) for changes in ((), (("memory.dram.bandwidth", "90TB/s"),))
    )
    assert usual.verdict != fast.verdict
    assert fast.numbers["recurrent_left_of_ridge"] == 0
    assert fast.holds == "does not hold"
    assert fast.numbers["ridge_high_flops_per_byte"] == pytest.approx(usual.numbers["ridge_high_flops_per_byte"] / 100)


def test_intervals_stand_beside_the_utilisation(found):
    table = found.tables[1]
    for row in table.rows:
        name, chip, _, _, used, interval = row[:6]
        if preset(chip).spread:
            low, high = map(float, interval.split(" to "))
            assert low <= used * 1.01, (name, chip)
            assert high >= used * 0.99, (name, chip)
        else:
            assert interval == ""


def test_evidence_is_of_rows_nothing_was_fitted_to():
    rates = evidence.recurrent_layers("v100-sxm", "lstm", "fp32")
    assert rates.judged.any()
    assert not rates.judged.all()
    assert ((rates.measured(slice(None)) > 0) & (rates.measured(slice(None)) < 1)).all()
    assert evidence.tpu_v1_flops_per_s()["LSTM0"] == pytest.approx(3.7e12)


def test_published_and_computed_are_near_where_constants_were_fitted_to_neighbours(found):
    near = {seen.what: seen.discrepancy for seen in found.outside}
    assert abs(near["LSTM0 on the first TPU, rate"]) < 0.2
    assert near["of six networks on the first TPU, those that memory holds back"] == 0
    assert abs(next(value for what, value in near.items() if "products" in what)) < 0.1


def test_words_for_counts():
    assert [count_of(3, 3), count_of(0, 3), count_of(1, 3), count_of(1, 1)] == [
        "all 3",
        "none of 3",
        "1 of 3",
        "1 of 1",
    ]
    assert [counted(1, "chip"), counted(2, "chip")] == ["1 chip", "2 chips"]
    assert span([1.0, 99.6], "{:.2g}", "%") == "1 to 100 %"
    assert span([2.0, 2.001], "{:.2g}") == "2"
    assert element_type(preset("tpu-v1")) == "int8"
