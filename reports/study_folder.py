"""A folder of studies on disk: the page, the markdown and its charts, written together or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.arguments import ReportError
from reports.study_about import About
from reports.study_markdown import chart_name, markdown
from reports.study_page import MOST_BYTES, page
from reports.study_report import Report

PAGE = "index.html"


def folder(given: str) -> Path:
    """Where studies are to be written: a folder, or a new one in a folder; nothing is left there yet.

    Raises `ReportError` where there is a file of that name, no folder to make it in, or no right to write.
    """
    place = Path(os.path.realpath(given))
    if place.exists() and not place.is_dir():
        raise ReportError(f"{given}: not a folder")
    holder = place if place.exists() else place.parent
    if not holder.is_dir():
        raise ReportError(f"{given}: there is no folder {holder}")
    try:  # rights do not tell: a disk may be full or made for reading
        Path(tempfile.mkdtemp(prefix=".studies-", dir=holder)).rmdir()
    except OSError as error:
        raise ReportError(f"{given}: the folder {holder} cannot be written to ({error.strerror})") from None
    return place


def files(reports: Sequence[Report], about: About) -> dict[str, bytes]:
    """The content of every file by its name in the folder, the page last. Raises `ReportError` for too large a page."""
    charts = {chart_name(one, n): picture.data for one in reports for n, picture in enumerate(one.pictures)}
    html = page(reports, about).encode()
    if len(html) > MOST_BYTES:
        raise ReportError(f"{PAGE} would have {len(html):,} bytes, more than the {MOST_BYTES:,} allowed")
    return charts | {"studies.md": markdown(reports, about).encode(), PAGE: html}


def write(place: Path, content: Mapping[str, bytes]) -> None:
    """Write files into a folder, new or not; others in it stay. Raises `ReportError` where that cannot be done.

    All are written beside it, or within it, first, and then moved.
    """
    partial = None
    try:
        holder = place if place.is_dir() else place.parent
        partial = Path(tempfile.mkdtemp(prefix=".studies-", dir=holder))
        for name, data in content.items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_bytes(data)
        if not place.is_dir():
            partial.chmod(0o777 & ~_umask())  # that of a temporary folder is for its owner alone
            partial.rename(place)
            return
        for name in content:
            (place / name).parent.mkdir(exist_ok=True)
            os.replace(partial / name, place / name)
    except OSError as error:
        raise ReportError(f"{error.filename or place}: cannot be written ({error.strerror or error})") from None
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(partial)


def _umask() -> int:
    """What new files of this process are not allowed; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
