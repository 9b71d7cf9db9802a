"""The quick start: pictures that the project renders itself, a concept to learn from them, and the numbers."""
