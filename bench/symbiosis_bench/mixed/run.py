"""One run: inference alone, training alone, and then both at every load."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from symbiosis_bench.end_to_end.messages import Ready, Shape
from symbiosis_bench.end_to_end.settings import Settings, worker_environment
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.machine import this_machine
from symbiosis_bench.mixed.foretelling import Foretold, foretell, recording
from symbiosis_bench.mixed.load import (
    Times,
    bursts,
    dealt,
    first_tokens_alone,
    merged,
    poisson,
    quantile,
    rate_within,
    times,
)
from symbiosis_bench.mixed.messages import Message, Order, Rest, Serve, Served, Trained, TrainOn, read_message
from symbiosis_bench.mixed.report import HalfLoad, Loaded, MixedReport
from symbiosis_bench.processes import Child, Children
from symbiosis_bench.progress import Progress
from symbiosis_core.config import DaemonConfig
from symbiosis_core.wire import BatchStatus

__all__ = ["Scale", "run"]

_WAIT_S: Final = 900.0
_LOOK_S: Final = 0.5
_TRAINING: Final = 2
_TOGETHER: Final = 4
"""Prompts of a burst."""
A = TypeVar("A", bound=msgspec.Struct)
T = TypeVar("T")


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


class Mixed:
    """The clients of a run: some that answer prompts, and two that train."""

    def __init__(
        self,
        site: Site,
        children: Children[Message],
        environment: dict[str, str],
        serving: int,
        traces: Path | None,
    ) -> None:
        self._site = site
        self._traces = traces
        self._children = children
        daemon = site.main()

        def start(name: str, lane: str, client: int) -> Child:
            given = {
                "folder": daemon.folder,
                "client": client,
                "address": daemon.address,
                "lane": lane,
                "name": name,
            }
            options = [f"--{key}={value}" for key, value in given.items()]
            command = [sys.executable, "-P", "-m", "symbiosis_bench.mixed.worker", "split", *options]
            return children.start(name, command, environment)

        self._training = [start(f"training-{n}", "training", n) for n in range(1, _TRAINING + 1)]
        others = range(_TRAINING + 1, _TRAINING + serving)
        self._serving = [start("serving", "inference", 0)]
        self._serving += [start(f"serving-{n}", "inference", n) for n in others]
        self._hear(Ready, [*self._serving, *self._training])

    def serve(self, arrivals_s: Sequence[float], tokens: int, *, clients: int) -> Served:
        """Returns when the last prompt is answered, by so many clients in turn."""
        start_s, servers = time.perf_counter(), self._serving[:clients]
        for child, own_s in zip(servers, dealt(arrivals_s, clients), strict=True):
            _order(child, Serve(start_s, own_s, tokens))
        return merged(self._hear(Served, servers))

    def train(self, shape: Shape, meanwhile: Callable[[], Any]) -> tuple[Any, list[Trained]]:
        """Lets both train while `meanwhile` runs, and returns what it returned and their stamps."""
        for child in self._training:
            _order(child, TrainOn(shape))
        result = meanwhile()
        for child in self._training:
            _order(child, Rest())
        return result, self._hear(Trained, self._training)

    def foretold(self, name: str, meanwhile: Callable[[], T]) -> tuple[T, tuple[Foretold, ...]]:
        """Returns what `meanwhile` returned and, where it is recorded, how near the simulator comes to it."""
        if self._traces is None:
            return meanwhile(), ()
        out = self._traces / f"{name}.trace"
        with recording(self._site.main().address, out):
            result = meanwhile()
        return result, foretell(out, DaemonConfig())  # of the daemon's own, `Site` sets the threads alone

    def batches(self) -> BatchStatus:
        """What the daemon has counted so far."""
        return self._site.main().status().batches

    def _hear(self, kind: type[A], children: Sequence[Child]) -> list[A]:
        names, told = [child.name for child in children], dict[str, A]()
        deadline = time.monotonic() + _WAIT_S
        while len(told) < len(names):
            heard = self._children.hear(_LOOK_S)
            if heard is None:
                self._children.check()
                if time.monotonic() > deadline:
                    raise BenchFailedError("somebody has not answered in time; the machine may be too busy")
                continue
            name, message = heard
            if not isinstance(message, kind) or name not in names:
                raise BenchFailedError(f"{name} said {type(message).__name__} out of turn")
            told[name] = message
        return [told[name] for name in names]


def _order(child: Child, order: Order) -> None:
    child.write(msgspec.json.encode(order) + b"\n")


def run(
    settings: Settings, scale: Scale, progress: Progress, folder: Path, traces: Path | None = None
) -> MixedReport:
    """Measures every load, and records it into `traces` if that is wanted. Ends all it started."""
    environment = worker_environment(os.environ, 1)
    with Children(folder, read_message) as children:
        site = Site(settings, children, progress, folder)  # type: ignore[arg-type]  # it hears of `Made` alone
        site.main()
        progress.say(f"opening the clients: {scale.serving} that serve and {_TRAINING} that train")
        mixed = Mixed(site, children, environment, scale.serving, traces)
        unloaded = _unloaded(mixed, scale, progress)
        loaded = []
        for offered in scale.loads:
            rate = offered * unloaded.prompts_per_s
            progress.say(f"{offered:.0%} of {unloaded.prompts_per_s:.2g} prompts/s beside training")
            arrivals = poisson(scale.prompts, rate, seed=round(offered * 100))
            loaded.append(_beside(mixed, scale, "poisson", offered, rate, arrivals, unloaded))
        progress.say("bursts beside training")
        rate = 0.5 * unloaded.prompts_per_s
        arrivals = bursts(scale.prompts, rate, _TOGETHER)
        loaded.append(_beside(mixed, scale, "bursts", 0.5, rate, arrivals, unloaded))
        policy = site.main().status().policy
    return MixedReport(
        machine=this_machine(),
        quick=settings.quick,
        model=settings.model,
        policy=policy,
        serving=scale.serving,
        prompts_per_s=unloaded.prompts_per_s,
        prompt_s=unloaded.prompt_s,
        training_steps_per_s=unloaded.steps_per_s,
        unloaded=unloaded.times,
        loaded=tuple(loaded),
        half_load=_half_load(loaded),
    )


def _half_load(loaded: Sequence[Loaded]) -> HalfLoad | None:
    for each in loaded:
        if (each.arrivals, each.offered) == ("poisson", 0.5):
            return HalfLoad(
                p99_time_per_token_ratio=each.p99_time_per_token_ratio,
                p50_time_per_token_ratio=each.p50_time_per_token_ratio,
                training_progress_kept=each.training_progress_kept,
            )
    return None


def _unloaded(mixed: Mixed, scale: Scale, progress: Progress) -> Unloaded:
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
    return times(Served(begins, served.tokens_s))


def _train_alone(mixed: Mixed, scale: Scale) -> float:
    def wait() -> tuple[float, float]:
        began = time.perf_counter()
        time.sleep(scale.alone_s)
        return began, time.perf_counter()

    (began, ended), trained = mixed.train(scale.shape, wait)
    return sum(rate_within(each.stamps_s, began, ended) for each in trained)


def _beside(
    mixed: Mixed,
    scale: Scale,
    kind: str,
    offered: float,
    rate_per_s: float,
    arrivals_s: Sequence[float],
    unloaded: Unloaded,
) -> Loaded:
    lasts_s = len(arrivals_s) / rate_per_s

    def serve() -> Served:
        served = mixed.serve(arrivals_s, scale.tokens, clients=scale.serving)
        time.sleep(max(0.0, began_s(served) + lasts_s - time.perf_counter()))  # so long the load lasts at its rate
        return served

    def began_s(served: Served) -> float:
        return served.arrived_s[0] - arrivals_s[0]

    before = mixed.batches()
    (served, trained), foretold = mixed.foretold(f"{kind}-{offered:g}", lambda: mixed.train(scale.shape, serve))
    after = mixed.batches()
    found, began = times(served), began_s(served)
    ended = max(_ended_s(served), began + lasts_s)
    rate = sum(rate_within(each.stamps_s, began, ended) for each in trained)
    alone = unloaded.times
    target_s = 1.5 * alone.p99_token_s
    waiting_s = [
        after_s
        for own_s in dealt(arrivals_s, scale.serving)
        for after_s in first_tokens_alone(own_s, alone.p50_first_token_s, unloaded.prompt_s)
    ]
    steps = [b - a for stamps in served.tokens_s for a, b in itertools.pairwise(stamps)]
    return Loaded(
        arrivals=kind,
        offered=offered,
        times=found,
        p50_time_per_token_ratio=found.p50_token_s / alone.p50_token_s,
        p99_time_per_token_ratio=found.p99_token_s / alone.p99_token_s,
        p50_first_token_ratio=found.p50_first_token_s / alone.p50_first_token_s,
        p99_first_token_ratio=found.p99_first_token_s / alone.p99_first_token_s,
        p99_first_token_waiting_ratio=quantile(waiting_s, 0.99) / alone.p99_first_token_s,
        tokens_within_target=sum(step <= target_s for step in steps) / len(steps),
        training_progress_kept=rate / unloaded.steps_per_s,
        occupancy=(after.clients - before.clients) / max(1, after.count - before.count),
        foretold=foretold,
    )
