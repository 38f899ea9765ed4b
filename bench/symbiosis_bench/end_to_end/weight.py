"""What memory tenants take beside the one base, and what a training client takes beside plain PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.figures import Figure, figure, with_lent
from symbiosis_bench.end_to_end.gpu import cuda_bytes
from symbiosis_bench.end_to_end.ground import Daemon
from symbiosis_bench.end_to_end.messages import Decode, Measured, Order, Peak, Peaked, Train
from symbiosis_bench.end_to_end.pairs import reports, same_adapters, take_turns
from symbiosis_bench.end_to_end.settings import Base
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.spread import Spread, ratios, spread
from symbiosis_core.telemetry import pss_bytes

__all__ = ["client_peak", "memory_share", "share"]

_TOKENS: Final = 8
_PAGE_BYTES: Final = 4096
_PEAK_STEPS: Final = 2


def client_peak(site: Site, plain: Crew, split: Crew) -> Figure:
    """Returns `client_peak_activations`."""
    pair, order = (plain, split), Peak(site.scale.peak_shape, _PEAK_STEPS)
    peaks = take_turns(site, pair, f"client_peak {order.shape}", Peaked, order)
    taken = {name: [max(peak.activations, _PAGE_BYTES) for peak in told] for name, told in peaks.items()}
    beside: dict[str, Spread] = {}
    for name, told in peaks.items():
        beside[f"{name}_activations_bytes"] = spread(taken[name])
        beside[f"{name}_process_bytes"] = spread([peak.process for peak in told])
    beside["split_arena_bytes"] = spread([peak.arena for peak in peaks[split.name]])
    rounds = zip(peaks[split.name], peaks[plain.name], strict=True)
    losses = [site.verifier.losses("training", ours, theirs) for ours, theirs in rounds]
    return figure(
        "client_peak_activations",
        ratios(taken[split.name], taken[plain.name]),
        quick=site.settings.quick,
        checks=same_adapters(site, pair) + losses,
        beside=beside | cuda_bytes(peaks),
        notes=reports(*pair),
    )


def memory_share(site: Site, wanted: frozenset[str]) -> Iterator[tuple[str, Figure]]:
    """Yields `memory_share`."""
    site.leave_main()  # whoever else maps the libraries makes everybody's share of them smaller
    measured = _memory_share(site, "split")
    yield "memory_share", with_lent(measured, _memory_share(site, "lent")) if site.lends else measured


def _memory_share(site: Site, kind: str) -> Figure:
    """Weighs clients of a kind. The same ones run on a tiny base first, and then on the big one."""
    with site.daemon_on(site.scale.tiny_base) as daemon:
        tiny = _weigh(site, daemon, site.scale.tiny_base, kind)
    with site.daemon_on(site.scale.big_base) as daemon:
        big = _weigh(site, daemon, site.scale.big_base, kind)
        base_bytes = daemon.status().memory.base
    shares = [
        share(of_daemon, of_clients, clients_on_tiny, base_bytes)
        for (of_daemon, of_clients), (_, clients_on_tiny) in zip(big, tiny, strict=True)
    ]
    beside = {
        "base_bytes": spread([base_bytes]),
        f"{kind}_daemon_bytes": spread([of_daemon for of_daemon, _ in big]),
        f"{kind}_clients_bytes": spread([of_clients for _, of_clients in big]),
        f"{kind}_clients_on_tiny_bytes": spread([of_clients for _, of_clients in tiny]),
        "dedicated_copies": spread([float(len(site.scale.memory_lanes))]),
    }
    notes = {"base": str(site.scale.big_base)}
    return figure("memory_share", spread(shares), quick=site.settings.quick, beside=beside, notes=notes)


def share(of_daemon: int, of_clients: int, clients_on_tiny: int, base_bytes: int) -> float:
    """Returns what daemon and clients take because of the base, in bases."""
    return (of_daemon + of_clients - clients_on_tiny) / base_bytes


def _weigh(site: Site, daemon: Daemon, base: Base, kind: str) -> list[tuple[int, int]]:
    """Returns the PSS of the daemon and of all clients, after each has worked, once a round."""
    weighed = []
    with site.crews(daemon, (kind, site.scale.memory_lanes)) as (crew,):
        orders = _orders(site)
        for number in range(site.scale.crowd_rounds):
            site.progress.say(f"memory_share, width {base.hidden}: round {number + 1}")
            crew.perform(Measured, orders)
            weighed.append((_pss(daemon.status().pid), sum(map(_pss, crew.pids))))
    return weighed


def _orders(site: Site) -> list[Order]:
    work: dict[str, Order] = {"training": Train(site.scale.memory_shape, 2), "inference": Decode(_TOKENS)}
    return [work[lane] for lane in site.scale.memory_lanes]


def _pss(pid: int) -> int:
    if (taken := pss_bytes(pid)) is None:
        raise BenchFailedError("this kernel does not tell what processes really take (/proc/PID/smaps_rollup)")
    return taken
