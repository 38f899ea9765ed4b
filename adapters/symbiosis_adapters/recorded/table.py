"""Which torch functions on a deferred tensor are recorded, and as what. Everything else has the value computed.

A rule returns NotImplemented wherever it is not sure: computing the value is always right, and costs a trip. So a
rule covers what decoder models write between two attentions (norms, activations, residuals, casts, the loss) and
nothing for the sake of completeness.
"""

from __future__ import annotations

from symbiosis_adapters.deferred.tensor import RULES
from symbiosis_adapters.recorded import gradients, losses, norms, one_value, properties, two_values, views

__all__ = ["install_rules"]


def install_rules() -> None:
    """Has the rules applied to deferred tensors."""
    for module in (properties, gradients, views, one_value, two_values, norms, losses):
        RULES.update(module.RECORDED)
