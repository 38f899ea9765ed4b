"""With the base's real weights lent, whatever PEFT does to a base works, equals plain PEFT, and stays private."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, OFTConfig, PeftConfig, PeftModel
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM

from symbiosis_adapters import surgery
from symbiosis_adapters.cut import Cut
from symbiosis_adapters.explanation import explain
from symbiosis_adapters.lending import BorrowedWeights
from symbiosis_adapters.placeholder import FrozenWeight
from symbiosis_core.errors import RefusedError, RemoteProtocolError, UsageError
from symbiosis_core.specs import DType, LentTensor, TensorSpec
from symbiosis_core.wire import Loan
from symbiosis_scheduler.lending import Lent
from tests.adapters.local import LAYERS, Pair
from tests.adapters.test_peft import QV, Run, adapt, batches, config, logits, lora, tokens

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file in someone/tiny"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`"),
]

Make = Callable[[], PeftConfig]
READING: dict[str, tuple[str, Make]] = {
    "dora": ("llama", lora(QV, use_dora=True)),
    "dora all": ("qwen2", lora("all-linear", use_dora=True, lora_dropout=0.1)),
}
"""Methods that read the base and leave it as it is."""
CHANGING: dict[str, tuple[str, Make]] = {
    "dora gpt2": ("gpt2", lora(["c_attn"], use_dora=True, fan_in_fan_out=True)),
    "pissa": ("llama", lora(QV, init_lora_weights="pissa")),
    "pissa gpt2": ("gpt2", lora(["c_attn", "c_fc"], init_lora_weights="pissa", fan_in_fan_out=True)),
    "olora": ("llama", lora("all-linear", init_lora_weights="olora")),
    "saved head": ("llama", lora(QV, modules_to_save=["lm_head"])),
    "bias": ("qwen2", lora(["q_proj"], bias="all")),
}
"""Methods that change it, or train a part of it."""
MERGED: dict[str, Make] = {
    "lora": lora("all-linear", init_lora_weights=False),
    "dora": lora(QV, init_lora_weights=False, use_dora=True),
    "ia3": config(IA3Config, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "oft": config(OFTConfig, r=0, oft_block_size=4, target_modules=QV),
    "embedding": lora([*QV, "embed_tokens"], init_lora_weights=False),
}


def lent_bytes(pair: Pair) -> bytes:
    """What the daemon holds at this moment."""
    lent = pair.rows.layers.lent
    assert isinstance(lent, Lent)
    return os.pread(lent.memory.fd, lent.memory.nbytes, 0)


@pytest.fixture
def pair() -> Any:
    """A base of which not one byte may have changed at the end."""
    made = Pair("llama")
    before = lent_bytes(made)
    yield made
    assert lent_bytes(made) == before


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        *((name, Cut.GRAPH) for name in [*READING, *CHANGING]),
        *(("dora", Cut.SIBLINGS), ("pissa", Cut.SIBLINGS), ("dora", Cut.LENT), ("saved head", Cut.LENT)),
    ],
)
def test_methods_that_need_real_weights_equal_plain_peft(name: str, cut: Cut) -> None:
    arch, make = {**READING, **CHANGING}[name]
    pair = Pair(arch)
    before = lent_bytes(pair)
    plain, ours = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    ours.check(plain)
    assert torch.equal(tokens(ours.model), tokens(plain.model))
    assert lent_bytes(pair) == before


def test_what_only_reads_leaves_the_layers_to_the_daemon(pair: Pair) -> None:
    model = adapt(pair.remote(), READING["dora"][1])
    model(**batches(1)[0]).loss.backward()
    assert explain(model).taken == ()
    assert all(isinstance(p, FrozenWeight) for n, p in model.named_parameters() if n.endswith("base_layer.weight"))


def test_what_changes_weights_has_those_layers_computed_here_and_says_so(pair: Pair) -> None:
    model = adapt(pair.remote(), CHANGING["pissa"][1])
    layers = [f"model.layers.{block}.self_attn.{name}" for block in range(LAYERS) for name in QV]
    told = explain(model)
    assert told.taken == tuple(layers)
    assert f"computed here, with a weight of this process's own: {layers[0]}" in str(told)
    model(**batches(1)[0])
    assert not any("q_proj" in trip and "q_proj,k_proj" not in trip for trip in pair.rows.forward)


class Twice(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LINEAR])
def test_a_layer_whose_weight_is_a_function_of_the_bases_is_computed_here(pair: Pair, cut: Cut) -> None:
    """PEFT's target_parameters makes it one while a forward lasts; then the layer is the daemon's again."""
    model = pair.remote(cut)
    remote, plain = model.model.layers[0].self_attn.q_proj, pair.plain().model.layers[0].self_attn.q_proj
    x = torch.randn(2, 3, remote.in_features, generator=torch.Generator().manual_seed(1))
    expected = plain(x).detach()
    for parametrized, trips in ((False, 1), (True, 0), (False, 1)):
        if parametrized:
            parametrize.register_parametrization(remote, "weight", Twice())
        elif parametrize.is_parametrized(remote):
            parametrize.remove_parametrizations(remote, "weight", leave_parametrized=False)
        before = len(pair.rows.trips)
        assert remote.taken == parametrized
        torch.testing.assert_close(remote(x) * 1, expected * (1 + parametrized), rtol=1e-4, atol=1e-5)
        assert len(pair.rows.trips) - before == trips
    assert type(remote.weight) is FrozenWeight
    assert explain(model).taken == ()


@pytest.mark.parametrize(
    ("name", "cut"), [*((name, Cut.GRAPH) for name in MERGED), *(("lora", cut) for cut in Cut if cut != Cut.GRAPH)]
)
def test_a_merged_model_is_the_plain_merged_one_and_loads_in_transformers(
    name: str, cut: Cut, pair: Pair, tmp_path: Path
) -> None:
    trained = [adapt(base, MERGED[name]).eval() for base in (pair.plain(), pair.remote(cut))]
    with torch.no_grad():
        for model in trained:
            model(**batches(1)[0])  # so that whatever a forward leaves behind is there
    plain, ours = (model.merge_and_unload(safe_merge=True) for model in trained)
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens(ours), tokens(plain))
    ours.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(loaded), logits(plain), rtol=1e-4, atol=1e-5)
    assert explain(ours).taken or cut is Cut.LENT


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("safe", [True, False])
def test_a_layer_computes_with_what_was_merged_into_it_and_with_the_base_once_that_is_taken_out(
    cut: Cut, safe: bool, pair: Pair
) -> None:
    """Between forwards, when passages and sibling groups have got used to the layer."""
    model, plain = (
        adapt(base, lora("all-linear", init_lora_weights=False)).eval()
        for base in (pair.remote(cut), pair.plain())
    )
    apart = logits(model)
    with model.disable_adapter():
        base = logits(model)
    assert (apart - base).abs().max() > 1e-3
    for _ in range(2):
        model.merge_adapter(safe_merge=safe)
        plain.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(logits(model), logits(plain), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits(model), apart, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        plain.unmerge_adapter()
        with model.disable_adapter():
            torch.testing.assert_close(logits(model), base, rtol=1e-4, atol=1e-5)


def test_a_write_is_seen_by_its_writer_and_by_nobody_else(pair: Pair) -> None:
    models = [pair.remote(), pair.remote(), pair.remote(Cut.LENT)]
    models.append(copy.deepcopy(models[0]))
    before = [logits(model) for model in models]
    with torch.no_grad():
        models[0].model.layers[0].mlp.up_proj.weight.mul_(3)
        models[2].model.layers[1].mlp.up_proj.weight.data[0] = 7.0
    after = [logits(model) for model in models]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, False, True]


def test_a_write_to_a_tied_weight_counts_wherever_it_is_used(pair: Pair) -> None:
    """Llama here has tied embeddings."""
    plain, ours = pair.plain(), pair.remote()
    for model in (plain, ours):
        model.lm_head.weight.data += 0.5
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-5, atol=1e-6)


def test_the_lent_cut_asks_the_daemon_for_no_row_and_has_the_models_bits(pair: Pair) -> None:
    plain, ours = pair.plain(), pair.remote(Cut.LENT)
    assert type(ours.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert torch.equal(logits(ours), logits(plain))
    Run(adapt(ours, lora("all-linear"))).check(Run(adapt(plain, lora("all-linear"))))
    assert pair.rows.trips == []
    assert str(explain(ours)) == "cut: lent, no trips: computed here, with the daemon's weights"


@pytest.mark.parametrize("cut", [Cut.SIBLINGS, Cut.LENT])
def test_experts_are_mapped_and_adapters_on_them_equal_plain_peft(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are three-dimensional parameters and no ops; what is large of that kind is not fetched."""
    monkeypatch.setattr(surgery, "LARGE_BYTES", 4096)
    pair = Pair("mixtral")
    fetched: list[str] = []
    fetch = pair.fetch

    def note(tensor: TensorSpec) -> torch.Tensor:
        fetched.append(tensor.name)
        return fetch(tensor)

    def make() -> PeftConfig:
        return LoraConfig(r=4, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])

    monkeypatch.setattr(pair, "fetch", note)
    plain, ours = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    ours.check(plain)
    assert not any("experts" in name for name in fetched)
    assert any("inv_freq" in name for name in fetched)


