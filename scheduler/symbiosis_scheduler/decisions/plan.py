"""What a policy answers: rows of which requests are computed together now, or that waiting is better."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

import msgspec

from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.request import Request

__all__ = ["Decision", "Hold", "Part", "Plan"]

_MEMO: Final = attrgetter("request.memo")
_CLIENT: Final = attrgetter("request.client")


class Part(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The rows `start` to `stop` (exclusive) of one request; never empty."""

    request: Request
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start


class Plan(msgspec.Struct, frozen=True, eq=False):
    """One batch: rows that go through one op in one direction together. Compared by identity."""

    op: OpId
    direction: Direction
    parts: tuple[Part, ...]
    """The lead first: the request for whose sake the plan was made. Never empty."""
    aged: bool = False
    """Whether ageing put the lead before a lane that goes first by priority."""

    @property
    def lead(self) -> Request:
        """The request for whose sake the plan was made."""
        return self.parts[0].request

    @property
    def rows(self) -> int:
        """Rows of the whole batch."""
        return sum([part.stop - part.start for part in self.parts])

    @property
    def kept(self) -> bool:
        """Whether something of a forward is kept for somebody's backward."""
        return any(map(_MEMO, self.parts))

    @property
    def clients(self) -> set[ClientId]:
        """Everybody who has rows in the batch."""
        return set(map(_CLIENT, self.parts))


class Hold(msgspec.Struct, frozen=True):
    """Something waits, but it is better to wait for more: decide again at `until_us` or when something comes."""

    until_us: int


Decision = Plan | Hold | None
"""None: nothing waits."""
