"""Prediction intervals from the residuals of a calibration: how far measured times lie from predicted ones.

A spread maps a kind of op to steps (predicted time up to, low, high): the tenth and ninetieth percentile of
log(measured / predicted). Bare arrays; an interval is of 80 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: Predicted times that part small, middling and long runs; the last is without end. [s]
SIZES_S = (1e-4, 1e-3, 1e9)
#: Kinds of rows that share a spread.
KINDS = {
    "matmul": "product",
    "convolution": "product",
    "attention": "attention",
    "recurrent": "recurrent",
    "elementwise": "vector",
    "normalisation": "vector",
    "softmax": "vector",
    "gather": "vector",
    "copy": "vector",
    "scan": "vector",
    "collective": "any",
    "network": "network",
}
#: Share of the error of an op that its neighbours in a network share (clock, library, the model's own bias); the
#: rest differs from op to op and averages out.
SHARED = 0.45


def kind_of(kind: str) -> str:
    """The spread a kind of trace row or measurement takes."""
    return KINDS.get(kind, "any")


def quantiles(spread: Mapping[str, Sequence[Sequence[float]]], kinds: Sequence[str], time_s) -> tuple:
    """Low and high log(measured / predicted) of rows of `kinds` (ops,) that take `time_s` (ops, designs)."""
    low, high = np.zeros(np.shape(time_s)), np.zeros(np.shape(time_s))
    for kind in dict.fromkeys(kinds):
        rows = np.array([k == kind for k in kinds])
        steps = np.array(spread.get(kind, spread.get("any", [[SIZES_S[-1], 0.0, 0.0]])))
        step = np.minimum(np.searchsorted(steps[:, 0], time_s[rows]), len(steps) - 1)
        low[rows], high[rows] = steps[step, 1], steps[step, 2]
    return low, high


def of_sum(total_s, deviation, groups) -> np.ndarray:
    """Deviation of the sum of rows from its predicted value. [s]

    `total_s` (ops, designs) of each row, `deviation` (ops, designs) its relative one; rows of one group (ops,) err
    together, groups share `SHARED` of their error, and the rest is independent. Returns (designs,).
    """
    parts = np.stack([(total_s * deviation)[groups == g].sum(axis=0) for g in dict.fromkeys(groups.tolist())])
    return np.sqrt((SHARED * parts.sum(axis=0)) ** 2 + (1 - SHARED**2) * (parts**2).sum(axis=0))
