"""Where the demo stands at one moment: frozen figures, computed from what the tenants and the daemon have told.

The live table shows a standing, and the summary is made of the last one. No IO here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from symbiosis_bench.demo.accounts import Account
from symbiosis_core.wire import BatchStatus, ClientStatus, DaemonStatus

__all__ = [
    "AVERAGED",
    "MemoryStanding",
    "Outcome",
    "Standing",
    "TenantStanding",
    "between",
    "one_line",
    "quantile",
    "standing",
    "trend",
]

AVERAGED: Final = 5
"""The first and the last loss are means over this many steps, or over half of all where there are fewer than ten:
one batch's loss says little, and no step shall count on both sides."""


class TenantStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant."""

    name: str
    lane: str
    method: str
    trainable_parameters: int
    steps: int
    loss_first: float | None
    loss_last: float | None
    rows_per_s: float
    tokens: int
    decode_p50_ms: float
    """Per token, as the tenant sees it; 0 where it decodes nothing."""
    decode_p99_ms: float
    request_p50_ms: float
    """Per request, from its arrival at the daemon to its answer, over the recent past; 0 where unknown."""
    request_p99_ms: float
    said: str
    """The latest prompt and answer, of one that chats."""


class MemoryStanding(msgspec.Struct, frozen=True, kw_only=True):
    """Real memory. PSS divides a page that several processes map among them, so sums count nothing twice."""

    base_bytes: int
    """The frozen base, as the daemon holds it."""
    tenants: int
    pss_daemon_bytes: int | None
    """None where the kernel does not tell."""
    pss_clients_bytes: int | None
    """All tenants together."""

    @property
    def shared_bytes(self) -> int | None:
        """What everything takes: the daemon and all tenants."""
        if self.pss_daemon_bytes is None or self.pss_clients_bytes is None:
            return None
        return self.pss_daemon_bytes + self.pss_clients_bytes

    @property
    def dedicated_bytes(self) -> int | None:
        """What it would take without a daemon: the tenants as they are, and one base more in each."""
        return None if self.pss_clients_bytes is None else self.pss_clients_bytes + self.tenants * self.base_bytes


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is shown."""

    elapsed_s: float
    """Since the start of the measured phase."""
    seconds: float
    """How long it shall last."""
    tenants: tuple[TenantStanding, ...]
    batches: BatchStatus
    """Of the measured phase."""
    memory: MemoryStanding


class Outcome(msgspec.Struct, frozen=True):
    """What is known at the end."""

    daemon: DaemonStatus
    """As it was at the end of the measured phase."""
    standing: Standing
    """At the end of the measured phase."""
    accounts: dict[str, Account]
    """By tenant, with the last words of each."""


def standing(account: Account, elapsed_s: float, seen: ClientStatus | None) -> TenantStanding:
    """Returns one tenant's figures; `seen` is what the daemon says about it."""
    first, last = trend(account.losses)
    answered = account.answered
    return TenantStanding(
        name=account.name,
        lane=account.lane,
        method=account.method,
        trainable_parameters=account.ready.trainable_parameters if account.ready else 0,
        steps=len(account.losses),
        loss_first=first,
        loss_last=last,
        rows_per_s=account.rows / elapsed_s if elapsed_s else 0.0,
        tokens=account.tokens,
        decode_p50_ms=quantile(account.decode_ms, 0.5),
        decode_p99_ms=quantile(account.decode_ms, 0.99),
        request_p50_ms=seen.p50_us / 1e3 if seen else 0.0,
        request_p99_ms=seen.p99_us / 1e3 if seen else 0.0,
        said=one_line(f"{answered.prompt} {answered.answer}") if answered else "",
    )


def one_line(text: str) -> str:
    """Returns what a model said without its line breaks."""
    return " ".join(text.split())


def trend(losses: Sequence[float]) -> tuple[float | None, float | None]:
    """Returns the mean of the first and of the last losses, see `AVERAGED`; None where there is none."""
    if not losses:
        return None, None
    averaged = max(1, min(AVERAGED, len(losses) // 2))
    return math.fsum(losses[:averaged]) / averaged, math.fsum(losses[-averaged:]) / averaged


def quantile(values: Sequence[float], q: float) -> float:
    """Returns the smallest value that a share `q` of the values does not exceed; 0 where there is none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def between(before: BatchStatus, after: BatchStatus) -> BatchStatus:
    """Returns the batches that were computed between two looks at the daemon."""
    return BatchStatus(
        count=after.count - before.count,
        requests=after.requests - before.requests,
        rows=after.rows - before.rows,
        clients=after.clients - before.clients,
        busy_s=after.busy_s - before.busy_s,
    )
