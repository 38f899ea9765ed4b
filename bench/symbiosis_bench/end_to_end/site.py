"""Where a run takes place: the ground that it stands on, and crews of contenders there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from symbiosis_bench.end_to_end.crew import Crew, NoRoomError, joined, wait_ready
from symbiosis_bench.end_to_end.daemons import Daemon
from symbiosis_bench.end_to_end.ground import Ground
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Message
from symbiosis_bench.end_to_end.settings import Settings
from symbiosis_bench.end_to_end.verification import Verifier
from symbiosis_bench.processes import Child, Children
from symbiosis_bench.progress import Progress

__all__ = ["Site", "Wanted"]

Wanted = tuple[Kind, tuple[str, ...]]
"""A kind, and a lane for every member; only a client's lane means something."""


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
        return self.settings.lent and self.settings.device == "cpu" and self.settings.cut != "lent"

    @contextmanager
    def crews(self, daemon: Daemon, *groups: Sequence[Wanted]) -> Iterator[tuple[list[Crew], ...]]:
        """Lends groups of crews of one member a lane, all of them ready."""
        wanted = [one for group in groups for one in group]
        self.progress.say("opening " + ", ".join(f"{len(lanes)} x {kind}" for kind, lanes in wanted))
        opened = tuple([self._crew(daemon, kind, lanes) for kind, lanes in group] for group in groups)
        crews = [crew for group in opened for crew in group]
        try:
            wait_ready(self._children, crews)
            yield opened
        finally:
            for crew in crews:
                crew.end()

    def _crew(self, daemon: Daemon, kind: Kind, lanes: tuple[str, ...]) -> Crew:
        if kind.forks:
            options = [kind, *self._options(daemon.folder, daemon.address), f"--members={len(lanes)}"]
            nursery = self._start(kind, "nursery", *options)
            return Crew(kind, self._children, [nursery], forks=len(lanes), daemon=daemon)
        members = [
            self._member(kind, daemon.folder, daemon.address, client, lane) for client, lane in enumerate(lanes)
        ]
        return Crew(kind, self._children, members, daemon=daemon)

    def job(self, kind: Kind, folder: str, daemon: Daemon | None, client: int) -> Crew:
        """Starts a crew of one that trains, and that the caller ends.

        Raises:
            NoRoomError: its model does not fit on the GPU. It has been ended.
        """
        address = daemon.address if daemon is not None else ""
        started = [self._member(kind, folder, address, client, "training")]
        crew = Crew(kind, self._children, started, daemon=daemon)
        try:
            wait_ready(self._children, [crew])
        except NoRoomError:
            crew.end()
            raise
        return crew

    def together(self, jobs: Sequence[Crew]) -> Crew:
        """Returns jobs as one crew."""
        return joined(self._children, jobs)

    def _member(self, kind: Kind, folder: str, address: str, client: int, lane: str) -> Child:
        options = [*self._worker(kind, lane), *self._options(folder, address, client, lane)]
        return self._start(f"{kind}-{client}", "worker", *options)

    def _worker(self, kind: Kind, lane: str) -> list[str]:
        """Returns how a worker is told what it is: every client is opened as a split one."""
        if kind is Kind.PLAIN:
            return ["plain"]
        cut = "lent" if kind is Kind.LENT else self.settings.cut
        captured = self.settings.capture and kind.captured and lane == "inference"
        return ["split", f"--cut={cut}", *(["--capture"] if captured else [])]

    def _options(self, folder: str, address: str, client: int = 0, lane: str = "") -> list[str]:
        given = {
            "folder": folder,
            "client": client,
            "dtype": self.settings.dtype,
            "device": self.settings.device,
            "address": address,
            "lane": lane,
            "name": f"bench-{client}",
        }
        return [f"--{key}={value}" for key, value in given.items()]
