"""What crosses the border at once: one frozen op, siblings, or the segment that a recording becomes."""
