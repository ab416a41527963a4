"""Profiles: rows with the time they took. PyTorch profiler files (Kineto) from CPU or GPU, Nsight Compute csv.

The parts: `profile_events` reads a Kineto file, `profile_operators` knows the cost of a recorded operator,
`nsight` reads a csv export; here they become a `Profile`.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from workloads.blocks import check_choice, check_counts, series
from workloads.importers.nsight import kernels
from workloads.importers.profile_events import Event, Recording, recording
from workloads.importers.profile_operators import (
    is_cell,
    is_free,
    is_wrapper,
    rows_of,
    shapes_of,
    unknown_rows,
)
from workloads.importers.uncosted import UncostedOperator
from workloads.trace import Trace, TraceError, frozen

STATISTICS = {"median": np.median, "mean": np.mean}


@dataclass(frozen=True, eq=False)
class Profile:
    """A trace and how long its rows took when they were recorded.

    An operator that does the work of several rows (an LSTM: input product, recurrent product, gates) was measured as
    one: `op` (rows,) says which rows belong together, `op_s` (ops,) is what was measured, and `measured_s` shares it
    out among the rows by their operations.

    trace: rows of one execution of the network. measured_s: time of one run of each row (rows,) [s]. op: number of
    the operator each row was measured in (rows,). op_names: its name (ops,). op_s: time of one run of each operator,
    the median or mean of its runs (ops,) [s]. op_runs: how many runs were recorded (ops,). total_s: time of all
    recorded operators [s]. attributed: share of it that is in rows with a known cost (0..1). unattributed: where the
    rest went, by operator [s], longest first. executions: how often the network ran while it was recorded. device:
    "cpu" or "gpu".
    """

    trace: Trace
    measured_s: np.ndarray
    op: np.ndarray
    op_names: tuple[str, ...]
    op_s: np.ndarray
    op_runs: np.ndarray
    total_s: float
    attributed: float
    unattributed: Mapping[str, float]
    executions: int
    device: str

    @property
    def measured_total_s(self) -> np.ndarray:
        """Time of all runs of each row in one execution. (rows,) [s]"""
        return self.measured_s * self.trace.repeats

    def to_frame(self):
        """The trace's frame with `measured_s`, `measured_total_s`, `measured_op`, and `recorded_runs` of that op."""
        frame = self.trace.to_frame()
        frame["measured_s"] = self.measured_s
        frame["measured_total_s"] = self.measured_total_s
        frame["measured_op"] = [self.op_names[number] for number in self.op]
        frame["recorded_runs"] = self.op_runs[self.op]
        return frame

    def __repr__(self):
        return (
            f"Profile({self.trace.name!r}: {len(self.op_names)} ops on {self.device}, {self.total_s:.4g} s recorded, "
            f"{100 * self.attributed:.1f} % attributed)"
        )


@dataclass
class _Op:
    """One distinct operator: rows of one run of it, and what each run took [us]."""

    name: str
    rows: list[dict]
    steps: bool  # its runs are steps of one recurrence
    known: bool
    shapes: str
    times_us: list[float] = field(default_factory=list)


@dataclass
class _Run:
    """One run of an operator that gets its rows from `event`, and its time with the wrappers around it [us]."""

    event: Event
    name: str
    rows: list[dict]
    known: bool
    backward: bool
    time_us: float


