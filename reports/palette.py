"""Colours, marker shapes and hatches: told apart by colour-blind readers, and in grey by shape and hatch.

Colours: Okabe and Ito, Color Universal Design, 2008 (jfly.uni-koeln.de/color), the eight-colour set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

INK = "#222222"
GREY = "#9A9A9A"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
#: In the order in which neighbours differ most; yellow comes last because it is faint on white.
CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, YELLOW)

#: Marker, colour and hatch of each bound; memory levels by their distance from the farthest.
_UNIT_LOOKS = {
    "matrix": ("s", BLUE, ""),
    "vector": ("^", GREEN, "///"),
    "special": ("v", SKY, "..."),
    "feed": ("<", PURPLE, "++"),
    "link": ("X", INK, "oo"),
    "in_memory": ("d", "#44AA99", "**"),
    "latency": ("P", GREY, ""),
}
_MEMORY_LOOKS = (("o", VERMILLION, "\\\\\\"), ("D", ORANGE, "xxx"), ("h", YELLOW, "---"), ("p", "#B8860B", "|||"))


def bound_looks(levels: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Marker, colour and hatch of each bound of a chip with memory `levels`, nearest first."""
    far_first = reversed(list(levels))
    memory = {level: _MEMORY_LOOKS[min(i, len(_MEMORY_LOOKS) - 1)] for i, level in enumerate(far_first)}
    first = ("matrix", "feed", "vector", "special")
    units = {name: _UNIT_LOOKS[name] for name in first}
    return units | memory | {name: looks for name, looks in _UNIT_LOOKS.items() if name not in first}


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label: the categories while they last, else steps of a map made for colour-blind readers."""
    labels = list(labels)
    if len(labels) <= len(CATEGORIES):
        return dict(zip(labels, CATEGORIES, strict=False))
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    cividis = colormaps["cividis"]
    return {label: to_hex(cividis(i / (len(labels) - 1))) for i, label in enumerate(labels)}
