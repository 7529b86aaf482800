"""Devices of this machine: their binding to engines, their names, and the GPUs' use as NVML reports it."""
