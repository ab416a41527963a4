"""The networks of a command over many designs, as the simulator takes them: a mix, of the batch where that varies."""

from __future__ import annotations

from collections.abc import Mapping

from reports.cli_arguments import UsageError
from reports.options import workloads
from reports.requests import Workload
from simulator import Accelerator
from simulator.axes import BATCH


def mix_of(options, accelerator: Accelerator, varies: bool) -> tuple[Mapping, list[tuple[str, str]]]:
    """Networks by name with their weights, functions of the batch where it `varies`; and notes.

    Raises `UsageError` where weights and networks differ in number, the batch is both set and varied, or a file is to
    be run at several.
    """
    given = workloads(options.networks, options)
    weights = options.weights or [1.0] * len(given)
    if len(weights) != len(given):
        raise UsageError(f"argument --weights: {len(given)} networks but {len(weights)} weights")
    if varies and options.batch is not None:
        raise UsageError("argument --batch: the batch varies already")
    notes: list[tuple[str, str]] = []
    found: dict[str, tuple] = {}
    for workload, weight in zip(given, weights, strict=True):
        trace, note = workload.trace_for(accelerator)
        notes += [("warning", warning) for warning in workload.warnings]
        notes += [("note", note)] if note else []
        if workload.name in found:
            raise UsageError(f"argument NETWORK: {workload.name} is given twice; give it a weight")
        found[workload.name] = (_by_batch(workload, accelerator) if varies else trace, weight)
    return found, notes


def _by_batch(workload: Workload, accelerator: Accelerator):
    if workload.is_file:
        raise UsageError(f"argument --vary: {BATCH} applies to a network by name; {workload.name} states its own")
    return lambda batch: workload.trace_for(accelerator, batch=batch)[0]
