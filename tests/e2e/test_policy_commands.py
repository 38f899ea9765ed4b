"""Policies as a user sees them: files are checked, explained and applied to a daemon that works on meanwhile."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_core.wire import Configure
from symbiosis_transports.zmq_link import ControlClient
from tests import strange_policies
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, assert_same_training, random_batches, train

LANES = "[lanes.inference]\npriority = 0\nmax_wait_us = 0\n[lanes.training]\npriority = 5\n"
FAIR = f'[policy]\nname = "weighted_fair"\n{LANES}'


def symbiosis(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "symbiosis_core", *arguments], capture_output=True, text=True)


def test_check_warns_and_explain_says_who_waits_for_whom(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(LANES + "weight = 3.0\n")
    checked, explained = symbiosis("policy", "check", str(file)), symbiosis("policy", "explain", str(file))
    assert checked.returncode == 0
    assert checked.stderr == f"warning: {file}: lanes.training.weight: the policy latency_first does not read it\n"
    assert explained.returncode == 0
    assert "inference, then training" in explained.stdout
    assert "one batch of 256 rows" in explained.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "daemon.toml"
    file.write_text(LANES)
    return file


@pytest.fixture
def daemon(
    tiny_path: Path, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DaemonProcess]:
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    strange_policies.install(strangers)
    monkeypatch.setenv("PYTHONPATH", str(strangers), prepend=os.pathsep)
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(file))
    try:
        yield daemon.start()
    finally:
        daemon.close()


def test_a_configuration_is_applied_while_clients_work_and_a_bad_one_changes_nothing(
    daemon: DaemonProcess, file: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(daemon.address, lane="inference")
    ids = torch.randint(3, 128, (1, 12))
    expected, stop, done = model(ids).logits, threading.Event(), [0]

    def work() -> None:
        while not stop.is_set():
            assert torch.equal(model(ids).logits, expected)
            done[0] += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        fair = tmp_path / "fair.toml"
        for number in range(6):
            fair.write_text(FAIR if number % 2 else f'[policy]\nname = "fifo"\n{LANES}')
            applied = symbiosis("policy", "apply", str(fair), "--address", daemon.address)
            assert applied.returncode == 0, applied.stderr
        assert daemon.status().policy == "weighted_fair"

        fair.write_text("[lanes.other]\npriority = 0\n")
        refused = symbiosis("policy", "apply", str(fair), "--address", daemon.address)
        assert refused.returncode == 1 and "inference" in refused.stderr
        assert daemon.status().policy == "weighted_fair"

        file.write_text("[lanes.inference]\npriority = 'first'\n")
        deadline = time.monotonic() + 30
        while "configuration not applied" not in daemon.said() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "lanes.inference.priority" in daemon.said()
        assert daemon.status().policy == "weighted_fair"

        file.write_text(LANES)
        daemon.wait_status(lambda status: status.policy == "latency_first", "the file is applied when it changes")
    finally:
        before = done[0]
        stop.set()
        worker.join(30)
    status = daemon.status()
    assert before > 0 and status.clients[0].refused == 0 and status.clients[0].requests > 0
    model.symbiosis.close()


def test_a_policy_that_is_not_ours_and_wrong_costs_neither_the_daemon_nor_a_request(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """One that cannot be made changes nothing, also where only the daemon can tell; one that fails is replaced."""
    model = AutoModelForCausalLM.from_pretrained(daemon.address, lane="inference")
    ids = torch.randint(3, 128, (1, 12))
    expected = model(ids).logits
    with ControlClient(daemon.address) as link:
        for name in ("raises_in_init", "has_no_plan", "is_not_there", "lacks_a_package", "ends_the_process"):
            with pytest.raises(RefusedError, match=f"policy.name = '{name}'") as refused:
                link.ask(Configure("a.toml", f'[policy]\nname = "{name}"\n{LANES}'))
            assert refused.value.code is RefusalCode.BAD_CONFIG
    file = tmp_path / "wrong.toml"
    file.write_text(f'[policy]\nname = "raises_in_init"\n{LANES}')
    refused_here = symbiosis("policy", "apply", str(file), "--address", daemon.address)
    assert refused_here.returncode == 2 and "ValueError: a bug in __init__" in refused_here.stderr
    assert daemon.status().policy == "latency_first"

    file.write_text(f'[policy]\nname = "raises_in_plan"\n{LANES}')
    assert symbiosis("policy", "apply", str(file), "--address", daemon.address).returncode == 0
    assert daemon.status().policy == "raises_in_plan"
    assert torch.equal(model(ids).logits, expected)
    assert daemon.status().policy == "latency_first, for raises_in_plan has failed"
    assert "ZeroDivisionError: a bug in plan" in daemon.said()
    assert daemon.status().clients[0].refused == 0
    model.symbiosis.close()


def test_a_training_that_waits_for_its_quota_loses_nothing(
    daemon: DaemonProcess, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes three times what is saved up, and has the losses of one that has no quota; and says once why."""
    batches = random_batches(steps=4, tokens=12)
    taken = AutoModelForCausalLM.from_pretrained(daemon.address, lane="training")
    expected = train(taken, METHODS["lora_qv"], batches)
    rows = daemon.status().clients[0].rows
    taken.symbiosis.close()

    file.write_text(LANES + f"client_rows_per_s = {rows // 6}\n")
    daemon.wait_status(lambda status: "configuration applied" in daemon.said(), "the file is applied")
    waits = AutoModelForCausalLM.from_pretrained(daemon.address, lane="training", quota_wait_s=60)
    with caplog.at_level(logging.WARNING):
        assert_same_training(train(waits, METHODS["lora_qv"], batches), expected)
    (client,) = daemon.status().clients
    assert client.rows == rows and client.refused > 1
    told = [record.getMessage() for record in caplog.records if "waiting for a quota" in record.getMessage()]
    assert len(told) == 1 and f"lanes.training.client_rows_per_s = {rows // 6} rows a second" in told[0]
    waits.symbiosis.close()


def test_a_quota_says_its_limit_and_when_to_try_again(daemon: DaemonProcess, file: Path) -> None:
    file.write_text(LANES + "client_rows_per_s = 20\nmax_clients = 1\n")
    daemon.wait_status(lambda status: "configuration applied" in daemon.said(), "the file is applied")
    model = AutoModelForCausalLM.from_pretrained(daemon.address, lane="training", reconnect_s=0)
    with pytest.raises(BusyError, match=r"lanes\.training\.max_clients"):
        AutoModelForCausalLM.from_pretrained(daemon.address, lane="training")
    ids = torch.randint(3, 128, (1, 30))
    for wait_s in (0.0, 0.5):  # too short a wait is none
        model.symbiosis.session._quota_wait_s = wait_s
        with pytest.raises(BusyError, match=r"lanes\.training\.client_rows_per_s = 20 rows a second") as caught:
            for _ in range(2):
                model(ids).logits.sum().item()
    error = caught.value
    assert error.code is RefusalCode.QUOTA and error.retry_after_s > 1
    assert f"the same call may be made again in {error.retry_after_s:.3g} s" in str(error)
    model.symbiosis.close()
