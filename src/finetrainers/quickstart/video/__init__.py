"""The video half of the quick start: clips of moving shapes, an effect to learn from them, and the numbers."""
