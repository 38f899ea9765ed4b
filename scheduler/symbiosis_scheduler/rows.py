"""Tensor views of the rows that stand in the clients' slots.

Making a view costs 2-3 us, more than a small doorbell; a client uses the same few shapes again and again, so
views are kept per client, and dropped with it: a view that lives keeps the client's memory alive.
"""

from __future__ import annotations

from typing import Final

import torch

from symbiosis_core.ids import ClientId
from symbiosis_core.specs import Direction, DType, OpSpec
from symbiosis_scheduler.plan import Part
from symbiosis_transports.ports import ServerChannel
from symbiosis_transports.tensors import view_rows

__all__ = ["RowViews"]

_KEPT_VIEWS: Final = 512
_Key = tuple[int, int, int, int, DType]


class RowViews:
    """The views of all connected clients."""

    def __init__(self) -> None:
        self._clients: dict[ClientId, tuple[ServerChannel, dict[_Key, torch.Tensor]]] = {}

    def attach(self, channel: ServerChannel) -> None:
        """From now on parts of this client can be viewed."""
        self._clients[channel.client] = (channel, {})

    def detach(self, client: ClientId) -> None:
        """Forgets every view of the client. Unknown clients are nobody's loss."""
        self._clients.pop(client, None)

    def inputs(self, part: Part, op: OpSpec) -> torch.Tensor:
        """Returns the rows that the client wrote for `part`, shape (rows, width in)."""
        width, dtype = op.row_in(Direction(part.request.direction))
        return self._rows(part, part.request.in_offset, width, dtype)

    def outputs(self, part: Part, op: OpSpec) -> torch.Tensor:
        """Returns where the answer to `part` goes, shape (rows, width out)."""
        width, dtype = op.row_out(Direction(part.request.direction))
        return self._rows(part, part.request.out_offset, width, dtype)

    def _rows(self, part: Part, offset: int, width: int, dtype: DType) -> torch.Tensor:
        request = part.request
        channel, views = self._clients[request.client]
        at = offset + part.start * width * dtype.itemsize
        key = (request.slot, at, part.stop - part.start, width, dtype)
        view = views.get(key)
        if view is None:
            if len(views) >= _KEPT_VIEWS:
                views.clear()
            view = view_rows(channel.buffer(request.slot), at, part.rows, width, dtype)
            views[key] = view
        return view
