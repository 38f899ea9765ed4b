"""Who can delay whom by how much at most, policy by policy: what their classes explain themselves with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from symbiosis_core.config import DaemonConfig, LaneConfig
from symbiosis_scheduler.decisions.explanations import Delay, Explanation, LongestUs

__all__ = ["of_deadlines", "of_first_come", "of_rounds", "of_strict_lanes", "of_weights"]

_Lane = tuple[str, LaneConfig]
_HOW_FAR: Final = (
    "Bounds are for a CPU; a GPU is given a plan before the last is done, and there it is one batch more. "
    "Times are what such batches usually take."
)


def of_strict_lanes(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    """`latency_first`."""
    lanes = sorted(config.lanes.items(), key=lambda each: each[1].priority)
    order = ", then ".join(name for name, _ in lanes)
    said = [f"Lanes go strictly in this order: {order}. Clients of equal priority take turns."]
    first, *lower = sorted({lane.priority for _, lane in lanes})
    second = lower[0] if lower else first
    if lower and _beside(config):
        said.append(
            "On a CPU all others are computed beside the first while it is at work, and share its cores with less "
            "weight. After a tenth of a second without it they have all cores, and it waits once. On a GPU "
            "nothing is computed beside anything: see --gpu."
        )
    for name, lane in lanes:
        if lane.priority > first:
            aged = (
                f"after {_time(lane.max_wait_us)} its clients go before every lane, in turn"
                if lane.max_wait_us
                else "it may starve"
            )
            if not _beside(config):
                said.append(f"A request of {name} waits for all lanes before it; {aged}.")
            elif lane.priority > second:
                said.append(f"A request of {name} waits for all lanes before it but the first; {aged}.")
    said += [*_held(config, "no lower lane goes meanwhile"), _HOW_FAR]
    delays = [_strict(config, waiting, behind, longest_us) for waiting in lanes for behind in lanes]
    return Explanation(tuple(said), (*delays, *_holds(config)))


def _strict(config: DaemonConfig, waiting: _Lane, behind: _Lane, longest_us: LongestUs) -> Delay:
    (name, lane), (other, after) = waiting, behind
    rows = _batch_rows(config, after)
    first = min(each.priority for each in config.lanes.values())
    if _beside(config) and (lane.priority == first) is not (after.priority == first):
        if lane.priority == first:
            return Delay(name, other, f"one batch of {rows} rows after a pause, then none", longest_us(rows))
        return Delay(name, other, "no batch: on a CPU they share the cores", None)
    if after.priority > lane.priority:
        return Delay(name, other, f"one batch of {rows} rows", longest_us(rows))
    if after.priority == lane.priority:
        return _turns(config, waiting, behind, longest_us)
    if lane.max_wait_us:
        aged = f"{_time(lane.max_wait_us)}, and then by all that has waited longer or was delayed for it"
        return Delay(name, other, f"no bound in time: {aged}", None)
    return Delay(name, other, "no bound: as long as it is busy", None)


def of_weights(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    """`weighted_fair`."""
    whole = sum(lane.weight for lane in config.lanes.values())
    said = ["Busy lanes share the daemon's time by weight, and clients of a lane share it equally."]
    said += [
        f"{name} gets {lane.weight / whole:.0%} when all lanes are busy." for name, lane in config.lanes.items()
    ]
    said.append("Bounds are for who has got no more than its share; who has got more waits until it has not.")
    said += [*_held(config, "no other lane goes meanwhile"), _HOW_FAR]
    delays = []
    for name, lane in config.lanes.items():
        for other, behind in config.lanes.items():
            if name == other:
                delays.append(_turns(config, (name, lane), (other, behind), longest_us))
            else:
                rows = _batch_rows(config, behind)
                delays.append(Delay(name, other, f"one batch of {rows} rows", longest_us(rows)))
    return Explanation(tuple(said), (*delays, *_holds(config)))


def of_deadlines(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    """`deadline`."""
    said = ["Whoever is due first goes first. Where not all can be in time, all are late by about the same."]
    for name, lane in config.lanes.items():
        if lane.first_token_us or lane.token_us:
            first, later = lane.first_token_us or lane.token_us, lane.token_us or lane.first_token_us
            prompt = "" if first == later else f" with a prompt, else {_time(later)}"
            said.append(f"A forward of {name} is due {_time(first)} after it began{prompt}.")
        elif lane.max_wait_us:
            after = "after it came, or after rows of that client were led last"
            said.append(f"A client's next request of {name} is due {_time(lane.max_wait_us)} {after}.")
        else:
            said.append(f"A request of {name} is due when nobody else has anything to do.")
    if any(lane.first_token_us or lane.token_us for lane in config.lanes.values()):
        said.append(
            "A forward that has had half of its target's time of the daemon for itself has had its share, and is "
            "due a target from then on."
        )
    said += [*_held(config, "no other lane goes meanwhile"), _HOW_FAR]
    delays = [
        _due(config, (name, lane), (other, behind), longest_us)
        for name, lane in config.lanes.items()
        for other, behind in config.lanes.items()
    ]
    return Explanation(tuple(said), (*delays, *_holds(config)))


def _due(config: DaemonConfig, waiting: _Lane, behind: _Lane, longest_us: LongestUs) -> Delay:
    (name, lane), (other, after) = waiting, behind
    latest_us = max(lane.first_token_us, lane.token_us) or lane.max_wait_us
    soonest_us = min([us for us in (after.first_token_us, after.token_us) if us], default=after.max_wait_us)
    rows = _batch_rows(config, after)
    if latest_us and not soonest_us:
        return Delay(name, other, f"one batch of {rows} rows", longest_us(rows))
    if soonest_us and not latest_us:
        return Delay(name, other, "no bound: as long as it is busy", None)
    if latest_us > soonest_us:
        due = f"what comes up to {_time(latest_us - soonest_us)} later is due before it"
        return Delay(name, other, f"no bound in time: {due}", None)
    return Delay(name, other, f"no bound in time: one batch of {rows} rows, and what was due before", None)


def of_first_come(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    """`fifo`."""
    said = ("What came first is computed first, whoever asked. Lanes mean nothing.",)
    requests = f"up to {config.limits.slots} requests of each other client, of any number of rows"
    return Explanation(
        said, (Delay("anybody", "anybody", f"no bound in time: all that came before, {requests}", None),)
    )


def of_rounds(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
    """`lockstep`."""
    longest = max([hold_us for _, hold_us in _holding(config)], default=0)
    said = [
        "Nothing is computed before all clients that are at work have asked, or the oldest request has waited its "
        "lane's max_hold_us."
        if longest
        else "Whatever has come is computed: nobody is waited for."
    ]
    slowest = Delay(
        "anybody", "the slowest", _time(longest) if longest else "nobody is waited for", float(longest)
    )
    others = "no bound in time: who is in the middle of a forward goes before who begins one"
    return Explanation(tuple(said), (slowest, Delay("anybody", "anybody", others, None)))


def _turns(config: DaemonConfig, waiting: _Lane, behind: _Lane, longest_us: LongestUs) -> Delay:
    """Clients of equal standing: one batch for each other that there may be."""
    (name, _), (other, lane) = waiting, behind
    rows = _batch_rows(config, lane)
    most = min(config.limits.max_clients - 1, lane.max_clients - (name == other) if lane.max_clients else 1 << 30)
    if most <= 0:
        return Delay(name, other, "nothing: nobody else may be there", 0.0)
    batch_us = longest_us(rows)
    words = f"one batch of {rows} rows for each other client, of which {most} may be there"
    return Delay(name, other, words, None if batch_us is None else most * batch_us)


def _held(config: DaemonConfig, meanwhile: str) -> Iterator[str]:
    for name, hold_us in _holding(config):
        yield f"A request of {name} may be held {_time(hold_us)} for others, where it pays; {meanwhile}."


def _holds(config: DaemonConfig) -> Iterator[Delay]:
    for name, hold_us in _holding(config):
        yield Delay(name, "who is expected", f"{_time(hold_us)}, where it pays", float(hold_us))


def _holding(config: DaemonConfig) -> Iterator[tuple[str, int]]:
    for name, lane in config.lanes.items():
        if lane.max_hold_us and not config.batching.exact:
            yield name, lane.max_hold_us


def _batch_rows(config: DaemonConfig, lane: LaneConfig) -> int:
    """Rows of a lane in one batch, at most. An exact one is a whole request, however large."""
    return config.limits.max_rows if config.batching.exact else min(lane.chunk_rows, config.batching.max_rows)


def _beside(config: DaemonConfig) -> bool:
    return config.compute.beside and not config.batching.exact


def _time(us: int) -> str:
    return f"{us / 1e6:g} s" if us >= 1_000_000 else f"{us / 1e3:g} ms"
