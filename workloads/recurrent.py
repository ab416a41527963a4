"""Recurrent networks: rnn, lstm and gru, stacked, in both directions, projected, as a wavefront.

A layer is the input product of all steps (hoisted, once), one recurrent product a step and the gates
a step. Steps, directions and layers are counts on a row, so the trace has the same few rows
for any sequence and any depth.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    OPERATIONS,
    Types,
    check_choice,
    check_counts,
    check_flags,
    element_types,
    elementwise,
    layer_label,
    linear,
    plain_integers,
    series,
)
from workloads.trace import Trace, TraceError

NONLINEARITIES = ("tanh", "relu")


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: its gates and, in units of `hidden`, what a step adds and carries.

    bias_adds: adds of biases. kept_input_adds: adds of the input part that remain when input and
    recurrent product are one. merged_sums: sums such a product leaves. carried: state read and
    written by the gates beside the sums (lstm: c twice; gru: h).
    """

    operation: str
    gates: int
    bias_adds: int
    kept_input_adds: int
    merged_sums: int
    carried: int


CELLS = {
    "tanh": Cell("tanh cell", gates=1, bias_adds=1, kept_input_adds=0, merged_sums=1, carried=0),
    "relu": Cell("relu cell", gates=1, bias_adds=1, kept_input_adds=0, merged_sums=1, carried=0),
    "lstm": Cell("lstm cell", gates=4, bias_adds=4, kept_input_adds=0, merged_sums=4, carried=2),
    # The reset gate multiplies the recurrent part alone, with its bias: the candidate keeps two sums and two biases.
    "gru": Cell("gru cell", gates=3, bias_adds=4, kept_input_adds=1, merged_sums=4, carried=1),
}


@plain_integers
def rnn(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    input_size: int | None = None,
    nonlinearity: str = "tanh",
    bias: bool = True,
    bidirectional: bool = False,
    hoist_input: bool = True,
    wavefront: bool = False,
    merge_gates: bool = True,
    residual: bool = False,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "rnn",
) -> Trace:
    """Elman network: h' = f(W x + b + U h + b'), f tanh or relu (Elman 1990; `torch.nn.RNN`).

    See `lstm` for the arguments and errors; `nonlinearity` is f.
    """
    check_choice("rnn", "nonlinearity", nonlinearity, NONLINEARITIES)
    types = element_types("rnn", dtype, weight_dtype, activation_dtype)
    return _trace(
        _Recurrence("rnn", CELLS[nonlinearity], hidden, None, bias, bidirectional, sequence_length, batch, types),
        layers, input_size, hoist_input, wavefront, merge_gates, residual, name,
    )  # fmt: skip


@plain_integers
def lstm(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    input_size: int | None = None,
    projection: int | None = None,
    bias: bool = True,
    bidirectional: bool = False,
    hoist_input: bool = True,
    wavefront: bool = False,
    merge_gates: bool = True,
    residual: bool = False,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "lstm",
) -> Trace:
    """Stacked LSTM without peepholes (Hochreiter and Schmidhuber 1997; the form of `torch.nn.LSTM`).

    `sequence_length` steps of `batch` sequences with `input_size` features (default: `hidden`).
    `projection`: h is projected to so many features each step (LSTMP, Sak et al. 2014; `proj_size`).
    `bias`: two vectors a gate, as PyTorch and cuDNN keep them; their sum is added, once a gate.
    `bidirectional`: the two directions are folded in one row, independent of each other; the layers
    are in series. `hoist_input`: the input product of all steps is one product before the steps
    (else one product a step over [x, h]). `wavefront`: layer l runs step t while layer l + 1 runs
    step t - 1 (Appleyard et al. 2016), so the longest path is T + L - 1 steps; from the second layer on the
    input product is then one a step. `merge_gates`: the gates share one product (else one product for
    each weight matrix, also for x and h each step when not hoisted). `residual`: each layer but the first adds
    its input to its result (Prakash et al. 2016; Wu et al. 2016, section 3.1); of both directions side by side.

    Returns a trace with `sequences` = batch, `tokens` = sequence_length. Raises `TraceError` naming
    the argument: a size that is not a positive whole number, an unknown element type, a projection not smaller
    than `hidden`, `wavefront` with `bidirectional` or without `hoist_input`.
    """
    if projection is not None:
        check_counts("lstm", hidden=hidden, projection=projection)
        if projection >= hidden:
            raise TraceError(f"lstm: projection must be smaller than hidden ({hidden}), got {projection!r}")
    types = element_types("lstm", dtype, weight_dtype, activation_dtype)
    return _trace(
        _Recurrence("lstm", CELLS["lstm"], hidden, projection, bias, bidirectional, sequence_length, batch, types),
        layers, input_size, hoist_input, wavefront, merge_gates, residual, name,
    )  # fmt: skip


