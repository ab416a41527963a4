"""Import of a PyTorch module: `from_torch(module, *example_inputs)` makes its trace without running it.

The module runs on fake tensors, which have shapes but no values, so nothing of its size is allocated or computed.
`torch_record` notes the operators, `torch_rows` costs them, `fold` makes loops and stacks one row each; here the
rows get their names and the parameters that no operator reads. When training, autograd runs on the fake tensors too
and its operators are recorded in the same way (`torch_tape`, `torch_gradients`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from workloads.blocks import check_counts, check_flags
from workloads.importers.fold import flat, fold_layers, fold_steps
from workloads.importers.torch_record import Found, record
from workloads.importers.torch_rows import Ledger
from workloads.importers.torch_tape import finished
from workloads.importers.uncosted import UncostedOperator
from workloads.trace import Trace, TraceError
from workloads.training import check_optimiser

#: Rows from one operator of one module beyond which a loop is reported as not folded.
MANY_ROWS = 64


class UnreadParameters(UserWarning):
    """Parameters of the module that no operator reads: they are in the trace, but nothing moves them."""


class NothingToTrain(UserWarning):
    """Asked to train a module with parameters to train, none of whose results depends on them."""


class UnfoldedLoop(UserWarning):
    """A loop whose steps differ (growing sizes): it costs as many rows as it has steps."""


def from_torch(
    module,
    *example_inputs,
    training: bool = False,
    name: str | None = None,
    strict: bool = False,
    sequences: int | None = None,
    tokens: int | None = None,
    fold: bool = True,
    optimiser: str | None = None,
    **example_kwargs,
) -> Trace:
    """The trace of one call `module(*example_inputs, **example_kwargs)` of a `torch.nn.Module`.

    Runs a copy on fake tensors: weights may be on any device, also meta; neither they nor the inputs are allocated,
    computed with or changed. Example inputs give shapes and types only, but short vectors of integers (lengths) and
    packed sequences keep their values (arithmetic on them alone is not counted). Without `training` the copy is in
    evaluation mode. Autocast around the call holds.

    Rows: `layer` is the module path up to the last numbered module ("encoder.layer.0-23" where identical layers are
    folded) and `op` the rest of the path and the operator. nn.LSTM, GRU and RNN are the builder's rows,
    T serial steps; a Python loop whose steps are equal is T serial steps too. scaled_dot_product_attention is
    one row of kind "attention" (fused; a causal flag leaves visible pairs only, a mask given as a tensor hides none);
    attention written out is rows "scores", "softmax" and "context", all pairs. Attention modules are recorded on
    their written-out path, not the fast path of inference; the products are the same. Views are free. Each
    parameter counts once, with the first operator that reads it; one that none reads is added to a row nearby
    (warning `UnreadParameters`).

    `training`: autograd runs on the fake tensors, from the loss where there is one (a result named `loss`, or single
    numbers), else from every floating result that needs a gradient, and each operator it executes is a row:
    sums where a tensor is read twice or a bias was broadcast, casts of autocast, copies into `.grad`. A row carries
    the path of the module whose gradient it makes; its phase is "weight-gradient" where the result goes into
    parameters alone, else "input-gradient" ("recompute": a checkpoint runs a part again). Two whole-module rules
    remain, for what is recorded as a whole: the gradients of nn.LSTM, GRU, RNN and their cells are
    the builder's (`workloads.training`), those of scaled_dot_product_attention one row of five products for
    two. In these every step counts alike, also the first, whose state may need no gradient, and second derivatives
    are an error. (F.rms_norm is one kernel each way.) `saved_bytes` is
    what autograd keeps: each storage once, parameters and buffers apart, with the row that first kept
    it (of recurrences, and for what a checkpoint makes again, as the rule says). The module's own mode (dropout) is
    kept. `optimiser`: also the update of the parameters that have a gradient ("sgd", "adam").

    `sequences`, `tokens`: of the trace, by default those of its first recurrence or attention, else of the first
    input. `fold=False`: one row an operator, layers unfolded. `strict`: an operator without a cost, forward or
    backward, is an error, otherwise a warning (`UncostedOperator`) and a row of kind "copy" with its bytes.

    Not seen: kernels PyTorch does not know of, dropout between the layers of nn.LSTM, what depends on values.

    Raises `TraceError`: torch is missing, not a module, a forward or backward pass that fails (names the module path
    and the reason: wrong shapes, values needed), no operator found, an unknown operator when `strict`, an unknown
    optimiser.
    """
    where = "from_torch"
    check_flags(where, training=training, strict=strict, fold=fold)
    for field, value in (("sequences", sequences), ("tokens", tokens)):
        if value is not None:
            check_counts(where, **{field: value})
    _check_module(module)
    if optimiser is not None:
        check_optimiser(optimiser)
    name = name or type(module).__name__
    found = _recorded(module, example_inputs, example_kwargs, training, optimiser, name)
    _report_uncosted(found, strict, name)
    unread = _settle(found)
    rows = _rows(found, module, fold, name)
    _report_loops(rows)
    if unread:
        _attach(rows, unread)
    sized = _sizes(found, example_inputs, example_kwargs)
    meta = {"name": name, "sequences": sequences or sized[0], "tokens": tokens or sized[1], "source": name}
    return Trace.from_rows([_public(row) for row in rows], **meta)


# -- running -----------------------------------------------------------------------------------------


def _check_module(module) -> None:
    try:
        import torch
    except ImportError:
        raise TraceError("from_torch needs torch: pip install 'rooftrace[torch]'") from None
    if not isinstance(module, torch.nn.Module):
        raise TraceError(f"from_torch: a torch.nn.Module is expected, got {type(module).__name__}")
    for path, parameter in module.named_parameters():
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
            raise TraceError(f"from_torch: {path}: parameter without a shape; call the lazy module once first")


def _recorded(module, args: tuple, kwargs: Mapping, training: bool, optimiser: str | None, name: str) -> Found:
    try:
        found = record(module, args, dict(kwargs), training, optimiser)
    except TraceError:
        raise
    except Exception as error:  # whatever user code raises
        path = getattr(error, "rooftrace_path", None)
        place = f"{name}.{path}" if path else name
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        if type(error).__name__ in ("DataDependentOutputException", "DynamicOutputShapeException"):
            reason = f"depends on the values of a tensor, which an import does not have ({reason})"
        which = getattr(error, "rooftrace_pass", "forward")
        raise TraceError(f"{place}: the {which} pass failed: {type(error).__name__}: {reason}") from error
    if not found.nodes:
        raise TraceError(f"{name}: the forward pass has no operator that moves or computes anything")
    if training and not found.trains and any(ledger.trained for ledger in found.ledgers):
        warnings.warn(
            f"{name}: no floating tensor among the results needs a gradient: there is no backward pass",
            NothingToTrain, stacklevel=3,
        )  # fmt: skip
    return found


def _report_uncosted(found: Found, strict: bool, name: str) -> None:
    counts: dict[str, list] = {}
    for (operator, shapes), count in found.uncosted.items():
        entry = counts.setdefault(operator, [0, shapes])
        entry[0] += count
    for operator, (count, shapes) in counts.items():
        message = f"{name}: operator {operator!r} on {' '.join(map(str, shapes))} ({count} times) has no known cost"
        if strict:
            raise TraceError(message)
        warnings.warn(f"{message}: only its bytes are counted", UncostedOperator, stacklevel=3)


def _settle(found: Found) -> list[Ledger]:
    """Give each parameter's uncounted rest (unread rows of a table) to its first reader; those without a reader."""
    unread = []
    for ledger in found.ledgers:
        left = ledger.size - ledger.counted
        reader = found.readers.get(ledger.name)
        if left and reader is not None:
            reader["parameters"] = reader.get("parameters", 0) + left
        elif left:
            unread.append(ledger)
    return unread


