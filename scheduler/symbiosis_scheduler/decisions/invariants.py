"""What holds of queues, plans in flight and open requests after every event: for tests to assert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from symbiosis_scheduler.decisions.present import PresentClient
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.tracks import Tracks

__all__ = ["check_rows"]


def check_rows(queues: Queues, tracks: Tracks, clients: Iterable[PresentClient]) -> None:
    """Asserts that every row of every open request is computed, in flight or queued, exactly once."""
    queues.check()
    flying: Counter[Request] = Counter()
    for track in tracks:
        assert track.inherited <= track.in_flight.keys()
        assert len(track.in_flight) <= max(track.most, len(track.inherited))
    for plan in tracks.plans():
        for part in plan.parts:
            flying[part.request] += part.rows
    queued = {request for lane in queues.lanes for request in lane.waiting}
    for client in clients:
        for slot, entry in client.open.items():
            request = entry.request
            assert (request.client, request.slot, request.lane) == (client.id, slot, client.lane)
            waiting = request.rows - queues.taken(request) if request in queued else 0
            assert entry.rows_left == waiting + flying[request]
            assert not (waiting and entry.refusal)
            assert entry.rows_left, "an open request that nobody will ever finish"
            queued.discard(request)
    assert not queued, "queued for a client that is gone"
