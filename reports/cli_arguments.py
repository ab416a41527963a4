"""The arguments of the command line: what may be typed, and how each piece is read."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from reports import export
from reports.sources import TRACE_SUFFIXES

STDOUT = "-"
#: The files a network may be in.
FORMS = (
    "a trace (.csv, .json, .parquet), a SCALE-Sim topology (.csv), an ONNX model (.onnx), a profile of PyTorch (.json, "
    ".json.gz: measured times are shown too) or of Nsight Compute (.csv), or my_module.py:build, a function that "
    "returns a PyTorch module and its example inputs (a tensor, or a tuple); the Python file is executed"
)


class UsageError(ValueError):
    """A command line that cannot be understood: the message names the argument and its value."""


class _Parser(argparse.ArgumentParser):
    """Errors are raised, and worded like all others."""

    def error(self, message):
        raise UsageError(message)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        sys.stdout.write(f"rooftrace {export.version()}\n")
        parser.exit()


#: Whole numbers at the command line stay below it; sizes are multiplied and have to fit 64 bits.
MOST = 10**18


def _is_huge(text: str) -> bool:
    try:
        return text[-1:].isdigit() and Decimal(text) >= MOST
    except InvalidOperation:
        return False


def whole(least: int):
    """Reads a whole number of at least `least`."""

    def parse(text: str) -> int:
        if _is_huge(text):
            raise argparse.ArgumentTypeError(f"is too large (must be below {MOST:.0e}), got {text!r}")
        if not re.fullmatch(r"[+-]?\d{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text!r}")
        return int(text)

    return parse


def pair(text: str) -> tuple[str, str]:
    """Reads NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name.strip(), value.strip()


def _setting(text: str) -> tuple[str, object]:
    """A builder's argument: a whole number, a number, true, false, none, or text."""
    name, value = pair(text)
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name.replace("-", "_"), words[value.lower()]
    for kind in (int, float):
        try:
            return name.replace("-", "_"), kind(value)
        except ValueError:
            continue
    return name.replace("-", "_"), value


def _dims(text: str) -> dict[str, int | tuple[int, ...]]:
    """Sizes by name, "batch=8,seq=128"; of a tensor all its sizes, "x=8x128"."""
    found: dict[str, int | tuple[int, ...]] = {}
    for part in text.split(","):
        name, value = pair(part)
        if not re.fullmatch(r"\d{1,18}(x\d{1,18})*", value):
            raise argparse.ArgumentTypeError(f"{name} must be a whole number, or several as 8x128, got {value!r}")
        sizes = tuple(int(size) for size in value.split("x"))
        if name in found:
            raise argparse.ArgumentTypeError(f"{name} is given twice")
        if min(sizes) < 1:
            raise argparse.ArgumentTypeError(f"{name} must be 1 or more, got {value!r}")
        found[name] = sizes if len(sizes) > 1 else sizes[0]
    return found


