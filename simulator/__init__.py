"""The cost model: a trace on an accelerator gives a result. Pure arithmetic: no plots, no terminal."""

from simulator.accelerator import (
    Abilities,
    Accelerator,
    AcceleratorError,
    InMemory,
    Latency,
    Link,
    MatrixUnits,
    MemoryLevel,
    Package,
    VectorUnits,
    load_accelerator,
    preset,
    presets,
)
from simulator.axes import LogRange
from simulator.calibrate import Calibration, CalibrationError, calibrate
from simulator.metrics import METRICS, DesignSpaceError, Metric
from simulator.pareto import knee, pareto_front
from simulator.result import Result
from simulator.sensitivity import Sensitivity, WhatIf, sensitivity, what_if
from simulator.simulate import simulate
from simulator.sweep import Sweep, sweep
from simulator.tune import Tuned, tune

__all__ = [
    "METRICS",
    "Abilities",
    "Accelerator",
    "AcceleratorError",
    "Calibration",
    "CalibrationError",
    "DesignSpaceError",
    "InMemory",
    "Latency",
    "Link",
    "LogRange",
    "MatrixUnits",
    "MemoryLevel",
    "Metric",
    "Package",
    "Result",
    "Sensitivity",
    "Sweep",
    "Tuned",
    "VectorUnits",
    "WhatIf",
    "calibrate",
    "knee",
    "load_accelerator",
    "pareto_front",
    "preset",
    "presets",
    "sensitivity",
    "simulate",
    "sweep",
    "tune",
    "what_if",
]
