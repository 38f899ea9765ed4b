"""Where a run takes place: its processes, its folder, the base, the daemon on it, and the crews."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from symbiosis_bench.daemon import answers, serve_command
from symbiosis_bench.end_to_end.crew import Crew, NoRoomError, joined, wait_ready
from symbiosis_bench.end_to_end.daemons import Daemon, configuration
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Made, Message
from symbiosis_bench.end_to_end.settings import Base, Settings, worker_environment
from symbiosis_bench.end_to_end.verification import Verifier
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.processes import Child, Children
from symbiosis_bench.progress import Progress

__all__ = ["Site", "Wanted"]

Wanted = tuple[Kind, tuple[str, ...]]
"""A kind, and a lane for every member; only a client's lane means something."""
_DAEMON_S: Final = 600.0
_BASE_S: Final = 600.0
_LOOK_S: Final = 0.1
_MODULE: Final = "symbiosis_bench.end_to_end"


class Site:
    """Made once a run."""

    def __init__(self, settings: Settings, children: Children[Message], progress: Progress, folder: Path) -> None:
        self.settings = settings
        self.scale = settings.scale
        self.progress = progress
        self.verifier = Verifier(settings.dtype)
        self._children = children
        self._folder = folder
        self._environment = worker_environment(os.environ, settings.threads)
        self._started = 0
        self._main: Daemon | None = None
        self._bases: dict[Base, str] = {}

    def __repr__(self) -> str:
        return f"<Site in {self._folder}>"

    @property
    def thread_variants(self) -> tuple[int, ...]:
        """How many threads each of several processes may get: all it would take by itself, or one."""
        return (0, 1) if self.settings.threads > 1 else (0,)

    @property
    def lends(self) -> bool:
        """Whether clients with lent weights are measured beside the others."""
        return self.settings.lent and self.settings.device == "cpu" and self.settings.cut != "lent"

    def main(self) -> Daemon:
        """Returns the daemon on the base of this run. Starts it when it is first asked for."""
        if self._main is None:
            self.progress.say("finding the base (the first time on a machine it is converted: half a minute)")
            quick, scale = self.settings.quick, self.scale
            folder = self.made_base(scale.tiny_base) if quick else self._base("find", self.settings.model)
            self._main = self._daemon(folder)
        return self._main

    def leave_main(self) -> None:
        """Ends the daemon of this run; it is started anew when it is asked for."""
        if self._main is not None:
            self._children.end([self._main.child])
            self._main = None

    @contextmanager
    def daemon_on(self, folder: str, *, holding: bool = True) -> Iterator[Daemon]:
        """Lends a daemon on the base in that folder."""
        daemon = self._daemon(folder, holding=holding)
        try:
            yield daemon
        finally:
            self._children.end([daemon.child])

    @contextmanager
    def base(self, base: Base) -> Iterator[str]:
        """Lends the folder of a random base, and removes it."""
        folder = self.made_base(base)
        try:
            yield folder
        finally:
            del self._bases[base]
            shutil.rmtree(folder, ignore_errors=True)

    def made_base(self, base: Base) -> str:
        """Returns the folder of a random base of that shape."""
        if base not in self._bases:
            self.progress.say(f"making a random base of {base.layers} layers, {base.hidden} wide")
            shape = msgspec.json.encode(base).decode()
            folder = str(self._folder / f"base-{self._number()}")
            options = ["make", folder, f"--shape={shape}", f"--dtype={self.settings.dtype}"]
            self._bases[base] = self._base(*options)
        return self._bases[base]

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

    def _start(self, name: str, module: str, *options: str, **how: Any) -> Child:
        command = [sys.executable, "-P", "-m", f"{_MODULE}.{module}", *options]
        return self._children.start(f"{name}-{self._number()}", command, self._environment, **how)

    def _base(self, *options: str) -> str:
        child = self._start("base", "bases", *options)
        try:
            deadline = time.monotonic() + _BASE_S
            while (heard := self._children.hear(_LOOK_S)) is None:
                self._children.check()
                if time.monotonic() > deadline:
                    raise BenchFailedError("the base could not be made in time")
        finally:
            self._children.end([child])
        _, message = heard
        assert isinstance(message, Made)  # nobody else was asked
        return message.folder

    def _daemon(self, folder: str, *, holding: bool = True) -> Daemon:
        self.progress.say("starting a daemon")
        number = self._number()
        config = self._folder / f"daemon-{number}.toml"
        config.write_text(configuration(self.settings.threads, holding=holding))
        address = f"ipc://{self._folder}/d{number}/s"  # short: a socket's path has at most 100 bytes
        options = ["--dtype", self.settings.dtype, "--config", str(config)]
        if self.settings.device != "cpu":
            options += ["--device", self.settings.device]
        command = serve_command(folder, address, *options)
        child = self._children.start(f"daemon-{number}", command, self._environment, speaks=False)
        deadline = time.monotonic() + _DAEMON_S
        while not answers(address):
            self._children.check()
            if time.monotonic() > deadline:
                raise BenchFailedError("the daemon did not answer in time")
            time.sleep(_LOOK_S)
        return Daemon(address, folder, child)

    def _number(self) -> int:
        self._started += 1
        return self._started
