"""PyTorch modules become traces: the eight forms every counter gets partly wrong, forward and training, and the rest.

Expected numbers are worked by hand in the test, taken from the builders, or counted by
`torch.utils.flop_counter.FlopCounterMode` on the meta device, where it sees every product.
"""

from __future__ import annotations

import pytest

from workloads import Trace, TraceError, gru, lstm, normalisation, rnn
from workloads.importers import UncostedOperator, from_torch

torch = pytest.importorskip("torch", reason="needs torch: pip install 'rooftrace[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from workloads.importers.torch_module import UnfoldedLoop, UnreadParameters  # noqa: E402

pytestmark = pytest.mark.torch

B, T, H = 32, 50, 1024
L, HEADS = 128, 16


def meta(*shape, grad=False, dtype=torch.float32):
    return torch.empty(*shape, device="meta", dtype=dtype, requires_grad=grad)


def counted(module, *args, backward=False):
    """Matrix FLOP of PyTorch's own counter on the meta device, of the real backward pass too."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        results = module.to("meta")(*args)
        if backward:
            leaves = [t for t in torch.utils._pytree.tree_leaves(results) if t.requires_grad]
            torch.autograd.backward(leaves, [torch.empty_like(t) for t in leaves])
    return counter.get_total_flops()


def rows(trace, **wanted):
    return [r for r in trace.rows() if all(r[k] == v for k, v in wanted.items())]


class CellLoop(nn.Module):
    """A Python loop over a cell, the way users write decoders."""

    def __init__(self, cell=nn.LSTMCell, features=H, hidden=H):
        super().__init__()
        self.cell = cell(features, hidden)
        self.hidden = hidden

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], self.hidden)
        out = []
        for t in range(x.shape[1]):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(x[:, t], (h, c))
            else:
                h = self.cell(x[:, t], h)
            out.append(h)
        return torch.stack(out, 1)


class Bare(nn.Module):
    """scaled_dot_product_attention and nothing else."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, q, k=None, v=None):
        k = q if k is None else k
        return F.scaled_dot_product_attention(q, k, k if v is None else v, **self.settings)


class WrittenOut(nn.Module):
    def forward(self, q):
        return torch.softmax(q @ q.transpose(-1, -2) / 8, -1) @ q


#: One step of an LSTM: 32 x 1024 times 1024 x 4096, for the input and for h.
STEP = 2 * B * H * 4 * H
#: One projection of the attention module, and scores (or context) of all heads.
PROJECTION, SCORES = 2 * B * L * H * H, 2 * B * L * L * H

EIGHT = {
    "lstm": (lambda: nn.LSTM(H, H, batch_first=True), "sequence", T * 2 * STEP, T * STEP),
    "bidirectional": (
        lambda: nn.LSTM(H, H, 2, bidirectional=True, batch_first=True),
        "sequence",
        # two directions; the second layer reads 2 x 1024 features
        2 * T * (2 * STEP + 3 * STEP),
        2 * T * STEP,
    ),
    "gru": (lambda: nn.GRU(H, H, batch_first=True), "sequence", T * 2 * STEP * 3 // 4, T * STEP * 3 // 4),
    "cell loop": (CellLoop, "sequence", T * 2 * STEP, T * STEP),
    "attention": (
        lambda: nn.MultiheadAttention(H, HEADS, batch_first=True),
        "triple",
        4 * PROJECTION + 2 * SCORES,
        3 * PROJECTION,
    ),
    "attention without gradients": (
        lambda: nn.MultiheadAttention(H, HEADS, batch_first=True).eval().requires_grad_(False),
        "triple",
        4 * PROJECTION + 2 * SCORES,
        None,
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(H, HEADS, 4 * H, batch_first=True),
        "tokens",
        12 * PROJECTION + 2 * SCORES,
        3 * PROJECTION,
    ),
    "bare attention": (Bare, "heads", 2 * SCORES, 0),
}
INPUTS = {
    "sequence": lambda grad: (meta(B, T, H, grad=grad),),
    "triple": lambda grad: (meta(B, L, H, grad=grad),) * 3,
    "tokens": lambda grad: (meta(B, L, H, grad=grad),),
    "heads": lambda grad: (meta(B, HEADS, L, H // HEADS, grad=grad),),
}
eight = pytest.mark.parametrize("form", EIGHT)


# -- the eight forms ---------------------------------------------------------------------------------


def test_the_true_numbers_are_those_published():
    """26.84 GFLOP for the LSTM and 36.51 for the attention module: the table of what other counters give."""
    assert round(EIGHT["lstm"][2] / 1e9, 2) == 26.84
    assert round(EIGHT["attention"][2] / 1e9, 2) == 36.51


@eight
@pytest.mark.parametrize("gradients", [False, True])
def test_forward_flop_are_exact(form, gradients):
    build, inputs, true, _ = EIGHT[form]
    module = build()
    args = INPUTS[inputs](False)
    with torch.set_grad_enabled(gradients):
        trace = from_torch(module.train(gradients), *args)
    assert trace.total_matrix_flops == true
    assert trace.total_parameters == sum(p.numel() for p in module.parameters())
    assert counted(module, *args) == true


@eight
def test_on_cpu_with_real_weights_too(form):
    """Where the other counters see one opaque operator: mkldnn's LSTM, the fast path of attention."""
    build, inputs, true, _ = EIGHT[form]
    args = tuple(torch.empty(a.shape) for a in INPUTS[inputs](False))
    with torch.no_grad():
        assert from_torch(build().eval(), *args).total_matrix_flops == true


def attention_flops(form):
    fused = {"encoder layer": 2 * SCORES, "bare attention": 2 * SCORES}
    return fused.get(form, 0)


@eight
def test_training_is_three_times_forward_where_the_input_needs_a_gradient(form):
    """Each product has two gradients; fused attention recomputes the scores: 2.5 times the forward pass, not 2."""
    build, inputs, true, first = EIGHT[form]
    trace = from_torch(build(), *INPUTS[inputs](True), training=True)
    expected = 3 * true + attention_flops(form) // 2
    if first is None:  # frozen weights: no gradients of the four projections' weights
        expected -= 4 * PROJECTION
    assert trace.total_matrix_flops == expected


@eight
def test_the_first_layers_input_gradient_is_left_out(form):
    build, inputs, true, first = EIGHT[form]
    trace = from_torch(build(), *INPUTS[inputs](False), training=True)
    if first is None or form == "bare attention":  # nothing to train
        assert trace.total_matrix_flops == true
        assert not trace.trains
        return
    if form == "bidirectional":
        first = 2 * T * STEP  # both directions of the first layer, 1024 features each
    assert trace.total_matrix_flops == 3 * true + attention_flops(form) // 2 - first


@eight
@pytest.mark.parametrize("grad", [False, True])
def test_training_is_the_real_backward_pass(form, grad):
    """PyTorch's counter over the real backward pass on meta, and the two conventions that differ.

    Its attention keeps the scores (2 times forward); h before the first step needs no gradient there, while here
    the recurrent product's gradient runs T times, as cuDNN does.
    """
    build, inputs, true, _ = EIGHT[form]
    args = INPUTS[inputs](grad)
    trace = from_torch(build(), *args, training=True)
    if not trace.trains:
        assert not any(t.requires_grad for t in (*args, *build().parameters()))
        assert trace.total_matrix_flops == true
        return
    extra = attention_flops(form) // 2
    extra += {"lstm": STEP, "bidirectional": 4 * STEP, "gru": STEP * 3 // 4, "cell loop": STEP}.get(form, 0)
    assert trace.total_matrix_flops == counted(build().train(), *args, backward=True) + extra


# -- recurrences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "build"),
    [
        (lambda **s: nn.LSTM(12, 16, **s), lambda **s: lstm(input_size=12, hidden=16, name="lstm", **s)),
        (lambda **s: nn.GRU(12, 16, **s), lambda **s: gru(input_size=12, hidden=16, name="gru", **s)),
        (lambda **s: nn.RNN(12, 16, **s), lambda **s: rnn(input_size=12, hidden=16, name="rnn", **s)),
        (
            lambda **s: nn.RNN(12, 16, nonlinearity="relu", **s),
            lambda **s: rnn(input_size=12, hidden=16, name="rnn", nonlinearity="relu", **s),
        ),
        (
            lambda **s: nn.LSTM(12, 16, proj_size=8, **s),
            lambda **s: lstm(input_size=12, hidden=16, projection=8, name="lstm", **s),
        ),
    ],
)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_recurrent_module_is_the_builders_trace(module, build, layers, both, bias):
    trace = from_torch(
        module(num_layers=layers, bidirectional=both, bias=bias, batch_first=True), meta(3, 7, 12), name="same"
    )
    built = build(layers=layers, sequence_length=7, batch=3, bidirectional=both, bias=bias)
    assert trace == built.replace(name="same")


@pytest.mark.parametrize(
    ("batch_first", "shape", "batch"), [(True, (3, 7, 12), 3), (False, (7, 3, 12), 3), (False, (7, 12), 1)]
)
def test_layouts_of_the_input(batch_first, shape, batch):
    trace = from_torch(nn.LSTM(12, 16, batch_first=batch_first), meta(*shape), name="lstm")
    assert trace == lstm(1, 16, input_size=12, sequence_length=7, batch=batch)


def test_a_state_may_be_given():
    states = (meta(2, 3, 16), meta(2, 3, 16))
    trace = from_torch(nn.LSTM(12, 16, 2), meta(7, 3, 12), states, name="lstm")
    assert trace == lstm(2, 16, input_size=12, sequence_length=7, batch=3)


class Packed(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.rnn = nn.LSTM(12, 16, 2, batch_first=batch_first)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=self.rnn.batch_first, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=self.rnn.batch_first)[0]


@pytest.mark.parametrize("lengths", [torch.tensor([7, 2, 5]), [7, 2, 5]])
def test_packed_sequences_cost_their_own_steps(lengths):
    """7 + 2 + 5 steps instead of 21, in 7 serial steps; two layers, input and recurrent products."""
    trace = from_torch(Packed(), meta(3, 7, 12), lengths)
    assert trace.total_matrix_flops == 14 * 2 * 64 * (12 + 16 + 16 + 16)
    assert trace.total_parameters == sum(p.numel() for p in Packed().parameters())
    steps = [r for r in trace.rows() if r["op"] == "recurrent product" and r["layer"] == "rnn.0"]
    assert [(r["m"], r["serial_steps"]) for r in steps] == [(3, 2), (2, 3), (1, 2)]
    assert trace.total_matrix_flops == from_torch(nn.LSTM(12, 16, 2), meta(14, 1, 12)).total_matrix_flops


def test_a_packed_example_input():
    packed = pack_padded_sequence(torch.zeros(7, 3, 12), [7, 5, 2])
    assert from_torch(nn.LSTM(12, 16), packed).total_matrix_flops == 14 * 2 * 64 * (12 + 16)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_loop_over_a_cell_is_serial_steps(cell):
    builders = {nn.LSTMCell: lstm, nn.GRUCell: gru, nn.RNNCell: rnn}
    trace = from_torch(CellLoop(cell, 12, 16), meta(3, 7, 12))
    built = builders[cell](1, 16, input_size=12, sequence_length=7, batch=3, hoist_input=False, merge_gates=True)
    loop = rows(trace, layer="cell")
    assert [(r["op"], r["repeats"], r["serial_steps"], r["weight_sets"]) for r in loop] == [
        ("input product", 7, 7, 1),
        ("recurrent product", 7, 7, 1),
        ("gates", 7, 7, 1),
    ]
    assert trace.total_matrix_flops == built.total_matrix_flops
    assert trace.total_parameters == built.total_parameters
    assert (trace.sequences, trace.tokens) == (3, 7)


class OwnCell(nn.Module):
    """A recurrent cell of the user's own, from linear layers."""

    def __init__(self):
        super().__init__()
        self.of_input = nn.Linear(12, 16)
        self.of_state = nn.Linear(16, 16, bias=False)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 16)
        for t in range(x.shape[1]):
            h = torch.tanh(self.of_input(x[:, t]) + self.of_state(h))
        return h


def test_a_loop_over_ones_own_cell_is_serial_steps():
    trace = from_torch(OwnCell(), meta(3, 7, 12))
    (state,) = rows(trace, layer="of_state")
    assert (state["repeats"], state["serial_steps"], state["weight_sets"], state["m"]) == (7, 7, 1, 3)
    (inputs,) = rows(trace, layer="of_input")  # they wait for nothing: seven products side by side
    assert (inputs["repeats"], inputs["serial_steps"], inputs["path_runs"]) == (7, 1, 1)
    assert trace.total_matrix_flops == counted(OwnCell(), meta(3, 7, 12))
    assert trace.total_parameters == 12 * 16 + 16 + 16 * 16


class Decoder(nn.Module):
    """A recurrent decoder that attends to a memory in each step."""

    def __init__(self):
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(50, 32), nn.GRUCell(64, 32), nn.Linear(64, 50)

    def forward(self, memory, ids):
        h, out = memory[:, 0], []
        for t in range(ids.shape[1]):
            weights = torch.softmax((memory @ h.unsqueeze(-1)).squeeze(-1), -1)
            context = (weights.unsqueeze(1) @ memory).squeeze(1)
            h = self.cell(torch.cat([self.table(ids[:, t]), context], -1), h)
            out.append(self.head(torch.cat([h, context], -1)))
        return torch.stack(out, 1)


def test_a_decoder_with_attention_is_serial_steps():
    inputs = meta(4, 20, 32), meta(4, 7, dtype=torch.long)
    trace = from_torch(Decoder(), *inputs)
    assert trace.total_matrix_flops == counted(Decoder(), *inputs)
    assert trace.total_parameters == sum(p.numel() for p in Decoder().parameters())
    serial = {r["op"]: r["serial_steps"] for r in trace.rows() if r["kind"] in ("matmul", "softmax")}
    assert serial == {"scores": 7, "softmax": 7, "context": 7, "input product": 7, "recurrent product": 7, "product": 1}
    # before the first step the state is the memory's and needs no gradient; here all steps of the cell, which is
    # derived by rule, count alike. The attention is autograd's own operators: six gradients of scores, not seven
    first = 2 * 4 * 32 * 96
    trained = from_torch(Decoder(), *inputs, training=True)
    assert trained.total_matrix_flops == counted(Decoder(), *inputs, backward=True) + first


def test_stacked_cells_in_a_loop():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = nn.ModuleList([nn.GRUCell(16, 16) for _ in range(3)])

        def forward(self, x):
            states = [x.new_zeros(x.shape[0], 16) for _ in self.cells]
            for t in range(x.shape[1]):
                h = x[:, t]
                for i, cell in enumerate(self.cells):
                    states[i] = h = cell(h, states[i])
            return h

    trace = from_torch(Stack(), meta(3, 7, 16))
    (row,) = [r for r in trace.rows() if r["op"] == "recurrent product"]
    assert (row["repeats"], row["serial_steps"], row["weight_sets"]) == (21, 7, 3)
    assert row["layer"] == "cells.0-2"
    assert trace.total_matrix_flops == gru(3, 16, sequence_length=7, batch=3).total_matrix_flops
    assert trace.total_parameters == sum(p.numel() for p in Stack().parameters())


def test_layers_that_share_a_function_are_no_loop():
    """One ReLU module between different layers: a stack, not time steps."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
            self.act = nn.ReLU()

        def forward(self, x):
            for part in self.parts:
                x = self.act(part(x))
            return x

    trace = from_torch(Shared(), meta(2, 8))
    assert set(trace.serial_steps.tolist()) == {1}
    assert trace.total_matrix_flops == 4 * 2 * 2 * 8 * 8
    assert len(trace) == 2
    assert trace.weight_sets[0] == 4


def test_a_loop_whose_steps_grow_says_so():
    class Grows(nn.Module):
        def forward(self, x):
            out = 0
            for t in range(1, 80):
                out = out + (x[:, :t] @ x[:, :t].transpose(1, 2)).sum()
            return out

    with pytest.warns(UnfoldedLoop, match="79 rows"):
        trace = from_torch(Grows(), meta(1, 80, 4))
    assert trace.total_matrix_flops == sum(2 * t * t * 4 for t in range(1, 80))


# -- attention ---------------------------------------------------------------------------------------


def test_every_way_to_write_attention_gives_the_same_products():
    q = meta(2, 4, 16, 64)
    fused, written = from_torch(Bare(), q), from_torch(WrittenOut(), q)
    assert fused.total_matrix_flops == written.total_matrix_flops == 4 * 2 * 4 * 16 * 16 * 64
    assert list(fused.kind) == ["attention"]
    assert [r["op"] for r in written.rows() if r["kind"] in ("matmul", "softmax")] == ["scores", "softmax", "context"]


@pytest.mark.parametrize("weights", [False, True])
def test_attention_module_with_and_without_its_weights(weights):
    module, x = nn.MultiheadAttention(64, 4, batch_first=True), meta(2, 16, 64)

    class Call(nn.Module):
        def __init__(self):
            super().__init__()
            self.mha = module

        def forward(self, x):
            return self.mha(x, x, x, need_weights=weights)

    trace = from_torch(Call(), x)
    assert ("attention" in trace.kind) is not weights  # asked for its weights, it must write the scores
    assert trace.total_matrix_flops == 4 * 2 * 32 * 64 * 64 + 2 * 2 * 2 * 16 * 16 * 64


def test_causal_attention_counts_visible_pairs_only():
    """PyTorch's counter has no causal case: it counts the whole square."""
    q = meta(2, 4, 16, 64)
    trace = from_torch(Bare(is_causal=True), q)
    assert trace.total_matrix_flops == 4 * 2 * 4 * 64 * (16 * 17 // 2)
    assert counted(Bare(is_causal=True), q) == 4 * 2 * 4 * 64 * 16 * 16
    assert trace.reach_ahead[0] == 0
    assert trace.reach_back[0] == 15


@pytest.mark.parametrize(("queries", "keys", "pairs"), [(4, 9, 10), (9, 4, 10 + 5 * 4), (1, 5, 1)])
def test_causal_masks_start_at_the_first_key(queries, keys, pairs):
    """As PyTorch documents: query i sees keys 0 to i."""
    trace = from_torch(Bare(is_causal=True), meta(1, 1, queries, 8), meta(1, 1, keys, 8))
    mask = torch.ones(queries, keys).tril()
    assert int(mask.sum()) == pairs
    assert trace.total_matrix_flops == 4 * 8 * pairs


def test_grouped_queries_share_keys():
    trace = from_torch(Bare(enable_gqa=True), meta(2, 8, 16, 64), meta(2, 2, 32, 64))
    (row,) = trace.rows()
    assert (row["batch"], row["m"], row["n"], row["k"]) == (2 * 2, 16 * 4, 128, 32)
    assert row["matrix_flops"] == 4 * 2 * 8 * 16 * 32 * 64
    assert row["input_bytes"] == 4 * (2 * 8 * 16 * 64 + 2 * 2 * 2 * 32 * 64)


def test_a_mask_is_read_and_hides_nothing():
    class Masked(nn.Module):
        def forward(self, q, mask):
            return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    (row,) = from_torch(Masked(), meta(2, 4, 16, 64), meta(16, 16)).rows()
    assert row["matrix_flops"] == 4 * 2 * 4 * 16 * 16 * 64
    assert row["input_bytes"] == 4 * (3 * 2 * 4 * 16 * 64 + 16 * 16)


def test_values_wider_than_keys():
    (row,) = from_torch(Bare(), meta(2, 4, 16, 64), meta(2, 4, 8, 64), meta(2, 4, 8, 96)).rows()
    assert row["matrix_flops"] == 2 * 2 * 4 * 16 * 8 * (64 + 96)
    assert row["output_bytes"] == 4 * 2 * 4 * 16 * 96


def test_the_fast_path_setting_is_put_back():
    before = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(TraceError):
        from_torch(nn.Linear(3, 3), meta(2, 4))
    assert torch.backends.mha.get_fastpath_enabled() == before


# -- folding -----------------------------------------------------------------------------------------


def encoder(layers=6):
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), layers)


def test_identical_layers_fold_and_totals_stay():
    folded, unfolded = (from_torch(encoder(), meta(2, 16, 64), fold=f) for f in (True, False))
    assert len(unfolded) == 6 * len(folded)
    assert set(folded.repeats.tolist()) == {6}
    assert {r["layer"] for r in folded.rows()} == {"layers.0-5"}
    assert {r["layer"] for r in unfolded.rows()} == {f"layers.{i}" for i in range(6)}
    for total in ("total_flops", "total_matrix_flops", "total_parameters", "total_bytes"):
        assert getattr(folded, total) == getattr(unfolded, total)
    assert folded.bytes_by_role() == unfolded.bytes_by_role()
    assert set(folded.path_runs.tolist()) == {6}


def test_folding_keeps_training_totals():
    folded, unfolded = (from_torch(encoder(), meta(2, 16, 64), fold=f, training=True) for f in (True, False))
    assert folded.total_matrix_flops == unfolded.total_matrix_flops
    assert folded.total_flops == unfolded.total_flops
    assert len(folded) < len(unfolded)


def test_branches_fold_side_by_side():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

        def forward(self, x):
            return torch.cat([e(x) for e in self.experts])

    row = from_torch(Branches(), meta(2, 8)).rows()[0]
    assert (row["repeats"], row["path_runs"], row["weight_sets"]) == (4, 1, 4)


def test_layers_of_different_size_do_not_fold():
    trace = from_torch(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 16)), meta(2, 8))
    assert len(trace) == 3
    assert [r["layer"] for r in trace.rows()] == ["0", "1", "2"]
    assert trace.after == ((), (0,), (1,))


