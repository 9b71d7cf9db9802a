"""What a run's data are, and what would become of them: told before anything is encoded."""
