"""The constants shipped with the presets: what they were fitted to, and that a fit made today finds them."""

from __future__ import annotations

import numpy as np
import pytest

from reports.fits import (
    FITS,
    OUTER,
    OWN,
    chip_of,
    fit,
    fitted_rows,
    is_discrete,
    is_known,
    spreads,
    typical,
)  # fmt: skip
from reports.shipped import shipped
from reports.validation import was_fitted
from simulator import preset
from simulator.accelerator import _calibrated, call_times, measured_presets, standard_errors
from simulator.calibrate import held_out, predict
from workloads.measured import measurements

#: Fitted in seconds, so by every run of the tests; the others are marked slow.
QUICK = ("titan-x-pascal", "m40")
LABELS = ("device", "set", "op", "dtype", "phase", "network", "shape")


def keys(m, which=slice(None)) -> set[tuple]:
    return set(zip(*(m.labels[name][which].tolist() for name in LABELS), strict=True))


# -- fitted and judged -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITS)
def test_fitted_rows_are_none_that_are_judged(name):
    """By device, set, op, type, phase and shape: neither a row that the validation judges, nor one held out."""
    m, rows = shipped(), fitted_rows(name)
    own = m.device == name
    assert set(rows.device.tolist()) == {name}
    assert set(rows.set.tolist()) == set(FITS[name].sets)
    fitted = own & was_fitted(m, {name: preset(name)})
    assert len(rows) == fitted.sum()
    assert keys(rows) == keys(m, fitted)
    assert not keys(rows) & keys(m, own & ~fitted)
    assert not keys(rows) & keys(m, held_out(m))


def test_networks_are_judged_alone():
    """Whole networks are in no fit: they are predicted from single ops."""
    for name in FITS:
        assert "network" not in fitted_rows(name).kind.tolist(), name


def test_what_is_fitted_is_what_ships():
    assert tuple(FITS) == measured_presets()
    for name, spec in FITS.items():
        assert set(call_times(name)) == set(fitted_rows(name).harness.tolist()), name
        outer = list(preset(name).memory)[-1]
        wanted = {path.replace("OUTER", outer) for path in (*spec.parameters(), *spec.given)}
        assert set(_calibrated()[name]["constants"]) <= wanted, name
        for path, (low, high) in ((p, r) for p, r in spec.parameters().items() if isinstance(r, tuple)):
            # the file has four digits
            assert low * 0.999 <= preset(name).fields[path.replace("OUTER", outer)] <= high * 1.001, (name, path)


# -- a device nobody measured ------------------------------------------------------------------------


def test_typical_by_hand():
    """Geometric mean of numbers, the most common of choices, of those that have it; nothing of one device's own."""
    found = [
        {"matrix.sustained": 0.4, "latency.step_s": 1e-6, "matrix.batched_tile": 64, OWN[0]: 5.0},
        {"matrix.sustained": 0.9, "matrix.batched_tile": 128},
        {"latency.step_s": 4e-6, "matrix.batched_tile": 64},
    ]
    known = typical(found)
    assert known == pytest.approx({"matrix.sustained": 0.6, "latency.step_s": 2e-6, "matrix.batched_tile": 64})
    assert known["matrix.batched_tile"] == 64
    assert typical([]) == {}
    assert typical([{"a": 1.0}, {"a": 4.0}], whole=False) == pytest.approx({"a": 2.0})  # names of harnesses


@pytest.mark.parametrize(
    ("path", "discrete"),
    [
        ("matrix.batched_tile", True),
        ("latency.first_steps", True),
        ("abilities.skips_masked", True),
        ("matrix.sustained", False),
        (f"{OUTER}.sustained", False),
        ("latency.step_s", False),
    ],
)
def test_which_fields_have_no_mean(path, discrete):
    assert is_discrete(path) is discrete


def test_what_is_known_no_better_than_half_is_no_part_of_the_class():
    assert is_known(1.0, 0.49)
    assert not is_known(1.0, 0.5)
    assert is_known(64, None)


def test_boards_of_a_chip_are_one_chip():
    assert chip_of("a100-pcie-40gb") == chip_of("a100-sxm-80gb") == "a100"
    assert chip_of("t4") == "t4"


