"""What several studies share: the element type a chip is used in, and what holds a result back, in three classes."""

from __future__ import annotations

from collections.abc import Sequence

from simulator import Accelerator, Result

#: Element types in the order in which one would choose them for these networks.
PREFERRED = ("fp16", "bf16", "fp8", "int8", "fp32")


def element_type(chip: Accelerator) -> str:
    """The type a chip is used in: a 16-bit float where it has one."""
    return next((dtype for dtype in PREFERRED if dtype in chip.dtypes), chip.dtypes[0])


def held_back(result: Result) -> dict[str, float]:
    """Share of the time (0..1) set by "memory" (every level, and the feed of operands), "waits" (launches and steps
    that depend on one another) and "arithmetic" (all else)."""
    shares = {"memory": 0.0, "waits": 0.0, "arithmetic": 0.0}
    for bound, share in result.time_share_by_bound().items():
        if bound in result.accelerator.memory or bound in ("feed", "link"):
            shares["memory"] += float(share)
        else:
            shares["waits" if bound == "latency" else "arithmetic"] += float(share)
    return shares


def largest(shares: dict[str, float]) -> str:
    """The class with the largest share."""
    return max(shares, key=shares.get)


def between(low: str, high: str) -> str:
    """'1 to 5', or '5' where both ends read the same."""
    return low if low == high else f"{low} to {high}"


def span(values: Sequence[float], form: str = "{:.3g}", unit: str = "") -> str:
    """'1 to 5 ms', or '5 ms' where both ends are the same as shown; without exponents."""
    return f"{between(*(plain_text(end, form) for end in (min(values), max(values))))} {unit}".rstrip()


def plain_text(value: float, form: str) -> str:
    """A number by a format spec, without an exponent below a million: 100, not 1e+02."""
    text = form.format(value)
    return f"{float(text):g}" if "e" in text else text


def count_of(hits: float, total: float) -> str:
    """'all 18', 'none of 18' or '7 of 18'; '1 of 1'. Before a noun."""
    if hits == total > 1:
        return f"all {total:.0f}"
    return f"{hits:.0f} of {total:.0f}" if hits or total == 1 else f"none of {total:.0f}"


def on_chips(hits: float, total: float, noun: str = "chip") -> str:
    """'all 6 chips', 'both chips', '3 of 6 chips', 'no chip'; of a single one 'the one chip'. Follows "on"."""
    if not hits:
        return f"no {noun}"
    if hits < total:
        return f"{hits:.0f} of {total:.0f} {noun}s"
    return {1: f"the one {noun}", 2: f"both {noun}s"}.get(int(total), f"all {total:.0f} {noun}s")


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def three_digits(value: float) -> str:
    """'0.0202', '202', '20,200': a number to three digits, thousands apart, without an exponent where it is large."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def ranged(ends: Sequence[float]) -> str:
    """'20,200 to 43,200': the two ends of an interval."""
    return " to ".join(three_digits(float(end)) for end in ends)


def counted(number: float, noun: str) -> str:
    """'1 chip', '2 chips'."""
    return f"{number:.0f} {noun}" if number == 1 else f"{number:.0f} {noun}s"
