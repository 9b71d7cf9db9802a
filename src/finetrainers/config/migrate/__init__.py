"""Configurations and commands of other trainers, as ours: one file for each of their formats."""
