"""Whoever dies, dies alone: clients, daemons, and what they held."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq
from peft import LoraConfig, get_peft_model

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_adapters.connection import asking, attaching
from symbiosis_core.errors import DaemonGoneError, RefusalCode, RefusedError, UsageError
from symbiosis_transports.zmq_link import ControlClient
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess
from tests.transports.doom import lines


def test_killed_clients_free_everything_and_nobody_else_notices(
    fresh_daemon: DaemonProcess, start_tenant: StartTenant
) -> None:
    stayer = AutoModelForCausalLM.from_pretrained(fresh_daemon.address, name="stayer")
    ids = torch.randint(3, 128, (1, 12))
    expected = stayer(ids).logits
    before = fresh_daemon.status()
    descriptors = fresh_daemon.descriptors()
    for seed in range(3):
        victims = [
            start_tenant("train", fresh_daemon.address, seed),
            start_tenant("generate", fresh_daemon.address, seed),
        ]
        assert len(fresh_daemon.status().clients) == 3
        for victim in victims:
            victim.kill()
            victim.wait(30)
        assert torch.equal(stayer(ids).logits, expected)
        fresh_daemon.wait_status(lambda status: len(status.clients) == 1, "the dead are gone")
    after = fresh_daemon.status()
    assert after.memory.arenas == before.memory.arenas
    deadline = time.monotonic() + 20
    while fresh_daemon.descriptors() > descriptors and time.monotonic() < deadline:
        time.sleep(0.05)  # the daemon hears a little later that who asked for its status is gone
    assert fresh_daemon.descriptors() <= descriptors
    assert after.lanes[0].queued_requests == after.lanes[1].queued_requests == 0
    stayer.symbiosis.close()


@pytest.mark.long
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_tenant_may_be_killed_or_stopped_at_any_point(tiny_path: Path, tmp_path: Path, how: str) -> None:
    """Before its n-th line, n = 1, 6, ..., of a question, of attaching, of a trip. Nobody else notices, and of the
    dead nothing is left, also of those who had asked for a place and not come.
    """
    (tmp_path / "d.toml").write_text("[limits]\nmax_clients = 1024\n")
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(tmp_path / "d.toml"))
    ids = torch.randint(3, 128, (1, 12))
    try:
        stayer = AutoModelForCausalLM.from_pretrained(daemon.start().address, name="stayer")
        expected, before = stayer(ids).logits, daemon.status()
        descriptors = daemon.descriptors()
        with lines("tests.e2e.doomed_tenant", daemon.address, how, "5") as (said, say):
            hits = 0
            while said() == "hit":
                hits += 1
                assert torch.equal(stayer(ids).logits, expected)
                say("go on")
        assert hits > 20
        after = daemon.wait_status(lambda status: len(status.clients) == 1, "all others are gone")
        assert after.memory.arenas == before.memory.arenas
        deadline = time.monotonic() + 20
        while daemon.descriptors() > descriptors and time.monotonic() < deadline:
            time.sleep(0.05)
        assert daemon.descriptors() <= descriptors
        assert torch.equal(stayer(ids).logits, expected)
        stayer.symbiosis.close()
    finally:
        daemon.close()


def test_a_killed_daemon_is_one_typed_error_within_a_second(fresh_daemon: DaemonProcess) -> None:
    model = AutoModelForCausalLM.from_pretrained(fresh_daemon.address)
    ids = torch.randint(3, 128, (1, 12))
    model(ids)
    died: list[float] = []

    def kill() -> None:
        fresh_daemon.kill()
        died.append(time.monotonic())

    timer = threading.Timer(0.3, kill)
    timer.start()
    with pytest.raises(DaemonGoneError, match="reconnect_s"):
        while True:
            model(ids)
    timer.join()
    assert time.monotonic() - died[0] < 1.0
    with pytest.raises(DaemonGoneError):
        model(ids)
    fresh_daemon.start()
    assert model(ids).logits.shape == (1, 12, 128), "a later call attaches anew"
    model.symbiosis.close()


def train_losses(model: Any, steps: int, at_step: Callable[[int], None] = lambda step: None) -> list[float]:
    torch.manual_seed(5)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in peft.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for step in range(steps):
        at_step(step)
        ids = torch.randint(3, 128, (2, 20))
        loss = peft(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("gently", [False, True], ids=["killed", "stopped"])
def test_training_goes_on_after_a_restart_with_the_same_losses(fresh_daemon: DaemonProcess, gently: bool) -> None:
    undisturbed = AutoModelForCausalLM.from_pretrained(fresh_daemon.address)
    expected = train_losses(undisturbed, 12)
    undisturbed.symbiosis.close()
    model = AutoModelForCausalLM.from_pretrained(fresh_daemon.address, reconnect_s=120)

    restarts: list[threading.Thread] = []

    def take_away_and_bring_back() -> None:
        fresh_daemon.stop() if gently else fresh_daemon.kill()
        fresh_daemon.start()

    def restart(step: int) -> None:
        """Takes the daemon away in the middle of a later request, from another thread."""
        if step == 6:
            restarts.append(threading.Thread(target=take_away_and_bring_back))
            restarts[-1].start()

    assert train_losses(model, 12, restart) == pytest.approx(expected, rel=1e-6)
    for thread in restarts:
        thread.join()
    assert model.symbiosis.session.reconnects == 1
    model.symbiosis.close()


def test_a_daemon_that_is_silent_while_a_client_comes_back_is_waited_for(
    fresh_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still at the first attempt to attach anew, and goes on at the second."""
    model = AutoModelForCausalLM.from_pretrained(fresh_daemon.address, reconnect_s=120)
    ids = torch.randint(3, 128, (1, 12))
    expected = model(ids).logits
    attempts: list[int] = []

    def greet_after_a_pause(*arguments: Any) -> Any:
        attempts.append(len(attempts))
        assert fresh_daemon.process is not None
        fresh_daemon.process.send_signal(signal.SIGCONT if attempts[-1] else signal.SIGSTOP)
        if attempts[-1]:
            return asking.greet(*arguments)
        os.waitpid(fresh_daemon.process.pid, os.WUNTRACED)
        with monkeypatch.context() as impatient:
            impatient.setattr(asking, "ControlClient", partial(ControlClient, timeout_s=0.2))
            return asking.greet(*arguments)

    fresh_daemon.kill()
    fresh_daemon.start()
    monkeypatch.setattr(attaching, "greet", greet_after_a_pause)
    assert torch.equal(model(ids).logits, expected)
    assert len(attempts) >= 2
    model.symbiosis.close()


