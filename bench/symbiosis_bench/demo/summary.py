"""What the demo leaves: the JSON and the table at the end, and the verdict whether it was a success.

All figures are of the measured phase, which begins when all tenants are ready (`dedicated_bytes` is reckoned
from them). None is written down here; a field
whose meaning is not plain says it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from rich.console import Console, RenderableType

from symbiosis_bench.demo.standing import Outcome, TenantStanding, one_line
from symbiosis_bench.demo.table import LEGEND, batches_line, memory_line, tenant_table
from symbiosis_bench.demo.tenants import CHAT, TENANTS
from symbiosis_bench.machine import Machine

__all__ = ["FALLS_FROM_STEPS", "Summary", "complaints", "show", "summarize"]

FALLS_FROM_STEPS: Final = 10
"""From this many steps on, a loss that has not fallen makes the demo fail; before, it is chance."""


class Base(msgspec.Struct, frozen=True):
    """The frozen base."""

    name: str
    dtype: str
    bytes: int
    fingerprint: str


class Trained(msgspec.Struct, frozen=True):
    """One fine-tuning tenant."""

    name: str
    method: str
    lane: str
    steps: int
    """Optimizer steps completed in the measured phase. The adapter may have one more: the
    step that was under way."""
    loss_first: float | None
    """Mean over the first steps: five, or half of all where there are fewer than ten."""
    loss_last: float | None
    """Mean over as many last steps."""
    rows_per_s: float
    """Token rows put through the model: batch times length of every step, padding included."""
    trainable_parameters: int
    adapter: str
    """The folder of the saved adapter."""


class Inference(msgspec.Struct, frozen=True):
    """The chat tenant."""

    tokens: int
    p50_ms: float
    """Time from one token to the next within an answer, as the tenant sees it."""
    p99_ms: float


class Memory(msgspec.Struct, frozen=True):
    """Proportional set sizes at the end of the measured phase. null: this kernel does not tell."""

    pss_daemon_bytes: int | None
    pss_clients_bytes: int | None
    dedicated_bytes: int | None
    dedicated_is: str = "pss_clients_bytes + one base.bytes per tenant, the chat included"


class Batches(msgspec.Struct, frozen=True):
    """What the daemon made of the requests."""

    count: int
    requests: int
    rows: int
    clients: int
    """Sum over batches of the different clients in it; divided by `count`: the mean occupancy."""


class BeforeAfter(msgspec.Struct, frozen=True):
    """One tenant's answer to a question that is not among its examples."""

    tenant: str
    question: str
    before: str
    after: str


class Summary(msgspec.Struct, frozen=True):
    """The JSON."""

    base: Base
    tenants: tuple[Trained, ...]
    inference: Inference
    memory: Memory
    batches: Batches
    seconds: float
    """How long the measured phase lasted."""
    machine: Machine
    before_after: BeforeAfter


def summarize(outcome: Outcome, machine: Machine) -> Summary:
    """Returns the summary of a run."""
    daemon, last = outcome.daemon, outcome.standing
    by_name = {tenant.name: tenant for tenant in last.tenants}
    chat = by_name[CHAT.name]
    memory, batches = last.memory, last.batches
    return Summary(
        base=Base(daemon.model, daemon.dtype, daemon.memory.base, daemon.fingerprint),
        tenants=tuple(_trained(outcome, by_name[tenant.name]) for tenant in TENANTS),
        inference=Inference(chat.tokens, round(chat.decode_p50_ms, 2), round(chat.decode_p99_ms, 2)),
        memory=Memory(memory.pss_daemon_bytes, memory.pss_clients_bytes, memory.dedicated_bytes),
        batches=Batches(batches.count, batches.requests, batches.rows, batches.clients),
        seconds=round(last.elapsed_s, 2),
        machine=machine,
        before_after=_before_after(outcome),
    )


def _trained(outcome: Outcome, tenant: TenantStanding) -> Trained:
    finished = outcome.accounts[tenant.name].finished
    return Trained(
        name=tenant.name,
        method=tenant.method,
        lane=tenant.lane,
        steps=tenant.steps,
        loss_first=tenant.loss_first,
        loss_last=tenant.loss_last,
        rows_per_s=round(tenant.rows_per_s, 2),
        trainable_parameters=tenant.trainable_parameters,
        adapter=finished.adapter if finished else "",
    )


def _before_after(outcome: Outcome) -> BeforeAfter:
    asked = next(tenant for tenant in TENANTS if tenant.question)
    account = outcome.accounts[asked.name]
    before = account.ready.answer if account.ready else ""
    after = account.finished.answer if account.finished else ""
    return BeforeAfter(asked.name, asked.question, before, after)


def complaints(summary: Summary) -> list[str]:
    """Returns why the run was no success; nothing where it was one.

    Every tenant must have made progress. A loss must have fallen where there were `FALLS_FROM_STEPS` steps.
    """
    found = []
    for tenant in summary.tenants:
        if not tenant.steps:
            found.append(f"{tenant.name} made no step in {summary.seconds:.0f} s")
        elif tenant.steps >= FALLS_FROM_STEPS and not _fell(tenant):
            found.append(
                f"{tenant.name}'s loss has not fallen in {tenant.steps} steps: "
                f"{tenant.loss_first} first, {tenant.loss_last} last"
            )
    if not summary.inference.tokens:
        found.append(f"{CHAT.name} made no token in {summary.seconds:.0f} s")
    return found


def _fell(tenant: Trained) -> bool:
    """A loss that is not a number has not fallen."""
    return tenant.loss_first is not None and tenant.loss_last is not None and tenant.loss_last < tenant.loss_first


def show(console: Console, outcome: Outcome, summary: Summary) -> None:
    """Prints the end of the demo for a person."""
    last, told, base = outcome.standing, summary.before_after, summary.base
    blocks: list[RenderableType] = [
        f"{summary.seconds:.0f} s on one base: {base.name}, {base.bytes / 1e6:.0f} MB in {base.dtype}",
        "",
        tenant_table(last),
        "",
        LEGEND,
        batches_line(last.batches, last.elapsed_s),
        memory_line(last.memory),
        "",
        f"{told.tenant}, asked before and after: {told.question}",
        f"  before: {one_line(told.before)}",
        f"  after:  {one_line(told.after)}",
        "",
        "adapters, which plain PEFT loads too:",
    ]
    for block in blocks:
        console.print(block, markup=False, highlight=False)
    for tenant in summary.tenants:
        console.print(f"  {tenant.adapter}", markup=False, highlight=False, soft_wrap=True)  # to be copied
