"""Models that guess what a network is worth."""
