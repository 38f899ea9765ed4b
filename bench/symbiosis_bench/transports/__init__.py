"""What it costs to carry rows from one process to another and back, transport by transport."""
