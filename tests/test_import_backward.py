"""`from_torch(training=True)` records the backward pass autograd runs: its operators, their phase, what it keeps.

Expected numbers are worked by hand here, or come from PyTorch running the same module with real tensors: the operators
its dispatcher sees, the storages its saved-tensor hooks see, the FLOP its `FlopCounterMode` counts.
"""

from __future__ import annotations

import weakref

import pytest

from workloads import TraceError
from workloads.importers import UncostedOperator, from_torch

torch = pytest.importorskip("torch", reason="needs torch: pip install 'rooftrace[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from workloads.importers.torch_module import NothingToTrain  # noqa: E402

pytestmark = pytest.mark.torch


def meta(*shape, grad=False, dtype=torch.float32):
    return torch.empty(*shape, device="meta", dtype=dtype, requires_grad=grad)


def rows(trace, **wanted):
    return [r for r in trace.rows() if all(r[k] == v for k, v in wanted.items())]


def words(trace, phase=None):
    """Names of the backward operators, in order, without module path and phase."""
    back = [r for r in trace.rows() if r["phase"] in ((phase,) if phase else ("input-gradient", "weight-gradient"))]
    return [r["op"].split(": ")[-1].rsplit(", ", 1)[0] for r in back]


def leaves(results):
    found = torch.utils._pytree.tree_leaves(results)
    return list({id(t): t for t in found if isinstance(t, torch.Tensor) and t.requires_grad}.values())


def counted(module, *args):
    """Matrix FLOP of PyTorch's counter over the real forward and backward pass, on meta."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        results = leaves(module.to("meta")(*args))
        torch.autograd.backward(results, [torch.empty_like(t) for t in results])
    return counter.get_total_flops()


class Operators(TorchDispatchMode):
    """Names of the operators that move or compute something."""

    FREE = ("detach", "empty_like", "new_empty", "empty", "_unsafe_view", "_reshape_alias")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in self.FREE:
            self.names.append(name.rstrip("_"))
        return func(*args, **(kwargs or {}))


def really(module, *args):
    """Operators of the backward pass with real tensors, and bytes of the storages autograd keeps for it."""

    class Held:
        def __init__(self, tensor):
            self.tensor = tensor

    held = []

    def pack(tensor):
        kept = Held(tensor)
        held.append(weakref.ref(kept))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        results = leaves(module(*args))
    lasting = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    storages = {s._cdata: s.nbytes() for s in (ref().tensor.untyped_storage() for ref in held if ref())}
    ones = [torch.ones_like(t) for t in results]
    with Operators() as operators:
        torch.autograd.backward(results, ones)
    return operators.names, sum(size for key, size in storages.items() if key not in lasting)


class WrittenOut(nn.Module):
    """Attention as products and a softmax, with its projections."""

    def __init__(self, size=16, heads=2):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x):
        batch, length, size = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 4, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, size))


class TiedModel(nn.Module):
    """A language model whose head is its table of embeddings; returns its loss."""

    def __init__(self, loss=True):
        super().__init__()
        self.table, self.block, self.head = nn.Embedding(50, 16), WrittenOut(), nn.Linear(16, 50, bias=False)
        self.head.weight, self.loss = self.table.weight, loss

    def forward(self, ids):
        logits = self.head(self.block(self.table(ids)))
        return (F.cross_entropy(logits.flatten(0, 1), ids.flatten()), logits) if self.loss else logits


class Doubled(nn.Module):
    """One tensor read twice, and a result nobody uses."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.idle = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        torch.exp(self.idle(y))
        return y * self.b(y)


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4))


NETS = {
    "mlp": (mlp, (2, 3, 8)),
    "activations": (
        lambda: nn.Sequential(
            nn.Linear(8, 8), nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Softplus(), nn.ELU(), nn.Hardtanh(),
            nn.LeakyReLU(), nn.Mish(), nn.Hardswish(), nn.LogSigmoid(), nn.Softmax(-1), nn.LogSoftmax(-1), nn.GLU(),
        ),
        (3, 8),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3),
            nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 6, 2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(6, 5),
        ),
        (2, 3, 14, 14),
    ),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), (2, 8, 32)),
    "written-out attention": (WrittenOut, (2, 8, 16)),
    "read twice": (Doubled, (2, 8)),
}  # fmt: skip
every_net = pytest.mark.parametrize("net", NETS)

