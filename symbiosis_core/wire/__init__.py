"""The control messages: tagged, frozen, typed, versioned and limited in size.

Every request is answered by exactly one reply: its own kind, or `Refused`. No payload rows, no pointers, no
pickle.
"""

from __future__ import annotations

from symbiosis_core.wire.attach import Capability, Hello, Welcome
from symbiosis_core.wire.catalogue import Describe, Fetch, Learn, Learned, ModelReply, TensorPart
from symbiosis_core.wire.frames import VERSION, decode_reply, decode_request, encode, header
from symbiosis_core.wire.lending import Borrow, Loan
from symbiosis_core.wire.limits import (
    MAX_OBSTACLE,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    TENSOR_PART_BYTES,
    Name,
)
from symbiosis_core.wire.messages import Refused, Reply, Request
from symbiosis_core.wire.policy import AskQuota, Configure, Configured, QuotaState
from symbiosis_core.wire.status import (
    BatchStatus,
    ClientStatus,
    DaemonStatus,
    HoldStatus,
    LaneStatus,
    MemoryStatus,
    MemoStatus,
    ModelStatus,
    SpinStatus,
    Status,
    StatusReply,
)
from symbiosis_core.wire.trace import TakeTrace, TraceTaken

__all__ = [
    "MAX_OBSTACLE",
    "MAX_REPLY_BYTES",
    "MAX_REQUEST_BYTES",
    "TENSOR_PART_BYTES",
    "VERSION",
    "AskQuota",
    "BatchStatus",
    "Borrow",
    "Capability",
    "ClientStatus",
    "Configure",
    "Configured",
    "DaemonStatus",
    "Describe",
    "Fetch",
    "Hello",
    "HoldStatus",
    "LaneStatus",
    "Learn",
    "Learned",
    "Loan",
    "MemoStatus",
    "MemoryStatus",
    "ModelReply",
    "ModelStatus",
    "Name",
    "QuotaState",
    "Refused",
    "Reply",
    "Request",
    "SpinStatus",
    "Status",
    "StatusReply",
    "TakeTrace",
    "TensorPart",
    "TraceTaken",
    "Welcome",
    "decode_reply",
    "decode_request",
    "encode",
    "header",
]
