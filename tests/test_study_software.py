"""The study of software for LSTMs: its stages by hand, what is published, its words."""

from __future__ import annotations

import numpy as np
import pytest

from reports.studies import software as module
from reports.studies.catalogue import study
from reports.studies.software import ALONE, HIDDEN, MANY, SHOWN, STAGES, STEPS, STUDY, persistent
from reports.studies.study import Bench
from simulator import preset, simulate
from workloads import lstm


@pytest.fixture(scope="module")
def finding():
    return STUDY.run(Bench(on=("v100-sxm", "h100-sxm")))


def test_where_a_launch_is_all_that_costs_stages_are_numbers_of_kernels():
    """8 products and 23 kernels of a cell; 2 and 23; 2 and 1; 1 and 1, of each of 4 layers."""
    ideal = preset("v100-sxm").replace(
        {"latency.launch": 1.0, "latency.step": 0, "latency.first_steps_s": 0, "memory.dram.latency": 0}
    )
    chip = module._OnChip(ideal)
    kernels = {s.name: chip.step_s(s, SHOWN, ALONE) / module.LAYERS for s in STAGES}
    assert kernels["a kernel an op"] == pytest.approx(31, rel=1e-3)
    assert kernels["merged gates"] == pytest.approx(25, rel=1e-3)
    assert kernels["two streams"] == pytest.approx(24, rel=1e-3)  # the two products side by side
    assert kernels["fused cell"] == pytest.approx(2, rel=1e-3)
    assert kernels["hoisted input"] == pytest.approx(2 + 1 / STEPS, rel=1e-3)
    # 700 products of 4 layers, four at a time, and the cells of 103 diagonals; the first layer's input product
    assert ideal.abilities.concurrent_ops == 4
    assert kernels["wavefront"] * 4 == pytest.approx((1 + 700 / 4 + 103) / STEPS, rel=1e-3)
    assert kernels["persistent"] == pytest.approx(2 / STEPS, rel=0.01)  # two launches a layer


def test_the_persistent_kernel_reads_weights_once_where_they_fit():
    chip = preset("v100-sxm")
    trace = lstm(1, 1024, sequence_length=100, dtype="fp16")
    before, after = simulate(trace, chip), simulate(trace, persistent(chip))
    rows = [r.trace.op.tolist().index(op) for r, op in ((before, "recurrent product"), (after, after.trace.op[1]))]
    weights = 4 * 1024**2 * 2
    assert before.traffic_bytes["dram"][rows[0]] > weights  # each step: L2 holds 6 MB of 8
    assert after.traffic_bytes["dram"][rows[1]] < 1.2 * weights / 100 + 1e5
    assert after.resident[rows[1]] == 1
    # 80 x 256 KiB of registers hold 1619 units in fp16
    room = 80 * 65536 * 4
    held = [module._OnChip(chip).resident(hidden) for hidden in (1500, 2048)]
    assert 4 * 1500**2 * 2 < room < 4 * 2048**2 * 2
    assert held[0] == 1
    assert held[1] < 1


def test_a_chip_whose_loops_are_compiled_stays_as_it_is():
    for chip in (preset("tpu-v4"), preset("hypothetical")):
        assert persistent(chip) is chip


def test_published_measurements(finding):
    """Within half of what is published, but the cell that is fused alone; each discrepancy is stated."""
    found = {o.what: o.discrepancy for o in finding.outside}
    assert len(found) == 5
    assert [abs(v) < 0.5 for v in found.values()].count(True) == 4
    first = finding.outside[0]
    assert first.published == 27.807743
    assert abs(first.discrepancy) < 0.1


def test_the_verdict_states_the_numbers_of_the_run(finding):
    n = finding.numbers
    gains = [n[f"{c}_hidden_{h}_batch_{b}_a_kernel_an_op_step_s"]
             / min(n[f"{c}_hidden_{h}_batch_{b}_{s.name.replace(' ', '_')}_step_s"] for s in STAGES)
             for c in ("v100-sxm", "h100-sxm") for h in HIDDEN for b in (ALONE, MANY)]  # fmt: skip
    assert n["gain_least"] == pytest.approx(min(gains))
    assert n["gain_most"] == pytest.approx(max(gains))
    assert module._span(n["gain_least"], n["gain_most"]) in finding.verdict
    assert finding.holds == "holds in part"
    assert n[f"utilisation_most_batch_{ALONE}"] < module.IDLE < n[f"utilisation_most_batch_{MANY}"]


def test_utilisation_is_work_over_peak_and_time(finding):
    chip = module._OnChip(preset("h100-sxm"))
    flops = 4 * 2 * 8 * SHOWN**2 * MANY  # a step: 4 layers, two products of SHOWN x 4 SHOWN
    for stage in STAGES:
        expected = flops / chip.chip.peak_flops_per_s("fp16") / chip.step_s(stage, SHOWN, MANY)
        assert chip.utilisation(stage, SHOWN, MANY) == pytest.approx(expected, rel=1e-9), stage.name


def test_another_chip_gives_another_text(finding):
    slow = STUDY.run(Bench(on=("v100-sxm", "h100-sxm"), changes=[("memory.dram.bandwidth", "100GB/s")]))
    assert slow.verdict != finding.verdict
    assert slow.numbers["gain_least"] != finding.numbers["gain_least"]
    base = dict.fromkeys(finding.numbers, 0.1)
    assert module._holds(base) == "holds"
    assert module._holds(base | {f"utilisation_most_batch_{MANY}": 0.5}) == "holds in part"
    both = {f"utilisation_most_batch_{batch}": 0.5 for batch in (ALONE, MANY)}
    assert module._holds(base | both) == "does not hold"


def test_tables_and_charts_are_whole(finding):
    for table in finding.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)
    bars, lines = (chart.draw().axes[0] for chart in finding.charts)
    assert len(bars.patches) == 2 * len(STAGES)
    for line in lines.lines[:3]:
        assert np.all(np.diff(line.get_ydata()) > 0)  # a batch fills the units
    assert all(chart.alt and chart.caption for chart in finding.charts)


def test_the_study_is_in_the_catalogue():
    assert study("software") is STUDY
    assert STUDY.name == "software"
