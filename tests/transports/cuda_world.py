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
from typing import Any, ClassVar, Final

from symbiosis_core.errors import BusyError, DaemonGoneError, RefusalCode
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_transports.cuda.seam import EventNumber, Pointer, Stream
from symbiosis_transports.cuda_ipc.arena import DeviceArena
from symbiosis_transports.cuda_ipc.client import CudaClientChannel
from symbiosis_transports.cuda_ipc.graves import Grave, Graves
from symbiosis_transports.cuda_ipc.handles import HOST_SLOT_BYTES, LEFT
from symbiosis_transports.cuda_ipc.server import CudaServerChannel
from symbiosis_transports.fake_cuda import FakeCuda, MemoryBoard
from symbiosis_transports.ports import Arrival, Call, ChannelStatistics

__all__ = ["BoundGrave", "Rules", "StuckError", "World"]

SLOTS: Final = 2
_ROW: Final = 8
_OUT_AT: Final = 64
_SLOT_BYTES: Final = 128
_MOST_MOVES: Final = 5_000
_DEEPEST: Final = 3
"""Processes that stand still inside of each other's switches; beyond, only devices move."""
_CALL: Final = Call(OpId(0), Direction.FORWARD, 1, 0, _OUT_AT)


class Killed(BaseException):
    """Ends the host code of a process at a switch."""


class StuckError(AssertionError):
    """Nobody moves any more, and not all is done."""


class BoundGrave(Grave):
    """A grave whose client is in this world and not in the system."""

    def __init__(self, arena: DeviceArena, client: Client) -> None:
        super().__init__(arena, client.words.buffers[0][LEFT], -1)
        self.client = client

    def _ended(self) -> bool:
        return self.client.ended


class Rules:
    """What a world is made of. A broken one breaks exactly one rule of order."""

    client_channel: ClassVar[type[CudaClientChannel]] = CudaClientChannel
    server_channel: ClassVar[type[CudaServerChannel]] = CudaServerChannel
    grave: ClassVar[type[BoundGrave]] = BoundGrave
    early: ClassVar[bool] = False
    """Whether the daemon answers as soon as the work is queued, and not once it is done."""
    computed_first: ClassVar[bool] = True
    """Whether it records before it answers."""


class Words:
    """Calls and answers between a client and the daemon: both ends' words, without a socket."""

    def __init__(self, world: World, client: ClientId) -> None:
        self.client = client
        self.buffers = [memoryview(bytearray(HOST_SLOT_BYTES)) for _ in range(SLOTS)]
        self.published: list[Arrival] = []
        self.answered = [Generation(0)] * SLOTS
        self.generations = [Generation(0)] * SLOTS
        self.free = [SlotIndex(slot) for slot in range(SLOTS)]
        self.slots = SLOTS
        self.slot_bytes = self.arena_bytes = HOST_SLOT_BYTES
        self.hung_up = False
        self._world = world

    def buffer(self, slot: SlotIndex) -> memoryview:
        return self.buffers[slot]

    def lease_nowait(self) -> SlotIndex:
        if not self.free:
            raise BusyError(RefusalCode.QUOTA, "all in use")
        return self.free.pop()

    def publish(self, slot: SlotIndex, call: Call) -> None:
        self._world.switch()
        if self.hung_up:
            raise DaemonGoneError("here", "it hung up")
        self.generations[slot] = Generation(self.generations[slot] + 1)
        self.published.append(Arrival(slot, self.generations[slot], call))
        self._world.switch()

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        assert self.answered[slot] == self.generations[slot]  # a client of this world looks before it waits
        self._world.switch()

    def release(self, slot: SlotIndex) -> None:
        self.free.append(slot)

    def waiting(self) -> bool:
        return bool(self.published)

    def take(self) -> list[Arrival]:
        taken, self.published = self.published, []
        self._world.switch()
        return taken

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        self._world.switch()
        self.answered[slot] = generation
        self._world.switch()

    def ring(self) -> None:
        pass

    def arm(self) -> bool:
        return True

    def disarm(self) -> None:
        pass

    def close(self, reason: str = "", *, breach: bool = False) -> None:
        self.hung_up = True

    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(0, 0, 0, 0)


