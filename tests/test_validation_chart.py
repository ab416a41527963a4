"""The scatter chart, read back from its artists."""

from __future__ import annotations

import numpy as np
import pytest

from reports.arguments import ReportError
from reports.charts import save
from reports.validation import Validation
from reports.validation_chart import LOOKS, kinds, scatter


def made(devices, measured_kinds, measured, predicted, fitted=()) -> Validation:
    measured, predicted = np.array(measured, float), np.array(predicted, float)
    labels = dict.fromkeys(("set", "harness", "op", "dtype", "phase", "network", "shape"), np.full(len(measured), "x"))
    labels |= {"device": np.array(devices), "kind": np.array(measured_kinds)}
    none = np.full(len(measured), np.nan)
    judged = np.isin(np.arange(len(measured)), list(fitted))
    missing = np.where(np.isnan(predicted), "no preset", "")
    return Validation(labels, measured, predicted, none, none, measured, measured, judged, missing)


@pytest.fixture
def validation() -> Validation:
    """Two devices; the last row of the first was fitted, the third device has no preset."""
    return made(
        ["one", "one", "two", "two", "one", "three"],
        ["matmul", "network", "matmul", "matmul", "softmax", "matmul"],
        [1e-3, 1e-1, 1e-4, 1e-2, 1e-3, 1.0],
        [1.1e-3, 9e-2, 2e-4, 1e-2, 5e-3, np.nan],
        fitted=(4,),
    )


def points(ax) -> dict[str, set]:
    return {
        c.get_gid().removeprefix("rows:"): {tuple(point) for point in c.get_offsets().tolist()}
        for c in ax.collections
        if (c.get_gid() or "").startswith("rows:")
    }


def test_a_panel_for_each_device_with_judged_rows(validation):
    panels = scatter(validation)
    assert [ax.get_title().splitlines()[0] for ax in panels] == ["one", "two"]
    assert len(panels[0].figure.axes) == 2


def test_points_are_judged_rows_at_measured_and_predicted(validation):
    one, two = scatter(validation)
    assert points(one) == {"matmul": {(1e-3, 1.1e-3)}, "network": {(1e-1, 9e-2)}}
    assert points(two) == {"matmul": {(1e-4, 2e-4), (1e-2, 1e-2)}}


def test_axes_are_log_log_and_equal(validation):
    for ax in scatter(validation):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert ax.get_xlim() == ax.get_ylim()
        low, high = ax.get_xlim()
        assert all(low < value < high for kind in points(ax).values() for point in kind for value in point)


def test_the_band_is_twenty_percent_to_either_side(validation):
    ax = scatter(validation)[0]
    lines = {line.get_gid(): line.get_xydata() for line in ax.lines}
    for name, ratio in (("exact", 1.0), ("low", 0.8), ("high", 1.2)):
        assert lines[name][:, 1] == pytest.approx(ratio * lines[name][:, 0])
    band = next(c for c in ax.collections if c.get_gid() == "band")
    ratios = band.get_paths()[0].vertices
    ratios = ratios[:, 1] / ratios[:, 0]
    assert (ratios.min(), ratios.max()) == pytest.approx((0.8, 1.2))


def test_the_title_states_rows_and_errors(validation):
    title = scatter(validation)[1].get_title()
    assert "2 rows" in title
    assert "median 50 %, mean 50 %" in title


def test_kinds_differ_in_shape_and_colour():
    assert len({shape for shape, _ in LOOKS.values()}) == len(LOOKS)
    assert len({colour for _, colour in LOOKS.values()}) == len(LOOKS)


def test_the_legend_names_the_kinds_shown(validation):
    figure = scatter(validation)[0].figure
    assert kinds(validation) == ["matmul", "network"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["matmul", "network", "exact", "within 20 %"]


def test_a_kind_without_a_look_of_its_own_is_drawn():
    ax = scatter(made(["one"], ["collective"], [1.0], [2.0]))[0]
    assert points(ax) == {"collective": {(1.0, 2.0)}}


def test_nothing_judged_is_refused():
    with pytest.raises(ReportError, match="no row is judged"):
        scatter(made(["one"], ["matmul"], [1.0], [2.0], fitted=(0,)))


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_it_is_saved(validation, tmp_path, suffix):
    place = save(scatter(validation)[0], tmp_path / f"chart.{suffix}")
    assert place.stat().st_size > 1000
