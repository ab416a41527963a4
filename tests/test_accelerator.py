"""The accelerator by hand and from a file: what it accepts, what it derives, and that every wrong number is refused."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from simulator import (
    Abilities,
    Accelerator,
    AcceleratorError,
    Latency,
    Link,
    MatrixUnits,
    MemoryLevel,
    Package,
    VectorUnits,
    load_accelerator,
    preset,
    presets,
    simulate,
)
from workloads.trace import Trace


def sections() -> dict:
    """A small chip as the mappings a user would type."""
    return {
        "name": "toy",
        "matrix": {"count": 4, "clock_hz": 1e9, "macs_per_cycle": {"fp16": 256, "fp32": 64}},
        "vector": {"count": 4, "clock_hz": 2e9, "flops_per_cycle": 32, "special_per_cycle": 8},
        "memory": {
            "l1": {"capacity_bytes": 1e5, "bandwidth_bytes_per_s": 1e12, "scope": "unit"},
            "l2": {"capacity_bytes": 1e6, "bandwidth_bytes_per_s": 4e11, "keeps_weights": True},
            "dram": {"capacity_bytes": 1e9, "bandwidth_bytes_per_s": 1e11, "latency_s": 1e-7},
        },
        "latency": {"launch_s": 1e-6},
        "link": {"bandwidth_bytes_per_s": 5e10},
        "package": {"tdp_w": 100},
    }


def toy(**changes) -> Accelerator:
    return Accelerator(**(sections() | changes))


def message(error) -> str:
    return str(error.value)


ONE_PRODUCT = Trace.from_rows(
    [
        {
            "layer": "a",
            "op": "product",
            "kind": "matmul",
            "batch": 1,
            "m": 8,
            "n": 8,
            "k": 8,
            "matrix_flops": 1024,
            "weight_bytes": 128,
            "input_bytes": 128,
            "output_bytes": 128,
            "dtype": "fp16",
        }
    ]
)


# -- by hand -----------------------------------------------------------------------------------------


def test_derived_numbers_by_hand():
    chip = toy()
    assert chip.peak_flops_per_s("fp16") == 2 * 4 * 256 * 1e9
    assert chip.peak_flops_per_s("fp32") == 2 * 4 * 64 * 1e9
    assert chip.vector_flops_per_s == 4 * 32 * 2e9
    assert chip.special_ops_per_s == 4 * 8 * 2e9
    assert chip.ridge_flops_per_byte("fp16") == 2 * 4 * 256 * 1e9 / 1e11
    assert chip.ridge_flops_per_byte("fp16", "l2") == 2 * 4 * 256 * 1e9 / 4e11
    assert chip.dtypes == ("fp16", "fp32")
    assert chip.outer is chip.memory["dram"]
    assert chip.title == "toy"
    assert (chip.shape, chip.designs) == ((), 1)
    assert "toy" in repr(chip)
    assert "fp16" in repr(chip)


def test_sections_as_objects_equal_sections_as_mappings():
    given = sections()
    objects = Accelerator(
        name="toy",
        matrix=MatrixUnits(**given["matrix"]),
        vector=VectorUnits(**given["vector"]),
        memory={level: MemoryLevel(**values) for level, values in given["memory"].items()},
        latency=Latency(**given["latency"]),
        abilities=Abilities(),
        link=Link(**given["link"]),
        package=Package(**given["package"]),
    )
    assert objects.fields == toy().fields


def test_defaults_are_neutral():
    chip = toy()
    assert chip.matrix.sustained == 1.0
    assert chip.memory["dram"].sustained == 1.0
    assert chip.latency.step_s == 0.0
    assert chip.abilities.fuses_elementwise is False
    assert chip.abilities.concurrent_ops == 1.0
    assert chip.abilities.overlap == 1.0
    assert chip.package.area_mm2 is None
    without = {key: value for key, value in sections().items() if key not in ("link", "package", "latency")}
    assert Accelerator(**without).link is None
    assert Accelerator(**without).latency.launch_s == 0.0


def test_fields_list_every_number_by_path():
    fields = toy().fields
    assert fields["matrix.macs_per_cycle.fp16"] == 256.0
    assert fields["memory.dram.bandwidth_bytes_per_s"] == 1e11
    assert fields["link.latency_s"] == 0.0
    assert fields["memory.l1.scope"] == "unit"
    assert next(path for path in fields if path.startswith("memory.")).startswith("memory.l1.")


def test_describe_gives_value_and_meaning_of_every_known_field():
    rows = {row["field"]: row for row in toy().describe()}
    assert rows["memory.dram.bandwidth_bytes_per_s"]["value"] == 1e11
    assert "bandwidth" in rows["memory.dram.bandwidth_bytes_per_s"]["meaning"]
    assert "package.area_mm2" not in rows
    assert all(row["meaning"] for row in rows.values())


# -- paths and replace -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("memory.dram.bandwidth", "memory.dram.bandwidth_bytes_per_s"),
        ("memory.dram.bandwidth_bytes_per_s", "memory.dram.bandwidth_bytes_per_s"),
        ("memory.l2.capacity", "memory.l2.capacity_bytes"),
        ("memory.dram.energy", "memory.dram.energy_j_per_byte"),
        ("matrix.clock", "matrix.clock_hz"),
        ("matrix.feed", "matrix.feed_bytes_per_cycle"),
        ("matrix.load", "matrix.load_cycles"),
        ("latency.launch", "latency.launch_s"),
        ("package.tdp", "package.tdp_w"),
        ("package.area", "package.area_mm2"),
        ("package.price", "package.price_usd"),
        ("package.process", "package.process_nm"),
        ("matrix.count", "matrix.count"),
        ("matrix.macs_per_cycle.fp16", "matrix.macs_per_cycle.fp16"),
    ],
)
def test_the_unit_may_be_left_out_of_a_path(short, full):
    assert toy().path(short) == full


@pytest.mark.parametrize("key", ["memory.dram.bandwidth", "memory.dram.bandwidth_bytes_per_s"])
def test_replace_changes_one_field_and_leaves_the_original(key):
    chip = toy()
    faster = chip.replace({key: 2e11})
    assert faster.memory["dram"].bandwidth_bytes_per_s == 2e11
    assert chip.memory["dram"].bandwidth_bytes_per_s == 1e11
    changed = {p for p in chip.fields if chip.fields[p] != faster.fields[p]}
    assert changed == {"memory.dram.bandwidth_bytes_per_s"}


def test_replace_many_fields_and_names_at_once():
    chip = toy().replace(
        {"matrix.count": 8, "matrix.macs_per_cycle.fp16": 512, "matrix.clock": 2e9, "memory.l2.capacity": 2e6},
        name="bigger",
        notes="a trial",
    )
    assert chip.peak_flops_per_s("fp16") == 2 * 8 * 512 * 2e9
    assert chip.peak_flops_per_s("fp32") == 2 * 8 * 64 * 2e9
    assert (chip.name, chip.notes, chip.memory["l2"].capacity_bytes) == ("bigger", "a trial", 2e6)


def test_replace_can_add_an_element_type():
    chip = toy().replace({"matrix.macs_per_cycle.int8": 512})
    assert chip.dtypes == ("fp16", "fp32", "int8")
    assert chip.peak_flops_per_s("int8") == 2 * 4 * 512 * 1e9


def test_replace_sets_and_clears_an_optional_number():
    chip = toy().replace({"package.area_mm2": 300, "package.tdp_w": None})
    assert (chip.package.area_mm2, chip.package.tdp_w) == (300.0, None)


def test_replaced_numbers_lose_their_citation_and_others_keep_it():
    chip = preset("v100-sxm")
    changed = chip.replace({"memory.dram.bandwidth": 1e12})
    assert "memory.dram.bandwidth_bytes_per_s" in chip.citations
    assert "memory.dram.bandwidth_bytes_per_s" not in changed.citations
    assert changed.citations["matrix.count"] == chip.citations["matrix.count"]


@pytest.mark.parametrize(
    ("key", "suggested"),
    [
        ("memory.dram.bandwith", "memory.dram.bandwidth"),
        ("matrix.cuont", "matrix.count"),
        ("memory.ddram.bandwidth", "memory.dram.bandwidth"),
        ("abilities.fuse_elementwise", "abilities.fuses_elementwise"),
        ("matrix.macs_per_cycle.fp17", "matrix.macs_per_cycle.fp16"),
    ],
)
def test_unknown_field_names_the_nearest(key, suggested):
    with pytest.raises(AcceleratorError) as error:
        toy().replace({key: 1})
    assert repr(key) in message(error)
    assert f"did you mean '{suggested}'" in message(error)
    assert "toy" in message(error)


def test_a_failed_replace_changes_nothing():
    chip = toy()
    before = dict(chip.fields)
    with pytest.raises(AcceleratorError):
        chip.replace({"matrix.count": 8, "memory.dram.bandwidth": -1})
    assert chip.fields == before


def test_no_link_cannot_be_given_a_bandwidth_alone():
    chip = toy(link=None)
    with pytest.raises(AcceleratorError, match=r"unknown field 'link\.bandwidth'"):
        chip.replace({"link.bandwidth": 1e9})


# -- design spaces -----------------------------------------------------------------------------------


def test_arrays_make_a_design_space():
    chip = toy().replace({"memory.dram.bandwidth": [1e11, 2e11, 4e11]})
    assert (chip.shape, chip.designs) == ((3,), 3)
    assert chip.ridge_flops_per_byte("fp16").tolist() == [20.48, 10.24, 5.12]
    assert "3 designs" in repr(chip)


def test_arrays_of_different_fields_broadcast():
    chip = toy().replace({"matrix.count": np.array([[1], [2]]), "memory.dram.bandwidth": np.array([1e11, 2e11, 4e11])})
    assert chip.shape == (2, 3)
    assert chip.peak_flops_per_s("fp16").shape == (2, 1)


def test_grid_spans_every_combination():
    chip = toy().grid({"matrix.count": [1, 2], "memory.dram.bandwidth": [1e11, 2e11, 4e11]})
    assert chip.shape == (2, 3)
    assert chip.matrix.count[1].tolist() == [2.0, 2.0, 2.0]
    assert chip.memory["dram"].bandwidth_bytes_per_s[:, 2].tolist() == [4e11, 4e11]


def test_a_grid_keeps_one_array_an_axis():
    """What the views repeat takes no memory, and copies of the chip do not fill it in."""
    chip = toy().grid({"matrix.count": np.arange(1, 1001), "memory.dram.bandwidth": np.linspace(1e11, 4e11, 1000)})
    for same in (chip, chip.replace({}), chip.grid({"latency.launch": [0.0, 1e-6]})):
        for value in (same.matrix.count, same.memory["dram"].bandwidth_bytes_per_s):
            assert 0 in value.strides
            assert not value.flags.writeable


def test_candidates_are_held_and_checked_as_the_field_is():
    chip = toy()
    for path, values in {
        "matrix.count": [1, 2],
        "memory.dram.bandwidth_bytes_per_s": [1e9],
        "latency.launch_s": [0.0],
    }.items():
        assert np.array_equal(chip.candidates(path, np.array(values)), chip.replace({path: values}).fields[path])
    assert chip.candidates("matrix.macs_per_cycle.fp16", np.array([8, 16])).tolist() == [8.0, 16.0]
    for path, wrong in {
        "matrix.count": [1.5],
        "memory.dram.sustained": [0.5, 1.5],
        "matrix.macs_per_cycle.fp16": [0.0],
    }.items():
        with pytest.raises(AcceleratorError) as quick:
            chip.candidates(path, np.array(wrong))
        with pytest.raises(AcceleratorError) as careful:
            chip.replace({path: np.array(wrong)})
        assert str(quick.value).removesuffix(".fp16") == str(careful.value).removesuffix(".fp16")


def test_grid_of_nothing_is_the_chip():
    assert toy().grid({}).fields == toy().fields


def test_design_picks_one_point_of_the_space():
    space = toy().grid({"matrix.count": [1, 2], "memory.dram.bandwidth": [1e11, 2e11, 4e11]})
    one = space.design((1, 2))
    assert one.shape == ()
    assert one.fields == toy().replace({"matrix.count": 2, "memory.dram.bandwidth": 4e11}).fields
    assert isinstance(one.matrix.count, float)


def test_design_broadcasts_fields_of_lower_rank():
    space = toy().replace({"matrix.count": np.array([[1], [2]]), "memory.dram.bandwidth": np.array([1e11, 2e11, 4e11])})
    one = space.design((0, 1))
    assert (one.matrix.count, one.memory["dram"].bandwidth_bytes_per_s) == (1.0, 2e11)


def test_arrays_that_do_not_broadcast_are_named():
    with pytest.raises(AcceleratorError) as error:
        toy().replace({"matrix.count": [1, 2], "memory.dram.bandwidth": [1e11, 2e11, 4e11]})
    assert "matrix.count" in message(error)
    assert "memory.dram.bandwidth_bytes_per_s" in message(error)
    assert "(2,)" in message(error)
    assert "(3,)" in message(error)


def test_one_bad_candidate_among_many_is_refused_and_shown():
    with pytest.raises(AcceleratorError, match=r"memory\.dram\.bandwidth_bytes_per_s must be above 0, got -3"):
        toy().replace({"memory.dram.bandwidth": [1e11, -3.0, 1e12]})


@pytest.mark.parametrize("index", [3, (0, 1), "first"])
def test_a_design_outside_the_space_is_refused(index):
    with pytest.raises((AcceleratorError, IndexError)):
        toy().replace({"matrix.count": [1, 2, 3]}).design(index)


# -- wrong numbers -----------------------------------------------------------------------------------

POSITIVE = ["matrix.count", "matrix.clock_hz", "vector.flops_per_cycle", "vector.special_per_cycle"]
POSITIVE += ["memory.dram.bandwidth_bytes_per_s", "memory.l2.capacity_bytes", "matrix.tile_m", "matrix.tile_k"]
POSITIVE += ["matrix.feed_bytes_per_cycle", "matrix.macs_per_cycle.fp16", "link.bandwidth_bytes_per_s"]
POSITIVE += ["package.tdp_w", "matrix.sustained", "memory.dram.sustained", "vector.sustained"]
NOT_NEGATIVE = ["latency.launch_s", "latency.step_s", "memory.dram.latency_s", "link.latency_s"]
NOT_NEGATIVE += ["matrix.prologue_cycles", "matrix.load_cycles", "abilities.overlap"]
WHOLE = ["matrix.count", "matrix.tile_m", "matrix.tile_n", "matrix.tile_k", "matrix.max_split", "vector.count"]
SHARES = ["matrix.sustained", "vector.sustained", "memory.dram.sustained", "abilities.overlap"]
AT_LEAST_ONE = ["abilities.concurrent_ops", "matrix.max_split"]


def refused(field: str, value, shown: str) -> None:
    """The error names accelerator, field and value."""
    with pytest.raises(AcceleratorError) as error:
        toy().replace({field: value})
    assert message(error).startswith("toy: ")
    assert field in message(error)
    assert shown in message(error)


@pytest.mark.parametrize("field", [*POSITIVE, *NOT_NEGATIVE, *AT_LEAST_ONE])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.array([1.0, np.nan])])
def test_nan_and_infinity_are_refused(field, value):
    refused(field, value, "must be finite")


@pytest.mark.parametrize("field", POSITIVE)
@pytest.mark.parametrize("value", [0, -1, -1e9])
def test_zero_and_negative_are_refused(field, value):
    refused(field, value, f"{float(value):g}")


@pytest.mark.parametrize("field", NOT_NEGATIVE)
def test_costs_may_be_zero_but_not_negative(field):
    assert toy().replace({field: 0}).fields[field] == 0.0
    refused(field, -1e-9, "must be at least 0")


@pytest.mark.parametrize("field", WHOLE)
def test_fractions_of_a_unit_are_refused(field):
    refused(field, 2.5, "must be a whole number, got 2.5")
    refused(field, np.array([1, 2, 3.5]), "must be a whole number, got 3.5")


@pytest.mark.parametrize("field", SHARES)
def test_shares_end_at_one(field):
    assert toy().replace({field: 1}).fields[field] == 1.0
    refused(field, 1.01, "must be at most 1")


@pytest.mark.parametrize("field", AT_LEAST_ONE)
def test_counts_start_at_one(field):
    refused(field, 0, "must be at least 1")


@pytest.mark.parametrize(
    "value", [True, False, "2e11", "2 TB/s", None, [], [[]], {}, object(), 1 + 2j, b"1", [1, None]]
)
@pytest.mark.parametrize("field", ["memory.dram.bandwidth_bytes_per_s", "matrix.count", "matrix.macs_per_cycle.fp16"])
def test_what_is_no_number_is_refused(field, value):
    refused(field, value, "must be a number or an array of numbers")


def test_a_bool_array_is_no_number():
    refused("matrix.count", np.array([True, False]), "must be a number or an array of numbers")


def test_a_ragged_array_is_refused():
    refused("matrix.count", [[1, 2], [3]], "must be a number or an array of numbers")


@pytest.mark.parametrize("value", [1, 0, "yes", None, np.array([True, False])])
def test_a_flag_is_true_or_false(value):
    refused("abilities.fuses_elementwise", value, "must be true or false")
    refused("memory.l2.keeps_weights", value, "must be true or false")


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("matrix.dataflow", "output-stationery", "output-stationary"),
        ("memory.l2.scope", "chips", "chip"),
    ],
)
def test_unknown_choice_names_the_nearest(field, value, nearest):
    refused(field, value, f"did you mean '{nearest}'")


@pytest.mark.parametrize("value", [None, 3, np.array(["weight-stationary", "output-stationary"])])
def test_a_choice_is_one_word(value):
    refused("matrix.dataflow", value, "unknown")


# -- wrong structure ---------------------------------------------------------------------------------


def without(section: str, key: str) -> dict:
    given = copy.deepcopy(sections())
    del given[section][key]
    return given


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("matrix", "count"),
        ("matrix", "clock_hz"),
        ("matrix", "macs_per_cycle"),
        ("vector", "special_per_cycle"),
        ("link", "bandwidth_bytes_per_s"),
    ],
)
def test_missing_field_is_named(section, key):
    with pytest.raises(AcceleratorError, match=rf"toy: {section}\.{key} is missing"):
        Accelerator(**without(section, key))


def test_missing_field_of_a_memory_level_is_named():
    given = sections()
    del given["memory"]["l2"]["bandwidth_bytes_per_s"]
    with pytest.raises(AcceleratorError, match=r"memory\.l2\.bandwidth_bytes_per_s is missing"):
        Accelerator(**given)


def test_unknown_field_of_a_section_names_the_nearest():
    given = sections()
    given["matrix"]["clok_hz"] = 1e9
    with pytest.raises(AcceleratorError, match=r"unknown field 'matrix\.clok_hz'.*did you mean 'clock_hz'"):
        Accelerator(**given)


@pytest.mark.parametrize("section", ["matrix", "vector", "latency", "abilities", "link", "package"])
@pytest.mark.parametrize("value", [3, "fast", [1, 2]])
def test_a_section_is_a_mapping(section, value):
    with pytest.raises(AcceleratorError, match=rf"toy: {section} must be a \w+ or a mapping"):
        toy(**{section: value})


@pytest.mark.parametrize("section", ["matrix", "vector", "latency", "abilities", "package"])
def test_only_the_link_may_be_none(section):
    with pytest.raises(AcceleratorError, match=section):
        toy(**{section: None})


@pytest.mark.parametrize("value", [None, {}, [], 3, "dram"])
def test_memory_needs_levels(value):
    with pytest.raises(AcceleratorError, match="toy: memory must map"):
        toy(memory=value)


def test_a_memory_level_is_a_mapping():
    with pytest.raises(AcceleratorError, match=r"toy: memory\.dram must be a MemoryLevel"):
        toy(memory={"dram": 1e9})


def test_private_levels_come_first_and_the_last_is_shared():
    memory = sections()["memory"]
    for order in (("l2", "l1", "dram"), ("l2", "dram", "l1"), ("l1",)):
        with pytest.raises(AcceleratorError, match="toy: memory"):
            toy(memory={level: memory[level] for level in order})


@pytest.mark.parametrize("level", ["matrix", "vector", "special", "link", "latency"])
def test_a_level_cannot_take_the_name_of_another_bound(level):
    """A result lists its bounds by name: two of one name would hide each other."""
    memory = sections()["memory"]
    with pytest.raises(AcceleratorError, match=rf"memory.*{level}"):
        toy(memory={"l1": memory["l1"], level: memory["dram"]})


@pytest.mark.parametrize("value", [{}, None, 256, [("fp16", 256)]])
def test_rates_are_by_element_type(value):
    with pytest.raises(AcceleratorError, match=r"matrix\.macs_per_cycle must map element types"):
        toy(matrix=sections()["matrix"] | {"macs_per_cycle": value})


def test_unknown_element_type_of_a_rate_names_the_nearest():
    with pytest.raises(AcceleratorError, match=r"unknown element type 'float16'.*did you mean 'fp16'"):
        toy(matrix=sections()["matrix"] | {"macs_per_cycle": {"float16": 256}})


def test_unknown_family_names_the_nearest():
    with pytest.raises(AcceleratorError, match=r"toy: unknown family 'gpus'.*did you mean 'gpu'"):
        toy(family="gpus")


def test_peak_of_an_element_type_the_chip_lacks():
    with pytest.raises(AcceleratorError, match=r"toy: .*'int8' \(they run: fp16, fp32\)"):
        toy().peak_flops_per_s("int8")


def test_simulating_an_element_type_the_chip_lacks_names_row_type_and_nearest():
    trace = ONE_PRODUCT.replace(dtype=["bf16"])
    with pytest.raises(AcceleratorError) as error:
        simulate(trace, toy())
    assert "toy: row 0 (a: product)" in message(error)
    assert "'bf16'" in message(error)


def test_an_elementwise_op_runs_in_any_element_type():
    row = {"layer": "a", "op": "add", "kind": "elementwise", "vector_flops": 8, "input_bytes": 8, "dtype": "bf16"}
    assert simulate(Trace.from_rows([row]), toy()).time_s[0] > 0


# -- frozen ------------------------------------------------------------------------------------------


def test_no_field_can_be_assigned():
    chip = toy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        chip.name = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        chip.matrix.count = 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        chip.memory["dram"].bandwidth_bytes_per_s = 1e12


def test_arrays_are_read_only_copies():
    counts = np.array([1.0, 2.0])
    chip = toy().replace({"matrix.count": counts})
    counts[0] = 99.0
    assert chip.matrix.count.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        chip.matrix.count[0] = 99.0


def test_what_was_passed_in_can_change_without_harm():
    given = sections()
    chip = Accelerator(**given)
    before = dict(chip.fields)
    given["matrix"]["macs_per_cycle"]["fp16"] = 1e9
    given["memory"]["dram"]["bandwidth_bytes_per_s"] = 1.0
    del given["memory"]["l2"]
    assert chip.fields == before
    assert chip.peak_flops_per_s("fp16") == 2 * 4 * 256 * 1e9


# -- from a file -------------------------------------------------------------------------------------


def number(value, source="a datasheet, page 1", basis="vendor") -> str:
    return f'{{ value = {value}, source = "{source}", basis = "{basis}" }}'


def document() -> dict[str, dict[str, str] | str]:
    """A complete preset, section by section, each value as TOML text."""
    true, false = number("true"), number("false")
    level = {"scope": '"chip"', "capacity_bytes": number(1e9), "bandwidth_bytes_per_s": number(1e11)}
    level |= {"sustained": number(0.9), "latency_s": number(1e-7)}
    return {
        "": {"name": '"toy"', "title": '"Toy chip"', "family": '"gpu"', "year": "2020"},
        "sources": {"sheet": '"Toy datasheet, revision 2, 2020"'},
        "matrix": {
            "dataflow": '"output-stationary"',
            "count": number(4, "{sheet}, table 1"),
            "clock_hz": number(1e9),
            "tile_m": number(32),
            "tile_n": number(32),
            "tile_k": number(16),
            "feed_bytes_per_cycle": number(64),
            "prologue_cycles": number(100),
            "sustained": number(0.9),
            "max_split": number(8),
            "thin_tile": number(8),
            "batched_tile": number(32),
            "operand_macs": number(5),
            "loop_cycles_per_byte": number(10),
            "resident_results": number(32768),
            "reach_cost": number(0),
            "split_cycles": number(5000),
        },
        "matrix.macs_per_cycle": {"fp16": number(256)},
        "vector": {
            "count": number(4),
            "clock_hz": number(1e9),
            "flops_per_cycle": number(32),
            "special_per_cycle": number(8),
            "dependent_cycles": number(4),
            "sustained": number(0.8),
        },
        "memory.l2": level | {"keeps_weights": true, "keeps_activations": true, "keeps_parts": false},
        "memory.dram": dict(level),
        "latency": {
            "launch_s": number(1e-6, "assumed: a guess", "assumed"),
            "step_s": number(0),
            "first_steps_s": number(0),
            "first_steps": number(0),
        },
        "abilities": {
            "fuses_elementwise": false,
            "persistent_recurrence": false,
            "skips_masked": true,
            "concurrent_ops": number(1),
            "overlap": number(1),
        },
    }


def written(tmp_path, sections: dict, name="toy.toml"):
    """The document as a file."""
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]"] if section else []
        lines += [f"{key} = {value}" for key, value in values.items()]
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_complete_file_loads(tmp_path):
    chip = load_accelerator(written(tmp_path, document()))
    assert (chip.name, chip.title, chip.family, chip.year) == ("toy", "Toy chip", "gpu", 2020)
    assert chip.matrix.count == 4.0
    assert chip.memory["l2"].keeps_weights is True
    assert list(chip.memory) == ["l2", "dram"]
    assert chip.link is None
    cited = chip.citations["matrix.count"]
    assert cited.source == "Toy datasheet, revision 2, 2020, table 1"
    assert cited.basis == "vendor"
    assert chip.citations["latency.launch_s"].basis == "assumed"


def test_a_path_may_be_text(tmp_path):
    assert load_accelerator(str(written(tmp_path, document()))).name == "toy"


def test_a_file_may_inherit_its_familys_assumptions(tmp_path):
    sections = document()
    sections[""]["inherits"] = '"gpu"'
    sections["matrix"] = {key: sections["matrix"][key] for key in ("count", "clock_hz", "tile_m")}
    del sections["latency"], sections["abilities"]
    chip = load_accelerator(written(tmp_path, sections))
    family = preset("v100-sxm", calibrated=False)
    assert chip.matrix.tile_m == 32.0
    assert chip.latency.launch_s == family.latency.launch_s
    assert chip.matrix.max_split == family.matrix.max_split
    assert chip.citations["latency.launch_s"] == family.citations["latency.launch_s"]
    assert chip.citations["matrix.tile_m"].source == "a datasheet, page 1"


def broken(tmp_path, section: str, key: str, value: str | None) -> str:
    """The error of the document with one value changed, or dropped when None."""
    sections = document()
    if value is None:
        del sections[section][key]
    else:
        sections.setdefault(section, {})[key] = value
    with pytest.raises(AcceleratorError) as error:
        load_accelerator(written(tmp_path, sections))
    assert "toy.toml" in message(error)  # the file, whatever else is wrong
    return message(error)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("matrix", "clock_hz"),
        ("matrix", "sustained"),
        ("matrix", "prologue_cycles"),
        ("vector", "special_per_cycle"),
        ("memory.l2", "bandwidth_bytes_per_s"),
        ("memory.l2", "keeps_weights"),
        ("memory.dram", "capacity_bytes"),
        ("memory.dram", "latency_s"),
        ("latency", "step_s"),
        ("abilities", "overlap"),
        ("abilities", "concurrent_ops"),
    ],
)
def test_nothing_takes_a_default_in_silence(tmp_path, section, key):
    assert f"{section}.{key} is missing" in broken(tmp_path, section, key, None)


@pytest.mark.parametrize("key", ["name", "title", "family"])
def test_head_fields_are_needed(tmp_path, key):
    assert f"{key} is missing" in broken(tmp_path, "", key, None)
    assert f"{key} is missing or not text" in broken(tmp_path, "", key, "3")


@pytest.mark.parametrize("section", ["matrix", "vector", "latency", "abilities"])
def test_missing_section_is_named(tmp_path, section):
    sections = {name: values for name, values in document().items() if name.split(".")[0] != section}
    with pytest.raises(AcceleratorError, match=rf"toy\.toml: section \[{section}\] is missing"):
        load_accelerator(written(tmp_path, sections))


def test_missing_memory_is_named(tmp_path):
    sections = {name: values for name, values in document().items() if not name.startswith("memory")}
    with pytest.raises(AcceleratorError, match=r"toy\.toml: section \[memory\] is missing"):
        load_accelerator(written(tmp_path, sections))


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("matrix", "clock_hzz", "clock_hz"),
        ("memory.dram", "bandwith_bytes_per_s", "bandwidth_bytes_per_s"),
        ("abilities", "fuses_elementwis", "fuses_elementwise"),
        ("latency", "launch", "launch_s"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path, section, key, nearest):
    found = broken(tmp_path, section, key, number(1))
    assert "unknown field" in found
    assert key in found
    assert f"did you mean '{nearest}'" in found


def test_a_misspelt_key_is_called_unknown_before_the_right_one_is_called_missing(tmp_path):
    sections = document()
    sections["matrix"]["clok_hz"] = sections["matrix"].pop("clock_hz")
    with pytest.raises(AcceleratorError, match=r"toy\.toml: unknown field 'matrix\.clok_hz'.*did you mean 'clock_hz'"):
        load_accelerator(written(tmp_path, sections))


def test_unknown_section_names_the_nearest(tmp_path):
    found = broken(tmp_path, "abilties", "overlap", number(1))
    assert "unknown section 'abilties'" in found
    assert "did you mean 'abilities'" in found


def test_a_bare_number_is_refused(tmp_path):
    found = broken(tmp_path, "matrix", "clock_hz", "1e9")
    assert "matrix.clock_hz: a number needs value, source and basis, got 1000000000.0" in found


@pytest.mark.parametrize("value", ["true", "[1, 2]", "2020-01-01"])
def test_a_bare_value_of_another_kind_is_refused(tmp_path, value):
    assert "matrix.clock_hz: a number needs value, source and basis" in broken(tmp_path, "matrix", "clock_hz", value)


@pytest.mark.parametrize("source", ['source = ""', 'source = "  "', "source = 3", ""])
def test_a_number_without_source_is_refused(tmp_path, source):
    value = f'{{ value = 1e9, basis = "vendor"{", " if source else ""}{source} }}'
    assert "matrix.clock_hz: no source" in broken(tmp_path, "matrix", "clock_hz", value)


def test_unknown_basis_names_the_nearest(tmp_path):
    found = broken(tmp_path, "matrix", "clock_hz", number(1e9, basis="mesured"))
    assert "matrix.clock_hz: unknown basis 'mesured'" in found
    assert "did you mean 'measured'" in found


def test_a_basis_is_needed(tmp_path):
    found = broken(tmp_path, "matrix", "clock_hz", '{ value = 1e9, source = "a page" }')
    assert "matrix.clock_hz: unknown basis None" in found


def test_unknown_key_of_a_number_names_the_nearest(tmp_path):
    value = '{ value = 1e9, source = "a page", basis = "vendor", bases = "x" }'
    found = broken(tmp_path, "matrix", "clock_hz", value)
    assert "matrix.clock_hz: unknown key 'bases'" in found
    assert "did you mean 'basis'" in found


def test_a_cited_document_must_be_listed(tmp_path):
    found = broken(tmp_path, "matrix", "clock_hz", number(1e9, "{shet}, page 3"))
    assert "matrix.clock_hz: source cites 'shet'" in found


def test_sources_must_be_a_table(tmp_path):
    sections = document()
    del sections["sources"]
    sections[""]["sources"] = '"a datasheet"'
    with pytest.raises(AcceleratorError, match="sources"):
        load_accelerator(written(tmp_path, sections))


@pytest.mark.parametrize("value", [-1, 0, "nan", "inf", '"fast"', "[]", "true"])
def test_a_value_out_of_range_names_field_and_file(tmp_path, value):
    found = broken(tmp_path, "memory.dram", "bandwidth_bytes_per_s", number(value))
    assert "memory.dram.bandwidth_bytes_per_s" in found


def test_a_number_without_a_value_is_refused(tmp_path):
    found = broken(tmp_path, "matrix", "clock_hz", '{ source = "a page", basis = "vendor" }')
    assert "matrix.clock_hz" in found


def test_a_number_where_a_table_belongs_is_refused(tmp_path):
    sections = {name: values for name, values in document().items() if not name.startswith("memory")}
    sections[""]["memory"] = number(1e9)
    with pytest.raises(AcceleratorError, match=r"toy\.toml.*memory"):
        load_accelerator(written(tmp_path, sections))


def test_unknown_inherited_family_names_the_nearest(tmp_path):
    found = broken(tmp_path, "", "inherits", '"gpuu"')
    assert "inherits: unknown family 'gpuu'" in found
    assert "did you mean 'gpu'" in found


def test_unknown_family_in_a_file(tmp_path):
    assert "unknown family 'tpu'" in broken(tmp_path, "", "family", '"tpu"')


def test_what_is_not_toml_is_refused(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("[matrix\ncount = 3\n")
    with pytest.raises(AcceleratorError, match=r"broken\.toml: not valid TOML"):
        load_accelerator(path)


def test_what_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AcceleratorError, match=r"binary\.toml: cannot be read"):
        load_accelerator(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AcceleratorError, match=r"none\.toml: no such file"):
        load_accelerator(tmp_path / "none.toml")


def test_a_folder_is_no_accelerator(tmp_path):
    with pytest.raises(AcceleratorError, match="cannot be read"):
        load_accelerator(tmp_path)


# -- presets by name ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("v100-sxn", "v100-sxm"), ("V100-SXM", "v100-sxm"), ("tpu-v33", "tpu-v3"), ("tpu_v3", "tpu-v3")],
)
def test_unknown_preset_names_the_nearest(name, nearest):
    with pytest.raises(AcceleratorError, match=f"unknown accelerator '{name}'.*did you mean '{nearest}'"):
        preset(name)


@pytest.mark.parametrize("name", ["", "_families", "../presets/v100-sxm", "v100-sxm.toml", None, 3])
def test_only_names_are_presets(name):
    with pytest.raises(AcceleratorError, match="unknown accelerator"):
        preset(name)


def test_presets_are_sorted_and_hide_the_families():
    assert list(presets()) == sorted(presets())
    assert "_families" not in presets()
    assert "v100-sxm" in presets()


def test_a_grid_of_a_grid_is_the_larger_grid():
    """Axes are appended, never paired with those already there."""
    first = {"matrix.count": [40, 80], "memory.dram.bandwidth": [1e12, 2e12]}
    chip = preset("v100-sxm")
    nested, whole = chip.grid(first).grid({"matrix.clock": [1e9, 2e9]}), chip.grid(first | {"matrix.clock": [1e9, 2e9]})
    assert nested.shape == whole.shape == (2, 2, 2)
    for index in np.ndindex(2, 2, 2):
        assert nested.design(index).fields == whole.design(index).fields
    with pytest.raises(AcceleratorError, match=r"matrix\.count already has an axis of 4 candidates"):
        chip.grid(first).grid({"matrix.count": [10, 20, 30]})
