"""Faults with real processes, over every transport between processes: nobody else notices, and all comes back.

The table of all faults is docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symbiosis_core.errors import DaemonGoneError, DaemonSilentError, RefusalCode, RefusedError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import ADD_ONE, NEVER, EchoDaemon, add_one
from tests.intensity import NIGHTLY, cases
from tests.transports.ports import free_pair

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
MIB = 1 << 20


class Echo:
    """An echo daemon in a process."""

    def __init__(self, name: str, folder: Path, *limit: str) -> None:
        address = f"tcp://127.0.0.1:{free_pair()}" if name == "zmq_tcp" else f"ipc://{folder}/echo.sock"
        self.name = name
        self.endpoint = transport(name).endpoint(address)
        command = [sys.executable, "-m", "tests.transports.echo_process", name, self.endpoint, *limit]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout
        assert self._out.readline() == "ready\n"

    def connect(self) -> ClientChannel:
        return transport(self.name).connect(self.endpoint, Token("good"), 20)

    def held(self) -> dict[str, int]:
        self._in.write("\n")
        told: dict[str, int] = json.loads(self._out.readline())
        return told

    def wait(self, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        deadline = time.monotonic() + WITHIN_S
        while not condition(held := self.held()):
            assert time.monotonic() < deadline, held
            time.sleep(0.02)
        return held

    def victims(self, *how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.transports.victims", self.name, self.endpoint, *how]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


def stop(process: subprocess.Popen[str]) -> None:
    """Every thread of it stands still when this returns; the signal alone only asks for that."""
    process.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


@pytest.fixture(params=["posix_shm", "zmq_ipc", "zmq_tcp"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def echo(name: str, tmp_path: Path) -> Iterator[Echo]:
    echo = Echo(name, tmp_path)
    yield echo
    echo.close()


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
    assert after["rss_bytes"] - before["rss_bytes"] <= MIB
    channel.close()


def test_a_client_may_be_killed_before_any_of_its_operations(echo: Echo) -> None:
    """n = 1, 2, ... until the run succeeds; each time another client is served, and the dead one is gone.

    In every run over shared memory; at night over the others, of which otherwise one round trip is taken.
    """
    operations = 1 + 1 + 3 * 5 + 1
    stayer = echo.connect()
    for number in range(1, 100):
        if echo.name != "posix_shm" and not NIGHTLY and 7 < number < operations:
            continue
        done = echo.victims("step", str(number))
        echo.wait(lambda held: held["channels"] == 1)
        assert add_one(stayer, b"abc", 3)
        if done.stdout == "done\n":
            assert number == operations
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    stayer.close()


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


def test_a_client_for_whom_there_is_no_memory_is_refused_alone(name: str, tmp_path: Path) -> None:
    """Slots that no machine has."""
    address = f"tcp://127.0.0.1:{free_pair()}" if name == "zmq_tcp" else f"ipc://{tmp_path}/d.sock"
    endpoint = transport(name).endpoint(address)
    daemon = EchoDaemon(transport(name), endpoint)
    stayer = transport(name).connect(endpoint, Token("good"), 20)
    daemon._slot_bytes = 1 << 60
    with pytest.raises(RefusedError) as refused:
        transport(name).connect(endpoint, Token("good"), 20)
    assert refused.value.code is RefusalCode.QUOTA
    assert [why for _, why in daemon.goodbyes] == ["abandoned"]
    assert add_one(stayer, b"abc", 3)
    stayer.close()
    daemon.close()


def test_a_client_that_never_reads_its_answers_slows_nobody(echo: Echo) -> None:
    """It asks as fast as it can and looks at nothing but whether it may ask again."""
    reader, stayer = echo.connect(), echo.connect()
    call = Call(ADD_ONE, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1)
    slots = [reader.lease_nowait() for _ in range(reader.slots)]
    for slot in slots:
        reader.publish(slot, call)
    for _ in range(300):
        assert add_one(stayer, b"abc", 3)
    for slot in slots:
        reader.wait(slot, WITHIN_S)
    for channel in (reader, stayer):
        channel.close()
