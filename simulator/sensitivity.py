"""What would help: how the time of a network answers to each field of the chip.

The elasticity of the time in a field is d log(time) / d log(field): -1 where doubling it halves the time, 0 where it
changes nothing. The time is a maximum of bounds and so has kinks, where the answer to more differs from the answer to
less; both are given. Every perturbed chip is one design of a single simulation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulator.accelerator import Accelerator, AcceleratorError
from simulator.axes import rule
from simulator.metrics import DesignSpaceError, one_design
from simulator.mix import mix
from simulator.result import Result
from simulator.simulate import simulate
from workloads.trace import TraceError, nearest

#: Relative step of a continuous field: large against rounding, small against the curvature of a sum of bounds.
STEP = 1e-6
#: What a free resource is faster than the real one.
FREE = 1e12
#: What the matrix units spend beside multiplying, and what they wait for operands.
_ISSUE = ("matrix.operand_macs", "matrix.split_cycles")
_WAITS = (
    "matrix.load_cycles",
    "matrix.prologue_cycles",
    "matrix.loop_cycles_per_byte",
    "matrix.narrow_loop_cycles_per_byte",
    "matrix.reach_cost",
)


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Elasticities of the time of a network, or of a mix, on one chip.

    `fields` are the F numeric fields, with their `values`. `less` and `more` (F,) are the elasticities towards a
    smaller and a larger value, NaN where the field can have none. A whole-number field is moved by one. `op_less` and
    `op_more` (F, ops) are those of each op's own time; `ops` names them, "layer: op" (of a mix "network: layer: op").
    `free` maps each resource to the share of the time that would go if it cost nothing. `latency_s` is the time now.
    """

    accelerator: Accelerator
    network: str
    latency_s: float
    fields: tuple[str, ...]
    values: np.ndarray
    less: np.ndarray
    more: np.ndarray
    ops: tuple[str, ...] = field(repr=False)
    op_less: np.ndarray = field(repr=False)
    op_more: np.ndarray = field(repr=False)
    free: Mapping[str, float] = field(repr=False)

    def elasticity(self, path: str) -> tuple[float, float]:
        """Towards less and towards more of a field named in full or without its unit. Raises `AcceleratorError`."""
        full = self.accelerator.path(path)
        if full not in self.fields:
            raise AcceleratorError(f"{self.accelerator.name}: {full} is not a number{nearest(full, self.fields)}")
        position = self.fields.index(full)
        return float(self.less[position]), float(self.more[position])

    @property
    def gain(self) -> np.ndarray:
        """Size of each field's larger elasticity, (F,), by which a chart is sorted."""
        return np.fmax(np.abs(self.less), np.nan_to_num(np.abs(self.more)))

    @property
    def kinks(self) -> tuple[str, ...]:
        """Fields of which less matters otherwise than more."""
        apart = np.abs(self.less - self.more) > 1e-3
        return tuple(name for name, kink in zip(self.fields, apart, strict=True) if kink)

    def to_frame(self):
        """One row a field as a `pandas.DataFrame`, those that matter most first."""
        import pandas as pd

        order = np.argsort(-self.gain, kind="stable")
        columns = {"field": np.array(self.fields), "value": self.values, "less": self.less, "more": self.more}
        return pd.DataFrame({name: column[order] for name, column in columns.items()})

    def ops_frame(self):
        """One row a field and op: elasticity of the op's own time towards less and more."""
        import pandas as pd

        index = pd.MultiIndex.from_product([self.fields, self.ops], names=["field", "op"])
        return pd.DataFrame({"less": self.op_less.reshape(-1), "more": self.op_more.reshape(-1)}, index=index)

    def _repr_html_(self):
        return self.to_frame()._repr_html_()


