"""Calibration: named, bounded constants of an accelerator fitted to measured times.

Sits on `simulate`. A measurement is one or more rows of a trace; its time is the sum of theirs plus what the
harness that timed it adds to every call, which is fitted beside the constants and belongs to no chip.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulator import uncertainty
from simulator.accelerator import Accelerator, Citation
from simulator.simulate import simulate
from workloads.trace import nearest

#: Constants `calibrate` fits unless told otherwise: field and the range it may take.
CONSTANTS: dict[str, tuple[float, float]] = {
    "matrix.sustained": (0.05, 1.0),
    "matrix.attention_sustained": (0.05, 1.0),
    "matrix.operand_macs": (0.01, 100.0),
    "matrix.loop_cycles_per_byte": (0.01, 500.0),
    "matrix.narrow_loop_cycles_per_byte": (0.01, 500.0),
    "matrix.prologue_cycles": (1.0, 1e6),
    "matrix.split_cycles": (1.0, 1e6),
    "vector.sustained": (0.01, 1.0),
    "memory.OUTER.sustained": (0.05, 1.0),
    "latency.launch_s": (1e-8, 1e-3),
    "latency.step_s": (1e-8, 1e-3),
    "latency.first_steps_s": (1e-8, 1e-3),
}
#: Relative change of a constant from which its effect is taken.
STEP = 0.01
#: Residuals beyond this logarithmic error count less and less (soft L1): outliers do not pull the fit.
ROBUST = 0.1
#: Weight of a constant's logarithm staying where it began: it decides where the measurements are indifferent.
PRIOR = 0.02
#: Measurements a start is looked for on, points looked at, how far apart (logarithm), and how many are followed.
SAMPLE, SCREENED, SPREAD, TRIED = 400, 48, 1.0, 5
#: A constant that changes no residual by more than this when it changes by a factor of e is not determined.
DETERMINED = 1e-3
#: Predictions this many times too long or too short make the unit of the times doubtful.
DOUBTFUL = 100.0


class CalibrationError(ValueError):
    """A calibration that cannot be done: the message names what is missing."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate` found.

    accelerator: with the fitted constants, cited as measured. values, stderr: of each constant by path, in its own
    unit (the standard error of its logarithm times the value). correlation: of the logarithms, (constants,
    constants), in the order of `stderr`. call_s: what each harness adds to a call, by name [s]. residuals:
    log(predicted / measured) of the measurements fitted, (measurements,). warnings: what the data could not tell.
    """

    accelerator: Accelerator
    values: Mapping[str, float]
    stderr: Mapping[str, float]
    correlation: np.ndarray
    call_s: Mapping[str, float]
    residuals: np.ndarray
    cost: float
    warnings: Sequence[str] = field(default=())

    @property
    def error(self) -> float:
        """Mean absolute relative error of the measurements fitted."""
        return float(np.abs(np.expm1(self.residuals)).mean())


def predict(accelerator: Accelerator, measurements, call_s: Mapping[str, float] | None = None) -> np.ndarray:
    """Predicted time of each measurement, `accelerator.shape` + (measurements,). [s]

    The rows of a measurement one after another, plus `call_s` of its harness (0 where it is not named)."""
    result = simulate(measurements.trace, accelerator)
    if len(result.trace) != len(measurements.trace):
        raise CalibrationError(f"{accelerator.name}: measurements are of rows as they are, and this chip fuses them")
    time = np.moveaxis(result.time_s, -1, 0).reshape(len(measurements.trace), -1)
    time = np.add.reduceat(time * measurements.trace.repeats[:, None], measurements.first, axis=0).T
    calls = np.array([(call_s or {}).get(name, 0.0) for name in measurements.harness.tolist()])
    return (time + calls).reshape(*accelerator.shape, len(measurements))


def predict_interval(accelerator: Accelerator, measurements, call_s: Mapping[str, float] | None = None) -> tuple:
    """Low and high end of the 80 % interval of each measurement of one design, each (measurements,). [s]

    A measurement of one op, or of one recurrence, errs as its kind does at its size; of a network as the sum of its
    rows does (`uncertainty.of_sum`). Both ends are the prediction where the accelerator has no spread."""
    total = predict(accelerator, measurements, call_s)
    kinds = [uncertainty.kind_of(kind) for kind in measurements.kind.tolist()]
    low, high = uncertainty.quantiles(accelerator.spread, kinds, total[:, None])
    low, high = total * np.exp(low[:, 0]), total * np.exp(high[:, 0])
    networks = np.flatnonzero(measurements.kind == "network")
    if len(networks):
        result = simulate(measurements.trace, accelerator)
        counts = np.diff(np.append(measurements.first, len(measurements.trace)))
        for number in networks:
            rows = slice(measurements.first[number], measurements.first[number] + counts[number])
            below, above = result.deviations_s(rows)
            low[number], high[number] = total[number] - below.item(), total[number] + above.item()
    return low, high


def calibrate(
    accelerator: Accelerator,
    measurements,
    parameters: Sequence[str] | Mapping[str, tuple[float, float] | Sequence] | None = None,
    *,
    calls: bool = True,
    source: str = "",
) -> Calibration:
    """Fit constants of `accelerator` (one design) to `measurements` (a `workloads.measured.Measurements`).

    `parameters`: paths to fit, or a mapping from path to (low, high); a list of candidates is searched through
    (sizes of tiles, abilities). Default: `CONSTANTS`. `calls`: also fit what each harness adds to a call. Minimises
    the soft L1 norm of log(predicted / measured), so that fast and slow rows weigh alike and outliers little; a
    constant the measurements are indifferent to stays where it was (`PRIOR`).

    Raises `CalibrationError`: scipy is missing, fewer measurements than constants, all of one shape, a parameter that
    is not a number; `AcceleratorError`: an unknown field, an element type the chip does not have.
    """
    if accelerator.shape:
        raise CalibrationError(f"{accelerator.name}: one design is calibrated at a time, got {accelerator.designs}")
    bounds, choices = _parameters(accelerator, parameters)
    shapes = np.unique(measurements.shape)
    harnesses = list(dict.fromkeys(measurements.harness.tolist())) if calls else []
    needed = len(bounds) + len(harnesses)
    if len(shapes) < 2:
        raise CalibrationError(f"{measurements.source}: all measurements are of one shape: {shapes[0]}")
    if len(measurements) < needed:
        raise CalibrationError(
            f"{measurements.source}: {len(measurements)} measurements cannot determine {needed} constants"
        )
    tried = []
    for values in itertools.product(*choices.values()):
        chosen = accelerator.replace(dict(zip(choices, values, strict=True)))
        tried.append((chosen, _screened(chosen, measurements, bounds, harnesses)))
    chosen, start = min(tried, key=lambda found: found[1].cost)
    best = _Fit(chosen, measurements, bounds, harnesses).solve(start.log)
    found = _calibration(chosen, choices, best, measurements, source)
    return dataclasses.replace(found, warnings=(*_unit_doubt(accelerator, measurements), *found.warnings))


def _unit_doubt(accelerator: Accelerator, measurements) -> list[str]:
    """A warning where long ops are off by a factor that only a wrong unit explains, before a fit hides it.

    Short ones may be: what a harness adds to a call can be many times their time."""
    predicted = predict(accelerator, measurements)
    long = predicted >= np.quantile(predicted, 0.75)
    ratio = float(np.median(predicted[long] / measurements.time_s[long]))
    if 1 / DOUBTFUL < ratio < DOUBTFUL:
        return []
    told = f"{measurements.source}: predicted times are {ratio:.3g} times the measured ones"
    return [f"{told}: is the unit of the times right?"]


def _parameters(accelerator: Accelerator, parameters) -> tuple[dict, dict]:
    """Fields to fit with their bounds, and fields to choose with their candidates."""
    outer = list(accelerator.memory)[-1]
    known = {path.replace("OUTER", outer): bound for path, bound in CONSTANTS.items()}
    if parameters is None:
        parameters = known
    if not isinstance(parameters, Mapping):
        parameters = {path: known.get(accelerator.path(path)) for path in parameters}
    bounds, choices = {}, {}
    for name, given in parameters.items():
        path = accelerator.path(name.replace("OUTER", outer))
        if isinstance(given, tuple) and len(given) == 2:
            bounds[path] = given
        elif isinstance(given, (list, np.ndarray)) and len(given):
            choices[path] = list(given)
        else:
            raise CalibrationError(
                f"{name}: a range (low, high) or a list of candidates is expected{nearest(name, known)}"
            )
    return bounds, choices


def held_out(measurements, every: int = 3) -> np.ndarray:
    """Which measurements are judged and not fitted: every third shape, in order, of each device, set, op and type.

    By shape: measurements of one shape are on one side. By order of size: every range of sizes is on both sides, and
    nothing is left to chance. A boolean array, (measurements,).
    """
    groups: dict[tuple, dict[str, tuple]] = {}
    names = ("device", "set", "op", "dtype", "network")
    keys = list(zip(*(measurements.labels[name].tolist() for name in names), strict=True))
    shapes = measurements.shape.tolist()
    for key, shape in zip(keys, shapes, strict=True):
        groups.setdefault(key, {})[shape] = tuple(int(part.split("=")[1]) for part in shape.split() if "=" in part)
    judged = {
        key: {shape for place, shape in enumerate(sorted(sizes, key=sizes.get)) if place % every == 1}
        for key, sizes in groups.items()
    }
    return np.array([shape in judged[key] for key, shape in zip(keys, shapes, strict=True)])


def _screened(accelerator, measurements, bounds, harnesses) -> _Found:
    """Where to start: the tilings make the surface uneven, so a few of many points are tried on a sample of rows."""
    every = -(-len(measurements) // SAMPLE)
    fit = _Fit(accelerator, measurements.select(np.arange(0, len(measurements), every)), bounds, harnesses)
    start = fit.start()
    low, high = fit.limits()
    count = len(bounds)
    spread = np.random.default_rng(0).normal(0.0, SPREAD, (SCREENED, len(start)))
    spread[0] = 0.0
    spread[:, count:] = 0.0
    points = np.clip(start + spread, low + 1e-3, high - 1e-3)
    if count:
        total = fit.times(points[:, :count]) + fit.called(start)
        cost = np.sqrt(1.0 + ((np.log(total) - fit.measured) / ROBUST) ** 2).sum(axis=1)
        points = points[np.argsort(cost)[:TRIED]]
    return min((fit.solve(point, 25) for point in [start, *points]), key=lambda found: found.cost)


@dataclass
class _Found:
    log: np.ndarray
    jacobian: np.ndarray
    residuals: np.ndarray
    cost: float
    bounds: dict
    harnesses: list


class _Fit:
    """Least squares over the logarithms of the constants and call times."""

    def __init__(self, accelerator, measurements, bounds, harnesses):
        self.accelerator, self.measurements = accelerator, measurements
        self.bounds, self.harnesses = bounds, harnesses
        index = {name: i for i, name in enumerate(harnesses)}
        self.harness = np.array([index.get(name, -1) for name in measurements.harness.tolist()])
        self.measured = np.log(measurements.time_s)
        self.known: dict[bytes, np.ndarray] = {}

    def start(self) -> np.ndarray:
        fields = self.accelerator.fields
        values = []
        for path, (low, high) in self.bounds.items():
            value = fields[path] or 0.0
            # from the edge of its range a constant changes nothing
            values.append(value if low < value < high else np.sqrt(low * high))
        least = [
            np.clip(self.measurements.time_s[self.harness == i].min() / 2, 2e-8, 9.0)
            for i in range(len(self.harnesses))
        ]
        return np.log(np.array(values + least))

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        low = [b[0] for b in self.bounds.values()] + [1e-8] * len(self.harnesses)
        high = [b[1] for b in self.bounds.values()] + [10.0] * len(self.harnesses)
        return np.log(low), np.log(high)

    def times(self, logs: np.ndarray) -> np.ndarray:
        """Seconds of each measurement for each row of constants, (rows, measurements), calls not counted."""
        values = np.exp(np.atleast_2d(logs)[:, : len(self.bounds)])
        if len(values) == 1:
            space = self.accelerator.replace({path: float(v) for path, v in zip(self.bounds, values[0], strict=True)})
            return predict(space, self.measurements)[None]
        space = self.accelerator.replace(dict(zip(self.bounds, values.T, strict=True)))
        return predict(space, self.measurements)

    def called(self, log: np.ndarray) -> np.ndarray:
        calls = np.append(np.exp(log[len(self.bounds) :]), 0.0)
        return calls[self.harness]

    def evaluate(self, log: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and their derivatives: all perturbed designs in one call."""
        key = log.tobytes()
        if key not in self.known:
            high = self.limits()[1]
            count = len(self.bounds)
            step = np.where(log[:count] + STEP > high[:count], -STEP, STEP)
            points = np.vstack([log[:count], log[:count] + np.diag(step)])
            times = self.times(points) if count else self.times(log)
            called = self.called(log)
            total = times[0] + called
            slopes = (
                (np.log(times[1:] + called) - np.log(total)) / step[:, None] if count else np.zeros((0, len(total)))
            )
            own = (self.harness == np.arange(len(self.harnesses))[:, None]) * called / total
            self.known = {key: (np.log(total) - self.measured, np.vstack([slopes, own]).T)}
        return self.known[key]

    def solve(self, start: np.ndarray, most: int = 60) -> _Found:
        try:
            from scipy.optimize import least_squares
        except ImportError:
            raise CalibrationError("calibrate needs scipy: pip install 'rooftrace[calibrate]'") from None
        count, begun = len(self.bounds), self.start()
        prior = np.eye(len(begun))[:count] * PRIOR

        def residuals(log):
            return np.append(self.evaluate(log)[0], PRIOR * (log - begun)[:count])

        solution = least_squares(
            residuals,
            start,
            jac=lambda log: np.vstack([self.evaluate(log)[1], prior]),
            bounds=self.limits(),
            loss="soft_l1",
            f_scale=ROBUST,
            max_nfev=most,
            xtol=1e-6,
            ftol=1e-6,
        )
        found, jacobian = self.evaluate(solution.x)
        return _Found(solution.x, jacobian, found, solution.cost, self.bounds, self.harnesses)


