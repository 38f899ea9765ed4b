"""One run: inference alone, training alone, and then both at every load."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from symbiosis_bench.end_to_end.ground import Ground
from symbiosis_bench.end_to_end.messages import Shape
from symbiosis_bench.end_to_end.settings import Settings, worker_environment
from symbiosis_bench.machine import this_machine
from symbiosis_bench.mixed.clients import TRAINING, Clients
from symbiosis_bench.mixed.configuration import Configuration
from symbiosis_bench.mixed.foretelling import foretell
from symbiosis_bench.mixed.load import (
    Times,
    bursts,
    dealt,
    first_tokens_alone,
    poisson,
    quantile,
    rate_within,
    times,
)
from symbiosis_bench.mixed.messages import Message, Served, read_message
from symbiosis_bench.mixed.report import HalfLoad, Loaded, MixedReport
from symbiosis_bench.mixed.targets import TokenTargets, targets, within
from symbiosis_bench.processes import Children
from symbiosis_bench.progress import Progress
from symbiosis_core.config import DaemonConfig

__all__ = ["Scale", "run"]

_TOGETHER: Final = 4
"""Prompts of a burst."""
_SEED: Final = 50
"""Of the arrivals of every load: they are the same ones, closer together or farther apart."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    loads: tuple[float, ...]
    prompts: int
    """For each load."""
    tokens: int
    shape: Shape
    alone_s: float
    """How long training runs without inference."""
    serving: int = 1
    """Clients that answer prompts."""


class Unloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of clients do without the other."""

    times: Times
    """Of one that serves, with nobody beside it."""
    prompt_s: float
    """From a prompt's arrival to its last token there."""
    prompts_per_s: float
    """Of all that serve."""
    steps_per_s: float
    """Of both that train."""


def run(
    settings: Settings,
    scale: Scale,
    progress: Progress,
    folder: Path,
    configuration: Configuration,
    traces: Path | None = None,
) -> MixedReport:
    """Measures every load, and records it into `traces` if that is wanted. Ends all it started."""
    machine = this_machine()  # as it is now: the checkout may be another one minutes later
    environment = worker_environment(os.environ, 1)
    with Children(folder, read_message) as children:
        ground: Ground[Message] = Ground(settings, children, progress, folder, configuration.file)
        ground.main()
        progress.say(f"opening the clients: {scale.serving} that serve and {TRAINING} that train")
        mixed = Clients(ground, children, environment, scale.serving, traces, captured=settings.capture)
        unloaded = _unloaded(mixed, scale, progress)
        most = targets(configuration.serving, unloaded.times)
        loaded: list[Loaded] = []
        first: tuple[float, Path] | None = None
        for offered in scale.loads:
            rate = offered * unloaded.prompts_per_s
            progress.say(f"{offered:.0%} of {unloaded.prompts_per_s:.2g} prompts/s beside training")
            arrivals = poisson(scale.prompts, rate, seed=_SEED)
            found, trace = _beside(mixed, scale, "poisson", offered, rate, arrivals, unloaded, most)
            loaded.append(_foretold(found, trace, first, configuration.read))
            if trace is not None:
                first = first or (offered, trace)
        progress.say("bursts beside training")
        rate = 0.5 * unloaded.prompts_per_s
        arrivals = bursts(scale.prompts, rate, _TOGETHER)
        found, trace = _beside(mixed, scale, "bursts", 0.5, rate, arrivals, unloaded, most)
        loaded.append(_foretold(found, trace, None, configuration.read))
        policy = ground.main().status().policy
    return MixedReport(
        machine=machine,
        quick=settings.quick,
        model=settings.model,
        policy=policy,
        config="" if configuration.file is None else configuration.file.name,
        configuration=configuration.read,
        targets=most,
        serving=scale.serving,
        captured=settings.capture,
        prompts_per_s=unloaded.prompts_per_s,
        prompt_s=unloaded.prompt_s,
        training_steps_per_s=unloaded.steps_per_s,
        unloaded=unloaded.times,
        loaded=tuple(loaded),
        half_load=_half_load(loaded),
    )


def _foretold(
    loaded: Loaded, trace: Path | None, first: tuple[float, Path] | None, config: DaemonConfig
) -> Loaded:
    """Adds what the simulator makes of a load: from its own trace, and from that of the first load."""
    if trace is None:
        return loaded
    found = msgspec.structs.replace(loaded, foretold=foretell(trace, config))
    if first is None:
        return found
    offered, other = first
    from_first = foretell(other, config, real=trace, arrivals=loaded.offered / offered)
    return msgspec.structs.replace(found, foretold_from_first=from_first)


