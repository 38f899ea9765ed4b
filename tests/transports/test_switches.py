"""How often a thread was put aside is counted between two questions of that thread."""

from __future__ import annotations

import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from symbiosis_transports.switches import Switches


def test_what_one_thread_has_lost_is_not_held_against_another(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {threading.get_native_id(): 1000}

    def usage(_: int) -> SimpleNamespace:
        return SimpleNamespace(ru_nivcsw=lost.get(threading.get_native_id(), 7))

    monkeypatch.setattr(resource, "getrusage", usage)
    switches = Switches()
    assert switches() == 0
    lost[threading.get_native_id()] += 3
    assert switches() == 3
    with ThreadPoolExecutor(1) as pool:
        assert [pool.submit(switches).result() for _ in range(2)] == [3, 3]
    assert switches() == 3
    lost[threading.get_native_id()] += 2
    assert switches() == 5
