"""One client and the daemon, joined for rows: both ends. What may be relied on, `ports` says."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_transports.calls import Arrival, Call

__all__ = [
    "ChannelStatistics",
    "ClientChannel",
    "ServerChannel",
]


class ChannelStatistics(NamedTuple):
    """Counters of one end of a channel."""

    requests: int
    doorbells: int
    """Wake-ups sent to the other side."""
    sleeps: int
    """How often this side slept for the other."""
    spin_hits: int
    """How often waiting awake was enough."""
    copied_bytes: int = 0
    """Bytes of rows that this end of the transport has copied. None where both sides see the same memory."""
    looks: int = 0
    """How often this side looked for a while before it would sleep; `spin_hits` of them were enough."""


class ClientChannel(Protocol):
    """The client's end. Not thread safe: its owner holds a lock."""

    @property
    def slots(self) -> int:
        """How many slots there are."""

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot; every slot starts at a multiple of 64."""

    def lease_nowait(self) -> SlotIndex:
        """Takes a free slot. The caller owes a `release`.

        Raises:
            BusyError: every slot is in use by this client itself.
            ClosedError: the channel is closed.
        """

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The slot's memory, the same at every call. Valid until `close`."""

    def publish(self, slot: SlotIndex, call: Call) -> None:
        """Hands the slot to the daemon.

        After a UsageError or DaemonSilentError nothing was, and the client may publish again. After any other the
        channel is over: nothing can be published any more, and every slot be given back.

        Raises:
            UsageError: the call's rows leave the slot. Only a transport that carries them looks; others leave that
                to the daemon, whose answer is a refusal.
            ClosedError: the channel is closed.
            DaemonGoneError: the daemon went away.
            DaemonSilentError: the daemon has taken nothing for a minute, where rows travel in messages.
            RemoteProtocolError: the daemon says that this side broke the protocol, and hung up.
        """

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        """Blocks until the slot is answered.

        Raises:
            RefusedError: the daemon refused the call; the slot is the client's again.
            ClosedError: the channel is closed, or its parent's: this is a forked child.
            DaemonGoneError: the daemon went away.
            DaemonSilentError: no answer within `timeout_s`; the slot stays the daemon's.
            RemoteProtocolError: the daemon says that this side broke the protocol, and hung up.
        """

    def release(self, slot: SlotIndex) -> None:
        """Gives a slot back.

        Raises:
            LocalProtocolError: it is not leased, or the daemon has not answered what was published in it.
        """

    def close(self) -> None:
        """Ends the channel; the daemon sees it as gone. May be called twice."""

    def statistics(self) -> ChannelStatistics:
        """Counters since the start."""


class ServerChannel(Protocol):
    """The daemon's end of one client's channel."""

    @property
    def client(self) -> ClientId:
        """Whose channel this is."""

    @property
    def arena_bytes(self) -> int:
        """Bytes that the channel holds for this client."""

    def statistics(self) -> ChannelStatistics:
        """Counters since the start. The daemon sleeps for all clients together, which is not counted here."""

    def waiting(self) -> bool:
        """Whether something was published since the last `take`. Cheap enough to ask in a loop."""

    def announced_us(self) -> int:
        """How long the call that the client is writing is worth looking for, told once for each; 0: none is."""

    def take(self) -> list[Arrival]:
        """Everything published since the last call. Cheap when there is nothing.

        Raises:
            RemoteProtocolError: the client broke the protocol; the caller closes the channel.
        """

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The slot's memory, the same at every call. Valid until `close`."""

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        """Makes the answer visible to a client that is awake. Ignored for a generation that is over."""

    def ring(self) -> None:
        """Wakes the client where it sleeps. Called once after the answers of a batch."""

    def arm(self) -> bool:
        """Asks to be woken by the next request. False: something has already come, so do not sleep."""

    def disarm(self) -> None:
        """No wake-ups wanted: the daemon is awake and looks by itself."""

    def close(self, reason: str, *, breach: bool = False) -> None:
        """Hangs up and frees the client's memory. May be called twice.

        `reason` is told to the client where that is possible; `breach` says that the client caused it.
        `Host.gone` is not called: whoever closes knows.
        """
