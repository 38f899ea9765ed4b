"""What a client asks a daemon over the control link: one short conversation each, of a question and its answer."""

from __future__ import annotations

from typing import TypeVar

from symbiosis_core.errors import BusyError, RefusedError, RemoteProtocolError
from symbiosis_core.ids import OpId, boot_id
from symbiosis_core.segments import Segment
from symbiosis_core.specs import ModelSpec, TensorSpec
from symbiosis_core.wire import (
    AskQuota,
    Borrow,
    Describe,
    Fetch,
    Hello,
    Learn,
    Learned,
    Loan,
    ModelReply,
    QuotaState,
    Reply,
    Request,
    TensorPart,
    Welcome,
)
from symbiosis_transports.address import Address
from symbiosis_transports.ports import Link
from symbiosis_transports.zmq_link import ControlClient

__all__ = ["borrow_from", "fetch_from", "greet", "quota_of", "teach"]

A = TypeVar("A", bound=Reply)


def greet(address: Address, hello: Hello) -> tuple[Welcome, ModelSpec]:
    """Returns the place that was granted, and the catalogue of its base."""
    with ControlClient(address.control) as link:
        welcome = _ask(link, hello, Welcome)
        return welcome, _ask(link, Describe(welcome.model), ModelReply).spec


def fetch_from(address: Address, model: str, tensor: TensorSpec) -> bytearray:
    """Returns the bytes of a small tensor, which come part by part.

    Raises:
        RemoteProtocolError: the answer has another size than the catalogue says.
    """
    data = bytearray()
    with ControlClient(address.control) as link:
        while len(data) < tensor.nbytes:
            part = _ask(link, Fetch(model, tensor.name, len(data)), TensorPart)
            if not part.data or (part.offset, part.total_bytes) != (len(data), tensor.nbytes):
                raise RemoteProtocolError(
                    f"the daemon answered {part.total_bytes} bytes of {tensor.name}, not {tensor.nbytes}"
                )
            data += part.data
    return data


def teach(address: Address, model: str, segment: Segment) -> OpId:
    """Returns the number by which the daemon knows a segment from now on."""
    with ControlClient(address.control) as link:
        return OpId(_ask(link, Learn(model, segment), Learned).op)


def borrow_from(address: Address, model: str) -> Loan:
    """Returns where the weights of a base are lent. Raises RefusedError where they are not."""
    with ControlClient(address.control) as link:
        return _ask(link, Borrow(model, boot_id()), Loan)


class RowsQuotaError(BusyError):
    """A quota of rows is used up. It passes by itself, as other limits may not."""


def quota_of(address: Address, client: int, error: RefusedError) -> RowsQuotaError:
    """Returns the error that says which quota was reached, and until when: a slot's code says neither."""
    with ControlClient(address.control) as link:
        state = _ask(link, AskQuota(client), QuotaState)
    return RowsQuotaError(
        error.code, state.reason or error.reason, state.remedy, retry_after_s=state.retry_after_s
    )


def _ask(link: Link, request: Request, kind: type[A]) -> A:
    answer = link.ask(request)
    assert isinstance(answer, kind)  # the conversation lets nothing else through
    return answer
