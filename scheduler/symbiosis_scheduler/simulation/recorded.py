"""What the daemon did while a trace was recorded, in the figures of a run in virtual time: to lay beside them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.travellers import begins_forward
from symbiosis_scheduler.simulation.report import RunFigures, lane_figures
from symbiosis_scheduler.simulation.trace import Kind

__all__ = ["Recorded"]


class _Client:
    """What the trace tells of one client."""

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.rows = self.refused = 0
        self.first_us = self.last_us = 0
        self.latencies_us = array("d")
        self.forwards_us = array("d")
        self.started_us = -1
        self.after_ids = False
        """Whether its last request that was not refused took token ids."""
        self.open: dict[int, tuple[int, int, bool]] = {}
        """When each open request arrived, by slot, its rows, and whether ids came before it."""

    def asked(self, us: int, slot: int, rows: int, *, takes_ids: bool) -> None:
        if not self.first_us:
            self.first_us = us
        if begins_forward(takes_ids, after_ids=self.after_ids):
            if self.started_us >= 0:
                self.forwards_us.append(self.last_us - self.started_us)
            self.started_us = us
        self.open[slot] = us, rows, self.after_ids
        self.after_ids = takes_ids

    def answered(self, us: int, slot: int, *, refused: bool) -> None:
        asked = self.open.pop(slot, None)
        if asked is not None and refused:
            self.refused += 1
            self.started_us = -1  # its forward is not whole
            self.after_ids &= asked[2]  # what was refused was never taken; others may have been found with it
        elif asked is not None:
            self.latencies_us.append(us - asked[0])
            self.rows += asked[1]
            self.last_us = us


class Recorded:
    """The clients of a trace and its batches."""

    def __init__(self, records: Iterable[tuple[Any, ...]]) -> None:
        self._clients: list[_Client] = []
        self._here: dict[int, _Client] = {}
        """By id, the last who joined with it."""
        self._starts: set[int] = set()
        self._batches = self._batch_clients = self._last_us = 0
        self._busy: list[tuple[int, int]] = []
        for kind, *fields in records:
            self._note(kind, fields)

    def latencies_us(self, lane: str) -> list[float]:
        """Returns those of a lane's requests, in order of size."""
        return sorted(us for client in self._clients if client.lane == lane for us in client.latencies_us)

    def figures(self) -> RunFigures:
        """Returns what the daemon did."""
        lanes: dict[str, list[_Client]] = {}
        for client in self._clients:
            if client.first_us:
                lanes.setdefault(client.lane, []).append(client)
        return RunFigures(
            name="recorded",
            policy="",
            seconds=self._last_us / 1e6,
            requests=sum(len(client.latencies_us) for client in self._clients),
            occupancy=self._batch_clients / max(1, self._batches),
            busy=_covered_us(self._busy) / max(1, self._last_us),
            guessed=None,
            holds=None,
            held_saved_s=None,
            lanes=tuple(lane_figures(lane, clients) for lane, clients in sorted(lanes.items())),
        )

    def _note(self, kind: Kind, fields: list[Any]) -> None:
        match kind:
            case Kind.OP if fields[1]:
                self._starts.add(fields[0])
            case Kind.JOIN:
                self._clients.append(_Client(fields[2]))
                self._here[fields[1]] = self._clients[-1]
            case Kind.ASK if fields[1] in self._here:
                us, client, slot, op, way, rows, _ = fields
                takes_ids = op in self._starts and way != Direction.BACKWARD
                self._here[client].asked(us, slot, rows, takes_ids=takes_ids)
            case Kind.ANSWER if fields[1] in self._here:
                us, client, slot, refused = fields
                self._here[client].answered(us, slot, refused=refused)
                self._last_us = us
            case Kind.BATCH | Kind.BESIDE:
                us, _, _, _, took_us, clients, _, _ = fields
                self._batches += 1
                self._batch_clients += clients
                self._busy.append((us - took_us, us))


def _covered_us(spans: list[tuple[int, int]]) -> int:
    """Returns how long at least one of the spans lasts."""
    covered = end = 0
    for begins, ends in sorted(spans):
        covered += max(0, ends - max(begins, end))
        end = max(end, ends)
    return covered
