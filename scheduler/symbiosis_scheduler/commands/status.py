"""`symbiosis status`: what a daemon is doing."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from symbiosis_core.wire import DaemonStatus, ModelStatus, Status, StatusReply
from symbiosis_scheduler.commands.console import verbatim, wide_console
from symbiosis_transports.address import default_address

__all__ = ["client_table", "fetch_status", "held", "lane_table", "learned_lines", "named", "status"]

_TEXTS: Final = ("name", "user", "model", "lane", "transport")
"""Columns that begin at the left."""


def status(
    address: Annotated[str, typer.Option(help="The daemon's address.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show a daemon's clients, lanes, queues, batches and memory."""
    found = fetch_status(address or default_address())
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    console = wide_console()
    console.print(
        f"{named(found)} on {found.device} at {found.address}  "
        f"pid {found.pid}  up {found.uptime_s:.0f} s  policy {found.policy}  "
        f"threads: {found.threads_policy or found.threads}" + ("  draining" if found.draining else "")
    )
    batches = found.batches
    mean = batches.clients / batches.count if batches.count else 0.0
    console.print(
        f"batches {batches.count}  requests {batches.requests}  rows {batches.rows}  "
        f"clients per batch {mean:.2f}  computing {batches.busy_s:.1f} s"
    )
    memory = found.memory
    console.print(
        f"memory: base {memory.base / 1e6:.0f} MB  arenas {memory.arenas / 1e6:.0f} MB (lent, as used)  "
        f"daemon PSS {memory.pss / 1e6:.0f} MB"
    )
    for line in learned_lines(found):
        console.print(line)
    console.print(client_table(found))
    for reasons in dict.fromkeys(client.reasons for client in found.clients):
        console.print(verbatim(f"transports: {'; '.join(reasons)}"))
    console.print(lane_table(found))


def named(found: DaemonStatus) -> str:
    """Returns the daemon's models, each with its element type."""
    return ", ".join(f"{model.name} {held(model)}" for model in found.models)


def held(model: ModelStatus) -> str:
    """Returns the element type of a base, and how its linears are held if otherwise."""
    return f"{model.dtype} ({model.quantized})" if model.quantized else model.dtype


def learned_lines(found: DaemonStatus) -> list[str]:
    """Returns what holding, looking and keeping have brought, a line each."""
    holds, memo, spins = found.holds, found.memo, found.spins
    way = f"  all together: {', '.join(holds.together)}" if holds.together else ""
    if holds.off and not way:
        way = "  off: it did not pay"
    saved = f"saved {holds.actual_us / 1e3:.1f} ms of {holds.expected_us / 1e3:.1f} expected"
    foretold = f"{holds.prediction_error_us / 1e3:.2f} of {holds.pause_us / 1e3:.2f} ms"
    errors = f"those awaited {holds.due_error_us / 1e3:.2f} ms  costs {holds.cost_error:.0%}"
    kept = f"memo {memo.bytes / 1e6:.0f} of {memo.budget / 1e6:.0f} MB  hit {memo.hits}  missed {memo.misses}"
    return [
        f"holds {holds.count}  hit {holds.hits}  {saved}  arrivals foretold within {foretold}  {errors}{way}",
        f"looks before sleep {spins.looks}  hit {spins.hits}  {kept}",
    ]


def fetch_status(address: str) -> DaemonStatus:
    """Asks the daemon at `address`. Raises as `ControlClient.ask` says."""
    from symbiosis_transports.zmq_link import ControlClient

    with ControlClient(address) as link:
        reply = link.ask(Status())
    assert isinstance(reply, StatusReply)  # the conversation lets nothing else through
    return reply.status


def client_table(found: DaemonStatus) -> Table:
    """One line per connected client."""
    table = Table(title="clients", title_justify="left")
    for heading in (
        "id",
        "name",
        "user",
        "model",
        "lane",
        "pid",
        "transport",
        "requests",
        "rows",
        "queued",
        "refused",
        "p50",
        "p99",
    ):
        table.add_column(heading, justify="left" if heading in _TEXTS else "right")
    for client in found.clients:
        table.add_row(
            str(client.id),
            verbatim(client.name),
            verbatim(client.user),
            client.model,
            verbatim(client.lane),
            str(client.pid),
            client.transport,
            str(client.requests),
            str(client.rows),
            str(client.queued),
            str(client.refused),
            f"{client.p50_us / 1e3:.2f} ms",
            f"{client.p99_us / 1e3:.2f} ms",
        )
    return table


def lane_table(found: DaemonStatus) -> Table:
    """One line per lane."""
    table = Table(title="lanes", title_justify="left")
    for heading in ("lane", "priority", "clients", "queued", "queued rows", "requests", "rows", "aged"):
        table.add_column(heading, justify="left" if heading == "lane" else "right")
    for lane in found.lanes:
        table.add_row(
            verbatim(lane.name),
            str(lane.priority),
            str(lane.clients),
            str(lane.queued_requests),
            str(lane.queued_rows),
            str(lane.requests),
            str(lane.rows),
            str(lane.aged),
        )
    return table
