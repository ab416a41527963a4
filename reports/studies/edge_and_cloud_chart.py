"""The chart of the study edge-and-cloud: one stream by chip, many streams, and one stream by size."""

from __future__ import annotations

from collections.abc import Sequence

from reports.canvas import FONT_SIZE, LABEL_SIZE, new_grid
from reports.palette import BLUE, GREY, INK, ORANGE, VERMILLION
from reports.studies.speech_models import alike, kept_bytes, real_time_factor
from simulator import Accelerator

#: Marker, colour and line of each recogniser.
LOOKS = {"LSTM": ("o", VERMILLION, "-"), "RNN-T": ("^", ORANGE, "-."), "Conformer": ("s", BLUE, "--")}


def by_size(widths: Sequence[int], chips: Sequence[Accelerator]) -> tuple[Accelerator, dict[str, list]]:
    """Parameters and real-time factors of one stream by kind, on the chip whose memory such models outgrow.

    That is the one with the most memory for weights that is still too small for the largest model, else the last."""
    sizes = {width: {m.kind: m for m in alike(width) if m.kind != "RNN-T"} for width in widths}
    largest = max(m.parameters for m in sizes[widths[-1]].values())
    small = [chip for chip in chips if kept_bytes(chip) < largest]
    chip = max(small or chips[-1:], key=kept_bytes)
    found = {
        kind: [(m[kind].parameters, real_time_factor(m[kind].on(chip))) for m in sizes.values()]
        for kind in ("LSTM", "Conformer")
    }
    return chip, found


def draw(found, sizes, kinds: Sequence[str]):
    """A new figure from what was found on each chip (`edge_and_cloud.OnChip`) and by size."""
    axes = new_grid(1, 3, (3.1, 3.0))
    _one_stream(axes[0], found, kinds)
    _many_streams(axes[1], found)
    _sizes(axes[2], *sizes)
    for ax in axes:
        ax.tick_params(labelsize=LABEL_SIZE)
        ax.grid(which="major", color=GREY, alpha=0.3, linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    return axes[0].figure


def _one_stream(ax, found, kinds) -> None:
    for kind in kinds:
        marker, colour, _ = LOOKS[kind]
        ax.plot(
            [f.factor[kind] for f in found], range(len(found)), marker, color=colour, label=kind, markersize=5,
            markeredgecolor="white", markeredgewidth=0.4, linestyle="none",
        )  # fmt: skip
    ax.axvline(1.0, color=INK, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yticks(range(len(found)), [f.chip.name for f in found])
    ax.invert_yaxis()
    ax.set_xlabel("real-time factor, one stream", fontsize=FONT_SIZE)
    ax.legend(fontsize=LABEL_SIZE, loc="lower right", framealpha=1.0)


def _many_streams(ax, found) -> None:
    """The slowest and the quickest chip that hear a stream in real time, LSTM and Conformer."""
    live = [f for f in found if f.factor["LSTM"] < 1] or list(found)
    order = sorted(live, key=lambda f: f.factor["LSTM"])
    shown = list(dict.fromkeys((order[-1].chip.name, order[0].chip.name)))
    for name, fill in zip(shown, ("full", "none"), strict=False):
        served = next(f.served for f in found if f.chip.name == name)
        for kind in ("LSTM", "Conformer"):
            marker, colour, line = LOOKS[kind]
            ax.plot(
                list(served[kind].curve), list(served[kind].curve.values()), marker=marker, linestyle=line,
                color=colour, fillstyle=fill, markersize=4, linewidth=1.0, label=f"{kind}, {name}",
            )  # fmt: skip
    ax.axhline(1.0, color=INK, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xticks([1, 16, 256, 4096], ["1", "16", "256", "4096"])
    ax.minorticks_off()
    ax.set_yscale("log")
    ax.set_xlabel("streams heard together", fontsize=FONT_SIZE)
    ax.set_ylabel("real-time factor", fontsize=FONT_SIZE)
    ax.legend(fontsize=LABEL_SIZE - 1, loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=2, frameon=False,
              columnspacing=1.0, handlelength=2.5)  # fmt: skip


def _sizes(ax, chip: Accelerator, found: dict[str, list]) -> None:
    for kind, points in found.items():
        marker, colour, line = LOOKS[kind]
        ax.plot(
            [p / 1e6 for p, _ in points], [factor for _, factor in points], marker=marker, linestyle=line, color=colour,
            markersize=5, linewidth=1.0, label=kind,
        )  # fmt: skip
    ax.axvline(kept_bytes(chip) / 1e6, color=INK, linewidth=0.8, linestyle=":")
    ax.axhline(1.0, color=INK, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("parameters (millions), one byte each", fontsize=FONT_SIZE)
    ax.set_ylabel("real-time factor, one stream", fontsize=FONT_SIZE)
    ax.set_title(f"{chip.name} (keeps {kept_bytes(chip) / 1e6:.3g} MB)", fontsize=FONT_SIZE)
    ax.legend(fontsize=LABEL_SIZE, loc="lower right", framealpha=1.0)