def test_another_base_after_the_restart_is_refused(
    fresh_daemon: DaemonProcess, tiny_path: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(fresh_daemon.address, reconnect_s=60)
    fresh_daemon.kill()
    other = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "bfloat16").start()
    with pytest.raises(UsageError, match="came back with another base"):
        model(torch.randint(3, 128, (1, 4)))
    other.close()


def test_sigterm_drains_and_exits_with_zero(fresh_daemon: DaemonProcess, start_tenant: StartTenant) -> None:
    start_tenant("train", fresh_daemon.address)
    assert fresh_daemon.stop() == 0
    assert not Path(f"{fresh_daemon.folder}/d.sock").exists()
    assert not Path(f"{fresh_daemon.folder}/d.sock.data").exists()


def test_a_second_daemon_is_refused_and_the_first_keeps_its_clients(
    fresh_daemon: DaemonProcess, tiny_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(fresh_daemon.address)
    second = DaemonProcess(fresh_daemon.folder, str(tiny_path))
    second.log = fresh_daemon.folder / "second.log"
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(60) == 2
    assert "in use by the daemon with pid" in second.said()
    assert "Traceback" not in second.said()
    assert model(torch.randint(3, 128, (1, 4))).logits.shape == (1, 4, 128)
    assert len(fresh_daemon.status().clients) == 1
    model.symbiosis.close()


def test_garbage_on_every_socket_leaves_the_daemon_alive(fresh_daemon: DaemonProcess) -> None:
    context = zmq.Context()
    control = context.socket(zmq.DEALER)
    control.setsockopt(zmq.LINGER, 0)
    control.connect(fresh_daemon.address)
    for frames in ([b"\x00" * 100], [b"SYMB", b""], [os.urandom(8), os.urandom(1000)], [b""] * 20):
        control.send_multipart(frames)
        assert control.poll(10_000), "garbage gets an answer"
        control.recv_multipart()
    control.send(b"x" * (1 << 20))
    control.close()
    context.term()
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as data:
            data.connect(f"{fresh_daemon.folder}/d.sock.data")
            data.send(os.urandom(64))
        with socket.socket(socket.AF_UNIX) as rows:
            rows.connect(f"{fresh_daemon.folder}/d.sock.zmq")
            rows.send(os.urandom(64))
    model = AutoModelForCausalLM.from_pretrained(fresh_daemon.address)
    assert model(torch.randint(3, 128, (1, 4))).logits.shape == (1, 4, 128)
    model.symbiosis.close()


def test_what_cannot_be_had_is_refused_with_a_remedy(fresh_daemon: DaemonProcess) -> None:
    with pytest.raises(RefusedError, match="the daemon's lanes are: inference, training") as lane:
        AutoModelForCausalLM.from_pretrained(fresh_daemon.address, lane="express")
    assert lane.value.code is RefusalCode.UNKNOWN_LANE
    with pytest.raises(RefusedError, match="its models are: llama") as model:
        AutoModelForCausalLM.from_pretrained(f"{fresh_daemon.address}#gpt5")
    assert model.value.code is RefusalCode.UNKNOWN_MODEL
    with pytest.raises(UsageError, match="--dtype bfloat16"):
        AutoModelForCausalLM.from_pretrained(fresh_daemon.address, dtype=torch.bfloat16)
    with pytest.raises(UsageError, match="tp_plan='auto'"):
        AutoModelForCausalLM.from_pretrained(fresh_daemon.address, tp_plan="auto")
    with pytest.raises(DaemonGoneError, match="symbiosis serve"):
        AutoModelForCausalLM.from_pretrained(f"ipc://{fresh_daemon.folder}/nobody.sock")


def test_a_token_outside_the_vocabulary_fails_its_own_request_only(fresh_daemon: DaemonProcess) -> None:
    model = AutoModelForCausalLM.from_pretrained(fresh_daemon.address)
    with pytest.raises(RefusedError, match="use the tokenizer of this base") as caught:
        model(torch.tensor([[5, 128]]))
    assert caught.value.code is RefusalCode.BAD_INDEX
    assert model(torch.tensor([[5, 127]])).logits.shape == (1, 2, 128)
    model.symbiosis.close()
