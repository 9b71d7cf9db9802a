"""The state of a run on the disk: staged, written in the background, kept, and read again."""
