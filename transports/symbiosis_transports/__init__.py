"""How rows and control messages cross between a client and the daemon."""
