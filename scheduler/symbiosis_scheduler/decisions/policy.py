"""Who is computed next. A policy looks at the queues and answers; the state carries the answer out.

`LatencyFirst` in full, for those who tune it:

1. *Lead.* Lanes go by priority. Ageing: a request that has waited its lane's `max_wait_us` goes before every
   lane, the oldest such first; `max_wait_us = 0` means that the lane does not age. Between clients of one level
   the turn decides (see `queues`), also where age does: the oldest chooses the level, the turn the client. Were
   the aged alone to lead, a flood that is always old would shut out a client that asks for little.
2. *Riders.* What waits for the lead's op and direction rides along, by priority, without padding: at most
   `batching.max_rows` rows in all, and of each lane at most its `chunk_rows` rows, one request or many.
3. *One chunk.* Rows of a lower lane may delay a waiting request of a higher lane once, not twice. After a batch
   with rows of a lower lane, no such rows are computed until everything in the higher lanes that had to wait
   for it is served, unless they share the batch with the last of it; where ageing calls for a lower lane all
   the same, the lane that was delayed leads in its stead. So a request waits for one batch with rows of lower
   lanes between its arrival and its last row (for one more with every further plan that may be in flight),
   and an aged one waits for what others had queued when the last such batch ended: a bounded amount of work,
   and never for what comes later.
4. *Convoys.* A lead that others are expected to join soon is held, at most for its lane's `max_hold_us`; see
   `convoys`. Meanwhile another client of the level may lead, but no lower lane: a batch of training rows takes
   longer than a hold. An aged request is never held.
5. *Exact.* With `batching.exact` a plan is one request, whole and alone: a chunk is then a whole request. What was
   begun in chunks before that was configured is ended in one.
6. *Beside.* Where the lower levels are computed beside the first (see `tracks`), all this holds among them, and
   the first level neither waits for them nor shares a batch with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

from symbiosis_core.config import DaemonConfig
from symbiosis_scheduler.decisions.bounds import of_strict_lanes
from symbiosis_scheduler.decisions.filling import chunk, first_ready, put_first, take_along
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.levels import Level
from symbiosis_scheduler.decisions.plan import Decision, Hold, Part, Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request

__all__ = ["LatencyFirst", "Policy"]


class Policy(Protocol):
    """Decides. Found by an entry point in the group `symbiosis.policies`, called with a `DaemonConfig`.

    A policy may remember what it decided, but reads no clock and changes neither queues nor what is known.

    Three attributes of its class may say more of it, and need not be there: `reads`, the keys of a lane that it
    obeys (`symbiosis policy check` warns of others); `explain(config, longest_us)`, see `explanations`; and
    `beside`, true where lower levels may be computed beside the first: it is then asked for each by itself, with
    queues that have no others (see `tracks`).

    A policy that keeps accounts may have a method `settle(known)`: it is called before anything is learned of a
    plan that is done, when its answers are on their way, so that nobody waits for what it does there. It may also
    have `joined(client, lane, user)` and `left(client)`, both or none, which are called after `settle`: when a
    client comes, or the policy does to clients that are there, and when one goes.
    """

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns what is computed now.

        A `Plan` is always carried out: its rows are taken, each request's from where it stands in the queues. A
        `Hold` is asked about again at its time, within a minute, or earlier if anything happens. None only if
        nothing waits.
        """


