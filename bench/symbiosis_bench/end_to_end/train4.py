"""Four training clients: rows a second against four plain processes at once, and the padding they are spared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.crowd import Crowd, best, lent_gain
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Shape, Train, Trained
from symbiosis_bench.end_to_end.pairs import reports, same_adapters
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.spread import ratios, spread

__all__ = ["padding_saved", "share_of_padded", "train4_gain"]


def train4_gain(site: Site, plain: Crew, *clients: Crew) -> Figure:
    """Returns `train4_gain`."""
    shape, steps = site.scale.crowd_shape, site.scale.crowd_steps
    crowd = Crowd(site, f"train4 {shape}", Trained, (plain, *clients))
    crowd.measure(lambda threads: Train(shape, steps, threads), lambda threads: Train(shape, 1, threads))
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


def padding_saved(site: Site, split: Crew) -> Figure:
    """Returns `padding_saved`."""
    lengths, steps = site.scale.skewed_tokens, site.scale.crowd_steps
    orders = [Train(Shape(1, tokens), steps) for tokens in lengths]
    shares, checks = [], []
    for number in range(site.scale.crowd_rounds):
        site.progress.say(f"padding_saved: round {number + 1} of {site.scale.crowd_rounds}")
        before = _rows(site, split)
        split.perform(Trained, orders)
        after = _rows(site, split)
        rows = [after[pid] - before[pid] for pid in split.pids]
        shares.append(share_of_padded(rows))
        trips = {count / (tokens * steps) for count, tokens in zip(rows, lengths, strict=True)}
        says = f"{', '.join(map(str, rows))} rows of sequences of {', '.join(map(str, lengths))} tokens"
        checks.append(Check("no row is padding", len(trips) == 1, says))
    notes = reports(split) | {"lengths": ", ".join(map(str, lengths))}
    return figure("padding_saved", spread(shares), quick=site.settings.quick, checks=checks, notes=notes)


def share_of_padded(rows: Sequence[int]) -> float:
    """Returns the rows that clients had computed, over those of a batch that pads each of them to the longest."""
    return sum(rows) / (len(rows) * max(rows))


def _rows(site: Site, split: Crew) -> Mapping[int, int]:
    """Returns the rows that the daemon has computed for each client, by pid."""
    found = {client.pid: client.rows for client in site.main().status().clients}
    return {pid: found[pid] for pid in split.pids}
