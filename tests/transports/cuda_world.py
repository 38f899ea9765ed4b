"""A daemon, its clients and their device in virtual time: what happens next is a seed's choice, at every call.

The channels are the real ones. Below them stand a fake device whose every step is chosen here, and words in plain
memory instead of sockets. Wherever the channels call CUDA or their words, anybody else may move before: another
process, a stream, a timer. So a rule of order that is broken shows in some of a thousand seeds, and a seed that
showed it shows it again.

A process is killed at one of these points. Its host code stops there and then; what it had queued on the device
goes on until the process has really ended, which is later; and the daemon reads the end of its socket at any
time between or after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Final

from symbiosis_transports.fake_cuda import MemoryBoard
from tests.transports.cuda_processes import BoundGrave, Client, Daemon, Killed, Process, Rules

__all__ = ["BoundGrave", "Rules", "StuckError", "World"]

_MOST_MOVES: Final = 5_000
_DEEPEST: Final = 3
"""Processes that stand still inside of each other's switches; beyond, only devices move."""


class StuckError(AssertionError):
    """Nobody moves any more, and not all is done."""


class Timer:
    """What `call_later` returns."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """Everybody, and a seed that says who moves next."""

    def __init__(
        self, seed: int, rules: Rules, *, clients: int = 2, trips: int = 4, comes_again: bool = False
    ) -> None:
        """`comes_again`: every client has a second channel once it has closed its first."""
        self.random = Random(seed)
        self.rules = rules
        self.comes_again = comes_again
        self.board = MemoryBoard()
        self.stack: list[Process] = []
        self.timers: list[Timer] = []
        self.daemon = Daemon(self)
        self.clients = [Client(self, index, self.daemon, trips) for index in range(1, clients + 1)]
        self.moves = 0

    @property
    def processes(self) -> list[Process]:
        return [self.daemon, *self.clients]

    def doom(self, process: Process) -> None:
        """Has a process killed at one of its next switches."""
        process.doomed = self.random.randrange(1, process.life * (2 if self.comes_again else 1))

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(call))
        return self.timers[-1]

    def switch(self) -> None:
        """Somebody else may move here, before whoever calls goes on; or whoever calls is killed."""
        if not self.stack:
            return  # the world is still being made
        me = self.stack[-1]
        if me.doomed:
            me.doomed -= 1
            if not me.doomed:
                raise Killed
        for _ in range(self.random.choice((0, 0, 1, 1, 2))):
            self._move(hosts=len(self.stack) < _DEEPEST)

    def run(self) -> None:
        """Moves until all is done.

        Raises:
            StuckError: it never is.
        """
        while not self._over():
            self._move()
            if self.moves > _MOST_MOVES:
                raise StuckError(f"after {self.moves} moves: {[vars(process) for process in self.processes]}")

    def problems(self) -> list[str]:
        """What went wrong: rows, work on freed memory, answers that nobody got, memory that nobody freed."""
        found = [wrong for client in self.clients for wrong in client.wrong]
        found += [fault for process in self.processes for fault in process.cuda.faults]
        if not self.daemon.dead:
            found += [
                f"{c.words.client}: {c.answers} answers"
                for c in self.clients
                if not (c.dead or c.leaves) and c.answers < c.trips
            ]
            found += [f"{name} is not freed" for name in self.board._pieces if name.startswith("daemon")]
        return found

    def _move(self, *, hosts: bool = True) -> None:
        self.moves += 1
        options = list(self._options(hosts))
        if options:
            self.random.choice(options)()

    def _options(self, hosts: bool) -> Iterator[Callable[[], object]]:
        for process in self.processes:
            if hosts and process.movable:
                yield process.move
            if process.cuda.pending:
                yield partial(process.cuda.step, self.random)
        for client in self.clients:
            if client.dead and not client.ended:
                yield partial(self._end, client)
            if (client.dead or client.finished) and not client.reported:
                yield partial(setattr, client, "reported", True)
        if self.daemon.dead:
            yield self._end_daemon
        elif hosts and self.timers and self.daemon.movable:
            yield self._fire

    def _end(self, client: Client) -> None:
        client.cuda.die(self.random)
        client.end()

    def _end_daemon(self) -> None:
        self.daemon.cuda.die(self.random)
        for client in self.clients:
            client.words.hung_up = True

    def _fire(self) -> None:
        timer = self.timers.pop(self.random.randrange(len(self.timers)))
        if not timer.cancelled:
            self.daemon.moving = True
            try:
                timer.call()
            finally:
                self.daemon.moving = False

    def _over(self) -> bool:
        if any(process.movable for process in self.clients) or any(
            c.cuda.pending for c in self.clients if not c.ended
        ):
            return False
        if self.daemon.dead:
            return True
        self.daemon.finished = False
        return not (
            self.daemon.channels or self.daemon.underway or len(self.daemon.graves) or self.daemon.cuda.pending
        )
