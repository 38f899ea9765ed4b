"""Policies by name, found by entry points, so that a third party adds one without touching us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from symbiosis_core import config as configuration
from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import ConfigError, Problem
from symbiosis_scheduler.decisions.policy import Policy

__all__ = ["GROUP", "check_policy", "load_checked", "make_policy", "policy_class", "policy_names"]

GROUP = "symbiosis.policies"
_NO_FILE: Final = "the configuration"


def policy_names() -> tuple[str, ...]:
    """Returns the names of all installed policies."""
    return tuple(sorted(entry.name for entry in entry_points(group=GROUP)))


def load_checked(file: Path) -> DaemonConfig:
    """Returns the configuration in `file`, whose policy can be made.

    Raises:
        ConfigError: every problem that the core finds, or why there is no such policy.
    """
    return check_policy(str(file), configuration.load(file))


def check_policy(source: str, settings: DaemonConfig) -> DaemonConfig:
    """Returns `settings`, whose policy can be made.

    Raises:
        ConfigError: it is not installed, or cannot be imported or made.
    """
    make_policy(settings, source)
    return settings


def policy_class(config: DaemonConfig, source: str = _NO_FILE) -> Any:
    """Returns what is installed under the name that `config` gives: a class, or anything that makes a policy.

    Raises:
        ConfigError: nothing of that name is installed, or its import fails.
    """
    for entry in entry_points(group=GROUP, name=config.policy.name):
        with _problems_of(config, source, f"importing {entry.value}"):
            return entry.load()
    raise _problem(config, source, f"one of the installed policies: {', '.join(policy_names())}")


def make_policy(config: DaemonConfig, source: str = _NO_FILE) -> Policy:
    """Returns the policy that `config` names. `source` names the configuration in errors.

    Raises:
        ConfigError: nothing of that name is installed, or it cannot be imported or made.
    """
    maker = policy_class(config, source)
    with _problems_of(config, source, "making it"):
        made: Policy = maker(config)
        plan = getattr(made, "plan", None)
        bool(getattr(made, "beside", False))  # may be a property with a bug, and the daemon reads it
    if not callable(plan):
        raise _problem(config, source, f"a policy has a method plan(); {type(made).__name__} has none")
    return made


@contextmanager
def _problems_of(config: DaemonConfig, source: str, attempt: str) -> Iterator[None]:
    """Whatever somebody else's code raises meanwhile is a mistake in the configuration that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a module that was a script ends in sys.exit()
        why = f"{type(error).__name__}: {error}"
        raise _problem(config, source, f"a policy that can be used; {attempt} raised {why}") from error


def _problem(config: DaemonConfig, source: str, allowed: str) -> ConfigError:
    return ConfigError(source, [Problem("policy.name", config.policy.name, allowed)])
