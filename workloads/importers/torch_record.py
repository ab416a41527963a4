"""Recording a PyTorch module: it runs on fake tensors, which have shapes but no values, and every operator is noted.

Recurrences, cells and fused attention are caught where Python calls them, before PyTorch takes them apart; everything
else as aten operators, those of autograd's backward pass too (`torch_tape`). Which operator made a tensor is known by
its storage, so views cost nothing and writes into a part of a tensor are seen. torch is imported inside functions only.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from workloads.blocks import Types
from workloads.importers import torch_gradients, torch_rows, torch_tape, torch_whole
from workloads.importers.fold import Node
from workloads.importers.torch_rows import DTYPES, Call, Ledger, Operand, Region
from workloads.importers.torch_tape import Form, Origin, Step, Tape, dense_strides, updated
from workloads.trace import TraceError

#: Integer tensors of the user's own up to this size keep their values (lengths of sequences, sizes).
SMALL_ELEMENTS = 4096

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass
class Store:
    """One storage: nodes that wrote it, and the parameter (first element, ledger) it holds.

    `pure`: made from parameters alone. `lasting`: the module keeps it anyway.
    """

    storage: object
    writers: set[int] = field(default_factory=set)
    weight: tuple[Ledger, int, str] | None = None
    pure: bool = False
    lasting: bool = False


@dataclass
class Found:
    """What a run left: operators, parameters, what had no cost, where sequences were seen, whether it trains."""

    nodes: list[Node]
    ledgers: list[Ledger]
    readers: dict[str, dict]
    uncosted: Counter
    sizes: list[tuple[int, int]]
    trains: bool = False


def record(module, args: tuple, kwargs: dict, training: bool, optimiser: str | None = None) -> Found:
    """Run a copy of `module` on fake tensors, backwards too when `training`, and note every operator.

    Raises whatever the forward or backward pass raises; `error.rooftrace_path` is the path of the module it happened
    in, `error.rooftrace_pass` "forward" or "backward".
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    twin = _fake_copy(module, fake_mode)
    if not training:
        twin.eval()
    recorder = _Recorder(twin, training)
    args, kwargs = _fake_inputs((args, kwargs), fake_mode)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_without_fast_path())
        stack.enter_context(_cpu_autocast())
        stack.enter_context(torch.enable_grad() if training else torch.no_grad())
        stack.enter_context(_patched(torch.nn.utils.rnn, "invert_permutation", _inverse))
        stack.enter_context(fake_mode)
        stack.enter_context(recorder.hooks())
        for mode in recorder.modes():
            stack.enter_context(mode)
        try:
            trains = _run(recorder, twin, args, kwargs)
        except Exception as error:
            with suppress(AttributeError):
                error.rooftrace_path = recorder.path
                error.rooftrace_pass = "backward" if recorder.tape and recorder.tape.running else "forward"
            raise
        if trains:
            recorder.tape.settle(optimiser)
    return Found(
        recorder.nodes, list(recorder.ledgers.values()), recorder.readers, recorder.uncosted, recorder.sizes, trains
    )


def _run(recorder, module, args, kwargs) -> bool:
    """The forward pass and, with a tape, the backward pass; whether there is one."""
    if not recorder.tape:
        _forward(module, args, kwargs)
        return False
    with recorder.tape.saving():
        results = _forward(module, args, kwargs)
    return recorder.tape.run(results)


def _forward(module, args, kwargs):
    """The frame below which call sites are told apart."""
    return module(*args, **kwargs)


# -- fake twins --------------------------------------------------------------------------------------


def _fake_copy(module, fake_mode):
    """A copy whose parameters and buffers are fake: nothing is allocated and the module stays as it is."""
    import torch

    memo: dict[int, object] = {}
    with fake_mode:
        for tensor in (*module.parameters(), *module.buffers(), *_loose_tensors(module)):
            if id(tensor) not in memo:
                twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
                if isinstance(tensor, torch.nn.Parameter):
                    twin = torch.nn.Parameter(twin, requires_grad=tensor.requires_grad)
                memo[id(tensor)] = twin
    kept = list(memo.values())  # deepcopy adds to its memo
    try:
        twin = copy.deepcopy(module, memo)
    except Exception as error:  # whatever the user's attributes raise
        raise TraceError(f"from_torch: {type(module).__name__} cannot be copied: {error}") from error
    del kept
    return twin


