"""Reading of run directories, for reports, comparisons and user interfaces: neither torch nor a model is needed for it."""
