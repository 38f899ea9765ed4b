"""What a configuration means, in sentences, and who can delay whom by how much at most.

A bound is about the next row: how long a request of one lane may wait because of rows of another. It is given in
words that hold on every machine, and in time where costs were measured; where there is none, the words say why.
What a policy means it says itself (`bounds` for those that are installed with this).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from symbiosis_core.config import DaemonConfig

__all__ = ["Delay", "Explanation", "LongestUs", "explain"]

LongestUs = Callable[[int], float | None]
"""What the op that takes longest usually takes for so many rows; None: not measured."""


class Delay(msgspec.Struct, frozen=True):
    """By how much rows of one lane can delay the next row of another."""

    waiting: str
    behind: str
    most: str
    """In words."""
    most_us: float | None
    """None: it has no bound, or none that was measured."""


class Explanation(msgspec.Struct, frozen=True):
    """What `symbiosis policy explain` shows."""

    sentences: tuple[str, ...]
    delays: tuple[Delay, ...]


def explain(config: DaemonConfig, policy_class: Any, longest_us: LongestUs) -> Explanation:
    """Returns what the configuration means. A policy explains itself by `explain` of its class."""
    own = getattr(policy_class, "explain", None)
    said = own(config, longest_us) if own else Explanation((f"The policy {config.policy.name} decides.",), ())
    return Explanation((*said.sentences, *_common(config)), said.delays)


def _common(config: DaemonConfig) -> list[str]:
    said = []
    if config.batching.exact:
        said.append("Every request is computed whole and alone, so results are bit for bit those of a solo run.")
    for name, lane in config.lanes.items():
        for key, rate in (("client", lane.client_rows_per_s), ("user", lane.user_rows_per_s)):
            if rate:
                said.append(f"A {key} of {name} may have {rate:,} rows a second computed, in the long run.")
        if lane.max_clients:
            said.append(f"At most {lane.max_clients} clients are in {name}.")
        if lane.max_clients_per_user:
            said.append(f"At most {lane.max_clients_per_user} clients of one user are in {name}.")
    for rule in config.rules:
        what = [f"named {rule.name}"] if rule.name else []
        what += [f"of the user {rule.user}"] if rule.user else []
        what += ["that show the key"] if rule.key else []
        said.append(f"Clients {' and '.join(what) or 'that no rule before has placed'} go into {rule.lane}.")
    return said
