"""What there is to gain where a request waits for others who are on their way to the same.

Two comparisons say whether it is worth it (`convoys` has the reasons):

- *A round*, from one answer to the next, while everybody goes alone, and together. Alone it takes the batches of
  all who are active, one after the other; where a client's thinking and its own batch take longer than these,
  there is time for each by itself, and nothing to gain. Together it takes the thinking of the slowest, as far as
  one of so many usually is, and the joint batch.
- *The wait*, against as many shorter rounds as company lasts.

It is part of a decision, and looked at for every new lead: what is cheap and may say no comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.costs import Costs, Curve
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Traveller, Travellers

__all__ = ["LOOKED_AT", "Meeting", "Prospect", "Scene", "best_meeting", "joint_meeting", "prospect"]

_CLIENT: Final = attrgetter("client")
_ROWS: Final = attrgetter("rows")
LOOKED_AT: Final = 16
"""Of the others so many are looked at, those who asked last: it bounds what a decision costs."""
_NEARLY: Final = 0.8
"""A meeting with one more is preferred if it is nearly as good, or who is left behind would wait in vain."""
_SLOW: Final = 2.0
"""Who thinks for so many times the lead's round, or whose batch takes so much longer or shorter, keeps no pace."""


class Scene(msgspec.Struct, frozen=True, gc=False):
    """Where a lead waits."""

    lead: Request
    lanes: tuple[str, ...]
    """Of its level: whoever is in another is planned by himself, and never joins."""
    here: frozenset[ClientId]
    """Who waits for the same, the lead's client included."""
    now_us: int


class Meeting(msgspec.Struct, frozen=True, gc=False):
    """What a lead may be held for."""

    joining: frozenset[ClientId]
    wait_us: float
    """Until the last of them is due."""
    worth_us: float
    """What the joint batch takes less than theirs one after the other."""
    trips: float
    """For how many trips the wait is: where somebody is met anew, as many as company lasts."""
    patience_us: float
    """For how long the lead is held at most, from when its hold began."""
    foretold: bool = True
    """Whether it is expected to pay; else all go together, to see whether it does."""


class Prospect(NamedTuple):
    """Who is on the way to a lead, where there is something to gain."""

    scene: Scene
    traveller: Traveller
    """The lead's client."""
    curve: Curve
    coming: list[_Coming]
    """The soonest first."""
    active: int
    """How many clients want the daemon."""
    round_us: float
    """Their batches, one after the other: what there is without a meeting."""
    alone_us: float
    """What the lead's client thinks, and its batch takes: what there is where nobody else wants the daemon."""


_Coming = tuple[float, ClientId, Traveller]
"""Somebody on the way to where the lead is: when he is due, and who he is."""


def prospect(scene: Scene, costs: Costs, travellers: Travellers) -> Prospect | None:
    """Returns who could be waited for; None: nobody."""
    lead = scene.lead
    traveller = travellers.all[lead.client]
    if traveller.thought_us is None:
        return None
    active = travellers.active(scene.lanes, LOOKED_AT, scene.now_us)
    if scene.here.issuperset(map(_CLIENT, active)):
        return None  # nobody is away
    curve = costs.curve(lead.op, lead.direction, kept=bool(lead.memo))
    coming = _coming(scene, active, traveller, curve)
    if not coming:
        return None
    round_us = curve.apart_us(map(_ROWS, active))
    alone_us = traveller.thinking.usual + (curve.expected_us(lead.rows) or 0.0)
    return Prospect(scene, traveller, curve, coming, len(active), round_us, alone_us)


