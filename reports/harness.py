"""What the harness that timed a call adds to it: no property of the chip, so kept in the notes of a calibrated one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from simulator import Accelerator

_SENTENCE = re.compile(r"\s*A call of '([^']+)' adds ([0-9.e+-]+) s\.")


def with_calls(chip: Accelerator, calls: Mapping[str, float]) -> Accelerator:
    """The chip with a sentence in its notes for each harness, in place of those it had. Seconds by harness."""
    notes = _SENTENCE.sub("", chip.notes)
    told = [f"A call of '{name.replace(chr(39), ' ')}' adds {seconds:.6g} s." for name, seconds in calls.items()]
    return chip.replace(notes=" ".join([notes, *told]).strip())


def calls_of(chip: Accelerator) -> dict[str, float]:
    """Seconds by harness that the notes of a chip tell of; none for a chip that `rooftrace calibrate` did not write."""
    return {name: float(seconds) for name, seconds in _SENTENCE.findall(chip.notes)}
