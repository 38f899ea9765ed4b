"""Two hosts on one machine: network namespaces that a veth pair joins and nothing else, or a bad line.

The line is made bad by netem, or, where the kernel has none, by a process between the two hosts (`lossy_line`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["DELAY_MS", "LOSS", "TwoHosts", "obstacle"]

ROOT: Final = Path(__file__).parents[2]
DELAY_MS: Final = 1
LOSS: Final = 0.01
"""Of packets, each way."""


class TwoHosts:
    """Entering makes them, leaving removes them. `here` and `there` prefix command lines."""

    def __init__(self, line: str = "cable") -> None:
        """`line`: `cable`, `netem`, or `lossy`, which goes through a process on a host between them."""
        self.line = line
        self.addresses = ("10.213.0.1", "10.213.0.2")
        self._names = (f"sym{os.getpid()}a", f"sym{os.getpid()}b")
        self._between = f"sym{os.getpid()}c"
        self._ends = (f"v{os.getpid()}a", f"v{os.getpid()}b")
        self._far_ends = (f"v{os.getpid()}c", f"v{os.getpid()}d")
        self.here, self.there = (["ip", "netns", "exec", name] for name in self._names)
        self._carrier: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        for name in (*self._names, self._between):
            _run("ip", "netns", "add", name)
            _run("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
        if self.line == "lossy":
            for end, far, name in zip(self._ends, self._far_ends, self._names, strict=True):
                _join((end, name), (far, self._between))
        else:
            _join(*zip(self._ends, self._names, strict=True))
        for name, end, address in zip(self._names, self._ends, self.addresses, strict=True):
            _run("ip", "netns", "exec", name, "ip", "address", "add", f"{address}/24", "dev", end)
        if self.line == "lossy":
            self._carry()
        elif self.line == "netem":
            for prefix, end in zip((self.here, self.there), self._ends, strict=True):
                how = ("delay", f"{DELAY_MS}ms", "loss", f"{LOSS:%}")
                _run(*prefix, "tc", "qdisc", "add", "dev", end, "root", "netem", *how)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._carrier is not None:
            self._carrier.kill()
            self._carrier.communicate()
        for name in (*self._names, self._between):
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def plug(self, state: str) -> None:
        """Pulls the cable (`down`), or puts it back (`up`)."""
        _run(*self.here, "ip", "link", "set", self._ends[0], state)

    def sent_again(self) -> int:
        """How many segments TCP has sent again on both hosts: each of them, or its receipt, was lost."""
        return _sent_again(self.here) + _sent_again(self.there)

    def _carry(self) -> None:
        command = ["ip", "netns", "exec", self._between, sys.executable, "-m", "tests.e2e.lossy_line"]
        command += [*self._far_ends, str(DELAY_MS / 1000), str(LOSS)]
        self._carrier = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._carrier.stdout is not None
        if self._carrier.stdout.readline() != "ready\n":
            raise OSError("frames cannot be carried between two interfaces")


def obstacle(line: str) -> str:
    """Returns why there cannot be two hosts here that such a line joins; empty: there can."""
    hosts = TwoHosts(line)
    try:
        with hosts:
            hosts.sent_again()
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        hosts.__exit__(None, None, None)
        return f"network namespaces joined by {line} are not to be had here: {said}"
    return ""


def _join(*ends: tuple[str, str]) -> None:
    """Joins two ends of a cable, each an interface and a namespace. No packet is larger than a wire would take."""
    (first, here), (second, there) = ends
    # Made where they belong: what fails half-way leaves nothing on this host.
    _run("ip", "link", "add", first, "netns", here, "type", "veth", "peer", "name", second, "netns", there)
    for end, name in ends:
        _run("ip", "netns", "exec", name, "ip", "link", "set", end, "gso_max_segs", "1", "up")


def _sent_again(prefix: list[str]) -> int:
    table = subprocess.run([*prefix, "cat", "/proc/net/snmp"], capture_output=True, text=True, check=True)
    names, values = (line.split() for line in table.stdout.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)
