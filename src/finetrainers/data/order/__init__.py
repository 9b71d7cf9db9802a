"""Which samples each optimizer step takes, and what it needs of them from the cache."""
