"""Steps of a run without its data, timed and measured: what ``finetrainers bench`` does."""
