"""The constants shipped with the presets: what is fitted on which measurements, class defaults, spreads.

`fit_presets` makes the text of `simulator/presets/_calibrated.toml` anew from the shipped measurements; no
measurement that `held_out` keeps for judging is fitted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reports.shipped import shipped
from simulator import preset
from simulator.accelerator import SECTIONS, Accelerator, MemoryLevel
from simulator.calibrate import CONSTANTS, Calibration, calibrate, held_out, predict
from simulator.uncertainty import SIZES_S, kind_of
from workloads.measured import Measurements, joined

#: Stands for the name of the farthest memory level, which differs between chips.
OUTER = "memory.OUTER"
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
GIVEN = "held while the clock was fitted, with which it is confounded: that of V100, A100 and P100"


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
#: Not of the class: effects of one device, and of one kernel of fused attention (others reach twice its rate).
OWN = (
    "matrix.reach_bytes",
    "matrix.reach_cost",
    "matrix.clock_hz",
    "matrix.attention_sustained",
    "abilities.skips_masked",
)


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


def determined(found: Calibration) -> dict[str, object]:
    """Constants of a fit that its measurements tell, the farthest memory level named `OUTER`."""
    outer = f"memory.{list(found.accelerator.memory)[-1]}."
    return {
        path.replace(outer, f"{OUTER}."): value
        for path, value in found.values.items()
        if is_known(value, found.stderr.get(path))
    }


def is_known(value: float, stderr: float | None) -> bool:
    """Whether a standard error leaves no doubt about the size of a value; discrete ones have none."""
    return stderr is None or stderr < 0.5 * value


# -- a device nobody measured ------------------------------------------------------------------------


def typical(found: Sequence[Mapping[str, object]], whole: bool = True) -> dict[str, object]:
    """Of each key the geometric mean of its values; with `whole` the most common value where the field is discrete."""
    paths = dict.fromkeys(path for values in found for path in values if path not in OWN)
    typical = {}
    for path in paths:
        values = [known[path] for known in found if path in known]
        if whole and is_discrete(path):
            typical[path] = Counter(values).most_common(1)[0][0]
        else:
            typical[path] = float(np.exp(np.mean(np.log(values))))
    return typical


def is_discrete(path: str) -> bool:
    """Whether a field takes whole numbers, choices or yes and no, so that a mean of it is no value of it."""
    section, leaf = path.split(".")[0], path.rsplit(".", 1)[-1]
    kind = MemoryLevel if section == "memory" else SECTIONS[section]
    rules = {item.name: item.metadata for item in dataclasses.fields(kind)}
    metadata = rules.get(leaf, {})  # an element type's rate is no field of its own
    return "choices" in metadata or "flag" in metadata or bool(metadata.get("rule", {}).get("whole"))


def with_constants(chip: Accelerator, constants: Mapping[str, object]) -> Accelerator:
    """The chip with constants by path, as `determined` names them, where it only had assumptions."""
    outer = f"memory.{list(chip.memory)[-1]}"
    named = {path.replace(OUTER, outer): value for path, value in constants.items()}
    known = {path for path, cited in chip.citations.items() if cited.basis != "assumed"}
    return chip.replace({path: value for path, value in named.items() if path not in known})


def chip_of(device: str) -> str:
    """The chip on a board: the name up to its first dash ("a100" of "a100-pcie-40gb")."""
    return device.split("-", 1)[0]


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
    """Spreads of the class: each measured device predicted from the other chips."""
    parts, predicted = [], []
    for name in fits:
        others = [fits[other] for other in fits if chip_of(other) != chip_of(name)]
        chip = with_constants(preset(name, calibrated=False), typical([determined(other) for other in others]))
        calls = typical([other.call_s for other in others], whole=False)
        parts.append(fitted_rows(name))
        predicted.append(predict(chip, parts[-1], calls))
    return spreads(joined(parts), np.concatenate(predicted))


# -- the file ----------------------------------------------------------------------------------------


def fit_presets(names: Sequence[str] = tuple(FITS)) -> str:
    """Text of `_calibrated.toml`: constants, call times and spreads of each fitted preset and of the class."""
    fits = {name: fit(name) for name in names}
    lines = ["# Constants fitted to measurements; made by `rooftrace calibrate --presets`, not by hand.", ""]
    constants = typical([determined(found) for found in fits.values()])
    source = f"class default: geometric mean (most common value) of what was fitted on {', '.join(fits)}"
    entries = {path: (value, None, source, "measured") for path, value in constants.items()}
    calls = typical([found.call_s for found in fits.values()], whole=False)
    lines += _section("gpu", entries, calls, left_out_spreads(fits))
    for name, found in fits.items():
        entries = {path: (value, None, GIVEN, "derived") for path, value in FITS[name].given.items()}
        for path, value in found.values.items():
            cited = found.accelerator.citations[path]
            entries[path] = (value, found.stderr.get(path), cited.source, cited.basis)
        rows = fitted_rows(name)
        spread = spreads(rows, predict(found.accelerator, rows, found.call_s))
        lines += _section(name, entries, found.call_s, spread)
    return "\n".join(lines) + "\n"


def _section(name: str, entries: Mapping[str, tuple], calls: Mapping, spread: Mapping) -> list[str]:
    lines = [f"[{name}.constants]"]
    for path, (value, stderr, source, basis) in entries.items():
        shown = str(value).lower() if isinstance(value, (bool, np.bool_)) else f"{value:.4g}"
        error = "" if stderr is None else f"stderr = {stderr:.2g}, "
        lines.append(f'"{path}" = {{ value = {shown}, {error}source = "{source}", basis = "{basis}" }}')
    lines += ["", f"[{name}.calls]", *(f'"{harness}" = {value:.3g}' for harness, value in calls.items())]
    lines += ["", f"[{name}.spread]"]
    for kind, steps in spread.items():
        rows = ", ".join("[" + ", ".join(f"{v:.4g}" for v in step) + "]" for step in steps)
        lines.append(f'"{kind}" = [{rows}]')
    return [*lines, ""]
