"""Tensor views of the rows that stand in the clients' slots.

Making a view costs 2-3 us, more than a small doorbell; a client uses the same few shapes again and again, so
views are kept per client, and dropped with it: a view that lives keeps the client's memory alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from symbiosis_core.ids import ClientId
from symbiosis_core.specs import Op, Plane, plane_starts
from symbiosis_scheduler.decisions.plan import Part
from symbiosis_transports.ports import ServerChannel, ServesOnDevice
from symbiosis_transports.tensors import slot_memory, view_rows

__all__ = ["RowViews"]

_KEPT_VIEWS: Final = 512
_Key = tuple[int, int, int, int, int, tuple[Plane, ...]]


class RowViews:
    """The views of all connected clients."""

    def __init__(self) -> None:
        self._clients: dict[ClientId, tuple[ServerChannel, dict[_Key, list[torch.Tensor]]]] = {}
        self._on_device: dict[ClientId, ServesOnDevice] = {}

    def attach(self, channel: ServerChannel) -> None:
        """From now on parts of this client can be viewed."""
        self._clients[channel.client] = (channel, {})
        if isinstance(channel, ServesOnDevice):
            self._on_device[channel.client] = channel

    def detach(self, client: ClientId) -> None:
        """Forgets every view of the client. Unknown clients are nobody's loss."""
        self._clients.pop(client, None)
        self._on_device.pop(client, None)

    def __contains__(self, client: ClientId) -> bool:
        return client in self._clients

    def inputs(self, part: Part, op: Op) -> list[torch.Tensor]:
        """Returns the rows that the client wrote for `part`, per plane (rows, width in)."""
        request = part.request
        return self._planes(part, request.in_offset, op.planes_in(request.direction))

    def outputs(self, part: Part, op: Op) -> list[torch.Tensor]:
        """Returns where the answer to `part` goes, per plane (rows, width out)."""
        request = part.request
        return self._planes(part, request.out_offset, op.planes_out(request.direction))

    def computed(self, parts: Sequence[Part]) -> None:
        """Tells the channels on a device that the answers to these parts are queued on the current stream."""
        if self._on_device:
            for part in parts:
                if (channel := self._on_device.get(part.request.client)) is not None:
                    channel.computed(part.request.slot)

    def _planes(self, part: Part, offset: int, planes: tuple[Plane, ...]) -> list[torch.Tensor]:
        request = part.request
        channel, views = self._clients[request.client]
        key = (request.slot, offset, part.start, part.stop, request.rows, planes)
        found = views.get(key)
        if found is None:
            if len(views) >= _KEPT_VIEWS:
                views.clear()
            buffer, (starts, _) = slot_memory(channel, request.slot), plane_starts(planes, request.rows)
            found = views[key] = [
                view_rows(buffer, offset + at + part.start * plane.row_bytes, part.rows, *plane)
                for at, plane in zip(starts, planes, strict=True)
            ]
        return found
