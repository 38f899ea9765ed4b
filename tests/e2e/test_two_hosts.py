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
batches = random_batches({STEPS}, {TOKENS})
def go_on_when_told(said):
    print(said, flush=True)
    sys.stdin.readline()
def one_after_the_other():
    for step, batch in enumerate(batches):
        if step == {STEPS // 2}:
            go_on_when_told("half of it is done")
        yield batch
go_on_when_told("ready")
losses = train(base, METHODS["lora_qv"], one_after_the_other())[1]
print(json.dumps([losses, base.symbiosis.session.reconnects]))
"""


LOSSY = "delay, loss, and the cable out for a moment"
BAD_CABLE = "a cable that is slow, loses and breaks"
ONE_HOST = "such a cable from one port of this host to another"


class Hosts(NamedTuple):
    """Where daemon and tenant run, and how the one reaches the other."""

    here: list[str]
    there: list[str]
    listens: str
    reached: str
    namespaces: TwoHosts | None
    """None: what is bad between them is the cable."""


@pytest.fixture(params=[LOSSY, ONE_HOST, pytest.param(BAD_CABLE, marks=pytest.mark.long)])
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Loss is netem's, or else that of a process that carries packets between the two; a cable's, that of one that
    carries what TCP carries.
    """
    if request.param == ONE_HOST:
        near, far = free_pair(), free_pair()
        with bad_cable([], near, "127.0.0.1", far):
            yield Hosts([], [], f"tcp://127.0.0.1:{far}", f"tcp://127.0.0.1:{near}", None)
        return
    with TwoHosts(usable("netem", "lossy") if request.param == LOSSY else usable("cable")) as two:
        address = f"tcp://{two.addresses[0]}:{PORT}"
        if request.param == LOSSY:
            yield Hosts(two.here, two.there, address, address, two)
            return
        with bad_cable(two.there, PORT, two.addresses[0], PORT):
            yield Hosts(two.here, two.there, address, f"tcp://127.0.0.1:{PORT}", None)


def usable(*lines: str) -> str:
    """Returns the first that there can be here; skips the test where there is none."""
    obstacles = []
    for line in lines:
        if not (why := obstacle(line)):
            return line
        obstacles.append(why)
    # Two hosts need namespaces. One host is always tried, under an id of its own.
    pytest.skip("; ".join(obstacles))


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
            assert process.stdout.readline() == "half of it is done\n"
            with cable_out(hosts.namespaces, daemon):
                process.stdin.write("go on\n")
                process.stdin.flush()
            told, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    finally:
        daemon.close()
    expected = train(plain(tiny_path), METHODS["lora_qv"], random_batches(STEPS, TOKENS))[1]
    losses, reconnects = json.loads(told.splitlines()[-1])
    assert losses == pytest.approx(expected, rel=1e-5)
    assert hosts.namespaces is not None or reconnects > 0  # or nothing was lost


@contextlib.contextmanager
def cable_out(two: TwoHosts | None, daemon: DaemonProcess) -> Iterator[None]:
    """Pulls the cable of two hosts, and puts it back once something that was said in the meantime was lost."""
    if two is None:
        yield
        return
    two.plug("down")
    before = two.sent_again()
    yield
    daemon.wait_status(lambda _: two.sent_again() > before, "what was lost is sent again")
    two.plug("up")
