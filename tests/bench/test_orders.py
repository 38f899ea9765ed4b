"""A tenant waits for its start, finishes when told to, and does not outlive the demo."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from symbiosis_bench.demo.orders import START
from symbiosis_bench.lifeline import ORPHANED

TENANT = """
import sys, time
from symbiosis_bench.demo.orders import Orders
orders = Orders()
print("ready", flush=True)
orders.wait_start()
print("started", flush=True)
while not orders.finish:
    time.sleep(0.01)
print("finished", flush=True)
"""


@pytest.fixture
def tenant() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", TENANT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        assert line(started) == b"ready"
        yield started
        started.kill()


def line(tenant: subprocess.Popen[bytes]) -> bytes:
    assert tenant.stdout is not None
    return tenant.stdout.readline().strip()


def start(tenant: subprocess.Popen[bytes]) -> None:
    assert tenant.stdin is not None
    tenant.stdin.write(START)
    tenant.stdin.flush()
    assert line(tenant) == b"started"


def test_sigterm_finishes_what_was_started(tenant: subprocess.Popen[bytes]) -> None:
    start(tenant)
    tenant.send_signal(signal.SIGTERM)
    assert line(tenant) == b"finished"
    assert tenant.wait() == 0
    assert tenant.stderr is not None
    assert tenant.stderr.read() == b""  # the thread that listens must not disturb the interpreter's end


def test_sigterm_before_the_start_finishes_too(tenant: subprocess.Popen[bytes]) -> None:
    tenant.send_signal(signal.SIGTERM)
    assert line(tenant) == b"started"
    assert line(tenant) == b"finished"
    assert tenant.wait() == 0


@pytest.mark.parametrize("started", [False, True])
def test_the_end_of_the_demo_is_the_tenants_end(tenant: subprocess.Popen[bytes], started: bool) -> None:
    if started:
        start(tenant)
    assert tenant.stdin is not None
    tenant.stdin.close()
    assert tenant.wait() == ORPHANED
