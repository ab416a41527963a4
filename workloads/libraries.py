"""The same network as a library runs it: cells op by op, weights packed anew for every call.

The builders count what any good implementation must do. These functions rewrite a trace into what a given library
does: on a CPU PyTorch runs an LSTM as one oneDNN primitive, which packs its weights first, and a GRU as a loop over
its own elementwise ops (aten/src/ATen/native/RNN.cpp and native/mkldnn/RNN.cpp of PyTorch).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from workloads.trace import Trace, TraceError, element_bytes


class Call(NamedTuple):
    """One library call of a cell, for each hidden unit: vector FLOP, evaluations, values read and written."""

    op: str
    vector: int
    special: int
    reads: int
    writes: int


#: Calls of a cell after its products, by the number of its gates: `_cell_forward` and the three cells of PyTorch's
#: RNN.cpp. Biases are added by the first. They do the FLOP and evaluations of the cells of `workloads.recurrent`.
CELL_CALLS: dict[int, tuple[Call, ...]] = {
    1: (Call("add input", 1, 0, 2, 1), Call("nonlinearity", 0, 1, 1, 1)),
    3: (
        Call("add input of r", 1, 0, 2, 1),
        Call("sigmoid of r", 0, 1, 1, 1),
        Call("add input of z", 1, 0, 2, 1),
        Call("sigmoid of z", 0, 1, 1, 1),
        Call("reset", 1, 0, 2, 1),
        Call("add input of n", 1, 0, 2, 1),
        Call("tanh of n", 0, 1, 1, 1),
        Call("h - n", 1, 0, 2, 1),
        Call("times z", 1, 0, 2, 1),
        Call("plus n", 1, 0, 2, 1),
    ),
    4: (
        Call("add input", 4, 0, 8, 4),
        Call("sigmoid of i", 0, 1, 1, 1),
        Call("sigmoid of f", 0, 1, 1, 1),
        Call("tanh of g", 0, 1, 1, 1),
        Call("sigmoid of o", 0, 1, 1, 1),
        Call("forget", 1, 0, 2, 1),
        Call("i times g", 1, 0, 2, 1),
        Call("add to c", 1, 0, 2, 1),
        Call("tanh of c", 0, 1, 1, 1),
        Call("output", 1, 0, 2, 1),
    ),
}


def separate_cells(trace: Trace, calls: Mapping[int, tuple[Call, ...]] = CELL_CALLS) -> Trace:
    """`trace` with the cells of its recurrences as one row a library call, as frameworks run them without a fused cell.

    `calls`: those of a cell, by the number of its gates. FLOP, evaluations, parameters and weights stay what they were;
    each call reads and writes its values in memory again. Rows that are no cell of a forward recurrence which reads
    sums made before it stay. Raises `TraceError` for a training step, whose backward pass runs cells of its own.
    """
    if trace.trains:
        raise TraceError(f"{trace.name}: separate_cells: the cells of a training step are not split, only forward ones")
    return _rewritten(trace, lambda row: _calls(row, calls))


def separate_gates(trace: Trace) -> Trace:
    """`trace` with a product for each gate, one after another, where the gates of a recurrence share a batched one.

    Each reads its input again; FLOP, weights and results stay what they were. Rows that are no such product stay.
    """

    def part(row: Mapping) -> list[dict]:
        if not _is_gates_product(row):
            return [dict(row)]
        gates = row["batch"]
        read = row["m"] * row["k"] * element_bytes(row["activation_dtype"])
        each = {name: row[name] // gates for name in ("matrix_flops", "weight_bytes", "parameters", "output_bytes")}
        state = row["state_bytes"] and round(read + (row["state_bytes"] - read) / gates)
        made = dict(row) | each | {"batch": 1, "state_bytes": state}
        return [made | {"op": f"{row['op']} of gate {gate}"} for gate in range(gates)]

    return _rewritten(trace, part)


def merged_gates(trace: Trace) -> Trace:
    """`trace` with one product as wide as all gates where they share a batched one; bytes and FLOP stay."""

    def wide(row: Mapping) -> list[dict]:
        merged = {"batch": 1, "n": row["batch"] * row["n"]} if _is_gates_product(row) else {}
        return [dict(row) | merged]

    return _rewritten(trace, wide)


def _is_gates_product(row: Mapping) -> bool:
    return row["op"] in ("input product", "recurrent product") and row["batch"] > 1 and row["phase"] == "forward"


def packed_weights(trace: Trace) -> Trace:
    """`trace` with a copy of the weights of each recurrent layer into another layout before its steps.

    The input and the recurrent weights are read and written once each time the layer is run.
    """
    rows = list(trace.rows())

    def pack(row: Mapping) -> list[dict]:
        if row["op"] != "recurrent product" or row["phase"] != "forward":
            return [dict(row)]
        of_layer = [r for r in rows if r["layer"] == row["layer"] and r["op"] in ("input product", "recurrent product")]
        size = sum(r["weight_bytes"] for r in of_layer)
        layers = max(1, row["path_runs"] // row["serial_steps"])
        types = {name: row[name] for name in ("dtype", "weight_dtype", "activation_dtype")}
        copied = {
            "kind": "copy",
            "layer": row["layer"],
            "op": "pack weights",
            "weight_bytes": size,
            "output_bytes": size,
        }
        runs = {"repeats": row["weight_sets"], "weight_sets": row["weight_sets"], "path_runs": layers}
        return [copied | types | runs, dict(row)]

    return _rewritten(trace, pack)


def _rewritten(trace: Trace, parts) -> Trace:
    """The trace with each row replaced by the rows `parts` makes of it, one after another."""
    rows, last = [], []
    for row in trace.rows():
        made = parts(row)
        for position, part in enumerate(made):
            waits = tuple(last[a] for a in row["after"]) if position == 0 else (len(rows) - 1,)
            if position == len(made) - 1 and position:  # also for what the row waited for
                waits = tuple(sorted({*waits, *(last[a] for a in row["after"])}))
            rows.append(part | {"after": waits})
        last.append(len(rows) - 1)
    return Trace.from_rows(
        rows,
        name=trace.name,
        sequences=trace.sequences,
        tokens=trace.tokens,
        source=f"{trace.name} as a library runs it",
    )


def _calls(row: Mapping, known: Mapping[int, tuple[Call, ...]]) -> list[dict]:
    """A row for each call of a cell; the row itself where it is no cell."""
    cell = row["op"] == "gates" and row["kind"] == "elementwise" and row["input_bytes"] > 0 and row["output_bytes"] > 0
    gates = row["input_bytes"] // row["output_bytes"] if cell else 0
    if gates not in known:
        return [dict(row)]
    unit = row["output_bytes"]  # all hidden units once
    units = unit / element_bytes(row["activation_dtype"])
    calls = known[gates]
    adding = sum(call.op.startswith("add input") for call in calls)
    biases = row["vector_flops"] - round(units * sum(call.vector for call in calls))
    made, given = [], 0
    for number, call in enumerate(calls):
        final = number == len(calls) - 1
        # what the input product made is read by the calls that add it
        inputs = unit * gates // adding if call.op.startswith("add input") else 0
        part = dict(row) | {
            "op": f"gates: {call.op}",
            "vector_flops": round(units * call.vector) + (biases if number == 0 else 0),
            "special_ops": round(units * call.special),
            "input_bytes": inputs,
            "output_bytes": unit if final else 0,
            "state_bytes": unit * (call.reads + call.writes) - inputs - (unit if final else 0),
        }
        if number:
            part |= {"parameters": 0, "weight_bytes": 0}
        given += part["special_ops"]
        made.append(part)
    made[-1]["special_ops"] += row["special_ops"] - given
    return made
