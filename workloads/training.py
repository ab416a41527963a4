"""Training: a forward trace becomes forward, recomputation, gradients and update.

Every forward row is turned into its gradients from the numbers in the row alone, so the builders, the
importers and tables made by hand all train. The rules, for a product Y (m, n) = X (m, k) W (k, n):

- input gradient dX = dY W', a product (m, k, n) that reads the weights and dY;
- weight gradient dW = X' dY, a product (k, n, m) that reads both activations and writes the gradients. The
  steps of a recurrence share their weights, so it is ONE product over all T steps (k, n, m T) after the last
  of them, as cuDNN does it (Appleyard et al. 2016); the input gradient keeps the T steps in series;
- both keep the ratio of useful to padded FLOP (causal masks). A convolution follows the same rule: each
  gradient is a (transposed) convolution with the FLOP of the forward one;
- two activations (scores, context) have two input gradients, one an operand;
- fused attention keeps no scores: of its backward pass' five products (scores again, dV, dP, dQ, dK) two are
  the forward ones, so it does 2.5 times the forward FLOP (Dao 2023, FlashAttention-2, section 4.1).

Everything else has one backward row with twice the vector work, since it evaluates the derivative and multiplies
by dY (a sum or rotation has a constant one: once), and, where it has parameters, a row for their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from workloads.trace import PRODUCTS, Trace, TraceError, element_bytes, nearest, tensor_bytes, whole_layer


@dataclass(frozen=True)
class Optimiser:
    """What an update costs for each parameter: vector FLOP, special evaluations, moments held."""

    vector: int
    special: int
    moments: int
    meaning: str


OPTIMISERS: dict[str, Optimiser] = {
    "sgd": Optimiser(2, 0, 0, "w - rate g, without momentum"),
    "adam": Optimiser(
        12,
        2,
        2,
        "Kingma and Ba 2015, algorithm 1: first moment 3, second 4, bias corrections 2, step 3; a root and a division",
    ),
}

#: Words in the name of elementwise work that multiplies by constants and adds.
LINEAR = frozenset({"add", "sum", "rotary"})

#: Vector FLOP for each element in the weight gradient of a normalisation: dY times the normalised input,
#: summed for the gain; dY summed for the offset.
NORM_GRADIENT_FLOPS = 3

#: Fused attention keeps the logarithm of each row's sum of exponentials, in fp32 (Dao et al. 2022, algorithm 1).
STATISTIC_BYTES = 4


def training(
    trace: Trace,
    optimiser: str = "sgd",
    recompute: bool = False,
    input_gradients: bool = False,
    master_weights: bool | None = None,
    gradient_dtype: str | None = None,
) -> Trace:
    """One training step of a forward trace: forward, (recomputation,) gradients, update.

    `optimiser`: "sgd" or "adam" (fp32 moments). `recompute`: keep only what each layer (neighbouring
    rows that share `layer`) reads from outside, and run its rows again, in phase "recompute", before its
    backward pass (Chen et al. 2016). `input_gradients`: also the gradient of the network's own input;
    without it a row with no parameters before it has none. `master_weights`: the update keeps fp32
    weights beside the stored ones (None: exactly when those are narrower than fp32; Micikevicius et al.
    2018). `gradient_dtype`: element type of weight gradients (None: that of the weights, or of the
    activations where the weights are integers).

    Backward rows come in reverse order and wait for the gradients of the rows that read their result.
    Only the update waits for a weight gradient, so both are off the critical path; their runs (identical
    layers) do not wait for each other. Name, sequences and tokens are kept. Weights without parameters of
    their own (a projection that shares the embedding) are not updated: their gradient is added to that of
    the first row with as many parameters, or of the first table for a look-up.

    Memory: `saved_bytes` of a forward row is what it keeps for its backward pass. A product keeps its
    input, a softmax its result, fused attention input, result and one statistic a query, a sum nothing,
    recurrent gates as much as their state (LSTM: four activated gates, c and tanh c), which they write
    besides. A tensor that several rows keep counts once, where the table tells: a row reads the results
    of the rows it waits for; what it reads beyond those comes from the end of its own layer where the
    layer repeats, and is otherwise shared by the rows that wait for the same rows. Statistics of norms
    and dropout masks are not counted. Cache entries of an inference trace are dropped. With `recompute`
    the recomputed rows carry what one pass through their layer keeps; `footprint` counts the largest layer.

    Raises `TraceError` for anything but a trace of forward rows, an unknown optimiser or element type,
    or a flag that is not one.
    """
    _check(trace, optimiser, recompute, input_gradients, master_weights, gradient_dtype)
    graph = _Graph(trace.rows())
    plan = _Backward(graph, OPTIMISERS[optimiser], input_gradients, master_weights, gradient_dtype)
    needs = [_needs(graph, i) for i in range(len(graph.rows))]
    first = _kept(graph, _layer_inputs(graph) if recompute else needs)
    for i, row in enumerate(graph.rows):
        written = row["output_bytes"] + (0 if recompute else graph.extra[i])
        plan.emit(row | {"saved_bytes": _each(row, first.bytes[i]), "output_bytes": written}, row["after"])
    kept = _kept(graph, needs, first) if recompute else first
    for segment in reversed(graph.segments):
        again = _recompute(plan, segment, kept) if recompute else ()
        for i in reversed(segment):
            plan.backward(i, again)
    plan.updates()
    return Trace.from_rows(
        plan.rows, name=trace.name, sequences=trace.sequences, tokens=trace.tokens, source=trace.source
    )


def update_row(row: dict, optimiser: str) -> dict:
    """The update of the parameters of one forward row, for importers that record gradients themselves.

    Raises `TraceError` for an unknown optimiser.
    """
    check_optimiser(optimiser)
    plan = _Backward(_Graph([]), OPTIMISERS[optimiser], False, None, None)
    return _common(row, "update") | {"kind": "elementwise"} | plan.update_of(row)


def check_optimiser(optimiser: str) -> None:
    """Raise `TraceError` naming the nearest unless it is in `OPTIMISERS`."""
    if optimiser not in OPTIMISERS:
        raise TraceError(f"training: unknown optimiser {optimiser!r}{nearest(optimiser, OPTIMISERS)}")


def _check(trace, optimiser, recompute, input_gradients, master_weights, gradient_dtype) -> None:
    if not isinstance(trace, Trace):
        raise TraceError(f"training: a Trace is expected, got {type(trace).__name__}")
    check_optimiser(optimiser)
    for name, value in (("recompute", recompute), ("input_gradients", input_gradients)):
        if not isinstance(value, bool):
            raise TraceError(f"training: {name} must be True or False, got {value!r}")
    if master_weights is not None and not isinstance(master_weights, bool):
        raise TraceError(f"training: master_weights must be True, False or None, got {master_weights!r}")
    if gradient_dtype is not None:
        try:
            element_bytes(gradient_dtype)
        except TraceError as error:
            raise TraceError(f"training: gradient_dtype: {error}") from None
    for number, phase in enumerate(trace.phase):
        if phase != "forward":
            raise TraceError(
                f"{trace.source}: row {number}: phase {str(phase)!r}: only a trace of forward rows can be trained; "
                "this one already has gradients or an update"
            )


# -- sizes of one row --------------------------------------------------------------------------------


def _is_product(row: dict) -> bool:
    return row["kind"] in PRODUCTS


def _has_weights(row: dict) -> bool:
    """Whether the row has weights to train, its own or another row's.

    Outside products, tables and the gates of a recurrence, weights that are no parameters are constants (sines added
    to an embedding).
    """
    if _is_product(row) or row["kind"] == "gather" or _is_cell(row):
        return row["weight_bytes"] + row["parameters"] > 0
    return row["parameters"] > 0


def _bytes(row: dict, *sizes: str) -> int:
    """Bytes of activations of the product of these dimensions."""
    elements = 1
    for size in sizes:
        elements *= row[size]
    return tensor_bytes(elements, row["activation_dtype"])


def _elements(amount: int, dtype: str) -> int:
    return int(amount / element_bytes(dtype))


def _executions(row: dict) -> int:
    """How often the row's layer runs in series (identical layers)."""
    return max(1, row["path_runs"] // row["serial_steps"])


def _instances(row: dict) -> int:
    """Runs independent of each other (two directions)."""
    return max(1, row["repeats"] // (row["serial_steps"] * _executions(row)))


def _merged_steps(row: dict) -> int:
    """Steps whose weight gradient is one product: all of a recurrence, unless each has its own weights."""
    steps = row["serial_steps"]
    return steps if row["weight_sets"] <= row["repeats"] // steps else 1


def _each(row: dict, total: int) -> int:
    """Bytes one run leaves of a total over all runs, rounded up."""
    return -(-total // row["repeats"])


def _matrix_elements(row: dict) -> int:
    """Weights of a product, its bias aside; a batch may share one matrix."""
    size, stored = row["n"] * row["k"], max(row["parameters"], _elements(row["weight_bytes"], row["weight_dtype"]))
    return size * row["batch"] if stored >= size * row["batch"] else size


def _is_tied(row: dict) -> bool:
    """Whether a product, a look-up or gates read weights that are parameters of another row."""
    if _is_product(row):
        return row["weight_bytes"] > 0 and row["parameters"] < row["n"] * row["k"]
    shares = row["kind"] == "gather" or _is_cell(row)
    return shares and row["weight_bytes"] > 0 and row["parameters"] == 0


def _is_linear(row: dict) -> bool:
    """Elementwise work whose derivative is a constant, by its name ("residual add"): it keeps nothing."""
    words = row["op"].lower().split()
    return row["kind"] == "elementwise" and row["special_ops"] == 0 and not LINEAR.isdisjoint(words)


def _is_cell(row: dict) -> bool:
    """Gates of a recurrence: elementwise work on state, step by step; a single step is one too."""
    return row["kind"] == "elementwise" and row["state_bytes"] > 0


def _second_operand(row: dict) -> int:
    """Bytes a product of two activations reads of its second operand (keys, values), beside a cache and state.

    The first operand may be smaller than m k (causal scores), the second is whole.
    """
    return min(max(0, _bytes(row, "batch", "n", "k") - row["cache_bytes"] - row["state_bytes"]), row["input_bytes"])


# -- the forward rows as a graph ---------------------------------------------------------------------


class _Graph:
    """The forward rows with what their neighbours make of them."""

    def __init__(self, rows: list[dict]):
        self.rows = rows
        self.consumers: list[list[int]] = [[] for _ in rows]
        for i, row in enumerate(rows):
            for producer in row["after"]:
                self.consumers[producer].append(i)
        self.segments: list[range] = []
        for i, row in enumerate(rows):
            if i and whole_layer(row["layer"]) == whole_layer(rows[i - 1]["layer"]):
                self.segments[-1] = range(self.segments[-1].start, i + 1)
            else:
                self.segments.append(range(i, i + 1))
        self.segment = [segment for segment in self.segments for _ in segment]
        #: Whether a row or one before it has parameters: its result needs a gradient.
        self.trained: list[bool] = []
        for row in rows:
            self.trained.append(_has_weights(row) or any(self.trained[p] for p in row["after"]))
        #: Bytes a run writes only because the backward pass needs them.
        self.extra = [self._extra(row) for row in rows]

    @staticmethod
    def _extra(row: dict) -> int:
        if _is_cell(row):
            return row["state_bytes"]
        if row["kind"] == "attention":
            return STATISTIC_BYTES * row["batch"] * row["m"]
        return 0

    def output(self, i: int) -> int:
        """Bytes of the row's result, all runs."""
        return self.rows[i]["repeats"] * self.rows[i]["output_bytes"]

    def same_recurrence(self, i: int, j: int) -> bool:
        a, b = self.rows[i], self.rows[j]
        steps = a["serial_steps"] > 1 or (a["state_bytes"] > 0 and b["state_bytes"] > 0)
        return a["layer"] == b["layer"] and a["serial_steps"] == b["serial_steps"] and steps

    def made_from(self, i: int) -> list[int]:
        """Later rows of the same recurrence that wait for row i, the last first.

        What they write it reads a step later.
        """
        found = {i}
        for j in range(i + 1, len(self.rows)):
            if self.same_recurrence(i, j) and found.intersection(self.rows[j]["after"]):
                found.add(j)
        return sorted(found - {i}, reverse=True)

    def layer_ends(self, i: int) -> list[int]:
        """Rows of the segment of row i whose result no row of it waits for, the last first.

        A later stretch of a recurrence waits for the state; the results of each stretch are results of the layer.
        """
        segment, rows = self.segment[i], self.rows

        def is_read(j: int, by: int) -> bool:
            layer = rows[j]["layer"]
            return by in segment and (layer == rows[by]["layer"] or layer == whole_layer(layer))

        return [j for j in reversed(segment) if not any(is_read(j, c) for c in self.consumers[j])]

    def is_entry(self, i: int) -> bool:
        """Whether the row reads nothing (by its dependencies) from inside its layer."""
        return not any(p in self.segment[i] for p in self.rows[i]["after"])

    def gate_sums(self, i: int) -> int:
        """Bytes of sums a row of gates receives as state from the products of its recurrence."""
        total = 0
        for p in self.rows[i]["after"]:
            if self.same_recurrence(p, i) and _is_product(self.rows[p]) and not self.rows[p]["output_bytes"]:
                total += _bytes(self.rows[p], "batch", "m", "n")
        return total


# -- what is kept for the backward pass --------------------------------------------------------------


@dataclass
class _Need:
    """Bytes, all runs, a row keeps of: what it reads, the state it reads, its own result, values of its own."""

    read: int = 0
    state: int = 0
    result: int = 0
    own: int = 0
    outside_only: bool = False


@dataclass
class _Kept:
    """Bytes kept by each row that first needs them, and how much of each tensor that is."""

    bytes: list[int]
    of_row: dict[int, int] = field(default_factory=dict)
    of_unseen: dict[tuple, int] = field(default_factory=dict)


def _needs(graph: _Graph, i: int) -> _Need:
    row = graph.rows[i]
    runs, kind = row["repeats"], row["kind"]
    read = runs * row["input_bytes"]
    if kind in PRODUCTS and _has_weights(row):
        return _Need(read=read, state=runs * _state_operand(row))
    if kind in PRODUCTS:
        fused, shared = kind == "attention", _second_operand(row)
        # the steps of a recurrence attend to one memory
        memory = runs // row["serial_steps"] * (shared + row["cache_bytes"])
        return _Need(
            read=runs * (row["input_bytes"] - shared) + memory,
            state=runs * _state_operand(row),
            result=runs * row["output_bytes"] if fused else 0,
            own=runs * graph.extra[i],
        )
    if kind == "softmax":
        return _Need(result=runs * row["output_bytes"])
    if _is_cell(row):
        return _Need(own=runs * graph.extra[i])
    if kind in ("copy", "collective") or _is_linear(row):
        return _Need()
    return _Need(read=read)


def _state_operand(row: dict) -> int:
    """Bytes of the operand a product takes from its state (h): the state but for the result it leaves there."""
    result = max(0, _bytes(row, "batch", "m", "n") - row["output_bytes"])
    operand = max(0, _bytes(row, "batch", "m", "k") - row["input_bytes"])
    return min(max(0, row["state_bytes"] - result), operand)


def _layer_inputs(graph: _Graph) -> list[_Need]:
    """What each row reads from outside its layer, which must be kept to run the layer again."""
    needs = []
    for i, row in enumerate(graph.rows):
        inside = [p for p in row["after"] if p in graph.segment[i]]
        if len(inside) == len(row["after"]) > 0:
            needs.append(_Need())
            continue
        read = row["repeats"] * (row["input_bytes"] + row["cache_bytes"] * (row["kind"] == "attention"))
        needs.append(_Need(read=max(0, read - sum(graph.output(p) for p in inside)), outside_only=True))
    return needs


def _kept(graph: _Graph, needs: Sequence[_Need], before: _Kept | None = None) -> _Kept:
    """Who keeps how much, each tensor no more than once; `before`: tensors already kept."""
    kept = _Kept([0] * len(needs), dict(before.of_row), dict(before.of_unseen)) if before else _Kept([0] * len(needs))
    for i, need in enumerate(needs):
        row = graph.rows[i]
        kept.bytes[i] += need.own
        if need.result:
            _take(graph, kept, i, [i], need.result)
        if need.state:
            writers = graph.made_from(i)
            held = any(_is_cell(graph.rows[p]) and graph.same_recurrence(p, i) for p in row["after"])
            if not held:  # the state of gates is among the values they keep
                _take(graph, kept, i, writers, need.state, unseen=("state", i))
        if need.read:
            producers = sorted(row["after"], reverse=True)
            if need.outside_only:
                producers = [p for p in producers if p not in graph.segment[i]]
            _take(graph, kept, i, producers, need.read, unseen=("read", *row["after"]), again=True)
    return kept


def _take(graph: _Graph, kept: _Kept, i: int, tensors: list[int], amount: int, unseen=None, again=False) -> None:
    """Charge row i with what of `amount` bytes of the results of `tensors` (then of others) is not kept yet."""
    found = _take_from(graph, kept, i, tensors, amount)
    if again:  # instances side by side (directions) read the same tensors
        amount = -(-amount // _instances(graph.rows[i]))
        if _executions(graph.rows[i]) > 1 and graph.is_entry(i):
            found += _take_from(graph, kept, i, graph.layer_ends(i), amount - found)
    if unseen and amount > found:
        already = kept.of_unseen.get(unseen, 0)
        kept.bytes[i] += max(0, amount - found - already)
        kept.of_unseen[unseen] = max(already, amount - found)


def _take_from(graph: _Graph, kept: _Kept, i: int, tensors: list[int], amount: int) -> int:
    found = 0
    for j in tensors:
        part = min(max(0, amount - found), graph.output(j))
        already = kept.of_row.get(j, 0)
        kept.of_row[j] = min(already + part, graph.output(j))
        kept.bytes[i] += kept.of_row[j] - already
        found += part
    return found


# -- the rows of the backward pass -------------------------------------------------------------------


class _Backward:
    """The growing list of rows, with the gradients each forward row has so far."""

    def __init__(self, graph: _Graph, optimiser: Optimiser, input_gradients, master_weights, gradient_dtype):
        self.graph = graph
        self.optimiser = optimiser
        self.input_gradients = input_gradients
        self.master_weights = master_weights
        self.gradient_dtype = gradient_dtype
        self.rows: list[dict] = []
        #: For each forward row, the rows after which the gradient of what it reads is complete.
        self.gradient: dict[int, tuple[int, ...]] = {}
        #: For each forward row, the rows its update waits for.
        self.weight_gradient: dict[int, list[int]] = {}

    def emit(self, row: dict, after) -> int:
        self.rows.append(row | {"after": tuple(sorted(set(after)))})
        return len(self.rows) - 1

    def ready(self, i: int) -> set[int]:
        """Rows after which the gradient of the result of forward row i is complete: those of all its readers."""
        readers = self.graph.consumers[i]
        # the loss follows the network's last rows; elsewhere the forward rows are complete anyway
        return {row for j in readers for row in self.gradient[j]} if readers else {i}

    def backward(self, i: int, again: Sequence[int]) -> None:
        """Emit the gradients of forward row i; `again`: the last rows of its recomputed layer."""
        row = self.graph.rows[i]
        ready = self.ready(i)
        if again and not any(c in self.graph.segment[i] for c in self.graph.consumers[i]):
            ready |= set(again)
        runs = self.input_gradient_runs(i)
        found = self.input_gradients_of(i) if runs else []
        numbers = [self.emit(_common(row, "input-gradient") | gradient | runs, ready) for gradient in found]
        self.gradient[i] = tuple(numbers) or tuple(ready)
        if _has_weights(row):
            # the gradient of a bias is a sum over the gradient of what it was added to
            is_bias = row["kind"] in ("elementwise", "scan")
            gradient = _common(row, "weight-gradient") | self.weight_gradient_of(i, bool(runs))
            self.weight_gradient[i] = [self.emit(gradient, numbers if numbers and is_bias else ready)]

    def input_gradient_runs(self, i: int) -> dict:
        """Counts of the input gradient's rows, empty where no run needs one."""
        row = self.graph.rows[i]
        counts = {c: row[c] for c in ("repeats", "serial_steps", "path_runs", "weight_sets")}
        if row["kind"] == "gather" and _has_weights(row):
            return {}
        carries = row["serial_steps"] > 1 and row["state_bytes"] > 0
        if self.input_gradients or carries or any(self.graph.trained[p] for p in row["after"]):
            return counts
        # the first of identical layers reads the network's input, the others do not
        executions, steps = _executions(row), row["serial_steps"]
        first = row["repeats"] // executions
        if executions == 1:
            return {}
        if row["repeats"] % executions or first % steps:
            return counts
        left = row["repeats"] - first
        path = min(left, max(steps, row["path_runs"] - row["path_runs"] // executions))
        return {"repeats": left, "serial_steps": steps, "path_runs": path, "weight_sets": min(row["weight_sets"], left)}

    # -- gradients of what a row reads -----------------------------------------------------------

    def input_gradients_of(self, i: int) -> list[dict]:
        row = self.graph.rows[i]
        kind = row["kind"]
        if kind == "attention":
            return [self.of_attention(row)]
        if kind in PRODUCTS:
            return [self.of_product(row)] if _has_weights(row) else self.of_operands(row)
        if kind == "collective":
            return [{c: row[c] for c in ("input_bytes", "output_bytes", "vector_flops", "special_ops")}]
        return [self.of_elementwise(i)]

    @staticmethod
    def of_product(row: dict) -> dict:
        """dX = dY W'. A function merged into the product (`Trace.fused`) is differentiated here."""
        merged = max(0, row["vector_flops"] - _bias_adds(row))
        return {
            "batch": row["batch"],
            "m": row["m"],
            "n": row["k"],
            "k": row["n"],
            "matrix_flops": row["matrix_flops"],
            "vector_flops": 2 * merged,
            "special_ops": row["special_ops"],
            "weight_bytes": min(row["weight_bytes"], tensor_bytes(_matrix_elements(row), row["weight_dtype"])),
            "input_bytes": row["output_bytes"] + row["cache_bytes"],
            "output_bytes": row["input_bytes"],
            "state_bytes": row["state_bytes"],
        }

    @staticmethod
    def of_operands(row: dict) -> list[dict]:
        """dA = dY B' and dB = A' dY of a product of two activations A (m, k) and B (k, n)."""
        b = _second_operand(row)
        a = row["input_bytes"] - b
        added = b if row["serial_steps"] > 1 else 0  # to the gradient of what all steps read
        merged = {"vector_flops": 2 * row["vector_flops"], "special_ops": row["special_ops"]}
        first = {
            "op": f"{row['op']}, gradient of the first operand",
            "m": row["m"],
            "n": row["k"],
            "k": row["n"],
            "input_bytes": row["output_bytes"] + b,
            "output_bytes": a,
            "state_bytes": row["state_bytes"],
            "cache_bytes": row["cache_bytes"],
            **merged,
        }
        second = {
            "op": f"{row['op']}, gradient of the second operand",
            "m": row["k"],
            "n": row["n"],
            "k": row["m"],
            "input_bytes": row["output_bytes"] + a + added,
            "output_bytes": b,
            "cache_bytes": row["cache_bytes"],
            # of a memory that lives from step to step: added to what later steps left
            "state_bytes": 2 * min(row["state_bytes"], _bytes(row, "batch", "n", "k")),
        }
        return [{"batch": row["batch"], "matrix_flops": row["matrix_flops"], **grad} for grad in (first, second)]

    def of_attention(self, row: dict) -> dict:
        """dQ, dK and dV of fused attention in one row: five products where the forward pass has two.

        With query/key size q and value size v the forward n is q + v and these are 3 q + 2 v wide: 2.5 n where q = v.
        Reads Q, K, V, the result, its gradient and the statistic; writes three gradients.
        """
        return {
            "batch": row["batch"],
            "m": row["m"],
            "n": -(-5 * row["n"] // 2),
            "k": row["k"],
            "matrix_flops": (5 * row["matrix_flops"] + 1) // 2,
            "vector_flops": 2 * row["vector_flops"],
            "special_ops": row["special_ops"],  # exp of the scores again
            "input_bytes": row["input_bytes"] + 2 * row["output_bytes"] + STATISTIC_BYTES * row["batch"] * row["m"],
            "output_bytes": row["input_bytes"],
            "cache_bytes": 2 * row["cache_bytes"],
            "state_bytes": row["state_bytes"],
        }

    def of_elementwise(self, i: int) -> dict:
        """dX of a row that is no product: reads dY and what was kept, writes dX.

        The functions are evaluated again only where the input was kept, not their result (softmax, norms, gates).
        """
        row = self.graph.rows[i]
        kind, state, saved = row["kind"], row["state_bytes"], row["input_bytes"]
        if kind in ("copy", "gather") or _is_linear(row):
            saved = 0
        elif kind == "softmax":
            saved = row["output_bytes"]
        elif _is_cell(row):
            saved = self.graph.extra[i]
            # the gradient of the sums is written once, for the input part and the recurrent part together;
            # that of h comes from the reader above and from the step after
            state = state - min(self.graph.gate_sums(i), row["input_bytes"], state) + row["output_bytes"]
        evaluated = kind in ("elementwise", "scan") and not _is_cell(row)
        adds = _elements(row["output_bytes"], row["activation_dtype"]) if kind == "gather" else 0
        return {
            "vector_flops": row["vector_flops"] * (1 if _is_linear(row) or kind == "copy" else 2) + adds,
            "special_ops": row["special_ops"] if evaluated else 0,
            "weight_bytes": row["weight_bytes"] if kind in ("normalisation", "scan") else 0,
            "input_bytes": row["output_bytes"] + saved,
            "output_bytes": row["input_bytes"],
            "state_bytes": state,
            "cache_bytes": row["cache_bytes"],
        }

    # -- gradients of weights --------------------------------------------------------------------

    def gradient_bytes(self, row: dict, elements: int) -> int:
        return tensor_bytes(elements, self.gradient_type(row))

    def gradient_type(self, row: dict) -> str:
        if self.gradient_dtype:
            return self.gradient_dtype
        for dtype in (row["weight_dtype"], row["activation_dtype"]):
            if not dtype.startswith("int"):
                return dtype
        return "fp32"

    def weight_gradient_of(self, i: int, has_input_gradient: bool) -> dict:
        row, steps = self.graph.rows[i], _merged_steps(self.graph.rows[i])
        if _is_product(row):
            work, tied = self.product_weights(row, steps), _matrix_elements(row) * _is_tied(row)
        elif row["kind"] == "gather":
            picked = _elements(row["weight_bytes"], row["weight_dtype"])
            adds = _elements(row["output_bytes"], row["activation_dtype"])
            work = {"vector_flops": steps * adds, "input_bytes": steps * (row["output_bytes"] + row["input_bytes"])}
            # a scatter into zeros: each picked row is read and written, whatever the size of the table
            tied = steps * picked
        else:
            work = self.elementwise_weights(i, steps, has_input_gradient)
            tied = _elements(row["weight_bytes"], row["weight_dtype"]) * _is_tied(row)
        own = self.gradient_bytes(row, row["parameters"])
        runs = row["repeats"] // steps
        if runs > row["weight_sets"]:  # added to what earlier runs with the same weights left
            work["input_bytes"] += own
        return work | {
            "output_bytes": own,
            "state_bytes": 2 * self.gradient_bytes(row, tied),
            "repeats": runs,
            "serial_steps": 1,
            "path_runs": 1,
            "weight_sets": min(row["weight_sets"], runs),
        }

    @staticmethod
    def product_weights(row: dict, steps: int) -> dict:
        """dW = X' dY over all steps; a batch that shares one matrix is more rows of it."""
        shared = row["batch"] > 1 and _matrix_elements(row) < row["batch"] * row["n"] * row["k"]
        read = sum(row[c] for c in ("input_bytes", "output_bytes", "state_bytes", "cache_bytes"))
        return {
            "batch": 1 if shared else row["batch"],
            "m": row["k"],
            "n": row["n"],
            "k": row["m"] * steps * (row["batch"] if shared else 1),
            "matrix_flops": row["matrix_flops"] * steps,
            "vector_flops": _bias_adds(row) * steps,
            "input_bytes": read * steps,
        }

    def elementwise_weights(self, i: int, steps: int, has_input_gradient: bool) -> dict:
        """Gradients of gain and offset of a norm, from dY and its input; of biases, a sum over dX (else dY)."""
        row = self.graph.rows[i]
        if row["kind"] == "normalisation":
            read, each = row["output_bytes"] + row["input_bytes"], NORM_GRADIENT_FLOPS
            elements = _elements(row["output_bytes"], row["activation_dtype"])
        else:
            before = row["input_bytes"] or self.graph.gate_sums(i)
            read, each = before if before and has_input_gradient else row["output_bytes"], 1
            elements = _elements(read, row["activation_dtype"])
        return {"vector_flops": steps * each * elements, "input_bytes": steps * read}

    # -- update ----------------------------------------------------------------------------------

    def updates(self) -> None:
        """One row for each row with parameters, in forward order."""
        owners = [i for i, row in enumerate(self.graph.rows) if row["parameters"]]
        waits = {i: list(self.weight_gradient[i]) for i in owners}
        for i, row in enumerate(self.graph.rows):
            if _is_tied(row) and (owner := self.owner(row, owners)) is not None:
                waits[owner] += self.weight_gradient[i]
        for i in owners:
            row = self.graph.rows[i]
            self.emit(_common(row, "update") | {"kind": "elementwise"} | self.update_of(row), waits[i])

    def owner(self, row: dict, owners: list[int]) -> int | None:
        """The row whose parameters a tied row reads: one of as many parameters, or a table it looks up."""
        wanted = _matrix_elements(row) if _is_product(row) else _elements(row["weight_bytes"], row["weight_dtype"])
        for i in owners:
            other = self.graph.rows[i]
            if other["parameters"] == wanted or (row["kind"] == other["kind"] == "gather"):
                return i
        return None

    def update_of(self, row: dict) -> dict:
        """Reads gradients, weights and moments, writes weights and moments.

        The arithmetic and what is held are in fp32 (fp64 weights: fp64); with master weights those are read and
        the stored weights only written.
        """
        count, cost = row["parameters"], self.optimiser
        wide = "fp64" if row["weight_dtype"] == "fp64" else "fp32"
        narrow = element_bytes(row["weight_dtype"]) < element_bytes(wide)
        master = narrow if self.master_weights is None else self.master_weights
        stored = tensor_bytes(count, row["weight_dtype"])
        return {
            "dtype": wide,
            "activation_dtype": self.gradient_type(row),
            "vector_flops": cost.vector * count,
            "special_ops": cost.special * count,
            "weight_bytes": 0 if master else stored,
            "input_bytes": self.gradient_bytes(row, count),
            "output_bytes": stored,
            "state_bytes": 2 * tensor_bytes(count * (cost.moments + master), wide),
            "repeats": row["weight_sets"],
            "serial_steps": 1,
            "path_runs": 1,
            "weight_sets": row["weight_sets"],
        }


def _common(row: dict, phase: str) -> dict:
    """What a backward row inherits. A gradient flows the other way along the sequence."""
    kept = {c: row[c] for c in ("layer", "kind", "dtype", "weight_dtype", "activation_dtype")}
    kept |= {"op": f"{row['op']}, {phase.replace('-', ' ')}", "phase": phase}
    if phase == "input-gradient":
        kept |= {"reach_back": row["reach_ahead"], "reach_ahead": row["reach_back"]}
    return kept


def _bias_adds(row: dict) -> int:
    """Additions of a product's own bias in one run: one a result."""
    own = row["parameters"] if _is_tied(row) else row["parameters"] - _matrix_elements(row)
    return min(row["vector_flops"], row["batch"] * row["m"] * row["n"]) if own > 0 else 0


def _recompute(plan: _Backward, segment: range, kept: _Kept) -> list[int]:
    """Emit the rows of a layer again once the gradient of its result is there; its last rows."""
    graph = plan.graph
    start, again = set(), {}
    for i in graph.layer_ends(segment[0]):
        if not any(c in segment for c in graph.consumers[i]):
            start |= plan.ready(i)
    for i in segment:  # also results read inside and outside
        start |= {row for j in graph.consumers[i] if j not in segment for row in plan.gradient[j]}
    for i in segment:
        row = graph.rows[i]
        inside = [again[p] for p in row["after"] if p in segment]
        written = {
            "phase": "recompute",
            "op": f"{row['op']}, recompute",
            "parameters": 0,
            "saved_bytes": _each(row, kept.bytes[i]),
            "output_bytes": row["output_bytes"] + graph.extra[i],
        }
        again[i] = plan.emit(row | written, inside or start)
    return [again[i] for i in graph.layer_ends(segment[0])]
