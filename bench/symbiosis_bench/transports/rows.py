"""From what processes told to one row per series. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

import msgspec

from symbiosis_bench.transports.messages import Measured, Tally
from symbiosis_bench.transports.settings import Cell
from symbiosis_bench.transports.yardsticks import MEMORY_FLOOR

__all__ = ["Round", "Row", "row", "with_overheads"]

_US: Final = 1000.0


class Round(NamedTuple):
    """One round of a series: what every client told, and the server before and after. No server: None."""

    clients: Sequence[Measured]
    wrong: int
    """Answers that were wrong when all of their bytes were looked at."""
    before: Tally | None
    after: Tally | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One series. Times are medians over its rounds, of all clients' calls in a round."""

    transport: str
    size_bytes: int
    clients: int
    compute: str
    spin: str
    placement: str
    p50_us: float
    p90_us: float
    p99_us: float
    least_us: float
    rounds_p50_us: tuple[float, ...]
    calls: int
    """Measured, in all rounds."""
    requests_per_s: float
    gb_per_s: float
    """Payload in and out."""
    compute_us: float | None
    """Mean time of the work itself, a batch; None: the contender has no server that tells."""
    overhead_us: float | None = None
    """p50 less that of the same copies and the same work in one process: what the trip costs."""
    server_cpu_us: float | None
    """Of the server's process per request, the work included."""
    mean_batch: float | None
    doorbells: float | None
    """Per request, both ways together; the next two on the client's side."""
    sleeps: float
    spin_hits: float
    copies: float | None
    """Of the whole payload per request inside the transport, both ends, as they counted."""
    same_memory: bool | None
    """Whether the client's rows and the server's are the same pages, as the kernel says."""
    verified: bool


def row(contender: str, cell: Cell, rounds: Sequence[Round], *, counts: bool) -> Row:
    """Returns the row of a series of at least one round. `counts`: the contender keeps counters."""
    quantiles = [_quantiles(one) for one in rounds]
    calls = sum(len(client.laps_ns) for one in rounds for client in one.clients)
    tallies = [(one.before, one.after) for one in rounds if one.before is not None and one.after is not None]
    requests = sum(after.requests - before.requests for before, after in tallies)
    batches = sum(after.batches - before.batches for before, after in tallies)
    told = bool(requests and batches)
    clients = [client for one in rounds for client in one.clients]
    rung = sum(client.doorbells for client in clients) / calls
    answered = sum(after.doorbells - before.doorbells for before, after in tallies) / requests if told else 0.0
    return Row(
        transport=contender,
        size_bytes=cell.size_bytes,
        clients=cell.clients,
        compute=cell.compute,
        spin=cell.spin,
        placement=cell.placement,
        p50_us=median(one[0] for one in quantiles),
        p90_us=median(one[1] for one in quantiles),
        p99_us=median(one[2] for one in quantiles),
        least_us=min(lap for client in clients for lap in client.laps_ns) / _US,
        rounds_p50_us=tuple(one[0] for one in quantiles),
        calls=calls,
        requests_per_s=(rate := median(_rate(one) for one in rounds)),
        gb_per_s=2 * cell.size_bytes * rate / 1e9,
        compute_us=_per(tallies, "busy_ns", batches) if told else None,
        server_cpu_us=_per(tallies, "cpu_ns", requests) if told else None,
        mean_batch=requests / batches if told else None,
        doorbells=rung + answered if counts else None,
        sleeps=sum(client.sleeps for client in clients) / calls,
        spin_hits=sum(client.spin_hits for client in clients) / calls,
        copies=_copies(clients, calls, tallies, requests) / cell.size_bytes if counts and told else None,
        same_memory=_same_memory(rounds) if counts else None,
        verified=not any(client.wrong for client in clients) and not any(one.wrong for one in rounds),
    )


def with_overheads(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with what stands above the memory floor of the same work, where that was measured."""
    floors = {_work(one): one.p50_us for one in rows if one.transport == MEMORY_FLOOR}
    return [
        msgspec.structs.replace(one, overhead_us=one.p50_us - floors[_work(one)]) if _work(one) in floors else one
        for one in rows
    ]


def _work(one: Row) -> tuple[int, str, str]:
    """What the memory floor depends on."""
    return one.size_bytes, one.compute, one.placement


def _quantiles(one: Round) -> tuple[float, float, float]:
    laps = sorted(lap for client in one.clients for lap in client.laps_ns)
    p50, p90, p99 = (laps[min(len(laps) - 1, int(len(laps) * share))] / _US for share in (0.5, 0.9, 0.99))
    return p50, p90, p99


def _rate(one: Round) -> float:
    calls = sum(len(client.laps_ns) for client in one.clients)
    return calls / (max(client.end_s for client in one.clients) - min(client.begin_s for client in one.clients))


def _per(tallies: Sequence[tuple[Tally, Tally]], field: str, count: int) -> float:
    total: int = sum(getattr(after, field) - getattr(before, field) for before, after in tallies)
    return total / count / _US


def _copies(
    clients: Sequence[Measured], calls: int, tallies: Sequence[tuple[Tally, Tally]], requests: int
) -> float:
    """Bytes per request."""
    theirs = sum(after.copied_bytes - before.copied_bytes for before, after in tallies) / requests
    return sum(client.copied_bytes for client in clients) / calls + theirs


def _same_memory(rounds: Sequence[Round]) -> bool:
    places = [(client.place, one.after) for one in rounds for client in one.clients]
    return all(after is not None and place in after.places for place, after in places)
