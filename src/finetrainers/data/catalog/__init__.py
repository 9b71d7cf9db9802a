"""All data sets of a run after a look at each file."""
