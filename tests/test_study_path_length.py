"""The study of path lengths: paths and serial times by hand, text from the numbers, charts from both."""

import math

import numpy as np
import pytest

from reports.studies import Bench, StudyError, study
from reports.studies import path_length as module
from reports.studies.path_length import (
    ATTENTION,
    BY_LABEL,
    GATED,
    LENGTHS,
    LONG,
    LSTM,
    MORE,
    NETWORKS,
    enlarged,
    on,
)
from reports.studies.study import VERDICTS
from simulator import preset, simulate


@pytest.fixture(scope="module")
def finding():
    return study("path-length").run(Bench())


@pytest.fixture(scope="module")
def h100():
    return on(preset("h100-sxm"))


def test_paths_by_hand():
    for network in NETWORKS:
        if network.kind == GATED:
            # at most a convolution of 4 before the steps
            assert network.path(LONG) == pytest.approx(LONG - 1, abs=3)
    assert ATTENTION.path(LONG) == BY_LABEL["gated memory"].path(LONG) == 1
    assert BY_LABEL["minLSTM"].path(LONG) == math.ceil(math.log2(LONG))
    assert BY_LABEL["hierarchy"].path(LONG) == math.ceil(math.log(LONG, 100))
    assert BY_LABEL["Mamba, chunks"].path(LONG) == math.ceil((LONG - 1) / 2048)
    assert BY_LABEL["TCN"].path(LONG) <= 2 * math.ceil(math.log2(LONG))


def test_more_hardware_is_more_of_everything_but_latency():
    chip = preset("v100-sxm")
    both = enlarged(chip)
    assert list(both.matrix.count / chip.matrix.count) == [1, MORE]
    assert list(both.vector.count / chip.vector.count) == [1, MORE]
    for name, level in chip.memory.items():
        assert list(both.memory[name].bandwidth_bytes_per_s / level.bandwidth_bytes_per_s) == [1, MORE]
        assert both.memory[name].latency_s == level.latency_s
    assert both.latency.launch_s == chip.latency.launch_s


def test_times_are_those_of_the_chip_and_of_the_larger_one(h100):
    for network in (LSTM, ATTENTION, BY_LABEL["linear attention"]):
        found = h100.times(network, 1000)
        alone = simulate(network.trace(1000, "fp16"), h100.chip)
        assert found.latency_s == pytest.approx(float(alone.latency_s), rel=1e-12)
        assert found.interval_s == pytest.approx([float(end) for end in alone.latency_interval_s], rel=1e-12)
        assert found.serial_s <= found.more_s * (1 + 1e-12) <= found.latency_s * (1 + 1e-12)


def test_serial_time_of_an_lstm_is_its_fixed_cost_a_step(h100):
    """With a thousand times the hardware launch, step and first access are left, twice a step, and a block's wait."""
    latency = h100.chip.latency
    step = latency.launch_s + latency.step_s + h100.chip.memory["dram"].latency_s
    assert 1 < h100.times(LSTM, LONG).serial_s / (2 * LONG * step) < 1.2


def test_serial_time_of_a_walked_scan_is_a_dependent_operation_a_position(h100):
    vector = h100.chip.vector
    waiting = LONG * vector.dependent_cycles / vector.clock_hz
    assert waiting < h100.times(BY_LABEL["QRNN"], LONG).serial_s < 1.1 * waiting


def test_growth_of_work_that_fills_the_chip_is_its_exponent(h100):
    """Attention's pairs are quadratic in the length; projections, linear, are still there."""
    assert 1.9 < h100.growth(ATTENTION, "latency_s") < 2.0
    assert h100.growth(LSTM, "serial_s") == pytest.approx(1.0, abs=0.01)
    assert module.growth(lambda length: 3.0 * length**1.5) == pytest.approx(1.5)


def test_crossings_are_where_the_times_cross(h100):
    other = BY_LABEL["minLSTM"]
    start = h100.slower_from(ATTENTION, other)

    def ratio(positions):
        return h100.times(ATTENTION, positions).latency_s / h100.times(other, positions).latency_s

    assert ratio(start) > 1 >= ratio(math.floor(start * 0.98))
    assert h100.slower_from(other, BY_LABEL["NTM"]) == math.inf
    assert h100.slower_from(BY_LABEL["NTM"], other) == LENGTHS[0]


def test_the_finding_is_whole(finding):
    assert finding.holds in VERDICTS
    assert finding.holds == "holds in part"  # gated networks gain nothing, those with a linear state do
    numbers = finding.numbers
    assert numbers["gain_gated_long_most"] <= module.STUCK
    assert numbers["gain_scanned_long_most"] >= module.USED
    assert f"{numbers['path_lstm']:,.0f} dependent steps in an LSTM" in finding.verdict
    assert f"{numbers['h100-sxm_attention_gain_long']:,.0f} times at 1,000,000" in finding.verdict
    assert all(math.isfinite(v) or "from" in name for name, v in numbers.items())
    for table in finding.tables:
        assert len(table.rows) == len(NETWORKS)
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)


def test_text_changes_with_the_chip(finding):
    slower = study("path-length").run(Bench(changes=[("memory.dram.bandwidth", "200GB/s")]))
    assert slower.limits != finding.limits
    assert slower.numbers["h100-sxm_lstm_s"] != finding.numbers["h100-sxm_lstm_s"]
    # where a thousand times the hardware helps a step, the claim falls
    narrow = study("path-length").run(Bench(on=["h100-sxm"], changes=[("memory.l2.bandwidth", "100GB/s")]))
    assert narrow.numbers["gain_gated_long_most"] > module.STUCK
    assert narrow.holds == "does not hold"
    assert "faster all the same: at most" in narrow.verdict


def test_outside_numbers(finding):
    outside = {item.what.split(",")[0]: item for item in finding.outside}
    assert outside["Growth of the longest path"].discrepancy == pytest.approx(0, abs=1e-4)
    assert outside["Selective scan in one kernel over a standard scan"].discrepancy == 0
    assert abs(outside["QRNN over LSTM"].discrepancy) < 0.35
    for item in finding.outside:
        assert item.source
        assert math.isfinite(item.discrepancy)


def test_charts_draw_the_numbers(finding, h100):
    drawn = [network for network in NETWORKS if network.drawn]
    for chart, values in zip(
        finding.charts,
        (
            (lambda n, t: n.path(t), lambda n, t: 1e3 * h100.times(n, t).serial_s),
            (lambda n, t: 1e3 * h100.times(n, t).latency_s, lambda n, t: h100.times(n, t).gain),
        ),
        strict=True,
    ):
        assert chart.alt
        figure = chart.draw()
        for ax, value in zip(figure.axes, values, strict=True):
            assert len(ax.lines) == len(drawn)
            looks = {(line.get_marker(), line.get_color()) for line in ax.lines}
            assert len(looks) == len(drawn)
            for line, network in zip(ax.lines, drawn, strict=True):
                np.testing.assert_allclose(line.get_ydata(), [value(network, t) for t in LENGTHS])
            assert "[" in ax.get_xlabel()
            assert "[" in ax.get_ylabel()


def test_a_chip_without_a_fitting_type_is_named():
    with pytest.raises(StudyError, match="path-length: coral-edge-tpu has no float type"):
        study("path-length").run(Bench(on=["coral-edge-tpu"]))
