"""One client on the shared base against one plain PEFT process: what a step and a token cost more.

Plain PEFT and the client, as the daemon serves it and with lent weights, take turns in the same rounds; who is not
asked sleeps meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from symbiosis_bench.end_to_end.client_peak import client_peak
from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.gpu import cuda_bytes
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Judge, Judged, Measured, Train, Trained
from symbiosis_bench.end_to_end.pairs import reports, same_adapters, take_turns
from symbiosis_bench.end_to_end.site import Site, Wanted
from symbiosis_bench.spread import Spread, ratios, spread, step_s

__all__ = ["decode_tax", "solo", "train_tax"]


def solo(site: Site, wanted: frozenset[str]) -> Iterator[tuple[str, Figure]]:
    """Yields `train_tax`, `decode_tax` and `client_peak_activations`."""
    lent = [Kind.LENT] if site.lends else []
    eager = [Kind.EAGER] if site.settings.capture else []
    train: list[Wanted] = []
    decode: list[Wanted] = []
    if wanted - {"decode_tax"}:
        train = [(kind, ("training",)) for kind in (Kind.SPLIT, *lent)]
    if "decode_tax" in wanted:
        decode = [(kind, ("inference",)) for kind in (Kind.SPLIT, *eager, *lent)]
    with site.crews(site.main(), [(Kind.PLAIN, ("any",))], train, decode) as ((plain,), training, inference):
        if "train_tax" in wanted:
            yield "train_tax", train_tax(site, plain, *training)
        if "decode_tax" in wanted:
            yield "decode_tax", decode_tax(site, plain, *inference)
        if "client_peak_activations" in wanted:
            yield "client_peak_activations", client_peak(site, plain, *training)


def train_tax(site: Site, plain: Crew, *clients: Crew) -> Figure:
    """Returns `train_tax`: of several shapes, the one that is taxed most."""
    checks = same_adapters(site, plain, *clients)
    taxes: dict[Kind, dict[str, Spread]] = {client.kind: {} for client in clients}
    beside: dict[str, Spread] = {}
    in_turns: dict[str, str] = {}
    for shape, steps in zip(site.scale.train_shapes, site.scale.train_steps, strict=True):
        answers, in_turn = take_turns(
            site,
            (plain, *clients),
            f"train_tax {shape}",
            Trained,
            Train(shape, steps),
            rounds=site.scale.rounds,
        )
        in_turns[f"order {shape}"] = in_turn
        taken_s = {kind: _steps_s(told) for kind, told in answers.items()}
        beside |= {f"{kind}_step_s_{shape}": spread(values) for kind, values in taken_s.items()}
        beside |= cuda_bytes({f"{kind}_{shape}": told for kind, told in answers.items()})
        for kind, tax in taxes.items():
            tax[str(shape)] = ratios(taken_s[kind], taken_s[plain.kind])
            beside[f"{kind}_tax_{shape}"] = tax[str(shape)]
            rounds = zip(answers[kind], answers[plain.kind], strict=True)
            checks += [site.verifier.losses(f"{kind} training {shape}", ours, theirs) for ours, theirs in rounds]
    worst = {kind: max(tax.values(), key=lambda one: one.median) for kind, tax in taxes.items()}
    return figure(
        "train_tax",
        worst[Kind.SPLIT],
        quick=site.settings.quick,
        checks=checks,
        beside=beside,
        notes=reports(plain, *clients) | in_turns,
        lent=worst.get(Kind.LENT),
    )


def decode_tax(site: Site, plain: Crew, *clients: Crew) -> Figure:
    """Returns `decode_tax`."""
    busy_s: defaultdict[Kind, list[float]] = defaultdict(list)
    tokens = site.scale.decode_tokens - 1  # from the first on

    def look(crew: Crew) -> None:
        if crew.daemon is not None:
            busy_s[crew.kind].append(crew.daemon.status().batches.busy_s)

    crews, order = (plain, *clients), Decode(site.scale.decode_tokens)
    answers, in_turn = take_turns(site, crews, "decode_tax", Decoded, order, rounds=site.scale.rounds, look=look)
    reference = answers[plain.kind][-1]
    judged = {crew.kind: crew.perform(Judged, Judge(reference.tokens))[0] for crew in crews}
    checks = same_adapters(site, plain, *clients)
    for kind in (client.kind for client in clients):
        checks += [
            *(
                site.verifier.tokens(f"{kind} generation", ours, reference, judged[plain.kind])
                for ours in answers[kind]
            ),
            site.verifier.reading(f"{kind} generation", judged[kind], judged[plain.kind]),
        ]
    taken_s = {kind: _steps_s(told) for kind, told in answers.items()}
    taxes = {client.kind: ratios(taken_s[client.kind], taken_s[plain.kind]) for client in clients}
    beside = {f"{kind}_token_s": spread(values) for kind, values in taken_s.items()}
    beside |= {f"{kind}_tax": tax for kind, tax in taxes.items()}
    beside |= {
        f"{kind}_cpu_s": spread([answer.cpu_s / tokens for answer in told]) for kind, told in answers.items()
    }
    for kind, seen_s in busy_s.items():
        spent_s = zip(seen_s[::2], seen_s[1::2], strict=True)
        beside[f"{kind}_daemon_s"] = spread([(after - before) / tokens for before, after in spent_s])
    return figure(
        "decode_tax",
        taxes[Kind.SPLIT],
        quick=site.settings.quick,
        checks=checks,
        beside=beside | cuda_bytes(answers),
        notes=reports(*crews) | {"order": in_turn},
        lent=taxes.get(Kind.LENT),
    )


def _steps_s(answers: Sequence[Measured]) -> list[float]:
    return [step_s(answer.stamps_s) for answer in answers]
