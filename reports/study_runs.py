"""Many studies at once, in two processes: each finishes or fails by itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence

from reports.studies import Bench
from reports.study_report import Report, attempt

#: Processes that run studies side by side.
WORKERS = 2


def run_all(names: Sequence[str], bench: Bench, on_done: Callable[[Report], None], draw: bool = True) -> list[Report]:
    """The reports of studies by name, in that order; `on_done` is called with each as it finishes.

    A study that fails, or whose process ends, is a report that says so.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import active_children, get_context

    workers = min(WORKERS, len(names))
    found: dict[str, Report] = {}
    if workers < 2:
        for name in names:
            found[name] = attempt(name, bench, draw)
            on_done(found[name])
        return list(found.values())
    others = set(active_children())
    # spawned, as a fork of a process with threads of a library may hang
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        with _interrupts_ignored():
            futures = {pool.submit(attempt, name, bench, draw): name for name in names}
        for future in as_completed(futures):
            name = futures[future]
            found[name] = _outcome(future, name)
            on_done(found[name])
    except BaseException:  # Ctrl-C: what they still compute is of no use
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [found[name] for name in names]


@contextlib.contextmanager
def _interrupts_ignored():
    """Workers started here never see Ctrl-C, which reaches them too and would make them speak."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere signals cannot be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _outcome(future, name: str) -> Report:
    """What a worker sent back, or that it did not."""
    try:
        return future.result()
    except Exception as error:  # the process ended, or its report cannot be sent
        texts = {"name": name, "title": name, "question": "", "claim": "", "setup": "", "sources": ()}
        return Report(**texts, finding=None, failure=f"{type(error).__name__}: {error}")
