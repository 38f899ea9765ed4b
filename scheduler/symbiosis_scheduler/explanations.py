"""What a configuration means, in sentences, and who can delay whom by how much at most.

A bound is about the next row: how long a request of one lane may wait because of rows of another. It is given in
words that hold on every machine, and in time where costs were measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from symbiosis_core.config import DaemonConfig, LaneConfig

__all__ = ["Delay", "Explanation", "LongestUs", "explain"]

LongestUs = Callable[[int], float | None]
"""The time of the op that takes longest for so many rows; None: not measured."""


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
    """Returns what the configuration means. Another's policy explains itself by `explain` of its class."""
    own = _OURS.get(config.policy.name) or getattr(policy_class, "explain", None)
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


def _chunk(config: DaemonConfig, lane: LaneConfig) -> int:
    return config.batching.max_rows if config.batching.exact else min(lane.chunk_rows, config.batching.max_rows)


def _by_priority(config: DaemonConfig) -> list[tuple[str, LaneConfig]]:
    return sorted(config.lanes.items(), key=lambda each: each[1].priority)


def _latency_first(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    lanes = _by_priority(config)
    order = ", then ".join(name for name, _ in lanes)
    said = [f"Lanes go strictly in this order: {order}. Clients of equal priority take turns."]
    first, *lower = sorted({lane.priority for _, lane in lanes})
    second = lower[0] if lower else first
    if lower and _beside(config):
        said.append(
            "On a CPU all others are computed beside the first while it is at work, and share its cores with less "
            "weight. After a tenth of a second without it they have all cores, and it waits once."
        )
    for name, lane in lanes:
        if lane.priority > first:
            aged = (
                f"after {_time(lane.max_wait_us)} it goes before every lane"
                if lane.max_wait_us
                else "it may starve"
            )
            if not _beside(config):
                said.append(f"A request of {name} waits for all lanes before it; {aged}.")
            elif lane.priority > second:
                said.append(f"A request of {name} waits for all lanes before it but the first; {aged}.")
        if lane.max_hold_us and not config.batching.exact:
            said.append(f"A request of {name} may be held {_time(lane.max_hold_us)} for others, where it pays.")
    delays = []
    for name, lane in lanes:
        for other, behind in lanes:
            delays.append(_strict(config, name, lane, other, behind, longest_us))
    return Explanation(tuple(said), tuple(delays))


def _beside(config: DaemonConfig) -> bool:
    return config.compute.beside and not config.batching.exact


def _strict(
    config: DaemonConfig, name: str, lane: LaneConfig, other: str, behind: LaneConfig, longest_us: LongestUs
) -> Delay:
    rows = _chunk(config, behind)
    chunk_us = longest_us(rows)
    first = min(each.priority for each in config.lanes.values())
    if _beside(config) and (lane.priority == first) is not (behind.priority == first):
        if lane.priority == first:
            return Delay(name, other, f"one batch of {rows} rows after a pause, then none", chunk_us)
        return Delay(name, other, "no batch: on a CPU they share the cores", None)
    if behind.priority > lane.priority:
        return Delay(name, other, f"one batch of {rows} rows", chunk_us)
    if behind.priority == lane.priority:
        return Delay(name, other, f"one batch of {rows} rows for each other client", chunk_us)
    if lane.max_wait_us:
        most_us = None if chunk_us is None else lane.max_wait_us + chunk_us
        return Delay(name, other, f"{_time(lane.max_wait_us)} and a batch, while it is busy", most_us)
    return Delay(name, other, "as long as it is busy", None)


def _weighted_fair(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    whole = sum(lane.weight for lane in config.lanes.values())
    said = ["Busy lanes share the daemon's time by weight, and clients of a lane share it equally."]
    delays = []
    for name, lane in config.lanes.items():
        said.append(f"{name} gets {lane.weight / whole:.0%} when all lanes are busy.")
        for other, behind in config.lanes.items():
            rows = _chunk(config, behind)
            share = (
                "for each other client"
                if other == name
                else f"for every {lane.weight / behind.weight:.2g} of its own"
            )
            delays.append(Delay(name, other, f"a batch of {rows} rows {share}", longest_us(rows)))
    return Explanation(tuple(said), tuple(delays))


def _deadline(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    said = ["Whoever is due first goes first."]
    for name, lane in config.lanes.items():
        if lane.first_token_us or lane.token_us:
            first, later = lane.first_token_us or lane.token_us, lane.token_us or lane.first_token_us
            prompt = "" if first == later else f" with a prompt, else {_time(later)}"
            said.append(f"A forward of {name} is due {_time(first)} after it began{prompt}.")
        elif lane.max_wait_us:
            said.append(f"A request of {name} is due {_time(lane.max_wait_us)} after it came.")
        else:
            said.append(f"A request of {name} is due when nobody else has anything to do.")
    delays = [
        Delay(name, other, f"a batch of {_chunk(config, behind)} rows, and all that is due before", None)
        for name in config.lanes
        for other, behind in config.lanes.items()
        if name != other
    ]
    return Explanation(tuple(said), tuple(delays))


def _fifo(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    said = ("What came first is computed first, whoever asked. Lanes mean nothing.",)
    return Explanation(said, (Delay("anybody", "anybody", "all that came before", None),))


def _lockstep(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    said = ["Nothing is computed before all clients that are at work have asked."]
    delays = []
    for name, lane in config.lanes.items():
        most = f"{_time(lane.max_hold_us)}, and a batch" if lane.max_hold_us else "nobody is waited for"
        delays.append(Delay(name, "the slowest", most, None))
    return Explanation(tuple(said), tuple(delays))


def _time(us: int) -> str:
    return f"{us / 1e6:g} s" if us >= 1_000_000 else f"{us / 1e3:g} ms"


_OURS: dict[str, Callable[[DaemonConfig, LongestUs], Explanation]] = {
    "latency_first": _latency_first,
    "weighted_fair": _weighted_fair,
    "deadline": _deadline,
    "fifo": _fifo,
    "lockstep": _lockstep,
}