def sensitivity(traces, accelerator: Accelerator) -> Sensitivity:
    """Elasticity of the time in every numeric field, op by op and in total, and what each resource costs.

    `traces`: a trace or a mix, see `simulator.sweep.sweep`; of a mix the weighted sum of the times counts. One-sided
    derivatives by a step of one millionth: exact but for that share of themselves, on either side of a kink.

    Raises `AcceleratorError` for a design space, `TraceError` or `DesignSpaceError` for no or wrong networks.
    """
    one_design(accelerator, "sensitivity")
    networks = mix(traces, "sensitivity")
    parts = networks.at()
    fields, steps = _steps(accelerator)
    resources = free_resources(accelerator)
    changes = [{}, *[{path: value} for path, pair in zip(fields, steps, strict=True) for value in pair]]
    changes += list(resources.values())
    space = _designs(accelerator, changes)

    results = [(name, simulate(trace, space), weight) for name, trace, weight in parts]
    latency = sum(weight * np.broadcast_to(result.latency_s, space.shape) for _, result, weight in results)
    times = np.concatenate([np.broadcast_to(r.time_s, (len(changes), len(r.trace))) for _, r, _ in results], axis=1)
    names = []
    for name, result, _ in results:
        before = f"{name}: " if len(parts) > 1 else ""
        names += [f"{before}{layer}: {op}" for layer, op in zip(result.trace.layer, result.trace.op, strict=True)]
    count = len(fields)
    values = np.array([accelerator.fields[path] for path in fields])
    moved = np.array(steps)
    sides = latency[1 : 1 + 2 * count].reshape(count, 2), times[1 : 1 + 2 * count].reshape(count, 2, -1)
    less, more = (_elasticity(values, moved[:, s], latency[0], sides[0][:, s]) for s in (0, 1))
    op_less, op_more = (_elasticity(values[:, None], moved[:, s, None], times[0], sides[1][:, s]) for s in (0, 1))
    free = dict(zip(resources, (1.0 - latency[1 + 2 * count :] / latency[0]).tolist(), strict=True))
    network = parts[0][1].name if len(parts) == 1 else " + ".join(name for name, _, _ in parts)
    about = (accelerator, network, float(latency[0]), tuple(fields), values, less, more)
    return Sensitivity(*about, tuple(names), op_less, op_more, free)


