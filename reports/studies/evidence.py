"""Measurements that ship with the project, one device and kind of op at a time: what studies hold their numbers
against. Predictions are those of the presets as they ship, whatever chips a study runs on."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

import numpy as np

from reports.shipped import FOLDER, tpu_v1
from reports.validation import validate
from simulator import preset
from workloads.measured import measurements

DEEPBENCH = "baidu-research/DeepBench, training benchmarks; reports/measured/deepbench_recurrent.csv"
NEUSIGHT = "Lee et al., NeuSight, ASPLOS 2025, measured products; reports/measured/neusight_products.csv"
TPU_V1_PAPER = "Jouppi et al., In-Datacenter Performance Analysis of a Tensor Processing Unit, ISCA 2017"
TPU_V1 = f"{TPU_V1_PAPER}, table 3"


@dataclass(frozen=True)
class Rates:
    """Measured ops beside predicted ones, arrays of (ops,): FLOP, times [s], shares of the matrix peak (0..1).

    judged: nothing was fitted to the op."""

    flops: np.ndarray
    measured_s: np.ndarray
    predicted_s: np.ndarray
    peak_flops_per_s: float
    judged: np.ndarray

    def measured(self, rows) -> np.ndarray:
        """Utilisation measured, of the rows of a mask."""
        return (self.flops / self.measured_s / self.peak_flops_per_s)[rows]

    def predicted(self, rows) -> np.ndarray:
        """Utilisation predicted, of the rows of a mask."""
        return (self.flops / self.predicted_s / self.peak_flops_per_s)[rows]


@cache
def recurrent_layers(device: str, op: str, dtype: str) -> Rates:
    """Forward passes of DeepBench's "lstm", "gru" or "rnn" layers on a device."""
    return _rates("deepbench_recurrent.csv", device=device, set="deepbench-train", op=op, dtype=dtype, phase="forward")


@cache
def products(device: str) -> Rates:
    """NeuSight's linear layers in fp32 on a device."""
    return _rates("neusight_products.csv", device=device, op="linear", dtype="fp32")


@cache
def tpu_v1_flops_per_s() -> dict[str, float]:
    """Rates published of the six networks of the first TPU, by name ("MLP0"), two operations a multiply-accumulate."""
    found = tpu_v1()
    flops = _flops(found)
    return dict(zip(found.network.tolist(), (flops / found.time_s).tolist(), strict=True))


def _rates(file: str, **labels: str) -> Rates:
    with (FOLDER / file).open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        kept = [row for row in rows if all(row[name] == wanted for name, wanted in labels.items())]
    found = measurements(kept, file)
    judged = validate(found)
    peak = float(preset(labels["device"]).peak_flops_per_s(labels["dtype"]))
    return Rates(_flops(found), found.time_s, judged.predicted_s, peak, judged.judged)


def _flops(found) -> np.ndarray:
    """Matrix FLOP of each measurement."""
    return np.add.reduceat(found.trace.matrix_flops * found.trace.runs.astype(float), found.first)
