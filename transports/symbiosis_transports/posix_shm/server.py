"""The daemon's end of one client's channel.

Everything here runs in the thread of the loop that was given. Nothing a client sends can raise into that loop:
a breach of the protocol ends that client's channel with a reason, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from symbiosis_core.errors import RefusalCode, RemoteProtocolError
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_core.spared_core import Place
from symbiosis_transports.arena import Arena
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.layout import (
    ANNOUNCED,
    CLIENT_SLEEPS,
    DAEMON_SLEEPS,
    PLACE,
    PUBLISHED,
    WORDS_ARE_ORDERED,
    Layout,
    code_of,
    fence,
    lead_us_of,
    place_word,
    unpack_call,
)
from symbiosis_transports.ports import Arrival, ChannelStatistics, Host
from symbiosis_transports.posix_shm.attach import DOORBELL, MAX_DATAGRAM_BYTES, encode

__all__ = ["ShmServerChannel"]


_MOST_UNKEPT: Final = 4
"""So many announcements in a row may come to nothing, as where a slot is leased and given back."""


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
        self._announced = 0
        """The announcement that was heard last."""
        self._unkept = 0
        """So many were heard since a call was taken."""
        self._taken = [0] * layout.slots
        self._answered = [0] * layout.slots
        self._rung = self._unrung = 0
        """Doorbells that were heard, and answers that were not rung for: unordered words need their number."""
        self._doorbells = 0
        self._open = True
        self._slots = [SlotIndex(index) for index in range(layout.slots)]
        self._request_words = [layout.request_word(slot) for slot in self._slots]
        self._answer_words = [layout.answer_word(slot) for slot in self._slots]
        self._calls_at = [layout.call_at(slot) for slot in self._slots]
        self._buffers = [
            arena.view[layout.slot_at(slot) : layout.slot_at(slot) + layout.slot_bytes] for slot in self._slots
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
        if not self._open:
            return False
        if WORDS_ARE_ORDERED:
            return self._words[PUBLISHED] != self._published
        return self._told() != self._published

    def announced_us(self) -> int:
        """As the client says, once for each call. Of one that announces and does not publish, nothing."""
        if not self._open or (word := self._words[ANNOUNCED]) == self._announced:
            return 0
        self._announced = word
        if not (lead_us := lead_us_of(word)) or self._unkept == _MOST_UNKEPT:
            return 0
        self._unkept += 1
        return lead_us

    def take(self) -> list[Arrival]:
        """Everything published since the last call.

        Raises:
            RemoteProtocolError: the client broke the protocol; the caller closes the channel.
        """
        if not self._open or (published := self._told()) == self._published:
            return []
        words = self._words
        generations = [words[word] for word in self._request_words]
        if not WORDS_ARE_ORDERED and sum(generations) != self._rung:
            return []  # one more was published since, whose doorbell is still to come
        self._published = published
        self._unkept = 0
        arrivals = []
        for slot in self._slots:
            generation, taken = generations[slot], self._taken[slot]
            if generation == taken:
                continue
            if generation != taken + 1 or self._answered[slot] != taken:
                raise RemoteProtocolError(
                    f"slot {slot} was published as generation {generation} after {taken}, "
                    f"of which {self._answered[slot]} is answered"
                )
            self._taken[slot] = generation
            call = unpack_call(self._arena.view, self._calls_at[slot])
            arrivals.append(tuple.__new__(Arrival, (slot, generation, call)))  # as `unpack_call` does
        return arrivals

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        """Makes the answer visible to a client that is awake."""
        if not self._open or self._taken[slot] != generation or self._answered[slot] == generation:
            return
        self._answered[slot] = generation
        word = self._answer_words[slot]
        self._words[word + 1] = code_of(refusal)
        self._words[word] = generation
        self._unrung += 1

    def ring(self) -> None:
        """Wakes the client where it sleeps."""
        if not self._open:
            return
        fence()
        if WORDS_ARE_ORDERED and not self._words[CLIENT_SLEEPS]:
            return
        doorbells = 1 if WORDS_ARE_ORDERED else self._unrung
        self._unrung = 0
        for _ in range(doorbells):
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
        return self._told() == self._published

    def disarm(self) -> None:
        """No doorbell wanted."""
        if self._open:
            self._words[DAEMON_SLEEPS] = 0

    def ask_to(self, place: Place | None) -> None:
        """See `SaysPlace`."""
        if self._open:
            self._words[PLACE] = place_word(place)

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

    def _told(self) -> int:
        """How many calls were published, as far as they may be read.

        Where words are not ordered a call may be read once its doorbell was heard. Each call has one, so all that
        are seen may be read when as many were heard; otherwise those of before, until the next is.
        """
        if WORDS_ARE_ORDERED:
            return self._words[PUBLISHED]
        seen = sum(self._generations())
        return seen if seen == self._rung else self._published

    def _generations(self) -> list[int]:
        words = self._words
        return [words[word] for word in self._request_words]

    def _readable(self) -> None:
        try:
            datagram = self._sock.recv(MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            datagram = b""
        if datagram == DOORBELL:
            self._rung += 1
            self._host.ready(self)
            return
        if datagram:
            self.close("the data socket carries doorbells of one zero byte only", breach=True)
            self._host.gone(self, "sent garbage on its data socket")
        else:
            self.close("")
            self._host.gone(self, "left")
