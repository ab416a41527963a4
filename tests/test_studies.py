"""Every study that ships: it runs, says something, draws; and the page of all of them, in a real browser too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest
from test_study_page import Read

from reports import export
from reports.cli import main
from reports.studies import Bench, studies, study
from reports.study_document import document
from reports.study_folder import PAGE
from reports.study_page import MOST_BYTES
from reports.study_report import attempt

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Pixels: a desktop, and the narrowest phone.
WIDTHS = (1280, 360)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
every_study = pytest.mark.parametrize("name", studies())


@every_study
def test_a_study_runs_and_says_what_it_found(name):
    one = attempt(name, Bench())
    assert one.failure == ""
    for field in ("title", "question", "claim", "setup"):
        assert len(getattr(one, field)) > 10, field
    assert one.question.endswith("?")
    assert one.sources
    found = one.finding
    words = [
        one.question,
        one.claim,
        one.setup,
        found.verdict,
        found.limits,
        *(p.alt + p.caption for p in one.pictures),
    ]
    assert not any(mark in text for text in words for mark in "{}")  # text that should have been filled in
    assert re.search(r"\d", found.verdict)
    assert len(found.limits) > 10
    assert found.tables
    assert one.pictures
    assert all(len(picture.alt) > 40 for picture in one.pictures)
    assert all(seen.source for seen in found.outside)
    assert export.to_json(document([one], Bench()))


@every_study
def test_a_study_is_named_as_its_module(name):
    assert study(name).name == name


# -- all of them ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder that `rooftrace study --all --out` makes."""
    place = tmp_path_factory.mktemp("studies") / "made"
    assert main(["study", "--all", "--out", str(place)]) == 0
    return place


def test_the_page_holds_every_study_and_stays_small(whole):
    html = (whole / PAGE).read_text(encoding="utf-8")
    assert len(html.encode()) < MOST_BYTES
    read = Read(html)
    assert [e[1]["id"] for e in read.all("section")] == [f"study-{name}" for name in studies()]
    assert [e[1]["href"] for e in read.all("a") if e[1]["href"].startswith("#")] == [f"#study-{n}" for n in studies()]
    assert all(e[1]["alt"] and e[1]["src"].startswith("data:image/") for e in read.all("img"))
    assert all(e[1].get("scope") in ("col", "row") for e in read.all("th"))


def test_the_markdown_names_charts_that_are_there(whole):
    text = (whole / "studies.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((charts/[^)]+)\)", text)
    assert sorted(named) == sorted(str(path.relative_to(whole)) for path in (whole / "charts").iterdir())
    assert len(named) >= len(studies())


# -- in a browser --------------------------------------------------------------------------------------

#: A page that shows another at given widths, and then writes down what a reader at each would see.
PROBE = """<!DOCTYPE html><title>probe</title>{frames}<script>
addEventListener("load", () => {{
  const seen = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement;
    const wide = [...page.querySelectorAll("body *")].filter(element => !element.parentElement.closest(".scroll") &&
      element.getBoundingClientRect().right > root.clientWidth + 0.5);
    return {{
      inner: frame.contentWindow.innerWidth, needed: root.scrollWidth, shown: root.clientWidth,
      beyond: wide.map(element => element.outerHTML.slice(0, 80)),
      images: [...page.images].map(image => [image.alt, image.naturalWidth, image.naturalHeight, image.width]),
      targets: [...page.querySelectorAll("nav a")].map(link => page.getElementById(link.hash.slice(1)) !== null),
      fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 80)),
    }};
  }});
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.replaceChildren(out);
}});
</script>"""


def browse(path: Path) -> tuple[str, list[str]]:
    """The document a browser made of a file, and what it wrote to its console."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    ran = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout, [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


def probed(html: str, folder: Path) -> list[dict]:
    """What readers of a page see, one entry a width of `WIDTHS`."""
    frame = '<iframe width="{}" height="800" style="border: 0" srcdoc="{}"></iframe>'
    path = folder / "probe.html"
    frames = "".join(frame.format(width, escape(html)) for width in WIDTHS)
    path.write_text(PROBE.format(frames=frames), encoding="utf-8")
    document, console = browse(path)
    assert console == []
    return json.loads(Read(document).all("pre")[0][2])


@pytest.mark.chromium
@needs_browser
def test_the_page_opens_from_disk_without_a_word_on_the_console(whole):
    document, console = browse(whole / PAGE)
    assert console == []
    assert document.count("<section ") == len(studies())


@pytest.mark.chromium
@needs_browser
def test_the_page_fits_a_desktop_and_a_phone(whole, tmp_path):
    html = (whole / PAGE).read_text(encoding="utf-8")
    for width, seen in zip(WIDTHS, probed(html, tmp_path), strict=True):
        assert seen["inner"] == width
        assert seen["needed"] <= seen["shown"] <= width
        assert seen["beyond"] == []
        assert len(seen["images"]) == html.count("<img ")
        for alt, natural_width, natural_height, shown in seen["images"]:
            assert alt
            assert min(natural_width, natural_height) > 100
            assert 100 < shown <= width
        assert seen["targets"] == [True] * len(studies())
        assert [name for name in seen["fetched"] if not name.startswith("data:")] == []


@pytest.mark.chromium
@needs_browser
def test_the_browser_would_tell(tmp_path):
    """A page with an error, a broken image and a line that is too long is seen as such."""
    bad = '<html><body><nav></nav><img alt="" src="data:image/png;base64,AAAA"><p style="width: 500px">long</p>'
    (tmp_path / "bad.html").write_text(bad + "<script>undefinedFunction()</script></body></html>", encoding="utf-8")
    assert len(browse(tmp_path / "bad.html")[1]) == 1
    desktop, phone = probed(bad + "</body></html>", tmp_path)
    assert desktop["images"][0][1] == 0
    assert desktop["beyond"] == []
    assert phone["needed"] > phone["shown"]
    assert phone["beyond"]
