"""The study of training cost: its networks, its numbers against slow calculations, its words against chips."""

from __future__ import annotations

import pytest

from reports.studies import Bench, StudyError, study
from reports.studies.training_cost import (
    BATCHES,
    LENGTH,
    LENGTHS,
    STUDY,
    attending,
    bytes_per_token,
    largest_batch,
    recurrent,
    trained,
)
from simulator import preset, simulate
from workloads import training

CHIPS = ("v100-sxm", "a100-sxm-80gb", "h100-sxm", "tpu-v4")


@pytest.fixture(scope="module")
def found():
    return STUDY.run(Bench())


def test_it_is_listed_and_complete(found):
    assert study("training-cost") is STUDY
    assert found.holds == "holds in part"
    for table in found.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)


def test_both_networks_have_as_many_weights():
    one, other = recurrent(1, 8, "fp16"), attending(1, 8, "fp16")
    assert one.total_parameters == pytest.approx(other.total_parameters, rel=2e-4)
    assert one.total_parameters == 6 * (8 * 1024**2 + 2 * 4 * 1024)
    # the work of a token without attention's own products: two FLOP a weight of the matrices
    assert one.total_matrix_flops == 8 * 2 * 6 * 8 * 1024**2
    products = sum(r["repeats"] * r["matrix_flops"] for r in other.rows() if r["kind"] == "matmul")
    assert products == 8 * 2 * 4 * 12 * 1024**2


@pytest.mark.parametrize("chip", ["v100-sxm", "h100-sxm"])
def test_ratios_equal_two_simulations(found, chip):
    one, other = (simulate(training(b(16, LENGTH, "fp16"), "adam"), preset(chip)) for b in (recurrent, attending))
    where = f"{chip}, {LENGTH} steps, batch 16"
    assert found.numbers[f"{where}: times as long at equal parameters"] == pytest.approx(
        one.latency_s / other.latency_s
    )
    work = one.trace.total_flops / other.trace.total_flops
    assert found.numbers[f"{where}: times as long at equal FLOP"] == pytest.approx(
        one.latency_s / other.latency_s / work
    )


def test_activations_kept_by_hand(found):
    """fp16. A layer of the LSTM keeps h, four gates, c and tanh c: 7 values a unit; and the network's input."""
    assert bytes_per_token(recurrent, LENGTH, "fp16") == pytest.approx(2 * 1024 * (6 * 7 + 1), rel=1e-3)
    assert found.numbers["LSTM: activations kept [bytes/token]"] == bytes_per_token(recurrent, LENGTH, "fp16")
    # what is kept does not depend on the length: neither network keeps scores
    for build in (recurrent, attending):
        assert bytes_per_token(build, 4096, "fp16") == pytest.approx(bytes_per_token(build, 64, "fp16"), rel=1e-3)


@pytest.mark.parametrize("build", [recurrent, attending])
@pytest.mark.parametrize("length", [64, 4096])
def test_the_largest_batch_fits_and_the_next_does_not(build, length):
    capacity = preset("v100-sxm").memory["dram"].capacity_bytes
    batch = largest_batch(build, length, "fp16", capacity)
    assert trained(build, batch, length, "fp16").footprint()["total"] <= capacity
    assert trained(build, batch + 1, length, "fp16").footprint()["total"] > capacity * (1 - 1e-4)
    assert largest_batch(build, length, "fp16", 1e8) == 0


@pytest.mark.parametrize("chip", CHIPS)
def test_thin_batches_and_long_sequences_are_where_it_is_slower(found, chip):
    by_batch = [
        found.numbers[key]
        for batch in BATCHES
        if (key := f"{chip}, {LENGTH} steps, batch {batch}: times as long at equal FLOP") in found.numbers
    ]
    assert len(by_batch) >= 5
    assert by_batch == sorted(by_batch, reverse=True)
    filled = [found.numbers[f"{chip}, {n} steps, memory filled: times as long at equal FLOP"] for n in LENGTHS]
    assert filled[-1] > 1.5 > filled[0]


def test_without_waits_it_is_quicker(found):
    for key, value in found.numbers.items():
        if key.endswith("without waits"):
            assert value <= found.numbers[key.removesuffix(" without waits")] * (1 + 1e-12)


def test_measured_rates_are_beside_the_computed_ones(found):
    assert len(found.outside) == 6
    for one in found.outside:
        assert "DeepLearningExamples" in one.source
    gains = [one for one in found.outside if "over FLOP/s" in one.what]
    for one in gains:  # a FLOP of the Transformer is quicker, measured and computed
        assert one.published > 1
        assert one.computed > 1
        assert abs(one.discrepancy) < 0.25
    rates = [one for one in found.outside if "over FLOP/s" not in one.what]
    assert all(one.computed > one.published for one in rates)  # what the trace leaves out only takes time


def test_words_follow_the_chip(found):
    slow = STUDY.run(Bench(changes=[("memory.dram.bandwidth", "100GB/s")]))
    assert slow.verdict != found.verdict
    free = STUDY.run(
        Bench(
            on=["tpu-v4"],
            changes=[("latency.launch", "0s"), ("latency.step", "0s"), ("memory.dram.bandwidth", "1PB/s")],
        )
    )
    assert free.limits != found.limits
    assert "hides" in found.limits
    assert "hides" not in free.limits


def test_a_chip_too_small_to_train_on_is_one_clear_error():
    with pytest.raises(StudyError, match=f"no batch of {LENGTH} steps fits in the memory of v100-sxm"):
        STUDY.run(Bench(on=["v100-sxm"], changes=[("memory.dram.capacity", "500MB")]))


def test_a_chip_without_a_wide_type_is_one_clear_error():
    with pytest.raises(StudyError, match="training-cost: coral-edge-tpu has no element type as wide as fp16"):
        STUDY.run(Bench(on=["coral-edge-tpu"]))


def test_the_chart_shows_every_chip(found):
    (chart,) = found.charts
    left, right = chart.draw().axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == list(CHIPS)
    assert len(right.lines) == len(CHIPS) + 1
    for text in (chart.alt, chart.caption, chart.source):
        assert text
