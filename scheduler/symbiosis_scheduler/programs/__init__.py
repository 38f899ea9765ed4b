"""Segments as programs: forward over rows and backward over rows, with the bits of the model's own code."""
