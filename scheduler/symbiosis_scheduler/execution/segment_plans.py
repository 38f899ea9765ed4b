"""Carries out plans of segments: gathers the planes of all parts, runs the program, keeps and finds memos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import OpId
from symbiosis_core.segments import SegmentSpec
from symbiosis_core.specs import Direction, Op
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.execution.memo import Memo
from symbiosis_scheduler.execution.rows import RowViews
from symbiosis_scheduler.execution.staged import Landing
from symbiosis_scheduler.programs.program import Program, Saved

__all__ = ["Carrier", "SegmentPlans"]


class Carrier(Protocol):
    """Brings rows to where they are computed, and back."""

    def send(self, pieces: list[Tensor]) -> Tensor:
        """Returns the rows of all pieces where the weights are."""

    def land(self, ys: Sequence[Tensor], parts: Sequence[Part], op: Op) -> Landing | None:
        """Brings the answers back; None: they are there."""


class SegmentPlans:
    """The programs of all learned segments, and how plans of them are computed."""

    def __init__(self, views: RowViews, memo: Memo) -> None:
        self.memo: Final = memo
        self._views = views
        self._programs: dict[OpId, tuple[Program, Mapping[int, int]]] = {}

    def learn(self, number: OpId, program: Program, tables: Mapping[int, int]) -> None:
        """From now on plans may be of this segment. `tables` is as `Program.check` wants it."""
        self._programs[number] = (program, tables)

    def prepare(
        self, plan: Plan, op: SegmentSpec, carrier: Carrier, failed: dict[Request, RefusalCode]
    ) -> Callable[[], Landing | None]:
        """Reads the rows; returns what computes them, in any thread, and answers what is left to be landed.

        Requests with bad token ids are noted in `failed`.
        """
        program, tables = self._programs[plan.op]
        parts, planes = self._gather(plan, program, tables, carrier, failed)
        if not parts:
            return lambda: None
        way = self._forward if plan.direction is Direction.FORWARD else self._backward
        return lambda: carrier.land(way(program, parts, planes), parts, op)

    def _gather(
        self,
        plan: Plan,
        program: Program,
        tables: Mapping[int, int],
        carrier: Carrier,
        failed: dict[Request, RefusalCode],
    ) -> tuple[list[Part], list[Tensor]]:
        """Returns the sound parts, and their rows one under the other, per plane.

        Integers decide what memory is read, so they are copied to the CPU before they are checked: the client
        could change them in between.
        """
        op, sound, rows = program.spec, [], []
        for part in plan.parts:
            views = self._views.inputs(part, op)
            if program.indexed:
                views = [
                    view.to("cpu", copy=True) if index in program.indexed else view
                    for index, view in enumerate(views)
                ]
                try:
                    program.check(views, tables)
                except RefusedError as error:
                    failed[part.request] = error.code
                    continue
            sound.append(part)
            rows.append(views)
        return sound, [carrier.send(list(pieces)) for pieces in zip(*rows, strict=True)]

    def _forward(self, program: Program, parts: list[Part], planes: list[Tensor]) -> list[Tensor]:
        remembered = bool(program.saved) and any(part.request.memo for part in parts)
        if not remembered or not self.memo.budget_bytes:
            return program.forward(planes)
        saved: dict[int, Tensor] = {}
        ys = program.forward(planes, saved, _kept(parts))
        at = 0
        for part in parts:
            request = part.request
            if request.memo:
                mine = {value: tensor[at : at + part.rows] for value, tensor in saved.items()}
                key = (request.client, request.op, request.memo)
                self.memo.keep(key, request.rows, part.start, mine, whole=len(parts) == 1)
            at += part.rows
        return ys

    def _backward(self, program: Program, parts: list[Part], planes: list[Tensor]) -> list[Tensor]:
        inputs = len(program.spec.segment.inputs)
        found = [self._found(program, part) for part in parts]
        if len(parts) == 1 or all(found) or not any(found):
            saved = _joined(found) if all(found) else None
            return program.backward(planes[:inputs], planes[inputs:], saved)
        # Some have a memo and some have not: each on its own, and the answers one under the other.
        counts = [part.rows for part in parts]
        pieces = zip(*[plane.split(counts) for plane in planes], strict=True)
        answers = [
            program.backward(piece[:inputs], piece[inputs:], memo)
            for piece, memo in zip(pieces, found, strict=True)
        ]
        return [torch.cat(ys) for ys in zip(*answers, strict=True)]

    def _found(self, program: Program, part: Part) -> Saved | None:
        request = part.request
        if not program.saved or not request.memo:
            return None
        key = (request.client, request.op, request.memo)
        kept = self.memo.find(key, request.rows, last=part.stop == request.rows)
        return None if kept is None else {value: rows[part.start : part.stop] for value, rows in kept.items()}


def _kept(parts: Sequence[Part]) -> Tensor | None:
    """Returns of which rows something is to be kept; None: of all."""
    if all(part.request.memo for part in parts):
        return None
    return torch.cat([torch.full((part.rows,), bool(part.request.memo)) for part in parts])


def _joined(found: list[Saved | None]) -> Saved:
    if len(found) == 1:
        return found[0] or {}
    return {value: torch.cat([each[value] for each in found if each is not None]) for value in found[0] or {}}