#: Operators recorded as one row for each of their gradients, or under another name.
ROWS_OF = {
    "mm": ["product"], "bmm": ["product"], "clone": ["copy"], "_softmax_backward_data": ["softmax"],
    "native_layer_norm_backward": ["norm", "norm"], "native_group_norm_backward": ["norm", "norm"],
    "native_batch_norm_backward": ["norm", "norm"], "convolution_backward": ["convolution", "convolution", "sum"],
    "mul": ["multiply"], "_log_softmax_backward_data": ["log softmax"], "mish_backward": ["mish"],
}  # fmt: skip


# -- the operators are autograd's --------------------------------------------------------------------


@every_net
@pytest.mark.parametrize("grad", [False, True])
def test_the_operators_are_those_a_real_backward_pass_executes(net, grad):
    build, shape = NETS[net]
    module, x = build(), torch.rand(shape, requires_grad=grad)
    trace = from_torch(module, x, training=True, fold=False)
    expected = []
    for name in really(module, x)[0]:
        expected += ROWS_OF.get(name, [name.removesuffix("_backward").strip("_").replace("_", " ")])
    same = {"scores": "product", "context": "product", "transposed convolution": "convolution"}
    recorded = [same.get(word, word) for word in words(trace)]
    if net == "convolutions" and not grad:  # the first one's input needs no gradient
        assert expected[-3:] == ["convolution", "convolution", "sum"]
        expected[-3:] = ["convolution", "sum"]
    if net == "encoder layer":  # the fused attention is one row; the layout of its gradients is that of a GPU's kernel
        fused = expected.index("scaled dot product flash attention for cpu")
        expected[fused : fused + 1 + expected[fused + 1 :].index("select")] = ["attention"]
    assert recorded == expected


@every_net
def test_matrix_flop_are_those_of_pytorchs_counter(net):
    """Fused attention alone differs: autograd's keeps the scores on meta (2 times forward), a fused kernel does 2.5."""
    build, shape = NETS[net]
    fused = 2 * (2 * 2 * 4 * 8 * 8 * 8) // 2 if net == "encoder layer" else 0
    for grad in (False, True):
        trace = from_torch(build(), meta(*shape, grad=grad), training=True, strict=True)
        assert trace.total_matrix_flops == counted(build(), meta(*shape, grad=grad)) + fused


@pytest.mark.parametrize("loss", [False, True])
def test_a_tied_language_model(loss):
    """Both uses of the table have a gradient; they are added, and the sum is held once."""
    ids = meta(2, 5, dtype=torch.long)
    trace = from_torch(TiedModel(loss), ids, training=True, strict=True, optimiser="adam")
    assert trace.total_matrix_flops == counted(TiedModel(loss), ids)
    assert trace.total_parameters == sum(p.numel() for p in TiedModel().parameters())
    (added,) = [r for r in rows(trace, phase="weight-gradient") if "add" in r["op"]]
    assert (added["input_bytes"], added["state_bytes"], added["vector_flops"]) == (3200, 6400, 800)
    assert trace.footprint()["gradients"] == 4 * trace.total_parameters
    (table,) = [r for r in rows(trace, phase="update") if r["layer"] == "table"]
    assert table["vector_flops"] == 12 * 800


def test_a_grouped_convolution_counts_its_groups():
    """PyTorch's counter takes the weight gradient of a grouped convolution for a full one: 4 times too much here."""
    net, x = nn.Conv2d(8, 8, 3, groups=4, bias=False), meta(2, 8, 6, 6, grad=True)
    trace = from_torch(net, x, training=True)
    one = 2 * 2 * 16 * 8 * (2 * 9)
    assert [r["matrix_flops"] for r in trace.rows()] == [one] * 3
    assert [r["phase"] for r in trace.rows()] == ["forward", "input-gradient", "weight-gradient"]
    assert counted(net, x) == one + one + 4 * one


# -- phases and places -------------------------------------------------------------------------------


