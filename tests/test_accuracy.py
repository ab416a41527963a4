"""The accuracies the README states are those of the model, and a false one is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reports import accuracy
from reports.accuracy import BEGIN, CLAIMS, END, ZERO_SHOT, Claim, accuracy_table, differences, rewritten
from reports.arguments import ReportError
from reports.cli import main
from reports.shipped import shipped
from reports.validation import Validation, validate
from simulator import presets

README = Path(__file__).parents[1] / "README.md"
TABLE = "| measured | judged | mean |\n| --- | ---: | ---: |\n| products | 12 | 7.4 |\n| networks | 3 | 5.0 / 6.1 |"
_made: dict[str, str] = {}


def block() -> str:
    if "block" not in _made:
        _made["block"] = accuracy.block()
    return _made["block"]


def around(body: str) -> str:
    return f"# Title\n\n{BEGIN}\n{body}\n{END}\n\nmore\n"


# -- the README --------------------------------------------------------------------------------------


def test_the_readme_states_what_is_computed():
    """Stale? `rooftrace validate --readme README.md`."""
    assert differences(README.read_text(encoding="utf-8"), block()) == []


def test_the_readme_counts_the_measurements():
    assert f"{len(shipped()):,}".replace(",", " ") in README.read_text(encoding="utf-8")


def test_every_measurement_with_a_preset_is_in_exactly_one_line():
    """Whole Transformers in the one of their phase; nothing is left out of the table, and nothing counted twice."""
    labels = shipped().labels
    nothing = np.zeros(len(shipped()))
    v = Validation(labels, nothing, nothing, nothing, nothing, nothing, nothing, nothing > 0, nothing.astype(str))
    count = sum(v.where(**claim.labels).astype(int) for claim in CLAIMS)
    assert set(count[np.isin(labels["device"], presets())].tolist()) == {1}
    assert set(count[~np.isin(labels["device"], presets())].tolist()) <= {0}
    assert len({claim.text for claim in (*CLAIMS, *ZERO_SHOT)}) == len(CLAIMS) + len(ZERO_SHOT)


# -- the table ---------------------------------------------------------------------------------------


def test_the_table_holds_judged_rows_only():
    m = shipped().select(shipped().set == "vidur-decode")
    fitted = np.arange(len(m)) % 2 == 0
    v = validate(m, fitted=fitted)
    claims = [Claim("decode", {"set": "vidur-decode"}), Claim("nothing", {"set": "other"})]
    header, rule, row = accuracy_table(v, claims, "measured").splitlines()
    assert header.startswith("| measured ")
    assert set(rule) <= set("|-: ")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    error = np.abs(v.predicted_s / v.measured_s - 1)[~fitted]
    assert cells[:3] == ["decode", str(int(fitted.sum())), str(int((~fitted).sum()))]
    assert cells[4:8] == [
        f"{100 * e:.1f}" for e in (np.median(error), error.mean(), np.percentile(error, 90), error.max())
    ]


def test_the_table_is_put_between_the_markers():
    text = rewritten(around("old"), TABLE)
    assert text == around(TABLE)
    assert rewritten(text, TABLE) == text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}", around("x") * 2])
def test_missing_markers_are_named(text):
    with pytest.raises(ReportError, match=r"notes\.md: the lines <!-- accuracy"):
        rewritten(text, TABLE, "notes.md")


# -- what still holds --------------------------------------------------------------------------------


def test_an_equal_table_holds_whatever_its_spaces():
    assert differences(around(TABLE), TABLE) == []
    assert differences(around(TABLE.replace("| 12 |", "|  12|")), TABLE) == []


def test_another_machine_may_round_the_last_digit():
    assert differences(around(TABLE.replace("7.4", "7.5")), TABLE) == []
    assert differences(around(TABLE.replace("6.1", "6.0")), TABLE) == []


@pytest.mark.parametrize(
    ("old", "new"), [("7.4", "7.2"), ("6.1", "6.3"), ("12", "13"), ("5.0 / 6.1", "5.0"), ("7.4", "-")]
)
def test_a_false_number_is_found(old, new):
    found = differences(around(TABLE.replace(old, new)), TABLE)
    assert len(found) == 1
    assert new in found[0][0]
    assert old in found[0][1]


def test_a_line_too_many_and_one_too_few_are_found():
    more = TABLE + "\n| extra | 1 | 2.0 |"
    assert differences(around(more), TABLE) == [("| extra | 1 | 2.0 |", "")]
    assert differences(around(TABLE), more) == [("", "| extra | 1 | 2.0 |")]
    assert differences(around(""), TABLE)


def test_check_passes_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accuracy, "block", lambda: TABLE)
    place = tmp_path / "README.md"
    place.write_text(around(TABLE), encoding="utf-8")
    assert main(["validate", "--check", str(place)]) == 0
    assert "hold" in capsys.readouterr().out
    place.write_text(around(TABLE.replace("7.4", "3.0")), encoding="utf-8")
    assert main(["validate", "--check", str(place)]) == 1
    out = capsys.readouterr().out
    assert "| products | 12 | 3.0 |" in out
    assert "| products | 12 | 7.4 |" in out
    assert "networks" not in out


def test_readme_is_rewritten_on_demand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accuracy, "block", lambda: TABLE)
    place = tmp_path / "README.md"
    place.write_text(around("old"), encoding="utf-8")
    assert main(["validate", "--readme", str(place)]) == 0
    assert place.read_text(encoding="utf-8") == around(TABLE)
    capsys.readouterr()
    assert main(["validate", "--readme"]) == 0
    assert capsys.readouterr().out == f"{BEGIN}\n{TABLE}\n{END}\n"


@pytest.mark.parametrize("option", ["--check", "--readme"])
def test_a_readme_that_cannot_be_used_is_named(tmp_path, capsys, option):
    assert main(["validate", option, str(tmp_path / "none.md")]) == 2
    assert "none.md: cannot be read" in capsys.readouterr().err
    (tmp_path / "plain.md").write_text("no table", encoding="utf-8")
    assert main(["validate", option, str(tmp_path / "plain.md")]) == 2
    err = capsys.readouterr().err
    assert "plain.md: the lines" in err
    assert err.count("\n") == 1
    assert (tmp_path / "plain.md").read_text(encoding="utf-8") == "no table"
