"""Local search on a lattice of designs: along one axis, then trading one axis for another, then from elsewhere."""

from __future__ import annotations

import itertools

import numpy as np

from simulator.lattice import Archive, Lattice

#: Steps along each of two axes that are traded against one another, in turn: near ones first.
_NEAR, _FAR = (1, 2), (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1024, 2048)


def steps(size: int) -> list[int]:
    """Steps along an axis: one, two, four ... candidates."""
    return [2**power for power in range(max(1, int(size - 1).bit_length()))]


def lines(lattice: Lattice, point: np.ndarray) -> np.ndarray:
    """Points reached from one by a step along one axis; every other choice of an axis of choices."""
    found = []
    for i, axis in enumerate(lattice.axes):
        if axis.kind == "choice":
            targets = [j for j in range(len(axis)) if j != point[i]]
        else:
            targets = [point[i] + sign * step for step in steps(len(axis)) for sign in (1, -1)]
        for target in targets:
            if 0 <= target < len(axis):
                found.append(_moved(point, {i: target}))
    return _array(found, point)


def trades(lattice: Lattice, point: np.ndarray, near: bool) -> np.ndarray:
    """Points reached by more of one axis and less of another, or more, or less, of both."""
    numbers = [i for i, axis in enumerate(lattice.axes) if axis.kind != "choice" and len(axis) > 1]
    found = []
    for position, i in enumerate(numbers):
        for j in numbers[position + 1 :]:
            first, second = (_reach(lattice, axis, near) for axis in (i, j))
            for a in first:
                for b in second:
                    for s, t in ((1, -1), (-1, 1), (1, 1), (-1, -1)):
                        if s == t and not near:
                            continue
                        moved = _moved(point, {i: point[i] + s * a, j: point[j] + t * b})
                        if ((moved >= 0) & (moved < lattice.sizes)).all():
                            found.append(moved)
    return _array(found, point)


def triples(lattice: Lattice, point: np.ndarray) -> np.ndarray:
    """Points one or two candidates off along each of three axes."""
    numbers = [i for i, axis in enumerate(lattice.axes) if axis.kind != "choice" and len(axis) > 1]
    offsets = np.array(list(itertools.product((-2, -1, 1, 2), repeat=3)))
    found = [np.empty((0, len(point)), np.int64)]
    for three in itertools.combinations(numbers, 3):
        moved = np.repeat(point[None], len(offsets), axis=0)
        moved[:, three] += offsets
        found.append(moved[((moved >= 0) & (moved < lattice.sizes)).all(axis=1)])
    return np.concatenate(found)


def _reach(lattice: Lattice, axis: int, near: bool) -> list[int]:
    return [step for step in (_NEAR if near else _FAR) if step < lattice.sizes[axis]]


def _moved(point: np.ndarray, to: dict[int, int]) -> np.ndarray:
    moved = point.copy()
    for axis, target in to.items():
        moved[axis] = target
    return moved


def _array(found: list, point: np.ndarray) -> np.ndarray:
    return np.array(found, np.int64).reshape(-1, len(point))


def descend(archive: Archive, start: int, scale: np.ndarray | None = None, far: bool = True) -> tuple[int, bool]:
    """The place reached from a place by steepest descent, and whether every neighbour of it was tried.

    Neighbours are those of `lines` and near `trades`. A design gives way to one that breaks the limits by less, then to
    a better objective, then to one that uses less of the limits. Axes one by one while that helps, then pairs, then
    with `far` three at once and pairs farther off.
    """
    lattice, here = archive.lattice, start
    neighbourhoods = [lines, lambda la, p: trades(la, p, near=True)]
    if far:
        neighbourhoods += [triples, lambda la, p: trades(la, p, near=False)]
    level = 0
    while level < len(neighbourhoods):
        around = neighbourhoods[level](lattice, archive.index[here])
        places = archive.visit(around)
        cut_short = len(places) < len(around)
        best = archive.best(np.append(places, here), scale)
        if best != here and archive.better(best, here, scale):
            here, level = best, 0
        elif cut_short:
            return here, level > 1  # the nearest are tried
        else:
            level += 1
    return here, True


def starts(archive: Archive, count: int) -> list[int]:
    """Places to descend from: the best of those tried, no two close, at least one for each choice there is."""
    lattice = archive.lattice
    places = np.arange(len(archive))
    outside, objective, used = archive.ranks(places)
    order = np.lexsort((*archive.lattice_key(places), used, objective, outside))
    choice = [i for i, axis in enumerate(lattice.axes) if axis.kind == "choice"]
    span = np.maximum(1, lattice.sizes - 1)
    chosen: list[int] = []
    seen: set[tuple] = set()
    for place in order.tolist():
        point = archive.index[place]
        key = tuple(point[choice])
        apart = all((np.abs(point - archive.index[c]) / span).max() > 0.15 for c in chosen)
        if (apart and len(chosen) < count) or (choice and key not in seen and len(seen) < count):
            chosen.append(place)
            seen.add(key)
    return chosen


def kicked(archive: Archive, place: int, random: np.random.Generator) -> np.ndarray:
    """A point some way off: two or three axes moved by a random part of their length."""
    lattice = archive.lattice
    point = archive.index[place].copy()
    free = np.flatnonzero(lattice.sizes > 1)
    for axis in random.permutation(free)[: random.integers(2, 4)]:
        reach = max(1, int(lattice.sizes[axis]) // 4)
        if lattice.axes[axis].kind == "choice":
            point[axis] = random.integers(lattice.sizes[axis])
        else:
            point[axis] = np.clip(point[axis] + random.integers(-reach, reach + 1), 0, lattice.sizes[axis] - 1)
    return point[None]