def _elasticity(value, moved, time, time_moved) -> np.ndarray:
    """log ratio of the times over log ratio of the values; 0 at a value of zero, NaN where nothing was moved."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(time_moved / time) / np.log(moved / value)
    ratio = np.where(moved == value, np.nan, ratio)
    return np.where(value == 0, 0.0, ratio) + 0.0  # no -0.0


def _steps(accelerator: Accelerator) -> tuple[list[str], list[tuple[float, float]]]:
    """The numeric fields that mean something, and the next smaller and larger value of each (itself: none)."""
    fields, steps = [], []
    for entry in accelerator.describe():
        path, value = entry["field"], entry["value"]
        if isinstance(value, (bool, str)):
            continue
        limits = rule(path)
        down, up = (value - 1, value + 1) if limits["whole"] else (value * (1 - STEP), value * (1 + STEP))
        least, above, most = limits["least"], limits["above"], limits["most"]
        if (least is not None and down < least) or (above is not None and down <= above):
            down = value
        if most is not None and up > most:
            up = value
        fields.append(path)
        steps.append((down, up))
    return fields, steps


def free_resources(accelerator: Accelerator) -> dict[str, dict[str, float]]:
    """The fields, and values of them, that make each resource cost nothing."""
    f = accelerator.fields

    def faster(*paths: str) -> dict[str, float]:
        return {path: f[path] * FREE for path in paths}

    def none(*paths: str) -> dict[str, float]:
        return {path: 0.0 for path in paths if f.get(path) is not None}

    free = {
        "matrix units": faster(*(f"matrix.macs_per_cycle.{dtype}" for dtype in accelerator.dtypes)) | none(*_ISSUE),
        "operand feed": faster("matrix.feed_bytes_per_cycle") | none(*_WAITS),
        "vector units": faster("vector.flops_per_cycle", "vector.special_per_cycle"),
    }
    free |= {f"{level} bandwidth": faster(f"memory.{level}.bandwidth_bytes_per_s") for level in accelerator.memory}
    if accelerator.link is not None:
        free["link"] = faster("link.bandwidth_bytes_per_s") | none("link.latency_s")
    if accelerator.in_memory is not None:
        rates = (path for path in f if path.startswith("in_memory.macs_per_s."))
        free["banks in memory"] = faster("in_memory.bandwidth_bytes_per_s", *rates)
        crossing = ("in_memory.transfer_bytes_per_s",) if f["in_memory.transfer_bytes_per_s"] is not None else ()
        free["in-memory commands and transfers"] = faster(*crossing) | none("in_memory.command_s")
    free["launch"] = none("latency.launch_s")
    free["dependent steps"] = none("latency.step_s", "latency.first_steps_s", "vector.dependent_cycles")
    free["memory latency"] = none(f"memory.{list(accelerator.memory)[-1]}.latency_s")
    return free


def _designs(accelerator: Accelerator, changes: Sequence[Mapping[str, float]]) -> Accelerator:
    """A space with a design for each of `changes`."""
    columns: dict[str, np.ndarray] = {}
    for number, change in enumerate(changes):
        for path, value in change.items():
            if path not in columns:
                columns[path] = np.full(len(changes), accelerator.fields[path])
            columns[path][number] = value
    return accelerator.replace(columns)


# -- what if ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WhatIf:
    """A result and what it would be with fields changed. `changes` maps fields in full to their new values."""

    before: Result
    after: Result
    changes: Mapping[str, object]

    @property
    def speedup(self):
        """Time before over time after. Shape of the design space."""
        return self.before.latency_s / self.after.latency_s

    def __repr__(self):
        if self.before.shape or self.after.shape:
            gain = np.asarray(self.speedup)
            return f"WhatIf({', '.join(self.changes)}: {gain.min():.3g} to {gain.max():.3g} times as fast)"
        named = ", ".join(f"{path} = {value:g}" if isinstance(value, float) else f"{path} = {value}"
                          for path, value in self.changes.items())  # fmt: skip
        bounds = [max(r.time_share_by_bound().items(), key=lambda item: item[1])[0] for r in (self.before, self.after)]
        return (
            f"WhatIf({named}: {self.before.latency_s:.4g} s becomes {self.after.latency_s:.4g} s, "
            f"{self.speedup:.3g} times as fast; mostly bound by {bounds[0]}, then by {bounds[1]})"
        )


def what_if(result: Result, changes: Mapping[str, object]) -> WhatIf:
    """The same network on the same chip with fields changed: `what_if(result, {"memory.dram.bandwidth": "x2"})`.

    A value is the new one, or relative to the old: "x2", "/4", "+10%", "-25%". Raises `AcceleratorError` for an
    unknown field or a value out of range, `DesignSpaceError` for text that says no change, and where fusion, which
    the result's trace already has, is to be undone.
    """
    if not isinstance(result, Result):
        raise TraceError(f"what_if: a Result is expected, got {type(result).__name__}")
    if not isinstance(changes, Mapping) or not changes:
        raise DesignSpaceError(f"what_if: a mapping of fields to values is expected, got {changes!r}")
    chip, found = result.accelerator, {}
    for name, value in changes.items():
        path = chip.path(name)
        if path in found:
            raise DesignSpaceError(f"what_if: {path} is changed twice")
        current = chip.fields.get(path)
        found[path] = _relative(path, value, current) if _is_relative(value, current) else value
    if chip.abilities.fuses_elementwise and found.get("abilities.fuses_elementwise") is False:
        raise DesignSpaceError("what_if: the result's trace is fused already; simulate the trace without fusion")
    after = simulate(result.trace, chip.replace(found))
    return WhatIf(result, after, {path: after.accelerator.fields[path] for path in found})


def _is_relative(value, current) -> bool:
    return isinstance(value, str) and not isinstance(current, str)


def _relative(path: str, text: str, current):
    found = re.fullmatch(r"\s*(?:([x×*/])\s*([\d.]+(?:e[+-]?\d+)?)|([+-][\d.]+)\s*%)\s*", text)
    try:
        if current is None or isinstance(current, bool) or not found:
            raise ValueError
        sign, factor, percent = found.groups()
        factor = 1.0 + float(percent) / 100 if percent else float(factor)
        return current / factor if sign == "/" else current * factor
    except (ValueError, ZeroDivisionError):
        reason = f"has no number to change ({current!r})" if current is None or isinstance(current, bool) else (
            "is changed by a number, or by text such as 'x2', '/4', '+10%'")  # fmt: skip
        raise DesignSpaceError(f"what_if: {path} {reason}, got {text!r}") from None
