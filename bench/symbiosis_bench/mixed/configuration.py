"""The configuration that a mixed load is measured under: the defaults, or a file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from symbiosis_bench.mixed.clients import SERVES, TRAINS, serving_names, training_names
from symbiosis_core.config import DaemonConfig, LaneConfig
from symbiosis_core.errors import UsageError
from symbiosis_scheduler.decisions.users import user_of
from symbiosis_scheduler.policies import load_checked
from symbiosis_scheduler.rules import lane_for

__all__ = ["Configuration", "read_configuration"]


class Configuration(NamedTuple):
    """What the daemon is started with."""

    file: Path | None
    """None: the defaults, and the threads of the settings."""
    read: DaemonConfig
    serving: LaneConfig
    """The lane of those that serve, whose targets count."""


def read_configuration(file: Path | None, serving: int = 1) -> Configuration:
    """Returns what is in `file`, for so many clients that serve.

    Raises:
        ConfigError: it is none, or its policy is not installed.
        UsageError: it names bases, has no lane for one of the clients, or puts those that serve into several.
    """
    read = DaemonConfig() if file is None else load_checked(file)
    if read.models:
        raise UsageError(f"{file} names models; leave [[models]] out, --model says which base is measured")
    for name in training_names():
        _lane(file, read, TRAINS, name)
    first, *others = serving_names(serving)
    lane = _lane(file, read, SERVES, first)
    for name in others:
        if (its := _lane(file, read, SERVES, name)) != lane:
            raise UsageError(f"{file} puts {first} into lane {lane!r} and {name} into {its!r}; put both into one")
    return Configuration(file, read, read.lanes[lane])


def _lane(file: Path | None, config: DaemonConfig, wish: str, name: str) -> str:
    lane = lane_for(config, wish=wish, name=name, user=user_of("", here=True), key="")
    if lane not in config.lanes:
        raise UsageError(
            f"{file} has no lane {wish!r}, which {name} asks for; add it, or a rule that puts {name} elsewhere"
        )
    return lane
