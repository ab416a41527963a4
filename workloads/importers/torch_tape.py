"""What autograd does in a training step: which operator made each node of its graph, what it keeps, what it runs back.

The backward pass is run on the same fake tensors, and its operators come to the recorder as those of the forward pass
do. Here is known whose gradient they make: autograd numbers its nodes, and a node that runs tells its number.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache

from workloads.training import update_row


@dataclass
class Origin:
    """Where a node of autograd's graph was made: module path, place in the program, the recorder's node of its rows.

    `pure`: it was made from parameters alone (a cast or sum of them), so what flows into it are gradients of weights.
    """

    path: str
    site: int | None
    node: int | None = None
    pure: bool = False


@dataclass
class Step:
    """A node noted in the backward pass: who it is for, the run of autograd's node it is part of, what it waits for."""

    origin: Origin
    turn: int
    name: str
    reads: set[int]
    phase: str = ""  # where a rule says it


@dataclass
class Form:
    """Something recorded as a whole: its results, which tensors it keeps, and the rows of its gradients.

    `kept`: whether it keeps anything (not where a checkpoint will run it again).
    """

    make: Callable[[], list]
    keeps: Callable[[list], list]
    gradients: Callable[[Sequence[bool]], list[dict]]
    origin: Origin = field(default_factory=lambda: Origin("", None))
    kept: bool = True


