"""The README's code prints what it says, its table is what the simulator computes, its commands stay one-liners."""

import contextlib
import csv
import io
import re
import statistics
from pathlib import Path

import pytest

from reports.cli import main
from reports.shipped import TPU_V1
from simulator import preset, presets, simulate
from workloads import network

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    """The bodies of the README's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_ten_lines_print_what_the_readme_shows():
    code, printed = fenced("python")[0], fenced("text")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue().rstrip() == printed.rstrip()


@pytest.mark.torch
def test_the_module_example_runs():
    pytest.importorskip("torch", reason="needs torch: pip install 'rooftrace[torch]'")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(fenced("python")[1], "README.md", "exec"), {})
    assert out.getvalue().startswith("Result('LSTM' on 'v100-sxm': latency ")


@pytest.mark.parametrize("example", [(2, 1), (3, 2)], ids=["searches", "best chips"])
def test_the_design_examples_print_what_the_readme_shows(example):
    code, printed = fenced("python")[example[0]], fenced("text")[example[1]]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue().rstrip() == printed.rstrip()


def test_the_command_shown_with_its_output_prints_it(capsys):
    block = next(block for block in fenced("console") if block.count("$ ") == 1)
    command, _, printed = block.partition("\n")
    assert main(command.removeprefix("$ rooftrace ").split()) == 0
    assert capsys.readouterr().out.rstrip() == printed.rstrip()


def test_the_opening_question_is_one_command(capsys, tmp_path):
    """400 mm2, 75 W, two stacks: an answer within the budget, with its reason, near what any design could reach."""
    line = re.search(r"^\$ rooftrace (tune gnmt bert-large .*area=400mm2,power=75W.*)$", README, re.MULTILINE)[1]
    chart = tmp_path / "tune.png"
    assert main([str(chart) if word == "tune.png" else word for word in line.split()]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^peak power +7\d\.\d W +<= 75\.0 W", out, re.MULTILINE)
    assert re.search(r"^no design within the limits is better than .* <0\.1 % from the best$", out, re.MULTILINE)
    assert chart.stat().st_size > 5000


def published() -> dict[str, float]:
    with TPU_V1.open(encoding="utf-8", newline="") as file:
        return {row["network"]: float(row["tera_ops_per_s"]) for row in csv.DictReader(file)}


def modelled(name: str) -> float:
    trace = network(f"tpu-v1-{name.lower()}")
    return trace.total_matrix_flops / simulate(trace, preset("tpu-v1")).latency_s / 1e12


@pytest.mark.parametrize("name", published())
def test_tpu_table_is_computed(name):
    row = re.search(rf"^\| {name} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    assert row, f"the README has no row for {name}"
    expected, tops = published()[name], modelled(name)
    assert [float(cell) for cell in row.groups()] == [expected, round(tops, 1), round(tops / expected, 2)]


def test_tpu_errors_are_computed():
    errors = [abs(modelled(name) / tops - 1) for name, tops in published().items()]
    said = re.search(r"median error of the six is (\d+) %, the worst (\d+) %", README)
    assert said
    assert [int(said[1]), int(said[2])] == [round(100 * statistics.median(errors)), round(100 * max(errors))]


def test_silicon_table_is_computed():
    from reports.silicon_validation import silicon_tables

    assert silicon_tables("markdown")[1] in README


def test_set_up_is_two_one_line_commands():
    commands = [block.strip() for block in fenced("sh")]
    assert len(commands) == 2
    assert all("\n" not in command and command.startswith("python3 -m venv .venv && ") for command in commands)
    assert "--chart roofline.png" in commands[0]
    assert "pytest" in commands[1]


def test_number_of_chips_is_right():
    assert f"{len(presets())} chips" in README


def test_every_file_named_exists():
    body = README.split("## Files")[1]
    named = [name for name in re.findall(r"[\w/*]+\.(?:py|toml)", body) if "*" not in name]
    folder, missing = "", []
    for line in body.splitlines():
        if head := re.match(r"^(\w+)/ ", line):
            folder = head[1]
        missing += [
            name
            for name in re.findall(r"[\w/]+\.py", line)
            if not (ROOT / folder / name).exists() and not (ROOT / name).exists()
        ]
    assert named
    assert not missing
