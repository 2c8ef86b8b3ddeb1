"""Corpora: builders, features, phones and batching plans."""
