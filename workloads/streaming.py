"""Networks that hear speech as it is spoken: frames arrive in chunks, and each call goes through all layers."""

from __future__ import annotations

from workloads.blocks import check_counts, layer_label, relabelled
from workloads.recurrent import lstm
from workloads.trace import Trace, TraceError

#: Frames of features a second: windows shifted by 10 ms, as in all speech networks here.
FRAMES_PER_S = 100


def speech_s(trace: Trace) -> float:
    """Seconds of speech that a trace of one of the speech builders hears, all sequences together."""
    return trace.sequences * trace.tokens / FRAMES_PER_S


def calls(where: str, sequence_length: int, chunk: int | None, frames_per_step: int) -> tuple[int, int]:
    """How often a network is called, and the steps of each call.

    The network makes one step of `frames_per_step` frames. `chunk`: frames a call waits for; None: the whole sequence,
    one call. The last step and the last call are padded. Raises `TraceError` naming the argument: not a positive whole
    number, a chunk that is not made of whole steps.
    """
    check_counts(where, sequence_length=sequence_length)
    if chunk is None:
        return 1, -(-sequence_length // frames_per_step)
    check_counts(where, chunk=chunk)
    if chunk % frames_per_step:
        raise TraceError(f"{where}: chunk must be a multiple of {frames_per_step} frames (one step), got {chunk}")
    return -(-sequence_length // chunk), chunk // frames_per_step


def over_calls(one: Trace, number: int, layers: int = 1) -> Trace:
    """One call of one layer as `number` calls that each go through `layers` such layers.

    A call needs the call before it, so what runs once a call becomes a recurrence over all calls and layers that uses
    the weights of the layers in turn: they stay on chip between calls where those of all `layers` fit, and every such
    stack is judged alone. What recurs within a call is fetched anew in each call.
    """
    if number == 1:
        return one.scaled(layers)
    runs = number * layers
    repeats = one.repeats.tolist()
    steps = [runs if r == 1 else s for r, s in zip(repeats, one.serial_steps.tolist(), strict=True)]
    return one.replace(
        repeats=[r * runs for r in repeats],
        path_runs=[r * runs for r in one.path_runs.tolist()],
        serial_steps=steps,
        weight_sets=[layers] * len(one),
    )


def reaching(trace: Trace, frames_per_step: int) -> Trace:
    """A trace whose reaches count frames instead of steps."""
    reach = {
        name: [v * frames_per_step for v in trace.columns[name].tolist()] for name in ("reach_back", "reach_ahead")
    }
    return trace.replace(**reach)


def lstm_stack(
    label: str,
    layers: int,
    hidden: int,
    inputs: int,
    *,
    steps: int,
    number: int,
    projection: int | None,
    batch: int,
    **types,
) -> list[Trace]:
    """A stack of LSTM layers over `number` calls of `steps` steps: its first layer, then the others.

    Within a call each layer makes its input product for all steps at once. Errors are those of `workloads.lstm`.
    """
    outputs = projection or hidden
    parts = []
    for name, size, count in ((f"{label}.0", inputs, 1), (layer_label(label, 1, layers - 1), outputs, layers - 1)):
        if count:
            one = lstm(
                1, hidden, input_size=size, sequence_length=steps, batch=batch, projection=projection,
                hoist_input=steps > 1, **types,
            )  # fmt: skip
            parts.append(over_calls(relabelled(one, name), number, count))
    return parts
