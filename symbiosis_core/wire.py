"""The control messages: tagged, frozen, typed, versioned and limited in size.

A control message is two frames: an eight byte header (magic and protocol version) and a msgpack body. The
header never changes its form, so a peer of any version can be told that its version is wrong. Every request
is answered by exactly one reply: its own kind, or `Refused`. No payload rows, no pointers, no pickle.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec
from msgspec import Meta

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError
from symbiosis_core.ids import Token
from symbiosis_core.segments import Segment
from symbiosis_core.specs import LentTensor, ModelSpec

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

VERSION = 2
"""Raised whenever a message changes in a way that an older peer would misread."""
MAX_REQUEST_BYTES = 64 << 10
MAX_REPLY_BYTES = 64 << 20
MAX_OBSTACLE = 512
"""Characters of a side's reason not to use a transport."""
TENSOR_PART_BYTES = 4 << 20
"""A tensor is fetched in parts of at most this size."""

_HEADER = struct.Struct("<4sHH")
_MAGIC = b"SYMB"

Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Capability(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one side can do with one transport. Both sides send theirs; the choice is symmetric."""

    transport: Name
    boot_id: Annotated[str, Meta(max_length=64)] = ""
    devices: tuple[str, ...] = ()
    """GPU UUIDs this side can reach, for device transports."""
    schemes: tuple[str, ...] = ("ipc",)
    """Of the control addresses that it goes with: whoever came over a network shares no memory."""
    obstacle: Annotated[str, Meta(max_length=MAX_OBSTACLE)] = ""
    """Why this side cannot use the transport after all; empty: it can."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Asks for a place in the daemon: in which lane, for which model, over which transports."""

    name: Name
    lane: Name
    model: Annotated[str, Meta(max_length=256)] = ""
    """Empty: the daemon's only model, or its default."""
    pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] = 0
    """The client's own word, for display only."""
    capabilities: Annotated[tuple[Capability, ...], Meta(max_length=16)] = ()
    key: Annotated[str, Meta(max_length=256)] = ""
    """What the client shows to be put into a lane by a rule that asks for it."""


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


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Asks for the catalogue of a model."""

    model: Annotated[str, Meta(max_length=256)] = ""


class ModelReply(msgspec.Struct, frozen=True, tag="model"):
    """The catalogue of a model."""

    spec: ModelSpec


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """Asks for bytes of one small tensor, from `offset` on."""

    model: Annotated[str, Meta(max_length=256)]
    tensor: Annotated[str, Meta(max_length=512)]
    offset: Annotated[int, Meta(ge=0)] = 0


class TensorPart(msgspec.Struct, frozen=True, tag="tensor"):
    """At most `TENSOR_PART_BYTES` of a tensor, little endian, C order."""

    offset: int
    total_bytes: int
    data: bytes


class Learn(msgspec.Struct, frozen=True, tag="learn"):
    """Teaches the daemon a segment. Segments are known by content: who teaches one again gets the same number."""

    model: Annotated[str, Meta(max_length=256)]
    segment: Segment


class Learned(msgspec.Struct, frozen=True, tag="learned"):
    """The number by which calls name the segment, until the daemon ends."""

    op: int


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


class TakeTrace(msgspec.Struct, frozen=True, tag="take_trace"):
    """Asks for what was recorded since the last time. A recording that nobody asks about ends by itself."""

    recording: Annotated[int, Meta(ge=0)] = 0
    """0: begin one."""
    stop: bool = False
    """Whether this is the last time."""


class TraceTaken(msgspec.Struct, frozen=True, tag="trace_taken"):
    """A piece of a trace."""

    recording: int
    data: bytes
    dropped: int = 0
    """Records that were not fetched in time, since the recording began."""


class Borrow(msgspec.Struct, frozen=True, tag="borrow"):
    """Asks for the weights themselves, to be mapped by a client on the same host."""

    model: Annotated[str, Meta(max_length=256)] = ""
    boot_id: Annotated[str, Meta(max_length=64)] = ""
    """Of the kernel that the client runs under: memory cannot be lent to another."""


class Loan(msgspec.Struct, frozen=True, tag="loan"):
    """The weights are lent: their descriptor is handed over at `endpoint`."""

    endpoint: str
    fingerprint: str
    """Of the model whose weights these are."""
    lent_bytes: int
    """Size of the memory."""
    tensors: tuple[LentTensor, ...]
    """Where each weight lies in it. Tied weights lie at one place, fused ones beside each other."""


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
    """What they did save, less what was waited. Negative: holding has cost more than it brought."""
    prediction_error_us: float = 0.0
    """By how much the next arrival of a client is usually predicted wrong."""
    pause_us: float = 0.0
    """How long clients usually take from an answer to the next request: what the error is to be measured by."""
    off: bool = False
    """Whether holding has turned itself off for now, because it did not pay."""


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
    """Who gets how many threads, in words."""
    models: tuple[ModelStatus, ...] = ()
    """All bases, in the configuration's order."""