def _loose_tensors(module):
    """Large tensors that modules hold as plain attributes."""
    for value in _attributes(module):
        if value.numel() > SMALL_ELEMENTS or not value.is_leaf:
            yield value


def _attributes(module):
    """Tensors that modules hold as plain attributes."""
    import torch

    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor):
                yield value


def _fake_inputs(inputs, fake_mode):
    """The example inputs with fake tensors; short integer vectors (lengths) keep their values."""
    import torch
    from torch.nn.utils.rnn import PackedSequence
    from torch.utils._pytree import tree_map

    def fake(tensor):
        whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
        if whole and tensor.dim() < 2 and tensor.numel() <= SMALL_ELEMENTS and not tensor.is_meta:
            return tensor.detach().cpu().clone()  # the forward pass may write into it
        return hollow(tensor)

    def hollow(tensor):
        with fake_mode:
            twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return twin.requires_grad_(tensor.requires_grad)

    def leaf(value):
        if isinstance(value, PackedSequence):
            return value._replace(data=hollow(value.data))
        return fake(value) if isinstance(value, torch.Tensor) else value

    return tree_map(leaf, inputs, is_leaf=lambda v: isinstance(v, PackedSequence))


@contextmanager
def _without_fast_path():
    """Attention modules take their written-out path, which does the same products; then as before."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quiet():
    """What fails is said once, by the error."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _cpu_autocast():
    """Autocast of a GPU, where the user has entered it, holds for the fake tensors too."""
    import torch

    if torch.is_autocast_enabled("cuda") and not torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", dtype=torch.get_autocast_dtype("cuda")):
            yield
    else:
        yield


# -- the recorder ------------------------------------------------------------------------------------


