"""Results for other programs: rows for csv, a documented JSON layout. SI units, nothing rounded."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata

from reports.arguments import labelled, single
from reports.explain import dominant_bound
from reports.measured import compare_rows
from reports.tables import dtypes

#: Raised whenever a key or column changes its name or meaning, or goes; new ones may appear at any time.
SCHEMA_VERSION = 1

#: Dictionaries of `ops` and the ending of the columns they become in a csv.
_SPREAD = {
    "bounds_s": "bound_s",
    "traffic_bytes": "bytes",
    "intensity_flops_per_byte": "intensity_flops_per_byte",
}
_FROM_TRACE = ("layer", "op", "kind", "phase", "dtype", "repeats", "serial_steps", "batch", "m", "n", "k")


def version() -> str:
    """The installed version, or "unknown" when the package runs from a folder."""
    try:
        return metadata.version("rooftrace")
    except metadata.PackageNotFoundError:
        return "unknown"


def result_document(result, changes: Mapping[str, object] | None = None, profile=None) -> dict:
    """A result of one design as plain numbers, lists and dictionaries: what `rooftrace run --json` writes.

    SI units in the keys' names; shares and utilisations are 0 to 1; null where a number does not apply or is
    infinite (the intensity of an op that moves nothing). Keys:

    - format: "rooftrace-result"; schema_version: 1; rooftrace: version of the program
    - network: name, sequences (batch), tokens (positions of a sequence), parameters, flops, dtypes
    - accelerator: name, title, family, changes (field: value of what was set on top of the preset)
    - summary: latency_s, latency_low_s, latency_high_s (its 80 % interval; null where the chip's constants were fitted
      to nothing measured, neither on it nor on its class), serial_s (ops one at a time), critical_path_s,
      sequences_per_s, tokens_per_s, utilisation,
      attained_flops_per_s, intensity_flops_per_byte (farthest memory level), bound (that sets most time),
      time_share_by_bound {bound: share}, time_share_by_layer {layer: share}, time_share_in_memory,
      footprint_bytes {what: bytes, with total}, capacity_bytes, fits, warnings [text]; derived from the chip's
      silicon: energy_j, average_power_w, energy_per_token_j, energy_by_level_j {matrix, vector, special, memory
      levels, link, in_memory, static: J}, price_per_million_tokens_usd
    - ops: one object a row of the executed trace, in program order: row, layer, op, kind, phase, dtype, repeats,
      serial_steps, batch, m, n, k (columns of the trace); time_s (one run), time_low_s, time_high_s (its 80 %
      interval; null as above), total_s (all runs), time_share (of serial_s), bound, placement ("host" or
      "memory"), inside_bytes (read where they lie by a memory that computes), bounds_s {bound: s of one run},
      flops (those the roofline counts, one run), matrix_flops,
      vector_flops, special_ops (one run), traffic_bytes {memory level: bytes of one run}, intensity_flops_per_byte
      {memory level: FLOP/byte}, attained_flops_per_s, utilisation (of the peak of the unit used), roof_fraction,
      resident (share of recurrent weights kept on chip; null outside a recurrence), energy_j (all runs, with the
      static energy of their time)
    - measured (only with the `profile` the trace was read from): device, recorded_s, attributed (share of it in
      operators with a known cost), executions, ops: the rows of `reports.measured.compare_rows`

    Raises `ReportError` for an array of designs, and for a profile of another trace.
    """
    trace, chip = single(result).trace, result.accelerator
    document = {
        "format": "rooftrace-result",
        "schema_version": SCHEMA_VERSION,
        "rooftrace": version(),
        "network": {
            "name": trace.name,
            "sequences": trace.sequences,
            "tokens": trace.tokens,
            "parameters": trace.total_parameters,
            "flops": trace.total_flops,
            "dtypes": dtypes(result),
        },
        "accelerator": {
            "name": chip.name,
            "title": chip.title,
            "family": chip.family,
            "changes": dict(changes or {}),
        },
        "summary": _summary(result),
        "ops": _ops(result),
    }
    if profile is not None:
        document["measured"] = {
            "device": profile.device,
            "recorded_s": profile.total_s,
            "attributed": profile.attributed,
            "executions": profile.executions,
            "ops": compare_rows(profile, result),
        }
    return plain(document)


def comparison_document(results, changes: Sequence[Mapping[str, object]] | None = None) -> dict:
    """Several results, as `rooftrace compare --json` writes them.

    {"format": "rooftrace-comparison", "schema_version": 1, "rooftrace": version, "results": [...]}, each result laid
    out as `result_document` says; `changes` has one mapping a result. Raises `ReportError` for no result or an array
    of designs.
    """
    found = list(labelled(results).values())
    changes = changes or [{}] * len(found)
    documents = [result_document(result, changed) for result, changed in zip(found, changes, strict=True)]
    return {
        "format": "rooftrace-comparison",
        "schema_version": SCHEMA_VERSION,
        "rooftrace": version(),
        "results": documents,
    }


def op_rows(result) -> list[dict]:
    """One flat dictionary an op: what `rooftrace run --csv` writes, a column a key, empty where null.

    Columns: network, accelerator, then the keys of `ops` in `result_document`, with its dictionaries spread out under
    the names of `Result.to_frame`: `dram_bound_s` for every bound, `dram_bytes` and `dram_intensity_flops_per_byte`
    for every memory level. Raises `ReportError` for an array of designs.
    """
    rows = []
    for op in plain(_ops(single(result))):
        row = {"network": result.trace.name, "accelerator": result.accelerator.name}
        for key, value in op.items():
            spread = _SPREAD.get(key)
            row |= {f"{name}_{spread}": number for name, number in value.items()} if spread else {key: value}
        rows.append(row)
    return rows


def comparison_rows(results) -> list[dict]:
    """One flat dictionary a result: what `rooftrace compare --csv` writes.

    Columns: network, accelerator, dtype (types joined by "+"), sequences, tokens, latency_s, latency_low_s,
    latency_high_s (80 % interval; empty where nothing was calibrated), critical_path_s, sequences_per_s,
    tokens_per_s, utilisation, attained_flops_per_s, bound, bound_share, footprint_bytes, capacity_bytes, fits,
    energy_j, average_power_w, energy_per_token_j, price_per_million_tokens_usd.
    """
    rows = []
    for result in labelled(results).values():
        bound, share = dominant_bound(result)
        numbers = _summary(result)
        row = {
            "network": result.trace.name,
            "accelerator": result.accelerator.name,
            "dtype": "+".join(dtypes(result)),
            "sequences": result.trace.sequences,
            "tokens": result.trace.tokens,
        }
        speeds = ("critical_path_s", "sequences_per_s", "tokens_per_s", "utilisation")
        row |= {key: numbers[key] for key in ("latency_s", "latency_low_s", "latency_high_s", *speeds)}
        row |= {"attained_flops_per_s": numbers["attained_flops_per_s"], "bound": bound, "bound_share": share}
        row["footprint_bytes"] = numbers["footprint_bytes"]["total"]
        rest = ("capacity_bytes", "fits", "energy_j", "average_power_w", "energy_per_token_j")
        rows.append(plain(row | {key: numbers[key] for key in (*rest, "price_per_million_tokens_usd")}))
    return rows


def to_csv(rows: Sequence[Mapping]) -> str:
    """Rows as csv text with a header; a row without a column of another leaves it empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def to_json(document: Mapping) -> str:
    """A document as JSON text; NaN and infinity are refused, as JSON has neither."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _summary(result) -> dict:
    low, high = result.latency_interval_s or (None, None)
    return {
        "latency_s": result.latency_s,
        "latency_low_s": low,
        "latency_high_s": high,
        "serial_s": result.serial_s,
        "critical_path_s": result.critical_path_s,
        "sequences_per_s": result.sequences_per_s,
        "tokens_per_s": result.tokens_per_s,
        "utilisation": result.utilisation,
        "attained_flops_per_s": result.attained,
        "intensity_flops_per_byte": result.network_intensity(),
        "bound": dominant_bound(result)[0],
        "time_share_by_bound": result.time_share_by_bound(),
        "time_share_by_layer": result.time_share_by_layer(),
        "time_share_in_memory": result.in_memory_share(),
        "footprint_bytes": result.footprint,
        "capacity_bytes": result.capacity_bytes,
        "fits": bool(result.fits),
        "energy_j": result.energy_j,
        "average_power_w": result.average_power_w,
        "energy_per_token_j": result.energy_per_token_j,
        "energy_by_level_j": result.energy_by_level_j(),
        "price_per_million_tokens_usd": result.price_per_million_tokens_usd(),
        "warnings": list(result.warnings),
    }


def _ops(result) -> list[dict]:
    trace, total, energy_j = result.trace, result.total_s.sum(), result.energy_by_op_j
    placement, inside = result.placement, result.inside_bytes
    low, high = result.time_interval_s or ([None] * len(trace), [None] * len(trace))
    rows = []
    for row in range(len(trace)):
        op = {"row": row} | {column: trace.columns[column][row] for column in _FROM_TRACE}
        op |= {
            "time_s": result.time_s[row],
            "time_low_s": low[row],
            "time_high_s": high[row],
            "total_s": result.total_s[row],
            "time_share": result.total_s[row] / total,
            "bound": str(result.bound[row]),
            "placement": str(placement[row]),
            "inside_bytes": inside[row],
            "bounds_s": {name: values[row] for name, values in result.bounds_s.items()},
            "flops": result.flops[row],
            "matrix_flops": result.matrix_flops[row],
            "vector_flops": trace.vector_flops[row],
            "special_ops": trace.special_ops[row],
            "traffic_bytes": {level: values[row] for level, values in result.traffic_bytes.items()},
            "intensity_flops_per_byte": {level: values[row] for level, values in result.intensity.items()},
            "attained_flops_per_s": result.attained_flops_per_s[row],
            "utilisation": result.op_utilisation[row],
            "roof_fraction": result.roof_fraction[row],
            "resident": result.resident[row],
            "energy_j": energy_j[row],
        }
        rows.append(op)
    return rows


def plain(value):
    """Python's own types all the way down; None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()  # a numpy scalar
    return None if isinstance(value, float) and not math.isfinite(value) else value
