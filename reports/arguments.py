"""What the reports accept: one result or several with labels, and places to write to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from simulator import Result
from workloads.files import write_atomically


class ReportError(ValueError):
    """A report that cannot be made: the message names the argument and its value."""


def single(result: Result) -> Result:
    """`result` unless it spans a design space. Raises `ReportError` for an array of designs or no result at all."""
    if not isinstance(result, Result):
        raise ReportError(f"a Result is expected, got {type(result).__name__}")
    if result.shape != ():
        space = f"{result.accelerator.designs} designs, shape {result.shape}"
        raise ReportError(f"the result of {result.accelerator.name} spans {space}: pick one with result.design(index)")
    return result


def labelled(results: Result | Iterable[Result] | Mapping[str, Result]) -> dict[str, Result]:
    """Results by label: one result, a list, or a mapping with the labels of choice.

    Labels of a list say what differs: the chip's name, the network's, or both; equal ones are numbered.
    Raises `ReportError` when there is none, when something else is given, or for an array of designs.
    """
    if isinstance(results, Mapping):
        found = {str(label): single(result) for label, result in results.items()}
    elif isinstance(results, Result) or not isinstance(results, Iterable):
        found = {f"{single(results).trace.name} on {results.accelerator.name}": results}
    else:
        found = _by_difference([single(result) for result in results])
    if not found:
        raise ReportError("no result given")
    return found


def _by_difference(results: list[Result]) -> dict[str, Result]:
    networks = {result.trace.name for result in results}
    chips = {result.accelerator.name for result in results}
    found: dict[str, Result] = {}
    for result in results:
        network, chip = result.trace.name, result.accelerator.name
        if len(networks) == 1 and len(chips) > 1:
            label = chip
        elif len(chips) == 1 and len(networks) > 1:
            label = network
        else:
            label = f"{network} on {chip}"
        number = 1 + sum(known == label or known.startswith(f"{label} (") for known in found)
        found[label if number == 1 else f"{label} ({number})"] = result
    return found


def comparison_title(found: Mapping[str, Result]) -> str:
    """What is compared: 'bert-large on 3 chips'."""
    networks = list(dict.fromkeys(result.trace.name for result in found.values()))
    chips = list(dict.fromkeys(result.accelerator.title for result in found.values()))
    network = networks[0] if len(networks) == 1 else f"{len(networks)} networks"
    return f"{network} on {chips[0] if len(chips) == 1 else f'{len(chips)} chips'}"


def output_path(path, suffixes: Iterable[str] = ()) -> Path:
    """Where a report is to be written, with links followed; nothing is written yet.

    Raises `ReportError` for a suffix other than `suffixes` (any when empty), a folder that does not exist or
    cannot be written to, or a place that is no ordinary file.
    """
    given, suffixes = Path(path), tuple(suffixes)
    if suffixes and given.suffix.lower() not in suffixes:
        got = repr(given.suffix) if given.suffix else "none"
        raise ReportError(f"{given}: the suffix must be one of {', '.join(suffixes)}, got {got}")
    place = Path(os.path.realpath(given))  # replacing the file a link names, not the link
    if not place.parent.is_dir():
        raise ReportError(f"{given}: there is no folder {given.parent}")
    if place.exists() and not place.is_file():
        raise ReportError(f"{given}: not an ordinary file")
    if not os.access(place.parent, os.W_OK):
        raise ReportError(f"{given}: the folder {given.parent} cannot be written to")
    return place


def write_text(path, text: str) -> Path:
    """Write a text file whole or not at all. Returns its path. Raises `ReportError` or `TraceError`."""
    place = output_path(path)
    write_atomically(place, text.encode())
    return place
