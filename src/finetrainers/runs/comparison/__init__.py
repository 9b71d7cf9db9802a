"""What differs between two runs, the cause first."""
