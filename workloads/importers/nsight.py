"""Nsight Compute's csv export: kernels with their measured time, memory traffic and operations.

Both forms are read: `ncu --csv --page raw` (a column a metric, the units in the row below the header) and
`--page details` (a line a metric, with columns "Metric Name", "Metric Unit", "Metric Value"). Lines before the header
(the program's own output, "==PROF==" lines) are skipped. Needed: the column "Kernel Name" and the metric
`gpu__time_duration.sum`. Also used, where they are there:

- `dram__bytes.sum`, or `dram__bytes_read.sum` and `dram__bytes_write.sum`: bytes moved.
- `sm__sass_thread_inst_executed_op_{d,f,h}{add,mul,fma}_pred_on.sum`: one FLOP an addition or product, two a fused one.
- `sm__ops_path_tensor_*.sum`: operations of the matrix units; `_sparsity_on` and `_sparsity_off` are parts of a metric
  of their own name without and are left out.

After Yang, Kurth and Williams, Hierarchical Roofline analysis for GPUs, Concurrency and Computation 32(20), 2020.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workloads.files import load_text
from workloads.trace import TraceError, nearest

TIME = "gpu__time_duration.sum"
MOVED, READ, WRITTEN = "dram__bytes.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"
_INSTRUCTIONS = re.compile(r"sm__sass_thread_inst_executed_op_([dfh])(add|mul|fma)_pred_on\.sum")
_MATRIX = re.compile(r"sm__ops_path_tensor_(src_\w+?)?(dst_\w+?)?\.sum")

#: What one of a unit is: seconds, bytes, counts. Nsight's kilo is 1000.
_PREFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS = {
    **dict.fromkeys(("ns", "nsecond"), 1e-9),
    **dict.fromkeys(("us", "usecond"), 1e-6),
    **dict.fromkeys(("ms", "msecond"), 1e-3),
    **dict.fromkeys(("s", "second"), 1.0),
    **{prefix + name: factor for prefix, factor in _PREFIXES.items() for name in ("byte", "inst", "")},
}
_PRECISION = {"d": "fp64", "f": "fp32", "h": "fp16"}
_HEADINGS = ("Kernel Name", "Metric Name", "Metric Unit", "Metric Value")


@dataclass(frozen=True)
class Kernel:
    """One launch of a kernel: name, seconds, row of the trace."""

    name: str
    time_s: float
    row: dict


def kernels(path: Path) -> list[Kernel]:
    """The launches in a csv export, in order. Raises `TraceError` naming file, line, metric and value."""
    lines, header, first = _table(path)
    long = "Metric Name" in header
    if long and not {"Metric Unit", "Metric Value"} <= set(header):
        raise TraceError(f"{path}: line {first}: 'Metric Name' needs the columns 'Metric Unit' and 'Metric Value'")
    if not long and TIME not in header:
        raise TraceError(f"{path}: column {TIME!r} is missing: measure it with ncu --metrics {TIME},{MOVED}")
    launches = _long(lines, header, first, path) if long else _wide(lines, header, first, path)
    found = [_kernel(line, name, metrics, path) for line, name, metrics in launches]
    if not found:
        raise TraceError(f"{path}: no kernels below the header")
    return found


def _table(path: Path) -> tuple[list[list[str]], list[str], int]:
    """Rows of cells below the header, the header, its line number (from 1)."""
    text = load_text(path).splitlines()
    try:
        rows = list(csv.reader(text, strict=True))
    except csv.Error as error:
        raise TraceError(f"{path}: not valid csv ({error})") from None
    for number, cells in enumerate(rows):
        if "Kernel Name" in cells:
            return rows[number + 1 :], [cell.strip() for cell in cells], number + 1
    seen = next((cells for cells in rows if len(cells) > 2), [])
    close = f": column {seen[0]!r}{nearest(seen[0], _HEADINGS)}" if seen else ""
    raise TraceError(f"{path}: not an export of Nsight Compute: no header with 'Kernel Name'{close}")


def _cells(rows: list[list[str]], header: list[str], first: int, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, cells in enumerate(rows, start=first + 1):
        if not cells or cells[0].startswith("=="):
            continue
        if len(cells) != len(header):
            raise TraceError(f"{path}: line {number}: {len(cells)} cells where the header has {len(header)}")
        yield number, dict(zip(header, cells, strict=True))


def _wide(rows: list, header: list[str], first: int, path: Path) -> Iterator[tuple[int, str, dict[str, float]]]:
    units: dict[str, str] = {}
    for number, row in _cells(rows, header, first, path):
        if not row["Kernel Name"]:
            units = row
            continue
        values = {name: row[name] for name in header if _is_used(name)}
        metrics = {name: _number(text, units.get(name, ""), name, number, path) for name, text in values.items()}
        yield number, row["Kernel Name"], metrics


def _long(rows: list, header: list[str], first: int, path: Path) -> Iterator[tuple[int, str, dict[str, float]]]:
    launches: dict[tuple, tuple[int, str, dict]] = {}
    for number, row in _cells(rows, header, first, path):
        key = (row.get("Process ID"), row.get("ID"), row["Kernel Name"])
        metrics = launches.setdefault(key, (number, row["Kernel Name"], {}))[2]
        metric = row["Metric Name"]
        if _is_used(metric):
            metrics[metric] = _number(row["Metric Value"], row["Metric Unit"], metric, number, path)
    yield from launches.values()


def _is_used(metric: str) -> bool:
    return metric in (TIME, MOVED, READ, WRITTEN) or bool(_INSTRUCTIONS.fullmatch(metric)) or _is_matrix(metric)


def _is_matrix(metric: str) -> bool:
    return bool(_MATRIX.fullmatch(metric)) and "sparsity" not in metric


def _number(text: str, unit: str, metric: str, line: int, path: Path) -> float:
    """A value in seconds, bytes or counts; "n/a" is nan."""
    where = f"{path}: line {line}: {metric}"
    if unit not in UNITS:
        raise TraceError(f"{where}: unknown unit {unit!r}{nearest(unit, [u for u in UNITS if u])}")
    if text.strip().lower() in ("", "n/a", "nan"):
        return math.nan
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        raise TraceError(f"{where}: a number is expected, got {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise TraceError(f"{where}: must be finite and not negative, got {text!r}")
    return value * UNITS[unit]


def _kernel(line: int, name: str, metrics: dict[str, float], path: Path) -> Kernel:
    """The row has kind "elementwise": an export does not say what sizes a kernel multiplied."""
    time_s = metrics.get(TIME, math.nan)
    if not time_s > 0:
        raise TraceError(f"{path}: line {line}: {name}: {TIME} is {'missing' if math.isnan(time_s) else 'zero'}")
    flops = _flops(metrics)
    moved = {metric: metrics.get(metric, math.nan) for metric in (MOVED, READ, WRITTEN)}
    read, written = (0 if math.isnan(moved[m]) else round(moved[m]) for m in (READ, WRITTEN))
    if math.isnan(moved[READ]) and not math.isnan(moved[MOVED]):
        read = round(moved[MOVED]) - written
    row = {
        "layer": _short(name),
        "op": "kernel",
        "kind": "elementwise",
        "vector_flops": round(sum(flops.values())),
        "input_bytes": max(read, 0),
        "output_bytes": written,
        "dtype": max(flops, key=flops.get) if any(flops.values()) else "fp32",
    }
    if not (row["vector_flops"] or row["input_bytes"] or row["output_bytes"]):
        raise TraceError(f"{path}: line {line}: {name}: neither bytes nor operations: measure {MOVED} as well")
    return Kernel(name, time_s, row)


def _flops(metrics: dict[str, float]) -> dict[str, float]:
    """FLOP of a launch by element type."""
    flops: dict[str, float] = {}
    for metric, value in metrics.items():
        found = _INSTRUCTIONS.fullmatch(metric)
        if math.isnan(value):
            continue
        if found:
            dtype = _PRECISION[found[1]]
            flops[dtype] = flops.get(dtype, 0.0) + value * (2 if found[2] == "fma" else 1)
        elif _is_matrix(metric):
            source = re.search(r"src_(bf16|fp16|fp64|tf32|fp8|int8|int4)", metric)
            dtype = source[1] if source else "fp16"
            flops[dtype] = flops.get(dtype, 0.0) + value
    return flops


def _short(name: str) -> str:
    """A kernel's name without its template arguments, parameters and return type."""
    bare = re.sub(r"\(anonymous namespace\)::|<unnamed>::", "", name)
    depth, kept = 0, []
    for letter in bare:
        depth += (letter in "<(") - (letter in ">)")
        if depth == 0 and letter not in ">)":
            kept.append(letter)
    words = "".join(kept).split()
    return words[-1] if words else name
