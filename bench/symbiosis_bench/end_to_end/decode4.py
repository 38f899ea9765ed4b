"""Four generating clients with four adapters, against four plain processes at once.

Plain is run in two ways, with each of the threads it may have, and the best of them all counts:

- `plain`: four processes that each call from_pretrained. transformers maps the file where nothing is converted, so
  that they share its pages without knowing;
- `copied`: four processes with weights of their own, as on every load that converts.

`forked` is beside them: one process that loads, and four forks of it. So is `unheld`: the four clients on a daemon
of their own that holds nobody, which says what holding brings and costs. A daemon learns from its clients how they
go best, so these warm up for longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.crowd import Crowd, best, lent_gain
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Judge, Judged
from symbiosis_bench.end_to_end.pairs import reports, same_adapters
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.spread import Spread, ratios, spread

__all__ = ["decode4"]

_WARM_UP_TOKENS: Final = 4


def decode4(site: Site, wanted: frozenset[str], plain: Crew, *others: Crew) -> Iterator[tuple[str, Figure]]:
    """Yields `decode4_gain` and `decode4_occupancy`, which come of one run.

    No occupancy where in no round all four ran at once.
    """
    crews = (plain, *others)
    crowd = Crowd(site, "decode4", Decoded, crews)
    crowd.measure(
        lambda threads: Decode(site.scale.crowd_tokens, threads),
        lambda entrant: Decode(
            site.scale.learned_tokens if entrant.kind.asks else _WARM_UP_TOKENS, entrant.threads
        ),
    )
    checks = same_adapters(site, plain, *others) + _check_tokens(site, crowd, plain, others)
    rates, quick = crowd.rates, site.settings.quick
    ours, theirs = best(rates, Kind.SPLIT), best(rates, Kind.PLAIN, Kind.COPIED)
    notes = reports(*crews) | crowd.notes(ours, theirs)
    if "decode4_gain" in wanted:
        beside = crowd.beside("tokens_per_s")
        beside["gain_over_forked"] = ratios(rates[ours], rates[best(rates, Kind.FORKED)])
        gain = ratios(rates[ours], rates[theirs])
        lent = lent_gain(rates, theirs)
        yield (
            "decode4_gain",
            figure("decode4_gain", gain, quick=quick, checks=checks, beside=beside, notes=notes, lent=lent),
        )
    if "decode4_occupancy" in wanted and ours in crowd.occupancies:
        beside = {str(entrant): spread(values) for entrant, values in crowd.occupancies.items()} | _holding(crowd)
        occupancy = spread(crowd.occupancies[ours])
        yield (
            "decode4_occupancy",
            figure("decode4_occupancy", occupancy, quick=quick, checks=checks, beside=beside, notes=notes),
        )


def _holding(crowd: Crowd[Decoded]) -> dict[str, Spread]:
    """Returns the median time of a token with holding and without, and the quotient, for all threads alike."""
    told: dict[str, Spread] = {}
    for unheld, without_s in crowd.steps_s.items():
        if unheld.kind is Kind.UNHELD:
            held = unheld._replace(kind=Kind.SPLIT)
            told[f"{held}_token_s"] = spread(crowd.steps_s[held])
            told[f"{unheld}_token_s"] = spread(without_s)
            told[f"{held}_token_s_over_{unheld}"] = ratios(crowd.steps_s[held], without_s)
    return told


def _check_tokens(site: Site, crowd: Crowd[Decoded], plain: Crew, others: tuple[Crew, ...]) -> list[Check]:
    """Checks everybody against the plain process with the same adapter, and that the adapters differ.

    Forked processes all get the same orders, so they read no text of their own.
    """
    references = crowd.references(plain.kind)
    orders = [Judge(reference.tokens) for reference in references]
    judged = plain.perform(Judged, orders)
    checks = [
        site.verifier.tokens(who, answer, references[client], judged[client])
        for who, client, answer in crowd.but(references)
    ]
    checks += [
        site.verifier.reading(f"client {client} of {crew.kind}", ours, theirs)
        for crew in others
        if not crew.kind.forks
        for client, (ours, theirs) in enumerate(zip(crew.perform(Judged, orders), judged, strict=True))
    ]
    digests = {ready.adapter for ready in plain.ready}
    differ = len(digests) == plain.members
    return [*checks, Check("adapters differ", differ, f"{len(digests)} of {plain.members} are different")]
