"""Optimisers, as pairs of `init` and `update`."""
