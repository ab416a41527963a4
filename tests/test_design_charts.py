"""Charts over designs: what is drawn is read back from the artists and compared with the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from reports import charts
from reports.arguments import ReportError
from reports.design_axes import short_name, value_text, varied
from simulator import pareto_front, preset, sensitivity, simulate, sweep, tune
from simulator.metrics import DesignSpaceError
from workloads import lstm, network

COUNTS, BANDWIDTHS = np.arange(8, 81, 8), np.geomspace(1e11, 4e12, 12)
AXES = {"matrix.count": COUNTS, "memory.dram.bandwidth": BANDWIDTHS}


@pytest.fixture(scope="module")
def chip():
    return preset("v100-sxm")


@pytest.fixture(scope="module")
def bert():
    return network("bert-base", dtype="fp16")


@pytest.fixture(scope="module")
def grid(bert, chip):
    return simulate(bert, chip.grid(AXES))


def artists(ax, prefix: str) -> dict[str, object]:
    """Everything on the axes whose id starts so, by id."""
    found = {}
    for artist in ax.findobj(lambda a: (a.get_gid() or "").startswith(prefix)):
        found[artist.get_gid()] = artist
    return found


def saved(ax, tmp_path) -> bool:
    """Whether the chart can be written, which lays it out."""
    return charts.save(ax, tmp_path / "chart.png").stat().st_size > 5000


# -- heat map ------------------------------------------------------------------------------------------


def test_a_heat_map_shows_the_metric_of_each_design(grid, tmp_path):
    ax = charts.heat_map(grid)
    heat = artists(ax, "heat")["heat"]
    assert heat.get_array().reshape(12, 10).T.tolist() == grid.latency_s.tolist()
    assert ax.get_xlabel() == "matrix.count"
    assert ax.get_ylabel() == "memory.dram.bandwidth [B/s]"
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert artists(ax, "iso")
    assert saved(ax, tmp_path)


def test_regions_are_parted_where_the_bound_changes(grid):
    ax = charts.heat_map(grid, "utilisation")
    shares = grid.time_share_by_bound()
    table = np.stack([shares[name] for name in shares])
    bound = table.argmax(0)
    changes = (bound[1:] != bound[:-1]).sum() + (bound[:, 1:] != bound[:, :-1]).sum()
    assert changes > 0
    assert len(artists(ax, "regions")["regions"].get_segments()) == changes
    names = list(shares)
    for gid, text in artists(ax, "region:").items():
        x, y = text.get_position()
        i, j = np.abs(COUNTS - x).argmin(), np.abs(BANDWIDTHS - y).argmin()
        assert names[bound[i, j]] == gid.removeprefix("region:")


def test_one_region_needs_no_line(chip):
    trace = lstm(1, 8192, sequence_length=10, dtype="fp16", hoist_input=False)
    ax = charts.heat_map(simulate(trace, chip.grid({"matrix.count": [40, 80], "memory.dram.bandwidth": [1e11, 2e11]})))
    assert len(artists(ax, "regions")["regions"].get_segments()) == 0
    assert list(artists(ax, "region:")) == ["region:dram"]


def test_heat_maps_refuse(grid, bert, chip):
    with pytest.raises(ReportError, match="a Result is expected, got str"):
        charts.heat_map("x")
    with pytest.raises(ReportError, match="grid of two fields"):
        charts.heat_map(simulate(bert, chip))
    with pytest.raises(ReportError, match="grid of two fields"):
        charts.heat_map(simulate(bert, chip.grid({"matrix.count": [1, 2]})))
    with pytest.raises(DesignSpaceError, match="did you mean 'latency_s'"):
        charts.heat_map(grid, "latenci_s")
    mixed = chip.replace({"matrix.count": np.array([[1, 2], [3, 4]])})
    with pytest.raises(ReportError, match="dimension 0 of its designs varies no field alone"):
        charts.heat_map(simulate(bert, mixed))


# -- Pareto --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(bert, chip):
    return sweep(bert, chip, metrics=["latency_s", "matrix.count", "memory.dram.bandwidth"], **AXES)


def test_the_front_is_drawn_and_its_knee_named(swept, tmp_path):
    ax = charts.pareto(swept)
    points = np.column_stack([swept["latency_s"], swept["matrix.count"]])
    front = points[pareto_front(points)]
    assert artists(ax, "front points")["front points"].get_offsets().tolist() == front.tolist()
    assert len(artists(ax, "others")["others"].get_offsets()) == len(points) - len(front)
    (knee,) = artists(ax, "knee")["knee"].get_offsets().tolist()
    assert knee in front.tolist()
    text = artists(ax, "knee text")["knee text"].get_text()
    assert text.startswith(f"knee: {value_text('latency_s', knee[0])}")
    assert f"matrix.count = {knee[1]:.0f}" in text
    assert saved(ax, tmp_path)


def test_a_third_metric_is_the_colour(swept, tmp_path):
    ax = charts.pareto(swept, metrics=["latency_s", "matrix.count", "memory.dram.bandwidth"])
    points = np.column_stack([swept[name] for name in ("latency_s", "matrix.count", "memory.dram.bandwidth")])
    front = points[pareto_front(points)]
    assert artists(ax, "front points")["front points"].get_array().tolist() == front[:, 2].tolist()
    assert saved(ax, tmp_path)


def test_pareto_charts_refuse(swept, bert, chip):
    with pytest.raises(ReportError, match="a Sweep is expected"):
        charts.pareto(3)
    with pytest.raises(ReportError, match="two or three metrics"):
        charts.pareto(sweep(bert, chip, **AXES))
    with pytest.raises(ReportError, match="kept no design"):
        charts.pareto(sweep(bert, chip, metrics=["latency_s", "matrix.count"], subject_to={"latency_s": 0.0}, **AXES))


# -- tornado -------------------------------------------------------------------------------------------


def test_bars_are_the_elasticities(bert, chip, tmp_path):
    found = sensitivity(bert, chip)
    ax = charts.tornado(found, top=5)
    bars = {gid: bar.get_width() for gid, bar in (artists(ax, "more:") | artists(ax, "less:")).items()}
    order = np.argsort(-found.gain, kind="stable")[:5]
    for i in order:
        name = found.fields[i]
        for side, sign in (("more", 1), ("less", -1)):
            value = getattr(found, side)[i]
            if np.isnan(value):
                assert f"{side}:{name}" not in bars
            else:
                assert bars[f"{side}:{name}"] == pytest.approx(sign * value)
    (beside,) = [other for other in ax.figure.axes if other is not ax]
    shares = {gid.removeprefix("free:"): bar.get_width() / 100 for gid, bar in artists(beside, "free:").items()}
    assert shares == pytest.approx(found.free)
    assert saved(ax, tmp_path)


def test_a_tornado_on_a_user_s_axes_leaves_the_rest_alone(bert, chip):
    from matplotlib.figure import Figure

    mine = Figure().subplots()
    assert charts.tornado(sensitivity(bert, chip), mine) is mine
    assert mine.figure.axes == [mine]
    with pytest.raises(ReportError, match="a Sensitivity is expected"):
        charts.tornado(3)
    with pytest.raises(ReportError, match="top must be 1 or more"):
        charts.tornado(sensitivity(bert, chip), top=0)


# -- utilisation, moving design, search ----------------------------------------------------------------


def test_utilisation_is_drawn_against_batch(chip, tmp_path):
    results = [simulate(network("gnmt", dtype="fp16", batch=batch), chip) for batch in (16, 1, 4)]
    ax = charts.utilisation(results)
    line = artists(ax, "line:")["line:0"]
    assert line.get_xdata().tolist() == [1, 4, 16]
    expected = {result.trace.sequences: 100 * result.utilisation for result in results}
    assert line.get_ydata().tolist() == [expected[batch] for batch in (1, 4, 16)]
    assert saved(ax, tmp_path)
    with pytest.raises(ReportError, match="batch 4 twice"):
        charts.utilisation([*results, results[-1]])


def test_a_design_moves_under_its_roofs(chip, tmp_path):
    trace = network("lstm-zaremba-large", dtype="fp16")
    result = simulate(trace, chip.grid({"memory.dram.bandwidth": BANDWIDTHS}))
    ax = charts.roofline_path(result)
    path = artists(ax, "path")["path"]
    assert path.get_xdata().tolist() == result.network_intensity().tolist()
    assert path.get_ydata().tolist() == result.attained.tolist()
    roofs = artists(ax, "roof:")
    for gid, bandwidth in (("roof:first", BANDWIDTHS[0]), ("roof:last", BANDWIDTHS[-1])):
        x, y = roofs[gid].get_data()
        assert y[0] / x[0] == pytest.approx(bandwidth)
        assert y[1] == y[2] == chip.peak_flops_per_s("fp16")
    assert saved(ax, tmp_path)
    with pytest.raises(ReportError, match="designs along one field"):
        charts.roofline_path(simulate(trace, chip))


def test_a_search_is_drawn_against_the_limit_that_binds(bert, chip, tmp_path):
    found = tune(bert, chip, AXES, minimise="latency_s", subject_to={"matrix.count": 40, "memory.dram.bandwidth": 9e12})
    assert found.binding == ("matrix.count",)
    ax = charts.tuned(found)
    assert artists(ax, "best")["best"].get_offsets().tolist() == [[40, found.value]]
    inside = artists(ax, "within the limits")["within the limits"].get_offsets()
    assert len(inside) == 5 * 12
    assert inside[:, 0].max() == 40
    assert artists(ax, "limit")["limit"].get_xdata() == [40, 40]
    assert ax.get_xlabel() == "matrix.count"
    assert saved(ax, tmp_path)


def test_a_search_without_limits_shows_its_progress(bert, chip, tmp_path):
    found = tune(bert, chip, AXES, maximise="tokens_per_s")
    ax = charts.tuned(found)
    line = artists(ax, "best so far")["best so far"]
    assert line.get_ydata()[-1] == found.value
    assert (np.diff(line.get_ydata()) >= 0).all()
    assert saved(ax, tmp_path)
    with pytest.raises(ReportError, match="a Tuned is expected"):
        charts.tuned(3)


# -- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("memory.dram.bandwidth_bytes_per_s", "memory.dram.bandwidth"),
        ("memory.l2.capacity_bytes", "memory.l2.capacity"),
        ("matrix.clock_hz", "matrix.clock"),
        ("latency_s", "latency"),
        ("tokens_per_s", "tokens per s"),
        ("lstm:latency_s", "lstm:latency"),
        ("critical_path_s", "critical path"),
        ("area_mm2", "area"),
        ("energy_per_token_j", "energy per token"),
        ("latency.launch_s", "latency.launch"),
        ("matrix.count", "matrix.count"),
        ("matrix.tile_n", "matrix.tile_n"),  # a field as it is typed
        ("latency.first_steps", "latency.first_steps"),
        ("in_memory.command_s", "in_memory.command"),
        ("in_memory.bandwidth_bytes_per_s", "in_memory.bandwidth"),
    ],
)
def test_names_lose_their_unit(name, short):
    assert short_name(name) == short


def test_values_read_as_people_write_them():
    assert value_text("memory.dram.bandwidth_bytes_per_s", 2e12) == "2.00 TB/s"
    assert value_text("matrix.count", 80.0) == "80"
    assert value_text("abilities.fuses_elementwise", True) == "true"
    assert value_text("matrix.dataflow", "weight-stationary") == "weight-stationary"


def test_axes_of_a_grid_are_found(grid):
    (first, x), (second, y) = varied(grid)
    assert (first, second) == ("matrix.count", "memory.dram.bandwidth_bytes_per_s")
    assert x.tolist() == COUNTS.tolist()
    assert y.tolist() == BANDWIDTHS.tolist()
