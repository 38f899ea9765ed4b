"""The client's end: synchronous, one thread at a time, no copy and no system call while both sides are awake."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

import msgspec

from symbiosis_core.errors import (
    ClosedError,
    DaemonSilentError,
    RefusedError,
    SymbiosisError,
)
from symbiosis_core.ids import SlotIndex
from symbiosis_core.spared_core import Place
from symbiosis_transports.arena import Arena
from symbiosis_transports.endings import Ending, ending, gone
from symbiosis_transports.forks import FORGOTTEN, forgets_in_child
from symbiosis_transports.kinds import Fixed, Kind
from symbiosis_transports.layout import (
    ANNOUNCED,
    CLIENT_SLEEPS,
    DAEMON_SLEEPS,
    PLACE,
    PUBLISHED,
    WORDS_ARE_ORDERED,
    Layout,
    announcement,
    fence,
    pack_call,
    place_of,
    refusal_of,
)
from symbiosis_transports.leases import Leases
from symbiosis_transports.ports import Call, ChannelStatistics
from symbiosis_transports.posix_shm.attach import DOORBELL, MAX_DATAGRAM_BYTES, decode_from_daemon
from symbiosis_transports.waiting import client_kinds

__all__ = ["ShmClientChannel"]


class ShmClientChannel:
    """The client's end of a channel."""

    def __init__(self, sock: socket.socket, arena: Arena, layout: Layout, endpoint: str) -> None:
        self._sock = sock
        self._arena = arena
        self._layout = layout
        self._endpoint = endpoint
        self._words = arena.words
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._learned = client_kinds()
        self._kinds = [Kind(Fixed(0), None)] * layout.slots
        """Of the call that was published last in each slot."""
        self._leased_ns = [0] * layout.slots
        self._published_ns = [0] * layout.slots
        """0: its answer was waited for."""
        self._generations = [0] * layout.slots
        self._leases = Leases(layout.slots)
        self._shares_core = False
        self._closed_because = ""
        self._requests = self._doorbells = self._sleeps = self._looks = self._spin_hits = 0
        self._rung = 0
        """Doorbells that were heard."""
        slots = [SlotIndex(slot) for slot in range(layout.slots)]
        self._request_words = [layout.request_word(slot) for slot in slots]
        self._answer_words = [layout.answer_word(slot) for slot in slots]
        self._calls_at = [layout.call_at(slot) for slot in slots]
        self._buffers = [
            arena.view[layout.slot_at(slot) : layout.slot_at(slot) + layout.slot_bytes] for slot in slots
        ]
        forgets_in_child(self)

    def __repr__(self) -> str:
        state = self._closed_because or "open"
        return f"<ShmClientChannel {self._endpoint} {state} {self._leases}>"

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return self._layout.slots

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self._layout.slot_bytes

    def lease_nowait(self) -> SlotIndex:
        """Takes a free slot."""
        if self._closed_because:
            raise ClosedError(self._closed_because)
        slot = self._leases.take()
        self._leased_ns[slot] = time.monotonic_ns()
        if not self._shares_core and (lead_us := self._learned.lead_us()):
            self._announce(lead_us)
        return slot

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows of `slot`."""
        return self._buffers[slot]

    def publish(self, slot: SlotIndex, call: Call) -> None:
        """Hands the slot to the daemon."""
        if self._closed_because:
            raise ClosedError(self._closed_because)
        words = self._words
        self._kinds[slot] = self._learned.published(call)
        now_ns = self._published_ns[slot] = time.monotonic_ns()
        words[ANNOUNCED] = 0
        pack_call(self._arena.view, self._calls_at[slot], call, now_ns // 1000)
        self._generations[slot] = words[self._request_words[slot]] = self._generations[slot] + 1
        self._requests = words[PUBLISHED] = self._requests + 1
        fence()
        if words[DAEMON_SLEEPS] or not WORDS_ARE_ORDERED:
            self._doorbells += 1
            try:
                self._sock.send(DOORBELL)
            except BlockingIOError:
                pass  # the daemon has doorbells of ours to read, so it will look
            except OSError:
                raise self._farewell() from None

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        """Blocks until the slot is answered."""
        if self._closed_because:
            raise ClosedError(self._closed_because)
        word, generation, words = self._answer_words[slot], self._generations[slot], self._words
        kind = self._kinds[slot]
        if self._shares_core:
            self._sleep(word, generation, timeout_s)  # a look would only keep the daemon from its core
        elif words[word] != generation or not WORDS_ARE_ORDERED:
            way, began_ns = kind.way, time.monotonic_ns()
            if way.rest_ns and WORDS_ARE_ORDERED:
                time.sleep(way.rest_ns / 1e9)
                if words[word] == generation:
                    way.overslept()
            if WORDS_ARE_ORDERED and way.budget_ns and self._spin(word, generation, began_ns + way.budget_ns):
                self._spin_hits += 1
            else:
                self._sleep(word, generation, timeout_s)
            way.waited(time.monotonic_ns() - began_ns)
        if kind.notice is not None and (published_ns := self._published_ns[slot]):
            self._published_ns[slot] = 0
            kind.notice.answered(published_ns - self._leased_ns[slot], time.monotonic_ns() - published_ns)
        if code := words[word + 1]:
            why = refusal_of(code)
            assert why is not None  # a code other than 0 stands for a refusal
            raise RefusedError(why, f"the daemon refused a call in slot {slot}")

    def release(self, slot: SlotIndex) -> None:
        """Gives a slot back."""
        answered = self._closed_because or self._words[self._answer_words[slot]] == self._generations[slot]
        self._leases.give_back(slot, answered=bool(answered))

    def close(self) -> None:
        """Ends the channel."""
        self._end("the channel was closed")

    def place(self) -> Place | None:
        """See `HearsOfPlace`."""
        return place_of(word) if not self._closed_because and (word := self._words[PLACE]) else None

    def shares_core(self, shares: bool) -> None:
        """See `HearsOfPlace`."""
        self._shares_core = shares

    def statistics(self) -> ChannelStatistics:
        """Counters since the start."""
        return ChannelStatistics(self._requests, self._doorbells, self._sleeps, self._spin_hits, looks=self._looks)

    def forget_in_child(self) -> None:
        """See `forks`."""
        self._end(FORGOTTEN)

    def _announce(self, lead_us: int) -> None:
        """Wakes the daemon where it sleeps, for a call that is about to be written. Failing loses nothing."""
        if not WORDS_ARE_ORDERED:
            return  # there every doorbell stands for a call
        self._words[ANNOUNCED] = announcement(self._requests + 1, lead_us)
        fence()
        if self._words[DAEMON_SLEEPS]:
            self._doorbells += 1
            with contextlib.suppress(OSError):  # `publish` will say what it is
                self._sock.send(DOORBELL)

    def _spin(self, word: int, generation: int, end_ns: int) -> bool:
        """Looks for the answer for a short while, giving the core away at every look."""
        self._looks += 1
        words, clock, pause = self._words, time.monotonic_ns, os.sched_yield
        while words[word] != generation:
            if clock() > end_ns:
                return False
            pause()
        return True

    def _sleep(self, word: int, generation: int, timeout_s: float) -> None:
        words = self._words
        deadline = time.monotonic() + timeout_s
        self._sleeps += 1
        while True:
            words[CLIENT_SLEEPS] = 1
            fence()
            if self._may_read(word, generation):
                words[CLIENT_SLEEPS] = 0
                return
            left_s = deadline - time.monotonic()
            rung = left_s > 0 and self._poll.poll(left_s * 1000)
            words[CLIENT_SLEEPS] = 0
            if self._may_read(word, generation):
                return
            if not rung:
                raise DaemonSilentError(self._endpoint, timeout_s)
            self._hear()

    def _may_read(self, word: int, generation: int) -> bool:
        """Whether the answer is there. Where words are not ordered: and every answer's doorbell that is there was
        heard, for each has one.
        """
        if self._words[word] != generation:
            return False
        return WORDS_ARE_ORDERED or sum([self._words[one] for one in self._answer_words]) == self._rung

    def _hear(self) -> None:
        """Reads one datagram: a doorbell, or the end."""
        try:
            datagram = self._receive()
        except BlockingIOError:
            return
        except OSError as error:
            raise self._over(gone(self._endpoint, error.strerror or str(error))) from None
        if datagram != DOORBELL:
            raise self._last_words(datagram)
        self._rung += 1

    def _receive(self) -> bytes:
        """Reads one datagram.

        A daemon that hangs up with a doorbell unread resets the connection. The kernel tells that once, before
        what the daemon had said.
        """
        try:
            return self._sock.recv(MAX_DATAGRAM_BYTES)
        except ConnectionResetError:
            return self._sock.recv(MAX_DATAGRAM_BYTES)

    def _farewell(self) -> SymbiosisError:
        """Reads what the daemon said before it hung up."""
        while True:
            try:
                datagram = self._receive()
            except OSError as error:
                return self._over(gone(self._endpoint, error.strerror or str(error)))
            if datagram != DOORBELL:
                return self._last_words(datagram)

    def _last_words(self, datagram: bytes) -> SymbiosisError:
        if not datagram:
            return self._over(gone(self._endpoint, "the connection broke"))
        message: object = None
        with contextlib.suppress(msgspec.MsgspecError):
            message = decode_from_daemon(datagram)
        return self._over(ending(self._endpoint, message))

    def _over(self, how: Ending) -> SymbiosisError:
        self._end(how.why)
        return how.error

    def _end(self, why: str) -> None:
        if self._closed_because:
            return
        self._closed_because = why
        self._sock.close()
        for view in self._buffers:
            with contextlib.suppress(BufferError):  # a tensor still looks at it and frees it later
                view.release()
        with contextlib.suppress(BufferError):
            self._arena.close()