def test_rows_of_a_small_network_by_hand():
    trace = from_torch(mlp(), meta(2, 3, 8), training=True)
    back = [r for r in trace.rows() if r["phase"] != "forward"]
    assert [(r["layer"], r["op"]) for r in back] == [
        ("4", "product, input gradient"),
        ("4", "product, weight gradient"),
        ("4", "sum, weight gradient"),
        ("3", "norm, input gradient"),
        ("3", "norm, weight gradient"),
        ("2", "product, input gradient"),
        ("2", "product, weight gradient"),
        ("2", "sum, weight gradient"),
        ("1", "threshold, input gradient"),
        ("0", "product, weight gradient"),
        ("0", "sum, weight gradient"),
    ]
    weight, bias = back[6], back[7]
    assert (weight["m"], weight["n"], weight["k"], weight["weight_bytes"]) == (16, 16, 6, 0)
    assert (weight["input_bytes"], weight["output_bytes"]) == (4 * 6 * (16 + 16), 4 * 256)
    assert (bias["vector_flops"], bias["input_bytes"], bias["output_bytes"]) == (96, 4 * 96, 4 * 16)
    through = back[5]
    assert (through["m"], through["n"], through["k"], through["weight_bytes"]) == (6, 16, 16, 4 * 256)
    # the gradient flows along; weight gradients are on no path; the start waits for the forward pass
    assert [r["after"] for r in back] == [(4,), (4,), (4,), (5,), (5,), (8,), (8,), (8,), (10,), (13,), (13,)]


def test_a_sum_for_two_readers_is_an_operator():
    trace = from_torch(Doubled(), meta(2, 8), training=True)
    added = [r for r in trace.rows() if r["op"].endswith("add, input gradient")]
    assert [(r["input_bytes"], r["output_bytes"], r["vector_flops"]) for r in added] == [(128, 64, 16)]


def test_the_first_layers_activation_is_no_weight_gradient():
    """All that reads the gradient of the first activation makes gradients of weights; it is one of an activation."""
    trace = from_torch(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), meta(2, 8), training=True)
    assert words(trace, "input-gradient") == ["tanh"]
    assert words(trace, "weight-gradient") == ["product", "sum"]


def test_written_out_attention_names_its_gradients():
    trace = from_torch(WrittenOut(), meta(2, 8, 16), training=True)
    assert words(trace).count("scores") == words(trace).count("context") == 2
    assert not rows(trace, phase="weight-gradient", op="scores, weight gradient")


def test_the_loss_alone_is_where_it_starts():
    """A result that is a single number, or named loss; logits beside it get no gradient of their own."""
    with_logits = from_torch(TiedModel(), meta(2, 5, dtype=torch.long), training=True)
    assert words(with_logits)[:2] == ["nll loss", "log softmax"]

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return {"loss": self.a(x), "other": self.b(x)}

    trace = from_torch(Named(), meta(2, 4), training=True)
    assert {r["layer"] for r in trace.rows() if r["phase"] != "forward"} == {"a"}


def test_several_results_all_start_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return [self.a(x), {"more": (self.b(x),)}]

    trace = from_torch(Two(), meta(2, 4), training=True)
    assert trace.total_matrix_flops == 2 * 2 * (2 * 2 * 4 * 4)


def test_results_that_need_no_gradient_are_reported():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x).detach()

    with pytest.warns(NothingToTrain, match="Cut: no floating tensor among the results"):
        trace = from_torch(Cut(), meta(2, 4), training=True)
    assert not trace.trains


# -- what is kept ------------------------------------------------------------------------------------


@every_net
def test_saved_bytes_are_the_storages_autograd_keeps(net):
    """Of real tensors, on the CPU: each storage once, parameters and buffers apart; what no result needs is dropped."""
    build, shape = NETS[net]
    module, x = build(), torch.rand(shape)
    kept = really(module, x)[1]
    assert from_torch(module, x, training=True, fold=False).footprint()["saved"] == kept


def test_saved_bytes_belong_to_the_row_that_keeps_them():
    """Input of a product, result of a ReLU (then the next product's input), input and statistics of the norm."""
    trace = from_torch(mlp(), meta(2, 3, 8), training=True)
    kept = [r["saved_bytes"] for r in rows(trace, phase="forward")]
    assert kept == [4 * 6 * 8, 4 * 6 * 16, 0, 4 * (6 * 16 + 6 + 6), 4 * 6 * 16]


