"""A run from its configuration to its weights: the loop, checkpoints, validation, tracking and export."""
