"""A call becomes a request exactly when its base's checks, the drain and its client's quotas let it."""

from __future__ import annotations

from symbiosis_core.config import DaemonConfig, LaneConfig, LimitsConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import BaseId, ClientId, OpId
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.admission_control import AdmissionControl
from symbiosis_scheduler.decisions.events import ClientJoined
from symbiosis_scheduler.decisions.present import PresentClient
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Travellers
from tests.scheduler.desk import SLOT_BYTES, arrival

SMALL, LARGE = BaseId(0), BaseId(1)
LANE = "a"


def control(rows_per_s: int = 0, max_rows: int = 40) -> AdmissionControl:
    """Two bases: one of two ops, and one of a single op, which is the third."""
    control = AdmissionControl(2, config(rows_per_s, max_rows), Travellers())
    for base, op in ((SMALL, 0), (SMALL, 1), (LARGE, 0)):
        control.learn(base, OpSpec(OpId(op), OpKind.LINEAR, (f"l{op}",), 16, (16,), DType.FLOAT32))
    return control


def config(rows_per_s: int = 0, max_rows: int = 40) -> DaemonConfig:
    lanes = {LANE: LaneConfig(priority=0, client_rows_per_s=rows_per_s)}
    return DaemonConfig(lanes=lanes, limits=LimitsConfig(max_rows=max_rows))


def here(control: AdmissionControl, client: int = 1, base: BaseId = SMALL) -> PresentClient:
    found = PresentClient(ClientJoined(ClientId(client), LANE, SLOT_BYTES, "u", base=base))
    control.joined(found)
    return found


def test_a_call_that_is_admitted_is_a_request_of_its_client_with_the_number_of_its_op() -> None:
    gate = control()
    request = gate.admit(here(gate, base=LARGE), arrival(slot=3, generation=7, op=0, rows=5), now_us=9)
    assert isinstance(request, Request)
    assert (request.client, request.slot, request.generation, request.lane) == (1, 3, 7, LANE)
    assert (request.op, request.direction, request.rows, request.arrived_us) == (2, Direction.FORWARD, 5, 9)
    assert gate.base(request.op) == LARGE


def test_a_client_cannot_name_the_ops_of_another_base() -> None:
    gate = control()
    assert gate.admit(here(gate, base=LARGE), arrival(op=1), 0) is RefusalCode.UNKNOWN_OP
    assert gate.number(LARGE, 1) is None and gate.number(SMALL, 1) == 1


def test_what_cannot_be_computed_is_refused_and_charged_to_nobody() -> None:
    """Else a client would pay for its mistakes: two seconds' worth of 20 is one request of 40 rows."""
    gate = control(rows_per_s=20)
    client = here(gate)
    for _ in range(3):
        assert gate.admit(client, arrival(rows=41), 0) is RefusalCode.BAD_ROWS
        assert gate.admit(client, arrival(op=9), 0) is RefusalCode.UNKNOWN_OP
    assert gate.reached(client.id, 0) is None
    assert isinstance(gate.admit(client, arrival(rows=40), 0), Request)
    reached = gate.reached(client.id, 0)
    assert reached is not None and reached.key == "client_rows_per_s"


def test_who_drains_refuses_everything_and_charges_nothing() -> None:
    gate = control(rows_per_s=20)
    client = here(gate)
    gate.draining = True
    assert gate.admit(client, arrival(rows=40), 0) is RefusalCode.DRAINING
    assert gate.admit(client, arrival(op=9), 0) is RefusalCode.DRAINING, "whatever else is wrong with it"
    assert gate.reached(client.id, 0) is None


def test_another_configuration_has_other_limits_and_quotas_for_those_who_are_here() -> None:
    gate = control(max_rows=40)
    client = here(gate)
    assert isinstance(gate.admit(client, arrival(rows=40), 0), Request)
    gate.moved_to(config(rows_per_s=1, max_rows=4), [client])
    assert gate.admit(client, arrival(rows=5), 0) is RefusalCode.BAD_ROWS
    assert isinstance(gate.admit(client, arrival(rows=4), 0), Request)
    gate.left(client.id)
    assert gate.reached(client.id, 0) is None
