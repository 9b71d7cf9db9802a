"""What a run would take, known before a GPU is there: memory, time, cost, disk, and bytes between devices."""
