"""The demo and the measurements. Sees every floor; nobody sees it."""
