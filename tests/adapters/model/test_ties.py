"""A base whose config says that head and table are tied, and whose checkpoint has a value for each.

Transformers ties nothing then, and says nothing to the config; a client can know it from the daemon only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.valueless import changes
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType
from tests.adapters.local import CONFIGS, VOCABULARY, LocalBase, Pair

IDS = torch.arange(3, 12).view(1, 9)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apart")
    config = LlamaConfig(**{**CONFIGS["llama"], "tie_word_embeddings": False}, vocab_size=VOCABULARY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def plain(path: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(path, tie_word_embeddings=True).eval()
    assert model.config.tie_word_embeddings
    return model


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LENT])
def test_head_and_table_stay_two_and_each_has_its_own_values(path: Path, cut: Cut) -> None:
    theirs = plain(path)
    ours = LocalBase(plain(path), DType.FLOAT32, str(path)).remote(cut)
    assert ours.lm_head.weight is not ours.model.embed_tokens.weight
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits)
        assert torch.equal(ours.lm_head.weight + 0, theirs.lm_head.weight)
        assert torch.equal(ours.model.embed_tokens.weight + 0, theirs.model.embed_tokens.weight)


@pytest.mark.filterwarnings("ignore:Model .* `tie_word_embeddings=True`")
def test_merging_into_the_table_unties_the_config_as_with_plain_peft(path: Path) -> None:
    """PEFT looks whether head and table lie at two places."""
    merged: list[Any] = []
    for base in (plain(path), LocalBase(plain(path), DType.FLOAT32, str(path)).remote()):
        torch.manual_seed(2)
        model = get_peft_model(base, LoraConfig(target_modules=["embed_tokens"], init_lora_weights=False))
        with pytest.warns(UserWarning, match=r"Setting.*tie_word_embeddings"):
            merged.append(model.merge_and_unload())
    theirs, ours = merged
    assert not ours.config.tie_word_embeddings
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits)


def test_what_the_daemon_has_tied_stays_tied() -> None:
    pair = Pair("llama")
    assert pair.spec.ties == (("model.embed_tokens.weight", "lm_head.weight"),)
    ours = pair.remote()
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LINEAR, Cut.LENT])
def test_a_bias_that_a_model_holds_beside_its_layer_is_one_with_that(cut: Cut) -> None:
    """BERT's head: the daemon names it as a tensor, and has it in an op."""
    pair = Pair("bert", shape={**CONFIGS["llama"], "is_decoder": True})
    ours, theirs = pair.remote(cut), pair.plain()
    assert ("cls.predictions.bias", "cls.predictions.decoder.bias") in pair.spec.ties
    assert ours.cls.predictions.bias is ours.cls.predictions.decoder.bias
    assert ours.num_parameters() == theirs.num_parameters()
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS).logits + 0, theirs(IDS).logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(ours.cls.predictions.bias + 0, theirs.cls.predictions.bias)


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LINEAR, Cut.LENT])
def test_tying_by_hand_gives_the_head_the_tables_values_as_with_plain_transformers(path: Path, cut: Cut) -> None:
    theirs, ours = plain(path), LocalBase(plain(path), DType.FLOAT32, str(path)).remote(cut)
    with torch.no_grad():
        apart = ours(IDS).logits + 0
        theirs.tie_weights()
        ours.tie_weights()
        assert ours.lm_head.weight is ours.model.embed_tokens.weight
        torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits)
        assert not torch.allclose(ours(IDS).logits, apart)


def test_tying_by_hand_is_refused_where_nothing_is_lent_and_changes_nothing(path: Path) -> None:
    ours = LocalBase(plain(path), DType.FLOAT32, str(path), allow="nobody").remote()
    with torch.no_grad():
        apart = ours(IDS).logits + 0
        said = r"embed_tokens\.weight: tying lm_head to it.*tie_weights.*leave the two apart"
        with pytest.raises(UsageError, match=said):
            ours.tie_weights()
        assert torch.equal(ours(IDS).logits, apart)


def test_tying_a_model_that_is_not_to_be_tied_takes_no_weight(path: Path) -> None:
    ours = LocalBase(AutoModelForCausalLM.from_pretrained(path), DType.FLOAT32, str(path)).remote()
    before = changes()
    ours.tie_weights()
    assert changes() == before
    assert ours.lm_head.weight is not ours.model.embed_tokens.weight
