"""One look at a daemon: who sits where, what was computed over which base, what all of it takes.

Runs in the data plane's thread, so that all figures are of one moment.
"""

from __future__ import annotations

import os
from collections import Counter

from symbiosis_core import __version__
from symbiosis_core.clock import monotonic_us
from symbiosis_core.ids import FIRST_BASE
from symbiosis_core.openmp import waiting_told
from symbiosis_core.wire import ClientStatus, DaemonStatus, MemoryStatus, MemoStatus, ModelStatus, SpinStatus
from symbiosis_scheduler.bases import Bases
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.decisions.statistics import ClientStatistics, SchedulerStatistics
from symbiosis_scheduler.execution.threads import ThreadChoice

__all__ = ["survey"]


def survey(
    plane: DataPlane, bases: Bases, threads: ThreadChoice, policy: str, where: str, since_us: int
) -> DaemonStatus:
    """Returns what the daemon does now. Its PSS is left out: asking for it takes too long for this thread."""
    statistics, now_us = plane.state.statistics(), monotonic_us()
    clients = tuple(_client(plane, bases, counted, now_us) for counted in statistics.clients)
    models = _models(bases, statistics)
    first, held_bytes = models[FIRST_BASE], sum(model.bytes for model in models)
    return DaemonStatus(
        version=__version__,
        pid=os.getpid(),
        uptime_s=(now_us - since_us) / 1e6,
        address=where,
        model=first.name,
        dtype=first.dtype,
        fingerprint=first.fingerprint,
        policy=policy,
        threads=threads.most,
        draining=plane.draining,
        clients=clients,
        lanes=statistics.lanes,
        batches=statistics.batches,
        memory=MemoryStatus(base=held_bytes, arenas=sum(client.arena_bytes for client in clients), pss=0),
        holds=statistics.holds,
        memo=MemoStatus(plane.memo.bytes, plane.memo.budget_bytes, plane.memo.hits, plane.memo.misses),
        spins=SpinStatus(plane.seats.watch.looks, plane.seats.watch.hits),
        device=str(bases[FIRST_BASE].layers.device),
        threads_policy="; ".join(filter(None, (threads.policy, waiting_told()))),
        models=models,
    )


def _models(bases: Bases, statistics: SchedulerStatistics) -> tuple[ModelStatus, ...]:
    members = Counter(client.base for client in statistics.clients)
    return tuple(
        ModelStatus(
            name=base.name,
            dtype=spec.dtype.name.lower(),
            bytes=spec.base_bytes,
            ops=len(spec.ops),
            fingerprint=spec.fingerprint,
            default=base.name == bases.default,
            clients=members[base.id],
            batches=counted.batches,
            rows=counted.rows,
            quantized=base.layers.quantized,
        )
        for base, counted in zip(bases, statistics.bases, strict=True)
        for spec in (base.layers.spec,)
    )


def _client(plane: DataPlane, bases: Bases, counted: ClientStatistics, now_us: int) -> ClientStatus:
    """Joins what the scheduler counts with who sits where."""
    seat = plane.seats[counted.id]
    return ClientStatus(
        id=counted.id,
        name=seat.tenant.name,
        lane=counted.lane,
        pid=seat.tenant.pid,
        transport=seat.tenant.transport,
        reasons=seat.tenant.reasons,
        connected_s=(now_us - seat.tenant.since_us) / 1e6,
        requests=counted.requests,
        rows=counted.rows,
        queued=counted.queued,
        refused=counted.refused,
        p50_us=seat.latency.quantile(0.5, now_us),
        p99_us=seat.latency.quantile(0.99, now_us),
        arena_bytes=seat.channel.arena_bytes,
        model=bases[counted.base].name,
        user=seat.tenant.user,
    )
