"""Puts a daemon together: the bases, one data plane for them all in its thread, the control plane beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import UsageError
from symbiosis_core.kernel import Kernel, Service, install_signals
from symbiosis_core.logs import event, get_logger
from symbiosis_core.openmp import let_team_go
from symbiosis_scheduler.bases import Base, Bases
from symbiosis_scheduler.bookkeeping import Bookkeeping
from symbiosis_scheduler.cache import cache_folder
from symbiosis_scheduler.config_watch import ConfigWatch
from symbiosis_scheduler.control import ControlPlane
from symbiosis_scheduler.cost_file import FOLDER, CostFile
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.decisions.costs import Costs
from symbiosis_scheduler.decisions.policy import Policy
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.execution.executor import Executor
from symbiosis_scheduler.execution.streams import open_streams, plans_in_flight
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.packing import Packing
from symbiosis_scheduler.grants import Grants
from symbiosis_scheduler.reconfiguration import Reconfiguration
from symbiosis_scheduler.trimming import Trimming
from symbiosis_transports.address import parse
from symbiosis_transports.ports import Listener, Placeable, Transport
from symbiosis_transports.registry import names, transport

__all__ = ["serve"]

log = get_logger(__name__)

_DRAIN_S = 8.0
_STOP_S = 10.0


async def serve(
    bases: Bases,
    addresses: Sequence[str],
    config: DaemonConfig,
    policy: Policy,
    threads: ThreadChoice,
    *,
    parent: int | None = None,
    config_file: Path | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM, SIGINT, the end of the process `parent`, or the first failure.

    `config_file` is where `config` came from: when it changes, it is applied.

    The caller holds the `AddressClaim` of each address.

    Raises:
        UsageError: an address cannot be written, or there is no process `parent`.
        ServiceFailedError: a service failed; its cause is the reason.
    """
    layers = [base.layers for base in bases]
    device, packing = layers[0].device, Packing(config.compute.packed_bytes)
    for each in layers:
        each.pack_with(packing)
    let_team_go()  # loading and packing computed here; from now on the data plane's thread does
    grants = Grants(config.limits, config.lanes)
    costs = [_cost_file(base, threads) for base in bases]
    transports = {name: _for_device(transport(name), str(device)) for name in names()}

    def open_plane(loop: asyncio.AbstractEventLoop) -> tuple[DataPlane, list[Listener]]:
        most, known = plans_in_flight(device), Costs([file.load() for file in costs])
        catalogues = [each.spec.ops for each in layers]
        beside = device.type == "cpu" and config.compute.beside
        state = SchedulerState(catalogues, config, policy, max_in_flight=most, beside=beside, costs=known)
        priorities = [lane.priority for lane in config.lanes.values()]
        streams = open_streams(device, priorities, lambda: plane.ended_beside())
        executor = Executor(layers, streams, threads, memo_bytes=config.compute.memo_bytes)
        plane = DataPlane(loop, state, executor, grants, config, lambda name: bases.find(name).layers.lent)
        doors = [
            one.listen(loop, one.endpoint(address), plane)
            for address in addresses
            for one in transports.values()
            if parse(address).scheme in one.capability().schemes and _offered(one, device.type)
        ]
        return plane, doors

    data = DataPlaneThread(open_plane, drain_s=_DRAIN_S)
    live = Reconfiguration(config, data, grants)
    control = ControlPlane(addresses, bases, live, grants, transports, data, threads)
    watch = [ConfigWatch(config_file, live)] if config_file is not None else []
    services: list[Service] = [data, Bookkeeping(data, costs), Trimming(), control, *watch, _Ready(on_ready)]
    kernel = Kernel(services, stop_timeout_s=_STOP_S)
    with install_signals(kernel), _tied_to(parent, kernel):
        await kernel.run()


def _cost_file(base: Base, threads: ThreadChoice) -> CostFile:
    spec, device = base.layers.spec, str(base.layers.device)
    of = (spec.fingerprint, spec.dtype.name.lower(), device, threads.policy)
    return CostFile(cache_folder() / FOLDER, *of, model=spec.name)


class _Ready:
    """The last service: says that all others are up."""

    name = "ready"

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready

    async def start(self) -> None:
        self._on_ready()

    async def run(self) -> None:
        await _for_ever()

    async def stop(self) -> None:
        pass


def _for_device(one: Transport, device: str) -> Transport:
    return one.placed(device) if isinstance(one, Placeable) else one


def _offered(one: Transport, device_type: str) -> bool:
    """Whether the transport can be used here. Why not is in `symbiosis status`, and logged on a GPU."""
    obstacle = one.capability().obstacle
    if obstacle and device_type != "cpu":
        log.warning(event("rows travel through host memory", not_used=one.name, reason=obstacle))
    return not obstacle


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


@contextmanager
def _tied_to(parent: int | None, kernel: Kernel) -> Iterator[None]:
    """Stops the daemon when `parent` ends, however it ends."""
    if parent is None:
        yield
        return
    try:
        fd = os.pidfd_open(parent)
    except OSError as error:
        raise UsageError(
            f"cannot watch process {parent}: {error.strerror}; give the pid of a process that runs"
        ) from None
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(fd)
        kernel.request_stop(f"process {parent} has ended")

    loop.add_reader(fd, ended)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        os.close(fd)
