"""The places in the daemon: who asked for one, who has taken it, and when an unused promise lapses.

The control plane issues, the data plane redeems, in two threads; this table is all that they share.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from symbiosis_core.clock import monotonic_us
from symbiosis_core.config import LimitsConfig
from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_core.ids import ClientId, Token, new_token
from symbiosis_transports.ports import Grant

__all__ = ["Grants", "Tenant"]

VALID_S = 30.0
"""How long a token waits to be used. Long enough for a client that swaps, short enough not to hold a place."""


class Tenant(NamedTuple):
    """Who holds a place."""

    client: ClientId
    name: str
    lane: str
    pid: int
    transport: str
    reasons: tuple[str, ...]
    """Why this transport, and why not the others."""
    since_us: int


class Grants:
    """Tokens that were issued, and the tenants who redeemed theirs."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._issued: dict[Token, Tenant] = {}
        self._tenants: dict[ClientId, Tenant] = {}
        self._last = 0

    def issue(
        self, name: str, lane: str, pid: int, transport: str, reasons: tuple[str, ...] = ()
    ) -> tuple[ClientId, Token]:
        """Promises a place for `VALID_S` seconds.

        Raises:
            BusyError: every place is taken or promised.
        """
        now_us = monotonic_us()
        with self._lock:
            self._lapse(now_us)
            if len(self._issued) + len(self._tenants) >= self._limits.max_clients:
                raise BusyError(
                    RefusalCode.QUOTA,
                    f"all {self._limits.max_clients} places are taken",
                    "try again later, or raise limits.max_clients",
                    retry_after_s=1.0,
                )
            self._last += 1
            client, token = ClientId(self._last), new_token()
            self._issued[token] = Tenant(client, name, lane, pid, transport, reasons, now_us)
            return client, token

    def redeem(self, token: Token, pid: int) -> tuple[Tenant, Grant]:
        """Turns a promise into a place, once. `pid` is what the kernel says, and counts more than what was said.

        Raises:
            RefusedError: the token was never issued, is used, or has lapsed.
        """
        with self._lock:
            self._lapse(monotonic_us())
            promised = self._issued.pop(token, None)
            if promised is None:
                raise RefusedError(
                    RefusalCode.BAD_TOKEN, "the token is unknown, used or lapsed", "connect again from the start"
                )
            tenant = promised._replace(pid=pid or promised.pid)
            self._tenants[tenant.client] = tenant
            return tenant, Grant(tenant.client, self._limits.slots, self._limits.slot_bytes)

    def release(self, client: ClientId) -> None:
        """Frees the place of a client that has left."""
        with self._lock:
            self._tenants.pop(client, None)

    def _lapse(self, now_us: int) -> None:
        valid_us = VALID_S * 1e6
        for token in [token for token, it in self._issued.items() if now_us - it.since_us > valid_us]:
            del self._issued[token]
