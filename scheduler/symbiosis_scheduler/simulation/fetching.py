"""Fetching a trace from a daemon, piece by piece: it keeps little, and forgets who does not ask again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from symbiosis_core.wire import Reply, Request, TakeTrace, TraceTaken

__all__ = ["fetch_trace"]

_LOOK_S: Final = 0.25


class _Link(Protocol):
    def ask(self, request: Request) -> Reply: ...


def fetch_trace(link: _Link, write: Callable[[bytes], object], wait: Callable[[float], bool]) -> int:
    """Records until `wait`, given at most so many seconds, says that it is enough; returns how much was lost."""
    taken = _take(link, write, recording=0, stop=False)
    while not wait(_LOOK_S):
        taken = _take(link, write, recording=taken.recording, stop=False)
    return _take(link, write, recording=taken.recording, stop=True).dropped


def _take(link: _Link, write: Callable[[bytes], object], *, recording: int, stop: bool) -> TraceTaken:
    taken = link.ask(TakeTrace(recording, stop=stop))
    assert isinstance(taken, TraceTaken)  # the conversation lets nothing else through
    write(taken.data)
    return taken
