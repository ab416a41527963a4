"""Results as aligned text or markdown, for a terminal or a document: rounded, with unit prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reports.arguments import ReportError, labelled, single
from reports.explain import dominant_bound, explain, percent
from reports.units import format_quantity

STYLES = ("text", "markdown")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], style: str = "text", right: Sequence[str] = ()) -> str:
    """Cells as an aligned table; columns named in `right` are set flush right.

    `style` is "text" or "markdown". Raises `ReportError` for another style or a row of another length.
    """
    if style not in STYLES:
        raise ReportError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    rows = [[str(cell) for cell in row] for row in rows]
    for row in rows:
        if len(row) != len(headers):
            raise ReportError(f"a row has {len(row)} cells where the table has {len(headers)} columns: {row}")
    if style == "markdown":
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    flush = ["right" if header in right else "left" for header in headers]

    def line(cells, between, edge=""):
        padded = [c.rjust(w) if f == "right" else c.ljust(w) for c, w, f in zip(cells, widths, flush, strict=True)]
        return (edge + between.join(padded) + edge[::-1]).rstrip()

    if style == "markdown":
        rule = ["-" * (w - 1) + ":" if f == "right" else "-" * w for w, f in zip(widths, flush, strict=True)]
        return "\n".join(line(cells, " | ", "| ") for cells in (headers, rule, *rows))
    return "\n".join(line(cells, "  ") for cells in (headers, *rows))


def op_table(result, top: int | None = None, style: str = "text") -> str:
    """One line an op: runs ("4 x 35" is 4 recurrences of 35 steps), time of a run, share of all time, bound and why.

    Ops are in program order; with `top`, the `top` longest come first and the others are summed in one line. `of
    peak` is the rate attained over the peak of the unit the op uses, empty without FLOP. On a chip whose memory
    computes, `where` says which ops run there. Raises `ReportError` for an array of designs or `top` below 1.
    """
    single(result)
    if top is not None and top < 1:
        raise ReportError(f"top must be 1 or more, got {top}")
    trace, total = result.trace, np.asarray(result.total_s, float)
    share = total / total.sum()
    order = np.arange(len(trace)) if top is None else np.argsort(-total, kind="stable")
    shown = order[: len(trace) if top is None else top]
    reasons = explain(result)
    headers = ["layer", "op", "runs", "one run", "all runs", "share", "where", "bound", "of peak", "why"]
    rows = [
        [
            str(trace.layer[row]),
            str(trace.op[row]),
            _runs(int(trace.repeats[row]), int(trace.serial_steps[row])),
            format_quantity(result.time_s[row], "s"),
            format_quantity(total[row], "s"),
            percent(share[row]),
            str(result.placement[row]),
            str(result.bound[row]),
            percent(result.op_utilisation[row]) if result.flops[row] else "",
            reasons[row],
        ]
        for row in shown
    ]
    rest = order[len(shown) :]
    if len(rest):
        left = [f"{len(rest)} more", "", "", "", format_quantity(total[rest].sum(), "s"), percent(share[rest].sum())]
        rows.append([*left, "", "", "", ""])
    if result.accelerator.in_memory is None:  # everything runs on the one chip there is
        at = headers.index("where")
        headers, rows = _without(headers, at), [_without(row, at) for row in rows]
    return table(headers, rows, style, right=("runs", "one run", "all runs", "share", "of peak"))


def header(result) -> str:
    """Network and chip, and what was counted: element types, batch, positions, ops, parameters, FLOP."""
    trace, chip = single(result).trace, result.accelerator
    phase = "training step" if (trace.phase != "forward").any() else "forward"
    counted = [
        ", ".join(dtypes(result)),
        f"batch {trace.sequences}",
        f"{trace.tokens} position{'s' if trace.tokens > 1 else ''} a sequence",
        phase,
        f"{len(trace)} distinct ops, {format_quantity(float(trace.runs.sum()))} runs",
        f"{format_quantity(trace.total_parameters)} parameters",
        format_quantity(trace.total_flops, "FLOP"),
    ]
    name = "" if chip.title == chip.name else f" ({chip.name})"
    return f"{trace.name} on {chip.title}{name}\n{', '.join(c for c in counted if c)}"


def summary_table(result, style: str = "text") -> str:
    """The whole network: latency and its 80 % interval, throughput, utilisation, time by bound and layer, memory,
    energy, price, warnings.

    Raises `ReportError` for an array of designs.
    """
    tokens = format_quantity(single(result).tokens_per_s)
    rows = [
        ["latency", _latency(result)],
        ["throughput", f"{format_quantity(result.sequences_per_s)} sequences/s, {tokens} tokens/s"],
        ["utilisation", _utilisation(result)],
        ["time by bound", _shares(result.time_share_by_bound())],
        *([["placement", _placement(result)]] if result.accelerator.in_memory is not None else []),
        ["time by layer", _shares(result.time_share_by_layer())],
        ["memory", _memory(result)],
        ["energy", _energy(result)],
        ["energy by use", _shares({name: j / result.energy_j for name, j in result.energy_by_level_j().items()})],
        ["price", _price(result)],
        *(["warning", text] for text in result.warnings),
    ]
    return table(["", ""], rows, style) if style == "markdown" else table(["", ""], rows, style).lstrip("\n")


def comparison_table(results, style: str = "text") -> str:
    """Networks on chips, one line each: latency, throughput, utilisation, the bound that sets most time.

    `results` is a list or a mapping of results. With several chips for one network, `speed` is the throughput over that
    of the network's first line. Raises `ReportError` for no result or an array of designs.
    """
    results = list(labelled(results).values())
    first: dict[str, float] = {}
    headers = [
        "network",
        "chip",
        "type",
        "latency",
        "sequences/s",
        "tokens/s",
        "speed",
        "utilisation",
        "bound",
        "memory",
    ]
    rows = []
    for result in results:
        network = result.trace.name
        speed = float(result.sequences_per_s) / first.setdefault(network, float(result.sequences_per_s))
        bound, share = dominant_bound(result)
        rows.append(
            [
                network,
                result.accelerator.name,
                ", ".join(dtypes(result)),
                format_quantity(result.latency_s, "s"),
                format_quantity(result.sequences_per_s),
                format_quantity(result.tokens_per_s),
                f"{speed:.3g}x",
                percent(result.utilisation),
                f"{bound} {percent(share)}",
                "fits" if bool(result.fits) else "too small",
            ]
        )
    if len(first) == len(rows):  # nothing to compare the speed with
        speed_at = headers.index("speed")
        headers, rows = _without(headers, speed_at), [_without(row, speed_at) for row in rows]
    return table(headers, rows, style, right=("latency", "sequences/s", "tokens/s", "speed", "utilisation"))


def dtypes(result) -> list[str]:
    """Element types the products of a result run in, the one with most FLOP first."""
    trace = result.trace
    work = {str(d): float((trace.runs * trace.matrix_flops)[trace.dtype == d].sum()) for d in trace.dtype}
    return sorted((d for d in work if work[d] > 0), key=lambda d: -work[d]) or [str(trace.dtype[0])]


def _without(cells: list, position: int) -> list:
    return cells[:position] + cells[position + 1 :]


def _runs(repeats: int, steps: int) -> str:
    return f"{repeats // steps} x {steps}" if steps > 1 else str(repeats)


def _latency(result) -> str:
    latency, serial = float(result.latency_s), float(result.serial_s)
    facts = [f"longest dependent path {format_quantity(result.critical_path_s, 's')}"]
    if serial > 1.001 * latency:  # independent ops side by side: say so only where it shows
        facts.append(f"one op at a time {format_quantity(serial, 's')}")
    return f"{format_quantity(latency, 's')}{_interval(result)}; {', '.join(facts)}"


def _interval(result) -> str:
    """' (80 %: 4.70 to 6.10 ms)', in one unit where both ends have the same; '' where nothing was calibrated."""
    if result.latency_interval_s is None:
        return ""
    low, high = (format_quantity(end, "s") for end in result.latency_interval_s)
    number, _, unit = low.partition(" ")
    return f" (80 %: {number if high.endswith(f' {unit}') else low} to {high})"


def _utilisation(result) -> str:
    peak = ", ".join(
        f"{d} {format_quantity(result.accelerator.peak_flops_per_s(d), 'FLOP/s')}"
        for d in dtypes(result)
        if d in result.accelerator.dtypes
    )
    attained = f"{format_quantity(result.attained, 'FLOP/s')} attained"
    return f"{percent(result.utilisation)} of the matrix peak ({peak}), {attained}"


def _placement(result) -> str:
    """'2 of 6 ops in memory, 61 % of the time'."""
    inside = int((result.placement == "memory").sum())
    return f"{inside} of {len(result.trace)} ops in memory, {percent(result.in_memory_share())} of the time"


def _shares(shares, most: int = 6) -> str:
    """'dram 62 %, latency 30 %, ...': the largest first, the small ones summed."""
    ranked = sorted(((float(v), k) for k, v in shares.items() if float(v) > 0), reverse=True)
    parts = [f"{name} {percent(share)}" for share, name in ranked[:most]]
    rest = ranked[most:]
    return ", ".join([*parts, *([f"{len(rest)} more {percent(sum(s for s, _ in rest))}"] if rest else [])])


def _energy(result) -> str:
    whole, token = format_quantity(result.energy_j, "J"), format_quantity(result.energy_per_token_j, "J")
    return f"{whole}, {format_quantity(result.average_power_w, 'W')} on average, {token} a token (derived)"


def _price(result) -> str:
    price = format_quantity(result.price_per_million_tokens_usd(), "USD")
    listed = result.accelerator.package.price_usd is not None
    return (
        f"{price} a million tokens (device at {'list' if listed else 'derived'} price over its life, and electricity)"
    )


def _memory(result) -> str:
    parts = {k: float(v) for k, v in result.footprint.items()}
    total = parts.pop("total")
    held = ", ".join(f"{name} {format_quantity(size, 'B')}" for name, size in parts.items() if size)
    return f"{format_quantity(total, 'B')} of {format_quantity(result.capacity_bytes, 'B')} ({held})"
