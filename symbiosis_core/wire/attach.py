"""How a client comes in: what it can do, who it is, and the place that it is given."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from symbiosis_core.ids import Token
from symbiosis_core.wire.limits import MAX_OBSTACLE, BootId, ModelName, Name

__all__ = ["Capability", "Hello", "Welcome"]


class Capability(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one side can do with one transport. Both sides send theirs; the choice is symmetric."""

    transport: Name
    boot_id: BootId = ""
    devices: tuple[str, ...] = ()
    """GPU UUIDs this side can reach, for device transports."""
    schemes: tuple[str, ...] = ("ipc",)
    """Of the control addresses that it goes with: whoever came over a network shares no memory."""
    obstacle: Annotated[str, Meta(max_length=MAX_OBSTACLE)] = ""
    """Why this side cannot use the transport after all; empty: it can."""


class Hello(msgspec.Struct, frozen=True, tag="hello", omit_defaults=True):
    """Asks for a place in the daemon: in which lane, for which model, over which transports."""

    name: Name
    lane: Name
    model: ModelName = ""
    """Empty: the daemon's only model, or its default."""
    pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] = 0
    """The client's own word, for display; 0: it does not say."""
    capabilities: Annotated[tuple[Capability, ...], Meta(max_length=16)] = ()
    key: Annotated[str, Meta(max_length=256)] = ""
    """What the client shows to be put into a lane by a rule that asks for it."""
    instead: Annotated[Token, Meta(max_length=64)] = Token("")
    """What it was promised before and could not take up, for the door was shut: the daemon takes that back."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """A place was granted: connect to `endpoint` with `token` within `token_valid_s` seconds."""

    client: int
    token: Token
    token_valid_s: float
    model: str
    lane: str
    transport: str
    endpoint: str
    max_rows: int
    """Rows of one request at most; the client splits what is larger."""
    reasons: tuple[str, ...] = ()
    """Why this transport was chosen, and why not the others."""
    exact: bool = False
    """Whether batches are exact, so that the client should not let chance into its bits either."""
