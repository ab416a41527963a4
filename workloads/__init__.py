"""Workloads: networks as traces, tables of ops. Nothing here knows of hardware."""

import importlib

from workloads.attention import attention, decoder_block, encoder_block, encoder_decoder, mlp, transformer
from workloads.blocks import (
    collective,
    copy,
    elementwise,
    embedding,
    linear,
    matmul,
    normalisation,
    softmax,
    vocabulary_projection,
)
from workloads.convolution import conv1d, conv2d, pool2d
from workloads.gated_memory import gated_memory, store_less
from workloads.networks import NetworkInfo, network, network_info, networks
from workloads.recurrent import gru, lstm, rnn
from workloads.sequence_to_sequence import sequence_to_sequence
from workloads.trace import Trace, TraceError, concatenate
from workloads.training import training
from workloads.turing_machine import neural_turing_machine
from workloads.unequal import padding_share, unequal

__all__ = [
    "NetworkInfo",
    "Trace",
    "TraceError",
    "attention",
    "collective",
    "concatenate",
    "conv1d",
    "conv2d",
    "copy",
    "decoder_block",
    "elementwise",
    "embedding",
    "encoder_block",
    "encoder_decoder",
    "from_onnx",
    "from_profile",
    "from_table",
    "from_torch",
    "gated_memory",
    "gru",
    "linear",
    "lstm",
    "matmul",
    "mlp",
    "network",
    "network_info",
    "networks",
    "neural_turing_machine",
    "normalisation",
    "padding_share",
    "pool2d",
    "rnn",
    "sequence_to_sequence",
    "softmax",
    "store_less",
    "training",
    "transformer",
    "unequal",
    "vocabulary_projection",
]

#: Loaded on first use: reading other people's files and modules takes more code than most runs need.
_ON_FIRST_USE = ["from_onnx", "from_profile", "from_table", "from_torch"]


def __getattr__(name: str):
    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module("workloads.importers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
