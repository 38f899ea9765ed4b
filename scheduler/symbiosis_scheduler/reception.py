"""Who is let in: tokens are redeemed, weights are lent, and who has redeemed one and has no channel yet is known.

In the data plane's thread, on behalf of all listeners. What becomes of who has come in is the data plane's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import ClientId, Token
from symbiosis_scheduler.decisions.users import user_of
from symbiosis_scheduler.frozen.lending import Lent, Withheld
from symbiosis_scheduler.grants import Grants, Tenant
from symbiosis_transports.peers import is_ours
from symbiosis_transports.ports import Grant, Peer

__all__ = ["Newcomer", "Reception"]


class Newcomer(NamedTuple):
    """Who has redeemed a token, and has no channel yet."""

    tenant: Tenant
    grant: Grant
    here: bool
    """Whether it is a process of this host, as far as the transport knows."""


class Reception:
    """Open until it is closed, for good."""

    def __init__(self, grants: Grants, lanes: Iterable[str], lent: Callable[[str], Lent | Withheld]) -> None:
        """`lent` says what clients may map of the base of a name; it refuses names that are none."""
        self._grants = grants
        self._lanes = frozenset(lanes)
        self._lent = lent
        self._newcomers: dict[ClientId, Newcomer] = {}
        self._open = True

    def __repr__(self) -> str:
        return f"<Reception, {'open' if self._open else 'closed'}, {len(self._newcomers)} on their way in>"

    @property
    def lanes_promised(self) -> set[str]:
        """The lanes of those who are on their way in."""
        return {newcomer.tenant.lane for newcomer in self._newcomers.values()}

    def moved_to(self, lanes: Iterable[str]) -> None:
        """From now on there are these lanes."""
        self._lanes = frozenset(lanes)

    def close(self) -> None:
        """Lets nobody in any more."""
        self._open = False

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """See `Host.redeem`. Where the kernel says whose process it is, it is this daemon's user's or root's."""
        here = peer.uid is not None
        if here:  # at a port the kernel says nothing: keys guard it, or it is the loopback's
            _check_user(peer)
        if not self._open:
            raise RefusedError(RefusalCode.DRAINING, "the daemon is stopping", "connect to the next one")
        tenant, grant = self._grants.redeem(token, peer.pid, user_of(peer.key, here=here))
        if tenant.lane not in self._lanes:  # there was one when the place was promised
            self._grants.release(tenant.client)
            raise RefusedError(RefusalCode.UNKNOWN_LANE, f"there is no lane {tenant.lane!r} any more")
        self._newcomers[tenant.client] = Newcomer(tenant, grant, here)
        return grant

    def lend(self, peer: Peer, model: str) -> int:
        """See `Host.lend`. Only processes of this daemon's user, and root's, get the weights."""
        _check_user(peer)
        lent = self._lent(model)
        if isinstance(lent, Withheld):
            raise RefusedError(RefusalCode.NOT_LENT, lent.reason, lent.remedy)
        return lent.memory.fd

    def attached(self, client: ClientId) -> Newcomer:
        """Returns who that is, who has a channel now and is no newcomer any more."""
        self._grants.arrived(client)
        return self._newcomers.pop(client)

    def abandoned(self, client: ClientId) -> None:
        """No channel came of it: the place is free again."""
        del self._newcomers[client]
        self._grants.release(client)

    def left(self, client: ClientId) -> None:
        """Who had a channel has none any more: the place is free again."""
        self._grants.release(client)


def _check_user(peer: Peer) -> None:
    """Root is let in, as at every door: it can read this process's memory anyway."""
    if not is_ours(peer):
        raise RefusedError(RefusalCode.PERMISSION, f"user {peer.uid} may not use the daemon of user {os.getuid()}")
