"""The contract of a transport: what both sides may rely on, whatever carries questions and rows.

A *link* carries the control plane: a client asks, the daemon answers.

- Every question gets one answer, of the kind that it calls for, in the order of the questions; a refusal is one.
- Who is not there, who is silent and who refuses are told apart, within the link's limit of time.
- Garbage gets a refusal, or ends its connection; it costs nobody else an answer.
- A forked child cannot use its parent's link.

A *channel* joins one client to the daemon. It has a fixed number of *slots*, each a piece of memory that both
sides see. A request is one slot's journey:

    FREE --lease--> LEASED --publish--> PUBLISHED --take--> RUNNING --answer--> ANSWERED --release--> FREE
    client          client              client              daemon              daemon               client

Guarantees that `symbiosis_transports.testing` checks for every transport:

- Memory of a slot belongs to the client except between `publish` and the answer, when it is the daemon's.
- What was written before `publish` is seen after `take`; what was written before `answer`, after `wait`.
- Slots are independent: answers may come in any order. Nothing is lost, nothing is answered twice.
- When either side goes away the other is told once: `DaemonGoneError` from `wait`, `Host.gone` at the daemon.
- A client can hold its own slots for ever, and harm nobody else.

Clients are synchronous: model code is. The daemon's side runs in the one thread of the loop given to `listen`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import ClientId, Generation, SlotIndex, Token
from symbiosis_core.wire import Capability, Reply, Request
from symbiosis_transports.calls import Arrival, Call

__all__ = [
    "Answer",
    "Arrival",
    "Call",
    "ChannelStatistics",
    "ClientChannel",
    "DeviceMemory",
    "DeviceRows",
    "Grant",
    "Host",
    "Link",
    "LinkServer",
    "Listener",
    "OnDevice",
    "Peer",
    "Placeable",
    "ServerChannel",
    "ServesOnDevice",
    "Transport",
]


Answer = Callable[[Request, str], Awaitable[Reply]]
"""Maps a request, and the name of the key that its sender has shown, or an empty one, to the reply.

It may raise `RefusedError`.
"""


class Link(Protocol):
    """The client's end of the control plane. One thread, one question at a time."""

    def ask(self, request: Request) -> Reply:
        """Returns the daemon's answer, of the kind that the request calls for.

        Raises:
            RefusedError: the daemon said no; the conversation goes on.
            DaemonGoneError: nobody is there, or it went away.
            DaemonSilentError: somebody is there and does not answer.
            RemoteProtocolError: the answer is none.
            ClosedError: the link is closed, or its parent's: this is a forked child.
        """

    def close(self) -> None:
        """Ends the conversation. May be called twice."""


class LinkServer(Protocol):
    """The daemon's end of the control plane, made with an address that its maker has claimed and an `Answer`."""

    def open(self) -> None:
        """Listens from now on; who asks waits for `serve`.

        Raises:
            UsageError: the address cannot be used, or anybody could come in over a network.
        """

    async def serve(self) -> None:
        """Answers, until cancelled or closed."""

    def close(self) -> None:
        """Gives the address back. May be called twice."""


@dataclass(frozen=True)
class DeviceMemory:
    """Memory on a GPU, with the array interface of CUDA. No tuple: torch would take that for values."""

    address: int
    nbytes: int
    device: int
    """Its number in this process."""

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """Version 3, bytes. No stream is named: who uses it orders its work by the channel's events."""
        return {"shape": (self.nbytes,), "typestr": "|u1", "data": (self.address, False), "version": 3}


DeviceRows = DeviceMemory | memoryview
"""Memory of a slot on a device. A device that is none, as in tests, has memory that the host sees."""


class Peer(NamedTuple):
    """Who is at the other end: nobody's word but that of the kernel, or of CURVE."""

    pid: int
    """0: not known."""
    uid: int | None
    """None: no user of this host; the transport has asked for a key instead, or listens on the loopback only."""
    key: str = ""
    """The name of the key that was shown; empty: none was asked for."""


class Grant(NamedTuple):
    """What a token was issued for."""

    client: ClientId
    slots: int
    slot_bytes: int


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


@runtime_checkable
class OnDevice(Protocol):
    """What a channel has besides, on either end, where its slots are memory of a device.

    Rows are written and read by work that is queued on streams, and the channel keeps the order: `publish` comes
    after what the client had queued on its current stream, and `wait` lets what it queues there afterwards come
    after the answer.
    """

    def device_rows(self, slot: SlotIndex) -> DeviceRows:
        """The slot's memory on the device, the same at every call. Valid until `close`."""


@runtime_checkable
class ServesOnDevice(OnDevice, Protocol):
    """The daemon's end of such a channel."""

    def computed(self, slot: SlotIndex) -> None:
        """Says that all for this slot's answer is queued on the current stream. Before `answer`."""


class Host(Protocol):
    """What a listener asks of the daemon. All calls come in the thread of the loop."""

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """Exchanges a token for what it was issued for, once.

        Raises:
            RefusedError: unknown, expired or used token, or a user who may not.
        """

    def lend(self, peer: Peer, model: str) -> int:
        """Returns the descriptor of the sealed weights of that base, which stays the host's.

        Raises:
            RefusedError: there is no such base, or they are not lent, or not to this user.
        """

    def abandoned(self, grant: Grant) -> None:
        """The token was redeemed, but no channel came of it: the place is free again."""

    def attached(self, channel: ServerChannel) -> None:
        """A client has connected."""

    def ready(self, channel: ServerChannel) -> None:
        """The channel was armed and something came."""

    def gone(self, channel: ServerChannel, reason: str) -> None:
        """The client went away or broke the protocol; the channel is already closed."""


class Listener(Protocol):
    """A transport's open door."""

    def close(self) -> None:
        """Stops listening and removes what was left in the file system. Channels live on."""


class Transport(Protocol):
    """One way to carry rows, found by an entry point in the group `symbiosis.transports`."""

    @property
    def name(self) -> str:
        """The entry point's name."""

    def capability(self) -> Capability:
        """What this process can do with the transport, for negotiation."""

    def endpoint(self, address: str) -> str:
        """Where the rows travel for a daemon whose control address is `address`."""

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """Opens the daemon's end.

        Raises:
            UsageError: the endpoint cannot be used; the message says why and what to do.
        """

    def connect(self, endpoint: str, token: Token, timeout_s: float) -> ClientChannel:
        """Opens a client's end.

        Raises:
            DaemonGoneError: nobody listens there.
            RefusedError: the daemon does not take the token; with `NO_TRANSPORT`, another transport may do.
            RemoteProtocolError: who listens there is no daemon of this version.
            UsageError: it is another user's.
        """


@runtime_checkable
class Placeable(Transport, Protocol):
    """A transport that depends on where the daemon's weights are."""

    def placed(self, device: str) -> Transport:
        """Returns it for a daemon whose weights are on that device, such as `cpu` or `cuda:1`."""