def parser(*more: Callable) -> argparse.ArgumentParser:
    """The parser of the whole command line, with the commands that functions in `more` add.

    Its `error` raises `UsageError`; help and version leave by `SystemExit`.
    """
    top = _Parser(
        prog="rooftrace",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="How fast a network runs on a chip, what holds it back, and what would help.",
        epilog=_examples(
            "rooftrace run bert-large --on a100-sxm-80gb --chart roofline.png",
            "rooftrace compare lstm-zaremba-large bert-large --on v100-sxm h100-sxm",
            "rooftrace sensitivity lstm-zaremba-large --on v100-sxm",
            "rooftrace tune bert-large --on v100-sxm --minimise latency_s --vary matrix.count=8:256 --budget power=75W",
            "rooftrace networks",
            "rooftrace accelerators h100-sxm",
        ),
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = command_parser(
        commands,
        "run",
        "one network on one chip: time, throughput, utilisation, and why each op takes its time",
        "rooftrace run lstm-zaremba-large --on v100-sxm --batch 1 --chart roofline.png",
        "rooftrace run llama-2-7b --on h100-sxm --mode decode --cache-length 4096",
        "rooftrace run bert-large --on a100-sxm-80gb --training adam --top 10",
        "rooftrace run bert-large --on v100-sxm --set memory.dram.bandwidth=2TB/s matrix.clock=900MHz",
        "rooftrace run my-trace.csv --on my-chip.toml --json -",
        "rooftrace run model.onnx --on h100-sxm --dims batch=8,seq=128",
        "rooftrace run profile.json.gz --on v100-sxm --chart measured.png",
        "rooftrace run my_module.py:build --on a100-sxm-80gb --training",
    )
    run.add_argument("network", metavar="NETWORK|FILE", help=f"a network by name, or in a file: {FORMS}")
    run.add_argument("--on", required=True, metavar="CHIP|FILE", help="a preset by name, or a chip (.toml)")
    add_settings(run)
    add_set(run)
    add_outputs(run, "one row an op", "see reports.export.result_document")
    run.add_argument("--top", type=whole(1), metavar="N", help="show only the N ops that take longest")

    compare = command_parser(
        commands,
        "compare",
        "networks on chips side by side",
        "rooftrace compare lstm-zaremba-large transformer-big --on v100-sxm a100-sxm-80gb h100-sxm",
        "rooftrace compare bert-large --on h100-sxm tpu-v4 mi300x --batch 32 --chart compare.png",
        "rooftrace compare model.onnx my_module.py:build --on v100-sxm h100-sxm --dims batch=8",
    )
    compare.add_argument("networks", nargs="+", metavar="NETWORK|FILE", help="networks by name, or files, as for run")
    compare.add_argument(
        "--on", required=True, nargs="+", metavar="CHIP|FILE", help="presets by name, or chips (.toml)"
    )
    add_settings(compare)
    add_set(compare)
    add_outputs(compare, "one row a network and chip", "see reports.export.comparison_document")

    listed = command_parser(
        commands,
        "networks",
        "the networks there are, with parameters and source",
        "rooftrace networks",
        "rooftrace networks gnmt",
    )
    listed.add_argument("name", nargs="?", metavar="NAME", help="one network: its defaults and what may be set")

    chips = command_parser(
        commands,
        "accelerators",
        "the chips there are, with peak and bandwidth",
        "rooftrace accelerators",
        "rooftrace accelerators tpu-v1",
    )
    chips.add_argument("name", nargs="?", metavar="NAME|FILE", help="one chip: every number with its source and basis")

    trace = command_parser(
        commands,
        "trace",
        "write a network's trace, one row a distinct op",
        "rooftrace trace gnmt --out gnmt.csv",
        "rooftrace trace gpt2-small --training adam --out step.json.gz",
        "rooftrace trace model.onnx --dims batch=8,seq=128 --out model.csv",
    )
    trace.add_argument("network", metavar="NETWORK|FILE", help="a network by name, or a file, as for run")
    trace.add_argument("--out", required=True, metavar="FILE", help=f"the file to write: {', '.join(TRACE_SUFFIXES)}")
    add_settings(trace)
    for add_commands in more:
        add_commands(commands)
    return top


def command_parser(commands, name: str, text: str, *examples: str) -> argparse.ArgumentParser:
    """The parser of one command, with examples."""
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=_examples(*examples),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser)
    return parser


def _examples(*lines: str) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What may be set of a network."""
    group = parser.add_argument_group("network (default: its own, see `rooftrace networks NAME`)")
    group.add_argument("--batch", type=whole(1), metavar="N", help="sequences at once")
    group.add_argument("--seq-len", type=whole(1), metavar="N", help="positions (tokens, time steps) of a sequence")
    group.add_argument(
        "--dtype",
        metavar="TYPE",
        help="element type of the arithmetic: fp16, bf16, fp32, int8, ... Without it a chip that lacks the network's "
        "type runs the other 16-bit float or a wider one, never a narrower one, and says so",
    )
    group.add_argument("--weight-dtype", metavar="TYPE", help="element type the weights are stored in")
    group.add_argument("--mode", metavar="prefill|decode", help="all positions at once, or one token against a cache")
    group.add_argument("--cache-length", type=whole(0), metavar="N", help="positions in the cache already")
    group.add_argument(
        "--training", nargs="?", const="sgd", choices=("sgd", "adam"), metavar="sgd|adam", help="a training step (sgd)"
    )
    group.add_argument(
        "--dims",
        nargs="+",
        action="extend",
        default=[],
        type=_dims,
        metavar="NAME=N,...",
        help="sizes of the dynamic dimensions of an ONNX model: batch=8,seq=128",
    )
    group.add_argument(
        "--option",
        nargs="+",
        action="extend",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="any other setting of the network, such as layers=4 or fused=false",
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    """What may be set of a chip."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        type=pair,
        metavar="FIELD=VALUE",
        help="change a field of the chip, with its unit: memory.dram.bandwidth=2TB/s, latency.launch=1us",
    )


def add_outputs(parser: argparse.ArgumentParser, rows: str, layout: str, chart: str = "") -> None:
    """Charts, csv and json; `chart` says what the one chart shows where it is not a roofline."""
    group = parser.add_argument_group("output (files are written whole or not at all; - is standard output)")
    group.add_argument("--chart", metavar="FILE", help=f"{chart or 'roofline chart'}: .png, .svg or .pdf")
    if not chart:
        text = "chart of the time by layer and bound: .png, .svg or .pdf"
        group.add_argument("--breakdown", metavar="FILE", help=text)
    group.add_argument("--csv", nargs="?", const=STDOUT, metavar="FILE|-", help=f"numbers in SI units, {rows}")
    group.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE|-", help=f"everything in SI units; layout: {layout}"
    )
