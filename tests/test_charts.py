"""Charts are read back from their artists: what is drawn is what the result says, and nothing needs a display."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from reports import canvas, label_places
from reports.arguments import ReportError
from reports.charts import breakdown, marker_area, roofline, roofline_panels, save
from reports.palette import CATEGORIES, GREY, bound_looks, colours
from reports.roofline_markers import LEAST_AREA, WHOLE_AREA, ring_areas
from simulator import preset, presets, simulate
from simulator.accelerator import BOUNDS_BESIDE_MEMORY
from workloads import Trace, network
from workloads.training import training

ROOT = Path(__file__).resolve().parents[1]


#: Fixed costs so small that the ops have different bounds.
QUICK = {"latency.launch": 1e-10, "latency.step": 1e-10, "memory.dram.latency": 1e-10}
_drawn: dict[str, Axes] = {}


@pytest.fixture
def result(trace, blocked):
    return simulate(trace, blocked.replace(QUICK))


@pytest.fixture
def chart(result) -> Axes:
    """The roofline of `result`, drawn once for all tests that only read it."""
    if "roofline" not in _drawn:
        _drawn["roofline"] = roofline(result)
    return _drawn["roofline"]


def artists(ax, prefix: str) -> dict[str, object]:
    """Artists whose name starts with `prefix`, by the rest of the name."""
    found = {}
    for artist in ax.get_children():
        name = artist.get_gid() or ""
        if name.startswith(f"{prefix}:"):
            found[name.split(":", 1)[1]] = artist
    return found


def place(artist) -> tuple[float, float]:
    x, y = artist.get_offsets()[0]
    return float(x), float(y)


def many_layers(layers: int, chip) -> object:
    """`layers` unlike layers of five ops each."""
    rows = []
    for number in range(layers):
        for op in range(4):
            m, n = 16 * (number + 1), 64 * (op + 1)
            sizes = {"batch": 1, "m": m, "n": n, "k": 64, "matrix_flops": 128 * m * n, "weight_bytes": 128 * n}
            streams = {"input_bytes": 128 * m, "output_bytes": 2 * m * n, "dtype": "fp16"}
            rows.append({"layer": f"layer.{number}", "op": f"product {op}", "kind": "matmul"} | sizes | streams)
        add = {"layer": f"layer.{number}", "op": "add", "kind": "elementwise", "vector_flops": 4096 * (number + 1)}
        rows.append(add | {"input_bytes": 16384, "output_bytes": 8192, "dtype": "fp16"})
    return simulate(Trace.from_rows(rows, name="many"), chip)


# -- the roofline ------------------------------------------------------------------------------------


def test_axes_are_log_log_with_units(result, chart):
    assert isinstance(chart, Axes)
    assert (chart.get_xscale(), chart.get_yscale()) == ("log", "log")
    assert "[FLOP/byte]" in chart.get_xlabel()
    assert "dram" in chart.get_xlabel()
    assert "[FLOP/s]" in chart.get_ylabel()
    assert "tiny lstm on blocked" in chart.get_title()


def test_one_marker_an_op_at_its_intensity_and_rate(result, chart):
    markers = artists(chart, "op")
    assert len(markers) == 4
    for name, marker in markers.items():
        row, bound = int(name.split(":")[-2]), name.split(":")[-1]
        assert bound == result.bound[row]
        x, y = place(marker)
        assert y == pytest.approx(result.attained_flops_per_s[row])
        if math.isfinite(result.intensity["dram"][row]):
            assert x == pytest.approx(result.intensity["dram"][row])


def test_every_marker_is_inside_the_axes(chart):
    (left, right), (bottom, top) = chart.get_xlim(), chart.get_ylim()
    for marker in (artists(chart, "op") | artists(chart, "network")).values():
        x, y = place(marker)
        assert left < x < right
        assert bottom < y < top


def test_marker_area_is_the_share_of_the_time(result, chart):
    share = result.total_s / result.total_s.sum()
    for name, marker in artists(chart, "op").items():
        expected = max(LEAST_AREA, WHOLE_AREA * share[int(name.split(":")[-2])])
        assert marker.get_sizes()[0] == pytest.approx(expected)
    assert marker_area(1.0) == WHOLE_AREA
    assert marker_area(0.0) == LEAST_AREA
    assert marker_area(0.5) / marker_area(0.25) == pytest.approx(2)


def test_colour_is_the_layer_and_shape_the_bound(result, chart):
    by_layer, by_bound = {}, {}
    for name, marker in artists(chart, "op").items():
        row, bound = int(name.split(":")[-2]), name.split(":")[-1]
        by_layer.setdefault(result.trace.layer[row], set()).add(to_hex(marker.get_facecolor()[0]))
        by_bound.setdefault(bound, set()).add(marker.get_paths()[0].vertices.tobytes())
    assert all(len(found) == 1 for found in (*by_layer.values(), *by_bound.values()))
    assert by_layer["lstm.0"] != by_layer["head"]
    assert len({next(iter(paths)) for paths in by_bound.values()}) == len(by_bound) > 1


def test_equal_ops_are_rings_with_an_area_each(trace, flat):
    twice = trace.replace(layer=["a", "b", "b", "b"])
    rows = twice.rows()
    second = rows[0] | {"layer": "c", "after": (3,)}  # the same product once more
    result = simulate(Trace.from_rows([*rows, second], name="rings"), flat)
    share = result.total_s / result.total_s.sum()
    sizes = {int(n.split(":")[-2]): m.get_sizes()[0] for n, m in artists(roofline(result), "op").items()}
    assert sizes[0] == pytest.approx(WHOLE_AREA * (share[0] + share[4]))
    assert sizes[4] == pytest.approx(WHOLE_AREA * share[4])
    colour = {int(n.split(":")[-2]): to_hex(m.get_facecolor()[0]) for n, m in artists(roofline(result), "op").items()}
    assert colour[0] != colour[4]


def test_ring_areas_show_the_shares():
    areas = ring_areas([0.3, 0.2, 0.1])
    visible = [outer - inner for outer, inner in zip(areas, [*areas[1:], 0.0], strict=True)]
    np.testing.assert_allclose(visible, [WHOLE_AREA * s for s in (0.3, 0.2, 0.1)], rtol=1e-12)
    tiny = ring_areas([0.0] * 5)
    assert tiny[-1] == LEAST_AREA
    assert all(outer > inner for outer, inner in itertools.pairwise(tiny))


def test_every_level_and_every_used_peak_has_its_roof(trace, blocked):
    rows = [row | {"dtype": "fp32", "weight_dtype": "fp32", "activation_dtype": "fp32"} for row in trace.rows()[:1]]
    both = Trace.from_rows([*trace.rows(), *(row | {"after": (3,)} for row in rows)], name="both")
    ax = roofline(simulate(both, blocked))
    slanted = {name.split(":")[-1]: line for name, line in artists(ax, "roof").items()}
    assert list(slanted) == ["dram", "l2", "l1"]
    for level, line in slanted.items():
        x, y = line.get_data()
        np.testing.assert_allclose(y / x, blocked.memory[level].bandwidth_bytes_per_s)
        assert y[-1] == max(blocked.peak_flops_per_s("fp16"), 0)  # ends at the highest peak in use
    peaks = {name.split(":")[-1]: set(line.get_ydata()) for name, line in artists(ax, "peak").items()}
    assert peaks == {
        "fp16": {blocked.peak_flops_per_s("fp16")},
        "fp32": {blocked.peak_flops_per_s("fp32")},
        "vector": {blocked.vector_flops_per_s},
    }


def test_peaks_not_in_use_are_left_out(trace, blocked):
    products = Trace.from_rows([row | {"after": ()} for row in trace.rows()[:2]], name="products")
    ax = roofline(simulate(products, blocked))
    assert [name.split(":")[-1] for name in artists(ax, "peak")] == ["fp16"]  # no fp32, no vector ops


def test_a_network_without_products_has_the_vector_roof_alone(trace, blocked):
    softmax = Trace.from_rows([trace.rows()[3] | {"after": ()}], name="softmax")
    ax = roofline(simulate(softmax, blocked))
    assert [name.split(":")[-1] for name in artists(ax, "peak")] == ["vector"]


def test_ridge_points_are_where_the_roofs_meet(result, chart):
    chip = result.accelerator
    for name, dots in artists(chart, "ridge").items():
        peak = chip.vector_flops_per_s if name.endswith("vector") else chip.peak_flops_per_s("fp16")
        x, y = dots.get_data()
        assert set(y) == {peak}
        expected = {peak / level.bandwidth_bytes_per_s for level in chip.memory.values()}
        assert set(x) == expected
    ridges = artists(chart, "ridge")["tiny lstm on blocked:fp16"]
    assert chip.ridge_flops_per_byte("fp16") in ridges.get_xdata()


def test_roofs_are_labelled_along_their_slope(result):
    ax = roofline(result)
    labels = artists(ax, "label")
    assert set(labels) >= {"dram 10.0 GB/s", "fp16 128 GFLOP/s", "vector 32.0 GFLOP/s"}
    (x, y), (x2, y2) = ax.transData.transform([(1, 1e10), (10, 1e11)])
    slope = math.degrees(math.atan2(y2 - y, x2 - x))
    assert labels["dram 10.0 GB/s"].get_rotation() == pytest.approx(slope, abs=0.01)
    assert labels["fp16 128 GFLOP/s"].get_rotation() == 0
    ax.figure.set_size_inches(4, 9)  # turns with the axes
    ax.figure.draw_without_rendering()
    assert labels["dram 10.0 GB/s"].get_rotation() > slope + 10


def test_the_star_is_the_whole_network(result, chart):
    stars = artists(chart, "network")
    assert list(stars) == ["tiny lstm on blocked"]
    x, y = place(stars["tiny lstm on blocked"])
    assert x == pytest.approx(result.network_intensity())
    assert y == pytest.approx(result.attained)
    ops = artists(chart, "op")
    shapes = {marker.get_paths()[0].vertices.tobytes() for marker in ops.values()}
    assert stars["tiny lstm on blocked"].get_paths()[0].vertices.tobytes() not in shapes


def test_ops_without_traffic_stand_in_the_strip(trace, blocked):
    result = simulate(trace, blocked.replace({"memory.l2.capacity": 1e6}))
    assert math.isinf(result.intensity["dram"][3])
    ax = roofline(result)
    strip = next(a for a in ax.get_children() if a.get_gid() == "strip")
    start = strip.get_bbox().x0
    for name, marker in artists(ax, "op").items():
        row = int(name.split(":")[-2])
        assert (place(marker)[0] > start) == math.isinf(result.intensity["dram"][row])
    assert "no traffic at dram" in ax.get_xlabel()
    assert max(ax.get_xticks()) < start


def test_ops_without_flop_are_counted(blocked, trace):
    look_up = {"layer": "a", "op": "look up", "kind": "gather", "weight_bytes": 64, "output_bytes": 64, "dtype": "fp16"}
    result = simulate(Trace.from_rows([look_up, *trace.rows()[:1]], name="with gather"), blocked)
    ax = roofline(result)
    assert len(artists(ax, "op")) == 1
    assert "not shown: 1 op without FLOP" in ax.get_xlabel()
    assert [text.get_text() for text in ax.artists[0].get_texts()] == ["lstm.0"]  # a layer without a marker is left out
    alone = roofline(simulate(Trace.from_rows([look_up], name="gather"), blocked))
    assert artists(alone, "op") == {}
    assert artists(alone, "network") == {}


# -- several results ---------------------------------------------------------------------------------


def test_several_results_share_a_chart(trace, blocked, systolic):
    results = {"before": simulate(trace, blocked), "after": simulate(trace, systolic)}
    ax = roofline(results)
    for label, result in results.items():
        mine = {n: m for n, m in artists(ax, "op").items() if n.startswith(f"{label}:")}
        assert len(mine) == len(result.trace)
        assert len({to_hex(m.get_facecolor()[0]) for m in mine.values()}) == 1  # colour is the result
    stars = artists(ax, "network")
    assert list(stars) == ["before", "after"]
    assert to_hex(stars["before"].get_facecolor()[0]) != to_hex(stars["after"].get_facecolor()[0])
    assert set(artists(ax, "roof")) == {"before:dram", "after:dram"}  # the farthest level of each chip


def test_networks_on_one_chip_share_its_roofs(trace, blocked):
    ax = roofline([simulate(trace, blocked), simulate(trace.replace(name="other"), blocked)])
    assert [name.split(":")[-1] for name in artists(ax, "roof")] == ["dram", "l2", "l1"]
    assert ax.get_title() == "2 networks on blocked"


def test_stars_are_numbered_as_in_the_legend(trace, blocked, systolic):
    ax = roofline([simulate(trace, blocked), simulate(trace, systolic)])
    numbers = {t.get_text() for t in ax.texts}
    assert {"1", "2"} <= numbers or "1, 2" in numbers
    upper = next(a for a in ax.artists)
    assert [t.get_text() for t in upper.get_texts()][:2] == ["1  blocked", "2  systolic"]


def test_equal_stars_share_their_numbers(result):
    ax = roofline([result, result])
    assert "1, 2" in {t.get_text() for t in ax.texts}
    areas = [star.get_sizes()[0] for star in artists(ax, "network").values()]
    assert areas[0] > areas[1]  # both can be seen


def test_panels_of_networks_and_chips(trace, blocked, systolic):
    chips, traces = (blocked, systolic), (trace, trace.replace(name="other"))
    panels = roofline_panels([simulate(t, chip) for t in traces for chip in chips])
    assert [ax.get_title() for ax in panels] == ["tiny lstm on 2 chips", "other on 2 chips"]
    assert panels[0].figure is panels[1].figure
    assert [list(artists(ax, "network")) for ax in panels] == [["blocked", "systolic"]] * 2
    assert len(roofline_panels([simulate(trace, chip) for chip in chips])) == 1


# -- legends and layout ------------------------------------------------------------------------------


def test_legends_of_sixty_ops_in_thirty_layers_are_short(blocked):
    result = many_layers(30, blocked)
    ax = roofline(result)
    assert len(artists(ax, "op")) == 150
    upper, lower = ax.artists[0], ax.get_legend()
    names = [text.get_text() for text in upper.get_texts()]
    assert len(names) == len(CATEGORIES) + 1
    assert names[-1] == f"{30 - len(CATEGORIES)} other layers"
    assert lower.get_title().get_text() == "bound by (shape)"
    shown = [text.get_text() for text in lower.get_texts()]
    assert [name for name in shown if name in result.bound_names] == [
        name for name in bound_looks(blocked.memory) if name in result.bound
    ]
    assert "whole network" in shown


def test_the_layers_with_most_time_keep_their_colour(blocked):
    result = many_layers(12, blocked)
    shares = result.time_share_by_layer()
    longest = sorted(shares, key=lambda layer: -float(shares[layer]))[: len(CATEGORIES)]
    for name, marker in artists(roofline(result), "op").items():
        layer = result.trace.layer[int(name.split(":")[-2])]
        assert (to_hex(marker.get_facecolor()[0]) == GREY.lower()) == (layer not in longest)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_nothing_is_clipped_and_legends_do_not_overlap(trace, blocked, count):
    chips = [
        blocked.replace({"matrix.clock": 1e9 * (n + 1)}, name=f"a chip with a long name {n}") for n in range(count)
    ]
    ax = roofline([simulate(trace, chip) for chip in chips])
    ax.figure.draw_without_rendering()
    page = ax.figure.bbox
    upper, lower = ax.artists[0].get_window_extent(), ax.get_legend().get_window_extent()
    for box in (upper, lower, ax.title.get_window_extent(), ax.xaxis.label.get_window_extent()):
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1
        assert box.y1 <= page.y1 + 1
    assert not upper.overlaps(lower)
    assert not upper.overlaps(ax.get_window_extent())


def test_names_of_ops_cover_neither_each_other_nor_the_roof_labels(blocked):
    ax = roofline(many_layers(6, blocked))
    ax.figure.draw_without_rendering()
    names = artists(ax, "name")
    assert names
    boxes = [text.get_window_extent() for text in names.values()]
    boxes += [t.get_window_extent() for n, t in artists(ax, "label").items() if n.startswith(("fp16", "vector"))]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_a_user_s_axes_are_drawn_on(result):
    figure = Figure(figsize=(12, 4))
    left, right = figure.subplots(1, 2)
    assert roofline(result, ax=left) is left
    assert breakdown(result, ax=right) is right
    assert len(artists(left, "op")) == 4
    assert len(artists(right, "bar")) == len(bars(right)) > 1
    sub = figure.subfigures(1, 1).subplots()
    assert roofline(result, ax=sub, legend=False, title="mine").get_title() == "mine"
    assert sub.get_legend() is None


def test_charts_leave_pyplot_alone(result, tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    save(roofline(result), tmp_path / "a.png")
    save(breakdown(result), tmp_path / "b.png")
    assert plt.get_fignums() == before


def test_charts_need_no_display(tmp_path):
    arguments = ["run", "lstm-acoustic", "--on", "v100-sxm", "--chart", str(tmp_path / "a.png"), "--top", "1"]
    script = (
        "import sys\nfrom reports.cli import main\n"
        f"code = main({arguments!r})\n"
        "sys.exit(code or 'matplotlib.pyplot' in sys.modules)"
    )
    environment = {"PATH": "", "HOME": str(tmp_path), "MPLBACKEND": "tkagg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize("draw", [roofline, breakdown])
def test_wrong_arguments_are_refused(draw, trace, blocked, result):
    many = simulate(trace, blocked.replace({"matrix.count": np.array([1, 2])}))
    with pytest.raises(ReportError, match="spans 2 designs"):
        draw(many)
    with pytest.raises(ReportError, match="spans 2 designs"):
        draw([result, many])
    with pytest.raises(ReportError, match="no result given"):
        draw([])
    with pytest.raises(ReportError, match="ax must be matplotlib axes, got str"):
        draw(result, ax="axes")


@pytest.mark.parametrize("name", presets())
def test_every_preset_can_be_drawn(name):
    chip = preset(name)
    dtype = "fp16" if "fp16" in chip.dtypes else chip.dtypes[0]
    result = simulate(network("lstm-acoustic", dtype=dtype), chip)
    assert len(artists(roofline(result), "op")) == int((result.flops > 0).sum())


def test_a_training_step_of_many_ops_can_be_drawn():
    result = simulate(training(network("gnmt"), "adam"), preset("h100-sxm"))
    assert len(result.trace) > 60
    assert len(artists(roofline(result), "op")) == int((result.flops > 0).sum())


# -- the breakdown -----------------------------------------------------------------------------------


def bars(ax) -> dict[tuple[str, str, str], float]:
    """Length of each bar in seconds by result, layer and bound."""
    unit = ax.get_xlabel().split("[")[1].rstrip("]")
    scale = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
    found = {}
    for patch in ax.patches:
        name = patch.get_gid() or ""
        if name.startswith("bar:"):
            label, layer, bound = name.removeprefix("bar:").rsplit(":", 2)
            found[label, layer, bound] = patch.get_width() * scale
    return found


def test_bars_are_the_time_by_layer_and_bound(result):
    ax = breakdown(result)
    found = bars(ax)
    for layer in ("lstm.0", "head"):
        for bound in result.bound_names:
            rows = (result.trace.layer == layer) & (result.bound == bound)
            expected = float(result.total_s[rows].sum())
            assert found.get(("tiny lstm on blocked", layer, bound), 0.0) == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(result.serial_s)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["lstm.0", "head"]


def test_bars_of_one_layer_stand_end_to_end(result):
    ends = {}
    for patch in breakdown(result).patches:
        layer = patch.get_gid().split(":")[2]
        assert patch.get_x() == pytest.approx(ends.get(layer, 0.0))
        ends[layer] = patch.get_x() + patch.get_width()


def test_short_layers_share_a_bar(blocked):
    result = many_layers(30, blocked)
    ax = breakdown(result)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert len(names) == 12
    assert names[-1] == "19 other layers"
    assert sum(bars(ax).values()) == pytest.approx(result.serial_s)
    assert [t.get_text() for t in breakdown(result, most_layers=1).get_yticklabels()] == ["30 other layers"]
    with pytest.raises(ReportError, match="most_layers must be 1 or more, got 0"):
        breakdown(result, most_layers=0)


def test_breakdown_of_several(trace, blocked, systolic):
    results = [simulate(trace, blocked), simulate(trace, systolic)]
    ax = breakdown(results)
    found = bars(ax)
    for label, result in zip(("blocked", "systolic"), results, strict=True):
        assert sum(v for k, v in found.items() if k[0] == label) == pytest.approx(result.serial_s)
    headings = [text.get_text().strip() for text in ax.texts if ":" in text.get_text()]
    assert [h.split(":")[0] for h in headings] == ["blocked", "systolic"]
    tops = [patch.get_y() for patch in ax.patches]
    assert tops == sorted(tops)  # one under the other


def test_breakdown_legend_has_each_bound_once(result):
    names = [text.get_text() for text in breakdown(result).get_legend().get_texts()]
    assert names == [name for name in bound_looks(result.accelerator.memory) if name in result.bound]


# -- looks -------------------------------------------------------------------------------------------


def test_every_bound_looks_different():
    looks = bound_looks(["registers", "l1", "l2", "dram"])
    assert set(looks) == {*BOUNDS_BESIDE_MEMORY, "registers", "l1", "l2", "dram"}
    shapes = [shape for shape, _, _ in looks.values()]
    assert len(set(shapes)) == len(shapes)
    assert len({(colour, hatch) for _, colour, hatch in looks.values()}) == len(looks)


@pytest.mark.parametrize("count", [1, 7, 8, 30])
def test_colours_are_distinct(count):
    found = colours(f"result {i}" for i in range(count))
    assert len(found) == len(set(found.values())) == count


def test_long_names_are_cut_and_wrapped():
    assert canvas.shortened("a" * 50, 10) == "a" * 9 + "…"
    assert canvas.shortened("short", 10) == "short"
    assert canvas.wrapped("one two three\nfour", 8) == "one two\nthree\nfour"


# -- places for labels -------------------------------------------------------------------------------


@pytest.fixture
def page() -> label_places.Page:
    return label_places.Page(left=1, right=100, bottom=1, top=1000, width=4, height=3)


def test_page_measures_in_inches(page):
    assert page.place(1, 1) == pytest.approx((0, 0))
    assert page.place(10, 1000) == pytest.approx((2, 3))
    assert page.value(2, 3) == pytest.approx((10, 1000))


def test_a_label_avoids_markers_lines_labels_and_the_edge(page):
    here = label_places.chain(1.0, 1.5, "label", 8)
    there = label_places.chain(1.0, 2.2, "label", 8)
    assert page.best([here, there]) == (0, 0)
    page.add_marker(*page.value(1.2, 1.55), area=50)
    assert page.best([here, there]) == (1, 0)
    page.add_line(page.value(0, 2.25)[:1] + page.value(4, 2.25)[:1], (page.value(0, 2.25)[1],) * 2)
    assert page.best([there])[1] > 0
    page.add_label(label_places.chain(1.0, 0.5, "label", 8))
    assert page.best([label_places.chain(1.1, 0.5, "label", 8)])[1] >= label_places.LABEL
    assert page.best([label_places.chain(3.9, 2.7, "label", 8)])[1] >= label_places.OUTSIDE


def test_a_chain_covers_its_text():
    chain = label_places.chain(1.0, 1.0, "x" * 10, 10)
    length = label_places.LETTER * 10 / 72 * 10
    assert (chain[:, 0] - chain[:, 2]).min() <= 1.01
    assert (chain[:, 0] + chain[:, 2]).max() >= 1.0 + length - 0.01
    flush = label_places.chain(1.0, 1.0, "x" * 10, 10, flush="right")
    np.testing.assert_allclose(flush[:, 0], chain[:, 0] - length)
    upright = label_places.chain(1.0, 1.0, "x" * 10, 10, angle=90)
    np.testing.assert_allclose(upright[:, 1] - 1.0, chain[:, 0] - 1.0)
    assert (upright[:, 0] < 1.0).all()  # letters stand to the left of a baseline that runs up


# -- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_saves_by_suffix(result, tmp_path, suffix, start):
    path = save(roofline(result), tmp_path / f"chart{suffix}")
    assert path.read_bytes().startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [f"chart{suffix}"]


def test_saves_a_figure_and_the_same_bytes_twice(result, tmp_path):
    for suffix in (".svg", ".pdf", ".png"):
        first = save(roofline(result), tmp_path / f"a{suffix}").read_bytes()
        assert save(roofline(result).figure, tmp_path / f"b{suffix}").read_bytes() == first


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.jpg", "the suffix must be one of .png, .svg, .pdf, got '.jpg'"),
        ("a", "got none"),
        ("none/a.png", "there is no folder"),
    ],
)
def test_refuses_to_save(result, tmp_path, name, said):
    with pytest.raises(ReportError) as caught:
        save(roofline(result), tmp_path / name)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_refuses_to_save_what_is_no_chart(tmp_path):
    with pytest.raises(ReportError, match="axes or a figure are expected, got int"):
        save(3, tmp_path / "a.png")


def test_a_failed_save_leaves_the_old_file(result, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("old")
    ax = roofline(result)
    monkeypatch.setattr(ax.figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(ax, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
