"""Networks nobody here wrote, built from their configuration on the meta device: nothing is downloaded or allocated.

Parameters must be exact. Matrix FLOP must be those PyTorch's counter finds on meta, and differ only where an
explanation here gives the exact difference: it counts the whole square of a causal attention.
"""

from __future__ import annotations

import pytest

from workloads import network, transformer
from workloads.importers import from_torch

torch = pytest.importorskip("torch", reason="needs torch: pip install 'rooftrace[torch]'")
transformers = pytest.importorskip("transformers", reason="needs transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.transformers, pytest.mark.filterwarnings("ignore::FutureWarning")]

B, L = 2, 128


def on_meta(build, dtype=torch.float32):
    with torch.device("meta"):
        return build().to(dtype).eval()


def ids(length=L):
    return torch.zeros(B, length, dtype=torch.long, device="meta")


def counted(module, **inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**inputs)
    return counter.get_total_flops()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def hidden_half(layers, heads, size, length=L):
    """FLOP of the pairs a causal mask hides: L (L - 1) / 2 a head."""
    return layers * B * heads * 4 * size * (length * (length - 1) // 2)


def bert():
    config = transformers.BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )
    return transformers.BertModel(config)


def llama(layers=80):
    config = transformers.LlamaConfig(
        hidden_size=8192, num_hidden_layers=layers, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=28672, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


NETWORKS = {
    "bert": (bert, lambda: {"input_ids": ids()}, 0),
    "gpt2": (
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config()),
        lambda: {"input_ids": ids()},
        hidden_half(12, 12, 64),
    ),
    "llama": (lambda: llama(4), lambda: {"input_ids": ids()}, hidden_half(4, 64, 128)),
    # its masks carry a bias: a tensor, whose zeros nobody knows
    "t5": (
        lambda: transformers.T5ForConditionalGeneration(transformers.T5Config()),
        lambda: {"input_ids": ids(), "decoder_input_ids": ids()},
        0,
    ),
    "whisper": (
        lambda: transformers.WhisperForConditionalGeneration(transformers.WhisperConfig()),
        lambda: {
            "input_features": torch.zeros(B, 80, 3000, device="meta"),
            "decoder_input_ids": ids(),
        },
        hidden_half(4, 6, 64),
    ),
    "mamba": (
        lambda: transformers.MambaForCausalLM(transformers.MambaConfig(num_hidden_layers=2)),
        lambda: {"input_ids": ids(16)},
        0,
    ),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
def test_parameters_are_exact(name):
    build, inputs, _ = NETWORKS[name]
    module = on_meta(build)
    assert from_torch(module, **inputs()).total_parameters == parameters(module)


@every_network
def test_matrix_flop_are_pytorchs_but_for_hidden_pairs(name):
    build, inputs, hidden = NETWORKS[name]
    module = on_meta(build)
    assert from_torch(module, **inputs()).total_matrix_flops == counted(module, **inputs()) - hidden


@every_network
def test_nothing_is_uncosted_and_folding_changes_no_total(name):
    build, inputs, _ = NETWORKS[name]
    module = on_meta(build)
    folded = from_torch(module, strict=True, **inputs())
    unfolded = from_torch(module, fold=False, **inputs()) if name != "mamba" else None
    if unfolded is not None:
        assert len(folded) < len(unfolded)
        for total in ("total_flops", "total_matrix_flops", "total_parameters", "total_bytes"):
            assert getattr(folded, total) == getattr(unfolded, total)


def test_llama_70b_is_one_block_eighty_times():
    module = on_meta(llama, torch.bfloat16)
    trace = from_torch(module, input_ids=ids())
    assert trace.total_parameters == parameters(module) > 68e9
    assert trace.total_matrix_flops == counted(module, input_ids=ids()) - hidden_half(80, 64, 128)
    assert len(trace) < 80
    (attention,) = [r for r in trace.rows() if r["kind"] == "attention"]
    assert (attention["repeats"], attention["batch"], attention["m"]) == (80, B * 8, L * 8)
    assert attention["layer"] == "model.layers.0-79"
    assert (trace.sequences, trace.tokens) == (B, L)
    products = [r for r in trace.rows() if r["kind"] == "matmul"]
    assert {r["dtype"] for r in products} == {"bf16"}
    assert trace.footprint()["weights"] == 2 * parameters(module)


def test_bert_large_is_the_builders():
    """Same matrix FLOP and parameters; the builder merges query, key and value and has no language model head here."""
    module = on_meta(bert)
    trace = from_torch(module, input_ids=ids())
    built = transformer(
        24, 1024, 16, module.config.vocab_size, sequence_length=L, batch=B, causal=False, pre_norm=False, segments=2,
        max_positions=512, embedding_norm=True, logits="none", pooler=True,
    )  # fmt: skip
    assert trace.total_matrix_flops == built.total_matrix_flops
    assert trace.total_parameters == built.total_parameters
    assert (trace.sequences, trace.tokens) == (built.sequences, built.tokens)
    attention = [r for r in trace.rows() if r["kind"] == "attention"]
    wanted = [r for r in built.rows() if r["kind"] == "attention"]
    columns = ("batch", "m", "n", "k", "matrix_flops", "vector_flops", "special_ops", "input_bytes", "output_bytes",
               "repeats", "path_runs", "reach_back", "reach_ahead")  # fmt: skip
    assert [{c: r[c] for c in columns} for r in attention] == [{c: r[c] for c in columns} for r in wanted]


def test_gpt2_is_the_builders():
    module = on_meta(NETWORKS["gpt2"][0])
    trace = from_torch(module, input_ids=ids())
    built = transformer(12, 768, 12, 50257, sequence_length=L, batch=B, max_positions=1024)
    assert trace.total_matrix_flops == built.total_matrix_flops
    assert trace.total_parameters == built.total_parameters


def test_the_published_bert_large_is_the_import():
    """The network by name is an import of the module at the same sizes, up to what the entry adds or leaves out."""
    built = network("bert-large", batch=B, seq_len=L)
    trace = from_torch(on_meta(bert), input_ids=ids())
    per_block = [sum(r["matrix_flops"] for r in t.rows() if r["repeats"] == 24) for t in (built, trace)]
    assert per_block[0] == per_block[1]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_written_out_or_fused_does_the_same_products(implementation):
    config = transformers.BertConfig(num_hidden_layers=2)
    config._attn_implementation = implementation
    trace = from_torch(on_meta(lambda: transformers.BertModel(config)), input_ids=ids())
    pairs = 4 * B * 12 * L * L * 64
    if implementation == "sdpa":
        assert sum(r["matrix_flops"] for r in trace.rows() if r["kind"] == "attention") == pairs
    else:
        named = [r for r in trace.rows() if r["op"].split(": ")[-1] in ("scores", "context")]
        assert sum(r["matrix_flops"] for r in named) == pairs
        assert "attention" not in trace.kind


def test_training_is_the_real_backward_pass():
    """BERT's embeddings are trained, so every layer has its input gradient; fused attention does 2.5 instead of 2."""
    config = transformers.BertConfig(num_hidden_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    module = on_meta(lambda: transformers.BertModel(config))
    trace = from_torch(module, input_ids=ids(), training=True)
    with FlopCounterMode(display=False) as counter:
        module(input_ids=ids()).pooler_output.sum().backward()
    assert trace.total_matrix_flops == counter.get_total_flops() + 2 * (2 * B * 12 * L * L * 64)


def backward_counted(module, **inputs):
    """FLOP of PyTorch's counter over the forward and the real backward pass from every result."""
    with FlopCounterMode(display=False) as counter:
        results = module(**inputs).to_tuple()
        leaves = [t for t in results if isinstance(t, torch.Tensor) and t.requires_grad]
        torch.autograd.backward(leaves, [torch.empty_like(t) for t in leaves])
    return counter.get_total_flops()


@every_network
def test_training_flop_are_pytorchs_over_the_real_backward_pass(name):
    """Three differences, all known: fused attention does 2.5 times its forward products backward where autograd, which
    keeps the scores on meta, does 2; a causal mask hides pairs three times; and PyTorch's counter takes the weight
    gradient of a grouped convolution for a full one, so Mamba's (one group a channel) 1536 times.
    """
    build, inputs, hidden = NETWORKS[name]
    module = on_meta(build).train()
    trace = from_torch(module, training=True, strict=True, **inputs())
    fused = sum(r["matrix_flops"] * r["repeats"] for r in trace.rows() if r["kind"] == "attention" and is_forward(r))
    width, taps, length = 1536, 4, 16
    grouped = 2 * (width - 1) * 2 * B * (length + taps - 1) * width * taps if name == "mamba" else 0
    assert trace.total_matrix_flops == backward_counted(module, **inputs()) + fused // 2 - 3 * hidden - grouped


def is_forward(row):
    return row["phase"] == "forward"


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "whisper"])
def test_training_folds_and_changes_no_total(name):
    """Also what is kept, and one gradient for each parameter that has one (Whisper's sines are frozen)."""
    build, inputs, _ = NETWORKS[name]
    module = on_meta(build).train()
    folded, unfolded = (from_torch(module, training=True, optimiser="adam", fold=f, **inputs()) for f in (True, False))
    assert len(folded) < len(unfolded) / 2
    for total in ("total_flops", "total_matrix_flops", "total_parameters", "total_bytes"):
        assert getattr(folded, total) == getattr(unfolded, total)
    assert folded.bytes_by_role() == unfolded.bytes_by_role()
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert folded.footprint()["gradients"] == unfolded.footprint()["gradients"] == 4 * trained
    assert folded.footprint()["optimiser"] == 8 * trained
    assert folded.footprint()["saved"] == pytest.approx(unfolded.footprint()["saved"], rel=1e-6)  # rounded up by row


def test_rows_of_a_training_step_do_not_grow_with_the_layers():
    few, many = (
        from_torch(on_meta(lambda n=n: llama(n)).train(), input_ids=ids(), training=True, optimiser="adam")
        for n in (4, 8)
    )
    assert len(few) == len(many)
    stacked = {r["layer"] for r in many.rows() if r["phase"] == "weight-gradient" and "layers" in r["layer"]}
    assert stacked == {"model.layers.0-7"}


def test_experts_count_the_rows_they_are_given():
    """Two of four experts see each token: rows of all experts together are known, who gets which is not."""
    config = transformers.MixtralConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=100,
    )  # fmt: skip
    module = on_meta(lambda: transformers.MixtralForCausalLM(config), torch.bfloat16)
    trace = from_torch(module, input_ids=ids())
    grouped = [r for r in trace.rows() if "4 groups" in r["op"]]
    assert sum(r["matrix_flops"] * r["repeats"] for r in grouped) == 2 * (2 * 2 * B * L) * 64 * (3 * 128)
    assert trace.total_parameters == parameters(module)


def test_mambas_scan_is_serial_steps():
    trace = from_torch(on_meta(NETWORKS["mamba"][0]), input_ids=ids(16))
    scan = [r for r in trace.rows() if r["serial_steps"] > 1]
    assert {r["serial_steps"] for r in scan} == {16}
    assert {r["repeats"] for r in scan} == {2 * 16}
    assert {r["op"].split(": ")[-1] for r in scan} == {"multiply", "add"}
