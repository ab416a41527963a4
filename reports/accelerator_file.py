"""An accelerator as a TOML file that `simulator.load_accelerator` reads back: every number with source and basis."""

from __future__ import annotations

import json
import re
from pathlib import Path

from reports.arguments import ReportError, output_path
from simulator import Accelerator
from workloads.files import write_atomically

HEAD = ("name", "title", "family", "year", "notes")


def to_toml(accelerator: Accelerator, comment: str = "") -> str:
    """The text of the file; `comment` comes first, each of its lines after a #.

    Raises `ReportError` for a design space, and for a number without source, which loading would refuse.
    """
    if accelerator.shape:
        raise ReportError(f"{accelerator.name}: one design makes a file, got {accelerator.designs}")
    told = ["".join(c if c.isprintable() else " " for c in line) for line in comment.splitlines()]
    lines = [f"# {line}".rstrip() for line in told]
    for key in HEAD:
        value = getattr(accelerator, key)
        if value not in (None, ""):
            lines.append(f"{key} = {value if key == 'year' else _text(value)}")
    tables: dict[str, list[str]] = {}
    needed = {row["field"] for row in accelerator.describe()}
    for path, value in accelerator.fields.items():
        if value is None or (path not in accelerator.citations and path not in needed):
            continue  # unknown, or without meaning on this chip
        table, leaf = path.rsplit(".", 1)
        tables.setdefault(table, []).append(f"{leaf} = {_entry(accelerator, path, value)}")
    for table, entries in tables.items():
        lines += ["", f"[{'.'.join(_key(part) for part in table.split('.'))}]", *entries]
    return "\n".join(lines) + "\n"


def save_accelerator(accelerator: Accelerator, path, comment: str = "") -> Path:
    """Write the file, whole or not at all. Returns its path.

    Raises `ReportError` as `to_toml`, and for a suffix that is not .toml or a folder that cannot be written to."""
    place = output_path(path, (".toml",))
    write_atomically(place, to_toml(accelerator, comment).encode())
    return place


def _entry(accelerator: Accelerator, path: str, value) -> str:
    if isinstance(value, str):
        return _text(value)
    cited = accelerator.citations.get(path)
    if cited is None:
        raise ReportError(f"{accelerator.name}: {path} has no source, and a file states one for every number")
    if isinstance(value, bool):
        number = str(value).lower()
    else:
        number = str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    source = cited.source.replace("{", "{{").replace("}", "}}")  # braces name documents of [sources]
    return f"{{ value = {number}, source = {_text(source)}, basis = {_text(cited.basis)} }}"


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, all but the delete character's."""
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)
