"""Traces as files: csv, json and parquet, text ones also gzipped. Rows and metadata in, rows and metadata out."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from workloads.schema import SCHEMA, SCHEMA_VERSION, TraceError, nearest

#: What a json of ours calls itself, and the first line of a csv of ours begins with.
FORMAT = "rooftrace-trace"


def form_of(path: Path) -> str:
    """ "csv", "json" or "parquet", by suffix. Raises `TraceError` for another."""
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    form = suffixes[-1][1:].lower() if suffixes else ""
    if form not in ("csv", "json", "parquet"):
        raise TraceError(f"{path}: a trace is a .csv, .json or .parquet file (csv and json also with .gz)")
    return form


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a file beside `path` and move it in place: whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise TraceError(f"{path}: cannot be written ({error.strerror or error})") from None


def save_text(path: Path, text: str) -> None:
    """Write text, gzipped where the path says so."""
    data = text.encode()
    write_atomically(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def load_text(path: Path) -> str:
    """The text of a file, gzipped or not. Raises `TraceError` where it is missing, unreadable or not text."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not UTF-8 text ({error})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read ({error})") from None


def write_parquet(path: Path, frame) -> None:
    """Write a `pandas.DataFrame`; its `attrs` travel in the file's metadata. Needs pyarrow."""
    body = io.BytesIO()
    try:
        frame.to_parquet(body, index=False)
    except ImportError:
        raise _no_pyarrow(path) from None
    write_atomically(path, body.getvalue())


def read_parquet(path: Path):
    """The `pandas.DataFrame` in a parquet file, checked for its schema version. Needs pyarrow."""
    try:
        import pandas as pd

        frame = pd.read_parquet(path)
    except ImportError:
        raise _no_pyarrow(path) from None
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except Exception as error:  # pyarrow raises its own family for a broken file
        raise TraceError(f"{path}: not a readable parquet file ({error})") from None
    _check_version(frame.attrs, path)
    return frame


def _no_pyarrow(path: Path) -> TraceError:
    return TraceError(f"{path}: parquet needs pyarrow: pip install 'rooftrace[parquet]'")


def _check_version(meta: Mapping, path: Path) -> None:
    version = meta.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise TraceError(f"{path}: schema_version {version!r} is not the {SCHEMA_VERSION} this version reads")


# -- json ------------------------------------------------------------------------------------------


def _to_json(rows: Sequence[Mapping], meta: Mapping) -> str:
    ops = ",\n  ".join(json.dumps(row) for row in rows)
    head = json.dumps(meta)[1:-1]
    return f'{{"format": "{FORMAT}", {head}, "ops": [\n  {ops}\n]}}\n'


def _from_json(text: str, path: Path) -> tuple[list[dict], dict]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("ops"), list):
        raise TraceError(f"{path}: not a trace: an object with a list 'ops' is expected")
    _check_version(document, path)
    for number, row in enumerate(document["ops"]):
        if not isinstance(row, dict):
            raise TraceError(f"{path}: row {number}: an object is expected, got {row!r}")
        if document.get("format") == FORMAT:  # written by us: every column is there unless somebody lost it
            missing = [name for name in SCHEMA if name not in row]
            if missing and row.keys() <= SCHEMA.keys():  # else the trace names the unknown one
                raise TraceError(f"{path}: row {number}: column {missing[0]!r} is missing")
    return document["ops"], document


# -- csv -------------------------------------------------------------------------------------------

#: An empty cell takes the column's default, but in these it means "waits for nothing" or a missing name.
KEPT_EMPTY = ("after", "layer", "op", "kind")


def _to_csv(rows: Sequence[Mapping], meta: Mapping) -> str:
    out = io.StringIO()
    out.write(f"# {FORMAT} {json.dumps(meta)}\n")
    writer = csv.DictWriter(out, fieldnames=list(SCHEMA), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "after": ";".join(map(str, row["after"]))})
    return out.getvalue()


def _from_csv(text: str, path: Path) -> tuple[list[dict], dict]:
    meta, lines = {}, text.splitlines()
    if lines and lines[0].startswith("#"):
        meta = _comment(lines[0], path)
        lines = lines[1:]
    _check_version(meta, path)
    try:
        reader = iter(list(csv.reader(lines, strict=True)))
    except csv.Error as error:
        raise TraceError(f"{path}: not valid csv ({error})") from None
    header = [name.strip() for name in next(reader, [])]
    _check_header(header, path)
    rows = []
    for number, cells in enumerate(cells for cells in reader if cells):
        if len(cells) != len(header):
            raise TraceError(f"{path}: row {number}: {len(cells)} cells where the header has {len(header)}")
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        row.pop("shares_weights", None)  # derived
        rows.append({name: cell for name, cell in row.items() if cell or name in KEPT_EMPTY})
    return rows, meta


def _comment(line: str, path: Path) -> dict:
    """The metadata in the first line of a csv, empty for somebody else's comment."""
    found = re.match(rf"#\s*{FORMAT}\b(.*)", line)
    try:
        meta = json.loads(found.group(1)) if found else {}
    except ValueError as error:
        raise TraceError(f"{path}: the comment line is not valid JSON ({error})") from None
    if not isinstance(meta, dict):
        raise TraceError(f"{path}: the comment line must hold a JSON object, got {meta!r}")
    return meta


def _check_header(header: list[str], path: Path) -> None:
    if not header:
        raise TraceError(f"{path}: empty: a header row is expected")
    for name in header:
        if header.count(name) > 1:
            raise TraceError(f"{path}: column {name!r} appears twice")
        if name not in SCHEMA and name != "shares_weights":
            raise TraceError(f"{path}: unknown column {name!r}{nearest(name, SCHEMA)}")


class _Form(NamedTuple):
    write: Callable[[Sequence[Mapping], Mapping], str]
    read: Callable[[str, Path], tuple[list[dict], dict]]


FORMS = {"csv": _Form(_to_csv, _from_csv), "json": _Form(_to_json, _from_json)}
