"""A daemon of a run: how it is configured, and what it tells."""

from __future__ import annotations

import msgspec

from symbiosis_bench.processes import Child
from symbiosis_core.config import DEFAULT_LANES
from symbiosis_core.wire import DaemonStatus
from symbiosis_scheduler.commands.status import fetch_status

__all__ = ["Daemon", "configuration"]


class Daemon:
    """A daemon that answers, and the folder of its base."""

    def __init__(self, address: str, folder: str, child: Child) -> None:
        self.address = address
        self.folder = folder
        self.child = child

    def __repr__(self) -> str:
        return f"<Daemon at {self.address}>"

    def status(self) -> DaemonStatus:
        return fetch_status(self.address)


def configuration(threads: int, *, holding: bool = True) -> str:
    """Returns a configuration file: the library's defaults, but for the threads, and holding where it is off."""
    lines = ["[compute]", f"threads = {threads}"]
    for name, lane in DEFAULT_LANES.items() if not holding else ():
        unheld = msgspec.structs.replace(lane, max_hold_us=0)
        lines += [
            f"[lanes.{name}]",
            *(f"{key} = {value}" for key, value in msgspec.structs.asdict(unheld).items()),
        ]
    return "\n".join(lines) + "\n"
