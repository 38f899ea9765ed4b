"""How rules are listed, by the functions of torch that they are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from symbiosis_adapters.deferred.tensor import Rule

__all__ = ["Rules"]


class Rules(dict[Any, Rule]):
    """Rules by the functions of torch that they are about."""

    def of(self, *functions: Any) -> Callable[[Rule], Rule]:
        """Makes what is decorated the rule of these functions."""

        def register(rule: Rule) -> Rule:
            self.update(dict.fromkeys(functions, rule))
            return rule

        return register
