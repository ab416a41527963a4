"""A device left out: what its datasheet and the constants of other devices predict of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from reports.arguments import ReportError
from reports.fits import OWN
from reports.shipped import shipped
from reports.validation import Validation, fitted_constants, validate
from simulator import Accelerator, preset, presets
from simulator.accelerator import SECTIONS, MemoryLevel, call_times
from workloads.measured import Measurements

#: Stands for the name of the farthest memory level, which differs between chips.
OUTER = "memory.OUTER"


def leave_one_out(
    measurements: Measurements,
    chips: Mapping[str, Accelerator] | None = None,
    constants: Mapping[str, Mapping[str, float]] | None = None,
    calls: Mapping[str, Mapping[str, float]] | None = None,
) -> Validation:
    """Every measurement predicted as if nobody had measured its chip: nothing of it is fitted, all rows are judged.

    For each device its datasheet takes, in place of what it assumes, the constants of the other chips of its family:
    the geometric mean, or the most common value of a whole number, a choice or an ability; none that `OWN` says are
    of one device alone. A harness adds the geometric mean of what it adds on
    the other chips, and nothing where no other was timed by it. Boards of the same chip (`chip_of`) are left out
    together.

    chips: datasheets by device, without fitted constants. constants: by device, path and value (the farthest memory
    level as "memory.OUTER"); calls: by device and harness [s]. Default: the calibrated presets. Raises `ReportError`
    when fewer than two chips of a family have constants.
    """
    measured = [device for device in dict.fromkeys(shipped().device.tolist()) if device in presets()]
    if constants is None:
        constants = {name: general(preset(name)) for name in measured if fitted_constants(preset(name))}
    if calls is None:
        calls = {name: call_times(name) for name in measured}
    chips = {name: preset(name, calibrated=False) for name in constants} if chips is None else chips
    guessed = {}
    for name in constants:
        others = others_of(name, chips, constants)
        if others:
            guessed[name] = with_constants(chips[name], typical([constants[other] for other in others]))
    if not guessed:
        raise ReportError("zero-shot: constants of at least two chips of a family are needed")
    known = {
        name: typical([calls.get(other, {}) for other in others_of(name, chips, constants)], whole=False)
        for name in guessed
    }
    rows = np.isin(measurements.device, list(guessed))
    if not rows.any():
        raise ReportError(f"zero-shot: none of these rows is of a calibrated chip: {', '.join(guessed)}")
    part = measurements.select(rows)
    return validate(part, guessed, known, fitted=np.zeros(len(part), bool))


def others_of(name: str, chips: Mapping[str, Accelerator], constants: Mapping[str, object]) -> list[str]:
    """Devices of the same family with constants, other than boards of the same chip."""
    family = chips[name].family
    return [o for o in constants if chips[o].family == family and chip_of(o) != chip_of(name)]


def chip_of(device: str) -> str:
    """The chip on a board: the name up to its first dash ("a100" of "a100-pcie-40gb")."""
    return device.split("-", 1)[0]


def general(chip: Accelerator) -> dict[str, float]:
    """Fitted constants of a chip by path, its farthest memory level named `OUTER`."""
    outer = f"memory.{list(chip.memory)[-1]}."
    return {path.replace(outer, f"{OUTER}."): value for path, value in fitted_constants(chip).items()}


def with_constants(chip: Accelerator, constants: Mapping[str, object]) -> Accelerator:
    """The chip with constants by path, as `general` names them, where it only had the assumptions of its family."""
    outer = f"memory.{list(chip.memory)[-1]}"
    named = {path.replace(OUTER, outer): value for path, value in constants.items()}
    known = {path for path, cited in chip.citations.items() if cited.basis != "assumed"}
    return chip.replace({path: value for path, value in named.items() if path not in known})


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
