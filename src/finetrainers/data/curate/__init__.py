"""From raw media to a set that can be trained on: one step a file, registered by the name that it has in a configuration."""