# -- rows --------------------------------------------------------------------------------------------


def _rows(found: Found, module, fold: bool, name: str) -> list[dict]:
    """The recorded operators as rows with their layers, folded."""
    blocks = {path for path, part in module.named_modules() if any(True for _ in part.children())}
    rows = flat(fold_steps(found.nodes) if fold else found.nodes)
    for row in rows:
        _place(row, blocks)
    _name_attention(rows)
    if fold:
        rows = fold_layers(rows)
    finished(rows)
    for row in rows:
        path, depth = row["_path"], row["_block"]
        rest = ".".join(path[depth:])
        row["layer"] = ".".join(path[:depth]) or name
        row["op"] = f"{rest}: {row['op']}" if rest else row["op"]
    return rows


def _place(row: dict, blocks: set[str]) -> None:
    """Path of the row and how much of it is its layer: up to the last numbered module that has parts."""
    label = row.get("layer") or row["_module"]
    path = tuple(label.split(".")) if label else ()
    depth = len(path)
    if "layer" not in row:  # a recurrence brings its own label
        for end in range(len(path), 0, -1):
            if path[end - 1].isdigit() and ".".join(path[:end]) in blocks:
                depth = end
                break
    row["_path"], row["_block"] = path, depth


def _report_loops(rows: Sequence[dict]) -> None:
    counts: dict[tuple, int] = {}
    for row in rows:
        key = row["layer"], row["op"]
        counts[key] = counts.get(key, 0) + 1
    worst = max(counts, key=counts.__getitem__)
    if counts[worst] > MANY_ROWS:
        warnings.warn(
            f"{worst[0]}: {worst[1]!r} has {counts[worst]} rows: a loop whose steps differ is not folded",
            UnfoldedLoop, stacklevel=3,
        )  # fmt: skip


