"""What stands at the head of all studies: the version that made them, when, and how to make them again."""

from __future__ import annotations

import datetime
import os
import shlex
from dataclasses import dataclass

from reports import export
from reports.studies import Bench


@dataclass(frozen=True, kw_only=True)
class About:
    """title: of the page. made: a sentence with version and date. command: that recomputes it."""

    title: str
    made: str
    command: str


def about(names: list[str], bench: Bench, everything: bool) -> About:
    """The head of studies by name on a bench; `everything` where they are all there are.

    The date is today's in UTC, or that of SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch).
    """
    words = ["rooftrace", "study", *(["--all"] if everything else names)]
    words += ["--on", *bench.on] if bench.on else []
    words += ["--set", *(f"{field}={text}" for field, text in bench.changes)] if bench.changes else []
    made = f"Computed by rooftrace {export.version()} on {_today()}, from the numbers of this run alone."
    return About(title="The argument, checked", made=made, command=shlex.join([*words, "--out", "studies"]))


def _today() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch.isdigit():
        return datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).date().isoformat()
    return datetime.datetime.now(datetime.UTC).date().isoformat()
