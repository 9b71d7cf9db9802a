"""The encoding stage: what the cache lacks goes through the frozen encoders, in batches and within the cache's limit."""
