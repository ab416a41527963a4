"""The result of a simulation: per-op arrays, totals, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from simulator import boxes, consumption, energy, uncertainty
from simulator.accelerator import Accelerator, AcceleratorError
from simulator.silicon import of_shape
from simulator.unit_costs import costs
from workloads.trace import Trace, nearest


@dataclass(frozen=True, eq=False)
class Result:
    """What `simulate` found. Shapes: S is `accelerator.shape` (() for one design); per-op arrays are S + (ops,).

    `trace` is what was executed: the trace given, or its fused form when the accelerator fuses. Times are seconds,
    one run of an op unless named total. Views broadcast over designs that do not differ; do not write to them.
    `output` has them as (ops, *S), an axis of one value where nothing varies along it; totals as (1, *S).
    """

    trace: Trace
    accelerator: Accelerator
    output: Mapping[str, np.ndarray] = field(repr=False)

    @cached_property
    def bound_names(self) -> tuple[str, ...]:
        """The bounds in the order in which the first of equals binds."""
        return tuple(key.removeprefix("bound:") for key in self.output if key.startswith("bound:"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the design space."""
        return self.accelerator.shape

    def _per_op(self, key: str) -> np.ndarray:
        value = self.output[key]  # kept with the designs innermost; one design has an axis too
        value = value.reshape(value.shape[: 1 + len(self.shape)])
        return np.moveaxis(np.broadcast_to(value, (len(self.trace), *self.shape)), 0, -1)

    def _whole(self, key: str):
        return self._per_design(self.output[key][0])

    def _field(self, value):
        """A field of the accelerator against the op axis: S + (1,) or a scalar."""
        return np.asarray(value)[..., None] if np.ndim(value) else value

    # -- per op ----------------------------------------------------------------------------------

    @property
    def time_s(self) -> np.ndarray:
        """Time of one run: the largest bound plus what cannot overlap."""
        return self._per_op("time")

    @property
    def total_s(self) -> np.ndarray:
        """Time of all runs one after another."""
        return self.time_s * self.trace.repeats

    @property
    def bound(self) -> np.ndarray:
        """Name of the bound that set the time."""
        return np.array(self.bound_names)[self._per_op("binding")]

    @cached_property
    def bounds_s(self) -> dict[str, np.ndarray]:
        """Every bound of one run by name: matrix, vector, special, each memory level, link, latency."""
        return {name: self._per_op(f"bound:{name}") for name in self.bound_names}

    @cached_property
    def traffic_bytes(self) -> dict[str, np.ndarray]:
        """Bytes one run moves at each memory level."""
        return {level: self._per_op(f"bytes:{level}") for level in self.accelerator.memory}

    @property
    def placement(self) -> np.ndarray:
        """Where each op runs: "host", or "memory" where the memory computes and is quicker."""
        if self.accelerator.in_memory is None:
            return np.broadcast_to("host", (*self.shape, len(self.trace)))
        return np.where(self._per_op("inside"), "memory", "host")

    @property
    def inside_bytes(self) -> np.ndarray:
        """Bytes one run reads from the banks of a memory that computes; they do not cross its interface."""
        if self.accelerator.in_memory is None:
            return np.zeros((*self.shape, len(self.trace)))
        return self._per_op("inside_bytes")

    @cached_property
    def flops(self) -> np.ndarray:
        """Operations the roofline counts, one run: matrix FLOP of products, vector and special work else. (ops,)"""
        trace = self.trace
        return np.where(trace.is_product, trace.matrix_flops, trace.vector_flops + trace.special_ops).astype(float)

    @property
    def matrix_flops(self) -> np.ndarray:
        """Matrix FLOP of one run. (ops,)"""
        return self.trace.matrix_flops.astype(float)

    @cached_property
    def intensity(self) -> dict[str, np.ndarray]:
        """Arithmetic intensity at each memory level; infinite where nothing moves. [FLOP/byte]"""
        return {level: _ratio(self.flops, moved) for level, moved in self.traffic_bytes.items()}

    @property
    def attained_flops_per_s(self) -> np.ndarray:
        """Rate of one run: operations over time."""
        return self.flops / self.time_s

    @cached_property
    def op_peak_flops_per_s(self) -> np.ndarray:
        """Peak of the unit each op runs on: matrix units or those in memory at its element type, or vector units."""
        chip = self.accelerator
        peak = np.array(np.broadcast_to(self._field(chip.vector_flops_per_s), (*self.shape, len(self.trace))))
        for dtype in set(self.trace.dtype[self.trace.is_product].tolist()):
            rows = self.trace.is_product & (self.trace.dtype == dtype)
            peak[..., rows] = self._field(chip.peak_flops_per_s(dtype))
        if chip.in_memory is not None:
            for dtype, macs_per_s in chip.in_memory.macs_per_s.items():
                inside = (self.placement == "memory") & (self.trace.dtype == dtype)
                peak = np.where(inside, self._field(2.0 * macs_per_s), peak)
        return peak

    @property
    def op_utilisation(self) -> np.ndarray:
        """Share of the peak of its unit an op attains (0..1); transcendentals against their own rate."""
        chip, trace = self.accelerator, self.trace
        special = trace.special_ops / (self.time_s * self._field(chip.special_ops_per_s))
        vector = trace.vector_flops / (self.time_s * self._field(chip.vector_flops_per_s))
        product = trace.matrix_flops / (self.time_s * self.op_peak_flops_per_s)
        return np.where(trace.is_product, product, np.maximum(special, vector))

    @property
    def roof_fraction(self) -> np.ndarray:
        """Datasheet time over modelled time: how close an op comes to the plain roofline at its intensities. (0..1)"""
        chip, trace = self.accelerator, self.trace
        ideal = np.where(trace.is_product, trace.matrix_flops / self.op_peak_flops_per_s, 0.0)
        ideal = np.maximum(ideal, trace.vector_flops / self._field(chip.vector_flops_per_s))
        ideal = np.maximum(ideal, trace.special_ops / self._field(chip.special_ops_per_s))
        for name, level in chip.memory.items():
            ideal = np.maximum(ideal, self.traffic_bytes[name] / self._field(level.bandwidth_bytes_per_s))
        if chip.in_memory is not None:
            ideal = np.maximum(ideal, self.inside_bytes / self._field(chip.in_memory.bandwidth_bytes_per_s))
        if chip.link is not None:
            sent = np.where(trace.kind == "collective", trace.input_bytes, 0)
            ideal = np.maximum(ideal, sent / self._field(chip.link.bandwidth_bytes_per_s))
        return ideal / self.time_s

    @property
    def resident(self) -> np.ndarray:
        """Share of an op's recurrent weights kept on chip between steps; nan outside a recurrence.

        None of those multiplied in memory."""
        share = np.where(self.placement == "memory", 0.0, self._per_op("resident"))
        return np.where((self.trace.serial_steps > 1) & (self.trace.weight_bytes > 0), share, np.nan)

    # -- how far off it may be -------------------------------------------------------------------

    @cached_property
    def _spread_kinds(self) -> list[str]:
        """The spread each row takes: that of recurrences inside one, else that of its kind."""
        trace = self.trace
        return [
            "recurrent" if steps > 1 else uncertainty.kind_of(kind)
            for kind, steps in zip(trace.kind.tolist(), trace.serial_steps.tolist(), strict=True)
        ]

    @property
    def time_interval_s(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Low and high end of the 80 % interval of `time_s`; None where the accelerator was not calibrated."""
        if not self.accelerator.spread:
            return None
        time = np.moveaxis(self.time_s, -1, 0)
        # a recurrence was measured whole: its size is that of all its steps
        low, high = uncertainty.quantiles(self.accelerator.spread, self._spread_kinds, self._sizes(time))
        return np.moveaxis(time * np.exp(low), 0, -1), np.moveaxis(time * np.exp(high), 0, -1)

    def _sizes(self, time: np.ndarray) -> np.ndarray:
        return time * self.trace.serial_steps.reshape(-1, *[1] * (time.ndim - 1))

    def deviations_s(self, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """How far below and above the sum of `rows` its 80 % interval reaches. Each of shape S. [s]"""
        trace, time = self.trace, np.moveaxis(self.time_s, -1, 0)[rows]
        kinds = self._spread_kinds[rows]
        steps = trace.serial_steps[rows].reshape(-1, *[1] * (time.ndim - 1))
        low, high = uncertainty.quantiles(self.accelerator.spread, kinds, time * steps)
        total = time * trace.repeats[rows].reshape(-1, *[1] * (time.ndim - 1))
        recurs = trace.serial_steps[rows] > 1
        groups = np.where(recurs, trace.layer[rows], np.arange(len(kinds)).astype(str))
        below = uncertainty.of_sum(total, -np.expm1(low), groups)
        return below, uncertainty.of_sum(total, np.expm1(high), groups)

    @property
    def latency_interval_s(self):
        """Low and high end of the 80 % interval of `latency_s`, each of shape S; None where nothing was calibrated.

        Ops err partly together and partly on their own (`uncertainty.of_sum`), relative to the sum of all runs."""
        if not self.accelerator.spread:
            return None
        below, above = self.deviations_s()
        scale = self.latency_s / self.serial_s
        return self.latency_s - below * scale, self.latency_s + above * scale

    # -- the whole network -----------------------------------------------------------------------

    @property
    def latency_s(self):
        """Time of the whole network, concurrency counted. Shape S."""
        return self._whole("latency")

    @property
    def serial_s(self):
        """Sum of all runs of all ops, one after another. Shape S."""
        return self._whole("serial")

    @property
    def critical_path_s(self):
        """Longest path: the slowest row of each dependency level in series, the machine unlimited. Shape S."""
        return self._whole("path")

    @property
    def critical_path(self) -> list[str]:
        """The rows of the longest path, "layer: op", in order (one design)."""
        self._one_design("critical_path")
        time = self.time_s * self.trace.path_runs
        level = self.trace.level
        order = np.lexsort((-time, level))  # within a level the slowest first
        rows = order[np.diff(level[order], prepend=-1) > 0]
        return [f"{self.trace.layer[r]}: {self.trace.op[r]}" for r in rows]

    @property
    def sequences_per_s(self):
        """Sequences processed per second. Shape S."""
        return self.trace.sequences / self.latency_s

    @property
    def tokens_per_s(self):
        """Positions (tokens, time steps) processed per second over all sequences. Shape S."""
        return self.trace.sequences * self.trace.tokens / self.latency_s

    @property
    def attained(self):
        """Operations of the whole network over its latency. Shape S. [FLOP/s]"""
        return float(self.flops @ self.trace.runs) / self.latency_s

    @property
    def utilisation(self):
        """Share of the time the matrix units would need at their dense peak: 0..1, 0 without products. Shape S.

        Products in memory are not theirs."""
        trace, ideal_s = self.trace, 0.0
        if self.accelerator.in_memory is not None:
            theirs = trace.is_product & (self.placement == "host")
            work = np.where(theirs, trace.matrix_flops / self.op_peak_flops_per_s, 0.0)
            return _plain((work * trace.runs).sum(-1) / self.latency_s)
        for dtype in dict.fromkeys(trace.dtype[trace.is_product].tolist()):
            rows = trace.is_product & (trace.dtype == dtype)
            work = float(trace.runs[rows] @ trace.matrix_flops[rows])
            ideal_s = ideal_s + work / self.accelerator.peak_flops_per_s(dtype)
        return ideal_s / self.latency_s

    # -- energy and price --------------------------------------------------------------------------

    @cached_property
    def _energy_by_use_j(self) -> dict[str, np.ndarray]:
        return consumption.energy_by_use_j(self.trace, self.output, self.accelerator)

    def energy_by_level_j(self) -> dict[str, object]:
        """Energy of the whole network by use: matrix, vector, special, each memory level, link, in_memory (bytes read
        beside the banks), static. Shape S each.

        Sums to `energy_j`. Products count their useful multiply-accumulates, not the padding of their tiles.
        """
        return {name: self._per_design(value) for name, value in self._energy_by_use_j.items()}

    @cached_property
    def energy_j(self):
        """Energy of the whole network: work, data and static power for its latency. Shape S."""
        return self._per_design(sum(self._energy_by_use_j.values()))

    @property
    def energy_by_op_j(self) -> np.ndarray:
        """Energy of all runs of each op; static energy is shared out by time. Sums to `energy_j`. S + (ops,)"""
        value = consumption.energy_by_op_j(self.trace, self.output, self.accelerator)
        value = value.reshape(value.shape[: 1 + len(self.shape)])
        return np.moveaxis(np.broadcast_to(value, (len(self.trace), *self.shape)), 0, -1)

    @property
    def average_power_w(self):
        """Energy over latency. Shape S."""
        return self.energy_j / self.latency_s

    @property
    def energy_per_token_j(self):
        """Energy for each position (token, time step) of each sequence. Shape S."""
        return self.energy_j / (self.trace.sequences * self.trace.tokens)

    def price_per_million_tokens_usd(
        self,
        *,
        device_price_usd=None,
        gross_margin=None,
        life_years=None,
        load=1.0,
        electricity_usd_per_kwh=None,
        facility_overhead=None,
    ):
        """What a million positions (tokens, time steps) cost: the device over its life, and electricity. Shape S.

        `device_price_usd` defaults to the published list price (`package.price_usd`); where there is none, to the
        derived price of the parts over (1 - `gross_margin`). `load` is the share of `life_years` in which the device
        works; idle time is paid for but draws no power here. `facility_overhead` is the power of the building over
        that of the device. Defaults and their sources are in `silicon.toml`, table `price`. Host, network and staff
        are not counted. Raises `AcceleratorError` for a number out of range.
        """
        usual, chip = costs(), self.accelerator
        given = {
            "gross_margin": gross_margin,
            "life_years": life_years,
            "electricity_usd_per_kwh": electricity_usd_per_kwh,
            "facility_overhead": facility_overhead,
        }
        terms = {name: usual[f"price.{name}"] if value is None else value for name, value in given.items()}
        _check_range("gross_margin", terms["gross_margin"], 0.0, 1.0, open_above=True)
        _check_range("load", load, 0.0, 1.0, open_below=True)
        _check_range("life_years", terms["life_years"], 0.0, np.inf, open_below=True, open_above=True)
        _check_range("electricity_usd_per_kwh", terms["electricity_usd_per_kwh"], 0.0, np.inf, open_above=True)
        _check_range("facility_overhead", terms["facility_overhead"], 1.0, np.inf, open_above=True)
        if device_price_usd is None:
            device_price_usd = chip.package.price_usd
        if device_price_usd is None:
            device_price_usd = chip.price_usd / (1.0 - terms["gross_margin"])
        _check_range("device_price_usd", device_price_usd, 0.0, np.inf, open_above=True)
        usd_per_s = energy.running_usd_per_s(
            device_price_usd,
            terms["life_years"],
            load,
            self.average_power_w,
            terms["electricity_usd_per_kwh"],
            terms["facility_overhead"],
        )
        return of_shape(1e6 * usd_per_s / self.tokens_per_s, self.shape)

    def _per_design(self, value: np.ndarray):
        """What broadcasts to the designs as S."""
        return np.broadcast_to(value, self.shape) if self.shape else float(np.reshape(value, ()))

    # -- shares ------------------------------------------------------------------------------------

    def network_intensity(self, level: str | None = None):
        """Operations per byte moved at a memory level (default: the farthest), all runs. Shape S.

        Raises `AcceleratorError` with the nearest level for an unknown one."""
        levels = list(self.accelerator.memory)
        level = levels[-1] if level is None else level
        if level not in levels:
            raise AcceleratorError(f"{self.accelerator.name}: no memory level {level!r}{nearest(level, levels)}")
        return _ratio(float(self.flops @ self.trace.runs), self.traffic_bytes[level] @ self.trace.runs)

    def time_share_by_bound(self) -> dict[str, np.ndarray]:
        """Share of `serial_s` spent in ops of each bound that occurs; sums to 1. Values of shape S."""
        binding = self._per_op("binding")
        shares = {}
        for number, name in enumerate(self.bound_names):
            rows = binding == number
            if rows.any():
                shares[name] = np.where(rows, self.total_s, 0.0).sum(-1) / self.serial_s
        return shares

    def time_share_by_layer(self) -> dict[str, np.ndarray]:
        """Share of `serial_s` spent in each layer, in program order; sums to 1. Values of shape S."""
        return {
            layer: self.total_s[..., self.trace.layer == layer].sum(-1) / self.serial_s
            for layer in dict.fromkeys(self.trace.layer.tolist())
        }

    def in_memory_share(self):
        """Share of `serial_s` spent in ops that run in memory. Shape S."""
        return _plain(np.where(self.placement == "memory", self.total_s, 0.0).sum(-1) / self.serial_s)

    @cached_property
    def footprint(self) -> dict[str, float]:
        """Memory the network occupies by what occupies it, and the total. [bytes]"""
        return self.trace.footprint()

    @property
    def capacity_bytes(self):
        """Capacity of the farthest memory level. Shape S."""
        capacity = self.accelerator.outer.capacity_bytes
        return np.broadcast_to(capacity, self.shape) if self.shape else capacity

    @property
    def fits(self):
        """Whether the network fits the farthest memory level. Shape S."""
        fits = np.broadcast_to(self.footprint["total"] <= np.asarray(self.capacity_bytes), self.shape)
        return fits if self.shape else bool(fits)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before using the numbers."""
        if np.all(self.fits):
            return []
        needed = f"{self.trace.name} needs {self.footprint['total'] / 1e9:.3g} GB"
        if self.shape:
            short = np.size(self.fits) - np.count_nonzero(self.fits)
            had = f"{short} of {np.size(self.fits)} designs have less"
        else:
            had = f"{self.accelerator.name} has {self.capacity_bytes / 1e9:.3g} GB"
        return [f"does not fit: {needed}, {had}; the time assumes that it did"]

    # -- tables ----------------------------------------------------------------------------------

    def _one_design(self, what: str) -> None:
        if self.shape:
            raise AcceleratorError(
                f"{what} is of one design; this result has shape {self.shape}: "
                "pick one with .design(i), or .design((i, j))"
            )

    def design(self, index) -> Result:
        """The result of one design of the space, by index into `shape`; `AcceleratorError` for one outside it."""
        index = (index,) if np.ndim(index) == 0 else tuple(index)
        try:
            flat = int(np.ravel_multi_index(index, self.shape)) if self.shape or index else 0
        except (TypeError, ValueError):
            message = f"{self.accelerator.name}: no design {index} in a space of shape {self.shape}"
            raise AcceleratorError(message) from None
        box = tuple(slice(i, i + 1) for i in map(int, np.unravel_index(flat, self.shape)))
        output = {
            key: boxes.part(value, (slice(None), *box)).reshape(-1, 1) if box else value
            for key, value in self.output.items()
        }
        accelerator = self.accelerator.design(index) if self.shape else self.accelerator
        return Result(self.trace, accelerator, output)

    def to_frame(self):
        """One row an op as a `pandas.DataFrame` (one design): counts, time with its 80 % interval (nan where nothing
        was calibrated), bound and every other bound, placement, bytes (`inside_bytes`: those a memory that computes
        reads for itself) and intensity at each level, attained rate, utilisation, share of the roof, resident weights.
        """
        import pandas as pd

        self._one_design("to_frame")
        trace = self.trace
        columns = {
            name: trace.columns[name] for name in ("layer", "op", "kind", "phase", "dtype", "repeats", "serial_steps")
        }
        low, high = self.time_interval_s or (np.nan, np.nan)
        columns |= {"time_s": self.time_s, "time_low_s": low, "time_high_s": high}
        columns |= {"total_s": self.total_s, "time_share": self.total_s / self.serial_s, "bound": self.bound}
        columns["placement"] = self.placement
        columns |= {f"{name}_bound_s": value for name, value in self.bounds_s.items()}
        columns |= {"flops": self.flops, "vector_flops": trace.vector_flops, "special_ops": trace.special_ops}
        columns |= {f"{level}_bytes": value for level, value in self.traffic_bytes.items()}
        if self.accelerator.in_memory is not None:
            columns["inside_bytes"] = self.inside_bytes
        columns |= {f"{level}_intensity_flops_per_byte": value for level, value in self.intensity.items()}
        columns |= {
            "attained_flops_per_s": self.attained_flops_per_s,
            "utilisation": self.op_utilisation,
            "roof_fraction": self.roof_fraction,
            "resident": self.resident,
            "energy_j": self.energy_by_op_j,
        }
        return pd.DataFrame(columns)

    def summary(self) -> dict[str, object]:
        """The whole network as plain numbers (one design); None for the ends of an interval nobody can know."""
        self._one_design("summary")
        low, high = self.latency_interval_s or (None, None)
        shares = {name: float(share) for name, share in self.time_share_by_bound().items()}
        return {
            "network": self.trace.name,
            "accelerator": self.accelerator.name,
            "latency_s": float(self.latency_s),
            "latency_low_s": None if low is None else float(low),
            "latency_high_s": None if high is None else float(high),
            "sequences_per_s": float(self.sequences_per_s),
            "tokens_per_s": float(self.tokens_per_s),
            "utilisation": float(self.utilisation),
            "attained_flops_per_s": float(self.attained),
            "intensity_flops_per_byte": float(self.network_intensity()),
            "bound": max(shares, key=shares.get),
            "time_share_by_bound": shares,
            "time_share_in_memory": float(self.in_memory_share()),
            "serial_s": float(self.serial_s),
            "critical_path_s": float(self.critical_path_s),
            "energy_j": self.energy_j,
            "average_power_w": self.average_power_w,
            "energy_per_token_j": self.energy_per_token_j,
            "price_per_million_tokens_usd": self.price_per_million_tokens_usd(),
            "energy_by_level_j": self.energy_by_level_j(),
            "footprint_bytes": self.footprint["total"],
            "capacity_bytes": float(self.capacity_bytes),
            "fits": bool(self.fits),
            "warnings": self.warnings,
        }

    def __repr__(self):
        if self.shape:
            best, worst = np.min(self.latency_s), np.max(self.latency_s)
            return (
                f"Result({self.trace.name!r} on {self.accelerator.designs:,} designs of {self.accelerator.name!r}: "
                f"latency {best:.4g} to {worst:.4g} s)"
            )
        facts = self.summary()
        lines = [
            f"Result({facts['network']!r} on {facts['accelerator']!r}: latency {facts['latency_s']:.4g} s, "
            f"{facts['sequences_per_s']:.4g} sequences/s, utilisation {facts['utilisation']:.1%}, "
            f"{facts['time_share_by_bound'][facts['bound']]:.0%} of the time bound by {facts['bound']})",
            *(f"  warning: {warning}" for warning in facts["warnings"]),
        ]
        return "\n".join(lines)

    def _repr_html_(self):
        import html

        head = f"<p>{html.escape(repr(self))}</p>"
        return head if self.shape else head + self.to_frame()._repr_html_()


def _ratio(flops, moved_bytes):
    flops, moved_bytes = np.broadcast_arrays(np.asarray(flops, float), moved_bytes)
    ratio = np.full(flops.shape, np.inf)
    np.divide(flops, moved_bytes, out=ratio, where=moved_bytes > 0)
    return ratio if ratio.ndim else float(ratio)


def _plain(value):
    """An array of shape () as a float."""
    return value if np.ndim(value) else float(value)


def _check_range(name: str, value, least: float, most: float, *, open_below: bool = False, open_above: bool = False):
    """Refuse a number outside [least, most], or at an end that is open."""
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        raise AcceleratorError(f"{name} must be a number, got {value!r}") from None
    low = array <= least if open_below else array < least
    high = array >= most if open_above else array > most
    if np.any(low | high | np.isnan(array)):
        ends = f"{'above' if open_below else 'at least'} {least:g}"
        if np.isfinite(most):
            ends += f" and {'below' if open_above else 'at most'} {most:g}"
        raise AcceleratorError(f"{name} must be {ends}, got {value!r}")
