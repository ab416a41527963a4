"""Derived area, power and peak of shipped chips beside what was published: `rooftrace validate --set silicon`.

The chips some unit cost was fitted on are a group of their own. The published numbers are in silicon_published.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reports.tables import table
from reports.units import format_quantity
from simulator import preset
from simulator.silicon import Silicon

_PUBLISHED = Path(__file__).parent / "silicon_published.csv"
#: Groups in the order they are shown.
GROUPS = ("judged", "fitted")
QUANTITIES = {"area_mm2": "mm2", "peak_power_w": "W", "peak_flops_per_s": "FLOP/s"}


def published_silicon() -> list[dict[str, str]]:
    """The rows of silicon_published.csv."""
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def validate_silicon():
    """One row a chip and quantity as a `pandas.DataFrame`.

    Columns: group ("judged", or "fitted": its floorplan or power gave a unit cost), accelerator, quantity, modelled,
    low and high (every unit cost at that end of its range), published, is_limit (the maker gives an upper limit only),
    error (modelled over published, less one), within (low <= published <= high; for a limit: low <= published), source.
    Power is judged by the design power: what the package is built for, not what a network draws. Peaks of parts that
    do not hold their boost clock are at the clock they hold.
    """
    import pandas as pd

    rows = []
    for entry in published_silicon():
        chip = preset(
            entry["accelerator"], calibrated=False
        )  # the datasheet, not the clock a part was measured to hold
        modelled = {name: _modelled(chip, name, entry["dtype"]) for name in QUANTITIES}
        published = {
            "area_mm2": float(entry["area_mm2"]),
            "peak_power_w": float(entry["tdp_w"]),
            "peak_flops_per_s": float(entry["peak_flops_per_s"]),
        }
        for name, (low, value, high) in modelled.items():
            limit = name == "area_mm2" and entry["area_is"] == "limit"
            rows.append(
                {
                    "group": entry["role"],
                    "accelerator": chip.name,
                    "quantity": name,
                    "modelled": value,
                    "low": low,
                    "high": high,
                    "published": published[name],
                    "is_limit": limit,
                    "error": value / published[name] - 1.0,
                    "within": low <= published[name] and (limit or published[name] <= high),
                    "source": entry["source"],
                }
            )
    return pd.DataFrame(rows)


def silicon_errors(frame) -> list[dict]:
    """Of each group and quantity: chips counted, median and largest error without sign, how many lie within the range.

    Upper limits are not counted: an area below one is neither right nor wrong.
    """
    found = []
    counted = frame[~frame["is_limit"]]
    for group in GROUPS:
        for quantity in QUANTITIES:
            rows = counted[(counted["group"] == group) & (counted["quantity"] == quantity)]
            errors = np.abs(rows["error"].to_numpy())
            found.append(
                {
                    "group": group,
                    "quantity": quantity,
                    "chips": len(rows),
                    "median": float(np.median(errors)),
                    "worst": float(errors.max()),
                    "worst_chip": str(rows["accelerator"].iloc[int(errors.argmax())]),
                    "within": int(rows["within"].sum()),
                }
            )
    return found


def silicon_tables(style: str = "text") -> list[str]:
    """The comparison of every chip, and the errors of each group, as tables to print."""
    frame = validate_silicon()
    return [_comparison(frame, style), _summary(frame, style)]


def _modelled(chip, name: str, dtype: str) -> tuple[float, float, float]:
    """A quantity at the low end of all unit costs, as modelled, and at the high end."""
    if name == "peak_flops_per_s":
        return (float(chip.peak_flops_per_s(dtype)),) * 3
    return tuple(float(getattr(Silicon(chip, bound), name)) for bound in ("low", "value", "high"))


def _comparison(frame, style: str) -> str:
    headers = ["group", "chip", "quantity", "modelled", "range", "published", "error"]
    rows = []
    for group in GROUPS:
        for row in frame[frame["group"] == group].to_dict("records"):
            unit = QUANTITIES[row["quantity"]]
            published = format_quantity(row["published"], unit)
            given = row["low"] == row["high"]
            between = "" if given else f"{format_quantity(row['low'], unit)} to {format_quantity(row['high'], unit)}"
            rows.append(
                [
                    group,
                    row["accelerator"],
                    row["quantity"].rsplit("_", 1)[0].replace("_flops_per", "").replace("_", " "),
                    format_quantity(row["modelled"], unit),
                    between,
                    f"at most {published}" if row["is_limit"] else published,
                    "" if row["is_limit"] else signed_percent(row["error"]),
                ]
            )
    return table(headers, rows, style, right=("modelled", "published", "error"))


def _summary(frame, style: str) -> str:
    headers = ["group", "quantity", "chips", "median error", "worst", "within range"]
    rows = []
    for found in silicon_errors(frame):
        worst = f"{100 * found['worst']:.0f} % ({found['worst_chip']})"
        name = found["quantity"].rsplit("_", 1)[0].replace("_flops_per", "").replace("_", " ")
        # a peak is arithmetic on published fields: it has no range
        within = "" if found["quantity"] == "peak_flops_per_s" else f"{found['within']} of {found['chips']}"
        rows.append([found["group"], name, str(found["chips"]), f"{100 * found['median']:.0f} %", worst, within])
    return table(headers, rows, style, right=("chips", "median error"))


def signed_percent(error: float) -> str:
    """'+12 %'."""
    return f"{100 * error:+.0f} %"


def silicon_rows(chip) -> Sequence[list[str]]:
    """What the silicon of a chip comes to, derived beside published: rows of name, derived, range, published."""
    ends = [Silicon(chip, bound) for bound in ("low", "value", "high")]
    package, rows = chip.package, []
    for title, name, unit, published in (
        ("area", "area_mm2", "mm2", package.area_mm2),
        ("edge taken", "shoreline_mm", "mm", None),
        ("edge available", "shoreline_available_mm", "mm", None),
        ("power, design", "peak_power_w", "W", package.tdp_w),
        ("power, static", "static_power_w", "W", None),
        ("price of dies", "die_price_usd", "USD", None),
        ("price of memory", "memory_price_usd", "USD", None),
        ("price of parts", "price_usd", "USD", package.price_usd),
    ):
        low, value, high = sorted(float(getattr(end, name)) for end in ends)
        value = float(getattr(chip, name))
        shown = "" if published is None else format_quantity(published, unit)
        if published is not None and name == "price_usd":
            shown += " (list price)"
        path = {"area_mm2": "area_mm2", "peak_power_w": "tdp_w", "price_usd": "price_usd"}.get(name, "")
        cited = chip.citations.get(f"package.{path}")
        source = cited.source if cited is not None and shown else ""
        rows.append([title, _shown(value, unit), f"{_shown(low, unit)} to {_shown(high, unit)}", shown, source])
    return rows


def _shown(value: float, unit: str) -> str:
    if unit == "mm":
        return f"{value:.3g} mm"
    return format_quantity(value, unit)
