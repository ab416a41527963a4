"""What all charts share: axes on a figure of their own, sizes, and saving whole or not at all."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from reports.arguments import ReportError, output_path
from reports.units import format_quantity
from workloads.files import write_atomically

CHART_SUFFIXES = (".png", ".svg", ".pdf")
FONT_SIZE = 8
LABEL_SIZE = FONT_SIZE - 1
SOURCE_SIZE = 5.5
#: Letters of the source that fit an inch.
SOURCE_LETTERS = 22


def save(chart, path, dpi: int = 200) -> Path:
    """Write axes or a figure as .png, .svg or .pdf, whole or not at all; the same chart is the same file.

    Returns the path. Raises `ReportError` for another suffix, something that is no chart, or a place that cannot be
    written to.
    """
    place = output_path(path, CHART_SUFFIXES)
    write_atomically(place, rendered(chart, place.suffix[1:].lower(), dpi))
    return place


def rendered(chart, form: str, dpi: int = 200) -> bytes:
    """Axes or a figure as the content of a "png", "svg" or "pdf" file; the same chart is the same bytes.

    Raises `ReportError` for something that is no chart.
    """
    figure = getattr(getattr(chart, "figure", None), "figure", None)  # of axes, of a subfigure, or itself
    if not hasattr(figure, "savefig"):
        raise ReportError(f"axes or a figure are expected, got {type(chart).__name__}")
    from matplotlib import rc_context

    body = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with rc_context({"svg.hashsalt": "rooftrace"}):  # else the identifiers in an svg are random
        figure.savefig(body, format=form, dpi=dpi, metadata=undated)
    return body.getvalue()


def new_axes(ax, size: tuple[float, float]):
    """The axes given, or those of a new figure [inches] that belongs to nobody else, pyplot included.

    Raises `ReportError` when `ax` is neither None nor axes.
    """
    if ax is None:
        return new_panels(1, size)[0]
    if not hasattr(ax, "scatter"):
        raise ReportError(f"ax must be matplotlib axes, got {type(ax).__name__}")
    return ax


def new_panels(count: int, size: tuple[float, float]) -> list:
    """Axes under one another on a new figure, each of `size` inches with what stands beside it."""
    return new_grid(count, 1, size)


def new_grid(rows: int, columns: int, size: tuple[float, float]) -> list:
    """Axes in rows and columns on a new figure, row by row, each of `size` inches with what stands beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def signed(figure, source: str):
    """The figure with where its numbers come from in a strip below it, so that it says so wherever it is pasted."""
    _coarsen(figure)
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(source, max(20, int(SOURCE_LETTERS * width)))
    strip = (0.07 + 0.10 * len(lines)) / height  # [share of the height before]
    figure.set_size_inches(width, height * (1 + strip))
    if figure.get_layout_engine() is not None:
        below = strip / (1 + strip)
        figure.get_layout_engine().set(rect=(0, below, 1, 1 - below))
    at = 0.04 / width, 0.04 / (height * (1 + strip))  # [share], 0.04 inches from the corner
    figure.text(*at, "\n".join(lines), fontsize=SOURCE_SIZE, color="#555555", va="bottom")
    return figure


def _coarsen(figure) -> None:
    """Ticks at the powers alone where a logarithmic axis spans more than two: the others are a smear, and most of the
    time of drawing."""
    from matplotlib.ticker import NullLocator

    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            if axis.get_scale() == "log" and max(low, high) > 100 * min(low, high):
                axis.set_minor_locator(NullLocator())


def shortened(text: str, most: int) -> str:
    """Each line of a text in at most `most` letters, so that a long name cannot squeeze the chart."""
    return "\n".join(line if len(line) <= most else f"{line[: most - 1]}\u2026" for line in text.split("\n"))


def wrapped(text: str, most: int) -> str:
    """A title broken into lines of at most `most` letters, three of them at most."""
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, most)]
    return "\n".join(lines[:3])


def quantity(value: float, unit: str) -> str:
    """`format_quantity` with a real micro sign."""
    text = format_quantity(value, unit)
    return text.replace(" us", " \u00b5s") if unit == "s" else text


def halo() -> list:
    """A white outline that keeps text readable on lines and markers."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.0, foreground="white")]
