"""Tables of timings: rows worked by hand, units, and one clear error for each thing that can be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from workloads.measured import from_timings, joined, measurements
from workloads.trace import TraceError

ROW = {"op": "linear", "m": 3, "n": 5, "k": 7, "time_s": 1e-5}


def test_a_linear_layer_by_hand():
    trace = measurements([ROW]).trace
    assert trace.matrix_flops.tolist() == [2 * 3 * 5 * 7]
    assert trace.weight_bytes.tolist() == [4 * (5 * 7 + 5)]
    assert measurements([ROW | {"bias": 0}]).trace.weight_bytes.tolist() == [4 * 5 * 7]


def test_a_batch_of_products_has_no_weights():
    trace = measurements([ROW | {"op": "matmul", "batch": 2}]).trace
    assert (trace.matrix_flops[0], trace.weight_bytes[0], trace.input_bytes[0]) == (420, 0, 4 * 2 * (3 + 5) * 7)


def test_attention_reads_the_cache_of_its_key_heads():
    row = {"op": "attention", "batch": 2, "heads": 8, "kv_heads": 2, "q_len": 1, "kv_len": 100, "head_dim": 16}
    trace = measurements([row | {"dtype": "fp16", "time_us": 9}]).trace
    assert trace.kind.tolist() == ["attention"]
    assert trace.matrix_flops[0] == 4 * 2 * 8 * 100 * 16
    assert trace.cache_bytes[0] == 2 * (2 * 100 * 2 * 16) * 2


@pytest.mark.parametrize(
    ("phase", "flops"), [("forward", 8 * 5 * 2 * 16**2), ("input-gradient", 8 * 5 * 2 * 16**2),
                         ("weight-gradient", 8 * 5 * 2 * 16**2)],
)  # fmt: skip
def test_a_recurrent_layer_without_its_input_product(phase, flops):
    """DeepBench counts 8 T N H^2 for an LSTM, each way."""
    row = {"op": "lstm", "hidden": 16, "batch": 2, "timesteps": 5, "phase": phase, "time_s": 1e-3}
    trace = measurements([row]).trace
    assert float(trace.runs @ trace.matrix_flops) == flops
    assert not any("input product" in op for op in trace.op.tolist())


def test_eager_networks_carry_their_passes():
    base = {"op": "transformer", "layers": 2, "hidden": 8, "heads": 2, "vocabulary": 10, "sequence_length": 4}
    base |= {"batch": 3, "time_s": 1.0}
    plain, eager = (
        measurements([base | passes]).trace
        for passes in ({}, {"score_passes": 2, "hidden_passes": 1, "activation_passes": 3})
    )
    assert plain.total_matrix_flops == eager.total_matrix_flops
    added = {op: int(eager.repeats[eager.op == op].sum()) for op in ("score pass", "hidden pass", "activation pass")}
    assert added == {"score pass": 4, "hidden pass": 2, "activation pass": 6}
    assert eager.input_bytes[eager.op == "score pass"].tolist() == [4 * 3 * 2 * 4 * 4] * 2


def test_units_selection_and_joining():
    rows = [ROW | {"m": m} for m in (3, 4)]
    seconds = measurements(rows)
    millis = measurements([{k: v for k, v in r.items() if k != "time_s"} | {"time_ms": 0.01} for r in rows])
    assert seconds.time_s == pytest.approx(millis.time_s)
    lstm = measurements([{"op": "lstm", "hidden": 8, "batch": 1, "timesteps": 3, "time_s": 1.0}])
    both = joined([lstm, seconds])
    assert (len(both), both.first.tolist(), both.owner.tolist()) == (3, [0, 2, 3], [0, 0, 1, 2])
    assert len(set(both.trace.layer.tolist())) == 3  # no two measurements share a recurrence
    last = both.select(np.array([2]))
    assert (last.time_s.tolist(), last.trace.m.tolist(), last.shape[0].split()[0]) == ([1e-5], [4], "linear")
    with pytest.raises(TraceError, match="no measurement is selected"):
        both.select(np.zeros(3, bool))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"op": "lineer"}, "unknown op 'lineer' (did you mean 'linear'?)"),
        ({"m": ""}, "linear needs m"),
        ({"m": 2.5}, "m must be a whole number of 1 or more, got 2.5"),
        ({"time_s": 0}, "time_s must be above zero, got 0"),
        ({"time_s": -1e-3}, "time_s must be above zero, got -0.001"),
        ({"time_s": "nan"}, "time_s must be above zero, got 'nan'"),
        ({"dtype": "fp17"}, "unknown element type 'fp17'"),
        ({"phase": "backwards"}, "unknown phase 'backwards' (did you mean 'backward'?)"),
        ({"phase": "backward"}, "linear is measured forward alone"),
        ({"with": 3}, "unknown column 'with'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(change, said):
    with pytest.raises(TraceError) as error:
        measurements([ROW | change], "mine.csv")
    assert said in str(error.value)
    assert str(error.value).startswith("mine.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no measurements"),
        ("op,m,n,k,time_s\n", "no measurements"),
        ("op,m,n,k\nlinear,1,2,3\n", "one column of time_s, time_ms, time_us is expected, got none"),
        ("# a comment\nop,m,n,k,time_s\nlinear,1,2,3\n", "line 3: 4 cells where the header has 5"),
        ("op,m,n,k,time_s\nlinear,1,2,3,1\nlinear,1,2,3,zero\n", "line 3: time_s must be above zero, got 'zero'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError) as error:
        from_timings(path)
    assert said in str(error.value)
    assert "t.csv" in str(error.value)
    with pytest.raises(TraceError, match="cannot be read"):
        from_timings(tmp_path / "none.csv")
