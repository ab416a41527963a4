"""One measuring run: the machine, the backend, what was timed, and the accelerator calibrated with it."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reports.arguments import ReportError
from reports.export import version
from reports.measure import describe
from reports.measure.backends import backend
from reports.measure.cases import calibration_rows
from reports.measure.machine import Machine, read_machine
from reports.measure.progress import progress_bar
from reports.measure.timing import Case, Plan, Timings, measure
from simulator import Accelerator
from simulator.accelerator import Citation
from simulator.calibrate import CONSTANTS, Calibration, calibrate
from workloads.measured import Measurements, measurements

NAME = "this-machine"
#: Budgets of the two ways to measure [s].
FULL, QUICK = Plan(budget_s=60.0), Plan(budget_s=10.0, sample_s=3e-4, least_rounds=3)
#: Cores' worth of other programs that are worth a note where several threads are timed.
BUSY = 0.25
#: How long the load of the machine is watched before measuring [s].
WATCHED_S = 0.5
#: Range of each constant of a processor that is fitted. LEVEL stands for each memory level.
CPU_CONSTANTS: Mapping[str, tuple[float, float]] = {
    "matrix.sustained": (0.05, 1.0),
    "matrix.attention_sustained": (0.05, 1.0),
    "matrix.operand_macs": (0.01, 100.0),
    "vector.flops_per_cycle": (0.05, 64.0),
    "vector.special_per_cycle": (1e-3, 16.0),
    "memory.LEVEL.sustained": (0.05, 1.0),
    "abilities.overlap": (0.02, 1.0),
    "latency.step_s": (1e-8, 1e-4),
}
#: Where the fit of a processor begins, one after another: which block sizes are best changes along this constant, so
#: the surface is uneven and the best of a few fits is taken.
STARTS = {"matrix.operand_macs": (0.1, 1.0, 4.0, 10.0)}


@dataclass(frozen=True)
class Setting:
    """What is measured with: the machine, the backend, threads, the clock samples are read from, and why so."""

    machine: Machine
    backend: object
    threads: int
    clock: Callable[[], float]
    quick: bool
    notes: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        return QUICK if self.quick else FULL


@dataclass(frozen=True, eq=False)
class Session:
    """What came of it. records: rows of the measurement table with `time_s`. others_s: times of the other cases."""

    setting: Setting
    records: Sequence[Mapping]
    timings: Timings
    others_s: np.ndarray
    measurements: Measurements
    start: Accelerator
    calibration: Calibration

    @property
    def accelerator(self) -> Accelerator:
        return self.calibration.accelerator


def setting(backend_name: str, device: str = "cpu", threads: int | None = None, quick: bool = False) -> Setting:
    """Choose threads and clock; nothing is measured yet but the load of the machine.

    Without `threads` PyTorch uses one, timed by its own processor time: what other programs do then counts little, and
    thin products take alike in all its libraries, which divide them among threads in different ways.

    Raises `ReportError`: an unknown backend or device, PyTorch, a GPU or scipy missing, threads numpy cannot set.
    """
    _need_scipy()
    machine = read_machine()
    found = backend(backend_name, device, machine.last_cache_bytes)
    notes = []
    if device == "cuda":
        if threads is not None:
            raise ReportError("threads: a GPU has none; leave it out with --device cuda")
        return Setting(machine, found, 1, time.perf_counter, quick)
    chosen = found.use_threads(1 if threads is None and found.name == "torch" else threads, machine.cores)
    load = other_load() if chosen > 1 else 0.0
    if load > BUSY:
        notes.append(
            f"other programs keep {load:.1f} of {machine.cores} cores busy: threads that wait for each other suffer "
            "from every one of them, one thread would not"
        )
    clock = time.thread_time if chosen == 1 else time.perf_counter
    return Setting(machine, found, chosen, clock, quick, tuple(notes))


def run(chosen: Setting, others: Sequence[Case] = (), title: str = "measuring") -> Session:
    """Measure the calibration's rows, and `others` among them; describe the machine and calibrate it."""
    rows = calibration_rows(chosen.backend.name, chosen.backend.dtypes, chosen.quick)
    rows = [{"device": NAME, "set": NAME, "harness": row["op"]} | row for row in rows]
    cases = [Case(row, chosen.backend.case(row)) for row in rows]
    with progress_bar(title) as progress, chosen.backend.session():
        timings = measure(
            [*cases, *others], chosen.plan, clock=chosen.clock, settle=chosen.backend.settle, progress=progress
        )
    records = [row | {"time_s": float(t)} for row, t in zip(rows, timings.median_s, strict=False)]
    how = f"timed by `rooftrace calibrate --this-machine` on {datetime.date.today().isoformat()}"
    start = _start(chosen, records, how, timings)
    table = measurements(records, f"{NAME} {datetime.date.today().isoformat()}")
    found = fitted(start, table, f"fitted to {len(table)} rows {how}")
    return Session(chosen, records, timings, timings.median_s[len(rows) :], table, start, found)


