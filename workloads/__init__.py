"""Workloads: networks as traces, tables of ops. Nothing here knows of hardware."""

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
from workloads.networks import NetworkInfo, network, network_info, networks
from workloads.recurrent import gru, lstm, rnn
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
    "gru",
    "linear",
    "lstm",
    "matmul",
    "mlp",
    "network",
    "network_info",
    "networks",
    "normalisation",
    "pool2d",
    "rnn",
    "softmax",
    "training",
    "transformer",
    "vocabulary_projection",
]
