"""A device left out: what its datasheet and the constants of other devices predict of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from reports.arguments import ReportError
from reports.fits import OUTER, chip_of, is_known, typical, with_constants
from reports.shipped import shipped
from reports.validation import Validation, fitted_constants, validate
from simulator import Accelerator, preset, presets
from simulator.accelerator import call_times, standard_errors
from workloads.measured import Measurements


def leave_one_out(
    measurements: Measurements,
    chips: Mapping[str, Accelerator] | None = None,
    constants: Mapping[str, Mapping[str, float]] | None = None,
    calls: Mapping[str, Mapping[str, float]] | None = None,
) -> Validation:
    """Every measurement predicted as if nobody had measured its chip: nothing of it is fitted, all rows are judged.

    For each device its datasheet takes, in place of what it assumes, the constants of the other chips of its family:
    the geometric mean, or the most common value of a whole number, a choice or an ability; none that are
    of one device alone or that its measurements do not tell. A harness adds the geometric mean of what it adds on
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


def general(chip: Accelerator) -> dict[str, float]:
    """Fitted constants of a chip that its measurements tell, its farthest memory level named `OUTER`."""
    outer, errors = f"memory.{list(chip.memory)[-1]}.", standard_errors(chip.name)
    return {
        path.replace(outer, f"{OUTER}."): value
        for path, value in fitted_constants(chip).items()
        if is_known(value, errors.get(path))
    }
