"""A progress bar for long work: tqdm's where it is installed, a plain line otherwise."""

from __future__ import annotations

import sys
import time

from simulator.metrics import DesignSpaceError

#: Seconds of work before a bar appears, and between two looks of a plain one.
PATIENCE_S, REDRAW_S = 2.0, 0.5


class Progress:
    """A bar of `total` designs on standard error.

    `wanted`: True draws at once, False never, None only on a terminal and after two seconds of work.
    """

    def __init__(self, total: int, wanted: bool | None, done: int = 0):
        if wanted not in (True, False, None):
            raise DesignSpaceError(f"progress must be True, False or None, got {wanted!r}")
        self.total, self.done = total, done
        self._first, self._start = done, time.monotonic()
        self._wanted = sys.stderr.isatty() if wanted is None else wanted
        self._after = self._start + (0.0 if wanted else PATIENCE_S)
        self._bar, self._drawn = None, False

    def add(self, designs: int) -> None:
        """So many more are done."""
        self.done += designs
        now = time.monotonic()
        if not self._wanted or now < self._after:
            return
        if self._bar is None and not self._drawn:
            self._bar = _tqdm(self.total)
        if self._bar is not None:
            self._bar.update(self.done - self._bar.n)
            return
        self._drawn, self._after = True, now + REDRAW_S
        sys.stderr.write(f"\r{self.line(now)}")
        sys.stderr.flush()

    def line(self, now: float) -> str:
        """What a plain bar says."""
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        return f"{self.done / self.total:4.0%} of {self.total:,} designs, {rate:,.0f} designs/s"

    def close(self) -> None:
        """Leave the last state on a line of its own."""
        if self._bar is not None:
            self._bar.close()
        elif self._drawn:
            sys.stderr.write(f"\r{self.line(time.monotonic())}\n")


def _tqdm(total: int):
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit=" designs", unit_scale=True, file=sys.stderr)
