"""What people do around a PEFT model: early stopping, several adapters, hotswap, DPO. As on a plain base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from torch.nn import functional as F
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer

from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import Pair
from tests.adapters.trainers import few_steps
from tests.adapters.training import QV, adapted, close

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file in someone/tiny"),
    pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS]),
]

IDS = torch.randint(3, 96, (12, 10), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": ids, "labels": ids} for ids in IDS]


def config(*targets: str, **more: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules=list(targets or ("q_proj", "v_proj")), task_type="CAUSAL_LM", **more)


def both(cut: Cut) -> tuple[Any, Any]:
    pair = Pair("llama")
    return adapted(pair.plain(), QV), adapted(pair.remote(cut), QV)


def check_gradients(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-4 * scale, msg=name)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS[:2]).logits
    return found


def best_token(prediction: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(prediction.predictions)
    return {"first": float(logits[0].argmax()), "mean": float(logits.mean())}


def test_evaluation_and_early_stopping_go_as_on_a_plain_base(cut: Cut, tmp_path: Path) -> None:
    """It stops since a falling loss is told to be worse; the best adapter is loaded at the end."""
    histories = []
    for name, model in zip(("plain", "remote"), both(cut), strict=True):
        arguments = few_steps(
            tmp_path / name,
            max_steps=12,
            gradient_accumulation_steps=2,
            learning_rate=0.02,
            adam_epsilon=1e-3,  # see `training`
            eval_strategy="steps",
            eval_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=DATA[:8],
            eval_dataset=DATA[8:],
            compute_metrics=best_token,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        )
        trainer.train()
        kept = ("loss", "eval_loss", "eval_mean", "eval_first", "grad_norm", "step")
        history = [{key: entry[key] for key in kept if key in entry} for entry in trainer.state.log_history]
        histories.append((history, trainer.state.global_step, logits(model)))
    (expected, steps, plain), (found, remote_steps, remote) = histories
    assert remote_steps == steps < 12
    assert any("eval_mean" in entry for entry in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == {
            key: pytest.approx(value, rel=1e-5 if "loss" in key else 1e-4, abs=1e-9)
            for key, value in theirs.items()
        }
    close(remote, plain)


COMBINATIONS = [
    *("svd", "linear", "cat", "ties", "ties_svd", "dare_ties", "dare_linear", "dare_ties_svd", "dare_linear_svd"),
    *("magnitude_prune", "magnitude_prune_svd"),
]


@pytest.mark.parametrize("how", COMBINATIONS)
def test_adapters_are_combined_and_the_mix_is_trained(how: str, cut: Cut) -> None:
    losses, gradients = [], []
    for model in both(cut):
        torch.manual_seed(9)
        model.add_adapter("second", config(init_lora_weights=False))
        more = {"density": 0.5} if how not in ("linear", "cat", "svd") else {}
        model.add_weighted_adapter(["default", "second"], [0.7, 0.4], "mix", combination_type=how, **more)
        model.set_adapter("mix")
        loss = model(input_ids=IDS[:2], labels=IDS[:2]).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert gradients[0]
    assert all(".mix." in name for name in gradients[0])
    check_gradients(gradients[1], gradients[0])


def test_an_adapter_is_swapped_while_the_model_is_there(cut: Cut, tmp_path: Path) -> None:
    plain, remote = both(cut)
    torch.manual_seed(9)
    other = get_peft_model(Pair("llama").plain(), config(init_lora_weights=False))
    other.save_pretrained(str(tmp_path))
    before = logits(remote)
    for model in (plain, remote):
        hotswap_adapter(model, str(tmp_path), adapter_name="default")
    close(logits(remote), logits(plain))
    assert not torch.allclose(logits(remote), before)


def test_an_adapter_is_deleted(cut: Cut) -> None:
    _, remote = both(cut)
    expected = logits(remote)
    remote.add_adapter("second", config("o_proj", init_lora_weights=False))
    remote.set_adapter("second")
    assert not torch.allclose(logits(remote), expected)
    remote.set_adapter("default")
    remote.delete_adapter("second")
    assert torch.equal(logits(remote), expected)


def test_the_base_under_a_disabled_adapter_is_the_reference_of_dpo(cut: Cut) -> None:
    """The loss of direct preference optimization, with its gradients, as TRL computes it."""
    losses, gradients = [], []
    for model in both(cut):
        with torch.no_grad(), model.disable_adapter():
            reference = sequence_logps(model, IDS[:4])
        policy = sequence_logps(model, IDS[:4])
        margins = (policy - reference)[:2] - (policy - reference)[2:]
        loss = -F.logsigmoid(0.5 * margins).mean()
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    check_gradients(gradients[1], gradients[0])


def sequence_logps(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logps: torch.Tensor = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    return logps.gather(-1, ids[:, 1:, None]).sum((1, 2))


def test_an_adapter_continues_where_it_was_saved(cut: Cut, tmp_path: Path) -> None:
    plain, remote = both(cut)
    remote.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(Pair("llama").remote(cut), tmp_path, is_trainable=True)
    for model in (plain, again):
        model.eval()
        model(input_ids=IDS, labels=IDS).loss.backward()
    for (name, expected), (_, found) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        if expected.grad is not None:
            scale = expected.grad.abs().max().item()
            torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-4 * scale, msg=name)
