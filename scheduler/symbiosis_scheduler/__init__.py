"""The daemon: decides who is computed next, computes it, and keeps nothing of anybody."""
