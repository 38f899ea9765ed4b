"""The model that a client gets: transformers' own class, built on a base whose weights are elsewhere."""
