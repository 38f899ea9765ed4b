"""Faults with real processes, over every transport between processes: nobody else notices, and all comes back.

The table of all faults is docs/reliability.md.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from symbiosis_core.errors import DaemonGoneError, DaemonSilentError, RefusalCode, RefusedError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import MOST_DESCRIPTORS, Call, ClientChannel
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import ADD_ONE, NEVER, add_one
from tests.intensity import cases
from tests.jumping_clock import PRELOAD, jumping_clock
from tests.transports.doom import lines
from tests.transports.echoes import ROOT, WITHIN_S, Echo, endpoint_of, stop

MIB = 1 << 20


def test_clients_that_are_killed_give_all_memory_and_descriptors_back(echo: Echo) -> None:
    """Each with every slot touched and in the daemon's hands; over shared memory two hundred in every run."""
    count = 200 if echo.name == "posix_shm" else cases(10, 200)
    stayer = echo.connect()
    assert add_one(stayer, b"abc", 3)
    assert echo.victims("crowd", "5").returncode == 0
    before = echo.wait(lambda held: held["channels"] == 1)
    done = echo.victims("crowd", str(count))
    assert done.returncode == 0, done.stderr
    after = echo.wait(lambda held: held["channels"] == 1)
    assert after["gone"] - before["gone"] == count
    assert after["descriptors"] == before["descriptors"]
    if "rss_bytes" in before:  # not every kernel tells
        assert after["rss_bytes"] - before["rss_bytes"] <= MIB
    assert add_one(stayer, b"abc", 3)
    stayer.close()


def test_thousands_of_requests_leave_nothing_behind(echo: Echo) -> None:
    count = 10_000 if echo.name == "posix_shm" else cases(500, 10_000)
    channel = echo.connect()
    for _ in range(500):
        assert add_one(channel, b"abc", 3)
    before = echo.held()
    for _ in range(count):
        assert add_one(channel, b"abc", 3)
    after = echo.held()
    assert after["served"] - before["served"] == count
    if "rss_bytes" in before:  # not every kernel tells
        assert after["rss_bytes"] - before["rss_bytes"] <= MIB
    channel.close()


@pytest.mark.long
@pytest.mark.parametrize("name", ["posix_shm", "zmq_ipc", "zmq_tcp", "cuda_ipc"])
def test_ten_thousand_requests_and_two_hundred_killed_clients_leave_the_memory_of_the_start(
    name: str, tmp_path: Path
) -> None:
    """In the life of one daemon, after a few of each. `cuda_ipc` is over the fake device: its memory is files."""
    echo = Echo(name, tmp_path)
    stayer = echo.connect()

    def live(requests: int, victims: int) -> dict[str, int]:
        for _ in range(requests):
            assert add_one(stayer, b"abc", 3)
        done = echo.victims("crowd", str(victims))
        assert done.returncode == 0, done.stderr
        return echo.wait(lambda held: held["channels"] == 1)

    before = live(500, 5)
    after = live(10_000, 200)
    assert (after["served"] - before["served"], after["gone"] - before["gone"]) == (10_000, 200)
    echo.wait(lambda held: held["descriptors"] == before["descriptors"])
    if "rss_bytes" in before:  # not every kernel tells
        assert after["rss_bytes"] - before["rss_bytes"] <= MIB
    stayer.close()
    echo.close()


AT_LINES = pytest.mark.parametrize(
    "step", [pytest.param(9, id="some lines"), pytest.param(1, id="every line", marks=pytest.mark.long)]
)


@AT_LINES
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_client_may_be_killed_or_stopped_at_any_point(echo: Echo, how: str, step: int) -> None:
    """Before its n-th line, n = 1, 2, ... until it comes to its end. Each time another client is served; the dead
    is gone, and who was stopped gets its answers.
    """
    stayer = echo.connect()
    assert add_one(stayer, b"abc", 3)
    before = echo.held()
    with lines("tests.transports.victims", echo.name, echo.endpoint, how, str(step)) as (said, say):
        hits = 0
        while said() == "hit":
            hits += 1
            if how == "SIGKILL":
                echo.wait(lambda held: held["channels"] == 1)
            for _ in range(3):
                assert add_one(stayer, b"abc", 3)
            say("go on")
    assert hits * step > 100  # it has more lines than that
    echo.wait(lambda held: held["channels"] == 1 and held["descriptors"] == before["descriptors"])
    stayer.close()


