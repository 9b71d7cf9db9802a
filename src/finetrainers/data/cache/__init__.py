"""Encoded items on disk."""