def test_a_view_counts_once_and_a_slice_keeps_the_whole():
    class Views(nn.Module):
        def forward(self, x):
            return (x[:1] * x[1:2]) * x.view(4, 4)[:1, :4].reshape(1, 4)

    trace = from_torch(Views(), meta(4, 4, grad=True), training=True)
    assert trace.footprint()["saved"] == 4 * 16 + 4 * 4  # x, and the product


def test_nothing_is_kept_without_a_backward_pass():
    assert set(from_torch(mlp(), meta(2, 3, 8)).saved_bytes) == {0}
    assert set(from_torch(mlp().requires_grad_(False), meta(2, 3, 8), training=True).saved_bytes) == {0}


def test_a_recurrence_keeps_what_the_builder_says_and_shares_its_input_and_result():
    """cuDNN's way: input, result and, of each step, four gates, c and tanh c. The head reads the result again."""
    from workloads import lstm
    from workloads.training import training

    batch, steps, hidden = 3, 7, 16
    own = batch * steps * hidden * 4
    state = batch * hidden * 4

    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(12, hidden, 2, batch_first=True), nn.Linear(hidden, 5)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    trace = from_torch(Headed(), meta(batch, steps, 12), training=True)
    built = training(lstm(2, hidden, input_size=12, sequence_length=steps, batch=batch)).footprint()["saved"]
    assert built == 4 * batch * steps * 12 + 2 * (own + 6 * own)
    assert trace.footprint()["saved"] == built + 2 * state  # h before the first step, of both layers


# -- gradients that remain, and the update -----------------------------------------------------------


@every_net
@pytest.mark.parametrize("fold", [False, True])
def test_the_gradients_held_are_those_of_the_parameters(net, fold):
    build, shape = NETS[net]
    trained = [p for name, p in build().named_parameters() if "idle" not in name]
    trace = from_torch(build(), meta(*shape), training=True, fold=fold, optimiser="adam")
    parameters = sum(p.numel() for p in trained)
    assert trace.footprint()["gradients"] == 4 * parameters
    update = rows(trace, phase="update")
    assert sum(r["vector_flops"] * r["repeats"] for r in update) == 12 * parameters
    assert trace.footprint()["optimiser"] == 2 * 4 * parameters


def test_layers_that_share_weights_hold_one_gradient():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            for _ in range(5):
                x = torch.tanh(self.layer(x))
            return x

    for fold in (False, True):
        trace = from_torch(Shared(), meta(2, 8), training=True, fold=fold, optimiser="sgd")
        assert trace.total_matrix_flops == (5 + 5 + 4) * 2 * 2 * 8 * 8
        assert trace.footprint()["gradients"] == 4 * 72
        assert sum(r["vector_flops"] * r["repeats"] for r in rows(trace, phase="update")) == 2 * 72
    (product,) = [r for r in rows(trace, phase="weight-gradient") if r["kind"] == "matmul"]
    assert (product["repeats"], product["path_runs"], product["weight_sets"]) == (5, 1, 1)
    added = [r for r in rows(trace, phase="weight-gradient") if "add" in r["op"]]
    assert sorted((r["repeats"], r["serial_steps"], r["vector_flops"]) for r in added) == [(4, 4, 8), (4, 4, 64)]


def test_a_frozen_bias_has_no_gradient_and_no_update():
    layer = nn.Linear(8, 4)
    layer.bias.requires_grad_(False)
    trace = from_torch(layer, meta(2, 8), training=True, optimiser="sgd")
    assert words(trace) == ["product"]
    assert [r["vector_flops"] for r in rows(trace, phase="update")] == [2 * 32]


def test_a_gradient_shared_with_an_activation_is_copied():
    """One tensor is the gradient of the input and of the parameter: autograd copies it into the first `.grad`."""

    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(2, 8))

        def forward(self, x):
            return torch.tanh(x + self.p)

    trace = from_torch(Adds(), meta(2, 8, grad=True), training=True)
    assert words(trace) == ["tanh", "copy"]
    alone = from_torch(Adds(), meta(2, 8), training=True)
    assert words(alone, "weight-gradient") == ["tanh"]
    assert alone.footprint()["gradients"] == 4 * 16


