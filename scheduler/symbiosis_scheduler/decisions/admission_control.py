"""Admission control: what becomes of a call that arrives. A request, or a refusal with its code.

A call is checked against its base's catalogue (`admission`), and where it can be computed it is charged to the
quotas of its client (`quotas`) and gets the number that its op has among those of all bases (`numbering`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import BaseId, ClientId, OpId
from symbiosis_core.specs import Direction, Op
from symbiosis_scheduler.decisions.admission import Admission
from symbiosis_scheduler.decisions.numbering import Numbering
from symbiosis_scheduler.decisions.present import PresentClient
from symbiosis_scheduler.decisions.quotas import Quotas, Reached
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Travellers
from symbiosis_transports.calls import Arrival, Call

__all__ = ["AdmissionControl"]

_DIRECTIONS: Final = tuple(Direction)


class AdmissionControl:
    """The rules of all bases, and everybody's quotas."""

    def __init__(self, bases: int, config: DaemonConfig, travellers: Travellers) -> None:
        """`travellers` know where a client's forward begins: there its quotas are judged."""
        self._checks = [Admission((), config.limits) for _ in range(bases)]
        self._numbering = Numbering(bases)
        self._quotas = Quotas(config.lanes)
        self._travellers = travellers
        self.draining = False
        """Whether everything is refused."""

    def __repr__(self) -> str:
        return f"<AdmissionControl over {self._numbering}, {self._quotas}{', draining' if self.draining else ''}>"

    def learn(self, base: BaseId, op: Op) -> OpId:
        """From now on a base's clients may ask for `op`; returns the number by which plans name it."""
        self._checks[base].learn(op)
        return self._numbering.add(base)

    def number(self, base: BaseId, op: int) -> OpId | None:
        """Returns the number of an op that a client of `base` names; None: there is none."""
        return self._numbering.number(base, op)

    def base(self, number: OpId) -> BaseId:
        """Returns whose op that is."""
        return self._numbering.base(number)

    def joined(self, client: PresentClient) -> None:
        """From now on the client has the quotas of its lane and user."""
        self._quotas.join(client.id, client.lane, client.user)

    def left(self, client: ClientId) -> None:
        """The client is gone."""
        self._quotas.leave(client)

    def reached(self, client: ClientId, now_us: int) -> Reached | None:
        """Returns the quota that keeps a client from beginning a forward; None: there is none."""
        return self._quotas.reached(client, now_us)

    def moved_to(self, config: DaemonConfig, clients: Iterable[PresentClient]) -> None:
        """From now on another configuration's limits and quotas hold for those who are here."""
        members = {client.id: (client.lane, client.user) for client in clients}
        self._quotas = self._quotas.moved_to(config.lanes, members)
        for check in self._checks:
            check.limit(config.limits)

    def admit(self, client: PresentClient, arrival: Arrival, now_us: int) -> Request | RefusalCode:
        """Returns the request that a call is, which is then charged to its client; or why it is none."""
        slot, generation, call = arrival
        op = self._numbering.number(client.base, call.op)
        refusal = self._checks[client.base].refusal(call, client.slot_bytes)
        if self.draining:
            refusal = RefusalCode.DRAINING
        if refusal is not None or op is None:
            return RefusalCode.UNKNOWN_OP if refusal is None else refusal
        if not self._charged(client.id, op, call, now_us):
            return RefusalCode.QUOTA
        return Request(
            client.id,
            slot,
            generation,
            client.lane,
            op,
            _DIRECTIONS[call.direction],
            call.rows,
            now_us,
            call.in_offset,
            call.out_offset,
            call.memo,
        )

    def _charged(self, client: ClientId, op: OpId, call: Call, now_us: int) -> bool:
        """Charges a call to its client's quotas; False: one is used up, and nothing was charged."""
        begins = self._travellers.begins(client, op, _DIRECTIONS[call.direction])
        return self._quotas.charge(client, call.rows, now_us, begins=begins)
