"""Control messages keep their bytes, and no bytes can do more than be refused."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError
from symbiosis_core.ids import Token
from symbiosis_core.wire import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    VERSION,
    Capability,
    Hello,
    Reply,
    Request,
    Status,
    decode_reply,
    decode_request,
    encode,
    header,
)

from .messages import GOLDEN, REPLIES, REQUESTS

ALL = {**REQUESTS, **REPLIES}

STATUS_WITH = b"\x82\xa4type\xa6status\xa1x"
"""A status request with one more field, whose value follows: an unknown field is skipped, whatever it holds."""
NESTED = STATUS_WITH + b"\x91" * 60_000 + b"\xc0"
BAD_UTF8 = b"\x82\xa4type\xa8describe\xa5model\xa2\xff\xfe"

short = st.text("aZ0.\u00e9\u2028\U0001f600\x00", max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | short | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short, inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(["type", "name", "lane", "model", "pid", "capabilities", "tensor", "offset", "transport"])
tags = st.sampled_from([*REQUESTS, *REPLIES, "other"])
lookalikes = st.builds(
    lambda tag, fields: msgspec.msgpack.encode({**fields, "type": tag}),
    tags,
    st.dictionaries(names, plain, max_size=6),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message of some kind, with a few bytes changed, put in or cut off."""
    body = bytearray(draw(st.sampled_from([*GOLDEN.values()])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        body[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(body)


bodies = st.binary(max_size=64) | lookalikes | damaged()


def test_the_header_never_changes() -> None:
    assert header() == b"SYMB\x03\x00\x00\x00"
    assert header(258) == b"SYMB\x02\x01\x00\x00"


def test_there_is_a_golden_message_of_every_kind() -> None:
    assert {type(message) for message in REQUESTS.values()} == set(get_args(Request))
    assert {type(message) for message in REPLIES.values()} == set(get_args(Reply))
    assert set(GOLDEN) == set(ALL)


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_message_has_the_bytes_it_always_had(kind: str) -> None:
    """A change here is a change of the protocol: raise VERSION."""
    assert encode(ALL[kind]) == [header(), GOLDEN[kind]]


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_is_read_back(kind: str) -> None:
    assert decode_request([header(), GOLDEN[kind]]) == REQUESTS[kind]


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_is_read_back(kind: str) -> None:
    assert decode_reply([header(), GOLDEN[kind]]) == REPLIES[kind]


@settings(max_examples=150, deadline=None)
@given(body=bodies)
@example(body=NESTED)
@example(body=STATUS_WITH + b"\x81" * 20_000)
@example(body=BAD_UTF8)
@example(body=STATUS_WITH + b"\xdd\xff\xff\xff\xff")
def test_bytes_of_a_client_are_a_request_or_refused(body: bytes) -> None:
    try:
        message = decode_request([header(), body])
    except RefusedError as refused:
        assert refused.code is RefusalCode.MALFORMED
        assert len(str(refused)) < 300
    else:
        assert decode_request(encode(message)) == message


@settings(max_examples=100, deadline=None)
@given(
    frames=st.lists(
        st.binary(max_size=16) | st.sampled_from([header(), header(VERSION + 1), GOLDEN["status"]]), max_size=3
    )
)
def test_frames_of_a_client_are_a_request_or_refused(frames: list[bytes]) -> None:
    try:
        decode_request(frames)
    except RefusedError as refused:
        assert refused.code in (RefusalCode.MALFORMED, RefusalCode.VERSION)
    else:
        assert frames[0] == header()


@settings(max_examples=150, deadline=None)
@given(body=bodies)
@example(body=NESTED)
@example(body=BAD_UTF8)
def test_bytes_of_a_daemon_are_a_reply_or_its_fault(body: bytes) -> None:
    try:
        message = decode_reply([header(), body])
    except RemoteProtocolError as broken:
        assert len(str(broken)) < 300
    else:
        assert encode(message)[0] == header()


@pytest.mark.parametrize(("body", "why"), [(NESTED, "recursion"), (BAD_UTF8, "utf-8")])
def test_what_msgspec_reports_as_pythons_own_errors_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        decode_request([header(), body])
    with pytest.raises(RemoteProtocolError, match="not a reply"):
        decode_reply([header(), body])


def test_an_array_that_claims_more_than_was_sent_takes_no_memory() -> None:
    claims = b"\xdd\xff\xff\xff\xff"  # four thousand million elements follow, says the client
    body = b"\x84\xa4type\xa5hello\xa4name\xa1n\xa4lane\xa1l\xaccapabilities"
    for tail in (claims, b"\x91\x82\xa9transport\xa1x\xa7devices" + claims):
        with pytest.raises(RefusedError) as caught:
            decode_request([header(), body + tail])
        assert caught.value.code is RefusalCode.MALFORMED


def test_a_request_longer_than_the_limit_is_refused_unread() -> None:
    longest = MAX_REQUEST_BYTES - len(STATUS_WITH) - 3
    body = STATUS_WITH + b"\xda" + longest.to_bytes(2) + b"a" * longest
    assert decode_request([header(), body]) == Status()
    with pytest.raises(RefusedError) as caught:
        decode_request([header(), b"\xc1" * (MAX_REQUEST_BYTES + 1)])
    assert caught.value.code is RefusalCode.TOO_LARGE


def test_a_reply_longer_than_the_limit_is_not_read() -> None:
    with pytest.raises(RemoteProtocolError, match="at most"):
        decode_reply([header(), bytes(MAX_REPLY_BYTES + 1)])
    with pytest.raises(RemoteProtocolError, match="not a reply"):
        decode_reply([header(), bytes(MAX_REPLY_BYTES)])


def test_a_peer_cannot_fill_our_messages_with_its_own_words() -> None:
    body = msgspec.msgpack.encode({"type": "x" * 1000})
    with pytest.raises(RefusedError) as refused:
        decode_request([header(), body])
    assert refused.value.reason.startswith("not a request: Invalid value 'xxx")
    assert refused.value.reason.endswith("x...")
    assert len(refused.value.reason) == len("not a request: ") + 200


@pytest.mark.parametrize("frames", [[header(VERSION + 1), b""], [header(VERSION + 1)], [header(0), b"", b"", b""]])
def test_another_version_is_told_so_whatever_else_it_changed(frames: list[bytes]) -> None:
    with pytest.raises(RefusedError, match="same release") as caught:
        decode_request(frames)
    assert caught.value.code is RefusalCode.VERSION
    with pytest.raises(RemoteProtocolError, match="same release"):
        decode_reply(frames)


@pytest.mark.parametrize("frames", [[], [b""], [header()], [header(), b"\xc0", b""], [b"HTTP" + bytes(4), b""]])
def test_what_is_no_control_message_is_malformed(frames: list[bytes]) -> None:
    with pytest.raises(RefusedError) as caught:
        decode_request(frames)
    assert caught.value.code is RefusalCode.MALFORMED
    with pytest.raises(RemoteProtocolError, match="not a reply"):
        decode_reply(frames)


def test_a_reply_is_no_request_and_a_request_no_reply() -> None:
    with pytest.raises(RefusedError):
        decode_request(encode(REPLIES["welcome"]))
    with pytest.raises(RemoteProtocolError):
        decode_reply(encode(REQUESTS["hello"]))


@pytest.mark.parametrize(
    "hello",
    [
        Hello("", "lane"),
        Hello("n" * 129, "lane"),
        Hello("n", ""),
        Hello("n", "l" * 129),
        Hello("n", "l", model="m" * 257),
        Hello("n", "l", pid=-1),
        Hello("n", "l", instead=Token("t" * 65)),
        Hello("n", "l", pid=1 << 31),
        Hello("n", "l", capabilities=(Capability("t"),) * 17),
        Hello("n", "l", capabilities=(Capability("t", boot_id="b" * 65),)),
    ],
)
def test_a_hello_beyond_the_limits_is_refused(hello: Hello) -> None:
    with pytest.raises(RefusedError) as caught:
        decode_request(encode(hello))
    assert caught.value.code is RefusalCode.MALFORMED


def test_fields_of_a_later_release_are_skipped() -> None:
    assert decode_request([header(), STATUS_WITH + b"\x01"]) == Status()
