"""Gated networks whose recurrence is elementwise: qrnn, sru, min_lstm, min_gru, and language models of them.

A layer is one product (or convolution) of all positions, then a scan of `hidden` states (see `workloads.scans`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workloads.blocks import (
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    layer_label,
    linear,
    plain_integers,
)
from workloads.convolution import conv1d
from workloads.scans import Scan, block_trace, check_scan, language_model, one_sequence, scan_rows
from workloads.trace import Trace, TraceError, concatenate

POOLINGS = ("f", "fo", "ifo")


@dataclass(frozen=True)
class Cell:
    """What a cell does for each hidden unit and position.

    gates: results of the product. before, after: (vector FLOP, special ops) that make the coefficients, and the output
    from the state. reads, reads_after: values each of them reads. biases: vectors the scan adds itself.
    """

    gates: int
    before: tuple[int, int]
    reads: int
    after: tuple[int, int] = (0, 0)
    reads_after: int = 0
    biases: int = 0


#: (1 - f) z takes 2 FLOP, the multiply-add of the state is counted by the scan.
QRNN = {
    "f": Cell(2, before=(2, 2), reads=2),
    "fo": Cell(3, before=(2, 2), reads=2, after=(1, 1), reads_after=1),
    "ifo": Cell(4, before=(1, 3), reads=3, after=(1, 1), reads_after=1),
}
#: f: bias, sigmoid, (1 - f) x~. After: bias and sigmoid of r, r tanh(c) + (1 - r) x.
SRU = Cell(3, before=(3, 1), reads=2, after=(5, 2), reads_after=2, biases=2)
#: The gates see the state: v c + ... in both, and two vectors of weights.
SRU_PEEPHOLE = Cell(3, before=(5, 1), reads=2, after=(7, 2), reads_after=2, biases=4)
#: f and i: sigmoids, both over their sum; i h~.
MIN_LSTM = Cell(3, before=(2, 4), reads=3)
#: z: sigmoid; 1 - z, z h~.
MIN_GRU = Cell(2, before=(2, 1), reads=2)


@dataclass(frozen=True)
class _Stack:
    """The sizes every layer of a stack shares."""

    where: str
    cell: Cell
    hidden: int
    steps: int
    batch: int
    width: int
    bias: bool
    scan: str
    chunk: int
    mode: str
    highway: bool
    types: Types

    def layer(self, label: str, inputs: int) -> list[dict]:
        """The product of all positions and the scan."""
        # the highway adds the input itself where it has as many features, else a projection of it
        gates = self.cell.gates + (self.highway and inputs != self.hidden)
        scan = Scan(
            op="scan",
            layer=label,
            types=self.types,
            states=self.hidden,
            before=tuple(self.hidden * amount for amount in self.cell.before),
            reads=self.hidden * self.cell.reads,
            after=tuple(self.hidden * amount for amount in self.cell.after),
            reads_after=self.hidden * self.cell.reads_after,
            result=self.hidden,
            parameters=self.hidden * self.cell.biases,
        )
        scan = one_sequence(scan, self.batch)
        return [self._product(label, inputs, gates), *scan_rows(scan, self.scan, self.mode, self.steps, self.chunk)]

    def _product(self, label: str, inputs: int, gates: int) -> dict:
        outputs, settings = gates * self.hidden, {"types": self.types, "bias": self.bias, "layer": label}
        if self.width == 1:
            return linear.row(self.batch * self.steps, outputs, inputs, op="gate product", **settings)
        if self.mode == "decode":  # the last positions come from memory, the new one goes there
            row = linear.row(self.batch, outputs, self.width * inputs, op="gate convolution", **settings)
            window = self.types.activations(self.batch * (self.width - 1) * inputs)
            read = self.types.activations(self.batch * inputs)
            kept = {"cache_bytes": window + read, "saved_bytes": window, "reach_back": self.width - 1}
            return row | {"input_bytes": read} | kept
        return conv1d.row(
            inputs, outputs, self.steps, self.width, padding="causal", batch=self.batch, op="gate convolution",
            **settings,
        )  # fmt: skip


def _stack(
    where: str, cell: Cell, layers, hidden, *, sequence_length, batch, input_size, width=1, bias, scan, chunk, mode,
    highway=False, dtype, weight_dtype, activation_dtype, name,
) -> Trace:  # fmt: skip
    """Check what the builders share, then lay out the layers."""
    steps = check_scan(where, scan, chunk, mode, sequence_length)
    inputs = hidden if input_size is None else input_size
    check_counts(where, layers=layers, hidden=hidden, batch=batch, input_size=inputs, width=width)
    check_flags(where, bias=bias)
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    stack = _Stack(where, cell, hidden, steps, batch, width, bias, scan, chunk, mode, highway, types)
    parts = [block_trace([stack.layer(f"{name}.0", inputs)], name)]
    if layers > 1:
        parts.append(block_trace([stack.layer(layer_label(name, 1, layers - 1), hidden)], name) * (layers - 1))
    return concatenate(parts, name=name).replace(sequences=batch, tokens=steps)


@plain_integers
def qrnn(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    input_size: int | None = None,
    width: int = 2,
    pooling: str = "fo",
    bias: bool = True,
    scan: str = "serial",
    chunk: int = 256,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "qrnn",
) -> Trace:
    """Quasi-recurrent network (Bradbury et al. 2016, section 2): masked convolutions, then pooling.

    Z = tanh(Wz * X), F = s(Wf * X), O = s(Wo * X) are causal convolutions over `width` positions. `pooling`: "f": h =
    f h + (1 - f) z; "fo": c likewise, h = o c; "ifo": c = f c + i z, h = o c. `scan`: "serial" (one
    kernel walks the positions, as the paper's), "chunked" (`chunk` positions a step) or "parallel"; see
    `workloads.scans`. `mode`: "prefill" processes `sequence_length` positions, "decode" one, whatever the length: the
    state does not grow.

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming
    the argument: a size that is not a positive whole number, an unknown pooling, scan, mode or element type.
    """
    check_choice("qrnn", "pooling", pooling, POOLINGS)
    return _stack(
        "qrnn", QRNN[pooling], layers, hidden, sequence_length=sequence_length, batch=batch, input_size=input_size,
        width=width, bias=bias, scan=scan, chunk=chunk, mode=mode, dtype=dtype, weight_dtype=weight_dtype,
        activation_dtype=activation_dtype, name=name,
    )  # fmt: skip


@plain_integers
def sru(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    input_size: int | None = None,
    peephole: bool = False,
    scan: str = "serial",
    chunk: int = 256,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "sru",
) -> Trace:
    """Simple recurrent unit (Lei et al. 2017, section 2), with its highway connection.

    x~ = W x, f = s(Wf x + bf), r = s(Wr x + br), c = f c + (1 - f) x~, h = r tanh(c) + (1 - r) x; where `input_size` is
    not `hidden` the highway takes a fourth product. `peephole`: the gates see the state too, f = s(Wf x + vf c + bf)
    (the revised form, Lei et al. 2018): no longer linear in c, so the scan can only be serial, and its step waits for
    more than the one dependent operation that is counted. See `qrnn` for the other arguments and the errors.
    """
    check_flags("sru", peephole=peephole)
    if peephole and scan != "serial":
        check_scan("sru", scan, chunk, mode, sequence_length)
        raise TraceError(f"sru: scan must be 'serial' with peephole=True: gates that see the state, got {scan!r}")
    return _stack(
        "sru", SRU_PEEPHOLE if peephole else SRU, layers, hidden, sequence_length=sequence_length, batch=batch,
        input_size=input_size, bias=False, scan=scan, chunk=chunk, mode=mode, highway=True, dtype=dtype,
        weight_dtype=weight_dtype, activation_dtype=activation_dtype, name=name,
    )  # fmt: skip


@plain_integers
def min_lstm(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    input_size: int | None = None,
    bias: bool = True,
    scan: str = "parallel",
    chunk: int = 256,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "min_lstm",
) -> Trace:
    """minLSTM (Feng et al. 2024, Were RNNs All We Needed?, section 3.2): gates that see the input alone.

    f = s(Wf x), i = s(Wi x), h~ = Wh x; h = f / (f + i) h + i / (f + i) h~. The paper's training scans in logarithms,
    which costs an exp and a log more a value; that is not counted. See `qrnn` for the other arguments and the errors.
    """
    return _stack(
        "min_lstm", MIN_LSTM, layers, hidden, sequence_length=sequence_length, batch=batch, input_size=input_size,
        bias=bias, scan=scan, chunk=chunk, mode=mode, dtype=dtype, weight_dtype=weight_dtype,
        activation_dtype=activation_dtype, name=name,
    )  # fmt: skip


@plain_integers
def min_gru(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    input_size: int | None = None,
    bias: bool = True,
    scan: str = "parallel",
    chunk: int = 256,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "min_gru",
) -> Trace:
    """minGRU (Feng et al. 2024, section 3.1): z = s(Wz x), h~ = Wh x; h = (1 - z) h + z h~. See `min_lstm`."""
    return _stack(
        "min_gru", MIN_GRU, layers, hidden, sequence_length=sequence_length, batch=batch, input_size=input_size,
        bias=bias, scan=scan, chunk=chunk, mode=mode, dtype=dtype, weight_dtype=weight_dtype,
        activation_dtype=activation_dtype, name=name,
    )  # fmt: skip


CELLS: dict[str, Callable[..., Trace]] = {"qrnn": qrnn, "sru": sru, "min_lstm": min_lstm, "min_gru": min_gru}


@plain_integers
def gated_scan_network(
    layers: int,
    hidden: int,
    vocabulary: int,
    *,
    sequence_length: int,
    batch: int = 1,
    cell: str = "qrnn",
    width: int | None = None,
    input_size: int | None = None,
    tied: bool = False,
    logits: str | None = "all",
    scan: str = "serial",
    chunk: int = 256,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "gated scan network",
) -> Trace:
    """A language model of "qrnn", "sru", "min_lstm" or "min_gru" layers between an embedding and a vocabulary product.

    `width`: of the convolutions of a qrnn (default 2). `tied`: the product shares the embedding's table. Logits with a
    bias, no softmax. The other arguments and the errors are those of the cell's builder.
    """
    check_choice(name, "cell", cell, CELLS)
    if width is not None and cell != "qrnn":
        raise TraceError(f"{name}: width needs cell 'qrnn', got {cell!r}")
    types = element_types(name, dtype, weight_dtype, activation_dtype)
    own = {} if width is None else {"width": width}
    stack = CELLS[cell](
        layers, hidden, sequence_length=sequence_length, batch=batch, input_size=input_size, scan=scan, chunk=chunk,
        mode=mode, name=cell, dtype=dtype, weight_dtype=weight_dtype, activation_dtype=activation_dtype, **own,
    )  # fmt: skip
    return language_model(
        [stack], name=name, batch=batch, positions=stack.tokens, hidden=hidden, vocabulary=vocabulary, types=types,
        embedding_size=input_size, norm=None, tied=tied, head_bias=True, logits=logits,
    )  # fmt: skip