def test_layers_that_take_turns_fold_in_pairs():
    pairs = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.GELU())]
    import copy

    trace = from_torch(nn.Sequential(*(copy.deepcopy(p) for _ in range(3) for p in pairs)), meta(2, 8))
    assert len(trace) == 4
    assert set(trace.repeats.tolist()) == {3}


def test_dependencies_are_the_data_flow():
    class Diamond(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.a(x)
            return self.b(y).view(2, 2, 4).flatten(1) + self.c(y)

    trace = from_torch(Diamond(), meta(2, 8))
    assert trace.after == ((), (0,), (0,), (1, 2))


# -- parameters and types ----------------------------------------------------------------------------


def test_tied_weights_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(100, 8), nn.Linear(8, 100, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    trace = from_torch(Tied(), meta(2, 5, dtype=torch.long))
    assert trace.parameters.tolist() == [800, 0]
    assert trace.weight_bytes.tolist() == [4 * 10 * 8, 4 * 800]
    assert (trace.sequences, trace.tokens) == (2, 5)


def test_unread_parameters_are_counted_and_reported():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, x):
            return self.used(x)

    with pytest.warns(UnreadParameters, match=r"2 parameter tensors \(45 in all\).*idle.weight"):
        trace = from_torch(Idle(), meta(2, 8))
    assert trace.total_parameters == 72 + 45
    assert trace.weight_bytes.tolist() == [4 * 72]
    with pytest.warns(UnreadParameters):
        trained = from_torch(Idle(), meta(2, 8), training=True, optimiser="sgd")
    assert rows(trained, phase="update")[0]["input_bytes"] == 4 * 72


def test_part_of_a_table_that_is_read_owns_the_rest():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(100, 8))

        def forward(self, x):
            return x + self.table[: x.shape[1]]

    (row,) = from_torch(Positions(), meta(2, 5, 8)).rows()
    assert row["parameters"] == 800
    assert row["weight_bytes"] == 4 * 5 * 8


