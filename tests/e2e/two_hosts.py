"""Two hosts on one machine: network namespaces that a veth pair joins, and nothing else."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType
from typing import Self

__all__ = ["TwoHosts", "obstacle"]


class TwoHosts:
    """Entering makes them, leaving removes them. `here` and `there` prefix command lines."""

    def __init__(self) -> None:
        self._names = (f"sym{os.getpid()}a", f"sym{os.getpid()}b")
        self._ends = (f"v{os.getpid()}a", f"v{os.getpid()}b")
        self.addresses = ("10.213.0.1", "10.213.0.2")
        self.here, self.there = (["ip", "netns", "exec", name] for name in self._names)

    def __enter__(self) -> Self:
        for name in self._names:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", self._ends[0], "type", "veth", "peer", "name", self._ends[1])
        for name, end, address in zip(self._names, self._ends, self.addresses, strict=True):
            _run("ip", "link", "set", end, "netns", name)
            _run("ip", "netns", "exec", name, "ip", "address", "add", f"{address}/24", "dev", end)
            _run("ip", "netns", "exec", name, "ip", "link", "set", end, "up")
            _run("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def impair(self, *how: str) -> None:
        """Makes both directions slow and lossy, in tc's words."""
        for prefix, end in zip((self.here, self.there), self._ends, strict=True):
            _run(*prefix, "tc", "qdisc", "add", "dev", end, "root", "netem", *how)

    def plug(self, state: str) -> None:
        """Pulls the cable (`down`), or puts it back (`up`)."""
        _run(*self.here, "ip", "link", "set", self._ends[0], state)


def obstacle(*, impaired: bool) -> str:
    """Returns why there cannot be two hosts here; empty: there can."""
    hosts = TwoHosts()
    try:
        with hosts:
            if impaired:
                hosts.impair("delay", "1ms")
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        hosts.__exit__(None, None, None)
        return f"network namespaces{' with netem' if impaired else ''} are not to be had here: {said}"
    return ""


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
