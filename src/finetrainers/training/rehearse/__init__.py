"""A run tried in small before a GPU is paid for: a twin of its model, few of its items, and all checks at its real size."""
