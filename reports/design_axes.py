"""Axes of charts over designs: a field or metric with its unit, log where its values spread, ticks as people write."""

from __future__ import annotations

import numpy as np

from reports.arguments import ReportError
from reports.canvas import FONT_SIZE, quantity
from reports.units import field_unit
from simulator.metrics import METRICS

#: Largest over smallest value from which on a scale is logarithmic.
SPREAD = 5.0
#: Ends of names that state a unit which an axis states beside the name; "tokens_per_s" is a name as it is.
_STATED = ("_bytes_per_s", "_flops_per_s", "_bytes", "_hz", "_mm2", "_usd", "_mm", "_j", "_w")
_OF_TIME = ("latency_s", "path_s", "launch_s", "step_s", "steps_s", "command_s")


def unit_of(name: str) -> str:
    """The unit of a field by path, or of a metric; '' for a plain number."""
    name = name.rpartition(":")[2]
    return METRICS[name].unit if name in METRICS else field_unit(name)


def short_name(name: str) -> str:
    """A field as --set and --vary take it, a metric in words, without the unit at the end: 'latency.first_steps'."""
    ending = "_s" if name.endswith(_OF_TIME) else next((end for end in _STATED if name.endswith(end)), "")
    short = name.removesuffix(ending)
    return short if "." in short else short.replace("_", " ")


def value_text(name: str, value) -> str:
    """A value as people write it: '2.00 TB/s', '80', 'true'."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, str):
        return value
    if float(value).is_integer() and not unit_of(name) and abs(value) < 1e6:
        return f"{value:.0f}"
    return quantity(value, unit_of(name))


def dress(axis, set_scale, name: str, values) -> None:
    """Label, scale and ticks of one axis for values of a field or metric."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = np.asarray(values, float)
    spread = values.min() > 0 and values.max() / values.min() >= SPREAD
    set_scale("log" if spread else "linear")
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(name, value)))
    if spread:
        decades = np.log10(values.max() / values.min())
        subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0, 3.0) if decades < 4 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(6))
    axis.set_label_text(label(name), fontsize=FONT_SIZE + 1)
    axis.set_tick_params(labelsize=FONT_SIZE)


def dress_bar(bar, name: str, values) -> None:
    """Label and ticks of a colour bar for values of a field or metric."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = bar.ax.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(name, value)))
    if bar.ax.get_yscale() == "log":
        few = np.max(values) / np.min(values) < 300
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=20))
        axis.set_minor_formatter(NullFormatter())
    bar.set_label(label(name), fontsize=FONT_SIZE + 1)
    bar.ax.tick_params(labelsize=FONT_SIZE)


def label(name: str) -> str:
    """'memory.dram.bandwidth [B/s]'."""
    unit = unit_of(name)
    return f"{short_name(name)} [{unit}]" if unit else short_name(name)


def tick_text(name: str, value: float) -> str:
    """A tick: three digits at most, without trailing zeros."""
    text = quantity(value, unit_of(name)) if value else "0"
    number, _, unit = text.partition(" ")
    number = number.rstrip("0").rstrip(".") if "." in number and "e" not in number else number
    return f"{number} {unit}".rstrip()


def varied(result) -> list[tuple[str, np.ndarray]]:
    """The field that each dimension of a result's designs varies, with its values. Raises `ReportError` where the
    designs are no grid of fields, or one that varies none."""
    accelerator = result.accelerator
    found: list[tuple[str, np.ndarray]] = []
    for dimension, length in enumerate(result.shape):
        names = []
        for path, value in accelerator.fields.items():
            if isinstance(value, np.ndarray):
                table = np.moveaxis(np.broadcast_to(value, result.shape), dimension, 0).reshape(length, -1)
                if (table == table[:, :1]).all() and (length == 1 or (table != table[:1]).any()):
                    names.append((path, table[:, 0]))
        if not names:
            raise ReportError(f"{accelerator.name}: dimension {dimension} of its designs varies no field alone")
        found.append(names[0])
    return found
