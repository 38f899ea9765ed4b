"""A daemon on one host and a tenant on another train as plain PEFT does, also over a bad line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from symbiosis_transports.keys import ALLOW_VARIABLE, DAEMON_KEY_VARIABLE, KEY_VARIABLE, new_pair
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, plain, random_batches, train
from tests.e2e.two_hosts import TwoHosts, obstacle

ROOT = Path(__file__).parents[2]
PORT = 5555
STEPS, TOKENS = 6, 20
TENANT = f"""
import json, sys, torch
torch.set_num_threads(1)
from symbiosis_adapters import AutoModelForCausalLM
from tests.e2e.training import METHODS, random_batches, train
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], reconnect_s=60)
print("ready", flush=True)
sys.stdin.readline()
losses = train(base, METHODS["lora_qv"], random_batches({STEPS}, {TOKENS}))[1]
print(json.dumps([losses, base.symbiosis.session.reconnects]))
"""


BAD_CABLE = "a cable that is slow, loses and breaks"


@pytest.fixture(
    params=["cable out for a moment", "delay and loss", pytest.param(BAD_CABLE, marks=pytest.mark.long)]
)
def line(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hosts(line: str) -> Iterator[TwoHosts]:
    impaired = line == "delay and loss"
    if reason := obstacle(impaired=impaired):
        pytest.skip(reason)
    with TwoHosts() as hosts:
        if impaired:
            hosts.impair("delay", "2ms", "1ms", "loss", "1%")
        yield hosts


@contextlib.contextmanager
def bad_cable(hosts: TwoHosts) -> Iterator[None]:
    """On the tenant's host: its own ports lead to the daemon's."""
    carrier = [*hosts.there, sys.executable, "-m", "tests.transports.cable"]
    arguments = [str(PORT), hosts.addresses[0], str(PORT)]
    with subprocess.Popen(
        [*carrier, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield


def test_a_tenant_on_another_host_trains_as_plain_peft_does(
    hosts: TwoHosts, line: str, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "allowed").mkdir()
    for name in ("daemon", "tenant"):
        new_pair(tmp_path, name)
    (tmp_path / "tenant.key").rename(tmp_path / "allowed" / "tenant.key")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "daemon.key_secret"))
    monkeypatch.setenv(ALLOW_VARIABLE, str(tmp_path / "allowed"))
    address = f"tcp://{hosts.addresses[0]}:{PORT}"
    beside = contextlib.ExitStack()
    daemon = DaemonProcess(
        tmp_path, str(tiny_path), "--dtype", "float32", "--listen", address, prefix=tuple(hosts.here)
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        KEY_VARIABLE: str(tmp_path / "tenant.key_secret"),
        DAEMON_KEY_VARIABLE: str(tmp_path / "daemon.key"),
    }
    reached = f"tcp://127.0.0.1:{PORT}" if line == BAD_CABLE else address
    tenant = [*hosts.there, sys.executable, "-c", TENANT, reached]
    try:
        daemon.start()
        if line == BAD_CABLE:
            beside.enter_context(bad_cable(hosts))
        with subprocess.Popen(
            tenant, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            (seen,) = daemon.status().clients
            assert seen.transport == "zmq_tcp"
            process.stdin.write("go\n")
            process.stdin.flush()
            if line == "cable out for a moment":
                daemon.wait_status(lambda status: status.batches.count > 5, "it trains")
                hosts.plug("down")
                stood = daemon.status().batches.count
                hosts.plug("up")
                daemon.wait_status(lambda status: status.batches.count > stood + 5, "it goes on")
            told, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    finally:
        beside.close()
        daemon.close()
    expected = train(plain(tiny_path), METHODS["lora_qv"], random_batches(STEPS, TOKENS))[1]
    losses, reconnects = json.loads(told.splitlines()[-1])
    assert losses == pytest.approx(expected, rel=1e-5)
    assert line != BAD_CABLE or reconnects > 0