class LatencyFirst:
    """Lanes by priority, with ageing, chunks and riders; the module's docstring has the rules."""

    reads: ClassVar[frozenset[str]] = frozenset({"priority", "chunk_rows", "max_wait_us", "max_hold_us"})
    beside: ClassVar[bool] = True
    explain = staticmethod(of_strict_lanes)

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact
        ranks = len({lane.priority for lane in config.lanes.values()})
        self._delayed = [0] * ranks
        """By rank: up to this ticket, requests of the level have had to wait for rows of a lower level."""
        self._lowest_rank = list(range(ranks))
        """Of the rows of the last plan, by the first level that was to be planned; see `tracks`."""

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the next batch; None only if nothing waits."""
        levels = queues.levels
        top = levels[0].rank
        if self._lowest_rank[top] > top:
            for rank in range(top, self._lowest_rank[top]):
                self._delayed[rank] = queues.tickets
            self._lowest_rank[top] = top
        for first in levels:
            if first.turns:
                break
        else:
            return None
        lead = self._aged(now_us, queues)
        if lead is None:
            heads = first.heads()
            if self._exact:
                lead = next(heads)
            else:
                lead, until_us = first_ready(heads, queues, known, now_us, self._max_rows)
            if lead is None:
                return Hold(until_us)
        level = queues.lane(lead.lane).level
        if self._exact:
            parts, self._lowest_rank[top] = [queues.left(lead)], level.rank
        else:
            parts, self._lowest_rank[top] = self._all(lead, level, queues) or self._fill(lead, level, queues)
        return Plan(lead.op, lead.direction, tuple(parts), level is not first)

    def _aged(self, now_us: int, queues: Queues) -> Request | None:
        """Returns the request that leads because of somebody's age, if there is one."""
        oldest_ticket, oldest_level = 0, None
        for lane in queues.ageing:
            if not lane.waiting:
                continue
            request, ticket = next(iter(lane.waiting.items()))
            if now_us - request.arrived_us < lane.config.max_wait_us:
                continue
            if oldest_level is None or ticket < oldest_ticket:
                oldest_ticket, oldest_level = ticket, lane.level
        if oldest_level is None:
            return None
        delayed = next(filter(self._has_delayed, queues.levels), None)
        if delayed is not None and delayed.rank < oldest_level.rank:
            return next(delayed.heads())
        return next(oldest_level.heads())

    def _has_delayed(self, level: Level, parts: Sequence[Part] = ()) -> bool:
        """Whether a request waits in the level that was delayed once and is not finished by `parts`."""
        mark = self._delayed[level.rank]
        op = parts[0].request.op if parts else None
        finished: set[Request] | None = None
        for lane in level.lanes:
            for request, ticket in lane.waiting.items():
                if ticket > mark:
                    break
                if request.op != op:
                    return True
                if finished is None:
                    finished = {part.request for part in parts if part.stop == part.request.rows}
                if request not in finished:
                    return True
        return False

    def _have_delayed(self, levels: Iterable[Level], parts: Sequence[Part] = ()) -> bool:
        """Whether that is so in any of them."""
        return any(self._has_delayed(level, parts) for level in levels)

    def _all(self, lead: Request, own: Level, queues: Queues) -> tuple[list[Part], int] | None:
        """Returns what `_fill` does where all of a level has room, as is usual; None: that is not so."""
        key, room = (lead.op, lead.direction), min(self._max_rows, queues.least_chunk_rows)
        parts: list[Part] = []
        passed: list[Level] = []
        lowest = own.rank
        for level in queues.levels:
            cell = level.cells.get(key)
            if cell is None:
                passed.append(level)
                continue
            if parts and passed and self._have_delayed(passed, parts):
                break  # rule 3
            room -= cell.rows
            if room < 0 or (not parts and (level is not own or self._have_delayed(passed))):
                return None
            parts += cell.parts.values()
            lowest = level.rank
            if len(level.cells) > 1:
                passed.append(level)
        put_first(own.cells[key].parts[lead], parts)
        return parts, lowest

    def _fill(self, lead: Request, own: Level, queues: Queues) -> tuple[list[Part], int]:
        """Returns the next chunk of `lead`, which waits in `own`, and its riders; and the lowest rank of them."""
        key, lowest = (lead.op, lead.direction), own.rank
        budgets = dict(queues.chunk_rows)
        most = min(budgets[lead.lane], self._max_rows)
        above = own.rank - queues.levels[0].rank
        if above and any(key in level.cells for level in queues.levels[:above]):
            # An aged lead with large chunks leaves half of the batch to those who otherwise go first.
            most = min(most, (self._max_rows + 1) // 2)
        first = chunk(own.cells[key].parts[lead], most)
        parts = [first]
        rows = first.stop - first.start
        room = self._max_rows - rows
        budgets[lead.lane] -= rows
        passed: list[Level] = []
        """Levels of which something is left."""
        for level in queues.levels:
            cell = level.cells.get(key)
            if cell is None or not room:
                passed.append(level)
                continue
            if self._have_delayed(passed, parts):
                return parts, lowest  # rule 3
            left = cell.rows
            if level is own:
                left -= rows
            if left:
                before = room
                room = take_along(cell, lead, parts, budgets, room)
                left -= before - room
                if room != before and level.rank > lowest:
                    lowest = level.rank
            if left or len(level.cells) > 1:
                passed.append(level)
        return parts, lowest
