"""CUDA IPC keeps the contract over a fake device, in threads and in processes. What is its own: memory, events.

Nothing here needs or says anything about a GPU; `bench/gpu_check.sh` is for one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from symbiosis_core.errors import (
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    RefusedError,
    RemoteProtocolError,
)
from symbiosis_core.ids import SlotIndex, Token
from symbiosis_core.specs import Direction
from symbiosis_transports.cuda.seam import CudaError
from symbiosis_transports.cuda_ipc import TRANSPORT, WISH_VARIABLE, CudaIpc
from symbiosis_transports.cuda_ipc.client import CudaClientChannel
from symbiosis_transports.cuda_ipc.graves import MOST
from symbiosis_transports.cuda_ipc.handles import LEFT
from symbiosis_transports.cuda_ipc.process import ClientProcess
from symbiosis_transports.fake_cuda import FakeCuda, FakeDevices
from symbiosis_transports.negotiate import choose
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM
from symbiosis_transports.testing import ADD_ONE, NEVER, ChannelConformance, EchoDaemon, EchoProcess, add_one


class TestCudaIpc(ChannelConformance):
    """Every promise of the contract."""

    @pytest.fixture(autouse=True)
    def _device(self, tmp_path: Path) -> Iterator[None]:
        folder = tmp_path / "device"
        folder.mkdir()
        devices = FakeDevices(folder)
        type(self).transport = CudaIpc(devices)
        yield
        assert not devices.faults


@pytest.mark.long
class TestCudaIpcApart(TestCudaIpc):
    """As on a real device: each end in a process of its own, and nobody asks for memory that the host sees."""

    apart = True

    @pytest.fixture(autouse=True)
    def _blind(self, blind: None) -> None: ...


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host does not see the device's memory, as it does not see a real one's."""

    def buffer(channel: CudaClientChannel, slot: SlotIndex) -> memoryview:
        raise AssertionError("the host does not see the rows")

    monkeypatch.setattr(CudaClientChannel, "buffer", buffer)


