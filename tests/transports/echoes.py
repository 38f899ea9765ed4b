"""An echo daemon in a process, to be killed, stopped and asked what it holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from symbiosis_core.ids import Token
from symbiosis_transports.ports import ClientChannel
from symbiosis_transports.registry import transport
from tests.transports.carriers import carrier
from tests.transports.ports import free_pair

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0


def endpoint_of(name: str, folder: Path) -> str:
    """Where nobody listens yet."""
    address = f"tcp://127.0.0.1:{free_pair()}" if name == "zmq_tcp" else f"ipc://{folder}/echo.sock"
    return transport(name).endpoint(address)


class Echo:
    """An echo daemon in a process."""

    def __init__(
        self, name: str, folder: Path, *limit: str, slot_bytes: int = 1 << 16, python: str = sys.executable
    ) -> None:
        self.name = name
        self.endpoint = endpoint_of(name, folder)
        command = [python, "-m", "tests.transports.echo_process", name, self.endpoint]
        command += [str(slot_bytes), *limit]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout
        assert self._out.readline() == "ready\n"

    def connect(self) -> ClientChannel:
        return carrier(self.name, self.endpoint).connect(self.endpoint, Token("good"), 20)

    def held(self, slot_bytes: str = "") -> dict[str, int]:
        self._in.write(f"{slot_bytes}\n")
        told: dict[str, int] = json.loads(self._out.readline())
        return told

    def wait(self, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        deadline = time.monotonic() + WITHIN_S
        while not condition(held := self.held()):
            assert time.monotonic() < deadline, held
            time.sleep(0.02)
        return held

    def victims(self, *how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.transports.victims", self.name, self.endpoint, *how]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


def stop(process: subprocess.Popen[str]) -> None:
    """Every thread of it stands still when this returns; the signal alone only asks for that."""
    process.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
