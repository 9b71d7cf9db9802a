"""What a run is refused for: settings, files, places, and processes that do not fit. The command is in ``check/``."""