def test_garbage_at_the_door_and_in_the_conversation_costs_its_sender_alone(folder: Path, tmp_path: Path) -> None:
    """Before a client is let in, and instead of the handles that it owes."""
    carrier = CudaIpc(FakeDevices(folder))
    daemon = EchoDaemon(carrier, f"{tmp_path}/d.cuda")
    stayer = carrier.connect(f"{tmp_path}/d.cuda", Token("good"), 10)
    for said in (b"", b"\0", b"\xc1" * 300, os.urandom(4096)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.settimeout(10)
            stranger.connect(f"{tmp_path}/d.cuda")
            stranger.send(said)
            while stranger.recv(4096):
                pass
    words = POSIX_SHM.connect(f"{tmp_path}/d.cuda", Token("good"), 10)
    with contextlib.suppress(DaemonGoneError, RemoteProtocolError, RefusedError):
        for _ in range(3):
            slot = words.lease_nowait()
            words.buffer(slot)[:] = os.urandom(words.slot_bytes)
            words.publish(slot, Call(ADD_ONE, Direction.BACKWARD, 1 << 31, 1 << 60, 1 << 60))
            words.wait(slot, 10)
            words.release(slot)
        raise AssertionError("random handles were opened")
    words.close()
    assert add_one(stayer, b"abc", 3)
    stayer.close()
    daemon.close()


@pytest.mark.usefixtures("blind")
def test_a_daemon_in_another_process_serves_a_client_that_sees_no_memory(folder: Path, tmp_path: Path) -> None:
    """As the whole suite does in `make test-long`."""
    daemon = EchoProcess(CudaIpc(FakeDevices(folder)), f"{tmp_path}/d.cuda")
    channel = connect(client_of(folder), tmp_path)
    assert add_one(channel, b"abc", 3)
    assert (daemon.inside, daemon.left) == (1, 0)
    channel.close()
    daemon.wait_until_gone()
    daemon.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "device"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(folder: Path, tmp_path: Path) -> Iterator[EchoDaemon]:
    devices = FakeDevices(folder)
    daemon = EchoDaemon(CudaIpc(devices), f"{tmp_path}/d.cuda")
    yield daemon
    daemon.close()
    assert not devices.faults


def client_of(folder: Path) -> FakeDevices:
    """The device as a client uses it. Its own events stay: another channel may take them."""
    return FakeDevices(folder, name="client")


def connect(devices: FakeDevices, tmp_path: Path) -> ClientChannel:
    return CudaIpc(devices).connect(f"{tmp_path}/d.cuda", Token("good"), 20)


def wait_until_free(folder: Path) -> None:
    """Every piece of memory and every event is a file; nothing of the daemon's is left."""
    deadline = time.monotonic() + 20
    while left := [path for path in folder.iterdir() if not path.name.startswith("client")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


class Refusing(FakeDevices):
    """A device of which the n-th call that opens or makes something fails."""

    def __init__(self, folder: Path, fail_at: int, name: str = "fake") -> None:
        super().__init__(folder, name=name)
        self.left = fail_at

    def open(self, uuid: str) -> FakeCuda:
        cuda = super().open(uuid)
        for name in ("allocate", "create_event", "open_event", "open_memory", "memory_handle", "event_handle"):
            setattr(cuda, name, partial(self._count, getattr(cuda, name)))
        return cuda

    def _count(self, call: Callable[..., object], *arguments: object) -> object:
        self.left -= 1
        if self.left == 0:
            raise CudaError("cudaIpcOpenMemHandle", "operation not permitted (800)")
        return call(*arguments)


def test_memory_and_events_go_with_a_client_that_leaves(daemon: EchoDaemon, folder: Path, tmp_path: Path) -> None:
    transport = CudaIpc(client_of(folder))
    for _ in range(3):
        channel = transport.connect(f"{tmp_path}/d.cuda", Token("good"), 20)
        assert add_one(channel, b"abc", 3)
        assert len(list(folder.iterdir())) == 1 + 2 * channel.slots
        channel.close()
        wait_until_free(folder)
    assert len(list(folder.iterdir())) == channel.slots, "each channel took the events of the one before"


def test_memory_goes_with_a_client_that_is_killed(daemon: EchoDaemon, folder: Path, tmp_path: Path) -> None:
    """The end of its process tells, not the end of its socket. Its own events nobody clears away here."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    arguments = (CudaIpc(FakeDevices(folder)), f"{tmp_path}/d.cuda", theirs)
    victim = spawn.Process(target=hold_slots, args=arguments)
    victim.start()
    assert ours.poll(60)
    daemons = {path for path in folder.iterdir() if path.stat().st_size > 1 << 16}
    assert len(daemons) == 1
    victim.kill()
    victim.join()
    deadline = time.monotonic() + 20
    while any(path.exists() for path in daemons):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_whatever_cuda_refuses_a_client_it_is_told_so_and_nothing_is_left(
    daemon: EchoDaemon, folder: Path, tmp_path: Path
) -> None:
    """The n-th call fails, n = 1, 2, ... until none does: then another transport may do."""
    for fail_at in range(1, 100):
        devices = Refusing(folder, fail_at, "client")
        try:
            channel = connect(devices, tmp_path)
        except RefusedError as error:
            assert error.code is RefusalCode.NO_TRANSPORT
            assert "operation not permitted" in str(error)
            wait_until_free(folder)
            continue
        assert add_one(channel, b"abc", 3)
        channel.close()
        break
    assert fail_at == 14  # the memory, four events opened, four made, and their handles


def test_a_daemon_without_device_memory_sends_its_clients_to_another_transport(
    folder: Path, tmp_path: Path
) -> None:
    for fail_at in range(1, 11):  # the memory, four events, and all their handles
        devices = Refusing(folder, fail_at)
        daemon = EchoDaemon(CudaIpc(devices), f"{tmp_path}/d.cuda")
        with pytest.raises(RefusedError) as refused:
            connect(client_of(folder), tmp_path)
        assert refused.value.code is RefusalCode.NO_TRANSPORT
        daemon.wait_until_gone()
        wait_until_free(folder)
        channel = connect(client_of(folder), tmp_path)  # there is memory again
        assert add_one(channel, b"abc", 3)
        channel.close()
        daemon.close()


def test_a_client_that_does_not_see_the_device_leaves_nothing_behind(
    daemon: EchoDaemon, folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(RefusedError, match="sees no GPU"):
        connect(client_of(elsewhere), tmp_path)
    wait_until_free(folder)


def test_memory_of_clients_that_left_without_a_word_is_bounded(
    daemon: EchoDaemon, folder: Path, tmp_path: Path
) -> None:
    """They live on, and may have it open. Somebody else is told to use another transport, until one lets go."""
    for left in range(1, MOST + 1):
        words = POSIX_SHM.connect(f"{tmp_path}/d.cuda", Token("good"), 20)
        slot = words.lease_nowait()
        has_closed = words.buffer(slot)[LEFT]
        words.publish(slot, Call(ADD_ONE, Direction.FORWARD, 0, 0, 0))
        words.wait(slot, 20)  # from now on it may have opened the memory
        words.close()
        daemon.wait_until_gone(left)
    full = len(list(folder.iterdir()))
    for _ in range(3):
        with pytest.raises(RefusedError, match="have left and may still have device memory open") as refused:
            connect(client_of(folder), tmp_path)
        assert refused.value.code is RefusalCode.NO_TRANSPORT
    assert len(list(folder.iterdir())) == full
    assert len(daemon.goodbyes) == MOST + 3, "the places of those who were refused are free again"
    has_closed[0] = 1
    channel = connect(client_of(folder), tmp_path)
    assert add_one(channel, b"abc", 3)
    channel.close()


@pytest.mark.parametrize("descriptors", [True, False])
def test_a_process_lives_until_it_has_ended_with_a_descriptor_to_watch_it_or_without(
    descriptors: bool,
) -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(0)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] if descriptors else next_one, limits[1]))
    try:
        process = ClientProcess(child.pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not process.ended()
    child.kill()
    child.communicate()
    assert process.ended()
    assert ClientProcess(child.pid).ended()
    process.close()


def test_a_client_whose_rows_are_never_written_stops_nobody_else(
    daemon: EchoDaemon, folder: Path, tmp_path: Path
) -> None:
    devices = FakeDevices(folder)
    stuck, other = connect(devices, tmp_path), connect(devices, tmp_path)
    slot = stuck.lease_nowait()
    assert isinstance(stuck, CudaClientChannel)
    cuda = stuck._cuda
    assert isinstance(cuda, FakeCuda)
    go_on = threading.Event()
    cuda.launch(partial(_stand_still, go_on))
    stuck.publish(slot, Call(ADD_ONE, Direction.FORWARD, 3, 0, 64))
    for _ in range(50):
        assert add_one(other, b"abc", 3)
    with pytest.raises(DaemonSilentError):
        stuck.wait(slot, 0.05)
    go_on.set()
    stuck.wait(slot, 20)
    stuck.close()
    other.close()


def test_a_client_with_handles_that_open_nothing_is_turned_out(
    daemon: EchoDaemon, folder: Path, tmp_path: Path
) -> None:
    words = POSIX_SHM.connect(f"{tmp_path}/d.cuda", Token("good"), 20)
    slot = words.lease_nowait()
    for _ in range(2):
        words.publish(slot, Call(ADD_ONE, Direction.FORWARD, 0, 0, 0))
        with contextlib.suppress(DaemonGoneError):
            words.wait(slot, 20)
    daemon.wait_until_gone()
    words.close()
    good = connect(FakeDevices(folder), tmp_path)
    assert add_one(good, b"abc", 3)
    good.close()


def test_a_client_that_attaches_twice_is_hung_up_on(daemon: EchoDaemon, tmp_path: Path, folder: Path) -> None:
    """Three calls at once, where two are the conversation: the last is a call before its answer."""
    words = POSIX_SHM.connect(f"{tmp_path}/d.cuda", Token("good"), 20)
    cuda = FakeDevices(folder).open(f"fake-{folder}")
    for slot in range(words.slots):
        handle = cuda.event_handle(cuda.create_event())
        words.buffer(SlotIndex(slot))[: len(handle)] = handle

    def publish_all() -> None:
        for slot in range(3):
            words.publish(SlotIndex(slot), Call(ADD_ONE, Direction.FORWARD, 0, 0, 0))

    daemon._call(publish_all)  # in its own thread, so that it finds all of them when it looks
    with pytest.raises((RemoteProtocolError, DaemonGoneError)):
        words.wait(SlotIndex(2), 20)
    daemon.wait_until_gone()
    words.close()
    good = connect(FakeDevices(folder), tmp_path)
    assert add_one(good, b"abc", 3)
    good.close()


def test_a_client_that_did_not_ask_and_a_daemon_on_a_cpu_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = CudaIpc(FakeDevices(folder))
    monkeypatch.delenv(WISH_VARIABLE, raising=False)
    assert "has not asked for it" in transport.capability().obstacle
    assert transport.placed("cpu").capability().obstacle == "the daemon's weights are on the cpu"
    monkeypatch.setenv(WISH_VARIABLE, "1")
    client = transport.capability()
    daemon = transport.placed("cuda:0").capability()
    assert choose([daemon], [client]).transport == "cuda_ipc"
    assert client.devices == (f"fake-{folder}",)


def test_without_a_gpu_the_real_one_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv(WISH_VARIABLE, "1")
    obstacle = TRANSPORT.capability().obstacle
    assert obstacle in ("this torch was built without CUDA", "torch sees no GPU")


def _stand_still(until: threading.Event) -> None:
    """Work that a stream does not get done."""
    until.wait(30)


def hold_slots(transport: CudaIpc, endpoint: str, pipe: Connection) -> None:
    """A client that dies with a call in the daemon's hands."""
    channel = transport.connect(endpoint, Token("good"), 20)
    channel.publish(channel.lease_nowait(), Call(NEVER, Direction.FORWARD, 1, 0, 64))
    pipe.send("holding")
    threading.Event().wait()


def test_a_daemon_on_its_second_gpu_meets_a_client_that_counts_them_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each knows the device by a number of its own; memory and events are made where the weights are."""
    monkeypatch.setenv(WISH_VARIABLE, "1")
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    ours, theirs = FakeDevices(first, second), FakeDevices(second, first)
    placed = CudaIpc(ours).placed("cuda:1")
    assert placed.capability().devices == (ours.uuids()[1],) == (theirs.uuids()[0],)
    assert choose([placed.capability()], [CudaIpc(theirs).capability()]).transport == "cuda_ipc"
    with contextlib.closing(EchoDaemon(placed, f"{tmp_path}/d.cuda")):
        channel = connect(theirs, tmp_path)
        assert add_one(channel, b"abc", 3)
        assert list(second.iterdir())
        assert not list(first.iterdir())
        channel.close()
    assert not ours.faults
    assert not theirs.faults


def test_a_client_on_another_gpu_goes_through_the_hosts_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WISH_VARIABLE, "1")
    for name in ("daemons", "clients"):
        (tmp_path / name).mkdir()
    daemon = CudaIpc(FakeDevices(tmp_path / "daemons")).placed("cuda:0")
    client = CudaIpc(FakeDevices(tmp_path / "clients"))
    choice = choose([daemon.capability(), POSIX_SHM.capability()], [client.capability(), POSIX_SHM.capability()])
    assert choice.transport == "posix_shm"
    assert "cuda_ipc: client and daemon reach no common device" in choice.reasons
