"""A base in eight bits serves clients as the same quantised model serves plain PEFT, and says what it cannot."""

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
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import LORA, METHODS, assert_same_training, random_batches, train

pytest.importorskip("torchao", reason="the extra int8 is not installed")

from symbiosis_scheduler.torchao_int8 import int8_config


@pytest.fixture(scope="module")
def daemon(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    options = ("--dtype", "float32", "--quantize", "int8")
    running = DaemonProcess(tmp_path_factory.mktemp("int8"), str(tiny_path), *options)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def base(daemon: DaemonProcess) -> Iterator[Any]:
    model = AutoModelForCausalLM.from_pretrained(daemon.address)
    yield model
    model.symbiosis.close()


def plain(path: Path) -> Any:
    """The same quantised model, in this process."""
    return PlainModel.from_pretrained(path, dtype=torch.float32, quantization_config=int8_config())


def tokens(model: Any) -> list[int]:
    prompt = torch.tensor([[5, 17, 42]])
    answer: list[int] = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)[0].tolist()
    return answer


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without")
@pytest.mark.parametrize("method", ["lora_qv", "lora_all"])
def test_losses_gradients_and_tokens_equal_plain_peft_on_the_same_quantised_model(
    base: Any, tiny_path: Path, method: str
) -> None:
    ours = train(base, METHODS[method], random_batches(5, 16))
    theirs = train(plain(tiny_path), METHODS[method], random_batches(5, 16))
    assert_same_training(ours, theirs)
    assert tokens(ours[0]) == tokens(theirs[0])


def test_the_logits_are_those_of_the_quantised_model_and_not_of_the_other(base: Any, tiny_path: Path) -> None:
    ids = torch.tensor([[5, 17, 42, 99]])
    with torch.no_grad():
        ours, theirs = base(ids).logits, plain(tiny_path)(ids).logits
        whole = PlainModel.from_pretrained(tiny_path, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (ours - whole).abs().max() > 1e-4


def test_what_needs_real_weights_is_refused_with_the_reason(daemon: DaemonProcess, base: Any) -> None:
    with pytest.raises(RefusedError, match="eight bits") as caught:
        AutoModelForCausalLM.from_pretrained(daemon.address, cut="lent")
    assert caught.value.code is RefusalCode.NOT_LENT
    with pytest.raises(UsageError, match=r"eight bits.*without quantize"):
        get_peft_model(base, LoraConfig(**LORA, target_modules=["q_proj"], init_lora_weights="pissa"))


def test_status_says_how_the_base_is_held(daemon: DaemonProcess) -> None:
    [model] = daemon.status().models
    assert (model.dtype, model.quantized) == ("float32", "int8")