@AT_LINES
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_daemon_may_be_killed_or_stopped_at_any_point(name: str, tmp_path: Path, how: str, step: int) -> None:
    """Before its n-th line, n = 1, 2, ... until it is not hit. A client has right rows or a typed error; with the
    next daemon, rows.
    """
    endpoint = endpoint_of(name, tmp_path)
    clients: list[ThreeTrips] = []
    with lines("tests.transports.doomed_daemon", name, endpoint, how, str(step)) as (said, say):
        hits = 0
        while (word := said()) != "over":
            if word == "ready":
                clients.append(ThreeTrips(name, endpoint))
                continue
            assert word == "hit"
            hits += 1
            if how == "SIGKILL" and clients:
                clients[-1].join()  # the next daemon is none of its
            say("go on")
    for client in clients:
        client.join()
        assert client.told in ([], [True], [True, True]) if client.gone else client.told == [True, True, True]
        assert how == "SIGKILL" or not client.gone
    assert not clients[-1].gone
    assert hits * step > 100


class ThreeTrips(threading.Thread):
    """A client's. `told`: of each trip that came to its end, whether its rows were right."""

    def __init__(self, name: str, endpoint: str) -> None:
        super().__init__()
        self.told: list[bool] = []
        self.gone = False
        self._connect = partial(transport(name).connect, endpoint, Token("good"), WITHIN_S)
        self.start()

    def run(self) -> None:
        try:
            channel = self._connect()
            for _ in range(3):
                self.told.append(add_one(channel, b"abc", 3))
            channel.close()
        except DaemonGoneError:
            self.gone = True


def test_a_daemon_that_is_killed_is_noticed_in_the_middle_of_a_request(echo: Echo) -> None:
    channel = echo.connect()
    slot = channel.lease_nowait()
    channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
    os.kill(echo.process.pid, signal.SIGKILL)
    with pytest.raises(DaemonGoneError):
        channel.wait(slot, WITHIN_S)
    channel.close()


def test_a_daemon_that_is_stopped_is_silent_and_goes_on_afterwards(echo: Echo) -> None:
    channel = echo.connect()
    assert add_one(channel, b"abc", 3)
    stop(echo.process)
    slot = channel.lease_nowait()
    channel.buffer(slot)[:1] = b"a"
    channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
    with pytest.raises(DaemonSilentError):
        channel.wait(slot, 0.2)
    os.kill(echo.process.pid, signal.SIGCONT)
    channel.wait(slot, WITHIN_S)
    assert bytes(channel.buffer(slot)[64:65]) == b"b"
    channel.close()


HOLD = """
import sys
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import ADD_ONE, add_one
channel = transport(sys.argv[1]).connect(sys.argv[2], Token("good"), 20)
slot = channel.lease_nowait()
channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
print("published", flush=True)
sys.stdin.readline()
channel.wait(slot, 20)
channel.release(slot)
print(add_one(channel, b"abc", 3), flush=True)
channel.close()
"""


def test_a_client_that_is_stopped_holds_its_own_slots_and_goes_on_afterwards(echo: Echo) -> None:
    stayer = echo.connect()
    command = [sys.executable, "-c", HOLD, echo.name, echo.endpoint]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "published\n"
        stop(stopped)
        for _ in range(200):
            assert add_one(stayer, b"abc", 3)
        assert echo.held()["channels"] == 2
        os.kill(stopped.pid, signal.SIGCONT)
        told, _ = stopped.communicate("go\n", timeout=WITHIN_S)
    assert told == "True\n"
    stayer.close()


def test_a_client_that_has_forked_is_seen_to_leave_although_its_child_lives(echo: Echo) -> None:
    """The child can neither use the channel nor keep its connection; the parent goes on."""
    with lines("tests.transports.victims", echo.name, echo.endpoint, "fork") as (hear, say):
        assert sorted([hear(), hear()]) == ["forked", "held"]
        assert echo.held()["channels"] == 1
        say("leave")
        echo.wait(lambda held: held["channels"] == 0)


def test_a_daemon_without_descriptors_serves_whom_it_has_and_lets_others_in_later(
    name: str, tmp_path: Path
) -> None:
    echo = Echo(name, tmp_path, "6")
    stayer = echo.connect()
    inside: list[ClientChannel] = []
    for _ in range(8):
        try:
            inside.append(transport(name).connect(echo.endpoint, Token("good"), 0.5))
        except (DaemonGoneError, DaemonSilentError, RefusedError):
            break
    else:
        raise AssertionError("the daemon never ran out of descriptors")
    assert add_one(stayer, b"abc", 3)
    for channel in inside:
        channel.close()
    echo.wait(lambda held: held["channels"] == 1)
    late = echo.connect()
    assert add_one(late, b"abc", 3)
    for channel in (late, stayer):
        channel.close()
    echo.close()