@plain_integers
def gru(
    layers: int,
    hidden: int,
    *,
    sequence_length: int,
    batch: int = 1,
    input_size: int | None = None,
    bias: bool = True,
    bidirectional: bool = False,
    hoist_input: bool = True,
    wavefront: bool = False,
    merge_gates: bool = True,
    residual: bool = False,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "gru",
) -> Trace:
    """Stacked GRU (Cho et al. 2014) in the form of `torch.nn.GRU` and cuDNN: reset after the product.

    r = s(Wr x + Ur h + br), z = s(Wz x + Uz h + bz), n = tanh(Wn x + bn + r (Un h + bn')),
    h' = n + z (h - n): the recurrent product does not wait for r. With `hoist_input` off the merged
    product leaves four sums, since r multiplies the recurrent part of n alone. See `lstm` for the
    arguments and errors.
    """
    types = element_types("gru", dtype, weight_dtype, activation_dtype)
    return _trace(
        _Recurrence("gru", CELLS["gru"], hidden, None, bias, bidirectional, sequence_length, batch, types),
        layers, input_size, hoist_input, wavefront, merge_gates, residual, name,
    )  # fmt: skip


def _trace(recurrence, layers, input_size, hoist_input, wavefront, merge_gates, residual, name) -> Trace:
    """Check what the three builders share, then lay out the rows."""
    where = recurrence.where
    input_size = recurrence.hidden if input_size is None else input_size
    check_counts(where, layers=layers, hidden=recurrence.hidden, input_size=input_size)
    check_counts(where, sequence_length=recurrence.steps, batch=recurrence.batch)
    check_flags(where, bias=recurrence.bias, bidirectional=recurrence.bidirectional, hoist_input=hoist_input)
    check_flags(where, wavefront=wavefront, merge_gates=merge_gates, residual=residual)
    if wavefront and recurrence.bidirectional:
        raise TraceError(f"{where}: wavefront must be False when bidirectional: a layer needs both directions complete")
    if wavefront and not hoist_input:
        raise TraceError(f"{where}: wavefront needs hoist_input=True, got hoist_input=False")
    if wavefront:
        rows = recurrence.wavefront(layers, input_size, merge_gates, residual, name)
    else:
        parts = [recurrence.layers(f"{name}.0", 1, input_size, hoist_input, merge_gates)]
        if layers > 1:
            label = layer_label(name, 1, layers - 1)
            later = recurrence.layers(label, layers - 1, recurrence.outputs, hoist_input, merge_gates)
            parts.append(later + recurrence.residual_adds(label, layers - 1, hoist_input) * residual)
        rows = series(parts)
    return Trace.from_rows(rows, name=name, sequences=recurrence.batch, tokens=recurrence.steps, source=where)


