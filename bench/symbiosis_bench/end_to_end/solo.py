"""One client on the shared base against one plain PEFT process: what a step and a token cost more.

The two take turns, round by round, and the other one sleeps meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.figures import Figure, figure, with_lent
from symbiosis_bench.end_to_end.gpu import cuda_bytes
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Judge, Judged, Measured, Train, Trained
from symbiosis_bench.end_to_end.pairs import Pair, reports, same_adapters, take_turns
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.weight import client_peak
from symbiosis_bench.spread import Spread, ratios, spread, step_s

__all__ = ["decode_tax", "solo", "train_tax"]


def solo(site: Site, wanted: frozenset[str]) -> Iterator[tuple[str, Figure]]:
    """Yields `train_tax`, `decode_tax` and `client_peak_activations`."""
    plain = ("plain", ("any",))
    split = {
        lane: ("split", (lane,))
        for lane, keys in (("training", {"train_tax", "client_peak_activations"}), ("inference", {"decode_tax"}))
        if keys & wanted
    }
    lent = {f"lent {lane}": ("lent", lanes) for lane, (_, lanes) in split.items()} if site.lends else {}
    with site.crews(site.main(), plain, *split.values(), *lent.values()) as (reference, *others):
        crews = dict(zip((*split, *lent), others, strict=True))
        if "train_tax" in wanted:
            yield "train_tax", _beside_lent(train_tax, site, reference, crews, "training")
        if "decode_tax" in wanted:
            yield "decode_tax", _beside_lent(decode_tax, site, reference, crews, "inference")
        if "client_peak_activations" in wanted:
            yield "client_peak_activations", client_peak(site, reference, crews["training"])


def _beside_lent(
    measure: Callable[[Site, Pair], Figure], site: Site, plain: Crew, crews: Mapping[str, Crew], lane: str
) -> Figure:
    measured = measure(site, (plain, crews[lane]))
    lent = crews.get(f"lent {lane}")
    return measured if lent is None else with_lent(measured, measure(site, (plain, lent)))


def train_tax(site: Site, pair: Pair) -> Figure:
    """Returns `train_tax`: of several shapes, the one that is taxed most."""
    plain, split = pair
    checks = same_adapters(site, pair)
    taxes: dict[str, Spread] = {}
    beside: dict[str, Spread] = {}
    for shape, steps in zip(site.scale.train_shapes, site.scale.train_steps, strict=True):
        answers = take_turns(site, pair, f"train_tax {shape}", Trained, Train(shape, steps))
        taken_s = {name: _steps_s(told) for name, told in answers.items()}
        taxes[str(shape)] = ratios(taken_s[split.name], taken_s[plain.name])
        beside |= {f"{name}_step_s_{shape}": spread(values) for name, values in taken_s.items()}
        beside |= cuda_bytes({f"{name}_{shape}": told for name, told in answers.items()})
        rounds = zip(answers[split.name], answers[plain.name], strict=True)
        checks += [site.verifier.losses(f"training {shape}", ours, theirs) for ours, theirs in rounds]
    beside |= {f"tax_{shape}": tax for shape, tax in taxes.items()}
    worst = max(taxes.values(), key=lambda tax: tax.median)
    notes = reports(*pair)
    return figure("train_tax", worst, quick=site.settings.quick, checks=checks, beside=beside, notes=notes)


def decode_tax(site: Site, pair: Pair) -> Figure:
    """Returns `decode_tax`."""
    plain, split = pair
    busy_s: list[float] = []
    tokens = site.scale.decode_tokens - 1  # from the first on

    def look() -> None:
        busy_s.append(site.busy_s())

    answers = take_turns(site, pair, "decode_tax", Decoded, Decode(site.scale.decode_tokens), look)
    taken_s = {name: _steps_s(told) for name, told in answers.items()}
    reference = answers[plain.name][-1]
    judged = {crew.name: crew.perform(Judged, Judge(reference.tokens))[0] for crew in pair}
    checks = [
        *same_adapters(site, pair),
        *(site.verifier.tokens("generation", ours, reference, judged[plain.name]) for ours in answers[split.name]),
        site.verifier.reading("generation", judged[split.name], judged[plain.name]),
    ]
    beside = {f"{name}_token_s": spread(values) for name, values in taken_s.items()}
    beside |= {
        f"{name}_cpu_s": spread([answer.cpu_s / tokens for answer in told]) for name, told in answers.items()
    }
    spent_s = zip(busy_s[::2], busy_s[1::2], strict=True)
    beside[f"{split.name}_daemon_s"] = spread([(after - before) / tokens for before, after in spent_s])
    return figure(
        "decode_tax",
        ratios(taken_s[split.name], taken_s[plain.name]),
        quick=site.settings.quick,
        checks=checks,
        beside=beside | cuda_bytes(answers),
        notes=reports(*pair),
    )


def _steps_s(answers: Sequence[Measured]) -> list[float]:
    return [step_s(answer.stamps_s) for answer in answers]
