"""`symbiosis bench end-to-end`: clients on a shared base against plain PEFT, process by process."""
