"""A daemon and its clients as a virtual world moves them: host code in steps, to be killed at any switch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from symbiosis_core.errors import DaemonGoneError
from symbiosis_core.ids import ClientId, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_transports.cuda.seam import EventNumber, Stream
from symbiosis_transports.cuda_ipc.arena import DeviceArena
from symbiosis_transports.cuda_ipc.client import CudaClientChannel
from symbiosis_transports.cuda_ipc.events import OwnEvents
from symbiosis_transports.cuda_ipc.graves import Grave, Graves
from symbiosis_transports.cuda_ipc.handles import LEFT
from symbiosis_transports.cuda_ipc.process import ClientProcess
from symbiosis_transports.cuda_ipc.server import CudaServerChannel
from symbiosis_transports.ports import Arrival, Call
from tests.transports.cuda_words import SLOTS, SwitchingCuda, Words

if TYPE_CHECKING:
    from tests.transports.cuda_world import World

__all__ = ["BoundGrave", "Client", "Daemon", "Killed", "Process", "Rules"]

_ROW: Final = 8
_OUT_AT: Final = 64
_SLOT_BYTES: Final = 128
_CALL: Final = Call(OpId(0), Direction.FORWARD, 1, 0, _OUT_AT)


class Killed(BaseException):
    """Ends the host code of a process at a switch."""


class BoundProcess(ClientProcess):
    """A client of this world, which the system does not know."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ended(self) -> bool:
        return self._client.ended

    def close(self) -> None:
        pass


class BoundGrave(Grave):
    """A grave whose client is in this world."""

    def __init__(self, arena: DeviceArena, client: Client) -> None:
        super().__init__(arena, client.words.buffers[0][LEFT], BoundProcess(client))


class Rules(NamedTuple):
    """What a world is made of. One that is replaced breaks exactly one rule of order."""

    client_channel: type[CudaClientChannel] = CudaClientChannel
    own_events: type[OwnEvents] = OwnEvents
    server_channel: type[CudaServerChannel] = CudaServerChannel
    grave: type[BoundGrave] = BoundGrave
    early: bool = False
    """Whether the daemon answers as soon as the work is queued, and not once it is done."""
    computed_first: bool = True
    """Whether it records before it answers."""


class Process:
    """Host code that moves when the world says so, and can be killed at any switch."""

    life: int
    """Switches that it usually sees, about."""

    def __init__(self, world: World, cuda: SwitchingCuda) -> None:
        self.cuda = cuda
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
    """Makes its trips, each with a number of its own, on one stream or the other, and looks at every answer.

    One that comes `after` another is the same process with its next channel: on the same streams, with the events
    that the last channel gave back.
    """

    life = 40

    def __init__(self, world: World, index: int, daemon: Daemon, trips: int, after: Client | None = None) -> None:
        super().__init__(
            world, after.cuda if after else SwitchingCuda(world.board, f"client{index}", world.switch)
        )
        self.words = Words(world.switch, ClientId(index))
        self._next: Client | None = None
        self._comes_again = world.comes_again and after is None
        self._ended = False
        self.reported = False
        """Whether the daemon has read the end of its socket."""
        self.trips = trips
        self.leaves = bool(world.random.randrange(2))
        """Whether it leaves with its last calls unanswered."""
        self.answers = 0
        self.wrong: list[str] = []
        self._flying: list[tuple[SlotIndex, int]] = []
        self._begun = 0
        arena = daemon.arenas[index] = DeviceArena(daemon.cuda, SLOTS, _SLOT_BYTES)
        self._pointer = self.cuda.open_memory(daemon.cuda.memory_handle(arena.pointer))
        self._own: OwnEvents = after._own if after else world.rules.own_events(self.cuda)
        written = [self._own.take() for _ in range(SLOTS)]
        answered = [self.cuda.open_event(daemon.cuda.event_handle(event)) for event in arena.answered]
        words: Any = self.words
        self.channel = world.rules.client_channel(words, self._own, self._pointer, _SLOT_BYTES, written, answered)
        daemon.attach(self, [daemon.cuda.open_event(self.cuda.event_handle(event)) for event in written])

    @property
    def ended(self) -> bool:
        """Whether the system has done away with the process."""
        return self._next.ended if self._next is not None else self._ended

    def end(self) -> None:
        self._ended = True

    def step(self) -> None:
        landed = [flight for flight in self._flying if self._answered(flight[0])]
        try:
            if landed:
                self._receive(*landed[0])
            elif self._begun < self.trips and len(self._flying) < SLOTS and not self.words.hung_up:
                self._send()
            elif self.words.hung_up:
                self.finished = True  # the daemon is gone, and whoever asked is told
            elif self._begun == self.trips and (self.leaves or not self._flying):
                self.channel.close()
                self._leave()
        except DaemonGoneError:
            self.finished = True

    def _leave(self) -> None:
        self.finished = True
        if self._comes_again and not self.world.daemon.dead:
            self._next = Client(self.world, len(self.world.clients) + 1, self.world.daemon, self.trips, after=self)
            self._next.doomed = self.doomed
            self.world.clients.append(self._next)
        else:
            self.end()

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

            self._compute()
            self.cuda.launch(write, self._pointer)
            self.channel.publish(slot, _CALL)
        self._flying.append((slot, number))

    def _compute(self) -> None:
        """Queues what rows are made of: where channels follow each other, so much that it is late now and then."""
        for _ in range(self.world.random.choice((0, 0, 10, 30)) if self.world.comes_again else 0):
            self.cuda.launch(lambda: None)

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

    life = 120

    def __init__(self, world: World) -> None:
        super().__init__(world, SwitchingCuda(world.board, "daemon", world.switch))
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
