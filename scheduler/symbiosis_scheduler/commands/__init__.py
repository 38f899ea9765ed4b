"""The commands of the daemon. Modules here are light: torch is imported when a command runs."""
