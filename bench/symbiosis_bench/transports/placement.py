"""Where a contender's two ends run: on one core, on a core each, or where the kernel puts them.

What a trip of some microseconds costs depends on it. A wake-up on one's own core is cheap, and on another core
dear; and who looks for an answer, on a core that both share, takes the time from it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from symbiosis_core.errors import UsageError

__all__ = [
    "FREE",
    "ONE_CORE",
    "PLACEMENTS",
    "TWO_CORES",
    "Cores",
    "cores_of",
    "not_possible",
    "pinned",
    "placements",
    "put",
]

ONE_CORE: Final = "one-core"
TWO_CORES: Final = "two-cores"
"""The server has one, and all clients the other."""
FREE: Final = "free"
PLACEMENTS: Final = (ONE_CORE, TWO_CORES, FREE)


class Cores(NamedTuple):
    """On which cores each side may run."""

    clients: tuple[int, ...]
    server: tuple[int, ...]


def cores_of(placement: str, usable: Sequence[int]) -> Cores:
    """Returns the cores of a placement that is possible with the usable ones."""
    first, last = (usable[0],), (usable[-1],)
    return {
        ONE_CORE: Cores(first, first),
        TWO_CORES: Cores(first, last),
        FREE: Cores(tuple(usable), tuple(usable)),
    }[placement]


def not_possible(usable: Collection[int]) -> dict[str, str]:
    """Returns the placements that need more cores than there are, or are another one then, and why."""
    if len(usable) > 1:
        return {}
    why = "there is one core that this process may use"
    return {TWO_CORES: why, FREE: f"{why}, so it is {ONE_CORE}"}


def placements(text: str, usable: Collection[int]) -> tuple[str, ...]:
    """Returns what stands between the commas; of an empty text, all that are possible.

    Raises:
        UsageError: something is no placement, or not possible here.
    """
    impossible = not_possible(usable)
    chosen = tuple(word.strip() for word in text.split(",") if word.strip())
    if unknown := [word for word in chosen if word not in PLACEMENTS]:
        raise UsageError(f"--placement {', '.join(unknown)}: there are {', '.join(PLACEMENTS)}")
    if reasons := [f"{word} is not possible here: {impossible[word]}" for word in chosen if word in impossible]:
        raise UsageError(f"--placement: {'; '.join(reasons)}")
    return chosen or tuple(word for word in PLACEMENTS if word not in impossible)


def put(pid: int, cores: Collection[int]) -> None:
    """Keeps all threads of a process to these cores. Those started later go with who starts them."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)


@contextlib.contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Keeps this process to these cores for a while."""
    usual = os.sched_getaffinity(0)
    put(os.getpid(), cores)
    try:
        yield
    finally:
        put(os.getpid(), usual)
