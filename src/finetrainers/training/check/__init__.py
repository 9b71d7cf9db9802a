"""What can be known of a run without weights: looked for part by part, and nothing of the user's is written."""