@pytest.mark.parametrize(("dtype", "word", "size"), [(torch.bfloat16, "bf16", 2), (torch.float16, "fp16", 2)])
def test_element_types_are_those_of_the_tensors(dtype, word, size):
    (row,) = from_torch(nn.Linear(8, 4).to(dtype), meta(2, 8, dtype=dtype)).rows()
    assert (row["dtype"], row["weight_dtype"], row["activation_dtype"]) == (word,) * 3
    assert row["weight_bytes"] == size * 36


def test_autocast_computes_narrow_and_stores_wide():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = from_torch(nn.Linear(8, 4), meta(2, 8))
    (row,) = rows(trace, kind="matmul")
    assert (row["dtype"], row["weight_dtype"]) == ("bf16", "fp32")
    assert row["weight_bytes"] == 2 * 36
    assert row["parameters"] == trace.total_parameters == 36
    casts = rows(trace, kind="copy")
    assert sum(r["weight_bytes"] for r in casts) == 4 * 36
    assert trace.footprint()["weights"] == 4 * 36


def test_autocast_reaches_attention_and_recurrence():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert from_torch(Bare(), meta(2, 4, 16, 64)).dtype.tolist() == ["bf16"]
        trace = from_torch(nn.LSTM(8, 8), meta(5, 2, 8))
    assert set(trace.dtype) == {"bf16"}
    assert set(trace.weight_dtype) == {"fp32"}


