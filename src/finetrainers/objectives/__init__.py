"""What a model learns: noise levels, corruption, targets and losses."""
