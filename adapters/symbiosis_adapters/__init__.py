"""The client SDK: transformers models whose frozen layers run in a Symbiosis daemon."""
