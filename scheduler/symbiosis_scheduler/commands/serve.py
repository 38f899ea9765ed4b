"""`symbiosis serve`: load a model once and lend it."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from symbiosis_core import config as configuration
from symbiosis_core import logs
from symbiosis_core.openmp import bound_openmp
from symbiosis_core.specs import DType
from symbiosis_scheduler.policies import load_checked
from symbiosis_transports.address import default_address

__all__ = ["serve"]


class DTypeName(StrEnum):
    """Element types a base can be held in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def serve(
    model: Annotated[str, typer.Option(help="smollm2 (embedded), a folder, or a hub id.")] = "smollm2",
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="Where clients connect; may be given twice. [default: a socket in your runtime folder]",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[DTypeName, typer.Option(help="How the base is held.")] = DTypeName.BFLOAT16,
    device: Annotated[str, typer.Option(help="Where the base is held: cpu, cuda or cuda:N.")] = "cpu",
    config: Annotated[Path | None, typer.Option(help="Policy, lanes and limits, in TOML.")] = None,
    private_to: Annotated[int | None, typer.Option(hidden=True, help="Die with this process.")] = None,
) -> None:
    """Load a model once and lend it to every process of this host that asks."""
    bound_openmp()
    logs.setup()
    settings = load_checked(config) if config is not None else configuration.DaemonConfig()
    addresses = listen or [default_address()]

    import uvloop  # torch is imported below this line: after OpenMP is bounded, and not by `symbiosis --help`

    from symbiosis_scheduler.daemon import serve as serve_layers
    from symbiosis_scheduler.devices import find_device
    from symbiosis_scheduler.layers import FrozenLayers
    from symbiosis_scheduler.lending import place_for
    from symbiosis_scheduler.loading import load
    from symbiosis_scheduler.policies import make_policy
    from symbiosis_scheduler.threads import ThreadChoice
    from symbiosis_transports.claim import AddressClaim

    place = find_device(device)
    policy, threads = make_policy(settings), ThreadChoice(settings.compute.threads)
    claims = [AddressClaim(address) for address in addresses]
    try:
        for claim in claims:
            claim.take()  # like all that can be refused: before a minute is spent on loading
        loaded = load(model, DType[dtype.name])
        layers = FrozenLayers(loaded, place_for(loaded.model, settings.lending, place))
        if place != layers.device:
            layers.move_to(place)
        spec = layers.spec
        size = f"{spec.base_bytes / 1e6:.0f} MB, {dtype}, {len(spec.ops)} ops"
        ready = f"serving {spec.name} ({size}) on {layers.device} at {', '.join(addresses)}"
        daemon = serve_layers(
            layers,
            addresses,
            settings,
            policy,
            threads,
            parent=private_to,
            config_file=config,
            on_ready=lambda: typer.echo(ready),
        )
        uvloop.run(daemon)
    finally:
        for claim in claims:
            claim.give_back()
        if private_to is not None:
            _remove_private_folder(Path(addresses[0].removeprefix("ipc://")))


def _remove_private_folder(socket: Path) -> None:
    """Removes what a private daemon has left, and the folder if that was all in it: its owner may be dead."""
    with contextlib.suppress(OSError):
        for leftover in (socket, *(Path(f"{socket}.{end}") for end in ("data", "zmq", "lock"))):
            leftover.unlink(missing_ok=True)
        socket.parent.rmdir()
