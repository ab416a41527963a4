"""The page of studies, read as a browser reads it: structure, escapes, nothing from outside; and its markdown."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from tiny_study import FAILING, NASTY, draw, fail, tiny_report

from reports.studies import Bench, Chart
from reports.study_about import about
from reports.study_markdown import markdown
from reports.study_page import MOST_OPEN, address, page
from reports.study_report import FAILED, SVG_MOST_BYTES, Picture, Report, _picture, drawn
from reports.study_text import text

VOID = {"meta", "link", "img", "br"}


class Read(HTMLParser):
    """Elements as (tag, attributes, text), with every tag closed where it was opened."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[list] = []
        self.open: list[int] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        for number in self.open:
            self.elements[number][2] += data

    def all(self, *tags: str) -> list[list]:
        return [element for element in self.elements if element[0] in tags]


def failed() -> Report:
    named = {field: getattr(FAILING, field) for field in ("name", "title", "question", "claim", "setup", "sources")}
    return Report(**named, finding=None, failure="ZeroDivisionError: by <nought>")


@pytest.fixture(scope="module")
def html() -> str:
    return page([tiny_report(), failed()], about(["tiny"], Bench(changes=[("a", "1 & 2")]), everything=True))


@pytest.fixture(scope="module")
def read(html) -> Read:
    return Read(html)


def test_language_title_and_viewport(html, read):
    assert html.startswith("<!DOCTYPE html>\n")
    assert read.open == []
    assert read.all("html")[0][1]["lang"] == "en"
    assert read.all("title")[0][2]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [e[1] for e in read.all("meta")]


