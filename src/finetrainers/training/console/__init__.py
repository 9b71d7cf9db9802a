"""What a run shows in a terminal: its outline, the bar, and the lines of what it makes."""
