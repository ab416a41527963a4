"""What a command found, before any of it is printed or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """lines: for the terminal. notes: for standard error, (kind, text). rows, document, chart: made when asked for.

    status: of the process, 0 unless what was checked does not hold.
    """

    lines: Sequence[str]
    notes: Sequence[tuple[str, str]] = ()
    rows: Callable[[], Sequence[Mapping]] | None = None
    document: Callable[[], Mapping] | None = None
    chart: Callable[[], object] | None = None
    status: int = 0
