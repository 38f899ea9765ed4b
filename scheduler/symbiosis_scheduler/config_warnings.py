"""What stands in a configuration and can never take effect: no mistake, and surely not what somebody meant."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from symbiosis_core.config import DEFAULT_LANES, BatchingConfig, DaemonConfig, LaneConfig, RuleConfig
from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.policies import policy_class

__all__ = ["log_warnings", "warnings"]

log = get_logger(__name__)

_OF_POLICIES = ("weight", "chunk_rows", "max_wait_us", "max_hold_us", "first_token_us", "token_us")
"""Keys of a lane that a policy may read or not. All others hold whatever the policy."""


def warnings(config: DaemonConfig, policy: Any) -> list[str]:
    """Returns a line for everything that can never take effect, with its key path. `policy`: what is installed."""
    told = getattr(policy, "reads", None)
    reads = None if told is None else frozenset(told)  # a third party may have written a list
    found: list[str] = []
    for name, lane in config.lanes.items():
        found += [f"lanes.{name}.{line}" for line in _lane(config, name, lane, reads)]
    return [*found, *_everywhere(config, policy), *_rules(config.rules), *_never_entered(config)]


def log_warnings(config: DaemonConfig, source: str) -> None:
    """Logs the same, for who starts a daemon without having it checked."""
    for line in warnings(config, policy_class(config, source)):
        log.warning(event("configuration", file=source, warning=line))


def _lane(config: DaemonConfig, name: str, lane: LaneConfig, reads: frozenset[str] | None) -> Iterator[str]:
    policy, most_rows = config.policy.name, config.batching.max_rows
    changed = {
        field.name
        for field in msgspec.structs.fields(LaneConfig)
        if not field.required and getattr(lane, field.name) != field.default
    }
    if lane == DEFAULT_LANES.get(name):  # nobody wrote it
        changed = set()
    if reads is not None:
        for key in _OF_POLICIES:
            if key in changed - reads:
                yield f"{key}: the policy {policy} does not read it"
    if config.batching.exact:
        for key in ("max_hold_us", "chunk_rows"):
            if key in changed and (reads is None or key in reads):
                yield f"{key}: with batching.exact every request is computed whole and alone"
    elif lane.chunk_rows > most_rows and (reads is None or "chunk_rows" in reads):
        yield f"chunk_rows = {lane.chunk_rows}: no batch has more than batching.max_rows = {most_rows} rows"
    if reads is not None and "priority" not in reads and _in_order(config) and config.lanes != DEFAULT_LANES:
        yield f"priority: the policy {policy} takes turns by other things; it only decides who rides along first"
    if policy == "weighted_fair" and "weight" in changed and len(config.lanes) == 1:
        yield "weight: there is no other lane to share with"
    if (
        policy == "deadline"
        and len(config.lanes) > 1
        and not (lane.first_token_us or lane.token_us or lane.max_wait_us)
    ):
        yield "token_us: without it and with max_wait_us = 0, deadline serves the lane when nobody else has work"
    if "max_wait_us" in changed and lane.max_wait_us and not _ends_holds(config, lane):
        yield from _ageing(config, lane)
    if lane.max_hold_us and config.limits.max_clients == 1:
        yield "max_hold_us: limits.max_clients = 1, and a client alone is never held"
    if lane.max_clients >= config.limits.max_clients and lane.max_clients:
        yield f"max_clients: limits.max_clients = {config.limits.max_clients} comes first"
    if lane.max_clients and lane.max_clients_per_user > lane.max_clients:
        yield "max_clients_per_user: max_clients of the lane comes first"
    if 0 < lane.user_rows_per_s <= lane.client_rows_per_s:
        yield "client_rows_per_s: user_rows_per_s, which is no larger, comes first"


def _in_order(config: DaemonConfig) -> bool:
    return len({lane.priority for lane in config.lanes.values()}) > 1


def _ends_holds(config: DaemonConfig, lane: LaneConfig) -> bool:
    """Whether requests age while they may be held, which ends the hold."""
    return (
        config.policy.name == "latency_first" and lane.max_wait_us < lane.max_hold_us and not config.batching.exact
    )


def _ageing(config: DaemonConfig, lane: LaneConfig) -> Iterator[str]:
    policy, priorities = config.policy.name, sorted({each.priority for each in config.lanes.values()})
    if policy == "latency_first" and lane.priority == priorities[0]:
        yield "max_wait_us: nothing goes before the first lane, so nothing in it can age past anything"
    elif (
        policy == "latency_first" and len(priorities) == 2 and config.compute.beside and not config.batching.exact
    ):
        yield "max_wait_us: on a CPU these lanes are computed beside the first, and there is no other to age past"
    if policy == "deadline" and (lane.first_token_us or lane.token_us):
        yield "max_wait_us: the lane has targets for tokens, and the policy deadline goes by those"


def _everywhere(config: DaemonConfig, policy: Any) -> Iterator[str]:
    if config.batching.exact and config.batching.max_rows != BatchingConfig().max_rows:
        yield "batching.max_rows: with batching.exact every request is computed whole and alone"
    if config.compute.beside:
        return
    if config.batching.exact:
        yield "compute.beside: with batching.exact nothing is computed beside anything"
    elif not getattr(policy, "beside", False):
        yield f"compute.beside: under the policy {config.policy.name} nothing is computed beside anything"


def _rules(rules: tuple[RuleConfig, ...]) -> Iterator[str]:
    for position, rule in enumerate(rules):
        for before, earlier in enumerate(rules[:position]):
            if _covers(earlier, rule):
                yield f"rules[{position}]: rules[{before}] fits all that it would fit"
                break


def _never_entered(config: DaemonConfig) -> Iterator[str]:
    """Lanes that no rule names, or only one behind a rule that fits everybody."""
    for position, rule in enumerate(config.rules):
        if not (rule.user or rule.key or set(rule.name) - {"*"}):
            entered = {each.lane for each in config.rules[: position + 1]}
            for name in config.lanes:
                if name not in entered:
                    yield f"lanes.{name}: rules[{position}] fits everybody, so nobody comes into this lane"
            return


def _covers(earlier: RuleConfig, later: RuleConfig) -> bool:
    same_name = not earlier.name or _name_covers(earlier.name, later.name or "*")
    return same_name and earlier.user in ("", later.user) and earlier.key in ("", later.key)


def _name_covers(earlier: str, later: str) -> bool:
    """Whether surely every name that fits `later` fits `earlier`. Among patterns only `*` is followed."""
    if earlier == later or set(earlier) == {"*"}:
        return True
    if not set(later) & set("*?["):
        return fnmatchcase(later, earlier)
    return not set(earlier) & set("?[") and "[" not in later and fnmatchcase(later, earlier)
