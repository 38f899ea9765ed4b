"""`symbiosis top`: a daemon's lanes, clients, queues, holds and memory, live."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from symbiosis_core.wire import ClientStatus, DaemonStatus, LaneStatus
from symbiosis_scheduler.commands.console import plain_table, verbatim, wide_console
from symbiosis_scheduler.commands.status import fetch_status, learned_lines, named
from symbiosis_transports.address import default_address

__all__ = ["screen", "top"]

_OTHER_LINES: Final = 11
"""Of the screen, that are neither a lane nor a client: with two for each of the longest lines."""


def top(
    address: Annotated[str, typer.Option(help="The daemon's address.", show_default=False)] = "",
    every: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between two looks.")] = 1.0,
    looks: Annotated[int, typer.Option(min=0, help="End after so many. 0: with Ctrl-C.")] = 0,
) -> None:
    """Watch a daemon: who is there, what waits, what is served, what holding brings. Ends with Ctrl-C."""
    where, console = address or default_address(), wide_console()
    before = fetch_status(where)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        look = 0
        while not looks or look < looks:
            time.sleep(every)
            now = fetch_status(where)
            most = max(1, console.height - _OTHER_LINES - len(now.lanes)) if console.is_terminal else None
            live.update(screen(before, now, most), refresh=True)
            before = now
            look += 1


def screen(before: DaemonStatus, now: DaemonStatus, most: int | None = None) -> RenderableType:
    """Returns what is shown: totals of `now`, rates since `before`; of more than `most` clients the busiest."""
    seconds = max(1e-6, now.uptime_s - before.uptime_s)
    batches = now.batches.count - before.batches.count
    occupancy = (now.batches.clients - before.batches.clients) / batches if batches else 0.0
    busy = (now.batches.busy_s - before.batches.busy_s) / seconds
    memory = now.memory
    head = (
        f"{named(now)} on {now.device}  policy {now.policy}  up {now.uptime_s:.0f} s  "
        f"busy {min(1.0, busy):.0%}  {batches / seconds:.0f} batches/s  {occupancy:.2f} clients a batch"
    )
    arenas, pss = memory.arenas / 1e6, memory.pss / 1e6
    held = f"base {memory.base / 1e6:.0f} MB  arenas {arenas:.0f} MB  daemon PSS {pss:.0f} MB"
    shown = list(now.clients)
    if most is not None and len(shown) > most:
        earlier = {client.id: client.rows for client in before.clients}
        shown.sort(key=lambda client: earlier.get(client.id, 0) - client.rows)
        shown = shown[: most - 1]
    left = len(now.clients) - len(shown)
    tables = _lanes(before, now, seconds), "", _clients(before, now, shown, seconds)
    others = f"and {left} more, who have fewer rows a second" if shown else f"{left} clients, and no line for them"
    more = [others] if left else []
    return Group(head, held, *learned_lines(now), "", *tables, *more)


def _lanes(before: DaemonStatus, now: DaemonStatus, seconds: float) -> Table:
    earlier = {lane.name: lane for lane in before.lanes}
    table = plain_table("lane", "priority", "clients", "queued", "queued rows", "requests/s", "rows/s", "aged")
    for lane in now.lanes:
        requests, rows = _rates(earlier.get(lane.name), lane, seconds)
        table.add_row(
            *(
                verbatim(lane.name),
                str(lane.priority),
                str(lane.clients),
                str(lane.queued_requests),
                str(lane.queued_rows),
            ),
            *(requests, rows, str(lane.aged)),
        )
    return table


def _clients(before: DaemonStatus, now: DaemonStatus, shown: Sequence[ClientStatus], seconds: float) -> Table:
    earlier = {client.id: client for client in before.clients}
    several = len(now.models) > 1
    models = ["model"] if several else []
    table = plain_table(
        "client", "user", *models, "lane", "queued", "req/s", "rows/s", "refused", "p50 ms", "p99 ms"
    )
    for client in shown:
        requests, rows = _rates(earlier.get(client.id), client, seconds)
        table.add_row(
            *(verbatim(client.name), verbatim(client.user)),
            *([client.model] if several else []),
            *(verbatim(client.lane), str(client.queued), requests, rows, str(client.refused)),
            *(f"{client.p50_us / 1e3:.2f}", f"{client.p99_us / 1e3:.2f}"),
        )
    return table


def _rates(
    before: LaneStatus | ClientStatus | None, now: LaneStatus | ClientStatus, seconds: float
) -> tuple[str, str]:
    requests = now.requests - (before.requests if before else 0)
    rows = now.rows - (before.rows if before else 0)
    return f"{requests / seconds:.0f}", f"{rows / seconds:,.0f}"