def fitted(start: Accelerator, table: Measurements, source: str) -> Calibration:
    """The calibration, from each of `STARTS` of a processor; the one that meets the measurements best.

    Whether caches keep the part of a recurrence's weights that fits is tried both ways, from there."""
    if start.family != "cpu":
        return calibrate(start, table, parameters(start), source=source)
    given = parameters(start)
    begun = [start.replace({path: value}) for path, values in STARTS.items() for value in values]
    best = min((calibrate(chip, table, given, source=source) for chip in begun), key=lambda found: found.cost)
    turned = {path: not value for path, value in start.fields.items() if path in _parts_kept(start)}
    other = calibrate(best.accelerator.replace(turned), table, given, source=source)
    best, chosen = (other, turned) if other.cost < best.cost else (best, {path: not turned[path] for path in turned})
    # a constant that the measurements cannot determine keeps the value and the source it had
    lost = [path for path in start.citations if path not in best.accelerator.citations and path not in chosen]
    chip = best.accelerator.replace({path: start.fields[path] for path in lost} | chosen)
    cited = {path: start.citations[path] for path in lost} | dict.fromkeys(chosen, Citation(source, "measured"))
    return dataclasses.replace(best, accelerator=dataclasses.replace(chip, citations={**chip.citations, **cited}))


def _parts_kept(chip: Accelerator) -> list[str]:
    """The flags of the caches; the farthest level keeps everything."""
    return [f"memory.{level}.keeps_parts" for level in list(chip.memory)[:-1]]


def parameters(start: Accelerator) -> dict[str, tuple[float, float]]:
    """What is fitted: of a processor `CPU_CONSTANTS`, of a GPU the constants `calibrate` knows but the launch.

    What starting an op costs is timed on its own, with the smallest of ops."""
    if start.family != "cpu":
        outer = list(start.memory)[-1]
        given = {path.replace("OUTER", outer): bounds for path, bounds in CONSTANTS.items()}
        return {path: bounds for path, bounds in given.items() if path in start.fields and path != "latency.launch_s"}
    given = {}
    for path, bounds in CPU_CONSTANTS.items():
        for level in start.memory if "LEVEL" in path else ("",):
            given[path.replace("LEVEL", level)] = bounds
    return given


def software(chosen: Setting) -> str:
    """Names and versions of what ran."""
    return ", ".join(f"{name} {number}" for name, number in {"rooftrace": version(), **chosen.backend.versions,
                                                             **chosen.machine.software}.items())  # fmt: skip


def other_load(
    watched_s: float = WATCHED_S, root: str | Path = "/", pause: Callable[[float], None] = time.sleep
) -> float:
    """Cores' worth of processor time that other programs take, 0 where the system does not say."""
    before, own = _busy_ticks(root), time.process_time()
    began = time.monotonic()
    pause(watched_s)
    after = _busy_ticks(root)
    elapsed = time.monotonic() - began
    if before is None or after is None or elapsed <= 0:
        return 0.0
    busy_s = (after - before) / os.sysconf("SC_CLK_TCK") - (time.process_time() - own)
    return max(0.0, busy_s / elapsed)


def _busy_ticks(root: str | Path) -> int | None:
    """Clock ticks all cores were busy since the system started, of /proc/stat."""
    try:
        found = re.search(r"^cpu\s+([\d ]+)$", (Path(root) / "proc/stat").read_text(encoding="utf-8"), re.M)
    except OSError:
        return None
    if not found:
        return None
    user, nice, system, _idle, _wait, *interrupts = (int(ticks) for ticks in found.group(1).split())
    return user + nice + system + sum(interrupts[:3])  # hard and soft interrupts, and time stolen by a hypervisor


def _start(chosen: Setting, records, how: str, timings: Timings) -> Accelerator:
    today = datetime.date.today()
    dated = f"Measured on {today.isoformat()} with {software(chosen)}; {timings.rounds} rounds, quartiles "
    notes = f"{dated}{timings.spread:.0%} of the median apart."
    if chosen.backend.device == "cuda":
        return describe.gpu(chosen.backend, records, name=NAME, year=today.year, how=how, notes=notes)
    clock = "processor time of the thread" if chosen.clock is time.thread_time else "elapsed time"
    notes += f" {chosen.threads} thread{'s' if chosen.threads > 1 else ''}, {clock}."
    return describe.cpu(
        chosen.machine, chosen.threads, records, name=NAME, year=today.year, how=how, notes=notes
    )  # fmt: skip


def _need_scipy() -> None:
    """Say before measuring that fitting needs scipy, not after."""
    import importlib.util

    if importlib.util.find_spec("scipy") is None:
        raise ReportError("calibrate needs scipy: pip install 'rooftrace[calibrate]'")
