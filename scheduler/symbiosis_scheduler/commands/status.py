"""`symbiosis status`: what a daemon is doing."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from symbiosis_core.wire import DaemonStatus, ModelStatus, Status, StatusReply
from symbiosis_scheduler.commands.console import plain_table, verbatim, wide_console
from symbiosis_transports.address import default_address

__all__ = ["client_table", "fetch_status", "held", "lane_table", "learned_lines", "named", "status"]

_CLIENT_FIGURES: Final = ("requests", "rows", "queued", "refused", "p50 ms", "p99 ms")
_LANE_FIGURES: Final = ("priority", "clients", "queued", "queued rows", "requests", "rows", "aged")


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
    way = "  by what is foretold off: it did not pay" if holds.off else ""
    if isinstance(holds.together, tuple):
        way += f"  all together: {', '.join(holds.together)}"
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
    """One line per connected client; base and transport stand there where clients have different ones."""
    several = len(found.models) > 1
    transports = len({client.transport for client in found.clients}) > 1
    other = [*(["model"] if several else []), *(["transport"] if transports else [])]
    table = plain_table("id", "name", "user", *other, "lane", "pid", *_CLIENT_FIGURES, title="clients")
    for client in found.clients:
        table.add_row(
            *(str(client.id), verbatim(client.name), verbatim(client.user)),
            *([client.model] if several else []),
            *([client.transport] if transports else []),
            *(verbatim(client.lane), str(client.pid), _count(client.requests), _count(client.rows)),
            *(str(client.queued), _count(client.refused), _ms(client.p50_us), _ms(client.p99_us)),
        )
    return table


def lane_table(found: DaemonStatus) -> Table:
    """One line per lane."""
    table = plain_table("lane", *_LANE_FIGURES, title="lanes")
    for lane in found.lanes:
        table.add_row(
            *(verbatim(lane.name), str(lane.priority), str(lane.clients)),
            *(_count(lane.queued_requests), _count(lane.queued_rows)),
            *(_count(lane.requests), _count(lane.rows), _count(lane.aged)),
        )
    return table


def _count(count: int) -> str:
    """Returns a number in six signs at most, up to 10^12; `--json` has all of it."""
    if count < 1_000_000:
        return str(count)
    return f"{count / 1e6:.1f}M" if count < 999_950_000 else f"{count / 1e9:.1f}G"


def _ms(us: float) -> str:
    return f"{us / 1e3:.2f}" if us < 999_995 else f"{us / 1e3:.0f}"
