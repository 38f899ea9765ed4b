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

from symbiosis_core.errors import DaemonGoneError, UsageError

__all__ = ["start_private_daemon"]

_START_S = 300.0
"""The first start converts the embedded model, which takes about half a minute; a large one loads for minutes."""
_POLL_S = 0.05


def start_private_daemon(model: str, dtype: str) -> str:
    """Starts a daemon that serves `model` to this process alone and returns its address.

    It watches this process and stops when it ends, even by `kill -9`.

    Raises:
        UsageError: it did not start; the message holds what it said.
    """
    folder = Path(tempfile.mkdtemp(prefix="symbiosis-"))
    address = f"ipc://{folder}/private.sock"
    command = [sys.executable, "-m", "symbiosis_core", "serve", "--model", model, "--dtype", dtype]
    command += ["--listen", address, "--private-to", str(os.getpid())]
    with tempfile.TemporaryFile() as log:  # nameless: there is nothing to clean up after whoever is killed first
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        atexit.register(_stop, daemon, folder, os.getpid())
        deadline = time.monotonic() + _START_S
        while not (folder / "private.sock").exists():
            if daemon.poll() is not None:
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise UsageError(f"the private daemon for {model!r} did not start: {said}")
            if time.monotonic() > deadline:
                daemon.kill()
                raise DaemonGoneError(address, f"the private daemon was not ready within {_START_S:g} s")
            time.sleep(_POLL_S)
    return address


def _stop(daemon: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if os.getpid() != owner:  # a forked child leaves its parent's daemon alone
        return
    if daemon.poll() is None:
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    shutil.rmtree(folder, ignore_errors=True)
