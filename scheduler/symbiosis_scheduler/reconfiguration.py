"""Holds the daemon to another configuration while it works: at once, between two plans, or not at all.

Everything that can be wrong is found before anything changes. What waits keeps waiting, in the new lanes' order;
no request is lost, and nobody is told. What cannot change under a running daemon is said, and waits for the next
start.
"""

from __future__ import annotations

import asyncio
from typing import Final

from symbiosis_core.config import DaemonConfig
from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.grants import Grants
from symbiosis_scheduler.guarded import guarded
from symbiosis_scheduler.policies import make_policy

__all__ = ["Reconfiguration"]

log = get_logger(__name__)


class Reconfiguration:
    """The configuration that holds now, and the way to the next."""

    def __init__(self, config: DaemonConfig, data: DataPlaneThread, grants: Grants) -> None:
        self.config = config
        self._began_with: Final = config
        self._data = data
        self._grants = grants
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Reconfiguration, now {self.config.policy.name}>"

    async def apply(self, wanted: DaemonConfig, source: str) -> tuple[str, ...]:
        """Makes `wanted` hold, and returns what of it only holds after a new start.

        Raises:
            ConfigError: its policy is not installed, or cannot be made. Nothing has changed.
            RefusedError: somebody is in a lane that it does not have. Nothing has changed.
        """
        policy = guarded(make_policy(wanted, source), wanted)
        async with self._lock:
            await self._data.call(lambda: self._data.plane.adopt(wanted, policy))
            self._grants.adopt(wanted.limits, wanted.lanes)
            self.config = wanted
        lanes = ",".join(wanted.lanes)
        log.info(event("configuration applied", source=source, policy=wanted.policy.name, lanes=lanes))
        return self._notes(wanted)

    def _notes(self, wanted: DaemonConfig) -> tuple[str, ...]:
        notes = []
        if wanted.compute != self._began_with.compute:
            notes.append("[compute] holds from the next start of the daemon on")
        if wanted.models != self._began_with.models:
            notes.append("[[models]] hold from the next start of the daemon on")
        if wanted.lending != self._began_with.lending:
            notes.append("[lending] holds from the next start of the daemon on")
        if wanted.limits.segments != self._began_with.limits.segments:
            notes.append("limits.segments holds from the next start of the daemon on")
        sizes = (wanted.limits.slots, wanted.limits.slot_bytes)
        if sizes != (self._began_with.limits.slots, self._began_with.limits.slot_bytes):
            notes.append("limits.slots and limits.slot_bytes hold for clients that come from now on")
        return tuple(notes)
