"""The clients of a mixed load: told what to do, and heard."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from symbiosis_bench.end_to_end.ground import Ground
from symbiosis_bench.end_to_end.messages import Ready, Shape
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.mixed.foretelling import recording
from symbiosis_bench.mixed.load import dealt, merged
from symbiosis_bench.mixed.messages import Message, Order, Rest, Serve, Served, Trained, TrainOn
from symbiosis_bench.processes import Child, Children
from symbiosis_core.wire import BatchStatus

__all__ = ["SERVES", "TRAINING", "TRAINS", "Clients", "serving_names", "training_names"]

TRAINING: Final = 2
"""Clients that train."""
SERVES: Final = "inference"
TRAINS: Final = "training"
"""The lanes that clients ask for."""
SERVES_AS: Final = "serving"
_WAIT_S: Final = 900.0
_LOOK_S: Final = 0.5
A = TypeVar("A", bound=msgspec.Struct)
T = TypeVar("T")


def serving_names(serving: int) -> list[str]:
    """Returns what so many clients that serve are called."""
    return [SERVES_AS, *(f"{SERVES_AS}-{number}" for number in range(2, serving + 1))]


def training_names() -> list[str]:
    """Returns what those that train are called."""
    return [f"{TRAINS}-{number}" for number in range(1, TRAINING + 1)]


class Clients:
    """The clients of a run: some that answer prompts, and two that train."""

    def __init__(
        self,
        ground: Ground[Message],
        children: Children[Message],
        environment: dict[str, str],
        serving: int,
        traces: Path | None,
        *,
        captured: bool = False,
    ) -> None:
        """`traces`: where the daemon is recorded, if it is. `captured`: decode steps of those that serve are."""
        self._ground = ground
        self._traces = traces
        self._children = children
        daemon = ground.main()

        def start(name: str, lane: str, client: int) -> Child:
            given = {
                "folder": daemon.folder,
                "client": client,
                "address": daemon.address,
                "lane": lane,
                "name": name,
            }
            options = [f"--{key}={value}" for key, value in given.items()]
            if captured and lane == SERVES:
                options.append("--capture")
            command = [sys.executable, "-P", "-m", "symbiosis_bench.mixed.worker", "split", *options]
            return children.start(name, command, environment)

        first, *others = serving_names(serving)
        self._training = [start(name, TRAINS, client) for client, name in enumerate(training_names(), 1)]
        self._serving = [start(first, SERVES, 0)]
        self._serving += [start(name, SERVES, client) for client, name in enumerate(others, TRAINING + 1)]
        self._hear(Ready, [*self._serving, *self._training])

    def serve(self, arrivals_s: Sequence[float], tokens: int, *, clients: int) -> Served:
        """Returns when the last prompt is answered, by so many clients in turn."""
        start_s, servers = time.perf_counter(), self._serving[:clients]
        for child, own_s in zip(servers, dealt(arrivals_s, clients), strict=True):
            _order(child, Serve(start_s, own_s, tokens))
        return merged(self._hear(Served, servers))

    def train(self, shape: Shape, meanwhile: Callable[[], Any]) -> tuple[Any, list[Trained]]:
        """Lets both train while `meanwhile` runs, and returns what it returned and their stamps."""
        for child in self._training:
            _order(child, TrainOn(shape))
        result = meanwhile()
        for child in self._training:
            _order(child, Rest())
        return result, self._hear(Trained, self._training)

    def recorded(self, name: str, meanwhile: Callable[[], T]) -> tuple[T, Path | None]:
        """Returns what `meanwhile` returned and the daemon's trace of it, if traces are wanted."""
        if self._traces is None:
            return meanwhile(), None
        out = self._traces / f"{name}.trace"
        with recording(self._ground.main().address, out):
            return meanwhile(), out

    def batches(self) -> BatchStatus:
        """What the daemon has counted so far."""
        return self._ground.main().status().batches

    def _hear(self, kind: type[A], children: Sequence[Child]) -> list[A]:
        names, told = [child.name for child in children], dict[str, A]()
        deadline = time.monotonic() + _WAIT_S
        while len(told) < len(names):
            heard = self._children.hear(_LOOK_S)
            if heard is None:
                self._children.check()
                if time.monotonic() > deadline:
                    raise BenchFailedError("somebody has not answered in time; the machine may be too busy")
                continue
            name, message = heard
            if not isinstance(message, kind) or name not in names:
                raise BenchFailedError(f"{name} said {type(message).__name__} out of turn")
            told[name] = message
        return [told[name] for name in names]


def _order(child: Child, order: Order) -> None:
    child.write(msgspec.json.encode(order) + b"\n")
