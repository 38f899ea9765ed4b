"""What the scheduler is told, and what it says is to be done: data, without behaviour.

The table in `state` says which instructions follow which event.
"""

from __future__ import annotations

import msgspec

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import FIRST_BASE, BaseId, ClientId, Generation, SlotIndex
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.policy import Policy
from symbiosis_scheduler.decisions.request import Request
from symbiosis_transports.calls import Arrival

__all__ = [
    "Adopt",
    "Answer",
    "Arrived",
    "ClientJoined",
    "ClientLeft",
    "Drain",
    "Drop",
    "Event",
    "Instruction",
    "PlanDone",
    "Run",
    "Sleep",
    "Turn",
]


class ClientJoined(msgspec.Struct, frozen=True):
    """A client has a channel now; `lane` is one of the configuration's, and its calls are about `base`."""

    client: ClientId
    lane: str
    slot_bytes: int
    user: str = ""
    base: BaseId = FIRST_BASE
    here: bool = True
    """Whether it computes on the cores of this host."""
    name: str = ""
    """Its own word, for whoever records."""


class ClientLeft(msgspec.Struct, frozen=True):
    """A client has no channel any more. Told twice, or of nobody: nothing happens."""

    client: ClientId


class Arrived(msgspec.Struct, frozen=True):
    """A client published these slots. The channel vouches that every slot exists; nothing else is trusted."""

    client: ClientId
    arrivals: list[Arrival]
    now_us: int


class Turn(msgspec.Struct, frozen=True):
    """All that is known has been told: decide."""

    now_us: int


class PlanDone(msgspec.Struct, frozen=True):
    """A plan is finished. Requests in `failed` have no usable answer; all others of the plan have their rows."""

    plan: Plan
    now_us: int
    failed: dict[Request, RefusalCode] = {}
    ended_us: int | None = None
    """When it was computed, where it is known that this was before anybody looked."""


class Adopt(msgspec.Struct, frozen=True):
    """From now on another configuration holds, under this policy. Everybody's lane is in it; nothing is lost."""

    config: DaemonConfig
    policy: Policy


class Drain(msgspec.Struct, frozen=True):
    """Refuse what comes, finish what is there. `SchedulerState.idle` tells when that is."""


Event = ClientJoined | ClientLeft | Arrived | Turn | PlanDone | Adopt | Drain


class Run(msgspec.Struct, frozen=True):
    """Compute this plan and tell with `PlanDone`."""

    plan: Plan
    beside: bool = False
    """Whether it is computed beside what the first lanes ask for meanwhile."""
    company: int | None = 0
    """How many clients compute meanwhile, each on a core of this host. None where batches are exact: their bits
    depend on the number of threads, and that must not depend on others."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Give the slot back to the client."""

    client: ClientId
    slot: SlotIndex
    generation: Generation
    refusal: RefusalCode | None
    """None: the rows are there."""
    arrived_us: int


class Drop(msgspec.Struct, frozen=True):
    """Hang up: the client broke the protocol. It is already forgotten here, as if it had left."""

    client: ClientId
    reason: str


class Sleep(msgspec.Struct, frozen=True):
    """Nothing can be started before `until_us` unless an event comes. None: only an event changes that."""

    until_us: int | None


Instruction = Run | Answer | Drop | Sleep
