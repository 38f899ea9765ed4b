"""A run of the demo that never was: accounts, a daemon's status and a standing, for tests without processes."""

from __future__ import annotations

from symbiosis_bench.demo.accounts import Account
from symbiosis_bench.demo.progress import Answered, Finished, Ready, Step, Tokens
from symbiosis_bench.demo.standing import MemoryStanding, Outcome, Standing, standing
from symbiosis_bench.demo.tenants import CHAT, TENANTS
from symbiosis_bench.machine import Machine
from symbiosis_core.wire import BatchStatus, ClientStatus, DaemonStatus, MemoryStatus

BASE_BYTES = 269_000_000
MACHINE = Machine(
    cores=2,
    cpu="a cpu",
    python="3.11.7",
    torch="2.13.0",
    transformers="5.23.0",
    peft="0.21.2",
    os="Linux 6.1 x86_64",
    date="2026-01-01T00:00:00+00:00",
)


def accounts(losses: list[float], tokens: int = 40) -> dict[str, Account]:
    """Returns the accounts of all tenants: each that trains has these losses, the chat has made so many tokens."""
    made = {}
    for tenant in TENANTS:
        account = Account(tenant.name, tenant.lane, str(tenant.method))
        account.take(Ready(460_800, "My name is [bold]Elena[/bold]." if tenant.question else ""))
        for number, loss in enumerate(losses, 1):
            account.take(Step(number, loss, rows=96 * number))
        account.take(Finished(f"/out/{tenant.name}", "Ahoy!\nI am." if tenant.question else ""))
        made[tenant.name] = account
    chat = Account(CHAT.name, CHAT.lane, "generate()")
    chat.take(Ready(0))
    if tokens:
        chat.take(Tokens(tokens, 60, tuple(float(number) for number in range(1, 101))))
        chat.take(Answered("What is the capital of France?", "Paris.\n\nIt is."))
    chat.take(Finished())
    made[CHAT.name] = chat
    return made


def outcome(losses: list[float], tokens: int = 40, memory: MemoryStanding | None = None) -> Outcome:
    """Returns the end of a run of ten seconds."""
    made = accounts(losses, tokens)
    seen = ClientStatus(
        1, "persona", "training", 11, "posix_shm", 30.0, 900, 40_000, 0, 0, 410.0, 12_100.0, 1 << 20
    )
    last = Standing(
        elapsed_s=10.0,
        seconds=10.0,
        tenants=tuple(standing(account, 10.0, seen) for account in made.values()),
        batches=BatchStatus(count=1000, requests=1200, rows=50_000, clients=1100, busy_s=7.5),
        memory=memory or held(600_000_000, 2_000_000_000),
    )
    return Outcome(_daemon(), last, made)


def held(daemon: int | None, clients: int | None) -> MemoryStanding:
    """Returns what four tenants and a daemon take."""
    return MemoryStanding(base_bytes=BASE_BYTES, tenants=4, pss_daemon_bytes=daemon, pss_clients_bytes=clients)


def _daemon() -> DaemonStatus:
    return DaemonStatus(
        version="0.1.0",
        pid=10,
        uptime_s=40.0,
        address="ipc:///run/demo.sock",
        model="smollm2",
        dtype="bfloat16",
        fingerprint="40041d60",
        policy="latency_first",
        threads=2,
        draining=False,
        clients=(),
        lanes=(),
        batches=BatchStatus(1300, 1500, 60_000, 1400, 9.0),
        memory=MemoryStatus(base=BASE_BYTES, arenas=0, pss=600_000_000),
    )
