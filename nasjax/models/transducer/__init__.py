"""Transducers of one encoder, whose predictor and joiner are searched."""
