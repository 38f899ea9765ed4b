"""Into which lane a client goes: by the first rule that fits, else by its own wish."""

from __future__ import annotations

from fnmatch import fnmatchcase
from hmac import compare_digest

from symbiosis_core.config import DaemonConfig, RuleConfig

__all__ = ["lane_for"]


def lane_for(config: DaemonConfig, *, wish: str, name: str, user: str, key: str | None) -> str:
    """Returns the lane of a client; its own wish, which need not be a lane, where no rule fits.

    `key` None: nobody knows what it would show. A rule that asks for a key then fits who wishes for its lane.
    """
    for rule in config.rules:
        shown = (rule.key if rule.lane == wish else "") if key is None else key
        if _fits(rule, name, user, shown):
            return rule.lane
    return wish


def _fits(rule: RuleConfig, name: str, user: str, key: str) -> bool:
    named = not rule.name or fnmatchcase(name, rule.name)
    known = not rule.user or rule.user == user
    return named and known and (not rule.key or compare_digest(rule.key.encode(), key.encode()))
