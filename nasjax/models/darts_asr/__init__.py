"""The networks of DARTS-ASR: front ends of two dimensions before LSTMs."""