# -- everything else ---------------------------------------------------------------------------------


def test_convolutions_agree_with_pytorchs_counter():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=4, dilation=2, bias=False), nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    x = meta(2, 3, 32, 32)
    trace = from_torch(net, x)
    assert trace.total_matrix_flops == counted(net.eval(), x)
    assert trace.total_parameters == sum(p.numel() for p in net.parameters())
    first = trace.rows()[0]
    assert (first["batch"], first["m"], first["n"], first["k"]) == (1, 2 * 16 * 16, 8, 27)
    assert [r["kind"] for r in trace.rows()].count("convolution") == 3
    grouped = rows(trace, layer="4")[0]
    assert (grouped["batch"], grouped["n"], grouped["k"]) == (4, 2, 18)


def test_a_convolution_along_a_sequence_reaches():
    row = from_torch(nn.Conv1d(4, 4, 3, padding=2, dilation=2), meta(1, 4, 20)).rows()[0]
    assert (row["reach_back"], row["reach_ahead"]) == (2, 2)


def test_views_are_free_and_copies_cost_bytes():
    class Moves(nn.Module):
        def forward(self, x):
            return x.transpose(0, 1).view(8, 2, 1).expand(8, 2, 5)[:, :1].contiguous()

    (row,) = from_torch(Moves(), meta(2, 8)).rows()
    assert row["kind"] == "copy"
    assert (row["input_bytes"], row["output_bytes"]) == (4 * 8, 4 * 40)
    assert row["vector_flops"] == row["special_ops"] == row["matrix_flops"] == 0


