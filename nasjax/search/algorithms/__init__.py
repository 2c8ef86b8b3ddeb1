"""One algorithm a file: init, ask and tell over vectors of integers."""
