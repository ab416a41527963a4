"""The study of compute in memory: its numbers against limits worked by hand, its text against other chips."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference

from reports.studies import Bench, StudyError, compute_in_memory, study
from simulator import preset, simulate
from workloads import lstm

STUDY = study("compute-in-memory")


@pytest.fixture(scope="module")
def finding():
    return STUDY.run(Bench())


def test_it_is_listed_and_states_its_question():
    assert STUDY is compute_in_memory.STUDY
    assert STUDY.question.endswith("?")
    assert STUDY.claim
    assert STUDY.sources


def test_the_promise_is_the_ratio_of_the_bandwidths(finding):
    """HBM-PIM: 4.9152 TB/s at 0.79 over 1.2288 TB/s at 0.82. UPMEM: 1.7892 at 0.8975 over 38.4 GB/s at 0.85."""
    name = "{}: internal over external bandwidth"
    assert finding.numbers[name.format("hbm-pim")] == pytest.approx(4 * 0.79 / 0.82)
    assert finding.numbers[name.format("upmem")] == pytest.approx(1789.2 * 0.8975 / (38.4 * 0.85))


def test_the_speed_up_is_that_of_plain_loops(finding):
    """The LSTM of 1500 units on HBM-PIM, op by op in the slow twin."""
    chip = preset("hbm-pim")
    trace = lstm(2, 1500, batch=1, sequence_length=35, dtype="fp16")
    with_, without = (
        reference.totals(trace, one)["latency_s"] for one in (chip, dataclasses.replace(chip, in_memory=None))
    )
    assert finding.numbers["hbm-pim: LSTM speed-up, 1500 units"] == pytest.approx(without / with_)


def test_no_gain_exceeds_the_promise_where_weights_come_from_outside(finding):
    """Time falls at most by the ratio of the bandwidths, and by it only if nothing else took any."""
    cases = [compute_in_memory.case(preset(name)) for name in compute_in_memory.CHIPS]
    for c in cases:
        for both in (*c.sizes.values(), *c.free.values(), *c.batches.values(), c.decode):
            assert 1 <= both.speedup <= c.ratio * (1 + 1e-9)
        speedups = [both.speedup for both in c.batches.values()]
        assert speedups == sorted(speedups, reverse=True)  # a batch never helps the memory


def test_prefill_stays_on_the_host(finding):
    for name in compute_in_memory.CHIPS:
        assert finding.numbers[f"{name}: prefill speed-up"] == pytest.approx(1, abs=0.01)


def test_upmem_sends_the_vector_to_every_unit(finding):
    """1500 bytes to each of 2556 units at 16.88 GB/s: 227 us, longer than the host needs."""
    took_us = 1e6 * 1500 * 2556 / 16.88e9
    assert f"upmem, where sending the vector to every part of the memory alone takes {took_us:.0f} us" in finding.limits


def test_newton_by_hand(finding):
    """16 times the bandwidth, 0.68 of the time open pages: 10.88 times an ideal reader of the outside."""
    newton = finding.outside[0]
    assert newton.computed == pytest.approx(16 * 0.68)
    assert newton.published == 10
    assert abs(newton.discrepancy) < 0.1


def test_what_falls_short_says_so(finding):
    gpu = next(o for o in finding.outside if o.published == 8.9)
    assert gpu.computed < finding.numbers["hbm-pim: internal over external bandwidth"] < gpu.published
    assert "More than the four times" in gpu.note


def test_placements_are_listed_op_by_op(finding):
    table = finding.tables[2]
    lstm_rows = [row for row in table.rows if row[0] == "hbm-pim" and row[1].startswith("LSTM")]
    where = {row[2]: row[5] for row in lstm_rows}
    assert where["lstm.0: recurrent product"] == "memory"
    assert where["lstm.0: gates"] == where["lstm.0: input product"] == "host"
    assert {row[5] for row in table.rows} == {"host", "memory"}
    for table in finding.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_text_and_verdict_follow_the_bandwidths(finding):
    assert finding.holds == "holds in part"
    slow = STUDY.run(Bench(changes=[("in_memory.bandwidth", "1GB/s")]))
    assert slow.holds == "does not hold"
    assert "nothing on hbm-pim" in slow.verdict
    assert slow.verdict != finding.verdict
    outer = STUDY.run(Bench(changes=[("memory.dram.bandwidth", "5GB/s")]))
    assert outer.verdict != finding.verdict
    assert [o.computed for o in outer.outside] == [
        o.computed for o in finding.outside
    ]  # published chips stay as they are


def test_it_can_hold(finding):
    """Behind 1 GB/s, with nothing kept on chip and next to no fixed costs, the banks are all that counts."""
    changes = {"memory.dram.bandwidth": "1GB/s", "memory.sram.capacity": "1kB", "in_memory.bandwidth": "10GB/s"}
    changes |= {"in_memory.input_copies": "1"}
    found = STUDY.run(Bench(on=["hypothetical-pim"], changes=list(changes.items())))
    assert found.holds == "holds"
    assert "512 units on hypothetical-pim" in found.verdict


def test_a_chip_without_units_is_refused():
    with pytest.raises(StudyError, match=r"v100-sxm has no memory that computes.*hbm-pim"):
        STUDY.run(Bench(on=["v100-sxm"]))


def test_charts_draw_and_say_what_they_show(finding):
    for chart in finding.charts:
        figure = chart.draw()
        shown = [ax for ax in figure.axes if ax.get_visible()]
        assert all(ax.lines for ax in shown)
        assert len(chart.alt) > 80
        assert "hbm-pim" in chart.alt
        assert chart.caption
    assert len(finding.charts[1].draw().axes) == len(compute_in_memory.CHIPS)


def test_numbers_are_those_of_the_simulator(finding):
    chip = preset("gddr6-aim")
    trace = lstm(2, 4096, batch=1, sequence_length=35, dtype="bf16")
    both = [simulate(trace, one).latency_s for one in (dataclasses.replace(chip, in_memory=None), chip)]
    assert finding.numbers["gddr6-aim: LSTM speed-up, 4096 units"] == pytest.approx(both[0] / both[1])
    assert np.isfinite([v for k, v in finding.numbers.items() if "units from which" not in k]).all()
