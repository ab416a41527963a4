"""PyTorch profiler (Kineto) files as trees of operator events with their time. Reads data only, runs nothing.

A file is a Chrome trace: a list of events, complete ones (`ph` "X") with a start and a duration in microseconds.
Operators (category "cpu_op") nest by thread and time. Where the file has GPU kernels, an operator's time is that of
the kernels it launched, linked by "External id", or by the "correlation" of the launch they share.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from workloads.files import load_text
from workloads.trace import TraceError

#: Categories of what runs on the device, and of the calls that launch it; older files write them in capitals.
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver", "runtime", "privateuse1_runtime")
EXTERNAL_ID = ("External id", "external id", "External ID")


@dataclass(eq=False)
class Event:
    """One run of an operator, with the operators it called. Times in microseconds; `device_us`: kernels it launched."""

    name: str
    start: float
    end: float
    dims: list
    types: list
    values: list
    strides: list
    children: list[Event] = field(default_factory=list)
    device_us: float = 0.0
    annotation: str = ""
    thread: tuple = ()

    def walk(self) -> Iterable[Event]:
        """The event and everything below it."""
        stack = [self]
        while stack:
            event = stack.pop()
            yield event
            stack.extend(reversed(event.children))


@dataclass(frozen=True)
class Recording:
    """What a file holds: operators no other operator called, whether kernels give the time, unlinked kernels [us]."""

    roots: list[Event]
    device: bool
    unlinked_us: dict[str, float]
    steps: int

    def time_us(self, event: Event) -> float:
        """Time of an operator and all it called: its kernels where there are any in the file, else its duration."""
        if self.device:
            return sum(inner.device_us for inner in event.walk())
        return event.end - event.start


def recording(path: Path) -> Recording:
    """Read a profile. Raises `TraceError` naming file and place: not JSON, not a profile, no operators, no shapes."""
    raw = _complete_events(_document(path), path)
    of = {"cpu_op": [], "user_annotation": []}
    device, launches = [], []
    for number, event in raw:
        category = str(event.get("cat", "")).lower()
        if category in of:
            of[category].append((number, event))
        elif category in ON_DEVICE:
            device.append((number, event))
        elif category in LAUNCHES:
            launches.append((number, event))
    if not of["cpu_op"]:
        raise TraceError(f"{path}: no operators (category 'cpu_op'): record with ProfilerActivity.CPU")
    if not any("Input Dims" in _arguments(event) for _, event in of["cpu_op"]):
        raise TraceError(f"{path}: a profile without shapes: record it with record_shapes=True")
    roots, by_id = _forest(of["cpu_op"], path)
    annotations = [_span(number, event, path) for number, event in of["user_annotation"]]
    _annotate(roots, annotations)
    unlinked = _link(device, launches, by_id, path)
    steps = sum(name.startswith("ProfilerStep") for _, _, name, _ in annotations)
    return Recording([root for _, tree in roots for root in tree], bool(device), unlinked, steps)


def _document(path: Path) -> list:
    try:
        document = json.loads(load_text(path), parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path}: not valid JSON, or cut short ({error})") from None
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise TraceError(f"{path}: not a profile: a list 'traceEvents' is expected, as PyTorch's profiler writes it")
    return events


def _not_a_number(text: str):
    raise ValueError(f"{text} is no number")


def _complete_events(events: list, path: Path) -> Iterable[tuple[int, dict]]:
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            raise TraceError(f"{path}: event {number}: an object is expected, got {event!r}")
        if event.get("ph") == "X":
            yield number, event


def _arguments(event: dict) -> dict:
    found = event.get("args")
    return found if isinstance(found, dict) else {}


def _amount(number: int, event: dict, field_name: str, path: Path) -> float:
    value = event.get(field_name)
    if isinstance(value, str):  # some writers quote 64 bit numbers
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TraceError(f"{path}: event {number}: {field_name!r} must be a number, got {event.get(field_name)!r}")
    return float(value)


def _span(number: int, event: dict, path: Path) -> tuple[float, float, str, tuple]:
    """Start, end, name and thread of an event."""
    start, length = _amount(number, event, "ts", path), _amount(number, event, "dur", path)
    name = event.get("name")
    if length < 0:
        raise TraceError(f"{path}: event {number}: 'dur' must not be negative, got {length:g}")
    if not isinstance(name, str):
        raise TraceError(f"{path}: event {number}: 'name' must be text, got {name!r}")
    return start, start + length, name, (str(event.get("pid")), str(event.get("tid")))


def _operator(number: int, event: dict, path: Path) -> tuple[tuple, object, Event]:
    """Thread, external id and event of an operator."""
    start, end, name, thread = _span(number, event, path)
    given = _arguments(event)
    lists = {}
    for label in ("Input Dims", "Input type", "Concrete Inputs", "Input Strides"):
        lists[label] = given.get(label, [])
        if not isinstance(lists[label], list):
            raise TraceError(f"{path}: event {number} ({name}): {label!r} must be a list, got {lists[label]!r}")
    for label in ("Input Dims", "Input Strides"):
        if not all(type(sizes) is list and _are_sizes(sizes) for sizes in lists[label]):
            raise TraceError(
                f"{path}: event {number} ({name}): {label!r} must hold lists of sizes, got {lists[label]!r}"
            )
    made = Event(name, start, end, *lists.values(), thread=thread)
    return thread, _external_id(given), made


def _are_sizes(sizes: list) -> bool:
    """Whether a list holds whole numbers that are not negative, or (a list of tensors) lists of such."""
    kinds = set(map(type, sizes))  # called for every input of every event: kept cheap
    if kinds == {list}:
        return all(set(map(type, inner)) <= {int} and min(inner, default=0) >= 0 for inner in sizes)
    return kinds <= {int} and min(sizes, default=0) >= 0


def _external_id(given: dict):
    return next((str(given[label]) for label in EXTERNAL_ID if label in given), None)


def _forest(operators: list, path: Path) -> tuple[list[tuple[tuple, list[Event]]], dict]:
    """Operators nested by thread and time, and each by its external id."""
    threads: dict[tuple, list[Event]] = {}
    by_id: dict = {}
    for number, raw in operators:
        thread, external, event = _operator(number, raw, path)
        threads.setdefault(thread, []).append(event)
        if external is not None:
            by_id[external] = event
    return [(thread, _nested(events)) for thread, events in threads.items()], by_id


def _nested(events: list[Event]) -> list[Event]:
    """The events of one thread that lie inside no other; the others become children."""
    roots: list[Event] = []
    open_events: list[Event] = []
    for event in sorted(events, key=lambda event: (event.start, -event.end)):
        while open_events and open_events[-1].end <= event.start:
            open_events.pop()
        (open_events[-1].children if open_events else roots).append(event)
        open_events.append(event)
    return roots


def _annotate(forest: list[tuple[tuple, list[Event]]], annotations: list[tuple]) -> None:
    """Names each root after the innermost `record_function` around it, profiler steps and optimisers apart."""
    by_thread: dict[tuple, list[tuple]] = {}
    for start, end, name, thread in annotations:
        if "#" not in name:  # ProfilerStep#3, Optimizer.step#Adam.step
            by_thread.setdefault(thread, []).append((start, end, name))
    for thread, roots in forest:
        spans = sorted(by_thread.get(thread, ()))
        active: list[tuple] = []
        position = 0
        for root in roots:
            while position < len(spans) and spans[position][0] <= root.start:
                active.append(spans[position])
                position += 1
            active = [span for span in active if span[1] >= root.end]
            root.annotation = active[-1][2] if active else ""


def _link(device: list, launches: list, by_id: dict, path: Path) -> dict[str, float]:
    """Adds each kernel's time to the operator that launched it. What has none is returned, by name. [us]"""
    launched: dict = {}
    if device:
        around = _enclosing(by_id.values())
        for number, event in launches:
            given = _arguments(event)
            start, end, _, thread = _span(number, event, path)
            owner = by_id.get(_external_id(given)) or around(start, end, thread)
            if owner is not None and "correlation" in given:
                launched[str(given["correlation"])] = owner
    unlinked: dict[str, float] = {}
    for number, event in device:
        start, end, name, _ = _span(number, event, path)
        given = _arguments(event)
        owner = by_id.get(_external_id(given)) or launched.get(str(given.get("correlation")))
        if owner is None:
            unlinked[name] = unlinked.get(name, 0.0) + end - start
        else:
            owner.device_us += end - start
    return unlinked


def _enclosing(events: Iterable[Event]) -> Callable[[float, float, tuple], Event | None]:
    """A function that finds the innermost of the events of a thread around a span of time."""
    threads: dict[tuple, list[Event]] = {}
    for event in sorted(events, key=lambda event: event.start):
        threads.setdefault(event.thread, []).append(event)
    starts = {thread: [event.start for event in ordered] for thread, ordered in threads.items()}

    def find(start: float, end: float, thread: tuple) -> Event | None:
        latest = bisect_right(starts.get(thread, ()), start)
        # the latest start that still covers the span; it is near, as only what it called lies between
        near = reversed(threads.get(thread, ())[max(0, latest - 256) : latest])
        return next((event for event in near if event.end >= end), None)

    return find
