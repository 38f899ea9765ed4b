"""Rows a second, per client and per user of a lane: who may begin a forward now, and who when.

Each quota is a bucket that fills at its rate up to two seconds' worth. Rows are taken from it as they come, also
those it does not hold: it is only asked where a forward begins, so what was begun is never broken off, and what
was taken too much is waited for before the next. Who leaves takes its debt along; a user's bucket is kept until it
is full again, so that connecting anew pays no debt.

Pure: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from symbiosis_core.config import LaneConfig
from symbiosis_core.ids import ClientId

__all__ = ["Quotas", "Reached"]

_SAVED_S: Final = 2
"""Seconds' worth that can be saved up."""


class Reached(msgspec.Struct, frozen=True):
    """A quota that is used up."""

    key: str
    """Of the lane: `client_rows_per_s` or `user_rows_per_s`."""
    rows_per_s: int
    retry_us: int
    """From when on a forward may begin, counted from now."""


class _Bucket:
    __slots__ = ("at_us", "clients", "key", "rate", "rows")

    def __init__(self, key: str, rate: int) -> None:
        self.key = key
        self.rate = rate
        self.rows = float(_SAVED_S * rate)
        self.at_us: int | None = None
        self.clients = 0

    def fill(self, now_us: int) -> None:
        if self.at_us is not None:
            self.rows = min(self.rows + (now_us - self.at_us) * self.rate / 1e6, _SAVED_S * self.rate)
        self.at_us = now_us

    @property
    def full(self) -> bool:
        return self.rows >= _SAVED_S * self.rate


class Quotas:
    """The buckets of everybody who has a quota."""

    def __init__(self, lanes: Mapping[str, LaneConfig]) -> None:
        self._lanes = dict(lanes)
        self._clients: dict[ClientId, list[_Bucket]] = {}
        self._users: dict[tuple[str, str], _Bucket] = {}

    def __repr__(self) -> str:
        return f"<Quotas of {len(self._clients)} clients and {len(self._users)} users>"

    def join(self, client: ClientId, lane: str, user: str) -> None:
        """From now on the client has what its lane gives it."""
        config, buckets = self._lanes[lane], []
        if config.client_rows_per_s:
            buckets.append(_Bucket("client_rows_per_s", config.client_rows_per_s))
        if config.user_rows_per_s:
            shared = self._users.setdefault((lane, user), _Bucket("user_rows_per_s", config.user_rows_per_s))
            shared.clients += 1
            buckets.append(shared)
        if buckets:
            self._clients[client] = buckets

    def leave(self, client: ClientId) -> None:
        """The client is gone."""
        for bucket in self._clients.pop(client, ()):
            bucket.clients -= 1
        self._users = {key: bucket for key, bucket in self._users.items() if bucket.clients > 0 or not bucket.full}

    def reached(self, client: ClientId, now_us: int) -> Reached | None:
        """Returns the quota that keeps the client from beginning a forward for longest; None: it may."""
        longest: Reached | None = None
        for bucket in self._clients.get(client, ()):
            bucket.fill(now_us)
            if bucket.rows <= 0:
                retry_us = 1 + int(-bucket.rows * 1e6 / bucket.rate)
                if longest is None or retry_us > longest.retry_us:
                    longest = Reached(bucket.key, bucket.rate, retry_us)
        return longest

    def charge(self, client: ClientId, rows: int, now_us: int) -> None:
        """Takes rows of the client from all that is counted against."""
        for bucket in self._clients.get(client, ()):
            bucket.fill(now_us)
            bucket.rows -= rows

    def moved_to(self, lanes: Mapping[str, LaneConfig], members: Mapping[ClientId, tuple[str, str]]) -> Quotas:
        """Returns the quotas of other lanes for these clients, each with its lane and user. Debts are forgiven."""
        fresh = Quotas(lanes)
        for client, (lane, user) in members.items():
            fresh.join(client, lane, user)
        return fresh
