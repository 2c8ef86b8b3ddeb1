"""Neural architecture search for speech recognition in JAX."""

__version__ = '0.1.0'
