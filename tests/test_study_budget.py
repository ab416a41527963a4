"""The study of budgets: best designs against enumeration, shares against the parts, its words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reports.studies import budget as module
from reports.studies.budget import LARGE, MEMORY, NETS, SMALL, STUDY, UNITS, areas, share_of
from reports.studies.catalogue import study
from reports.studies.study import Bench, StudyError
from simulator import preset, simulate


@pytest.fixture(scope="module")
def base():
    return module._Bench(preset("hypothetical"))


@pytest.fixture(scope="module")
def finding():
    return STUDY.run(Bench())


def test_the_best_design_is_the_best_of_all_within_the_budget(base, monkeypatch):
    """A smaller space, every design of it built and simulated alone."""
    factors = {"matrix.count": (0.2, 0.6), "matrix.clock": (1.0, 2.0), "shared": (0.25, 1.0), "outer": (0.2, 0.8)}
    monkeypatch.setattr(module, "FACTORS", factors)
    small, chip = module._Bench(preset("hypothetical")), preset("hypothetical")
    limits = small.limits(SMALL)
    assert limits["area_mm2"] == pytest.approx(2 / 3 * float(chip.area_mm2))
    for net in (NETS[0], NETS[5]):
        times = []
        for values in itertools.product(*small.space.values()):
            design = chip.replace(dict(zip(small.space, values, strict=True)))
            if all(float(getattr(design, name)) <= most for name, most in limits.items()):
                times.append(float(simulate(small.traces[net.name], design).latency_s))
        assert 1 < len(times) < 16
        assert small.time_s(net, small.best(net, SMALL)) == pytest.approx(min(times), rel=1e-12)


def test_the_best_chips_keep_the_budget_and_no_network_is_quicker_elsewhere(base):
    for share in (SMALL, LARGE):
        limits = base.limits(share)
        for net in NETS:
            chip = base.best(net, share)
            assert all(float(getattr(chip, name)) <= most * (1 + 1e-12) for name, most in limits.items())
    cross = module._cross(base)
    assert cross.shape == (len(NETS), len(NETS) + 1)
    assert cross.max() <= 100 + 1e-9
    assert np.diag(cross) == pytest.approx(100)
    for net in NETS:  # more area never slows
        assert base.time_s(net, base.best(net, LARGE)) <= base.time_s(net, base.best(net, SMALL)) * (1 + 1e-12)


def test_areas_sum_to_the_die_and_shares_are_their_parts():
    for name in ("hypothetical", "tpu-v4", "a100-sxm-80gb"):
        chip = preset(name)
        parts = areas(chip)
        assert sum(parts.values()) == pytest.approx(float(chip.area_mm2))
        assert min(parts.values()) >= 0
        own = {part: float(area) for part, area in chip.area_by_part_mm2().items()}
        kept = own["memory interfaces"] + sum(own.get(level, 0.0) for level in chip.memory)
        assert share_of(chip, MEMORY) == pytest.approx(kept / float(chip.area_mm2))
        assert share_of(chip, UNITS) == pytest.approx((own["matrix"] + own["vector"]) / float(chip.area_mm2))


def test_the_chip_for_all_is_no_worse_in_sum_than_that_of_any(base):
    """Times over those on each network's best chip, summed: least on the chip for all alike."""
    own = {net.name: base.time_s(net, base.best(net, SMALL)) for net in NETS}

    def cost(chip):
        return sum(base.time_s(net, chip) / own[net.name] for net in NETS)

    least = cost(base.best(None, SMALL))
    assert all(least <= cost(base.best(net, SMALL)) * (1 + 1e-12) for net in NETS)


def test_the_verdict_states_the_numbers_of_the_run(finding):
    n = finding.numbers
    assert module._percent(n, "small_recurrent_memory_share") in finding.verdict
    assert f"{n['doubling_bandwidth_mm2']:.0f} mm2" in finding.verdict
    assert module._percent(n, "halving_on_chip_recurrent") in finding.limits
    assert n["small_recurrent_memory_share_least"] > n["small_attention_memory_share_most"]
    assert n["recurrent_on_attention_most"] < 1
    assert finding.holds in ("holds", "holds in part")


def test_holds_follows_from_the_numbers():
    shares = {"small_recurrent_memory_share_least": 0.6, "small_attention_units_share_least": 0.6,
              "small_attention_memory_share_most": 0.3}  # fmt: skip
    assert module._holds(shares) == "holds"
    assert module._holds(shares | {"small_attention_units_share_least": 0.4}) == "holds in part"
    alike = {"small_recurrent_memory_share_least": 0.3, "small_attention_units_share_least": 0.3,
             "small_attention_memory_share_most": 0.3}  # fmt: skip
    assert module._holds(alike) == "does not hold"


def test_growth_was_steeper_for_compute_than_for_bandwidth(finding):
    """Published for two decades of parts: within a fifth."""
    peak, bandwidth = finding.outside
    assert peak.computed > bandwidth.computed > 1
    assert abs(peak.discrepancy) < 0.2
    assert abs(bandwidth.discrepancy) < 0.2


def test_another_chip_gives_another_text(finding):
    other = STUDY.run(Bench(changes=[("memory.dram.bandwidth", "250GB/s"), ("memory.dram.technology", "lpddr5")]))
    assert other.verdict != finding.verdict
    assert other.numbers["small_Llama_2_7B_token_s"] > finding.numbers["small_Llama_2_7B_token_s"]


def test_tables_and_charts_are_whole(finding):
    for table in finding.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.formats) <= set(table.columns)
    bars, cells = (chart.draw().axes[0] for chart in finding.charts)
    assert len(bars.patches) == len(module.PARTS) * (len(NETS) + 1)
    assert len(cells.texts) == len(NETS) * (len(NETS) + 1)
    assert all(chart.alt and chart.caption for chart in finding.charts)


def test_chips_that_cannot_vary_are_refused():
    with pytest.raises(StudyError, match="budget: coral-edge-tpu"):
        module._Bench(preset("coral-edge-tpu"))


def test_the_study_is_in_the_catalogue():
    assert study("budget") is STUDY
    assert STUDY.name == "budget"
