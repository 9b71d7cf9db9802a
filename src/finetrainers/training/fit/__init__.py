"""Which techniques let a step fit into the memory that there is: the sets, what each takes, and the choice."""
