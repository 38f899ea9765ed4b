"""What the environment says of seconds is taken, or refused with what to write."""

from __future__ import annotations

import pytest

from symbiosis_adapters.auto import _seconds
from symbiosis_core.errors import UsageError


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("60", 60.0), ("0.5", 0.5), ("inf", float("inf"))])
def test_seconds_are_taken(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMBIOSIS_QUOTA_WAIT_S", text)
    assert _seconds("SYMBIOSIS_QUOTA_WAIT_S") == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan"])
def test_what_is_no_time_says_what_to_write(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMBIOSIS_QUOTA_WAIT_S", text)
    with pytest.raises(UsageError, match="write seconds, such as 60"):
        _seconds("SYMBIOSIS_QUOTA_WAIT_S")