def test_norms_and_activations_cost_what_the_table_says():
    trace = from_torch(nn.Sequential(nn.LayerNorm(16), nn.GELU(), nn.Softmax(-1)), meta(4, 16))
    norm, gelu, softmax = trace.rows()
    assert norm["kind"] == "normalisation"
    assert (norm["vector_flops"], norm["special_ops"], norm["parameters"]) == (7 * 64, 4, 32)
    assert (gelu["vector_flops"], gelu["special_ops"]) == (8 * 64, 64)
    assert (softmax["kind"], softmax["vector_flops"], softmax["special_ops"]) == ("softmax", 4 * 64, 64)


def test_an_rms_norm_is_the_builders_row():
    trace = from_torch(nn.RMSNorm(16), meta(4, 16), name="rms")
    built = normalisation(4, 16, norm="rms", layer="rms").replace(name="rms")
    assert trace == built.replace(sequences=4)


def test_a_matrix_shared_by_a_batch_is_one_product():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(8, 4))

        def forward(self, x):
            return torch.bmm(x, self.w.expand(3, 8, 4))

    (row,) = from_torch(Shared(), meta(3, 2, 8)).rows()
    assert (row["batch"], row["m"], row["n"], row["k"], row["weight_bytes"]) == (1, 6, 4, 8, 4 * 32)


