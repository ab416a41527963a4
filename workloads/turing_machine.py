"""The neural Turing machine (Graves et al. 2014): a controller with heads that read and write a memory, step by step.

Every step reads the whole memory to address it by content and again to read it, and reads and writes it once for each
write head: the work of a step grows with the memory, and the path with the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import (
    Types,
    check_choice,
    check_counts,
    check_flags,
    check_own_rows,
    copy,
    element_types,
    elementwise,
    linear,
    matmul,
    plain_integers,
    relabelled,
    softmax,
)
from workloads.recurrent import gru, lstm, rnn
from workloads.trace import Trace, TraceError, concatenate

CONTROLLERS = ("lstm", "gru", "rnn", "feedforward")
RECURRENT = {"lstm": lstm, "gru": gru, "rnn": rnn}
MACHINE = "machine"


@plain_integers
def neural_turing_machine(
    hidden: int,
    *,
    sequence_length: int,
    locations: int = 128,
    width: int = 20,
    inputs: int | None = None,
    outputs: int | None = None,
    layers: int = 1,
    controller: str = "lstm",
    read_heads: int = 1,
    write_heads: int = 1,
    shift: int = 1,
    batch: int = 1,
    bias: bool = True,
    dtype: str = "fp32",
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    name: str = "neural turing machine",
) -> Trace:
    """`sequence_length` steps of a controller over a memory of `locations` rows of `width` values a sequence.

    `controller`: "lstm", "gru", "rnn" or "feedforward" (tanh) of `layers` layers of `hidden` units; it reads `inputs`
    features (default `width`) and what the read heads found the step before. `outputs` (default `inputs`): a product
    over its state and what was read, of all steps at once after the last.

    A head's parameters come from one product over the controller's state (section 3.3): a key of `width` values,
    its strength, a gate, weights of shifts by -`shift` to `shift` locations, a sharpness; for a write head also what it
    erases and adds. Addressing, for each location and head: cosine similarity (a product of keys and memory, one
    norm of each location for all heads), softmax (equation 5), interpolation with the weights of the step before (7),
    circular convolution with the shifts (8), sharpening (9). Reading is a product of weights and memory (2),
    writing erases and adds (3, 4), one head after another.

    Counts: a power is an exponential and a logarithm, softplus likewise; the convolution is vector work, since every
    sequence has its own shifts. The memory is state, read by two products and read and written by each write head;
    it is initialised once (held as `saved_bytes`: `footprint()["cache"]`). Training treats what writes memory or
    weights as gates: it keeps what they read and write as state, twice the memory a step and write head.

    Returns a trace with `sequences` = batch, `tokens` = sequence_length. Raises `TraceError` naming the argument: a
    size that is not a positive whole number (`shift`: 0 or more), an unknown controller or element type, shifts that
    reach round the memory.
    """
    inputs = width if inputs is None else inputs
    outputs = inputs if outputs is None else outputs
    check_counts(name, hidden=hidden, sequence_length=sequence_length, locations=locations, width=width)
    check_counts(name, inputs=inputs, outputs=outputs, layers=layers, batch=batch)
    check_own_rows(name, layers=layers)
    check_counts(name, read_heads=read_heads, write_heads=write_heads)
    check_counts(name, 0, shift=shift)
    check_choice(name, "controller", controller, CONTROLLERS)
    check_flags(name, bias=bias)
    if 2 * shift + 1 > locations:
        raise TraceError(f"{name}: shift must reach no more than the {locations} locations, got {shift}")
    types = element_types(name, dtype, weight_dtype, activation_dtype)
    machine = _Machine(
        hidden, sequence_length, locations, width, inputs, layers, controller, read_heads, write_heads, shift, batch,
        bias, types,
    )  # fmt: skip
    rows = batch * sequence_length
    found = hidden + read_heads * width
    output = linear(rows, outputs, found, bias=bias, layer="head", op="output projection", **types.columns)
    trace = concatenate([machine.initialised(), machine.steps(), output], name=name)
    return trace.replace(sequences=batch, tokens=sequence_length)


@dataclass(frozen=True)
class _Machine:
    """The sizes of one machine, and one method a row."""

    hidden: int
    length: int
    locations: int
    width: int
    inputs: int
    layers: int
    controller: str
    reads: int
    writes: int
    shift: int
    batch: int
    bias: bool
    types: Types

    @property
    def heads(self) -> int:
        return self.reads + self.writes

    @property
    def shifts(self) -> int:
        return 2 * self.shift + 1

    @property
    def parameters_of_heads(self) -> int:
        """Values a step's heads take from the controller: key, strength, gate, shifts, sharpness; erase, add."""
        return self.heads * (self.width + 1 + 1 + self.shifts + 1) + self.writes * 2 * self.width

    @property
    def memory_bytes(self) -> int:
        return self.types.activations(self.batch * self.locations * self.width)

    @property
    def weightings(self) -> int:
        """Weights of all heads over all locations."""
        return self.batch * self.heads * self.locations

    def initialised(self) -> Trace:
        """The memory set to constants before the first step."""
        row = copy.row(
            self.batch * self.locations * self.width, types=self.types, layer=MACHINE, op="initialise memory"
        )
        return Trace.from_rows([row | {"input_bytes": 0, "saved_bytes": self.memory_bytes}])

    def steps(self) -> Trace:
        """One step, run `length` times; its rows alternate, so each layer of the controller has its own."""
        runs = {
            "repeats": self.length,
            "serial_steps": self.length,
            "path_runs": self.length,
            "weight_sets": 1,
            "layer": MACHINE,
        }
        rows = [
            self._head_product(),
            self._head_functions(),
            self._similarity(),
            self._cosine(),
            softmax.row(self.batch * self.heads, self.locations, types=self.types, op="content weights"),
            self._location(),
            self._read(),
            self._write(),
        ]
        rows = [row | runs | {"after": (number - 1,) if number else ()} for number, row in enumerate(rows)]
        return concatenate([*self._controller(runs), Trace.from_rows(rows)])

    # -- controller ------------------------------------------------------------------------------

    def _controller(self, runs: dict) -> list[Trace]:
        first = self.inputs + self.reads * self.width
        widths = [first] + [self.hidden] * (self.layers - 1)
        parts = [self._feedforward(k, runs) if self.controller == "feedforward" else self._cell(k) for k in widths]
        parts[0] = self._with_found(parts[0])
        if self.layers == 1:
            return parts
        return [part.replace(op=[f"{op}, layer {i}" for op in part.op]) for i, part in enumerate(parts)]

    def _with_found(self, first: Trace) -> Trace:
        """What the heads read in the step before is state."""
        found = self.types.activations(self.batch * self.reads * self.width)
        product, *others = first.rows()
        product |= {"input_bytes": product["input_bytes"] - found, "state_bytes": product["state_bytes"] + found}
        return Trace.from_rows([product | {"reach_back": 1}, *others])

    def _cell(self, inputs: int) -> Trace:
        cell = RECURRENT[self.controller](
            1, self.hidden, input_size=inputs, sequence_length=self.length, batch=self.batch, bias=self.bias,
            hoist_input=False, **self.types.columns,
        )  # fmt: skip
        return relabelled(cell, MACHINE)

    def _feedforward(self, inputs: int, runs: dict) -> Trace:
        product = linear.row(
            self.batch, self.hidden, inputs, types=self.types, bias=self.bias, layer=MACHINE, op="controller product"
        )
        tanh = elementwise.row(self.batch * self.hidden, "tanh", types=self.types, layer=MACHINE, op="controller")
        return Trace.from_rows([product | runs, tanh | runs])

    # -- heads -----------------------------------------------------------------------------------

    def _head_product(self) -> dict:
        return linear.row(
            self.batch, self.parameters_of_heads, self.hidden, types=self.types, bias=self.bias, op="head parameters"
        )

    def _head_functions(self) -> dict:
        """tanh of keys, softplus of strengths, sigmoid of gates, softmax of shifts, one and softplus of sharpness.

        Erased is a sigmoid, added is taken as it is. A softplus is an exponential, an addition and a logarithm.
        """
        heads, writes, width = self.heads, self.writes, self.width
        special = heads * (width + 2 + 1 + self.shifts + 2) + writes * width
        vector = heads * (1 + 4 * self.shifts + 2)
        row = elementwise.row(self.batch * self.parameters_of_heads, "tanh", types=self.types, op="head functions")
        return row | {"vector_flops": self.batch * vector, "special_ops": self.batch * special}

    # -- addressing ------------------------------------------------------------------------------

    def _similarity(self) -> dict:
        """Keys times memory, for each sequence."""
        row = matmul.row(
            self.heads, self.locations, self.width, batch=self.batch, types=self.types, op="keys times memory"
        )
        return self._with_memory(row)

    def _with_memory(self, row: dict) -> dict:
        """The second operand is the memory, which lives from step to step."""
        return row | {"input_bytes": row["input_bytes"] - self.memory_bytes, "state_bytes": self.memory_bytes}

    def _cosine(self) -> dict:
        """Each product divided by both norms (equation 6) and times the strength: three products, with reciprocals.

        A norm is a square and an addition a value, and a root; those of the memory come from what wrote it.
        """
        elements = self.heads * self.locations
        row = elementwise.row(self.batch * elements, "multiply", types=self.types, op="cosine similarity")
        keys = self.types.activations(self.batch * self.heads * (self.width + 1))
        scores = self.types.activations(self.batch * elements)
        return row | {
            "vector_flops": self.batch * (2 * self.heads * self.width + 3 * elements),
            "special_ops": self.batch * 2 * self.heads,
            "input_bytes": scores + keys + self.types.activations(self.batch * self.locations),
            "output_bytes": scores,
        }

    def _location(self) -> dict:
        """Interpolate (3 a weight), convolve (2 a shift), sharpen (a power: 2 special and a product; sum, scale)."""
        row = elementwise.row(self.weightings, "multiply", types=self.types, op="location weights")
        weights = self.types.activations(self.weightings)
        given = self.types.activations(self.batch * self.heads * (1 + self.shifts + 1))
        return row | {
            "vector_flops": self.weightings * (3 + 2 * self.shifts + 3),
            "special_ops": 2 * self.weightings + self.batch * self.heads,
            "input_bytes": weights + given,
            "output_bytes": 0,
            "state_bytes": 2 * weights,  # those of the step before, and the new ones
            "reach_back": 1,
        }

    # -- memory ----------------------------------------------------------------------------------

    def _read(self) -> dict:
        row = matmul.row(self.reads, self.width, self.locations, batch=self.batch, types=self.types, op="read")
        return self._with_memory(row)

    def _write(self) -> dict:
        """M (1 - w e) + w a: five operations a value and write head; then each location's norm and its reciprocal."""
        values = self.batch * self.locations * self.width
        given = self.batch * self.writes * (self.locations + 2 * self.width)
        row = elementwise.row(values, "multiply", types=self.types, op="write")
        return row | {
            "vector_flops": (5 * self.writes + 2) * values,
            "special_ops": 2 * self.batch * self.locations,
            "input_bytes": self.types.activations(given),
            "output_bytes": self.types.activations(self.batch * self.locations),
            "state_bytes": 2 * self.writes * self.memory_bytes,
            "reach_back": 1,
        }
