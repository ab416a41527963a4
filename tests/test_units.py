"""Quantities are read as typed, refused where they do not fit, and written so that they can be read back."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from reports.units import (
    BARE_UNITS,
    FIELD_UNITS,
    PREFIXED_UNITS,
    Quantity,
    UnitError,
    field_unit,
    format_exact,
    format_quantity,
    parse_field,
    parse_quantity,
)
from simulator import preset, presets


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("2TB/s", 2e12, "B/s"),
        ("900 MHz", 9e8, "Hz"),
        ("  1.53GHz ", 1.53e9, "Hz"),
        ("80GB", 80e9, "B"),  # not 80 2^30
        ("80GiB", 80 * 2**30, "B"),
        ("16Ki", 16384, ""),
        ("1TiB/s", 2**40, "B/s"),
        ("4us", 4e-6, "s"),
        ("4µs", 4e-6, "s"),  # micro sign
        ("4μs", 4e-6, "s"),  # Greek mu
        ("3 ms", 3e-3, "s"),
        ("18ns", 18e-9, "s"),
        ("12 pJ/B", 12e-12, "J/B"),
        ("312TFLOP/s", 312e12, "FLOP/s"),
        ("312 TFLOPS", 312e12, "FLOP/s"),
        ("1PFLOP", 1e15, "FLOP"),
        ("300W", 300, "W"),
        ("2.5kJ", 2500, "J"),
        ("64B/cycle", 64, "B/cycle"),
        ("815mm2", 815, "mm2"),
        ("815 mm^2", 815, "mm2"),
        ("7nm", 7, "nm"),
        ("1500 cycles", 1500, "cycles"),
        ("10kUSD", 10_000, "USD"),
        ("80", 80, ""),
        ("-3", -3, ""),
        ("+.5e3", 500, ""),
        ("2k", 2000, ""),
        ("5m", 0.005, ""),
        ("1e-320", 1e-320, ""),
    ],
)
def test_reads(text, value, unit):
    assert parse_quantity(text) == Quantity(value, unit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a number"),
        ("TB/s", "not a number"),
        ("nan", "not a number"),
        ("inf", "not a number"),
        ("1,5GB", "unknown unit ',5GB'"),
        ("1e400", "not finite"),
        ("1e999999999999999999", "not finite"),
        ("2Gb/s", "bits are not used"),
        ("100Gbps", "bits are not used"),
        ("16KB", "k is 1000, Ki is 1024"),
        ("2tb/s", "did you mean 'TB/s'?"),
        ("9mhz", "did you mean 'MHz'?"),
        ("2TiHz", "unknown unit 'TiHz'"),
        ("5kmm2", "unknown unit 'kmm2'"),
        ("2 Mcycles", "unknown unit 'Mcycles'"),
        ("3 potatoes", "units: B/s, B, Hz"),
    ],
)
def test_refuses(text, said):
    with pytest.raises(UnitError) as caught:
        parse_quantity(text)
    assert said in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "unit"),
    [
        ("memory.dram.bandwidth_bytes_per_s", "B/s"),
        ("memory.dram.capacity_bytes", "B"),
        ("memory.dram.energy_j_per_byte", "J/B"),
        ("matrix.feed_bytes_per_cycle", "B/cycle"),
        ("matrix.prologue_cycles", "cycles"),
        ("matrix.macs_per_cycle.fp16", ""),
        ("vector.flops_per_cycle", ""),
        ("vector.special_per_cycle", ""),
        ("matrix.clock_hz", "Hz"),
        ("latency.launch_s", "s"),
        ("package.tdp_w", "W"),
        ("package.area_mm2", "mm2"),
        ("package.process_nm", "nm"),
        ("package.price_usd", "USD"),
        ("matrix.count", ""),
        ("memory.dram.sustained", ""),
    ],
)
def test_unit_of_a_field(field, unit):
    assert field_unit(field) == unit


def test_every_field_unit_is_one_that_can_be_typed():
    assert set(FIELD_UNITS.values()) - {""} <= {*PREFIXED_UNITS, *BARE_UNITS}


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("memory.dram.bandwidth_bytes_per_s", "2TB/s", 2e12),
        ("memory.dram.bandwidth_bytes_per_s", "2e12", 2e12),
        ("memory.dram.bandwidth_bytes_per_s", "2T", 2e12),
        ("memory.dram.capacity_bytes", "16GiB", 2**34),
        ("matrix.clock_hz", "900MHz", 9e8),
        ("latency.launch_s", "4us", 4e-6),
        ("package.process_nm", "7nm", 7),
        ("package.price_usd", "10kUSD", 1e4),
        ("matrix.count", "80", 80),
    ],
)
def test_reads_a_field(field, text, value):
    assert parse_field(field, text) == value


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("memory.dram.bandwidth_bytes_per_s", "2GHz", "expected B/s"),
        ("memory.dram.bandwidth_bytes_per_s", "2GB", "expected B/s"),
        ("memory.dram.capacity_bytes", "2GB/s", "expected B "),
        ("matrix.clock_hz", "1us", "expected Hz"),
        ("latency.launch_s", "4MHz", "expected s"),
        ("package.tdp_w", "300J", "expected W"),
        ("package.area_mm2", "815nm", "expected mm2"),
        ("package.process_nm", "7s", "expected nm"),
        ("package.price_usd", "7W", "expected USD"),
        ("matrix.macs_per_cycle.fp16", "512B", "expected a plain number"),
        ("matrix.count", "80B", "expected a plain number"),
        ("matrix.clock_hz", "fast", "expected Hz"),
    ],
)
def test_refuses_a_unit_that_does_not_fit(field, text, expected):
    with pytest.raises(UnitError) as caught:
        parse_field(field, text)
    for part in (field, repr(text), expected):
        assert part in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("No", False), ("on", True), ("off", False)])
def test_reads_a_flag(text, value):
    assert parse_field("abilities.fuses_elementwise", text, True) is value


def test_refuses_a_flag_that_is_none():
    with pytest.raises(UnitError, match=r"abilities.fuses_elementwise: '1' is neither true nor false"):
        parse_field("abilities.fuses_elementwise", "1", False)


def test_hands_on_a_choice():
    assert parse_field("matrix.dataflow", "weight-stationary", "output-stationary") == "weight-stationary"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2e12, "B/s", "2.00 TB/s"),
        (999.4, "s", "999 s"),
        (999.6, "s", "1.00 ks"),
        (9.999e-13, "s", "1.00 ps"),
        (1.44e-4, "s", "144 us"),
        (12.34e-3, "s", "12.3 ms"),
        (0.0, "B", "0 B"),
        (-5e6, "B", "-5.00 MB"),
        (1e-16, "s", "1.00e-16 s"),
        (1e23, "FLOP", "1.00e23 FLOP"),
        (123456, "", "123 k"),
        (0.005, "", "0.005"),
        (815, "mm2", "815 mm2"),
        (10_000, "USD", "10000 USD"),
        (7, "nm", "7.00 nm"),
        (math.nan, "s", "n/a"),
        (math.inf, "s", "inf s"),
        (-math.inf, "", "-inf"),
    ],
)
def test_writes(value, unit, text):
    assert format_quantity(value, unit) == text


def test_writes_as_many_digits_as_asked():
    assert format_quantity(1234567, "B", digits=5) == "1.2346 MB"
    assert format_quantity(1234567, "B", digits=1) == "1 MB"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (6291456, "B", "6 MiB"),
        (16e9, "B", "16 GB"),
        (1.555e12, "B/s", "1.555 TB/s"),
        (1.53e9, "Hz", "1.53 GHz"),
        (1.26e-7, "s", "126 ns"),
        (0.83, "", "0.83"),
        (1024, "", "1024"),
        (0.0, "s", "0 s"),
        (1024, "Hz", "1.024 kHz"),  # no binary prefixes for hertz
    ],
)
def test_writes_exactly(value, unit, text):
    assert format_exact(value, unit) == text


numbers = st.floats(min_value=1e-11, max_value=1e19) | st.integers(0, 2**53).map(float)
units = st.sampled_from((*PREFIXED_UNITS, *BARE_UNITS, ""))


@given(numbers, units)
def test_what_is_written_exactly_reads_back_as_the_same_float(value, unit):
    assert parse_quantity(format_exact(value, unit)) == Quantity(value, unit)


@given(numbers, units)
def test_what_is_written_reads_back_to_half_a_digit(value, unit):
    read = parse_quantity(format_quantity(value, unit))
    assert read.unit == unit
    assert read.value == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize("name", presets())
def test_every_number_of_a_preset_can_be_typed_back(name):
    fields = {path: value for path, value in preset(name).fields.items() if isinstance(value, float)}
    assert fields
    for path, value in fields.items():
        assert parse_field(path, format_exact(value, field_unit(path))) == value, path
