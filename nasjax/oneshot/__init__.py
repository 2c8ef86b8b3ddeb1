"""One-shot search: a supernet, and many ways to learn what to keep of it."""
