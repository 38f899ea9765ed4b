"""A client that rests before it looks finds all that it would have been woken for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from symbiosis_core.errors import DaemonGoneError, DaemonSilentError, RefusedError
from symbiosis_core.ids import OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_transports.calls import Call
from symbiosis_transports.kinds import Fixed, Kinds
from symbiosis_transports.posix_shm.client import ShmClientChannel
from symbiosis_transports.testing import ADD_ONE, NEVER, REFUSE
from tests.transports.echoes import WITHIN_S, Echo, stop

REST_S = 0.2


class Resting(Fixed):
    def __init__(self) -> None:
        super().__init__(int((REST_S + 0.05) * 1e9))
        self.rest_ns = int(REST_S * 1e9)
        self.overslept_for = self.timed = 0

    def overslept(self) -> None:
        self.overslept_for += 1

    def waited(self, took_ns: int) -> None:
        self.timed += 1


@pytest.fixture
def name() -> str:
    return "posix_shm"


@pytest.fixture
def way() -> Resting:
    return Resting()


@pytest.fixture
def channel(echo: Echo, way: Resting) -> Iterator[ShmClientChannel]:
    channel = echo.connect()
    assert isinstance(channel, ShmClientChannel)
    channel._learned = Kinds(way)
    yield channel
    channel.close()


def publish(channel: ShmClientChannel, op: OpId, *, rows: int = 1) -> SlotIndex:
    slot = channel.lease_nowait()
    channel.buffer(slot)[:1] = b"a"
    channel.publish(slot, Call(op, Direction.FORWARD, rows, 0, 64, in_bytes=1, out_bytes=1))
    return slot


def test_an_answer_that_comes_during_the_rest_is_found_at_its_end(
    echo: Echo, channel: ShmClientChannel, way: Resting, monkeypatch: pytest.MonkeyPatch
) -> None:
    nap, rests = time.sleep, []

    def rest_until_it_is_answered(seconds: float) -> None:
        rests.append(seconds)
        echo.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + WITHIN_S
        while channel._words[channel._answer_words[slot]] != channel._generations[slot]:
            assert time.monotonic() < deadline
            nap(0.001)

    stop(echo.process)  # or it could answer before it is waited for
    slot = publish(channel, ADD_ONE)
    monkeypatch.setattr(time, "sleep", rest_until_it_is_answered)
    channel.wait(slot, WITHIN_S)
    assert bytes(channel.buffer(slot)[64:65]) == b"b"
    assert rests == [REST_S]
    assert way.overslept_for == 1


def test_who_shares_the_daemons_core_neither_rests_nor_looks(channel: ShmClientChannel, way: Resting) -> None:
    channel.shares_core(True)
    slot = publish(channel, ADD_ONE)
    channel.wait(slot, WITHIN_S)
    assert bytes(channel.buffer(slot)[64:65]) == b"b"
    assert (channel.statistics().looks, way.overslept_for, way.timed) == (0, 0, 0)


def test_a_daemon_that_dies_during_the_rest_is_gone_and_not_waited_for(
    echo: Echo, channel: ShmClientChannel, way: Resting
) -> None:
    slot = publish(channel, NEVER)
    os.kill(echo.process.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(DaemonGoneError):
        channel.wait(slot, WITHIN_S)
    assert time.monotonic() - began < WITHIN_S / 2
    assert way.overslept_for == 0


def test_who_rests_longer_than_it_may_wait_is_told_that_the_daemon_is_silent(channel: ShmClientChannel) -> None:
    slot = publish(channel, NEVER)
    with pytest.raises(DaemonSilentError):
        channel.wait(slot, REST_S / 10)


def test_a_refusal_is_no_other_than_one_that_was_waited_for_awake(channel: ShmClientChannel) -> None:
    slot = publish(channel, REFUSE)
    with pytest.raises(RefusedError):
        channel.wait(slot, WITHIN_S)
    channel.release(slot)