@dataclass(frozen=True)
class _Recurrence:
    """The sizes every row of a recurrent network shares, and one method a row."""

    where: str
    cell: Cell
    hidden: int
    projection: int | None
    bias: bool
    bidirectional: bool
    steps: int
    batch: int
    types: Types

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def state(self) -> int:
        """Features of h, what the recurrent product reads."""
        return self.projection or self.hidden

    @property
    def outputs(self) -> int:
        """Features a layer hands to the next."""
        return self.directions * self.state

    # -- layouts ---------------------------------------------------------------------------------

    def layers(self, layer: str, count: int, inputs: int, hoist_input: bool, merge_gates: bool) -> list[dict]:
        """Rows of `count` identical layers in series."""
        runs = self._step_runs(count)
        if hoist_input:
            return [
                self._input_product(layer, inputs, merge_gates, self.steps) | self._hoisted_runs(count) | {"after": ()},
                self._recurrent_product(layer, merge_gates) | runs | {"after": (0,)},
                self._gates(layer, self.cell.gates, self.cell.gates) | runs | {"after": (0, 1)},
                *self._projection(layer, runs),
            ]
        if merge_gates:
            kept, sums = self.cell.kept_input_adds, self.cell.merged_sums
            return [
                self._merged_product(layer, inputs) | runs | {"after": ()},
                self._gates(layer, 0, kept, sums) | runs | {"after": (0,)},
                *self._projection(layer, runs),
            ]
        return [
            self._input_product(layer, inputs, merge_gates, 1) | runs | {"after": ()},
            self._recurrent_product(layer, merge_gates) | runs | {"after": ()},
            self._gates(layer, self.cell.gates, self.cell.gates) | runs | {"after": (0, 1)},
            *self._projection(layer, runs),
        ]

    def wavefront(self, layers: int, inputs: int, merge_gates: bool, residual: bool, name: str) -> list[dict]:
        """Rows of all layers at once: the steps of different layers overlap."""
        layer = layer_label(name, 0, layers - 1)
        first = self._input_product(f"{name}.0", inputs, merge_gates, self.steps)
        rows = [first | self._hoisted_runs(1) | {"after": ()}]
        if layers > 1:
            later = self._input_product(layer, self.outputs, merge_gates, 1)
            rows.append(later | self._step_runs(layers - 1, overlapped=True) | {"after": (0,)})
        runs = self._step_runs(layers, overlapped=True)
        rows.append(self._recurrent_product(layer, merge_gates) | runs | {"after": (0,)})
        gates = self._gates(layer, self.cell.gates, self.cell.gates)
        rows.append(gates | runs | {"after": tuple(range(len(rows)))})
        rows += self._projection(layer, runs)
        if residual and layers > 1:
            add = elementwise.row(self.batch * self.state, "residual add", types=self.types, layer=layer)
            rows.append(add | self._step_runs(layers - 1, overlapped=True) | {"weight_sets": 1})
        return rows

    def residual_adds(self, layer: str, count: int, hoisted: bool) -> list[dict]:
        """The sums of input and result of `count` layers: of all steps at once, or step by step."""
        steps = 1 if hoisted else self.steps
        elements = self.batch * self.outputs * self.steps // steps
        row = elementwise.row(elements, "residual add", types=self.types, layer=layer)
        runs = {"repeats": steps * count, "serial_steps": steps, "path_runs": steps * count, "weight_sets": 1}
        return [row | runs]

    def _step_runs(self, layers: int, overlapped: bool = False) -> dict:
        """Counts of a row that runs every step of `layers` layers; the directions are independent."""
        path = self.steps + layers - 1 if overlapped else self.steps * layers
        return {
            "repeats": self.directions * self.steps * layers,
            "serial_steps": self.steps,
            "path_runs": path,
            "weight_sets": self.directions * layers,
        }

    def _hoisted_runs(self, layers: int) -> dict:
        """Counts of a row that runs once for each layer and direction."""
        sets = self.directions * layers
        return {"repeats": sets, "serial_steps": 1, "path_runs": layers, "weight_sets": sets}

    # -- rows, one run each ----------------------------------------------------------------------

    def _product(self, layer: str, op: str, m: int, k: int, merge_gates: bool) -> dict:
        """A product for all gates: one of width gates x hidden, or one for each gate reading the same rows."""
        gates, hidden = self.cell.gates, self.hidden
        n, batch = (gates * hidden, 1) if merge_gates else (hidden, gates)
        row = linear.row(m, n, k, types=self.types, batch=batch, bias=False, layer=layer, op=op)
        return row | {"input_bytes": self.types.activations(m * k)}

    def _input_product(self, layer: str, inputs: int, merge_gates: bool, steps: int) -> dict:
        return self._product(layer, "input product", self.batch * steps, inputs, merge_gates)

    def _recurrent_product(self, layer: str, merge_gates: bool) -> dict:
        row = self._product(layer, "recurrent product", self.batch, self.state, merge_gates)
        return row | self._as_step(row, 0, self.cell.gates)

    def _merged_product(self, layer: str, inputs: int) -> dict:
        row = self._product(layer, "step product", self.batch, inputs + self.state, True)
        return row | self._as_step(row, self.types.activations(self.batch * inputs), self.cell.merged_sums)

    def _as_step(self, row: dict, input_bytes: int, sums: int) -> dict:
        """h and the sums for the gates live from step to step: they are state."""
        passed = self.types.activations(self.batch * self.state) + self._sum_bytes(sums)
        return {
            "input_bytes": input_bytes,
            "output_bytes": 0,
            "state_bytes": passed,
            "reach_back": 1,
            "reach_ahead": 1 if self.bidirectional else 0,
        }

    def _sum_bytes(self, sums: int) -> int:
        return self.types.activations(self.batch * sums * self.hidden)

    def _gates(self, layer: str, input_parts: int, input_adds: int, sums: int | None = None) -> dict:
        """Biases, nonlinearities and the new state; reads `input_parts` sums made before the steps."""
        cell, cost, units = self.cell, OPERATIONS[self.cell.operation], self.batch * self.hidden
        vector = cost.vector + input_adds + (cell.bias_adds if self.bias else 0)
        parameters = 2 * cell.gates * self.hidden if self.bias else 0
        held = self._sum_bytes(sums or cell.gates) + self._sum_bytes(cell.carried)
        result = self.types.activations(units)
        return {
            "layer": layer,
            "op": "gates",
            "kind": "elementwise",
            "vector_flops": vector * units,
            "special_ops": cost.special * units,
            "parameters": parameters,
            "weight_bytes": self.types.weights(parameters),
            "input_bytes": self._sum_bytes(input_parts),
            "output_bytes": 0 if self.projection else result,
            "state_bytes": held + (result if self.projection else 0),
            **self.types.columns,
        }

    def _projection(self, layer: str, runs: dict) -> list[dict]:
        """The product of LSTMP that makes h from the cell's output, or nothing."""
        if not self.projection:
            return []
        row = linear.row(
            self.batch, self.projection, self.hidden, types=self.types, bias=False, layer=layer, op="state projection"
        )
        return [row | runs | {"input_bytes": 0, "state_bytes": row["input_bytes"]}]
