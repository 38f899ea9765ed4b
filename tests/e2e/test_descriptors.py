"""A real daemon that may open only a few more files: it refuses in words, lives when it has none, and recovers."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import pytest
import torch

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.errors import BusyError, DaemonGoneError, DaemonSilentError, RefusalCode, RefusedError
from symbiosis_core.ids import Token
from symbiosis_transports.ports import MOST_DESCRIPTORS, ClientChannel
from symbiosis_transports.posix_shm import TRANSPORT
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.greeting import greet

WITHIN_S = 60.0
KEPT = 32
"""The daemon's own, which it promises nobody."""
LEFT = 40
"""More than that, and less than eight clients take besides."""
PLACES = 48


def test_whoever_was_promised_a_place_comes_in_however_few_descriptors_are_left(
    fresh_daemon: DaemonProcess,
) -> None:
    """All are promised theirs before the first comes, and all are inside before the next one asks."""
    assert fresh_daemon.process is not None
    endpoint = TRANSPORT.endpoint(fresh_daemon.address)
    greet(fresh_daemon.address, "first of all", "training")
    before, places = fresh_daemon.descriptors(), 6
    limit = before + KEPT + MOST_DESCRIPTORS * (1 + places)
    resource.prlimit(fresh_daemon.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    tokens: list[Token] = []
    with pytest.raises(BusyError, match="about to come") as refused:
        while len(tokens) < PLACES:
            tokens.append(greet(fresh_daemon.address, f"number {len(tokens)}", "training").token)
    assert refused.value.code is RefusalCode.QUOTA
    assert places - 2 <= len(tokens) <= places  # a connection that asks, or has just asked, takes some
    inside = [TRANSPORT.connect(endpoint, token, 20) for token in tokens]
    assert fresh_daemon.descriptors() <= limit - KEPT
    for channel in inside:
        channel.close()
    fresh_daemon.wait_status(lambda status: not status.clients, "all have left")
    token = greet(fresh_daemon.address, "later", "training").token
    TRANSPORT.connect(endpoint, token, 20).close()


def test_a_daemon_out_of_descriptors_serves_whom_it_has_refuses_others_and_recovers(
    fresh_daemon: DaemonProcess,
) -> None:
    """Its limit is lowered after all have been promised a place. They come until it can let nobody in any more."""
    assert fresh_daemon.process is not None
    endpoint = TRANSPORT.endpoint(fresh_daemon.address)
    stayer = AutoModelForCausalLM.from_pretrained(fresh_daemon.address)
    ids = torch.randint(3, 128, (1, 12))
    expected = stayer(ids).logits
    tokens = [greet(fresh_daemon.address, "one of many", "training").token for _ in range(PLACES)]
    before = fresh_daemon.descriptors()
    resource.prlimit(fresh_daemon.process.pid, resource.RLIMIT_NOFILE, (before + LEFT, before + LEFT))
    inside = [TRANSPORT.connect(endpoint, tokens.pop(), 20) for _ in range(8)]
    with pytest.raises(BusyError, match="more files and sockets") as refused:
        greet(fresh_daemon.address, "too many", "training")
    assert refused.value.code is RefusalCode.QUOTA
    inside += come_until_nobody_can(endpoint, tokens)
    for _ in range(3):
        assert torch.equal(stayer(ids).logits, expected)
    with pytest.raises((BusyError, DaemonSilentError, DaemonGoneError)):
        greet(fresh_daemon.address, "too many", "training", timeout_s=1)
    assert fresh_daemon.process.poll() is None
    for channel in inside:
        channel.close()
    until(lambda: fresh_daemon.descriptors() <= before + 2)  # who asked last may still be seen to leave
    while tokens:  # what they were promised is kept for them until they have come
        TRANSPORT.connect(endpoint, tokens.pop(), 20).close()
    fresh_daemon.wait_status(lambda status: len(status.clients) == 1, "all others have left")
    late = AutoModelForCausalLM.from_pretrained(fresh_daemon.address)
    for model in (late, stayer):
        assert torch.equal(model(ids).logits, expected)
        model.symbiosis.close()


def come_until_nobody_can(endpoint: str, tokens: list[Token]) -> list[ClientChannel]:
    """Returns those who came. Who cannot finds the daemon silent, or is told that there is nothing for it."""
    came: list[ClientChannel] = []
    while tokens:
        try:
            came.append(TRANSPORT.connect(endpoint, tokens.pop(), 1))
        except RefusedError as refused:
            assert refused.code is RefusalCode.QUOTA, refused  # and not a token that has lapsed in the meantime
            return came
        except (DaemonSilentError, DaemonGoneError):
            return came
    raise AssertionError("the daemon never ran out of descriptors")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
