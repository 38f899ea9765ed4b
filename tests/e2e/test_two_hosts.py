"""A daemon on one host and a tenant on another train as plain PEFT does, also over a bad line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from symbiosis_transports.keys import ALLOW_VARIABLE, DAEMON_KEY_VARIABLE, KEY_VARIABLE, new_pair
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, plain, random_batches, train
from tests.e2e.two_hosts import TwoHosts, obstacle
from tests.transports.ports import free_pair

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


LOSSY = "delay, loss, and the cable out for a moment"
BAD_CABLE = "a cable that is slow, loses and breaks"


class Hosts(NamedTuple):
    """Where daemon and tenant run, and how the one reaches the other."""

    here: list[str]
    there: list[str]
    listens: str
    reached: str
    namespaces: TwoHosts | None
    """None: what is bad between them is the cable."""


@pytest.fixture(params=[LOSSY, pytest.param(BAD_CABLE, marks=pytest.mark.long)])
def line(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hosts(line: str) -> Iterator[Hosts]:
    """Loss is netem's, or else that of a process that carries packets between the two; without namespaces, of one
    that carries what TCP carries, from one port of this host to another.
    """
    ways = ["netem", "lossy"] if line == LOSSY else ["cable"]
    usable = next((way for way in ways if not obstacle(way)), None)
    if usable is None:
        near, far = free_pair(), free_pair()
        with bad_cable([], near, "127.0.0.1", far):
            yield Hosts([], [], f"tcp://127.0.0.1:{far}", f"tcp://127.0.0.1:{near}", None)
        return
    with TwoHosts(usable) as two:
        address = f"tcp://{two.addresses[0]}:{PORT}"
        if line == LOSSY:
            yield Hosts(two.here, two.there, address, address, two)
            return
        with bad_cable(two.there, PORT, two.addresses[0], PORT):
            yield Hosts(two.here, two.there, address, f"tcp://127.0.0.1:{PORT}", None)


@contextlib.contextmanager
def bad_cable(there: list[str], near: int, host: str, far: int) -> Iterator[None]:
    """On the tenant's host: its own ports lead to the daemon's."""
    command = [*there, sys.executable, "-m", "tests.transports.cable", str(near), host, str(far)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.stdin.close()


def test_a_tenant_on_another_host_trains_as_plain_peft_does(
    hosts: Hosts, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "allowed").mkdir()
    for name in ("daemon", "tenant"):
        new_pair(tmp_path, name)
    (tmp_path / "tenant.key").rename(tmp_path / "allowed" / "tenant.key")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "daemon.key_secret"))
    monkeypatch.setenv(ALLOW_VARIABLE, str(tmp_path / "allowed"))
    daemon = DaemonProcess(
        tmp_path, str(tiny_path), "--dtype", "float32", "--listen", hosts.listens, prefix=tuple(hosts.here)
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        KEY_VARIABLE: str(tmp_path / "tenant.key_secret"),
        DAEMON_KEY_VARIABLE: str(tmp_path / "daemon.key"),
    }
    tenant = [*hosts.there, sys.executable, "-c", TENANT, hosts.reached]
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
            if (two := hosts.namespaces) is not None:
                daemon.wait_status(lambda status: status.batches.count > 5, "it trains")
                two.plug("down")
                stood = daemon.status().batches.count
                two.plug("up")
                daemon.wait_status(lambda status: status.batches.count > stood + 5, "it goes on")
            told, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        sent_again = two.sent_again() if two is not None else 0
    finally:
        daemon.close()
    expected = train(plain(tiny_path), METHODS["lora_qv"], random_batches(STEPS, TOKENS))[1]
    losses, reconnects = json.loads(told.splitlines()[-1])
    assert losses == pytest.approx(expected, rel=1e-5)
    assert sent_again > 0 or reconnects > 0  # or nothing was lost
