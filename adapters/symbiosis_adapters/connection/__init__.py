"""A client's place at a daemon: how it is found or started, what it is asked, and rows through its slots."""
