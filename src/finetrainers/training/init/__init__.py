"""What ``finetrainers init`` writes: recipes by what is learned and from how many items, fitted to a model and to data."""