def _coming(scene: Scene, active: Sequence[Traveller], traveller: Traveller, curve: Curve) -> list[_Coming]:
    """Returns who of those that are elsewhere is on the way to where the lead is, the soonest first.

    Nobody, where it was never measured what a batch takes there.
    """
    lead, here, now_us = scene.lead, scene.here, scene.now_us
    place, lane, company = (lead.op, lead.direction), lead.lane, traveller.company
    service_us: float | None = None
    found: list[_Coming] = []
    for other in active:
        client = other.client
        if client in here or other.distrusted:
            continue
        waits = other.answered_us < 0
        if place in other.trip_of and (trips := other.trips_to(place)) is not None:
            if waits and other.lane != lane:
                continue  # what waits in another lane may be planned only after the lead
        elif not waits and client in company:
            trips = 1  # on its first way through the model it is thought to go where its company goes
        else:
            continue
        if service_us is None and (service_us := curve.expected_us(lead.rows)) is None:
            return []
        due_us = other.due_us(now_us, service_us)
        if trips > 1:
            due_us += (trips - 1) * (service_us + max(0.0, other.thinking.usual))
        found.append((due_us, client, other))
    found.sort()
    return found


def best_meeting(
    prospect: Prospect, rows_here: int, latest_us: int, max_rows: int, lasting: float
) -> Meeting | None:
    """Returns the meeting that saves most, of those with the next to come, the next two, and so on, if any does.

    `rows_here` wait with the lead, itself included, and may until `latest_us`; a plan has at most `max_rows`.
    Company lasts for `lasting` trips.
    """
    scene, traveller, curve, coming, active, round_us, _ = prospect
    expected_us, now_us = curve.expected_us, scene.now_us
    rows, together, slowest_us = rows_here, len(scene.here), traveller.thinking.usual
    joining: list[Traveller] = []
    best_us, best = 0.0, (0, 0, 0.0, 0.0)
    for due_us, _, other in coming:
        wait_us = due_us - now_us
        if due_us > latest_us or (round_us - slowest_us) * lasting - wait_us <= _NEARLY * best_us:
            break  # nobody is waited for so long; or whoever else comes, neither slower nor later would be better
        if rows + other.rows > max_rows:
            continue
        rows += other.rows
        joining.append(other)
        together += 1
        joint_us = expected_us(rows) or 0.0
        thinking_us = other.thinking.at(together / (together + 1))
        if thinking_us > slowest_us:
            slowest_us = thinking_us
        patience_us = (round_us - max(slowest_us + joint_us, active / together * joint_us)) * lasting
        if patience_us - wait_us > _NEARLY * best_us:
            best_us = patience_us - wait_us
            best = len(joining), rows, wait_us, patience_us
    joined, rows, wait_us, patience_us = best
    if not joined:
        return None
    apart_us = curve.apart_us([rows_here, *map(_ROWS, joining[:joined])])
    met = frozenset(map(_CLIENT, joining[:joined]))
    worth_us = apart_us - (expected_us(rows) or 0.0)
    return Meeting(met, wait_us, worth_us, 1.0 if met <= traveller.company else lasting, patience_us)


def joint_meeting(
    prospect: Prospect, rows_here: int, latest_us: int, max_rows: int, travellers: Travellers
) -> Meeting | None:
    """Returns the meeting with all who keep pace with the lead, whatever a round takes then; None: nobody does.

    In the middle of a forward it is with those who were answered with it, where one begins with all who come in
    time. The other arguments are as for `best_meeting`.
    """
    scene, traveller, curve, coming, *_ = prospect
    expected_us = curve.expected_us
    begins = scene.lead.op in travellers.starts
    own_us = expected_us(scene.lead.rows) or 0.0
    joining, rows = [], rows_here
    for due_us, client, other in coming:
        if due_us > latest_us:
            break
        batch_us = expected_us(other.rows) or 0.0
        slow = (
            other.thinking.usual > _SLOW * prospect.alone_us
            or batch_us > _SLOW * own_us
            or own_us > _SLOW * batch_us
        )
        if slow or rows + other.rows > max_rows or not (begins or client in traveller.company):
            continue
        rows += other.rows
        joining.append(other)
        last_us = due_us
    if not joining:
        return None
    apart_us = curve.apart_us([rows_here, *map(_ROWS, joining)])
    met = frozenset(map(_CLIENT, joining))
    worth_us = apart_us - (expected_us(rows) or 0.0)
    trips = 1.0 if met <= traveller.company else travellers.lasting
    return Meeting(met, last_us - scene.now_us, worth_us, trips, math.inf, foretold=False)
