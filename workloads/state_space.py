"""Selective state space models: the mamba block and language models of it."""

from __future__ import annotations

from workloads.blocks import (
    NORMS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    linear,
    normalisation,
    plain_integers,
    series,
)
from workloads.scans import (
    Scan,
    block_trace,
    check_scan,
    depthwise_convolution,
    language_model,
    one_sequence,
    scan_rows,
)
from workloads.trace import Trace


def _selective_scan(inner: int, state: int, batch: int, layer: str, types: Types) -> Scan:
    """h = exp(dt A) h + dt B x, y = C h + D x, gated by silu(z), for `inner` channels of `state` states.

    Before: softplus of dt (an addition, exp and log), dt A and its exp, dt x, times B. After: the sum over the states
    (2 FLOP each), D x added, silu of z and the gate. C and the gate z belong to the result, x to both.
    """
    cells = inner * state
    scan = Scan(
        op="selective scan",
        layer=layer,
        types=types,
        states=cells,
        before=(inner + cells + inner + cells, 2 * inner + cells),
        reads=2 * inner + state,  # x, dt, B
        after=(2 * cells + 2 * inner + 2 * inner, inner),
        reads_after=state + inner,  # C, z
        reads_again=inner,  # x
        result=inner,
        parameters=cells + inner,
    )
    return one_sequence(scan, batch)


def _mixer(
    hidden: int, inner: int, state: int, width: int, rank: int, batch: int, steps: int, bias: bool,
    convolution_bias: bool, form: str, chunk: int, mode: str, layer: str, types: Types,
) -> list[list[dict]]:  # fmt: skip
    """The parts of a block, in series."""
    rows, settings = batch * steps, {"types": types, "layer": layer}
    return [
        [linear.row(rows, 2 * inner, hidden, bias=bias, op="input projection", **settings)],
        [depthwise_convolution(batch, steps, inner, width, mode, bias=convolution_bias, **settings)],
        [linear.row(rows, rank + 2 * state, inner, bias=False, op="dt B C projection", **settings)],
        [linear.row(rows, inner, rank, op="dt projection", **settings)],
        scan_rows(_selective_scan(inner, state, batch, layer, types), form, mode, steps, chunk),
        [linear.row(rows, hidden, inner, bias=bias, op="output projection", **settings)],
    ]


def _sizes(where: str, hidden, inner, state, width, rank, batch) -> tuple[int, int]:
    """Channels and rank of dt, defaults filled in: 2 hidden, and hidden / 16 rounded up."""
    check_counts(where, hidden=hidden, state=state, width=width, batch=batch)
    inner = 2 * hidden if inner is None else inner
    rank = -(-hidden // 16) if rank is None else rank
    check_counts(where, inner=inner, rank=rank)
    return inner, rank


@plain_integers
def mamba_block(
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    inner: int | None = None,
    state: int = 16,
    width: int = 4,
    rank: int | None = None,
    bias: bool = False,
    convolution_bias: bool = True,
    scan: str = "serial",
    chunk: int = 2048,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    layer: str = "mamba",
    name: str = "mamba block",
) -> Trace:
    """The block of a selective state space model (Gu and Dao 2023, sections 3.2 to 3.4), without norm and residual.

    A projection to x and z of `inner` channels (default 2 hidden), a causal depthwise convolution of `width`, silu on
    x, a projection of x to B and C of `state` values and dt of `rank` (default hidden / 16), dt to the channels,
    the selective scan with the gate silu(z), and a projection back.

    `scan`: "serial" walks the positions in one kernel, `inner` x `state` states in registers; "chunked" takes `chunk`
    positions a step, combined in parallel within the kernel (2048 in the authors' kernel); both read and write
    each position once (section 3.3.2). "parallel" combines pairs of `inner` x `state` values in memory, level by level:
    what the scan costs without a kernel of its own. `mode`: "prefill" processes `sequence_length` positions,
    "decode" one, whose states (scan, and the last width - 1 of the convolution) are read and written.

    Returns a trace with `sequences` = batch, `tokens` = positions processed. Raises `TraceError` naming the argument: a
    size that is not a positive whole number, an unknown scan, mode or element type.
    """
    where = "mamba_block"
    steps = check_scan(where, scan, chunk, mode, sequence_length)
    inner, rank = _sizes(where, hidden, inner, state, width, rank, batch)
    check_flags(where, bias=bias, convolution_bias=convolution_bias)
    types = element_types(where, dtype, weight_dtype, activation_dtype)
    parts = _mixer(
        hidden, inner, state, width, rank, batch, steps, bias, convolution_bias, scan, chunk, mode, layer, types
    )
    return Trace.from_rows(series(parts), name=name, sequences=batch, tokens=steps, source=where)


@plain_integers
def mamba(
    layers: int,
    hidden: int,
    vocabulary: int,
    *,
    sequence_length: int,
    batch: int = 1,
    inner: int | None = None,
    state: int = 16,
    width: int = 4,
    rank: int | None = None,
    bias: bool = False,
    convolution_bias: bool = True,
    norm: str = "rms",
    tied: bool = True,
    logits: str | None = "all",
    scan: str = "serial",
    chunk: int = 2048,
    mode: str = "prefill",
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "mamba",
) -> Trace:
    """A language model of mamba blocks, each with a norm and a residual add (Gu and Dao 2023, section 3.4).

    See `mamba_block` for the arguments and the errors.
    """
    steps = check_scan(name, scan, chunk, mode, sequence_length)
    check_counts(name, layers=layers)
    inner, rank = _sizes(name, hidden, inner, state, width, rank, batch)
    check_flags(name, bias=bias, convolution_bias=convolution_bias, tied=tied)
    check_choice(name, "norm", norm, NORMS)
    types = element_types(name, dtype, weight_dtype, activation_dtype)
    settings = {"types": types, "layer": "block"}
    before = [normalisation.row(batch * steps, hidden, norm=norm, **settings)]
    add = [elementwise.row(batch * steps * hidden, "residual add", **settings)]
    mixer = _mixer(
        hidden, inner, state, width, rank, batch, steps, bias, convolution_bias, scan, chunk, mode, "block", types
    )
    return language_model(
        [block_trace([before, *mixer, add], name) * layers], name=name, batch=batch, positions=steps, hidden=hidden,
        vocabulary=vocabulary, types=types, norm=norm, tied=tied, logits=logits,
    )  # fmt: skip
