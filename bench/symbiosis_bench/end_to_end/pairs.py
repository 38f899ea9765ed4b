"""What every comparison of clients with plain PEFT needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import msgspec

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Order
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.turns import said, turns
from symbiosis_bench.end_to_end.verification import Check

__all__ = ["in_words", "reports", "same_adapters", "take_turns"]

A = TypeVar("A", bound=msgspec.Struct)


class Taken(NamedTuple, Generic[A]):
    """The answer of every round, by the crew's kind, and the order of every round, in words."""

    answers: dict[Kind, list[A]]
    order: str


def same_adapters(site: Site, plain: Crew, *others: Crew) -> list[Check]:
    """Checks that every member of every crew has the adapter of its like in the plain one."""
    return [
        site.verifier.adapters(f"client {client} of {crew.kind}", ours.adapter, theirs.adapter)
        for crew in others
        for client, (ours, theirs) in enumerate(zip(crew.ready, plain.ready, strict=True))
    ]


def take_turns(
    site: Site,
    crews: Sequence[Crew],
    what: str,
    kind: type[A],
    order: Order,
    *,
    rounds: int,
    look: Callable[[Crew], object] | None = None,
) -> Taken[A]:
    """Has crews of one take turns.

    `look` is called twice in every round of a crew that asks the daemon: after its first step or token, and at its
    end.
    """
    for crew in crews:
        site.progress.say(f"{what}: {crew.kind} warms up")
        crew.perform(kind, order)
    answers: dict[Kind, list[A]] = {crew.kind: [] for crew in crews}
    orders = turns(crews, rounds, site.settings.seed, what)
    for number, crews_in_turn in enumerate(orders, 1):
        for crew in crews_in_turn:
            site.progress.say(f"{what}: round {number} of {rounds}, {crew.kind}")
            watched = partial(look, crew) if look is not None and crew.kind.asks else None
            answers[crew.kind] += crew.perform(kind, order, all_began=watched, first_done=watched)
    return Taken(answers, said([[crew.kind for crew in each] for each in orders]))


def reports(*crews: Crew) -> dict[str, str]:
    """Returns what the contenders said about themselves, every member of them, and what their daemons say."""
    notes = {str(crew.kind): _report(crew) for crew in crews if crew.ready}
    for crew in crews:
        if crew.kind.asks and crew.daemon is not None:
            status = crew.daemon.status()
            notes[f"daemon of {crew.kind}"] = (
                f"{status.threads} threads, {status.threads_policy}; {status.policy}; {status.version}"
            )
    return notes


def _report(crew: Crew) -> str:
    ready = crew.ready[0]
    told = f"{in_words([each.torch_threads for each in crew.ready])} threads at first"
    told += f", attention {ready.attention}, {ready.dtype}"
    return told + (f"; {ready.cut}" if ready.cut else "")


def in_words(members: Sequence[int]) -> str:
    """Returns what all members have in common, or what each has."""
    return str(members[0]) if len(set(members)) == 1 else ", ".join(map(str, members))
