"""Which transport two sides use: symmetric, pure, and with reasons.

Each side says what it can do; a transport is possible when both offer it and their descriptions agree. The
daemon's order of preference decides among the possible ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.wire import Capability

__all__ = ["Choice", "choose"]


class Choice(NamedTuple):
    """The outcome: a transport, and one sentence for each that was considered."""

    transport: str
    reasons: tuple[str, ...]


def choose(daemon: Sequence[Capability], client: Sequence[Capability], scheme: str = "ipc") -> Choice:
    """Returns the first of the daemon's transports that the client can use, too, over an address of that scheme.

    Raises:
        RefusedError: there is none; the reason names every obstacle.
    """
    offered = {capability.transport: capability for capability in client}
    reasons: list[str] = []
    for ours in daemon:
        obstacle = _obstacle(ours, offered.get(ours.transport), scheme)
        if obstacle is None:
            return Choice(ours.transport, (*reasons, f"{ours.transport}: chosen"))
        reasons.append(f"{ours.transport}: {obstacle}")
    raise RefusedError(
        RefusalCode.NO_TRANSPORT,
        "no transport joins client and daemon: " + ("; ".join(reasons) or "the daemon offers none"),
        "run the client on the daemon's host and with the same release",
    )


def _obstacle(ours: Capability, theirs: Capability | None, scheme: str) -> str | None:
    if theirs is None:
        return "the client does not offer it"
    if ours.obstacle or theirs.obstacle:
        return ours.obstacle or theirs.obstacle
    if scheme not in ours.schemes or scheme not in theirs.schemes:
        return f"it does not go with {'an' if scheme == 'ipc' else 'a'} {scheme} address"
    if ours.boot_id != theirs.boot_id:
        return _apart(ours.boot_id, theirs.boot_id)
    if ours.devices and theirs.devices and not set(ours.devices) & set(theirs.devices):
        return "client and daemon reach no common device"
    return None


def _apart(ours: str, theirs: str) -> str:
    """Says how two places differ: each is a kernel's boot id and, where it matters, a `/` and where on it."""
    (our_kernel, _, here), (their_kernel, _, there) = ours.partition("/"), theirs.partition("/")
    if our_kernel != their_kernel:
        return "client and daemon run on two kernels, as on two hosts or in a virtual machine"
    return f"client and daemon run on one kernel, but the daemon in {here}, the client in {there}"
