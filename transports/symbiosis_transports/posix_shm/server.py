"""The daemon's end: an open door, and one channel per client that came in.

Everything here runs in the thread of the loop that was given. Nothing a client sends can raise into that loop:
a breach of the protocol ends that client's channel with a reason, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path

import msgspec

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError, UsageError
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_core.logs import event, get_logger
from symbiosis_core.wire import Refused
from symbiosis_transports.arena import Arena
from symbiosis_transports.layout import (
    CLIENT_SLEEPS,
    DAEMON_SLEEPS,
    PUBLISHED,
    WORDS_ARE_ORDERED,
    Layout,
    code_of,
    fence,
    unpack_call,
)
from symbiosis_transports.ports import Arrival, ChannelStatistics, Grant, Host
from symbiosis_transports.posix_shm.attach import (
    DOORBELL,
    MAX_DATAGRAM_BYTES,
    VERSION,
    Attached,
    Collect,
    Goodbye,
    Handed,
    decode_opening,
    encode,
    peer_of,
)

__all__ = ["ShmListener", "ShmServerChannel"]

log = get_logger(__name__)

_HANDSHAKE_S = 5.0
_MAX_ATTACHING = 64
_ACCEPT_PAUSE_S = 0.1
_SOCKET_TYPE = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class ShmListener:
    """The data socket of a daemon."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> None:
        self._loop = loop
        self._path = Path(endpoint)
        self._host = host
        self._attaching: dict[socket.socket, asyncio.TimerHandle] = {}
        self._door = _open_door(self._path)
        self._loop.add_reader(self._door.fileno(), self._accept)

    def __repr__(self) -> str:
        return f"<ShmListener {self._path} attaching={len(self._attaching)}>"

    def close(self) -> None:
        """Stops listening and removes the socket's name. Channels live on."""
        if self._door.fileno() < 0:
            return
        self._loop.remove_reader(self._door.fileno())
        self._door.close()
        self._path.unlink(missing_ok=True)
        for sock in list(self._attaching):
            self._turn_away(sock, None)

    def _accept(self) -> None:
        try:
            sock, _ = self._door.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                return  # the client hung up before it was let in
            log.warning(event("no descriptors left for a new client", error=error))
            self._loop.remove_reader(self._door.fileno())
            self._loop.call_later(_ACCEPT_PAUSE_S, self._reopen)
            return
        sock.setblocking(False)
        timer = self._loop.call_later(_HANDSHAKE_S, self._turn_away, sock, None)
        self._attaching[sock] = timer
        self._loop.add_reader(sock.fileno(), self._greet, sock)
        if len(self._attaching) > _MAX_ATTACHING:
            self._turn_away(next(iter(self._attaching)), None)

    def _reopen(self) -> None:
        if self._door.fileno() >= 0:
            self._loop.add_reader(self._door.fileno(), self._accept)

    def _greet(self, sock: socket.socket) -> None:
        try:
            opening = decode_opening(sock.recv(MAX_DATAGRAM_BYTES))
            if opening.version != VERSION:
                raise RefusedError(
                    RefusalCode.VERSION,
                    f"the client speaks data plane version {opening.version}, the daemon {VERSION}",
                    "install the same release of symbiosis-llm on both sides",
                )
            if isinstance(opening, Collect):
                self._hand_over(sock, opening.model)
                return
            grant = self._host.redeem(opening.token, peer_of(sock))
        except BlockingIOError:
            return
        except OSError:  # it hung up
            self._turn_away(sock, None)
        except msgspec.MsgspecError as error:
            self._turn_away(sock, Refused(RefusalCode.MALFORMED, f"not an opening: {error}"))
        except RefusedError as error:
            self._turn_away(sock, Refused(error.code, error.reason, error.remedy))
        else:
            self._let_in(sock, grant)

    def _hand_over(self, sock: socket.socket, model: str) -> None:
        """Passes the descriptor of a base's weights to who may have it, and hangs up."""
        peer = peer_of(sock)
        fd = self._host.lend(peer, model)
        socket.send_fds(sock, [encode(Handed(VERSION))], [fd])
        log.info(event("weights lent", model=model, pid=peer.pid))
        self._turn_away(sock, None)

    def _let_in(self, sock: socket.socket, grant: Grant) -> None:
        """Lends an arena to a client whose token was good."""
        layout = Layout(grant.slots, grant.slot_bytes)
        try:
            arena, fd = Arena.create(layout.arena_bytes)
        except OSError as error:
            self._host.abandoned(grant)
            self._turn_away(sock, Refused(RefusalCode.QUOTA, f"no memory for an arena: {error}"))
            return
        arena.words[DAEMON_SLEEPS] = 1  # before the client sees it: its first call must ring
        try:
            socket.send_fds(sock, [encode(Attached(VERSION, grant.slots, grant.slot_bytes))], [fd])
        except OSError as error:
            arena.close()
            self._host.abandoned(grant)
            self._turn_away(sock, None)
            log.info(event("a client left during its handshake", client=grant.client, error=error))
            return
        finally:
            os.close(fd)
        self._attaching.pop(sock).cancel()
        self._loop.remove_reader(sock.fileno())
        self._host.attached(ShmServerChannel(self._loop, sock, arena, layout, grant.client, self._host))

    def _turn_away(self, sock: socket.socket, why: Refused | None) -> None:
        timer = self._attaching.pop(sock, None)
        if timer is None:
            return
        timer.cancel()
        self._loop.remove_reader(sock.fileno())
        if why is not None:
            with contextlib.suppress(OSError):
                sock.send(encode(why))
            log.info(event("turned a connection away", code=why.code, reason=why.reason))
        sock.close()


