"""`symbiosis policy`: look at policy files before a daemon does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from symbiosis_scheduler.policies import load_checked

__all__ = ["policy"]

policy = typer.Typer(help="Check policy files.", no_args_is_help=True)


@policy.callback()
def _policy() -> None:
    """Check policy files."""


@policy.command()
def check(file: Annotated[Path, typer.Argument(help="A daemon's configuration, in TOML.")]) -> None:
    """Say every error in FILE, with its key, its value and what is allowed."""
    settings = load_checked(file)
    lanes = ", ".join(sorted(settings.lanes, key=lambda name: settings.lanes[name].priority))
    typer.echo(f"{file}: good. Policy {settings.policy.name}, lanes by priority: {lanes}")