def test_headings_follow_one_another(read):
    levels = [int(tag[1]) for tag, _, _ in read.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_contents_name_every_study_with_its_verdict(read):
    ids = [e[1]["id"] for e in read.elements if "id" in e[1]]
    assert len(ids) == len(set(ids))
    links = [e[1]["href"][1:] for e in read.all("a") if e[1]["href"].startswith("#")]
    assert links == ["study-tiny", "study-failing"]
    assert set(links) <= set(ids)
    items = [e[2] for e in read.all("nav")[0:1]]
    assert "✗ does not hold" in items[0]
    assert f"! {FAILED}" in items[0]


def test_every_image_has_text_and_is_within_the_page(read):
    images = read.all("img")
    assert [e[1]["alt"] for e in images] == [f"three points {NASTY}"]
    kind, data = images[0][1]["src"].split(",", 1)
    assert kind == "data:image/svg+xml"
    assert ElementTree.fromstring(unquote(data)).tag.endswith("svg")


def test_nothing_is_loaded_from_outside(html, read):
    for _, attributes, _ in read.elements:
        for name in ("src", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    assert [e[1]["href"] for e in read.all("link")] == ["data:,"]
    assert not read.all("script", "iframe", "object", "embed")
    style = read.all("style")[0][2]
    assert "url(" not in style
    assert "@import" not in style


def test_tables_have_captions_and_scopes(read):
    tables = [e for e in read.elements if e[0] == "table"]
    assert len(tables) == len(read.all("caption")) == 3  # of the study, its figures, and from outside
    assert all(e[1].get("scope") in ("col", "row") for e in read.all("th"))
    assert len([e for e in read.all("div") if "scroll" in e[1].get("class", "")]) == 3
    cells = [e[2] for e in read.all("td", "th")]
    assert {"12.3", "4096", "0.5", "7", "+10 %", "-25 %", "2 to 3"} <= set(cells)


def test_text_is_escaped(html, read):
    assert "<b>" not in html
    assert "<nought>" not in html
    assert [e[2] for e in read.all("section")][1].count("by <nought>") == 1
    assert f"Tiny {NASTY}" in [e[2] for e in read.all("h2")]
    outward = {e[1]["href"] for e in read.all("a") if not e[1]["href"].startswith("#")}
    assert outward == {"https://example.org/x?a=1&b=2"}


def test_the_page_says_how_to_compute_it_again(read):
    assert "rooftrace study --all --set 'a=1 & 2' --out studies" in [e[2] for e in read.all("code")]


def test_a_verdict_is_in_paragraphs(read):
    assert {"v100-sxm moves 900 GB/s.", "A second paragraph."} <= {e[2] for e in read.all("p")}


@pytest.mark.parametrize(("rows", "folded"), [(MOST_OPEN, 0), (MOST_OPEN + 1, 1)])
def test_a_long_table_is_folded_away(rows, folded):
    one = tiny_report()
    table = one.finding.tables[0]
    longer = dataclasses.replace(table, rows=[table.rows[0]] * rows)
    one = dataclasses.replace(one, finding=dataclasses.replace(one.finding, tables=[longer]))
    found = Read(page([one], about(["tiny"], Bench(), everything=False)))
    assert len(found.all("details")) == folded


def test_a_dense_chart_becomes_a_png():
    parts = {"alt": "many", "caption": "Many.", "source": "made here"}
    few, many = (_picture(Chart(draw=lambda n=n: draw(n), **parts), "tiny") for n in (3, 20_000))
    assert (few.form, many.form) == ("svg", "png")
    assert len(few.data) <= SVG_MOST_BYTES
    assert many.data.startswith(b"\x89PNG")


def test_a_chart_says_where_its_numbers_come_from_wherever_it_is_pasted():
    chart = Chart(draw=lambda: draw(3), alt="three", caption="Three.", source="made here")
    plain, figure = draw(3), drawn(chart, "tiny")
    plain = getattr(plain, "figure", plain)
    assert [text.get_text() for text in figure.texts[-1:]] == ["Simulated: rooftrace study tiny; made here"]
    assert figure.get_figheight() > plain.get_figheight()
    assert _picture(chart, "tiny").source == "Simulated: rooftrace study tiny; made here"


def test_a_png_is_in_base64():
    shown = address(Picture(form="png", data=b"\x89PNG\r\n", width=9, alt="a", caption="b", source="c"))
    assert base64.b64decode(shown.removeprefix("data:image/png;base64,")) == b"\x89PNG\r\n"


def test_the_date_is_that_of_the_epoch_given(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert " on 1970-01-01," in about(["tiny"], Bench(), everything=False).made


def test_the_command_names_what_was_asked_for():
    bench = Bench(on=("v100-sxm", "my chip.toml"), changes=[("memory.dram.bandwidth", "2TB/s")])
    assert about(["tiny"], bench, everything=False).command == (
        "rooftrace study tiny --on v100-sxm 'my chip.toml' --set memory.dram.bandwidth=2TB/s --out studies"
    )


# -- markdown and the terminal -------------------------------------------------------------------------


def test_markdown_shows_text_as_it_is():
    made = markdown([tiny_report(), failed()], about(["tiny"], Bench(), everything=True))
    assert "![three points \\<b\\>5 & \"6\"\\</b\\> 'a' |" in made
    assert "](charts/tiny-1.svg)" in made
    assert "**Verdict: ✗ the claim does not hold.**" in made
    assert "by \\<nought\\>" in made
    links = re.findall(r"\]\(#([\w-]+)\)", made)
    assert links == re.findall(r'<a id="([\w-]+)">', made) == ["tiny", "failing"]
    rows = [line for line in made.splitlines() if line.startswith("| v100")]
    assert rows[0].replace("\\|", "").count("|") == 5
    assert "\\<b\\>5" in rows[0]


def test_the_terminal_tells_everything():
    shown = text(tiny_report())
    for part in (
        "question\n  Is it so?",
        "verdict: the claim does not hold\n  v100-sxm moves 900 GB/s.\n  A second paragraph.",
        "rate: published 2 to 3 x, computed 3.3: +10 %.",
        "Somebody, 2001",
    ):
        assert part in shown
    assert "could not be run: ZeroDivisionError: by <nought>" in text(failed())


def test_a_failing_study_fails():
    with pytest.raises(ZeroDivisionError):
        fail(Bench())
