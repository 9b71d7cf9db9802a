"""How a command ends."""

DONE, INTERNAL_ERROR, USER_ERROR, INTERRUPTED, STOPPED_AT_ONCE = 0, 1, 2, 3, 130
"""Exit status: done; an error of ours; wrong configuration or data; stopped by a signal after saving; by Ctrl-C at once."""
