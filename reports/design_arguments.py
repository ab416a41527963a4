"""The arguments of the commands over many designs: sweep, pareto, sensitivity, tune; and how candidates and budgets,
which need the chip to be understood, are read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

import numpy as np

from reports.cli_arguments import UsageError, add_outputs, add_set, add_settings, command_parser, pair, whole
from reports.units import UnitError, parse_field, parse_quantity
from simulator import Accelerator, LogRange
from simulator.axes import BATCH, is_whole
from simulator.metrics import ALIASES, METRICS

_VARY = (
    "candidates of a field of the chip, or of batch: 40,80,160; 450GB/s:3.6TB/s:9 (nine, evenly spread over the orders "
    "of magnitude); 16:128:+8 (every eighth); LOW:HIGH (every whole number, or for tune and --samples a range)"
)
_BUDGET = (
    "limits: area=400mm2, power=75W (peak), latency=7ms, price=, shoreline=, shoreline_share=1 (memory interfaces fit "
    "the edge of the die), energy=, tokens_per_s=, or any field"
)


def add_commands(commands) -> None:
    """The parsers of sweep, pareto, sensitivity and tune."""
    sweep = command_parser(
        commands,
        "sweep",
        "a network, or a mix, on every design of a space: the best, or all of them",
        "rooftrace sweep bert-large --on v100-sxm --vary matrix.count=40:160:+20 memory.dram.bandwidth=0.5TB/s:4TB/s:4",
        "rooftrace sweep gnmt bert-large --weights 20 1 --on a100-sxm-80gb --vary matrix.clock=0.8GHz:2GHz:20",
        "rooftrace sweep gnmt --on h100-sxm --vary batch=1,4,16,64 --metric tokens_per_s --chart batch.png",
        "rooftrace sweep bert-large --on v100-sxm --vary matrix.count=8:256 matrix.clock=0.5GHz:2GHz:99 --out rows",
    )
    _add_networks(sweep)
    _add_space(sweep)
    sweep.add_argument("--metric", nargs="+", default=["latency_s"], metavar="METRIC", help=_metric_help())
    sweep.add_argument("--keep", choices=("best", "all"), default="best", help="what is kept and written (best)")
    sweep.add_argument("--limit", type=whole(1), default=100, metavar="N", help="how many of the best are kept (100)")
    sweep.add_argument("--out", metavar="FOLDER", help="write every design to parquet files in a folder instead")
    _add_long(sweep)
    add_outputs(sweep, "one row a design kept", "see reports.design_tables.sweep_document", chart=_SWEEP_CHART)
    sweep.add_argument("--top", type=whole(1), default=10, metavar="N", help="how many are shown (10)")

    pareto = command_parser(
        commands,
        "pareto",
        "the designs of a space that no other beats in two or three metrics",
        "rooftrace pareto bert-large --on v100-sxm --metric latency_s matrix.count "
        "--vary matrix.count=8:256:+8 memory.dram.bandwidth=100GB/s:4TB/s:40 --chart pareto.png",
    )
    _add_networks(pareto)
    _add_space(pareto)
    pareto.add_argument("--metric", nargs="+", required=True, metavar="METRIC", help=f"two or three: {_metric_help()}")
    _add_long(pareto)
    add_outputs(pareto, "one row a design of the front", "see reports.design_tables.sweep_document", chart="the front")
    pareto.add_argument("--top", type=whole(1), default=20, metavar="N", help="how many are shown (20)")

    sensitivity = command_parser(
        commands,
        "sensitivity",
        "what would help: how the time answers to each field of the chip, and what each resource costs",
        "rooftrace sensitivity lstm-zaremba-large --on v100-sxm --batch 1 --chart tornado.png",
        "rooftrace sensitivity bert-large --on tpu-v4 --top 8",
    )
    _add_networks(sensitivity)
    layout = "see reports.design_tables.sensitivity_document"
    add_outputs(sensitivity, "one row a field", layout, chart="a tornado chart")
    sensitivity.add_argument("--top", type=whole(1), default=12, metavar="N", help="how many fields are shown (12)")

    tune = command_parser(
        commands,
        "tune",
        "the best design of a space within a budget, and the reason to believe it",
        "rooftrace tune bert-large --on v100-sxm --minimise latency_s --budget memory.dram.bandwidth=1TB/s "
        "--vary matrix.count=8:256:+8 memory.dram.bandwidth=100GB/s:4TB/s matrix.clock=0.5GHz:2GHz",
        "rooftrace tune gnmt --on h100-sxm --maximise tokens_per_s --budget latency=20ms,batch=256 "
        "--vary matrix.count=8:264",
    )
    _add_networks(tune)
    _add_space(tune, samples=False)
    goal = tune.add_mutually_exclusive_group(required=True)
    goal.add_argument("--minimise", metavar="METRIC", help=_metric_help())
    goal.add_argument("--maximise", metavar="METRIC", help="the same")
    tune.add_argument(
        "--evaluations", type=whole(1), metavar="N", help="designs to try at most (under 5 %% of a large space)"
    )
    layout = "see reports.design_tables.tune_document"
    add_outputs(tune, "one row a design", layout, chart="the designs tried")
    tune.add_argument("--top", type=whole(1), default=10, metavar="N", help="how many designs are shown (10)")


_SWEEP_CHART = "a heat map of two fields, or a line over one field or batch"


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("networks", nargs="+", metavar="NETWORK|FILE", help="networks by name, or files, as for run")
    parser.add_argument("--on", required=True, metavar="CHIP|FILE", help="a preset by name, or a chip (.toml)")
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="X", help="how often each network of a mix runs (1 each)"
    )
    add_settings(parser)
    add_set(parser)


def _add_space(parser: argparse.ArgumentParser, samples: bool = True) -> None:
    group = parser.add_argument_group("designs")
    group.add_argument(
        "--vary", nargs="+", action="extend", required=True, type=pair, metavar="FIELD=VALUES", help=_VARY
    )
    group.add_argument("--budget", action="append", default=[], metavar="NAME=LIMIT,...", help=_BUDGET)
    group.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of what is drawn at random (0)")
    if samples:
        group.add_argument("--samples", type=whole(1), metavar="N", help="draw so many designs instead of trying all")
        group.add_argument("--sampler", default="random", metavar="random|sobol", help="how they are drawn (random)")


def _add_long(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("long work")
    group.add_argument("--checkpoint", metavar="FILE", help="go on from, and leave, what is done in a file")


def _metric_help() -> str:
    return f"{', '.join(METRICS)}, or a field of the chip (of a mix also NETWORK:METRIC)"


# -- what needs the chip -----------------------------------------------------------------------------


def candidates(accelerator: Accelerator, given: Sequence[tuple[str, str]]) -> dict[str, object]:
    """Axes from FIELD=VALUES as typed. Raises `UnitError` or `UsageError` naming the field and the text."""
    axes: dict[str, object] = {}
    for name, text in given:
        path = name if name == BATCH else accelerator.path(name)
        if path in axes:
            raise UsageError(f"argument --vary: {name} is given twice")
        axes[path] = _values(path, text, None if path == BATCH else accelerator.fields.get(path, 0.0))
    return axes


def _values(path: str, text: str, current) -> object:
    parts = text.split(":")
    if isinstance(current, (str, bool)) or len(parts) == 1:
        return [_one(path, part, current) for part in text.split(",")]
    if len(parts) > 3 or not all(part.strip() for part in parts):
        raise UsageError(f"argument --vary: {path}: VALUE,VALUE,... or LOW:HIGH:NUMBER is expected, got {text!r}")
    low, high = (_one(path, part, current) for part in parts[:2])
    if not 0 < low < high:
        raise UsageError(f"argument --vary: {path}: LOW:HIGH must be positive and rise, got {text!r}")
    if len(parts) == 2:
        return np.arange(np.ceil(low), np.floor(high) + 1) if is_whole(path) else LogRange(low, high)
    if parts[2].startswith("+"):
        step = _one(path, parts[2][1:], current)
        if not 0 < step <= high - low:
            raise UsageError(f"argument --vary: {path}: the step must be above 0 and fit the range, got {text!r}")
        return low + step * np.arange(int((high - low) / step * (1 + 1e-12)) + 1)
    if not re.fullmatch(r"\d{1,6}", parts[2]) or int(parts[2]) < 2:
        raise UsageError(f"argument --vary: {path}: the number of candidates must be 2 or more, got {parts[2]!r}")
    spread = np.geomspace(low, high, int(parts[2]))
    return np.unique(np.round(spread)) if is_whole(path) else spread


def _one(path: str, text: str, current):
    """One value in SI units."""
    if path == BATCH or (is_number(current) and is_whole(path)):
        return parse_field(path if path != BATCH else "batch", text.strip(), 0.0)
    return parse_field(path, text.strip(), current)


def is_number(current) -> bool:
    """Whether a field holds, or may hold, a number."""
    return not isinstance(current, (str, bool))


def budgets(accelerator: Accelerator, given: Sequence[str]) -> dict[str, object]:
    """Limits from NAME=LIMIT,... as typed; "batch=256" or "batch=1:256" are batches.

    Raises `UsageError` or `UnitError` naming the limit and the text."""
    limits: dict[str, object] = {}
    for item in (item for text in given for item in text.split(",")):
        try:
            name, text = pair(item)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"argument --budget: {error}") from None
        name = ALIASES.get(name, name)
        if name in limits:
            raise UsageError(f"argument --budget: {name} is given twice")
        limits[name] = _batches(text) if name == BATCH else _limit(accelerator, name, text)
    return limits


def _batches(text: str) -> range:
    found = re.fullmatch(r"(?:(\d{1,7}):)?(\d{1,7})", text)
    if not found:
        raise UsageError(f"argument --budget: batch is a number, or LOW:HIGH, got {text!r}")
    low, high = int(found[1] or 1), int(found[2])
    if not 1 <= low <= high:
        raise UsageError(f"argument --budget: batch must be 1 or more and rise, got {text!r}")
    return range(low, high + 1)


def _limit(accelerator: Accelerator, name: str, text: str) -> float:
    own = name.rpartition(":")[2]
    own = ALIASES.get(own, own)
    if own not in METRICS:
        return float(parse_field(accelerator.path(name), text, 0.0)) if "." in name else float(_plain(name, text))
    expected = METRICS[own].unit
    try:
        value, unit = parse_quantity(text)
    except UnitError as error:
        raise UnitError(f"{name}: {error}") from None
    if unit not in ("", expected):
        raise UnitError(f"{name}: {text!r} is in {unit}; expected {expected or 'a plain number'}")
    return value


def _plain(name: str, text: str) -> float:
    """A limit of something unknown, which the simulator will refuse by name."""
    try:
        return parse_quantity(text).value
    except UnitError as error:
        raise UnitError(f"{name}: {error}") from None
