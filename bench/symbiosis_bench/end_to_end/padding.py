"""The padding that training clients of different lengths are spared, as the daemon's own counters have it.

What was computed is counted by batch, what was asked for by client, and they are counted in different places: a
daemon that padded, or computed anything twice, would have more of the first than of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.messages import Shape, Train, Trained
from symbiosis_bench.end_to_end.pairs import reports
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.spread import spread
from symbiosis_core.wire import ClientStatus, DaemonStatus

__all__ = ["Asked", "no_padding", "padded_rows", "padding_saved"]


class Asked(NamedTuple):
    """What one client had computed."""

    requests: int
    rows: int


def padding_saved(site: Site, split: Crew) -> Figure:
    """Returns `padding_saved`."""
    lengths, steps = site.scale.skewed_tokens, site.scale.crowd_steps
    orders = [Train(Shape(1, tokens), steps) for tokens in lengths]
    computed, padded, checks = list[int](), list[float](), list[Check]()
    for number in range(site.scale.crowd_rounds):
        site.progress.say(f"padding_saved: round {number + 1} of {site.scale.crowd_rounds}")
        before = site.main().status()
        split.perform(Trained, orders)
        after = site.main().status()
        asked = [_asked(before, after, pid) for pid in split.pids]
        computed.append(after.batches.rows - before.batches.rows)
        padded.append(padded_rows(asked))
        checks.append(no_padding(computed[-1], asked))
    return figure(
        "padding_saved",
        spread([rows / most for rows, most in zip(computed, padded, strict=True)]),
        quick=site.settings.quick,
        checks=checks,
        beside={"computed_rows": spread(computed), "padded_rows": spread(padded)},
        notes=reports(split) | {"lengths": ", ".join(map(str, lengths))},
    )


def padded_rows(asked: Sequence[Asked]) -> float:
    """Returns the rows of all requests, had each been as long as those of the client with the longest."""
    longest = max(client.rows / client.requests for client in asked)
    return longest * sum(client.requests for client in asked)


def no_padding(computed: int, asked: Sequence[Asked]) -> Check:
    """Checks that no more rows were computed than clients have asked for."""
    wanted = sum(client.rows for client in asked)
    return Check("no row is padding", computed == wanted, f"{computed} rows computed, {wanted} asked for")


def _asked(before: DaemonStatus, after: DaemonStatus, pid: int) -> Asked:
    earlier, later = _client(before, pid), _client(after, pid)
    return Asked(later.requests - earlier.requests, later.rows - earlier.rows)


def _client(status: DaemonStatus, pid: int) -> ClientStatus:
    return next(client for client in status.clients if client.pid == pid)