class _Held:
    """A tensor autograd keeps; it lives as long as the graph needs it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor):
        self.tensor = tensor


class Tape:
    """Autograd's side of one recorded run."""

    def __init__(self, recorder):
        self.recorder = recorder
        self.origins: dict[int, Origin] = {_number(): Origin("", None)}
        self.held: list[tuple[weakref.ref, int]] = []
        self.steps: dict[int, Step] = {}
        self.seeds: set[int] = set()
        self.again: set[int] = set()  # nodes of what a checkpoint repeats
        self.kept_again: set[int] = set()
        self.running = False
        self.first = 0
        self.turn, self.key = 0, None
        self.alike: dict[tuple, int] = {}
        self.last = Origin("", None)

    # -- the forward pass ------------------------------------------------------------------------

    def enter(self, path: str, site: Callable[[], int]) -> Origin | None:
        """The origin of the node made for the operator that is about to run; None where none was made, or is known.

        Autograd makes the node, and numbers it, just before the operator reaches the recorder.
        """
        number = _number()
        if number in self.origins:
            return None
        self.origins[number] = Origin(path, site())
        return self.origins[number]

    @contextmanager
    def saving(self):
        """Note every tensor autograd keeps."""
        import torch

        def pack(tensor):
            held = _Held(tensor)
            self.held.append((weakref.ref(held), _number()))
            return held

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            yield

    def count_saved(self) -> None:
        """Charge each storage still kept, parameters and buffers apart, to the row that first kept it."""
        recorder, seen = self.recorder, set()
        for reference, number in self.held:
            held = reference()
            if held is None:
                continue
            store = recorder.store(held.tensor)
            key = store.storage._cdata
            if key in seen or store.lasting:
                continue
            seen.add(key)
            origin = self.origins.get(number)
            node = origin.node if origin is not None and origin.node is not None else max(store.writers, default=0)
            row = recorder.nodes[node].rows[0]
            row["_saved"] = row.get("_saved", 0) + store.storage.nbytes()

    def apply(self, form: Form, tensors: list) -> list:
        """The results of `form` as one node of autograd's graph."""
        held = len(self.held)
        results = _whole().apply(self, form, *tensors)
        form.kept = self.running or len(self.held) > held
        return [results] if not isinstance(results, tuple) else list(results)

    # -- the backward pass -----------------------------------------------------------------------

    def run(self, results) -> bool:
        """Run autograd from the results of the forward pass; whether any of them needs a gradient."""
        import torch

        outputs = differentiable(results)
        if not outputs:
            return False
        recorder = self.recorder
        self.count_saved()
        self.first, self.running = len(recorder.nodes), True
        recorder.paths.clear()
        with torch.no_grad(), torch.autocast("cpu", enabled=False), recorder.pause():
            seeds = [torch.empty_like(output) for output in outputs]
        for output, seed in zip(outputs, seeds, strict=True):
            store = recorder.store(seed)
            store.writers = set(recorder.store(output).writers)
            self.seeds.add(store.storage._cdata)
        with torch.autocast("cpu", enabled=False):
            torch.autograd.backward(outputs, seeds)
        return True

    @property
    def recomputing(self) -> bool:
        """Whether a checkpoint runs a part of the forward pass again: gradients are off while autograd's own run."""
        import torch

        return self.running and torch.is_grad_enabled()

    def begin(self) -> Origin:
        """Whose gradient the operator that runs now makes."""
        import torch

        if self.running:
            self.recorder.paths.clear()  # what a checkpoint left when it stopped early
        node = torch._C._current_autograd_node()
        key, origin = None, self.last
        if node is not None:
            key = node._sequence_nr()
            origin = self.origins.get(key, self.last)
            if node.name().endswith("AccumulateGrad"):
                key = self.recorder.parameter_names.get(id(node.variable), "")
                origin = Origin(key.rpartition(".")[0], hash(key), pure=True)
        if key != self.key:
            self.key, self.turn = key, self.turn + 1
            self.alike.clear()
        self.last = origin
        return origin

    def site(self, origin: Origin, name: str, row: dict, written: Iterable = ()) -> int:
        """A number for the place in the program: that of the forward operator, and which of the equal ones of its node.

        Sums of gradients come after any operator, in some steps of a loop and not in others, so they may not count
        for the others.
        """
        sizes = (row.get(c) for c in ("op", "m", "n", "k", "input_bytes", "output_bytes"))
        work = (name, *sizes, *(tuple(tensor.shape) for tensor in written))
        self.alike[work] = self.alike.get(work, 0) + 1
        return hash((origin.site, "backward", work, self.alike[work]))

    def waits(self, tensors: Iterable) -> set[int]:
        """Nodes of the backward pass that made these tensors; the end of the forward pass for those it starts from.

        What else the forward pass left is complete by then.
        """
        found: set[int] = set()
        for tensor in tensors:
            store = self.recorder.store(tensor)
            start = 0 if store.storage._cdata in self.seeds else self.first
            found |= {w for w in store.writers if w >= start}
        return found

    def note(self, rows: list[dict], read: list, written: list, name: str, origin: Origin) -> tuple[set[int], int]:
        """What a new node of the backward pass waits for, and its place; its rows get theirs."""
        number = len(self.recorder.nodes)
        reads = self.waits(read)
        self.keep_again(read)
        self.steps[number] = Step(origin, self.turn, name, reads)
        for row in rows:
            row.setdefault("phase", "input-gradient")
            row["_of"] = origin.site
        return self.or_last(reads), self.site(origin, name, rows[0], written)

    def repeated(self, rows: list[dict], reads: set[int]) -> set[int]:
        """What a node waits for that repeats a part of the forward pass: the gradient that made it necessary."""
        self.again.add(len(self.recorder.nodes))
        for row in rows:
            row["phase"] = "recompute"
            row["op"] = f"{row['op']}, recompute"
        back = {n for n in reads if n >= self.first}
        return reads | (back or self.or_last(set()))

    def keep_again(self, read: Iterable) -> None:
        """Charge what gradients read of a repeated part to the row that made it again; autograd keeps it until then."""
        for tensor in read:
            store = self.recorder.store(tensor)
            makers, key = store.writers & self.again, store.storage._cdata
            if makers and key not in self.kept_again:
                self.kept_again.add(key)
                row = self.recorder.nodes[min(makers)].rows[0]
                row["_saved"] = row.get("_saved", 0) + store.storage.nbytes()

    def or_last(self, reads: set[int]) -> set[int]:
        """What makes constants waits for the operator before it: the forward pass has to be over."""
        last = len(self.recorder.nodes) - 1
        return reads or ({last} if last >= self.first else set())

    def whole(self, form: Form, read: list, needs: Sequence[bool]) -> tuple[set[int], set[int]]:
        """Note the gradients of `form` by its rule, from what they read: nodes of those of inputs, of weights."""
        recorder = self.recorder
        origin, ready = self.begin(), self.waits(read)
        self.keep_again(read)
        numbers: dict[int, int] = {}
        awaited: set[int] = set()
        rows = form.gradients(needs)
        for i, row in enumerate(rows):
            inside = {numbers[a] for a in row.pop("after", ())}
            awaited |= {a for a in inside if row["phase"] == "input-gradient"}
            numbers[i] = recorder.emit(row, inside or ready, origin)
        made = {n for i, n in numbers.items() if rows[i]["phase"] == "input-gradient"}
        inputs = (made - awaited) or ready
        weights = {n for i, n in numbers.items() if rows[i]["phase"] == "weight-gradient"}
        return inputs, weights

    # -- afterwards ------------------------------------------------------------------------------

    def settle(self, optimiser: str | None) -> None:
        """Phases of the recorded operators, who holds which parameter's gradient, and the update."""
        writers = self.gradient_writers()
        phase = self.phases(set().union(*writers.values()))
        for number, step in self.steps.items():
            for row in self.recorder.nodes[number].rows:
                if not row.get("_derived"):
                    row["phase"] = phase[number]
                    row["op"] = f"{row['op']}, {phase[number].replace('-', ' ')}"
                    if step.name == "add" and phase[number] == "weight-gradient":
                        _accumulate(row)
        for name, nodes in writers.items():
            self.hold(name, nodes, phase)
        if optimiser:
            self.update(optimiser, writers)

    def gradient_writers(self) -> dict[str, set[int]]:
        """For each parameter that got a gradient, the nodes that made it."""
        found = {}
        for name, parameter in self.recorder.parameters.items():
            if parameter.grad is not None:
                found[name] = set(self.recorder.store(parameter.grad).writers)
        return found

    def phases(self, last: set[int]) -> dict[int, str]:
        """A gradient that goes into parameters alone is one of weights: directly, through a sum with others like it,
        through the node that makes it, or through what was done to the parameter alone (a cast)."""
        readers: dict[int, list[int]] = {}
        for number, step in self.steps.items():
            for read in step.reads:
                readers.setdefault(read, []).append(number)
        phase: dict[int, str] = {}
        for number in reversed(self.steps):
            step, nexts = self.steps[number], readers.get(number, [])
            if step.phase:
                phase[number] = step.phase
                continue
            ends = all(
                phase[n] == "weight-gradient"
                and (self.steps[n].turn == step.turn or self.steps[n].origin.pure or self.steps[n].name == "add")
                for n in nexts
            )
            is_weight = ends and (bool(nexts) or number in last)
            phase[number] = "weight-gradient" if is_weight else "input-gradient"
        return phase

    def hold(self, name: str, nodes: set[int], phase: Mapping[int, str]) -> None:
        """Say of which row's results the gradient of a parameter remains; sums are made into the first of them."""
        gradient = self.recorder.parameters[name].grad
        size, number = gradient.numel() * gradient.element_size(), max(nodes, default=-1)

        def writes(number) -> int:
            return self.recorder.nodes[number].rows[0]["output_bytes"]

        while number in self.steps and writes(number) < size:
            reads = (n for n in self.steps[number].reads if phase.get(n) == "weight-gradient")
            number = min(reads, default=-1)
        if number in self.steps:
            row = self.recorder.nodes[number].rows[0]
            row["_held"] = row.get("_held", 0) + size

    def update(self, optimiser: str, writers: Mapping[str, set[int]]) -> None:
        """A row for each forward row that was the first to read a parameter with a gradient."""
        recorder = self.recorder
        for node in recorder.nodes[: self.first]:
            for row in node.rows:
                names = [n for n in row.get("_weights", ()) if n in writers]
                if row.get("_whole"):  # parameters of a recurrence are not told apart
                    count = row.get("parameters", 0) if names else 0
                else:
                    own = [n for n in names if recorder.readers[n] is row]
                    count = sum(recorder.ledgers[n].size for n in dict.fromkeys(own))
                    names = own
                if count:
                    recorder.emit_update(row, count, set().union(*(writers[n] for n in names)), optimiser)


