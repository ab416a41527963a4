"""The study of quantisation: limits by hand on ideal chips, the measured kernel, its words."""

from __future__ import annotations

import numpy as np
import pytest

from reports.studies import quantisation as module
from reports.studies.catalogue import study
from reports.studies.quantisation import ALL8, BOUND, DECODE, HALF, LARGE, NETS, PREFILL, SMALL, STUDY, W4, W8
from reports.studies.study import Bench, StudyError
from simulator import preset, simulate
from workloads import lstm


@pytest.fixture(scope="module")
def finding():
    return STUDY.run(Bench(on=("a100-sxm-80gb", "jetson-agx-orin")))


def ideal(**fields):
    """A chip without fixed times, whose memory or units are all that counts."""
    free = {"latency.launch": 0, "latency.step": 0, "memory.dram.latency": 0, "memory.sram.latency": 0}
    return module._OnChip(preset("hypothetical").replace(free | fields))


def test_a_network_of_bytes_alone_gains_their_ratio():
    endless = {"matrix.clock": 1e13, "vector.clock": 1e13, "memory.sram.bandwidth": 1e18}
    chip = ideal(**endless, **{"matrix.feed_bytes_per_cycle": 1e9})
    assert chip.kind(LARGE) == "memory"
    # a layer of 2 x 4 x 8192^2 weights, of which 32 MB stay on chip whatever their width
    layer, kept = 8 * 8192**2, 32e6
    for form, width in ((W8, 1), (W4, 0.5)):
        by_hand = (2 * layer - kept) / (width * layer - kept)
        assert chip.gain(LARGE, form, 1) == pytest.approx(by_hand, rel=0.005), form
    assert chip.gain(LARGE, W4, 1) == pytest.approx(chip.promised(LARGE, W4), rel=1e-3)
    # decode: 1.3e9 weights of 2 bytes and a cache of 2 x 24 x 2048 x 2 bytes a position, which stays
    weights, cache = 1.315e9, 2 * 24 * 2048 * 2 * 2048
    by_hand = (2 * weights + cache) / (0.5 * weights + cache)
    assert chip.gain(DECODE, W4, 1) == pytest.approx(by_hand, rel=0.02)


def test_a_network_of_products_alone_gains_the_ratio_of_peaks():
    chip = ideal(**{"memory.dram.bandwidth": 1e18, "memory.sram.bandwidth": 1e18, "vector.clock": 1e13,
                    "matrix.feed_bytes_per_cycle": 1e9})  # fmt: skip
    assert chip.kind(PREFILL) == "units"
    assert chip.promised(PREFILL, ALL8) == 2
    assert chip.gain(PREFILL, ALL8, 1) == pytest.approx(2, rel=1e-3)
    assert chip.gain(PREFILL, W4, 1) == pytest.approx(1, rel=1e-6)


def test_what_waits_gains_nothing():
    chip = module._OnChip(preset("hypothetical").replace({"latency.step": 1e-3}))
    assert chip.kind(SMALL) == "latency"
    assert chip.gain(SMALL, W4, 1) == pytest.approx(1, abs=0.01)


def test_the_batch_where_the_gain_is_gone_is_a_root():
    chip = module._OnChip(preset("a100-sxm-80gb"))
    batch = chip.gone_at(LARGE)
    assert chip.gain(LARGE, W4, int(batch)) < module.GONE
    assert chip.gain(LARGE, W4, int(batch * 0.98) - 1) >= module.GONE


def test_narrow_weights_stay_on_chip_where_wide_ones_do_not(finding):
    """4 layers of 4 x 1024^2 recurrent weights one after another: 8.4 MB in 16 bits, 2.1 MB in 4; the L2 holds 4."""
    chip = module._OnChip(preset("jetson-agx-orin"))
    assert [chip.resident(SMALL, form) for form in (HALF, W8, W4)] == [0, 0, 1]
    assert "on jetson-agx-orin its weights fit on chip in 4 bits and not in 16" in finding.limits


def test_gains_are_ratios_of_simulated_times(finding):
    chip = preset("a100-sxm-80gb")
    times = [float(simulate(lstm(4, 1024, sequence_length=100, dtype="bf16", weight_dtype=w), chip).latency_s)
             for w in ("bf16", "int4")]  # fmt: skip
    found = [finding.numbers[f"a100-sxm-80gb_LSTM_4_x_1024_{form}_s"] for form in ("16-bit", "int4_weights")]
    assert found == pytest.approx(times)


def test_the_measured_kernel(finding):
    """Near four times up to 16 to 32 tokens."""
    tokens, most = finding.outside
    assert tokens.discrepancy == 0
    assert abs(most.discrepancy) < 0.2


def test_the_verdict_states_the_numbers_of_the_run(finding):
    n = finding.numbers
    assert n["memory_bound"] + n["unit_bound"] + n["unit_bound_alike"] + n["waiting"] == n["cases"] == 2 * len(NETS)
    assert module._of(n, "memory_gain") in finding.verdict
    assert module._of(n, "units_gain") in finding.verdict
    for chip in (module._OnChip(preset(name)) for name in ("a100-sxm-80gb", "jetson-agx-orin")):
        assert chip.share(PREFILL, HALF, 1, "matrix") > BOUND
        assert chip.share(LARGE, HALF, 1, "dram") > BOUND


def test_another_bandwidth_gives_another_text(finding):
    fast = STUDY.run(Bench(on=("a100-sxm-80gb", "jetson-agx-orin"), changes=[("memory.dram.bandwidth", "50TB/s")]))
    assert fast.verdict != finding.verdict
    assert fast.numbers["memory_bound"] < finding.numbers["memory_bound"]
    kept = {
        "memory_reached_least": 0.9,
        "memory_reached_most": 1.0,
        "units_reached_least": 0.8,
        "units_reached_most": 1,
    }
    assert module._holds(kept) == "holds"
    assert module._holds(kept | {"memory_reached_least": 0.1}) == "holds in part"
    assert module._holds(dict.fromkeys(kept, 0.1)) == "does not hold"


def test_tables_and_charts_are_whole(finding):
    for table in finding.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)
    lines = finding.charts[0].draw().axes
    assert len(lines) == 2
    assert all(np.min(line.get_ydata()) > 0.9 for ax in lines for line in ax.lines)
    assert len(finding.charts[1].draw().axes[0].patches) == 2 * len(NETS)


def test_chips_that_lack_a_format():
    """No fp32 and no int8; 8 bits as fast as 16; no 16-bit floats."""
    found = {name: STUDY.run(Bench(on=(name,))) for name in ("gaudi-2", "tpu-v4", "epyc-7763")}
    assert [row[4] for row in found["gaudi-2"].tables[0].rows] == ["none"] * len(NETS)
    assert module._OnChip(preset("gaudi-2")).types[ALL8] == ("fp8", "fp8")
    assert found["tpu-v4"].numbers["unit_bound_alike"] == 1
    assert "8 bits are no faster there" in found["tpu-v4"].verdict
    assert "epyc-7763 runs fp32 where 16 bits are meant" in found["epyc-7763"].limits


def test_a_chip_without_floats_is_refused():
    with pytest.raises(StudyError, match="quantisation: coral-edge-tpu"):
        module._OnChip(preset("coral-edge-tpu"))


def test_the_study_is_in_the_catalogue():
    assert study("quantisation") is STUDY
    assert STUDY.name == "quantisation"
