"""Recording what clients asked of a daemon, and playing it again in virtual time, under any policy."""
