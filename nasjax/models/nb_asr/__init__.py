"""The networks of NAS-Bench-ASR: blocks of cells, an LSTM."""
