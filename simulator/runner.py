"""Runs numbered tasks on an executor: a few at a time, retried where a worker is lost, stopped without loss."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.metrics import DesignSpaceError

if TYPE_CHECKING:  # imports logging and more, which one design does not need
    from concurrent.futures import Executor, Future

#: Bytes of the block freed so that the C library keeps what arrays of a chunk give back: more than any of them.
_FREED = 2**24
#: Times a task is tried before its failure is the sweep's.
TRIES = 4
#: Tasks handed to an executor before the first comes back: enough to keep a small cluster busy, few enough to hold.
IN_FLIGHT = 64


class Outcome(NamedTuple):
    """Whether every task ran, and how many did."""

    complete: bool
    finished: int


def run(
    task: Callable,
    arguments: Callable[[int], tuple],
    numbers: Iterable[int],
    executor: Executor | None,
    on_done: Callable[[int, object], None],
) -> Outcome:
    """Call `task(*arguments(number))` for each number; `on_done(number, value)` here, as they finish.

    Without an executor the machine's own cores are used. Ctrl-C stops it and says so in the outcome. Raises
    `DesignSpaceError` where the executor dies or a task keeps failing for reasons that are not its own; an error in a
    task (any ValueError) as it is.
    """
    from concurrent.futures import Executor, ThreadPoolExecutor

    if executor is not None and not isinstance(executor, Executor):
        raise DesignSpaceError(f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}")
    _keep_freed_memory()
    numbers, workers, own = list(numbers), os.cpu_count() or 1, None
    if executor is None:
        own = ThreadPoolExecutor(workers) if len(numbers) > 1 else _Here()
    loop = _Loop(task, arguments, own or executor, on_done)
    try:
        return loop.run(numbers, 2 * workers if own else IN_FLIGHT)
    finally:
        if own:
            own.shutdown(cancel_futures=True)


def _keep_freed_memory() -> None:
    """Lets the arrays of one chunk lie where those of the last one did.

    glibc gives blocks beyond a threshold back to the system when they are freed, and takes as new threshold the
    largest it has seen freed (mallopt(3), M_MMAP_THRESHOLD); else every array of every chunk is new pages, which the
    system fills with zeros first. No other C library minds.
    """
    np.empty(_FREED, np.uint8)


class _Here:
    """Runs a task at once in the thread that asks: one alone is not worth another."""

    def submit(self, task, *arguments) -> Future:
        from concurrent.futures import Future

        future = Future()
        try:
            future.set_result(task(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, cancel_futures: bool) -> None:
        pass


class _Loop:
    def __init__(self, task, arguments, executor: Executor | _Here, on_done):
        self.task, self.arguments, self.executor, self.on_done = task, arguments, executor, on_done
        self.pending: dict[Future, int] = {}
        self.tries: dict[int, int] = {}
        self.finished = 0

    def run(self, numbers: Iterable[int], most: int) -> Outcome:
        waiting = iter(numbers)
        exhausted = False
        try:
            while self.pending or not exhausted:
                while not exhausted and len(self.pending) < most:
                    number = next(waiting, None)
                    exhausted = number is None
                    if not exhausted:
                        self._submit(number)
                if self.pending:
                    self._collect()
        except KeyboardInterrupt:
            self._stop()
            return Outcome(False, self.finished)
        except BaseException:
            self._stop()
            raise
        return Outcome(True, self.finished)

    def _submit(self, number: int) -> None:
        self.tries[number] = self.tries.get(number, 0) + 1
        arguments = self.arguments(number)
        try:
            self.pending[self.executor.submit(self.task, *arguments)] = number
        except ValueError:
            raise
        except Exception as error:  # each kind of executor has its own
            raise DesignSpaceError(f"the executor died and takes no more work ({_said(error)})") from error

    def _stop(self) -> None:
        """Take in what has finished, and ask for no more."""
        for future, number in list(self.pending.items()):
            if future.done() and not future.cancelled() and future.exception() is None:
                self._finish(future, number, future.result())
            else:
                future.cancel()

    def _collect(self) -> None:
        from concurrent.futures import FIRST_COMPLETED, wait

        for future in wait(self.pending, return_when=FIRST_COMPLETED).done:
            number = self.pending[future]
            try:
                value = future.result()
            except ValueError:  # the task's own: another try ends the same way
                raise
            except (Exception, _cancelled()) as error:
                del self.pending[future]
                if self.tries[number] == TRIES or _is_unsendable(error):
                    raise DesignSpaceError(_gave_up(error, number)) from error
                self._submit(number)
            else:
                self._finish(future, number, value)

    def _finish(self, future: Future, number: int, value) -> None:
        del self.pending[future]
        self.tries.pop(number, None)
        self.on_done(number, value)
        self.finished += 1


def _cancelled() -> type[BaseException]:
    """asyncio's CancelledError, which some executors raise, is no Exception."""
    from asyncio import CancelledError

    return CancelledError


def _is_unsendable(error: BaseException) -> bool:
    return "pickle" in str(error).lower() and not isinstance(error, OSError)


def _gave_up(error: BaseException, number: int) -> str:
    if _is_unsendable(error):
        return f"a chunk cannot be sent to the executor ({_said(error)}): metrics must be functions of a module"
    return f"chunk {number} failed {TRIES} times on the executor, the last time with {_said(error)}"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
