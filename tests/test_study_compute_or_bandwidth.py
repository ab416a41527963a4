"""Add compute or add bandwidth: elasticities as `sensitivity` has them, limits by hand, text that follows the chip."""

from __future__ import annotations

import pytest
from test_argument_elasticities import DEPLOYED as DEPLOYED_THERE

from reports.studies import Bench, study
from reports.studies.compute_or_bandwidth import DEPLOYED, NETWORKS, RESOURCES, answers, fields_of, trace_of
from reports.studies.usual import element_type
from simulator import preset, presets, sensitivity
from workloads import linear

STUDY = study("compute-or-bandwidth")


@pytest.fixture(scope="module")
def found():
    return STUDY.run(Bench())


@pytest.mark.parametrize("name", ["GNMT, batch 1", "BERT-large, 512 positions"])
@pytest.mark.parametrize("chip", ["v100-sxm", "tpu-v4"])
def test_elasticities_are_those_of_sensitivity(name, chip):
    device = preset(chip)
    trace = trace_of(name, element_type(device))
    mine, theirs = answers(trace, device), sensitivity(trace, device)
    assert mine["bandwidth"] == pytest.approx(-theirs.elasticity("memory.dram.bandwidth")[1], abs=1e-4)
    rates = [theirs.elasticity(path)[1] for path in fields_of(device)["compute"]]
    assert mine["compute"] == pytest.approx(-sum(rates), abs=1e-4)
    waits = [theirs.elasticity(path)[0] for path in fields_of(device)["waits"]]
    assert mine["waits"] == pytest.approx(sum(waits), abs=1e-4)


def test_a_stream_of_weights_answers_to_bandwidth_alone():
    """One row by 16384 x 16384 weights on a chip of 1 TB/s without fixed costs: twice the bandwidth, twice as fast."""
    waits = dict.fromkeys(fields_of(preset("hypothetical"))["waits"], 0.0)
    chip = preset("hypothetical").replace(waits)
    found = answers(linear(1, 16384, 16384, dtype="bf16"), chip)
    assert found["bandwidth"] == pytest.approx(1, abs=0.01)
    assert found["bandwidth twice"] == pytest.approx(2, rel=0.01)
    assert found["compute"] == 0
    assert found["compute twice"] == 1


@pytest.mark.parametrize("chip", presets())
def test_every_chip_has_fields_for_every_resource(chip):
    groups = fields_of(preset(chip))
    assert set(groups) == set(RESOURCES)
    assert all(groups[name] for name in ("bandwidth", "compute", "on chip"))


def test_counts_and_verdict(found):
    n = found.numbers
    recurrent = sum(kind == "recurrent" for kind, _, _ in NETWORKS.values())
    assert n["recurrent_pairs"] == 10 * recurrent
    assert n["recurrent_more_to_bandwidth"] > 0.8 * n["recurrent_pairs"]
    assert n["parallel_more_to_compute"] > 0.8 * n["parallel_pairs"]  # not ResNet-50 where its maps pass the memory
    assert n["decode_more_to_bandwidth"] == n["decode_pairs"]
    assert found.holds == "holds in part"
    assert f"in {n['recurrent_more_to_bandwidth']} of {n['recurrent_pairs']} pairs" in found.verdict


def test_tables_hold_every_network_on_ten_chips(found):
    for table in found.tables[:4]:
        assert [row[0] for row in table.rows] == list(NETWORKS)
        assert len(table.columns) == 11


def test_another_bandwidth_is_another_verdict():
    """With a thousand times the bandwidth no recurrence on a V100 answers to it."""
    usual, fast = (
        STUDY.run(Bench(on=("v100-sxm",), changes=changes)) for changes in ((), (("memory.dram.bandwidth", "900TB/s"),))
    )
    assert usual.numbers["recurrent_much_to_bandwidth"] > 0
    assert fast.numbers["recurrent_much_to_bandwidth"] == 0
    assert usual.verdict != fast.verdict
    assert usual.holds == "holds in part"
    assert fast.holds == "does not hold"


def test_the_first_tpu_s_own_figure(found):
    assert DEPLOYED == DEPLOYED_THERE
    memory, clock, cnns = found.outside
    assert (memory.published, clock.published, cnns.published) == (3, 1, 2)
    assert 3 < memory.computed <= 4
    assert clock.computed == pytest.approx(1, abs=0.05)
    assert 1.5 < cnns.computed < 2.7