def from_profile(
    path,
    name: str | None = None,
    strict: bool = False,
    statistic: str = "median",
    executions: int | None = None,
    sequences: int = 1,
    tokens: int = 1,
) -> Profile:
    """Rows with their measured time from a profile.

    `path`: a file of PyTorch's profiler (`profile(record_shapes=True)`, then `export_chrome_trace`), .json or
    .json.gz, recorded on a CPU or, with ProfilerActivity.CUDA too, on a GPU; or a .csv (.csv.gz) export of Nsight
    Compute (columns: `workloads.importers.nsight`). `name` defaults to the file's.

    The outermost operator with a known cost takes the time of all it calls; an operator that only calls one such
    gives it its own time too. On a GPU the time is that of the kernels launched. Equal operators (sizes and types) are
    one row; their `repeats` are those of one execution, of `executions` recorded ones (default: the profiler's
    steps where each ran every operator equally often, else 1). `statistic`: "median" or "mean" of an operator's runs.
    `sequences` and `tokens` of one execution are not in a profile.

    What a profile does not say is taken to be so: the second operand of `linear`, `addmm` and `mm` is a weight, equal
    operators have different weights, `after` is program order, runs of `lstm_cell` and the like are steps of one
    recurrence. `layer` is the innermost `record_function` around an operator, else the operator's name. Gradients
    have phase "input-gradient", of weights too.

    Unknown operators become rows of kind "copy", with a `UncostedOperator` warning; their time counts as
    unattributed. `strict` makes the first one a `TraceError`. Also raises `TraceError` for a missing, unreadable,
    truncated or wrong file, a profile without shapes or without operators, an unknown statistic, executions that
    do not divide how often an operator ran. Nothing in the file is executed.
    """
    path = Path(path)
    check_choice(str(path), "statistic", statistic, STATISTICS)
    if executions is not None:
        check_counts(str(path), executions=executions)
    title = path.name.split(".")[0] if name is None else name
    meta = {"name": title, "sequences": sequences, "tokens": tokens, "source": str(path)}
    if ".csv" in path.suffixes:
        ops, lost = _kernel_ops(path), {}
        return _profile(ops, lost, "gpu", executions or 1, statistic, meta)
    recorded = recording(path)
    runs, lost = _runs(recorded)
    if not runs:
        raise TraceError(f"{path}: no operator with shapes took any time")
    ops = list(_distinct(runs).values())
    _report(ops, path, strict)
    _add_unknown(ops, lost)
    return _profile(ops, lost, "gpu" if recorded.device else "cpu", _executions(ops, recorded, executions, path),
                    statistic, meta)  # fmt: skip


# -- which operator gets which time ------------------------------------------------------------------


def _runs(recorded: Recording) -> tuple[list[_Run], dict[str, float]]:
    """Runs of all operators in program order, and the time of what has no rows, by name [us]."""
    lost = dict(recorded.unlinked_us)
    runs: list[_Run] = []
    for root in sorted(recorded.roots, key=lambda root: root.start):
        found = list(_runs_in(root, recorded, False, lost))
        for run in found:
            run.event.annotation = root.annotation
        runs += found
    return runs, lost


def _runs_in(event: Event, recorded: Recording, backward: bool, lost: dict[str, float]) -> Iterator[_Run]:
    total = recorded.time_us(event)
    if total <= 0:
        return
    backward = backward or event.name.startswith("autograd::engine")
    rows = rows_of(event, backward)
    if rows:
        yield _Run(event, event.name, rows, True, backward, total)
        return
    aside: dict[str, float] = {}
    inner = [run for child in event.children for run in _runs_in(child, recorded, backward, aside)]
    own = total - sum(run.time_us for run in inner)
    if not is_wrapper(event) and not is_free(event) and own > total / 2:
        rows = unknown_rows(event)
        if rows:
            yield _Run(event, event.name, rows, False, backward, total)
        else:
            lost[event.name] = lost.get(event.name, 0.0) + total
    elif len(inner) == 1:  # it only wraps that one
        inner[0].time_us = total
        inner[0].name = event.name if event.name.startswith("aten::") else inner[0].name
        yield inner[0]
    else:
        for name, time_us in (aside | {event.name: own - sum(aside.values()) + aside.get(event.name, 0.0)}).items():
            lost[name] = lost.get(name, 0.0) + time_us
        yield from inner


def _distinct(runs: list[_Run]) -> dict[tuple, _Op]:
    """Equal operators together, in order of their first run."""
    ops: dict[tuple, _Op] = {}
    for run in runs:
        shapes = shapes_of(run.event)
        rows = [_plain(row, run, shapes) for row in run.rows]
        key = (run.name, shapes, run.event.annotation, json.dumps(rows, sort_keys=True, default=str))
        if key not in ops:
            ops[key] = _Op(run.name, rows, is_cell(run.event), run.known, shapes)
        ops[key].times_us.append(run.time_us)
    return ops


def _plain(row: Mapping, run: _Run, shapes: str) -> dict:
    """A row of `torch_rows` as one of the trace, with layer and phase, and sizes where the layer does not tell."""
    operator = run.name.split("::")[-1].strip("_")
    kept = {column: value for column, value in row.items() if not column.startswith("_")}
    if len(run.rows) < 3 and shapes:
        kept["op"] = f"{kept['op']} {shapes}"
    builder_layer = kept.get("layer") if len(run.rows) > 2 else None
    kept["layer"] = run.event.annotation or builder_layer or operator
    if run.backward:
        kept["phase"] = "input-gradient"
    return kept


