"""From gradients to updates: optimizers and learning rates."""
