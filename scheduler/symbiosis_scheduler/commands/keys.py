"""`symbiosis keys`: who may come in over a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["keys"]

keys = typer.Typer(help="Make keys for daemons and clients on different hosts.", no_args_is_help=True)


@keys.callback()
def _keys() -> None:
    """Make keys for daemons and clients on different hosts."""


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    folder: Annotated[Path, typer.Option(help="Where it is written.")] = Path("keys"),
) -> None:
    """Make a pair of keys: NAME.key to give away, NAME.key_secret to keep."""
    from symbiosis_transports.keys import ALLOW_VARIABLE, DAEMON_KEY_VARIABLE, KEY_VARIABLE, new_pair

    public, secret = new_pair(folder, name)
    typer.echo(f"{secret}: keep it; {KEY_VARIABLE}={secret} shows it, on either side")
    typer.echo(f"{public}: give it away")
    typer.echo(f"  a client's goes into the folder that the daemon's {ALLOW_VARIABLE} names")
    typer.echo(f"  the daemon's is what {DAEMON_KEY_VARIABLE} names at every client")