# -- loops and recurrences ---------------------------------------------------------------------------


class CellLoop(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell(12, 16)

    def forward(self, x):
        state, out = x.new_zeros(x.shape[0], 16), []
        state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            out.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(out, 1)


@pytest.mark.parametrize(("cell", "whole"), [(nn.LSTMCell, nn.LSTM), (nn.GRUCell, nn.GRU), (nn.RNNCell, nn.RNN)])
def test_a_loop_over_a_cell_is_serial_steps_backward_too(cell, whole):
    """The input gradient of each step needs that of the next. Weight gradients are T products, then added: a loop has
    no kernel that takes them together, as nn.LSTM's has; the FLOP are the same."""
    looped = from_torch(CellLoop(cell), meta(3, 7, 12), training=True)
    at_once = from_torch(whole(12, 16, batch_first=True), meta(3, 7, 12), training=True)
    back = {r["op"]: r for r in looped.rows() if r["phase"] != "forward" and "add" not in r["op"]}
    for op in ("gates", "recurrent product"):
        row = back[f"{op}, input gradient"]
        assert (row["repeats"], row["serial_steps"], row["path_runs"]) == (7, 7, 7)
    for op in ("input product", "recurrent product"):
        row = back[f"{op}, weight gradient"]
        assert (row["repeats"], row["serial_steps"], row["path_runs"], row["weight_sets"], row["k"]) == (7, 1, 1, 1, 3)
        (merged,) = rows(at_once, op=f"{op}, weight gradient")
        assert (merged["repeats"], merged["k"]) == (1, 21)
    added = [r for r in rows(looped, phase="weight-gradient") if "add" in r["op"]]
    assert len(added) == 4  # both weights and both biases
    assert {(r["repeats"], r["serial_steps"]) for r in added} == {(6, 6)}
    assert looped.total_matrix_flops == at_once.total_matrix_flops
    assert looped.footprint()["gradients"] == at_once.footprint()["gradients"] == 4 * looped.total_parameters


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("grad", [False, True])
def test_rows_do_not_grow_with_the_steps_of_a_loop(cell, grad):
    few, many = (len(from_torch(CellLoop(cell), meta(3, t, 12, grad=grad), training=True)) for t in (5, 50))
    assert few == many < 20


def test_ones_own_cell_is_what_autograd_runs():
    """The state before the first step needs no gradient, and autograd makes none: six products of seven steps."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.of_input, self.of_state = nn.Linear(12, 16), nn.Linear(16, 16, bias=False)

        def forward(self, x):
            h = x.new_zeros(x.shape[0], 16)
            for t in range(x.shape[1]):
                h = torch.tanh(self.of_input(x[:, t]) + self.of_state(h))
            return h

    trace = from_torch(Own(), meta(3, 7, 12), training=True)
    assert trace.total_matrix_flops == counted(Own(), meta(3, 7, 12))
    (state,) = [r for r in rows(trace, layer="of_state", kind="matmul") if r["phase"] == "input-gradient"]
    assert (state["repeats"], state["serial_steps"]) == (6, 6)
    (tanh,) = rows(trace, op="tanh, input gradient")
    assert (tanh["repeats"], tanh["serial_steps"]) == (7, 7)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("module", "kind"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn")])
def test_a_recurrent_module_trains_as_the_builders_trace(module, kind, both):
    """Row for row; only what is kept lies with other rows, for autograd keeps input and result as tensors."""
    import workloads
    from workloads.training import training

    built = getattr(workloads, kind)(3, 16, input_size=12, sequence_length=7, batch=5, bidirectional=both, name=kind)
    trace = from_torch(module(12, 16, 3, bidirectional=both), meta(7, 5, 12), training=True, name=kind)
    expected = [r | {"saved_bytes": 0} for r in training(built).rows() if r["phase"] != "update"]
    assert [r | {"saved_bytes": 0} for r in trace.rows()] == expected
    before = 4 * 5 * 16 * 3 * (1 + both)  # h before the first step
    assert trace.footprint()["saved"] == training(built).footprint()["saved"] + before


def test_gradients_of_a_recurrence_lie_where_autograd_runs_them():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.rnn, self.after = nn.Linear(8, 8), nn.LSTM(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.after(self.rnn(self.before(x))[0])

    trace = from_torch(Between(), meta(5, 2, 8), training=True)
    table = trace.rows()
    number = {(r["layer"], r["op"]): i for i, r in enumerate(table)}
    after = number["after", "product, input gradient"]
    gates = number["rnn.0", "gates, input gradient"]
    entry = number["rnn.0", "input product, input gradient"]
    before = number["before", "product, weight gradient"]
    assert (table[gates]["after"], table[before]["after"]) == ((after,), (entry,))
    assert table[gates]["serial_steps"] == 5
    frozen = Between()
    frozen.before.requires_grad_(False)
    ops = from_torch(frozen, meta(5, 2, 8), training=True).op
    assert "input product, input gradient" not in ops  # what came before needs none
    assert "input product, weight gradient" in ops


def test_a_recurrence_with_frozen_weights_hands_its_gradient_on():
    net = nn.Sequential(nn.Linear(8, 8), nn.GRU(8, 8))
    net[1].requires_grad_(False)
    trace = from_torch(net, meta(5, 2, 8), training=True, optimiser="sgd")
    assert not rows(trace, layer="1.0", phase="weight-gradient")
    assert rows(trace, layer="1.0", op="input product, input gradient")
    assert [r["layer"] for r in rows(trace, phase="update")] == ["0"]


def test_fused_attention_is_one_row_of_five_products():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1, 4, 16, 16))

        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)

    inputs = [meta(2, 4, 16, 64, grad=True) for _ in range(3)]
    trace = from_torch(Biased(), *inputs, training=True, optimiser="sgd")
    forward, gradient, bias, update = trace.rows()
    assert 2 * gradient["matrix_flops"] == 5 * forward["matrix_flops"]
    assert gradient["output_bytes"] == 4 * 3 * 2 * 4 * 16 * 64
    assert (bias["phase"], bias["vector_flops"], bias["output_bytes"]) == ("weight-gradient", 8 * 256, 4 * 4 * 256)
    assert (forward["parameters"], update["vector_flops"]) == (1024, 2 * 1024)
    assert trace.footprint()["gradients"] == 4 * 1024
    frozen = from_torch(Biased().requires_grad_(False), *inputs, training=True)
    assert [r["phase"] for r in frozen.rows()] == ["forward", "input-gradient"]


# -- folding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_identical_layers_fold_backward(dropout):
    def encoder(layers):
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, dropout, batch_first=True), layers)

    few, many = (from_torch(encoder(n), meta(2, 16, 64, grad=True), training=True, optimiser="adam") for n in (2, 12))
    assert len(few) == len(many)
    assert {r["layer"] for r in many.rows()} == {"layers.0-11"}
    assert set(many.repeats.tolist()) == {12}
    unfolded = from_torch(encoder(12), meta(2, 16, 64, grad=True), training=True, optimiser="adam", fold=False)
    for total in ("total_flops", "total_matrix_flops", "total_parameters", "total_bytes"):
        assert getattr(many, total) == getattr(unfolded, total)
    assert many.footprint() == unfolded.footprint()
    assert many.bytes_by_role() == unfolded.bytes_by_role()


def test_the_first_of_identical_layers_stands_apart_where_its_input_needs_no_gradient():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(5)))
    trace = from_torch(net, meta(2, 8), training=True)
    products = [r for r in trace.rows() if r["kind"] == "matmul"]
    assert [(r["phase"], r["layer"], r["repeats"]) for r in products] == [
        ("forward", "0-4", 5),
        ("input-gradient", "1-4", 4),
        ("weight-gradient", "1-4", 4),
        ("weight-gradient", "0", 1),
    ]


# -- types, checkpoints, what is unknown -------------------------------------------------------------


def test_autocast_casts_backward():
    """bf16 products; the gradient of each weight is cast to fp32, in which it is held."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = from_torch(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4)), meta(2, 8), training=True)
    products = [r for r in trace.rows() if r["kind"] == "matmul" and r["phase"] != "forward"]
    assert len(products) == 3
    assert {r["dtype"] for r in products} == {"bf16"}
    casts = [r for r in rows(trace, phase="weight-gradient") if "cast" in r["op"]]
    assert sum(r["input_bytes"] for r in casts) == 2 * (36 + 20)
    assert trace.footprint()["gradients"] == 4 * (36 + 20)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_runs_its_part_again(reentrant):
    """Phase "recompute": the product and GELU of each block, until all that its gradients read is there."""

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return x

    x = meta(2, 8, grad=True)
    trace = from_torch(Blocks(), x, training=True)
    again = rows(trace, phase="recompute")
    ops = ["0: product, recompute", "1: gelu, recompute", "2: product, recompute"]
    assert [r["op"] for r in again] == ops[: 2 + reentrant]  # the newer kind stops once it has what was asked for
    assert [(r["repeats"], r["saved_bytes"]) for r in again][:2] == [(3, 128), (3, 128)]
    one = 2 * 2 * 8 * 16
    assert trace.total_matrix_flops == 3 * (2 + 1 + reentrant + 4) * one
    plain = from_torch(Blocks(), x, training=True).footprint()
    assert plain["saved"] == pytest.approx(3 * 64, abs=3)  # the input of each block; rounded up, row by row


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(4, 8))

    def forward(self, x):
        return torch.cdist(torch.cdist(x, self.p, 1.0), self.p.t(), 1.0)


