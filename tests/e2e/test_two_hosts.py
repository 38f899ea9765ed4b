"""A daemon on one host and a tenant on another train as plain PEFT does, also over a bad line."""

from __future__ import annotations

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
print(json.dumps(losses))
"""


@pytest.fixture(params=["cable out for a moment", "delay and loss"])
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
    daemon = DaemonProcess(
        tmp_path, str(tiny_path), "--dtype", "float32", "--listen", address, prefix=tuple(hosts.here)
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        KEY_VARIABLE: str(tmp_path / "tenant.key_secret"),
        DAEMON_KEY_VARIABLE: str(tmp_path / "daemon.key"),
    }
    tenant = [*hosts.there, sys.executable, "-c", TENANT, address]
    try:
        daemon.start()
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
        daemon.close()
    expected = train(plain(tiny_path), METHODS["lora_qv"], random_batches(STEPS, TOKENS))[1]
    assert json.loads(told.splitlines()[-1]) == pytest.approx(expected, rel=1e-5)
