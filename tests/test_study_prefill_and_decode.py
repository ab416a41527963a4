"""The study of prefill and decode: its crossings against hand-derived limits and plain bisection, its words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports.studies import prefill_and_decode as module
from reports.studies.catalogue import study
from reports.studies.prefill_and_decode import AT_BATCH, FULL, GROUPED, STUDY, lstm_layers, on, state_bytes
from reports.studies.roots import first_above
from reports.studies.study import Bench, StudyError
from simulator import preset, simulate


@pytest.fixture(scope="module")
def finding():
    return STUDY.run(Bench(on=("a100-sxm-80gb", "tpu-v4")))


# -- roots ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [1, 2, 3, 17, 1000, 65_537, 10**6])
def test_a_root_is_the_first_whole_number_above(root):
    assert first_above(lambda n: math.log(n / (root - 0.5)), 1, 2**26) == root
    assert first_above(lambda n: n**3 - (root - 0.5) ** 3, 1, 2**26) == root
    assert first_above(lambda n: (n >= root) - 0.5, 1, 2**26) == root  # a step


def test_a_root_that_is_nowhere_is_none_and_evaluations_are_few():
    tried = []
    assert first_above(lambda n: tried.append(n) or -1.0, 1, 1000) is None
    assert tried[-1] == 1000
    tried.clear()
    assert first_above(lambda n: tried.append(n) or math.log((5.0 + 2e-4 * n) / 10.0), 1, 2**26) == 25_001
    assert len(tried) < 20
    near = first_above(lambda n: math.log(n / 12_345.5), 1, 2**26, 0.01)
    assert 12_346 <= near <= 12_346 * 1.0101


# -- sizes ---------------------------------------------------------------------------------------------


def test_parameters_are_equal_and_state_and_cache_are_those_of_the_formulas():
    weights = [d.trace(1, 1, "bf16", "decode").footprint()["weights"] for d in (FULL, GROUPED)]
    weights.append(module._lstm(1, 1, "bf16", lstm_layers(), False).footprint()["weights"])
    assert max(weights) / min(weights) < 1.011  # less than half an LSTM layer of 48
    assert FULL.cache_bytes(2) == 2 * 32 * 4096 * 2
    assert GROUPED.cache_bytes(2) == FULL.cache_bytes(2) / 4
    held = [FULL.trace(n, 3, "bf16", "decode").footprint()["cache"] for n in (99, 199)]
    assert held[1] - held[0] == 3 * 100 * FULL.cache_bytes(2)
    assert state_bytes(2) == 2 * 48 * 4096 * 2


# -- crossings -----------------------------------------------------------------------------------------


def test_where_a_token_costs_twice_a_step_is_where_the_cache_weighs_as_much_as_the_weights():
    """On a chip with no fixed times and nothing but memory in the way."""
    ideal = preset("hypothetical").replace(
        {"latency.launch": 0, "latency.step": 0, "memory.dram.latency": 0, "matrix.clock": 1e13, "vector.clock": 1e13,
         "memory.sram.bandwidth": 1e18, "matrix.feed_bytes_per_cycle": 1e9}
    )  # fmt: skip
    chip = on(ideal)
    weights = FULL.trace(1, 1, "bf16", "decode").footprint()["weights"]
    for batch in (1, 16):
        found = chip.slower_from(FULL, batch, 2.0, module._latency)
        assert found == pytest.approx(weights / (batch * FULL.cache_bytes(2)), rel=0.03)  # activations, 0.4 % of size
    assert chip.slower_from(GROUPED, 16, 2.0, module._latency) == pytest.approx(4 * found, rel=0.03)


def test_crossings_agree_with_plain_bisection(finding):
    name, chip = "a100-sxm-80gb", preset("a100-sxm-80gb")
    step = module._latency(simulate(module._lstm(1, AT_BATCH, "bf16", 48, False), chip))
    low, high = 1, 2**20
    while high - low > 1:
        middle = (low + high) // 2
        slow = module._latency(simulate(FULL.trace(middle, AT_BATCH, "bf16", "decode"), chip)) > 2 * step
        low, high = (low, middle) if slow else (middle, high)
    key = f"{name}_32_kv_heads_batch_{AT_BATCH}_twice_positions"
    assert high <= finding.numbers[key] <= high * 1.002

    lost = finding.numbers[f"{name}_batch_1_prefill_lost_positions"]
    here = on(chip)
    assert here.prefill(FULL, int(lost), 1) > here.recurrence(int(lost), 1)
    assert here.prefill(FULL, int(lost * 0.99), 1) < here.recurrence(int(lost * 0.99), 1)


def test_the_largest_batch_fits_and_one_more_does_not():
    chip = on(preset("h100-sxm"))
    batch = chip.largest_batch(FULL, 4096, 2.0)
    fits = [simulate(FULL.trace(4096, b, "bf16", "decode"), chip.chip).footprint for b in (batch, batch + 1)]
    held = [f["weights"] + f["cache"] for f in fits]
    assert held[0] <= chip.chip.outer.capacity_bytes < held[1]


# -- words ---------------------------------------------------------------------------------------------


def test_the_verdict_states_the_numbers_of_the_run(finding):
    n = finding.numbers
    assert finding.holds == "holds in part"
    assert n["decode_ratio_least"] > 1
    assert n["prefill_speedup_least"] > 1
    assert f"{n['decode_ratio_most']:.3g}" in finding.verdict
    assert module._count(n["prefill_speedup_most"]) in finding.verdict
    assert module._count(n["twice_positions_least"]) in finding.limits
    assert f"{n['weight_positions']:,.0f}" in finding.limits


def test_another_bandwidth_gives_another_text(finding):
    slow = STUDY.run(Bench(on=("a100-sxm-80gb", "tpu-v4"), changes=[("memory.dram.bandwidth", "200GB/s")]))
    assert slow.verdict != finding.verdict
    assert slow.limits != finding.limits
    assert slow.numbers["prefill_speedup_most"] > finding.numbers["prefill_speedup_most"]  # each step reads weights


def test_holds_follows_from_the_numbers():
    base = {"prefill_speedup_least": 2.0, "prefill_speedup_most": 3.0}
    assert module._holds(base | {"decode_ratio_least": 0.8, "decode_ratio_most": 0.9}) == "holds"
    assert module._holds(base | {"decode_ratio_least": 1.5, "decode_ratio_most": 1.9}) == "holds in part"
    lost = {"prefill_speedup_least": 0.5, "prefill_speedup_most": 0.9}
    assert module._holds(lost | {"decode_ratio_least": 1.5, "decode_ratio_most": 1.9}) == "does not hold"


def test_tables_and_charts_are_whole(finding):
    for table in finding.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)
    figure = finding.charts[0].draw()
    (ax,) = figure.axes
    assert len(ax.lines) >= 4
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    for line in lines:
        assert np.all(np.diff(line.get_ydata()) > 0)  # a longer cache never costs less
    assert all(chart.alt and chart.caption for chart in finding.charts)


def test_a_chip_without_wide_floats_is_refused():
    with pytest.raises(StudyError, match="prefill-and-decode: coral-edge-tpu"):
        on(preset("coral-edge-tpu"))


def test_the_study_is_in_the_catalogue():
    assert study("prefill-and-decode") is STUDY
    assert STUDY.name == "prefill-and-decode"
