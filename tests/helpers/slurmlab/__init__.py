"""A real Slurm on this machine: two pretended nodes and accounting, on ports and in a directory of its own."""
