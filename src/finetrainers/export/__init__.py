"""Trained weights in the files that other programs read: renamed, added up, fused into the base, or extracted."""
