"""Trainer saves and resumes a model of which only the head is trained, whether its base is lent or not."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import prepare_model_for_kbit_training
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.model.heads import Head
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType
from tests.adapters.local import VOCABULARY, Pair
from tests.adapters.trainers import few_steps, losses

IDS = torch.randint(3, VOCABULARY, (8, 10), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": ids, "labels": torch.tensor(row % 3)} for row, ids in enumerate(IDS)]
AUTO = transformers.AutoModelForSequenceClassification
FIELDS: dict[str, Any] = {"num_labels": 3}


def trainer(model: Any, folder: Path) -> Trainer:
    return Trainer(model=model, args=few_steps(folder, learning_rate=5e-2), train_dataset=DATA)


def remote(pair: Pair) -> Any:
    torch.manual_seed(2)
    return pair.remote(head=Head(AUTO, FIELDS))


def plain(pair: Pair, folder: Path) -> Any:
    pair.save(folder)
    torch.manual_seed(2)
    model = AUTO.from_pretrained(folder, dtype=torch.float32, **FIELDS)
    model.base_model.requires_grad_(False)
    return model


@pytest.mark.parametrize("allow", ["nobody", "same_user"])
def test_a_head_is_trained_saved_and_resumed_with_the_losses_of_a_plain_base(allow: Any, tmp_path: Path) -> None:
    pair = Pair("llama", allow=allow)
    whole = trainer(plain(pair, tmp_path / "base"), tmp_path / "plain")
    whole.train()
    model = remote(pair)
    ours = trainer(model, tmp_path / "ours")
    ours.train()
    again = trainer(remote(pair), tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-2"))
    assert len(set(losses(whole))) == 4
    assert losses(ours) == pytest.approx(losses(whole), rel=1e-5)
    assert losses(again) == pytest.approx(losses(whole), rel=1e-5)
    assert explain(model).taken == ()

    saved = load_file(tmp_path / "ours" / "checkpoint-4" / "model.safetensors")
    assert ("model.layers.0.mlp.up_proj.weight" in saved) == (allow == "same_user")
    loaded = plain(pair, tmp_path / "other")
    result = loaded.load_state_dict(saved, strict=False)
    assert not result.unexpected_keys
    assert whole.model is not None
    with torch.no_grad():
        expected = whole.model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
        found = loaded.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_log_says_once_that_the_base_is_not_in_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = remote(Pair("llama", allow="nobody"))
    with caplog.at_level(logging.WARNING):
        for folder in ("a", "b"):
            model.save_pretrained(tmp_path / folder)
    lines = [each.getMessage() for each in caplog.records if each.name == "symbiosis.adapters.model.saving"]
    assert len(lines) == 1
    assert "left_out=22" in lines[0]


def test_whichever_way_the_names_are_asked_for_they_are_those_of_the_base() -> None:
    """Trainer copies them into a set, to compare them with what a checkpoint lacked."""
    model = remote(Pair("llama", allow="nobody"))
    unsaved = model._keys_to_ignore_on_save
    names = {name for name, each in model.named_parameters() if isinstance(each, FrozenWeight)}
    assert len(names) == 22
    assert set(unsaved) == {*unsaved} == unsaved | set() == set() | unsaved == unsaved & names == names
    assert all(name in unsaved for name in names)
    assert "score.weight" not in unsaved
    assert (set(copy.deepcopy(unsaved)), len(unsaved)) == (names, 22)


class Wrapped(nn.Module):
    """A head of somebody's own around the bare base, of which Trainer knows only that it is a module."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.base(input_ids=input_ids).last_hidden_state[:, -1])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class HeadOnly(Wrapped):
    """What docs/gotchas.md advises."""

    _keys_to_ignore_on_save = None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.head.state_dict(prefix="head.")


def test_in_a_module_of_ones_own_the_first_checkpoint_is_refused_and_the_head_alone_is_saved(
    tmp_path: Path,
) -> None:
    pair = Pair("llama", allow="nobody")

    def trained(kind: type[Wrapped], folder: str, resume: str | None = None) -> list[float]:
        torch.manual_seed(2)
        run = trainer(kind(pair.remote(head=Head(transformers.AutoModel, {}))), tmp_path / folder)
        run.train(resume_from_checkpoint=resume)
        return losses(run)

    with pytest.raises(UsageError, match="lends its weights to nobody"):
        trained(Wrapped, "whole")
    whole = trained(HeadOnly, "head")
    saved = tmp_path / "head" / "checkpoint-2"
    assert load_file(saved / "model.safetensors").keys() == {"head.weight", "head.bias"}
    assert trained(HeadOnly, "again", str(saved)) == pytest.approx(whole, rel=1e-5)


def test_a_base_of_which_nothing_is_trained_is_not_saved_without_its_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not possible.* lends its weights to nobody"):
        Pair("llama", allow="nobody").remote().save_pretrained(tmp_path)


@pytest.mark.parametrize("cast", [prepare_model_for_kbit_training, torch.nn.Module.float])
@pytest.mark.filterwarnings("ignore:The base stays in torch.bfloat16 in the daemon")
def test_a_lent_base_that_was_cast_is_saved_as_it_was_cast(cast: Any, tmp_path: Path) -> None:
    pair = Pair("llama", DType.BFLOAT16)
    model, plain = cast(remote(pair)), pair.plain().float().state_dict()
    model.score.requires_grad_(True)
    trainer(model, tmp_path / "ours").train()
    saved = load_file(tmp_path / "ours" / "checkpoint-2" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert {values.dtype for values in saved.values()} == {torch.float32}
    for name in saved.keys() & plain.keys():
        assert torch.equal(saved[name], plain[name]), name
    assert explain(model).taken == ()
