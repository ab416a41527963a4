"""Quantities with units, as people type and read them: '2TB/s', '900MHz', '4us'.

SI inside: bytes, seconds, hertz, watts. k, M, G, T, P, E and m, u, n, p are powers of ten (GB is 10^9
bytes); Ki, Mi, Gi, Ti are powers of 1024. B is a byte; bits are not used.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import NamedTuple

#: Powers of ten and of 1024 that may stand before a unit. SI brochure, 9th ed., table 7; IEC 80000-13.
DECIMAL_PREFIXES = {"p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY_PREFIXES = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}

#: Units that take prefixes, and those that already carry one or take none.
PREFIXED_UNITS = ("B/s", "B", "Hz", "s", "FLOP/s", "FLOP/byte", "FLOP", "W", "J/B", "J", "B/cycle")
BARE_UNITS = ("mm2", "mm", "nm", "USD", "cycles")

_BINARY_UNITS = ("B", "B/s", "B/cycle")  # a power of 1024 is for bytes, and for plain numbers
_SPELLINGS = {
    "FLOPS": "FLOP/s",
    "FLOPs": "FLOP",
    "mm^2": "mm2",
    "mm²": "mm2",
    "usd": "USD",
    "cycle": "cycles",
    "J/byte": "J/B",
    "bytes": "B",
    "bytes/s": "B/s",
}

#: The unit a field is given in, by the end of its name; longest endings first.
FIELD_UNITS = {
    "_flops_per_byte": "FLOP/byte",
    "_bytes_per_cycle": "B/cycle",
    "_flops_per_s": "FLOP/s",
    "_bytes_per_s": "B/s",
    "_j_per_byte": "J/B",
    "_per_cycle": "",
    "_cycles": "cycles",
    "_bytes": "B",
    "_flops": "FLOP",
    "_mm2": "mm2",
    "_mm": "mm",
    "_usd": "USD",
    "_hz": "Hz",
    "_nm": "nm",
    "_w": "W",
    "_s": "s",
}

_MICRO = ("\u00b5", "\u03bc")  # the micro sign and the Greek letter, which look the same
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)", re.DOTALL)
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class UnitError(ValueError):
    """A quantity that cannot be read: the message names the field, the value and the unit expected."""


class Quantity(NamedTuple):
    """A value in SI units and its unit ('' for a plain number)."""

    value: float
    unit: str


def parse_quantity(text: str) -> Quantity:
    """The SI value and the unit of '2TB/s', '900 MHz', '16GiB', '4us', '815mm2' or '1e3'.

    The value is the float nearest to what was typed. Raises `UnitError` for anything else: not a number, not
    finite, an unknown unit, a prefix that the unit does not take, bits.
    """
    found = _NUMBER.fullmatch(str(text).strip())
    if not found:
        raise UnitError(f"{text!r} is not a number with a unit, such as 2TB/s, 900MHz, 4us or 80")
    digits, written = found.group(1), found.group(2).strip()
    exponent, power_of_1024, unit = _split_unit(written, text)
    try:
        value = float(Decimal(digits).scaleb(exponent) * 1024**power_of_1024)
    except (ArithmeticError, ValueError):  # an exponent beyond what even Decimal holds
        value = math.inf
    if not math.isfinite(value):
        raise UnitError(f"{text!r} is not finite")
    return Quantity(value, unit)


def parse_field(field: str, text: str, current: object = 0.0) -> float | bool | str:
    """The value of a field typed as text, in the SI unit that the end of the field's name states.

    `field` is the name in full ("memory.dram.bandwidth_bytes_per_s"); a plain number is taken in that unit.
    `current` is what the field holds now: a bool reads true/false, a string is handed on unchanged. Raises
    `UnitError` naming field, value and the unit expected.
    """
    text = str(text).strip()
    if isinstance(current, bool):
        if text.lower() not in _FLAGS:
            raise UnitError(f"{field}: {text!r} is neither true nor false")
        return _FLAGS[text.lower()]
    if isinstance(current, str):
        return text
    expected = field_unit(field)
    wanted = f"expected {expected} (or a plain number in {expected})" if expected else "expected a plain number"
    try:
        value, unit = parse_quantity(text)
    except UnitError as error:
        raise UnitError(f"{field}: {error}; {wanted}") from None
    if unit not in ("", expected):
        raise UnitError(f"{field}: {text!r} is in {unit}; {wanted}")
    return value


def field_unit(field: str) -> str:
    """The unit of a field by the end of its name, '' for a plain number. "clock_hz" is in Hz."""
    name = field.removeprefix("matrix.macs_per_cycle.").removeprefix("in_memory.macs_per_s.")
    for ending, unit in FIELD_UNITS.items():
        if name.endswith(ending):
            return unit
    return ""


def format_quantity(value: float, unit: str = "", digits: int = 3) -> str:
    """'2.00 TB/s': `digits` significant digits and a decimal prefix. NaN is 'n/a'.

    Units that take no prefix (mm2, nm, USD, cycles) are written out; what no prefix reaches is in powers of ten.
    """
    value = float(value)
    if math.isnan(value):
        return "n/a"
    if math.isinf(value) or value == 0:
        return _join(f"{value:.0f}", unit)
    if unit in BARE_UNITS:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return _join(f"{value:.{places}f}", unit)
    if not unit and abs(value) < 1:  # no "5.00 m" for a bare 0.005
        return f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")  # rounds first: 999.9 becomes 1.00e3
    thousands = 3 * (int(exponent) // 3)
    prefix = next((p for p, power in DECIMAL_PREFIXES.items() if power == thousands), None)
    if prefix is None:
        return _join(f"{mantissa}e{int(exponent)}", unit)
    shift = int(exponent) - thousands
    return _join(f"{float(mantissa) * 10**shift:.{max(0, digits - 1 - shift)}f}", prefix + unit)


def format_exact(value: float, unit: str = "") -> str:
    """All digits of a value in the shortest form that `parse_quantity` reads back as the same float.

    '6 MiB' rather than 6.291456 MB, and '1.555 TB/s' rather than 1555 GB/s.
    """
    number = Decimal(repr(float(value)))
    if not number or unit in ("", *BARE_UNITS) or not number.is_finite():
        return _join(_plain(number), unit)
    forms = []
    for prefix, power in DECIMAL_PREFIXES.items():
        scaled = number.scaleb(-power)
        if 1 <= abs(scaled) < 1000:
            forms.append(_join(_plain(scaled), prefix + unit))
    if unit in _BINARY_UNITS and float(value).is_integer():
        for prefix, power in BINARY_PREFIXES.items():
            whole, rest = divmod(int(value), 1024**power)
            if rest == 0 and whole < 1024:
                forms.append(_join(str(whole), prefix + unit))
    return min(forms, key=len, default=_join(_plain(number), unit))


def _split_unit(written: str, text: str) -> tuple[int, int, str]:
    """Power of ten, power of 1024 and unit of 'TB/s'."""
    if _SPELLINGS.get(written, written) in BARE_UNITS:
        return 0, 0, _SPELLINGS.get(written, written)
    # last the prefix alone: 'm' is a thousandth, 's' seconds, 'ms' a thousandth of them
    for spelling in (*PREFIXED_UNITS, *_SPELLINGS, "USD", ""):
        if not written.endswith(spelling):
            continue
        prefix, unit = written.removesuffix(spelling), _SPELLINGS.get(spelling, spelling)
        prefix = "u" if prefix in _MICRO else prefix
        if prefix in DECIMAL_PREFIXES and (unit not in BARE_UNITS or unit == "USD"):
            return DECIMAL_PREFIXES[prefix], 0, unit
        if prefix in BINARY_PREFIXES and unit in (*_BINARY_UNITS, ""):
            return 0, BINARY_PREFIXES[prefix], unit
    raise UnitError(f"{text!r}: unknown unit {written!r}{_hint(written)}")


def _hint(written: str) -> str:
    """What the writer may have meant, or the units there are."""
    if re.fullmatch(r"[kKMGTP]?i?b(it)?(ps|/s)?", written) or written.endswith(("bps", "bit/s")):
        return " (B is a byte, and bits are not used: GB/s)"
    if written.startswith("K"):
        return " (k is 1000, Ki is 1024)"
    for candidate in (*PREFIXED_UNITS, *BARE_UNITS):
        large_first = sorted(DECIMAL_PREFIXES, key=DECIMAL_PREFIXES.get, reverse=True)  # mhz is MHz, not mHz
        prefixes = (*large_first, *(BINARY_PREFIXES if candidate in _BINARY_UNITS else ()))
        for prefix in prefixes if candidate in PREFIXED_UNITS else ("",):
            if (prefix + candidate).lower() == written.lower():
                return f" (did you mean {prefix + candidate!r}?)"
    return f" (units: {', '.join((*PREFIXED_UNITS, *BARE_UNITS))}; prefixes: p n u m k M G T P E, Ki Mi Gi Ti)"


def _join(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit else number


def _plain(number: Decimal) -> str:
    """Without an exponent unless that takes more than 15 characters, and without trailing zeros."""
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text if len(text) <= 15 else f"{number.normalize():e}".lower()
