"""transformers' Trainer and accelerate take a remote base as they take any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]  # it has no types
from peft import LoraConfig, PeftModel
from transformers import Trainer

from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.specs import DType
from tests.adapters.local import Pair
from tests.adapters.trainers import few_steps, losses
from tests.adapters.training import QV, adapt, lora

pytestmark = pytest.mark.filterwarnings("ignore:Could not find a config file in someone/tiny")

IDS = torch.randint(3, 96, (8, 10), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": ids, "labels": ids} for ids in IDS]


def train(model: Any, folder: Path, **more: Any) -> Trainer:
    arguments = few_steps(folder, learning_rate=5e-3, **more)
    trainer = Trainer(model=model, args=arguments, train_dataset=DATA)
    trainer.train()
    return trainer


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_logs_the_losses_of_a_plain_base(tmp_path: Path, checkpointing: bool, cut: Cut) -> None:
    pair = Pair("llama")
    plain = train(adapt(pair.plain(), lora(QV)), tmp_path / "plain", activation_checkpointing=checkpointing)
    remote = train(adapt(pair.remote(cut), lora(QV)), tmp_path / "remote", activation_checkpointing=checkpointing)
    assert len(losses(remote)) == 4
    assert losses(remote) == pytest.approx(losses(plain), rel=1e-5)


ASKED: dict[str, dict[str, Any]] = {
    "noise": {"neftune_noise_alpha": 5.0},
    "smoothed": {"label_smoothing_factor": 0.1},
    "accumulated": {"gradient_accumulation_steps": 2},
    "recomputed, reentrant": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "adafactor": {"optim": "adafactor"},
    "counted": {"include_num_input_tokens_seen": "all"},
}
"""What scripts ask of a Trainer that looks into the model: hooks on its table, its logits, its gradients."""


# transformers 5.23 has a new name for checkpointing, which scripts do not use yet
@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing(_enable|_disable|_kwargs)?` is deprecated:FutureWarning"
)
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("asked", ASKED)
def test_whatever_it_is_asked_for_it_logs_the_same(tmp_path: Path, asked: str, cut: Cut) -> None:
    pair = Pair("llama")
    logs = []
    for name, model in (("plain", pair.plain()), ("remote", pair.remote(cut))):
        torch.manual_seed(3)
        trainer = train(adapt(model, lora(QV, lora_dropout=0.1)), tmp_path / name, **ASKED[asked])
        logs.append([[entry[key] for key in ("loss", "grad_norm")] for entry in trainer.state.log_history[:-1]])
    assert len({tuple(entry) for entry in logs[0]}) == 4
    assert logs[1] == [[pytest.approx(loss, rel=1e-5), pytest.approx(norm, rel=1e-4)] for loss, norm in logs[0]]


@pytest.mark.filterwarnings("ignore")  # Dynamo's own, at every break; they change with each torch
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
def test_it_logs_them_compiled_too(tmp_path: Path, cut: Cut) -> None:
    pair = Pair("llama")
    asked = {"torch_compile": True, "torch_compile_backend": "eager"}
    found = []
    for name, model in (("plain", pair.plain()), ("remote", pair.remote(cut))):
        torch.compiler.reset()
        found.append(losses(train(adapt(model, lora(QV)), tmp_path / name, **asked)))
    torch.compiler.reset()
    assert len(set(found[0])) == 4
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
def test_in_mixed_precision_it_logs_them_roughly(tmp_path: Path, dtype: DType, cut: Cut) -> None:
    """With bf16=True as far apart as `Run.check_roughly` allows, which has the numbers of plain models."""
    pair = Pair("llama", dtype)
    plain = train(adapt(pair.plain(), lora(QV)), tmp_path / "plain", bf16=True)
    remote = train(adapt(pair.remote(cut), lora(QV)), tmp_path / "remote", bf16=True)
    assert remote.accelerator.mixed_precision == "bf16"
    assert len(set(losses(plain))) == 4
    assert losses(remote) == pytest.approx(losses(plain), rel=2e-4)


def test_its_checkpoint_holds_the_adapter_alone_and_loads(tmp_path: Path) -> None:
    pair = Pair("llama")
    plain = train(adapt(pair.plain(), lora(QV)), tmp_path / "plain")
    trained = train(adapt(pair.remote(), lora(QV)), tmp_path / "remote")
    checkpoint = tmp_path / "remote" / "checkpoint-4"
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert not (checkpoint / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(pair.plain(), checkpoint).eval()
    for trainer in (plain, trained):
        assert trainer.model is not None
        expected = trainer.model.eval()(input_ids=IDS).logits
        torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)


def test_training_resumes_from_a_checkpoint_of_a_plain_base(tmp_path: Path) -> None:
    """And goes on with the plain base's losses; its own checkpoint is as good."""
    pair = Pair("llama")
    whole = train(adapt(pair.plain(), lora(QV)), tmp_path / "plain")
    resumed = train(adapt(pair.remote(), lora(QV)), tmp_path / "remote")
    for kind in ("plain", "remote"):
        resumed.train(resume_from_checkpoint=str(tmp_path / kind / "checkpoint-2"))
        assert losses(resumed)[-2:] == pytest.approx(losses(whole)[-2:], rel=1e-5)


def test_accelerate_steps_as_on_a_plain_base() -> None:
    pair = Pair("llama")
    found, expected = accelerated(pair.remote()), accelerated(pair.plain())
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, (start, end) in expected[1].items():
        change = end - start
        assert change.abs().max() > 0, name
        torch.testing.assert_close(
            found[1][name].end - start, change, rtol=0, atol=1e-4 * change.abs().max().item()
        )


class Stepped(NamedTuple):
    """A trained parameter, before and after."""

    start: torch.Tensor
    end: torch.Tensor


def accelerated(base: Any) -> tuple[list[float], dict[str, Stepped]]:
    """Returns the losses of three steps with accelerate, and what they changed.

    SGD, for Adam's first steps are signs, which hide what gradients differ in.
    """
    model = adapt(base, lora(QV, init_lora_weights=False))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(trained.values(), lr=0.1))
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = prepared(input_ids=IDS, labels=IDS).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
        found.append(loss.item())
    return found, {name: Stepped(before[name], parameter.detach()) for name, parameter in trained.items()}


def test_an_optimizer_over_all_parameters_leaves_the_base_alone() -> None:
    model = adapt(Pair("llama").remote(), lora(QV))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    model(input_ids=IDS, labels=IDS).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    assert len(optimizer.state) == sum(p.requires_grad for p in model.parameters())


def test_transformers_own_adapter_methods_work(tmp_path: Path) -> None:
    pair = Pair("llama")
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    models = [pair.plain(), pair.remote()]
    for model in models:
        torch.manual_seed(3)
        model.add_adapter(config)
    logits = [model(input_ids=IDS).logits for model in models]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-6)
    models[1].save_pretrained(tmp_path)
    fresh = pair.plain()
    fresh.load_adapter(str(tmp_path))
    torch.testing.assert_close(fresh(input_ids=IDS).logits, logits[0], rtol=1e-5, atol=1e-6)