def test_a_base_in_bfloat16_is_decomposed_as_plain_peft_does() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    make = CHANGING["pissa"][1]
    plain, ours = adapt(pair.plain(), make), adapt(pair.remote(), make)
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if "q_proj" in name:
            torch.testing.assert_close(mine, theirs, msg=name)


def test_an_adapter_that_changed_the_base_moves_to_a_plain_one(pair: Pair, tmp_path: Path) -> None:
    trained = Run(adapt(pair.remote(), CHANGING["saved head"][1]), steps=3).model
    trained.save_pretrained(tmp_path)
    for base in (pair.plain(), pair.remote()):
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()
        torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-4, atol=1e-5)


def test_a_weight_that_was_put_aside_comes_back(pair: Pair) -> None:
    model = pair.remote()
    before = logits(model)
    layer = model.model.layers[0].mlp.up_proj
    aside = layer.weight.data
    layer.weight.data = torch.zeros_like(layer.weight)
    assert not torch.equal(logits(model), before)
    layer.weight.data = aside
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)


def test_lent_values_pickle_and_convert(pair: Pair) -> None:
    ours, plain = pair.remote().lm_head.weight, pair.plain().lm_head.weight
    assert torch.equal(pickle.loads(pickle.dumps(ours)), plain)
    assert torch.equal(ours.to(torch.float64), plain.double())
    assert torch.equal(ours.data.T.clone() + 0, plain.T)
    assert torch.equal(torch.zeros(plain.shape).copy_(ours), plain)
    assert isinstance(ours, FrozenWeight)


