"""Who is computed next, and who waits for whom: a state machine that touches no clock, socket or tensor."""
