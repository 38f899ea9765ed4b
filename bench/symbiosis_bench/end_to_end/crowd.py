"""Four at once: how a round of several contenders that each fill the machine is measured.

Every contender is a crew of four and a number of torch threads each may use. In a round they take turns; within a
turn the four run together, and only what they did while all four ran is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.messages import Decoded, Order, Trained
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.spread import Spread, mean_occupancy, rate_together, spread
from symbiosis_core.wire import BatchStatus

__all__ = ["Crowd", "best", "named", "split_rounds"]

A = TypeVar("A", Decoded, Trained)


class Crowd:
    """The rounds of some crews, and what came of them, by contender."""

    def __init__(self, site: Site, what: str, crews: Sequence[Crew]) -> None:
        self._site = site
        self._what = what
        self._crews = crews
        self.rates: dict[str, list[float]] = {}
        """Stamps a second of all four together."""
        self.occupancies: dict[str, list[float]] = {}
        """Clients a batch of the daemon meanwhile."""

    def __repr__(self) -> str:
        return f"<Crowd {self._what}: {', '.join(self.rates)}>"

    def measure(
        self, kind: type[A], order: Callable[[int], Order], warm_up: Callable[[int], Order]
    ) -> dict[str, list[list[A]]]:
        """Runs all rounds. The orders are made for a number of threads. Returns the answers of each round."""
        answered: dict[str, list[list[A]]] = {}
        for crew in self._crews:
            self._site.progress.say(f"{self._what}: {crew.name} warms up")
            for threads in self._site.thread_variants:  # another number of threads may be compiled anew
                crew.perform(kind, warm_up(threads))
        for number in range(self._site.scale.crowd_rounds):
            turns = [(crew, threads) for crew in self._crews for threads in self._site.thread_variants]
            for crew, threads in turns if number % 2 == 0 else turns[::-1]:
                of = f"round {number + 1} of {self._site.scale.crowd_rounds}"
                self._site.progress.say(f"{self._what}: {of}, {named(crew.name, threads)}")
                turn = self._turn(kind, crew, threads, order(threads))
                answered.setdefault(named(crew.name, threads), []).append(turn)
        return answered

    def _turn(self, kind: type[A], crew: Crew, threads: int, order: Order) -> list[A]:
        seen: list[BatchStatus] = []

        def look() -> None:
            seen.append(self._site.main().status().batches)

        watched = look if crew.name == "split" else None
        answers = crew.perform(kind, order, all_began=watched, first_done=watched)
        name = named(crew.name, threads)
        stamps_s = [_after_the_first(answer) for answer in answers]
        self.rates.setdefault(name, []).append(rate_together(stamps_s))
        if len(seen) == 2:
            before, after = seen
            occupancy = mean_occupancy(after.count - before.count, after.clients - before.clients)
            self.occupancies.setdefault(name, []).append(occupancy)
        return answers

    def beside(self, unit: str, times: float = 1.0) -> dict[str, Spread]:
        """Returns the rates of all contenders, each stamp being worth `times`."""
        return {f"{name}_{unit}": spread([rate * times for rate in rates]) for name, rates in self.rates.items()}


def _after_the_first(answer: Decoded | Trained) -> Sequence[float]:
    """Returns the stamps from the first token or step on: what comes before belongs to the beginning."""
    return answer.stamps_s if isinstance(answer, Decoded) else answer.stamps_s[1:]


def named(crew: str, threads: int) -> str:
    """Returns the name of a contender."""
    return f"{crew}_1_thread" if threads == 1 else crew


def split_rounds(answered: Mapping[str, list[list[A]]]) -> Iterator[tuple[str, list[A]]]:
    """Yields every round of clients on the shared base, with the name of the contender."""
    for name, rounds in answered.items():
        if name.startswith("split"):
            for answers in rounds:
                yield name, answers


def best(rates: Mapping[str, Sequence[float]], *kinds: str) -> str:
    """Returns the contender of these kinds with the highest median: each side is run as is best for it."""
    candidates = [name for name in rates if name.removesuffix("_1_thread") in kinds]
    return max(candidates, key=lambda name: spread(rates[name]).median)