class ShmServerChannel:
    """The daemon's end of one client's channel."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        arena: Arena,
        layout: Layout,
        client: ClientId,
        host: Host,
    ) -> None:
        self.client = client
        self._loop = loop
        self._sock = sock
        self._arena = arena
        self._layout = layout
        self._host = host
        self._words = arena.words
        self._published = 0
        self._taken = [0] * layout.slots
        self._answered = [0] * layout.slots
        self._rung = False
        self._doorbells = 0
        self._open = True
        slots = [SlotIndex(index) for index in range(layout.slots)]
        self._request_words = [layout.request_word(slot) for slot in slots]
        self._answer_words = [layout.answer_word(slot) for slot in slots]
        self._calls_at = [layout.call_at(slot) for slot in slots]
        self._buffers = [
            arena.view[layout.slot_at(slot) : layout.slot_at(slot) + layout.slot_bytes] for slot in slots
        ]
        loop.add_reader(sock.fileno(), self._readable)

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<ShmServerChannel client={self.client} {state} published={self._published}>"

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena."""
        return self._layout.arena_bytes

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows of `slot`."""
        return self._buffers[slot]

    def statistics(self) -> ChannelStatistics:
        """Counters since the start."""
        return ChannelStatistics(sum(self._taken), self._doorbells, sleeps=0, spin_hits=0)

    def waiting(self) -> bool:
        """Whether something was published since the last `take`."""
        return self._open and bool(self._words[PUBLISHED] != self._published)

    def take(self) -> list[Arrival]:
        """Everything published since the last call.

        Raises:
            RemoteProtocolError: the client broke the protocol; the caller closes the channel.
        """
        if not self._open or not (WORDS_ARE_ORDERED or self._rung):
            return []
        published = self._words[PUBLISHED]
        if published == self._published:
            return []
        self._published, self._rung = published, False
        arrivals = []
        for index, word in enumerate(self._request_words):
            generation = self._words[word]
            if generation == self._taken[index]:
                continue
            if generation != self._taken[index] + 1 or self._answered[index] != self._taken[index]:
                raise RemoteProtocolError(
                    f"slot {index} was published as generation {generation} after {self._taken[index]}, "
                    f"of which {self._answered[index]} is answered"
                )
            self._taken[index] = generation
            call = unpack_call(self._arena.view, self._calls_at[index])
            arrivals.append(Arrival(SlotIndex(index), Generation(generation), call))
        return arrivals

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        """Makes the answer visible to a client that is awake."""
        if not self._open or self._taken[slot] != generation or self._answered[slot] == generation:
            return
        self._answered[slot] = generation
        word = self._answer_words[slot]
        self._words[word + 1] = code_of(refusal)
        self._words[word] = generation

    def ring(self) -> None:
        """Wakes the client where it sleeps."""
        fence()
        if self._open and (self._words[CLIENT_SLEEPS] or not WORDS_ARE_ORDERED):
            self._doorbells += 1
            # A full queue means that the client has doorbells to read; a broken pipe shows up as EOF.
            with contextlib.suppress(OSError):
                self._sock.send(DOORBELL)

    def arm(self) -> bool:
        """Asks to be rung; false when something has already come."""
        if not self._open:
            return True
        self._words[DAEMON_SLEEPS] = 1
        fence()
        return bool(self._words[PUBLISHED] == self._published)

    def disarm(self) -> None:
        """No doorbell wanted."""
        if self._open:
            self._words[DAEMON_SLEEPS] = 0

    def close(self, reason: str, *, breach: bool = False) -> None:
        """Hangs up and frees the client's memory."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        if reason:
            with contextlib.suppress(OSError):
                self._sock.send(encode(Goodbye(reason, breach)))
        self._sock.close()
        for view in self._buffers:
            with contextlib.suppress(BufferError):  # a tensor still looks at it and frees it later
                view.release()
        self._buffers.clear()
        with contextlib.suppress(BufferError):
            self._arena.close()

    def _readable(self) -> None:
        try:
            datagram = self._sock.recv(MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            datagram = b""
        if datagram == DOORBELL:
            self._rung = True
            self._host.ready(self)
            return
        if datagram:
            self.close("the data socket carries doorbells of one zero byte only", breach=True)
            self._host.gone(self, "sent garbage on its data socket")
        else:
            self.close("")
            self._host.gone(self, "left")


def _open_door(path: Path) -> socket.socket:
    """Binds the socket, readable by this user alone; a stale name is taken over, a live one is refused."""
    door = socket.socket(socket.AF_UNIX, _SOCKET_TYPE)
    try:
        if path.exists():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    path.unlink(missing_ok=True)
                else:
                    raise UsageError(f"{path} is in use by another daemon; stop it or choose another address")
        previous = os.umask(0o177)
        try:
            door.bind(str(path))
        finally:
            os.umask(previous)
        door.listen(_MAX_ATTACHING)
    except OSError as error:
        door.close()
        raise UsageError(f"cannot listen at {path}: {error.strerror}; choose a folder you may write") from error
    except UsageError:
        door.close()
        raise
    return door
