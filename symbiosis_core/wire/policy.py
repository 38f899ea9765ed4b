"""What the daemon holds itself to: its configuration, and the quotas of its clients."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from symbiosis_core.wire.limits import MAX_REQUEST_BYTES

__all__ = ["AskQuota", "Configure", "Configured", "QuotaState"]


class AskQuota(msgspec.Struct, frozen=True, tag="ask_quota"):
    """Asks which quota refused a client a forward, and until when."""

    client: Annotated[int, Meta(ge=0)]


class QuotaState(msgspec.Struct, frozen=True, tag="quota_state"):
    """The quota that was reached; an empty `reason`: none, or not any more."""

    reason: str = ""
    remedy: str = ""
    retry_after_s: float = 0.0


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Asks the daemon to hold itself to another configuration from now on."""

    source: Annotated[str, Meta(max_length=1024)]
    """Names the text in errors."""
    text: Annotated[str, Meta(max_length=MAX_REQUEST_BYTES // 2)]
    """TOML."""


class Configured(msgspec.Struct, frozen=True, tag="configured"):
    """The configuration holds."""

    policy: str
    lanes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What of it only holds after a new start."""