def test_in_place_writes_are_dependencies():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            out = x.new_empty(2, 2, 8)
            out[0] = self.a(x)
            out[1] = self.b(x)
            return out.sum()

    trace = from_torch(Writes(), meta(2, 8))
    ops = [r["op"] for r in trace.rows()]
    copies = [i for i, op in enumerate(ops) if op.startswith("copy")]
    assert len(copies) == 2
    assert set(trace.after[ops.index("sum")]) == set(copies)
    assert trace.rows()[copies[0]]["output_bytes"] == 4 * 16


class Odd(nn.Module):
    def forward(self, x):
        return torch.linalg.inv(torch.linalg.inv(x))


def test_an_unknown_operator_is_reported_with_its_bytes():
    with pytest.warns(UncostedOperator, match=r"linalg_inv_ex.*\(8, 8\) \(2 times\)"):
        trace = from_torch(Odd(), meta(8, 8))
    assert {r["kind"] for r in trace.rows()} == {"copy"}
    assert all(r["op"].startswith("unknown: ") and r["input_bytes"] == 256 for r in trace.rows())
    with pytest.raises(TraceError, match="linalg_inv_ex"):
        from_torch(Odd(), meta(8, 8), strict=True)


# -- training ----------------------------------------------------------------------------------------


def test_frozen_weights_have_no_gradient_and_no_update():
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 4))
    net[0].requires_grad_(False)
    net[3].requires_grad_(False)
    trace = from_torch(net, meta(2, 8), training=True, optimiser="adam")
    product = 2 * 2 * 8 * 8
    # forward; the second layer's weights; the third's input. Nothing needs what comes before.
    assert trace.total_matrix_flops == (2 * product + product // 2) + product + product // 2
    assert [r["layer"] for r in rows(trace, phase="update")] == ["2"]
    assert trace.total_matrix_flops == counted(net, meta(2, 8), backward=True)


def test_detach_stops_the_gradient():
    class Stops(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(self.a(x).detach())

    trace = from_torch(Stops(), meta(2, 8), training=True)
    assert not [r for r in trace.rows() if r["phase"] == "input-gradient" and r["matrix_flops"]]


def test_updates_only_with_an_optimiser():
    plain = from_torch(nn.Linear(8, 8), meta(2, 8), training=True)
    assert set(plain.phase) == {"forward", "weight-gradient"}
    adam = from_torch(nn.Linear(8, 8), meta(2, 8), training=True, optimiser="adam")
    assert rows(adam, phase="update")[0]["vector_flops"] == 12 * 72
    with pytest.raises(TraceError, match="optimiser"):
        from_torch(nn.Linear(8, 8), meta(2, 8), training=True, optimiser="adma")


def test_training_keeps_dropout_and_evaluation_drops_it():
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    assert len(from_torch(net, meta(2, 8))) == 1
    assert "bernoulli" in " ".join(from_torch(net, meta(2, 8), training=True).op)
    assert net.training


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Sequential(*(nn.Linear(16, 16) for _ in range(4))), (2, 16)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 5, 3)), (2, 3, 8, 8)),
        (lambda: nn.MultiheadAttention(16, 4), None),
    ],
)
def test_training_flop_are_those_of_the_real_backward_pass(build, shape, grad):
    args = (meta(5, 2, 16, grad=grad),) * 3 if shape is None else (meta(*shape, grad=grad),)
    assert from_torch(build(), *args, training=True).total_matrix_flops == counted(build(), *args, backward=True)


