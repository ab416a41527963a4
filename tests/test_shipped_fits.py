"""The constants that ship: fitted to other rows than they are judged on, found again, with honest intervals."""

from __future__ import annotations

import numpy as np
import pytest

from reports.shipped import shipped
from simulator import preset
from simulator.calibrate import held_out, predict, predict_interval

pytest.importorskip("scipy", reason="needs scipy: pip install 'rooftrace[calibrate]'")

#: Kinds of rows -> share of judged rows within their 80 % interval, all fitted sets of all chips together.
HONEST = (0.72, 0.88)


def test_intervals_cover_four_fifths_of_the_rows_not_fitted():
    """By kind: products, elementwise and softmax, fused attention, recurrent layers."""
    from reports.fits import FITS
    from simulator.accelerator import call_times
    from simulator.uncertainty import kind_of

    inside: dict[str, list] = {}
    rows = shipped()
    for name, spec in FITS.items():
        own = rows.select((rows.device == name) & np.isin(rows.set, spec.sets))
        own = own.select(held_out(own))
        low, high = predict_interval(preset(name), own, call_times(name))
        assert (low < high).all()
        for kind, within in zip(own.kind.tolist(), (low <= own.time_s) & (own.time_s <= high), strict=True):
            inside.setdefault(kind_of(kind), []).append(within)
    assert set(inside) == {"product", "vector", "attention", "recurrent"}
    for kind, within in inside.items():
        assert HONEST[0] <= np.mean(within) <= HONEST[1], (kind, np.mean(within))


def test_the_constants_that_ship_are_not_fitted_to_what_is_judged():
    from reports.fits import FITS, fitted_rows

    rows = shipped()
    for name, spec in FITS.items():
        fitted = fitted_rows(name)
        own = rows.select((rows.device == name) & np.isin(rows.set, spec.sets))
        judged = own.select(held_out(own))
        assert not set(fitted.shape.tolist()) & set(judged.select(np.isin(judged.set, spec.sets)).shape.tolist()) or (
            not {(s, d, h) for s, d, h in zip(fitted.set, fitted.dtype, fitted.shape, strict=True)}
            & {(s, d, h) for s, d, h in zip(judged.set, judged.dtype, judged.shape, strict=True)}
        )
        assert len(fitted) + len(judged) == len(own)


@pytest.mark.parametrize("name", ["titan-x-pascal", "m40", "v100-sxm"])
def test_a_fit_made_anew_predicts_what_the_shipped_constants_do(name):
    from reports.fits import fit, fitted_rows
    from simulator.accelerator import call_times

    rows, found = fitted_rows(name), fit(name)
    anew = predict(found.accelerator, rows, found.call_s)
    shipped_s = predict(preset(name), rows, call_times(name))
    assert np.median(np.abs(anew / shipped_s - 1)) < 0.02
