"""Rows a second, per client and per user of a lane: who may begin a forward now, and who when.

Each quota is a bucket that fills at its rate up to two seconds' worth. Rows are taken from it as they come, also
those it does not hold: it is asked where a forward begins, so what was begun is not broken off, and what was taken
too much is waited for before the next. So that nobody escapes by never beginning one, it is asked as well about a
client's first request, whatever that is, and again whenever its forward has taken another minute's worth.

Connecting anew pays no debt. A user's bucket is kept until it is full again; so is that of a client that left, for
the next client of its user in its lane: nothing but the user is known of who comes, and that one owes it. At a
port without keys not even that is known, and no stranger owes what another left.

Pure: `now` is an argument. "Now" for who comes or leaves is when somebody asked for something last.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

import msgspec

from symbiosis_core.config import LaneConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.users import ANYBODY

__all__ = ["FORWARD_S", "Quotas", "Reached"]

_SAVED_S: Final = 2
"""Seconds' worth that can be saved up."""
FORWARD_S: Final = 60
"""Seconds' worth that a forward may take before it is judged again. Only what a client took itself counts, so
those who share a user's quota and begin together do not break each other off. A quota under which an honest
forward takes more is too small for it."""

_Whose = tuple[str, str]
"""A lane, and a user in it."""


class Reached(msgspec.Struct, frozen=True):
    """A quota that is used up."""

    key: str
    """Of the lane: `client_rows_per_s` or `user_rows_per_s`."""
    rows_per_s: int
    retry_us: int
    """From when on a forward may begin, counted from now."""


class _Bucket:
    __slots__ = ("_at_us", "key", "rate", "rows")

    def __init__(self, key: str, rate: int) -> None:
        self.key = key
        self.rate = rate
        self.rows = float(_SAVED_S * rate)
        self._at_us: int | None = None

    def fill(self, now_us: int) -> None:
        if self._at_us is not None:
            self.rows = min(self.rows + (now_us - self._at_us) * self.rate / 1e6, _SAVED_S * self.rate)
        self._at_us = now_us

    @property
    def full_us(self) -> float:
        """When it is full again."""
        return (self._at_us or 0) + (_SAVED_S * self.rate - self.rows) * 1e6 / self.rate


class _Account:
    """What one client is counted against, and what it has taken since it was judged."""

    __slots__ = ("buckets", "most", "own", "taken", "whose")

    def __init__(self, whose: _Whose, own: _Bucket | None, shared: _Bucket | None) -> None:
        """One of the two is there."""
        self.whose = whose
        self.own = own
        self.buckets = tuple(bucket for bucket in (own, shared) if bucket is not None)
        self.most = FORWARD_S * min(bucket.rate for bucket in self.buckets)
        """Rows that it may take without being judged again."""
        self.taken: float = inf
        """Rows since it was judged last; its first request is, whatever it is."""


class Quotas:
    """The buckets of everybody who has a quota, and of who left and has not paid."""

    def __init__(self, lanes: Mapping[str, LaneConfig]) -> None:
        self._lanes = dict(lanes)
        self._accounts: dict[ClientId, _Account] = {}
        self._users: dict[_Whose, _Bucket] = {}
        self._left: dict[_Whose, list[_Bucket]] = {}
        """Of clients that are gone. Who comes takes one over, so there are never more than there have been clients
        at the same time."""
        self._now_us = 0

    def __repr__(self) -> str:
        left = sum(len(buckets) for buckets in self._left.values())
        return f"<Quotas of {len(self._accounts)} clients and {len(self._users)} users, {left} left>"

    def join(self, client: ClientId, lane: str, user: str) -> None:
        """From now on the client has what its lane gives it, less what a client of its user left owing."""
        self._forget_paid()
        self._open(client, (lane, user), self._inherited((lane, user)))

    def leave(self, client: ClientId) -> None:
        """The client is gone."""
        account = self._accounts.pop(client, None)
        if account is not None and account.own is not None and account.whose[1] != ANYBODY:
            self._left.setdefault(account.whose, []).append(account.own)
        self._forget_paid()

    def reached(self, client: ClientId, now_us: int) -> Reached | None:
        """Returns the quota that keeps the client from beginning a forward for longest; None: it may."""
        self._now_us = now_us
        account = self._accounts.get(client)
        longest: Reached | None = None
        for bucket in account.buckets if account is not None else ():
            bucket.fill(now_us)
            if bucket.rows <= 0:
                retry_us = 1 + int(-bucket.rows * 1e6 / bucket.rate)
                if longest is None or retry_us > longest.retry_us:
                    longest = Reached(bucket.key, bucket.rate, retry_us)
        return longest

    def charge(self, client: ClientId, rows: int, now_us: int, *, begins: bool) -> bool:
        """Takes rows from all that the client is counted against; False: a quota is used up, and nothing is taken.

        `begins`: with these rows the client begins a forward.
        """
        self._now_us = now_us
        account = self._accounts.get(client)
        if account is None:
            return True
        if begins or account.taken >= account.most:
            if self.reached(client, now_us) is not None:
                return False
            account.taken = 0
        account.taken += rows
        for bucket in account.buckets:
            bucket.fill(now_us)
            bucket.rows -= rows
        return True

    def moved_to(self, lanes: Mapping[str, LaneConfig], members: Mapping[ClientId, _Whose]) -> Quotas:
        """Returns the quotas of other lanes for these clients, each with its lane and user.

        What is counted stays wherever the limit does; a new limit begins with nothing owed.
        """
        fresh = Quotas(lanes)
        fresh._now_us = self._now_us
        fresh._users = {whose: each for whose, each in self._users.items() if fresh._has(whose, each)}
        for whose, left in self._left.items():
            fresh._left[whose] = [each for each in left if fresh._has(whose, each)]
        for client, whose in members.items():
            before = self._accounts.get(client)
            own = before.own if before is not None else None
            fresh._open(client, whose, own if own is not None and fresh._has(whose, own) else None)
            if before is not None and client in fresh._accounts:
                fresh._accounts[client].taken = before.taken
        return fresh

    def _has(self, whose: _Whose, bucket: _Bucket) -> bool:
        """Whether that lane has the limit that the bucket is for."""
        lane = self._lanes.get(whose[0])
        return lane is not None and getattr(lane, bucket.key) == bucket.rate

    def _open(self, client: ClientId, whose: _Whose, own: _Bucket | None) -> None:
        """Counts a client from now on; its own bucket may be one that there is already."""
        lane = self._lanes[whose[0]]
        if own is None and lane.client_rows_per_s:
            own = _Bucket("client_rows_per_s", lane.client_rows_per_s)
        shared = None
        if lane.user_rows_per_s:
            shared = self._users.setdefault(whose, _Bucket("user_rows_per_s", lane.user_rows_per_s))
        if own is not None or shared is not None:
            self._accounts[client] = _Account(whose, own, shared)

    def _inherited(self, whose: _Whose) -> _Bucket | None:
        """Takes the bucket that will be full last of those that clients of that user left in that lane."""
        left = self._left.get(whose)
        if not left:
            return None
        heaviest = max(left, key=lambda bucket: bucket.full_us)
        left.remove(heaviest)
        return heaviest

    def _forget_paid(self) -> None:
        """Forgets what is full by now of those who are not here."""
        here = {account.whose for account in self._accounts.values()}
        owed = {
            whose: [each for each in left if each.full_us > self._now_us] for whose, left in self._left.items()
        }
        self._left = {whose: left for whose, left in owed.items() if left}
        self._users = {
            whose: bucket
            for whose, bucket in self._users.items()
            if whose in here or bucket.full_us > self._now_us
        }
