"""Speech networks against hand counts, modules in PyTorch and published sizes."""

from __future__ import annotations

import pytest

from workloads import TraceError, acoustic_network, conformer, network, training, transducer

TINY = {"sequence_length": 48, "batch": 2}


def rows_named(trace, op):
    return [row for row in trace.rows() if row["op"] == op]


def parameters(*modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


# -- acoustic models -----------------------------------------------------------------------------------


def test_acoustic_network_by_hand():
    trace = acoustic_network(3, 10, outputs=7, features=5, stack=4, decimate=3, projection=6, **TINY)
    first, upper = 4 * 10 * (20 + 6) + 10 * 6, 4 * 10 * (6 + 6) + 10 * 6
    weights = first + 2 * upper + 6 * 7
    assert trace.total_parameters == weights + 3 * 2 * 4 * 10 + 7
    assert trace.total_matrix_flops == 2 * 2 * 16 * weights  # two streams, 48 / 3 steps
    assert trace.path_length(0, 45) == 15


def test_deepspeech_has_the_published_work_per_frame():
    """Open Model Zoo: 47.2M parameters, 0.0472 G multiply-accumulates for each of 50 frames a second."""
    trace = network("mozilla-deepspeech", seq_len=320)
    assert trace.total_matrix_flops / 2 / 160 == pytest.approx(0.0472e9, rel=0.001)
    assert rows_named(trace, "recurrent product")[0]["serial_steps"] == 16


@pytest.mark.torch
def test_deepspeech_equals_its_modules_in_torch():
    nn = pytest.importorskip("torch").nn
    dense = [nn.Linear(494, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 2048)]
    modules = [*dense, nn.LSTM(2048, 2048), nn.Linear(2048, 29)]
    assert network("mozilla-deepspeech").total_parameters == parameters(*modules)


# -- transducers ---------------------------------------------------------------------------------------


@pytest.mark.torch
def test_transducer_equals_its_modules_in_torch():
    nn = pytest.importorskip("torch").nn
    trace = network("rnn-t-he-2019")
    encoder = [nn.LSTM(320, 2048, num_layers=2, proj_size=640), nn.LSTM(1280, 2048, num_layers=6, proj_size=640)]
    prediction = [nn.Embedding(4096, 128), nn.LSTM(128, 2048, num_layers=2, proj_size=640)]
    joint = [nn.Linear(640, 640), nn.Linear(640, 640, bias=False), nn.Linear(640, 4096)]
    assert trace.total_parameters == parameters(*encoder, *prediction, *joint)


def test_mlperf_transducer_has_the_published_size():
    """MLPerf Inference v0.7, speech_recognition/rnnt/README.md: 45.3M parameters, no projections, characters."""
    trace = transducer(
        5, 1024, sequence_length=300, vocabulary=29, prediction_hidden=320, embedding_size=320, joint=512, stack=3,
        decimate=3, time_reduction=2, reduction_after=2,
    )  # fmt: skip
    assert trace.total_parameters == pytest.approx(45.3e6, rel=0.005)


def test_greedy_search_evaluates_frames_and_symbols_one_after_another():
    sizes = {"vocabulary": 11, "joint": 4, "embedding_size": 3, "time_reduction": 2, "reduction_after": 1}
    trace = transducer(3, 8, symbols=5, **sizes, **TINY)
    logits = rows_named(trace, "output projection")[0]
    assert (logits["m"], logits["repeats"], logits["serial_steps"]) == (2, 24 + 5, 24 + 5)
    assert rows_named(trace, "prediction projection")[0]["repeats"] == 5
    assert rows_named(trace, "encoder projection")[0]["m"] == 2 * 24
    lattice = transducer(3, 8, symbols=5, search="lattice", **sizes, **TINY)
    assert rows_named(lattice, "output projection")[0]["m"] == 2 * 24 * 6
    assert lattice.total_parameters == trace.total_parameters
    tanh = rows_named(lattice, "joint tanh")[0]
    assert tanh["special_ops"] == tanh["vector_flops"] == 2 * 24 * 6 * 4
    assert tanh["input_bytes"] == 4 * 4 * 2 * (24 + 6)


def test_three_symbols_a_second_are_assumed():
    assert rows_named(network("rnn-t-he-2019", seq_len=200), "prediction projection")[0]["repeats"] == 6


def test_reduced_layers_reach_over_as_many_frames_as_they_step():
    trace = network("rnn-t-he-2019", chunk=None)
    assert [row["reach_back"] for row in rows_named(trace, "recurrent product")] == [3, 3, 6, 6]


# -- Conformer -----------------------------------------------------------------------------------------


def torch_block(nn, d: int, inner: int, kernel: int) -> list:
    feed_forward = [nn.LayerNorm(d), nn.Linear(d, inner), nn.Linear(inner, d)]
    attention = [nn.LayerNorm(d), nn.MultiheadAttention(d, 1), nn.Linear(d, d, bias=False), nn.ParameterList()]
    for _ in range(2):  # the two biases of the scores
        attention[-1].append(nn.Parameter(nn.LayerNorm(d).weight))
    convolution = [
        nn.LayerNorm(d),
        nn.Conv1d(d, 2 * d, 1),
        nn.Conv1d(d, d, kernel, groups=d),
        nn.BatchNorm1d(d),
        nn.Conv1d(d, d, 1),
    ]
    return [*feed_forward, *attention, *convolution, *feed_forward, nn.LayerNorm(d)]


@pytest.mark.torch
def test_conformer_equals_its_modules_in_torch():
    nn = pytest.importorskip("torch").nn
    subsampling = [nn.Conv2d(1, 256, 3), nn.Conv2d(256, 256, 3), nn.Linear(256 * 20, 256)]
    decoder = [nn.Embedding(1024, 128), nn.LSTM(128, 640)]
    joint = [nn.Linear(256, 640), nn.Linear(640, 640, bias=False), nn.Linear(640, 1024)]
    modules = subsampling + 16 * torch_block(nn, 256, 1024, 32) + decoder + joint
    assert network("conformer-m").total_parameters == parameters(*modules)


def test_conformer_block_by_hand():
    d, heads, t, kernel, batch = 8, 2, 12, 5, 2
    trace = conformer(3, d, heads, vocabulary=10, kernel=kernel, decoder="ctc", features=16, **TINY)
    rows = [row for row in trace.rows() if row["layer"] == "block.0-2"]
    position = 2 * t - 1
    dense = 2 * 2 * d * 4 * d + 4 * d * d + 3 * d * d + kernel * d  # two halves, attention, convolution module
    attended = batch * heads * t * (2 * t + position) * (d // heads) + position * d * d
    assert sum(row["matrix_flops"] for row in rows) == 2 * (batch * t * dense + attended)
    assert all(row["repeats"] == row["path_runs"] == row["weight_sets"] == 3 for row in rows)
    assert trace.path_length(0, 44) == 1


def test_a_chunk_sees_its_left_context():
    d, heads, batch = 8, 2, 2
    trace = conformer(3, d, heads, vocabulary=10, decoder="ctc", chunk=16, left_context=32, **TINY)
    scores, position = rows_named(trace, "content scores")[0], rows_named(trace, "position scores")[0]
    assert (scores["m"], scores["n"], position["n"]) == (4, 4 + 8, 12 + 4 - 1)
    assert scores["cache_bytes"] == 4 * batch * 12 * d
    assert trace.footprint()["cache"] == 2 * 3 * 4 * batch * 12 * d  # keys and values of three layers
    assert rows_named(trace, "position projection")[0]["repeats"] == 3  # once a layer, not once a call
    depthwise = rows_named(trace, "depthwise convolution")[0]
    assert depthwise["state_bytes"] == 2 * 4 * batch * d * 31
    assert depthwise["reach_ahead"] == 0
    assert trace.total_parameters == conformer(3, d, heads, vocabulary=10, decoder="ctc", **TINY).total_parameters
    assert trace.path_length(0, 44) == 1.0


def test_rows_do_not_grow_with_depth():
    for name in ("conformer-s", "rnn-t-he-2019"):
        assert len(network(name, layers=6, chunk=60)) == len(network(name, layers=12, chunk=60))


# -- training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "conformer-s", "search": "lattice"},
        {"name": "conformer-s", "decoder": "ctc"},
        {"name": "rnn-t-he-2019", "search": "lattice", "chunk": None},
        {"name": "mozilla-deepspeech", "chunk": None},
    ],
)
def test_training_does_three_times_the_products(settings):
    name = settings.pop("name")
    forward = network(name, dtype="fp32", **settings)
    step = training(forward)
    assert step.total_matrix_flops == pytest.approx(3 * forward.total_matrix_flops, rel=0.05)
    assert step.total_parameters == forward.total_parameters


