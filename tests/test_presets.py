"""The shipped accelerators: all that are promised, every number with a source, peaks as the vendors print them."""

from __future__ import annotations

import csv
import dataclasses
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from simulator import MatrixUnits, MemoryLevel, preset, presets, simulate
from simulator.accelerator import BASES
from workloads import linear, lstm

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "simulator" / "presets"
PAPERS = ROOT / "tests" / "papers"

#: The devices that must be there, by name.
REQUIRED = [
    "k80",
    "p100-sxm",
    "p100-pcie",
    "v100-sxm",
    "v100-pcie",
    "t4",
    "a100-sxm-40gb",
    "a100-pcie-40gb",
    "a100-sxm-80gb",
    "l4",
    "h100-sxm",
    "h100-pcie",
    "h200",
    "b200",
    "mi100",
    "mi210",
    "mi250x",
    "mi300x",
    "tpu-v1",
    "tpu-v2",
    "tpu-v3",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
    "gaudi-2",
    "gaudi-3",
    "brainwave-stratix-10",
    "groq-lpu",
    "epyc-7763",
    "coral-edge-tpu",
    "jetson-agx-orin",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "smart-speaker-a53",
    "hypothetical",
    "hypothetical-pim",
    "hbm-pim",
    "gddr6-aim",
    "upmem",
]

HYPOTHETICAL = ("hypothetical", "hypothetical-pim")

#: Fields a file may leave out because one dataflow, or the farthest level, has no use for them. Then they are neutral.
NEUTRAL = {
    "matrix.load_cycles": 0.0,
    "matrix.stores_padded_tiles": False,
    **{
        f"matrix.{item.name}": item.default
        for item in dataclasses.fields(MatrixUnits)
        if item.name in ("max_split", "thin_tile", "fragment_m", "fragment_n")
    },
}
NEUTRAL_AT_THE_FARTHEST = {"keeps_weights": False, "keeps_activations": False, "keeps_parts": True}

every_preset = pytest.mark.parametrize("name", presets())


def published() -> list[dict]:
    """Rows of both tables of published peaks."""
    rows = []
    for table in ("peaks.csv", "peaks_other.csv"):
        with (PAPERS / table).open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    return rows


PUBLISHED = published()


def row_name(row: dict) -> str:
    return f"{row['accelerator']}-{row['dtype']}"


# -- which there are -----------------------------------------------------------------------------------


def test_every_required_device_is_there():
    assert set(REQUIRED) <= set(presets())


@every_preset
def test_names_are_lower_case_with_hyphens(name):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    chip = preset(name)
    assert chip.name == name
    assert chip.title != name


@every_preset
def test_the_year_is_that_of_the_device(name):
    year = preset(name).year
    assert year is None if name in HYPOTHETICAL else 2010 <= year <= 2026


# -- where the numbers come from -------------------------------------------------------------------------


def own_numbers(name: str) -> dict[str, object]:
    """Every numeric or yes-or-no field of a preset that is set."""
    return {path: value for path, value in preset(name).fields.items() if not isinstance(value, (str, type(None)))}


@every_preset
def test_every_number_has_source_and_basis(name):
    chip = preset(name)
    farthest = list(chip.memory)[-1]
    for path, value in own_numbers(name).items():
        if path in chip.citations:
            cited = chip.citations[path]
            assert len(cited.source.split()) >= 2, f"{path}: {cited.source!r} names no document and no reason"
            assert cited.basis in BASES, path
            assert not re.search(r"[{}]", cited.source), f"{path}: a key of [sources] is not filled in"
        elif path in NEUTRAL:
            assert value == NEUTRAL[path], path
        else:
            assert path.startswith(f"memory.{farthest}."), f"{path} has no source"
            leaf = path.rsplit(".", 1)[1]
            assert leaf in NEUTRAL_AT_THE_FARTHEST, f"{path} has no source"
            assert value is NEUTRAL_AT_THE_FARTHEST[leaf], path


@every_preset
def test_no_source_is_cited_for_a_number_that_is_not_there(name):
    assert set(preset(name).citations) <= set(own_numbers(name))


@every_preset
def test_assumptions_say_why_and_only_assumptions_are_assumed(name):
    for path, cited in preset(name).citations.items():
        if cited.basis == "assumed":
            assert cited.source.startswith("assumed: "), f"{path}: {cited.source!r}"
            assert len(cited.source.removeprefix("assumed: ")) >= 5, f"{path}: no reason given"
        else:
            assert not cited.source.lower().startswith("assumed"), f"{path} is {cited.basis!r} but assumed"


