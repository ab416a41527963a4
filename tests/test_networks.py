"""Published networks: sizes as published, overrides, errors."""

import pytest

from workloads import lstm, network, network_info, networks
from workloads.networks import BUILDERS
from workloads.trace import TraceError

#: Parameters of the released models, as their libraries count them.
EXACT = {
    "rwkv-4-169m": 169_342_464,
    "mamba-130m": 129_135_360,
    "xlstm-7b": 6_865_424_896,
    "mamba-2.8b": 2_768_345_600,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "gpt2-small": 124_439_808,
    "gpt2-large": 774_030_080,
    "opt-1.3b": 1_315_758_080,
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v2-lite": 15_706_484_224,
    "resnet-50": 25_557_032,
    "resnet-152": 60_192_808,
    "tcn-sequential-mnist": 66_910,
    "tcn-word-ptb": 14_659_600,
}

#: Parameters a paper gives in round numbers, and how far ours may be.
ROUND = {
    "lstm-zaremba-large": (66e6, 0.01),
    "gnmt": (278e6, 0.02),
    "sutskever-2014": (384e6, 0.001),
    "ntm-copy": (17_162, 0.25),  # the paper does not say which start values are learned
    "lstm-acoustic": (13e6, 0.02),
    "qrnn-penn-treebank": (18e6, 0.02),
    "xlstm-125m": (163.7e6, 0.001),
    "transformer-base": (65e6, 0.04),  # the vocabulary is given as "about 37000"
    "transformer-big": (213e6, 0.02),
    "mozilla-deepspeech": (47.2e6, 0.001),
    "rnn-t-he-2019": (120e6, 0.005),
    "conformer-s": (10.3e6, 0.005),
    "conformer-m": (30.7e6, 0.005),
    "conformer-l": (118.8e6, 0.005),
}

#: Jouppi et al., ISCA 2017, table 1: weights in millions, batch, multiply-accumulates per weight byte.
TPU = {
    "tpu-v1-mlp0": (20, 200, 200),
    "tpu-v1-mlp1": (5, 168, 168),
    "tpu-v1-lstm0": (52, 64, 64),
    "tpu-v1-lstm1": (34, 96, 96),
    "tpu-v1-cnn0": (8, 8, 2888),
    "tpu-v1-cnn1": (100, 32, 1750),
}

SEQUENCES = [name for name in (*ROUND, *EXACT, "deep-speech-2") if "seq_len" in network_info(name).settings]


def rows_named(trace, op):
    return [row for row in trace.rows() if row["op"] == op]


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_those_of_the_released_model(name):
    assert network(name).total_parameters == EXACT[name]


@pytest.mark.parametrize("name", ROUND)
def test_parameters_are_near_the_published_number(name):
    published, tolerance = ROUND[name]
    assert network(name).total_parameters == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", TPU)
def test_tpu_v1_networks_have_the_published_weights_batch_and_intensity(name):
    weights, batch, intensity = TPU[name]
    trace = network(name)
    assert trace.total_parameters == pytest.approx(weights * 1e6, rel=0.02)
    assert trace.sequences == batch
    macs = trace.total_matrix_flops / 2
    assert macs / trace.bytes_by_role()["weight"] == pytest.approx(intensity, rel=0.05)


