"""Every argument of every builder, given what it cannot be: one TraceError that names it, and nothing else."""

import inspect

import numpy as np
import pytest

import workloads
from workloads import (
    TraceError,
    hierarchical_attention,
    lstm,
    mlstm,
    neural_turing_machine,
    residual_network,
    sequence_to_sequence,
    sized_to,
    store_less,
    tcn,
    training,
    transducer,
    transformer,
    unequal,
    xlstm,
)

LENGTH = {"sequence_length": 12}
ATTENDS = {"hidden": 16, "heads": 4, **LENGTH}
MODEL = {"layers": 2, "hidden": 16, "vocabulary": 50, **LENGTH}
SPEECH = {"layers": 2, "hidden": 16, "sequence_length": 64}
#: The smallest settings each builder accepts.
BUILDERS = {
    "hierarchical_attention": {"levels": None, "window": 4, **ATTENDS},
    "tcn": {"levels": 2, "hidden": 16, **LENGTH},
    "temporal_network": {"levels": 2, "hidden": 16, "vocabulary": 50, **LENGTH},
    "qrnn": {"layers": 2, "hidden": 16, **LENGTH},
    "sru": {"layers": 2, "hidden": 16, **LENGTH},
    "min_lstm": {"layers": 2, "hidden": 16, **LENGTH},
    "min_gru": {"layers": 2, "hidden": 16, **LENGTH},
    "gated_scan_network": MODEL,
    "linear_attention": ATTENDS,
    "linear_transformer": {"heads": 4, **MODEL},
    "rwkv": MODEL,
    "mamba": MODEL,
    "mamba_block": {"hidden": 16, **LENGTH},
    "slstm": ATTENDS,
    "mlstm": ATTENDS,
    "xlstm": {"heads": 4, "slstm_layers": 1, **MODEL},
    "latent_attention": {"latent_size": 8, "rotary_dim": 2, **ATTENDS},
    "mixture_of_experts": {"hidden": 16, "inner": 32, "experts": 8, "experts_per_token": 2, **LENGTH},
    "transformer": {"heads": 4, **MODEL},
    "encoder_decoder": {"heads": 4, **MODEL},
    "gated_memory": {"heads": 4, "keep": 0.25, **MODEL},
    "neural_turing_machine": {"hidden": 16, "locations": 16, "width": 8, **LENGTH},
    "sequence_to_sequence": MODEL,
    "conformer": {"heads": 4, "vocabulary": 50, **SPEECH},
    "transducer": {"vocabulary": 50, **SPEECH},
    "acoustic_network": {"outputs": 50, **SPEECH},
    "speech_network": {"outputs": 50, **SPEECH},
    "residual_network": {"blocks": [1, 1, 1, 1], "size": 64},
    "lstm": {"layers": 2, "hidden": 16, "residual": True, **LENGTH},
}
SIZES = (-1, float("nan"), float("inf"), True, False, 2.0, 1.5, "x", "", [], [3], {}, 2**63, 10**30, np.float64(4),
         np.bool_(True), np.array([4]), b"x", 1j, object)  # fmt: skip
FLAGS = (0, 1, -1, "true", [], np.bool_(True))
CHOICES = (0, True, 2.0, "x", "", [], {}, np.array(["all", "last"]), object)


def _arguments(kind: str):
    for name, settings in BUILDERS.items():
        for argument, parameter in inspect.signature(getattr(workloads, name)).parameters.items():
            accepted = {part.strip() for part in str(parameter.annotation).split("|")}
            if kind in accepted and argument not in ("name", "layer"):
                yield pytest.param(getattr(workloads, name), settings, argument, id=f"{name}-{argument}")


def _refused(build, settings, argument, values):
    for value in values:
        with pytest.raises(TraceError) as refused:
            build(**settings | {argument: value})
        assert argument in str(refused.value), f"{value!r}: {refused.value}"
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize(("build", "settings", "argument"), [*_arguments("int")])
def test_what_is_no_size_is_refused_by_name(build, settings, argument):
    _refused(build, settings, argument, SIZES)


@pytest.mark.parametrize(("build", "settings", "argument"), [*_arguments("bool")])
def test_what_is_no_flag_is_refused_by_name(build, settings, argument):
    _refused(build, settings, argument, FLAGS)


@pytest.mark.parametrize(("build", "settings", "argument"), [*_arguments("str")])
def test_what_is_no_choice_is_refused_by_name(build, settings, argument):
    _refused(build, settings, argument, CHOICES)


@pytest.mark.parametrize("name", BUILDERS)
def test_integers_of_numpy_are_integers(name):
    plain = BUILDERS[name]
    build = getattr(workloads, name)
    small = {key: np.uint8(value) if type(value) is int else value for key, value in plain.items()}
    assert build(**small) == build(**plain)


MEANT = {"layers": 2, "hidden": 16, "heads": 4, "vocabulary": 50, **LENGTH}
LATENT = {"latent_size": 8, "rotary_dim": 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transformer(**MEANT, query_latent_size=4), "query_latent_size needs latent_size"),
        (lambda: transformer(**MEANT, value_dim=4), "value_dim needs latent_size"),
        (lambda: transformer(**MEANT, absorbed=True), "absorbed needs latent_size"),
        (lambda: transformer(**MEANT, expert_inner=4), "expert_inner needs experts"),
        (lambda: transformer(**MEANT, experts_per_token=2), "experts_per_token needs experts"),
        (lambda: xlstm(**MEANT, key_size=8), "key_size needs block 'down'"),
        (lambda: xlstm(**MEANT, block="down", inner=8), "inner needs block 'up'"),
        (lambda: tcn(10**9, 16, **LENGTH), "levels must be few enough"),
        (lambda: tcn(60, 16, dilation_base=1000, **LENGTH), "levels must be few enough"),
        (lambda: neural_turing_machine(16, layers=10**9, **LENGTH), "layers must be 1000 or fewer"),
        (
            lambda: sequence_to_sequence(
                10**9, 16, 50, attention="multiplicative", input_feeding=True, sequence_length=12
            ),
            "layers must be 1000 or fewer",
        ),
        (
            lambda: transducer(2, 16, vocabulary=50, prediction_projection=16, **LENGTH),
            r"prediction_projection must be smaller than prediction_hidden \(16\)",
        ),
        (lambda: workloads.speech_network(2, 16, outputs=9, sequence_length=30), "sequence_length must be .* 31"),
        (lambda: unequal("lstm", 2, 16, lengths=[3], hiden=4), "unknown setting 'hiden' .*'hidden'"),
        (lambda: unequal(lstm, 2, 16, lengths=[3], packed=False, hiden=4), "unknown setting 'hiden'"),
        (lambda: unequal("lstm", 2, lengths=[3]), "missing a required argument: 'hidden'"),
        (lambda: sized_to(lambda width: lstm(1, width, **LENGTH), "large"), "target must be a number"),
        (lambda: store_less(training(transformer(**MEANT)), 0.5), r"training\(store_less"),
        (lambda: store_less(transformer(**MEANT, **LATENT, mode="decode"), 0.5), "caches latents"),
        (lambda: store_less(hierarchical_attention(None, 16, window=4, **LENGTH), 0.5), "no causal self attention"),
        (lambda: residual_network(np.array([3, 4])), "blocks must be a list"),
        (lambda: mlstm(16, 5, **LENGTH), "heads must divide"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make, message):
    with pytest.raises(TraceError, match=message):
        make()
