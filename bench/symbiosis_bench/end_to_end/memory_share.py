"""What the one base costs, with all who work on it, in bases."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.daemons import Daemon
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Judge, Judged, Measured, Order, Train, Trained
from symbiosis_bench.end_to_end.pairs import same_adapters
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.spread import Spread, spread
from symbiosis_core.resting import LOOK_EVERY_S
from symbiosis_core.telemetry import pss_bytes

__all__ = ["References", "Weighing", "check_weighed", "held", "memory_share", "on_gpu", "share"]

_TOKENS: Final = 8
_THREADS: Final = 1
"""Of torch in every client: six with all cores each would take minutes, and their bytes are what is wanted."""
_REST_S: Final = 3 * LOOK_EVERY_S
"""After so long whoever trims its heap at rest has done it."""
_ANY: Final = (3,)
"""What a client that trains is given to read where others read their tokens."""


class Weighing(NamedTuple):
    """What a crew took, and computed, round by round."""

    crew: Crew
    daemon_bytes: list[int]
    clients_bytes: list[int]
    rested: list[tuple[int, int]]
    """The daemon's and the clients' bytes once all have rested; empty on a GPU."""
    answers: list[list[Measured]]
    judged: list[Judged]
    """What they make of the references' tokens; empty where nothing is compared."""


class References(NamedTuple):
    """What plain PEFT computes with the same adapters."""

    crew: Crew
    answers: list[Measured]
    reads: list[Order]
    """What clients that generate are given to read as well: the tokens that plain PEFT wrote."""
    judged: list[Judged]


def memory_share(site: Site, wanted: frozenset[str]) -> Iterator[tuple[str, Figure]]:
    """Yields `memory_share`."""
    site.leave_main()  # whoever else maps the libraries makes everybody's share of them smaller
    shares: dict[Kind, Spread] = {}
    beside = {"dedicated_copies": spread([float(len(site.scale.memory_lanes))])}
    checks: list[Check] = []
    references: References | None = None
    with site.base(site.scale.tiny_base) as tiny_base, site.base(site.scale.big_base) as big_base:
        for kind in (Kind.SPLIT, Kind.LENT) if site.lends else (Kind.SPLIT,):
            with site.daemon_on(tiny_base) as daemon:
                tiny = _weigh(site, daemon, kind, "a tiny base")
            with site.daemon_on(big_base) as daemon:
                references = references or _references(site, daemon)
                big = _weigh(site, daemon, kind, "the big base", references.reads)
                base_bytes = daemon.status().memory.base
            checks += check_weighed(site, big, references)
            shares[kind] = spread(list(_shares(big, tiny, base_bytes)))
            beside |= _beside(kind, big, tiny, base_bytes) | _beside_rested(kind, big, tiny, base_bytes)
    yield (
        "memory_share",
        figure(
            "memory_share",
            shares[Kind.SPLIT],
            quick=site.settings.quick,
            checks=checks,
            beside=beside,
            notes={"base": str(site.scale.big_base)},
            lent=shares.get(Kind.LENT),
        ),
    )


def _shares(big: Weighing, tiny: Weighing, base_bytes: int) -> Iterator[float]:
    for taken in zip(big.daemon_bytes, big.clients_bytes, tiny.clients_bytes, strict=True):
        yield share(*taken, base_bytes)


def share(of_daemon: int, of_clients: int, clients_on_tiny: int, base_bytes: int) -> float:
    """Returns what daemon and clients take because of the base, in bases."""
    return (of_daemon + of_clients - clients_on_tiny) / base_bytes


def _beside(kind: Kind, big: Weighing, tiny: Weighing, base_bytes: int) -> dict[str, Spread]:
    return {
        "base_bytes": spread([base_bytes]),
        f"{kind}_daemon_bytes": spread(big.daemon_bytes),
        f"{kind}_clients_bytes": spread(big.clients_bytes),
        f"{kind}_clients_on_tiny_bytes": spread(tiny.clients_bytes),
    }


