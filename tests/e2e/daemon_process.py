"""A real daemon in a real process, to be stopped, killed and restarted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from symbiosis_core.errors import DaemonGoneError, SymbiosisError
from symbiosis_core.wire import DaemonStatus
from symbiosis_scheduler.commands.status import fetch_status

START_S = 180.0


class DaemonProcess:
    """`symbiosis serve` as a child."""

    def __init__(self, folder: Path, model: str, *options: str, prefix: tuple[str, ...] = ()) -> None:
        """An empty `model`: those that the configuration among the options names."""
        self.folder = folder
        self.address = f"ipc://{folder}/d.sock"
        self._command = [*prefix, sys.executable, "-m", "symbiosis_core", "serve", "--listen", self.address]
        self._command += [*(("--model", model) if model else ()), *options]
        self.log = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> DaemonProcess:
        """Starts it and, unless told otherwise, waits until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"}
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Waits until it answers, or fails with what it said."""
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the daemon ended: {self.said()}"
            try:
                self.status()
            except DaemonGoneError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the daemon was not ready: {self.said()}")

    def status(self) -> DaemonStatus:
        """What it says it is doing."""
        return fetch_status(self.address)

    def wait_status(self, condition: Callable[[DaemonStatus], bool], what: str) -> DaemonStatus:
        """Waits until `condition(status)` holds."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            status = self.status()
            if condition(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"never came true: {what}; {self.status()}")

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        assert self.process is not None
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        """Ends it, however it is doing."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except (subprocess.TimeoutExpired, SymbiosisError):
                self.kill()