class SwitchingCuda(FakeCuda):
    """A device before each of whose calls others may move."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.board, name=name)
        self._world = world

    def record(self, event: EventNumber, stream: Stream) -> None:
        self._world.switch()
        super().record(event, stream)
        self._world.switch()

    def wait(self, stream: Stream, event: EventNumber) -> None:
        self._world.switch()
        super().wait(stream, event)

    def done(self, event: EventNumber) -> bool:
        self._world.switch()
        return super().done(event)

    def close_memory(self, pointer: Pointer) -> None:
        self._world.switch()
        super().close_memory(pointer)


class Process:
    """Host code that moves when the world says so, and can be killed at any switch."""

    def __init__(self, world: World, name: str) -> None:
        self.cuda = SwitchingCuda(world, name)
        self.world = world
        self.doomed = 0
        """Switches until it is killed; 0: it is not."""
        self.dead = False
        self.finished = False
        self.moving = False

    @property
    def movable(self) -> bool:
        return not (self.dead or self.finished or self.moving)

    def move(self) -> None:
        self.moving = True
        self.world.stack.append(self)
        try:
            self.step()
        except Killed:
            self.dead = True
        finally:
            self.world.stack.pop()
            self.moving = False

    def step(self) -> None:
        raise NotImplementedError


class Client(Process):
    """Makes its trips, each with a number of its own, on one stream or the other, and looks at every answer."""

    def __init__(self, world: World, index: int, daemon: Daemon, trips: int) -> None:
        super().__init__(world, f"client{index}")
        self.words = Words(world, ClientId(index))
        self.ended = False
        """Whether the system has done away with the process."""
        self.reported = False
        """Whether the daemon has read the end of its socket."""
        self.trips = trips
        self.answers = 0
        self.wrong: list[str] = []
        self._flying: list[tuple[SlotIndex, int]] = []
        self._begun = 0
        arena = daemon.arenas[index] = DeviceArena(daemon.cuda, SLOTS, _SLOT_BYTES)
        self._pointer = self.cuda.open_memory(daemon.cuda.memory_handle(arena.pointer))
        written = [self.cuda.create_event() for _ in range(SLOTS)]
        answered = [self.cuda.open_event(daemon.cuda.event_handle(event)) for event in arena.answered]
        words: Any = self.words
        self.channel = world.rules.client_channel(words, self.cuda, self._pointer, _SLOT_BYTES, written, answered)
        daemon.attach(self, [daemon.cuda.open_event(self.cuda.event_handle(event)) for event in written])

    def step(self) -> None:
        landed = [flight for flight in self._flying if self._answered(flight[0])]
        try:
            if landed:
                self._receive(*landed[0])
            elif self._begun < self.trips and len(self._flying) < SLOTS and not self.words.hung_up:
                self._send()
            elif self.words.hung_up:
                self.finished = True  # the daemon is gone, and whoever asked is told
            elif self._begun == self.trips and not self._flying:
                self.channel.close()
                self.finished = self.ended = True
        except DaemonGoneError:
            self.finished = True

    def _answered(self, slot: SlotIndex) -> bool:
        return self.words.answered[slot] == self.words.generations[slot]

    def _send(self) -> None:
        self._begun += 1
        number = self._begun * 100 + self.words.client
        with self.cuda.on(self._any_stream()):
            slot = self.channel.lease_nowait()
            rows = self.channel.buffer(slot)

            def write() -> None:
                rows[:_ROW] = number.to_bytes(_ROW, "little")

            self.cuda.launch(write, self._pointer)
            self.channel.publish(slot, _CALL)
        self._flying.append((slot, number))

    def _receive(self, slot: SlotIndex, number: int) -> None:
        self._flying.remove((slot, number))
        with self.cuda.on(self._any_stream()):
            self.channel.wait(slot, 1)
            rows = self.channel.buffer(slot)

            def read() -> None:
                seen = int.from_bytes(rows[_OUT_AT : _OUT_AT + _ROW], "little")
                self.answers += 1
                if seen != number + 7:
                    self.wrong.append(f"{self.words.client}: {seen} instead of {number + 7}")

            self.cuda.launch(read, self._pointer)
            self.channel.release(slot)

    def _any_stream(self) -> Stream:
        return Stream(self.world.random.choice((1, 2)))


class Daemon(Process):
    """Takes what is written, queues it on the stream of the client's lane, two plans at most, and answers."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "daemon")
        self.arenas: dict[int, DeviceArena] = {}
        self.channels: dict[ClientId, CudaServerChannel] = {}
        self.clients: dict[ClientId, Client] = {}
        self.graves = Graves(world)  # type: ignore[arg-type]  # of a loop it wants a timer alone
        self._waiting: list[tuple[ClientId, Arrival]] = []
        self.underway: list[tuple[ClientId, Arrival, EventNumber]] = []

    def attach(self, client: Client, written: list[EventNumber]) -> None:
        words: Any = client.words
        loop: Any = self.world
        self.clients[client.words.client] = client
        self.channels[client.words.client] = self.world.rules.server_channel(
            loop, words, self.cuda, self.arenas[client.words.client], written, self._closed, lambda _: None
        )

    def step(self) -> None:
        for client in [client for client in self.clients.values() if client.reported]:
            if (channel := self.channels.pop(client.words.client, None)) is not None:
                channel.close("")
        for name, channel in list(self.channels.items()):
            self._waiting += [(name, arrival) for arrival in channel.take()]
        for plan in [plan for plan in self.underway if self.cuda.done(plan[2])]:
            self.underway.remove(plan)
            self.cuda.destroy_event(plan[2])
            if not self.world.rules.early:
                self._answer(plan[0], plan[1])
        while self._waiting and len(self.underway) < 2:
            self._launch(*self._waiting.pop(0))

    def _launch(self, name: ClientId, arrival: Arrival) -> None:
        channel = self.channels.get(name)
        if channel is None:
            return
        rows = channel.buffer(arrival.slot)

        def compute() -> None:
            took = int.from_bytes(rows[:_ROW], "little")
            rows[_OUT_AT : _OUT_AT + _ROW] = ((took + 7) % (1 << 64)).to_bytes(_ROW, "little")

        stream, done = Stream(1 + name % 2), self.cuda.create_event()
        answers: list[Callable[[], None]] = [partial(channel.computed, arrival.slot)]
        if self.world.rules.early:
            answers.append(partial(self._answer, name, arrival))
        with self.cuda.on(stream):
            self.cuda.launch(compute, channel.arena.pointer)
            for call in answers if self.world.rules.computed_first else reversed(answers):
                call()
            self.cuda.record(done, stream)
        self.underway.append((name, arrival, done))

    def _answer(self, name: ClientId, arrival: Arrival) -> None:
        if (channel := self.channels.get(name)) is not None:
            channel.answer(arrival.slot, arrival.generation)

    def _closed(self, channel: CudaServerChannel) -> None:
        self.graves.bury(self.world.rules.grave(channel.arena, self.clients[channel.client]))


class Timer:
    """What `call_later` returns."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """Everybody, and a seed that says who moves next."""

    def __init__(self, seed: int, rules: type[Rules] = Rules, *, clients: int = 2, trips: int = 4) -> None:
        self.random = Random(seed)
        self.rules = rules
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
        process.doomed = self.random.randrange(1, 40)

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
                if not c.dead and c.answers < c.trips
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
                yield lambda process=process: process.cuda.step(self.random)  # type: ignore[misc]
        for client in self.clients:
            if client.dead and not client.ended:
                yield lambda client=client: self._end(client)  # type: ignore[misc]
            if (client.dead or client.finished) and not client.reported:
                yield lambda client=client: setattr(client, "reported", True)  # type: ignore[misc]
        if self.daemon.dead:
            yield self._end_daemon
        elif hosts and self.timers and self.daemon.movable:
            yield self._fire

    def _end(self, client: Client) -> None:
        client.cuda.die(self.random)
        client.ended = True

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