# -- what must not happen ----------------------------------------------------------------------------


def test_the_module_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.LSTM(8, 8))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    ids = [id(p) for p in net.parameters()]
    from_torch(net[:2], torch.ones(2, 8), training=True)
    from_torch(net[2], torch.ones(2, 8))
    assert [id(p) for p in net.parameters()] == ids
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training
    assert not net[0]._forward_hooks
    assert net[0](torch.ones(2, 8)).shape == (2, 8)  # and PyTorch computes again


def test_terabytes_import_at_once():
    """10^12 parameters on meta: only shapes exist."""
    with torch.device("meta"):
        net = nn.Linear(10**6, 10**6, bias=False)
    trace = from_torch(net, meta(1, 10**6))
    assert trace.total_parameters == 10**12
    assert trace.total_matrix_flops == 2 * 10**12


def test_importing_workloads_importers_does_not_import_torch():
    import subprocess
    import sys
    from pathlib import Path

    script = "import sys, workloads.importers; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(9, 8)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_a_failing_forward_names_the_module_path():
    with pytest.raises(TraceError, match=r"^Inner\.blocks\.1: the forward pass failed: .*\[2, 8\].*\[9, 8\]") as caught:
        from_torch(Inner(), meta(2, 8))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("module", "args", "message"),
    [
        (lambda: nn.LSTM(8, 8), (meta(5, 2, 9),), "input.size"),
        (lambda: CellLoop(nn.LSTMCell, 8, 8), (meta(2, 5, 9),), r"cell: the forward pass failed"),
        (lambda: nn.LSTM(8, 8), (), "missing"),
        (Bare, (meta(1, 2, 4, 8), meta(1, 2, 4, 9)), "do not fit"),
        (lambda: nn.LazyLinear(8), (meta(2, 8),), "lazy"),
        (nn.Identity, (meta(2, 8),), "no operator"),
    ],
)
def test_bad_inputs_are_one_clear_error(module, args, message):
    with pytest.raises(TraceError, match=message):
        from_torch(module(), *args)


