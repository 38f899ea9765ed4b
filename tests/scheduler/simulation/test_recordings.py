"""One recording at a time: how it is begun, fetched and ended."""

from __future__ import annotations

from typing import Any

import pytest

from symbiosis_core.errors import BusyError, RefusedError
from symbiosis_core.ids import ClientId
from symbiosis_core.wire import Reply, Request, TakeTrace
from symbiosis_scheduler.decisions.events import Arrived
from symbiosis_scheduler.simulation.fetching import fetch_trace
from symbiosis_scheduler.simulation.recordings import Recordings
from symbiosis_scheduler.simulation.trace import Kind, records
from tests.scheduler.desk import Desk, arrival


class Daemon:
    """The control plane's part: it carries what is asked to the recordings."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.recordings = Recordings(self.desk.state)

    def ask(self, request: Request) -> Reply:
        assert isinstance(request, TakeTrace)
        return self.recordings.take(request, "m", self.desk.now_us)


def looks(count: int) -> Any:
    """Returns a `wait` that says so many times that it is not enough."""
    left = iter(range(count))
    return lambda _: next(left, None) is None


def tell(daemon: Daemon, client: int) -> None:
    """A request arrives, and is noted as the data plane does it."""
    event = Arrived(ClientId(client), [arrival(slot=client, op=1)], daemon.desk.now_us)
    instructions = daemon.desk.tell(event)
    if daemon.recordings.under_way:
        daemon.recordings.note(event, instructions, daemon.desk.now_us)


def test_what_is_told_while_a_recording_is_under_way_is_in_it_and_nothing_else() -> None:
    daemon, pieces = Daemon(), list[bytes]()
    for client in (1, 2, 3):
        daemon.desk.join(client)
    tell(daemon, 1)

    def wait(_: float) -> bool:
        tell(daemon, 2)
        return True

    assert fetch_trace(daemon, pieces.append, wait) == 0
    tell(daemon, 3)
    kinds = [record[0] for record in records(b"".join(pieces))]
    assert kinds == [Kind.HEADER, Kind.JOIN, Kind.JOIN, Kind.JOIN, Kind.OP, Kind.ASK]
    assert not daemon.recordings.under_way


def test_one_records_at_a_time_and_who_is_forgotten_makes_room() -> None:
    daemon = Daemon()
    daemon.ask(TakeTrace(0))
    with pytest.raises(BusyError, match="recording already") as busy:
        fetch_trace(daemon, list[bytes]().append, looks(0))
    daemon.desk.now_us += int(busy.value.retry_after_s * 1e6) + 1
    assert fetch_trace(daemon, list[bytes]().append, looks(0)) == 0
    with pytest.raises(RefusedError, match="has ended"):
        daemon.ask(TakeTrace(1))
