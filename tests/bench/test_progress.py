"""Tenants speak in lines of JSON, and whatever else their libraries print stays off that line."""

from __future__ import annotations

import math
import subprocess
import sys

import msgspec
import pytest

from symbiosis_bench.demo.progress import Answered, Finished, Message, Ready, Step, Tokens, decode
from symbiosis_bench.lines import Unreadable


@pytest.mark.parametrize(
    "message",
    [
        Ready(460_800, "My name is Elena.\nReally."),
        Step(3, 1.25, 288),
        Tokens(2, 30, (12.5,)),
        Answered("Who?", "I — “me”."),
        Finished("/out/persona", "Ahoy!"),
    ],
)
def test_a_message_survives_its_line(message: Message) -> None:
    line = msgspec.json.encode(message)
    assert b"\n" not in line
    assert decode(line + b"\n") == message


@pytest.mark.parametrize(
    "line", [b"", b"Loading weights: 100%\n", b'{"type":"stop"}\n', b'{"type":"step","step":1}\n', b"\xff\xfe\n"]
)
def test_a_line_that_is_no_message_is_kept_as_what_it_is(line: bytes) -> None:
    assert isinstance(decode(line), Unreadable)


def test_an_endless_line_is_cut() -> None:
    assert decode(b"x" * 10_000) == Unreadable("x" * 200)


def test_a_loss_that_is_not_a_number_is_told_as_such() -> None:
    """JSON has no word for it, so it arrives as none."""
    told = decode(msgspec.json.encode(Step(1, math.nan, 96)))
    assert told == Step(1, None, 96)


def test_prints_of_libraries_do_not_reach_the_parent() -> None:
    script = """
import os, sys
from symbiosis_bench.demo.progress import Step
from symbiosis_bench.lines import Reporter
reporter = Reporter()
print("a library prints", flush=True)
os.system("echo a child prints")
reporter.tell(Step(1, 2.5, 96))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert [decode(line) for line in done.stdout.splitlines()] == [Step(1, 2.5, 96)]
    assert b"a library prints" in done.stderr
    assert b"a child prints" in done.stderr
