"""The daemon's door: that of `posix_shm`, with a conversation of two calls behind it before a client is let in.

    the client's first call    device memory and events are made; their handles stand in the slots    -> answer
    the client opens them, makes its own events, and writes their handles into the slots
    the client's second call   its events are opened, and the host is told that somebody has attached  -> answer

To `posix_shm` this is the host, to the host it is the listener. Everything that the two say to each other passes
here: memory without rows below, rows on the device above.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError
from symbiosis_core.ids import ClientId, SlotIndex, Token
from symbiosis_core.logs import event, get_logger
from symbiosis_transports.cuda.seam import Cuda, CudaError, EventNumber
from symbiosis_transports.cuda_ipc import handles
from symbiosis_transports.cuda_ipc.arena import DeviceArena
from symbiosis_transports.cuda_ipc.graves import Grave, Graves
from symbiosis_transports.cuda_ipc.process import ClientProcess
from symbiosis_transports.cuda_ipc.server import CudaServerChannel
from symbiosis_transports.ports import Arrival, Grant, Host, Listener, Peer, ServerChannel
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM

__all__ = ["CudaListener"]

log = get_logger(__name__)

_OPENING_S: Final = 30.0
"""A client that has never used CUDA before needs seconds for that alone."""


class _Guest:
    """A client on its way in, and later inside."""

    def __init__(self, grant: Grant, pid: int) -> None:
        self.grant = grant
        self.process = ClientProcess(pid)
        self.words: ServerChannel | None = None
        self.arena: DeviceArena | None = None
        self.channel: CudaServerChannel | None = None
        self.left: memoryview | None = None
        self.timer: asyncio.TimerHandle | None = None


class CudaListener:
    """The data socket of a daemon whose weights are on a device."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host, cuda: Cuda) -> None:
        self._loop = loop
        self._host = host
        self._cuda = cuda
        self._guests: dict[ClientId, _Guest] = {}
        self.graves: Final = Graves(loop)
        self._door: Listener = POSIX_SHM.listen(loop, endpoint, self)

    def __repr__(self) -> str:
        return f"<CudaListener {self._door!r} guests={len(self._guests)} graves={len(self.graves)}>"

    def close(self) -> None:
        """Stops listening. Channels live on."""
        self._door.close()

    # -- what posix_shm is told, as by any host --------------------------------------------------------------

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """See `Host.redeem`. The memory below holds handles only.

        Raises:
            RefusedError: as the host does; or, with `NO_TRANSPORT`, nobody could tell when its memory may go.
        """
        grant = self._host.redeem(token, peer)
        if obstacle := self._obstacle(peer):
            self._host.abandoned(grant)
            raise RefusedError(RefusalCode.NO_TRANSPORT, obstacle, "another transport may do")
        self._guests[grant.client] = _Guest(grant, peer.pid)
        return grant._replace(slot_bytes=handles.HOST_SLOT_BYTES)

    def lend(self, peer: Peer, model: str) -> int:
        """See `Host.lend`."""
        raise RefusedError(RefusalCode.NOT_LENT, "weights on a GPU are not lent")

    def abandoned(self, grant: Grant) -> None:
        """See `Host.abandoned`."""
        guest = self._guests.pop(grant.client)
        self._bury(guest)
        self._host.abandoned(guest.grant)

    def attached(self, words: ServerChannel) -> None:
        """The words are there; the conversation begins."""
        guest = self._guests[words.client]
        guest.words = words
        guest.left = words.buffer(SlotIndex(0))[handles.LEFT]
        guest.timer = self._loop.call_later(_OPENING_S, self._turn_out, guest, "it took too long to attach")

    def ready(self, words: ServerChannel) -> None:
        """See `Host.ready`."""
        guest = self._guests.get(words.client)
        if guest is None:
            return
        if guest.channel is not None:
            self._host.ready(guest.channel)
            return
        try:
            self._converse(guest, words)
        except (RemoteProtocolError, CudaError) as error:
            reason = f"it cannot attach: {error}"
            if guest.channel is None:
                self._turn_out(guest, reason)
            else:  # it had been let in by the call before
                guest.channel.close(reason, breach=True)
                self._host.gone(guest.channel, reason)

    def gone(self, words: ServerChannel, reason: str) -> None:
        """See `Host.gone`."""
        guest = self._guests.get(words.client)
        if guest is None:
            return
        if guest.channel is None:
            self._turn_out(guest, reason)
            return
        channel = guest.channel
        channel.close("")
        self._host.gone(channel, reason)

    # -- the conversation --------------------------------------------------------------------------------------

    def _converse(self, guest: _Guest, words: ServerChannel) -> None:
        words.disarm()
        while guest.channel is None:
            for arrival in words.take():
                self._reply(guest, words, arrival)
            words.ring()
            if words.arm():
                return
        self._host.ready(guest.channel)

    def _reply(self, guest: _Guest, words: ServerChannel, arrival: Arrival) -> None:
        refusal = None
        if guest.arena is None:
            try:
                self._make(guest, words)
            except CudaError as error:
                log.warning(event("no device memory for a client", client=words.client, error=error))
                refusal = RefusalCode.NO_TRANSPORT
            words.answer(arrival.slot, arrival.generation, refusal)
        elif guest.channel is None:
            self._let_in(guest, guest.arena, words)
            words.answer(arrival.slot, arrival.generation)
        else:
            raise RemoteProtocolError("a call before the answer to the one that attaches")

    def _make(self, guest: _Guest, words: ServerChannel) -> None:
        """Makes what the client is to open. As long as it has seen no handle, all can be given back at once."""
        arena = DeviceArena(self._cuda, guest.grant.slots, guest.grant.slot_bytes)
        try:
            memory = self._cuda.memory_handle(arena.pointer)
            answered = [self._cuda.event_handle(event) for event in arena.answered]
        except CudaError:
            arena.free()
            raise
        guest.arena = arena
        first = words.buffer(SlotIndex(0))
        first[handles.MEMORY] = memory
        handles.write_slot_bytes(first, arena.slot_bytes)
        handles.write_name(first, self._cuda.uuid)
        for slot, handle in enumerate(answered):
            words.buffer(SlotIndex(slot))[handles.ANSWERED] = handle

    def _let_in(self, guest: _Guest, arena: DeviceArena, words: ServerChannel) -> None:
        written: list[EventNumber] = []
        try:
            for slot in range(arena.slots):
                handle = bytes(words.buffer(SlotIndex(slot))[handles.WRITTEN])
                written.append(self._cuda.open_event(handle))
        except CudaError:
            for opened in written:
                with contextlib.suppress(CudaError):  # the device is lost
                    self._cuda.destroy_event(opened)
            raise
        guest.channel = CudaServerChannel(
            self._loop, words, self._cuda, arena, written, self._channel_closed, self._host.ready
        )
        if guest.timer is not None:
            guest.timer.cancel()
        self._host.attached(guest.channel)

    def _obstacle(self, peer: Peer) -> str:
        """Why nobody can be let in now, or not this one; empty: the client can."""
        if peer.pid <= 0:
            return "the client's process is not known here, as in a container with process numbers of its own"
        if self.graves.full():
            return f"{len(self.graves)} clients have left and may still have device memory open"
        return ""

    # -- leaving -----------------------------------------------------------------------------------------------

    def _turn_out(self, guest: _Guest, reason: str) -> None:
        """Ends a conversation that led to nothing."""
        self._guests.pop(guest.grant.client, None)
        if guest.words is not None:
            guest.words.close(reason)
        log.info(event("a client did not attach", client=guest.grant.client, reason=reason))
        self._bury(guest)
        self._host.abandoned(guest.grant)

    def _channel_closed(self, channel: CudaServerChannel) -> None:
        guest = self._guests.pop(channel.client, None)
        if guest is not None:
            self._bury(guest)

    def _bury(self, guest: _Guest) -> None:
        if guest.timer is not None:
            guest.timer.cancel()
        if guest.arena is not None and guest.left is not None:
            self.graves.bury(Grave(guest.arena, guest.left, guest.process))
        else:
            guest.process.close()