# -- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rnn-t-he-2019", {"chunk": 4}, "rnn-t-he-2019: chunk must be a multiple of 6 frames"),
        ("rnn-t-he-2019", {"reduction_after": 8}, r"reduction_after must be below layers \(8\), got 8"),
        ("rnn-t-he-2019", {"search": "gready"}, "search: unknown 'gready'.*'greedy'"),
        ("rnn-t-he-2019", {"symbols": 0}, "symbols must be a whole number of 1 or more, got 0"),
        ("conformer-m", {"heads": 3}, r"heads must divide hidden \(256\), got 3"),
        ("conformer-m", {"decoder": "cct"}, "decoder: unknown 'cct'.*'ctc'"),
        ("conformer-m", {"left_context": 30}, "left_context must be a multiple of 4 frames, got 30"),
        ("mozilla-deepspeech", {"dense_before": -1}, "dense_before must be a whole number of 0 or more, got -1"),
    ],
)
def test_bad_request_is_one_clear_error(name, settings, message):
    with pytest.raises(TraceError, match=message):
        network(name, **settings)


def test_a_step_of_deep_speech_2_stands_for_two_frames():
    # 485 steps a layer reach 970 frames back, the next layer the 29 that are left
    path = network("deep-speech-2", seq_len=1000).path_length(0, 999)
    assert path == 500
    assert type(path) is float
    assert network("deep-speech-2", seq_len=64).path_length(0, 63) == 32
