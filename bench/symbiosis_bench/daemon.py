"""A daemon of our own as a child process: how it is started, and whether it answers yet."""

from __future__ import annotations

import os
import sys

from symbiosis_core.errors import DaemonGoneError
from symbiosis_scheduler.commands.status import fetch_status

__all__ = ["answers", "serve_command"]


def serve_command(model: str, address: str, *options: str) -> list[str]:
    """Returns the command line of a daemon that dies with this process.

    The socket needs a folder of its own: the daemon removes it when this process dies without a word.
    """
    command = [sys.executable, "-P", "-m", "symbiosis_core", "serve", "--model", model, "--listen", address]
    return [*command, "--private-to", str(os.getpid()), *options]


def answers(address: str) -> bool:
    """Says whether there is a daemon at `address` that answers."""
    try:
        fetch_status(address)
    except DaemonGoneError:
        return False
    return True
