"""What came of a run in virtual time: per lane and over all, to be laid side by side."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

import msgspec

from symbiosis_scheduler.simulation.players import Player
from symbiosis_scheduler.simulation.world import World

__all__ = ["LaneFigures", "RunFigures", "figures", "lane_figures", "quantile"]


class Told(Protocol):
    """What is known of a client, in virtual time or from a trace."""

    rows: int
    refused: int
    first_us: int
    last_us: int
    latencies_us: array[float]
    forwards_us: array[float]


class LaneFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One lane of one run."""

    lane: str
    clients: int
    requests: int
    p50_us: float
    """Of requests, from arrival to answer."""
    p99_us: float
    mean_us: float
    forward_p50_us: float
    """Of forwards, from their first request to their last answer; 0: none were whole."""
    forward_p99_us: float
    rows_per_s: float
    """Of all clients together, from the first request of any to the last answer: a training lane's progress."""
    fairness: float
    """Jain's index of the clients' rates, each over its own time: 1 where all are equal, 1/n where one has all."""
    refused: int


class RunFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    name: str
    policy: str
    seconds: float
    """Of virtual time."""
    requests: int
    occupancy: float
    """Clients in a batch, in the mean."""
    busy: float
    """Share of the devices' time that was spent computing."""
    guessed: float | None
    """Share of batches like which none was recorded: of that lane, so computed, of about as many rows. What they
    take is another's time. None: all were."""
    holds: int | None
    """None: a trace does not tell."""
    held_saved_s: float | None
    """By holding, as counted when each hold was over."""
    lanes: tuple[LaneFigures, ...]


def figures(world: World, name: str, policy: str) -> RunFigures:
    """Returns the figures of a world that was run."""
    batches = [device.state.statistics().batches for device in world.devices]
    holds = [device.state.statistics().holds for device in world.devices]
    lanes: dict[str, list[Player]] = {}
    for player in world.players:
        lanes.setdefault(player.lane, []).append(player)
    count = sum(each.count for each in batches)
    device_us = max(1, world.now_us) * len(world.devices)
    return RunFigures(
        name=name,
        policy=policy,
        seconds=world.now_us / 1e6,
        requests=world.requests,
        occupancy=sum(each.clients for each in batches) / max(1, count),
        busy=sum(each.busy_s for each in batches) * 1e6 / device_us,
        guessed=world.guessed / max(1, count),
        holds=sum(each.count for each in holds),
        held_saved_s=sum(each.actual_us for each in holds) / 1e6,
        lanes=tuple(lane_figures(lane, players) for lane, players in sorted(lanes.items())),
    )


def lane_figures(lane: str, players: Sequence[Told]) -> LaneFigures:
    """Returns the figures of those who are in a lane."""
    latencies = sorted(us for player in players for us in player.latencies_us)
    forwards = sorted(us for player in players for us in player.forwards_us)
    served = [player for player in players if player.rows]
    rates = [player.rows * 1e6 / max(1, player.last_us - player.first_us) for player in served]
    squares = sum(rate * rate for rate in rates)
    return LaneFigures(
        lane=lane,
        clients=len(players),
        requests=len(latencies),
        p50_us=quantile(latencies, 0.5),
        p99_us=quantile(latencies, 0.99),
        mean_us=sum(latencies) / max(1, len(latencies)),
        forward_p50_us=quantile(forwards, 0.5),
        forward_p99_us=quantile(forwards, 0.99),
        rows_per_s=sum(player.rows for player in served) * 1e6 / _lasted_us(served),
        fairness=sum(rates) ** 2 / (len(rates) * squares) if squares else 1.0,
        refused=sum(player.refused for player in players),
    )


def _lasted_us(served: Sequence[Told]) -> int:
    """Returns the time in which they were served: those who came one after the other were not served at once."""
    began_us = min((player.first_us for player in served), default=0)
    return max(1, max((player.last_us for player in served), default=0) - began_us)


def quantile(ordered: Sequence[float], q: float) -> float:
    """Returns the value that a share `q` of an ordered sequence does not exceed; 0 for an empty one."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0
