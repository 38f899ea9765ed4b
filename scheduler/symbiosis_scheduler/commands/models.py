"""`symbiosis models`: the bases that a daemon holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from symbiosis_core.wire import ModelStatus
from symbiosis_scheduler.commands.console import wide_console
from symbiosis_scheduler.commands.status import fetch_status, held
from symbiosis_transports.address import default_address

__all__ = ["models"]


def models(
    address: Annotated[str, typer.Option(help="The daemon's address.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the models that a daemon lends: their dtype, bytes, ops and fingerprint."""
    found = fetch_status(address or default_address()).models
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        wide_console().print(_table(found))


def _table(found: Sequence[ModelStatus]) -> Table:
    table = Table(title="models: ipc:///path#name in an address picks one", title_justify="left")
    for heading in ("name", "dtype", "MB", "ops", "clients", "rows", "fingerprint", "default"):
        table.add_column(heading, justify="right" if heading in ("MB", "ops", "clients", "rows") else "left")
    for model in found:
        size = f"{model.bytes / 1e6:.1f}"
        counts = (str(model.ops), str(model.clients), str(model.rows))
        table.add_row(model.name, held(model), size, *counts, model.fingerprint, "yes" if model.default else "")
    return table
