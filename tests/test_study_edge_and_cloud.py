"""The study of speech at the edge and in the cloud: numbers against limits by hand, and text that follows them."""

from __future__ import annotations

import pytest

from reports.studies import Bench, study
from reports.studies.edge_and_cloud import KINDS, judge, measure
from reports.studies.speech_models import (
    FRAMES,
    WAIT,
    alike,
    kept_bytes,
    real_time_factor,
    served,
    trace,
    usd_per_hour,
    usd_per_hour_owned,
    with_room,
)
from simulator import preset
from simulator.unit_costs import costs

SPEAKER = "smart-speaker-a53"


def found_on(*chips: str, **changes: str):
    """What the study finds on some chips; `changes`: fields with double underscores for dots."""
    pairs = [(field.replace("__", "."), value) for field, value in changes.items()]
    return study("edge-and-cloud").run(Bench(on=chips, changes=pairs))


@pytest.fixture(scope="module")
def speaker():
    return measure(preset(SPEAKER))


@pytest.fixture(scope="module")
def finding():
    return found_on(SPEAKER, "t4")


def test_models_are_of_equal_size():
    for measured, size in (("parameters", "total_parameters"), ("flops", "total_matrix_flops")):
        sizes = [getattr(trace(m.kind, m.width, m.wait), size) for m in alike(256, measured)]
        assert max(sizes) / min(sizes) < 1.05, measured


def test_lstm_at_one_stream_takes_as_long_as_reading_its_weights(speaker):
    """Layer by layer in calls of ten steps: input weights once a call, those of recurrence and projection each step."""
    model = next(m for m in alike(256) if m.kind == "LSTM")
    w, narrow, steps, calls = model.width, model.width // 2, FRAMES / 3, FRAMES / 30
    inputs = 4 * w * (4 * 80 + 4 * narrow)
    each_step = 5 * (4 * w * narrow + w * narrow)
    read_bytes = steps * each_step + calls * (inputs + narrow * 1024)
    dram = preset(SPEAKER).memory["dram"]
    least = read_bytes / (dram.bandwidth_bytes_per_s * dram.sustained) / (FRAMES / 100)
    assert least < speaker.factor["LSTM"] < 1.3 * least


def test_conformer_at_one_stream_takes_as_long_as_multiplying(speaker):
    """On a chip of few units a chunk of eight positions is work enough to hide its weights."""
    model = trace("Conformer", 256, WAIT["Conformer"])
    chip = preset(SPEAKER)
    least = model.total_matrix_flops / chip.peak_flops_per_s("int8") / (FRAMES / 100)
    assert least < speaker.factor["Conformer"] < 2 * least
    assert speaker.gain_of_room("Conformer") == pytest.approx(1.0, abs=0.05)


def test_room_for_the_weights_takes_the_reading_away(speaker):
    chip = with_room(preset(SPEAKER))
    assert kept_bytes(chip) == 1e9
    model = next(m for m in alike(256) if m.kind == "LSTM")
    moved = [float(r.traffic_bytes["dram"] @ r.trace.repeats) for r in (model.on(preset(SPEAKER)), model.on(chip))]
    assert moved[1] < 0.1 * moved[0]
    assert speaker.gain_of_room("LSTM") > 2


@pytest.mark.parametrize("name", [SPEAKER, "coral-edge-tpu"])
def test_streams_served_are_those_heard_in_real_time(name):
    chip = preset(name)
    for model in alike(256):
        streams = served(lambda count, m=model: m.on(chip, count)).streams
        assert real_time_factor(model.on(chip, int(streams))) == pytest.approx(1.0, abs=0.3)


def test_streams_that_are_not_heard_in_time_are_none():
    slow = preset(SPEAKER).replace({"memory.dram.bandwidth": 1e7})
    model = alike(256)[0]
    assert served(lambda count: model.on(slow, count)).streams == 0


def test_price_of_an_hour_by_hand():
    result = alike(256)[2].on(preset("raspberry-pi-5"))
    terms, hours = costs(), FRAMES / 100 / 3600
    power_usd_per_s = float(result.average_power_w) / 1000 * terms["price.electricity_usd_per_kwh"] / 3600
    life_s = terms["price.life_years"] * 365.25 * 24 * 3600
    shared = (80 / life_s + power_usd_per_s * terms["price.facility_overhead"]) * result.latency_s / hours
    assert usd_per_hour(result) == pytest.approx(shared, rel=1e-3)
    owned = 80 / (life_s / 24) * 3600 + power_usd_per_s * result.latency_s / hours  # an hour of each day
    assert usd_per_hour_owned(result) == pytest.approx(owned, rel=1e-3)


def test_parts_of_the_claim_need_chips_to_judge_them(speaker):
    assert set(judge([speaker])[1]) == {
        "no better at equal parameters",
        "no better at equal FLOP",
        "the fit of the weights decides",
    }
    fares, parts = judge([measure(preset("tpu-v5e"))])
    assert parts == {"the cloud batches streams": True}
    assert fares == "holds in part"


def test_a_chip_of_the_edge_stays_one_when_it_is_changed():
    assert "One stream on 1 edge chip (" in found_on(SPEAKER, memory__dram__bandwidth="2TB/s").verdict


def test_numbers_are_finite_and_cover_every_chip(finding):
    assert len(finding.numbers) == 2 * 3 * 7
    assert all(value >= 0 and value < 1e6 for value in finding.numbers.values())
    assert finding.numbers["t4, LSTM: streams"] > 100 * finding.numbers[f"{SPEAKER}, LSTM: streams"]


def test_a_calibrated_chip_shows_its_interval(finding):
    by_chip = {row[0]: row for row in finding.tables[0].rows}
    assert " to " in by_chip["t4"][2]
    assert " to " not in by_chip[SPEAKER][2]


def test_text_follows_the_bandwidth(finding):
    faster = found_on(SPEAKER, "t4", memory__dram__bandwidth="200GB/s")
    assert faster.verdict != finding.verdict
    assert faster.limits != finding.limits
    assert faster.numbers[f"{SPEAKER}, LSTM: real-time factor"] < finding.numbers[f"{SPEAKER}, LSTM: real-time factor"]
    slower = found_on(SPEAKER, memory__dram__bandwidth="0.5GB/s")
    assert f"LSTM on {SPEAKER}" in slower.limits.split("Not in real time")[1]
    assert "In the cloud" not in slower.verdict


def test_room_on_the_chip_changes_what_is_said(finding):
    roomy = found_on(SPEAKER, memory__l2__capacity="1GB")
    assert f"keep the weights of all layers between calls: {SPEAKER}" in roomy.limits
    assert "cannot keep the weights" in finding.verdict
    assert "cannot keep the weights" not in roomy.verdict


def test_outside_figures_are_cited_and_compared(finding):
    phone, phone_fp32, pi, energy = finding.outside
    assert all(any(c.isdigit() for c in o.source) for o in finding.outside)
    assert phone.computed < phone.published  # the search and the slowest utterances come on top
    assert phone.computed < phone_fp32.computed < phone_fp32.published
    assert pi.discrepancy == energy.discrepancy == 0


def test_chart_has_units_and_all_chips(finding):
    figure = finding.charts[0].draw()
    left, middle, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == [SPEAKER, "t4"]
    assert all("real-time factor" in ax.get_xlabel() + ax.get_ylabel() for ax in figure.axes)
    assert {line.get_label() for line in left.lines} >= set(KINDS)
    assert "millions" in right.get_xlabel()
    assert "streams" in middle.get_xlabel()
    assert SPEAKER in finding.charts[0].alt
