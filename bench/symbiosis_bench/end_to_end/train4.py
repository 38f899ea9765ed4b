"""Four training clients: rows a second against four plain processes at once."""

from __future__ import annotations

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.crowd import Crowd, best, lent_gain
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Train, Trained
from symbiosis_bench.end_to_end.pairs import reports, same_adapters
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.spread import ratios, spread

__all__ = ["train4_gain"]


def train4_gain(site: Site, plain: Crew, *clients: Crew) -> Figure:
    """Returns `train4_gain`."""
    shape, steps = site.scale.crowd_shape, site.scale.crowd_steps
    crowd = Crowd(site, f"train4 {shape}", Trained, (plain, *clients))
    crowd.measure(lambda threads: Train(shape, steps, threads), lambda entrant: Train(shape, 1, entrant.threads))
    rates = crowd.rates
    above, below = best(rates, Kind.SPLIT), best(rates, Kind.PLAIN)
    beside = crowd.beside("rows_per_s", shape.rows)
    beside |= {f"{entrant}_clients_per_batch": spread(values) for entrant, values in crowd.occupancies.items()}
    return figure(
        "train4_gain",
        ratios(rates[above], rates[below]),
        quick=site.settings.quick,
        checks=same_adapters(site, plain, *clients) + _check_losses(site, crowd, plain),
        beside=beside,
        notes=reports(plain, *clients) | crowd.notes(above, below),
        lent=lent_gain(rates, below),
    )


def _check_losses(site: Site, crowd: Crowd[Trained], plain: Crew) -> list[Check]:
    """Checks everybody against the plain process with the same adapter."""
    references = crowd.references(plain.kind)
    return [site.verifier.losses(who, answer, references[client]) for who, client, answer in crowd.but(references)]
