"""Networks from files, as the command line takes them: which importer reads a file, and what it said on the way."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reports.arguments import ReportError
from workloads import Trace, TraceError
from workloads.files import load_text
from workloads.training import training

#: Files that hold a trace: tables, and what `rooftrace trace` writes.
TRACE_SUFFIXES = (".csv", ".json", ".parquet", ".csv.gz", ".json.gz")
#: What a PyTorch profile and an Nsight Compute export have and no table has: the key, the column.
_PROFILE_KEY = re.compile(r'"traceEvents"\s*:')
_KERNEL_COLUMN = re.compile(r'^(.*,)?\s*"?Kernel Name"?\s*(,|$)', re.MULTILINE)
#: FILE.py, with the name of a function behind it or without.
_PYTHON = re.compile(r"(?P<file>.+\.py)(?::(?P<function>[^:/\\]*))?", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """What a file held: its trace, the Profile with the measured times where it is one, and warnings of the import."""

    trace: Trace
    profile: object | None = None
    warnings: tuple[str, ...] = ()


def kind_of(name: str) -> str | None:
    """What `name` names, by its form alone: "python" (FILE.py:FUNCTION), "onnx", "table" (a trace, a SCALE-Sim
    topology or a profile; `read` looks into the file), or None for a network by name."""
    lower = name.lower()
    if _PYTHON.fullmatch(name):
        return "python"
    if lower.endswith(".onnx"):
        return "onnx"
    return "table" if lower.endswith(TRACE_SUFFIXES) else None


def read(name: str, optimiser: str | None = None, dims: Mapping[str, object] | None = None) -> Source:
    """The network in a file, see `kind_of`; a training step of it where there is an `optimiser`.

    `dims` are the sizes of an ONNX model's dynamic dimensions. A profile is recognised by what it holds, not by its
    name. Of Python files the one named is executed, and the function is called; nothing else is ever executed.
    Raises `TraceError` naming the file, also for what the function raises, and `ReportError` for training a profile.
    """
    kind = kind_of(name)
    with _collected(everything=kind == "table") as said:
        if kind == "python":
            trace, profile = _from_python(name, optimiser), None
        elif kind == "onnx":
            from workloads.importers import from_onnx

            trace, profile = from_onnx(name, dims=dict(dims or {})), None
        else:
            trace, profile = _from_table_or_profile(name)
    if profile is not None and optimiser is not None:
        raise ReportError(f"training does not apply to {name}: a profile holds what was recorded")
    if kind != "python" and optimiser is not None:
        trace = training(trace, optimiser)
    return Source(trace, profile, tuple(said))


@contextlib.contextmanager
def _collected(everything: bool) -> Iterator[list[str]]:
    """Warnings of the importers as text, each once; those of other packages go where they would have gone."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    for warning in caught:
        if everything or warning.category.__module__.partition(".")[0] == "workloads":
            text = " ".join(str(warning.message).split())
            said += [] if text in said else [text]
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _from_table_or_profile(name: str) -> tuple[Trace, object | None]:
    from workloads.importers import from_profile, from_table

    if _is_profile(name):
        profile = from_profile(name)
        return profile.trace, profile
    return from_table(name), None


def _is_profile(name: str) -> bool:
    """Whether a .json has the key traceEvents or a .csv the column Kernel Name.

    A quote inside a JSON string is escaped, so that the pattern finds keys alone.
    """
    lower = name.lower()
    if lower.endswith(".parquet"):
        return False
    pattern = _KERNEL_COLUMN if ".csv" in lower[-7:] else _PROFILE_KEY
    return pattern.search(load_text(Path(name))) is not None


# -- Python files ------------------------------------------------------------------------------------


def _from_python(name: str, optimiser: str | None) -> Trace:
    from workloads.importers import from_torch

    found = _PYTHON.fullmatch(name)
    path, function = Path(found["file"]), found["function"]
    if not function or not function.isidentifier():
        raise TraceError(f"{name}: name the function that builds the network: {path}:FUNCTION")
    if not path.is_file():
        raise TraceError(f"{path}: no such file")
    if importlib.util.find_spec("torch") is None:
        return from_torch(None)  # says which extra to install
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the report
        module, inputs = _built(path, function)
        try:
            return from_torch(module, *inputs, training=optimiser is not None, optimiser=optimiser)
        except TraceError as error:
            raise TraceError(f"{path}:{function}: {error}") from error


def _built(path: Path, function: str) -> tuple[object, tuple]:
    """(module, example inputs) from a function in a file. Whatever the file raises is a `TraceError` in one line."""
    where = f"{path}:{function}"
    name = "rooftrace_file_" + re.sub(r"\W", "_", str(path.resolve()))
    specification = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(specification)
    sys.modules[name] = loaded  # dataclasses and torch look a class's module up there
    with _in_words(where, path):
        specification.loader.exec_module(loaded)
    build = getattr(loaded, function, None)
    if not callable(build):
        known = sorted(n for n, value in vars(loaded).items() if _is_own_function(value, name))
        raise TraceError(f"{path}: no function {function!r}; it has {', '.join(known) or 'none'}")
    with _in_words(where, path):
        made = build()
    if not isinstance(made, tuple) or len(made) != 2:
        raise TraceError(f"{where}: must return (module, example_inputs), got {type(made).__name__}")
    module, inputs = made
    return module, inputs if isinstance(inputs, tuple) else (inputs,)


def _is_own_function(value, module: str) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == module


@contextlib.contextmanager
def _in_words(where: str, path: Path) -> Iterator[None]:
    """Turns whatever the user's code raises into a `TraceError` in one line: the place, the line in the file, why."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = f"line {lines[-1]}: " if lines else ""
        text = " ".join(str(error).split())[:300]
        raise TraceError(f"{where}: {line}{type(error).__name__}{': ' if text else ''}{text}") from error
