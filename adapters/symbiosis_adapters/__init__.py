"""The client SDK: transformers models whose frozen layers run in a Symbiosis daemon."""

from symbiosis_adapters.auto import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Handle,
)
from symbiosis_adapters.auto_peft import AutoPeftModelForCausalLM
from symbiosis_adapters.connection.session import Session
from symbiosis_adapters.explanation import Explanation
from symbiosis_adapters.trips.cut import Cut

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoPeftModelForCausalLM",
    "AutoTokenizer",
    "Cut",
    "Explanation",
    "Handle",
    "Session",
]
