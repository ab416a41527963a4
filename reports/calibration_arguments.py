"""The arguments of validate and calibrate."""

from __future__ import annotations

import argparse

from reports.cli_arguments import STDOUT, command_parser, whole


def add_commands(commands) -> None:
    """The parsers of validate and calibrate."""
    _add_validate(commands)
    _add_calibrate(commands)


def _add_validate(commands) -> None:
    parser = command_parser(
        commands,
        "validate",
        "how wrong the predictions are: every measurement that ships, or your own, beside what is predicted",
        "rooftrace validate",
        "rooftrace validate --on v100-sxm --chart scatter.png",
        "rooftrace validate --set neusight-products vidur-products --csv rows.csv",
        "rooftrace validate --on my-chip.toml --set my-timings.csv",
        "rooftrace validate --set silicon",
        "rooftrace validate --zero-shot",
        "rooftrace validate --check",
        "rooftrace validate --this-machine --chart this-machine.png",
    )
    several = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--on", metavar="CHIP|FILE", help="only measurements of these devices", **several)
    parser.add_argument(
        "--set",
        metavar="NAME|FILE",
        help="only these sets, or your own timings (.csv, see calibrate --columns)",
        **several,
    )
    parser.add_argument(
        "--zero-shot", action="store_true", help="each chip predicted with constants fitted on the others alone"
    )
    parser.add_argument(
        "--check", nargs="?", const="README.md", metavar="FILE",
        help="whether the accuracies stated in a README hold (README.md); exit status 1 with the rows that do not",
    )  # fmt: skip
    parser.add_argument(
        "--readme", nargs="?", const=STDOUT, metavar="FILE|-", help="write the table of accuracies into a README"
    )
    _add_tables(parser, "one row a measurement", "scatter chart, predicted over measured: .png, .svg or .pdf")
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE|-",
        help="everything in SI units; layout: see reports.validate_command.document",
    )  # fmt: skip
    _add_machine(parser, "time PyTorch's LSTM, GRU and Transformer here, beside what is predicted")


def _add_calibrate(commands) -> None:
    parser = command_parser(
        commands,
        "calibrate",
        "fit the constants of a chip to your own timings",
        "rooftrace calibrate h100-sxm --measurements timings.csv --out my-h100.toml",
        "rooftrace calibrate h100-sxm --measurements timings.csv --fit matrix.sustained,latency.launch",
        "rooftrace calibrate h100-sxm --measurements timings.csv --fit latency.launch=1us:50us",
        "rooftrace calibrate --columns",
        "rooftrace calibrate --this-machine --out this-machine.toml",
    )
    parser.add_argument("chip", nargs="?", metavar="CHIP|FILE", help="the chip to start from")
    parser.add_argument("--measurements", metavar="FILE", help="timings (.csv), at least a few shapes")
    parser.add_argument(
        "--fit",
        type=_fields,
        metavar="FIELD[=LOW:HIGH],...",
        help="fit only these fields; a range for others than usual",
    )
    parser.add_argument("--columns", action="store_true", help="print the columns of a table of timings, and leave")
    parser.add_argument(
        "--presets", action="store_true", help="fit the constants that ship with the presets anew (minutes), and leave"
    )
    parser.add_argument("--out", metavar="FILE", help="write the calibrated chip, or the constants of presets (.toml)")
    _add_tables(parser, "one row a measurement with its error")
    _add_machine(parser, "measure the machine this runs on (under two minutes) and write its accelerator file")


def _add_machine(parser: argparse.ArgumentParser, text: str) -> None:
    group = parser.add_argument_group("this machine")
    group.add_argument("--this-machine", action="store_true", help=text)
    group.add_argument("--backend", metavar="numpy|torch", help="what runs the ops (torch)")
    group.add_argument("--device", metavar="cpu|cuda", help="what PyTorch runs them on (cpu)")
    group.add_argument(
        "--threads",
        type=whole(1),
        metavar="N",
        help="threads of an op (1, timed by its own processor time)",
    )
    group.add_argument("--quick", action="store_true", help="in about 20 s, with fewer sizes")


def _fields(text: str) -> list[tuple[str, str]]:
    """Fields with or without a range: "a,b=1:2" is [("a", ""), ("b", "1:2")]."""
    parts = [part.partition("=") for part in text.split(",")]
    found = [(name.strip(), value.strip()) for name, _, value in parts]
    if not all(
        name and bool(value) == bool(equals) for (name, value), (_, equals, _) in zip(found, parts, strict=True)
    ):
        raise argparse.ArgumentTypeError(f"must be FIELD or FIELD=LOW:HIGH, separated by commas, got {text!r}")
    return found


def _add_tables(parser: argparse.ArgumentParser, rows: str, chart: str = "") -> None:
    if chart:
        parser.add_argument("--chart", metavar="FILE", help=chart)
    parser.add_argument("--csv", nargs="?", const=STDOUT, metavar="FILE|-", help=f"numbers in SI units, {rows}")