def _calibration(accelerator, choices, found: _Found, measurements, source: str) -> Calibration:
    values = np.exp(found.log)
    weight = 1.0 / np.sqrt(1.0 + (found.residuals / ROBUST) ** 2)
    weighted = found.jacobian * np.sqrt(weight)[:, None]
    effect = np.abs(found.jacobian).max(axis=0)
    free = effect > DETERMINED
    covariance = np.full((len(values), len(values)), np.nan)
    scale = float(np.sum(weight * found.residuals**2)) / max(1, len(found.residuals) - int(free.sum()))
    covariance[np.ix_(free, free)] = scale * np.linalg.pinv(weighted[:, free].T @ weighted[:, free])
    deviation = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore"):
        correlation = covariance / np.outer(deviation, deviation)
    paths = list(found.bounds)
    warnings = []
    low, high = np.array(list(found.bounds.values()) or np.zeros((0, 2))).T
    fitted = {}
    for i, path in enumerate(paths):
        if not free[i]:
            before = accelerator.fields[path] or 0.0
            if abs(values[i] - before) <= 1e-3 * before:
                warnings.append(f"{path}: the measurements cannot determine it; it keeps its value")
                continue
            warnings.append(f"{path}: near {values[i]:.4g} it changes nothing, so only that it is not far off is known")
            fitted[path] = float(values[i])
            continue
        if deviation[i] > 1.0:
            warnings.append(f"{path}: known no better than by a factor of {np.exp(min(deviation[i], 50)):.3g}")
        if not low[i] * 1.01 < values[i] < high[i] / 1.01:
            warnings.append(f"{path}: at the edge of its range, {values[i]:.4g}")
        fitted[path] = float(values[i])
    changes = fitted | {path: accelerator.fields[path] for path in choices}
    count = len(paths)
    note = source or f"fitted to {len(measurements)} measurements of {measurements.source}"
    calibrated = accelerator.replace(changes)
    citations = dict(calibrated.citations) | {path: Citation(note, "measured") for path in changes}
    return Calibration(
        accelerator=dataclasses.replace(calibrated, citations=citations),
        values=fitted | {path: accelerator.fields[path] for path in choices},
        stderr={path: float(deviation[i] * values[i]) for i, path in enumerate(paths) if free[i]},
        correlation=correlation[:count, :count][np.ix_(free[:count], free[:count])],
        call_s={name: float(v) for name, v in zip(found.harnesses, values[count:], strict=True)},
        residuals=found.residuals,
        cost=float(found.cost),
        warnings=tuple(warnings),
    )
