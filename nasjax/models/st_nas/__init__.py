"""The TDNNs of ST-NAS."""
