"""Four generating clients with four adapters, against four plain processes at once.

Plain is run in two ways, with each of the threads it may have, and the best of them all counts:

- `plain`: four processes that each call from_pretrained. transformers maps the file where nothing is converted, so
  that they share its pages without knowing;
- `copied`: four processes with weights of their own, as on every load that converts.

`forked` is beside them: one process that loads, and four forks of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.crowd import Crowd, best, split_rounds
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Judge, Judged
from symbiosis_bench.end_to_end.pairs import Pair, reports, same_adapters
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.spread import ratios, spread

__all__ = ["decode4"]

_WARM_UP_TOKENS: Final = 4


def decode4(site: Site, wanted: frozenset[str], crews: Sequence[Crew], pair: Pair) -> Iterator[tuple[str, Figure]]:
    """Yields `decode4_gain` and `decode4_occupancy`, which come of one run. The pair is among the crews."""
    crowd = Crowd(site, "decode4", crews)
    answered = crowd.measure(
        Decoded,
        lambda threads: Decode(site.scale.crowd_tokens, threads),
        lambda threads: Decode(_WARM_UP_TOKENS, threads),
    )
    checks = same_adapters(site, pair) + _check_tokens(site, pair, answered)
    notes = reports(*crews)
    ours, theirs = best(crowd.rates, "split"), best(crowd.rates, "plain", "copied")
    notes |= {"numerator": ours, "denominator": theirs}
    quick, rates = site.settings.quick, crowd.rates
    if "decode4_gain" in wanted:
        beside = crowd.beside("tokens_per_s")
        beside["gain_over_forked"] = ratios(rates[ours], rates[best(rates, "forked")])
        gain = ratios(rates[ours], rates[theirs])
        yield "decode4_gain", figure("decode4_gain", gain, quick=quick, checks=checks, beside=beside, notes=notes)
    if "decode4_occupancy" in wanted:
        beside = {name: spread(values) for name, values in crowd.occupancies.items()}
        occupancy = spread(crowd.occupancies[ours])
        yield (
            "decode4_occupancy",
            figure("decode4_occupancy", occupancy, quick=quick, checks=checks, beside=beside, notes=notes),
        )


def _check_tokens(site: Site, pair: Pair, answered: Mapping[str, list[list[Decoded]]]) -> list[Check]:
    """Checks every client against the plain process with the same adapter, and that the adapters differ."""
    plain, split = pair
    references = answered[plain.name][-1]
    orders = [Judge(reference.tokens) for reference in references]
    theirs, ours = plain.perform(Judged, orders), split.perform(Judged, orders)
    checks = [
        site.verifier.reading(f"client {client}", mine, judged)
        for client, (mine, judged) in enumerate(zip(ours, theirs, strict=True))
    ]
    for name, answers in split_rounds(answered):
        checks += [
            site.verifier.tokens(f"client {client} of {name}", mine, references[client], theirs[client])
            for client, mine in enumerate(answers)
        ]
    digests = {ready.adapter for ready in split.ready}
    differ = len(digests) == split.members
    return [*checks, Check("adapters differ", differ, f"{len(digests)} of {split.members} are different")]
