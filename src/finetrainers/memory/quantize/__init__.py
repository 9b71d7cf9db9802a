"""Frozen weights at rest in fewer bits: the formats, the layer that holds them, and what of a model is held so."""
