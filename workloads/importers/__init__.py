"""Importers: networks made elsewhere become traces. Heavy packages are imported when an importer is called.

`from_torch`, `from_onnx`, `from_profile` and `from_table` are loaded on first use.
"""

from __future__ import annotations

import importlib

from workloads.importers.uncosted import UncostedOperator

_HOMES = {
    "from_torch": "torch_module",
    "from_onnx": "onnx_graph",
    "from_profile": "profile",
    "from_table": "table",
}

__all__ = ["UncostedOperator", "from_onnx", "from_profile", "from_table", "from_torch"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
