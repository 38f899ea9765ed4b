"""The first rule that fits puts a client into its lane; where none fits, its own wish does."""

from __future__ import annotations

import pytest

from symbiosis_core.config import DaemonConfig, RuleConfig
from symbiosis_scheduler.rules import lane_for

CONFIG = DaemonConfig(
    rules=(
        RuleConfig(lane="inference", key="front end"),
        RuleConfig(lane="training", name="batch-*"),
        RuleConfig(lane="training", user="eve", name="*"),
    )
)


@pytest.mark.parametrize(
    ("name", "user", "key", "lane"),
    [
        ("chat", "ann", "", "wish"),
        ("chat", "ann", "front end", "inference"),
        ("batch-7", "ann", "front end", "inference"),
        ("batch-7", "ann", "front end!", "training"),
        ("chat", "eve", "", "training"),
        ("a batch-7", "ann", "", "wish"),
    ],
)
def test_who_goes_where(name: str, user: str, key: str, lane: str) -> None:
    assert lane_for(CONFIG, wish="wish", name=name, user=user, key=key) == lane


def test_a_rule_that_names_nothing_fits_all() -> None:
    config = DaemonConfig(rules=(RuleConfig(lane="training"),))
    assert lane_for(config, wish="inference", name="a", user="b", key="") == "training"
