"""What the numbers are computed on: devices, precision, memory, processes and threads."""
