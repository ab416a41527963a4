"""Constraints on designs: a metric, a field or the batch within limits, as a user states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

from simulator.accelerator import Accelerator
from simulator.metrics import DesignSpaceError
from simulator.mix import Measure, Mix, measure


@dataclass(frozen=True)
class Limit:
    """A column that must lie between `least` and `most`, both included (infinite: no limit)."""

    measure: Measure
    least: float
    most: float

    @property
    def name(self) -> str:
        return self.measure.name

    def excess(self, values: np.ndarray) -> np.ndarray:
        """By what share of the limit values break it; 0 where they hold it."""
        over = np.maximum(0.0, values - self.most) / (abs(self.most) or 1.0) if np.isfinite(self.most) else 0.0
        under = np.maximum(0.0, self.least - values) / (abs(self.least) or 1.0) if np.isfinite(self.least) else 0.0
        return np.maximum(over, under) + np.zeros(np.shape(values))

    def __str__(self):
        if np.isfinite(self.most) and np.isfinite(self.least):
            return f"{self.least:g} <= {self.name} <= {self.most:g}"
        return f"{self.name} <= {self.most:g}" if np.isfinite(self.most) else f"{self.name} >= {self.least:g}"


def limits_of(given: Mapping | None, networks: Mix, accelerator: Accelerator, what: str) -> tuple[Limit, ...]:
    """Limits from a mapping of metrics (see `measures`; a field of the chip by path too) to a number or (least, most).

    One number is the most there may be of what less is better, the least of what more is better; None in a pair
    is no limit. Raises `DesignSpaceError` for what cannot be read, a NaN, least above most, or a metric limited twice.
    """
    if given is not None and not isinstance(given, Mapping):
        raise DesignSpaceError(f"{what}: subject_to must map metrics to limits, got {type(given).__name__}")
    found: dict[str, Limit] = {}
    for asked, value in (given or {}).items():
        column = measure(asked, networks, accelerator)
        if column.name in found:
            raise DesignSpaceError(f"{what}: {column.name} is limited twice")
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        if pair:
            least, most = value
        else:
            least, most = (None, value) if column.metric.better == "less" else (value, None)
        for end in (least, most):
            if end is not None and (isinstance(end, bool) or not isinstance(end, Real) or np.isnan(end)):
                raise DesignSpaceError(f"{what}: {column.name}: a limit is a number or (least, most), got {value!r}")
        if least is None and most is None:
            raise DesignSpaceError(f"{what}: {column.name}: no limit given")
        limit = Limit(column, -np.inf if least is None else float(least), np.inf if most is None else float(most))
        if limit.least > limit.most:
            raise DesignSpaceError(f"{what}: {column.name}: least {limit.least:g} is above most {limit.most:g}")
        found[column.name] = limit
    return tuple(found.values())
