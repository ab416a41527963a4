"""What a sweep or search can ask of a design: a table of metrics by name, with unit and direction.

A metric is a function of a `Result` (of one design or a whole space). A mix of networks is a list of results with
weights, the number of times each network runs; each metric says how it combines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.accelerator import Accelerator, AcceleratorError
from simulator.recurrence import summed
from simulator.result import Result
from simulator.unit_costs import costs
from workloads.trace import nearest

#: How the metric of a mix follows from those of its networks: the weighted sum; the mean over the time or over the
#: tokens of the mix; the one value all share, because it is the chip's and not the network's.
MIXES = ("sum", "time", "tokens", "design")
DIRECTIONS = ("less", "more")


class DesignSpaceError(ValueError):
    """A sweep or search that cannot be made: the message names the argument and its value."""


@dataclass(frozen=True)
class Metric:
    """A figure of a design: name, unit, whether `less` or `more` of it is better, meaning.

    `of` takes a `Result` of shape S and returns numbers of shape S. `mix` is one of `MIXES`. `whole_network` says
    that it reads what `simulate.totals` gives: no per-op array but bytes. `of_chip` gives the same from the
    `Accelerator` alone, where the metric is the chip's: limits on it are checked before anything is simulated. Raises
    `DesignSpaceError` for an unknown direction or mix, or an `of` that cannot be called.
    """

    name: str
    of: Callable[[Result], object]
    unit: str = ""
    better: str = "less"
    meaning: str = ""
    mix: str = "sum"
    whole_network: bool = False
    of_chip: Callable[[Accelerator], object] | None = None

    def __post_init__(self):
        if not callable(self.of):
            raise DesignSpaceError(f"metric {self.name!r}: of must be a function of a Result, got {self.of!r}")
        if self.of_chip is not None and not (callable(self.of_chip) and self.mix == "design"):
            raise DesignSpaceError(
                f"metric {self.name!r}: of_chip must be a function of an Accelerator, and mix 'design'"
            )
        for value, valid, what in ((self.better, DIRECTIONS, "better"), (self.mix, MIXES, "mix")):
            if value not in valid:
                raise DesignSpaceError(f"metric {self.name!r}: unknown {what} {value!r}{nearest(value, valid)}")

    @property
    def sign(self) -> float:
        """+1 where less is better, -1 where more is: values times sign are to be made small."""
        return 1.0 if self.better == "less" else -1.0

    def without_simulation(self, designs: Accelerator) -> np.ndarray:
        """Values for every design of a space, flat, (designs,), of a metric with `of_chip`; errors as `over`."""
        return _flat(self.of_chip(designs), designs.shape, self.name, designs.name)

    def over(self, parts: Sequence[tuple[Result, float]]) -> np.ndarray:
        """Values for every design of a mix, flat, (designs,). `parts` are results with weights, all on one space.

        Raises `DesignSpaceError` where the metric cannot be computed or is not a number.
        """
        if self.mix == "design" or len(parts) == 1:
            result, weight = parts[0]
            values = self._of(result)
            return values * weight if self.mix == "sum" and weight != 1 else values
        share = {
            "sum": lambda result: 1.0,
            "time": lambda result: _of_result(result, result.latency_s, "latency_s"),
            "tokens": lambda result: float(result.trace.sequences * result.trace.tokens),
        }[self.mix]
        weights = [weight * share(result) for result, weight in parts]
        total = sum(weight * self._of(result) for weight, (result, _) in zip(weights, parts, strict=True))
        return total if self.mix == "sum" else total / sum(weights)

    def _of(self, result: Result) -> np.ndarray:
        return _of_result(result, self.of(result), self.name)


def _of_result(result: Result, values, name: str) -> np.ndarray:
    return _flat(values, result.shape, name, f"{result.trace.name} on {result.accelerator.name}")


def _flat(values, shape: tuple[int, ...], name: str, of: str) -> np.ndarray:
    """Values of `shape`, or fewer dimensions, as floats of shape (designs,)."""
    try:
        values = np.asarray(values, float)
        values = np.broadcast_to(values, shape).reshape(-1)
    except (TypeError, ValueError):
        raise DesignSpaceError(
            f"metric {name!r} must return a number for each design (shape {shape}), got {values!r}"
        ) from None
    if np.isnan(values.min(initial=np.inf)):  # one pass: what is not a number is the least
        wrong = np.isnan(values)
        raise DesignSpaceError(
            f"metric {name!r} of {of} is not a number for {int(wrong.sum())} of {wrong.size} designs"
        )
    return values


def _dram_bytes(result: Result):
    level = list(result.accelerator.memory)[-1]
    moved = result.output[f"bytes:{level}"]
    runs = np.asarray(result.trace.runs, float).reshape(-1, *[1] * (moved.ndim - 1))
    values = summed(moved * runs)  # not a product with a matrix, whose rounding depends on the neighbours
    return values if result.shape else values[0]


def _price_per_million_tokens(result: Result):
    """At the derived price of each design: a published list price is that of one design, not of its variants."""
    chip = result.accelerator
    listed_usd = chip.price_usd / (1.0 - costs()["price.gross_margin"])
    return result.price_per_million_tokens_usd(device_price_usd=listed_usd)


@dataclass(frozen=True)
class _Attribute:
    """A property of a result; a class and not a closure, so that it can travel to another process."""

    name: str

    def __call__(self, result: Result):
        return getattr(result, self.name)


@dataclass(frozen=True)
class _ChipAttribute:
    """A property of a chip."""

    name: str

    def __call__(self, accelerator: Accelerator):
        value = getattr(accelerator, self.name, None)
        if value is None:
            raise DesignSpaceError(
                f"metric {self.name!r} cannot be computed for {accelerator.name}: "
                "it lacks the numbers this follows from"
            )
        return value


@dataclass(frozen=True)
class _Field:
    """The value of a field of the chip."""

    path: str

    def __call__(self, accelerator: Accelerator):
        return accelerator.fields[self.path]


@dataclass(frozen=True)
class _OfItsChip:
    """What a function gives for the chip of a result."""

    of_chip: Callable[[Accelerator], object]

    def __call__(self, result: Result):
        return self.of_chip(result.accelerator)


def _chip_metric(name: str, of_chip, unit: str = "", meaning: str = "") -> Metric:
    return Metric(name, _OfItsChip(of_chip), unit, "less", meaning, "design", True, of_chip)


def _table() -> dict[str, Metric]:
    rows = (
        # name, unit, better, mix, totals suffice?, meaning
        ("latency_s", "s", "less", "sum", True, "time of the network"),
        ("critical_path_s", "s", "less", "sum", True, "longest dependent path, the machine unlimited"),
        ("tokens_per_s", "", "more", "time", True, "positions processed per second"),
        ("sequences_per_s", "", "more", "time", True, "sequences processed per second"),
        ("utilisation", "", "more", "time", True, "share of the matrix units' peak"),
        ("attained_flops_per_s", "FLOP/s", "more", "time", True, "operations over latency"),
        ("dram_bytes", "B", "less", "sum", True, "bytes moved at the farthest memory level"),
        ("energy_j", "J", "less", "sum", True, "energy of the network"),
        ("average_power_w", "W", "less", "time", True, "energy over latency"),
        ("energy_per_token_j", "J", "less", "tokens", True, "energy over positions"),
        ("price_per_million_tokens_usd", "USD", "less", "tokens", True, "cost of a million positions, derived prices"),
    )
    of_chip = (
        ("area_mm2", "mm2", "die area"),
        ("peak_power_w", "W", "power with every unit busy"),
        ("price_usd", "USD", "price of the part"),
        ("shoreline_mm", "mm", "die edge its memory interfaces and links take"),
        ("shoreline_share", "", "that edge over the edge the dies have: above 1 it cannot be built"),
    )
    special = {
        "attained_flops_per_s": _Attribute("attained"),
        "dram_bytes": _dram_bytes,
        "price_per_million_tokens_usd": _price_per_million_tokens,
    }
    found = {
        name: Metric(name, special.get(name, _Attribute(name)), unit, better, meaning, mix, whole)
        for name, unit, better, mix, whole, meaning in rows
    }
    return found | {name: _chip_metric(name, _ChipAttribute(name), unit, text) for name, unit, text in of_chip}


METRICS: dict[str, Metric] = _table()
#: Short names, for budgets.
ALIASES = {
    "area": "area_mm2",
    "energy": "energy_j",
    "latency": "latency_s",
    "power": "peak_power_w",
    "power_w": "peak_power_w",
    "price": "price_usd",
    "shoreline": "shoreline_mm",
    "throughput": "tokens_per_s",
}


def metric(asked, accelerator: Accelerator | None = None) -> Metric:
    """The metric of a name, of a field of `accelerator` by path, of a function of a `Result`, or itself.

    A function is named after itself, less of it is better, and over a mix its values are summed by weight; a `Metric`
    says more. Raises `DesignSpaceError` for anything else, with the nearest name.
    """
    if isinstance(asked, Metric):
        return asked
    if callable(asked):
        return Metric(getattr(asked, "__name__", type(asked).__name__), asked, meaning="the user's own")
    if not isinstance(asked, str):
        raise DesignSpaceError(f"a metric is a name or a function of a Result, got {asked!r}")
    name = ALIASES.get(asked, asked)
    if name in METRICS:
        return METRICS[name]
    if accelerator is not None and "." in name:
        path = accelerator.path(name)
        if not isinstance(accelerator.fields.get(path), (float, np.ndarray)):
            raise DesignSpaceError(f"metric {name!r}: {path} of {accelerator.name} is not a number")
        return _chip_metric(path, _Field(path), meaning="a field of the chip")
    raise DesignSpaceError(f"unknown metric {asked!r}{nearest(asked, [*METRICS, *ALIASES])}")


def one_design(accelerator, what: str) -> Accelerator:
    """`accelerator` where it is one design. Raises `AcceleratorError` otherwise."""
    if not isinstance(accelerator, Accelerator):
        raise AcceleratorError(f"{what}: an Accelerator is expected, got {type(accelerator).__name__}")
    if accelerator.shape:
        raise AcceleratorError(
            f"{what}: {accelerator.name} spans {accelerator.designs} designs; "
            "give one design, and the candidates as axes"
        )
    return accelerator
