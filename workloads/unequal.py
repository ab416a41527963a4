"""Batches of sequences of unequal lengths: padded to the longest, or packed so that no padding is computed.

Packed as PyTorch's `PackedSequence` and cuDNN do it: sequences are sorted by length and step t runs those longer
than t, so the batch of a recurrence shrinks as it goes; what does not depend on a step before runs once over all
positions. Fused attention takes each length by itself (as kernels for sequences of variable length do).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from workloads.attention import attention
from workloads.blocks import check_choice, check_counts, check_flags
from workloads.networks import recurrent_network
from workloads.recurrent import gru, lstm, rnn
from workloads.trace import Trace, TraceError, nearest
from workloads.transformer_blocks import decoder_block, encoder_block

WHERE = "unequal"
#: What can be packed: builders whose rows either treat every position alike, step through them, or attend.
PACKABLE = {
    build.__name__: build for build in (rnn, lstm, gru, recurrent_network, attention, encoder_block, decoder_block)
}


def unequal(
    build: Callable[..., Trace] | str,
    *sizes: int,
    lengths: Sequence[int],
    packed: bool = True,
    groups: int = 8,
    **settings,
) -> Trace:
    """The trace `build(*sizes, **settings)` of a batch of sequences of `lengths`, packed or padded.

    `build`: a builder, or its name, of `PACKABLE` (padded: any that takes `sequence_length` and `batch`).

    Padded, every step runs the whole batch and there are as many steps as the longest sequence has. Packed, a
    recurrence runs one stretch of steps for each batch size, one after another with the same weights, which the
    first of them owns; their layers are called after their steps ("lstm.0[0:20]"). Two directions take the
    stretches in opposite order: work and path are the same. `groups`: at most so many stretches; where the
    lengths give more batch sizes, neighbouring ones are averaged in pairs of sizes that differ by one, so that steps,
    work and bytes of the whole stay the same (a stretch of a single step is no recurrence, so many of them would
    come out too cheap). Attention has a row for each of at most as many lengths, chosen
    likewise: positions stay the same, pairs of positions are then slightly fewer.

    Returns a trace with `sequences` = number of lengths, `tokens` = the longest. Raises `TraceError` naming the
    argument: no lengths or one below 1, sizes or settings the builder does not take, a builder that cannot be packed,
    `wavefront` (its layers overlap across stretches), attention that is not fused or has a cache, `sequence_length` or
    `batch` among the settings.
    """
    name, build = _builder(build, packed)
    lengths = _checked(lengths)
    check_counts(WHERE, 2, groups=groups)
    check_flags(WHERE, packed=packed)
    for setting in ("sequence_length", "batch"):
        if setting in settings:
            raise TraceError(f"{WHERE}: {setting} follows from lengths, got {settings[setting]!r}")
    _check_settings(name, build, sizes, settings)
    if not packed:
        return build(*sizes, sequence_length=max(lengths), batch=len(lengths), **settings)
    for setting in ("wavefront", "cache", "cache_length", "memory_length"):
        if settings.get(setting):
            raise TraceError(f"{WHERE}: {setting} cannot be packed, got {settings[setting]!r} for {name}")
    if settings.get("fused") is False:
        raise TraceError(f"{WHERE}: packed attention needs fused=True: its scores have as many shapes as lengths")

    def batch_of(batch: int, steps: int) -> Trace:
        return build(*sizes, sequence_length=steps, batch=batch, **settings)

    # what is once for all positions is that of a single sequence of so many positions
    whole = batch_of(1, sum(lengths))
    stepped = batch_of(1, 2).serial_steps > 1
    attends = whole.kind == "attention"
    if stepped.any():
        rows = _in_stretches(whole, stepped, batch_of, stretches(lengths, groups))
    else:
        rows = _by_length(whole, attends, batch_of, length_counts(lengths, groups))
    return Trace.from_rows(rows, name=whole.name, sequences=len(lengths), tokens=max(lengths), source=WHERE)


def padding_share(lengths: Sequence[int]) -> float:
    """Share of the positions of a padded batch that are padding: 1 - sum / (count x longest). (0..1)

    Raises `TraceError` for no lengths or one that is not a whole number of 1 or more.
    """
    lengths = _checked(lengths)
    return 1.0 - sum(lengths) / (len(lengths) * max(lengths))


def batch_sizes(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(batch, steps) of a packed batch: how many sequences run, for how many steps, the largest batch first."""
    ordered = sorted(_checked(lengths))
    ends, first = np.unique(ordered, return_index=True)
    running = len(ordered) - first  # sequences of at least this length
    return [(int(b), int(s)) for b, s in zip(running, np.diff(ends, prepend=0), strict=True)]


def stretches(lengths: Sequence[int], groups: int) -> list[tuple[int, int]]:
    """`batch_sizes`, averaged where there are more than `groups`; steps and positions in all are kept."""
    return _averaged(batch_sizes(lengths), groups)


