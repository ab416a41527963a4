"""The study of gated memory: its numbers against hand-derived limits and slow calculations, its words against chips."""

from __future__ import annotations

import numpy as np
import pytest

from reports.studies import Bench, study
from reports.studies.storing_less import BLOCKS, KEEPS, LENGTHS, QUOTED, STUDY, crossing, limit
from simulator import preset, simulate
from workloads import network, store_less

CHIPS = ("h100-sxm", "v100-sxm", "tpu-v4", "jetson-agx-orin")


@pytest.fixture(scope="module")
def found():
    return STUDY.run(Bench())


def test_it_is_listed_and_complete(found):
    assert study("storing-less") is STUDY
    assert found.holds == "holds in part"
    for table in found.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)
    assert len(found.tables[0].rows) == len(CHIPS) * len(LENGTHS)
    assert len(found.tables[1].rows) == len(CHIPS) * 2 * len(BLOCKS)


def test_break_even_tends_to_two_thirds(found):
    """A token reads keys and values (2 features) and the test keys (1) of what is stored: 3 share = 2."""
    assert limit() == pytest.approx(2 / 3)
    for chip in CHIPS:
        shares = [found.numbers[f"{chip}: break-even share, decode at {length}"] for length in LENGTHS]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(limit(), abs=0.01)


def test_a_cheaper_test_moves_it_to_its_own_limit(found):
    # 64 of 768 features, and a norm: 2 / (2 + 65 / 768)
    expected = limit(65 / 768)
    for chip in CHIPS:
        assert found.numbers[f"{chip}: break-even share comparing 64 features, decode at {LENGTHS[-1]}"] == (
            pytest.approx(expected, abs=0.015)
        )


@pytest.mark.parametrize("chip", CHIPS)
def test_gains_equal_two_simulations(found, chip):
    dtype = "fp16" if "fp16" in preset(chip).dtypes else "bf16"
    settings = {"positions": "rotary", "logits": "last", "dtype": dtype}
    plain = network("gpt2-small", mode="decode", sequence_length=100_000, **settings)
    gain = simulate(plain, preset(chip)).latency_s / simulate(store_less(plain, QUOTED), preset(chip)).latency_s
    assert found.numbers[f"{chip}: times as fast at 0.1 kept, decode at 100000"] == pytest.approx(gain, rel=1e-12)


def test_positions_that_fit_by_hand(found):
    # 80 GB less 124M - 1024 x 768 fp16 parameters, over 12 layers of 2 x 768 fp16 values a position
    chip = preset("h100-sxm")
    weights = 2 * (124_439_808 - 1024 * 768)
    capacity = chip.memory["dram"].capacity_bytes
    all_stored = (capacity - weights) / (12 * 2 * 768 * 2)
    assert found.numbers["h100-sxm: positions that fit storing all"] == pytest.approx(all_stored, rel=1e-6)
    tenth = (capacity - weights) / (0.1 * 12 * (2 * 768 + 1) * 2)
    assert found.numbers["h100-sxm: positions that fit at 0.1 kept"] == pytest.approx(tenth, rel=1e-5)


def test_serial_tests_lose_and_blocks_win_a_million_positions(found):
    for chip in CHIPS:
        gains = [
            found.numbers[f"{chip}: times as fast at 0.1 kept, prefill of 1000000 in blocks of {b}"] for b in BLOCKS
        ]
        assert gains == sorted(gains)
        assert gains[0] < 1 < gains[-1]


def test_crossing_by_hand():
    keeps = np.array([0.1, 0.2, 1.0])
    assert crossing(keeps, np.array([0.5, 0.9, 1.7])) == pytest.approx(0.3)
    assert crossing(keeps, np.array([1.1, 1.2, 1.3])) == 0.0
    assert crossing(keeps, np.array([0.1, 0.2, 0.9])) == 1.0


def test_words_follow_the_chip(found):
    quick = STUDY.run(Bench(changes=[("memory.dram.bandwidth", "100TB/s")]))
    assert quick.verdict != found.verdict
    assert quick.limits != found.limits
    free = STUDY.run(Bench(on=["h100-sxm"], changes=[("latency.launch", "0s"), ("latency.step", "0s")]))
    assert free.holds == "holds"
    assert "never" not in free.limits
    roomy = STUDY.run(Bench(on=["v100-sxm"], changes=[("memory.dram.capacity", "1TB")]))
    assert "fit only so" in found.verdict
    assert "fit only so" not in roomy.verdict


def test_the_chart_shows_every_chip_and_block(found):
    (chart,) = found.charts
    left, right = chart.draw().axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == [*CHIPS, "bytes alone"]
    assert len(right.get_legend().get_texts()) == len(BLOCKS)
    assert all(len(line.get_xdata()) == len(KEEPS) for line in right.lines if line.get_marker() != "None")
    for text in (chart.alt, chart.caption, chart.source):
        assert text
    assert "h100-sxm" in chart.alt
