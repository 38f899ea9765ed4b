"""Fetching a trace from a daemon, piece by piece: it keeps little, and forgets who does not ask again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from symbiosis_core.errors import SymbiosisError
from symbiosis_core.wire import Reply, Request, TakeTrace, TraceTaken

__all__ = ["fetch_trace"]

_LOOK_S: Final = 0.25


class _Link(Protocol):
    def ask(self, request: Request) -> Reply: ...


def fetch_trace(link: _Link, write: Callable[[bytes], object], wait: Callable[[float], bool]) -> int:
    """Records until `wait`, given at most so many seconds, says that it is enough; returns how much was lost.

    `write` is called first when the daemon has agreed to record. However it ends, the recording ends with it, so
    that another one can begin.
    """
    taken = _take(link, recording=0)
    try:
        write(taken.data)
        while not wait(_LOOK_S):
            write(_take(link, recording=taken.recording).data)
    except BaseException:
        with suppress(SymbiosisError):  # what ended it is told; that the daemon is gone, too, is no news
            _take(link, recording=taken.recording, stop=True)
        raise
    last = _take(link, recording=taken.recording, stop=True)
    write(last.data)
    return last.dropped


def _take(link: _Link, *, recording: int, stop: bool = False) -> TraceTaken:
    taken = link.ask(TakeTrace(recording, stop=stop))
    assert isinstance(taken, TraceTaken)  # the conversation lets nothing else through
    return taken
