"""Where a run's numbers go: events, a progress bar, and trackers."""
