"""Recurrent encoder and decoder with and without attention: counts by hand, against PyTorch, and in training."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import TraceError, network, sequence_to_sequence, training

SIZES = {"layers": 2, "hidden": 8, "vocabulary": 30, "sequence_length": 5, "source_length": 7, "batch": 3}
KINDS = {
    "none": {"attention": None},
    "additive": {"attention": "additive"},
    "dot": {"attention": "multiplicative", "score": "dot"},
    "general": {"attention": "multiplicative"},
    "feeding": {"attention": "multiplicative", "input_feeding": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def rows_named(trace, op):
    return [row for row in trace.rows() if row["op"] == op]


def built(kind, **changes):
    return sequence_to_sequence(**{**SIZES, **KINDS[kind], **changes})


# -- by hand -----------------------------------------------------------------------------------------


def test_additive_attention_by_hand():
    # one GRU layer of 8, words of 6, 7 source words kept as 16 features, 5 alignment units, 4 maxout units
    trace = sequence_to_sequence(
        1, 8, 30, cell="gru", embedding_size=6, attention="additive", alignment_size=5, bidirectional=True, maxout=4,
        sequence_length=5, source_length=7, batch=3, source_vocabulary=20,
    )  # fmt: skip
    gates = 3 * 8
    encoder, start = 2 * gates * (6 + 8), 8 * 8
    step, keys, query = gates * (6 + 16 + 8), 16 * 5, 8 * 5
    deep = 2 * 4 * (8 + 6 + 16)
    per_source, per_target = encoder + keys, step + query + 7 * 16 + deep + 4 * 30
    assert trace.total_matrix_flops == 2 * 3 * (7 * per_source + start + 5 * per_target)
    biases = 3 * 2 * gates + 8 + 30
    weights = 20 * 6 + 30 * 6 + encoder + start + step + keys + query + 5 + deep + 4 * 30
    assert trace.total_parameters == weights + biases
    (align,) = rows_named(trace, "alignment")
    assert (align["vector_flops"], align["special_ops"], align["serial_steps"]) == (3 * 3 * 7 * 5, 3 * 7 * 5, 5)
    (context,) = rows_named(trace, "context")
    assert (context["batch"], context["m"], context["n"], context["k"]) == (3, 1, 16, 7)
    assert {row["layer"] for row in trace.rows() if row["serial_steps"] == 5} == {"decoder.0"}
    (larger,) = rows_named(trace, "larger of two")
    assert (larger["vector_flops"], larger["input_bytes"]) == (3 * 5 * 4, 4 * 3 * 5 * 8)


def test_multiplicative_attention_runs_over_all_words_at_once():
    trace = built("general")
    (keys,) = rows_named(trace, "key projection")
    assert (keys["m"], keys["n"], keys["k"], keys["parameters"]) == (21, 8, 8, 64)
    scores, context, vector = (rows_named(trace, op)[0] for op in ("scores", "context", "attentional product"))
    assert [scores[c] for c in ("batch", "m", "n", "k", "serial_steps")] == [3, 5, 7, 8, 1]
    assert [context[c] for c in ("batch", "m", "n", "k", "serial_steps")] == [3, 5, 8, 7, 1]
    assert (vector["m"], vector["n"], vector["k"]) == (15, 8, 16)
    assert not rows_named(built("dot"), "key projection")


def test_input_feeding_puts_every_layer_and_attention_in_one_recurrence():
    trace, plain = built("feeding"), built("general")
    stepped = [row for row in trace.rows() if row["layer"] == "decoder"]
    assert {row["serial_steps"] for row in stepped} == {row["path_runs"] for row in stepped} == {5}
    first, second = (rows_named(trace, f"step product, layer {i}")[0] for i in range(2))
    assert (first["k"], second["k"]) == (8 + 8 + 8, 8 + 8)  # word, attentional vector, state
    assert trace.total_parameters - plain.total_parameters == 4 * 8 * 8
    assert trace.total_matrix_flops - plain.total_matrix_flops == 2 * 3 * 5 * 4 * 8 * 8


def test_published_models_by_hand():
    n, m, words = 1000, 620, 30_000
    gates = 3 * n
    encoder, decoder = 2 * gates * (m + n), gates * (m + 2 * n + n)
    align = 2 * n * n + n * n + n
    deep = 2 * 500 * (n + m + 2 * n) + 500 * words
    biases = 3 * 2 * gates + n + words
    assert network("rnnsearch-50").total_parameters == 2 * words * m + encoder + decoder + align + n * n + deep + biases
    # Sutskever et al.: 64M recurrent, 32M each way
    trace = network("sutskever-2014")
    recurrent = sum(row["parameters"] * row["weight_sets"] for row in trace.rows() if "coder" in row["layer"])
    assert recurrent == pytest.approx(64e6, rel=2e-3)
    # Luong et al., footnote: the first layer reads 2 n features where it is fed, the others n
    fed = [row["k"] for row in network("luong-2015").rows() if row["op"].startswith("step product")]
    assert fed == [3000, 2000, 2000, 2000]


# -- laws --------------------------------------------------------------------------------------------


@every_kind
def test_decoding_a_target_costs_what_scoring_it_costs(kind):
    whole, one = built(kind), built(kind, mode="decode")
    encoder = [row for row in whole.rows() if _is_encoder(row)]
    before = sum(row["repeats"] * row["matrix_flops"] for row in encoder)
    assert whole.total_matrix_flops == before + 5 * one.total_matrix_flops
    assert whole.total_parameters == one.total_parameters + sum(r["parameters"] * r["weight_sets"] for r in encoder)
    assert (one.tokens, whole.tokens, one.sequences) == (1, 5, 3)


def _is_encoder(row):
    return row["layer"].startswith(("source", "encoder", "attention keys", "initial"))


@pytest.mark.parametrize(
    ("kind", "held"),
    [("none", 0), ("additive", 8 + 8), ("general", 8 + 8), ("dot", 8), ("feeding", 8 + 8)],
)
def test_decode_holds_and_reads_the_source(kind, held):
    one = built(kind, mode="decode")
    assert one.footprint()["cache"] == 4 * 3 * 7 * held
    assert one.bytes_by_role()["cache"] == 4 * 3 * 7 * (0 if kind == "none" else 16)  # keys, then values


@every_kind
def test_training_is_three_times_the_forward_products(kind):
    forward = built(kind, bidirectional=kind != "dot", residual=True)
    assert training(forward).total_matrix_flops == 3 * forward.total_matrix_flops
    assert training(forward, "adam").footprint()["gradients"] == 4 * forward.total_parameters


@given(kind=st.sampled_from([k for k in KINDS if k != "feeding"]), residual=st.booleans(), cell=st.sampled_from("lg"))
def test_rows_grow_neither_with_words_nor_with_layers(kind, residual, cell):
    cell = {"l": "lstm", "g": "gru"}[cell]

    def rows(**changes):
        return len(built(kind, residual=residual, cell=cell, **changes))

    assert rows(layers=3) == rows(layers=300)
    assert rows(sequence_length=3, source_length=3) == rows(sequence_length=10**6, source_length=10**6)


@every_kind
def test_residual_adds_the_upper_layers(kind):
    added = built(kind, layers=4, residual=True).total_flops - built(kind, layers=4).total_flops
    assert added == 3 * 3 * (5 + 7) * 8  # three layers, three sequences, 5 and 7 words of 8 features


# -- PyTorch -----------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("layers", [1, 3])
def test_multiplicative_equals_modules_in_torch(layers):
    torch = pytest.importorskip("torch")
    from workloads import from_torch

    nn = torch.nn

    class Luong(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(20, 16), nn.Embedding(30, 16)
            self.encoder = nn.LSTM(16, 24, num_layers=layers, batch_first=True)
            self.decoder = nn.LSTM(16, 24, num_layers=layers, batch_first=True)
            self.keys = nn.Linear(24, 24, bias=False)
            self.vector = nn.Linear(48, 24, bias=False)
            self.head = nn.Linear(24, 30)

        def forward(self, source, target):
            memory, state = self.encoder(self.source(source))
            h, _ = self.decoder(self.target(target), state)
            weights = torch.softmax(h @ self.keys(memory).transpose(1, 2), -1)
            return self.head(torch.tanh(self.vector(torch.cat([weights @ memory, h], -1))))

    theirs = from_torch(Luong(), torch.zeros(3, 7, dtype=torch.long), torch.zeros(3, 5, dtype=torch.long))
    ours = sequence_to_sequence(
        layers, 24, 30, embedding_size=16, source_vocabulary=20, sequence_length=5, source_length=7, batch=3,
        attention="multiplicative",
    )  # fmt: skip
    assert ours.total_parameters == theirs.total_parameters
    assert ours.total_matrix_flops == theirs.total_matrix_flops


@pytest.mark.torch
def test_additive_step_equals_a_loop_in_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    nn, steps, source, batch = torch.nn, 5, 7, 3
    cell, query, keys, v = (
        nn.LSTMCell(6 + 8, 8),
        nn.Linear(8, 4, bias=False),
        nn.Linear(8, 4, bias=False),
        nn.Linear(4, 1),
    )
    memory, words = torch.zeros(batch, source, 8), torch.zeros(steps, batch, 6)
    h = c = torch.zeros(batch, 8)
    with FlopCounterMode(display=False) as counter:
        projected = keys(memory)
        for word in words:
            weights = torch.softmax(v(torch.tanh(query(h)[:, None] + projected)).squeeze(-1), -1)
            context = torch.bmm(weights[:, None], memory).squeeze(1)
            h, c = cell(torch.cat([word, context], -1), (h, c))
    scores = 2 * steps * batch * source * 4  # v' tanh(...) is a product there, vector work here
    trace = sequence_to_sequence(
        1, 8, 30, embedding_size=6, alignment_size=4, sequence_length=steps, source_length=source, batch=batch
    )
    rows = [row for row in trace.rows() if row["layer"] in ("decoder.0", "attention keys")]
    assert sum(row["repeats"] * row["matrix_flops"] for row in rows) == counter.get_total_flops() - scores


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "aditive"}, "attention: unknown 'aditive'.*'additive'"),
        ({"attention": "additive", "score": "dot"}, "score needs attention 'multiplicative', got 'additive'"),
        ({"attention": None, "input_feeding": True}, "input_feeding needs attention 'multiplicative', got 'none'"),
        ({"attention": None, "alignment_size": 4}, "alignment_size needs attention 'additive', got 'none'"),
        (
            {"attention": "multiplicative", "score": "dot", "bidirectional": True},
            "score 'dot' needs states of one size",
        ),
        ({"maxout": 0}, "maxout must be a whole number of 1 or more, got 0"),
        ({"source_length": 0}, "source_length must be a whole number of 1 or more, got 0"),
        ({"cell": "lsmt"}, "cell: unknown 'lsmt'.*'lstm'"),
        ({"mode": "train"}, "mode: unknown 'train'"),
        ({"residual": 1}, "residual must be True or False, got 1"),
    ],
)
def test_bad_request_is_one_clear_error(changes, message):
    with pytest.raises(TraceError, match=f"sequence to sequence: {message}"):
        sequence_to_sequence(**{**SIZES, **changes})
