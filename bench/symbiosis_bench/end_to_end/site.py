"""Where a run takes place: the ground that it stands on, and crews of contenders there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symbiosis_bench.end_to_end.crew import Crew, wait_ready
from symbiosis_bench.end_to_end.ground import Daemon, Ground
from symbiosis_bench.end_to_end.messages import Message
from symbiosis_bench.end_to_end.settings import Settings
from symbiosis_bench.end_to_end.verification import Verifier
from symbiosis_bench.processes import Children
from symbiosis_bench.progress import Progress

__all__ = ["Site", "Wanted"]

Wanted = tuple[str, tuple[str, ...]]
"""A kind of `worker.arguments`, and a lane for every member; only a split one's lane means something."""


class Site(Ground[Message]):
    """Made once a run."""

    def __init__(self, settings: Settings, children: Children[Message], progress: Progress, folder: Path) -> None:
        super().__init__(settings, children, progress, folder)
        self.scale = settings.scale
        self.verifier = Verifier(settings.dtype)

    @property
    def thread_variants(self) -> tuple[int, ...]:
        """How many threads each of several processes may get: all it would take by itself, or one."""
        return (0, 1) if self.settings.threads > 1 else (0,)

    @property
    def lends(self) -> bool:
        """Whether clients with lent weights are measured beside the others."""
        return self.settings.device == "cpu" and self.settings.cut != "lent"

    def busy_s(self) -> float:
        """Returns how long the daemon of this run has computed; 0 where there is none."""
        return self._main.status().batches.busy_s if self._main is not None else 0.0

    @contextmanager
    def crews(self, daemon: Daemon, *wanted: Wanted) -> Iterator[tuple[Crew, ...]]:
        """Lends crews of one member a lane, all of them ready."""
        self.progress.say("opening " + ", ".join(f"{len(lanes)} x {kind}" for kind, lanes in wanted))
        crews = tuple(self._crew(daemon, kind, lanes) for kind, lanes in wanted)
        try:
            wait_ready(self._children, crews)
            yield crews
        finally:
            for crew in crews:
                crew.end()

    def _crew(self, daemon: Daemon, kind: str, lanes: tuple[str, ...]) -> Crew:
        if kind in ("forked", "copied"):
            options = [kind, *self._options(daemon), f"--members={len(lanes)}"]
            return Crew(kind, self._children, [self._start(kind, "nursery", *options)], forks=len(lanes))
        started = [
            self._start(f"{kind}-{client}", "worker", *self._worker(kind), *self._options(daemon, client, lane))
            for client, lane in enumerate(lanes)
        ]
        return Crew(kind, self._children, started)

    def _worker(self, kind: str) -> tuple[str, str]:
        """Returns how a worker is told what it is: a lent one is a split one with a cut of its own."""
        return ("split", "--cut=lent") if kind == "lent" else (kind, f"--cut={self.settings.cut}")

    def _options(self, daemon: Daemon, client: int = 0, lane: str = "") -> list[str]:
        given = {
            "folder": daemon.folder,
            "client": client,
            "dtype": self.settings.dtype,
            "device": self.settings.device,
            "address": daemon.address,
            "lane": lane,
            "name": f"bench-{client}",
            "capture": str(self.settings.capture and lane == "inference"),
        }
        return [f"--{key}={value}" for key, value in given.items()]
