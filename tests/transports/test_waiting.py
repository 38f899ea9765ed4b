"""The spin budget: the user's word first, and nothing to look for where there is one core."""

from __future__ import annotations

import os

import pytest

from symbiosis_core.errors import UsageError
from symbiosis_transports.waiting import SPIN_VARIABLE, client_spin_us, spin_budget_us


def test_one_core_has_nobody_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SPIN_VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert spin_budget_us(50) == client_spin_us() == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert spin_budget_us(50) == 50
    assert client_spin_us() > 0


def test_the_environment_decides_for_clients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setenv(SPIN_VARIABLE, "7")
    assert client_spin_us() == 7
    assert spin_budget_us(50) == 50


@pytest.mark.parametrize("text", ["", "-1", "1.5", "fast", "10001"])
def test_a_word_that_is_no_time_says_what_to_write(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SPIN_VARIABLE, text)
    with pytest.raises(UsageError, match="write microseconds from 0 to 10000"):
        client_spin_us()
