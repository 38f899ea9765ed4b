"""Plans carried out: rows from the clients' slots, through the frozen layers, and back."""
