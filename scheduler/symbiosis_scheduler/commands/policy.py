"""`symbiosis policy`: look at configuration files before a daemon does, and give them to one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace
from rich.table import Table

from symbiosis_core import toml_check
from symbiosis_core.errors import UsageError
from symbiosis_core.wire import Configure, Configured
from symbiosis_scheduler.commands.console import check_outputs, check_writable, verbatim, wide_console
from symbiosis_scheduler.config_warnings import warnings
from symbiosis_scheduler.decisions.explanations import Delay, explain
from symbiosis_scheduler.policies import load_checked, policy_class
from symbiosis_transports.address import default_address

__all__ = ["policy"]

policy = typer.Typer(help="Check, explain and apply policy files.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A daemon's configuration, in TOML.")]


@policy.callback()
def _policy() -> None:
    """Check, explain and apply policy files."""


@policy.command()
def check(file: File) -> None:
    """Say every error in FILE, with its key, its value and what is allowed, and what can never take effect."""
    settings = load_checked(file)
    for line in warnings(settings, policy_class(settings)):
        typer.echo(f"warning: {file}: {line}", err=True)
    lanes = ", ".join(sorted(settings.lanes, key=lambda name: settings.lanes[name].priority))
    typer.echo(f"{file}: good. Policy {settings.policy.name}, lanes by priority: {lanes}")


@policy.command("explain")
def explain_file(
    file: File,
    costs: Annotated[
        Path | None,
        typer.Option(help="A file of measured costs. [default: the one written last]", show_default=False),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Costs of this model, as `symbiosis models` calls it.", show_default=False)
    ] = "",
    gpu: Annotated[
        bool, typer.Option("--gpu", help="On a GPU, where nothing is computed beside anything.")
    ] = False,
) -> None:
    """Say what FILE means, and who can delay whom by how much at most, by the measured costs of ops."""
    from symbiosis_scheduler.measured import Measured

    settings = load_checked(file)
    if gpu:
        settings = replace(settings, compute=replace(settings.compute, beside=False))
    measured = Measured.read(costs, model)
    said = explain(settings, policy_class(settings), measured.longest_us)
    console = wide_console()
    for sentence in said.sentences:
        console.print(verbatim(sentence), soft_wrap=True)
    if said.delays:
        console.print(_table(said.delays))
        console.print(measured.told, highlight=False, soft_wrap=True)


@policy.command()
def apply(
    file: File,
    address: Annotated[str, typer.Option(help="The daemon's address.", show_default=False)] = "",
) -> None:
    """Hold a running daemon to FILE, from its next batch on. A bad file changes nothing."""
    from symbiosis_transports.zmq_link import ControlClient

    settings = load_checked(file)
    for line in warnings(settings, policy_class(settings)):
        typer.echo(f"warning: {file}: {line}", err=True)
    where = address or default_address()
    with ControlClient(where) as link:
        done = link.ask(Configure(str(file), toml_check.read(file)))
    assert isinstance(done, Configured)  # the conversation lets nothing else through
    typer.echo(f"{where}: applied. Policy {done.policy}, lanes: {', '.join(done.lanes)}")
    for note in done.notes:
        typer.echo(f"note: {note}")


@policy.command()
def simulate(
    trace: Annotated[Path, typer.Argument(help="What `symbiosis trace record` wrote.")],
    policies: Annotated[list[Path], typer.Option("--policy", help="A configuration; give several to compare.")],
    plot: Annotated[Path | None, typer.Option(help="Draw latencies into this SVG.", show_default=False)] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures into this file.", show_default=False)
    ] = None,
    clients: Annotated[int, typer.Option(min=0, max=100_000, help="So many instead of the trace's.")] = 0,
    devices: Annotated[int, typer.Option(min=1, max=1024, help="A daemon on each; clients are dealt out.")] = 1,
    requests: Annotated[
        int, typer.Option(min=0, help="Begin again until so many are answered. 0: once; not with --arrivals.")
    ] = 0,
    arrivals: Annotated[
        float,
        typer.Option(
            min=0, max=1000, help="Let prompts arrive so many times as often. 0: after the answer before."
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    torn: Annotated[bool, typer.Option("--torn", help="Play what is whole of a trace that is not.")] = False,
) -> None:
    """Play TRACE again in virtual time under each configuration, and lay the figures side by side."""
    from symbiosis_scheduler.commands.simulation import run, show, write

    if requests and arrivals:
        raise UsageError("where prompts arrive, as many do as in the trace; leave --requests or --arrivals out")
    settings = {str(file): load_checked(file) for file in policies}
    outputs = [file for file in (json, plot) if file is not None]
    check_outputs(outputs, [trace, *policies])

    def ready() -> None:
        for file in outputs:
            check_writable(file)

    how = {"clients": clients, "devices": devices, "requests": requests, "seed": seed}
    worlds = run(trace, settings, **how, arrivals=arrivals, torn=torn, ready=ready)
    write(worlds, json, plot)  # first: who reads the tables may have gone
    show(worlds)


def _table(delays: tuple[Delay, ...]) -> Table:
    table = Table(title="a request of ... waits for rows of ... at most", title_justify="left")
    for heading in ("waiting", "behind", "at most", "measured"):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for delay in delays:
        most = "" if delay.most_us is None else f"{delay.most_us / 1e3:,.1f} ms"
        table.add_row(verbatim(delay.waiting), verbatim(delay.behind), delay.most, most)
    return table
