"""What is measured: the rows of the measurement table, without their times.

Sizes lie between those of the networks `rooftrace validate --this-machine` is judged on, never on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

#: Hidden sizes of the recurrences, rows (batch) of a step, and steps: few and many tell a call's cost from a step's.
HIDDEN = (64, 128, 224, 288, 512, 768)
STEP_ROWS = (1, 2, 4, 12, 48)
STEPS = (20, 60, 120)
LARGE_STEPS = 40
#: (n, k) of products with weights: gates x hidden of recurrences, projections and inner layers of Transformers.
THIN = ((192, 64), (512, 128), (768, 256), (1024, 256), (1536, 512), (2048, 512), (3072, 768), (4096, 1024))
WIDE = ((256, 256), (768, 256), (1024, 256), (256, 1024), (512, 512), (1536, 512), (2048, 512), (768, 768), (3072, 768))
WIDE_ROWS = (128, 256, 512, 1024)
#: (m, n, k) of large products: the most the machine does.
LARGE = ((1024, 1024, 1024), (512, 4096, 1024), (2048, 1024, 512))
#: (batch, m, n, k) of products of two activations: scores and weighted sums of attention.
BATCHED = (
    (4, 64, 64, 32), (4, 64, 32, 64), (8, 128, 128, 64), (8, 128, 64, 128), (32, 128, 128, 32), (32, 128, 32, 128),
    (16, 256, 256, 64), (16, 256, 64, 256),
)  # fmt: skip
#: (batch, heads, positions, head size) of fused attention.
ATTENTION = ((1, 4, 64, 32), (4, 4, 64, 64), (1, 8, 128, 64), (8, 8, 128, 32), (1, 12, 256, 64), (4, 8, 256, 64))
#: (rows, columns) of everything that is no product.
VECTOR = ((1, 64), (16, 64), (64, 256), (128, 512), (512, 512), (512, 2048), (2048, 2048))
#: Bytes two operands and a result have together when a stream is timed.
WORKING_SETS = tuple(int(3 * 2**exponent) for exponent in range(14, 27))
#: Columns of the matrices whose product with one row is timed: a stream of reads.
MATRIX_SIDES = (128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096)

VECTOR_OPS = {
    "numpy": ("add", "multiply", "relu", "tanh"),
    "torch": ("add", "multiply", "relu", "gelu", "tanh", "sigmoid", "softmax", "layer norm"),
}


def calibration_rows(backend: str, dtypes: Iterable[str] = ("fp32",), quick: bool = False) -> list[dict]:
    """Rows to measure, sizes by the columns of `workloads.measured`; `harness` names what shares a cost of calling."""
    rows = []
    for dtype in dtypes:
        rows += [row | {"dtype": dtype} for row in _rows(backend, quick)]
    return rows


def _rows(backend: str, quick: bool) -> Iterator[dict]:
    every = 3 if quick else 1
    biased = {"bias": int(backend == "torch")}
    for place, (n, k) in enumerate(THIN):
        for turn, m in enumerate(STEP_ROWS):
            if (place + turn) % (every + 1) == 0:
                yield {"op": "linear", "m": m, "n": n, "k": k} | biased
    for place, (n, k) in enumerate(WIDE):
        for turn, m in enumerate(WIDE_ROWS):
            if (place + turn) % (2 * every) == 0:
                yield {"op": "linear", "m": m, "n": n, "k": k} | biased
    for m, n, k in LARGE[: 1 if quick else None]:
        yield {"op": "linear", "m": m, "n": n, "k": k} | biased
    for batch, m, n, k in BATCHED[::every]:
        yield {"op": "matmul", "batch": batch, "m": m, "n": n, "k": k}
    for side in MATRIX_SIDES[::every]:
        yield {"op": "matmul", "batch": 1, "m": 1, "n": side, "k": side}
    for op in VECTOR_OPS[backend]:
        for rows, columns in VECTOR[::every]:
            yield {"op": op, "rows": rows, "columns": columns}
    for size in WORKING_SETS[:: 2 if quick else 1]:
        yield {"op": "add", "rows": size // (12 * 1024), "columns": 1024}
    if backend == "torch":
        for batch, heads, positions, head_dim in ATTENTION[::every]:
            sizes = {"batch": batch, "heads": heads, "q_len": positions, "kv_len": positions, "head_dim": head_dim}
            yield {"op": "attention", "causal": 0} | sizes
    yield from _recurrences(backend, quick)


def _recurrences(backend: str, quick: bool) -> Iterator[dict]:
    """Whole recurrent layers: the dependent steps."""
    kinds = ("lstm", "gru") if backend == "torch" else ("rnn",)
    for place, hidden in enumerate(HIDDEN):
        for turn, batch in enumerate(STEP_ROWS):
            if hidden * batch > 10000 or (quick and (place + turn) % 3):
                continue
            for kind in kinds:
                steps = STEPS[turn % 3] if hidden * batch < 4096 else LARGE_STEPS
                yield recurrence(kind, hidden, batch, steps)
                if hidden * batch <= 512:
                    yield recurrence(kind, hidden, batch, STEPS[(turn + 1) % 3])


def recurrence(kind: str, hidden: int, batch: int, timesteps: int, layers: int = 1, bidirectional: int = 0) -> dict:
    """The row of a recurrent layer as the backend runs it on a processor.

    PyTorch runs an LSTM as one oneDNN primitive that packs the weights first and ends each product with the cell, a
    GRU as a loop of its own ops (see `workloads.libraries`); numpy's is a loop over ready input products.
    """
    sizes = {"hidden": hidden, "batch": batch, "timesteps": timesteps, "layers": layers, "bidirectional": bidirectional}
    how = {
        "lstm": {"input_size": hidden, "packed_weights": 1, "fused_cells": 1},
        "gru": {"input_size": hidden, "separate_cells": 1},
        "rnn": {"input_size": 0, "separate_cells": 1},
    }
    return {"op": kind, "harness": kind} | sizes | how[kind]
