"""Conformer-like encoders whose layers may differ."""
