"""Files that are whole or not there at all, folders that say what they are, and what the system refuses."""
