"""Media files: what is in them, and the pixels of one view."""