def test_a_module_that_cannot_be_copied_says_so():
    import threading

    net = nn.Linear(8, 8)
    net.lock = threading.Lock()
    with pytest.raises(TraceError, match=r"Linear cannot be copied: .*lock"):
        from_torch(net, meta(2, 8))


def test_what_the_forward_pass_changes_stays_in_the_copy():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.memory = 0, None

        def forward(self, x, lengths):
            self.calls += 1
            lengths += 1
            self.memory = x + 1
            return self.memory

    net, lengths = Counts(), torch.tensor([1, 2])
    from_torch(net, meta(2, 8), lengths)
    assert (net.calls, net.memory, lengths.tolist()) == (0, None, [1, 2])


def test_what_depends_on_values_says_so():
    class Peeks(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(TraceError, match=r"Peeks: .*depends on the values of a tensor"):
        from_torch(Peeks(), torch.ones(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": len}, "torch.nn.Module is expected, got builtin"),
        ({"training": 1}, "training must be True or False"),
        ({"sequences": 0}, "sequences must be"),
        ({"tokens": 2.5}, "tokens must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    module = arguments.pop("module", nn.Linear(8, 8))
    with pytest.raises(TraceError, match=message):
        from_torch(module, meta(2, 8), **arguments)


@pytest.mark.parametrize(
    ("module", "shape", "sizes"),
    [
        (nn.LSTM(8, 8), (5, 2, 8), (2, 5)),
        (nn.LSTM(8, 8, batch_first=True), (2, 5, 8), (2, 5)),
        (nn.TransformerEncoderLayer(8, 2), (5, 2, 8), (2, 5)),
        (nn.Linear(8, 8), (2, 5, 8), (2, 5)),
        (nn.Linear(8, 8), (2, 8), (2, 1)),
        (nn.Conv2d(3, 4, 3), (2, 3, 9, 9), (2, 1)),
    ],
)
def test_sequences_and_tokens_are_found(module, shape, sizes):
    trace = from_torch(module, meta(*shape))
    assert (trace.sequences, trace.tokens) == sizes


def test_attention_within_windows_does_not_count_as_sequences():
    class Windows(nn.Module):
        def forward(self, x):
            windows = x.view(2, 4, 4, 16, 8).transpose(1, 2).reshape(8, 4, 16, 8)
            return F.scaled_dot_product_attention(windows, windows, windows)

    assert from_torch(Windows(), meta(2, 3 + 1, 64, 8)).sequences == 2


def test_names_and_counts_can_be_given():
    trace = from_torch(nn.Linear(8, 8), meta(6, 8), name="mine", sequences=2, tokens=3)
    assert isinstance(trace, Trace)
    assert (trace.name, trace.sequences, trace.tokens) == ("mine", 2, 3)
    assert trace.layer.tolist() == ["mine"]


def test_keyword_inputs_and_lists_are_tensors_too():
    class Takes(nn.Module):
        def forward(self, parts, *, scale):
            return torch.cat(parts) * scale

    trace = from_torch(Takes(), [meta(2, 8), meta(3, 8)], scale=meta(8))
    assert trace.rows()[0]["input_bytes"] == 4 * 40
