"""Sequences of unequal lengths: against loops over sequences and steps, and PyTorch's packed sequences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import (
    TraceError,
    concatenate,
    decoder_block,
    encoder_block,
    gru,
    lstm,
    padding_share,
    rnn,
    training,
    transformer,
    unequal,
)
from workloads.networks import recurrent_network
from workloads.unequal import batch_sizes, stretches

BUILDERS = {"rnn": rnn, "lstm": lstm, "gru": gru}
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)
SHAPES = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 4),
        "hidden": st.integers(2, 12),
        "input_size": st.integers(1, 12),
        "bidirectional": st.booleans(),
        "residual": st.booleans(),
        "hoist_input": st.booleans(),
    }
)


def each_alone(build, lengths, **shape):
    """The sequences one after another, each a batch of its own."""
    return concatenate([build(sequence_length=length, batch=1, **shape) for length in lengths])


def padding(trace, *ops):
    return [row for row in trace.rows() if row["op"] in ops]


def test_packed_lstm_by_hand():
    # lengths 5, 3, 3, 1: the batch is 4, 3, 3, 1, 1; hidden 8, so 32 sums
    trace = unequal(lstm, 1, 8, lengths=[3, 5, 1, 3])
    product, *stepped = trace.rows()
    assert (product["m"], product["n"], product["k"], product["repeats"]) == (12, 32, 8, 1)
    recurrent = [row for row in stepped if row["op"] == "recurrent product"]
    assert [(row["m"], row["serial_steps"], row["parameters"]) for row in recurrent] == [
        (4, 1, 256),
        (3, 2, 0),
        (1, 2, 0),
    ]
    assert [row["layer"] for row in recurrent] == ["lstm.0[0:1]", "lstm.0[1:3]", "lstm.0[3:5]"]
    assert [row["after"] for row in stepped] == [(0,), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
    assert (trace.sequences, trace.tokens) == (4, 5)
    assert trace.path_length(0, 4) == 4


@given(cell=st.sampled_from(sorted(BUILDERS)), shape=SHAPES, lengths=LENGTHS, groups=st.sampled_from([2, 3, 8, 100]))
def test_totals_equal_a_loop_over_the_sequences(cell, shape, lengths, groups):
    packed = unequal(cell, lengths=lengths, groups=groups, **shape)
    alone = each_alone(BUILDERS[cell], lengths, **shape)
    assert packed.total_matrix_flops == alone.total_matrix_flops
    assert packed.total_flops == alone.total_flops
    by_role, expected = packed.bytes_by_role(), alone.bytes_by_role()
    for role in ("input", "output", "state"):
        assert by_role[role] == expected[role]
    assert packed.total_parameters == BUILDERS[cell](sequence_length=1, **shape).total_parameters
    steps = sum(row["path_runs"] for row in packed.rows() if row["op"] == "gates")
    assert steps == shape["layers"] * max(lengths)


@given(lengths=LENGTHS, groups=st.integers(2, 12))
def test_stretches_keep_steps_and_positions(lengths, groups):
    by_step = [sum(length > step for length in lengths) for step in range(max(lengths))]
    exact = [batch for batch, steps in batch_sizes(lengths) for _ in range(steps)]
    assert exact == by_step
    found = stretches(lengths, groups)
    assert len(found) <= max(groups, 2)
    assert sum(steps for _, steps in found) == max(lengths)
    assert sum(batch * steps for batch, steps in found) == sum(lengths)
    assert [batch for batch, _ in found] == sorted((batch for batch, _ in found), reverse=True)


def test_many_lengths_fold_into_few_rows():
    lengths = list(range(1, 1001))
    assert len(batch_sizes(lengths)) == 1000
    trace = unequal(lstm, 4, 64, lengths=lengths, groups=8)
    assert len(trace) == 2 * (1 + 8 * 2)
    assert trace.total_matrix_flops == 2 * sum(lengths) * 4 * (4 * 64 * 128)


@pytest.mark.parametrize("build", [lstm, gru])
def test_equal_lengths_are_the_plain_batch(build):
    assert unequal(build, 3, 8, lengths=[7, 7]) == build(3, 8, sequence_length=7, batch=2)


def test_padded_runs_the_whole_batch_at_every_step():
    lengths = [9, 4, 2]
    padded = unequal(lstm, 2, 8, lengths=lengths, packed=False)
    assert padded == lstm(2, 8, sequence_length=9, batch=3)
    packed = unequal(lstm, 2, 8, lengths=lengths)
    assert packed.total_matrix_flops / padded.total_matrix_flops == pytest.approx(1 - padding_share(lengths))
    assert padding_share(lengths) == pytest.approx(1 - 15 / 27)
    assert padding_share([5, 5]) == 0


def test_language_model_reads_and_predicts_only_words_that_are_there():
    trace = unequal(recurrent_network, 2, 16, vocabulary=100, lengths=[6, 2])
    (table,) = [row for row in trace.rows() if row["kind"] == "gather"]
    (head,) = [row for row in trace.rows() if row["op"] == "vocabulary projection"]
    assert table["output_bytes"] == 4 * 8 * 16
    assert head["m"] == 8
    assert head["after"] == (len(trace) - 4, len(trace) - 2)  # gates of both stretches


@given(lengths=LENGTHS, groups=st.sampled_from([2, 8, 100]))
def test_attention_computes_the_pairs_of_each_length(lengths, groups):
    shape = {"hidden": 16, "heads": 2, "inner": 24}
    packed = unequal(encoder_block, lengths=lengths, groups=groups, **shape)
    alone = each_alone(encoder_block, lengths, **shape)
    assert packed.total_parameters == encoder_block(sequence_length=1, **shape).total_parameters
    exact = len(set(lengths)) <= groups
    if exact:
        assert packed.total_flops == alone.total_flops
    else:
        assert packed.total_flops <= alone.total_flops  # averaged lengths have fewer pairs
    attention = [row for row in packed.rows() if row["kind"] == "attention"]
    assert len(attention) <= groups
    assert sum(row["batch"] * row["m"] for row in attention) == 2 * sum(lengths)
    output = sum(row["output_bytes"] for row in packed.rows())
    assert output == sum(row["output_bytes"] for row in alone.rows())


def test_causal_attention_is_packed_too():
    trace = unequal(decoder_block, 16, 2, lengths=[4, 1])
    pairs = 4 * 5 // 2 + 1
    assert sum(row["matrix_flops"] for row in trace.rows() if row["kind"] == "attention") == 4 * 2 * pairs * 8


@settings(deadline=None)
@given(lengths=LENGTHS, layers=st.integers(1, 4), bidirectional=st.booleans())
def test_training_a_packed_batch_costs_what_its_positions_cost(lengths, layers, bidirectional):
    shape = {"layers": layers, "hidden": 8, "bidirectional": bidirectional}
    positions = sum(lengths)
    forward = unequal("lstm", lengths=lengths, groups=100, **shape)
    trace = training(forward)
    same = training(lstm(sequence_length=positions, batch=1, **shape))
    assert trace.total_matrix_flops == same.total_matrix_flops
    assert trace.footprint()["weights"] == same.footprint()["weights"]
    assert trace.footprint()["gradients"] == same.footprint()["gradients"]
    saved = 4 * positions * sum(_kept_features(layers, 8, bidirectional))
    # a tensor counted once for all runs of a row is rounded up to whole bytes a run
    assert saved <= trace.footprint()["saved"] <= saved + trace.runs.sum()
    again = training(forward, recompute=True)
    assert again.total_matrix_flops - trace.total_matrix_flops == forward.total_matrix_flops


def _kept_features(layers, hidden, bidirectional):
    """Values kept a position: the network's input; of each layer its result and, by direction, gates and cells."""
    both = 1 + bidirectional
    yield hidden
    for _ in range(layers):
        yield both * hidden  # h, which the next layer and the next step read
        yield both * 6 * hidden  # four gates, c and tanh c