def test_a_client_comes_in_with_as_many_descriptors_as_a_daemon_counts_for_it(name: str, tmp_path: Path) -> None:
    """The daemon has so many for each and not one more, and both come at once."""
    echo = Echo(name, tmp_path, str(2 * MOST_DESCRIPTORS))
    channels: list[ClientChannel] = []
    comers = [threading.Thread(target=lambda: channels.append(echo.connect())) for _ in range(2)]
    for comer in comers:
        comer.start()
    for comer in comers:
        comer.join(WITHIN_S)
    assert [add_one(channel, b"abc", 3) for channel in channels] == [True, True]
    for channel in channels:
        channel.close()
    echo.close()


@pytest.fixture
def _clocks_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRELOAD, jumping_clock(tmp_path))


def test_clocks_that_jump_make_nobody_late(_clocks_jump: None, echo: Echo) -> None:
    """The wall clock of both sides, a thousand times a second, by two hours: no limit is taken from it."""
    client = [sys.executable, "-m", "tests.transports.clock_client", echo.name, echo.endpoint]
    done = subprocess.run(client, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert echo.wait(lambda held: held["gone"] == 1)["served"] == 301


def test_a_client_for_whom_there_is_no_memory_is_refused_alone(echo: Echo) -> None:
    """Slots that no machine has."""
    stayer = echo.connect()
    echo.held(slot_bytes=str(1 << 60))
    with pytest.raises(RefusedError) as refused:
        echo.connect()
    assert refused.value.code is RefusalCode.QUOTA
    held = echo.held()
    assert (held["channels"], held["gone"]) == (1, 1), "its place is free again"
    assert add_one(stayer, b"abc", 3)
    stayer.close()


SLOW = """
import sys
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import ADD_ONE
channel = transport(sys.argv[1]).connect(sys.argv[2], Token("good"), 20)
half = channel.slot_bytes // 2
slots = [channel.lease_nowait() for _ in range(channel.slots)]
whole_in = Call(ADD_ONE, Direction.FORWARD, half, 0, half, in_bytes=half, out_bytes=1)
for slot in slots:
    channel.buffer(slot)[:half] = bytes([slot + 1]) * half
    channel.publish(slot, whole_in)
    channel.wait(slot, 60)
    channel.buffer(slot)[half:] = bytes(half)
print("ready", flush=True)
sys.stdin.readline()
for slot in slots:
    channel.publish(slot, whole_in._replace(in_bytes=1, out_bytes=half))
print("asked", flush=True)
sys.stdin.readline()
for slot in slots:
    channel.wait(slot, 60)
    assert channel.buffer(slot)[half:] == bytes([slot + 2]) * half, slot
print("right", flush=True)
channel.close()
"""
"""Rows that have been told once, then calls of a few bytes whose answers are megabytes."""


def test_a_client_that_does_not_read_its_answers_slows_nobody_and_has_them_later(
    name: str, tmp_path: Path
) -> None:
    """Answers of 16 MiB for a client that stands still: over TCP more than the kernel takes. None of it is kept
    but in the client's own slots, and others are served.
    """
    echo = Echo(name, tmp_path, slot_bytes=8 * MIB)
    stayer = echo.connect()
    command = [sys.executable, "-c", SLOW, echo.name, echo.endpoint]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as slow:
        assert slow.stdin is not None
        assert slow.stdout is not None
        assert slow.stdout.readline() == "ready\n"
        assert add_one(stayer, b"abc", 3)
        before = echo.held()
        stop(echo.process)  # or its answers would be there before the client stands still
        slow.stdin.write("ask\n")
        assert slow.stdout.readline() == "asked\n"
        stop(slow)
        os.kill(echo.process.pid, signal.SIGCONT)
        during = echo.wait(lambda held: held["served"] == before["served"] + 4)
        for _ in range(50):
            assert add_one(stayer, b"abc", 3)
        after = echo.held()
        os.kill(slow.pid, signal.SIGCONT)
        told, _ = slow.communicate("wait\n", timeout=WITHIN_S)
    assert told == "right\n"
    assert slow.returncode == 0
    assert after["channels"] == 2
    if "rss_bytes" in before:  # not every kernel tells
        for held in (during, after):
            assert held["rss_bytes"] - before["rss_bytes"] <= MIB
    stayer.close()
    echo.close()
