"""What is to be run: one network or a mix with weights, as traces or, where the batch varies, as functions of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real

import numpy as np

from simulator.accelerator import Accelerator
from simulator.designs import Block, space
from simulator.metrics import DesignSpaceError, Metric, metric
from simulator.result import Result
from simulator.simulate import simulate, totals
from workloads.trace import SCHEMA, Trace, TraceError, nearest

Part = tuple[str, Trace, float]


@dataclass(frozen=True)
class Mix:
    """Networks by name with the number of times each runs. `given`: name -> (trace or function of the batch, weight).

    Made by `mix`.
    """

    given: Mapping[str, tuple[Trace | Callable[[int], Trace], float]]
    _built: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def varies(self) -> bool:
        """Whether any network is a function of the batch."""
        return any(not isinstance(source, Trace) for source, _ in self.given.values())

    def at(self, batch: int | None = None) -> tuple[Part, ...]:
        """Name, trace and weight of each network at a batch. Raises `DesignSpaceError` where a function fails to
        return a trace."""
        if batch not in self._built:
            self._built[batch] = tuple((name, _trace(name, s, batch), w) for name, (s, w) in self.given.items())
        return self._built[batch]


def mix(traces, what: str) -> Mix:
    """A mix from one trace, a function batch -> trace, or a mapping of names to (either, weight).

    Raises `TraceError` for anything else, `DesignSpaceError` for an empty mapping or a weight that is not a
    positive number.
    """
    if isinstance(traces, Mix):
        return traces
    if isinstance(traces, Trace) or callable(traces):
        name = traces.name if isinstance(traces, Trace) else "network"
        return Mix({name: (traces, 1.0)})
    if not isinstance(traces, Mapping):
        raise TraceError(f"{what}: a Trace or a mapping of names to (trace, weight), got {type(traces).__name__}")
    if not traces:
        raise DesignSpaceError(f"{what}: no network given")
    found = {}
    for name, entry in traces.items():
        source, weight = entry if isinstance(entry, (tuple, list)) and len(entry) == 2 else (entry, 1.0)
        if not (isinstance(source, Trace) or callable(source)):
            raise TraceError(f"{what}: {name}: a Trace or (trace, weight) is expected, got {entry!r}")
        if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 < weight < np.inf:
            raise DesignSpaceError(f"{what}: {name}: the weight must be a positive number, got {weight!r}")
        found[str(name)] = (source, float(weight))
    return Mix(found)


def _trace(name: str, source, batch: int | None) -> Trace:
    if isinstance(source, Trace):
        return source
    if batch is None:
        raise DesignSpaceError(f"{name} is a function of the batch: give the batches to try, batch=[...]")
    trace = source(batch)
    if not isinstance(trace, Trace):
        raise DesignSpaceError(f"{name}: the function of the batch must return a Trace, got {type(trace).__name__}")
    return trace


@dataclass(frozen=True)
class Measure:
    """One column of a table of designs: a metric of the whole mix, or of one network of it (`network`)."""

    name: str
    metric: Metric
    network: str | None = None

    def of(self, results: Mapping[str, tuple[Result, float]]) -> np.ndarray:
        """Values of the designs of the results, flat."""
        if self.network is None:
            return self.metric.over(list(results.values()))
        return self.metric.over([(results[self.network][0], 1.0)])


def measures(asked: Sequence, networks: Mix, accelerator: Accelerator) -> tuple[Measure, ...]:
    """Columns by metric: a name, a function, or "NETWORK:METRIC" for one network of a mix.

    Raises `DesignSpaceError` for none, one asked for twice, or an unknown metric or network.
    """
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        asked = [asked]
    if not asked:
        raise DesignSpaceError("no metric asked for")
    found: dict[str, Measure] = {}
    for item in asked:
        one = measure(item, networks, accelerator)
        if one.name in found:
            raise DesignSpaceError(f"metric {one.name!r} is asked for twice")
        found[one.name] = one
    return tuple(found.values())


def measure(asked, networks: Mix, accelerator: Accelerator) -> Measure:
    """One column; see `measures`."""
    if isinstance(asked, Measure):
        return asked
    if isinstance(asked, str) and ":" in asked:
        network, _, name = asked.rpartition(":")
        if network not in networks.given:
            raise DesignSpaceError(f"metric {asked!r}: no network {network!r}{nearest(network, networks.given)}")
        found = metric(name, accelerator)
        return Measure(f"{network}:{found.name}", found, network)
    found = metric(asked, accelerator)
    return Measure(found.name, found)


def measured(
    parts: Sequence[Part], accelerator: Accelerator, block: Block, columns: Sequence[Measure]
) -> dict[str, np.ndarray]:
    """Each column for the designs of a block, (designs,), in the order of `block.ids`."""
    designs = space(accelerator, block)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # what is not a number is refused by name
        run = totals if all(column.metric.whole_network for column in columns) else simulate
        results = {name: (run(trace, designs), weight) for name, trace, weight in parts}
        return {column.name: np.broadcast_to(column.of(results), (block.size,)) for column in columns}


def longest(networks: Mix, batches: Sequence[int | None]) -> int:
    """Rows of the longest trace of a mix, which decides how many designs fit the memory of one call."""
    return max(len(trace) for _, trace, _ in networks.at(batches[-1]))


def identity(parts: Sequence[Part]) -> bytes:
    """Bytes that tell one mix from another: names, weights and every column of every trace."""
    pieces = []
    for name, trace, weight in parts:
        pieces.append(repr((name, weight, trace.name, trace.sequences, trace.tokens)))
        pieces.extend(f"{column}={trace.columns[column].tolist()!r}" if column != "after" else repr(trace.after)
                      for column in SCHEMA)  # fmt: skip
    return "\n".join(pieces).encode()