@every_preset
def test_every_listed_source_is_used(name):
    """A document nobody cites is a leftover of numbers that changed."""
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    listed = tomllib.loads(text).get("sources", {})
    for key, title in listed.items():
        assert f"{{{key}}}" in text, f"{key} is listed and never cited"
        assert len(title.split()) >= 3, f"{key}: {title!r}"


@every_preset
def test_bandwidth_and_peak_of_a_real_device_are_not_assumed(name):
    if name in HYPOTHETICAL:
        return
    chip = preset(name)
    assert chip.citations[f"memory.{list(chip.memory)[-1]}.bandwidth_bytes_per_s"].basis != "assumed"
    assert any(chip.citations[f"matrix.macs_per_cycle.{dtype}"].basis != "assumed" for dtype in chip.dtypes)


# -- what the vendors print ----------------------------------------------------------------------------


def test_every_device_has_a_published_peak():
    assert {row["accelerator"] for row in PUBLISHED} == set(presets())


@pytest.mark.parametrize("row", PUBLISHED, ids=row_name)
def test_peak_lies_within_its_envelope(row):
    assert len(row["source"]) > 10
    peak = float(row["peak_flops_per_s"])
    # the datasheet's clock, not the one a part was measured to hold
    ratio = preset(row["accelerator"], calibrated=False).peak_flops_per_s(row["dtype"]) / peak
    assert float(row["low"]) <= ratio <= float(row["high"])


@pytest.mark.parametrize("row", [r for r in PUBLISHED if r.get("at_clock") == "vector"], ids=row_name)
def test_a_lower_clock_under_load_is_all_that_separates_a_peak_from_print(row):
    """T4, L4 and M40 do not hold the clock of their data sheet; at that clock the peak is the printed one."""
    chip = preset(row["accelerator"])
    at_boost = chip.replace({"matrix.clock_hz": chip.vector.clock_hz}).peak_flops_per_s(row["dtype"])
    assert at_boost == pytest.approx(float(row["peak_flops_per_s"]), rel=0.015)


@pytest.mark.parametrize("row", PUBLISHED, ids=row_name)
def test_bandwidth_is_the_published_one(row):
    ratio = preset(row["accelerator"]).outer.bandwidth_bytes_per_s / float(row["bandwidth_bytes_per_s"])
    assert 0.99 <= ratio <= 1.01


# -- sane machines -------------------------------------------------------------------------------------


@every_preset
def test_nearer_memory_is_faster(name):
    rates = [level.bandwidth_bytes_per_s for level in preset(name).memory.values()]
    assert rates == sorted(rates, reverse=True)


@every_preset
def test_numbers_are_of_the_right_order(name):
    """Slips of a unit (MHz for Hz, GB for bytes, us for s) show as factors of a thousand."""
    chip = preset(name)
    assert 1e8 <= chip.matrix.clock_hz <= 5e9
    assert 1e8 <= chip.vector.clock_hz <= 5e9
    assert 1e5 <= chip.outer.capacity_bytes <= 2e12
    assert 1e8 <= chip.outer.bandwidth_bytes_per_s <= 1e14
    assert chip.latency.launch_s <= 1e-4
    assert chip.latency.step_s <= 1e-4
    assert all(level.latency_s <= 1e-5 for level in chip.memory.values())
    if chip.package.tdp_w is not None:
        assert 1 <= chip.package.tdp_w <= 1500
    if chip.package.area_mm2 is not None:
        assert 10 <= chip.package.area_mm2 <= 3000
    if chip.package.process_nm is not None:
        assert 2 <= chip.package.process_nm <= 65


@every_preset
def test_narrower_types_are_not_slower(name):
    """An element type of fewer bytes runs at least as fast as a wider one of its kind."""
    chip = preset(name)
    for family in (("fp64", "fp32", "tf32", "fp16", "fp8"), ("int16", "int8", "int4")):
        peaks = [chip.peak_flops_per_s(dtype) for dtype in family if dtype in chip.dtypes]
        assert peaks == sorted(peaks)


@every_preset
def test_every_element_type_runs(name):
    """A product and a recurrence in every type the matrix units have: finite times, shares within 0..1."""
    chip = preset(name)
    for dtype in chip.dtypes:
        for trace in (linear(64, 512, 512, dtype=dtype), lstm(1, 256, sequence_length=10, batch=4, dtype=dtype)):
            result = simulate(trace, chip)
            assert np.isfinite(result.time_s).all()
            assert (result.time_s > 0).all()
            assert 0 < result.utilisation <= 1


@every_preset
def test_private_levels_belong_to_chips_with_several_units(name):
    chip = preset(name)
    private = [level for level in chip.memory.values() if level.scope == "unit"]
    assert not private or chip.matrix.count > 1
    assert isinstance(chip.outer, MemoryLevel)
    assert chip.outer.scope == "chip"