def test_tpu_v1_networks_leave_as_much_of_a_256_wide_array_unused_as_published():
    # table 3: useful and unused share of the active cells, of products cut into 256 x 256 tiles
    published = {
        "mlp0": 12.5 / 12.8,
        "mlp1": 9.4 / 10.6,
        "lstm0": 1.0,
        "lstm1": 6.3 / 10.5,
        "cnn0": 1.0,
        "cnn1": 22.5 / 46.2,
    }
    for name, useful in published.items():
        trace = network(f"tpu-v1-{name}")
        cells, tiles = trace.batch * trace.n * trace.k, trace.batch * -(-trace.n // 256) * -(-trace.k // 256)
        streamed = trace.runs * trace.m  # rows that pass each tile
        assert (streamed @ cells) / (streamed @ (tiles * 256**2)) == pytest.approx(useful, abs=0.05), name


def test_tpu_v1_lstm1_is_made_of_600_by_600_products():
    trace = network("tpu-v1-lstm1")
    products = trace.is_product
    assert (trace.n[products] == 600).all()
    assert (trace.k[products] == 600).all()
    assert (trace.batch * trace.weight_sets)[products].sum() == 94


def test_tpu_v1_lstms_keep_16_bit_activations_and_8_bit_weights():
    for name in ("tpu-v1-lstm0", "tpu-v1-lstm1"):
        trace = network(name)
        assert set(trace.dtype) == set(trace.activation_dtype) == {"int16"}
        assert set(trace.weight_dtype) == {"int8"}


def test_tpu_v1_cnns_have_the_published_layers():
    def layers(name):
        trace = network(name)
        return {
            kind: int(trace.repeats[select].sum())
            for kind, select in (
                ("convolution", trace.kind == "convolution"),
                ("dense", trace.kind == "matmul"),
                ("pooling", trace.op == "pooling"),
            )
        }

    assert layers("tpu-v1-cnn0") == {"convolution": 16, "dense": 0, "pooling": 0}
    assert layers("tpu-v1-cnn1") == {"convolution": 72, "dense": 4, "pooling": 13}


def test_zaremba_by_hand():
    # 20 sequences of 35: table and projection of 10 000 words, two layers of 4 x 1500 x 3000
    trace = network("lstm-zaremba-large")
    cells = 2 * (4 * 1500 * 3000 + 2 * 4 * 1500)
    assert trace.total_parameters == 10000 * 1500 + cells + 10000 * 1500 + 10000
    assert trace.total_matrix_flops == 2 * 700 * (2 * 4 * 1500 * 3000 + 1500 * 10000)
    assert rows_named(trace, "token embedding")[0]["kind"] == "gather"
    assert (trace.sequences, trace.tokens) == (20, 35)


def test_gnmt_by_hand():
    h, v, s, b = 1024, 32000, 50, 32
    cell = 4 * h  # sums of a layer
    encoder = 2 * cell * 2 * h + cell * 3 * h + 6 * cell * 2 * h
    decoder = 8 * cell * 3 * h
    attend = h * h + h * h  # keys and query
    trace = network("gnmt")
    biases = (2 + 7 + 8) * 2 * cell
    assert trace.total_parameters == 2 * v * h + encoder + decoder + biases + attend + h + v * h + v
    assert trace.total_matrix_flops == 2 * b * s * (encoder + decoder + attend + s * h + v * h)
    context = rows_named(trace, "context")[0]
    assert (context["serial_steps"], context["layer"]) == (50, "decoder.0")  # step by step with the lowest layer
    align = rows_named(trace, "alignment")[0]  # query + key, tanh, times v, sum: for each source position
    assert (align["vector_flops"], align["special_ops"]) == (3 * b * s * h, b * s * h)


def test_acoustic_model_by_hand():
    gates = 4 * 800
    layers = gates * (40 + 512) + gates * (512 + 512) + 2 * (2 * gates + 800 * 512)
    assert network("lstm-acoustic").total_parameters == layers + 512 * 14247 + 14247


@pytest.mark.torch
def test_deep_speech_2_equals_its_modules_in_torch():
    nn = pytest.importorskip("torch").nn
    modules = [nn.Conv2d(1, 32, (41, 11)), nn.BatchNorm2d(32), nn.Conv2d(32, 32, (21, 11)), nn.BatchNorm2d(32)]
    modules += [nn.GRU(672, 800, bidirectional=True), nn.BatchNorm1d(800), nn.Linear(800, 29, bias=False)]
    for _ in range(4):
        modules += [nn.BatchNorm1d(800), nn.GRU(800, 800, bidirectional=True)]
    expected = sum(p.numel() for module in modules for p in module.parameters())
    assert network("deep-speech-2").total_parameters == expected


def test_deep_speech_2_steps_after_the_strides():
    # 1000 frames: (1000 - 11) // 2 + 1 = 495, then 495 - 10 = 485 steps of 32 x 21 features
    trace = network("deep-speech-2")
    product, deeper = rows_named(trace, "input product")
    assert (product["m"], product["k"]) == (16 * 485, 672)
    assert deeper["k"] == 800
    assert rows_named(trace, "recurrent product")[0]["serial_steps"] == 485
    assert trace.tokens == 1000


def test_every_network_is_listed_with_task_and_source():
    assert set(networks()) == set(EXACT) | set(ROUND) | set(TPU) | {"deep-speech-2", "rnnsearch-50", "luong-2015"}
    for name in networks():
        info = network_info(name)
        assert info.name == name == name.lower()
        assert info.title
        assert info.task
        assert any(character.isdigit() for character in info.source)  # a year, a table
        assert set(info.defaults) <= set(info.settings)
        assert info.builder in BUILDERS


@pytest.mark.parametrize("name", networks())
def test_network_carries_its_name_and_batch(name):
    trace = network(name, batch=3)
    assert trace.name == name
    assert trace.sequences == 3


@pytest.mark.parametrize("name", SEQUENCES)
def test_rows_do_not_grow_with_the_sequence(name):
    longer = {} if "max_positions" not in network_info(name).defaults else {"max_positions": 10**6}
    assert len(network(name, seq_len=200, **longer)) == len(network(name, seq_len=400, **longer))


@pytest.mark.parametrize("name", networks())
def test_element_types_can_be_overridden(name):
    trace = network(name, dtype="bf16", weight_dtype="int8", activation_dtype="bf16")
    assert set(trace.dtype) == set(trace.activation_dtype) == {"bf16"}
    assert set(trace.weight_dtype) == {"int8"}
    assert trace.footprint()["weights"] == trace.total_parameters


def test_overrides_reach_the_builder():
    assert network("bert-base", layers=3).repeats.max() == 3
    assert network("llama-2-7b", seq_len=77).tokens == 77
    assert network("llama-2-7b", seq_len=77) == network("llama-2-7b", sequence_length=77)
    assert "softmax" in network("gpt2-small", fused=False).op
    decode = network("llama-2-70b", mode="decode", cache_length=4000, batch=8)
    assert (decode.tokens, decode.sequences) == (1, 8)
    # 80 layers, 4001 positions of 8 key and value heads of 128, fp16
    assert decode.footprint()["cache"] == 80 * 8 * 4001 * 2 * 8 * 128 * 2
    wave = network("lstm-zaremba-large", wavefront=True)
    assert rows_named(wave, "recurrent product")[0]["path_runs"] == 36
    stepped = network("lstm-zaremba-large", hoist_input=False)
    assert not rows_named(stepped, "input product")


def test_a_streaming_network_reads_its_output_weights_each_step():
    stepped = network("lstm-zaremba-large", hoist_input=False)
    head = rows_named(stepped, "vocabulary projection")[0]
    assert (head["m"], head["repeats"], head["serial_steps"], head["weight_sets"]) == (20, 35, 35, 1)
    assert stepped.total_matrix_flops == network("lstm-zaremba-large").total_matrix_flops
    assert stepped.total_parameters == network("lstm-zaremba-large").total_parameters


def test_recurrent_part_of_a_network_is_the_builder():
    trace = network("lstm-zaremba-large")
    alone = lstm(2, 1500, sequence_length=35, batch=20, dtype="fp16")
    assert trace.rows()[1]["matrix_flops"] == alone.rows()[0]["matrix_flops"]
    assert trace.total_parameters - alone.total_parameters == 2 * 10000 * 1500 + 10000


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("bert-lrage", {}, "unknown network 'bert-lrage'.*'bert-large'"),
        ("BERT-large", {}, "unknown network 'BERT-large'.*'bert-large'"),
        ("bert-large", {"seqlen": 3}, "bert-large: unknown setting 'seqlen'.*'seq_len'"),
        ("tpu-v1-mlp0", {"wavefront": True}, "tpu-v1-mlp0: unknown setting 'wavefront'"),
        ("bert-large", {"seq_len": 3, "sequence_length": 3}, "'sequence_length' is given twice"),
        ("bert-large", {"batch": 0}, "batch must be a whole number of 1 or more, got 0"),
        ("bert-large", {"seq_len": 513}, "513 positions are asked for, max_positions is 512"),
        ("bert-large", {"mode": "decode"}, "mode 'decode' needs causal=True"),
        ("gpt2-small", {"dtype": "half"}, "dtype: unknown element type 'half'"),
        ("gnmt", {"layers": 2}, "layers must be a whole number of 3 or more, got 2"),
        ("lstm-acoustic", {"cell": "gru"}, "projection needs cell 'lstm', got 'gru'"),
        ("deep-speech-2", {"seq_len": 10}, "sequence_length must be a whole number of 31 or more, got 10"),
    ],
)
def test_bad_request_is_one_clear_error(name, overrides, message):
    with pytest.raises(TraceError, match=message):
        network(name, **overrides)


def test_decode_refuses_a_length_that_contradicts_the_cache():
    with pytest.raises(TraceError, match=r"seq_len 5 contradicts cache_length 100; give one of them"):
        network("gpt2-small", mode="decode", seq_len=5, cache_length=100)
    agreeing = network("gpt2-small", mode="decode", seq_len=101, cache_length=100)
    assert agreeing == network("gpt2-small", mode="decode", cache_length=100)
