"""`symbiosis policy`: look at policy files before a daemon does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from symbiosis_core import config as configuration
from symbiosis_core.errors import ConfigError, Problem
from symbiosis_scheduler.policies import policy_names

__all__ = ["policy"]

policy = typer.Typer(help="Check policy files.", no_args_is_help=True)


@policy.callback()
def _policy() -> None:
    """Check policy files."""


@policy.command()
def check(file: Annotated[Path, typer.Argument(help="A daemon's configuration, in TOML.")]) -> None:
    """Say every error in FILE, with its key, its value and what is allowed."""
    settings = configuration.load(file)
    if settings.policy.name not in policy_names():
        allowed = f"one of the installed policies: {', '.join(policy_names())}"
        raise ConfigError(str(file), [Problem("policy.name", settings.policy.name, allowed)])
    lanes = ", ".join(sorted(settings.lanes, key=lambda name: settings.lanes[name].priority))
    typer.echo(f"{file}: good. Policy {settings.policy.name}, lanes by priority: {lanes}")