def _report(ops: list[_Op], path: Path, strict: bool) -> None:
    """Warns of each unknown operator, or refuses the first."""
    for op in (op for op in ops if not op.known):
        text = f"{path}: {op.name} ({op.shapes or 'no sizes'}) has no known cost: {len(op.times_us)} runs"
        if strict:
            raise TraceError(text)
        warnings.warn(f"{text}, their bytes are counted", UncostedOperator, stacklevel=3)


def _add_unknown(ops: list[_Op], lost: dict[str, float]) -> None:
    for op in ops:
        if not op.known:
            lost[op.name] = lost.get(op.name, 0.0) + sum(op.times_us)


def _executions(ops: list[_Op], recorded: Recording, given: int | None, path: Path) -> int:
    """How often the network was executed: as given, or the profiler's steps where every operator fits them."""
    count = given or recorded.steps or 1
    for op in ops:
        if len(op.times_us) % count:
            if given:
                text = f"executions must divide how often every operator ran, got {given}"
                raise TraceError(f"{path}: {text}: {op.name} ({op.shapes}) ran {len(op.times_us)} times")
            return 1
    return count


def _kernel_ops(path: Path) -> list[_Op]:
    """One op for each kernel of an Nsight Compute export that has the same name and counters."""
    ops: dict[str, _Op] = {}
    for kernel in kernels(path):
        key = json.dumps(kernel.row, sort_keys=True)
        op = ops.setdefault(key, _Op(kernel.name, [kernel.row], False, True, ""))
        op.times_us.append(1e6 * kernel.time_s)
    return list(ops.values())


# -- the profile -------------------------------------------------------------------------------------


def _profile(ops: list[_Op], lost: Mapping[str, float], device: str, executions: int, statistic: str, meta) -> Profile:
    parts = [_executed(op, len(op.times_us) // executions) for op in ops]
    trace = Trace.from_rows(series(parts), **meta)
    op_of_row = np.repeat(np.arange(len(ops)), [len(part) for part in parts])
    op_s = np.array([1e-6 * float(STATISTICS[statistic](op.times_us)) for op in ops])
    known_us = math.fsum(t for op in ops if op.known for t in op.times_us)
    total_us = known_us + math.fsum(lost.values())
    ranked = sorted(((1e-6 * t, name) for name, t in lost.items() if t > 0), reverse=True)
    return Profile(
        trace=trace,
        measured_s=frozen(np.concatenate([_shares(op) for op in ops]) * op_s[op_of_row]),
        op=frozen(op_of_row),
        op_names=tuple(_label(op) for op in ops),
        op_s=frozen(op_s),
        op_runs=frozen(np.array([len(op.times_us) for op in ops])),
        total_s=1e-6 * total_us,
        attributed=known_us / total_us if total_us else 0.0,
        unattributed=MappingProxyType({name: seconds for seconds, name in ranked}),
        executions=executions,
        device=device,
    )


def _label(op: _Op) -> str:
    return f"{op.name} {op.shapes}".strip()


def _executed(op: _Op, count: int) -> list[dict]:
    """Rows of an operator that runs `count` times in one execution."""
    if op.steps:
        runs = {"repeats": count, "serial_steps": count, "path_runs": count, "weight_sets": 1}
        return [row | runs for row in op.rows]
    rows = []
    for row in op.rows:
        repeats = row.get("repeats", 1)
        has_weights = bool(row.get("weight_bytes") or row.get("parameters"))
        sets = row.get("weight_sets", repeats // row.get("serial_steps", 1)) if has_weights else 1
        counts = {
            "repeats": repeats * count,
            "path_runs": row.get("path_runs", repeats) * count,
            "weight_sets": sets * count if has_weights else row.get("weight_sets", 1),
        }
        rows.append(row | counts)
    return rows


def _shares(op: _Op) -> np.ndarray:
    """Share of an operator's time that one run of each of its rows gets: by operations. (rows,)"""
    runs = np.array([row.get("repeats", 1) for row in op.rows], float)
    work = np.array([sum(row.get(c, 0) for c in ("matrix_flops", "vector_flops", "special_ops")) for row in op.rows])
    work = work if work.sum() else np.ones(len(runs))
    return work / float(runs @ work)
