"""The course of the demo: a daemon, tenants, a measured phase that begins for all at once, and an orderly end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from symbiosis_bench.daemon import answers, serve_command
from symbiosis_bench.demo.accounts import Account
from symbiosis_bench.demo.orders import START
from symbiosis_bench.demo.progress import Message
from symbiosis_bench.demo.screen import Screen
from symbiosis_bench.demo.standing import MemoryStanding, Outcome, Standing, between, standing
from symbiosis_bench.demo.tenants import CHAT, TENANTS
from symbiosis_bench.processes import Child, Children
from symbiosis_core.errors import DaemonGoneError, SymbiosisError
from symbiosis_core.telemetry import pss_bytes
from symbiosis_core.wire import BatchStatus, DaemonStatus
from symbiosis_scheduler.commands.status import fetch_status

__all__ = ["Course", "DemoFailedError", "tenant_environment"]

_DAEMON_S: Final = 300.0
_READY_S: Final = 300.0
_FINISH_S: Final = 120.0
_PATIENCE_S: Final = 60.0
"""How much longer than asked the measured phase lasts for a tenant that has not made one step yet."""
_LOOK_S: Final = 0.1
_SHOW_S: Final = 1.0
_PSS_EVERY_S: Final = 5.0
"""Real memory is looked up seldom: the kernel walks every page for it."""


class DemoFailedError(SymbiosisError):
    """The demo was no success. No process is to blame; each reason is a line."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        super().__init__(reasons)

    def __str__(self) -> str:
        return "\n".join(self.reasons)


class Course:
    """One run. The methods are called in the order in which they stand here, by `run`."""

    def __init__(
        self, children: Children[Message], screen: Screen, folder: Path, out: Path, seconds: float
    ) -> None:
        self._children = children
        self._screen = screen
        self._folder = folder
        self._out = out
        self._seconds = seconds
        self._address = ""
        self._tenants: dict[str, Child] = {}
        self._accounts: dict[str, Account] = {}
        self._started_s = 0.0
        self._batches_before = BatchStatus(0, 0, 0, 0, 0.0)
        self._memory: MemoryStanding | None = None
        self._memory_s = 0.0

    def run(self, address: str) -> Outcome:
        """Runs the demo on the daemon at `address`; without one, on a daemon of its own.

        Raises:
            ChildFailedError: a process failed; the error shows what it wrote last.
            DemoFailedError: something took too long.
            DaemonGoneError: there is no daemon at `address`.
        """
        self._address = address or self._start_daemon()
        self._start_tenants(fetch_status(self._address))
        daemon, last = self._measure()
        self._screen.say("the tenants finish their step, save their adapters, and are asked again")
        self._children.finish(list(self._tenants.values()), _FINISH_S)
        self._receive()
        return Outcome(daemon, last, self._accounts)

    def _start_daemon(self) -> str:
        address = f"ipc://{self._folder}/daemon/demo.sock"
        self._children.start("daemon", serve_command("smollm2", address), os.environ, speaks=False)
        self._wait(
            "starting a daemon with smollm2 (the first time on a machine it converts the model: half a minute)",
            lambda: answers(address),
            _DAEMON_S,
        )
        return address

    def _start_tenants(self, daemon: DaemonStatus) -> None:
        environment = tenant_environment(os.environ, len(os.sched_getaffinity(0)))
        for tenant in TENANTS:
            self._accounts[tenant.name] = Account(tenant.name, tenant.lane, str(tenant.method))
            command = [sys.executable, "-P", "-m", "symbiosis_bench.demo.training", "--tenant", tenant.name]
            command += ["--address", self._address, "--adapter", str(self._out / tenant.name)]
            command += ["--scratch", str(self._folder / tenant.name)]
            self._tenants[tenant.name] = self._children.start(tenant.name, command, environment)
        self._accounts[CHAT.name] = Account(CHAT.name, CHAT.lane, "generate()")
        command = [sys.executable, "-P", "-m", "symbiosis_bench.demo.chatting", "--address", self._address]
        self._tenants[CHAT.name] = self._children.start(CHAT.name, command, environment)
        base = f"{daemon.model}, {daemon.memory.base / 1e6:.0f} MB in {daemon.dtype}"
        self._wait(
            f"the daemon holds {base}; {len(self._tenants)} tenants open it",
            lambda: all(account.ready for account in self._accounts.values()),
            _READY_S,
        )

    def _measure(self) -> tuple[DaemonStatus, Standing]:
        self._batches_before = fetch_status(self._address).batches
        self._started_s = time.monotonic()
        for child in self._tenants.values():
            child.write(START)
        shown_s = self._started_s
        while not self._over():
            time.sleep(_LOOK_S)
            self._receive()
            self._children.check()
            if time.monotonic() - shown_s >= _SHOW_S:
                self._screen.show(self._stand(self._status()))
                shown_s = time.monotonic()
        for account in self._accounts.values():
            account.close()
        daemon = self._status()
        self._memory = None  # to be measured now
        return daemon, self._stand(daemon)

    def _over(self) -> bool:
        more_s = self._started_s + self._seconds - time.monotonic()
        progressed = all(account.progressed for account in self._accounts.values())
        return more_s <= 0 and (progressed or more_s <= -_PATIENCE_S)

    def _stand(self, daemon: DaemonStatus) -> Standing:
        now_s = time.monotonic()
        elapsed_s = now_s - self._started_s
        if self._memory is None or now_s - self._memory_s >= _PSS_EVERY_S:
            self._memory, self._memory_s = self._weigh(daemon), now_s
        clients = {client.pid: client for client in daemon.clients}
        return Standing(
            elapsed_s=elapsed_s,
            seconds=self._seconds,
            tenants=tuple(
                standing(account, elapsed_s, clients.get(self._tenants[name].pid))
                for name, account in self._accounts.items()
            ),
            batches=between(self._batches_before, daemon.batches),
            memory=self._memory,
        )

    def _weigh(self, daemon: DaemonStatus) -> MemoryStanding:
        tenants = [pss_bytes(child.pid) for child in self._tenants.values()]
        known = [count for count in tenants if count is not None]
        return MemoryStanding(
            base_bytes=daemon.memory.base,
            tenants=len(tenants),
            # Another user's daemon is not ours to look into; it tells its own figure, a moment older.
            pss_daemon_bytes=pss_bytes(daemon.pid) or daemon.memory.pss or None,
            pss_clients_bytes=sum(known) if len(known) == len(tenants) else None,
        )

    def _status(self) -> DaemonStatus:
        try:
            return fetch_status(self._address)
        except DaemonGoneError:
            time.sleep(_LOOK_S)
            self._children.check()  # where it is our daemon that ended, its own last words say more
            raise

    def _receive(self) -> None:
        for name, message in self._children.received():
            self._accounts[name].take(message)

    def _wait(self, what: str, until: Callable[[], object], within_s: float) -> None:
        began_s = time.monotonic()
        while not until():
            elapsed_s = time.monotonic() - began_s
            if elapsed_s > within_s:
                raise DemoFailedError((f"{what}: not done within {within_s:g} s; the machine may be too busy",))
            self._screen.say(what, elapsed_s)
            time.sleep(_LOOK_S)
            self._receive()
            self._children.check()


def tenant_environment(given: Mapping[str, str], cores: int) -> dict[str, str]:
    """Returns the environment of the tenants: the user's, and what keeps five processes off each other's cores."""
    own = {
        "OMP_NUM_THREADS": str(max(1, cores // (len(TENANTS) + 2))),  # the chat and the daemon compute, too
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    return own | dict(given)
