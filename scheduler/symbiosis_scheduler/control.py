"""The control plane: who may come in, what the bases look like, what the daemon is doing.

Every request is checked here once more than the wire already did: lanes and models must exist. The answers
carry no tensor larger than `wire.TENSOR_PART_BYTES`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from symbiosis_core import config as configuration
from symbiosis_core.clock import monotonic_us
from symbiosis_core.errors import BusyError, ConfigError, RefusalCode, RefusedError
from symbiosis_core.ids import ClientId, boot_id
from symbiosis_core.telemetry import descriptors_left, pss_bytes
from symbiosis_core.wire import (
    TENSOR_PART_BYTES,
    AskQuota,
    Borrow,
    Configure,
    Configured,
    DaemonStatus,
    Describe,
    Fetch,
    Hello,
    Learn,
    Learned,
    Loan,
    ModelReply,
    QuotaState,
    Reply,
    Request,
    Status,
    StatusReply,
    TakeTrace,
    TensorPart,
    Welcome,
)
from symbiosis_scheduler.bases import Bases
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.decisions.users import user_of
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.lending import Withheld
from symbiosis_scheduler.grants import VALID_S, Grants
from symbiosis_scheduler.guarded import told
from symbiosis_scheduler.reconfiguration import Reconfiguration
from symbiosis_scheduler.rules import lane_for
from symbiosis_scheduler.segments import Segments
from symbiosis_scheduler.survey import survey
from symbiosis_transports.address import parse
from symbiosis_transports.negotiate import choose
from symbiosis_transports.ports import MOST_DESCRIPTORS, Transport
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM
from symbiosis_transports.zmq_link import ControlServer

__all__ = ["ControlPlane"]

_SPARE_DESCRIPTORS: Final = 32
"""Kept for those who are inside, and for questions: without any the daemon would be silent."""


class ControlPlane:
    """The control plane as a service of the kernel."""

    name = "control plane"

    def __init__(
        self,
        addresses: Sequence[str],
        bases: Bases,
        live: Reconfiguration,
        grants: Grants,
        transports: Mapping[str, Transport],
        data: DataPlaneThread,
        threads: ThreadChoice,
    ) -> None:
        self._addresses = addresses
        self._bases = bases
        self._live = live
        self._grants = grants
        self._transports = transports
        self._data = data
        self._threads = threads
        self._since_us = monotonic_us()
        self._segments = Segments(bases, live.config.limits.segments)
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

    async def _answer(self, address: str, request: Request, key: str) -> Reply:
        here = parse(address).scheme == "ipc"
        if isinstance(request, Hello):
            return await self._hello(address, request, user_of(key, here=here))
        if isinstance(request, Configure | TakeTrace) and not here:
            raise RefusedError(
                RefusalCode.PERMISSION,
                "over the network a daemon is neither configured nor watched",
                "ask at its ipc:// address, on its own host",
            )
        return await _ANSWERS[type(request)](self, request)

    async def _hello(self, address: str, hello: Hello, user: str) -> Reply:
        if hello.instead:
            self._grants.give_back(hello.instead, user)  # first: whatever becomes of this one, that is not used
        base = self._bases.find(hello.model)
        config = self._live.config
        lane = lane_for(config, wish=hello.lane, name=hello.name, user=user, key=hello.key)
        if lane not in config.lanes:
            lanes = ", ".join(config.lanes)
            raise RefusedError(
                RefusalCode.UNKNOWN_LANE, f"there is no lane {lane!r}", f"the daemon's lanes are: {lanes}"
            )
        ours = [transport.capability() for transport in self._transports.values()]
        choice = choose(ours, hello.capabilities, parse(address).scheme)
        client, token = self._grants.issue(
            hello.name,
            lane,
            hello.pid,
            choice.transport,
            choice.reasons,
            user=user,
            base=base.id,
            check=_check_descriptors,
        )
        return Welcome(
            client=client,
            token=token,
            token_valid_s=VALID_S,
            model=base.name,
            lane=lane,
            transport=choice.transport,
            endpoint=self._transports[choice.transport].endpoint(address),
            max_rows=config.limits.max_rows,
            exact=config.batching.exact,
            reasons=choice.reasons,
        )

    async def _describe(self, describe: Describe) -> Reply:
        return ModelReply(self._bases.find(describe.model).layers.spec)

    async def _fetch(self, fetch: Fetch) -> Reply:
        data = self._bases.find(fetch.model).layers.tensor_bytes(fetch.tensor)
        part = bytes(data[fetch.offset : fetch.offset + TENSOR_PART_BYTES])
        return TensorPart(fetch.offset, len(data), part)

    async def _learn(self, learn: Learn) -> Reply:
        base = self._bases.find(learn.model)
        spec, program = self._segments.learn(base, learn.segment)
        # Also where it is known: another client's teaching may still be on its way to the data plane.
        await self._data.call(lambda: self._data.plane.learn(base.id, program) if program is not None else None)
        return Learned(spec.id)

    async def _ask_quota(self, asked: AskQuota) -> Reply:
        client = ClientId(asked.client)
        reached, lane = await self._data.call(lambda: self._data.plane.quota_reached(client, monotonic_us()))
        if reached is None:
            return QuotaState()
        return QuotaState(
            reason=f"the quota lanes.{lane}.{reached.key} = {reached.rows_per_s} rows a second is used up",
            remedy=f"the same call may be made again in {reached.retry_us / 1e6:.3g} s; a step that is begun "
            "anew and takes more than a minute's worth by itself never gets through",
            retry_after_s=reached.retry_us / 1e6,
        )

    async def _configure(self, wanted: Configure) -> Reply:
        try:
            config = configuration.check(wanted.source, wanted.text)
            notes = await self._live.apply(config, wanted.source)
        except ConfigError as error:
            raise RefusedError(
                RefusalCode.BAD_CONFIG,
                str(error),
                "the one before holds; try `symbiosis policy check`",
            ) from None
        return Configured(config.policy.name, tuple(config.lanes), notes)

    async def _take_trace(self, wanted: TakeTrace) -> Reply:
        models = ", ".join(self._bases.names)
        return await self._data.call(lambda: self._data.plane.recordings.take(wanted, models, monotonic_us()))

    async def _borrow(self, borrow: Borrow) -> Reply:
        layers = self._bases.find(borrow.model).layers
        lent = layers.lent
        if isinstance(lent, Withheld):
            raise RefusedError(RefusalCode.NOT_LENT, lent.reason, lent.remedy)
        if borrow.boot_id != boot_id():
            raise RefusedError(
                RefusalCode.NOT_LENT, "the client runs on another host", "weights can be lent on the daemon's host"
            )
        here = next((address for address in self._addresses if parse(address).scheme == "ipc"), None)
        if here is None:
            raise RefusedError(
                RefusalCode.NOT_LENT,
                "the daemon has no address on its own host",
                "give it --listen ipc://... as well",
            )
        endpoint, fingerprint = POSIX_SHM.endpoint(here), layers.spec.fingerprint
        return Loan(endpoint, fingerprint, lent.memory.nbytes, lent.tensors)

    async def _status(self, _: Status) -> Reply:
        status = await self._data.call(self._look)
        memory = msgspec.structs.replace(
            status.memory, pss=pss_bytes() or 0
        )  # too slow for the data plane's thread
        return StatusReply(msgspec.structs.replace(status, memory=memory))

    def _look(self) -> DaemonStatus:
        """Runs in the data plane's thread, so that all figures are of one moment."""
        plane, where = self._data.plane, ", ".join(self._addresses)
        policy = told(plane.state.planner.policy, self._live.config.policy.name)
        return survey(plane, self._bases, self._threads, policy, where, self._since_us)


def _check_descriptors(coming: int) -> None:
    """Refuses a client while few files and sockets are left: with none the daemon could not even refuse.

    What is left is not that client's before those have come, `coming` of them, who were promised a place earlier.
    """
    left = descriptors_left()
    needed = _SPARE_DESCRIPTORS + (coming + 1) * MOST_DESCRIPTORS
    if left is not None and left < needed:
        raise BusyError(
            RefusalCode.QUOTA,
            f"the daemon may open {left} more files and sockets; with what it keeps, and what {coming} others "
            f"who are about to come may take, it must have {needed}",
            "wait until a client has left, or raise the daemon's limit (ulimit -n)",
        )


_ANSWERS: Final[dict[type[Request], Callable[[ControlPlane, Any], Awaitable[Reply]]]] = {
    Describe: ControlPlane._describe,
    Fetch: ControlPlane._fetch,
    Learn: ControlPlane._learn,
    AskQuota: ControlPlane._ask_quota,
    Configure: ControlPlane._configure,
    TakeTrace: ControlPlane._take_trace,
    Borrow: ControlPlane._borrow,
    Status: ControlPlane._status,
}
