"""Tables of timings become traces: FLOP and bytes worked by hand, and every mistake in a table is named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator import preset
from simulator.calibrate import predict
from workloads import TraceError
from workloads.measured import MEASURED_OPS, TIME_UNITS, from_timings, joined, measurements

#: Small sizes of each op; what is left out takes its default.
SIZES = {
    "matmul": {"m": 2, "n": 3, "k": 4},
    "attention": {"batch": 1, "heads": 2, "q_len": 3, "kv_len": 5, "head_dim": 4},
    "elementwise": {"rows": 3, "columns": 5},
    "recurrent": {"hidden": 8, "batch": 2, "timesteps": 5},
    "network": {"layers": 2, "hidden": 8, "heads": 2, "vocabulary": 16, "sequence_length": 4, "batch": 1},
}
SIZES |= {"softmax": SIZES["elementwise"], "normalisation": SIZES["elementwise"]}
COUNTS = ("matrix_flops", "vector_flops", "special_ops")
BYTES = ("weight_bytes", "input_bytes", "output_bytes", "state_bytes", "cache_bytes")


def timed(op: str, **more) -> dict:
    return {"op": op, "time_s": 1e-3} | SIZES[MEASURED_OPS[op].kind] | more


def rows(op: str, **more) -> list[dict]:
    return list(measurements([timed(op, **more)]).trace.rows())


def only(op: str, **more) -> dict:
    (row,) = rows(op, **more)
    return row


def counts(row: dict) -> tuple:
    return tuple(row[name] for name in COUNTS)


def moved(row: dict) -> tuple:
    return tuple(row[name] for name in BYTES)


# -- what is in a row --------------------------------------------------------------------------------


@pytest.mark.parametrize("op", MEASURED_OPS)
def test_every_op_makes_rows_that_can_be_predicted(op):
    """Valid rows that a chip has a time for; a product, a recurrence and a network do matrix work."""
    m = measurements([timed(op)])
    assert (m.first.tolist(), m.op.tolist(), m.kind.tolist()) == ([0], [op], [MEASURED_OPS[op].kind])
    assert predict(preset("v100-sxm"), m)[0] > 0
    does_products = MEASURED_OPS[op].kind in ("matmul", "attention", "recurrent", "network")
    assert (m.trace.total_matrix_flops > 0) == does_products
    assert m.trace.runs @ (m.trace.matrix_flops + m.trace.vector_flops + m.trace.special_ops) > 0


def test_linear_by_hand():
    """(2, 4) times (4, 3), fp32: 2 2 3 4 FLOP, 6 adds of the bias; (12 + 3, 8, 6) numbers of 4 bytes."""
    row = only("linear")
    assert counts(row) == (48, 6, 0)
    assert moved(row) == (60, 32, 24, 0, 0)
    bare = only("linear", bias=0)
    assert counts(bare) == (48, 0, 0)
    assert moved(bare) == (48, 32, 24, 0, 0)


def test_matmul_by_hand():
    """Five products of two activations, fp16: 5 (2 2 3 4) FLOP; 5 (8 + 12) numbers in and 5 6 out, of 2 bytes."""
    row = only("matmul", batch=5, dtype="fp16")
    assert counts(row) == (240, 0, 0)
    assert moved(row) == (0, 200, 60, 0, 0)


def test_decoding_attention_by_hand():
    """One position of 4 heads of 8 against 10 of 2 key and value heads, fp16.

    Scores and context: 2 (2 4 8 10) FLOP; queries and results 4 8 numbers; keys and values 2 (2 8 10), in the cache."""
    sizes = {"heads": 4, "kv_heads": 2, "q_len": 1, "kv_len": 10, "head_dim": 8, "dtype": "fp16"}
    row = only("attention", **sizes)
    assert counts(row) == (1280, 4 * 40, 40)  # softmax: 4 operations and an exp each of 4 10 scores
    assert moved(row) == (0, 64, 64, 0, 640)


def test_attention_to_itself_by_hand():
    """6 positions, 2 4 heads of 8, fp16: 36 pairs a head, or 1 + ... + 6 = 21 where none looks ahead."""
    sizes = {"batch": 2, "heads": 4, "q_len": 6, "kv_len": 6, "head_dim": 8, "dtype": "fp16"}
    whole, causal = only("attention", **sizes, causal=0), only("attention", **sizes)
    assert whole["matrix_flops"] == 2 * 2 * 8 * 8 * 36
    assert causal["matrix_flops"] == 2 * 2 * 8 * 8 * 21
    assert moved(whole) == moved(causal) == (0, 3 * 768, 768, 0, 0)  # q, k, v in, the result out: 8 6 8 numbers each


def test_vector_ops_by_hand():
    """15 elements of 4 bytes: add reads two tensors; softmax is 4 operations and an exp an element."""
    assert (counts(only("add")), moved(only("add"))) == ((0, 15, 0), (0, 120, 60, 0, 0))
    assert (counts(only("softmax")), moved(only("softmax"))) == ((0, 60, 15), (0, 60, 60, 0, 0))


def test_skip_input_lstm_forward_by_hand():
    """H 8, batch 2: no input product; a step is (2, 8) times (8, 32). h and the gate sums are state."""
    product, gates = rows("lstm")
    assert (product["op"], gates["op"]) == ("recurrent product", "gates")
    for row in (product, gates):
        assert (row["repeats"], row["serial_steps"]) == (5, 5)
    assert counts(product) == (2 * 2 * 8 * 32, 0, 0)
    assert moved(product) == (8 * 32 * 4, 0, 0, (16 + 64) * 4, 0)
    # 2 32 gate sums take two adds each; the cell 4 operations and 5 transcendentals for each of 2 8 units
    assert counts(gates) == (0, 64 * 2 + 16 * 4, 16 * 5)
    assert moved(gates) == (2 * 32 * 4, 64 * 4, 16 * 4, (64 + 2 * 16) * 4, 0)
    assert gates["after"] == (0,)


def test_an_input_size_adds_the_product_of_all_steps():
    """5 2 positions of 3 features: (10, 3) times (3, 32), once."""
    product, *rest = rows("lstm", input_size=3)
    assert (product["op"], product["repeats"]) == ("input product", 1)
    assert counts(product) == (2 * 10 * 3 * 32, 0, 0)
    assert moved(product) == (96 * 4, 30 * 4, 320 * 4, 0, 0)
    assert [counts(row) for row in rest] == [counts(row) for row in rows("lstm")]


def test_skip_input_lstm_input_gradient_by_hand():
    """Step by step backward: gates, then (2, 32) times (32, 8). Nothing of the forward pass is left."""
    gates, product = rows("lstm", phase="input-gradient")
    assert counts(product) == (2 * 2 * 32 * 8, 0, 0)
    assert product["weight_bytes"] == 8 * 32 * 4
    assert (gates["kind"], gates["serial_steps"], product["serial_steps"]) == ("elementwise", 5, 5)
    assert {gates["phase"], product["phase"]} == {"input-gradient"}
    assert (gates["after"], product["after"]) == ((), (0,))


def test_skip_input_lstm_weight_gradient_by_hand():
    """All steps at once: (8, 10) times (10, 32), h and the gate gradients read, the 8 32 gradients written."""
    _, product = rows("lstm", phase="weight-gradient")
    assert (product["repeats"], product["serial_steps"]) == (1, 1)
    assert counts(product) == (2 * 8 * 10 * 32, 0, 0)
    assert moved(product) == (0, (80 + 320) * 4, 256 * 4, 0, 0)


@pytest.mark.parametrize("op", ["lstm", "gru", "rnn", "transformer"])
def test_phases_add_up(op):
    """backward is both gradients, training that and forward, nothing twice; the update is timed by nobody."""
    work = {
        phase: sum(row["repeats"] * row["matrix_flops"] for row in rows(op, phase=phase))
        for phase in ("forward", "input-gradient", "weight-gradient", "backward", "training")
    }
    assert work["backward"] == work["input-gradient"] + work["weight-gradient"]
    assert work["training"] == work["forward"] + work["backward"]
    assert all(row["phase"] != "update" for row in rows(op, phase="training"))


def test_eager_passes_by_hand():
    """Of each of 2 blocks: scores 2 heads 4 x 4, hidden 4 x 8, the inner tensor 4 x 32; read once, written once."""
    plain = rows("transformer", logits=0)
    eager = rows("transformer", logits=0, score_passes=2, hidden_passes=3, activation_passes=1)
    added = [row for row in eager if row["op"].endswith(" pass")]
    block = [(row["op"], row["vector_flops"], row["input_bytes"], row["output_bytes"]) for row in added[:-1]]
    assert block == [("score pass", 32, 128, 128)] * 2 + [("hidden pass", 32, 128, 128)] * 3 + [
        ("activation pass", 128, 512, 512)
    ]
    assert [row["repeats"] for row in added] == [2] * 6 + [1]  # the pooler's activation, once
    assert added[-1]["vector_flops"] == 8
    assert len(eager) == len(plain) + 7
    kept = [row for row in eager if not row["op"].endswith(" pass")]
    assert [(row["op"], *counts(row), *moved(row)) for row in kept] == [
        (row["op"], *counts(row), *moved(row)) for row in plain
    ]
    # a chain: each row waits for the one before it, the passes between what they stand between
    assert [row["after"] for row in eager] == [()] + [(i,) for i in range(len(eager) - 1)]


def test_a_network_has_a_head_or_a_pooler():
    ops = [row["op"] for row in rows("transformer")]
    assert "pooler projection" not in ops
    assert [row["op"] for row in rows("transformer", logits=0)].count("pooler projection") == 1
    logits = rows("transformer")[-1]
    assert (logits["m"], logits["n"], logits["k"]) == (4, 16, 8)
    fused = rows("transformer", compiled=1)
    assert len(fused) < len(ops)


# -- labels and tables -------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "number"), [("time_s", 0.002), ("time_ms", 2), ("time_us", 2000)])
def test_units_of_time(unit, number):
    m = measurements([{"op": "add", "rows": 1, "columns": 1, unit: number}])
    assert m.time_s[0] == pytest.approx(2e-3, rel=1e-15)
    assert TIME_UNITS[unit] * number == pytest.approx(2e-3, rel=1e-15)


def test_labels_and_their_defaults():
    m = measurements([timed("add"), timed("add", device="a", set="b", harness="c", network="d", dtype="fp16")])
    assert m.device.tolist() == ["device", "a"]
    assert m.set.tolist() == ["measured", "b"]
    assert m.harness.tolist() == ["measured add", "c"]
    assert m.dtype.tolist() == ["fp32", "fp16"]
    assert m.phase.tolist() == ["forward"] * 2
    assert m.network.tolist() == ["", "d"]
    with pytest.raises(AttributeError, match="Measurements has no attribute 'colour'"):
        _ = m.colour


def test_steps_are_no_shape_of_their_own():
    """A recurrence of more steps is the same products again: fitting one and judging the other would be no test."""
    m = measurements([timed("lstm"), timed("lstm", timesteps=50), timed("lstm", hidden=9), timed("lstm", dtype="fp16")])
    assert m.shape[0] == m.shape[1] == m.shape[3]
    assert m.shape[0] != m.shape[2]


def several():
    return measurements(
        [
            timed("lstm", time_s=1.0),
            timed("add", time_s=2.0),
            timed("transformer", time_s=3.0, score_passes=1),
            timed("lstm", time_s=4.0, input_size=3),
        ]
    )


def apart(m, number: int) -> list[dict]:
    """Rows of one measurement, numbered from its own first."""
    ends = [*m.first[1:].tolist(), len(m.trace)]
    first = int(m.first[number])
    found = list(m.trace.rows())[first : ends[number]]
    return [
        row | {"layer": row["layer"].split(" ", 1)[1], "after": tuple(a - first for a in row["after"])} for row in found
    ]


@pytest.mark.parametrize("which", [[0], [3, 1], [2, 0, 3], [False, True, True, False]])
def test_select_keeps_rows_and_dependencies(which):
    m = several()
    picked = m.select(np.array(which))
    order = np.arange(len(m))[np.array(which)].tolist()
    assert picked.time_s.tolist() == m.time_s[order].tolist()
    assert picked.op.tolist() == m.op[order].tolist()
    for place, number in enumerate(order):
        assert apart(picked, place) == apart(m, number)
    assert picked.owner.tolist() == np.repeat(range(len(order)), [len(apart(m, n)) for n in order]).tolist()


def test_nothing_selected_is_refused():
    with pytest.raises(TraceError, match="measurements: no measurement is selected"):
        several().select(np.zeros(4, bool))


def test_joined_keeps_rows_and_dependencies():
    m, other = several(), measurements([timed("gru", time_s=5.0, device="a")], "other.csv")
    both = joined([m, other, m])
    assert len(both) == 9
    assert both.time_s.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert both.device[4] == "a"
    assert both.source == "measurements, other.csv"
    for place, (part, number) in enumerate([*((m, i) for i in range(4)), (other, 0), *((m, i) for i in range(4))]):
        assert apart(both, place) == apart(part, number)
    assert [label.split(" ")[0] for label in both.trace.layer[both.first]] == [str(i) for i in range(9)]
    with pytest.raises(TraceError, match="joined: no measurements"):
        joined([])


# -- files and mistakes ------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    def call(text: str) -> str:
        path = tmp_path / "t.csv"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return call


def test_a_file_with_comments_blank_lines_and_defaults(write):
    m = from_timings(write("# who\nop,m,n,k,batch,time_us\n\nmatmul,2,3,4,,7\n# more\nmatmul,2,3,4,5,8\n"))
    assert m.time_s.tolist() == pytest.approx([7e-6, 8e-6])
    assert m.trace.matrix_flops.tolist() == [48, 240]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("op,m,n,kk,time_s\nmatmul,1,1,1,1\n", r"t\.csv: unknown column 'kk' .did you mean 'k'"),
        ("op,m,n,k,time_ns\nmatmul,1,1,1,1\n", r"t\.csv: unknown column 'time_ns' .did you mean 'time_"),
        ("op,m,n,k\nmatmul,1,1,1\n", r"t\.csv: one column of time_s, time_ms, time_us is expected, got none"),
        ("op,m,n,k,time_s,time_ms\nmatmul,1,1,1,1,1\n", "is expected, got time_s, time_ms"),
        ("m,n,k,time_s\n1,1,1,1\n", r"t\.csv: column 'op' is missing"),
        ("op,m,n,k,time_s\n\nmatmull,1,1,1,1\n", r"line 3: unknown op 'matmull' .did you mean 'matmul'"),
        ("op,m,n,k,phase,time_s\nmatmul,1,1,1,foward,1\n", r"line 2: unknown phase 'foward' .did you mean 'forward'"),
        ("op,m,n,k,phase,time_s\nmatmul,1,1,1,training,1\n", "line 2: phase: matmul is measured forward alone"),
        ("op,m,n,k,dtype,time_s\nmatmul,1,1,1,fp61,1\n", r"line 2: .*unknown element type 'fp61' .did you mean 'fp"),
        ("op,m,n,k,time_s\nmatmul,1,,1,1\n", "line 2: matmul needs n"),
        ("op,m,n,time_s\nmatmul,1,1,1\n", "line 2: matmul needs k"),
        ("op,m,n,k,time_s\nmatmul,1,0,1,1\n", "line 2: n must be a whole number of 1 or more, got '0'"),
        ("op,m,n,k,time_s\nmatmul,1,1.5,1,1\n", "line 2: n must be a whole number of 1 or more, got '1.5'"),
        ("op,m,n,k,time_s\nmatmul,1,one,1,1\n", "line 2: n must be a whole number of 1 or more, got 'one'"),
        ("op,m,n,k,bias,time_s\nlinear,1,1,1,-1,1\n", "line 2: bias must be a whole number of 0 or more, got '-1'"),
        ("op,m,n,k,time_s\nmatmul,1,1,1,1\nmatmul,1,1,1,0\n", "line 3: time_s must be above zero, got '0'"),
        ("op,m,n,k,time_ms\nmatmul,1,1,1,-2\n", "line 2: time_ms must be above zero, got '-2'"),
        ("op,m,n,k,time_s\nmatmul,1,1,1,nan\n", "line 2: time_s must be above zero, got 'nan'"),
        ("op,m,n,k,time_s\nmatmul,1,1,1,inf\n", "line 2: time_s must be above zero, got 'inf'"),
        ("op,m,n,k,time_s\nmatmul,1,1,1,\n", "line 2: time_s must be above zero, got ''"),
        ("op,m,n,k,time_s\nmatmul,1,1,1,1,1\n", "line 2: 6 cells where the header has 5"),
        ("op,m,n,k,time_s\nmatmul,1,1\n", "line 2: 3 cells where the header has 5"),
        ("", r"t\.csv: no measurements: a header line and one line a measurement are expected"),
        ("op,m,n,k,time_s\n", r"t\.csv: no measurements"),
        ("# op\n\n", r"t\.csv: no measurements"),
    ],
)
def test_mistakes_are_named_with_file_line_and_value(write, text, said):
    path = write(text)
    with pytest.raises(TraceError, match=said) as refused:
        from_timings(path)
    assert str(refused.value).startswith(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read: No such file"):
        from_timings(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="cannot be read"):
        from_timings(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(TraceError, match=r"binary\.csv: cannot be read"):
        from_timings(tmp_path / "binary.csv")


def test_mappings_are_numbered_from_nought_and_nan_is_an_empty_cell():
    assert only("matmul", batch=math.nan)["batch"] == 1
    with pytest.raises(TraceError, match="measurements: row 1: linear needs k"):
        measurements([timed("linear"), timed("linear", k=math.nan)])
    with pytest.raises(TraceError, match="here: no measurements"):
        measurements([], "here")


def test_attention_to_fewer_than_the_new_positions_is_refused():
    with pytest.raises(TraceError, match=r"row 0: kv_len must be at least q_len .3., got 2"):
        rows("attention", kv_len=2)
