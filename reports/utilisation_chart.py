"""Utilisation against batch: where a network starts to keep the matrix units busy, and what holds it back before."""

from __future__ import annotations

from reports.arguments import ReportError, labelled
from reports.canvas import FONT_SIZE, new_axes, shortened, wrapped
from reports.explain import dominant_bound
from reports.palette import INK, bound_looks, colours


def utilisation(results, ax=None, *, title: str | None = None):
    """Utilisation of the matrix units over the number of sequences at once, one line for each network and chip.

    `results`: a list of results of the same networks on the same chips at several batches. The shape of a marker is
    the bound that limits most of its time. Returns the axes (a new figure's where `ax` is None). Raises `ReportError`
    for no result, an array of designs, or a batch that comes twice.
    """
    found = labelled(list(results) if not isinstance(results, dict) else results)
    lines: dict[tuple[str, str], dict[int, object]] = {}
    for result in found.values():
        line = lines.setdefault((result.trace.name, result.accelerator.name), {})
        if result.trace.sequences in line:
            raise ReportError(f"{result.trace.name} on {result.accelerator.name}: batch {result.trace.sequences} twice")
        line[result.trace.sequences] = result
    ax = new_axes(ax, (8.4, 4.6))
    tint = colours(lines)
    batches = sorted({batch for line in lines.values() for batch in line})
    ax.set(xscale="log", xticks=batches if len(batches) <= 12 else batches[:: len(batches) // 8])
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    looks: dict[str, str] = {}
    for number, (key, line) in enumerate(lines.items()):
        x = sorted(line)
        y = [100 * float(line[batch].utilisation) for batch in x]
        (drawn,) = ax.plot(x, y, color=tint[key], linewidth=1.3, zorder=2)
        drawn.set_gid(f"line:{number}")
        for batch, value in zip(x, y, strict=True):
            bound = dominant_bound(line[batch])[0]
            looks[bound] = bound_looks(line[batch].accelerator.memory)[bound][0]
            ax.plot([batch], [value], looks[bound], color=tint[key], markersize=6, markeredgecolor=INK,
                    markeredgewidth=0.5, zorder=3)  # fmt: skip
    ax.set_xlabel("batch [sequences at once]", fontsize=FONT_SIZE + 1)
    ax.set_ylabel("utilisation [% of the matrix peak]", fontsize=FONT_SIZE + 1)
    ax.set_ylim(0, None)
    ax.tick_params(labelsize=FONT_SIZE)
    ax.grid(True, color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    _legends(ax, lines, tint, looks)
    networks, chips = ({key[side] for key in lines} for side in (0, 1))
    titles = {result.accelerator.title for result in found.values()}
    chips = titles if len(chips) == 1 else chips
    heading = f"{_one(networks, 'networks')} on {_one(chips, 'chips')}: utilisation against batch"
    ax.set_title(wrapped(heading if title is None else title, 76), fontsize=FONT_SIZE + 2)
    return ax


def _one(names: set[str], plural: str) -> str:
    return next(iter(names)) if len(names) == 1 else f"{len(names)} {plural}"


def _legends(ax, lines: dict, tint: dict, looks: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    networks, chips = ({key[side] for key in lines} for side in (0, 1))

    def name(key: tuple[str, str]) -> str:
        parts = [part for part, names in zip(key, (networks, chips), strict=True) if len(names) > 1]
        return shortened(" on ".join(parts or [key[0]]), 34)

    common = {"fontsize": FONT_SIZE, "title_fontsize": FONT_SIZE, "frameon": False, "alignment": "left"}
    common |= {"borderaxespad": 0.0}
    first = [Line2D([], [], color=tint[key], label=name(key)) for key in lines]
    upper = ax.legend(handles=first, loc="upper left", bbox_to_anchor=(1.015, 1.0), **common)
    ax.add_artist(upper)
    upper.set_clip_on(False)
    second = [
        Line2D([], [], linestyle="none", marker=shape, color="white", markeredgecolor=INK, label=bound)
        for bound, shape in looks.items()
    ]
    ax.legend(
        handles=second, title="bound by (shape)", loc="lower left", bbox_to_anchor=(1.015, 0.0), **common
    )  # fmt: skip
