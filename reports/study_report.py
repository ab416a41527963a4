"""What a run of a study gave, drawn and ready to be written down or sent from another process."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass

from reports.canvas import rendered, signed
from reports.studies import Bench, Chart, Finding, Study, study

#: An svg up to this size is kept; a larger one, of many marks, becomes a png. [bytes]
SVG_MOST_BYTES = 90_000
PNG_DPI = 180
#: How a study fared that could not be run.
FAILED = "could not be run"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart as the content of a file: `form` is "svg" or "png"; `width` is how wide it is meant to be shown [px].

    Of a report that was not drawn, the words alone: `form` and `data` are empty.
    """

    form: str
    data: bytes
    width: int
    alt: str
    caption: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """A study's texts, what a run of it found (None where it failed, and `failure` says why) and its charts, drawn.

    The finding's own charts are left out: they draw, and do not travel between processes.
    """

    name: str
    title: str
    question: str
    claim: str
    setup: str
    sources: Sequence[str]
    finding: Finding | None
    pictures: Sequence[Picture] = ()
    failure: str = ""

    @property
    def holds(self) -> str:
        """How the claim fared: one of `VERDICTS`, or `FAILED`."""
        return self.finding.holds if self.finding else FAILED


def report(of: Study, finding: Finding, draw: bool = True) -> Report:
    """The report of a study on what it found; its charts are drawn, which takes longer than most studies, on demand."""
    pictures = [_picture(chart, of.name) if draw else _words(chart, of.name) for chart in finding.charts]
    return Report(**_texts(of), finding=dataclasses.replace(finding, charts=()), pictures=pictures)


def attempt(name: str, bench: Bench, draw: bool = True) -> Report:
    """The report of a study by name, whatever happens: an error of it becomes the report's `failure`."""
    texts = {"name": name, "title": name, "question": "", "claim": "", "setup": "", "sources": ()}
    try:
        of = study(name)
        texts = _texts(of)
        return report(of, of.run(bench), draw)
    except Exception as error:  # the others are not to be lost
        return Report(**texts, finding=None, failure=f"{type(error).__name__}: {error}")


def _texts(of: Study) -> dict[str, object]:
    return {field: getattr(of, field) for field in ("name", "title", "question", "claim", "setup", "sources")}


def origin(chart: Chart, name: str) -> str:
    """Where the numbers of a chart of the study of that name come from."""
    return f"Simulated: rooftrace study {name}" + (f"; {chart.source}" if chart.source else "")


def drawn(chart: Chart, name: str):
    """The figure of a chart of the study of that name, with where its numbers come from below it."""
    figure = chart.draw()
    return signed(getattr(figure, "figure", figure), origin(chart, name))  # draw may give axes


def _words(chart: Chart, name: str) -> Picture:
    return Picture(form="", data=b"", width=0, alt=chart.alt, caption=chart.caption, source=origin(chart, name))


def _picture(chart: Chart, name: str) -> Picture:
    figure, form = drawn(chart, name), "svg"
    data = rendered(figure, form)
    if len(data) > SVG_MOST_BYTES:
        form = "png"
        data = _in_few_colours(rendered(figure, form, PNG_DPI))
    width = round(96 * figure.get_figwidth())  # 96 px an inch, as in CSS
    return Picture(form=form, data=data, width=width, alt=chart.alt, caption=chart.caption, source=origin(chart, name))


def _in_few_colours(png: bytes) -> bytes:
    """A png with a palette of 256 colours, about a third as large. Pillow comes with matplotlib."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()
