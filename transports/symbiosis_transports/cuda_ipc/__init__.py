"""Same host, same GPU: rows stay in device memory that both processes have open, ordered by events.

Words, doorbell and the news of a death are `posix_shm`'s; rows are on the device. The design, and what in it is
reasoned and not measured, is in docs/decisions/0015-cuda-ipc.md. It has not been run on a GPU.

    handles.py    what stands where in the host's memory
    arena.py      a client's memory on the device, the daemon's
    listener.py   the daemon's door
    server.py     the daemon's end
    graves.py     memory that a client may still have open
    process.py    whether its process has ended
    attach.py     a client comes in
    events.py     the events that a client makes
    client.py     the client's end
    probe.py      whether it works here at all
"""

from __future__ import annotations

import asyncio
import os
from functools import cached_property
from typing import Final

from symbiosis_core.errors import UsageError
from symbiosis_core.ids import Token, boot_id, process_namespace
from symbiosis_core.wire import Capability
from symbiosis_transports.address import parse
from symbiosis_transports.cuda.seam import CudaError, CudaSource
from symbiosis_transports.cuda.source import CudaDevices
from symbiosis_transports.cuda_ipc.attach import connect
from symbiosis_transports.cuda_ipc.events import Devices
from symbiosis_transports.cuda_ipc.listener import CudaListener
from symbiosis_transports.cuda_ipc.probe import probe
from symbiosis_transports.ports import ClientChannel, Host, Listener, Transport

__all__ = ["TRANSPORT", "WISH_VARIABLE", "CudaIpc"]

WISH_VARIABLE: Final = "SYMBIOSIS_CUDA_IPC"


class CudaIpc:
    """The transport over one GPU."""

    name = "cuda_ipc"

    def __init__(self, source: CudaSource) -> None:
        """A client's: any device that it sees will do, if it was asked for."""
        self._source = source
        self._devices = Devices(source)

    def capability(self) -> Capability:
        """Usable between processes of one kernel that know each other by number and see the same device."""
        obstacle = self._obstacle
        uuids = () if obstacle else self._source.uuids()
        return Capability(self.name, f"{boot_id()}/pid namespace {process_namespace()}", uuids, obstacle=obstacle)

    def endpoint(self, address: str) -> str:
        """The data socket stands beside the control socket."""
        return f"{parse(address).target}.cuda"

    def placed(self, device: str) -> Transport:
        """The same for a daemon whose weights are on that device."""
        return _Placed(self._source, device)

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """See `Transport.listen`. On the first device that there is; a daemon says on which: `placed`."""
        return _listen(self._source, 0, loop, endpoint, host)

    def connect(self, endpoint: str, token: Token, timeout_s: float) -> ClientChannel:
        """See `Transport.connect`."""
        return connect(self._devices, endpoint, token, timeout_s)

    @property
    def _obstacle(self) -> str:
        if os.environ.get(WISH_VARIABLE) != "1":
            return f"the client has not asked for it ({WISH_VARIABLE}=1); it was never run on a GPU"
        return self._source.obstacle()


class _Placed(CudaIpc):
    """A daemon's: on one device, once it is known to work there."""

    def __init__(self, source: CudaSource, device: str) -> None:
        super().__init__(source)
        self._kind, _, index = device.partition(":")
        self._index = int(index or 0)

    def capability(self) -> Capability:
        """The one device."""
        whole = super().capability()
        devices = whole.devices[self._index : self._index + 1]
        return Capability(whole.transport, whole.boot_id, devices, obstacle=whole.obstacle)

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """See `Transport.listen`."""
        return _listen(self._source, self._index, loop, endpoint, host)

    @cached_property
    def _obstacle(self) -> str:
        if self._kind != "cuda":
            return f"the daemon's weights are on the {self._kind}"
        return self._source.obstacle() or probe(self._source, self._source.uuids()[self._index])


def _listen(
    source: CudaSource, index: int, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host
) -> CudaListener:
    try:
        return CudaListener(loop, endpoint, host, source.open(source.uuids()[index]))
    except CudaError as error:
        raise UsageError(f"cannot listen at {endpoint}: {error}") from error


TRANSPORT: Transport = CudaIpc(CudaDevices())
