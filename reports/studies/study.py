"""What a study is made of: its question, and what a run of it finds. Nothing here draws, prints or knows a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reports.requests import chip
from simulator import Accelerator
from workloads.trace import nearest

#: How a claim can fare.
VERDICTS = ("holds", "holds in part", "does not hold")
#: Letters of a word that may stand in a column of numbers.
WORD = 6


class StudyError(ValueError):
    """A study that cannot be run or written: the message names the study, argument and value."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers of a study. Each row has an entry for each column: text, or a number shown as `formats` of its column
    says (a format spec, "{:.3g}"; without one a float has three digits and a whole number all of them); units stand
    in the column names. Raises `StudyError` for a row of another length or a format of no column."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    formats: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise StudyError(
                    f"table {self.caption!r}: a row has {len(row)} cells where there are {len(self.columns)} columns"
                )
        for name in self.formats:
            if name not in self.columns:
                raise StudyError(f"table {self.caption!r}: no column {name!r}{nearest(name, self.columns)}")

    def cells(self) -> list[list[str]]:
        """Every row as text."""
        formats = [self.formats.get(column) for column in self.columns]
        return [[shown(value, form) for value, form in zip(row, formats, strict=True)] for row in self.rows]

    def numeric(self) -> list[str]:
        """The columns of numbers, in which a word such as "never" may stand for one."""
        found = []
        for column, values in zip(self.columns, zip(*self.rows, strict=True), strict=False):
            words = [value for value in values if not is_number(value)]
            if len(words) < len(values) and all(len(shown(word)) <= WORD for word in words):
                found.append(column)
        return found


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure of a study. `draw` makes a new matplotlib figure; `alt` says in words what it shows, from its numbers;
    `caption` stands under it; `source` says what its numbers come from beside the run of the study. Raises `StudyError`
    without alt or caption."""

    draw: Callable[[], object]
    alt: str
    caption: str
    source: str = ""

    def __post_init__(self):
        for name in ("alt", "caption"):
            if not getattr(self, name).strip():
                raise StudyError(f"a chart needs text for {name}: {self.caption or self.alt or 'an unnamed one'}")


@dataclass(frozen=True, kw_only=True)
class Outside:
    """Something published elsewhere beside what the study computes. `published` is a number or a (low, high) range."""

    what: str
    published: float | tuple[float, float]
    computed: float
    unit: str
    source: str
    note: str = ""

    @property
    def range(self) -> tuple[float, float]:
        """Low and high end of what is published, which are the same for a number."""
        return self.published if isinstance(self.published, tuple) else (self.published, self.published)

    @property
    def discrepancy(self) -> float:
        """Computed over published, less one; 0 within a published range, else from its nearer end."""
        low, high = self.range
        end = min(max(self.computed, low), high)
        if self.computed == end:
            return 0.0
        return self.computed / end - 1.0 if end else math.copysign(math.inf, self.computed)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a run of a study found; every sentence is made from numbers of the run.

    holds: one of `VERDICTS`. verdict: what the numbers say of the claim. limits: where the claim holds and where it
    stops. numbers: the figures the verdict rests on, by name with unit, for json and for tests. Raises `StudyError`
    for another `holds`.
    """

    holds: str
    verdict: str
    limits: str
    numbers: Mapping[str, float]
    tables: Sequence[Table]
    charts: Sequence[Chart]
    outside: Sequence[Outside] = ()

    def __post_init__(self):
        if self.holds not in VERDICTS:
            raise StudyError(f"holds must be one of {', '.join(VERDICTS)}, got {self.holds!r}")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The chips a study runs on. `on`: chips by name or file instead of the study's own; `changes`: fields changed on
    every chip, as (field, typed value) pairs."""

    on: Sequence[str] = ()
    changes: Sequence[tuple[str, str]] = ()

    def chip(self, name: str) -> Accelerator:
        """A chip by name or file, with the changes. Raises `AcceleratorError` and `UnitError`."""
        return chip(name, self.changes)[0]

    def chips(self, *usual: str) -> list[Accelerator]:
        """The chips asked for, else the study's usual ones. Raises `StudyError` where two have one name, by which
        tables and numbers go."""
        chips = [self.chip(name) for name in (self.on or usual)]
        names = [found.name for found in chips]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise StudyError(f"two of the chips are called {twice}; give one another name in its file, or leave it")
        return chips


@dataclass(frozen=True, kw_only=True)
class Study:
    """A claim and how it is checked.

    name: at the command line. question, claim, setup: text, true whatever the numbers. sources: where the claim and
    the networks come from. run: finds.
    """

    name: str
    title: str
    question: str
    claim: str
    setup: str
    sources: Sequence[str]
    run: Callable[[Bench], Finding]


def shown(value: object, form: str | None = None) -> str:
    """An entry as text: three digits of a float and all of a whole number, unless a format spec says otherwise."""
    value = value.item() if hasattr(value, "item") else value  # of numpy
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if math.isnan(value):
        return "n/a"
    if form:
        return form.format(value)
    return str(value) if isinstance(value, int) else f"{float(f'{value:.3g}'):g}"


def is_number(value: object) -> bool:
    """Whether an entry is a number of Python or numpy, and no truth value."""
    value = value.item() if hasattr(value, "item") else value
    return isinstance(value, (int, float)) and not isinstance(value, bool)