def test_the_class_is_what_its_members_tell():
    """The class constants in the file are the typical ones of the presets in the file."""
    told = []
    for name in FITS:
        outer = f"memory.{list(preset(name).memory)[-1]}."
        errors, entries = standard_errors(name), _calibrated()[name]["constants"]
        values = {path: entry["value"] for path, entry in entries.items() if path not in FITS[name].given}
        told.append({p.replace(outer, f"{OUTER}."): v for p, v in values.items() if is_known(v, errors.get(p))})
    shipped_class = {path: entry["value"] for path, entry in _calibrated()["gpu"]["constants"].items()}
    assert shipped_class == pytest.approx(typical(told), rel=1e-3)
    calls = typical([call_times(name) for name in FITS], whole=False)
    assert _calibrated()["gpu"]["calls"] == pytest.approx(calls, rel=0.01)  # three digits


# -- spreads -----------------------------------------------------------------------------------------


def rows_of(op: str, ratios, predicted_s: float):
    """Rows of one op that took `ratios` times what was predicted, and the predictions."""
    sizes = {"m": 2, "n": 2, "k": 2} if op == "matmul" else {"rows": 2, "columns": 2}
    return [{"op": op, "time_s": float(r) * predicted_s} | sizes for r in ratios], [predicted_s] * len(ratios)


def made(*parts):
    rows = [row for part, _ in parts for row in part]
    return measurements(rows), np.array([p for _, predicted in parts for p in predicted])


def test_spreads_by_hand():
    """Logarithms -1, -0.9, ... 1 of 21 rows: the tenth and the ninetieth percentile are -0.8 and 0.8."""
    even = np.exp(np.linspace(-1, 1, 21))
    found = spreads(*made(rows_of("matmul", even, 1e-5)))
    assert list(found) == ["any", "product"]
    assert found["any"] == found["product"] == [[1e9, pytest.approx(-0.8), pytest.approx(0.8)]]


def test_spreads_have_a_step_a_size():
    """Short products are off by a factor of two, long ones by nothing; the last step is without end."""
    even = np.exp(np.linspace(-1, 1, 21))
    found = spreads(*made(rows_of("matmul", 2 * even, 1e-5), rows_of("matmul", np.ones(20), 5e-4)))["product"]
    assert [step[0] for step in found] == [1e-4, 1e9]
    assert found[0][1:] == pytest.approx([np.log(2) - 0.8, np.log(2) + 0.8])
    assert found[1][1:] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_kinds_of_few_rows_have_one_step_or_none():
    even = np.exp(np.linspace(-1, 1, 21))
    many = rows_of("matmul", even, 1e-5)
    for count in (9, 10, 19):
        some = rows_of("add", np.full(count, 3.0), 1e-5)
        found = spreads(*made(many, some))
        assert ("vector" in found) == (count >= 10)
        if count >= 10:
            assert found["vector"] == [[1e9, pytest.approx(np.log(3)), pytest.approx(np.log(3))]]
        assert "any" in found


@pytest.mark.parametrize("name", FITS)
def test_shipped_spreads_are_of_the_fitted_rows(name):
    """Four digits of the file; the predictions are of constants that have as many."""
    rows = fitted_rows(name)
    now, then = spreads(rows, predict(preset(name), rows, call_times(name))), preset(name).spread
    assert now.keys() == then.keys()
    for kind, steps in now.items():
        assert np.array(then[kind]) == pytest.approx(np.array(steps), abs=0.01), (name, kind)


# -- the file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FITS])
def test_the_shipped_constants_are_what_a_fit_finds(name):
    """Constants within 5 %, or, where the rows hardly tell them, predictions within 1 % of those of the fit."""
    pytest.importorskip("scipy", reason="needs scipy: pip install 'rooftrace[calibrate]'")
    found, chip, rows = fit(name), preset(name), fitted_rows(name)
    assert set(found.values) | set(FITS[name].given) == set(_calibrated()[name]["constants"])
    ratio = predict(chip, rows, call_times(name)) / predict(found.accelerator, rows, found.call_s)
    alike = np.abs(ratio - 1).max() < 0.01
    constants = all(
        chip.fields[path] == pytest.approx(value, rel=0.05 if not is_discrete(path) else 0)
        for path, value in found.values.items()
    )
    assert alike or constants
    assert np.median(np.abs(ratio - 1)) < 0.01
    assert set(standard_errors(name)) == set(found.stderr) & set(found.values)
