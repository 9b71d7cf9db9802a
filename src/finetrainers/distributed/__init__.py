"""Devices and processes: the only place that asks which one this is."""
