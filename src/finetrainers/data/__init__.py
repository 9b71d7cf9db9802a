"""From folders of media and captions to batches: sources, media, buckets, cache, order, loader."""
