"""What the daemon is doing: one consistent look, for people and their tools."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

__all__ = [
    "BatchStatus",
    "ClientStatus",
    "DaemonStatus",
    "HoldStatus",
    "LaneStatus",
    "MemoStatus",
    "MemoryStatus",
    "ModelStatus",
    "SpinStatus",
    "Status",
    "StatusReply",
]


class Status(msgspec.Struct, frozen=True, tag="status"):
    """Asks what the daemon is doing."""


class ClientStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connected client, as the daemon sees it."""

    id: int
    name: str
    lane: str
    pid: int
    transport: str
    connected_s: float
    requests: int
    rows: int
    queued: int
    refused: int
    p50_us: float
    """Median time from a request's arrival to its answer, over the recent past; 0 before the first."""
    p99_us: float
    arena_bytes: int
    reasons: tuple[str, ...] = ()
    """Why this transport was chosen, and why not the others."""
    model: str = ""
    """The base that it works on."""
    user: str = ""
    """To whom limits per user apply: `key:NAME`, `tcp` at a port without keys, or the daemon's own user."""


class ModelStatus(msgspec.Struct, frozen=True):
    """One base."""

    name: str
    dtype: str
    bytes: int
    """Of all its weights, each counted once."""
    ops: int
    """Of its catalogue."""
    fingerprint: str
    default: bool
    """Whether it is meant where an address names none."""
    clients: int
    batches: int
    """Computed since the start."""
    rows: int
    """In those batches."""
    quantized: str = ""
    """How its linears are held, if not in `dtype`: `int8` or `nf4`."""


class LaneStatus(msgspec.Struct, frozen=True):
    """One lane of the policy."""

    name: str
    priority: int
    clients: int
    queued_requests: int
    queued_rows: int
    requests: int
    rows: int
    aged: int
    """Requests that ageing had to put before a higher lane."""


class BatchStatus(msgspec.Struct, frozen=True):
    """All batches since the daemon started."""

    count: int
    requests: int
    rows: int
    clients: int
    """Sum over batches of the different clients in it; divided by `count`: the mean occupancy."""
    busy_s: float
    """Seconds spent computing."""


class HoldStatus(msgspec.Struct, frozen=True):
    """What holding has brought since the daemon started, in microseconds."""

    count: int = 0
    """Requests that were held for others."""
    hits: int = 0
    """Holds for which somebody came."""
    expected_us: float = 0.0
    """What all holds together were expected to save, less the waiting."""
    actual_us: float = 0.0
    """What they saved as measured, less what was waited. Negative: holding has cost more than it brought."""
    prediction_error_us: float = 0.0
    """By how much the next arrival of a client is usually predicted wrong."""
    pause_us: float = 0.0
    """How long clients usually take from an answer to the next request: what the error is to be measured by."""
    off: bool = False
    """Whether holding by what is foretold has turned itself off for now, because it did not pay."""
    waited_us: int = 0
    """For how long all of them were held together."""
    missed: int = 0
    """How often somebody was waited for and did not come in time."""
    due_error_us: float = 0.0
    """By how much those who were waited for came earlier or later than predicted, over the last hundred holds."""
    cost_error: float = 0.0
    """By which share batches took more or less than their cost curves said, over the last hundred."""
    together: tuple[str, ...] | UnsetType = UNSET
    """Lanes whose clients all wait for one another for now, because their forwards take no longer that way.
    Left out where there is none: an older reader gets the bytes that it always got."""


class MemoStatus(msgspec.Struct, frozen=True):
    """What is kept of forwards for their backwards."""

    bytes: int = 0
    budget: int = 0
    hits: int = 0
    misses: int = 0
    """Backwards that had to compute again what was not kept."""


class SpinStatus(msgspec.Struct, frozen=True):
    """How often the idle daemon looked for requests before it slept."""

    looks: int = 0
    hits: int = 0
    """Looks in which something came."""


class MemoryStatus(msgspec.Struct, frozen=True):
    """What the daemon holds, in bytes."""

    base: int
    """All bases together."""
    arenas: int
    pss: int
    """Proportional set size of the daemon: shared pages are divided among those who map them."""


class DaemonStatus(msgspec.Struct, frozen=True):
    """One consistent look at the daemon."""

    version: str
    pid: int
    uptime_s: float
    address: str
    model: str
    """The name of the only base, or of the first; `models` has them all."""
    dtype: str
    """Of that base."""
    fingerprint: str
    """Of that base."""
    policy: str
    threads: int
    draining: bool
    clients: tuple[ClientStatus, ...]
    lanes: tuple[LaneStatus, ...]
    batches: BatchStatus
    memory: MemoryStatus
    holds: HoldStatus = HoldStatus()
    memo: MemoStatus = MemoStatus()
    spins: SpinStatus = SpinStatus()
    device: str = "cpu"
    threads_policy: str = ""
    """Who gets how many threads, and how those wait for work, in words."""
    models: tuple[ModelStatus, ...] = ()
    """All bases, in the configuration's order."""


class StatusReply(msgspec.Struct, frozen=True, tag="status_reply"):
    """What the daemon is doing."""

    status: DaemonStatus
