"""Gradients of what is recorded as a whole (recurrences, cells, fused attention), by the rule of `workloads.training`.

PyTorch would take these apart into other operators on each device; as their forward rows are the builder's, so are
those of their backward pass. No torch in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads.trace import Trace
from workloads.training import training


@dataclass
class Whole:
    """Rows of one thing recorded as a whole.

    `forward`: with what they also write, and keep (`_saved`, bytes of all runs), for the backward pass. `backward`:
    their gradients, `after` counted within them; `_entry` marks those of what the whole itself reads.
    """

    forward: list[dict]
    backward: list[dict]

    def needed(self, inputs: bool, weights: bool) -> list[dict]:
        """The gradients alone that autograd asks for: of what the whole reads, of its weights."""
        kept, number = [], {}
        for i, row in enumerate(self.backward):
            after = tuple(sorted({n for a in row["after"] for n in number[a]}))
            wanted = weights if row["phase"] == "weight-gradient" else inputs or not row["_entry"]
            number[i] = (len(kept),) if wanted else after
            if wanted:
                kept.append(row | {"after": after})
        return kept


def differentiated(rows: Sequence[dict]) -> Whole:
    """Rows of a recurrence or of fused attention and their gradients."""
    public = []
    for number, row in enumerate(rows):
        columns = {k: v for k, v in row.items() if not k.startswith("_")}
        public.append({"layer": "whole", **columns, "op": f"{row['op']} #{number}"})
    stepped = training(Trace.from_rows(public, name="whole"), input_gradients=True).rows()
    forward = [
        row | {"output_bytes": step["output_bytes"], "_saved": step["saved_bytes"] * step["repeats"]}
        for row, step in zip(rows, stepped, strict=False)
    ]
    gradients = (row for row in stepped[len(rows) :] if row["phase"] != "update")
    return Whole(forward, [_gradient(row, rows) for row in gradients])


def _gradient(row: dict, rows: Sequence[dict]) -> dict:
    number, op = _unnumbered(row["op"])
    source = rows[number]
    kept = {k: v for k, v in row.items() if k not in ("layer", "saved_bytes")}
    kept |= {"op": op, "after": tuple(a - len(rows) for a in row["after"] if a >= len(rows))}
    kept |= {"_entry": source.get("_entry", True), "_weights": source.get("_weights", ()), "_derived": True}
    if "layer" in source:
        kept |= {"layer": source["layer"], "_label": source["layer"]}
    return kept


def _unnumbered(op: str) -> tuple[int, str]:
    """Number of the forward row in the name of a row, and the name without it."""
    head, _, tail = op.rpartition(" #")
    number, comma, rest = tail.partition(",")
    return int(number), f"{head}{comma}{rest}"


def recurrence(rows: Sequence[dict], result_bytes: int) -> Whole:
    """`differentiated`, less what autograd is seen to keep: the input, and the result, of `result_bytes`.

    The rule has the input with the product that reads it and the result, the last layer's h, with its recurrent
    product.
    """
    whole, left = differentiated(rows), result_bytes
    for row in reversed(whole.forward):
        if row["_entry"]:
            row["_saved"] = 0
        elif row["op"] == "recurrent product":
            taken = min(left, row["_saved"])
            row["_saved"] -= taken
            left -= taken
    return whole


def cell(rows: Sequence[dict]) -> Whole:
    """One step of a recurrence: input gradients are those of a step among others, weight gradients its own.

    The gates alone keep something that autograd is not seen to keep.
    """
    steps = {"repeats": 2, "serial_steps": 2, "path_runs": 2, "weight_sets": 1}
    once = {"repeats": 1, "serial_steps": 1, "path_runs": 1, "weight_sets": 1}
    among, alone = differentiated([row | steps for row in rows]), differentiated(rows)
    forward = [
        row | once | {"_saved": row["_saved"] // 2 if row["kind"] == "elementwise" else 0} for row in among.forward
    ]
    pairs = zip(among.backward, alone.backward, strict=True)
    return Whole(forward, [a | once if a["phase"] == "input-gradient" else b for a, b in pairs])
