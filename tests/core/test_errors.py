"""Errors carry fields, say the remedy, and survive the journey between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from symbiosis_core import errors
from symbiosis_core.errors import (
    BusyError,
    ClosedError,
    ConfigError,
    DaemonGoneError,
    DaemonSilentError,
    LocalProtocolError,
    Problem,
    RefusalCode,
    RefusedError,
    RemoteProtocolError,
    ServiceFailedError,
    SymbiosisError,
    UsageError,
)

ONE_OF_EACH: list[SymbiosisError] = [
    SymbiosisError("base"),
    UsageError("do this instead"),
    ConfigError("a.toml", [Problem("lanes", {}, "must be a table"), Problem("", None, "cannot be read")]),
    LocalProtocolError("a bug here"),
    RemoteProtocolError("a bug there"),
    RefusedError(RefusalCode.QUOTA, "64 clients are connected", "wait"),
    BusyError(RefusalCode.DRAINING, "the daemon stops", "try again", retry_after_s=2.5),
    ClosedError("closed"),
    DaemonGoneError("ipc:///tmp/s", "it hung up"),
    DaemonSilentError("ipc:///tmp/s", 30.0),
    ServiceFailedError("control", "failed"),
]


def test_every_error_type_is_tried_here() -> None:
    declared = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert declared == {type(error) for error in ONE_OF_EACH}


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying_with_its_fields(error: SymbiosisError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_error_is_a_symbiosis_error(error: SymbiosisError) -> None:
    assert isinstance(error, SymbiosisError)


def test_busy_is_a_refusal_that_says_when_to_come_back() -> None:
    error = BusyError(RefusalCode.DRAINING, "the daemon stops", retry_after_s=2.5)
    assert isinstance(error, RefusedError)
    assert error.retry_after_s == 2.5
    assert pickle.loads(pickle.dumps(error)).retry_after_s == 2.5


def test_a_refusal_says_reason_code_and_remedy() -> None:
    assert str(RefusedError(RefusalCode.QUOTA, "too many", "wait")) == "too many (quota). wait"
    assert str(RefusedError(RefusalCode.QUOTA, "too many")) == "too many (quota)"


def test_a_config_error_has_one_line_per_problem() -> None:
    error = ConfigError("a.toml", [Problem("x", 0, "must be 1"), Problem("y", True, "must be text")])
    assert str(error).splitlines() == ["a.toml: x = 0: must be 1", "a.toml: y = true: must be text"]


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.b", "x", "must be text"), "a.b = 'x': must be text"),
        (Problem("line 3, column 7", None, "Invalid value"), "line 3, column 7: Invalid value"),
        (Problem("", None, "cannot be read"), "cannot be read"),
        (Problem("a", "x" * 78, "too long"), "a = '" + "x" * 78 + "': too long"),
        (Problem("a", "x" * 200, "too long"), "a = '" + "x" * 76 + "...: too long"),
    ],
)
def test_a_problem_says_where_what_and_what_may_be(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_the_daemons_absence_tells_how_to_start_it() -> None:
    error = DaemonGoneError("ipc:///tmp/s", "there is no such socket")
    assert "symbiosis serve --listen ipc:///tmp/s" in str(error)
    assert (error.address, error.reason) == ("ipc:///tmp/s", "there is no such socket")


def test_the_daemons_silence_tells_how_long_and_what_to_look_at() -> None:
    text = str(DaemonSilentError("ipc:///tmp/s", 30.0))
    assert "within 30 s" in text
    assert "symbiosis status --address ipc:///tmp/s" in text


def test_refusal_codes_are_stable() -> None:
    """Scripts compare against them: adding one is fine, changing one is not."""
    assert {code.value for code in RefusalCode} == {
        "version", "malformed", "too_large", "order", "unknown_model", "unknown_lane", "unknown_tensor",
        "unknown_op", "bad_token", "bad_region", "bad_dtype", "bad_rows", "bad_index", "no_backward",
        "no_transport", "permission", "quota", "draining", "failed",
        "bad_segment", "not_lent", "bad_config",
    }  # fmt: skip
