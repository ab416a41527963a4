"""Weights resident on chip: the widest layer by hand and by search, and what the text says when the room changes."""

from __future__ import annotations

import math

import pytest

from reports.studies import Bench, study
from reports.studies.resident_weights import (
    KINDS,
    MULTIPLE,
    layer,
    resident,
    room_bytes,
    streaming,
    time_shares,
    widest,
    widest_by_hand,
)
from reports.studies.resident_weights_outside import PERSISTENT_HIDDEN, REGISTERS_BYTES, outside, persistent
from simulator import preset, simulate

STUDY = study("resident-weights")


@pytest.fixture(scope="module")
def found():
    return STUDY.run(Bench())


def test_four_gates_fill_the_room():
    """8 MiB hold 4 H^2 numbers of two bytes for H = 1024."""
    assert widest_by_hand(8 * 2**20, "fp16") == 1024
    assert widest_by_hand(8 * 2**20, "fp32") == pytest.approx(1024 / math.sqrt(2))


@pytest.mark.parametrize("name", ["v100-sxm", "a100-sxm-80gb", "tpu-v4", "raspberry-pi-5", "mi300x"])
def test_the_widest_stays_and_the_next_does_not(name):
    chip = preset(name)
    dtype = "fp16" if "fp16" in chip.dtypes else "bf16"
    hidden = widest(chip, dtype)
    assert 0 <= widest_by_hand(room_bytes(chip), dtype) - hidden < 3 * MULTIPLE
    assert resident(simulate(layer(hidden, dtype), chip)) == pytest.approx(1, abs=1e-3)
    assert resident(simulate(layer(hidden + 2 * MULTIPLE, dtype), chip)) < 0.999


def test_where_nothing_may_stay_nothing_does():
    chip = preset("tpu-v1")
    assert room_bytes(chip) == 0
    assert widest(chip, "int8") == 0
    kept = STUDY.run(Bench(on=("tpu-v1",)))
    assert kept.holds == "does not hold"
    assert "No chip here keeps the weights" in kept.verdict


def test_memory_that_is_all_on_chip_is_all_room():
    chip = preset("groq-lpu")
    assert room_bytes(chip) == chip.outer.capacity_bytes
    assert resident(simulate(layer(128, "fp16"), chip)) == 1
    shares = time_shares(simulate(layer(128, "fp16"), chip))
    assert shares["off chip"] == 0


def test_without_the_ability_weights_are_read_anew():
    chip = preset("a100-sxm-80gb")
    trace = layer(2048, "fp16")
    kept, anew = simulate(trace, chip), simulate(trace, streaming(chip))
    assert resident(kept) == 1
    assert resident(anew) == 0
    assert anew.latency_s > kept.latency_s
    assert sum(time_shares(anew).values()) == pytest.approx(1)


def test_numbers_of_the_verdict(found):
    n = found.numbers
    assert n["off_chip_is_no_limit"] == n["chips"] == 8
    assert sum(n[f"mostly_{kind.replace(' ', '_')}"] for kind in KINDS[1:]) == n["chips"]
    assert n["gain_low"] >= 1
    assert n["hidden_high"] == max(row[4] for row in found.tables[0].rows if row[2] in ("fp16", "bf16"))
    assert f"{n['hidden_high']:.0f} units (mi300x)" in found.verdict


def test_four_times_the_room_is_twice_the_width():
    usual, roomy = (
        STUDY.run(Bench(on=("v100-sxm",), changes=changes)) for changes in ((), (("memory.l2.capacity", "25165824"),))
    )
    assert preset("v100-sxm").memory["l2"].capacity_bytes * 4 == 25165824
    ratio = roomy.numbers["hidden_high"] / usual.numbers["hidden_high"]
    assert ratio == pytest.approx(2, rel=0.01)
    assert usual.verdict != roomy.verdict


def test_another_bandwidth_is_another_text():
    usual, slow = (
        STUDY.run(Bench(on=("a100-sxm-80gb",), changes=changes))
        for changes in ((), (("memory.dram.bandwidth", "200GB/s"),))
    )
    assert slow.numbers["gain_high"] > 3 * usual.numbers["gain_high"]
    assert usual.verdict != slow.verdict


def test_persistent_weights_fit_the_registers():
    """24 multiprocessors: the next multiple of 128 does not fit."""
    registers = 24 * REGISTERS_BYTES
    assert 4 * PERSISTENT_HIDDEN**2 <= registers < 4 * (PERSISTENT_HIDDEN + 128) ** 2
    assert persistent(preset("m40")).memory["l2"].capacity_bytes == registers


def test_published_machines():
    share, products, gain, pinned = outside()
    assert products.published == pytest.approx(1.5)
    assert gain.computed == pytest.approx(share.computed / products.computed)
    assert -0.5 < share.discrepancy < 0.5
    assert 0 < products.computed < share.computed < 100
    assert pinned.unit == "ms"
