"""What a service is, and where it can be in its life."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

__all__ = ["Service", "ServiceState"]


class Service(Protocol):
    """One part of the daemon."""

    @property
    def name(self) -> str:
        """Its name in logs, errors and statistics; unique in its kernel."""

    async def start(self) -> None:
        """Returns when the service is ready to serve. Whoever raises here, or is cancelled, cleans up first."""

    async def run(self) -> None:
        """Serves until cancelled, and then ends within a second.

        May return by itself once a stop was asked for. Returning before that is a failure, as is raising.
        """

    async def stop(self) -> None:
        """Drains and releases everything. Called once after `start` returned, even where `run` has failed."""


class ServiceState(StrEnum):
    """Where a service is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    ABANDONED = "abandoned"
