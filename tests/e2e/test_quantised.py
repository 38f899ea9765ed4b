"""A quantised base serves clients as the same quantised model serves plain PEFT, and says what it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM as PlainModel
from transformers import AutoModelForSequenceClassification as PlainSequenceModel

from symbiosis_adapters import AutoModelForCausalLM, AutoModelForSequenceClassification
from symbiosis_core.errors import RefusalCode, RefusedError, UsageError
from symbiosis_scheduler.frozen.quantised import BITS
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import (
    LORA,
    METHODS,
    assert_roughly_same_training,
    assert_same_training,
    random_batches,
    train,
)
from tests.quantisers import config_of, local_model, quantize

__all__ = ["quantize"]  # a fixture


@pytest.fixture(scope="module")
def daemon(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory, quantize: str) -> Iterator[DaemonProcess]:
    options = ("--dtype", "float32", "--quantize", quantize)
    running = DaemonProcess(tmp_path_factory.mktemp(quantize), str(tiny_path), *options)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def cut() -> str:
    """The cut of `base`."""
    return "graph"


@pytest.fixture
def base(daemon: DaemonProcess, cut: str) -> Iterator[Any]:
    model = AutoModelForCausalLM.from_pretrained(daemon.address, cut=cut)
    yield model
    model.symbiosis.close()


def tokens(model: Any) -> list[int]:
    prompt = torch.tensor([[5, 17, 42]])
    answer: list[int] = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)[0].tolist()
    return answer


PREFIX = PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without")
@pytest.mark.parametrize("cut", ["graph", "siblings"])
@pytest.mark.parametrize("method", ["lora_qv", "lora_all", "ia3", "prefix"])
def test_losses_gradients_and_tokens_equal_plain_peft_on_the_same_quantised_model(
    base: Any, tiny_path: Path, quantize: str, method: str, cut: str
) -> None:
    config = {**METHODS, "prefix": PREFIX}[method]
    ours = train(base, config, random_batches(5, 16))
    theirs = train(local_model(tiny_path, quantize, torch.float32), config, random_batches(5, 16))
    assert_same_training(ours, theirs)
    assert tokens(ours[0]) == tokens(theirs[0])


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without")
@pytest.mark.parametrize("cut", ["graph", "siblings"])
def test_a_head_on_it_trains_as_on_the_same_quantised_model(
    daemon: DaemonProcess, tiny_path: Path, quantize: str, cut: str
) -> None:
    """The head is the client's own, and in float32 on either side."""
    ours = AutoModelForSequenceClassification.from_pretrained(daemon.address, num_labels=3, cut=cut)
    local = local_model(tiny_path, quantize, torch.float32, PlainSequenceModel, num_labels=3)
    assert local.score.weight.dtype is torch.float32
    local.score.load_state_dict(ours.score.state_dict())
    found = []
    try:
        for model in (ours, local):
            torch.manual_seed(11)
            adapted = get_peft_model(
                model, LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"], task_type="SEQ_CLS")
            ).eval()
            loss = adapted(input_ids=random_batches(1, 16)[0], labels=torch.tensor([0, 2])).loss
            loss.backward()
            named = adapted.named_parameters()
            found.append((adapted, [loss.item()], {n: p.grad for n, p in named if p.grad is not None}))
        assert any("score" in name for name in found[0][2])
        assert_same_training(*found)
    finally:
        ours.symbiosis.close()


def prepared_for_qlora(model: Any) -> Any:
    return prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})


# peft 0.21 asks transformers 5.23 by the old name; goes when it asks by that of activation checkpointing
_OLD_NAME = "ignore:`gradient_checkpointing(_enable|_disable)?` is deprecated:FutureWarning"


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without", _OLD_NAME)
def test_a_qlora_script_trains_as_on_the_same_quantised_model(
    daemon: DaemonProcess, tiny_path: Path, quantize: str
) -> None:
    """With the configuration that it had: prepared, with checkpointing where the plain model has it."""
    asked = {"torch_dtype": torch.float32, "quantization_config": config_of(quantize, torch.float32)}
    model = AutoModelForCausalLM.from_pretrained(daemon.address, device_map="auto", **asked)
    prepared = [prepared_for_qlora(each) for each in (model, local_model(tiny_path, quantize, torch.float32))]
    try:
        ours, theirs = (train(each, METHODS["lora_qv"], random_batches(4, 16)) for each in prepared)
        assert_same_training(ours, theirs)
    finally:
        model.symbiosis.close()


@pytest.mark.filterwarnings(
    "ignore:TorchaoLoraLinear was instantiated without", "ignore:The base stays in", _OLD_NAME
)
def test_a_base_that_computes_in_bfloat16_is_prepared_as_well(
    tiny_path: Path, tmp_path: Path, quantize: str
) -> None:
    """The stream is in float32 then, and what linears make in bfloat16: so the local one's losses, roughly."""
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "bfloat16", "--quantize", quantize)
    try:
        model = AutoModelForCausalLM.from_pretrained(daemon.start().address)
        local = local_model(tiny_path, quantize, torch.bfloat16)
        prepared = [prepared_for_qlora(each) for each in (model, local)]
        ours, theirs = (train(each, METHODS["lora_qv"], random_batches(4, 16)) for each in prepared)
        assert_roughly_same_training(ours, theirs)
        model.symbiosis.close()
    finally:
        daemon.close()


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without")
def test_trls_head_in_parts_trains_as_on_the_same_quantised_model(
    base: Any, tiny_path: Path, quantize: str
) -> None:
    """The head is not quantised, and not lent either."""
    trainers = pytest.importorskip("trl.trainer.utils")
    found = []
    for model in (base, local_model(tiny_path, quantize, torch.float32)):
        trainers.add_fused_lm_head(model)
        found.append(train(model, METHODS["lora_qv"], random_batches(3, 16), fused_lm_head=True))
    assert_same_training(*found)
    assert base.symbiosis.explain().taken == ()


def test_the_logits_are_those_of_the_quantised_model_and_not_of_the_other(
    base: Any, tiny_path: Path, quantize: str
) -> None:
    ids = torch.tensor([[5, 17, 42, 99]])
    with torch.no_grad():
        ours, theirs = base(ids).logits, local_model(tiny_path, quantize, torch.float32)(ids).logits
        whole = PlainModel.from_pretrained(tiny_path, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (ours - whole).abs().max() > 1e-4


def test_what_needs_real_weights_is_refused_with_the_reason(
    daemon: DaemonProcess, base: Any, quantize: str
) -> None:
    with pytest.raises(RefusedError, match=BITS[quantize]) as caught:
        AutoModelForCausalLM.from_pretrained(daemon.address, cut="lent")
    assert caught.value.code is RefusalCode.NOT_LENT
    with pytest.raises(UsageError, match=rf"{BITS[quantize]}.*without quantize"):
        get_peft_model(base, LoraConfig(**LORA, target_modules=["q_proj"], init_lora_weights="pissa"))


def test_status_says_how_the_base_is_held(daemon: DaemonProcess, quantize: str) -> None:
    [model] = daemon.status().models
    assert (model.dtype, model.quantized) == ("float32", quantize)