def _half_load(loaded: Sequence[Loaded]) -> HalfLoad | None:
    for each in loaded:
        if (each.arrivals, each.offered) == ("poisson", 0.5):
            return HalfLoad(
                p99_time_per_token_ratio=each.p99_time_per_token_ratio,
                p50_time_per_token_ratio=each.p50_time_per_token_ratio,
                training_progress_kept=each.training_progress_kept,
            )
    return None


def _unloaded(mixed: Clients, scale: Scale, progress: Progress) -> Unloaded:
    progress.say("inference alone")
    mixed.serve([0.0] * 2 * scale.serving, scale.tokens, clients=scale.serving)  # warm up
    mixed.train(scale.shape, lambda: time.sleep(scale.alone_s / 2))
    served = mixed.serve([0.0] * scale.prompts, scale.tokens, clients=1)
    prompt_s = (_ended_s(served) - served.arrived_s[0]) / scale.prompts
    prompts_per_s = 1 / prompt_s
    if scale.serving > 1:
        together = mixed.serve([0.0] * scale.prompts, scale.tokens, clients=scale.serving)
        prompts_per_s = scale.prompts / (_ended_s(together) - together.arrived_s[0])
    progress.say("training alone")
    return Unloaded(
        times=_nobody_waited(served),
        prompt_s=prompt_s,
        prompts_per_s=prompts_per_s,
        steps_per_s=_train_alone(mixed, scale),
    )


def _ended_s(served: Served) -> float:
    return max(stamps[-1] for stamps in served.tokens_s)


def _nobody_waited(served: Served) -> Times:
    """Every prompt of one client counts as if it had arrived when the one before was answered."""
    begins = (served.arrived_s[0], *(stamps[-1] for stamps in served.tokens_s[:-1]))
    return times(Served(begins, served.began_s, served.tokens_s))


def _train_alone(mixed: Clients, scale: Scale) -> float:
    def wait() -> tuple[float, float]:
        began = time.perf_counter()
        time.sleep(scale.alone_s)
        return began, time.perf_counter()

    (began, ended), trained = mixed.train(scale.shape, wait)
    return sum(rate_within(each.stamps_s, began, ended) for each in trained)


def _beside(
    mixed: Clients,
    scale: Scale,
    kind: str,
    offered: float,
    rate_per_s: float,
    arrivals_s: Sequence[float],
    unloaded: Unloaded,
    most: TokenTargets,
) -> tuple[Loaded, Path | None]:
    lasts_s = len(arrivals_s) / rate_per_s

    def serve() -> Served:
        served = mixed.serve(arrivals_s, scale.tokens, clients=scale.serving)
        time.sleep(max(0.0, began_s(served) + lasts_s - time.perf_counter()))  # so long the load lasts at its rate
        return served

    def began_s(served: Served) -> float:
        return served.arrived_s[0] - arrivals_s[0]

    before = mixed.batches()
    (served, trained), trace = mixed.recorded(f"{kind}-{offered:g}", lambda: mixed.train(scale.shape, serve))
    after = mixed.batches()
    found, began = times(served), began_s(served)
    ended = max(_ended_s(served), began + lasts_s)
    rate = sum(rate_within(each.stamps_s, began, ended) for each in trained)
    alone = unloaded.times
    waiting_s = [
        after_s
        for own_s in dealt(arrivals_s, scale.serving)
        for after_s in first_tokens_alone(own_s, alone.p50_first_token_s, unloaded.prompt_s)
    ]
    first_within, within_target = within(served, most)
    loaded = Loaded(
        arrivals=kind,
        offered=offered,
        times=found,
        p50_time_per_token_ratio=found.p50_token_s / alone.p50_token_s,
        p99_time_per_token_ratio=found.p99_token_s / alone.p99_token_s,
        p50_first_token_ratio=found.p50_first_token_s / alone.p50_first_token_s,
        p99_first_token_ratio=found.p99_first_token_s / alone.p99_first_token_s,
        p99_first_token_waiting_ratio=quantile(waiting_s, 0.99) / alone.p99_first_token_s,
        first_tokens_within_target=first_within,
        tokens_within_target=within_target,
        training_progress_kept=rate / unloaded.steps_per_s,
        occupancy=(after.clients - before.clients) / max(1, after.count - before.count),
    )
    return loaded, trace
