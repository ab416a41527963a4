"""What the commands share: networks with the settings of the command line, and places to write to, checked first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.arguments import ReportError, output_path
from reports.canvas import CHART_SUFFIXES
from reports.cli_arguments import STDOUT, UsageError
from reports.requests import Workload
from reports.sources import kind_of

#: Options of the command line that are settings of a network's builder.
SETTINGS = ("batch", "seq_len", "dtype", "weight_dtype", "mode", "cache_length")


def workloads(names: Sequence[str], options) -> list[Workload]:
    """The networks with the settings of the command line; --dims goes to those that take it."""
    settings = {setting: getattr(options, setting) for setting in SETTINGS if getattr(options, setting) is not None}
    for setting, value in options.option:
        if setting in settings:
            raise UsageError(f"argument --option: {setting} is given twice")
        settings[setting] = value
    dims: dict[str, object] = {}
    for given in options.dims:
        for dim in given:
            if dim in dims:
                raise UsageError(f"argument --dims: {dim} is given twice")
        dims |= given
    takers = [name for name in names if kind_of(name) == "onnx"] or names
    return [Workload(name, settings, options.training, dims if name in takers else {}) for name in names]


def check_outputs(options, *names: str) -> None:
    """Every place that will be written to is fit for it, before any work is done."""
    places: dict[Path, str] = {}
    for name in names:
        given = getattr(options, name)
        if not given:
            continue
        if given == STDOUT:
            place = Path(STDOUT)
        else:
            try:
                place = output_path(given, CHART_SUFFIXES if name in ("chart", "breakdown") else ())
            except ReportError as error:
                raise UsageError(f"argument --{name}: {error}") from None
        if place in places:
            raise UsageError(f"argument --{name}: --{places[place]} already writes to {given}")
        places[place] = name
