"""Whether two contenders computed the same thing. Pure: answers in, a check out.

In float32 losses agree within 1e-5 and tokens are identical. In bfloat16 sums are rounded to eight bits wherever
they are cut or batched differently, so two right answers differ. What is asked of them then:

- every loss of an interval, which begins with the same adapter on the same data, agrees within 1 %;
- tokens are the same up to a place where the reference itself hardly prefers its choice: its first logit is less
  than `MARGIN` above the second. From there on the two write different texts, and comparing them says nothing;
- so both also read the reference's tokens, and at every place where the reference does prefer its choice by
  `MARGIN`, the other one chooses the same; and both are equally surprised by the text, within 1 %.

A wrong adapter, a wrong row or a stale cache moves logits by far more than `MARGIN`, in many places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from symbiosis_bench.end_to_end.messages import Decoded, Judged, Peaked, Trained

__all__ = ["MARGIN", "Check", "Verifier"]

MARGIN: Final = 0.5
"""Logits. One step of bfloat16 is 0.125 between 16 and 32."""
_LOSS_TOLERANCE: Final = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 5e-3}


class Check(msgspec.Struct, frozen=True):
    """One comparison."""

    what: str
    passed: bool
    says: str


class Verifier:
    """Compares answers of contenders that compute in `dtype`."""

    def __init__(self, dtype: str) -> None:
        self.tolerance = _LOSS_TOLERANCE[dtype]
        self._exact = dtype == "float32"

    def __repr__(self) -> str:
        return f"<Verifier within {self.tolerance:g}>"

    def adapters(self, what: str, ours: str, theirs: str) -> Check:
        """Checks that two contenders began with the same adapter."""
        return Check(f"adapter of {what}", ours == theirs, f"{ours} and {theirs}")

    def losses(self, what: str, ours: Trained | Peaked, reference: Trained | Peaked) -> Check:
        """Checks the loss of every step."""
        if len(ours.losses) != len(reference.losses):
            return Check(what, False, f"{len(ours.losses)} losses against {len(reference.losses)}")
        furthest = max((_apart(a, b) for a, b in zip(ours.losses, reference.losses, strict=True)), default=0.0)
        says = f"{len(ours.losses)} losses at most {furthest:.1e} apart, {self.tolerance:g} allowed"
        return Check(what, furthest <= self.tolerance, says)

    def tokens(self, what: str, ours: Decoded, reference: Decoded, judged: Judged) -> Check:
        """Checks generated tokens; `judged` is what the reference says about its own."""
        same = _common(ours.tokens, reference.tokens)
        total = len(reference.tokens)
        if same == total == len(ours.tokens):
            return Check(what, True, f"all {total} tokens are the same")
        if same == total or len(ours.tokens) != total:
            return Check(what, False, f"{len(ours.tokens)} tokens against {total}")
        margin = judged.margins[same]
        says = f"the first {same} of {total} tokens are the same; there the reference's margin is {margin:.3f}"
        return Check(what, not self._exact and margin < MARGIN, says)

    def reading(self, what: str, ours: Judged, reference: Judged) -> Check:
        """Checks what two contenders make of the same tokens."""
        if not len(ours.choices) == len(reference.choices) == len(reference.margins):
            return Check(what, False, f"{len(ours.choices)} places against {len(reference.choices)}")
        agreed = [a == b for a, b in zip(ours.choices, reference.choices, strict=True)]
        decided = [same for same, margin in zip(agreed, reference.margins, strict=True) if self._decides(margin)]
        apart = _apart(ours.surprise, reference.surprise)
        says = (
            f"reading the same text they choose alike in {sum(agreed)} of {len(agreed)} places, in {sum(decided)} "
            f"of {len(decided)} that are decided; surprise {apart:.1e} apart, {self.tolerance:g} allowed"
        )
        return Check(what, all(decided) and apart <= self.tolerance, says)

    def _decides(self, margin: float) -> bool:
        return self._exact or margin >= MARGIN


def _apart(ours: float | None, reference: float | None) -> float:
    """Returns the relative difference; endless where one is no number."""
    if ours is None or reference is None:
        return float("inf")
    return abs(ours - reference) / max(abs(reference), 1e-12)


def _common(ours: Sequence[int], reference: Sequence[int]) -> int:
    """Returns how many are the same from the beginning."""
    for place, (a, b) in enumerate(zip(ours, reference, strict=False)):
        if a != b:
            return place
    return min(len(ours), len(reference))
