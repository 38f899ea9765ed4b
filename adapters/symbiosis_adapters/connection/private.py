"""A private daemon for `embedded:NAME`: started by the client, in a folder of its own, and gone with it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from symbiosis_core.errors import DaemonGoneError, UsageError

__all__ = ["PrivateDaemon"]

_START_S = 300.0
"""The first start converts the embedded model, which takes about half a minute; a large one loads for minutes."""
_POLL_S = 0.05


class PrivateDaemon:
    """A daemon that serves one model to this process alone.

    It watches this process and stops when it ends, even by `kill -9`.
    """

    def __init__(self, model: str, dtype: str) -> None:
        """Starts it and waits until it is ready.

        Raises:
            UsageError: it did not start; the message holds what it said.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="symbiosis-"))
        self._owner = os.getpid()
        self.address = f"ipc://{self._folder}/private.sock"
        command = [sys.executable, "-m", "symbiosis_core", "serve", "--model", model, "--dtype", dtype]
        command += ["--listen", self.address, "--private-to", str(self._owner)]
        with tempfile.TemporaryFile() as log:  # nameless: nothing to clean up after whoever is killed first
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            atexit.register(self.stop)
            try:
                self._wait_ready(model, log)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Ends the daemon and removes its folder. May be called twice; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_ready(self, model: str, log: IO[bytes]) -> None:
        deadline = time.monotonic() + _START_S
        while not (self._folder / "private.sock").exists():
            if self._process.poll() is not None:
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise UsageError(f"the private daemon for {model!r} did not start: {said}")
            if time.monotonic() > deadline:
                raise DaemonGoneError(self.address, f"it was not ready within {_START_S:g} s")
            time.sleep(_POLL_S)
