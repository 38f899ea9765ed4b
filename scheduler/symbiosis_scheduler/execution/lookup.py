"""Token ids of a plan: copied, then checked, and only then used."""

from __future__ import annotations

import torch

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.specs import Direction, OpSpec
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.execution.rows import RowViews
from symbiosis_scheduler.frozen.layers import FrozenLayers

__all__ = ["sound_ids"]


def sound_ids(
    layers: FrozenLayers, views: RowViews, plan: Plan, op: OpSpec, failed: dict[Request, RefusalCode]
) -> tuple[list[Part], list[torch.Tensor]]:
    """Returns the parts whose ids are in the table, and copies of the ids; notes the other requests in `failed`.

    They are copied to the CPU before they are checked: the client could change them in between.
    """
    sound: list[Part] = []
    ids: list[torch.Tensor] = []
    for part in plan.parts:
        ids_T1 = views.inputs(part, op)[0].to("cpu", copy=True)
        try:
            layers.check(op, Direction.FORWARD, ids_T1)
        except RefusedError as error:
            failed[part.request] = error.code
        else:
            sound.append(part)
            ids.append(ids_T1)
    return sound, ids
