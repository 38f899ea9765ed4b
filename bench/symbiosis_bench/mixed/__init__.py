"""`symbiosis bench mixed`: inference that arrives by itself, beside clients that train."""
