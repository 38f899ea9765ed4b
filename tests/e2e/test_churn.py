"""Clients come and go, crash, and swap adapters; who stays computes what it would compute alone, bit for bit."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from symbiosis_adapters import AutoModelForCausalLM
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess

SECONDS = 60
SEED = 20261122
SURVIVORS = 3


@pytest.fixture(params=[True, False], ids=["exact", "batched"])
def daemon(request: pytest.FixtureRequest, tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    file = tmp_path / "daemon.toml"
    file.write_text(f"[batching]\nexact = {str(request.param).lower()}\n")
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(file))
    try:
        yield daemon.start()
    finally:
        daemon.close()


class Survivor:
    """A client that does the same work again and again: a training step from the same adapter, and a forward."""

    def __init__(self, address: str, seed: int) -> None:
        self.base = AutoModelForCausalLM.from_pretrained(address, lane=("training", "inference")[seed % 2])
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(self.base, config)
        self.ids = torch.randint(3, 128, (2, 9 + 5 * seed), generator=torch.Generator().manual_seed(seed))
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(self.model.named_parameters()):
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
                    assert "lora" in name

    def once(self) -> list[torch.Tensor]:
        """Returns logits, loss and all gradients."""
        self.model.zero_grad()
        answer = self.model(input_ids=self.ids, labels=self.ids)
        answer.loss.backward()
        gradients = [parameter.grad.clone() for parameter in self.model.parameters() if parameter.grad is not None]
        return [answer.logits.detach().clone(), answer.loss.detach().clone(), *gradients]


def churn(daemon: DaemonProcess, dice: random.Random, victims: list[Any], stop: threading.Event) -> int:
    """Brings and takes away other clients until told to stop, and returns how many events there were."""
    events, guests = 0, list[Any]()
    while not stop.is_set():
        event = dice.choice(["come", "go", "work", "swap", "crash"])
        if event == "come" and len(guests) < 3:
            guests.append(AutoModelForCausalLM.from_pretrained(daemon.address, name="guest"))
        elif event == "go" and guests:
            guests.pop(dice.randrange(len(guests))).symbiosis.close()
        elif event == "work" and guests:
            dice.choice(guests)(torch.randint(3, 128, (1, dice.randrange(1, 40)))).logits.sum().item()
        elif event == "swap" and guests:
            targets = dice.choice([["q_proj"], ["o_proj"], ["gate_proj", "down_proj"]])
            guest = get_peft_model(guests.pop(), LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
            guest(input_ids=torch.randint(3, 128, (1, 7))).logits.sum().backward()
            guests.append(guest.unload())
        elif event == "crash" and victims:
            victim = victims.pop()
            victim.kill()
            victim.wait(30)
        events += 1
    for guest in guests:
        guest.symbiosis.close()
    return events


@pytest.mark.long
def test_who_stays_computes_what_it_would_alone(
    daemon: DaemonProcess, start_tenant: StartTenant, request: pytest.FixtureRequest
) -> None:
    exact = "exact" in request.node.name
    told = f"seed {SEED}"
    survivors = [Survivor(daemon.address, seed) for seed in range(SURVIVORS)]
    solo = [survivor.once() for survivor in survivors]  # one after the other: each alone
    stop, wrong, rounds = threading.Event(), list[str](), [0] * SURVIVORS

    def stay(number: int) -> None:
        while not stop.is_set():
            for which, (found, expected) in enumerate(zip(survivors[number].once(), solo[number], strict=True)):
                same = (
                    torch.equal(found, expected)
                    if exact
                    else torch.allclose(found, expected, atol=1e-5, rtol=1e-4)
                )
                if not same:
                    wrong.append(f"{told}: survivor {number}, round {rounds[number]}, tensor {which}")
                    stop.set()
            rounds[number] += 1

    victims = [start_tenant("train", daemon.address, 1)]  # before the clock runs: it takes long
    workers = [threading.Thread(target=stay, args=(number,)) for number in range(SURVIVORS)]
    clock = threading.Timer(SECONDS, stop.set)
    for worker in (*workers, clock):
        worker.start()
    began = time.monotonic()
    try:
        events = churn(daemon, random.Random(SEED), victims, stop)
    finally:
        stop.set()
        clock.cancel()
        for worker in workers:
            worker.join(60)
    assert not wrong
    assert min(rounds) > 3 and events > 20, f"{told}: {rounds} rounds, {events} events"
    assert time.monotonic() - began >= SECONDS - 1
    for survivor in survivors:
        survivor.base.symbiosis.close()
    daemon.wait_status(lambda status: not status.clients, "all have left")
    assert sum(lane.queued_requests for lane in daemon.status().lanes) == 0
