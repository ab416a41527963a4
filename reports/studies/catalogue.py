"""The studies by name, in the order in which they are told. A study is imported when it is asked for."""

from __future__ import annotations

import importlib

from reports.studies.study import Study, StudyError
from workloads.trace import nearest

#: Each is `STUDY` in the module of that name (with underscores).
NAMES: tuple[str, ...] = (
    "path-length",
    "memory-bound",
    "compute-or-bandwidth",
    "resident-weights",
    "training-cost",
    "prefill-and-decode",
    "hierarchy",
    "storing-less",
    "edge-and-cloud",
    "quantisation",
    "software",
    "budget",
)


def studies() -> tuple[str, ...]:
    """Names of all studies."""
    return NAMES


def study(name: str) -> Study:
    """The study of that name. Raises `StudyError` for an unknown one, with the nearest."""
    if name not in NAMES:
        raise StudyError(f"unknown study {name!r}{nearest(name, NAMES)}")
    return importlib.import_module(f"reports.studies.{name.replace('-', '_')}").STUDY
