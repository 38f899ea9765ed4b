"""The places in the daemon: who asked for one, who has taken it, and when an unused promise lapses.

The control plane issues, the data plane redeems, in two threads; this table is all that they share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from symbiosis_core.clock import monotonic_us
from symbiosis_core.config import LaneConfig, LimitsConfig
from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_core.ids import FIRST_BASE, BaseId, ClientId, Token, new_token
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
    user: str
    """Whose process it is (`users`)."""
    base: BaseId = FIRST_BASE


class Grants:
    """Tokens that were issued, and the tenants who redeemed theirs."""

    def __init__(self, limits: LimitsConfig, lanes: Mapping[str, LaneConfig] | None = None) -> None:
        self._limits = limits
        self._lanes = dict(lanes or {})
        self._lock = threading.Lock()
        self._issued: dict[Token, Tenant] = {}
        self._tenants: dict[ClientId, Tenant] = {}
        self._coming: set[ClientId] = set()
        """Those of the tenants who have no channel yet."""
        self._last = 0

    def adopt(self, limits: LimitsConfig, lanes: Mapping[str, LaneConfig]) -> None:
        """From now on these limits hold, for who comes."""
        with self._lock:
            self._limits, self._lanes = limits, dict(lanes)

    def issue(
        self,
        name: str,
        lane: str,
        pid: int,
        transport: str,
        reasons: tuple[str, ...] = (),
        *,
        user: str,
        base: BaseId = FIRST_BASE,
        check: Callable[[int], None] = lambda _: None,
    ) -> tuple[ClientId, Token]:
        """Promises a place for `VALID_S` seconds, to that user and nobody else.

        `check` is told how many have a promise and no channel, and raises BusyError where the system has nothing
        for one more.

        Raises:
            BusyError: every place is taken or promised: all of them, the lane's, or the user's in it.
        """
        now_us = monotonic_us()
        with self._lock:
            self._lapse(now_us)
            self._check_room(lane, user, check)
            self._last += 1
            client, token = ClientId(self._last), new_token()
            self._issued[token] = Tenant(client, name, lane, pid, transport, reasons, now_us, user, base)
            return client, token

    def give_back(self, token: Token, user: str) -> None:
        """Takes back what was promised to that user. Used, lapsed, or another's: nothing happens."""
        with self._lock:
            promised = self._issued.get(token)
            if promised is not None and promised.user == user:
                del self._issued[token]

    def redeem(self, token: Token, pid: int, user: str) -> tuple[Tenant, Grant]:
        """Turns a promise into a place, once. `pid` is what the kernel says, and counts more than what was said.

        Raises:
            RefusedError: the token was never issued, is used, has lapsed, or is another user's, who still has it.
        """
        with self._lock:
            self._lapse(monotonic_us())
            promised = self._issued.get(token)
            if promised is None:
                raise RefusedError(
                    RefusalCode.BAD_TOKEN, "the token is unknown, used or lapsed", "connect again from the start"
                )
            if promised.user != user:
                raise RefusedError(
                    RefusalCode.PERMISSION,
                    f"the token was not given to the user {user!r}",
                    "connect from the start with the key, or at the socket, that is to be used",
                )
            del self._issued[token]
            tenant = promised._replace(pid=pid or promised.pid)
            self._tenants[tenant.client] = tenant
            self._coming.add(tenant.client)
            return tenant, Grant(tenant.client, self._limits.slots, self._limits.slot_bytes)

    def arrived(self, client: ClientId) -> None:
        """The client has its channel: what it takes of the system, it has."""
        with self._lock:
            self._coming.discard(client)

    def release(self, client: ClientId) -> None:
        """Frees the place of a client that has left."""
        with self._lock:
            self._tenants.pop(client, None)
            self._coming.discard(client)

    def _check_room(self, lane: str, user: str, check: Callable[[int], None]) -> None:
        """Raises BusyError where no place is left for one more of that user in that lane."""
        check(len(self._issued) + len(self._coming))
        held = [*self._issued.values(), *self._tenants.values()]
        _check_places("limits.max_clients", self._limits.max_clients, len(held))
        config = self._lanes.get(lane)
        if config is not None:
            users = [tenant.user for tenant in held if tenant.lane == lane]
            _check_places(f"lanes.{lane}.max_clients", config.max_clients, len(users))
            own = users.count(user)
            _check_places(f"lanes.{lane}.max_clients_per_user", config.max_clients_per_user, own)

    def _lapse(self, now_us: int) -> None:
        valid_us = VALID_S * 1e6
        for token in [token for token, it in self._issued.items() if now_us - it.since_us > valid_us]:
            del self._issued[token]


def _check_places(key: str, most: int, held: int) -> None:
    """Refuses one more than a limit allows; 0: there is none."""
    if most and held >= most:
        raise BusyError(
            RefusalCode.QUOTA,
            f"all {most} places are taken ({key})",
            f"try again later, or raise {key}",
            retry_after_s=1.0,
        )
