"""What trades time for memory, and which kernels compute attention."""