class StatusReply(msgspec.Struct, frozen=True, tag="status_reply"):
    """What the daemon is doing."""

    status: DaemonStatus


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

_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises at foreign bytes: bad UTF-8 and deep nesting come as Python's own errors (0.22)."""


def header(version: int = VERSION) -> bytes:
    """Returns the first frame of every control message."""
    return _HEADER.pack(_MAGIC, version, 0)


def encode(message: Request | Reply) -> list[bytes]:
    """Returns the two frames of a control message."""
    return [header(), _encoder.encode(message)]


def decode_request(frames: list[bytes]) -> Request:
    """Returns the request in `frames`.

    Raises:
        RefusedError: the client's fault; the daemon answers it as `Refused` and lives on.
    """
    version = _version(frames)
    if version != VERSION:
        raise RefusedError(
            RefusalCode.VERSION,
            f"the client speaks protocol version {version}, the daemon {VERSION}",
            "install the same release of symbiosis-llm on both sides",
        )
    body = _body(frames)
    if len(body) > MAX_REQUEST_BYTES:
        raise RefusedError(
            RefusalCode.TOO_LARGE, f"a request of {len(body)} bytes; at most {MAX_REQUEST_BYTES} are taken"
        )
    try:
        return _request_decoder.decode(body)
    except _UNDECODABLE as error:
        raise RefusedError(RefusalCode.MALFORMED, f"not a request: {_brief(error)}") from None


def decode_reply(frames: list[bytes]) -> Reply:
    """Returns the reply in `frames`.

    Raises:
        RemoteProtocolError: the daemon's fault.
    """
    try:
        version = _version(frames)
        if version != VERSION:
            raise RemoteProtocolError(
                f"the daemon speaks protocol version {version}, this client {VERSION}; "
                "install the same release of symbiosis-llm on both sides"
            )
        body = _body(frames)
        if len(body) > MAX_REPLY_BYTES:
            raise RemoteProtocolError(
                f"the daemon's answer has {len(body)} bytes; at most {MAX_REPLY_BYTES} are taken"
            )
        return _reply_decoder.decode(body)
    except RefusedError as error:
        raise RemoteProtocolError(f"the daemon's answer is not a reply: {error.reason}") from None
    except _UNDECODABLE as error:
        raise RemoteProtocolError(f"the daemon's answer is not a reply: {_brief(error)}") from None


def _version(frames: list[bytes]) -> int:
    """Returns the peer's version. It is read before anything else is demanded: all but the header may change."""
    if not frames or len(frames[0]) != _HEADER.size:
        raise RefusedError(RefusalCode.MALFORMED, f"the message does not start with {_HEADER.size} header bytes")
    magic, version, _ = _HEADER.unpack(frames[0])
    if magic != _MAGIC:
        raise RefusedError(RefusalCode.MALFORMED, "the message does not start with the magic bytes SYMB")
    return int(version)


def _body(frames: list[bytes]) -> bytes:
    if len(frames) != 2:
        raise RefusedError(RefusalCode.MALFORMED, f"a control message has 2 frames, not {len(frames)}")
    return frames[1]


def _brief(error: Exception) -> str:
    """Returns the error's text cut short: it may quote the peer, who may have sent any amount."""
    text = str(error)
    return text if len(text) <= 200 else f"{text[:197]}..."
