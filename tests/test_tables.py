"""Tables say what the result says, rounded; csv and JSON say it unrounded."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest

from reports.arguments import ReportError, comparison_title, labelled, output_path, single, write_text
from reports.explain import dominant_bound, explain, percent
from reports.export import (
    SCHEMA_VERSION,
    comparison_document,
    comparison_rows,
    op_rows,
    result_document,
    to_csv,
    to_json,
)
from reports.tables import comparison_table, dtypes, header, op_table, summary_table, table
from simulator import preset, simulate
from workloads import Trace, network


@pytest.fixture
def result(trace, blocked):
    """Fixed costs so small that the ops have different bounds."""
    quick = {"latency.launch": 1e-10, "latency.step": 1e-10, "memory.dram.latency": 1e-10}
    return simulate(trace, blocked.replace(quick))


@pytest.fixture
def many(trace, blocked):
    return simulate(trace, blocked.replace({"memory.dram.bandwidth": np.array([1e10, 2e10])}))


@pytest.fixture
def known(result):
    """The same on a chip that was calibrated: every op takes 0.8 to 1.5 times as long as predicted."""
    spread = {"any": [[1e9, math.log(0.8), math.log(1.5)]]}
    return simulate(result.trace, dataclasses.replace(result.accelerator, spread=spread))


def latency_line(result) -> str:
    return next(line for line in summary_table(result).splitlines() if line.startswith("latency"))


def cells(line: str) -> list[str]:
    return [cell for cell in line.split("  ") if cell.strip()]


# -- the table itself --------------------------------------------------------------------------------


def test_text_is_aligned():
    assert table(["name", "time"], [["a", "1.00 s"], ["long", "12 s"]], right=("time",)).splitlines() == [
        "name    time",
        "a     1.00 s",
        "long    12 s",
    ]


def test_markdown_is_a_table():
    assert table(["name", "time"], [["a|b", "1 s"]], "markdown", right=("time",)).splitlines() == [
        "| name | time |",
        "| ---- | ---: |",
        "| a\\|b |  1 s |",
    ]


def test_table_refuses_a_wrong_style_and_a_short_row():
    with pytest.raises(ReportError, match="style must be one of text, markdown, got 'html'"):
        table(["a"], [["b"]], "html")
    with pytest.raises(ReportError, match="a row has 1 cells where the table has 2 columns"):
        table(["a", "b"], [["c"]])


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (0.0004, "<0.1 %"), (0.001, "0.1 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (1.0, "100 %")],
)
def test_percent(share, text):
    assert percent(share) == text


def test_percent_of_nothing():
    assert percent(math.nan) == "n/a"


# -- ops, summary, comparison ------------------------------------------------------------------------


def test_op_table_has_a_line_an_op_in_program_order(result):
    lines = op_table(result).splitlines()
    assert cells(lines[0])[0].split() == ["layer"]
    for word in ("one run", "all runs", "share", "bound", "of peak", "why"):
        assert word in lines[0]
    assert [line.split("  ")[0] for line in lines[1:]] == ["lstm.0", "lstm.0", "lstm.0", "head"]
    assert "1 x 8" in lines[2]  # one recurrence of 8 steps
    for line, bound in zip(lines[1:], result.bound, strict=True):
        assert f" {bound} " in line


def test_op_table_shows_the_longest_first_and_sums_the_rest(result):
    lines = op_table(result, top=1).splitlines()
    longest = int(np.argmax(result.total_s))
    assert len(lines) == 3
    assert str(result.trace.op[longest]) in lines[1]
    assert lines[2].startswith("3 more")
    rest = 1 - result.total_s[longest] / result.total_s.sum()
    assert lines[2].endswith(percent(rest))


def test_op_table_with_more_than_there_are_hides_nothing(result):
    assert len(op_table(result, top=99).splitlines()) == 5
    with pytest.raises(ReportError, match="top must be 1 or more, got 0"):
        op_table(result, top=0)


def test_op_table_says_nothing_of_the_peak_where_there_is_no_flop(blocked):
    rows = [{"layer": "a", "op": "look up", "kind": "gather", "weight_bytes": 64, "output_bytes": 64, "dtype": "fp16"}]
    line = op_table(simulate(Trace.from_rows(rows), blocked)).splitlines()[1]
    assert line.count("%") == 1  # its share of the time only


def test_summary_shows_every_figure(result):
    text = summary_table(result)
    for word in ("latency", "throughput", "utilisation", "time by bound", "time by layer", "memory"):
        assert sum(line.startswith(word) for line in text.splitlines()) == 1, word
    for figure in ("sequences/s", "tokens/s", f"{percent(result.utilisation)} of the matrix peak", "lstm.0", "weights"):
        assert figure in text
    assert "warning" not in text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1e-3, "1.00 ms (80 %: 900 us to 1.20 ms)"), (0.9e-3, "900 us (80 %: 810 us to 1.08 ms)")],
)
def test_latency_is_shown_with_its_interval(flat, seconds, shown):
    """One op of an operation a nanosecond, 0.9 to 1.2 times as long as predicted; the ends share a unit or name it."""
    work = {"vector_flops": round(seconds * 1e9), "dtype": "fp32"}
    trace = Trace.from_rows([{"layer": "a", "op": "add", "kind": "elementwise"} | work])
    line = latency_line(simulate(trace, dataclasses.replace(flat, spread={"any": [[1e9, np.log(0.9), np.log(1.2)]]})))
    assert shown in line
    assert "80 %" not in latency_line(simulate(trace, flat))


def test_summary_warns_when_it_does_not_fit(trace, blocked):
    small = simulate(trace, blocked.replace({"memory.dram.capacity": 100}))
    lines = [line for line in summary_table(small).splitlines() if line.startswith("warning")]
    assert len(lines) == 1
    assert "does not fit" in lines[0]


def test_header_names_network_chip_and_size(result):
    text = header(result)
    for part in ("tiny lstm on blocked", "fp16", "batch 4", "8 positions", "forward", "4 distinct ops", "192 param"):
        assert part in text


def test_comparison_has_a_line_a_result(trace, blocked, systolic):
    results = [simulate(trace, blocked), simulate(trace, systolic)]
    lines = comparison_table(results).splitlines()
    assert len(lines) == 3
    for line, result in zip(lines[1:], results, strict=True):
        bound, share = dominant_bound(result)
        assert line.startswith("tiny lstm")
        assert result.accelerator.name in line
        assert f"{bound} {percent(share)}" in line
    speed = results[0].latency_s / results[1].latency_s
    assert " 1x " in lines[1]
    assert f" {speed:.3g}x " in lines[2]


def test_comparison_of_networks_has_no_speed(trace, blocked):
    other = trace.replace(name="other")
    lines = comparison_table([simulate(trace, blocked), simulate(other, blocked)]).splitlines()
    assert "speed" not in lines[0]
    assert len(lines) == 3


def test_markdown_of_every_table(result):
    for text in (op_table(result, style="markdown"), comparison_table([result], style="markdown")):
        lines = text.splitlines()
        assert all(line.startswith("| ") and line.endswith("|") for line in lines)
        assert len({line.count(" | ") for line in lines}) == 1


def test_dtypes_come_in_order_of_work():
    rows = [
        {
            "layer": "a",
            "op": "p",
            "kind": "matmul",
            "batch": 1,
            "m": m,
            "n": 8,
            "k": 8,
            "matrix_flops": 128 * m,
            "dtype": d,
        }
        for m, d in ((1, "fp16"), (4, "fp32"))
    ]
    chip = preset("v100-sxm")
    assert dtypes(simulate(Trace.from_rows(rows), chip)) == ["fp32", "fp16"]


# -- why ---------------------------------------------------------------------------------------------


def test_reasons_follow_the_bounds(result):
    assert len(set(result.bound)) > 1
    for bound, reason in zip(result.bound, explain(result), strict=True):
        if bound == "latency":
            assert "to start" in reason
        elif bound in result.accelerator.memory:
            assert f"through {bound}" in reason


@pytest.mark.parametrize(
    ("changes", "bound", "said"),
    [
        ({"memory.dram.bandwidth": 1e6}, "dram", "through dram at 1.00 MB/s"),
        ({"matrix.clock": 1e3}, "matrix", "FLOP fp16 at"),
        ({"latency.launch": 1.0}, "latency", "1.00 s to start"),
    ],
)
def test_reason_of_the_input_product(trace, blocked, changes, bound, said):
    result = simulate(trace, blocked.replace(changes))
    assert result.bound[0] == bound
    assert said in explain(result)[0]


@pytest.mark.parametrize(
    ("field", "bound", "said"),
    [
        ("vector.flops_per_cycle", "vector", "512 FLOP on the vector units at"),
        ("vector.special_per_cycle", "special", "128 exp, tanh, roots or divisions"),
    ],
)
def test_reason_of_the_softmax(trace, blocked, field, bound, said):
    result = simulate(trace, blocked.replace({field: 1e-6}))
    assert result.bound[3] == bound
    assert said in explain(result)[3]


def test_reason_says_whether_recurrent_weights_stay(trace, blocked):
    big, small = ({"memory.l2.capacity": size} for size in (1e5, 1.0))
    assert "100 % of the weights stay on chip" in explain(simulate(trace, blocked.replace(big)))[1]
    starved = blocked.replace(small | {"memory.dram.bandwidth": 1e6})
    assert "weights read again every step" in explain(simulate(trace, starved))[1]
    assert "weights" not in explain(simulate(trace, starved))[0]  # no recurrence


def test_dominant_bound_is_the_largest_share(result):
    bound, share = dominant_bound(result)
    assert share == max(result.time_share_by_bound().values())
    assert share == pytest.approx(result.time_share_by_bound()[bound])


# -- what reports accept -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "report", [op_table, summary_table, header, explain, op_rows, result_document, comparison_table, comparison_rows]
)
def test_arrays_of_designs_are_refused(report, many):
    with pytest.raises(ReportError, match=r"blocked spans 2 designs, shape \(2,\).*result\.design"):
        report(many)


def test_one_design_out_of_many_is_accepted(many):
    assert op_table(many.design(1)).startswith("layer")


def test_labels_say_what_differs(trace, blocked, systolic):
    one, other = simulate(trace, blocked), simulate(trace, systolic)
    renamed = simulate(trace.replace(name="gru"), blocked)
    assert list(labelled(one)) == ["tiny lstm on blocked"]
    assert list(labelled([one, other])) == ["blocked", "systolic"]
    assert list(labelled([one, renamed])) == ["tiny lstm", "gru"]
    assert list(labelled([one, other, renamed])) == ["tiny lstm on blocked", "tiny lstm on systolic", "gru on blocked"]
    assert list(labelled([one, one, one])) == [
        "tiny lstm on blocked",
        "tiny lstm on blocked (2)",
        "tiny lstm on blocked (3)",
    ]
    assert labelled({"before": one, "after": other}) == {"before": one, "after": other}
    assert comparison_title(labelled([one, other])) == "tiny lstm on 2 chips"
    assert comparison_title(labelled([one, renamed])) == "2 networks on blocked"


@pytest.mark.parametrize("nothing", [[], {}])
def test_no_result_is_refused(nothing):
    with pytest.raises(ReportError, match="no result given"):
        labelled(nothing)


@pytest.mark.parametrize("wrong", [3, "result", [1]])
def test_what_is_no_result_is_refused(wrong):
    with pytest.raises(ReportError, match=r"a Result is expected, got (int|str)"):
        labelled(wrong)
    with pytest.raises(ReportError, match="a Result is expected"):
        single(wrong)


# -- csv and JSON ------------------------------------------------------------------------------------

SUMMARY_KEYS = {
    "latency_s",
    "latency_low_s",
    "latency_high_s",
    "serial_s",
    "critical_path_s",
    "sequences_per_s",
    "tokens_per_s",
    "utilisation",
    "attained_flops_per_s",
    "intensity_flops_per_byte",
    "bound",
    "time_share_by_bound",
    "time_share_by_layer",
    "time_share_in_memory",
    "energy_j",
    "average_power_w",
    "energy_per_token_j",
    "energy_by_level_j",
    "price_per_million_tokens_usd",
    "footprint_bytes",
    "capacity_bytes",
    "fits",
    "warnings",
}
OP_KEYS = {
    *("row", "layer", "op", "kind", "phase", "dtype", "repeats", "serial_steps", "batch", "m", "n", "k"),
    *("time_s", "time_low_s", "time_high_s", "total_s", "time_share", "bound", "placement"),
    *("inside_bytes", "bounds_s"),
    *("flops", "matrix_flops", "vector_flops", "special_ops"),
    *("traffic_bytes", "intensity_flops_per_byte", "attained_flops_per_s", "utilisation", "roof_fraction", "resident"),
    "energy_j",
}


def test_json_layout_is_the_documented_one(result):
    document = json.loads(to_json(result_document(result, {"matrix.count": 4.0})))
    assert document["format"] == "rooftrace-result"
    assert document["schema_version"] == SCHEMA_VERSION == 1
    assert set(document) == {"format", "schema_version", "rooftrace", "network", "accelerator", "summary", "ops"}
    assert document["network"] == {
        "name": "tiny lstm",
        "sequences": 4,
        "tokens": 8,
        "parameters": 192,
        "flops": result.trace.total_flops,
        "dtypes": ["fp16"],
    }
    assert document["accelerator"] == {
        "name": "blocked",
        "title": "blocked",
        "family": "gpu",
        "changes": {"matrix.count": 4.0},
    }
    assert set(document["summary"]) == SUMMARY_KEYS
    assert len(document["ops"]) == 4
    assert all(set(op) == OP_KEYS for op in document["ops"])
    described = result_document.__doc__
    assert all(key in described for key in SUMMARY_KEYS | OP_KEYS | set(document) | set(document["network"]))


def test_json_numbers_are_those_of_the_result(result):
    document = json.loads(to_json(result_document(result)))
    summary, ops = document["summary"], document["ops"]
    assert summary["latency_s"] == result.latency_s
    assert summary["bound"] == dominant_bound(result)[0]
    assert sum(summary["time_share_by_bound"].values()) == pytest.approx(1)
    assert summary["footprint_bytes"]["total"] == result.footprint["total"]
    assert [op["time_s"] for op in ops] == result.time_s.tolist()
    assert [op["bounds_s"]["dram"] for op in ops] == result.bounds_s["dram"].tolist()
    assert [op["traffic_bytes"]["l1"] for op in ops] == result.traffic_bytes["l1"].tolist()
    assert ops[0]["resident"] is None  # no recurrence
    assert ops[1]["resident"] == result.resident[1]


def test_intervals_are_those_of_the_result_and_null_where_nothing_was_calibrated(result, known):
    with_one, without = (json.loads(to_json(result_document(r))) for r in (known, result))
    ends = ("latency_low_s", "latency_high_s")
    assert tuple(with_one["summary"][end] for end in ends) == known.latency_interval_s
    low, high = known.time_interval_s
    assert [(op["time_low_s"], op["time_high_s"]) for op in with_one["ops"]] == list(zip(low, high, strict=True))
    assert [without["summary"][end] for end in ends] == [None, None]
    assert {op[end] for op in without["ops"] for end in ("time_low_s", "time_high_s")} == {None}
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison_rows([known, result])))))
    assert tuple(float(rows[0][end]) for end in ends) == known.latency_interval_s
    assert [rows[1][end] for end in ends] == ["", ""]


def test_json_has_null_for_infinite_intensity(trace, blocked):
    result = simulate(trace, blocked.replace({"memory.l2.capacity": 1e6}))
    assert math.isinf(result.intensity["dram"][3])  # the softmax stays on chip
    op = json.loads(to_json(result_document(result)))["ops"][3]
    assert op["intensity_flops_per_byte"]["dram"] is None
    row = list(csv.DictReader(io.StringIO(to_csv(op_rows(result)))))[3]
    assert row["dram_intensity_flops_per_byte"] == ""


def test_json_refuses_what_json_has_not():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": math.nan})


def test_comparison_json_holds_the_results(result):
    document = comparison_document([result, result], [{}, {"matrix.count": 2.0}])
    assert document["format"] == "rooftrace-comparison"
    assert document["schema_version"] == SCHEMA_VERSION
    assert [r["accelerator"]["changes"] for r in document["results"]] == [{}, {"matrix.count": 2.0}]
    assert document["results"][0] == result_document(result)


def test_csv_has_the_columns_of_the_frame(result):
    rows = list(csv.DictReader(io.StringIO(to_csv(op_rows(result)))))
    frame = result.to_frame()
    assert set(frame.columns) <= set(rows[0])
    assert [row["network"] for row in rows] == ["tiny lstm"] * 4
    for column in frame.columns:
        for row, value in zip(rows, frame[column].tolist(), strict=True):
            if isinstance(value, str):
                assert row[column] == value
            elif not math.isfinite(value):
                assert row[column] == ""
            else:
                assert float(row[column]) == value


def test_comparison_csv_columns(result):
    text = to_csv(comparison_rows([result]))
    columns = text.splitlines()[0].split(",")
    assert columns[:6] == ["network", "accelerator", "dtype", "sequences", "tokens", "latency_s"]
    assert columns[6:] == [
        *("latency_low_s", "latency_high_s"),
        *("critical_path_s", "sequences_per_s", "tokens_per_s", "utilisation", "attained_flops_per_s", "bound"),
        *("bound_share", "footprint_bytes", "capacity_bytes", "fits", "energy_j", "average_power_w"),
        *("energy_per_token_j", "price_per_million_tokens_usd"),
    ]
    assert all(column in comparison_rows.__doc__ for column in columns)
    row = next(csv.DictReader(io.StringIO(text)))
    assert float(row["latency_s"]) == result.latency_s
    assert row["fits"] == "True"


def test_csv_leaves_empty_what_a_row_lacks():
    assert to_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"


def test_json_of_every_kind_of_network():
    for name in ("lstm-zaremba-large", "bert-base", "tpu-v1-cnn0"):
        chip = preset("tpu-v1" if name.startswith("tpu") else "v100-sxm")
        text = to_json(result_document(simulate(network(name), chip)))
        assert json.loads(text)["network"]["name"] == name


# -- places to write to ------------------------------------------------------------------------------


def test_text_is_written_whole(tmp_path):
    assert write_text(tmp_path / "a.csv", "x\n").read_text() == "x\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_text(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"


def test_bad_places_are_refused(tmp_path):
    for path, said in (
        (tmp_path / "none" / "a.csv", "there is no folder"),
        (tmp_path, "not an ordinary file"),
        ("/dev/null", "not an ordinary file"),
    ):
        with pytest.raises(ReportError, match=said):
            output_path(path)
    with pytest.raises(ReportError, match=r"a\.jpg: the suffix must be one of \.png, \.svg, got '\.jpg'"):
        output_path(tmp_path / "a.jpg", (".png", ".svg"))
    with pytest.raises(ReportError, match="got none"):
        output_path(tmp_path / "a", (".png",))
    assert list(tmp_path.iterdir()) == []
