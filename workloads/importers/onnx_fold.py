"""Repeated layers of an imported trace become one row with a count.

A stretch of rows that follows itself, block after block, is folded: the blocks must have the same sizes, wait in the
same way for each other, and have either all their own weights or all the same. FLOP, bytes and parameters stay what
they were. Blocks that use the same weights, each after the one before, are steps of a recurrence.
"""

from __future__ import annotations

import re

import numpy as np

from workloads.trace import SCHEMA

#: What may differ between two blocks that fold.
_FREE = frozenset(("layer", "after", "parameters", "weight_sets"))
_NUMBER = re.compile(r"\d+")


def fold(rows: list[dict]) -> list[dict]:
    """The rows with repeated blocks folded, the ones that save most rows first. Keys with "_" are internal.

    `_weights` of a row names its weights; `after` holds row numbers.
    """
    while blocks := _blocks(rows):
        for start, period, count in sorted(blocks, reverse=True):  # the last first: earlier row numbers stay
            rows = _folded(rows, start, period, count)
    return rows


def _signatures(rows: list[dict]) -> np.ndarray:
    """A number for each row, equal where two rows differ at most in what `_FREE` names and the numbers in labels."""
    columns = [c for c in SCHEMA if c not in _FREE]
    known: dict[tuple, int] = {}
    return np.array([
        known.setdefault((_NUMBER.sub("#", r["layer"]), *(r.get(c) for c in columns)), len(known)) for r in rows
    ])  # fmt: skip


def _blocks(rows: list[dict]) -> list[tuple[int, int, int]]:
    """(start, period, count) of blocks to fold, those that save most rows first, none overlapping another.

    Of blocks that save as much: the one whose rows have fewest labels (it does not begin amid a layer), the shortest.
    """
    same, best, found = _signatures(rows), np.zeros(len(rows)), []
    for period in range(1, len(rows) // 2 + 1):
        equal = same[:-period] == same[period:]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            for start in range(first, first + min(2 * period, last - first)):
                count = (last - start) // period + 1
                if count < 2:
                    break
                covered = slice(start, start + count * period)
                known, saved = best[covered].max(), (count - 1) * period
                if saved <= known:
                    break
                gain = saved - len({r["layer"] for r in rows[start : start + period]}) / (len(rows) + 1)
                if gain > known and _foldable(rows, start, period, count):
                    best[covered] = np.maximum(best[covered], gain)
                    found.append((gain, -period, start, count))
    chosen, taken = [], np.zeros(len(rows), bool)
    for _, period, start, count in sorted(found, reverse=True):
        covered = slice(start, start - count * period)
        if not taken[covered].any():
            taken[covered] = True
            chosen.append((start, -period, count))
    return chosen


def _foldable(rows: list[dict], start: int, period: int, count: int) -> bool:
    """Whether the blocks depend on each other alike, and on weights alike."""
    return _chain(rows, start, period, count) is not None and all(
        _sets(rows[start + offset : start + count * period : period]) is not None for offset in range(period)
    )


def _chain(rows: list[dict], start: int, period: int, count: int) -> bool | None:
    """Whether each block waits for the one before it; None where the blocks do not depend on each other alike."""

    def waits(block: int, offset: int) -> tuple:
        base = start + block * period
        relative = []
        for row in rows[base + offset]["after"]:
            if row >= base:
                relative.append(("own", row - base))
            elif block and row >= base - period:
                relative.append(("last", row - base + period))
            elif row < start:
                relative.append(("outside", row))
            else:
                return ("further", row)
        return tuple(sorted(relative))

    serial = False
    for offset in range(period):
        first = waits(0, offset)
        second = waits(1, offset)
        if [w for w in first if w[0] == "own"] != [w for w in second if w[0] == "own"]:
            return None
        if any(waits(block, offset) != second for block in range(2, count)) or "further" in second:
            return None
        outside = {w for w in second if w[0] == "outside"}
        passed = [w for w in second if w[0] == "last"]
        if not outside <= set(first) or (not passed and set(first) != set(second)):
            return None
        serial = serial or bool(passed)
    return serial


def _sets(copies: list[dict]) -> bool | None:
    """Whether the copies of a row have weights of their own; None where that and the parameters do not agree."""
    names = [c.get("_weights", ()) for c in copies]
    amounts, sets = [c.get("parameters", 0) for c in copies], [c["weight_sets"] for c in copies]
    if len(set(sets)) > 1:
        return None
    if len(set(names)) == 1:
        return False if not names[0] or not any(amounts[1:]) else None
    distinct = len(set(names)) == len(names) and len(set(amounts)) == 1
    return True if distinct else None


def _folded(rows: list[dict], start: int, period: int, count: int) -> list[dict]:
    serial, end = _chain(rows, start, period, count), start + count * period
    steps = serial and all(not _sets(rows[start + o : end : period]) for o in range(period))
    steps = steps and any(rows[start + o].get("weight_bytes") for o in range(period))
    steps = steps and all(r["serial_steps"] == 1 for r in rows[start : start + period])
    merged = []
    labels = [_label([r["layer"] for r in rows[start + o : end : period]]) for o in range(period)]
    for offset in range(period):
        copies = rows[start + offset : end : period]
        own, row = _sets(copies), dict(copies[0])
        row["repeats"] *= count
        row["path_runs"] *= count if serial else 1
        row["weight_sets"] *= count if own else 1
        row["serial_steps"] *= count if steps else 1
        row["layer"] = labels[offset]
        row["_weights"] = tuple(sorted({w for c in copies for w in c.get("_weights", ())}))
        merged.append(row)
    if steps:  # one recurrence: its rows alternate step by step under one label
        common = _common(labels)
        for row in merged:
            row["layer"] = common
    number = {
        row: row if row < start else row - (count - 1) * period for row in (*range(start), *range(end, len(rows)))
    }
    number |= {row: start + (row - start) % period for row in range(start, end)}
    result = [*rows[:start], *merged, *rows[end:]]
    return [row | {"after": tuple(sorted({number[a] for a in row["after"]}))} for row in result]


def _common(labels: list[str]) -> str:
    """The path that all labels begin with, or the first label."""
    parts = [label.split(".") for label in labels]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared) or labels[0]


def _label(labels: list[str]) -> str:
    """One label for all: where they count, the range ("layer.0-11")."""
    if len(set(labels)) == 1:
        return labels[0]
    columns = list(zip(*(_NUMBER.findall(label) for label in labels), strict=True))
    ranges = iter([c[0] if len(set(c)) == 1 else _span(c) for c in columns])
    return _NUMBER.sub(lambda match: next(ranges), labels[0])


def _span(numbers: tuple[str, ...]) -> str:
    found = sorted({int(n) for n in numbers})
    return f"{found[0]}-{found[-1]}"
