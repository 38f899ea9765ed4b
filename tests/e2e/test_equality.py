"""Training on a shared base equals plain PEFT on the same seed, while others are being served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

from symbiosis_adapters import AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification
from symbiosis_adapters.weights.placeholder import FrozenWeight
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, assert_same_training, plain, random_batches, train


@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_equal_plain_peft_while_others_are_served(
    busy_tiny_daemon: DaemonProcess, tiny_path: Path, method: str
) -> None:
    before = busy_tiny_daemon.status()
    assert len(before.clients) == 2
    base = AutoModelForCausalLM.from_pretrained(busy_tiny_daemon.address)
    ours = train(base, METHODS[method], random_batches(20, 24))
    assert_same_training(ours, train(plain(tiny_path), METHODS[method], random_batches(20, 24)))
    after = busy_tiny_daemon.status()
    assert all(now.requests > then.requests for now, then in zip(after.clients, before.clients, strict=False))
    base.symbiosis.close()


@pytest.mark.parametrize("cut", ["siblings", "linear"])
def test_the_other_cuts_equal_plain_peft_while_requests_are_held(
    fresh_daemon: DaemonProcess, tiny_path: Path, start_tenant: StartTenant, cut: str
) -> None:
    """In the lane in which tokens are held, beside one who generates with that cut, until they have met."""
    start_tenant("generate", fresh_daemon.address, 1, cut)
    theirs = train(plain(tiny_path), METHODS["lora_qv"], random_batches(5, 12))
    for _ in range(40):
        base = AutoModelForCausalLM.from_pretrained(fresh_daemon.address, lane="inference", cut=cut)
        assert_same_training(train(base, METHODS["lora_qv"], random_batches(5, 12)), theirs)
        base.symbiosis.close()
        batches = fresh_daemon.status().batches
        if batches.clients > batches.count:
            return
    pytest.fail("nobody ever shared a batch, so nothing was tested")


@pytest.mark.parametrize(
    ("task", "ours", "theirs"),
    [
        ("FEATURE_EXTRACTION", AutoModel, transformers.AutoModel),
        ("TOKEN_CLS", AutoModelForTokenClassification, transformers.AutoModelForTokenClassification),
    ],
)
def test_a_step_on_the_bare_base_and_on_one_that_labels_tokens_equals_plain_peft(
    tiny_daemon: DaemonProcess, tiny_path: Path, task: str, ours: Any, theirs: Any
) -> None:
    ids = torch.randint(3, 128, (2, 20), generator=torch.Generator().manual_seed(1))
    outputs, gradients = [], []
    for auto, where in ((theirs, tiny_path), (ours, tiny_daemon.address)):
        torch.manual_seed(2)
        base = auto.from_pretrained(where, dtype=torch.float32)
        torch.manual_seed(3)
        model = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, task_type=task)).eval()
        first = model(input_ids=ids)[0]
        (first.square().mean() + (first[:, -1] * torch.arange(first.shape[-1])).mean()).backward()
        outputs.append(first.detach().clone())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    base.symbiosis.close()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    assert gradients[1].keys() == gradients[0].keys()
    assert any("score" in name for name in gradients[1]) == (task == "TOKEN_CLS")
    for name, expected in gradients[0].items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradients[1][name], expected, rtol=0, atol=1e-4 * scale, msg=name)


def test_adapters_are_interchangeable_in_both_directions(
    tiny_daemon: DaemonProcess, tiny_path: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    ours, _, _ = train(base, METHODS["lora_all"], random_batches(5, 16))
    theirs, _, _ = train(plain(tiny_path), METHODS["ia3"], random_batches(5, 16))
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    other = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    ids = torch.randint(3, 128, (2, 20))
    with torch.no_grad():
        taken_away = PeftModel.from_pretrained(plain(tiny_path), tmp_path / "ours")
        torch.testing.assert_close(taken_away(ids).logits, ours(ids).logits, rtol=1e-4, atol=1e-5)
        brought_in = PeftModel.from_pretrained(other, tmp_path / "theirs")
        torch.testing.assert_close(brought_in(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-5)
    saved = PeftConfig.from_pretrained(str(tmp_path / "ours"))
    assert saved.base_model_name_or_path == str(tiny_path)
    base.symbiosis.close()
    other.symbiosis.close()


def test_the_client_holds_no_base_weights(tiny_daemon: DaemonProcess, tiny_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    kept = sum(p.nbytes for p in base.parameters() if not isinstance(p, FrozenWeight))
    assert base.num_parameters() == plain(tiny_path).num_parameters()
    assert kept < 0.05 * tiny_daemon.status().memory.base
    base.symbiosis.close()
