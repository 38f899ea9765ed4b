"""Policies by name, found by entry points, so that a third party adds one without touching us."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from symbiosis_core import config as configuration
from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import ConfigError, Problem, UsageError
from symbiosis_scheduler.policy import Policy

__all__ = ["GROUP", "check_installed", "load_checked", "make_policy", "policy_class", "policy_names"]

GROUP = "symbiosis.policies"


def policy_names() -> tuple[str, ...]:
    """Returns the names of all installed policies."""
    return tuple(sorted(entry.name for entry in entry_points(group=GROUP)))


def load_checked(file: Path) -> DaemonConfig:
    """Returns the configuration in `file`, whose policy is installed.

    Raises:
        ConfigError: every problem that the core finds, or that its policy is not installed.
    """
    return check_installed(str(file), configuration.load(file))


def check_installed(source: str, settings: DaemonConfig) -> DaemonConfig:
    """Returns `settings`, whose policy is installed.

    Raises:
        ConfigError: it is not.
    """
    if settings.policy.name not in policy_names():
        allowed = f"one of the installed policies: {', '.join(policy_names())}"
        raise ConfigError(source, [Problem("policy.name", settings.policy.name, allowed)])
    return settings


def policy_class(config: DaemonConfig) -> Any:
    """Returns what is installed under the name that `config` gives: a class, or anything that makes a policy.

    Raises:
        UsageError: nothing of that name is installed.
    """
    for entry in entry_points(group=GROUP, name=config.policy.name):
        return entry.load()
    installed = ", ".join(policy_names())
    raise UsageError(f"policy.name = {config.policy.name!r}: no such policy; installed are {installed}")


def make_policy(config: DaemonConfig) -> Policy:
    """Returns the policy that `config` names.

    Raises:
        UsageError: nothing of that name is installed.
    """
    made: Policy = policy_class(config)(config)
    return made
