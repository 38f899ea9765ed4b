"""What every comparison of a plain and a split crew needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.messages import Order
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check

__all__ = ["Pair", "reports", "same_adapters", "take_turns"]

Pair = tuple[Crew, Crew]
"""Plain, split."""
A = TypeVar("A", bound=msgspec.Struct)


def same_adapters(site: Site, pair: Pair) -> list[Check]:
    """Checks that every member of one crew has the adapter of its like in the other."""
    plain, split = pair
    return [
        site.verifier.adapters(f"client {client}", ours.adapter, theirs.adapter)
        for client, (ours, theirs) in enumerate(zip(split.ready, plain.ready, strict=True))
    ]


def take_turns(
    site: Site, pair: Pair, what: str, kind: type[A], order: Order, look: Callable[[], object] | None = None
) -> dict[str, list[A]]:
    """Returns the answer of every round, by crew, of crews of one. Neither crew always comes first.

    `look` is called twice in every round of the split crew: after its first step or token, and at its end.
    """
    for crew in pair:
        site.progress.say(f"{what}: {crew.name} warms up")
        crew.perform(kind, order)
    answers: dict[str, list[A]] = {crew.name: [] for crew in pair}
    for number in range(site.scale.rounds):
        for crew in pair if number % 2 == 0 else pair[::-1]:
            site.progress.say(f"{what}: round {number + 1} of {site.scale.rounds}, {crew.name}")
            watched = look if crew is pair[1] else None
            answers[crew.name] += crew.perform(kind, order, all_began=watched, first_done=watched)
    return answers


def reports(*crews: Crew) -> dict[str, str]:
    """Returns what the contenders said about themselves."""
    return {
        crew.name: f"{ready.torch_threads} threads, attention {ready.attention}, {ready.dtype}"
        + (f"; {ready.cut}" if ready.cut else "")
        for crew in crews
        for ready in crew.ready[:1]
    }
