"""Names for the numbers that cross floors, so that one cannot be passed for another."""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path
from typing import Final, NewType

__all__ = [
    "FIRST_BASE",
    "BaseId",
    "ClientId",
    "Generation",
    "OpId",
    "SlotIndex",
    "Token",
    "boot_id",
    "new_token",
    "process_namespace",
]

ClientId = NewType("ClientId", int)
"""A connected client, unique during the life of one daemon."""
BaseId = NewType("BaseId", int)
"""One of a daemon's bases: its place among them."""
FIRST_BASE: Final = BaseId(0)
"""In a daemon of one base the only one."""
OpId = NewType("OpId", int)
"""An op. Clients and catalogues count within one base, by the position in `ModelSpec.ops`; the scheduler counts on
through all bases. With one base both count alike."""
SlotIndex = NewType("SlotIndex", int)
"""A slot of one client's arena."""
Generation = NewType("Generation", int)
"""How often a slot has been published; tells an answer from the answer before."""
Token = NewType("Token", str)
"""A one-time secret that ties a data connection to the control conversation that asked for it."""


def new_token() -> Token:
    """Returns an unguessable token of 128 bits."""
    return Token(secrets.token_hex(16))


_BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """Returns the kernel's boot id: equal on both sides exactly when they share one running kernel.

    Where the kernel does not say it (no /proc), the value is this process's own and equals nobody else's: two
    hosts that both do not know must not take each other for one.
    """
    try:
        return _BOOT_ID_PATH.read_text().strip()
    except OSError:
        return f"unknown-{secrets.token_hex(14)}"  # as long as a boot id, which is sent with more behind it


@cache
def process_namespace() -> str:
    """Returns what is equal for processes that know each other by the same numbers; empty where nobody says."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""
