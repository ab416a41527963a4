"""Studies small enough to know by heart, for the tests of how studies are run, shown and written."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest

from reports.canvas import new_axes
from reports.studies import Bench, Chart, Finding, Outside, Study, Table, catalogue
from reports.study_report import Report, report

#: Text that means something in HTML, in markdown and in an attribute.
NASTY = "<b>5 & \"6\"</b> 'a' | `c` *d* https://example.org/x?a=1&b=2."


def draw(points: int = 3):
    ax = new_axes(None, (4, 3))
    ax.plot(np.arange(points), np.random.default_rng(0).normal(size=points), ",")
    return ax.figure


def find(bench: Bench) -> Finding:
    chips = bench.chips("v100-sxm")
    bandwidth = float(chips[0].outer.bandwidth_bytes_per_s)
    return Finding(
        holds="holds" if bandwidth > 1e12 else "does not hold",
        verdict=f"{chips[0].name} moves {bandwidth / 1e9:g} GB/s.\nA second paragraph.",
        limits=f"None. {NASTY}",
        numbers={"bandwidth_bytes_per_s": bandwidth, "ratio": np.float64(0.5)},
        tables=[
            Table(
                caption=f"Chips {NASTY}",
                columns=["chip", "share [%]", "count", "note"],
                rows=[["v100 | sxm", 12.3456, 4096, NASTY], ["other", np.float32(0.5), np.int64(7), None]],
                formats={"share [%]": "{:.1f}"},
            )
        ],
        charts=[Chart(draw=draw, alt=f"three points {NASTY}", caption="Points.", source="made here")],
        outside=[
            Outside(what="rate", published=(2.0, 3.0), computed=3.3, unit="x", source=NASTY),
            Outside(what="other", published=4.0, computed=3.0, unit="", source="a paper", note="a note"),
        ],
    )


TINY = Study(
    name="tiny",
    title=f"Tiny {NASTY}",
    question="Is it so?",
    claim="It is so.",
    setup="One chip.",
    sources=(NASTY, "Somebody, 2001"),
    run=find,
)


def fail(bench: Bench) -> Finding:
    raise ZeroDivisionError("by <nought>")


FAILING = dataclasses.replace(TINY, name="failing", title="Failing", run=fail)


def tiny_report(bench: Bench | None = None) -> Report:
    return report(TINY, find(bench or Bench()))


@pytest.fixture
def known(monkeypatch):
    """The catalogue holds "tiny" and "failing" alone, and runs them in this process."""
    for name, study in (("tiny", TINY), ("failing", FAILING)):
        module = types.ModuleType(f"reports.studies.{name}")
        module.STUDY = study
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(catalogue, "NAMES", ("tiny", "failing"))
    monkeypatch.setattr("reports.study_runs.WORKERS", 1)
