"""The constants shipped with the presets: what is fitted on which measurements, class defaults, spreads.

`fit_presets` makes the text of `simulator/presets/_calibrated.toml` anew from the shipped measurements; no
measurement that `held_out` keeps for judging is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from simulator import preset
from simulator.accelerator import Accelerator
from simulator.calibrate import CONSTANTS, Calibration, calibrate, held_out, predict
from simulator.uncertainty import SIZES_S, kind_of
from workloads.measured import Measurements, from_timings, joined

MEASURED = Path(__file__).parent / "measured"
#: Constants of products that every measured GPU is fitted for.
PRODUCTS = (
    "matrix.sustained",
    "matrix.operand_macs",
    "matrix.loop_cycles_per_byte",
    "matrix.split_cycles",
    "memory.OUTER.sustained",
)
#: The same where all products are of narrow types, and where some are.
NARROW = tuple(path.replace(".loop", ".narrow_loop") for path in PRODUCTS)
BOTH = (*PRODUCTS, "matrix.narrow_loop_cycles_per_byte")
#: And of recurrences.
STEPS = ("latency.step_s", "latency.first_steps_s")
#: Share of the peak a long product reaches where the clock is fitted too, with which it would be confounded: the
#: geometric mean of V100, A100 and P100.
SUSTAINED_OF_THROTTLED = 0.95


@dataclass(frozen=True)
class Fitted:
    """What is fitted for one preset: the sets of its measurements, constants, candidates of discrete ones."""

    sets: tuple[str, ...]
    constants: tuple[str, ...]
    candidates: Mapping[str, Sequence] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)

    def parameters(self) -> dict:
        """The argument of `calibrate`."""
        return {path: CONSTANTS[path] for path in self.constants} | dict(self.candidates) | dict(self.ranges)


_EAGER = ("neusight-products", "neusight-vector")
_TILES = {"matrix.batched_tile": [32, 64, 128]}
_FIRST = {"latency.first_steps": [50, 100]}
FITS: dict[str, Fitted] = {
    "v100-pcie": Fitted(_EAGER, PRODUCTS, _TILES),
    "a100-pcie-40gb": Fitted(_EAGER, PRODUCTS, _TILES),
    "p100-pcie": Fitted(
        _EAGER, PRODUCTS, _TILES | {"matrix.reach_bytes": [4e6, 8e6]}, {"matrix.reach_cost": (0.01, 10.0)}
    ),
    # 70 W do not hold the boost clock: the clock is one of the constants
    "t4": Fitted(
        _EAGER,
        PRODUCTS[1:],
        _TILES,
        {"matrix.clock_hz": (5.85e8, 1.59e9)},
        {"matrix.sustained": SUSTAINED_OF_THROTTLED},
    ),
    "a100-sxm-80gb": Fitted(
        ("vidur-products", "vidur-decode", "vidur-prefill"),
        (*NARROW, "matrix.attention_sustained"),
        {"abilities.skips_masked": [False, True]},
    ),
    "v100-sxm": Fitted(("deepbench-train",), (*BOTH, *STEPS), _FIRST),
    "titan-x-pascal": Fitted(("deepbench-inference",), (*PRODUCTS, *STEPS), _FIRST),
    "m40": Fitted(("deepbench-train",), (*PRODUCTS, *STEPS), _FIRST),
}  # fmt: skip
#: Discrete constants of the class take the most common value, others the geometric mean.
DISCRETE = ("matrix.batched_tile", "latency.first_steps")
#: Not of the class: effects of one device, and of one kernel of fused attention (others reach twice its rate).
OWN = (
    "matrix.reach_bytes",
    "matrix.reach_cost",
    "matrix.clock_hz",
    "matrix.attention_sustained",
    "abilities.skips_masked",
)


@cache
def shipped(*sets: str) -> Measurements:
    """All shipped measurements, or those of some sets."""
    found = joined([from_timings(path) for path in sorted(MEASURED.glob("*.csv"))])
    return found.select(np.isin(found.set, sets)) if sets else found


def fitted_rows(name: str) -> Measurements:
    """The measurements the constants of preset `name` are fitted to."""
    measured = shipped()
    own = measured.select((measured.device == name) & np.isin(measured.set, FITS[name].sets))
    return own.select(~held_out(own))


def fit(name: str) -> Calibration:
    """Fit one preset."""
    spec, rows = FITS[name], fitted_rows(name)
    chip = preset(name, calibrated=False).replace(dict(spec.given))
    source = f"fitted to {len(rows)} rows of {', '.join(spec.sets)} (reports/measured); every third shape is left out"
    return calibrate(chip, rows, spec.parameters(), source=source)


def class_constants(fits: Mapping[str, Calibration], without: str = "") -> dict[str, float]:
    """Constants of the GPU class: the geometric mean of those the data of each device determine.

    `without`: a device left out, to predict it from its datasheet and the others."""
    values: dict[str, list[float]] = {}
    for name, found in fits.items():
        if name == without:
            continue
        for path, value in found.values.items():
            outer = path.startswith("memory.")
            known = path in DISCRETE or found.stderr.get(path, np.inf) < 0.5 * value
            if known and path not in OWN:
                values.setdefault("memory.OUTER.sustained" if outer else path, []).append(value)
    return {path: _together(path, found) for path, found in values.items()}


def class_calls(fits: Mapping[str, Calibration], without: str = "") -> dict[str, float]:
    """What each harness adds to a call on an unknown device: the geometric mean of the others. [s]"""
    values: dict[str, list[float]] = {}
    for name, found in fits.items():
        if name != without:
            for harness, value in found.call_s.items():
                values.setdefault(harness, []).append(value)
    return {harness: float(np.exp(np.log(found).mean())) for harness, found in values.items()}


def _together(path: str, values: list):
    if path not in DISCRETE:
        return float(np.exp(np.log(values).mean()))
    kinds = sorted(set(values))
    return max(kinds, key=values.count)


def on_datasheet(name: str, constants: Mapping[str, float]) -> Accelerator:
    """The preset with the constants of its class."""
    chip = preset(name, calibrated=False)
    outer = list(chip.memory)[-1]
    return chip.replace({path.replace("OUTER", outer): value for path, value in constants.items()})


# -- spreads -----------------------------------------------------------------------------------------


def spreads(measurements: Measurements, predicted_s: np.ndarray) -> dict[str, list[list[float]]]:
    """The tenth and ninetieth percentile of log(measured / predicted) by kind and size of the prediction.

    For each kind of `uncertainty.kind_of` a list of [size up to, low, high]; kinds of too few rows take "any"."""
    ratio = np.log(measurements.time_s / predicted_s)
    kinds = np.array([kind_of(kind) for kind in measurements.kind.tolist()])
    found = {}
    for kind in ("any", *dict.fromkeys(kinds.tolist())):
        rows = np.ones(len(kinds), bool) if kind == "any" else kinds == kind
        steps = []
        for low, high in zip((0.0, *SIZES_S[:-1]), SIZES_S, strict=True):
            some = rows & (predicted_s > low) & (predicted_s <= high)
            if some.sum() >= 20:
                steps.append([high, *np.quantile(ratio[some], (0.1, 0.9)).tolist()])
        if steps:
            steps[-1][0] = SIZES_S[-1]
            found[kind] = steps
        elif rows.sum() >= 10:
            found[kind] = [[SIZES_S[-1], *np.quantile(ratio[rows], (0.1, 0.9)).tolist()]]
    return found


def left_out_spreads(fits: Mapping[str, Calibration]) -> dict:
    """Spreads of the class: each measured device predicted from the others."""
    parts, predicted = [], []
    for name in fits:
        rows = fitted_rows(name)
        parts.append(rows)
        chip = on_datasheet(name, class_constants(fits, name))
        predicted.append(predict(chip, rows, class_calls(fits, name)))
    return spreads(joined(parts), np.concatenate(predicted))


# -- the file ----------------------------------------------------------------------------------------


def fit_presets(names: Sequence[str] = tuple(FITS)) -> str:
    """Text of `_calibrated.toml`: constants, call times and spreads of each fitted preset and of the class."""
    fits = {name: fit(name) for name in names}
    lines = ["# Constants fitted to measurements; made by `rooftrace calibrate --presets`, not by hand.", ""]
    constants = class_constants(fits)
    source = f"class default: geometric mean of what was fitted on {', '.join(fits)}"
    lines += _section("gpu", constants, dict.fromkeys(constants, source), class_calls(fits), left_out_spreads(fits))
    for name, found in fits.items():
        cited = {path: found.accelerator.citations[path].source for path in found.values}
        rows = fitted_rows(name)
        spread = spreads(rows, predict(found.accelerator, rows, found.call_s))
        lines += _section(name, found.values, cited, found.call_s, spread)
    return "\n".join(lines) + "\n"


def _section(name: str, values: Mapping, sources: Mapping, calls: Mapping, spread: Mapping) -> list[str]:
    lines = [f"[{name}.constants]"]
    for path, value in values.items():
        shown = str(value).lower() if isinstance(value, (bool, np.bool_)) else f"{value:.4g}"
        lines.append(f'"{path}" = {{ value = {shown}, source = "{sources[path]}", basis = "measured" }}')
    lines += ["", f"[{name}.calls]", *(f'"{harness}" = {value:.3g}' for harness, value in calls.items())]
    lines += ["", f"[{name}.spread]"]
    for kind, steps in spread.items():
        rows = ", ".join("[" + ", ".join(f"{v:.4g}" for v in step) + "]" for step in steps)
        lines.append(f'"{kind}" = [{rows}]')
    return [*lines, ""]
