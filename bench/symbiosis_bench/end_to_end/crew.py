"""Workers that are started, ordered and ended together: one contender, be it one process or four.

Orders go out one after the other within a fraction of a millisecond, which is the common start. The parent then
sleeps until somebody says something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from symbiosis_bench.end_to_end.daemons import Daemon
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Began, Made, Message, NoRoom, Of, Order, Ready, Said
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.processes import Child, Children

__all__ = ["Crew", "NoRoomError", "joined", "wait_ready"]

_READY_S: Final = 600.0
_ORDER_S: Final = 900.0
_LOOK_S: Final = 0.5
A = TypeVar("A", bound=msgspec.Struct)


class NoRoomError(BenchFailedError):
    """A model could not be opened, for want of memory on the GPU."""


class Crew:
    """Members are numbered as their processes were given, and within one that forks by their number there."""

    def __init__(
        self,
        kind: Kind,
        children: Children[Message],
        processes: Sequence[Child],
        forks: int = 1,
        daemon: Daemon | None = None,
    ) -> None:
        self.kind = kind
        self.daemon = daemon
        """Who has the base; a plain crew asks it for nothing."""
        self.members = len(processes) * forks
        self._children = children
        self._processes = {child.name: number * forks for number, child in enumerate(processes)}
        self._started = list(processes)
        self.ready: tuple[Ready, ...] = ()
        """What each said when it was ready."""

    def __repr__(self) -> str:
        return f"<Crew {self.kind!r} of {self.members}>"

    @property
    def pids(self) -> list[int]:
        """The processes that were started; forked ones are not known by pid."""
        return [child.pid for child in self._started]

    @property
    def processes(self) -> tuple[Child, ...]:
        return tuple(self._started)

    def perform(
        self,
        kind: type[A],
        orders: Order | Sequence[Order],
        *,
        all_began: Callable[[], object] | None = None,
        first_done: Callable[[], object] | None = None,
    ) -> list[A]:
        """Gives every member its order, or all the same one, and returns their answers.

        The calls are made when all have begun, and then when the first is done: in between all of them ran. Where
        one is done before all have begun neither is made.
        """
        self._give(orders)
        began: set[int] = set()
        answers: dict[int, A] = {}
        deadline = time.monotonic() + _ORDER_S
        while len(answers) < self.members:
            number, said = self._next(deadline)
            if isinstance(said, Began):
                began.add(number)
                if len(began) == self.members and not answers and all_began is not None:
                    all_began()
            elif isinstance(said, kind):
                if not answers and len(began) == self.members and first_done is not None:
                    first_done()
                answers[number] = said
            else:
                raise BenchFailedError(f"{self.kind} answered {type(said).__name__} instead of {kind.__name__}")
        return [answers[number] for number in range(self.members)]

    def end(self) -> None:
        """Ends all of its processes."""
        self._children.end(self._started)

    def _give(self, orders: Order | Sequence[Order]) -> None:
        each = list(orders) if isinstance(orders, Sequence) else [orders] * len(self._started)
        for child, order in zip(self._started, each, strict=True):
            child.write(msgspec.json.encode(order) + b"\n")

    def _next(self, deadline: float) -> tuple[int, Said]:
        name, message = _heard(self._children, self.kind, deadline)
        if (found := self.whose(name, message)) is None:
            raise BenchFailedError(f"{name} spoke while {self.kind} was asked")
        return found

    def whose(self, name: str, message: Message) -> tuple[int, Said] | None:
        """Returns the member that said something, and what; None: none of this crew."""
        number = self._processes.get(name)
        if number is None or isinstance(message, Made):
            return None
        if isinstance(message, Of):
            return number + message.member, message.message
        return number, message


def joined(children: Children[Message], crews: Sequence[Crew]) -> Crew:
    """Returns the members of crews of one kind, all of them ready, as one crew."""
    processes = [child for crew in crews for child in crew.processes]
    whole = Crew(crews[0].kind, children, processes, daemon=crews[0].daemon)
    whole.ready = tuple(ready for crew in crews for ready in crew.ready)
    return whole


def wait_ready(children: Children[Message], crews: Sequence[Crew]) -> None:
    """Waits until all members have opened their model."""
    told: dict[Crew, dict[int, Ready]] = {crew: {} for crew in crews}
    deadline = time.monotonic() + _READY_S
    while any(len(told[crew]) < crew.members for crew in crews):
        name, message = _heard(children, "somebody", deadline)
        for crew in crews:
            if (found := crew.whose(name, message)) is not None:
                number, said = found
                if isinstance(said, NoRoom):
                    raise NoRoomError(f"there is no room on the GPU for {name}")
                if not isinstance(said, Ready):
                    raise BenchFailedError(f"{name} said {type(said).__name__} before all were ready")
                told[crew][number] = said
    for crew in crews:
        crew.ready = tuple(told[crew][number] for number in range(crew.members))


def _heard(children: Children[Message], who: str, deadline: float) -> tuple[str, Message]:
    while (heard := children.hear(_LOOK_S)) is None:
        children.check()
        if time.monotonic() > deadline:
            raise BenchFailedError(f"{who} has not answered in time; the machine may be too busy")
    return heard
