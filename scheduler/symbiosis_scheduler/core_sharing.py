"""Who is asked to compute where, so that the first lane finds a core while lower ones are computed beside it.

Those of lower lanes leave one core. One client of the first lane that is at work by itself stays on it, with the
daemon's thread that serves it: woken elsewhere, it could wait behind one of the others while its core is free.
Several go where they like, since one core is too little for them.

Pure: the data plane says what it launches, and when.
"""

from __future__ import annotations

from typing import Final

from symbiosis_core.ids import ClientId
from symbiosis_core.spared_core import Place

__all__ = ["CoreSharing"]

_LINGERS_US: Final = 100_000
"""For so long what was launched last counts, as for `Tracks`."""
_NEVER_US: Final = -_LINGERS_US - 1
Asked = list[tuple[ClientId, Place | None]]


class CoreSharing:
    """What was asked of whom."""

    def __init__(self, core: int | None) -> None:
        """`core` is the one that is spared; without one nothing is asked of anybody."""
        self._leave = None if core is None else Place(core, leave=True)
        self._stay = None if core is None else Place(core, leave=False)
        self._places: dict[ClientId, Place] = {}
        self._beside_us = self._several_us = _NEVER_US
        """When rows of lower lanes were computed beside the first last, and of several clients in the first."""
        self._only: ClientId | None = None
        """Whose rows of the first lane were computed last."""

    def launched(
        self, clients: set[ClientId], now_us: int, *, lower: bool, beside: bool
    ) -> tuple[Place | None, Asked]:
        """Returns where the thread that computes rows of these clients is to be, and what is to be asked of whom.

        `lower`: they are of lower lanes. `beside`: and computed beside the first, by a thread that has its place.
        """
        if beside:
            self._beside_us = now_us
            return None, self._ask(clients, self._leave)
        if not lower and (len(clients) > 1 or self._only not in clients):
            self._several_us, self._only = now_us, next(iter(clients))
        shared = now_us - self._beside_us <= _LINGERS_US
        alone = not lower and now_us - self._several_us > _LINGERS_US
        place = self._stay if shared and alone else None
        return place, self._ask(clients, place) if shared or self._places else []

    def left(self, client: ClientId) -> None:
        """A client is gone."""
        self._places.pop(client, None)

    def _ask(self, clients: set[ClientId], place: Place | None) -> Asked:
        places, asked = self._places, Asked()
        for client in clients:
            if places.get(client) != place:
                asked.append((client, place))
                if place is None:
                    del places[client]
                else:
                    places[client] = place
        return asked
