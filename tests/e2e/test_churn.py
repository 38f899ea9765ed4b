"""Clients come and go, crash, cancel, and swap adapters; who stays computes what it would compute alone.

Bit for bit with exact batches. `SYMBIOSIS_CHURN_SEED` repeats the events of an earlier run, which prints it, and
`SYMBIOSIS_CHURN_S` is how long it lasts.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from symbiosis_adapters import AutoModelForCausalLM
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess

SECONDS = int(os.environ.get("SYMBIOSIS_CHURN_S", "120"))
"""For how long, each of the two ways."""
SEED = int(os.environ.get("SYMBIOSIS_CHURN_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
"""Of what guests do, and when; another one every time, and printed, to be given again."""
SURVIVORS = 3
VICTIMS = 4
"""Processes that are killed while they train."""


class CancelledError(Exception):
    """Somebody has changed his mind in the middle of a forward."""


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


def cancel(guest: Any, layer: int) -> None:
    """Breaks a forward off before one of its layers."""

    def give_up(*_: object) -> None:
        raise CancelledError

    hook = guest.model.layers[layer].register_forward_pre_hook(give_up)
    with pytest.raises(CancelledError):
        guest(torch.randint(3, 128, (1, 30)))
    hook.remove()


def churn(
    daemon: DaemonProcess, dice: random.Random, victims: Iterator[Future[Any]], stop: threading.Event
) -> Counter[str]:
    """Brings and takes away other clients until told to stop, and returns how often what happened."""
    events, guests = Counter[str](), list[Any]()
    victim = next(victims, None)
    while not stop.is_set():
        event = dice.choice(["come", "go", "work", "work", "work", "swap", "cancel"])
        if victim is not None and victim.done() and dice.random() < 0.05:
            event = "crash"
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
        elif event == "cancel" and guests:
            guest = dice.choice(guests)
            cancel(guest, dice.randrange(len(guest.model.layers)))
        elif event == "crash" and victim is not None:
            process = victim.result()
            process.kill()
            process.wait(30)
            victim = next(victims, None)
        else:
            continue
        events[event] += 1
    for guest in guests:
        guest.symbiosis.close()
    return events


@pytest.mark.long
def test_who_stays_computes_what_it_would_alone(
    daemon: DaemonProcess,
    start_tenant: StartTenant,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exact = "exact" in request.node.name
    told = f"SYMBIOSIS_CHURN_SEED={SEED}"
    with capsys.disabled():
        sys.stdout.write(f"\n{request.node.name}: {told}, {SECONDS} s\n")
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

    starter = ThreadPoolExecutor(1)  # a process takes long to start, and others come and go meanwhile
    started: list[Future[Any]] = []

    def start() -> Iterator[Future[Any]]:
        for number in range(VICTIMS):
            started.append(starter.submit(start_tenant, "train", daemon.address, number))
            yield started[-1]

    victims = start()
    first = next(victims)
    first.result()
    workers = [threading.Thread(target=stay, args=(number,)) for number in range(SURVIVORS)]
    clock = threading.Timer(SECONDS, stop.set)
    for worker in (*workers, clock):
        worker.start()
    began = time.monotonic()
    try:
        events = churn(daemon, random.Random(SEED), itertools.chain([first], victims), stop)
    finally:
        stop.set()
        clock.cancel()
        for worker in workers:
            worker.join(60)
        starter.shutdown()
    with capsys.disabled():
        sys.stdout.write(f"{rounds} rounds of those who stay; {dict(events)}\n")
    assert not wrong
    assert min(rounds) > 3 and set(events) == {"come", "go", "work", "swap", "cancel", "crash"}, told
    assert time.monotonic() - began >= SECONDS - 1
    for survivor in survivors:
        survivor.base.symbiosis.close()
    killed = events["crash"]  # the first so many: they are killed in the order in which they are started
    alive = {f"train-{number}" for number in range(killed, len(started))}
    daemon.wait_status(lambda status: {client.name for client in status.clients} <= alive, "the dead have left")
    for victim in started[killed:]:
        process = victim.result()
        assert process.poll() is None, f"{told}: a tenant has ended that nobody has killed"
        process.kill()
        process.wait(30)
    left = daemon.wait_status(lambda status: not status.clients, "all have left")
    assert [lane.queued_requests for lane in left.lanes] == [0] * len(left.lanes)
