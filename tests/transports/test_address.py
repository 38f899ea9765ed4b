"""Addresses are parsed once, and a wrong one says what a right one looks like."""

from __future__ import annotations

import pytest

from symbiosis_core.errors import UsageError
from symbiosis_transports.address import default_address, parse


@pytest.mark.parametrize(
    "text", ["ipc:///tmp/a.sock", "ipc:///tmp/a.sock#chat", "embedded:smollm2", "tcp://host:5555#chat"]
)
def test_an_address_survives_parsing_and_printing(text: str) -> None:
    assert str(parse(text)) == text


def test_the_model_is_told_from_the_place() -> None:
    address = parse("ipc:///tmp/a.sock#chat")
    assert (address.control, address.model) == ("ipc:///tmp/a.sock", "chat")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("/tmp/a.sock", "ipc:///path/to/socket"),
        ("ipc://a.sock", "absolute path"),
        ("ipc:///" + "a" * 200, "at most 100 bytes"),
        ("embedded:", "embedded:smollm2"),
        *(
            (text, "tcp://host:5555")
            for text in ("tcp://host", "tcp://:1", "tcp://h:0", "tcp://h:65535", "tcp://::1:5")
        ),
        ("", "ipc:///path/to/socket"),
    ],
)
def test_what_is_no_address_says_what_one_looks_like(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse(text)


def test_the_default_address_is_an_address() -> None:
    assert parse(default_address()).scheme == "ipc"
