"""The control plane: who may come in, what the model looks like, what the daemon is doing.

Every request is checked here once more than the wire already did: lanes and models must exist. The answers
carry no tensor larger than `wire.TENSOR_PART_BYTES`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from symbiosis_core import __version__
from symbiosis_core.clock import monotonic_us
from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import boot_id
from symbiosis_core.telemetry import pss_bytes
from symbiosis_core.wire import (
    TENSOR_PART_BYTES,
    Borrow,
    ClientStatus,
    DaemonStatus,
    Describe,
    Fetch,
    Hello,
    Learn,
    Learned,
    Loan,
    MemoryStatus,
    ModelReply,
    Reply,
    Request,
    Status,
    StatusReply,
    TensorPart,
    Welcome,
)
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.grants import VALID_S, Grants
from symbiosis_scheduler.layers import FrozenLayers
from symbiosis_scheduler.lending import Withheld
from symbiosis_scheduler.segments import Segments
from symbiosis_transports.address import parse
from symbiosis_transports.negotiate import choose
from symbiosis_transports.ports import Transport
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM
from symbiosis_transports.zmq_link import ControlServer

__all__ = ["ControlPlane"]


class ControlPlane:
    """The control plane as a service of the kernel."""

    name = "control plane"

    def __init__(
        self,
        addresses: Sequence[str],
        layers: FrozenLayers,
        config: DaemonConfig,
        grants: Grants,
        transports: Mapping[str, Transport],
        data: DataPlaneThread,
        threads: int,
    ) -> None:
        self._addresses = addresses
        self._layers = layers
        self._config = config
        self._grants = grants
        self._transports = transports
        self._data = data
        self._threads = threads
        self._since_us = monotonic_us()
        self._segments = Segments(layers, config.limits.segments)
        self._servers = [ControlServer(address, partial(self._answer, address)) for address in addresses]

    async def start(self) -> None:
        """Begins to answer."""
        try:
            for server in self._servers:
                server.open()
        except BaseException:
            await self.stop()
            raise

    async def run(self) -> None:
        """Answers until cancelled; the first failure is this service's."""
        await asyncio.gather(*(server.serve() for server in self._servers))

    async def stop(self) -> None:
        """Gives the addresses back: from now on nobody new finds the daemon."""
        for server in self._servers:
            server.close()

    async def _answer(self, address: str, request: Request) -> Reply:
        if isinstance(request, Hello):
            return await self._hello(address, request)
        return await _ANSWERS[type(request)](self, request)

    async def _hello(self, address: str, hello: Hello) -> Reply:
        self._known_model(hello.model)
        if hello.lane not in self._config.lanes:
            lanes = ", ".join(self._config.lanes)
            raise RefusedError(
                RefusalCode.UNKNOWN_LANE, f"there is no lane {hello.lane!r}", f"the daemon's lanes are: {lanes}"
            )
        ours = [transport.capability() for transport in self._transports.values()]
        choice = choose(ours, hello.capabilities, parse(address).scheme)
        client, token = self._grants.issue(hello.name, hello.lane, hello.pid, choice.transport, choice.reasons)
        return Welcome(
            client=client,
            token=token,
            token_valid_s=VALID_S,
            model=self._layers.spec.name,
            lane=hello.lane,
            transport=choice.transport,
            endpoint=self._transports[choice.transport].endpoint(address),
            max_rows=self._config.limits.max_rows,
            reasons=choice.reasons,
        )

    async def _describe(self, describe: Describe) -> Reply:
        self._known_model(describe.model)
        return ModelReply(self._layers.spec)

    async def _fetch(self, fetch: Fetch) -> Reply:
        self._known_model(fetch.model)
        data = self._layers.tensor_bytes(fetch.tensor)
        part = bytes(data[fetch.offset : fetch.offset + TENSOR_PART_BYTES])
        return TensorPart(fetch.offset, len(data), part)

    async def _learn(self, learn: Learn) -> Reply:
        self._known_model(learn.model)
        spec, program = self._segments.learn(learn.segment)
        # Also where it is known: another client's teaching may still be on its way to the data plane.
        await self._data.call(lambda: self._data.plane.learn(program) if program is not None else None)
        return Learned(spec.id)

    async def _borrow(self, borrow: Borrow) -> Reply:
        self._known_model(borrow.model)
        lent = self._layers.lent
        if isinstance(lent, Withheld):
            raise RefusedError(RefusalCode.NOT_LENT, lent.reason, lent.remedy)
        if borrow.boot_id != boot_id():
            raise RefusedError(
                RefusalCode.NOT_LENT, "the client runs on another host", "weights can be lent on the daemon's host"
            )
        endpoint, fingerprint = POSIX_SHM.endpoint(self._address), self._layers.spec.fingerprint
        return Loan(endpoint, fingerprint, lent.memory.nbytes, lent.tensors)

    async def _status(self, _: Status) -> Reply:
        status = await self._data.call(self._look)
        memory = msgspec.structs.replace(
            status.memory, pss=pss_bytes() or 0
        )  # too slow for the data plane's thread
        return StatusReply(msgspec.structs.replace(status, memory=memory))

    def _known_model(self, name: str) -> None:
        if name not in ("", self._layers.spec.name):
            raise RefusedError(
                RefusalCode.UNKNOWN_MODEL,
                f"there is no model {name!r} here",
                f"the daemon holds {self._layers.spec.name!r}",
            )

    def _look(self) -> DaemonStatus:
        """Runs in the data plane's thread, so that all figures are of one moment."""
        plane = self._data.plane
        statistics, spec, now_us = plane.state.statistics(), self._layers.spec, monotonic_us()
        clients = _clients(plane, now_us)
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_s=(now_us - self._since_us) / 1e6,
            address=", ".join(self._addresses),
            model=spec.name,
            dtype=spec.dtype.name.lower(),
            fingerprint=spec.fingerprint,
            policy=self._config.policy.name,
            threads=self._threads,
            draining=plane.draining,
            clients=clients,
            lanes=statistics.lanes,
            batches=statistics.batches,
            memory=MemoryStatus(base=spec.base_bytes, arenas=sum(client.arena_bytes for client in clients), pss=0),
        )


def _clients(plane: DataPlane, now_us: int) -> tuple[ClientStatus, ...]:
    """Joins what the scheduler counts with who sits where."""
    found = []
    for counted in plane.state.statistics().clients:
        seat = plane.seats[counted.id]
        found.append(
            ClientStatus(
                id=counted.id,
                name=seat.tenant.name,
                lane=counted.lane,
                pid=seat.tenant.pid,
                transport=seat.tenant.transport,
                reasons=seat.tenant.reasons,
                connected_s=(now_us - seat.tenant.since_us) / 1e6,
                requests=counted.requests,
                rows=counted.rows,
                queued=counted.queued,
                refused=counted.refused,
                p50_us=seat.latency.quantile(0.5, now_us),
                p99_us=seat.latency.quantile(0.99, now_us),
                arena_bytes=seat.channel.arena_bytes,
            )
        )
    return tuple(found)


_ANSWERS: Final[dict[type[Request], Callable[[ControlPlane, Any], Awaitable[Reply]]]] = {
    Describe: ControlPlane._describe,
    Fetch: ControlPlane._fetch,
    Learn: ControlPlane._learn,
    Borrow: ControlPlane._borrow,
    Status: ControlPlane._status,
}
