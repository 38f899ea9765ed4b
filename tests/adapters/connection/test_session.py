"""What a session waits for, and what it does not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from symbiosis_adapters.connection.asking import RowsQuotaError
from symbiosis_adapters.connection.session import Session
from symbiosis_core.errors import BusyError, RefusalCode
from symbiosis_core.specs import Direction


def session(errors: Sequence[BusyError]) -> Any:
    """One whose daemon gives these errors, and then an answer."""
    made: Any = object.__new__(Session)
    made._lock, made._quota_wait_s, made._wait_level, made.address = (
        threading.Lock(),
        60.0,
        logging.WARNING,
        "here",
    )

    left = list(errors)

    def lasting(*_: Any) -> list[torch.Tensor]:
        if left:
            raise left.pop(0)
        return [torch.ones(1)]

    made._lasting = lasting
    return made


def test_a_quota_of_rows_is_waited_for() -> None:
    reached = [RowsQuotaError(RefusalCode.QUOTA, "too many rows", retry_after_s=0.01) for _ in range(3)]
    assert session(reached).call(None, Direction.FORWARD, ()) == [torch.ones(1)]


def test_a_limit_that_does_not_pass_by_itself_is_not_waited_for() -> None:
    with pytest.raises(BusyError, match="too many segments"):
        session([BusyError(RefusalCode.QUOTA, "too many segments")]).call(None, Direction.FORWARD, ())
