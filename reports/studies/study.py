"""What a study is made of: its question, and what a run of it finds. Nothing here draws, prints or knows a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reports.requests import chip
from simulator import Accelerator

#: How a claim can fare.
VERDICTS = ("holds", "holds in part", "does not hold")


class StudyError(ValueError):
    """A study that cannot be run or written: the message names the study, argument and value."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers of a study. Each row has an entry for each column: text, or a number shown as `formats` of its column
    says (a format spec, "{:.3g}" where none is given); units stand in the column names."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    formats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure of a study. `draw` makes a new matplotlib figure; `alt` says in words what it shows, from its numbers;
    `caption` stands under it and `source` says where its numbers come from."""

    draw: Callable[[], object]
    alt: str
    caption: str
    source: str


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
    def discrepancy(self) -> float:
        """Computed over published, less one; 0 within a published range, else from its nearer end."""
        low, high = self.published if isinstance(self.published, tuple) else (self.published, self.published)
        return self.computed / min(max(self.computed, low), high) - 1.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a run of a study found; every sentence is made from numbers of the run.

    holds: one of `VERDICTS`. verdict: what the numbers say of the claim. limits: where the claim holds and where it
    stops. numbers: the figures the verdict rests on, by name with unit, for json and for tests.
    """

    holds: str
    verdict: str
    limits: str
    numbers: Mapping[str, float]
    tables: Sequence[Table]
    charts: Sequence[Chart]
    outside: Sequence[Outside] = ()


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
        """The chips asked for, else the study's usual ones."""
        return [self.chip(name) for name in (self.on or usual)]


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
