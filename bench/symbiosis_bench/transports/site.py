"""The processes of a run: one server for each contender, and clients that connect to all of them.

All are started once. Who is not asked sleeps, so contenders can take turns within one run.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.processes import Child, Children
from symbiosis_bench.transports.messages import (
    Look,
    Looked,
    Measure,
    Measured,
    Message,
    Ready,
    Spin,
    Tally,
    Tell,
    Trip,
)
from symbiosis_bench.transports.placement import cores_of, put
from symbiosis_bench.transports.rows import Round
from symbiosis_bench.transports.settings import Cell, Settings
from symbiosis_bench.transports.yardsticks import INPROC, MEMORY_FLOOR, RAW_ZMQ, RAW_ZMQ_SHM, WAKE_FLOORS
from symbiosis_core.config import ComputeConfig
from symbiosis_transports.registry import transport
from symbiosis_transports.waiting import spin_budget_us

__all__ = ["Site"]

_MODULE: Final = "symbiosis_bench.transports"
_READY_S: Final = 60.0
_LOOK_S: Final = 0.5
_SLACK_S: Final = 120.0
A = TypeVar("A", Ready, Looked, Measured, Tally)


class Site:
    """Made once a run. `children` ends what it has started."""

    def __init__(self, settings: Settings, children: Children[Message], folder: Path) -> None:
        self._settings = settings
        self._children = children
        self._folder = folder
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._cores = sorted(os.sched_getaffinity(0))
        self._slot_bytes = max(settings.sizes)
        self._endpoints: dict[str, str] = {MEMORY_FLOOR: ""}
        self._servers: dict[str, Child] = {}
        self._clients: list[Child] = []

    def __repr__(self) -> str:
        return f"<Site servers={list(self._servers)} clients={len(self._clients)}>"

    def open(self, contenders: Sequence[str]) -> None:
        """Starts all processes, and waits until they are ready."""
        most = max(self._settings.clients)
        for kind in contenders:
            if kind == MEMORY_FLOOR:
                continue
            endpoint = self._endpoints[kind] = self._endpoint(kind)
            if kind == INPROC:  # it has its server with it
                continue
            options = [f"--endpoint={endpoint}", f"--clients={most}"]
            options += ["--linear"] if "linear" in self._settings.computes else []
            self._servers[kind] = self._start(kind, "server", kind, *options)
        for number in range(most):
            self._clients.append(self._start(f"client-{number}", "client", f"--number={number}"))
        everybody = [*self._servers.values(), *self._clients]
        self._answers([child.name for child in everybody], Ready, _READY_S)

    def round(self, contender: str, cell: Cell) -> Round:
        """Has a contender measured once at a place of the grid."""
        cores, server = cores_of(cell.placement, self._cores), self._servers.get(contender)
        if server is not None:
            put(server.pid, cores.server)
        tells = server if contender not in WAKE_FLOORS else None
        if tells is not None:
            self._tell(tells, Spin(_server_spin_us(cell.spin), learns=cell.spin == "auto"))
        trip: dict[str, Any] = {
            "contender": contender,
            "endpoint": self._endpoints[contender],
            "size_bytes": cell.size_bytes,
            "compute": cell.compute,
            "spin": cell.spin,
            "cores": cores.clients,
        }
        look = Look(**trip)
        measure = Measure(**trip, calls=self._settings.scale.calls, round_s=self._settings.scale.round_s)
        clients = self._clients[: cell.clients]
        wrong = sum(looked.wrong for looked in self._ask(clients, Looked, look))
        before = self._tally(tells)
        measured = self._ask(clients, Measured, measure)
        after = self._tally(tells)
        wrong += sum(looked.wrong for looked in self._ask(clients, Looked, look))
        return Round(measured, wrong, before, after)

    def _ask(self, clients: Sequence[Child], kind: type[A], order: Trip) -> list[A]:
        """Gives all of them an order, and returns what each answers."""
        for client in clients:
            self._tell(client, order)
        return self._answers([client.name for client in clients], kind, _SLACK_S)

    def _endpoint(self, kind: str) -> str:
        if kind in (RAW_ZMQ, RAW_ZMQ_SHM):
            return f"ipc://{self._folder}/{kind}"
        if kind in WAKE_FLOORS:
            return str(self._folder / kind)
        local = "ipc" in transport(kind).capability().schemes
        return transport(kind).endpoint(f"ipc://{self._folder}/{kind}" if local else _free_address())

    def _start(self, name: str, module: str, *options: str) -> Child:
        command = [sys.executable, "-P", "-m", f"{_MODULE}.{module}", *options, f"--slot-bytes={self._slot_bytes}"]
        return self._children.start(name, command, self._environment)

    def _tally(self, server: Child | None) -> Tally | None:
        if server is None:
            return None
        self._tell(server, Tell())
        return self._answers([server.name], Tally, _SLACK_S)[0]

    def _tell(self, child: Child, order: msgspec.Struct) -> None:
        child.write(msgspec.json.encode(order) + b"\n")

    def _answers(self, names: Sequence[str], kind: type[A], within_s: float) -> list[A]:
        """Returns what each of them says, in the order of their names."""
        said: dict[str, A] = {}
        deadline = time.monotonic() + within_s
        while len(said) < len(names):
            heard = self._children.hear(_LOOK_S)
            if heard is None:
                self._children.check()
                if time.monotonic() > deadline:
                    late = ", ".join(name for name in names if name not in said)
                    raise BenchFailedError(f"{late} has not answered in time; the machine may be too busy")
                continue
            name, message = heard
            if name not in names or not isinstance(message, kind):
                raise BenchFailedError(f"{name} said {type(message).__name__} while {kind.__name__} was awaited")
            said[name] = message
        return [said[name] for name in names]


def _free_address() -> str:
    """Returns one of the loopback whose next port, which carries the rows, is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1] - 1}"


def _server_spin_us(spin: str) -> int:
    if spin == "auto":
        return spin_budget_us(ComputeConfig().spin_us)
    return 0 if spin == "off" else int(spin)
