"""A policy of somebody else's, held to what a policy owes; once it fails, `latency_first` decides in its stead.

A daemon serves people who did not write its policy. So a bug in one costs neither the daemon nor a request: what
it would have decided next is decided by our own, over the same queues and lanes, and the log says why. It does not
get another chance by itself: whoever has mended it applies the configuration again.

Only what is not ours is guarded. A bug of ours ends the daemon with its traceback, as anywhere else, and a policy
that is simulated raises: there its author wants to know.
"""

from __future__ import annotations

from typing import Final

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import LocalProtocolError
from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision, Hold, Plan
from symbiosis_scheduler.decisions.policy import LatencyFirst, Policy
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request

__all__ = ["Guarded", "guarded", "told"]

log = get_logger(__name__)

_OURS: Final = __name__.partition(".")[0]
_INSTEAD: Final = "latency_first"
_LONGEST_HOLD_US: Final = 60_000_000
"""Sixty times the most that a lane may ask for. Who waits longer for nothing has a daemon that hangs, whether by
one hold or by one after the other."""


class Guarded:
    """Asks the policy until it fails, and from then on `latency_first`."""

    def __init__(self, policy: Policy, config: DaemonConfig) -> None:
        self.beside = bool(getattr(policy, "beside", False))
        self.failed = False
        self._name = config.policy.name
        self._exact = config.batching.exact
        self._policy = policy
        self._holding_since_us: dict[int, int] = {}
        """Since when nothing but holds was decided, by the first level that was to be planned; see `tracks`."""
        self._instead = LatencyFirst(config)

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """See `Policy.plan`."""
        if not self.failed:
            try:
                decision = self._policy.plan(now_us, queues, known)
                self._check(decision, now_us, queues)
                if not isinstance(decision, Hold):
                    self._holding_since_us.pop(queues.levels[0].rank, None)
            except (Exception, SystemExit) as error:  # whatever its author did not think of
                self.failed = True
                reason = f"{type(error).__name__}: {error}"
                log.exception(event("the policy failed", policy=self._name, decides=_INSTEAD, reason=reason))
            else:
                return decision
        return self._instead.plan(now_us, queues, known)

    def _check(self, decision: Decision, now_us: int, queues: Queues) -> None:
        """Raises LocalProtocolError for what cannot be carried out, or would let requests wait for ever."""
        if isinstance(decision, Plan):
            _check_plan(decision, queues)
            if self._exact and not (len(decision.parts) == 1 and decision.parts[0].stop == decision.lead.rows):
                raise LocalProtocolError("with batching.exact a plan is one request, whole and alone")
        elif isinstance(decision, Hold):
            _check_hold(decision, now_us)
            self._check_holding(now_us, queues)
        elif decision is not None:
            raise LocalProtocolError(f"a decision is a Plan, a Hold or None, and not {type(decision).__name__}")
        elif queues:
            raise LocalProtocolError("the policy lets requests wait and names no time")

    def _check_holding(self, now_us: int, queues: Queues) -> None:
        heads = [head for level in queues.levels for head in level.heads()]
        longest_here_us = min([head.arrived_us for head in heads], default=now_us)
        held_us = self._holding_since_us.setdefault(queues.levels[0].rank, now_us)
        since_us = max(
            held_us, longest_here_us
        )  # whoever was held before may have left, and nobody was asked since
        if now_us - since_us > _LONGEST_HOLD_US:
            raise LocalProtocolError(f"nothing but holds for more than {_LONGEST_HOLD_US} us, since {since_us}")


def _check_hold(hold: Hold, now_us: int) -> None:
    if not isinstance(hold.until_us, int):
        raise LocalProtocolError(f"the end of a hold is an int, and not {type(hold.until_us).__name__}")
    if hold.until_us <= now_us:
        raise LocalProtocolError(f"{hold} ends before it begins, at {now_us}")
    if hold.until_us - now_us > _LONGEST_HOLD_US:
        raise LocalProtocolError(f"{hold} ends more than {_LONGEST_HOLD_US} us after it begins, at {now_us}")


def _check_plan(plan: Plan, queues: Queues) -> None:
    if not isinstance(plan.parts, tuple):
        raise LocalProtocolError(f"the parts of a plan are a tuple, and not {type(plan.parts).__name__}")
    taken: dict[Request, int] = {}
    for part in plan.parts:
        request = part.request
        if (request.op, request.direction) != (plan.op, plan.direction):
            raise LocalProtocolError(f"{request} does not belong into a plan for op {plan.op}, {plan.direction}")
        if not (isinstance(part.start, int) and isinstance(part.stop, int)):
            raise LocalProtocolError(f"rows are numbered by ints, and not {part.start!r} to {part.stop!r}")
        start = taken[request] if request in taken else queues.taken(request)
        if part.start != start or not start < part.stop <= request.rows:
            raise LocalProtocolError(f"rows {part.start} to {part.stop} are not the next ones of {request}")
        taken[request] = part.stop
    if not taken:
        raise LocalProtocolError("the policy made an empty plan")


def guarded(policy: Policy, config: DaemonConfig) -> Policy:
    """Returns `policy`, which `config` names, so that it can do no harm."""
    ours = type(policy).__module__.partition(".")[0] == _OURS
    return policy if ours else Guarded(policy, config)


def told(policy: Policy, name: str) -> str:
    """Returns what users are told: the policy's name, and who decides where it has failed."""
    return f"{_INSTEAD}, for {name} has failed" if isinstance(policy, Guarded) and policy.failed else name
