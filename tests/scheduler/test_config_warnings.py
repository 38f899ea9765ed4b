"""What can never take effect is said, with its key; what does take effect is not."""

from __future__ import annotations

from typing import Any

import pytest

from symbiosis_core.config import (
    BatchingConfig,
    DaemonConfig,
    LaneConfig,
    LimitsConfig,
    PolicyConfig,
    RuleConfig,
)
from symbiosis_scheduler.config_warnings import warnings
from symbiosis_scheduler.policies import policy_class


def warned(policy: str = "latency_first", lane: dict[str, Any] | None = None, **rest: Any) -> list[str]:
    lanes = {"first": LaneConfig(priority=0, max_wait_us=0), "a": LaneConfig(priority=1, **(lane or {}))}
    config = DaemonConfig(policy=PolicyConfig(name=policy), lanes=lanes, **rest)
    return warnings(config, policy_class(config))


def test_the_defaults_take_effect() -> None:
    config = DaemonConfig()
    assert warnings(config, policy_class(config)) == []


@pytest.mark.parametrize(
    ("policy", "lane", "key"),
    [
        ("latency_first", {"weight": 2.0}, "weight"),
        ("latency_first", {"token_us": 5}, "token_us"),
        ("weighted_fair", {"max_wait_us": 5}, "max_wait_us"),
        ("fifo", {"chunk_rows": 5}, "chunk_rows"),
        ("latency_first", {"chunk_rows": 1000}, "chunk_rows"),
        ("latency_first", {"max_clients": 64}, "max_clients"),
        ("latency_first", {"max_clients": 2, "max_clients_per_user": 3}, "max_clients_per_user"),
        ("latency_first", {"client_rows_per_s": 9, "user_rows_per_s": 9}, "client_rows_per_s"),
    ],
)
def test_each_key_of_a_lane_that_means_nothing(policy: str, lane: dict[str, Any], key: str) -> None:
    found = warned(policy, lane)
    assert [line.partition(":")[0].partition(" ")[0] for line in found if ".a." in line] == [f"lanes.a.{key}"]


@pytest.mark.parametrize(
    ("policy", "lane"),
    [
        ("weighted_fair", {"weight": 2.0}),
        ("deadline", {"token_us": 5}),
        ("latency_first", {"max_wait_us": 7, "chunk_rows": 512, "max_hold_us": 5}),
        ("fifo", {"client_rows_per_s": 9, "user_rows_per_s": 10, "max_clients": 3}),
    ],
)
def test_what_takes_effect_is_not_warned_of(policy: str, lane: dict[str, Any]) -> None:
    assert [line for line in warned(policy, lane) if ".a." in line] == []


def test_nothing_is_held_or_chunked_where_batches_are_exact() -> None:
    lane = {"max_hold_us": 5, "chunk_rows": 9}
    assert len(warned(lane=lane, batching=BatchingConfig(exact=True))) == 2


def test_a_client_alone_is_never_held() -> None:
    (line,) = warned(lane={"max_hold_us": 5}, limits=LimitsConfig(max_clients=1))
    assert "limits.max_clients = 1" in line


def test_a_rule_behind_one_that_fits_as_much_never_decides() -> None:
    rules = (RuleConfig(lane="a", name="x"), RuleConfig(lane="a"), RuleConfig(lane="first", user="eve"))
    assert warned(rules=rules) == ["rules[2]: rules[1] fits all that it would fit"]
