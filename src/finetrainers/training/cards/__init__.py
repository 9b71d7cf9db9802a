"""The model cards of a run: one beside each of its exported weights."""
