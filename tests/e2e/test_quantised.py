"""A quantised base serves clients as the same quantised model serves plain PEFT, and says what it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM as PlainModel

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.errors import RefusalCode, RefusedError, UsageError
from symbiosis_scheduler.frozen.quantised import BITS
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import LORA, METHODS, assert_same_training, random_batches, train
from tests.quantisers import local_model, quantize

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
def base(daemon: DaemonProcess) -> Iterator[Any]:
    model = AutoModelForCausalLM.from_pretrained(daemon.address)
    yield model
    model.symbiosis.close()


def tokens(model: Any) -> list[int]:
    prompt = torch.tensor([[5, 17, 42]])
    answer: list[int] = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)[0].tolist()
    return answer


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without")
@pytest.mark.parametrize("method", ["lora_qv", "lora_all"])
def test_losses_gradients_and_tokens_equal_plain_peft_on_the_same_quantised_model(
    base: Any, tiny_path: Path, quantize: str, method: str
) -> None:
    ours = train(base, METHODS[method], random_batches(5, 16))
    theirs = train(local_model(tiny_path, quantize, torch.float32), METHODS[method], random_batches(5, 16))
    assert_same_training(ours, theirs)
    assert tokens(ours[0]) == tokens(theirs[0])


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
