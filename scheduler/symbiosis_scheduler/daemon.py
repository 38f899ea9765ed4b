"""Puts a daemon together: the frozen layers, the data plane in its thread, the control plane beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import UsageError
from symbiosis_core.kernel import Kernel, Service, install_signals
from symbiosis_scheduler.bookkeeping import Bookkeeping
from symbiosis_scheduler.cache import cache_folder
from symbiosis_scheduler.config_watch import ConfigWatch
from symbiosis_scheduler.control import ControlPlane
from symbiosis_scheduler.cost_file import FOLDER, CostFile
from symbiosis_scheduler.costs import Costs
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.executor import Executor
from symbiosis_scheduler.grants import Grants
from symbiosis_scheduler.layers import FrozenLayers
from symbiosis_scheduler.packing import Packing
from symbiosis_scheduler.policy import Policy
from symbiosis_scheduler.reconfiguration import Reconfiguration
from symbiosis_scheduler.state import SchedulerState
from symbiosis_scheduler.streams import open_streams, plans_in_flight
from symbiosis_scheduler.threads import ThreadChoice
from symbiosis_transports.address import parse
from symbiosis_transports.ports import Listener
from symbiosis_transports.registry import names, transport

__all__ = ["serve"]

_DRAIN_S = 8.0
_STOP_S = 10.0


async def serve(
    layers: FrozenLayers,
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
    layers.pack_with(Packing(config.compute.packed_bytes))
    grants = Grants(config.limits, config.lanes)
    dtype = layers.spec.dtype.name.lower()
    costs = CostFile(cache_folder() / FOLDER, layers.spec.fingerprint, dtype, str(layers.device), threads.policy)
    transports = {name: transport(name) for name in names()}

    def open_plane(loop: asyncio.AbstractEventLoop) -> tuple[DataPlane, list[Listener]]:
        most = plans_in_flight(layers.device)
        state = SchedulerState([layers.spec.ops], config, policy, max_in_flight=most, costs=Costs([costs.load()]))
        streams = open_streams(layers.device, [lane.priority for lane in config.lanes.values()])
        executor = Executor([layers], streams, threads, memo_bytes=config.compute.memo_bytes)
        plane = DataPlane(loop, state, executor, grants, config, layers.lent)
        doors = [
            one.listen(loop, one.endpoint(address), plane)
            for address in addresses
            for one in transports.values()
            if parse(address).scheme in one.capability().schemes
        ]
        return plane, doors

    data = DataPlaneThread(open_plane, drain_s=_DRAIN_S)
    live = Reconfiguration(config, data, grants)
    control = ControlPlane(addresses, layers, live, grants, transports, data, threads)
    watch = [ConfigWatch(config_file, live)] if config_file is not None else []
    services: list[Service] = [data, Bookkeeping(data, [costs]), control, *watch, _Ready(on_ready)]
    kernel = Kernel(services, stop_timeout_s=_STOP_S)
    with install_signals(kernel), _tied_to(parent, kernel):
        await kernel.run()


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
