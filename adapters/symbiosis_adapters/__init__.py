"""The client SDK: transformers models whose frozen layers run in a Symbiosis daemon."""

from symbiosis_adapters.auto import AutoModelForCausalLM, AutoTokenizer, Handle
from symbiosis_adapters.cut import Cut
from symbiosis_adapters.explanation import Explanation
from symbiosis_adapters.session import Session

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "Cut", "Explanation", "Handle", "Session"]
