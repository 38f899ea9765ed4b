"""`symbiosis serve`: load a model once, or several, and lend them."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from symbiosis_core import logs
from symbiosis_core.config import DaemonConfig, ModelConfig
from symbiosis_core.errors import UsageError
from symbiosis_core.heaps import share_heap
from symbiosis_core.openmp import bound_openmp
from symbiosis_core.specs import DType, ModelSpec
from symbiosis_scheduler.config_warnings import log_warnings
from symbiosis_scheduler.policies import load_checked
from symbiosis_transports.address import default_address

__all__ = ["serve"]


class Quantization(StrEnum):
    """How linears can be held."""

    NONE = "none"
    INT8 = "int8"
    NF4 = "nf4"


class DTypeName(StrEnum):
    """Element types a base can be held in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def serve(
    model: Annotated[
        str | None,
        typer.Option(help="smollm2 (embedded), a folder, or a hub id. [default: smollm2]", show_default=False),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="Where clients connect; may be given twice. [default: a socket in your runtime folder]",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        DTypeName | None, typer.Option(help="How the base is held. [default: bfloat16]", show_default=False)
    ] = None,
    quantize: Annotated[
        Quantization | None,
        typer.Option(
            help="Linears in eight bits (int8, by torchao) or four (nf4, by bitsandbytes). [default: none]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the base is held: cpu, cuda or cuda:N.")] = "cpu",
    config: Annotated[Path | None, typer.Option(help="Models, policy, lanes and limits, in TOML.")] = None,
    private_to: Annotated[int | None, typer.Option(hidden=True, help="Die with this process.")] = None,
) -> None:
    """Load a model once, or several, and lend them to every process of this host that asks."""
    bound_openmp()
    share_heap()
    logs.setup()
    settings = load_checked(config) if config is not None else DaemonConfig()
    if config is not None:
        log_warnings(settings, str(config))
    models = _wanted(settings, model, dtype, quantize)
    addresses = listen or [default_address()]

    import uvloop  # torch is imported below this line: after OpenMP is bounded, and not by `symbiosis --help`

    from symbiosis_scheduler.bases import Bases
    from symbiosis_scheduler.daemon import serve as serve_bases
    from symbiosis_scheduler.execution.threads import ThreadChoice
    from symbiosis_scheduler.frozen.devices import find_device
    from symbiosis_scheduler.frozen.layers import FrozenLayers
    from symbiosis_scheduler.frozen.lending import place_for
    from symbiosis_scheduler.frozen.loading import load
    from symbiosis_scheduler.guarded import guarded
    from symbiosis_scheduler.policies import make_policy
    from symbiosis_transports.claim import AddressClaim

    place = find_device(device)
    policy, threads = guarded(make_policy(settings), settings), ThreadChoice(settings.compute.threads)
    claims = [AddressClaim(address) for address in addresses]
    try:
        for claim in claims:
            claim.take()  # like all that can be refused: before a minute is spent on loading
        layers, default = [], ""
        for wanted in models:
            loaded = load(wanted.source, DType[wanted.dtype.upper()], wanted.name, wanted.quantize)
            layers.append(FrozenLayers(loaded, place_for(loaded.model, settings.lending, place)))
            if place != layers[-1].device:
                layers[-1].move_to(place)
            default = loaded.name if wanted.default else default
        served = ", ".join(_told(each.spec) for each in layers)
        ready = f"serving {served} on {place} at {', '.join(addresses)}"
        daemon = serve_bases(
            Bases(layers, default),
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


def _wanted(
    settings: DaemonConfig, model: str | None, dtype: DTypeName | None, quantize: Quantization | None
) -> tuple[ModelConfig, ...]:
    """Returns the bases that the configuration names, or else the one that the command line does."""
    if not settings.models:
        as_told = {"dtype": (dtype or DTypeName.BFLOAT16).value, "quantize": (quantize or Quantization.NONE).value}
        return (msgspec.convert({"source": model or "smollm2", **as_told}, ModelConfig),)
    if (model, dtype, quantize) != (None, None, None):
        raise UsageError("the configuration names its models; leave --model, --dtype and --quantize out")
    return settings.models


def _told(spec: ModelSpec) -> str:
    return f"{spec.name} ({spec.base_bytes / 1e6:.0f} MB, {spec.dtype.name.lower()}, {len(spec.ops)} ops)"


def _remove_private_folder(socket: Path) -> None:
    """Removes what a private daemon has left, and the folder if that was all in it: its owner may be dead."""
    with contextlib.suppress(OSError):
        for leftover in (socket, *(Path(f"{socket}.{end}") for end in ("data", "zmq", "lock"))):
            leftover.unlink(missing_ok=True)
        socket.parent.rmdir()
