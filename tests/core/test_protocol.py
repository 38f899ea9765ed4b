"""The control conversation: one question at a time, one kind of answer to each, and no way back from garbage."""

from __future__ import annotations

from typing import get_args

import pytest

from symbiosis_core.errors import (
    BusyError,
    LocalProtocolError,
    RefusalCode,
    RefusedError,
    RemoteProtocolError,
)
from symbiosis_core.protocol import ANSWERS, ClientConversation, refusal
from symbiosis_core.wire import VERSION, Describe, Refused, Reply, Request, Status, encode, header

from .messages import REPLIES, REQUESTS

REFUSED = Refused(RefusalCode.UNKNOWN_LANE, "there is no lane x", "ask for training")


def asked(request: Request) -> ClientConversation:
    conversation = ClientConversation()
    conversation.ask(request)
    return conversation


def test_every_request_has_its_answer() -> None:
    assert set(ANSWERS) == set(get_args(Request))
    assert {*ANSWERS.values(), Refused} == set(get_args(Reply))


@pytest.mark.parametrize("request_", list(REQUESTS.values()), ids=list(REQUESTS))
@pytest.mark.parametrize("reply", [reply for reply in REPLIES.values() if not isinstance(reply, Refused)])
def test_a_request_is_answered_by_its_own_kind_and_no_other(request_: Request, reply: Reply) -> None:
    conversation = asked(request_)
    if isinstance(reply, ANSWERS[type(request_)]):
        assert conversation.answered(encode(reply)) == reply
        assert repr(conversation) == "<ClientConversation idle>"
    else:
        with pytest.raises(RemoteProtocolError, match=type(reply).__name__):
            conversation.answered(encode(reply))
        assert repr(conversation) == "<ClientConversation closed>"


@pytest.mark.parametrize("request_", list(REQUESTS.values()), ids=list(REQUESTS))
def test_a_refusal_answers_everything_and_the_conversation_goes_on(request_: Request) -> None:
    conversation = asked(request_)
    with pytest.raises(RefusedError) as caught:
        conversation.answered(encode(REFUSED))
    assert (caught.value.code, caught.value.remedy) == (RefusalCode.UNKNOWN_LANE, "ask for training")
    assert conversation.ask(Status()) == encode(Status())


def test_asking_again_before_the_answer_is_a_bug_here() -> None:
    conversation = asked(Status())
    with pytest.raises(LocalProtocolError, match="unanswered"):
        conversation.ask(Describe())
    assert repr(conversation) == "<ClientConversation asked>"


def test_an_answer_that_nobody_asked_for_ends_the_conversation() -> None:
    conversation = ClientConversation()
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        conversation.answered(encode(REFUSED))
    with pytest.raises(LocalProtocolError, match="over"):
        conversation.ask(Status())


@pytest.mark.parametrize("frames", [[], [b""], [header(), b"\xc1"], [header(VERSION + 1), b""], [b"SYMB", b""]])
def test_garbage_ends_the_conversation(frames: list[bytes]) -> None:
    conversation = asked(Status())
    with pytest.raises(RemoteProtocolError):
        conversation.answered(frames)
    assert repr(conversation) == "<ClientConversation closed>"
    with pytest.raises(RemoteProtocolError):
        conversation.answered(encode(REPLIES["status_reply"]))


def test_a_request_that_cannot_be_written_leaves_the_conversation_idle() -> None:
    conversation = ClientConversation()
    with pytest.raises(UnicodeEncodeError):
        conversation.ask(Describe("\udcff"))  # an undecodable byte of a command line
    assert repr(conversation) == "<ClientConversation idle>"


def test_a_refusal_with_a_delay_is_busy_and_one_without_is_final() -> None:
    busy = refusal(Refused(RefusalCode.QUOTA, "full", "wait", retry_after_s=0.0))
    assert isinstance(busy, BusyError)
    assert busy.retry_after_s == 0.0
    assert type(refusal(REFUSED)) is RefusedError
