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
from workloads.extended_lstm import mlstm, slstm, xlstm
from workloads.gated_scans import gated_scan_network, min_gru, min_lstm, qrnn, sru
from workloads.linear_attention import linear_attention, linear_transformer, rwkv
from workloads.networks import NetworkInfo, network, network_info, networks
from workloads.recurrent import gru, lstm, rnn
from workloads.state_space import mamba, mamba_block
from workloads.trace import Trace, TraceError, concatenate
from workloads.training import training

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
    "gated_scan_network",
    "gru",
    "linear",
    "linear_attention",
    "linear_transformer",
    "lstm",
    "mamba",
    "mamba_block",
    "matmul",
    "min_gru",
    "min_lstm",
    "mlp",
    "mlstm",
    "network",
    "network_info",
    "networks",
    "normalisation",
    "pool2d",
    "qrnn",
    "rnn",
    "rwkv",
    "slstm",
    "softmax",
    "sru",
    "training",
    "transformer",
    "vocabulary_projection",
    "xlstm",
]

#: Loaded on first use: reading other people's files and modules takes more code than most runs need.
_ON_FIRST_USE = ["from_onnx", "from_profile", "from_table", "from_torch"]


def __getattr__(name: str):
    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module("workloads.importers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
