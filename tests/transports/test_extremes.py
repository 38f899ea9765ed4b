"""Much at once, or next to nothing left: eight clients and a killed daemon, and a /dev/shm that is full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from symbiosis_core.errors import DaemonGoneError
from symbiosis_core.ids import OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.testing import ADD_ONE, NEVER, add_one
from tests.transports.echoes import ROOT, WITHIN_S, Echo

CLIENTS = 8
FULL = "mount -t tmpfs -o size=1m none /dev/shm && cat /dev/zero > /dev/shm/full 2> /dev/null; "
"""In a mount namespace of its own, where it concerns nobody else."""


def test_eight_clients_of_a_daemon_that_is_killed_are_told_so_and_served_by_the_next(
    echo: Echo, tmp_path: Path
) -> None:
    """Half of them wait for a call that is never answered, the others make one trip after the other."""
    told: list[str] = []
    all_in = threading.Barrier(CLIENTS + 1)

    def live(number: int) -> None:
        channel = echo.connect()
        all_in.wait(WITHIN_S)
        try:
            if number % 2:
                slot = channel.lease_nowait()
                channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
                channel.wait(slot, WITHIN_S)
            while True:
                assert add_one(channel, b"abc", 3)
        except DaemonGoneError:
            told.append("gone")
        channel.close()

    clients = [threading.Thread(target=live, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    all_in.wait(WITHIN_S)
    echo.process.kill()
    for client in clients:
        client.join(WITHIN_S)
    assert told == ["gone"] * CLIENTS
    following = Echo(echo.name, tmp_path)
    channels = [following.connect() for _ in range(CLIENTS)]
    assert all(add_one(channel, b"abc", 3) for channel in channels)
    for channel in channels:
        channel.close()
    following.close()


def _namespaces() -> bool:
    """Whether a shared-memory file system may be mounted here where nobody else sees it."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "sh", "-c", f"{FULL} test -s /dev/shm/full"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _namespaces(), reason="needs a mount namespace, as root has")
def test_a_full_dev_shm_is_in_nobodys_way(name: str, tmp_path: Path) -> None:
    """No memory of ours is a file there: both sides see no byte of it free, and a whole slot of 1 MiB travels."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec unshare --mount sh -c \'{FULL} exec {sys.executable} "$@"\' sh "$@"\n')
    python.chmod(0o755)
    echo = Echo(name, tmp_path, slot_bytes=1 << 20, python=str(python))
    client = [str(python), "-m", "tests.transports.whole_slots", name, echo.endpoint]
    done = subprocess.run(client, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "full, and right\n"
    assert echo.wait(lambda held: held["gone"] == 1)["served"] == 4
    echo.close()


def test_a_client_that_is_stopped_between_publishing_and_waiting_has_its_answer_after_a_daemon_went(
    echo: Echo,
) -> None:
    """It finds both: what was answered before, and that nobody answers any more."""
    channel = echo.connect()
    answered, waiting = channel.lease_nowait(), channel.lease_nowait()
    _publish(channel, answered, ADD_ONE)
    echo.wait(lambda held: held["served"] == 1)
    _publish(channel, waiting, NEVER)
    other = echo.connect()  # what it is given was answered later, so the first answer has left the daemon, too
    slot = other.lease_nowait()
    _publish(other, slot, ADD_ONE)
    other.wait(slot, WITHIN_S)
    os.kill(echo.process.pid, signal.SIGKILL)
    echo.process.wait()
    channel.wait(answered, WITHIN_S)
    assert bytes(channel.buffer(answered)[64:65]) == b"b"
    with pytest.raises(DaemonGoneError):
        channel.wait(waiting, WITHIN_S)
    channel.close()
    other.close()


def _publish(channel: ClientChannel, slot: SlotIndex, op: OpId) -> None:
    channel.buffer(slot)[:1] = b"a"
    channel.publish(slot, Call(op, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
