"""How a standing looks: a table with two lines below it, or one plain line a tenant."""

from __future__ import annotations

from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from symbiosis_bench.demo.standing import MemoryStanding, Standing, TenantStanding
from symbiosis_core.wire import BatchStatus

__all__ = ["LEGEND", "batches_line", "lines", "memory_line", "picture", "tenant_table"]

LEGEND: Final = "ms: from a request to its answer, in the daemon; for the chat, from one token to the next"


def picture(standing: Standing) -> Group:
    """Returns the live view."""
    left_s = standing.seconds - standing.elapsed_s
    left = f"{left_s:.0f} s to go" if left_s > 0 else "waiting until each has done something"
    heading = Text(f"one base, {len(standing.tenants)} tenants, {left}", style="bold")
    said = [
        Text(f"{tenant.name}: {tenant.said}", overflow="ellipsis", no_wrap=True, style="dim")
        for tenant in standing.tenants
        if tenant.said
    ]
    return Group(
        heading,
        "",
        tenant_table(standing),
        "",
        Text(LEGEND, style="dim"),
        Text(batches_line(standing.batches, standing.elapsed_s)),
        Text(memory_line(standing.memory)),
        *said,
    )


def tenant_table(standing: Standing) -> Table:
    """One line per tenant; 80 columns are enough."""
    table = Table(box=None, header_style="bold underline", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("tenant", "lane"):
        table.add_column(heading, no_wrap=True)
    table.add_column("method")
    for heading in ("params", "steps", "loss", "rows/s", "ms p50/p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tenant in standing.tenants:
        table.add_row(
            tenant.name,
            tenant.lane,
            tenant.method,
            _parameters(tenant.trainable_parameters),
            f"{tenant.tokens} tok" if tenant.tokens else str(tenant.steps),
            _loss(tenant),
            f"{tenant.rows_per_s:.1f}",
            _quantiles(tenant),
        )
    return table


def lines(standing: Standing) -> list[str]:
    """Returns the same as plain lines, for logs."""
    tenants = (f"  {tenant.name}: {_line(tenant)}" for tenant in standing.tenants)
    return [
        f"{standing.elapsed_s:.0f} of {standing.seconds:.0f} s",
        *tenants,
        f"  {batches_line(standing.batches, standing.elapsed_s)}",
        f"  {memory_line(standing.memory)}",
    ]


def batches_line(batches: BatchStatus, elapsed_s: float) -> str:
    """Returns what the daemon made of the requests."""
    if not batches.count or not elapsed_s:
        return "batches: none yet"
    rows, tenants = batches.rows / batches.count, batches.clients / batches.count
    return (
        f"batches: {batches.count:,} ({batches.count / elapsed_s:.0f}/s) with {rows:.1f} rows of {tenants:.2f} "
        f"tenants each; computing {batches.busy_s / elapsed_s:.0%} of the time"
    )


def memory_line(memory: MemoryStanding) -> str:
    """Returns what sharing saves."""
    held = f"memory: base {_mb(memory.base_bytes)}, held once"
    shared, dedicated = memory.shared_bytes, memory.dedicated_bytes
    if shared is None or dedicated is None or memory.pss_daemon_bytes is None or memory.pss_clients_bytes is None:
        return f"{held} and not {memory.tenants} times (this kernel does not tell what processes really take)"
    return (
        f"{held}; in all {_mb(shared)} (daemon {_mb(memory.pss_daemon_bytes)}, tenants "
        f"{_mb(memory.pss_clients_bytes)}); a base in each tenant: {_mb(dedicated)}"
    )


def _line(tenant: TenantStanding) -> str:
    done = f"{tenant.tokens} tokens" if tenant.tokens else f"{tenant.steps} steps"
    loss = f"loss {_loss(tenant)}" if tenant.steps else ""
    unit = "a token" if tenant.decode_p50_ms else "a request"
    latency = f"{_quantiles(tenant)} ms {unit}" if _quantiles(tenant) else ""
    return ", ".join(filter(None, (done, loss, f"{tenant.rows_per_s:.1f} rows/s", latency)))


def _parameters(count: int) -> str:
    if not count:
        return ""
    return f"{count / 1e6:.1f} M" if count >= 1_000_000 else f"{count / 1e3:.0f} k"


def _loss(tenant: TenantStanding) -> str:
    if tenant.loss_first is None or tenant.loss_last is None:
        return ""
    return f"{tenant.loss_first:.2f}→{tenant.loss_last:.2f}"


def _quantiles(tenant: TenantStanding) -> str:
    """Returns the latencies of tokens, of a tenant that makes some; of requests otherwise."""
    if tenant.decode_p50_ms:
        return f"{tenant.decode_p50_ms:.0f}/{tenant.decode_p99_ms:.0f}"
    return f"{tenant.request_p50_ms:.1f}/{tenant.request_p99_ms:.1f}" if tenant.request_p50_ms else ""


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
