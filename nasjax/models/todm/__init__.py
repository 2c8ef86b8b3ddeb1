"""The transducers of TODM, with state-space encoders."""
