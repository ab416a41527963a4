"""The networks a calibration is judged on: PyTorch modules, none of a size that was calibrated with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reports.measure.cases import recurrence
from workloads import Trace, from_torch, gru, lstm
from workloads.libraries import packed_weights, separate_cells

#: hidden, batch, steps, layers, directions.
RECURRENT = (
    (96, 1, 100, 1, 1), (192, 1, 100, 1, 1), (384, 1, 80, 1, 1), (640, 1, 40, 1, 1), (96, 8, 100, 1, 1),
    (192, 32, 60, 1, 1), (320, 8, 60, 1, 1), (384, 2, 60, 2, 1), (320, 16, 40, 1, 1), (192, 4, 60, 2, 2),
)  # fmt: skip
#: width, heads, inner width, batch, positions, layers.
ENCODERS = (
    (192, 4, 768, 1, 48, 1), (192, 4, 768, 8, 48, 2), (384, 6, 1536, 1, 96, 2), (384, 6, 1536, 6, 96, 1),
    (320, 5, 1280, 1, 192, 3), (640, 10, 2560, 1, 80, 1), (640, 10, 2560, 3, 80, 2), (96, 3, 384, 12, 48, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """One network: kind ("lstm", "gru", "transformer"), sizes as text, its trace, and what makes what is timed."""

    kind: str
    sizes: str
    trace: Trace
    make: Callable[[], Callable[[], object]]


def judged_networks(torch_backend, quick: bool = False) -> list[Judged]:
    """The networks with their traces, for the PyTorch backend they will be timed on."""
    every = slice(None, None, 4 if quick else 1)
    found = [_recurrent(torch_backend, kind, *sizes) for kind in ("lstm", "gru") for sizes in RECURRENT[every]]
    return found + [_encoder(torch_backend, *sizes) for sizes in ENCODERS[every]]


def _recurrent(backend, kind: str, hidden: int, batch: int, steps: int, layers: int, directions: int) -> Judged:
    builder = {"lstm": lstm, "gru": gru}[kind]
    trace = builder(layers, hidden, batch=batch, sequence_length=steps, bidirectional=directions == 2, name=kind)
    if backend.device == "cpu":  # what PyTorch runs there
        trace = packed_weights(trace).fused if kind == "lstm" else separate_cells(trace)
    row = recurrence(kind, hidden, batch, steps, layers, int(directions == 2))
    sizes = (
        f"hidden {hidden}, batch {batch}, {steps} steps" + _times(layers, "layers") + _times(directions, "directions")
    )
    return Judged(kind, sizes, trace, backend.case(row))


def _encoder(backend, width: int, heads: int, inner: int, batch: int, positions: int, layers: int) -> Judged:
    nn = backend.torch.nn

    def module():
        layer = nn.TransformerEncoderLayer(width, heads, inner, batch_first=True)
        return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) if layers > 1 else layer

    shape = (batch, positions, width)
    trace = from_torch(module().eval(), backend.torch.empty(*shape))
    sizes = f"width {width}, {heads} heads, inner {inner}, batch {batch}, {positions} positions" + _times(
        layers, "layers"
    )
    return Judged("transformer", sizes, trace, backend.module(module, shape))


def _times(count: int, word: str) -> str:
    return f", {count} {word}" if count > 1 else ""
