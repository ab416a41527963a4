"""The cost model: a trace on an accelerator gives a result. Pure arithmetic: no plots, no terminal."""

from simulator.accelerator import (
    Abilities,
    Accelerator,
    AcceleratorError,
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
from simulator.result import Result
from simulator.simulate import simulate

__all__ = [
    "Abilities",
    "Accelerator",
    "AcceleratorError",
    "Latency",
    "Link",
    "MatrixUnits",
    "MemoryLevel",
    "Package",
    "Result",
    "VectorUnits",
    "load_accelerator",
    "preset",
    "presets",
    "simulate",
]