def test_an_unknown_operator_of_the_backward_pass_is_reported():
    with pytest.warns(UncostedOperator, match=r"_cdist_backward.*\(3 times\)"):
        trace = from_torch(Distances(), meta(3, 8), training=True)
    unknown = [r for r in trace.rows() if "unknown: _cdist_backward" in r["op"]]
    assert all(r["input_bytes"] > 0 and r["kind"] == "copy" for r in unknown)
    with pytest.raises(TraceError, match="_cdist_backward"):
        from_torch(Distances(), meta(3, 8), training=True, strict=True)
    from_torch(Distances(), meta(3, 8), strict=True)  # without training nothing is unknown


def test_a_backward_pass_that_fails_says_so():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            raise ValueError("not differentiable twice")

    class Uses(nn.Module):
        def forward(self, x):
            return Broken.apply(x)

    with pytest.raises(TraceError, match=r"Uses: the backward pass failed: ValueError: not differentiable twice"):
        from_torch(Uses(), meta(2, 8, grad=True), training=True)


def test_a_function_of_ones_own_runs_its_own_backward():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return torch.exp(gradient) * x

    class Uses(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return Square.apply(self.layer(x))

    trace = from_torch(Uses(), meta(2, 8), training=True)
    assert words(trace) == ["exp", "multiply", "product", "sum"]
    assert trace.footprint()["saved"] == 2 * 4 * 16


class Penalty(nn.Module):
    """A loss with the gradient of the input in it."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        x = x.detach().requires_grad_()
        result = self.body(x)
        y = (result[0] if isinstance(result, tuple) else result).sum()
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        return (gradient * gradient).sum() + y


def test_a_gradient_within_the_forward_pass_is_part_of_it():
    """A first backward pass is forward work; the real one differentiates it again: as many products as really run."""
    body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    trace = from_torch(Penalty(body), meta(4, 8), training=True, strict=True, fold=False)
    with Operators() as operators:
        loss = Penalty(body)(torch.rand(4, 8))
        before = len(operators.names)
        loss.backward()
    products = [
        [n in ("mm", "addmm") for n in part].count(True)
        for part in (operators.names[:before], operators.names[before:])
    ]
    forward = rows(trace, phase="forward", kind="matmul")
    assert [len(forward), len([r for r in trace.rows() if r["kind"] == "matmul"]) - len(forward)] == products == [4, 7]
    assert trace.footprint()["gradients"] == 4 * trace.total_parameters


def test_second_derivatives_of_a_whole_are_refused():
    with pytest.raises(TraceError, match=r"second derivatives .* of recurrences and fused attention are not followed"):
        from_torch(Penalty(nn.LSTM(8, 8)), meta(4, 2, 8), training=True)


# -- what each gradient costs ------------------------------------------------------------------------


class Applies(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


@pytest.mark.parametrize(
    ("function", "vector", "special"),
    [
        (torch.relu, 1, 0),
        (torch.tanh, 3, 0),
        (torch.sigmoid, 3, 0),
        (F.silu, 5, 1),
        (F.gelu, 15, 1),
        (F.softplus, 3, 2),
        (F.elu, 3, 1),
        (F.leaky_relu, 2, 0),
        (F.hardtanh, 2, 0),
        (F.hardswish, 5, 0),
        (F.mish, 8, 3),
        (lambda x: torch.softmax(x, -1), 4, 0),
        (lambda x: torch.log_softmax(x, -1), 3, 1),
        (lambda x: F.layer_norm(x, (16,)), 9, 0),
        (lambda x: F.rms_norm(x, (16,)), 6, 0),
        (lambda x: F.mse_loss(x, x.detach(), reduction="sum"), 3, 0),
        (lambda x: F.max_pool1d(x, 2), 0.5, 0),
        (lambda x: F.avg_pool2d(x[None, None], 2)[0, 0], 5 / 4, 0),  # one scaling and four sums, a quarter as many
    ],
)
def test_operations_of_a_gradient(function, vector, special):
    """Each element of 4 x 16, by the definition of the derivative; see `torch_gradients`."""
    trace = from_torch(Applies(function), meta(4, 16, grad=True), training=True, strict=True)
    back = [r for r in rows(trace, phase="input-gradient") if r["kind"] != "copy"]
    assert [(r["vector_flops"], r["special_ops"]) for r in back] == [(vector * 64, special * 64)]


def test_a_norm_has_two_gradients():
    """Kernels that each read dY, the input and the statistics: 10 operations an element, and 3 for gain and offset."""
    net = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
    back = [r for r in from_torch(net, meta(4, 16), training=True).rows() if "norm" in r["op"]][1:]
    assert [(r["phase"], r["vector_flops"], r["output_bytes"], r["weight_bytes"]) for r in back] == [
        ("input-gradient", 10 * 64, 4 * 64, 4 * 16),
        ("weight-gradient", 3 * 64, 4 * 32, 0),
    ]
    assert {r["input_bytes"] for r in back} == {4 * (64 + 64 + 4 + 4)}


def test_a_stored_norm_scales():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    assert not net[1].training
    back = [r for r in from_torch(net, meta(2, 3, 6, 6), training=True).rows() if "norm" in r["op"]][1:]
    elements = 2 * 8 * 16
    assert [r["vector_flops"] for r in back] == [elements, 3 * elements]


def test_the_gradient_of_a_table_is_a_whole_table():
    (_, gradient) = from_torch(nn.Embedding(100, 8), meta(2, 5, dtype=torch.long), training=True).rows()
    assert (gradient["kind"], gradient["phase"]) == ("gather", "weight-gradient")
    assert gradient["output_bytes"] == 4 * 800  # zeros, with the ten rows added
    assert gradient["input_bytes"] == 4 * 80 + 8 * 10
    assert gradient["vector_flops"] == 80


def test_the_gradient_of_picked_values_is_added_where_they_came_from():
    trace = from_torch(Applies(lambda x, i: x[i]), meta(10, 4, grad=True), torch.tensor([1, 2, 2]), training=True)
    (added,) = [r for r in trace.rows() if "index add" in r["op"]]
    assert added["vector_flops"] == 12
    (zeros,) = [r for r in trace.rows() if "new zeros, input" in r["op"]]
    assert zeros["output_bytes"] == 4 * 40


def test_packed_sequences_are_unpacked_backward():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.rnn = nn.Linear(12, 12), nn.LSTM(12, 16, batch_first=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(self.layer(x), lengths, batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]

    trace = from_torch(Packed(), meta(3, 7, 12), torch.tensor([7, 5, 2]), training=True)
    padded, packed = 4 * 21, 4 * 14
    moves = [r for r in trace.rows() if "pack" in r["op"] and r["phase"] == "input-gradient"]
    assert [(r["input_bytes"], r["output_bytes"]) for r in moves] == [
        (16 * packed, 16 * packed),
        (12 * packed, 12 * padded),
    ]
    assert trace.total_matrix_flops == 14 * 2 * 64 * (12 + 16) * 3 + 21 * 2 * 144 * 2
