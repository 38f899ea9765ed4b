"""Clients come and go, crash, cancel, and swap adapters; who stays computes what it would compute alone.

Those who stay train, and answer prompts token by token. Meanwhile their requests are cut into chunks, held for
others where that pays, and computed with theirs, and the policy changes: cuts and company are counted. Bit for bit
with exact batches, where nothing may be cut, held or shared.

`SYMBIOSIS_CHURN_SEED` repeats the events of an earlier run, which prints it, and `SYMBIOSIS_CHURN_S` is how long
it lasts.
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
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.wire import Configure, DaemonStatus
from symbiosis_scheduler.policies import policy_names
from symbiosis_transports.zmq_link import ControlClient
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess

SECONDS = int(os.environ.get("SYMBIOSIS_CHURN_S", "120"))
"""For how long, each of the two ways."""
SEED = int(os.environ.get("SYMBIOSIS_CHURN_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
"""Of what guests do, and when; another one every time, and printed, to be given again."""
SURVIVORS = 3
LANES = ("inference", "training")
CHUNK_ROWS = 8
TOKENS = 6
VICTIMS = 4
"""Processes that are killed while they train."""


EVENTS = {"come", "go", "work", "swap", "cancel", "crash", "apply"}


class CancelledError(Exception):
    """Somebody has changed his mind in the middle of a forward."""


def settings(*, exact: bool, policy: str = "latency_first") -> str:
    """Chunks of fewer rows than anybody asks for at once, and holds in both lanes."""
    lanes = "".join(
        f"[lanes.{lane}]\npriority = {priority}\nchunk_rows = {CHUNK_ROWS}\nmax_hold_us = 20_000\n"
        for priority, lane in enumerate(LANES)
    )
    return f'[policy]\nname = "{policy}"\n{lanes}[batching]\nexact = {str(exact).lower()}\n'


@pytest.fixture(params=[True, False], ids=["exact", "batched"])
def daemon(request: pytest.FixtureRequest, tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    file = tmp_path / "daemon.toml"
    file.write_text(settings(exact=request.param))
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(file))
    try:
        yield daemon.start()
    finally:
        daemon.close()


class Survivor:
    """A client that does the same work again and again: a training step from the same adapter, and some tokens."""

    def __init__(self, address: str, seed: int) -> None:
        self.base = AutoModelForCausalLM.from_pretrained(address, lane=LANES[seed % 2])
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
        """Returns logits, loss and all gradients; and tokens, with what they were chosen by."""
        self.model.zero_grad()
        answer = self.model(input_ids=self.ids, labels=self.ids)
        answer.loss.backward()
        gradients = [parameter.grad.clone() for parameter in self.model.parameters() if parameter.grad is not None]
        told = self.model.generate(
            input_ids=self.ids[:1],
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        found = [answer.logits.detach(), answer.loss.detach(), *gradients, told.sequences, *told.logits]
        return [each.clone() for each in found]


def cancel(guest: Any, layer: int) -> None:
    """Breaks a forward off before one of its layers."""

    def give_up(*_: object) -> None:
        raise CancelledError

    hook = guest.model.layers[layer].register_forward_pre_hook(give_up)
    with pytest.raises(CancelledError):
        guest(torch.randint(3, 128, (1, 30)))
    hook.remove()


def churn(
    daemon: DaemonProcess,
    dice: random.Random,
    victims: Iterator[Future[Any]],
    stop: threading.Event,
    *,
    exact: bool,
) -> Counter[str]:
    """Brings and takes away other clients until told to stop, and returns how often what happened."""
    events, guests = Counter[str](), list[Any]()
    victim = next(victims, None)
    while not stop.is_set():
        event = dice.choice(["come", "go", "work", "work", "work", "swap", "cancel", "apply"])
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
        elif event == "apply" and dice.random() < 0.2:
            with ControlClient(daemon.address) as link:
                link.ask(Configure("churn", settings(exact=exact, policy=dice.choice(policy_names()))))
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


def check_batches(status: DaemonStatus, *, exact: bool, told: str) -> None:
    """Rows of several clients in a batch, and requests in chunks; or nothing of it, and nobody held.

    Who is held is decided by cost, so where batches are exact alone something can be said of it.
    """
    batches = status.batches
    if exact:
        assert batches.clients == batches.requests == batches.count and not status.holds.count, told
    else:
        parts = batches.requests - sum(lane.requests for lane in status.lanes)
        assert batches.clients > batches.count and parts > batches.count / 10, told


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
        events = churn(daemon, random.Random(SEED), itertools.chain([first], victims), stop, exact=exact)
    finally:
        stop.set()
        clock.cancel()
        for worker in workers:
            worker.join(60)
        starter.shutdown()
    with capsys.disabled():
        sys.stdout.write(f"{rounds} rounds of those who stay; {dict(events)}\n")
    assert not wrong
    assert min(rounds) > 3 and set(events) == EVENTS, told
    assert time.monotonic() - began >= SECONDS - 1
    check_batches(daemon.status(), exact=exact, told=told)
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
