"""A lane's clients give up weight by themselves: real processes at a real daemon, looked at from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from symbiosis_core.wire import Configure
from symbiosis_transports.zmq_link import ControlClient
from tests.adapters.connection.test_niceness import GROUPS_COUNT, OWN
from tests.e2e.conftest import TENANT
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.greeting import greet
from tests.transports.ports import free_pair

NICE: Final = 4


def lanes(nice: int) -> str:
    return f"[lanes.inference]\npriority = 0\n[lanes.training]\npriority = 1\nnice = {nice}\n"


@pytest.fixture
def daemon(tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    file = tmp_path / "daemon.toml"
    file.write_text(lanes(NICE))
    options = ("--dtype", "float32", "--config", str(file), "--listen", f"tcp://127.0.0.1:{free_pair()}")
    daemon = DaemonProcess(tmp_path, str(tiny_path), *options)
    try:
        yield daemon.start()
    finally:
        daemon.close()


def given_up(mode: str, address: str, keep: str = "") -> tuple[set[int], int]:
    """Returns the niceness of the threads of a client that is at work, and that of its session's group."""
    tenant = subprocess.Popen(
        [sys.executable, str(TENANT), mode, address],
        env={**os.environ, "SYMBIOSIS_KEEP_NICE": keep},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert tenant.stdout is not None
        assert tenant.stdout.readline() == "ready\n"
        return looked_at(tenant.pid)
    finally:
        tenant.kill()
        tenant.communicate()


def looked_at(pid: int) -> tuple[set[int], int]:
    process = Path(f"/proc/{pid}")
    tasks = [int(task.name) for task in (process / "task").iterdir()]
    group = int((process / "autogroup").read_text().split()[-1]) if GROUPS_COUNT else 0
    return {os.getpriority(os.PRIO_PROCESS, task) for task in tasks}, group


def test_a_process_of_the_lane_has_less_weight_and_nobody_else(daemon: DaemonProcess) -> None:
    """The daemon keeps its own, and so does a client of another lane, and one that does not want it."""
    assert daemon.process is not None
    _, session_before = looked_at(daemon.process.pid)
    assert given_up("train", daemon.address) == ({max(OWN, NICE)}, NICE if GROUPS_COUNT else 0)
    assert given_up("generate", daemon.address) == ({OWN}, 0)
    assert given_up("train", daemon.address, keep="1") == ({OWN}, 0)
    _, session = looked_at(daemon.process.pid)
    assert (os.getpriority(os.PRIO_PROCESS, daemon.process.pid), session) == (OWN, session_before)


def test_who_comes_to_the_socket_is_asked_what_holds_then(daemon: DaemonProcess) -> None:
    over_tcp = daemon.status().address.split(", ")[1]
    assert greet(daemon.address, "a", "training").nice == NICE
    assert greet(over_tcp, "a", "training").nice == 0, "it may have other cores"
    with ControlClient(daemon.address) as link:
        link.ask(Configure("a.toml", lanes(0)))
    assert greet(daemon.address, "b", "training").nice == 0
