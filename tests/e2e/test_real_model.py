"""The main job on the real model, while others are being served."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from symbiosis_adapters import AutoModelForCausalLM, AutoTokenizer
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, assert_same_training, plain, text_batches, train


@pytest.fixture(scope="module")
def real_daemon(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """The real model, in float32."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("real"), str(smollm2_path), "--dtype", "float32")
    try:
        yield daemon.start()
    finally:
        daemon.close()


def test_a_step_of_the_real_model_is_31_trips_and_30_back(real_daemon: DaemonProcess) -> None:
    """With LoRA on q and v: one trip for each of 30 blocks, and one to begin with."""
    base = AutoModelForCausalLM.from_pretrained(real_daemon.address, lane="training", name="counted")
    ids = torch.arange(100, 124).view(1, 24)

    def asked() -> int:
        return next(each.requests for each in real_daemon.status().clients if each.name == "counted")

    model = get_peft_model(base, copy.deepcopy(METHODS["lora_qv"]))
    before = asked()
    loss = model(input_ids=ids, labels=ids).loss
    assert asked() - before == base.symbiosis.explain().trips_per_forward == 31
    loss.backward()
    assert asked() - before == 31 + 30
    base.symbiosis.close()


def test_the_real_model_trains_and_generates_as_in_plain_peft(
    real_daemon: DaemonProcess, smollm2_path: Path, start_tenant: StartTenant
) -> None:
    """The main job: 20 steps and 64 greedy tokens on SmolLM2 in float32, with two other tenants at work.

    In the lane of the one who chats: there tokens are held for each other, so that some go together for certain.
    """
    start_tenant("train", real_daemon.address, 1)
    start_tenant("chat", real_daemon.address, 2)
    base = AutoModelForCausalLM.from_pretrained(real_daemon.address, lane="inference")
    tokenizer = AutoTokenizer.from_pretrained(base)
    batches = text_batches(tokenizer, 20, 24)
    ours = train(base, METHODS["lora_qv"], batches)
    local = train(plain(smollm2_path), METHODS["lora_qv"], batches)
    assert_same_training(ours, local)
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    tokens = [
        model.generate(prompt, max_new_tokens=64, min_new_tokens=64, do_sample=False)
        for model in (ours[0], local[0])
    ]
    assert tokens[0].shape == (1, prompt.shape[1] + 64)
    assert tokens[0].tolist() == tokens[1].tolist()
    occupancy = real_daemon.status().batches
    assert occupancy.clients > occupancy.count, "nobody ever shared a batch, so nothing was tested"
    base.symbiosis.close()
