"""CUDA IPC keeps the contract over a fake device, in threads and in processes. What is its own: memory, events.

Nothing here needs or says anything about a GPU; `bench/gpu_check.sh` is for one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
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
from symbiosis_transports.fake_cuda import FakeCuda, FakeDevices
from symbiosis_transports.negotiate import choose
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM
from symbiosis_transports.testing import ADD_ONE, NEVER, ChannelConformance, EchoDaemon, add_one


class TestCudaIpc(ChannelConformance):
    """Every promise of the contract."""

    @pytest.fixture(autouse=True)
    def _device(self, tmp_path: Path) -> None:
        folder = tmp_path / "device"
        folder.mkdir()
        type(self).transport = CudaIpc(FakeDevices(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "device"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(folder: Path, tmp_path: Path) -> Iterator[EchoDaemon]:
    daemon = EchoDaemon(CudaIpc(FakeDevices(folder)), f"{tmp_path}/d.cuda")
    yield daemon
    daemon.close()


def connect(devices: FakeDevices, tmp_path: Path) -> ClientChannel:
    return CudaIpc(devices).connect(f"{tmp_path}/d.cuda", Token("good"), 20)


def wait_until_empty(folder: Path) -> None:
    """Every piece of memory and every event is a file; nothing is left."""
    deadline = time.monotonic() + 20
    while left := list(folder.iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


class Refusing(FakeDevices):
    """A device of which the n-th call that opens or makes something fails."""

    def __init__(self, folder: Path, fail_at: int) -> None:
        super().__init__(folder)
        self.left = fail_at

    def open(self, uuid: str) -> FakeCuda:
        cuda = super().open(uuid)
        for name in ("allocate", "create_event", "open_event", "open_memory"):
            setattr(cuda, name, partial(self._count, getattr(cuda, name)))
        return cuda

    def _count(self, call: Callable[..., object], *arguments: object) -> object:
        self.left -= 1
        if self.left == 0:
            raise CudaError("cudaIpcOpenMemHandle", "operation not permitted (800)")
        return call(*arguments)


def test_memory_and_events_go_with_a_client_that_leaves(daemon: EchoDaemon, folder: Path, tmp_path: Path) -> None:
    channel = connect(FakeDevices(folder), tmp_path)
    assert add_one(channel, b"abc", 3)
    assert list(folder.iterdir())
    channel.close()
    wait_until_empty(folder)


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
        devices = Refusing(folder, fail_at)
        try:
            channel = connect(devices, tmp_path)
        except RefusedError as error:
            assert error.code is RefusalCode.NO_TRANSPORT
            assert "operation not permitted" in str(error)
            wait_until_empty(folder)
            continue
        assert add_one(channel, b"abc", 3)
        channel.close()
        break
    assert fail_at == 10  # the memory, four events opened, four made


def test_a_daemon_without_device_memory_sends_its_clients_to_another_transport(
    folder: Path, tmp_path: Path
) -> None:
    for fail_at in range(1, 6):  # the memory, and four events
        devices = Refusing(folder, fail_at)
        daemon = EchoDaemon(CudaIpc(devices), f"{tmp_path}/d.cuda")
        with pytest.raises(RefusedError) as refused:
            connect(FakeDevices(folder), tmp_path)
        assert refused.value.code is RefusalCode.NO_TRANSPORT
        daemon.wait_until_gone()
        wait_until_empty(folder)
        channel = connect(FakeDevices(folder), tmp_path)  # there is memory again
        assert add_one(channel, b"abc", 3)
        channel.close()
        daemon.close()


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
    with contextlib.suppress(DaemonGoneError):
        for slot in range(3):
            words.publish(SlotIndex(slot), Call(ADD_ONE, Direction.FORWARD, 0, 0, 0))
    with pytest.raises((RemoteProtocolError, DaemonGoneError)):
        words.publish(SlotIndex(3), Call(NEVER, Direction.FORWARD, 0, 0, 0))
        for slot in range(4):
            words.wait(SlotIndex(slot), 20)
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