def test_a_larger_vocabulary_is_this_process_own(pair: Pair) -> None:
    plain, ours = pair.plain(), pair.remote()
    for model in (plain, ours):
        model.resize_token_embeddings(120, mean_resizing=False)
        model.lm_head.weight.data[96:] = 0.0
    assert logits(ours).shape[-1] == 120
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_dtype_is_refused_even_where_weights_are_lent(dtype: torch.dtype, pair: Pair) -> None:
    ours = pair.remote()
    before = logits(ours)
    with pytest.raises(UsageError, match=r"converting it to .*Use torch\.autocast"):
        ours.to(dtype)
    assert torch.equal(logits(ours), before)


def test_what_nobody_lends_is_refused_and_says_who_needs_it_why_and_what_to_set() -> None:
    pair = Pair("llama", allow="nobody")
    for name in ("dora", "pissa", "olora", "saved head"):
        with pytest.raises(UsageError, match=r"weight: .* is not possible") as caught:
            adapt(pair.remote(), {**READING, **CHANGING}[name][1])
        assert 'set lending.allow = "same_user"' in str(caught.value), name
    with pytest.raises(UsageError, match=r"q_proj\.weight: .* which peft\.tuners\.lora\.dora\..* needs"):
        adapt(pair.remote(), READING["dora"][1])
    with pytest.raises(RefusedError, match=r"lends its weights to nobody"):
        pair.remote(Cut.LENT)


def test_a_refused_merge_leaves_the_model_as_it_was() -> None:
    model = adapt(Pair("llama", allow="nobody").remote(), lora(QV))
    before = logits(model)
    for merge in (model.merge_and_unload, lambda: model.merge_adapter(safe_merge=True)):
        with pytest.raises(UsageError, match="is not possible"):
            merge()
    assert torch.equal(logits(model), before)


def test_a_loan_is_checked_before_it_is_believed(pair: Pair) -> None:
    lent = pair.rows.layers.lent
    assert isinstance(lent, Lent)
    size = lent.memory.nbytes
    beyond = LentTensor("x", DType.FLOAT32, (4,), size - 12)
    askew = LentTensor("x", DType.FLOAT32, (1,), 2)
    for tensor in (beyond, askew):
        with pytest.raises(RemoteProtocolError, match="does not lie within"):
            BorrowedWeights(os.dup(lent.memory.fd), Loan("", "", size, (tensor,)))
    with pytest.raises(RemoteProtocolError, match="bytes, announced were"):
        BorrowedWeights(os.dup(lent.memory.fd), Loan("", "", size + 1, ()))
    unsealed = os.memfd_create("mine", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 64)
    with pytest.raises(RemoteProtocolError, match="not sealed"):
        BorrowedWeights(unsealed, Loan("", "", 64, ()))
    good = BorrowedWeights(os.dup(lent.memory.fd), Loan("", "", size, lent.tensors))
    with pytest.raises(RemoteProtocolError, match=r"does not contain model\.nothing"):
        good.frozen("model.nothing")
