"""The promises of `ports.Link` and `ports.LinkServer`, as tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from symbiosis_core.errors import (
    BusyError,
    ClosedError,
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    RefusedError,
)
from symbiosis_core.wire import Describe, Fetch, Hello, Refused, Reply, TensorPart
from symbiosis_transports.ports import Answer, Link, LinkServer
from symbiosis_transports.testing.asked import TEXT, AskedDaemon
from symbiosis_transports.testing.conformance import raises
from symbiosis_transports.testing.echo import TIMEOUT_S

__all__ = ["LinkConformance"]

GARBAGE = ([b"x"], [b"", b"", b""], [b"HTTP/1.1", b"GET /"], [os.urandom(8), os.urandom(300)])


class LinkConformance:
    """The promises of a control link. Subclass it, say how its ends are made, and let pytest collect the class."""

    def address(self, folder: object) -> str:
        """A control address that nobody uses."""
        return f"ipc://{folder}/link.sock"

    def server(self, address: str, answer: Answer) -> LinkServer:
        """The daemon's end, not open yet."""
        raise NotImplementedError

    def link(self, address: str, timeout_s: float = TIMEOUT_S) -> Link:
        """A client's end."""
        raise NotImplementedError

    def shout(self, address: str, frames: list[bytes]) -> Reply:
        """What the daemon says to frames that no client of ours would send."""
        raise NotImplementedError

    @contextlib.contextmanager
    def asked(self, folder: object, *, serve: bool = True) -> Iterator[tuple[AskedDaemon, str]]:
        """A daemon at a fresh address."""
        address = self.address(folder)
        daemon = AskedDaemon(self.server, address, serve=serve)
        try:
            yield daemon, address
        finally:
            daemon.close()

    def test_every_question_gets_its_own_answer_in_order(self, tmp_path: object) -> None:
        with self.asked(tmp_path) as (_, address):
            one, other = self.link(address), self.link(address)
            for offset in range(len(TEXT)):
                assert _rest(one, offset) == TEXT[offset:]
                assert _rest(other, len(TEXT) - offset) == TEXT[len(TEXT) - offset :]
            one.close()
            other.close()

    def test_a_refusal_is_typed_and_the_conversation_goes_on(self, tmp_path: object) -> None:
        with self.asked(tmp_path) as (_, address):
            link = self.link(address)
            with raises(RefusedError) as refused:
                link.ask(Describe())
            assert isinstance(refused.error, RefusedError)
            assert refused.error.code is RefusalCode.UNKNOWN_MODEL
            assert refused.error.remedy == "ask for another"
            with raises(BusyError) as busy:
                link.ask(Hello("me", "training"))
            assert isinstance(busy.error, BusyError)
            assert busy.error.retry_after_s == 2.5
            assert _rest(link, 3) == TEXT[3:]
            link.close()

    def test_garbage_gets_a_refusal_and_others_are_answered(self, tmp_path: object) -> None:
        with self.asked(tmp_path) as (_, address):
            link = self.link(address)
            for frames in GARBAGE:
                reply = self.shout(address, frames)
                assert isinstance(reply, Refused)
                assert reply.code in (RefusalCode.MALFORMED, RefusalCode.VERSION)
                assert _rest(link, 0) == TEXT
            link.close()

    def test_silence_is_told_from_death(self, tmp_path: object) -> None:
        """Of a daemon that is there and does not answer; and once it does, others have their answers."""
        with self.asked(tmp_path, serve=False) as (daemon, address):
            link = self.link(address, timeout_s=0.5)
            with raises(DaemonSilentError):
                link.ask(Fetch("m", "t"))
            link.close()
            daemon.serve()
            later = self.link(address)
            assert _rest(later, 0) == TEXT
        with raises(DaemonGoneError):
            later.ask(Fetch("m", "t"))
        later.close()

    def test_nobody_at_the_address_is_said_at_once(self, tmp_path: object) -> None:
        with raises(DaemonGoneError), contextlib.closing(self.link(self.address(tmp_path))) as link:
            link.ask(Fetch("m", "t"))

    def test_the_address_of_a_daemon_that_has_closed_is_free(self, tmp_path: object) -> None:
        address = self.address(tmp_path)
        for _ in range(2):
            daemon = AskedDaemon(self.server, address)
            link = self.link(address)
            assert _rest(link, 0) == TEXT
            link.close()
            daemon.close()

    def test_a_closed_link_says_so(self, tmp_path: object) -> None:
        with self.asked(tmp_path) as (_, address):
            link = self.link(address)
            link.close()
            link.close()
            with raises(ClosedError):
                link.ask(Fetch("m", "t"))

    def test_a_forked_child_cannot_use_its_parents_link(self, tmp_path: object) -> None:
        with self.asked(tmp_path) as (_, address):
            link = self.link(address)
            assert _rest(link, 0) == TEXT
            child = os.fork()
            if child == 0:
                os._exit(_try_as_a_child(link))
            assert os.waitpid(child, 0)[1] == 0
            assert _rest(link, 1) == TEXT[1:]
            link.close()


def _rest(link: Link, offset: int) -> bytes:
    part = link.ask(Fetch("m", "t", offset))
    assert isinstance(part, TensorPart)
    return part.data


def _try_as_a_child(link: Link) -> int:
    try:
        link.ask(Fetch("m", "t"))
    except ClosedError:
        link.close()
        return 0
    return 1