def _beside_rested(kind: Kind, big: Weighing, tiny: Weighing, base_bytes: int) -> dict[str, Spread]:
    """Returns the same figure for a moment when all have rested, and what it is made of."""
    if not big.rested:
        return {}
    pairs = [(*taken, of_clients) for taken, (_, of_clients) in zip(big.rested, tiny.rested, strict=True)]
    names = ("daemon_bytes", "clients_bytes", "clients_on_tiny_bytes")
    made_of = zip(names, zip(*pairs, strict=True), strict=True)
    return {
        f"{kind}_rested": spread([share(*each, base_bytes) for each in pairs]),
        **{f"{kind}_rested_{name}": spread(values) for name, values in made_of},
    }


def _weigh(site: Site, daemon: Daemon, kind: Kind, on: str, reads: Sequence[Order] = ()) -> Weighing:
    """Returns what the daemon and all clients take, after each has worked, once a round; then they read."""
    with site.crews(daemon, [(kind, site.scale.memory_lanes)]) as ((crew,),):
        weighing = Weighing(crew, [], [], [], [], [])
        for number in range(site.scale.crowd_rounds):
            site.progress.say(f"memory_share, {kind} on {on}: round {number + 1}")
            answers = crew.perform(Measured, _orders(site))
            of_daemon, of_clients = held(answers, crew.pids, daemon)
            weighing.answers.append(answers)
            weighing.daemon_bytes.append(of_daemon)
            weighing.clients_bytes.append(of_clients)
            if on_gpu(answers) is None:
                time.sleep(_REST_S)
                weighing.rested.append(held(answers, crew.pids, daemon))
        if reads:
            weighing.judged.extend(crew.perform(Judged, reads))
    return weighing


def _references(site: Site, daemon: Daemon) -> References:
    """Has plain processes do the same once, on the daemon's base but without it."""
    with site.crews(daemon, [(Kind.PLAIN, site.scale.memory_lanes)]) as ((plain,),):
        site.progress.say("memory_share: plain does the same, to be compared with")
        answers: list[Measured] = plain.perform(Measured, _orders(site))
        reads: list[Order] = [Judge(told.tokens if isinstance(told, Decoded) else _ANY) for told in answers]
        return References(plain, answers, reads, plain.perform(Judged, reads))


def check_weighed(site: Site, big: Weighing, references: References) -> list[Check]:
    """Checks what clients computed while they were weighed.

    The base is random: nearly every token of it is chosen by less than rounding decides, so those that generate
    read plain PEFT's tokens as well.
    """
    checks = same_adapters(site, references.crew, big.crew)
    for answers in big.answers:
        for client, (ours, theirs) in enumerate(zip(answers, references.answers, strict=True)):
            who = f"client {client} of {big.crew.kind}"
            if isinstance(ours, Decoded) and isinstance(theirs, Decoded):
                checks.append(site.verifier.tokens(who, ours, theirs, references.judged[client]))
            elif isinstance(ours, Trained) and isinstance(theirs, Trained):
                checks.append(site.verifier.losses(who, ours, theirs))
    for client, (read, judged) in enumerate(zip(big.judged, references.judged, strict=True)):
        if isinstance(references.answers[client], Decoded):
            checks.append(site.verifier.reading(f"client {client} of {big.crew.kind}", read, judged))
    return checks


def _orders(site: Site) -> list[Order]:
    work: dict[str, Order] = {
        "training": Train(site.scale.memory_shape, 2, _THREADS),
        "inference": Decode(_TOKENS, _THREADS),
    }
    return [work[lane] for lane in site.scale.memory_lanes]


def held(answers: Sequence[Measured], pids: Sequence[int], daemon: Daemon | None) -> tuple[int, int]:
    """Returns what the daemon and the clients hold: on the GPU, or of the host's memory where there is none."""
    if (told := on_gpu(answers)) is not None:
        return told
    return (_pss(daemon.status().pid) if daemon is not None else 0), sum(map(_pss, pids))


def on_gpu(answers: Sequence[Measured]) -> tuple[int, int] | None:
    """Returns what the daemon and the clients hold on the GPU, after the last has worked; None without one.

    The driver knows the sum alone, contexts included, so it all counts as the clients'. On a tiny base it is the
    same but for the base and what grows with it: there, too, the daemon's libraries are taken away.
    """
    told = [answer.device_bytes for answer in answers if answer.device_bytes is not None]
    return (0, max(told)) if told else None


def _pss(pid: int) -> int:
    if (taken := pss_bytes(pid)) is None:
        raise BenchFailedError("this kernel does not tell what processes really take (/proc/PID/smaps_rollup)")
    return taken
