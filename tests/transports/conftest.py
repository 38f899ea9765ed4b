"""Over every transport between processes: its name, and an echo daemon that speaks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transports.echoes import Echo


@pytest.fixture(params=["posix_shm", "zmq_ipc", "zmq_tcp"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def echo(name: str, tmp_path: Path) -> Iterator[Echo]:
    echo = Echo(name, tmp_path)
    yield echo
    echo.close()
