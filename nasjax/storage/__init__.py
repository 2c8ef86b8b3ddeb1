"""What reaches the disk: atomic files, checkpoints, provenance."""
