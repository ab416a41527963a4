"""An accelerator written and read back is the same, number for number and source for source."""

import dataclasses

import pytest

from reports.accelerator_file import save_accelerator, to_toml
from reports.arguments import ReportError
from simulator import load_accelerator, preset, presets
from simulator.accelerator import Citation


@pytest.mark.parametrize("name", presets())
def test_every_preset_comes_back_as_it_was(tmp_path, name):
    chip = preset(name)
    back = load_accelerator(save_accelerator(chip, tmp_path / "chip.toml"))
    assert back.fields == chip.fields
    assert list(back.memory) == list(chip.memory)
    assert back.citations == chip.citations
    for head in ("name", "title", "family", "year", "notes"):
        assert getattr(back, head) == getattr(chip, head), head


@pytest.mark.parametrize("text", ["{braces} and }{", 'quotes " and \\ backslashes', "line\nbreak\ttab \x7f µ × ²"])
def test_any_text_survives(tmp_path, text):
    chip = preset("epyc-7763")
    chip = dataclasses.replace(
        chip, title=f"t {text}", notes=text, citations={**chip.citations, "matrix.count": Citation(text, "measured")}
    )
    back = load_accelerator(save_accelerator(chip, tmp_path / "chip.toml", comment=text))
    assert (back.title, back.notes) == (chip.title, text)
    assert back.citations["matrix.count"] == Citation(text, "measured")


def test_numbers_keep_every_digit(tmp_path):
    cited = Citation("a stopwatch", "measured")
    values = {"latency.launch_s": 1.2345678901234567e-6, "memory.dram.bandwidth": 1 / 3e-11}
    chip = preset("epyc-7763").replace(values)
    chip = dataclasses.replace(chip, citations={**chip.citations, **{chip.path(p): cited for p in values}})
    back = load_accelerator(save_accelerator(chip, tmp_path / "chip.toml"))
    assert back.fields == chip.fields


def test_the_comment_stands_first():
    lines = to_toml(preset("v100-sxm"), "one\ntwo").splitlines()
    assert lines[:2] == ["# one", "# two"]
    assert lines[2].startswith("name = ")


def test_a_number_without_source_is_refused_and_nothing_written(tmp_path):
    chip = preset("v100-sxm").replace({"matrix.count": 99})
    with pytest.raises(ReportError, match=r"v100-sxm: matrix\.count has no source"):
        save_accelerator(chip, tmp_path / "chip.toml")
    assert list(tmp_path.iterdir()) == []


def test_a_design_space_is_refused():
    with pytest.raises(ReportError, match="one design makes a file, got 2"):
        to_toml(preset("v100-sxm").replace({"matrix.count": [1, 2]}))


def test_places_that_cannot_be_written_to(tmp_path):
    chip = preset("v100-sxm")
    with pytest.raises(ReportError, match=r"suffix must be one of \.toml"):
        save_accelerator(chip, tmp_path / "chip.txt")
    with pytest.raises(ReportError, match="there is no folder"):
        save_accelerator(chip, tmp_path / "none" / "chip.toml")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    place = save_accelerator(preset("v100-sxm"), tmp_path / "chip.toml")
    before = place.read_text()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ValueError, match="No space left"):
        save_accelerator(preset("h100-sxm"), place)
    assert place.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["chip.toml"]
