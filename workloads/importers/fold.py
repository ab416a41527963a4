"""Folding: the operators of a run become few rows with counts. Totals stay exactly the same.

`fold_steps` finds loops over time: the same operators with the same weights and sizes, from the same place in the
program, again and again. `fold_layers` finds stacks: neighbouring modules that differ in one number of their path
and do the same work. Neither knows where the operators came from.

Rows are plain mappings with the columns of the trace and some of their own, which begin with "_": `_path` (module
path, a tuple), `_block` (how many of its parts name the layer), `_weights` (names of the parameters read); `_saved`
and `_held` are bytes of all runs (kept for the backward pass; gradients that remain) and add up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

#: Longest group of layers that takes turns (local and global attention, say) and is still found.
LONGEST_PERIOD = 8

#: Entries of a row that are of all its runs together.
_AMOUNTS = ("_saved", "_held")


@dataclass
class Node:
    """One operator of a run: its rows (`after` counts within them), the nodes it waits for, where it was called.

    `count` runs in all, in chains of `serial` that each need the one before.
    """

    rows: list[dict]
    deps: set[int]
    site: object = None
    count: int = 1
    serial: int = 1
    names: tuple[str, ...] = field(default=())

    @property
    def ends(self) -> list[int]:
        """Rows nothing else of the node waits for."""
        waited = {a for row in self.rows for a in row.get("after", ())}
        return [i for i in range(len(self.rows)) if i not in waited]


#: Columns that say who counts the parameters and who waits for whom; equal work may differ in them.
_LOOSE = ("after", "parameters", "layer")


def _work(row: dict, loose: Iterable[str] = _LOOSE) -> tuple:
    """What must be equal in rows that fold: every number and word but the loose ones."""
    return tuple(sorted((k, v) for k, v in row.items() if k not in loose and not k.startswith("_")))


# -- loops -------------------------------------------------------------------------------------------


def fold_steps(nodes: Sequence[Node]) -> list[Node]:
    """Nodes of a loop as one node each, with how often it ran and how many runs follow one another.

    Part of a loop: same call site, work and weights, and every operator with weights in between runs as often too
    (else it is a stack of layers that shares a function). Dependencies on the step before are dropped.
    """
    keys = [_key(node) for node in nodes]
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if nodes[i].site is not None:
            groups[key].append(i)
    merged: dict[int, int] = {}
    counts: dict[int, tuple[int, int]] = {}
    for members in groups.values():
        if len(members) > 1 and _is_loop(nodes, keys, groups, members):
            for first, chain, runs in _chains(nodes, members):
                counts[first] = (runs, chain)
                merged.update((m, first) for m in members if m not in merged or merged[m] == first)
    return _renumbered(nodes, merged, counts)


def _key(node: Node) -> tuple:
    weights = tuple(row.get("_weights", ()) for row in node.rows)
    return node.site, node.names, weights, tuple(_work(row) for row in node.rows)


def _is_loop(nodes, keys, groups, members) -> bool:
    between = range(members[0] + 1, members[1])
    return all(
        len(groups.get(keys[i], ())) >= len(members) - 1
        for i in between
        if any(row.get("_weights") or row.get("weight_bytes") for row in nodes[i].rows)
    )


def _chains(nodes, members) -> list[tuple[int, int, int]]:
    """(first, serial, runs): one entry where all chains are equally long, none where they are not."""
    lengths, length = [], 1
    for before, after in pairwise(members):
        if _reaches(nodes, after, before):
            length += 1
        else:
            lengths.append(length)
            length = 1
    lengths.append(length)
    if len(set(lengths)) > 1:
        return []
    return [(members[0], lengths[0], len(members))]


def _reaches(nodes, start: int, goal: int) -> bool:
    """Whether node `start` waits, directly or not, for node `goal`."""
    todo, seen = [start], {start}
    while todo:
        for dep in nodes[todo.pop()].deps:
            if dep == goal:
                return True
            if dep > goal and dep not in seen:
                seen.add(dep)
                todo.append(dep)
    return False


def _renumbered(nodes, merged: dict[int, int], counts: dict) -> list[Node]:
    number, folded = {}, []
    for i, node in enumerate(nodes):
        first = merged.get(i, i)
        if first != i:
            number[i] = number[first]
            _take_parameters(folded[number[first]], node)
            continue
        number[i] = len(folded)
        runs, chain = counts.get(i, (1, 1))
        folded.append(Node([dict(row) for row in node.rows], set(), node.site, runs, chain, node.names))
    for i, node in enumerate(nodes):
        target = number[i]
        folded[target].deps |= {number[d] for d in node.deps if number[d] < target}
    return folded


def _take_parameters(node: Node, other: Node) -> None:
    """Add what another step was the first to read (positions of a table, taken one by one), what it keeps and holds."""
    for row, again in zip(node.rows, other.rows, strict=True):
        for amount in ("parameters", *_AMOUNTS):
            if again.get(amount):
                row[amount] = row.get(amount, 0) + again[amount]


def flat(nodes: Sequence[Node]) -> list[dict]:
    """Rows of all nodes, `after` counted over all, with their counts filled in."""
    rows: list[dict] = []
    ends: list[list[int]] = []
    for node in nodes:
        offset = len(rows)
        waits = tuple(sorted({end for dep in node.deps for end in ends[dep]}))
        for number, row in enumerate(node.rows):
            inside = tuple(a + offset for a in row.get("after", (number - 1,) if number else ()))
            rows.append({**row, **_counts(row, node), "after": inside or waits})
        ends.append([offset + i for i in node.ends])
    return rows


def _counts(row: dict, node: Node) -> dict:
    repeats, serial = row.get("repeats", 1), row.get("serial_steps", 1)
    return {
        "repeats": repeats * node.count,
        "serial_steps": serial * node.serial,
        "path_runs": (row.get("path_runs") or repeats) * node.serial,
        "weight_sets": row.get("weight_sets") or 1,
    }


# -- stacks ------------------------------------------------------------------------------------------


def fold_layers(rows: list[dict]) -> list[dict]:
    """Rows of neighbouring identical layers as the rows of one, with counts; outermost stacks first.

    Forward pass, backward pass (where the last layer comes first) and update are stacks of their own.
    """
    depth = 0
    while depth < max(len(row["_path"]) for row in rows):
        rows = _fold_depth(rows, depth)
        depth += 1
    return rows


@dataclass
class _Segment:
    """Rows start to end of one layer (and what its parent does after it)."""

    container: tuple
    start: int
    end: int


def _segments(rows: list[dict], depth: int) -> list[_Segment]:
    found: list[_Segment] = []
    current = None
    for i, row in enumerate(rows):
        path = row["_path"]
        if len(path) <= depth or not path[depth].isdigit():
            continue
        here = (*path[: depth + 1], _pass(row))
        if here != current:
            found.append(_Segment(path[:depth], i, i + 1))
            current = here
        found[-1].end = i + 1
    return found


def _pass(row: dict) -> str:
    """Which of the three passes over the network a row is part of; a layer is recomputed on the way back."""
    phase = row.get("phase", "forward")
    return phase if phase in ("forward", "update") else "backward"


def _fold_depth(rows: list[dict], depth: int) -> list[dict]:
    segments = _segments(rows, depth)
    works = _numbered(rows, depth)
    stacks, j = [], 0
    while j < len(segments):
        best = max((_stack(rows, works, segments, j, q) for q in range(1, LONGEST_PERIOD + 1)), key=_covered)
        if best[1] > 1:
            stacks.append(best[:4])
        j += max(1, best[4])
    return _folded(rows, stacks, depth) if stacks else rows


def _covered(stack) -> tuple[int, int]:
    _, copies, period, _, taken = stack
    return (copies > 1) * copies * period, -taken


def _numbered(rows, depth) -> list[tuple]:
    """The work of each row with the number at this depth of the path left out."""
    found = []
    for row in rows:
        path = row["_path"]
        if len(path) > depth and path[depth].isdigit():
            path = (*path[:depth], "", *path[depth + 1 :])
        found.append((path, row.get("parameters", 0), _work(row)))
    return found


def _stack(rows, works, segments, j: int, q: int) -> tuple[int, int, int, bool, int]:
    """(first row, copies, rows a copy, in series, segments taken) of the stack that begins at segment j."""
    start, none = segments[j].start, (segments[j].start, 1, 0, False, 1)
    if j + q >= len(segments) or any(s.container != segments[j].container for s in segments[j : j + q + 1]):
        return none
    period = segments[j + q].start - start
    copies, taken = 1, q
    while _is_next(segments, j + taken, q, start + copies * period, period) and _is_copy(
        rows, works, start, copies, period
    ):
        copies, taken = copies + 1, taken + q
    if copies == 1:
        return none
    second = range(start + period, start + 2 * period)
    series = any(start <= a < start + period for i in second for a in rows[i]["after"])
    return start, copies, period, series, taken


def _is_next(segments, j: int, q: int, start: int, period: int) -> bool:
    """Whether q segments of the same stack begin at row `start` and fit in `period` rows."""
    group = segments[j : j + q]
    if len(group) < q or group[0].start != start or any(s.container != segments[j - 1].container for s in group):
        return False
    return j + q >= len(segments) or segments[j + q].start >= start + period


def _is_copy(rows, works, start: int, copy: int, period: int) -> bool:
    """Whether copy number `copy` (from 0) does what the first did and waits for the same, one copy later."""
    offset = copy * period
    if start + offset + period > len(rows):
        return False
    for i in range(start, start + period):
        if works[i] != works[i + offset]:
            return False
        first, here = rows[i]["after"], rows[i + offset]["after"]
        if {a + offset for a in first if a >= start} != {a for a in here if a >= start + offset}:
            return False
        if copy > 1:
            shift = {a + offset - period for a in rows[i + period]["after"] if a >= start}
            if shift != {a for a in here if a >= start}:
                return False
    return _weights_alike(rows, start, offset, period)


def _weights_alike(rows, start: int, offset: int, period: int) -> bool:
    """Whether each row reads its own weights, or each copy the same: no mixture."""
    return all(
        rows[i].get("_weights") != rows[i + offset].get("_weights")
        or not rows[i].get("_weights")
        or not rows[i].get("parameters")
        for i in range(start, start + period)
    )


def _folded(rows, stacks, depth: int) -> list[dict]:
    number, kept, inside = {}, [], {}
    for start, copies, period, series, _ in ((*s, None) for s in stacks):
        for i in range(start, start + copies * period):
            inside[i] = (start, copies, period, series)
    for i, row in enumerate(rows):
        if i not in inside:
            number[i] = len(kept)
            kept.append(dict(row))
            continue
        start, copies, period, series = inside[i]
        if i >= start + period:
            number[i] = number[start + (i - start) % period]
            continue
        number[i] = len(kept)
        others = [rows[i + c * period] for c in range(copies)]
        kept.append(_copies(row, others, series, depth, rows, start, period, copies))
    waits: list[set[int]] = [set() for _ in kept]
    for i, row in enumerate(rows):
        waits[number[i]] |= {number[a] for a in row["after"] if number[a] < number[i]} - _carried(
            i, row, inside, number
        )
    return [row | {"after": tuple(sorted(w))} for row, w in zip(kept, waits, strict=True)]


def _carried(i: int, row: dict, inside, number) -> set[int]:
    """What a later copy waits for in the copy before: no earlier row of the folded one."""
    if i not in inside:
        return set()
    start, _, period, _ = inside[i]
    begins = start + (i - start) // period * period
    own = {number[a] for a in row["after"] if a >= begins}
    return {number[a] for a in row["after"] if start <= a < begins} - own


def _copies(row, others, series: bool, depth: int, rows, start, period, copies) -> dict:
    shared = bool(row.get("_weights")) and all(o.get("_weights") == row.get("_weights") for o in others)
    indices = [r["_path"][depth] for r in rows[start : start + copies * period] if _has_number(r, depth)]
    label = f"{min(indices, key=int)}-{max(indices, key=int)}"
    path = row["_path"]
    if _has_number(row, depth):
        path = (*path[:depth], label, *path[depth + 1 :])
    return row | {
        "repeats": row["repeats"] * copies,
        "path_runs": row["path_runs"] * (copies if series else 1),
        "weight_sets": row["weight_sets"] * (1 if shared else copies),
        "_path": path,
        **{a: sum(o.get(a, 0) for o in others) for a in _AMOUNTS if any(a in o for o in others)},
        "_weights": tuple(w for o in others for w in o.get("_weights", ())),
    }


def _has_number(row: dict, depth: int) -> bool:
    return len(row["_path"]) > depth and row["_path"][depth].isdigit()
