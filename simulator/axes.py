"""The axes of a design space: the candidates of each parameter, checked before anything runs.

A parameter is a field of the accelerator by dotted path, or `batch`. Candidates are numbers that rise or fall
throughout, or choices (flags, words such as a dataflow).
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.accelerator import SECTIONS, Accelerator, MemoryLevel
from simulator.metrics import DesignSpaceError

BATCH = "batch"
#: Steps into which a continuous range is cut where a search needs neighbours.
FINENESS = 4096


@dataclass(frozen=True)
class LogRange:
    """Every number from `low` to `high`, evenly spread over the orders of magnitude; whole ones where the field
    takes no others. For samples and searches: a grid needs candidates one by one.

    Raises `DesignSpaceError` unless 0 < low < high, both finite.
    """

    low: float
    high: float

    def __post_init__(self):
        ends = (self.low, self.high)
        if not all(isinstance(end, numbers.Real) and np.isfinite(end) for end in ends) or not 0 < self.low < self.high:
            raise DesignSpaceError(f"LogRange: 0 < low < high is expected, got {self.low!r} and {self.high!r}")


@dataclass(frozen=True)
class Axis:
    """One parameter with its candidates: a read-only float array, or a tuple of choices (`kind` "choice").

    `kind` is "number", "batch" or "choice"; all but numbers are the same for every design of a simulation.
    `continuous` where the candidates stand for all numbers between them.
    """

    name: str
    values: np.ndarray | tuple
    kind: str
    continuous: bool = False

    def __len__(self):
        return len(self.values)

    def at(self, index) -> np.ndarray:
        """The candidates of an array of indexes."""
        return (np.array(self.values, dtype=object) if self.kind == "choice" else self.values)[index]


def axes_of(accelerator: Accelerator, given: Mapping[str, object], what: str) -> tuple[Axis, ...]:
    """The axes of a space, in the order given, with names in full.

    Raises `DesignSpaceError` for no axis, two axes of one field, or candidates that are empty, not a number, not
    monotonic or not whole numbers where only those make sense; `AcceleratorError` for an unknown field, with the
    nearest name, and for a value out of its range.
    """
    if not isinstance(given, Mapping):
        raise DesignSpaceError(f"{what}: axes must map fields to candidates, got {type(given).__name__}")
    if not given:
        raise DesignSpaceError(f"{what}: no axis given: name the fields to vary and their candidates")
    found: dict[str, Axis] = {}
    for name, values in given.items():
        axis = axis_of(accelerator, name, values, what)
        if axis.name in found:
            raise DesignSpaceError(f"{what}: {axis.name} has two axes")
        found[axis.name] = axis
    return tuple(found.values())


def axis_of(accelerator: Accelerator, name: str, values, what: str) -> Axis:
    """One axis; see `axes_of`."""
    path = name if name == BATCH else accelerator.path(name)
    where = f"{what}: {path}"
    current = None if name == BATCH else accelerator.fields.get(path)
    if isinstance(values, LogRange):
        values, continuous = _spread(values, is_whole(path)), True
    else:
        values, continuous = _listed(values, where), False
    if isinstance(current, (str, bool)):
        return Axis(path, _checked_choices(accelerator, path, values, where), "choice")
    column = monotonic(values, where)
    if name == BATCH:
        if (column < 1).any() or (column != np.floor(column)).any():
            wrong = column[(column < 1) | (column != np.floor(column))][0]
            raise DesignSpaceError(f"{where} must be whole numbers of 1 or more, got {wrong:g}")
    else:
        column = accelerator.candidates(path, column)
    return Axis(path, column, BATCH if name == BATCH else "number", continuous)


def monotonic(values: Sequence, where: str) -> np.ndarray:
    """Candidates as a read-only float array. Raises `DesignSpaceError` unless they are numbers that rise or fall."""
    try:
        column = np.asarray(values)
    except ValueError:
        column = np.empty((0, 0))
    if column.ndim != 1 or column.dtype.kind not in "iuf":
        raise DesignSpaceError(f"{where} must be a list of numbers, got {values!r}")
    column = column.astype(float)
    if not np.isfinite(column).all():
        raise DesignSpaceError(f"{where} must be finite, got {column[~np.isfinite(column)][0]:g}")
    steps = np.diff(column)
    rises = steps[0] > 0 if len(steps) else True
    wrong = np.flatnonzero(steps <= 0 if rises else steps >= 0)
    if len(wrong):
        first, second = column[wrong[0] : wrong[0] + 2]
        raise DesignSpaceError(f"{where} must rise or fall throughout, got {second:g} after {first:g}")
    column.setflags(write=False)
    return column


def rule(path: str) -> Mapping[str, object]:
    """The range of a numeric field: `least`, `above`, `most` (None: no limit), `whole`, `optional`."""
    if path == BATCH:
        return {"least": 1, "above": None, "most": None, "whole": True, "optional": False}
    section, _, leaf = path.partition(".")
    kind = MemoryLevel if section == "memory" else SECTIONS[section]
    leaf = leaf.rsplit(".", 1)[-1] if section == "memory" else leaf.split(".", 1)[0]
    metadata = next(item.metadata for item in dataclasses.fields(kind) if item.name == leaf)
    return metadata.get("rule", {"least": None, "above": 0, "most": None, "whole": False, "optional": False})


def is_whole(path: str) -> bool:
    """Whether a parameter takes whole numbers only."""
    return bool(rule(path)["whole"])


def _listed(values, where: str) -> list:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise DesignSpaceError(f"{where} must be a list of candidates, got {values!r}")
    values = list(values)
    if not values:
        raise DesignSpaceError(f"{where} has no candidates")
    return values


def _spread(given: LogRange, whole: bool) -> np.ndarray:
    if whole:
        low, high = np.ceil(given.low), np.floor(given.high)
        if high - low <= FINENESS:
            return np.arange(low, high + 1)
        return np.unique(np.round(np.geomspace(low, high, FINENESS + 1)))
    return np.geomspace(given.low, given.high, FINENESS + 1)


def _checked_choices(accelerator: Accelerator, path: str, values: list, where: str) -> tuple:
    found = []
    for value in values:
        value = accelerator.replace({path: value}).fields[path]
        if value in found:
            raise DesignSpaceError(f"{where} has {value!r} twice")
        found.append(value)
    return tuple(found)
