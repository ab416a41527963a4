"""The measurements that ship with the project, by set: `reports/measured/*.csv`."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from reports.arguments import ReportError
from workloads import network
from workloads.measured import LABELS, Measurements, from_timings, joined
from workloads.trace import Trace, nearest

FOLDER = Path(__file__).parent / "measured"
#: The device of a row that names none.
UNNAMED = "device"
#: Published rates of networks by name, not timings of ops: a table of its own form.
TPU_V1 = FOLDER / "published" / "tpu_v1.csv"


@cache
def shipped() -> Measurements:
    """Every shipped measurement: the timings in the order of their files, then the networks of the first TPU."""
    tables = [from_timings(path) for path in sorted(FOLDER.glob("*.csv"))]
    return joined([*tables, tpu_v1()])


def sets() -> tuple[str, ...]:
    """Names of the shipped sets of measurements."""
    return tuple(dict.fromkeys(shipped().set.tolist()))


def chosen(names: Sequence[str] = ()) -> Measurements:
    """Measurements of sets by name and of csv files (`workloads.measured.from_timings`); all that ship for none.

    Raises `ReportError` with the nearest name for an unknown set, `TraceError` for a bad file.
    """
    files = [name for name in names if is_file(name)]
    picked = [name for name in names if not is_file(name)]
    for name in picked:
        if name not in sets():
            raise ReportError(f"unknown set {name!r}{nearest(name, sets())}; a file of timings ends in .csv")
    parts = [from_timings(path) for path in dict.fromkeys(files)]
    if picked:
        parts.insert(0, shipped().select(np.isin(shipped().set, picked)))
    return joined(parts) if parts else shipped()


def named(measurements: Measurements, device: str) -> Measurements:
    """The measurements with `device` for the device of rows that name none."""
    device = np.where(measurements.device == UNNAMED, device, measurements.device)
    return dataclasses.replace(measurements, labels=dict(measurements.labels) | {"device": device})


def is_file(name: str) -> bool:
    """Whether a set is named by the file it is in."""
    return name.lower().endswith(".csv")


@cache
def tpu_v1() -> Measurements:
    """The six networks of the first TPU as measurements: a batch each, its time the operations over the rate published.

    Jouppi et al., In-Datacenter Performance Analysis of a Tensor Processing Unit, ISCA 2017, table 3.
    """
    with TPU_V1.open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    rows, first, time_s = [], [], []
    labels: dict[str, list[str]] = {name: [] for name in (*LABELS, "kind", "shape")}
    for number, row in enumerate(published):
        name = row["network"]
        trace = network(f"tpu-v1-{name.lower()}").fused  # as that chip runs them
        first.append(len(rows))
        for made in trace.rows():
            after = tuple(a + first[-1] for a in made["after"])
            rows.append(made | {"layer": f"{number} {made['layer']}", "after": after, "saved_bytes": 0})
        time_s.append(trace.total_matrix_flops / (float(row["tera_ops_per_s"]) * 1e12))
        told = {"device": "tpu-v1", "set": "tpu-v1", "harness": "tpu-v1 counters", "op": row["kind"]}
        told |= {
            "kind": "network",
            "dtype": str(trace.dtype[0]),
            "phase": "forward",
            "network": name,
            "shape": name,
            "note": "",
        }
        for label, value in told.items():
            labels[label].append(value)
    made = Trace.from_rows(rows, name="measurements", source=TPU_V1.name)
    text = {label: np.array(values, dtype=str) for label, values in labels.items()}
    return Measurements(made, np.array(first), np.array(time_s), text, TPU_V1.name)
