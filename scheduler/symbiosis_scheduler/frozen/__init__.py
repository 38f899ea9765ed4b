"""The frozen base: loaded once, in whatever precision, catalogued, and lent."""
