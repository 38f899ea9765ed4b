"""The kinds of contenders: how a process comes by its base, and who computes for it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Kind"]


class Kind(StrEnum):
    """A contender's kind, which is also its name in figures."""

    PLAIN = "plain"
    """Transformers and PEFT in one process, nothing of ours."""
    COPIED = "copied"
    """Plain processes with weights of their own, as after any load that converts."""
    FORKED = "forked"
    """Plain processes that one process forks after it has loaded, so that they share its pages."""
    SPLIT = "split"
    """A client of the daemon. Its decode steps are captured, unless the run is told otherwise."""
    EAGER = "eager"
    """A client whose decode steps are not captured, which is the library's default."""
    UNHELD = "unheld"
    """The same as `split`, of a daemon that holds no request for others."""
    LENT = "lent"
    """A client that computes by itself with the daemon's weights."""

    @property
    def forks(self) -> bool:
        """Whether one process is started for all members."""
        return self in (Kind.COPIED, Kind.FORKED)

    @property
    def asks(self) -> bool:
        """Whether the daemon computes for it."""
        return self in (Kind.SPLIT, Kind.EAGER, Kind.UNHELD)

    @property
    def captured(self) -> bool:
        """Whether its decode steps are captured, where that is asked for."""
        return self in (Kind.SPLIT, Kind.UNHELD)
