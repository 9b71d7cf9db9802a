"""The device on which runs of tests train."""

import os

VARIABLE = "FINETRAINERS_TEST_DEVICE"
"""Environment variable that names it, for the processes that a test starts as well."""


def device_of_runs() -> str:
    """Name the device: the CPU, unless pytest was started with another."""
    return os.environ.get(VARIABLE, "cpu")
