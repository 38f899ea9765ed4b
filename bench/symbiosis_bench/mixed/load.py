"""When prompts arrive, and what their stamps say."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec

from symbiosis_bench.mixed.messages import Served

__all__ = [
    "Times",
    "bursts",
    "dealt",
    "first_tokens_alone",
    "merged",
    "poisson",
    "quantile",
    "rate_within",
    "times",
]


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Of all prompts of a run, in seconds."""

    prompts: int
    tokens: int
    p50_first_token_s: float
    """From a prompt's arrival, so waiting for the prompt before counts."""
    p99_first_token_s: float
    p50_token_s: float
    """From one token to the next."""
    p99_token_s: float


def poisson(count: int, rate_per_s: float, seed: int) -> tuple[float, ...]:
    """Returns arrivals of a Poisson process that has so many in the time in which it has so many in the mean.

    They are uniform there. Taken one after the other until there are enough, a few come much faster or slower than
    their rate, and a load is not the one that it is called.
    """
    dice = random.Random(seed)
    return tuple(sorted(dice.uniform(0, count / rate_per_s) for _ in range(count)))


def bursts(count: int, rate_per_s: float, together: int) -> tuple[float, ...]:
    """Returns arrivals of the same rate, so many at once."""
    return tuple([number // together * together / rate_per_s for number in range(count)])


def dealt(arrivals_s: Sequence[float], clients: int) -> list[tuple[float, ...]]:
    """Returns the arrivals of each client: they have them in turn, whoever is busy, and some may have none."""
    return [tuple(arrivals_s[client::clients]) for client in range(clients)]


def merged(served: Sequence[Served]) -> Served:
    """Returns what several clients served as if it had been one, by arrival."""
    prompts = [each for one in served for each in zip(one.arrived_s, one.began_s, one.tokens_s, strict=True)]
    prompts.sort()
    arrived, began, tokens = zip(*prompts, strict=True)
    return Served(arrived, began, tokens)


def first_tokens_alone(arrivals_s: Sequence[float], first_token_s: float, prompt_s: float) -> list[float]:
    """Returns the times to first tokens of one client that answers each prompt as fast as unloaded.

    So much of them is that a prompt waits for those before it, whatever the daemon does.
    """
    found, free_s = [], 0.0
    for arrived_s in arrivals_s:
        begins_s = max(arrived_s, free_s)
        found.append(begins_s + first_token_s - arrived_s)
        free_s = begins_s + prompt_s
    return found


def times(served: Served) -> Times:
    """Returns what the stamps say."""
    first = [stamps[0] - arrived for arrived, stamps in zip(served.arrived_s, served.tokens_s, strict=True)]
    later = [after - before for stamps in served.tokens_s for before, after in itertools.pairwise(stamps)]
    return Times(
        prompts=len(first),
        tokens=sum(map(len, served.tokens_s)),
        p50_first_token_s=quantile(first, 0.5),
        p99_first_token_s=quantile(first, 0.99),
        p50_token_s=quantile(later, 0.5),
        p99_token_s=quantile(later, 0.99),
    )


def quantile(values: Sequence[float], q: float) -> float:
    """Returns the value that a share `q` of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def rate_within(stamps_s: Sequence[float], from_s: float, to_s: float) -> float:
    """Returns steps a second between two times; the step that was under way at either counts in part."""
    ends = sorted(stamps_s)
    done = 0.0
    for before, after in itertools.pairwise(ends):
        share = min(after, to_s) - max(before, from_s)
        done += max(0.0, share) / (after - before) if after > before else 0.0
    return done / (to_s - from_s)
