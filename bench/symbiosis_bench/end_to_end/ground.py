"""What a run stands on: its folder, the bases in it, the daemons on them, and the processes of both."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from symbiosis_bench.daemon import answers, serve_command
from symbiosis_bench.end_to_end.daemons import Daemon, configuration
from symbiosis_bench.end_to_end.messages import Made
from symbiosis_bench.end_to_end.settings import Base, Settings, worker_environment
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.processes import Child, Children
from symbiosis_bench.progress import Progress

__all__ = ["Ground"]

_DAEMON_S: Final = 600.0
_BASE_S: Final = 600.0
_LOOK_S: Final = 0.1
_MODULE: Final = "symbiosis_bench.end_to_end"
M = TypeVar("M")
"""What the run's children can say; of it a ground hears `Made` alone."""


class Ground(Generic[M]):
    """Made once a run."""

    def __init__(
        self,
        settings: Settings,
        children: Children[M],
        progress: Progress,
        folder: Path,
        config: Path | None = None,
    ) -> None:
        """`config`: what daemons are started with; None: the defaults, with the threads of the settings."""
        self.settings = settings
        self.progress = progress
        self._children = children
        self._folder = folder
        self._config = config
        self._environment = worker_environment(os.environ, settings.threads)
        self._started = 0
        self._main: Daemon | None = None
        self._bases: dict[Base, str] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self._folder}>"

    def main(self) -> Daemon:
        """Returns the daemon on the base of this run. Starts it when it is first asked for."""
        if self._main is None:
            self.progress.say("finding the base (the first time on a machine it is converted: half a minute)")
            quick, scale = self.settings.quick, self.settings.scale
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
        config = self._config or self._folder / f"daemon-{number}.toml"
        if self._config is None:
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