def _accumulate(row: dict) -> None:
    """A sum of gradients is made in the first of them, which is read and written."""
    result = row["output_bytes"]
    if row["input_bytes"] == 2 * result:
        row |= {"input_bytes": result, "state_bytes": 2 * result, "output_bytes": 0}


def updated(row: dict, count: int, optimiser: str) -> dict:
    """The update of `count` parameters that a forward row was the first to read."""
    filled = {"parameters": count, "weight_sets": 1, "reach_back": 0, "reach_ahead": 0} | {
        k: v for k, v in row.items() if k in ("weight_sets", "kind", "op", "dtype", "weight_dtype", "activation_dtype")
    }
    made = update_row({"layer": "", **filled}, optimiser)
    del made["layer"]
    return made | ({"layer": row["layer"], "_label": row["layer"]} if "layer" in row else {}) | {"_weights": ()}


def _number() -> int:
    """Number of the latest node of autograd's graph."""
    import torch

    return torch.autograd._get_sequence_nr() - 1


@cache
def _whole():
    import torch

    class Whole(torch.autograd.Function):
        """One node of autograd's graph for what is recorded as a whole."""

        @staticmethod
        def forward(ctx, tape, form, *tensors):
            ctx.set_materialize_grads(False)
            ctx.tape, ctx.form = tape, form
            tape.origins[_number()] = form.origin
            results = form.make()
            ctx.save_for_backward(*form.keeps(results))
            ctx.sizes = [(t.shape, dense_strides(t.shape, t.stride()), t.dtype) for t in tensors]
            ctx.weighs = [tape.recorder.store(t).weight is not None for t in tensors]
            return tuple(results) if len(results) > 1 else results[0]

        @staticmethod
        def backward(ctx, *gradients):
            if torch.is_grad_enabled():  # a rule has no derivative: an error, not silence
                raise NotImplementedError(
                    "second derivatives (create_graph=True) of recurrences and fused attention are not followed"
                )
            needs = ctx.needs_input_grad[2:]
            read = [g for g in gradients if g is not None] + list(ctx.saved_tensors)
            inputs, weights = ctx.tape.whole(ctx.form, read, needs)
            made = []
            with ctx.tape.recorder.pause():
                for (shape, strides, dtype), weighs, need in zip(ctx.sizes, ctx.weighs, needs, strict=True):
                    made.append(read[0].new_empty_strided(shape, strides, dtype=dtype) if need else None)
                    if need:
                        ctx.tape.recorder.store(made[-1]).writers = set((weighs and weights) or inputs)
            return None, None, *made

    return Whole