class _Recorder:
    """Notes the operators of one run as nodes."""

    def __init__(self, module, training: bool):
        self.nodes: list[Node] = []
        self.stores: dict[int, Store] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.readers: dict[str, dict] = {}
        self.uncosted: Counter = Counter()
        self.sizes: list[tuple[int, int]] = []
        self.paths: list[str] = []
        self.paused = 0
        self.names = {id(part): name for name, part in module.named_modules()}
        self.kinds = {name: type(part) for name, part in module.named_modules()}
        self.schemas: dict = {}
        self.parameters = dict(module.named_parameters())
        self.parameter_names = {id(parameter): name for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            ledger = Ledger(name, parameter.numel(), parameter.requires_grad)
            self.ledgers[name] = ledger
            store = self.store(parameter)
            store.weight, store.pure = (ledger, 0, _dtype(parameter)), True
        for tensor in (*self.parameters.values(), *module.buffers(), *_attributes(module)):
            self.store(tensor).lasting = True
        self.tape = Tape(self) if training else None

    # -- where we are ----------------------------------------------------------------------------

    @property
    def backward(self) -> bool:
        """Whether autograd runs; not while a checkpoint repeats a part of the forward pass for it."""
        return self.tape is not None and self.tape.running and not self.tape.recomputing

    @property
    def path(self) -> str:
        return self.paths[-1] if self.paths else ""

    @contextmanager
    def hooks(self):
        """Follow which module runs."""
        from torch.nn.modules import module as modules

        def enter(part, _):
            self.paths.append(self.names.get(id(part), self.path))

        def leave(part, *_):
            self.paths.pop()

        handles = [
            modules.register_module_forward_pre_hook(enter),
            modules.register_module_forward_hook(leave),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def site(self) -> int:
        """A number for the place in the program: the calls between the forward pass and the recorder."""
        frame, places = sys._getframe(1), []
        while frame.f_code.co_filename in _OWN_FILES:
            frame = frame.f_back
        while frame is not None and frame.f_code is not _forward.__code__:
            places.append((id(frame.f_code), frame.f_lasti))
            frame = frame.f_back
        return hash((self.path, tuple(places)))

    @contextmanager
    def pause(self):
        """Operators run meanwhile are part of what is noted as a whole."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    @property
    def inside_recurrent(self) -> bool:
        """Whether the innermost module is a recurrent one of PyTorch, whose zeros for h and c cost nothing."""
        import torch

        return issubclass(self.kinds.get(self.path, object), (torch.nn.RNNBase, torch.nn.RNNCellBase))

    # -- tensors ---------------------------------------------------------------------------------

    def store(self, tensor) -> Store:
        storage = tensor.untyped_storage()
        return self.stores.setdefault(storage._cdata, Store(storage))

    def operand(self, tensor) -> Operand:
        shape, strides = tuple(tensor.shape), tensor.stride()
        stored = math.prod(d for d, s in zip(shape, strides, strict=True) if s or d == 0)
        store = self.store(tensor)
        operand = Operand(shape, _dtype(tensor), tensor.element_size(), stored)
        if store.weight:
            ledger, start, dtype = store.weight
            span = 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True)) if stored else 0
            operand.weight = Region(ledger, start + tensor.storage_offset(), span, stored, DTYPES.get(dtype, "fp32"))
        return operand

    # -- notes -----------------------------------------------------------------------------------

    def note(self, rows: list[dict], read: list, written: list, name: str = "") -> int | None:
        """A node for `rows`, which read and wrote these tensors; its number, if they have work."""
        rows, number = [row for row in rows if _has_work(row)], None
        if self.backward:
            origin = self.tape.begin()
            makers = self.tape.waits(read)
            if rows:
                deps, site = self.tape.note(rows, read, written, name, origin)
                number = self.add(rows, deps, site, origin.path)
        else:
            makers = deps = {w for tensor in read for w in self.store(tensor).writers}
            if rows:
                site = self.site()
                if self.tape and self.tape.running:
                    deps = self.tape.repeated(rows, deps)
                for row in rows:
                    row["_site"] = site
                number = self.add(rows, deps, site, self.path)
        makers = makers if number is None else {number}
        sources = {self.store(t).storage._cdata for t in read}
        for tensor in written:
            store = self.store(tensor)
            part = tensor.numel() * tensor.element_size() < store.storage.nbytes()
            held = store.storage._cdata in sources and part
            store.writers = (store.writers | makers) if held else set(makers)
        return number

    def add(self, rows: list[dict], deps: set[int], site, path: str) -> int:
        """A new node; its number."""
        for row in rows:
            row["_module"] = path
            if "_label" not in row:  # the row functions' own default
                row.pop("layer", None)
            for name in row.get("_weights", ()):
                self.readers.setdefault(name, row)
        self.nodes.append(Node(rows, deps, site))
        return len(self.nodes) - 1

    def emit(self, row: dict, deps: set[int], origin: Origin) -> int:
        """A node of the backward pass whose row comes from a rule."""
        number = len(self.nodes)
        self.tape.steps[number] = Step(origin, self.tape.turn, "whole", deps, row["phase"])
        return self.add([row], self.tape.or_last(deps), self.tape.site(origin, "whole", row), origin.path)

    def emit_update(self, row: dict, count: int, deps: set[int], optimiser: str) -> None:
        """A node for the update of `count` parameters that forward row `row` was the first to read."""
        self.add([updated(row, count, optimiser)], deps, None, row["_module"])

    def aten(self, func, args, kwargs):
        """Run one aten operator and note it."""
        schema = self.schemas.get(func) or self.schemas.setdefault(func, _Schema.of(func))
        origin = None
        if self.tape and not self.backward and not (schema.looks or self.paused):
            origin = self.tape.enter(self.path, self.site)
        if schema.looks or self.paused or (schema.views and not _is_known(args[0])):
            return func(*args, **kwargs)
        tensors = _tensors((args, kwargs))
        if tensors and all(_is_known(t) for t in tensors):
            return _really(func, args, kwargs)
        call = Call(schema.name, self.arguments(schema, args, kwargs), [], schema.pointwise, schema.changes)
        result = func(*args, **kwargs)
        call.slots, outputs = _results(result)
        if not outputs or (self.inside_recurrent and not tensors):
            return result
        if self.is_view(schema, tensors, outputs):
            return result
        call.outputs = [self.operand(t) for t in outputs]
        number = self.cost(call, tensors, outputs)
        if self.tape:
            pure = all(self.store(t).pure for t in tensors) and bool(tensors)
            for tensor in outputs:
                self.store(tensor).pure = pure
            if origin:
                origin.node, origin.pure = number, pure
        self.keep_weight(schema, call, tensors, outputs)
        return result

    def arguments(self, schema: _Schema, args, kwargs) -> dict:
        def seen(value):
            if _is_tensor(value):
                return self.operand(value)
            return [seen(v) for v in value] if isinstance(value, (list, tuple)) else value

        named = dict(zip(schema.names, args, strict=False)) | kwargs
        return {name: seen(value) for name, value in named.items()}

    def is_view(self, schema, tensors, outputs) -> bool:
        if schema.name in torch_rows.FREE:
            for tensor in outputs:
                self.store(tensor).writers |= {w for t in tensors for w in self.store(t).writers}
            return True
        if schema.changes:
            return False
        sources = {t.untyped_storage()._cdata for t in tensors}
        return all(t.untyped_storage()._cdata in sources for t in outputs)

    def cost(self, call: Call, tensors, outputs) -> int | None:
        """Note the operator; the number of its first node. Each of its rows may make results of its own."""
        rows = torch_gradients.rows_of(call)
        if rows is None:
            rows = torch_rows.unknown(call)
            self.uncosted[(call.name, tuple(o.shape for o in call.operands))] += 1
        if call.name.startswith("_scaled_dot"):
            outputs = outputs[:1]
        if not any("_out" in row for row in rows):
            return self.note(rows, tensors, outputs, call.name)
        numbers = []
        for row in rows:
            own = [t for slot, t in zip(call.slots, outputs, strict=True) if slot in row["_out"]]
            numbers.append(self.note([row], tensors, own, call.name))
        return numbers[0]

    def keep_weight(self, schema, call, tensors, outputs) -> None:
        """A cast or copied parameter is still that parameter to the product that reads it."""
        if schema.name not in ("_to_copy", "clone") or not call.operands[0].weight:
            return
        region = call.operands[0].weight
        if region.span == region.elements:
            name = next(d for d, word in DTYPES.items() if word == region.dtype)
            self.store(outputs[0]).weight = (region.ledger, region.start, name)

    # -- what is caught as a whole ---------------------------------------------------------------

    def function(self, func, args, kwargs):
        """Note a recurrence, a cell or fused attention; None where `func` is none of them."""
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self.attention(*args, **kwargs)
        if name in GATES and getattr(func, "__module__", None) != "torch.nn.modules.rnn":
            return self.recurrence(name, *args, **kwargs)
        if name in _CELLS:
            return self.cell(_CELLS[name], *args, **kwargs)
        if name == "rms_norm":
            return self.rms_norm(*args, **kwargs)
        if name == "_pack_padded_sequence":
            return self.pack(*args, **kwargs)
        if name == "_pad_packed_sequence":
            return self.pad(*args, **kwargs)
        return None

    def rms_norm(self, input, normalized_shape, weight=None, eps=None):
        """`F.rms_norm`, one kernel on most devices."""
        read = [input] if weight is None else [input, weight]
        if tuple(input.shape[-len(normalized_shape) :]) != tuple(normalized_shape):
            raise ValueError(f"rms_norm: expected (..., {normalized_shape}), got {tuple(input.shape)}")
        named = {"input": self.operand(input), "normalized_shape": normalized_shape}
        if weight is not None:
            named["weight"] = self.operand(weight)
        call = Call("_fused_rms_norm", named, [])

        def make():
            call.outputs = [self.operand(out := input.new_empty(input.shape))]
            return [out]

        def keeps(results):
            import torch

            roots = input.new_empty(input.shape[: -len(normalized_shape)], dtype=torch.float32)
            named["rstd"] = self.operand(roots)
            return [*read, roots]

        def gradients(needs):
            made = [self.operand(t) for t, need in zip(read, needs, strict=True) if need]
            slots = [slot for slot, need in enumerate(needs) if need]
            arguments = {"grad_out": call.outputs[0], **named}
            rows = torch_gradients.rows_of(Call("_fused_rms_norm_backward", arguments, made, slots=slots))
            return [_ruled(row, row.pop("_out")) for row in rows]

        (out,), form = self.whole(make, keeps, gradients, read)
        self.note_whole(form, torch_rows.rows_of(call), read, [out])
        return out

    def pack(self, padded, lengths, batch_first):
        """Steps of all sequences without their padding: a copy. Lengths must have values."""
        import torch

        if not _is_known(lengths):
            raise ValueError("pack_padded_sequence: the lengths have no values; pass them as a short CPU vector")
        counts = lengths.tolist()
        sizes = [sum(length > t for length in counts) for t in range(max(counts))]
        shape = (sum(counts), *padded.shape[2:])
        return self.moved("pack padded sequence", padded, shape), torch.tensor(sizes)

    def pad(self, packed, batch_sizes, batch_first, value, steps):
        """The packed steps in a padded rectangle again: a copy."""
        import torch

        sizes = batch_sizes.tolist()
        steps = max(steps, len(sizes))
        shape = (sizes[0], steps) if batch_first else (steps, sizes[0])
        padded = self.moved("pad packed sequence", packed, (*shape, *packed.shape[1:]))
        return padded, torch.tensor([sum(size > i for size in sizes) for i in range(sizes[0])])

    def moved(self, op: str, source, shape: tuple):
        """A copy of `source`, but for its padding, into a tensor of `shape`; its gradient goes the other way."""
        types, size = torch_rows.types_of(self.operand(source)), source.element_size()
        before, after = source.numel() * size, math.prod(shape) * size
        row = {"op": op, "kind": "copy", **types.columns, "input_bytes": min(before, after), "output_bytes": after}
        back = row | {"input_bytes": min(before, after), "output_bytes": before}
        (result,), form = self.whole(
            lambda: [source.new_empty(shape)], lambda _: [], lambda _: [_ruled(dict(back), (0,))], [source]
        )
        self.note_whole(form, [row], [source], [result])
        return result

    def attention(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        """`F.scaled_dot_product_attention`: one fused row."""
        import torch

        _check_attention(query, key, value, enable_gqa)
        cast = _autocast_dtype(query)
        lead = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3])
        shape = (*lead, *query.shape[-3:-1], value.shape[-1])
        read = [query, key, value] + ([attn_mask] if attn_mask is not None else [])
        plan = {}

        def make():
            # the fused kernels lay their result out as the query, else with the heads side by side
            order = query.stride() if shape == tuple(query.shape) else _heads_inside(shape)
            out = query.new_empty_strided(shape, dense_strides(shape, order), dtype=cast or query.dtype)
            q, k, v = (self.operand(t) for t in (query, key, value))
            q.shape = (*shape[:-1], query.shape[-1])
            if cast:
                q.torch_dtype = str(cast).removeprefix("torch.")
            mask = self.operand(attn_mask) if attn_mask is not None else None
            plan["rows"] = torch_rows.attention(q, k, v, mask, is_causal, self.operand(out))
            return [out]

        def keeps(results):
            if not plan["rows"]:
                return []
            whole = plan["whole"] = torch_whole.differentiated(plan["rows"])
            plan["rows"] = [row | {"_saved": 0} for row in whole.forward]
            (row,) = plan["rows"]
            return [*read, *results, query.new_empty(row["batch"] * row["m"], dtype=torch.float32)]

        def gradients(needs):
            rows = [dict(row) for row in plan["whole"].backward] if plan["rows"] else []
            if rows and attn_mask is not None:
                mask = self.operand(attn_mask)
                rows[0]["output_bytes"] -= mask.bytes  # read again, as all of the forward row's input, but not written
                rows += [torch_gradients.attention_mask(rows[0], mask)] * needs[3]
            return rows

        (out,), form = self.whole(make, keeps, gradients, read)
        self.sizes.append((math.prod(shape[:-3]), shape[-2]))
        for row in plan["rows"] if attn_mask is not None else ():
            if region := self.operand(attn_mask).weight:  # a trained bias of the scores
                row |= {"parameters": region.claim(), "_weights": (region.ledger.name,)}
        self.note_whole(form, plan["rows"], read, [out])
        return out

    def whole(self, make, keeps, gradients, read: list) -> tuple[list, Form]:
        """Results of something recorded as a whole, as one node of autograd's graph where it needs a gradient."""
        import torch

        form = Form(make, keeps, gradients, Origin(self.path, self.site()))
        with self.pause():
            learns = torch.is_grad_enabled() and any(t.requires_grad for t in read)
            return (self.tape.apply(form, read) if self.tape and learns else make()), form

    def note_whole(self, form: Form, rows: list[dict], read: list, written: list) -> None:
        if not form.kept:
            rows = [row | {"_saved": 0} for row in rows]
        form.origin.node = self.note(rows, read, written)

    def weights(self, tensors: list) -> tuple[bool, tuple]:
        """Whether these parameters are counted here first, and their names."""
        regions = [r for r in (self.operand(t).weight for t in tensors) if r]
        new = sum(region.claim() for region in regions)
        return new > 0, tuple(r.ledger.name for r in regions)

    def recurrence(self, kind, *args):
        """`torch.lstm` and its kin: the builder's rows."""
        packed = _is_tensor(args[1]) and isinstance(args[3], (list, tuple))
        if packed:
            data, batch_sizes, hx, weights, bias, layers, _, _, both = args
            lengths = batch_sizes.tolist()
        else:
            data, hx, weights, bias, layers, _, _, both, batch_first = args
            batch, steps = data.shape[:2] if batch_first else data.shape[1::-1]
            lengths = [int(batch)] * int(steps)
        sizes = _recurrent_sizes(kind, weights, bias, layers, both)
        states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
        new, names = self.weights(list(weights))
        label = self.path or kind.split("_")[0]
        rows = torch_rows.recurrence(kind, label, _recurrent_types(data, weights[0]), lengths=lengths, **sizes)
        for row in rows:
            row |= {"_weights": names, "_label": label, "_whole": True}
        features = (2 if sizes["bidirectional"] else 1) * states[0].shape[-1]

        def make():
            made = [data.new_empty((*data.shape[:-1], features), dtype=_autocast_dtype(data) or data.dtype)]
            return made + [state.new_empty(state.shape) for state in states]

        def ruled(rows, results):
            return torch_whole.recurrence(rows, results[0].numel() * results[0].element_size())

        self.sizes.insert(0, (lengths[0], len(lengths)))
        results = self.recurrent(make, ruled, rows, [data, *states], list(weights), new, keeps_result=True)
        return tuple(results)

    def recurrent(self, make, ruled, rows, read: list, weights: list, new: bool, keeps_result: bool = False) -> list:
        """Note a recurrence or one step of it: rows of a builder and, where it learns, their gradients by its rule.

        `read`: the input and the states, of which the first, h, is seen to be kept with the input. `new`: its
        parameters are counted here.
        """
        plan = {"rows": rows}

        def keeps(results):
            plan["whole"] = ruled(rows, results)
            plan["rows"] = plan["whole"].forward
            return [*read[:2], *(results[:1] if keeps_result else [])]

        def gradients(needs):
            return plan["whole"].needed(needs[0], any(needs[len(read) :]))

        results, form = self.whole(make, keeps, gradients, [*read, *weights])
        counted = [row | {"parameters": row["parameters"] * new} for row in plan["rows"]]
        self.note_whole(form, counted, read, results)
        return results

    def cell(self, kind, data, hx, w_ih, w_hh, b_ih=None, b_hh=None):
        """`torch.lstm_cell` and its kin: one step."""
        states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
        weights = [w for w in (w_ih, w_hh, b_ih, b_hh) if w is not None]
        hidden = w_hh.shape[1]
        _check_cell(data, states[0], w_ih, hidden)
        new, names = self.weights(weights)
        rows = torch_rows.cell(
            kind, _recurrent_types(data, w_ih), hidden=hidden, input_size=w_ih.shape[1],
            batch=math.prod(data.shape[:-1]), bias=b_ih is not None,
        )  # fmt: skip
        for row in rows:
            row |= {"_weights": names, "_whole": True}

        def make():
            return [data.new_empty((*data.shape[:-1], hidden)) for _ in states]

        results = self.recurrent(make, lambda rows, _: torch_whole.cell(rows), rows, [data, *states], weights, new)
        return tuple(results) if kind == "lstm" else results[0]

    # -- modes -----------------------------------------------------------------------------------

    def modes(self) -> list:
        """The two PyTorch modes through which everything is seen."""
        import torch
        from torch.overrides import TorchFunctionMode
        from torch.utils._python_dispatch import TorchDispatchMode

        recorder = self

        class Operators(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                return recorder.aten(func, args, kwargs or {})

        class Functions(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                kwargs = kwargs or {}
                if func is torch.nn.functional.multi_head_attention_forward:
                    with _patched(torch.nn.functional, "scaled_dot_product_attention", recorder.attention):
                        return func(*args, **kwargs)
                known = recorder.function(func, args, kwargs)
                return func(*args, **kwargs) if known is None else known

        return [Operators(), Functions()]


#: Frames in these belong to the recorder, not to a place in the user's program.
_OWN_FILES = {__file__, torch_tape.__file__}

_CELLS = {
    "lstm_cell": "lstm",
    "gru_cell": "gru",
    "rnn_tanh_cell": "rnn_tanh",
    "rnn_relu_cell": "rnn_relu",
}


@contextmanager
def _patched(owner, name: str, value):
    """Inside PyTorch's own Python functions the modes are off: there the name is replaced, then put back."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _inverse(permutation):
    """`torch.nn.utils.rnn.invert_permutation`, which would lose the values of a short vector."""
    import torch

    return None if permutation is None else torch.argsort(permutation)


@dataclass(frozen=True)
class _Schema:
    """What is needed of an aten operator's signature."""

    name: str
    names: tuple[str, ...]
    pointwise: bool
    changes: bool
    views: bool
    looks: bool

    @classmethod
    def of(cls, func) -> _Schema:
        import torch

        space, _, name = func._schema.name.partition("::")
        changes = func._schema.is_mutable
        plain = name[:-1] if changes and name.endswith("_") and not name.endswith("__") else name
        plain = plain if space == "aten" else f"{space}::{plain}"
        names = tuple(a.name for a in func._schema.arguments)
        return cls(plain, names, torch.Tag.pointwise in func.tags, changes, func.is_view, space == "prim")


def _has_work(row: dict) -> bool:
    columns = ("matrix_flops", "vector_flops", "special_ops", "weight_bytes", "input_bytes", "output_bytes")
    return any(row.get(c) for c in (*columns, "state_bytes"))


def _dtype(tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_tensor(value) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _tensors(tree) -> list:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if _is_tensor(leaf)]


def _results(result) -> tuple[list[int], list]:
    """Tensors an operator returned, and for each its place among the results."""
    parts = result if isinstance(result, (list, tuple)) else [result]
    found = [(slot, tensor) for slot, part in enumerate(parts) for tensor in _tensors(part)]
    return [slot for slot, _ in found], [tensor for _, tensor in found]


def _heads_inside(shape) -> tuple[int, ...]:
    """An order of dimensions, as strides: (..., heads, queries, size) with the queries outside the heads."""
    order = list(range(len(shape), 0, -1))
    if len(shape) > 3:
        order[-2], order[-3] = order[-3], order[-2]
    return tuple(order)


def _ruled(row: dict, makes: tuple[int, ...]) -> dict:
    """A row of the backward pass of something recorded as a whole, with its phase."""
    phase = "input-gradient" if 0 in makes else "weight-gradient"
    return row | {"phase": phase, "op": f"{row['op']}, {phase.replace('-', ' ')}", "after": (), "_derived": True}


def _is_known(tensor) -> bool:
    """A small integer tensor with values."""
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(tensor, FakeTensor):
        return False
    return not tensor.is_floating_point() and tensor.numel() <= SMALL_ELEMENTS and tensor.device.type == "cpu"


def _really(func, args, kwargs):
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        return func(*args, **kwargs)


def _autocast_dtype(tensor):
    """The type autocast computes this tensor's products in, or None."""
    import torch

    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if eligible and torch.is_autocast_enabled("cpu") else None


def _recurrent_types(data, weight) -> Types:
    """Element types of a recurrence: its arithmetic, weights and activations."""
    cast = _autocast_dtype(data)
    arithmetic = DTYPES.get(str(cast).removeprefix("torch.") if cast else _dtype(data), "fp32")
    return Types(arithmetic, DTYPES.get(_dtype(weight), "fp32"), arithmetic)


def _recurrent_sizes(kind, weights, bias, layers, both) -> dict:
    """The builder's arguments from the weights PyTorch hands to a recurrence."""
    each = len(weights) // (layers * (2 if both else 1))
    hidden = weights[0].shape[0] // GATES[kind]
    sizes = {
        "layers": layers,
        "hidden": hidden,
        "input_size": weights[0].shape[1],
        "bias": bool(bias),
        "bidirectional": bool(both),
    }
    if each in (3, 5):  # the last one projects the state
        sizes["projection"] = weights[each - 1].shape[0]
    return sizes


def _check_attention(query, key, value, enable_gqa) -> None:
    shapes = tuple(tuple(t.shape) for t in (query, key, value))
    fits = query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2]
    if fits and query.dim() > 2:
        heads, shared = query.shape[-3], key.shape[-3]
        fits = heads == shared or (heads % shared == 0 if enable_gqa else 1 in (heads, shared))
    if not fits:
        raise ValueError(f"scaled_dot_product_attention: query, key and value do not fit: {shapes}")


def _check_cell(data, state, w_ih, hidden) -> None:
    if data.shape[-1] != w_ih.shape[1] or state.shape[-1] != hidden:
        raise ValueError(
            f"recurrent cell: input has {data.shape[-1]} features and state {state.shape[-1]}, "
            f"expected {w_ih.shape[1]} and {hidden}"
        )
