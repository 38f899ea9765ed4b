"""Whose client somebody is, by what the transport knows of it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator

import pytest

from symbiosis_scheduler.decisions import users
from symbiosis_scheduler.decisions.users import user_of


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    users._own.cache_clear()
    yield
    users._own.cache_clear()


def test_a_key_is_a_user_of_its_own_wherever_it_is_shown() -> None:
    assert user_of("alice", here=False) == user_of("alice", here=True) == "key:alice"


def test_who_comes_without_a_key_is_the_sockets_user_or_anybody() -> None:
    assert user_of("", here=True) == getpass.getuser()
    assert user_of("", here=False) == "tcp"


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found"), OSError("No username set")])
def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """As in a container that was started with a uid of its own, by what Python raises before 3.13 and since."""

    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert user_of("", here=True) == f"uid:{os.getuid()}"


def test_the_system_is_asked_for_the_users_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be slow to answer, or change its mind."""
    names = iter(["ann", "bob"])
    monkeypatch.setattr(getpass, "getuser", lambda: next(names))
    assert [user_of("", here=True) for _ in range(2)] == ["ann", "ann"]