@pytest.mark.torch
def test_packed_lstm_equals_torch_on_a_packed_sequence():
    torch = pytest.importorskip("torch")
    lengths = [6, 4, 4, 1]
    module = torch.nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    given = torch.nn.utils.rnn.pack_padded_sequence(torch.zeros(6, 4, 5), lengths)
    sizes = [batch for batch, steps in batch_sizes(lengths) for _ in range(steps)]
    assert given.batch_sizes.tolist() == sizes
    trace = unequal(lstm, 2, 7, input_size=5, bidirectional=True, lengths=lengths)
    assert trace.total_parameters == sum(p.numel() for p in module.parameters())
    hoisted = [row for row in trace.rows() if row["op"] == "input product"]
    assert {row["m"] for row in hoisted} == {given.data.shape[0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": []}, "lengths must name at least one sequence"),
        ({"lengths": [3, 0]}, "lengths must be a whole number of 1 or more, got 0"),
        ({"lengths": "34"}, "lengths must be whole numbers, one a sequence, got '34'"),
        ({"lengths": 7}, "lengths must be whole numbers, one a sequence, got 7"),
        ({"lengths": [3], "groups": 1}, "groups must be a whole number of 2 or more, got 1"),
        ({"lengths": [3], "packed": 1}, "packed must be True or False, got 1"),
        ({"lengths": [3], "batch": 4}, "batch follows from lengths, got 4"),
        ({"lengths": [3, 2], "wavefront": True}, "wavefront cannot be packed, got True for lstm"),
    ],
)
def test_bad_request_is_one_clear_error(arguments, message):
    with pytest.raises(TraceError, match=f"unequal: {message}"):
        unequal(lstm, 1, 8, **arguments)


def test_builders_that_cannot_be_packed():
    with pytest.raises(TraceError, match="unequal: build: unknown 'transformer'"):
        unequal(transformer, 2, 8, 2, 100, lengths=[3, 2])
    with pytest.raises(TraceError, match=r"unknown 'lsmt' .did you mean 'lstm'"):
        unequal("lsmt", 2, 8, lengths=[3, 2])
    with pytest.raises(TraceError, match="packed attention needs fused=True"):
        unequal(encoder_block, 16, 2, fused=False, lengths=[3, 2])
    with pytest.raises(TraceError, match="build must take sequence_length and batch"):
        unequal(len, lengths=[3, 2], packed=False)
    assert unequal(transformer, 2, 8, 2, 100, lengths=[3, 2], packed=False).tokens == 3
