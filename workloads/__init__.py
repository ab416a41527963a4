"""Workloads: networks as traces, tables of ops. Nothing here knows of hardware."""

import importlib

from workloads.attention import attention
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
from workloads.conformer import conformer
from workloads.convolution import batch_norm, conv1d, conv2d, pool2d
from workloads.encoder_decoder import encoder_decoder
from workloads.experts import mixture_of_experts
from workloads.extended_lstm import mlstm, slstm, xlstm
from workloads.feed_forward import mlp
from workloads.gated_memory import gated_memory, store_less
from workloads.gated_scans import gated_scan_network, min_gru, min_lstm, qrnn, sru
from workloads.hierarchy import hierarchical_attention
from workloads.latent_attention import latent_attention
from workloads.linear_attention import linear_attention, linear_transformer, rwkv
from workloads.networks import NetworkInfo, network, network_info, networks
from workloads.recurrent import gru, lstm, rnn
from workloads.residual_network import residual_network
from workloads.sequence_to_sequence import sequence_to_sequence
from workloads.sizing import sized_to
from workloads.speech import acoustic_network, speech_network, transducer
from workloads.state_space import mamba, mamba_block
from workloads.streaming import speech_s
from workloads.temporal_convolution import tcn, temporal_network
from workloads.trace import Trace, TraceError, concatenate
from workloads.training import training
from workloads.transformer import transformer
from workloads.transformer_blocks import decoder_block, encoder_block
from workloads.turing_machine import neural_turing_machine
from workloads.unequal import padding_share, unequal

__all__ = [
    "NetworkInfo",
    "Trace",
    "TraceError",
    "acoustic_network",
    "attention",
    "batch_norm",
    "collective",
    "concatenate",
    "conformer",
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
    "gated_scan_network",
    "gru",
    "hierarchical_attention",
    "latent_attention",
    "linear",
    "linear_attention",
    "linear_transformer",
    "lstm",
    "mamba",
    "mamba_block",
    "matmul",
    "min_gru",
    "min_lstm",
    "mixture_of_experts",
    "mlp",
    "mlstm",
    "network",
    "network_info",
    "networks",
    "neural_turing_machine",
    "normalisation",
    "padding_share",
    "pool2d",
    "qrnn",
    "residual_network",
    "rnn",
    "rwkv",
    "sequence_to_sequence",
    "sized_to",
    "slstm",
    "softmax",
    "speech_network",
    "speech_s",
    "sru",
    "store_less",
    "tcn",
    "temporal_network",
    "training",
    "transducer",
    "transformer",
    "unequal",
    "vocabulary_projection",
    "xlstm",
]

#: Loaded on first use: reading other people's files and modules takes more code than most runs need.
_ON_FIRST_USE = ["from_onnx", "from_profile", "from_table", "from_torch"]


def __getattr__(name: str):
    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module("workloads.importers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
