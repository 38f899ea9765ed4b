"""Names for the numbers that cross floors, so that one cannot be passed for another."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import NewType

__all__ = ["ClientId", "Generation", "OpId", "SlotIndex", "Token", "boot_id", "new_token"]

ClientId = NewType("ClientId", int)
"""A connected client, unique during the life of one daemon."""
OpId = NewType("OpId", int)
"""An op of the daemon's catalogue: the position in `ModelSpec.ops`."""
SlotIndex = NewType("SlotIndex", int)
"""A slot of one client's arena."""
Generation = NewType("Generation", int)
"""How often a slot has been published; tells an answer from the answer before."""
Token = NewType("Token", str)
"""A one-time secret that ties a data connection to the control conversation that asked for it."""


def new_token() -> Token:
    """Returns an unguessable token of 128 bits."""
    return Token(secrets.token_hex(16))


def boot_id() -> str:
    """Returns the kernel's boot id: equal on both sides exactly when they share one running kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
