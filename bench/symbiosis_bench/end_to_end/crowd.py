"""Four at once: how a round of several contenders that each fill the machine is measured.

Every contender is an entrant: a crew of four, and a number of torch threads each may use. In a round they take
turns; within a turn the four run together, and only what they did while all four ran is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Generic, NamedTuple, TypeVar

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Decoded, Order, Trained
from symbiosis_bench.end_to_end.pairs import in_words
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.turns import said, turns
from symbiosis_bench.spread import Spread, mean_occupancy, rate_together, ratios, spread, step_s
from symbiosis_core.wire import BatchStatus

__all__ = ["Crowd", "Entrant", "best", "lent_gain"]

A = TypeVar("A", bound=Decoded | Trained)


class Entrant(NamedTuple):
    """A contender of a crowd."""

    kind: Kind
    threads: int
    """Of torch in every member; 0: as many as it would take by itself."""

    def __str__(self) -> str:
        return f"{self.kind}_1_thread" if self.threads == 1 else str(self.kind)


class Crowd(Generic[A]):
    """The rounds of some crews, and what came of them, by entrant."""

    def __init__(self, site: Site, what: str, kind: type[A], crews: Sequence[Crew]) -> None:
        self._site = site
        self._what = what
        self._kind = kind
        self._turns = [(crew, Entrant(crew.kind, threads)) for crew in crews for threads in site.thread_variants]
        self.answers: dict[Entrant, list[list[A]]] = {entrant: [] for _, entrant in self._turns}
        """Of every member, in every round."""
        self.rates: dict[Entrant, list[float]] = {entrant: [] for _, entrant in self._turns}
        """Stamps a second of all four together."""
        self.steps_s: dict[Entrant, list[float]] = {entrant: [] for _, entrant in self._turns}
        """The median time of a token or a step."""
        self.occupancies: dict[Entrant, list[float]] = {}
        """Clients a batch of the daemon meanwhile, of the rounds in which all four ran at once."""
        self._order = ""

    def __repr__(self) -> str:
        return f"<Crowd {self._what}: {', '.join(map(str, self.rates))}>"

    def measure(self, order: Callable[[int], Order], warm_up: Callable[[Entrant], Order]) -> None:
        """Runs all rounds. The orders are made for a number of threads, and for an entrant."""
        rounds = self._site.scale.crowd_rounds
        for crew, entrant in self._turns:  # another number of threads may be compiled anew
            self._site.progress.say(f"{self._what}: {entrant} warms up")
            crew.perform(self._kind, warm_up(entrant))
        orders = turns(self._turns, rounds, self._site.settings.seed, self._what)
        self._order = said([[entrant for _, entrant in each] for each in orders])
        for number, in_turn in enumerate(orders, 1):
            for crew, entrant in in_turn:
                self._site.progress.say(f"{self._what}: round {number} of {rounds}, {entrant}")
                self._turn(crew, entrant, order(entrant.threads))

    def _turn(self, crew: Crew, entrant: Entrant, order: Order) -> None:
        daemon, seen = crew.daemon, list[BatchStatus]()

        def look() -> None:
            if daemon is not None:
                seen.append(daemon.status().batches)

        watched = look if entrant.kind.asks else None
        answers = crew.perform(self._kind, order, all_began=watched, first_done=watched)
        self.answers[entrant].append(answers)
        stamps_s = [_after_the_first(answer) for answer in answers]
        self.rates[entrant].append(rate_together(stamps_s))
        self.steps_s[entrant].append(step_s(*stamps_s))
        if seen:
            before, after = seen
            occupancy = mean_occupancy(after.count - before.count, after.clients - before.clients)
            self.occupancies.setdefault(entrant, []).append(occupancy)

    def references(self, kind: Kind) -> list[A]:
        """Returns the last answers of a kind's first entrant: what all others are compared with."""
        return next(rounds[-1] for entrant, rounds in self.answers.items() if entrant.kind is kind)

    def but(self, references: Sequence[A]) -> Iterator[tuple[str, int, A]]:
        """Yields every answer of every entrant but these themselves, with who gave it and the member's number."""
        for entrant, rounds in self.answers.items():
            for number, answers in enumerate(rounds, 1):
                for client, answer in enumerate(answers):
                    if answer is not references[client]:
                        yield f"client {client} of {entrant}, round {number}", client, answer

    def notes(self, above: Entrant, below: Entrant) -> dict[str, str]:
        """Returns which entrants a gain is the quotient of, and who came when."""
        threads = "; ".join(f"{entrant} {self._threads(entrant)}" for entrant in self.answers)
        return {
            "numerator": str(above),
            "denominator": str(below),
            "order": self._order,
            "threads of torch": threads,
        }

    def _threads(self, entrant: Entrant) -> str:
        """Returns how many every member had in the last round."""
        return in_words([answer.torch_threads for answer in self.answers[entrant][-1]])

    def beside(self, unit: str, times: float = 1.0) -> dict[str, Spread]:
        """Returns the rates of all contenders, each stamp being worth `times`."""
        return {
            f"{entrant}_{unit}": spread([rate * times for rate in rates]) for entrant, rates in self.rates.items()
        }


def _after_the_first(answer: Decoded | Trained) -> Sequence[float]:
    """Returns the stamps from the first token or step on: what comes before belongs to the beginning."""
    return answer.stamps_s if isinstance(answer, Decoded) else answer.stamps_s[1:]


def lent_gain(rates: Mapping[Entrant, Sequence[float]], below: Entrant) -> Spread | None:
    """Returns the gain of lent clients over an entrant; None where none took part."""
    if not any(entrant.kind is Kind.LENT for entrant in rates):
        return None
    return ratios(rates[best(rates, Kind.LENT)], rates[below])


def best(rates: Mapping[Entrant, Sequence[float]], *kinds: Kind) -> Entrant:
    """Returns the contender of these kinds with the highest median: each side is run as is best for it."""
    candidates = [entrant for entrant in rates if entrant.kind in kinds]
    return max(candidates, key=lambda entrant: median(rates[entrant]))
