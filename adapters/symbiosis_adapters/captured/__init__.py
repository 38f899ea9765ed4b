"""Decode steps as graphs without the model's Python: traced, cut at the remote layers, and run again."""
