"""What a sweep writes: a checkpoint from which it resumes, and parquet files for tables larger than memory.

Both carry a fingerprint of what is swept, so that neither is ever taken for another sweep's.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from simulator.keep import Kept, Table
from simulator.metrics import DesignSpaceError

#: Seconds between two checkpoints, and how many times the duration of writing one must lie between.
PERIOD_S, TIMES = 5.0, 20.0
_FINGERPRINT = "_fingerprint.json"


def fingerprint(pieces: Iterable[bytes]) -> str:
    """A hash of everything the rows of a sweep depend on."""
    import hashlib

    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


class Checkpoint:
    """A file with the chunks that are done and the rows kept of them; written whole or not at all.

    Raises `DesignSpaceError` where the file exists and is no checkpoint, or that of another sweep.
    """

    def __init__(self, path, print_: str, chunks: int, kept: Kept):
        self.path, self.print, self.kept = Path(path), print_, kept
        self.done = np.zeros(chunks, bool)
        self._last, self._took = time.monotonic(), 0.0
        if not self.path.parent.is_dir():
            raise DesignSpaceError(f"checkpoint {path}: there is no folder {self.path.parent}")
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        import zipfile

        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as saved:
                print_, done = str(saved["fingerprint"]), saved["done"]
                columns = {key.removeprefix("column:"): saved[key] for key in saved if key.startswith("column:")}
                table = Table(saved["ids"], columns)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise DesignSpaceError(f"checkpoint {self.path}: not a checkpoint of a sweep") from None
        if print_ != self.print:
            raise DesignSpaceError(
                f"checkpoint {self.path}: it is of another sweep (network, accelerator, axes, metrics or what is kept "
                "differ); remove it, or name another file"
            )
        self.done = np.unpackbits(done, count=len(self.done)).astype(bool)
        self.kept.add(table)

    def finished(self, chunk: int) -> None:
        """One more chunk is done and in `kept`; written now and then."""
        self.done[chunk] = True
        if time.monotonic() - self._last > max(PERIOD_S, TIMES * self._took):
            self.save()

    def save(self) -> None:
        """Write what is done."""
        start = time.monotonic()
        table, body = self.kept.table(), io.BytesIO()
        columns = {f"column:{name}": column for name, column in table.columns.items()}
        np.savez(body, fingerprint=np.array(self.print), done=np.packbits(self.done), ids=table.ids, **columns)
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            partial.write_bytes(body.getvalue())
            os.replace(partial, self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DesignSpaceError(f"checkpoint {self.path}: cannot be written ({error.strerror})") from None
        self._last = time.monotonic()
        self._took = self._last - start


class Parts:
    """A folder of parquet files, one for each `size` chunks, readable as one table; a file that exists is done.

    Raises `DesignSpaceError` where the folder holds something else or another sweep, or pyarrow is missing (extra
    `parquet`).
    """

    def __init__(self, folder, print_: str, size: int, parameters: Callable[[np.ndarray], dict]):
        self.folder, self.size, self.parameters = Path(folder), size, parameters
        self._waiting: dict[int, dict[int, Table]] = {}
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise DesignSpaceError("out: parquet files need pyarrow: pip install 'rooftrace[parquet]'") from None
        if not self.folder.parent.is_dir():
            raise DesignSpaceError(f"out {folder}: there is no folder {self.folder.parent}")
        if self.folder.exists():
            self._check(print_)
        else:
            self.folder.mkdir()
            (self.folder / _FINGERPRINT).write_text(json.dumps({"fingerprint": print_}), encoding="utf-8")

    def _check(self, print_: str) -> None:
        try:
            found = json.loads((self.folder / _FINGERPRINT).read_text(encoding="utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            raise DesignSpaceError(f"out {self.folder}: it exists and holds no sweep") from None
        if found != print_:
            raise DesignSpaceError(f"out {self.folder}: it holds another sweep; name another folder")

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"

    def done(self, chunks: int) -> np.ndarray:
        """Which chunks are in files already."""
        found = np.zeros(chunks, bool)
        for part in range(-(-chunks // self.size)):
            found[part * self.size : (part + 1) * self.size] = self._path(part).exists()
        return found

    def add(self, chunk: int, table: Table, chunks: int) -> None:
        """Take the rows of a chunk; its file is written once all chunks of it are there."""
        part = chunk // self.size
        waiting = self._waiting.setdefault(part, {})
        waiting[chunk] = table
        if len(waiting) == min(self.size, chunks - part * self.size):
            self._write(part, Table.joined([waiting[number] for number in sorted(waiting)]))
            del self._waiting[part]

    def _write(self, part: int, table: Table) -> None:
        import pandas as pd

        frame = pd.DataFrame({"design": table.ids} | self.parameters(table.ids) | dict(table.columns))
        partial = self.folder / f".part-{part:06d}.partial"
        try:
            frame.to_parquet(partial, index=False)
            os.replace(partial, self._path(part))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DesignSpaceError(f"{self._path(part)}: cannot be written ({error.strerror or error})") from None
