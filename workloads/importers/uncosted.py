"""The warning of all importers: an operator was met that has no cost."""

from __future__ import annotations


class UncostedOperator(UserWarning):
    """An operator has no known cost: its bytes are in the trace, its operations are not."""