def _name_attention(rows: list[dict]) -> None:
    """Call the product before a softmax "scores" and the one after it "context", where neither has weights.

    Their gradients are called after them.
    """
    readers: dict[int, list[int]] = {}
    ahead = [i for i, row in enumerate(rows) if row.get("phase", "forward") == "forward"]
    for i in ahead:
        for a in rows[i]["after"]:
            readers.setdefault(a, []).append(i)
    for i in ahead:
        if rows[i]["kind"] != "softmax":
            continue
        before = _nearest_product(rows, i, lambda j: rows[j]["after"])
        after = _nearest_product(rows, i, lambda j: readers.get(j, ()))
        for j, word in ((before, "scores"), (after, "context")):
            if before is not None and after is not None:
                rows[j]["op"] = rows[j]["op"].removesuffix("product") + word
    named = {row["_site"]: row["op"] for row in rows if row["op"] in ("scores", "context")}
    for row in rows:
        if row["op"].startswith("product,") and row.get("_of") in named:
            row["op"] = row["op"].replace("product", named[row["_of"]], 1)


def _nearest_product(rows, start: int, step) -> int | None:
    """The first product of two activations met from row `start` through elementwise work and copies."""
    todo, seen = list(step(start)), set()
    while todo:
        j = todo.pop(0)
        if j in seen:
            continue
        seen.add(j)
        if rows[j]["kind"] == "matmul":
            if not rows[j].get("weight_bytes"):
                return j
        elif rows[j]["kind"] in ("elementwise", "copy") and len(seen) < 32:
            todo += step(j)
    return None


def _attach(rows: list[dict], unread: list[Ledger]) -> None:
    """Add parameters that no operator reads to the row of the nearest module with one weight set, and say so."""
    for ledger in unread:
        path = tuple(ledger.name.split("."))
        single = [row for row in rows if row["weight_sets"] == 1 and row.get("phase", "forward") == "forward"]
        if not single:
            rows.append(_holder(ledger, len(rows)))
            single = rows[-1:]
        row = max(single, key=lambda r: _shared(r["_path"], path))
        row["_unread"] = row.get("_unread", 0) + ledger.size
    total = sum(ledger.size for ledger in unread)
    first = ", ".join(ledger.name for ledger in unread[:3]) + (", ..." if len(unread) > 3 else "")
    warnings.warn(f"{len(unread)} parameter tensors ({total} in all) are read by no operator: {first}",
                  UnreadParameters, stacklevel=3)  # fmt: skip


def _holder(ledger: Ledger, number: int) -> dict:
    """A row for unread parameters where every other row stands for several weight sets: it moves one byte."""
    return {
        "layer": "unread", "op": "unread parameters", "kind": "copy", "input_bytes": 1, "repeats": 1,
        "serial_steps": 1, "path_runs": 1, "weight_sets": 1, "after": (number - 1,), "_path": ("unread",),
        "dtype": "fp32",
    }  # fmt: skip


def _shared(a: tuple, b: tuple) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _public(row: Mapping) -> dict:
    """The columns of the trace."""
    columns = {k: v for k, v in row.items() if not k.startswith("_")}
    if row.get("_unread"):
        columns["parameters"] = columns.get("parameters", 0) + row["_unread"]
    return columns


def _sizes(found: Found, args: tuple, kwargs: Mapping) -> tuple[int, int]:
    """Sequences and tokens: of the first recurrence or attention, else of the first tensor (batch, length, ...).

    Attention within windows of an image has more sequences than the input has: there the input decides.
    """
    shapes = [tuple(v.shape) for v in (*args, *kwargs.values()) if len(getattr(v, "shape", ()))]
    for sequences, tokens in found.sizes[:1]:
        if not shapes or sequences == 1 or any(sequences in shape[:2] for shape in shapes):
            return max(1, int(sequences)), max(1, int(tokens))
    if not shapes:
        return 1, 1
    first = next(v for v in (*args, *kwargs.values()) if len(getattr(v, "shape", ())))
    long = len(shapes[0]) == 3 or (len(shapes[0]) == 2 and not first.is_floating_point())
    return max(1, shapes[0][0]), max(1, shapes[0][1]) if long else 1