def length_counts(lengths: Sequence[int], groups: int) -> list[tuple[int, int]]:
    """(length, how many sequences), averaged where there are more than `groups`; sequences and positions are kept."""
    values, counts = np.unique(_checked(lengths), return_counts=True)
    return _averaged([(int(v), int(c)) for v, c in zip(values[::-1], counts[::-1], strict=True)], groups)


def _averaged(sizes: list[tuple[int, int]], groups: int) -> list[tuple[int, int]]:
    """(value, weight) pairs, falling, as at most `groups` of them with the same sums of weight and value x weight.

    Values are binned by equal widths; a bin becomes its mean, rounded up for some of its weight and down for the rest.
    """
    if len(sizes) <= groups:
        return sizes
    bins, largest = groups // 2, sizes[0][0]
    found: dict[int, list[int]] = {}
    for value, weight in sizes:
        total = found.setdefault((value - 1) * bins // largest, [0, 0])
        total[0] += weight
        total[1] += value * weight
    result = []
    for weight, total in found.values():
        low, up = divmod(total, weight)
        result += [(value, part) for value, part in ((low + 1, up), (low, weight - up)) if part]
    return result


# -- rows --------------------------------------------------------------------------------------------


def _in_stretches(whole: Trace, special: np.ndarray, batch_of: Callable, sizes: list[tuple[int, int]]) -> list[dict]:
    """Rows of `whole` with those that step replaced by the same rows of each stretch, one stretch after another."""
    parts, start = [], 0
    for number, (batch, steps) in enumerate(sizes):
        label = f"[{start}:{start + steps}]" if len(sizes) > 1 else ""
        owned = {} if number == 0 else {"parameters": 0}
        parts.append([row | {"layer": row["layer"] + label} | owned for row in batch_of(batch, steps).rows()])
        start += steps
    return _spliced(whole.rows(), special, parts, in_series=True)


def _by_length(whole: Trace, special: np.ndarray, batch_of: Callable, sizes: list[tuple[int, int]]) -> list[dict]:
    """Rows of `whole` with attention replaced by that of each length, independent of each other."""
    parts = [batch_of(count, length).rows() for length, count in sizes]
    return _spliced(whole.rows(), special, parts, in_series=False)


def _spliced(rows: list[dict], special: np.ndarray, parts: list[list[dict]], in_series: bool) -> list[dict]:
    """`rows` with each run of neighbouring special rows replaced by those of every part.

    A row that waits for a special one waits for it in every part; within a part for that of the part alone.
    """
    result: list[dict] = []
    places: list[tuple[int, ...]] = []  # where each row of `rows` went
    row = 0
    while row < len(rows):
        end = row
        while end < len(rows) and special[end]:
            end += 1
        if end == row:
            places.append((len(result),))
            result.append(rows[row] | {"after": tuple(p for a in rows[row]["after"] for p in places[a])})
            row += 1
            continue
        before: tuple[int, ...] = ()
        went = {number: [] for number in range(row, end)}
        for part in parts:
            start = len(result)
            waited_for = {a for number in range(row, end) for a in part[number]["after"]}
            for number in range(row, end):
                inside = [start + a - row for a in part[number]["after"] if a >= row]
                outside = [p for a in part[number]["after"] if a < row for p in places[a]]
                after = (*inside, *outside, *(() if inside else before))
                went[number].append(len(result))
                result.append(part[number] | {"after": after})
            if in_series:
                before = tuple(start + number - row for number in range(row, end) if number not in waited_for)
        places += [tuple(went[number]) for number in range(row, end)]
        row = end
    return result


# -- checks ------------------------------------------------------------------------------------------


def _builder(build: Callable | str, packed: bool) -> tuple[str, Callable]:
    name = build if isinstance(build, str) else getattr(build, "__name__", repr(build))
    if isinstance(build, str) or packed:
        check_choice(WHERE, "build", name, PACKABLE)
        return name, PACKABLE[name]
    accepted = inspect.signature(build).parameters if callable(build) else {}
    if not {"sequence_length", "batch"} <= set(accepted):
        raise TraceError(f"{WHERE}: build must take sequence_length and batch, got {name}")
    return name, build


def _check_settings(name: str, build: Callable, sizes: tuple, settings: dict) -> None:
    signature = inspect.signature(build)
    known = signature.parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for setting in settings:
            if setting not in known:
                raise TraceError(f"{WHERE}: {name}: unknown setting {setting!r}{nearest(setting, known)}")
    try:
        signature.bind(*sizes, sequence_length=1, batch=1, **settings)
    except TypeError as error:
        raise TraceError(f"{WHERE}: {name}: {error}") from None


def _checked(lengths: Iterable[int]) -> list[int]:
    if isinstance(lengths, (str, bytes)) or not isinstance(lengths, Iterable):
        raise TraceError(f"{WHERE}: lengths must be whole numbers, one a sequence, got {lengths!r}")
    lengths = list(lengths)
    if not lengths:
        raise TraceError(f"{WHERE}: lengths must name at least one sequence, got {lengths!r}")
    for length in lengths:
        check_counts(WHERE, lengths=length)
    return [int(length) for length in lengths]
