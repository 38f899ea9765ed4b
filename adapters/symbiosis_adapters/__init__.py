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
from symbiosis_adapters.cut import Cut
from symbiosis_adapters.explanation import Explanation
from symbiosis_adapters.session import Session

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