def dense_strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps for `shape`, its dimensions nested as the strides `order` say."""
    strides, step = [0] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda d: (order[d], -d)):
        strides[dim] = step
        step *= max(1, shape[dim])
    return tuple(strides)


# -- where the backward pass starts ------------------------------------------------------------------


def differentiable(results) -> list:
    """Tensors the backward pass starts from: the loss where there is one (a result of that name, or single numbers),
    else every floating result that needs a gradient."""
    loss = results.get("loss") if isinstance(results, Mapping) else getattr(results, "loss", None)
    tensors = list({id(t): t for t in _leaves(loss)}.values())
    if not tensors:
        tensors = list({id(t): t for t in _leaves(results)}.values())
    return [t for t in tensors if not t.dim()] or tensors


def _leaves(value) -> Iterable:
    import torch

    if isinstance(value, torch.Tensor):
        if value.requires_grad and (value.is_floating_point() or value.is_complex()):
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from _leaves(getattr(value, part.name))


def finished(rows: Sequence[dict]) -> None:
    """Bytes kept and held, summed over all runs while folding, as columns of one run.

    A gradient of weights is held once, by one row (`Trace.footprint` counts results); what other rows make on the way
    to it passes on as state.
    """
    for row in rows:
        if row.get("_saved"):
            row["saved_bytes"] = math.ceil(row["_saved"] / row["repeats"])
        if row.get("phase") != "weight-gradient" or row.get("_derived") or not row.get("output_bytes"):
            continue
        held, each = row.get("_held", 0), row["output_bytes"]
        if not held:
            row |= {"state_bytes": row.get("state_bytes", 0) + each, "output_bytes": 0}
        elif held % each == 0 and held // each <= row["repeats"]:
            row["weight_sets"] = held // each
