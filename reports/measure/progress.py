"""A progress bar on a terminal: tqdm's where it is installed, a plain one otherwise; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WIDTH = 40


@contextmanager
def progress_bar(title: str, stream=None) -> Iterator[Callable[[float, str], None]]:
    """Yields a function of (share done, what is going on); the bar is gone at the end, whatever happened."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield lambda share, text: None
        return
    bar = _bar(title, stream)
    try:
        yield bar.show
    finally:
        bar.close()


def _bar(title: str, stream):
    try:
        from tqdm import tqdm
    except ImportError:
        return _Plain(title, stream)
    return _Tqdm(tqdm(total=100, desc=title, file=stream, leave=False, bar_format="{desc} {bar} {n:.0f} % {postfix}"))


class _Tqdm:
    def __init__(self, bar):
        self.bar = bar

    def show(self, share: float, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.n = 100 * share
        self.bar.refresh()

    def close(self) -> None:
        self.bar.close()


class _Plain:
    """One line, written over each time it changes."""

    def __init__(self, title: str, stream):
        self.title, self.stream, self.shown = title, stream, ""

    def show(self, share: float, text: str) -> None:
        filled = round(WIDTH * share)
        line = f"{self.title} [{'#' * filled}{'.' * (WIDTH - filled)}] {100 * share:3.0f} % {text}"
        if line != self.shown:
            self.stream.write("\r" + line.ljust(len(self.shown)))
            self.stream.flush()
            self.shown = line

    def close(self) -> None:
        self.stream.write("\r" + " " * len(self.shown) + "\r")
        self.stream.flush()
