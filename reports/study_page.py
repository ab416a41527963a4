"""Reports of studies as one HTML page that needs nothing else: no script, no network, charts within it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from reports.studies import Table
from reports.study_about import About
from reports.study_report import Picture, Report
from reports.study_style import STYLE
from reports.study_text import OUTSIDE_COLUMNS, OUTSIDE_NUMBERS, SIGNS, outside_rows

#: What a page may be large. [bytes]
MOST_BYTES = 5_000_000
#: Rows of a table that is not folded away, and letters of a cell that is not broken.
MOST_OPEN, SHORT = 12, 32
_LINK = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:)\]]")
#: Of a data: address in double quotes.
_SAFE = "!$&'()*+,-./:;=?@_~ "


def page(reports: Sequence[Report], about: About) -> str:
    """All reports as one page: a list of them with their verdicts, then a section each."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(about.title)}: rooftrace studies</title>",
            '<link rel="icon" href="data:,">',  # else a browser asks for one
            f"<style>\n{STYLE}</style>",
            "</head>",
            "<body>",
            *_head(reports, about),
            "<main>",
            *(line for one in reports for line in _section(one)),
            "</main>",
            f"<footer><p>{escape(about.made)}</p></footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _head(reports: Sequence[Report], about: About) -> list[str]:
    items = [
        f'<li><a href="#{_id(one)}">{escape(one.title)}</a> {_badge(one)}<br><span class="asked">'
        f"{escape(one.question)}</span></li>"
        for one in reports
    ]
    return [
        "<header>",
        f"<h1>{escape(about.title)}</h1>",
        f"<p>{escape(about.made)}</p>",
        f"<p>To compute it again: <code>{escape(about.command)}</code></p>",
        "</header>",
        '<nav aria-labelledby="contents">',
        '<h2 id="contents">Contents</h2>',
        "<ol>",
        *items,
        "</ol>",
        "</nav>",
    ]


def _section(one: Report) -> list[str]:
    told = [("Question", one.question), ("Claim", one.claim), ("Set-up", one.setup)]
    lines = [
        f'<section id="{_id(one)}" aria-labelledby="{_id(one)}-title">',
        f'<h2 id="{_id(one)}-title">{escape(one.title)}</h2>',
        "<dl>",
        *(f"<dt>{label}</dt><dd>{_prose(said)}</dd>" for label, said in told if said),
        "</dl>",
        *(_finding(one) if one.finding else [f'<p class="failure">{_badge(one)} {escape(one.failure)}</p>']),
    ]
    if one.sources:
        lines += ["<h3>Sources</h3>", "<ul>", *(f"<li>{_linked(source)}</li>" for source in one.sources), "</ul>"]
    return [*lines, f'<p class="repeat"><code>rooftrace study {escape(one.name)}</code></p>', "</section>"]


def _finding(one: Report) -> list[str]:
    found = one.finding
    lines = [f"<h3>Verdict {_badge(one)}</h3>", _prose(found.verdict), "<h3>Limits</h3>", _prose(found.limits)]
    lines += ["<h3>Numbers</h3>", *(_figure(picture) for picture in one.pictures)]
    lines += [_table(table) for table in found.tables]
    if found.numbers:
        pairs = Table(
            caption="Figures the verdict rests on", columns=("figure", "value"), rows=[*found.numbers.items()]
        )
        lines.append(_table(pairs))
    if found.outside:
        caption = "Published elsewhere, beside what is computed here"
        rows = outside_rows(found.outside)
        lines += ["<h3>From outside</h3>", _rows(caption, OUTSIDE_COLUMNS, rows, OUTSIDE_NUMBERS)]
    return lines


def _badge(one: Report) -> str:
    """How the claim fared, in words, by a sign and by colour."""
    kind = one.holds.replace(" ", "-")
    return f'<span class="badge {kind}"><span aria-hidden="true">{SIGNS[one.holds]}</span> {escape(one.holds)}</span>'


def _figure(picture: Picture) -> str:
    # as an image, so that the identifiers within one svg cannot meet those of another
    return (
        f'<figure><img src="{address(picture)}" width="{picture.width}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def address(picture: Picture) -> str:
    """A picture as a data: address."""
    if picture.form == "svg":  # shorter than in base64
        return "data:image/svg+xml," + quote(" ".join(picture.data.decode().split()), safe=_SAFE)
    return f"data:image/{picture.form};base64," + base64.b64encode(picture.data).decode()


def _table(table: Table) -> str:
    return _rows(table.caption, table.columns, table.cells(), table.numeric())


def _rows(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str]) -> str:
    """A table in a container of its own, which scrolls where the page is narrow; the first cell names its row."""
    kinds = [_kind(column in numeric, [row[n] for row in rows]) for n, column in enumerate(columns)]
    head = "".join(f'<th scope="col"{kind}>{escape(column)}</th>' for column, kind in zip(columns, kinds, strict=True))
    body = []
    for row in rows:
        cells = [f"<td{kind}>{_linked(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)]
        cells[0] = f'<th scope="row"{kinds[0]}>{_linked(row[0])}</th>'
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">\n'
        f"<table><caption><span>{escape(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody></table>\n</div>"
    )
    if len(rows) <= MOST_OPEN:
        return table
    return f"<details><summary>{escape(caption)} ({len(rows)} rows)</summary>{table}</details>"


def _kind(numeric: bool, cells: Sequence[str]) -> str:
    """How the cells of a column are set: numbers flush right, short ones never broken."""
    if numeric:
        return ' class="number"'
    return ' class="short"' if all(len(cell) <= SHORT for cell in cells) else ' class="long"'


def _prose(said: str) -> str:
    """Text as paragraphs, one a line."""
    return "".join(f"<p>{escape(part)}</p>" for part in said.split("\n") if part.strip())


def _linked(said: str) -> str:
    """Text in which addresses can be followed."""
    parts, end = [], 0
    for found in _LINK.finditer(said):
        parts += [escape(said[end : found.start()]), f'<a href="{escape(found[0])}">{escape(found[0])}</a>']
        end = found.end()
    return "".join([*parts, escape(said[end:])])


def _id(one: Report) -> str:
    return f"study-{escape(one.name)}"
