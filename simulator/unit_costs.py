"""The unit costs of silicon: `silicon.toml` as numbers, each with its source, basis and range."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Which end of each cost's range is taken.
BOUNDS = ("low", "value", "high")
BASES = ("vendor peak", "vendor", "measured", "derived", "estimated", "assumed")
_FILE = Path(__file__).parent / "silicon.toml"
_ENTRY = {"value", "low", "high", "source", "basis"}


class UnitCostError(ValueError):
    """A table of unit costs that cannot be used: the message names file, entry and value."""


@dataclass(frozen=True)
class UnitCost:
    """One cost or a list of them (over nodes, types or technologies), where it is from and its range."""

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    source: str
    basis: str


@functools.lru_cache
def unit_costs() -> dict[str, UnitCost]:
    """Every shipped unit cost by dotted path, with source and range."""
    return read_unit_costs(_FILE)[0]


@functools.lru_cache
def costs(bound: str = "value") -> dict[str, object]:
    """The shipped numbers by dotted path, at one end of their ranges; axes (nodes, names) beside them.

    "high" takes the dear end of every cost at once, "low" the cheap end: the ends of what may be defended, not a
    confidence interval. Raises `UnitCostError` for another bound.
    """
    if bound not in BOUNDS:
        raise UnitCostError(f"bound must be one of {', '.join(BOUNDS)}, got {bound!r}")
    entries, axes = read_unit_costs(_FILE)
    return axes | {path: getattr(entry, bound) for path, entry in entries.items()}


def read_unit_costs(path) -> tuple[dict[str, UnitCost], dict[str, object]]:
    """The costs of a TOML file, and its axes: lists of nodes and names that belong to no source.

    Raises `UnitCostError` naming file and entry: a missing or unknown key, no source, an unknown basis, a cost below
    zero, a range that does not hold the value, lists of different lengths.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnitCostError(f"{path}: cannot be read ({error})") from None
    sources = document.pop("sources", {})
    entries: dict[str, UnitCost] = {}
    axes: dict[str, object] = {}
    for table, rows in document.items():
        for key, given in rows.items():
            place = f"{table}.{key}"
            if isinstance(given, Mapping):
                entries[place] = _entry(given, f"{path.name}: {place}", sources)
            elif isinstance(given, list) and not all(isinstance(item, str) for item in given):
                axes[place] = np.array(given, float)
            else:
                axes[place] = tuple(given) if isinstance(given, list) else given
    return entries, axes


def _entry(given: Mapping, where: str, sources: Mapping) -> UnitCost:
    if given.keys() != _ENTRY:
        missing, unknown = sorted(_ENTRY - given.keys()), sorted(given.keys() - _ENTRY)
        raise UnitCostError(f"{where}: missing {missing}, unknown {unknown}")
    if not isinstance(given["source"], str) or not given["source"].strip():
        raise UnitCostError(f"{where}: no source")
    if given["basis"] not in BASES:
        raise UnitCostError(f"{where}: unknown basis {given['basis']!r} (one of {', '.join(BASES)})")
    try:
        source = given["source"].format_map(sources)
    except (KeyError, ValueError, IndexError) as error:
        raise UnitCostError(f"{where}: source cites {error}, which [sources] does not have") from None
    value, low, high = (np.array(given[bound], float) for bound in ("value", "low", "high"))
    if not value.shape == low.shape == high.shape:
        raise UnitCostError(f"{where}: value, low and high have different lengths")
    if not (np.all(low >= 0) and np.all(low <= value) and np.all(value <= high) and np.all(np.isfinite(high))):
        raise UnitCostError(f"{where}: 0 <= low <= value <= high must hold, got {given['low']}, {given['value']}, ...")
    for array in (value, low, high):
        array.setflags(write=False)
    if value.ndim:
        return UnitCost(value, low, high, source, given["basis"])
    return UnitCost(float(value), float(low), float(high), source, given["basis"])
