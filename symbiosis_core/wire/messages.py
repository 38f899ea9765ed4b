"""All requests, and all that they can be answered with."""

from __future__ import annotations

import msgspec

from symbiosis_core.errors import RefusalCode
from symbiosis_core.wire.attach import Hello, Welcome
from symbiosis_core.wire.catalogue import Describe, Fetch, Learn, Learned, ModelReply, TensorPart
from symbiosis_core.wire.lending import Borrow, Loan
from symbiosis_core.wire.policy import AskQuota, Configure, Configured, QuotaState
from symbiosis_core.wire.status import Status, StatusReply
from symbiosis_core.wire.trace import TakeTrace, TraceTaken

__all__ = ["Refused", "Reply", "Request"]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The daemon understood and says no, or says what it did not understand."""

    code: RefusalCode
    reason: str
    remedy: str = ""
    retry_after_s: float | None = None


Request = Hello | Describe | Fetch | Learn | Borrow | AskQuota | Configure | TakeTrace | Status
Reply = (
    Welcome
    | ModelReply
    | TensorPart
    | Learned
    | Loan
    | QuotaState
    | Configured
    | TraceTaken
    | StatusReply
    | Refused
)
