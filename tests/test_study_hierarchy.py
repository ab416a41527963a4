"""The study of hierarchies: its numbers by hand, its text from its numbers, its charts from both."""

import math

import numpy as np
import pytest

from reports.studies import Bench, StudyError, study
from reports.studies import hierarchy as module
from reports.studies.hierarchy import FLAT, LSTM, ONE_QUERY, SLIDING, SUMMARIES, WINDOWS, following, on, path, whole
from reports.studies.study import VERDICTS
from simulator import preset, simulate


@pytest.fixture(scope="module")
def finding():
    return study("hierarchy").run(Bench())


def test_networks_compared_have_equal_parameters():
    h = 1024
    for network in (FLAT, SLIDING, SUMMARIES):
        assert whole(network, 10_000, "fp16").total_parameters == 8 * h * h + 8 * h
        assert following(network, 10_000, "fp16").total_parameters == 8 * h * h + 8 * h
    assert whole(LSTM, 10_000, "fp16").total_parameters == 8 * h * h + 8 * h
    assert whole(ONE_QUERY, 10_000, "fp16").total_parameters == 4 * h * h + 4 * h


def test_hops_by_hand():
    assert [path(network, 10_000) for network in (FLAT, SLIDING, SUMMARIES, LSTM)] == [1, 2, 2, 9_999]
    assert path(SLIDING, 1_000_000) == 3


def test_shares_by_hand(finding):
    n, t, w = 1024, 10_000, 100
    flat_pairs = 2 * t * (t + 1) // 2
    first = sum(min(w, position + 1) for position in range(t))
    second = sum(min(w, position // w + 1) for position in range(t))
    projections = 2 * 2 * t * 4 * n * n
    numbers = finding.numbers
    assert numbers["pair_share"] == pytest.approx((first + second) / flat_pairs, rel=1e-12)
    expected = (projections + 4 * n * (first + second)) / (projections + 4 * n * flat_pairs)
    assert numbers["flop_share"] == pytest.approx(expected, rel=1e-12)
    assert numbers["held_share_of_summaries"] == pytest.approx(2 * w / (2 * t), rel=1e-12)
    assert numbers["held_share_of_sliding"] == pytest.approx((w + 99 * w + 1) / (2 * t), rel=1e-12)


def test_the_verdict_follows_from_simulations_made_anew(finding):
    ratios = []
    for name in module.CHIPS:
        chip = preset(name)
        dtype = "fp16" if "fp16" in chip.dtypes else "bf16"
        times = [float(simulate(whole(network, 10_000, dtype), chip).latency_s) for network in (SLIDING, FLAT, LSTM)]
        ratios.append((times[0] / times[1], times[0] / times[2]))
    of_flat, of_lstm = np.transpose(ratios)
    numbers = finding.numbers
    assert numbers["whole_of_flat_least"] == pytest.approx(of_flat.min())
    assert numbers["whole_of_flat_most"] == pytest.approx(of_flat.max())
    assert numbers["whole_fraction_chips"] == (of_flat <= 0.5).sum()
    assert numbers["quicker_than_lstm_chips"] == (of_lstm < 1).sum()
    assert finding.holds in VERDICTS


def test_crossings_are_where_the_share_is_reached():
    chip = on(preset("t4"))
    start = chip.share_from(whole, SLIDING, FLAT, 0.5)

    def share(positions):
        return chip.time_s(whole, SLIDING, positions) / chip.time_s(whole, FLAT, positions)

    assert share(start) <= 0.5
    assert share(round(start / 1.02)) > 0.5
    assert chip.share_from(whole, FLAT, SLIDING, 0.001) == math.inf


def test_the_cheapest_window_is_found_by_trying_all():
    chip = on(preset("h100-sxm"))
    times = [chip.time_s(following, SUMMARIES, 10_000, window) for window in WINDOWS]
    assert module.cheapest_window(chip, following, SUMMARIES) == WINDOWS[int(np.argmin(times))]


def test_another_bandwidth_gives_another_text(finding):
    slow = study("hierarchy").run(Bench(on=["a100-sxm-80gb"], changes=[("memory.dram.bandwidth", "5GB/s")]))
    quick = study("hierarchy").run(Bench(on=["a100-sxm-80gb"], changes=[("memory.dram.bandwidth", "100TB/s")]))
    assert len({slow.verdict, quick.verdict, finding.verdict}) == 3
    assert len({slow.limits, quick.limits, finding.limits}) == 3
    # where bytes are all that counts, both read and write the same: half is out of reach
    assert slow.numbers["whole_fraction_chips"] == 0
    assert "half or less on no chip" in slow.verdict


def test_every_number_of_the_text_is_one_of_the_run(finding):
    numbers = finding.numbers
    assert f"in {numbers['hops']:.0f} hops" in finding.verdict
    assert f"{100 * numbers['flop_share']:.0f} % with projections" in finding.verdict
    assert f"{100 * numbers['held_share_of_summaries']:.0f} % of the keys and values" in finding.limits
    assert all(np.isfinite(value) or value == math.inf for value in numbers.values())


def test_tables_are_whole(finding):
    for table in finding.tables:
        assert table.caption
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)
        for row in table.rows:
            for column, value in zip(table.columns, row, strict=True):
                assert isinstance(value, str) or table.formats.get(column, "{:.3g}").format(value)


def test_charts_show_the_times(finding):
    lengths, windows = finding.charts
    figure = lengths.draw()
    chip = on(preset(module.CHIPS[0]))
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert set(lines) == set(module.NETWORKS)
    expected = [1e3 * chip.time_s(whole, FLAT, positions) for positions in module.LENGTHS]
    np.testing.assert_allclose(lines[FLAT], expected)
    for chart in (lengths, windows):
        for ax in chart.draw().axes:
            assert "[" in ax.get_xlabel() + ax.get_ylabel()
        assert chart.alt
    assert windows.draw() is not windows.draw()  # figures of their own


def test_a_chip_without_floats_is_an_error():
    with pytest.raises(StudyError, match=r"hierarchy: coral-edge-tpu has no float type of 16 bits or more"):
        study("hierarchy").run(Bench(on=["coral-edge-tpu"]))
