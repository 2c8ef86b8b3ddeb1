"""Members to rows: the plan, shards, workers, what stands on a device."""
